"""No distillation: the student's own task. It is also how every teacher is trained."""

from __future__ import annotations

from fdlab.data.dataset import TASKS
from fdlab.methods.base import Batch, LossTerms, Method, task_loss
from fdlab.models.output import ModelOutput


class NoDistillation(Method):
    """L = CE(z_s, y), mean over the batch; of a detector its own loss."""

    name = "none"
    summary = "cross-entropy alone; the unimodal network"
    source = "baseline"
    tasks = TASKS

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        return {"task": task_loss(student, batch)}

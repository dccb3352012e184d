"""No distillation: the student's own cross-entropy. It is also how every teacher is trained."""

from __future__ import annotations

from fdlab.data.dataset import TASKS
from fdlab.losses.logits import cross_entropy
from fdlab.methods.base import Batch, LossTerms, Method
from fdlab.models.output import ModelOutput


class NoDistillation(Method):
    """L = CE(z_s, y), mean over the batch."""

    name = "none"
    summary = "cross-entropy alone; the unimodal network"
    source = "baseline"
    tasks = TASKS

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        return {"task": cross_entropy(student.logits, batch.labels)}

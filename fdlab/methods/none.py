"""No distillation: the student's own cross-entropy. It is also how every teacher is trained."""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.methods.base import LossTerms, Method
from fdlab.models.output import ModelOutput


class NoDistillation(Method):
    """L = CE(z_s, y), mean over the batch."""

    name = "none"
    summary = "cross-entropy alone; the unimodal network"
    source = "baseline"

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, labels: torch.Tensor
    ) -> LossTerms:
        return {"task": functional.cross_entropy(student.logits.float(), labels)}

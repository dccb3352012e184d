"""DKD: logit distillation, its two halves weighted apart (Zhao et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.losses.logits import cross_entropy
from fdlab.losses.targets import nckd, tckd
from fdlab.methods.base import (
    WARM_UP,
    Batch,
    LossTerms,
    Method,
    require_positive,
    require_weights,
)
from fdlab.models.output import ModelOutput


class DKD(Method):
    """L = CE + min(e/20, 1) · (α · TCKD + β · NCKD), e the epoch from 1.

    TCKD = T² KL of (p_y, 1 - p_y), NCKD = T² KL over the K - 1 other classes, softmax over those
    alone; KL of all classes = TCKD + (1 - q_y) NCKD. Defaults α = 1, β = 8, T = 4: the authors' for
    ResNet32x4 → ResNet8x4 on CIFAR-100, whose other pairs have β = 2 to 8. `warmup` is the ramp as
    a share of the epochs, 20 of that recipe's 240, so that it keeps its place in a shorter
    training: our choice.
    """

    name = "dkd"
    summary = "target and non-target divergence, weighted apart"
    source = "Zhao et al., CVPR 2022"
    tasks = SCORED
    needs = ("logits",)
    compares = ("target", "others")
    strength = ("alpha", "beta")

    @dataclass(frozen=True)
    class Options:
        alpha: float = 1.0
        beta: float = 8.0
        temperature: float = 4.0
        warmup: float = WARM_UP

        def __post_init__(self):
            require_weights(self, "alpha", "beta", "warmup")
            require_positive(self, "temperature")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options, ramp = self.options, batch.ramp(self.options.warmup)
        given = (student.logits, teacher.logits.detach(), batch.labels, options.temperature)
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "target": ramp * options.alpha * tckd(*given),
            "others": ramp * options.beta * nckd(*given),
        }

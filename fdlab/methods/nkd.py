"""NKD: the target's and the others' knowledge, normalised (Yang et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.losses.logits import cross_entropy
from fdlab.losses.targets import nkd
from fdlab.methods.base import Batch, LossTerms, Method, require_positive, require_weights
from fdlab.models.output import ModelOutput


class NKD(Method):
    """L = CE - w · mean q_y log s_y - w · γ T² · mean_n Σ_{c≠y} q̂_c log ŝ_c.

    q, s: softmax of teacher and student at T = 1; q̂, ŝ: over the K - 1 other logits at T. Defaults
    γ = 3.5, T = 3, w = 1: the authors' for CIFAR-100. Not what the earlier version of the FD-CMKD
    paper calls NKD, which is `nckd`.
    """

    name = "nkd"
    summary = "target and non-target cross-entropies, normalised apart"
    source = "Yang et al., ICCV 2023"
    tasks = SCORED
    needs = ("logits",)
    compares = ("target", "others")
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        gamma: float = 3.5
        temperature: float = 3.0

        def __post_init__(self):
            require_weights(self, "weight", "gamma")
            require_positive(self, "temperature")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        target, others = nkd(
            student.logits,
            teacher.logits.detach(),
            batch.labels,
            options.gamma,
            options.temperature,
        )
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "target": options.weight * target,
            "others": options.weight * others,
        }

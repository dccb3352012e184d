"""DIST: correlations instead of exact matches (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.losses.correlations import correlation_distances
from fdlab.losses.logits import cross_entropy
from fdlab.methods.base import Batch, LossTerms, Method, require_positive, require_weights
from fdlab.models.output import ModelOutput


class DIST(Method):
    """L = CE + w T² [β (1 - mean_n ρ(Y_s[n], Y_t[n])) + γ (1 - mean_c ρ(Y_s[:, c], Y_t[:, c]))]

    with Y = softmax(z/T) (N, K) and ρ Pearson's correlation. Defaults w = 2, T = 4, β = γ = 1: the
    authors' CIFAR-100 configuration; their ImageNet one has T = 1. The FD-CMKD paper gives none.
    """

    name = "dist"
    summary = "Pearson correlation of predictions, per sample and per class"
    source = "Huang et al., NeurIPS 2022"
    tasks = SCORED
    needs = ("logits",)
    compares = ("inter", "intra")
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 2.0
        beta: float = 1.0
        gamma: float = 1.0
        temperature: float = 4.0

        def __post_init__(self):
            require_weights(self, "weight", "beta", "gamma")
            require_positive(self, "temperature")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        inter, intra = correlation_distances(
            student.logits, teacher.logits.detach(), options.temperature
        )
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "inter": options.weight * options.beta * inter,
            "intra": options.weight * options.gamma * intra,
        }

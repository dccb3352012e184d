"""PKT: probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.losses.logits import cross_entropy
from fdlab.losses.relations import probability_transfer
from fdlab.methods.base import Batch, LossTerms, Method, require_weights
from fdlab.models.output import ModelOutput


class PKT(Method):
    """L = CE + w · mean over N² of K_t log((K_t + ε) / (K_s + ε)), K the rows of (cosine + 1)/2,
    each scaled to sum 1, ε = 1e-7.

    Default w = 30000 (CIFAR-100 benchmark): with its mean over N² it is 30000/N times the batch
    mean of the divergence, 469 at N = 64, so the strength depends on the batch. On the pooled
    feature before the ReLU, where the benchmark pools after it: our choice. Widths may differ.
    """

    name = "pkt"
    summary = "similarities of the batch's features as probabilities"
    source = "Passalis and Tefas, ECCV 2018"
    needs = ("feature",)
    compares = ("similarity",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 30000.0

        def __post_init__(self):
            require_weights(self, "weight")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        distance = probability_transfer(student.feature, teacher.feature.detach())
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "similarity": self.options.weight * distance}

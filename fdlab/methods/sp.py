"""SP: similarity-preserving distillation (Tung and Mori, ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.losses.logits import cross_entropy
from fdlab.losses.relations import similarity_preserving
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.models.output import ModelOutput


class SP(Method):
    """L = CE + w · ‖G_t - G_s‖²_F / N², G = F Fᵀ of the last map after the ReLU, flattened, rows of
    length 1.

    Default w = 3000 (the paper's and the CIFAR-100 benchmark's). Only (N, N) matrices are compared,
    so neither sizes nor widths need to match, and nothing is pooled.
    """

    name = "sp"
    summary = "which samples of the batch resemble each other, last map"
    source = "Tung and Mori, ICCV 2019"
    needs = ("last",)
    compares = ("similarity",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 3000.0

        def __post_init__(self):
            require_weights(self, "weight")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        (self.names,) = sizes.pair("last")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        maps = student.find(self.names[0]), teacher.find(self.names[1]).detach()
        distance = similarity_preserving(*(torch.relu(x).flatten(1) for x in maps))
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "similarity": self.options.weight * distance}

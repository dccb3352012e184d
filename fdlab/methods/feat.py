"""Feature distillation, the paper's "Feat": FD-CMKD with every one of its parts off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from fdlab.losses.features import mse, require_reduction
from fdlab.methods.base import LossTerms, Method, Sizes, require_equal_width, require_weights
from fdlab.models.output import ModelOutput


class FeatureDistillation(Method):
    """L = CE(z_s, y) + λ · mean (X_t - X_s)² on the raw pooled pre-ReLU features, λ = 1.

    Source: FD-CMKD, Table 4 row 1, which equals the "Feat" row of its Table 2.
    """

    name = "feat"
    summary = "mean squared error of the raw pooled features"
    source = "FD-CMKD, Tables 2 and 4"
    needs = ("feature",)
    compares = ("feature",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        reduction: str = "mean"

        def __post_init__(self):
            require_weights(self, "weight")
            require_reduction(self.reduction)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        require_equal_width(self.name, sizes)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, labels: torch.Tensor
    ) -> LossTerms:
        task = functional.cross_entropy(student.logits.float(), labels)
        distance = mse(student.feature, teacher.feature.detach(), self.options.reduction)
        return {"task": task, "feature": self.options.weight * distance}

"""Feature distillation, the paper's "Feat": FD-CMKD with every one of its parts off."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.losses.features import mse, require_reduction
from fdlab.losses.logits import cross_entropy
from fdlab.methods.adapt import match_width
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.models.output import ModelOutput


class FeatureDistillation(Method):
    """L = CE(z_s, y) + λ · mean (X_t - X_s)² on the raw pooled pre-ReLU features, λ = 1.

    Source: FD-CMKD, Table 4 row 1, which equals the "Feat" row of its Table 2. A student of another
    width is projected (`match_width`).
    """

    name = "feat"
    summary = "mean squared error of the raw pooled features"
    source = "FD-CMKD, Tables 2 and 4"
    tasks = SCORED
    needs = ("feature",)
    compares = ("feature",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        reduction: str = "mean"

        def __post_init__(self):
            require_weights(self, "weight")
            require_reduction(self.reduction)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.projector = match_width(sizes)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine = self.projector(student.feature)
        distance = mse(mine, teacher.feature.detach(), self.options.reduction)
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "feature": self.options.weight * distance}

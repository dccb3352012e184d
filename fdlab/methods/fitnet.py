"""FitNets: a hint from the teacher's middle (Romero et al., ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fdlab.losses.features import mse
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import require_arrangement
from fdlab.methods.adapt import Norm
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.maps import arrange
from fdlab.models.output import ModelOutput


class FitNet(Method):
    """L = CE + w · mean (r(F_s) - F_t)² at the middle stage, F after the ReLU.

    r: 1×1 convolution → batch norm → ReLU (C_s → C_t), the regressor of the CIFAR-100 benchmark
    where the two maps are of one size; it is always there, and trained. Default w = 100
    (benchmark). Trained with the task at once, where the paper has a first phase for the hint
    alone. Maps are pooled first; `compare` = "resized" brings the student's to the teacher's size,
    bilinearly where the benchmark strides its convolution: our choice.
    """

    name = "fitnet"
    summary = "hint: the middle map through a trained regressor"
    source = "Romero et al., ICLR 2015"
    needs = ("middle",)
    compares = ("hint",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 100.0
        compare: str = "pooled"

        def __post_init__(self):
            require_weights(self, "weight")
            require_arrangement(self.compare)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("middle")
        ((mine, theirs),) = sizes.pair_channels("middle")
        self.regressor = nn.Sequential(nn.Conv2d(mine, theirs, 1), Norm(theirs), nn.ReLU())

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine, theirs = arrange(student, teacher, self.names[0], self.options.compare, relu=True)
        hint = mse(self.regressor(mine), theirs)
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "hint": self.options.weight * hint}

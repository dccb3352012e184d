"""VID: variational information distillation (Ahn et al., CVPR 2019)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import gaussian_nll, require_arrangement
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.methods.maps import arrange
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen

FLOOR = 1e-5  # least variance


class VID(Method):
    """L = CE + w · Σ_stages mean ½ [(F_t - μ(F_s))² / var_c + log var_c], F after the ReLU.

    μ: three 1×1 convolutions without bias, ReLU between (C_s → C_t → C_t → C_t); one trained
    variance per channel, softplus(α) + 1e-5, that starts at 5. Default w = 1 (CIFAR-100 benchmark).
    May be negative. Maps are pooled first; `compare` = "resized" keeps positions: our choice.
    `vid_released` has one of the released codes' fixed variance.
    """

    name = "vid"
    summary = "Gaussian likelihood of the teacher's stages, trained variance"
    source = "Ahn et al., CVPR 2019"
    needs = ("stages",)
    compares = ("stages",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        start: float = 5.0
        compare: str = "pooled"

        def __post_init__(self):
            require_weights(self, "weight")
            require_positive(self, "start")
            if self.start <= FLOOR:
                raise UserError(
                    f"start is {self.start}: expected above {FLOOR}, the least variance"
                )
            require_arrangement(self.compare)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")
        self.regressors, self.alphas = nn.ModuleList(), nn.ParameterList()
        start = math.log(math.expm1(options.start - FLOOR))
        for mine, theirs in sizes.pair_channels("stages"):
            widths = (mine, theirs, theirs, theirs)
            parts = []
            for one, two in itertools.pairwise(widths):
                parts += [nn.Conv2d(one, two, 1, bias=False), nn.ReLU()]
            self.regressors.append(nn.Sequential(*parts[:-1]))
            self.alphas.append(nn.Parameter(torch.full((theirs,), start)))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        parts = []
        for names, regressor, alpha in zip(self.names, self.regressors, self.alphas, strict=True):
            mine, theirs = arrange(student, teacher, names, self.options.compare, relu=True)
            variance = functional.softplus(widen(alpha)) + FLOOR
            parts.append(gaussian_nll(regressor(mine), theirs, variance))
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "stages": self.options.weight * torch.stack(parts).sum()}


class ReleasedVID(VID):
    """`vid` as one released code has it: the variances stay where they start."""

    name = "vid_released"
    summary = "vid with variances that do not train, as released"

    def __init__(self, sizes: Sizes, options: VID.Options):
        super().__init__(sizes, options)
        self.alphas.requires_grad_(False)

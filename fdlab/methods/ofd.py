"""OFD: the overhaul of feature distillation (Heo et al., ICCV 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import find_margin, partial_l2, require_arrangement
from fdlab.methods.adapt import Norm
from fdlab.methods.base import DRIFTING, Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.maps import arrange
from fdlab.models.output import ModelOutput


class OFD(Method):
    """L = CE + w · (1/N) Σ_i 2^{-(L-1-i)} Σ_{c,h,w} d(r(F°_s), F°_t) over the L stages, i from 0.

    Maps before the ReLU; r: 1×1 convolution without bias, N(0, √(2/C_t)), and batch norm; d the
    partial L2 distance with each teacher channel's margin (`partial_l2`, `find_margin`). The margin
    is that of the batch norm nearest before the map: in a ResNet that of the residual branch alone,
    an approximation of the authors'. Default w = 1e-3 (CIFAR-100; 1e-4 ImageNet). The sum grows
    with the map. Maps are pooled first, a channel's margin is applied to its mean, and the distance
    counts as often as the teacher's map has positions, so that w keeps its meaning: our choice;
    `compare` = "resized" keeps positions. The teacher stays in eval mode; `ofd_released` has the
    released code's.
    """

    name = "ofd"
    summary = "partial L2 distance of pre-ReLU maps under a margin"
    source = "Heo et al., ICCV 2019"
    needs = ("stages",)
    compares = ("stages",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1e-3
        compare: str = "pooled"

        def __post_init__(self):
            require_weights(self, "weight")
            require_arrangement(self.compare)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")
        pooled = options.compare == "pooled"
        shapes = [sizes.teacher.maps[name][1:] for _, name in self.names]
        self.positions = [math.prod(shape) if pooled else 1 for shape in shapes]
        self.connectors = nn.ModuleList()
        for mine, theirs in sizes.pair_channels("stages"):
            convolution = nn.Conv2d(mine, theirs, 1, bias=False)
            nn.init.normal_(convolution.weight, 0, (2 / theirs) ** 0.5)
            self.connectors.append(nn.Sequential(convolution, Norm(theirs)))
        for place, (_, name) in enumerate(self.names):
            norm = sizes.teacher.norms.get(name)
            if norm is None:
                raise UserError(
                    f"ofd takes its margins from the batch norm before each map, and the teacher's "
                    f"network names none for {name} (`norms`)"
                )
            self.register_buffer(f"margin_{place}", find_margin(norm.weight, norm.bias))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        last, distances = len(self.names) - 1, []
        for place, (names, connector) in enumerate(zip(self.names, self.connectors, strict=True)):
            mine, theirs = arrange(student, teacher, names, self.options.compare, relu=False)
            distance = partial_l2(connector(mine), theirs, getattr(self, f"margin_{place}"))
            distances.append(self.positions[place] * distance / 2 ** (last - place))
        total = torch.stack(distances).sum()
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "stages": self.options.weight * total}


class ReleasedOFD(OFD):
    """`ofd` as released: the teacher's batch norm runs in training mode.

    It takes each batch's own statistics, and its running ones drift with the student's training.
    """

    name = "ofd_released"
    summary = "ofd with the teacher's batch norm in training mode, as released"
    teaching = DRIFTING

"""ReviewKD: deeper student maps help to match shallower ones (Chen et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import as_grid, pool, pyramid_mse
from fdlab.methods.adapt import Norm
from fdlab.methods.base import WARM_UP, Batch, LossTerms, Method, Sizes, require_weights
from fdlab.models.output import ModelOutput


class ReviewKD(Method):
    """L = CE + w · min(e/20, 1) · Σ_levels HCL(ABF(student's level), teacher's level).

    Levels, deep to shallow: the pooled map and every stage; the student's after the ReLU, the
    teacher's stages before it and its pooled map after. ABF: 1×1 convolution and batch norm to m
    channels; from the second level on the previous level's result, enlarged to this one's size, is
    joined by a two-channel sigmoid attention; 3×3 convolution and batch norm to the teacher's
    channels. HCL: `pyramid_mse`.
    m = min(512, channels of the last stage). Default w = 5 (most CIFAR-100 pairs; 0.6 to 8).
    `warmup`: 20 of 240 epochs, as a share of the epochs. It compares positions: every level is
    resized to the teacher's map, nearest neighbour as released, also where the two modalities'
    positions do not correspond.
    """

    name = "reviewkd"
    summary = "fused student stages against every teacher stage"
    source = "Chen et al., CVPR 2021"
    needs = ("stages",)
    compares = ("stages",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 5.0
        warmup: float = WARM_UP

        def __post_init__(self):
            require_weights(self, "weight", "warmup")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")[::-1]
        channels = sizes.pair_channels("stages")[::-1]
        channels.insert(0, channels[0])  # the pooled map of the last stage
        middle = min(512, channels[0][0])
        self.fusions = nn.ModuleList(
            Fusion(mine, middle, theirs, first=place == 0)
            for place, (mine, theirs) in enumerate(channels)
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine = [torch.relu(as_grid(student.find(name))) for name, _ in self.names]
        theirs = [as_grid(teacher.find(name).detach()) for _, name in self.names]
        deepest = self.names[0]
        mine.insert(0, pool(torch.relu(student.find(deepest[0])), student.mask)[..., None, None])
        last = torch.relu(teacher.find(deepest[1]).detach())
        theirs.insert(0, pool(last, teacher.mask)[..., None, None])
        fused, distances = None, []
        for fusion, own, target in zip(self.fusions, mine, theirs, strict=True):
            found, fused = fusion(own, fused, target.shape[2:])
            distances.append(pyramid_mse(found, target))
        weight = self.options.weight * batch.ramp(self.options.warmup)
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "stages": weight * torch.stack(distances).sum()}


class Fusion(nn.Module):
    """One level of ABF: (N, C, h, w), the previous fused map → (N, C_t, H, W), the fused map."""

    def __init__(self, channels: int, middle: int, out: int, first: bool):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(channels, middle, 1, bias=False), Norm(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), Norm(out))
        self.attend = None if first else nn.Conv2d(2 * middle, 2, 1)
        for part in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(part.weight, a=1)  # as released

    def forward(
        self, x: torch.Tensor, previous: torch.Tensor | None, size: torch.Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.reduce(x)
        if self.attend is not None:
            previous = functional.interpolate(previous, x.shape[2:], mode="nearest")
            weights = self.attend(torch.cat([x, previous], dim=1)).sigmoid()
            x = x * weights[:, :1] + previous * weights[:, 1:]
        if x.shape[2:] != size:
            x = functional.interpolate(x, size, mode="nearest")
        return self.expand(x), x

"""ShuffleNetV2 (Ma et al., 2018), as the CIFAR benchmark has it.

A unit's output is half fresh and half handed on, with the channels shuffled. Here it is returned
before the fresh half's ReLU, and the next unit begins with the ReLU of all: what was handed on has
had its own and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fdlab.models.cifar import CifarNetwork, Found, make_builder, scale_channels
from fdlab.models.resnet import Stage
from fdlab.models.shufflenetv1 import shuffle

STAGES = {"layer1": (116, 3), "layer2": (232, 7), "layer3": (464, 3)}  # channels, units of stride 1


class Unit(nn.Module):
    """Half of (N, C, H, W) is handed on, half goes through 1×1, 3×3 and 1×1 convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, x = torch.relu(x).chunk(2, 1)
        x = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return shuffle(torch.cat([kept, self.bn3(self.conv3(x))], 1), 2)


class DownUnit(nn.Module):
    """(N, C, H, W) → (N, C', H/2, W/2): two branches from the whole input, half of C' each."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(torch.relu(self.bn3(self.conv3(x)))))
        return shuffle(torch.cat([left, self.bn5(self.conv5(right))], 1), 2)


@dataclass
class Scales:
    """weight and bias (C,) of the batch norm that each channel of a map has been through last."""

    weight: torch.Tensor
    bias: torch.Tensor


class ShuffleNetV2(CifarNetwork):
    """Three stages of 116, 232 and 464 channels, each of which halves its sides, and a 1×1
    convolution to 1024.

    width: the stages' channels are multiples of 16.
    Maps: "stem", a 1×1 convolution after its ReLU; "layer1" to "layer3", the ends of the stages,
    in which half of the channels were handed on after a ReLU; "layer4", the last convolution before
    its ReLU, whose mean is `feature`. blocks: every unit's end. Initialisation is torch's.
    """

    entry = "conv1.weight"
    renames: ClassVar[dict[str, str]] = {"linear.": "fc."}

    def __init__(self, in_channels: int, classes: int, width: int = 64):
        super().__init__()
        before = scale_channels(24, width)
        self.conv1 = nn.Conv2d(in_channels, before, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        for name, (size, count) in STAGES.items():
            size = scale_channels(size, width, 16)
            units = [DownUnit(before, size), *(Unit(size) for _ in range(count))]
            self.add_module(name, Stage(*units))
            before = size
        self.feature_width = scale_channels(1024, width)
        self.conv2 = nn.Conv2d(before, self.feature_width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.feature_width)
        self.fc = nn.Linear(self.feature_width, classes)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        x = torch.relu(self.bn1(self.conv1(x)))
        maps, blocks = {"stem": x}, {}
        for name in STAGES:
            ends: list[torch.Tensor] = []
            x = maps[name] = getattr(self, name)(x, ends)
            blocks |= {f"{name}.{place}": end for place, end in enumerate(ends)}
        maps["layer4"] = self.bn2(self.conv2(torch.relu(x)))
        return maps, blocks

    @property
    def norms(self) -> dict[str, nn.Module | Scales]:
        """Each channel's own, exactly: those that were handed on are followed back through the
        shuffles to the unit that they came from."""
        found = {name: _follow(getattr(self, name)) for name in STAGES}
        return found | {"layer4": self.bn2}


def _follow(stage: Stage) -> Scales:
    first, *units = stage
    scales = []
    for part in ("weight", "bias"):
        own = shuffle(torch.cat([getattr(first.bn2, part), getattr(first.bn5, part)]), 2)
        for unit in units:
            own = shuffle(torch.cat([own.chunk(2)[0], getattr(unit.bn3, part)]), 2)
        scales.append(own)
    return Scales(*scales)


build_shufflenetv2 = make_builder(ShuffleNetV2, "ShuffleNetV2 (Ma et al., 2018), for 32 × 32.")

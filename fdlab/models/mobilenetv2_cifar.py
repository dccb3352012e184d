"""MobileNetV2 (Sandler et al., 2018) as the CIFAR benchmark has it, at half its width.

It differs from `fdlab.models.mobilenetv2`: ReLU and not ReLU6, no stride in the second group of
blocks, channels that are halved and not rounded, a 1×1 convolution in the first block too, and no
dropout.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from fdlab.models.cifar import (
    CifarNetwork,
    Found,
    initialise_classifier,
    initialise_convolutions,
    make_builder,
    scale_channels,
)

GROUPS = (  # expansion, channels (half of the paper's), how many, stride of the first
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
STAGES = {"layer1": 1, "layer2": 2, "layer3": 4, "layer4": 6}  # → in `blocks`


class Block(nn.Module):
    """Inverted residual: (N, C, H, W) → (N, C', H/s, W/s), no activation at its end."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        middle = expansion * in_channels
        self.conv = nn.Sequential(
            *_convolve(in_channels, middle, 1),
            *_convolve(middle, middle, 3, stride, groups=middle),
            *_convolve(middle, channels, 1)[:2],
        )
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class CifarMobileNetV2(CifarNetwork):
    """Seven groups of inverted residuals between a 3×3 convolution of stride 2 and a 1×1 one.

    Maps: "stem", what follows the first convolution; "layer1" to "layer4", the groups that end at
    1/2, 1/4, 1/8 and 1/16 of the image's sides, which have no activation; and "layer5", the last
    1×1 convolution before its ReLU, whose mean is `feature` (D = 1280). blocks: the 17 inverted
    residuals. D is scaled by the width too, unlike in `fdlab.models.mobilenetv2`.
    Initialisation: Kaiming normal (fan-out) convolutions, classifier N(0, 0.01²), biases 0.
    """

    entry = "conv1.0.weight"
    renames: ClassVar[dict[str, str]] = {"classifier.0.": "fc."}

    def __init__(self, in_channels: int, classes: int, width: int = 64):
        super().__init__()
        before = scale_channels(16, width)
        self.conv1 = nn.Sequential(*_convolve(in_channels, before, 3, 2))
        self.blocks = nn.ModuleList()
        for expansion, size, count, stride in GROUPS:
            size, row = scale_channels(size, width), []
            for place in range(count):
                row.append(Block(before, size, 1 if place else stride, expansion))
                before = size
            self.blocks.append(nn.Sequential(*row))
        self.feature_width = scale_channels(1280, width)
        self.conv2 = nn.Sequential(*_convolve(before, self.feature_width, 1)[:2])
        self.fc = nn.Linear(self.feature_width, classes)
        initialise_convolutions(self)
        initialise_classifier(self.fc)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        x = self.conv1(x)
        maps, blocks, ends = {"stem": x}, {}, []
        for group, row in enumerate(self.blocks):
            for place, block in enumerate(row):
                x = blocks[f"blocks.{group}.{place}"] = block(x)
            ends.append(x)
        maps |= {name: ends[group] for name, group in STAGES.items()}
        maps["layer5"] = self.conv2(x)
        return maps, blocks

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Of the convolution that ends each stage; a block's input, where it is added, has none."""
        found = {name: self.blocks[group][-1].conv[-1] for name, group in STAGES.items()}
        return found | {"layer5": self.conv2[1]}


def _convolve(
    in_channels: int, channels: int, side: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [
        nn.Conv2d(in_channels, channels, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]


build_mobilenetv2_half = make_builder(
    CifarMobileNetV2, "MobileNetV2 of half width (Sandler et al., 2018), for 32 × 32."
)

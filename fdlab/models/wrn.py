"""Wide ResNets (Zagoruyko & Komodakis, 2016): WRN-d-k has d layers and k times the channels.

Their blocks are pre-activated: batch norm and ReLU come before each convolution, and the sum that
ends a block meets neither. What a ReLU meets next is that sum under the *following* block's first
batch norm, and this is what the maps are: their ReLU is what the next block computes with, and
their norm is exact.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from fdlab.models.cifar import (
    CifarNetwork,
    Found,
    initialise_convolutions,
    make_builder,
    scale_channels,
)

STAGES = ("layer1", "layer2", "layer3")


class Block(nn.Module):
    """Two 3×3 convolutions: the sum (N, C, H, W) and the same under `bn1` → (N, C', H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        active = torch.relu(normed)
        residual = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(CifarNetwork):
    """WRN-d-k without dropout, d = 6 n + 4: three stages of n blocks, of 16 k, 32 k and 64 k
    channels, at the image's size, a half and a quarter of its sides.

    Maps: "stem", the first convolution alone; "layer1" to "layer3", the stages' sums under the
    batch norm that follows. `feature` is the mean of the last: the penultimate vector, which the
    classifier reads after the ReLU. blocks: every block's sum, likewise.
    Initialisation: Kaiming normal (fan-out) convolutions, the classifier as torch has it, bias 0.
    """

    entry = "conv1.weight"
    renames: ClassVar[dict[str, str]] = {
        "convShortcut.": "shortcut.",
        **{f"block{place}.layer.": f"layer{place}." for place in (1, 2, 3)},
    }

    def __init__(self, in_channels: int, classes: int, depth: int, factor: int, width: int = 64):
        super().__init__()
        before = scale_channels(16, width)
        self.conv1 = nn.Conv2d(in_channels, before, 3, 1, 1, bias=False)
        for name, size in zip(STAGES, (16, 32, 64), strict=True):
            size, row = scale_channels(size * factor, width), []
            for place in range((depth - 4) // 6):
                row.append(Block(before, size, 1 if place or name == "layer1" else 2))
                before = size
            self.add_module(name, nn.Sequential(*row))
        self.bn1 = nn.BatchNorm2d(before)
        self.feature_width = before
        self.fc = nn.Linear(before, classes)
        initialise_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        x = self.conv1(x)
        maps, blocks, before = {"stem": x}, {}, ""
        for stage in STAGES:
            for place, block in enumerate(getattr(self, stage)):
                normed = block.bn1(x)
                if before:
                    blocks[before] = normed
                x, before = block(x, normed), f"{stage}.{place}"
        blocks[before] = self.bn1(x)
        ends = {stage: f"{stage}.{len(getattr(self, stage)) - 1}" for stage in STAGES}
        return maps | {stage: blocks[end] for stage, end in ends.items()}, blocks

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """The following batch norm, which gives the map: each channel's own, exactly."""
        return {"layer1": self.layer2[0].bn1, "layer2": self.layer3[0].bn1, "layer3": self.bn1}


def _wide(depth: int, factor: int):
    summary = f"WRN-{depth}-{factor} (Zagoruyko & Komodakis, 2016), for 32 × 32."
    return make_builder(WideResNet, summary, depth=depth, factor=factor)


build_wrn_16_1, build_wrn_16_2 = _wide(16, 1), _wide(16, 2)
build_wrn_40_1, build_wrn_40_2 = _wide(40, 1), _wide(40, 2)

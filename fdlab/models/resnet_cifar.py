"""ResNets for 32 × 32 (He et al., 2016): a 3×3 stem without a stride and without pooling.

The three-stage family of the paper's section 4.2, but with 1×1 convolutions where a block changes
size, as the benchmark has it; and ResNet-18, 34 and 50 with the stem exchanged. Blocks begin with
their ReLU and end with the bare sum, as in `fdlab.models.resnet`.
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
from fdlab.models.resnet import BasicBlock, Bottleneck, Stage


class CifarResNet(CifarNetwork):
    """Stages of `counts` blocks each, the first without a stride, every other one with 2.

    channels: of the stem and of each stage; a stage of bottlenecks returns four times as many.
    Maps: "stem" after its ReLU, then "layer1" and so on, the sums that end the stages. `feature` is
    the mean of the last of them. blocks: every residual sum.
    Initialisation: Kaiming normal (fan-out) convolutions, the classifier as torch has it.
    """

    entry = "conv1.weight"
    renames: ClassVar[dict[str, str]] = {"shortcut.": "downsample.", "linear.": "fc."}

    def __init__(
        self,
        in_channels: int,
        classes: int,
        counts: tuple[int, ...],
        channels: tuple[int, ...] = (16, 16, 32, 64),
        bottleneck: bool = False,
        width: int = 64,
    ):
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        before, *sizes = (scale_channels(size, width) for size in channels)
        self.conv1 = nn.Conv2d(in_channels, before, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.stages = [f"layer{place}" for place in range(1, len(counts) + 1)]
        for name, size, count in zip(self.stages, sizes, counts, strict=True):
            row = []
            for place in range(count):
                stride = 1 if place or name == "layer1" else 2
                row.append(block(before, size, stride))
                before = block.expansion * size
            self.add_module(name, Stage(*row))
        self.feature_width = before
        self.fc = nn.Linear(before, classes)
        initialise_convolutions(self)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        x = torch.relu(self.bn1(self.conv1(x)))
        maps, blocks = {"stem": x}, {}
        for name in self.stages:
            ends: list[torch.Tensor] = []
            x = maps[name] = getattr(self, name)(x, ends)
            blocks |= {f"{name}.{place}": end for place, end in enumerate(ends)}
        return maps, blocks

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Of the residual branch that ends each stage; what it is added to has none of its own."""
        return {name: getattr(self, name)[-1].norm for name in self.stages}


def _thin(depth: int, channels: tuple[int, ...] = (16, 16, 32, 64)):
    """Depth 6 n + 2: n blocks of two convolutions in each of three stages."""
    counts = 3 * ((depth - 2) // 6,)
    times = f", {channels[-1] // 64} times as wide" if channels[-1] != 64 else ""
    summary = f"ResNet-{depth}{times} (He et al., 2016), for 32 × 32."
    return make_builder(CifarResNet, summary, counts=counts, channels=channels)


def _four_stages(depth: int, counts: tuple[int, ...], bottleneck: bool = False):
    summary = f"ResNet-{depth} (He et al., 2016), of four stages with the stem for 32 × 32."
    channels = (64, 64, 128, 256, 512)
    return make_builder(
        CifarResNet, summary, counts=counts, channels=channels, bottleneck=bottleneck
    )


build_resnet8, build_resnet14, build_resnet20 = _thin(8), _thin(14), _thin(20)
build_resnet32, build_resnet44, build_resnet56 = _thin(32), _thin(44), _thin(56)
build_resnet110 = _thin(110)
build_resnet8x4, build_resnet32x4 = (_thin(depth, (32, 64, 128, 256)) for depth in (8, 32))
build_resnet18 = _four_stages(18, (2, 2, 2, 2))
build_resnet34 = _four_stages(34, (3, 4, 6, 3))
build_resnet50 = _four_stages(50, (3, 4, 6, 3), bottleneck=True)

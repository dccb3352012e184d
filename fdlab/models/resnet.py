"""ResNet-18, 34 and 50 (He et al., 2016): torchvision's names, the pre-activation in reach.

torchvision's block ends in a ReLU. Here a block *begins* with that ReLU and ends with the bare
residual sum F°, so that the map which FD-CMKD distils is what `layer4` returns. The function is the
same: the ReLU before the first block meets values that are already non-negative.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from fdlab.models.convolution import Convolution
from fdlab.models.frames import fold_frames, stack_frames
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool

STAGES = ("layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions: (N, C, H, W) any sign → (N, C', H/s, W/s), the sum before its ReLU.

    dilations: of the first and the second convolution.
    """

    expansion = 1  # C' in channels

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
    ):
        super().__init__()
        one, two = dilations
        self.conv1 = Convolution(in_channels, channels, 3, stride, one, one, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = Convolution(channels, channels, 3, 1, two, two, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                Convolution(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return residual + (x if self.downsample is None else self.downsample(x))

    @property
    def norm(self) -> nn.BatchNorm2d:
        """What ends the residual branch."""
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions: (N, C, H, W) any sign → (N, 4 C', H/s, W/s), the sum before
    its ReLU.

    dilations: as of `BasicBlock`, of which the 3×3 convolution, which has the stride, takes the
    first.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
    ):
        super().__init__()
        wide = dilations[0]
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, wide, wide, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = None
        if stride != 1 or in_channels != 4 * channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False),
                nn.BatchNorm2d(4 * channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        residual = torch.relu(self.bn1(self.conv1(x)))
        residual = torch.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return residual + (x if self.downsample is None else self.downsample(x))

    @property
    def norm(self) -> nn.BatchNorm2d:
        """What ends the residual branch."""
        return self.bn3


class ResNetEncoder(Network):
    """(N, in_channels, H, W) → the maps and blocks of `ModelOutput`; `layer4` has 8 · width.

    width: channels of the first stage; 64 is the paper's (and torchvision's) network. counts:
    blocks of each stage. block: their kind; bottlenecks return four times as many channels.
    dilate_last: `layer4` keeps its input's size, 1/16 of the image's instead of 1/32. What followed
    its stride is dilated by 2 instead, so that at every second position it gives what it gave
    before (the hole algorithm; Chen et al., 2018). The parameters are the same.
    """

    entry = "conv1.weight"
    counts: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    block: ClassVar[type[BasicBlock] | type[Bottleneck]] = BasicBlock

    def __init__(self, in_channels: int, width: int = 64, dilate_last: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels, before = [], width  # of the stages
        for place, (name, count) in enumerate(zip(STAGES, self.counts, strict=True)):
            stride, dilate = (2 if place else 1), dilate_last and name == "layer4"
            stage = _stage(self.block, count, before, width * 2**place, stride, dilate)
            self.add_module(name, stage)
            before = self.block.expansion * width * 2**place
            self.channels.append(before)
        self.feature_width = before

    def forward(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        maps, blocks = {"stem": x}, {}
        for name in STAGES:
            ends: list[torch.Tensor] = []
            x = maps[name] = getattr(self, name)(x, ends)
            blocks |= {f"{name}.{place}": end for place, end in enumerate(ends)}
        return maps, blocks

    def find_levels(self, maps: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What a dense head reads: the stages after their ReLU, (N, `channels`, H / 4, W / 4) and
        each of half the sides of the one before."""
        return [torch.relu(maps[name]) for name in STAGES]

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Of the residual branch that ends each stage; what it is added to has none of its own."""
        return {name: getattr(self, name)[-1].norm for name in STAGES}


class ResNet18(ResNetEncoder):
    """(N, in_channels, H, W), or frames (N, F, in_channels, H, W) → `ModelOutput` with D = 8 width.

    The paper's initialisation: Kaiming normal (fan-out) convolutions, Xavier uniform linear layers,
    batch norm at 1 and 0 (FD-CMKD, released code).
    """

    def __init__(self, in_channels: int, classes: int, width: int = 64, dilate_last: bool = False):
        super().__init__(in_channels, width, dilate_last)
        self.fc = nn.Linear(self.feature_width, classes)
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        x, frames = fold_frames(x)
        maps, blocks = (
            {name: stack_frames(x, frames) for name, x in found.items()}
            for found in super().forward(x)
        )
        last = maps["layer4"]
        feature = pool(last)  # (N, D, h, w) → (N, D), before the ReLU
        logits = classify(pool(torch.relu(last)), self.fc)
        return ModelOutput(logits, feature, maps, blocks)


class ResNet34(ResNet18):
    """`ResNet18` with twice as many blocks."""

    counts = (3, 4, 6, 3)


class ResNet50Encoder(ResNetEncoder):
    """`ResNetEncoder` of bottlenecks; `layer4` has 32 · width."""

    counts, block = (3, 4, 6, 3), Bottleneck


class ResNet50(ResNet18):
    """`ResNet18` of bottlenecks, as many blocks as `ResNet34` has; D = 32 width."""

    counts, block = (3, 4, 6, 3), Bottleneck


class Stage(nn.Sequential):
    """Blocks in a row; what each gives is also appended to `ends`."""

    def forward(self, x: torch.Tensor, ends: list[torch.Tensor]) -> torch.Tensor:
        for block in self:
            x = block(x)
            ends.append(x)
        return x


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    count: int,
    in_channels: int,
    channels: int,
    stride: int,
    dilate: bool,
) -> Stage:
    first, others = block(in_channels, channels, stride), (1, 1)
    if dilate:  # the convolution that had the stride: only what comes after it is dilated
        first, others = block(in_channels, channels, 1, (1, stride)), (stride, stride)
    before = block.expansion * channels
    return Stage(first, *(block(before, channels, 1, others) for _ in range(count - 1)))


def initialise(module: nn.Module) -> None:
    """The paper's initialisation of one module, see `ResNet18`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def build_resnet18(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ResNet18:
    """ResNet-18 (He et al., 2016), for inputs (C, H, W) or (F, C, H, W), of which only C counts."""
    return ResNet18(shape[-3], classes, width)


def build_resnet34(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ResNet34:
    """ResNet-34 (He et al., 2016), for inputs (C, H, W) or (F, C, H, W), of which only C counts."""
    return ResNet34(shape[-3], classes, width)


def build_resnet50(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> ResNet50:
    """ResNet-50 (He et al., 2016), for inputs (C, H, W) or (F, C, H, W), of which only C counts."""
    return ResNet50(shape[-3], classes, width)

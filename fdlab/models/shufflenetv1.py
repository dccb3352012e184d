"""ShuffleNet (Zhang et al., 2018) with three groups, as the CIFAR benchmark has it.

Blocks begin with their ReLU and end with the bare sum, as in `fdlab.models.resnet`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from fdlab.models.cifar import CifarNetwork, Found, make_builder, scale_channels
from fdlab.models.resnet import Stage

GROUPS = 3
COUNTS = {"layer1": 4, "layer2": 8, "layer3": 4}


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, C, H, W), or (C,): the channels of the groups in turn.

    >>> shuffle(torch.arange(6), 2)
    tensor([0, 3, 1, 4, 2, 5])
    """
    place = x.ndim - 3 if x.ndim > 1 else 0
    split = x.unflatten(place, (groups, -1))  # (N, C, H, W) → (N, g, C/g, H, W)
    return split.transpose(place, place + 1).flatten(place, place + 1)


class Block(nn.Module):
    """1×1, 3×3 and 1×1 convolutions: (N, C, H, W) any sign → (N, C', H/s, W/s) before its ReLU.

    The 1×1 ones are grouped, with the channels shuffled after the first, and the 3×3 one takes each
    channel by itself. With stride 2 the input, averaged over 3×3, becomes channels of its own.
    groups: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int):
        super().__init__()
        own = channels - in_channels if stride == 2 else channels
        middle = own // 4
        self.stride, self.groups = stride, groups
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, own, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        y = shuffle(torch.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return x + y if self.stride == 1 else torch.cat([y, functional.avg_pool2d(x, 3, 2, 1)], 1)


class ShuffleNetV1(CifarNetwork):
    """Three stages of 240, 480 and 960 channels, each of which halves its sides.

    width: the first stage has a multiple of 24 channels and the stem one of 12, so that a quarter
    of each and of their difference falls into three groups; the other stages double it.
    Maps: "stem", a 1×1 convolution after its ReLU; "layer1" to "layer3", the sums that end the
    stages, at 1/2, 1/4 and 1/8 of the image's sides. `feature` is the mean of the last of them.
    blocks: every block's end. Initialisation is torch's.
    """

    entry = "conv1.weight"
    renames: ClassVar[dict[str, str]] = {"linear.": "fc."}

    def __init__(self, in_channels: int, classes: int, width: int = 64):
        super().__init__()
        before, size = scale_channels(24, width, 12), scale_channels(240, width, 24)
        self.conv1 = nn.Conv2d(in_channels, before, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        for name, count in COUNTS.items():
            first = Block(before, size, 2, 1 if name == "layer1" else GROUPS)
            rest = [Block(size, size, 1, GROUPS) for _ in range(count - 1)]
            self.add_module(name, Stage(first, *rest))
            before, size = size, 2 * size
        self.feature_width = before
        self.fc = nn.Linear(before, classes)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        x = torch.relu(self.bn1(self.conv1(x)))
        maps, blocks = {"stem": x}, {}
        for name in COUNTS:
            ends: list[torch.Tensor] = []
            x = maps[name] = getattr(self, name)(x, ends)
            blocks |= {f"{name}.{place}": end for place, end in enumerate(ends)}
        return maps, blocks

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Of the residual branch that ends each stage; what it is added to has none of its own."""
        return {name: getattr(self, name)[-1].bn3 for name in COUNTS}


build_shufflenetv1 = make_builder(
    ShuffleNetV1, "ShuffleNet of three groups (Zhang et al., 2018), for 32 × 32."
)

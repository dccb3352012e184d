"""VGG with batch norm (Simonyan & Zisserman, 2015), one linear layer in place of three."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from fdlab.models.cifar import (
    CifarNetwork,
    Found,
    initialise_classifier,
    initialise_convolutions,
    make_builder,
    scale_channels,
)

CHANNELS = (64, 128, 256, 512, 512)
STAGES = ("layer1", "layer2", "layer3", "layer4")
LARGE = 64  # the side from which on there is a fourth pooling


class VGG(CifarNetwork):
    """Five groups of `count` 3×3 convolutions with biases, batch norm and ReLU: VGG-8 has one in
    each, VGG-13 two.

    2×2 max pooling follows the first three groups, and the fourth in images of 64 × 64 or more (the
    benchmark's rule for exactly 64). Maps: "stem", the first group after its pooling; "layer1" to
    "layer4", the other groups before their last ReLU. `feature` is the mean of the last of them:
    the penultimate vector, which the classifier reads after the ReLU. There are no residual blocks.
    Initialisation: Kaiming normal (fan-out) convolutions, classifier N(0, 0.01²), biases 0.
    """

    entry = "stem.0.weight"
    renames: ClassVar[dict[str, str]] = {
        "classifier.": "fc.",
        "block0.": "stem.",
        **{f"block{place}.": f"layer{place}." for place in (1, 2, 3, 4)},
    }

    def __init__(self, in_channels: int, classes: int, count: int, width: int = 64):
        super().__init__()
        before = in_channels
        for name, size in zip(("stem", *STAGES), CHANNELS, strict=True):
            size = scale_channels(size, width)
            self.add_module(name, _group(before, size, count))
            before = size
        self.feature_width = before
        self.fc = nn.Linear(before, classes)
        initialise_convolutions(self)
        initialise_classifier(self.fc)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        pools = 4 if min(x.shape[2:]) >= LARGE else 3
        x = functional.max_pool2d(torch.relu(self.stem(x)), 2)
        maps = {"stem": x}
        for place, name in enumerate(STAGES, 1):
            x = maps[name] = getattr(self, name)(x)
            if name != STAGES[-1]:
                x = torch.relu(x)
                x = functional.max_pool2d(x, 2) if place < pools else x
        return maps, {}

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """The batch norm that ends each group: each channel's own, exactly."""
        return {name: getattr(self, name)[-1] for name in STAGES}


def _group(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """Convolution and batch norm, `count` times, with ReLUs between them and none at the end."""
    layers: list[nn.Module] = []
    for place in range(count):
        before = channels if place else in_channels
        layers += [nn.Conv2d(before, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


build_vgg8, build_vgg13 = (
    make_builder(
        VGG,
        f"VGG-{depth} with batch norm (Simonyan & Zisserman, 2015), for 32 × 32.",
        count=count,
    )
    for depth, count in ((8, 1), (13, 2))
)

"""What the networks of the CIFAR-100 benchmark share (Tian et al., 2020, and its successors).

They see images of 32 × 32, so their strides are smaller than those of the networks for ImageNet
after which some are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from fdlab.models.frames import fold_frames, stack_frames
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool

Found = dict[str, torch.Tensor]
SHAPE, CLASSES = (3, 32, 32), 100  # for which the sizes are published


class CifarNetwork(Network):
    """(N, in_channels, H, W), or frames (N, F, in_channels, H, W) → `ModelOutput`.

    A family says in `encode` which maps there are, and has a linear classifier `fc`. All pool over
    whatever positions the last map has: `feature` is its mean before the last ReLU, and `logits`
    read its mean after it. Images of any size from 32 × 32 on will do.
    width: 64 is the published network, exactly; others have width / 64 of its channels, see
    `scale_channels`.
    renames: parts of names in the benchmark's checkpoints, and what stands here instead.
    """

    renames: ClassVar[dict[str, str]] = {}

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        """(N, in_channels, H, W) → maps and blocks of `ModelOutput`, the deepest map last."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> ModelOutput:
        x, frames = fold_frames(x)
        maps, blocks = (
            {name: stack_frames(x, frames) for name, x in found.items()} for found in self.encode(x)
        )
        last = maps[next(reversed(maps))]
        logits = classify(pool(torch.relu(last)), self.fc)
        return ModelOutput(logits, pool(last), maps, blocks)

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The benchmark's names become this network's."""
        for theirs, ours in self.renames.items():
            state = {name.replace(theirs, ours): value for name, value in state.items()}
        return state


def scale_channels(channels: int, width: int, step: int = 8) -> int:
    """The published number at width 64; else the multiple of `step` nearest to width / 64 of it,
    and at least one step.

    Our choice: narrower ones are slow on every device and learn little, so that at small widths
    the early stages of the narrow networks are wider than in proportion.

    >>> [scale_channels(58, width) for width in (64, 32, 8)]
    [58, 32, 8]
    """
    if width == 64:
        return channels
    return step * max(1, math.floor(channels * width / 64 / step + 0.5))


def initialise_convolutions(model: nn.Module) -> None:
    """Kaiming normal (fan-out) weights and biases 0, as the benchmark has it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_classifier(classifier: nn.Linear) -> None:
    """N(0, 0.01²) weights and biases 0, as VGG and MobileNetV2 have it."""
    nn.init.normal_(classifier.weight, 0, 0.01)
    nn.init.zeros_(classifier.bias)


def make_builder(
    kind: type[CifarNetwork],
    summary: str,
    published: tuple[tuple[int, ...], int] = (SHAPE, CLASSES),
    **settings: Any,
) -> Callable[..., Any]:
    """What stands in the table of networks, for inputs (C, H, W) or (F, C, H, W); only C counts.

    published: the shape and number of classes for which its size is.
    """

    def build(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> CifarNetwork:
        return kind(shape[-3], classes, width=width, **settings)

    build.__doc__, build.published = summary, published
    return build

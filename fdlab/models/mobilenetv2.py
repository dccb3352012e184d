"""MobileNetV2 (Sandler et al., 2018) with torchvision's parameter names.

Its blocks end without an activation, so their maps are what they return. Only the last convolution
has one, a ReLU6, which stands outside `features` here: `features.18` returns the map before it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fdlab.models.frames import fold_frames, stack_frames
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool

BLOCKS = (  # expansion, channels at width 64, how many, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STAGES = {"layer1": 3, "layer2": 6, "layer3": 13, "layer4": 17, "layer5": 18}  # → in `features`


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than 10 % below (torchvision's rule).

    >>> [round_channels(x) for x in (4, 12, 24, 11.9, 20)]
    [8, 16, 24, 16, 24]
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class Block(nn.Module):
    """Inverted residual: (N, C, H, W) → (N, C', H/s, W/s), no activation at its end.

    1×1 convolution to `expansion` times the channels (none where that is 1), 3×3 convolution of
    each channel by itself, 1×1 convolution to C'; the input is added where nothing changes size.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        middle = expansion * in_channels
        wider = [_convolve(in_channels, middle, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *wider,
            _convolve(middle, middle, 3, stride, groups=middle),
            nn.Conv2d(middle, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.adds = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(Network):
    """(N, in_channels, H, W), or frames (N, F, in_channels, H, W) → `ModelOutput`, D = 1280.

    width: 64 is the published network; others multiply its channels by width / 64, rounded as
    torchvision does, and D only above 64. Maps: "stem", what follows the first convolution, and
    "layer1" to "layer4", the last blocks (`features.3`, `6`, `13` and `17`) at 1/4, 1/8, 1/16 and
    1/32 of the image's sides, and "layer5", the last 1×1 convolution, whose mean is `feature`.
    `logits` read the mean after its ReLU6, through dropout. blocks: the 17 inverted residuals.
    Initialisation is torchvision's: Kaiming normal (fan-out) convolutions, classifier N(0, 0.01²)
    with bias 0, batch norm at 1 and 0.
    """

    head = "classifier.1"
    entry = "features.0.0.weight"

    def __init__(self, in_channels: int, classes: int, width: int = 64, dropout: float = 0.2):
        super().__init__()
        factor = width / 64
        channels = round_channels(32 * factor)
        layers: list[nn.Module] = [_convolve(in_channels, channels, 3, 2)]
        for expansion, size, count, stride in BLOCKS:
            size = round_channels(size * factor)
            for place in range(count):
                layers.append(Block(channels, size, 1 if place else stride, expansion))
                channels = size
        self.feature_width = round_channels(1280 * max(1.0, factor))
        layers.append(_convolve(channels, self.feature_width, 1)[:2])  # without its ReLU6
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.feature_width, classes))
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        x, frames = fold_frames(x)
        ends = []
        for layer in self.features:
            x = layer(x)
            ends.append(stack_frames(x, frames))
        maps = {"stem": ends[0]} | {name: ends[place] for name, place in STAGES.items()}
        blocks = {f"features.{place}": end for place, end in enumerate(ends[1:-1], 1)}
        last = maps["layer5"]
        feature = pool(last)  # (N, D, h, w) → (N, D), before the ReLU6
        logits = classify(pool(functional.relu6(last)), self.classifier)
        return ModelOutput(logits, feature, maps, blocks)

    @property
    def fc(self) -> nn.Linear:
        """The linear classifier, under the name that methods ask for."""
        return self.classifier[1]

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Of the convolution that ends each stage; a block's input, where it is added, has none."""
        found = {name: self.features[place] for name, place in STAGES.items()}
        return {
            name: part.conv[-1] if isinstance(part, Block) else part[1]
            for name, part in found.items()
        }


def _convolve(
    in_channels: int, channels: int, side: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)


def build_mobilenetv2(
    shape: tuple[int, ...], classes: int, width: int, vocabulary: int
) -> MobileNetV2:
    """MobileNetV2 (Sandler et al., 2018), for inputs (C, H, W) or (F, C, H, W); only C counts."""
    return MobileNetV2(shape[-3], classes, width)

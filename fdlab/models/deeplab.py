"""DeepLabV3+ (Chen et al., 2018) on ResNet-18: one class score per pixel.

Encoder (1/16 of the image's sides) → ASPP → decoder beside the encoder's first stage (1/4) → logits
at the image's size. No ResNet-18 is in the paper: its ResNet-101 gives the sizes of ASPP and
decoder, which scale with the width here. Its 3×3 convolutions are plain ones, not separable.
"""

from __future__ import annotations

import torch
from torch import nn

from fdlab.models.frames import require_image
from fdlab.models.grids import enlarge
from fdlab.models.network import Network
from fdlab.models.norm import Norm
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool
from fdlab.models.resnet import ResNetEncoder, initialise

RATES = (6, 12, 18)  # dilations of ASPP at 1/16


class ASPP(nn.Module):
    """(N, C, h, w) → (N, C', h, w): five looks of C' channels, joined by a 1×1 convolution.

    A 1×1 convolution, a 3×3 one at each rate, and the mean over all positions.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            [_convolve(in_channels, channels, 1)]
            + [_convolve(in_channels, channels, 3, rate) for rate in RATES]
        )
        self.image = nn.Sequential(  # one value per channel and image
            nn.Conv2d(in_channels, channels, 1, bias=False), Norm(channels), nn.ReLU()
        )
        self.project = _convolve((len(RATES) + 2) * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looks = [branch(x) for branch in self.branches]
        mean = self.image(x.mean(dim=(2, 3), keepdim=True))  # (N, C', 1, 1)
        return self.project(torch.cat([*looks, mean.expand_as(looks[0])], dim=1))


class DeepLabV3Plus(Network):
    """(N, in_channels, H, W) → `ModelOutput` with logits (N, K, H, W) and D = 8 · width.

    `feature` is the mean of `layer4` before its ReLU, at 1/16. Maps: the encoder's, and "aspp",
    what ASPP gives after its ReLU and before its dropout. At width 64 ASPP and decoder have 256
    channels and the first stage is reduced to 48 for it; at other widths in proportion, at least 8.
    Dropout 0.1 after ASPP (the authors' code). Convolutions start as the encoder's: our choice.
    The classifier is a 1×1 convolution, so that there is no `fc` for methods that read one.
    Weights: its own, or a classification ResNet-18's, which go to the encoder without `fc`.
    """

    head = "classifier"
    entry = "encoder.conv1.weight"
    backbone = "encoder."

    def __init__(self, in_channels: int, classes: int, width: int = 64, dropout: float = 0.1):
        super().__init__()
        channels, low = max(8, 4 * width), max(8, round(48 * width / 64))
        self.encoder = ResNetEncoder(in_channels, width, dilate_last=True)
        self.aspp = ASPP(8 * width, channels)
        self.dropout = nn.Dropout(dropout)
        self.low = _convolve(width, low, 1)
        self.decoder = nn.Sequential(
            _convolve(channels + low, channels, 3), _convolve(channels, channels, 3)
        )
        self.classifier = nn.Conv2d(channels, classes, 1)
        self.feature_width = 8 * width
        self.apply(initialise)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        maps, blocks = self.encoder(x)
        context = maps["aspp"] = self.aspp(torch.relu(maps["layer4"]))
        low = self.low(torch.relu(maps["layer1"]))
        context = enlarge(self.dropout(context), low)  # 1/16 → 1/4
        scores = classify(self.decoder(torch.cat([context, low], dim=1)), self.classifier)
        feature = pool(maps["layer4"])  # (N, D, h, w) → (N, D), before the ReLU
        return ModelOutput(enlarge(scores, x), feature, maps, blocks)

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        return self.encoder.norms

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A classification ResNet-18's weights go to the encoder, without its classifier; ASPP and
        decoder keep their own."""
        if "conv1.weight" not in state:
            return state
        found = {f"encoder.{k}": v for k, v in state.items() if not k.startswith("fc.")}
        own = self.state_dict()
        return {k: v for k, v in own.items() if not k.startswith("encoder.")} | found


def _convolve(in_channels: int, channels: int, side: int, rate: int = 1) -> nn.Sequential:
    """Convolution of unchanged size, batch norm, ReLU."""
    padding = rate * (side // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, side, 1, padding, rate, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def build_deeplabv3plus(
    shape: tuple[int, ...], classes: int, width: int, vocabulary: int
) -> DeepLabV3Plus:
    """DeepLabV3+ (Chen et al., 2018) on ResNet-18, for images (C, H, W), of which only C counts."""
    require_image("deeplabv3plus", shape)
    return DeepLabV3Plus(shape[0], classes, width)

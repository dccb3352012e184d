"""MobileNetV1 (Howard et al., 2017), and for 32 × 32, where its first convolution has no stride."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.models.cifar import CifarNetwork, Found, make_builder, scale_channels

LAYERS = (  # channels and stride of each pair of convolutions
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
STAGES = {"layer1": 3, "layer2": 5, "layer3": 11, "layer4": 13}  # → in `model`


class MobileNetV1(CifarNetwork):
    """13 pairs of a 3×3 convolution of each channel by itself and a 1×1 one, all with batch norm.

    stride: of the first convolution, 2 as published, 1 in the common form for CIFAR.
    Maps: "stem", the first convolution after its ReLU; "layer1" to "layer4", the last pairs at 1/2,
    1/4, 1/8 and 1/16 of the sides of that, before their ReLU. `feature` is the mean of the last of
    them (D = 1024). There are no residual blocks. Initialisation is torch's.
    """

    entry = "model.0.0.weight"

    def __init__(self, in_channels: int, classes: int, width: int = 64, stride: int = 2):
        super().__init__()
        before = scale_channels(32, width)
        layers = [nn.Sequential(*_convolve(in_channels, before, 3, stride))]
        for size, stride in LAYERS:
            size = scale_channels(size, width)
            pair = [
                *_convolve(before, before, 3, stride, groups=before), nn.ReLU(),
                *_convolve(before, size, 1),
            ]  # fmt: skip
            layers.append(nn.Sequential(*pair))
            before = size
        self.model = nn.Sequential(*layers)
        self.feature_width = before
        self.fc = nn.Linear(before, classes)

    def encode(self, x: torch.Tensor) -> tuple[Found, Found]:
        ends = []
        for layer in self.model:
            ends.append(layer(x))
            x = torch.relu(ends[-1])
        stem = torch.relu(ends[0])
        return {"stem": stem} | {name: ends[place] for name, place in STAGES.items()}, {}

    @property
    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """The batch norm that ends each stage: each channel's own, exactly."""
        return {name: self.model[place][-1] for name, place in STAGES.items()}


def _convolve(
    in_channels: int, channels: int, side: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution and batch norm."""
    return [
        nn.Conv2d(in_channels, channels, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


build_mobilenetv1 = make_builder(
    MobileNetV1, "MobileNetV1 (Howard et al., 2017).", published=((3, 224, 224), 1000)
)
build_mobilenetv1_cifar = make_builder(
    MobileNetV1, "MobileNetV1 (Howard et al., 2017), with the strides for 32 × 32.", stride=1
)

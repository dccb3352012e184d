"""A class for every pixel, or boxes, on top of any backbone.

An encoder says the `channels` of what a dense head reads, finest first; `find_levels` makes that of
its maps. A vision transformer has one level, its grid; the others' four are brought together here,
on the finest. Every map's positions are taken to be spread evenly over the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fdlab.models.frames import require_image
from fdlab.models.grids import enlarge
from fdlab.models.network import Network
from fdlab.models.output import ModelOutput
from fdlab.models.precision import classify, pool
from fdlab.models.resnet import ResNet50Encoder, ResNetEncoder, initialise
from fdlab.models.swin import SwinEncoder
from fdlab.models.vit import ViTEncoder

PRIOR = 0.01  # probability of every class at every position, to begin with (FCOS)
FURTHEST = 8.0  # log of a distance in strides, so that no exponential overflows
GROUP = 8  # channels that one group norm shares; FCOS has 32 groups of 256


class Neck(nn.Module):
    """Levels → (N, C, h, w) at the finest's size: each through a 1×1 convolution, enlarged
    bilinearly, their sum normalised, ReLU.

    A feature pyramid (Lin et al., 2017) cut down to the one map that is read here; our choice.
    """

    def __init__(self, levels: list[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(size, channels, 1, bias=False) for size in levels)
        self.norm = nn.GroupNorm(channels // GROUP, channels)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        first, *rest = (part(x) for part, x in zip(self.lateral, levels, strict=True))
        for x in rest:
            first = first + enlarge(x, first)
        return torch.relu(self.norm(first))


class DenseNetwork(Network):
    """What segmenters and detectors share: an encoder, and the one map that their head reads.

    width: 2 · width channels in the head, a multiple of 8. Everything but the encoder starts anew
    when weights of a classification network are loaded. `feature` is the mean of the last stage's
    map, before any norm. Stages, blocks and norms are the encoder's.
    """

    head = "classifier"
    backbone = "encoder."

    def __init__(self, encoder: Network, width: int):
        super().__init__()
        self.encoder = encoder
        self.channels = GROUP * max(1, round(2 * width / GROUP))
        several = len(encoder.channels) > 1
        self.neck = Neck(encoder.channels, self.channels) if several else None
        if several:
            self.neck.apply(initialise)
        self.read_channels = self.channels if several else encoder.channels[0]
        self.feature_width = encoder.feature_width

    def encode(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(N, C, H, W) → the map that the head reads (N, `read_channels`, h, w), the feature, the
        maps and the blocks."""
        maps, blocks = self.encoder(x)
        levels = self.encoder.find_levels(maps)
        read = levels[0] if self.neck is None else self.neck(levels)
        return read, pool(maps[next(reversed(maps))]), maps, blocks

    @property
    def entry(self) -> str:
        return f"encoder.{self.encoder.entry}"

    @property
    def adapters(self) -> tuple[str, ...]:
        return self.encoder.adapters

    @property
    def norms(self) -> dict[str, nn.Module]:
        return self.encoder.norms

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A classification network's weights go to the encoder, without its classifier; the rest
        keeps its own."""
        if self.entry in state:
            return state
        found = self.encoder.translate(state)
        found = {f"encoder.{k}": v for k, v in found.items() if not k.startswith("fc.")}
        own = self.state_dict()
        return {k: v for k, v in own.items() if not k.startswith("encoder.")} | found


class Segmenter(DenseNetwork):
    """(N, C, H, W) → `ModelOutput` with logits (N, K, H, W).

    A linear classifier at every position of the map that is read, enlarged bilinearly to the
    image's size: on a vision transformer's patches that alone, as DINOv2 is judged; our choice for
    the others too. It starts at N(0, 0.01²), bias 0.
    """

    def __init__(self, encoder: Network, classes: int, width: int = 64):
        super().__init__(encoder, width)
        self.classifier = nn.Conv2d(self.read_channels, classes, 1)
        _initialise(self.classifier)

    def forward(self, x: torch.Tensor) -> ModelOutput:
        read, feature, maps, blocks = self.encode(x)
        scores = enlarge(classify(read, self.classifier), x)
        return ModelOutput(scores, feature, maps, blocks)


class Detector(DenseNetwork):
    """(N, C, H, W) → `ModelOutput` with `logits` (N, K, h, w), K class scores before their sigmoid
    at every position, and `boxes` (N, 5, h, w): distances from the position's centre to the left,
    top, right and bottom edge in units of the stride, above 0, and a centreness logit.

    The head is FCOS's (Tian et al., 2019) at one level: two towers of two 3×3 convolutions with
    group norm (theirs have four), class scores that start at a probability of 0.01, distances
    through an exponential with one learned scale, centreness beside the distances. Its
    initialisation is FCOS's: N(0, 0.01²), biases 0. The stride is H / h pixels, the patch's side or
    a ResNet's 4; the centre of position (i, j) lies (j + 0.5, i + 0.5) strides from the corner.
    """

    def __init__(self, encoder: Network, classes: int, width: int = 64):
        super().__init__(encoder, width)
        self.class_tower, self.box_tower = (
            _tower(self.read_channels, self.channels) for _ in range(2)
        )
        self.classifier = nn.Conv2d(self.channels, classes, 3, 1, 1)
        self.regressor = nn.Conv2d(self.channels, 5, 3, 1, 1)
        self.scale = nn.Parameter(torch.ones(()))
        for part in (self.class_tower, self.box_tower, self.classifier, self.regressor):
            part.apply(_initialise)
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x: torch.Tensor) -> ModelOutput:
        read, feature, maps, blocks = self.encode(x)
        scores = classify(self.class_tower(read), self.classifier)
        logs, centreness = classify(self.box_tower(read), self.regressor).split((4, 1), dim=1)
        distances = (self.scale * logs).clamp(max=FURTHEST).exp()
        boxes = torch.cat([distances, centreness], dim=1)
        return ModelOutput(scores, feature, maps, blocks, boxes=boxes)


def _tower(in_channels: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (in_channels, channels):
        norm = nn.GroupNorm(channels // GROUP, channels)
        layers += [nn.Conv2d(size, channels, 3, 1, 1, bias=False), norm, nn.ReLU()]
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, 0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _make_vit(name: str, shape: tuple[int, ...], width: int) -> ViTEncoder:
    return ViTEncoder(name, shape, width)


def _make_swin(name: str, shape: tuple[int, ...], width: int) -> SwinEncoder:
    return SwinEncoder(shape, width)


def _make_resnet18(name: str, shape: tuple[int, ...], width: int) -> ResNetEncoder:
    return ResNetEncoder(shape[0], width)


def _make_resnet50(name: str, shape: tuple[int, ...], width: int) -> ResNet50Encoder:
    return ResNet50Encoder(shape[0], width)


def _both(
    name: str, words: str, make: Callable[[str, tuple[int, ...], int], Network]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What stands in the table of networks for `<name>_pixels` and `<name>_boxes`."""

    def build_pixels(
        shape: tuple[int, ...], classes: int, width: int, vocabulary: int
    ) -> Segmenter:
        require_image(f"{name}_pixels", shape)
        return Segmenter(make(name, shape, width), classes, width)

    def build_boxes(shape: tuple[int, ...], classes: int, width: int, vocabulary: int) -> Detector:
        require_image(f"{name}_boxes", shape)
        return Detector(make(name, shape, width), classes, width)

    build_pixels.__doc__ = f"A linear segmenter on {words}, for images (C, H, W)."
    build_boxes.__doc__ = f"An anchor-free detector (Tian et al., 2019) on {words}, for (C, H, W)."
    return build_pixels, build_boxes


build_vit_small_pixels, build_vit_small_boxes = _both("vit_small", "vit_small", _make_vit)
build_vit_s14_pixels, build_vit_s14_boxes = _both("vit_s14", "ViT-S/14", _make_vit)
build_vit_l14_pixels, build_vit_l14_boxes = _both("vit_l14", "ViT-L/14", _make_vit)
build_swin_t_pixels, build_swin_t_boxes = _both("swin_t", "Swin-T", _make_swin)
build_resnet18_pixels, build_resnet18_boxes = _both("resnet18", "ResNet-18", _make_resnet18)
build_resnet50_pixels, build_resnet50_boxes = _both("resnet50", "ResNet-50", _make_resnet50)

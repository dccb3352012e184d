"""Two networks' passes over images with a class for every pixel, as methods of segmentation see
them; the networks are stand-ins of a few numbers."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.data.dataset import IGNORED
from fdlab.methods.base import Batch, Sizes
from fdlab.methods.pixels import find_pixels, fold
from fdlab.models.output import ModelOutput, Side

N, K = 4, 5
SIZE = (12, 8)  # of the images
# Of different widths, depths and map sizes; the second has no decoder.
SCENES = {
    "decoder": {
        "stem": (3, 6, 4), "layer1": (4, 6, 4), "layer2": (5, 4, 4), "layer3": (7, 3, 2),
        "layer4": (8, 3, 2), "aspp": (6, 3, 2),
    },
    "plain": {"stem": (3, 6, 4), "layer1": (5, 6, 3), "layer2": (6, 4, 3)},
    "alike": {"layer1": (5, 4, 3), "layer2": (8, 3, 2), "aspp": (6, 3, 2)},
}  # fmt: skip
PAIRS = [("decoder", "alike"), ("decoder", "plain"), ("plain", "decoder")]


class Head(nn.Module):
    """A norm before each map, which some methods read."""

    def __init__(self, maps: dict):
        super().__init__()
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(s[0]) for name, s in maps.items()})


def find_last(scene: str) -> str:
    return [name for name in SCENES[scene] if name.startswith("layer")][-1]


def make_side(scene: str) -> Side:
    maps = SCENES[scene]
    blocks = {f"{n}.{i}": s for n, s in maps.items() if n.startswith("layer") for i in (0, 1)}
    norms = dict(Head(maps).norms.items())
    return Side(maps[find_last(scene)][0], dict(maps), blocks, None, norms)


def make_sizes(student: str, teacher: str, samples: int = 40) -> Sizes:
    return Sizes(make_side(student), make_side(teacher), K, torch.zeros(samples).long())


def draw(scene: str, seed: int, n: int = N, size=SIZE, dtype=torch.float32) -> ModelOutput:
    """A pass: logits (n, K, H, W), as the networks give it."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        x = torch.randn(n, *shape, generator=generator, dtype=torch.float64) + 0.3
        return (x + 0.01 * x.sign()).to(dtype)

    side = make_side(scene)
    maps = {name: noise(*shape) for name, shape in side.maps.items()}
    if "aspp" in maps:
        maps["aspp"] = maps["aspp"].abs()  # after its ReLU
    blocks = {name: noise(*shape) for name, shape in side.blocks.items()}
    feature = maps[find_last(scene)].mean(dim=(2, 3))
    return ModelOutput(2 * noise(K, *size), feature, maps, blocks)


def draw_targets(seed: int = 3, n: int = N, size=SIZE) -> torch.Tensor:
    """Classes in blocks of 3 × 2 pixels, as objects are, and some pixels without a class."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, K, (n, size[0] // 3, size[1] // 2), generator=generator)
    targets = small.repeat_interleave(3, dim=1).repeat_interleave(2, dim=2)
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = IGNORED
    return targets


def fold_pair(
    student: ModelOutput, teacher: ModelOutput, targets: torch.Tensor, sizes: Sizes
) -> tuple[ModelOutput, ModelOutput, Batch]:
    """What the training loop makes of two passes before a method sees them."""
    lasts = [next(iter(side.pick("last"))) for side in (sizes.student, sizes.teacher)]
    pixels = find_pixels(student, targets, lasts[0])
    pair = (fold(x, pixels, last) for x, last in zip((student, teacher), lasts, strict=True))
    return *pair, Batch(pixels.labels, torch.arange(len(targets)) * 3, 0.5, pixels)

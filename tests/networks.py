"""What the tests of networks share: random weights, inputs of every kind."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fdlab.models import MODELS
from fdlab.models.count import find_published

WORDS, LENGTH, SIDE = 20, 6, 64
ZOO = [name for name in MODELS if find_published(name)[1] == 100]  # those of the CIFAR benchmark
# Of one class with a smaller one, which stands for them where a law takes long.
DEEPER = {f"resnet{n}" for n in ("14", "20", "32", "44", "56", "110", "32x4", "34_cifar")}
DEEPER |= {"wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg13"}
DEEPER |= {f"{name}{use}" for name in ("vit_s14", "vit_l14") for use in ("", "_pixels", "_boxes")}
DEEPER |= {"resnet50_pixels", "resnet50_boxes", "swin_t_boxes"}
LAWFUL = [name for name in MODELS if name not in DEEPER]


def plant(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and batch statistics, so that no term hides behind a 0 or a 1, of a size
    that neither dies out nor explodes in a deep network."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.ndim > 1:
            noise *= (2 / value[0].numel()) ** 0.5
        elif "running_var" in name:
            noise = noise.abs() + 0.5
        elif name.endswith("weight"):
            noise = 1 + 0.3 * noise
        else:
            noise *= 0.3
        value.copy_(noise)
    return model


def make(name: str, width: int = 8, classes: int = 5, channels: int = 3) -> nn.Module:
    model = MODELS[name]((channels, SIDE, SIDE), classes, width, WORDS)
    return plant(model)


def draw(model: nn.Module, count: int = 3, seed: int = 1) -> torch.Tensor:
    """Inputs of the kind that a network takes; of tokens each row is one shorter than the last."""
    generator = torch.Generator().manual_seed(seed)
    if model.inputs == "tokens":
        tokens = torch.randint(1, WORDS, (count, LENGTH), generator=generator)
        return tokens * (torch.arange(LENGTH) < LENGTH - torch.arange(count)[:, None])
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


def interpolate(before: int, after: int) -> torch.Tensor:
    """(after, before) bilinear weights between the centres of pixels, edges repeated."""
    place = ((np.arange(after) + 0.5) * before / after - 0.5).clip(0, before - 1)
    weights = 1 - abs(place[:, None] - np.arange(before))
    return torch.from_numpy(weights.clip(0))


def resize(x: torch.Tensor, size) -> torch.Tensor:
    rows, columns = (interpolate(a, b) for a, b in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.T

"""Parameters and multiply-accumulates of a network, measured."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fdlab.models import MODELS
from fdlab.models.convolution import Convolution
from fdlab.models.mode import evaluating
from fdlab.models.network import Network

WORDS = 30_522  # BERT's vocabulary


def find_published(name: str) -> tuple[tuple[int, ...], int]:
    """Shape of an image and number of classes for which a network's size is published."""
    return getattr(MODELS[name], "published", ((3, 224, 224), 1000))


def build_on_meta(
    name: str, shape: tuple[int, ...] = (), classes: int = 0, width: int = 64
) -> Network:
    """A network of the table without memory for its weights; where shape or classes are left out,
    for what `find_published` says."""
    published = find_published(name)
    with torch.device("meta"):
        return MODELS[name](shape or published[0], classes or published[1], width, WORDS)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one forward pass of one sample (C, H, W), in eval mode: half of what
    torch counts as floating-point operations.

    These are the convolutions' and the linear layers'; batch norm, activations and pooling count
    nothing. A convolution counts the taps that meet its padding as well, as is usual, whichever way
    it is computed here. Runs on meta tensors: nothing is computed, and the model is left as it was.
    """
    model = copy.deepcopy(model).to("meta")
    for part in model.modules():
        if isinstance(part, Convolution):  # the same function without the shortcut
            part.__class__ = nn.Conv2d
        if isinstance(part, nn.modules.batchnorm._BatchNorm):  # counts nothing and takes time
            part.__class__ = nn.Identity
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), evaluating(model), counter:
        model(torch.empty(1, *shape, device="meta"))
    return counter.get_total_flops() // 2


def count_norm_values(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Values that pass through batch norms in one forward pass of one sample (C, H, W).

    Some published counts charge each of them with four operations.
    """
    model, values = copy.deepcopy(model).to("meta"), []
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_hook(lambda part, inputs, output: values.append(output.numel()))
    with torch.no_grad(), evaluating(model):
        model(torch.empty(1, *shape, device="meta"))
    return sum(values)

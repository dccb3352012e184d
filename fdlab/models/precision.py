"""Heads and losses in float32 whatever the networks compute in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

HALVES = (torch.float16, torch.bfloat16)


def widen(value: Any) -> Any:
    """A half-precision tensor as float32; everything else as it is, float64 among it."""
    if isinstance(value, torch.Tensor) and value.dtype in HALVES:
        return value.float()
    return value


def in_full_precision(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss on widened tensors and outside autocast, which would take its matrix products in
    half precision again. float64 in, float64 out."""

    @functools.wraps(loss)
    def run(*values: Any, **named: Any) -> Any:
        values = tuple(map(widen, values))
        named = {name: widen(value) for name, value in named.items()}
        device = next(v.device.type for v in values if isinstance(v, torch.Tensor))
        if device == "meta" or not torch.is_autocast_enabled(device):  # meta has no autocast
            return loss(*values, **named)
        with torch.autocast(device, enabled=False):
            return loss(*values, **named)

    return run


@in_full_precision
def classify(pooled: torch.Tensor, classifier: torch.nn.Module) -> torch.Tensor:
    """A network's last layer. Logits of eight bits would tie, and they are kept and compared."""
    return classifier(pooled)


def pool(maps: torch.Tensor) -> torch.Tensor:
    """(N, D, h, w) → (N, D), the mean over the positions."""
    return widen(maps).mean(dim=(2, 3))

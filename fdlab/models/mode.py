"""Train and eval modes that end with their block, and frozen teachers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is in the mode that it was in."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, mode in before:
            part.training = mode


def freeze(module: nn.Module) -> nn.Module:
    """A teacher: eval mode, no gradient into any parameter, and `train()` cannot undo it."""
    module.requires_grad_(False).eval()
    module.train = lambda mode=True: module
    return module

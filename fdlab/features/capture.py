"""Inputs and outputs of any named submodule, inside a `with`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fdlab.core.errors import UserError, name_unknown


@contextmanager
def capture(
    model: nn.Module, *nodes: str, side: str = "output", pool: bool = False, detach: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield a dict that holds, after each forward pass, what the named submodules took or gave.

        with capture(model, "layer4", "layer?.0.conv1", pool=True) as seen:
            model(images)
        seen["layer4"]  # (N, C)

    nodes: names as in `model.named_modules()`, wildcards allowed. side: "output", or "input" for
    the first positional argument. pool: average (N, C, …) over everything after C. detach: cut
    from the graph. A module called twice leaves its last value. After the block no hook is left,
    also when the block raises.
    """
    if side not in ("output", "input"):
        raise name_unknown("side", side, ("output", "input"))
    modules = dict(model.named_modules())
    seen: dict[str, Any] = {}
    handles = []

    def keep(name: str, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            # A whole network's own output (ModelOutput) or a tuple: kept as it is.
            if pool:
                raise UserError(f"{name} gives {type(value).__name__}, which cannot be pooled")
            seen[name] = value
            return
        value = value.detach() if detach else value
        seen[name] = value.flatten(2).mean(2) if pool and value.ndim > 2 else value

    try:
        for name in _match(nodes, modules):
            if side == "output":
                hook = modules[name].register_forward_hook(
                    lambda module, given, output, name=name: keep(name, output)
                )
            else:
                hook = modules[name].register_forward_pre_hook(
                    lambda module, given, name=name: keep(name, given[0])
                )
            handles.append(hook)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _match(nodes: tuple[str, ...], modules: dict[str, nn.Module]) -> list[str]:
    """Names that the patterns match, in the model's order; every pattern must match something."""
    names = [name for name in modules if name]
    chosen = set()
    for pattern in nodes:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise name_unknown("node", pattern, names)
        chosen.update(found)
    return [name for name in names if name in chosen]

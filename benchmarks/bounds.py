"""Floating-point operations and bytes of a step, counted, and a device's peaks, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

TRIES = 7  # of a peak; the best counts
RESERVING = ("empty", "new_empty", "resize_")  # operations that move nothing
OVERWRITING = ("copy_", "fill_", "zero_")  # those that do not read what they write into


def _count_fft(shape: tuple[int, ...], dims: list[int], *_: Any, **__: Any) -> int:
    """5 N log2 N for each transform over `dims`, N its length."""
    length = math.prod(shape[d] for d in dims)
    return round(math.prod(shape) / length * 5 * length * math.log2(max(length, 2)))


def _count_inverse(shape: tuple[int, ...], dims: list[int], _norm: int, last: int, **_: Any) -> int:
    """Likewise, where the last of `dims` is `last` long in the result."""
    full = list(shape)
    full[dims[-1]] = last
    return _count_fft(tuple(full), dims)


# The counter's own table takes an FFT as nothing.
TRANSFORMS = {
    torch.ops.aten._fft_r2c: _count_fft,
    torch.ops.aten._fft_c2c: _count_fft,
    torch.ops.aten._fft_c2r: _count_inverse,
}


def count_flops(step: Callable[[], object]) -> int:
    """Operations of convolutions, matrix products and FFTs in one call, forward and backward; a
    multiplication and an addition are two."""
    with FlopCounterMode(display=False, custom_mapping=TRANSFORMS) as counter:
        step()
    return counter.get_total_flops()


class _Traffic(TorchDispatchMode):
    """Sums the bytes that each operation reads and writes, were nothing kept between two."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(RESERVING):
            schema = func._schema
            given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
            changed = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write]
            read = [v for k, v in given.items() if k not in changed or name not in OVERWRITING]
            written = [given.get(name) for name in changed]
            if not any(returned.alias_info for returned in schema.returns):
                written.append(result)
            self.total += _measure_bytes(read) + _measure_bytes(written)
        return result


def _measure_bytes(values: object) -> int:
    """Of tensors, each element once, however often a view repeats it."""
    return sum(
        min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
        for x in tree_leaves(values)
        if isinstance(x, torch.Tensor)
    )


def count_bytes(step: Callable[[], object]) -> int:
    """Bytes that the operations of one call read and write: parameters, optimiser state,
    activations and gradients, each as often as an operation meets it."""
    with _Traffic() as traffic:
        step()
    return traffic.total


def measure_arithmetic(device: torch.device, dtype: torch.dtype) -> list[float]:
    """Operations per second of products of large square matrices, lowest to highest."""
    side = 8192 if device.type == "cuda" else 1024
    one, two = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return sorted(2 * side**3 / seconds for seconds in _time(lambda: one @ two, device))


def measure_bandwidth(device: torch.device) -> list[float]:
    """Bytes per second that a copy of a large array reads and writes, lowest to highest."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return sorted(2 * size / seconds for seconds in _time(lambda: target.copy_(source), device))


def _time(work: Callable[[], object], device: torch.device) -> list[float]:
    found = []
    for _ in range(TRIES + 2):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - start)
    return found[2:]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

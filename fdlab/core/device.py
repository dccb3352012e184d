"""The device, decided once, and what this machine has."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from fdlab.core.errors import UserError

CONTAINER = Path("/sys/fs/cgroup")  # of a process in a container, its own limits
VISIBLE = "CUDA_VISIBLE_DEVICES"
VERSIONED = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "papermill")


def choose_device(name: str = "auto"):
    """A `torch.device`: `auto` takes the first CUDA device where there is one, else the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: choices are auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: choices are auto, cpu, cuda, cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name!r} was asked for, but {count} CUDA devices are visible")
    return device


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_workers() -> int:
    """Processes to train in at once: `$FDLAB_WORKERS`, else one per core (one per CUDA device)."""
    if chosen := _read_count("FDLAB_WORKERS"):
        return chosen
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else cores()


def list_devices() -> list[str]:
    """The CUDA devices that this process sees, as `$CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or [str(index) for index in range(count)])[:count]


def share_devices(names: list[str], places: int) -> list[list[str]]:
    """Devices of each of `places` processes side by side: no device is left idle, none has two
    processes more than another, and of several processes to a device each has that one alone.

    >>> share_devices(["0", "1", "2", "3"], 2)
    [['0', '1'], ['2', '3']]
    >>> share_devices(["4", "5"], 3)
    [['4'], ['5'], ['4']]
    """
    count = len(names)
    if places >= count:
        return [[names[place % count]] for place in range(places)] if count else []
    bounds = [place * count // places for place in range(places + 1)]
    return [names[start:end] for start, end in itertools.pairwise(bounds)]


def count_readers() -> int:
    """Processes to read files in at once: `$FDLAB_WORKERS`, else one per core."""
    return _read_count("FDLAB_WORKERS") or cores()


def _read_count(name: str) -> int:
    """A variable of the environment; 0 where it is not set."""
    text = os.environ.get(name) or ""
    if text and (not text.isdecimal() or int(text) < 1):
        raise UserError(f"{name} is {text!r}: expected a whole number from 1")
    return int(text or 0)


def count_pack() -> int:
    """Runs to train in step in one process: `$FDLAB_PACK`, else 1."""
    return _read_count("FDLAB_PACK") or 1


def count_threads() -> int:
    """Threads of one training run on the CPU: `$FDLAB_THREADS`, else 1.

    One is the default because a run's floating-point sums depend on it, and because small networks
    train faster as several runs side by side than as one run on several cores.
    """
    return _read_count("FDLAB_THREADS") or 1


def count_free_bytes(device) -> int:
    """Memory that is free: of a CUDA device, or of this machine as far as it and its container
    tell; very much where nothing is known."""
    import torch

    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    found = [1 << 62]
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(_read_available() or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE"))
    try:
        limit = (CONTAINER / "memory.max").read_text().strip()
    except OSError:
        limit = ""
    return min([*found, *([int(limit)] if limit.isdigit() else [])])


def _read_available() -> int | None:
    """What Linux could free for a new process, files that it keeps in memory among it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(value) for value in kilobytes), None)


def describe_device(device) -> str:
    """'NVIDIA H200' or the processor's name."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {count_threads()} of {cores()} cores"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


@contextmanager
def measure(device) -> Iterator[SimpleNamespace]:
    """Seconds and peak memory of a block, on the device's own clock.

    Yields a namespace whose `seconds` and `peak_bytes` are set at the end. On CUDA the peak is of
    allocated device memory; on the CPU it is the process's largest resident size so far.
    """
    import torch

    result = SimpleNamespace(seconds=0.0, peak_bytes=0)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        yield result
    finally:
        if cuda:
            torch.cuda.synchronize(device)
        result.seconds = time.perf_counter() - start
        result.peak_bytes = torch.cuda.max_memory_allocated(device) if cuda else peak_memory()


def peak_memory() -> int:
    """Largest resident size of this process in bytes; 0 on a system that does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024

"""Files that say on what they were measured, and a home that leaves no trace."""

from __future__ import annotations

import datetime
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fdlab.core.device import cores
from fdlab.core.files import write_json
from fdlab.core.progress import say


def place_file(kind: str, device: torch.device, asked: str = "") -> Path:
    """The file asked for, or `<kind>-<device>.json` beside the benchmarks."""
    return Path(asked or Path(__file__).parent / f"{kind}-{name_device(device)}.json")


def write_measured(out: Path, device: torch.device, **found: Any) -> None:
    """Write what was found, under the device, the day and the versions."""
    about = {
        "device": describe(device),
        "kind": device.type,
        "measured": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cores": cores(),
    }
    write_json(out, about | found)
    say(f"wrote {out}")


@contextmanager
def scratch_home() -> Iterator[Path]:
    """`$FDLAB_HOME` in a folder that goes afterwards; then it is what it was."""
    before = os.environ.get("FDLAB_HOME")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FDLAB_HOME"] = scratch
        try:
            yield Path(scratch)
        finally:
            os.environ.pop("FDLAB_HOME") if before is None else os.environ.update(FDLAB_HOME=before)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"


def name_device(device: torch.device) -> str:
    """As a file's name: nvidia-h200, x86_64-cpu.

    >>> name_device(torch.device("cpu")).endswith("-cpu")
    True
    """
    return re.sub(r"[^a-z0-9_]+", "-", describe(device).lower()).strip("-")

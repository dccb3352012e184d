"""What this machine has: device, memory, versions, and what is missing with its remedy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

from fdlab import __version__
from fdlab.core import paths
from fdlab.core.device import cores, count_threads, count_workers, versions

OPTIONAL = {
    "dask": ("distributed", "sends runs and notebooks to other machines (`--dask`)"),
    "media": ("av", "reads sound, video, MATLAB and Parquet files of your own data sets"),
    "hub": ("huggingface_hub", "fetches pretrained weights by name"),
    "speech": ("espeakng_loader", "builds the spoken half of `digits` (GPL-3)"),
}


def examine() -> list[str]:
    """Lines for `fdlab doctor`."""
    import torch

    lines = [f"fdlab       {__version__}"]
    lines += [f"{name:11s} {version}" for name, version in versions().items()]
    lines += [
        f"system      {platform.platform()}",
        f"processor   {cores()} cores; {count_workers()} runs at a time, "
        f"{count_threads()} threads each",
        f"memory      {_measure_memory()}",
        *_list_devices(torch),
        f"root        {paths.root()}",
        f"disk        {shutil.disk_usage(_existing(paths.outputs())).free / 1e9:.0f} GB free",
    ]
    for extra, (module, purpose) in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        remedy = f'missing: in the clone, pip install -c constraints.txt -e ".[{extra}]"'
        lines.append(f"{extra:11s} {'present' if found else remedy}; {purpose}")
    return lines


def _list_devices(torch) -> list[str]:
    count = torch.cuda.device_count()
    if count == 0:
        return ["device      cpu (no CUDA device is visible)"]
    found = []
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(f"device      cuda:{index} {properties.name}, {memory:.0f} GiB")
    return found


def _measure_memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return "unknown"
    return f"{size / 2**30:.0f} GiB"


def _existing(folder):
    while not folder.exists():
        folder = folder.parent
    return folder

"""Every path from one root.

The root is `$FDLAB_HOME` where set, else the nearest folder above the working directory that holds
both `notebooks/` and `fdlab/` (a clone), else the working directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from fdlab.core.errors import UserError
from fdlab.core.files import stays_inside


def root() -> Path:
    if home := os.environ.get("FDLAB_HOME"):
        return Path(home).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "fdlab").is_dir():
            return folder
    return here


def notebooks() -> Path:
    """The notebooks' sources: those of the root, else those beside the package (a clone)."""
    local = root() / "notebooks"
    return local if local.is_dir() else Path(__file__).resolve().parents[2] / "notebooks"


def outputs() -> Path:
    return root() / "outputs"


def stores() -> Path:
    return outputs() / "stores"


def runs() -> Path:
    return outputs() / "runs"


def checkpoints() -> Path:
    return outputs() / "checkpoints"


def banks() -> Path:
    return outputs() / "banks"


def reference() -> Path:
    return outputs() / "reference"


def benchmarks(folder: str = "benchmarks") -> Path:
    """Where the benchmarks' JSON files are: a folder's name, relative to the root."""
    return root() / Path(folder).expanduser()


SUITE = "FDLAB_SUITE"  # set by `fdlab reproduce` for the kernels of the suite that it runs


def suite_folder(dataset: str, preset: str) -> Path:
    """Where the notebooks, figures, tables and results of one data set and preset are."""
    if folder := os.environ.get(SUITE):
        return Path(folder)
    return outputs() / _name(dataset, preset)


def save_folder(dataset: str, preset: str) -> Path:
    """Where a notebook's results go: the suite that runs it, or `outputs/explored` where a person
    does, whose other parameters must not mix with a finished suite."""
    if SUITE in os.environ:
        return suite_folder(dataset, preset)
    return outputs() / "explored" / _name(dataset, preset)


def _name(dataset: str, preset: str) -> str:
    """Of a folder: one step down, whatever the two hold."""
    name = f"{dataset}-{preset}"
    if not stays_inside(name) or set(name) & set("/\\"):
        raise UserError(f"{dataset!r} and {preset!r} name no folder: expected a data set, a preset")
    return name

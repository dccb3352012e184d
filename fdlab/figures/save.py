"""A study's result with its figures and tables, on disk under one stem."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from fdlab.core import paths
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.results import read_result, write_result
from fdlab.figures.style import find_venue
from fdlab.studies import STEMS
from fdlab.studies.ranking import require_convention

RESULTS, FIGURES, TABLES = "results", "figures", "tables"


def save_study(
    stem: str,
    result: Any,
    venue: str = "aaai",
    folder: Path | None = None,
    marks: str = "tested",
) -> Path:
    """Write the result as JSON and draw everything it has; returns the folder."""
    folder = folder or paths.save_folder(result.dataset, result.preset)
    write_result(folder / RESULTS / f"{stem}.json", result)
    draw_study(stem, result, venue, folder, marks)
    return folder


def draw_study(stem: str, result: Any, venue: str, folder: Path, marks: str = "tested") -> None:
    """Figures (PDF, PNG) and tables (CSV, Markdown, LaTeX) of one result, named `<stem>-<what>`.

    marks: how tables of methods set their best rows apart, see `studies.ranking`.
    """
    if stem not in STEMS:
        raise name_unknown("study", stem, STEMS)
    module = importlib.import_module(f"fdlab.figures.{stem}")
    for kind in (FIGURES, TABLES):  # what an earlier version or other parameters drew
        for old in (folder / kind).glob(f"{stem}-*"):
            old.unlink()
    for name, plate in module.plates(result, venue).items():
        plate.save(folder / FIGURES / f"{stem}-{name}")
    marked = "marks" in inspect.signature(module.tables).parameters
    for name, table in module.tables(result, **({"marks": marks} if marked else {})).items():
        table.save(folder / TABLES / f"{stem}-{name}")


def redraw(source: Path, target: Path, venue: str = "aaai", marks: str = "tested") -> list[str]:
    """Draw again, without training, everything whose results stand in `source`; names the stems."""
    require_convention(marks)
    find_venue(venue)
    if not (source / RESULTS).is_dir():
        raise UserError(f"{source} holds no {RESULTS}/ folder with study results")
    drawn = []
    for stem in STEMS:
        path = source / RESULTS / f"{stem}.json"
        if path.is_file():
            draw_study(stem, read_result(path), venue, target, marks)
            drawn.append(stem)
    return drawn

"""A study's result with its figures and tables, on disk under one stem."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from fdlab.core import paths
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.results import read_result, write_result
from fdlab.studies import STEMS

RESULTS, FIGURES, TABLES = "results", "figures", "tables"


def save_study(stem: str, result: Any, venue: str = "aaai", folder: Path | None = None) -> Path:
    """Write the result as JSON and draw everything it has; returns the folder."""
    folder = folder or paths.save_folder(result.dataset, result.preset)
    write_result(folder / RESULTS / f"{stem}.json", result)
    draw_study(stem, result, venue, folder)
    return folder


def draw_study(stem: str, result: Any, venue: str, folder: Path) -> None:
    """Figures (PDF, PNG) and tables (CSV, Markdown, LaTeX) of one result, named `<stem>-<what>`."""
    if stem not in STEMS:
        raise name_unknown("study", stem, STEMS)
    module = importlib.import_module(f"fdlab.figures.{stem}")
    for name, plate in module.plates(result, venue).items():
        plate.save(folder / FIGURES / f"{stem}-{name}")
    for name, table in module.tables(result).items():
        table.save(folder / TABLES / f"{stem}-{name}")


def redraw(source: Path, target: Path, venue: str = "aaai") -> list[str]:
    """Draw again, without training, everything whose results stand in `source`; names the stems."""
    if not (source / RESULTS).is_dir():
        raise UserError(f"{source} holds no {RESULTS}/ folder with study results")
    drawn = []
    for stem in STEMS:
        path = source / RESULTS / f"{stem}.json"
        if path.is_file():
            draw_study(stem, read_result(path), venue, target)
            drawn.append(stem)
    return drawn

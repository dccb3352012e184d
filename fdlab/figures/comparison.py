"""Drawings of `studies.comparison`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.core.estimate import Estimate
from fdlab.figures.marks import MARKS, describe_contrast, explain_contrast, explain_marks
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, arrow, color_method, mark_method, name_method
from fdlab.studies.comparison import Comparison


def draw_accuracy(axis, result: Comparison, direction: str) -> None:
    """Accuracy per method: interval over seeds, each seed as a dot."""
    _draw_rows(
        axis,
        [(m, result.find(direction, m).accuracy["validation"]) for m in result.methods],
        {m: result.find(direction, m).values["validation"] for m in result.methods},
    )
    axis.set_xlabel("test accuracy (%)")


def draw_gain(axis, result: Comparison, direction: str) -> None:
    """Difference to no distillation per method, paired by seed."""
    base = result.find(direction, "none").values["validation"]
    methods = [m for m in result.methods if m != "none"]
    _draw_rows(
        axis,
        [(m, result.find(direction, m).gain) for m in methods],
        {m: result.find(direction, m).values["validation"] - base for m in methods},
    )
    axis.axvline(0, color=INK, linewidth=0.7)
    axis.set_xlabel("points above no distillation")


def _draw_rows(axis, rows: list[tuple[str, Estimate]], seeds: dict[str, np.ndarray]) -> None:
    for place, (method, found) in enumerate(rows):
        color = color_method(method)
        if found.known:
            error = [[found.mean - found.low], [found.high - found.mean]]
            axis.errorbar(found.mean, place, xerr=error, color=color, linewidth=1.2)
        axis.plot(found.mean, place, mark_method(method), color=color, markersize=5, zorder=3)
        axis.plot(seeds[method], np.full(len(seeds[method]), place + 0.28), ".", color=color,
                  markersize=3, alpha=0.8)  # fmt: skip
    axis.set_yticks(range(len(rows)), [name_method(method) for method, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def plates(result: Comparison, venue: str = "aaai") -> dict[str, Plate]:
    return {
        "accuracy": _draw(result, venue, draw_accuracy, len(result.methods)),
        "gain": _draw(result, venue, draw_gain, len(result.methods) - 1),
    }


def _draw(result: Comparison, venue: str, draw, rows: int) -> Plate:
    def paint(axes) -> None:
        for axis, direction in zip(axes[0], result.directions, strict=True):
            draw(axis, result, direction)
            axis.set_title(arrow(direction))

    columns = len(result.directions)
    height = 0.7 + 0.24 * rows
    return Plate.draw(paint, venue, height=height, wide=columns > 1, columns=columns, sharey=True)


def tables(result: Comparison, marks: str = "tested") -> dict[str, Table]:
    """marks: "tested" sets the best two rows apart where the difference holds, "paper" always."""
    rows = []
    for direction in result.directions:
        for method in result.methods:
            cell = result.find(direction, method)
            mark = MARKS[result.marks[marks][direction][method]]
            row = {
                "direction": direction,
                "method": method,
                "accuracy (%)": cell.accuracy["validation"].format(1) + mark,
                "last epoch": f"{cell.accuracy['last'].mean:.1f}",
                "published rule": f"{cell.accuracy['published'].mean:.1f}",
                "optimism": cell.optimism.format(1, sign=True),
                "extra parameters": str(cell.extra_parameters),
            }
            if method != "none":
                row |= describe_contrast(cell.versus_none)
            if cell.published is not None:
                row["paper"] = f"{cell.published:.1f}"
            rows.append(row)
    about = (
        f"on {result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
        f"n = {result.n} test samples"
    )
    caption = (
        f"Methods {about}. Accuracy: raw head at the best validation epoch, 95 % interval over "
        f"seeds. Published rule: best epoch and best head on the test set; optimism: its surplus. "
        f"{explain_contrast('none, in the same direction')} {explain_marks(marks)}"
    )
    contrasts = [
        {"contrast": name.replace("-", " - "), "direction": direction} | describe_contrast(found)
        for name, ways in result.contrasts.items()
        for direction, found in ways.items()
    ]
    return {
        "methods": Table(pd.DataFrame(rows).fillna(""), caption),
        "contrasts": Table(
            pd.DataFrame(contrasts).fillna(""),
            f"Paired differences in test accuracy {about}. {explain_contrast('the second')}",
        ),
    }

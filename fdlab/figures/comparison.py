"""Drawings of `studies.comparison`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.core.estimate import Estimate
from fdlab.figures.marks import MARKS, describe_contrast, explain_contrast, explain_marks
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, arrow, color_method, mark_method, name_method
from fdlab.studies.comparison import Cell, Comparison

METRICS = {"accuracy": "Accuracy", "mIoU": "mIoU"}  # at the start of a sentence


def draw_score(axis, result: Comparison, direction: str) -> None:
    """Score per method: interval over seeds, each seed as a dot."""
    _draw_rows(
        axis,
        [(m, result.find(direction, m).accuracy["validation"]) for m in result.methods],
        {m: result.find(direction, m).values["validation"] for m in result.methods},
    )
    axis.set_xlabel(f"test {result.metric} (%)")


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
        "accuracy": _draw(result, venue, draw_score, len(result.methods)),
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
    """The comparison itself, what each number rests on, the contrasts, the hyperparameters, and the
    trials of a search. marks: "tested" sets the best two rows apart where the difference holds,
    "paper" always."""
    about = (
        f"on {result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
        f"n = {result.n} test samples"
    )
    rows = [_describe(result, cell, marks) for cell in result.cells]
    details = [_detail(cell) for cell in result.cells]
    contrasts = [
        {"contrast": name.replace("-", " - "), "direction": direction} | describe_contrast(found)
        for name, ways in result.contrasts.items()
        for direction, found in ways.items()
    ]
    found = {
        "methods": (
            rows,
            f"Methods {about}. {METRICS[result.metric]}: raw head at the best validation epoch, "
            f"95 % interval over seeds. Minus none: in points, paired by seed and sample, "
            f"hierarchical bootstrap over both; p: Holm over the methods of a direction. Rank: 1 "
            f"is the highest, interval over seeds and samples. Time, memory: of the training "
            f"steps, over those of none, measured in turn with them; parameters: all that train "
            f"beside the student, also of a teacher. {explain_marks(marks)}",
        ),
        "details": (
            details,
            f"What the differences rest on, {about}. Published rule: best epoch and best head on "
            f"the test set; optimism: its surplus. "
            f"{explain_contrast('none, in the same direction')}",
        ),
        "contrasts": (
            contrasts,
            f"Paired differences in test {result.metric} {about}. {explain_contrast('the second')}",
        ),
        "settings": (
            [
                {"method": s.method, "option": s.option, "value": str(s.value), "source": s.source}
                for s in result.settings
            ],
            "Hyperparameters of the methods and where each is from"
            + (", before the search." if result.trials else "."),
        ),
        "trials": (
            [
                {
                    "direction": trial.direction,
                    "method": trial.method,
                    "strength ×": f"{trial.strength:.2f}",
                    "learning rate ×": f"{trial.rate:.2f}",
                    "validation (%)": f"{trial.validation:.1f}" + ("*" if trial.chosen else ""),
                }
                for trial in result.trials
            ],
            "The search: as many trials for every method, one seed that the comparison does not "
            "use, judged on the validation split. * chosen.",
        ),
    }
    return {
        name: Table(pd.DataFrame(lines).fillna(""), caption)
        for name, (lines, caption) in found.items()
        if lines
    }


def _describe(result: Comparison, cell: Cell, marks: str) -> dict[str, str]:
    plain, gap = cell.method == "none", cell.versus_none
    row = {
        "direction": cell.direction,
        "method": cell.method,
        f"{result.metric} (%)": cell.accuracy["validation"].format(1)
        + MARKS[result.marks[marks][cell.direction][cell.method]],
        "minus none": "" if plain else gap.both.format(1, sign=True),
        "p": "" if plain else f"{gap.holm:.3f}",
        "rank": cell.rank.format(1),
        "s/epoch": f"{cell.cost.seconds:.2f}",
        "time": "" if plain else f"{cell.cost.relative.mean:.2f}×",
        "memory": "" if plain else f"{cell.cost.memory:.2f}×",
        "parameters": f"{cell.extra_parameters:,}",
    }
    if cell.published is not None:
        row["paper"] = f"{cell.published:.1f}"
    return row


def _detail(cell: Cell) -> dict[str, str]:
    row = {
        "direction": cell.direction,
        "method": cell.method,
        "last epoch": f"{cell.accuracy['last'].mean:.1f}",
        "published rule": f"{cell.accuracy['published'].mean:.1f}",
        "optimism": cell.optimism.format(1, sign=True),
        "memory (MB)": f"{cell.cost.bytes / 1e6:.1f}",
    }
    return row | ({} if cell.method == "none" else describe_contrast(cell.versus_none))

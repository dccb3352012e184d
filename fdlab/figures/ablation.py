"""Drawings of `studies.ablation`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.figures.marks import MARKS, describe_contrast, explain_contrast, explain_marks
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, arrow
from fdlab.studies.ablation import (
    BASE,
    BASES,
    FULL,
    HEADS,
    KEYS,
    LEARNED,
    TEACHERS,
    Ablation,
    Line,
    read_published,
)

# Group → colour and words; a row that is in none of the others is one of the paper's own.
GROUPS = {
    "paper": ("#555555", "rows of the paper's tables"),
    "teachers": ("#0072B2", "teachers that cannot teach, or teach their own modality"),
    "bases": ("#D55E00", "other bases of the channels"),
    "others": ("#009E73", "no teacher, other reduction or cut-off"),
}
TITLES = {
    "table4": "Table 4, components",
    "table6": "Table 6, losses",
    "table7": "Table 7, cut-off",
    "table8": "Table 8, bands",
    "controls": "Controls that the paper does not have",
}


def find_group(name: str) -> str:
    if name in BASES:
        return "bases"
    if name in TEACHERS:
        return "teachers"
    return "paper" if any(name in keys for keys in KEYS.values()) else "others"


def draw_rows(axis, result: Ablation, direction: str) -> None:
    """Points above no distillation, one row each: interval over both, each seed as a dot."""
    lines = [x for x in result.lines if x.direction == direction and x.name != BASE]
    base = result.find(direction, BASE).values
    for place, line in enumerate(lines):
        color = GROUPS[find_group(line.name)][0]
        gain = line.versus_none.both
        axis.errorbar(gain.mean, place, xerr=[[gain.mean - gain.low], [gain.high - gain.mean]],
                      color=color, linewidth=1.2, fmt="D" if line.name == FULL else "o",
                      markersize=4)  # fmt: skip
        seeds = line.values - base
        axis.plot(seeds, np.full(len(seeds), place + 0.3), ".", color=color, markersize=2.5)
    full = result.find(direction, FULL).versus_none.both.mean
    axis.axvline(full, color=INK, linewidth=0.7, linestyle=(0, (4, 2)))
    axis.axvline(0, color=INK, linewidth=0.7)
    axis.set_yticks(range(len(lines)), [line.words for line in lines])
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")
    axis.set_xlabel("points above no distillation")


def draw_edges(axis, result: Ablation, direction: str) -> None:
    """Where each learned cut-off ended, one dot per seed and group of channels."""
    rows = [line for name in LEARNED if (line := result.find(direction, name))]
    for place, line in enumerate(rows):
        for seed, ends in enumerate(line.edges):
            offset = 0.12 * (seed - (len(line.edges) - 1) / 2)
            axis.plot(ends, np.full(len(ends), place + offset), "o", color="#0072B2",
                      markersize=3.5, alpha=0.7)  # fmt: skip
    axis.axvline(result.start, color=INK, linewidth=0.8, linestyle="--", label="start")
    axis.set_yticks(range(len(rows)), [line.words for line in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("cut-off (fraction of the bins)")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def plates(result: Ablation, venue: str = "aaai") -> dict[str, Plate]:
    columns = len(result.directions)
    count = len(result.lines) // columns

    def rows(axes) -> None:
        for axis, direction in zip(axes[0], result.directions, strict=True):
            draw_rows(axis, result, direction)
            axis.set_title(arrow(direction))
        found = {find_group(line.name) for line in result.lines if line.name != BASE}
        handles = [
            axes[0, 0].errorbar([], [], xerr=[], fmt="o", color=color, label=words, markersize=4)
            for group, (color, words) in GROUPS.items()
            if group in found
        ]
        handles.append(axes[0, 0].plot([], [], "--", color=INK, label="FD-CMKD")[0])
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=2)

    drawn = {
        "rows": Plate.draw(rows, venue, height=1.2 + 0.165 * count, wide=True, columns=columns,
                           sharey=True),
    }  # fmt: skip
    if any(line.edges.size for line in result.lines):

        def edges(axes) -> None:
            for axis, direction in zip(axes[0], result.directions, strict=True):
                draw_edges(axis, result, direction)
                axis.set_title(arrow(direction))
            axes[0, 0].legend(loc="upper right")

        drawn["edges"] = Plate.draw(edges, venue, height=1.4, wide=columns > 1, columns=columns,
                                    sharey=True)  # fmt: skip
    return drawn


def tables(result: Ablation, marks: str = "tested") -> dict[str, Table]:
    """One table per table of the paper, one of the controls, and one of what each row's difference
    to no distillation rests on. marks: see `ranking.mark_rows`."""
    about = (
        f"{result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, n = {result.n} "
        f"test samples; raw head at the best validation epoch"
    )
    found = {
        table: Table(
            pd.DataFrame(
                [
                    _describe(result, table, result.find(direction, name), marks)
                    for direction in result.directions
                    for name in names
                ]
            ).fillna(""),
            f"{TITLES[table]}: {about}, interval over seeds. Differences in points, paired by seed "
            f"and sample, with the interval of the hierarchical bootstrap over both, which is too "
            f"short with few seeds; "
            f"p: of the gain over no distillation, Holm over all rows. {explain_marks(marks)}"
            + (" The last columns are the paper's own numbers." if table in KEYS else ""),
        )
        for table, names in result.tables.items()
    }
    rows = [
        {"direction": arrow(x.direction), "row": x.words} | describe_contrast(x.versus_none)
        for x in result.lines
        if x.name != BASE
    ]
    caption = f"Every row against no distillation: {about}. {explain_contrast('no distillation')}"
    return found | {"contrasts": Table(pd.DataFrame(rows).fillna(""), caption)}


def _describe(result: Ablation, table: str, line: Line, marks: str) -> dict[str, str]:
    mark = MARKS[result.marks[marks][line.direction][table][line.name]]
    cells = {
        "direction": arrow(line.direction),
        "row": line.words,
        "accuracy (%)": line.accuracy.format(1) + mark,
        "minus none": "" if line.name == BASE else line.versus_none.both.format(1, sign=True),
        "p": "" if line.name == BASE else f"{line.versus_none.holm:.3f}",
    }
    for words, other, versus in (
        ("minus FD-CMKD", FULL, line.versus_full),
        ("minus its heads", HEADS, line.versus_heads),
    ):
        plain = line.name in (BASE, other)
        cells[words] = "" if plain else versus.both.format(1, sign=True)
    if table == "controls":
        cells["epochs"] = str(line.epochs)
    for column, value in read_published(table, line.name).items():
        cells[f"paper, {column.replace('_', ' ')}"] = value
    return cells

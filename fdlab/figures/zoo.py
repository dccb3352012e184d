"""Drawings of `studies.zoo`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from fdlab.figures.marks import MARKS, describe_contrast, explain_contrast, explain_marks
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, INK
from fdlab.studies.comparison import BASE
from fdlab.studies.contrast import Contrast
from fdlab.studies.printed import GROUPS, OURS, SAME, TEACHER
from fdlab.studies.sizes import CLASSES, PER_VALUE, Size, Sizes, explain
from fdlab.studies.zoo import SCORES, Column, Row, Zoo, name_contrast

EDGE = 1.1  # of the axis of shares
PRINTED = "printed, "  # begins the head of a column of printed numbers
FEW = 4  # columns of the table that have room side by side
COLORS = {"method": "#777777", "ours": "#D55E00", "control": CONTROL}
KINDS = {
    "method": "other methods",
    "ours": "FiGKD, on each base",
    "control": "FiGKD, classes in a random order",
}
SCORE_STYLES = {"family": ("#0072B2", "s"), "variant": ("#E69F00", "o")}
COUNTS = {  # colour, marker, words
    "printed": (INK, "_", "printed"),
    "rule": ("#D55E00", "o", f"64 px, with {PER_VALUE} per batch-normed value"),
    "64": ("#0072B2", "s", "64 px, multiply-accumulates"),
    "32": ("#999933", "^", "32 px, multiply-accumulates"),
}


@dataclass(frozen=True)
class Line:
    """A line of a panel: what it says, the row whose colour it has, and its difference."""

    label: str
    row: Row
    found: dict[str, Contrast]
    seeds: dict[str, np.ndarray]  # points of each seed, by score

    @property
    def kind(self) -> str:
        return "control" if self.row.order else "ours" if self.row.method == OURS else "method"


def list_lines(result: Zoo, column: str) -> tuple[list[Line], list[Line]]:
    """Every row minus no distillation; then FiGKD minus what it is built on, where that is not no
    distillation, and minus its control."""

    def take(label: str, one: str, two: str, found: dict[str, Contrast]) -> Line:
        a, b = (result.find(column, name).values for name in (one, two))
        return Line(label, result.find_row(one), found, {score: a[score] - b[score] for score in a})

    gains = [
        take(_minus(row.name, BASE), row.name, BASE, result.find(column, row.name).versus_none)
        for row in result.rows[1:]
    ]
    rest = []
    for row in result.readings:
        control = result.find_control(row)
        couples = {row.base: row.base} if row.base != BASE else {}
        couples |= {control.name: "random"} if control else {}
        for other, words in couples.items():
            found = result.contrasts[name_contrast(row.name, other)][column]
            rest.append(take(_minus(row.name, words), row.name, other, found))
    return gains, rest


def _minus(one: str, two: str) -> str:
    return f"{one} \u2212 {two}"


def draw_lines(axis, result: Zoo, column: Column, scores: list[str]) -> None:
    """Points of difference, interval over seeds and samples; small dots are seeds. Below the rule
    FiGKD against its base and its control."""
    gains, rest = list_lines(result, column.name)
    places = [*range(len(gains)), *(len(gains) + 0.4 + i for i in range(len(rest)))]
    shifts = np.linspace(-0.17, 0.17, len(scores)) if len(scores) > 1 else [0.0]
    for place, line in zip(places, [*gains, *rest], strict=True):
        for shift, score in zip(shifts, scores, strict=True):
            color, marker = SCORE_STYLES.get(score, (COLORS[line.kind], "o"))
            if line.kind == "ours" and score == "class":
                marker = "D"
            found = line.found[score].both
            at = place + shift
            axis.plot([found.low, found.high], [at] * 2, color=color, linewidth=1.1)
            axis.plot(found.mean, at, marker, color=color, markersize=3.8)
            seeds = line.seeds[score]
            if len(scores) == 1 and not column.is_mean:
                axis.plot(seeds, np.full(len(seeds), at + 0.27), ".", color=color, markersize=2.5,
                          alpha=0.7)  # fmt: skip
    axis.axvline(0, color=INK, linewidth=0.7)
    if rest:
        axis.axhline(len(gains) - 0.4, color=INK, linewidth=0.5, linestyle=":")
    axis.set_yticks(places, [line.label for line in [*gains, *rest]])
    axis.set_ylim(places[-1] + 0.7, -0.6)
    axis.set_xlabel("difference in points")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def name_column(column: Column, wide: bool) -> str:
    """A panel's heading; where panels are narrow its networks stand below each other, and the group
    is that of the row's mean."""
    if column.is_mean:
        return column.name.replace(", ", "," if wide else ",\n") + f" ({len(column.pairs)})"
    teacher, student = column.name.split("-")
    if wide:
        return f"{teacher} → {student}\n({GROUPS[column.group]})"
    return f"{teacher} →\n{student}"


def _arrange(result: Zoo) -> list[list[Column]]:
    """One row of panels, or where they are many one for each group without the mean of all."""
    if len(result.columns) <= FEW:
        return [result.columns]
    groups = [[c for c in result.columns if c.group == group] for group in GROUPS]
    return [group for group in groups if group]


def _draw(result: Zoo, venue: str, scores: list[str], handles: list[Line2D]) -> Plate:
    grid = _arrange(result)
    width = max(map(len, grid))
    gains, rest = list_lines(result, result.columns[0].name)

    def paint(axes) -> None:
        for line, columns in zip(axes, grid, strict=True):
            for axis, column in zip(line, columns, strict=False):
                draw_lines(axis, result, column, scores)
                axis.set_title(name_column(column, width <= FEW), fontsize=7 if width <= FEW else 6)
            for axis in line[len(columns) :]:
                axis.set_axis_off()
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    height = 0.4 + len(grid) * (0.8 + 0.17 * (len(gains) + len(rest)))
    return Plate.draw(
        paint,
        venue,
        height=height,
        wide=True,
        rows=len(grid),
        columns=width,
        sharey=True,
        sharex=True,
    )


def draw_counts(axis, sizes: Sizes) -> None:
    """Operations of each network: printed, and ours by rule and resolution, in millions."""
    for place, size in enumerate(sizes.networks):
        values = {
            "printed": size.printed_operations,
            "rule": size.operations,
            **size.macs,
        }
        for kind, value in values.items():
            color, marker, _ = COUNTS[kind]
            style = {"markersize": 9, "markeredgewidth": 1.6} if kind == "printed" else {}
            axis.plot(value, place, "|" if kind == "printed" else marker, color=color,
                      **{"markersize": 3.5} | style)  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("operations (millions)")
    _name_lines(axis, [size.printed for size in sizes.networks])


def draw_shares(axis, sizes: Sizes) -> None:
    """Our counts over the printed one; those far off are named at the edge."""
    for place, size in enumerate(sizes.networks):
        values = {"rule": size.operations, "64": size.macs["64"]}
        ratios = {kind: value / size.printed_operations for kind, value in values.items()}
        for kind, ratio in ratios.items():
            if ratio <= EDGE:
                axis.plot(ratio, place, COUNTS[kind][1], color=COUNTS[kind][0], markersize=3.5)
        far = [f"{ratio:.2f}" for ratio in ratios.values() if ratio > EDGE]
        if far:
            axis.annotate(f"{' and '.join(far)} →", (EDGE, place), ha="right", va="center",
                          fontsize=6)  # fmt: skip
    axis.axvline(1, color=INK, linewidth=0.7)
    axis.set_xlim(0.87, EDGE)
    axis.set_xlabel("ours over printed")
    _name_lines(axis, [size.printed for size in sizes.networks])


def draw_ratios(axis, sizes: Sizes) -> None:
    """Teacher over student: operations, printed and by one rule at one resolution."""
    color, marker, _ = COUNTS["rule"]
    for place, ratio in enumerate(sizes.ratios):
        ends = [ratio.operations, ratio.printed_operations]
        axis.plot(ends, [place] * 2, color=color, linewidth=0.8)
        axis.plot(ends[1], place, "|", color=INK, markersize=9, markeredgewidth=1.6)
        axis.plot(ends[0], place, marker, color=color, markersize=3.5)
    axis.set_xscale("log")
    axis.set_xlabel("teacher's operations over student's")
    _name_lines(axis, [f"{r.teacher}-{r.student}" for r in sizes.ratios])
    axis.tick_params(axis="y", labelsize=6)


def _name_lines(axis, labels: list[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def plates(result: Zoo, venue: str = "aaai") -> dict[str, Plate]:
    kinds = [line.kind for line in list_lines(result, result.columns[0].name)[0]]
    handles = [
        Line2D([], [], color=COLORS[kind], marker="D" if kind == "ours" else "o", linewidth=1.1,
               markersize=3.8, label=words)
        for kind, words in KINDS.items() if kind in kinds
    ]  # fmt: skip
    drawn = {"gain": _draw(result, venue, ["class"], handles)}
    if "variant" in result.scores:
        handles = [
            Line2D([], [], color=color, marker=marker, linewidth=1.1, markersize=3.8, label=words)
            for (color, marker), words in zip(
                SCORE_STYLES.values(),
                ("family of the answer", "variant among those of the true family"),
                strict=True,
            )
        ]
        drawn["detail"] = _draw(result, venue, ["family", "variant"], handles)

    def sizes(axes) -> None:
        draw_counts(axes[0, 0], result.sizes)
        draw_shares(axes[0, 1], result.sizes)
        axes[0, 1].tick_params(labelleft=False)
        draw_ratios(axes[0, 2], result.sizes)
        handles = [
            Line2D([], [], color=color, marker="|" if kind == "printed" else marker,
                   linestyle="", markersize=9 if kind == "printed" else 3.5, label=words)
            for kind, (color, marker, words) in COUNTS.items()
        ]  # fmt: skip
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=4)

    drawn["sizes"] = Plate.draw(sizes, venue, height=3.4, wide=True, columns=3)
    return drawn


def tables(result: Zoo, marks: str = "tested") -> dict[str, Table]:
    """The table of each group of pairs with the printed one beside it, what the differences rest
    on, FiGKD against its base, families and variants, Table VII, what does not add up in the
    printed tables, and the hyperparameters. marks: as in `ranking.mark_rows`."""
    about = (
        f"on {result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
        f"n = {result.n} test samples"
    )
    found = {}
    for group, words in GROUPS.items():
        columns = [c for c in result.columns if c.group == group]
        if columns:
            found["same" if group == SAME else "cross"] = _tabulate(
                result, columns, words, about, marks
            )
    gains = [
        {"pair": column.name, "method": name} | describe_contrast(cell.versus_none["class"])
        for column in result.columns
        for name in (TEACHER, *(row.name for row in result.rows[1:]))
        for cell in [result.find(column.name, name)]
    ]
    found["gains"] = Table(
        pd.DataFrame(gains).fillna(""), f"Gains {about}. {explain_contrast('no distillation')}"
    )
    bases = [
        {"difference of": name, "pair": column} | describe_contrast(scores["class"])
        for name, columns in result.contrasts.items()
        for column, scores in columns.items()
    ]
    bases += [
        {"difference of": f"{name}'s gain over its base", "pair": "cross minus same family"}
        | describe_contrast(scores["class"])
        for name, scores in result.across.items()
    ]
    if bases:
        found["base"] = Table(
            pd.DataFrame(bases).fillna(""),
            f"FiGKD against what it is built on, and its control, {about}. "
            f"{explain_contrast('the second')}",
        )
    if "variant" in result.scores:
        found["detail"] = _tabulate_families(result, about)
    return found | _tabulate_sizes(result.sizes) | _tabulate_rest(result)


def _tabulate(result: Zoo, columns: list[Column], words: str, about: str, marks: str) -> Table:
    rows = []
    for name in (TEACHER, *(row.name for row in result.rows)):
        line = {"method": "student" if name == BASE else name}
        for column in columns:
            cell = result.find(column.name, name)
            mark = MARKS[result.marks[marks][column.name].get(name, "")]
            line[column.name] = cell.accuracy["class"].format(1) + mark
            value = result.find_printed(column, name)
            line[PRINTED + column.name] = "" if value is None else f"{value:.2f}"
        rows.append(line)
    frame = pd.DataFrame(rows)
    empty = [c for c in frame.columns if c.startswith(PRINTED) and not frame[c].any()]
    other = "" if result.own else ", which is another data set: no number to compare with"
    beside = f" Printed: in FiGKD's table of {result.printed}{other}."
    if len(empty) == sum(column.startswith(PRINTED) for column in frame.columns):
        beside = " FiGKD's tables have none of these pairs."
    caption = (
        f"Pairs of networks, {words}, {about}: accuracy (%), raw head at the best validation "
        f"epoch, 95 % interval over seeds.{beside} {explain_marks(marks)}"
    )
    for column in columns:
        means, common = result.average_printed(column)
        if column.is_mean and means and len(common) < len(column.pairs):
            caption += f" The printed mean is over {', '.join(common)}, which every row has."
    return Table(frame.drop(columns=empty), caption)


def _tabulate_families(result: Zoo, about: str) -> Table:
    rows = []
    for column in result.columns:
        for name in (TEACHER, *(row.name for row in result.rows)):
            cell = result.find(column.name, name)
            row = {"pair": column.name, "method": name}
            for score in ("class", "family", "variant"):
                row[f"{SCORES[score]} (%)"] = cell.accuracy[score].format(1)
            for score in ("family", "variant"):
                gap = cell.versus_none.get(score)
                row[f"{score} - none"] = gap.both.format(1, sign=True) if gap else ""
            rows.append(row)
        for name, scores in result.contrasts.items():
            row = {"pair": column.name, "method": name}
            for score in ("class", "family", "variant", "detail"):
                row[f"{SCORES[score]} (%)"] = scores[column.name][score].both.format(1, sign=True)
            rows.append(row)
    return Table(
        pd.DataFrame(rows).fillna(""),
        f"What is coarse and what is fine, {about}. Family: of the class answered. Variant in its "
        f"family: the class with the highest logit among those of the true family. A class is "
        f"right where both are. Differences: in points, interval over seeds and samples.",
    )


def _tabulate_sizes(sizes: Sizes) -> dict[str, Table]:
    networks = [_describe_size(size) for size in sizes.networks]
    ratios = [
        {
            "pair": f"{r.teacher}-{r.student}",
            "parameters": f"{r.parameters + 1e-9:.2f}",  # a half goes up, as in the printed ones
            "printed": f"{r.printed_parameters:.2f}",
            "operations": f"{r.operations:.2f}",
            "printed operations": f"{r.printed_operations:.2f}",
            "MACs, 64 px": f"{r.macs['64']:.2f}",
            "MACs, 32 px": f"{r.macs['32']:.2f}",
        }
        for r in sizes.ratios
    ]
    return {
        "sizes": Table(
            pd.DataFrame(networks),
            f"Table VII's networks with {CLASSES} classes, in millions, counted here. MACs: "
            f"multiply-accumulates of convolutions and linear layers. By the printed rule: those "
            f"at 64 pixels and {PER_VALUE} for every batch-normed value, with what else the "
            f"printed count holds.",
        ),
        "ratios": Table(
            pd.DataFrame(ratios),
            "Teacher over student. Operations: both by the printed rule at 64 pixels, rounded to "
            "two decimals of a million as the printed counts are.",
        ),
    }


def _describe_size(size: Size) -> dict[str, str]:
    return {
        "network": size.printed,
        "parameters": f"{size.parameters:.2f}",
        "printed": f"{size.printed_parameters:.2f}",
        "MACs, 32 px": f"{size.macs['32']:.2f}",
        "MACs, 64 px": f"{size.macs['64']:.2f}",
        "by the printed rule": f"{size.operations:.2f}",
        "printed operations": f"{size.printed_operations:.2f}",
        "explained": explain(size),
    }


def _tabulate_rest(result: Zoo) -> dict[str, Table]:
    slips = [
        {"where": s.where, "what": s.what, "printed": s.printed, "by its cells": s.found}
        for s in result.slips
    ]
    settings = [
        {"method": s.method, "pair": s.pair, "option": s.option, "value": str(s.value),
         "source": s.source}
        for s in result.settings
    ]  # fmt: skip
    found = {
        "slips": Table(
            pd.DataFrame(slips),
            "What the printed cells of Tables I to IV show by themselves: averages that are not "
            "those of their rows, and values that stand in two places.",
        )
    }
    if settings:
        found["settings"] = Table(
            pd.DataFrame(settings), "Hyperparameters of the methods and where each is from."
        )
    return found

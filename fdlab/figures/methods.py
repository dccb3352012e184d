"""Drawings of `studies.methods`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from fdlab.figures import comparison as compared
from fdlab.figures.marks import describe_contrast, explain_contrast
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, FAMILIES, INK, arrow
from fdlab.studies.methods import BASE, HEADS, OURS, Survey

LINEAR = 20  # points; beyond them an axis with a far outlier is logarithmic


def order_rows(result: Survey, direction: str) -> list[str]:
    """All but no distillation, the highest gain first."""
    gains = {m: result.comparison.find(direction, m).versus_none.both.mean for m in result.families}
    return sorted((m for m in gains if m != BASE), key=lambda m: -gains[m])


def draw_gain(axis, result: Survey, direction: str, rows: list[str]) -> None:
    """Points above no distillation per method, interval over seeds and samples, seeds as dots."""
    base = result.comparison.find(direction, BASE).values["validation"]
    for place, method in enumerate(rows):
        cell = result.comparison.find(direction, method)
        color = FAMILIES[result.families[method]][0]
        found = cell.versus_none.both
        axis.plot([found.low, found.high], [place] * 2, color=color, linewidth=1.1)
        axis.plot(found.mean, place, "D" if method == OURS else "o", color=color, markersize=4)
        seeds = cell.values["validation"] - base
        axis.plot(seeds, np.full(len(seeds), place), ".", color=color, markersize=2.5, alpha=0.6)
    axis.axvline(0, color=INK, linewidth=0.7)
    if HEADS in result.families:
        heads = result.comparison.find(direction, HEADS).versus_none.both.mean
        axis.axvline(heads, color=CONTROL, linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    _bend(axis, "x", axis.dataLim.x0)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_ranks(axis, result: Survey, direction: str) -> None:
    """Rank among Table 2's methods: the paper's (mean and range of its columns) beside ours."""
    names = sorted(result.paper_ranks, key=lambda m: result.paper_ranks[m].mean())
    ours = result.ranks[direction]
    for place, method in enumerate(names):
        paper, found = result.paper_ranks[method], ours[method]
        axis.plot([paper.min(), paper.max()], [place - 0.18] * 2, color="#999999", linewidth=1)
        axis.plot(paper.mean(), place - 0.18, "s", color="#999999", markersize=3.5)
        axis.plot([found.low, found.high], [place + 0.18] * 2, color=INK, linewidth=1)
        axis.plot(found.mean, place + 0.18, "o", color=INK, markersize=3.5)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(0.4, len(names) + 0.6)
    axis.set_xlabel(f"rank among {len(names)} methods (1 is best)")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_cost(axis, result: Survey, direction: str) -> None:
    """Gain over no distillation against the time of a training step; the front is named."""
    points = {}
    for method in order_rows(result, direction):
        cell = result.comparison.find(direction, method)
        color = FAMILIES[result.families[method]][0]
        points[method] = cell.cost.relative.mean, cell.versus_none.both.mean
        axis.plot(*points[method], "D" if method == OURS else "o", color=color, markersize=4)
    top = -np.inf
    for method, (time, gain) in sorted(points.items(), key=lambda item: item[1]):
        if gain > top:  # nothing cheaper gains as much
            top = gain
            axis.annotate(method, (time, gain), xytext=(-5, 2), textcoords="offset points",
                          fontsize=6, ha="right")  # fmt: skip
    axis.axhline(0, color=INK, linewidth=0.7)
    axis.margins(0.12)
    axis.set_xlabel("time of a training step (none = 1)")
    _bend(axis, "y", min(gain for _, gain in points.values()))


def _bend(axis, side: str, lowest: float) -> None:
    """The axis of the gains: logarithmic outside ±20 where a method lies far below."""
    words = "points above no distillation"
    if lowest < -1.5 * LINEAR:
        getattr(axis, f"set_{side}scale")("symlog", linthresh=LINEAR, linscale=1.5)
        ticks = [t for t in (-50, -20, -10, 0, 10, 20) if t > 1.2 * lowest]
        getattr(axis, f"set_{side}ticks")(
            ticks, [f"{t:+d}".replace("-", "\u2212") if t else "0" for t in ticks]
        )
        getattr(axis, side + "axis").set_minor_locator(NullLocator())
        words += f"\n(linear within ±{LINEAR})"
    getattr(axis, f"set_{side}label")(words)


def plates(result: Survey, venue: str = "aaai") -> dict[str, Plate]:
    ways = result.comparison.directions
    rows = order_rows(result, ways[0])
    wide = len(ways) > 1

    def legend(figure, control: bool) -> None:
        found = list(dict.fromkeys(result.families[m] for m in rows))
        handles = [
            Line2D([], [], color=color, marker="o", linewidth=1.1, markersize=4, label=words)
            for family, (color, words) in FAMILIES.items()
            if family in found
        ]
        if control and HEADS in rows:
            handles.append(
                Line2D([], [], color=CONTROL, linestyle="--", linewidth=0.8, label="heads_only")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=3 if not wide else 6)

    def gain(axes) -> None:
        for axis, way in zip(axes[0], ways, strict=True):
            draw_gain(axis, result, way, rows)
            axis.set_title(arrow(way))
        legend(axes[0, 0].figure, control=True)

    def cost(axes) -> None:
        for axis, way in zip(axes[0], ways, strict=True):
            draw_cost(axis, result, way)
            axis.set_title(arrow(way))
        legend(axes[0, 0].figure, control=False)

    columns = len(ways)
    drawn = {
        "gain": Plate.draw(gain, venue, height=1.1 + 0.15 * len(rows), wide=wide, columns=columns,
                           sharey=True),
        "cost": Plate.draw(cost, venue, height=2.6, wide=wide, columns=columns, sharey=True),
    }  # fmt: skip
    if result.order:

        def ranks(axes) -> None:
            for axis, way in zip(axes[0], ways, strict=True):
                draw_ranks(axis, result, way)
                axis.set_title(arrow(way))
            handles = [
                Line2D([], [], color="#999999", marker="s", markersize=3.5, linewidth=1,
                       label="Table 2: mean and range of 8 columns"),
                Line2D([], [], color=INK, marker="o", markersize=3.5, linewidth=1,
                       label="here: 95 % over seeds and samples"),
            ]  # fmt: skip
            axes[0, 0].figure.legend(handles=handles, loc="outside lower center")

        drawn["ranks"] = Plate.draw(
            ranks, venue, height=1.1 + 0.19 * len(result.paper_ranks), wide=wide,
            columns=columns, sharey=True,
        )  # fmt: skip
    return drawn


def tables(result: Survey, marks: str = "tested") -> dict[str, Table]:
    """Those of the comparison, its contrasts replaced by every method against the heads without a
    teacher and against FD-CMKD."""
    found = compared.tables(result.comparison, marks)
    found.pop("contrasts", None)
    for name, words, ways in (
        ("heads", "minus heads_only", result.versus_heads),
        ("fdcmkd", "FD-CMKD minus", result.versus_ours),
    ):
        rows = [
            {"direction": way, words: method} | describe_contrast(contrast)
            for way, contrasts in ways.items()
            for method, contrast in contrasts.items()
        ]
        if rows:
            other = "heads_only" if name == "heads" else "the method"
            found[name] = Table(
                pd.DataFrame(rows).fillna(""),
                f"Every method, {words.lower() if name == 'heads' else words + ' it'}, on "
                f"{result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
                f"n = {result.n} test samples. {explain_contrast(other)}",
            )
    return found

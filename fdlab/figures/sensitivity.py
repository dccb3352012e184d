"""Drawings of `studies.sensitivity`."""

from __future__ import annotations

from itertools import zip_longest

import pandas as pd
import seaborn
from matplotlib.patches import Rectangle

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import arrow
from fdlab.studies.sensitivity import CHOSEN, Grid, Sensitivity


def draw_grid(axis, result: Sensitivity, grid: Grid) -> None:
    draw_cells(axis, grid, result.low, result.high)
    axis.set_xlabel("λ2, weight of the high band")
    axis.set_ylabel("λ1, weight of the low band")
    axis.set_title(f"{arrow(grid.direction)}: {describe_spread(grid)}")


def describe_spread(grid: Grid) -> str:
    return f"spread {grid.spread:.1f} points\nby chance {grid.noise[0]:.1f} to {grid.noise[1]:.1f}"


def draw_cells(
    axis,
    grid: Grid,
    rows: list[float],
    columns: list[float],
    chosen: tuple[float, float] = (CHOSEN, CHOSEN),
) -> None:
    """Heat map of the accuracy over both weights, with the gain over no distillation below it."""
    frame = pd.DataFrame(
        grid.means, index=[f"{w:g}" for w in rows], columns=[f"{w:g}" for w in columns]
    )
    gains = grid.means - grid.none.mean()
    words = [[f"{a:.1f}\n{g:+.1f}" for a, g in zip(*row, strict=True)]
             for row in zip(grid.means, gains, strict=True)]  # fmt: skip
    look = {"annot_kws": {"size": 7}, "linewidths": 0.5, "cmap": "cividis", "square": True}
    bar = {"label": "accuracy (%)"}
    seaborn.heatmap(frame, ax=axis, annot=words, fmt="", cbar_kws=bar, **look)
    for pair, line in ((chosen, "--"), (grid.best, "-")):
        axis.add_patch(_frame((columns.index(pair[1]), rows.index(pair[0])), line))
    axis.tick_params(length=0)


def _frame(place: tuple[int, int], line: str) -> Rectangle:
    corner = (place[0] + 0.04, place[1] + 0.04)
    return Rectangle(
        corner, 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=1.4, linestyle=line
    )


def plates(result: Sensitivity, venue: str = "aaai") -> dict[str, Plate]:
    def paint(axes) -> None:
        for axis, grid in zip_longest(axes.flat, result.grids):
            if grid is None:
                axis.set_axis_off()
            else:
                draw_grid(axis, result, grid)

    columns = min(2, len(result.grids))  # so that the numbers in the cells can be read
    rows = -(-len(result.grids) // columns)
    return {
        "grid": Plate.draw(paint, venue, height=2.9 * rows, wide=columns > 1, rows=rows,
                           columns=columns)
    }  # fmt: skip


def tables(result: Sensitivity) -> dict[str, Table]:
    rows = [
        {"direction": arrow(grid.direction), "λ1 (low)": f"{low:g}"}
        | {f"λ2 = {high:g}": f"{grid.means[i, j]:.1f}" for j, high in enumerate(result.high)}
        for grid in result.grids
        for i, low in enumerate(result.low)
    ]
    notes = "; ".join(
        f"{arrow(g.direction)}: no distillation {g.none.mean():.1f}, spread {g.spread:.1f}, by "
        f"chance {g.noise[0]:.1f} to {g.noise[1]:.1f}, best minus λ = {CHOSEN:g} "
        f"{g.versus_chosen.both.format(1, sign=True)} (Holm p {g.versus_chosen.holm:.3f})"
        for g in result.grids
    )
    caption = (
        f"Test accuracy (%) of FD-CMKD over the weights of its two distances on {result.dataset} "
        f"(preset {result.preset}), {len(result.seeds)} seeds, n = {result.n} test samples. "
        f"{notes}. By chance: 95 % range of the spread if every pair of weights were equally good, "
        f"from dealing the pairs' answers to each sample out anew."
    )
    return {"grid": Table(pd.DataFrame(rows), caption)}

"""Drawings of `studies.precision`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, arrow, find_dot, name_method
from fdlab.studies.precision import CHANGED, OPEN, PLAIN, Change, Ending, Precision
from fdlab.studies.stats import MOST_SEEDS

# Okabe and Ito's colours; line and marker say the same in print.
LOOKS = {
    CHANGED: ("#D55E00", "s", "-"),
    "reordered": ("#0072B2", "o", "--"),
    "seeds": ("#777777", "", ":"),
}
NAMES = {
    CHANGED: "bf16",
    "reordered": "float32, reordered",
    "seeds": "float32, another seed",
}
SHORT = {CHANGED: "bf16", PLAIN: "float32", "reordered": "reordered"}
BAND = "#e4e4e4"
PANELS = 4  # methods in a row
STEPS = [1, 2, 5, 10]  # of ticks, and powers of ten of them


def draw_pairs(axis, ending: Ending) -> None:
    """Accuracy of every seed in float32, a line to the same seed under each change."""
    spots = {"reordered": 0, PLAIN: 1, CHANGED: 2}
    for name, change in ending.changes.items():
        color, marker, line = LOOKS[name]
        for plain, other in zip(ending.accuracy, change.accuracy, strict=True):
            axis.plot([1, spots[name]], [plain, other], line, color=color, linewidth=0.8)
            axis.plot(spots[name], other, marker, color=color, markersize=3)
    axis.plot(np.ones(len(ending.accuracy)), ending.accuracy, "D", color=INK, markersize=3)
    shown = [n for n in spots if n in (PLAIN, *ending.changes)]
    axis.set_xticks([spots[n] for n in shown], [SHORT[n] for n in shown])
    axis.set_xlim(spots[shown[0]] - 0.3, 2.3)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axis.set_title(f"{name_method(ending.method)}\n{arrow(ending.direction)}")


def draw_gaps(axis, ending: Ending) -> None:
    """Each change minus float32: seeds, the two intervals, and the band of the seed spread."""
    changes = ending.changes
    if np.isfinite(ending.spread.mean):
        axis.axvspan(-ending.spread.mean, ending.spread.mean, color=BAND, linewidth=0)
    axis.axvline(0, color=INK, linewidth=0.7)
    for place, (name, change) in enumerate(changes.items()):
        color, marker, _ = LOOKS[name]
        gap = change.gap
        if gap.seeds.known:
            axis.plot([gap.seeds.low, gap.seeds.high], [place] * 2, "|-", color=color)
        if gap.both.known:
            axis.plot([gap.both.low, gap.both.high], [place] * 2, color=color, linewidth=3.2,
                      solid_capstyle="butt", alpha=0.45)  # fmt: skip
        axis.plot(gap.seeds.mean, place, marker, color=color, markersize=4.5,
                  markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
        gaps = change.accuracy - ending.accuracy
        axis.plot(gaps, np.full(len(gaps), place + 0.24), ".", color=color, markersize=3)
    verdicts = [f"{SHORT[n]}: {'same bits' if c.same else c.verdict}" for n, c in changes.items()]
    axis.set_title("\n".join(verdicts))
    axis.set_ylim(len(changes) - 0.4, -0.5)
    axis.set_yticks(range(len(changes)), [SHORT[name] for name in changes])
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axis.set_xlabel("points above float32")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_losses(axis, ending: Ending) -> None:
    """Relative difference of the training loss per epoch, root of the mean square over seeds."""
    lines = {
        name: np.sqrt((gaps**2).mean(axis=0)) for name, gaps in ending.compare_losses().items()
    }
    lines["seeds"] = ending.compare_seeds()
    epochs = np.arange(1, ending.loss.shape[1] + 1)
    for name, values in lines.items():
        color, marker, line = LOOKS[name]
        shown = values > 0  # no difference has no logarithm
        axis.plot(epochs[shown], 100 * values[shown], line, color=color,
                  marker=marker or find_dot(len(epochs)), markersize=2.5)  # fmt: skip
    axis.set_yscale("log")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    axis.set_xlabel("epoch")
    axis.set_title(f"{name_method(ending.method)}\n{arrow(ending.direction)}")


def plates(result: Precision, venue: str = "aaai") -> dict[str, Plate]:
    endings = result.endings
    columns = len(endings) if len(endings) <= 2 else min(PANELS, len(endings))
    blocks = -(-len(endings) // columns)
    wide = columns > 2
    names = list(endings[0].changes)

    def pairs(axes) -> None:
        for place in range(blocks * columns):
            block, column = divmod(place, columns)
            top, low = axes[2 * block, column], axes[2 * block + 1, column]
            if place >= len(endings):
                top.set_axis_off()
                low.set_axis_off()
                continue
            draw_pairs(top, endings[place])
            draw_gaps(low, endings[place])
            if column == 0:
                top.set_ylabel(f"{result.metric} (%)")
            else:
                low.set_yticklabels([])
        handles = [
            Patch(color=BAND, label="± float32's spread over seeds"),
            Line2D([], [], color=INK, marker="|", label="95 %, seeds"),
            Line2D([], [], color=INK, linewidth=3.2, alpha=0.45, label="95 %, seeds and samples"),
            Line2D([], [], color=INK, marker=".", linestyle="", label="a seed"),
        ]
        axes[0, 0].figure.legend(
            handles=handles, loc="outside lower center", ncols=4 if wide else 2
        )

    def losses(axes) -> None:
        for axis, place in zip(axes.flat, range(blocks * columns), strict=True):
            if place < len(endings):
                draw_losses(axis, endings[place])
            else:
                axis.set_axis_off()
        for row in axes:
            row[0].set_ylabel("difference of the\ntraining loss (%)")
        handles = [
            Line2D([], [], color=LOOKS[n][0], marker=LOOKS[n][1], linestyle=LOOKS[n][2],
                   markersize=3, label=NAMES[n])
            for n in (*names, "seeds")
        ]  # fmt: skip
        axes[0, 0].figure.legend(
            handles=handles, loc="outside lower center", ncols=3 if wide else 2
        )

    return {
        "endings": Plate.draw(pairs, venue, height=3.4 * blocks + 0.4, wide=wide, rows=2 * blocks,
                              columns=columns, height_ratios=[1.3, 1] * blocks),
        "losses": Plate.draw(losses, venue, height=1.9 * blocks + 0.4, wide=wide, rows=blocks,
                             columns=columns, sharey=True),
    }  # fmt: skip


def tables(result: Precision) -> dict[str, Table]:
    rows = [
        {
            "direction": arrow(ending.direction),
            "method": name_method(ending.method),
            "change": NAMES[name],
            f"float32 {result.metric} (%)": f"{ending.accuracy.mean():.1f}",
            "spread over seeds": ending.spread.format(1),
            "change, over seeds": change.gap.seeds.format(1, sign=True),
            "over seeds and samples": change.gap.both.format(1, sign=True),
            "its deviation": f"{change.deviation:.1f}",
            "verdict": change.verdict,
            "seeds to decide": _print_needed(change),
            "last epoch": change.last.seeds.format(1, sign=True),
            "first epoch's loss (%)": _print_first(ending, name),
            "seconds, ratio": ending.seconds.format(2) if name == CHANGED else "",
        }
        for ending in result.endings
        for name, change in ending.changes.items()
    ]
    caption = (
        f"Arithmetic of training on {result.dataset} (preset {result.preset}), {len(result.seeds)} "
        f"seeds, n = {result.n} test samples, on {result.device}. Points of {result.metric} above "
        "float32 under the same seeds, raw head at the best validation epoch, with 95 % intervals "
        "over seeds (Student's t) and over seeds and samples (hierarchical bootstrap). Spread: "
        "standard deviation of float32 over seeds, chi-squared interval. Within: both intervals "
        "inside ± the spread; beyond: both outside it on one side. Seeds to decide: with 80 % "
        "power, for within if there is truly no difference. Reordered: float32 with the other "
        "memory layout and the other form of the optimiser's update. Seconds: bf16 over float32, "
        "geometric mean over seeds; a device without units for bf16 is slower in it."
    )
    return {"precision": Table(pd.DataFrame(rows), caption)}


def _print_needed(change: Change) -> str:
    if change.verdict != OPEN or not change.needed:
        return "–"
    return f"over {MOST_SEEDS:,}" if change.needed >= MOST_SEEDS else f"{change.needed:,}"


def _print_first(ending: Ending, name: str) -> str:
    return ending.compare_first(name).format(2, sign=True)

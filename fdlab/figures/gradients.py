"""Drawings of `studies.gradients`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, TERM_NAMES, TERM_STYLES, arrow, find_dot
from fdlab.studies.gradients import DISTANCES, PLACES, Gradients, Histogram, Trace

LOSSES = {"mse": ("MSE", "#0072B2", "-"), "logmse": ("logMSE", "#D55E00", "--")}
KINDS = {"raw": "without scale step", "standardised": "with scale step"}
AT = {"feature": "at the last map", "parameters": "at the parameters"}


def draw_curve(axis, result: Gradients, kind: str, reach: float) -> None:
    """A loss's value or gradient over the difference, as far as differences occur."""
    curves = result.value if kind == "value" else result.gradient
    inside = np.abs(result.difference) <= reach
    for loss, (name, color, line) in LOSSES.items():
        axis.plot(result.difference[inside], curves[loss][inside], line, color=color, label=name)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xlim(-reach, reach)


def draw_histogram(axis, found: Histogram) -> None:
    """Density of the differences that occur, with the span that holds 95 % of them."""
    axis.stairs(found.density, found.edges, fill=True, color="#999999", alpha=0.8)
    axis.axvspan(-found.top, found.top, color="#009E73", alpha=0.15, linewidth=0)
    axis.set_xlabel("teacher - student, entry of the high band")


def draw_shares(axis, trace: Trace, place: str) -> None:
    """Each term's part of the gradient norms over the training, mean over seeds."""
    shares = 100 * trace.find_shares(place).mean(axis=0)
    for place_in, term in enumerate(trace.terms):
        color, line = TERM_STYLES[term]
        axis.plot(trace.steps, np.where(shares[:, place_in] > 0, shares[:, place_in], np.nan),
                  line, color=color,
                  marker="." if term in DISTANCES else find_dot(len(trace.steps)),
                  label=TERM_NAMES[term])  # fmt: skip
    axis.set_yscale("log")


def draw_cosines(axis, trace: Trace, place: str) -> None:
    """Cosine between the gradients of every two terms, mean over steps and seeds."""
    names = [TERM_NAMES[term] for term in trace.terms]
    values = np.round(trace.cosines[place], 2) + 0.0  # no minus before a zero
    frame = pd.DataFrame(values, index=names, columns=names)
    seaborn.heatmap(frame, ax=axis, vmin=-1, vmax=1, cmap="RdBu_r", annot=True, fmt=".2f",
                    annot_kws={"size": 6}, cbar=False, square=True, linewidths=0.4)  # fmt: skip
    axis.tick_params(length=0)
    axis.set_xticklabels(names, rotation=45, ha="right")


def plates(result: Gradients, venue: str = "aaai") -> dict[str, Plate]:
    def figure3(axes) -> None:
        for column, (kind, words) in enumerate(KINDS.items()):
            found = result.observed[kind]
            reach = min(float(found.edges[-1]), float(result.difference[-1]))
            for axis, curve in zip(axes[:2, column], ("value", "gradient"), strict=True):
                draw_curve(axis, result, curve, reach)
            draw_histogram(axes[2, column], found)
            axes[0, column].set_title(words)
        for axis, words in zip(axes[:, 0], ("loss", "its gradient", "density"), strict=True):
            axis.set_ylabel(words)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        handles.append(axes[2, 0].patches[-1])
        labels.append(f"95 % of the differences in {result.source}")
        axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=3)

    drawn = {
        "figure3": Plate.draw(
            figure3, venue, height=3.9, wide=True, rows=3, columns=2, sharex="col"
        )
    }
    if not result.traces:
        return drawn

    def shares(axes) -> None:
        for row, place in zip(axes, PLACES, strict=True):
            for axis, trace in zip(row, result.traces, strict=True):
                draw_shares(axis, trace, place)
                axis.set_title(f"{trace.reduction} over D, {AT[place]}")
            row[0].set_ylabel("part of gradient norms (%)")
        for axis in axes[-1]:
            axis.set_xlabel("training step")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=4)

    def cosines(axes) -> None:
        for axis, place in zip(axes[0], PLACES, strict=True):
            draw_cosines(axis, result.traces[0], place)
            axis.set_title(f"{AT[place]}, {result.traces[0].reduction} over D")

    drawn["shares"] = Plate.draw(shares, venue, height=4.3, wide=True, rows=2, columns=2,
                                 sharex=True, sharey=True)  # fmt: skip
    drawn["cosines"] = Plate.draw(cosines, venue, height=3.9, wide=True, columns=2, sharey=True)
    return drawn


def tables(result: Gradients) -> dict[str, Table]:
    rows = [
        {
            "pair": pair,
            "logMSE / MSE, without scale step": result.estimate_ratio("raw", pair).format(3),
            "logMSE / MSE, with scale step": result.estimate_ratio("standardised", pair).format(3),
        }
        for pair in result.ratio["raw"]
    ]
    caption = (
        f"Ratio of logMSE to MSE on the high bands of two modalities' test features on "
        f"{result.dataset} (preset {result.preset}), n = {result.n}, 95 % intervals over seeds."
    )
    found = {"ratio": Table(pd.DataFrame(rows), caption)}
    if result.traces:
        found["terms"] = _tabulate_terms(result)
    return found


def _tabulate_terms(result: Gradients) -> Table:
    rows = []
    for term in result.traces[0].terms:
        row = {"term": TERM_NAMES[term]}
        for trace in result.traces:
            for place in PLACES:
                share = trace.estimate_share(place, term)
                head = f"{trace.reduction}, {AT[place]}"
                row[f"share (%), {head}"] = _percent(share)
                if term in DISTANCES:
                    row[f"equal λ, {head}"] = trace.balance(place, term).format(1)
        rows.append(row)
    steps, seeds = len(result.traces[0].steps), len(result.traces[0].norms["feature"])
    caption = (
        f"Each loss term's part of the sum of the terms' gradient norms in FD-CMKD on "
        f"{result.dataset} (preset {result.preset}), {arrow(result.direction)}, mean over {steps} "
        f"steps spread over the training, {seeds} seeds, 95 % intervals over seeds; mean and sum "
        f"reduction over D. Equal λ: the weight at which the distance's gradient would be as long "
        f"as that of the raw head's cross-entropy."
    )
    return Table(pd.DataFrame(rows).fillna(""), caption)


def _percent(share) -> str:
    scaled = type(share)(100 * share.mean, 100 * share.low, 100 * share.high, share.n)
    return scaled.format(2)

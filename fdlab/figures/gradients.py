"""Drawings of `studies.gradients`."""

from __future__ import annotations

import pandas as pd

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK
from fdlab.studies.gradients import Gradients

LOSSES = {"mse": ("MSE", "#0072B2", "-"), "logmse": ("logMSE", "#D55E00", "--")}
SPANS = {"raw": ("#999999", "without"), "standardised": ("#009E73", "with")}


def draw_curve(axis, result: Gradients, kind: str) -> None:
    """A loss's value or gradient over the difference, with the span of differences that occur."""
    curves = result.value if kind == "value" else result.gradient
    limit = 6.0 if kind == "value" else 5.0
    reach = result.difference[-1]
    for name, (color, words) in SPANS.items():
        edge = min(result.observed[name][1], reach)
        axis.axvspan(-edge, edge, color=color, alpha=0.22, linewidth=0, label=words)
    for loss, (name, color, line) in LOSSES.items():
        axis.plot(result.difference, curves[loss], line, color=color, label=name)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_ylim(-0.3 if kind == "value" else -limit, limit)
    axis.set_xlim(-reach, reach)
    axis.set_xlabel("difference of two features")
    axis.set_ylabel(f"{kind} of the loss")


def plates(result: Gradients, venue: str = "aaai") -> dict[str, Plate]:
    def paint(axes) -> None:
        for axis, kind in zip(axes[0], ("value", "gradient"), strict=True):
            draw_curve(axis, result, kind)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        names = [f"95 % of differences, {text} scale step" if text in ("with", "without") else text
                 for text in labels]  # fmt: skip
        axes[0, 0].figure.legend(handles, names, loc="outside upper center", ncols=2)

    return {"figure3": Plate.draw(paint, venue, height=2.6, wide=True, columns=2)}


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
    return {"ratio": Table(pd.DataFrame(rows), caption)}

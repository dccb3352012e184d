"""Drawings of `studies.similarity`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, INK
from fdlab.studies.similarity import BANDS, Similarity, describe_published

NAMES = {"raw": "raw", "low+dc": "low + DC", "low": "low", "high": "high"}
FILL = {"raw": "#bbbbbb", "low+dc": "#44AA99", "low": "#88CCEE", "high": "#DDCC77"}
LABELS = {"cosine": "row cosine", "cka": "linear CKA"}


def draw_measure(axis, result: Similarity, measure: str, pair: str) -> None:
    """Bars per band with seeds as dots, the shuffled pairs' level and the closed form."""
    bands = [band for band in BANDS if result.select(measure, pair, band)]
    for place, band in enumerate(bands):
        rows = result.select(measure, pair, band)
        values = [row.value.mean for row in rows]
        axis.bar(place, np.mean(values), 0.7, color=FILL[band], edgecolor=INK, linewidth=0.5)
        spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [0.0]
        axis.plot(place + np.array(spread), values, ".", color=INK, markersize=3, zorder=3)
        null = np.mean([row.null.mean for row in rows])
        axis.plot([place - 0.42, place + 0.42], [null, null], "--", color=CONTROL, zorder=4)
        predicted = np.mean([row.predicted for row in rows])
        if np.isfinite(predicted) and band != "raw":
            axis.plot(place, predicted, "x", color="#D55E00", markersize=5, mew=1.3, zorder=5)
        permuted = result.average_permuted(measure, pair, band)
        if np.isfinite(permuted):
            axis.plot(place + 0.28, permuted, "D", mfc="none", mec="#882255", markersize=3.5,
                      mew=0.9, zorder=5)  # fmt: skip
    axis.axhline(0, color=INK, linewidth=0.6)
    axis.set_xticks(range(len(bands)), [NAMES[band] for band in bands])
    axis.grid(False, axis="x")


def plates(result: Similarity, venue: str = "aaai") -> dict[str, Plate]:
    return {
        "cosine": _draw(result, venue, "cosine"),
        "cka": _draw(result, venue, "cka"),
    }


def _draw(result: Similarity, venue: str, measure: str) -> Plate:
    def paint(axes) -> None:
        for axis, pair in zip(axes[0], result.pairs, strict=True):
            draw_measure(axis, result, measure, pair)
            axis.set_title(pair.replace("-", " – "))
        axes[0, 0].set_ylabel(LABELS[measure])
        handles = [
            axes[0, 0].plot([], [], ".", color=INK, label="one seed")[0],
            axes[0, 0].plot([], [], "--", color=CONTROL, label="shuffled pairs")[0],
            axes[0, 0].plot([], [], "D", mfc="none", mec="#882255", label="channels permuted")[0],
        ]
        if measure == "cosine":
            cross = axes[0, 0].plot([], [], "x", color="#D55E00", label="closed form, mean alone")
            handles.append(cross[0])
        axes[0, 0].figure.legend(
            handles=handles, loc="outside lower center", ncols=4 if len(result.pairs) > 1 else 2
        )

    columns = len(result.pairs)
    return Plate.draw(paint, venue, height=1.9, wide=columns > 1, columns=columns, sharey=True)


def tables(result: Similarity) -> dict[str, Table]:
    rows = []
    for pair in result.pairs:
        for measure in LABELS:
            for band in BANDS:
                found = result.select(measure, pair, band)
                if found:
                    rows.append(_row(result, pair, measure, band))
    caption = (
        f"Similarity of two modalities' test features on {result.dataset} (preset "
        f"{result.preset}), n = {result.n} samples, D = {result.dim}, cut-off {result.cutoff:g}. "
        f"Intervals: 95 % over seeds. Shuffled: mean over shuffled pairs. p: the largest over "
        f"seeds. Channels permuted: mean over random orders of the channels. The paper reports "
        f"cosines of {describe_published()}, its low band with the DC."
    )
    return {"table1": Table(pd.DataFrame(rows), caption)}


def _row(result: Similarity, pair: str, measure: str, band: str) -> dict[str, str]:
    rows = result.select(measure, pair, band)
    value: Estimate = result.average(measure, pair, band)
    predicted = result.average_prediction(pair, band) if measure == "cosine" else float("nan")
    return {
        "pair": pair,
        "measure": LABELS[measure],
        "band": band,
        "value": value.format(3),
        "seeds": str(value.n),
        "shuffled": f"{result.average_null(measure, pair, band):.3f}",
        "closed form": f"{predicted:.3f}" if np.isfinite(predicted) and band != "raw" else "",
        "channels permuted": (
            "" if band == "raw" else f"{result.average_permuted(measure, pair, band):.3f}"
        ),
        "p": f"{max(row.p for row in rows):.3f}",
    }

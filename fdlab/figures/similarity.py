"""Drawings of `studies.similarity`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patches import Patch, Rectangle

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import BAND_COLORS, BAND_NAMES, INK, NULLS
from fdlab.studies.similarity import BANDS, FEATURE, MEASURES, Similarity, describe_published

LABELS = {
    "cosine": "row cosine",
    "cka": "linear CKA",
    "cka_debiased": "linear CKA, debiased",
    "neighbours": "mutual neighbours",
}
CLOSED = "#D55E00"  # the closed form
DETECTOR_LINES = ("-", "--", ":", "-.", (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (6, 2)))


def draw_measure(axis, result: Similarity, measure: str, pair: str) -> None:
    """Each band's value, one dot a seed, beside the 95 % range of every null.

    The DC's cosine is left to the table: it is the product of two signs.
    """
    bands = [band for band in BANDS if result.find(measure, pair, band)]
    if measure == "cosine":
        bands.remove("dc")
    for place, band in enumerate(bands):
        row = result.find(measure, pair, band)
        for slot, (name, (color, _)) in enumerate(NULLS.items()):
            if name in row.nulls:
                level = row.nulls[name].level
                _draw_range(axis, place - 0.2 + 0.09 * slot, level.low, level.high, color)
        axis.plot([place - 0.34] * len(row.values), row.values, ".", color=INK, markersize=3.5)
        axis.plot([place - 0.42, place - 0.26], [row.mean] * 2, color=INK, linewidth=1)
        if np.isfinite(row.predicted) and band != "raw":
            axis.plot(
                place - 0.34, row.predicted, "x", color=CLOSED, markersize=6, mew=1.3, zorder=5
            )
        if len(row.shared_start):
            axis.plot(place + 0.47, row.shared.mean, "^", mfc="none", mec=INK, markersize=4)
    axis.axhline(0, color=INK, linewidth=0.6)
    for place in range(1, len(bands)):
        axis.axvline(place - 0.5, color="#dddddd", linewidth=0.5)
    axis.set_xlim(-0.55, len(bands) - 0.42)
    axis.set_xticks(range(len(bands)), [BAND_NAMES[band] for band in bands])
    axis.tick_params(axis="x", length=0)
    axis.margins(y=0.06)


def _draw_range(axis, x: float, low: float, high: float, color: str) -> None:
    """A bar at least as high as a line is thick, so that a narrow null is seen too."""
    axis.add_patch(Rectangle((x - 0.035, low), 0.07, high - low, color=color, linewidth=0.8))
    axis.update_datalim([(x, low), (x, high)])


def draw_curve(axis, result: Similarity, pair: str) -> None:
    """Cosine of the band below the cut-off, with the DC, over every cut-off."""
    curve = result.curves[pair]
    _fill(axis, curve.cutoff, curve.shuffled, NULLS["shuffled"])
    _fill(axis, curve.cutoff, curve.reordered, NULLS["reordered"])
    for values in curve.cosine:
        axis.plot(curve.cutoff, values, color=INK, linewidth=0.5, alpha=0.6)
    axis.plot(curve.cutoff, curve.cosine.mean(axis=0), color=INK, label="measured, mean of seeds")
    axis.plot(curve.cutoff, curve.predicted, "--", color=CLOSED, label="closed form, mean alone")
    p = f"p = {curve.p:.3f}"
    axis.set_title(f"{_name(pair)}\nlargest departure {curve.departure:.3f}, {p}")


def draw_cka_curve(axis, result: Similarity, pair: str) -> None:
    """Debiased CKA of the band below the cut-off, without the DC."""
    curve = result.curves[pair]
    _fill(axis, curve.cutoff, curve.cka_shuffled, NULLS["shuffled"])
    for values in curve.cka:
        axis.plot(curve.cutoff, values, color=INK, linewidth=0.5, alpha=0.6)
    axis.plot(curve.cutoff, curve.cka.mean(axis=0), color=INK)
    axis.set_xlabel("cut-off (fraction of the bins)")


def _fill(axis, x: np.ndarray, span: np.ndarray, style: tuple[str, str]) -> None:
    axis.fill_between(x, *span, color=style[0], alpha=0.45, linewidth=0.8, label=style[1])


def draw_layers(axis, result: Similarity, measure: str, pair: str) -> None:
    """One measure over the layers, per band, with the range of shuffled pairs."""
    nodes = result.nodes(pair)
    for band in ("low+dc", "low", "high"):
        rows = [result.find(measure, pair, band, node) for node in nodes]
        places = [i for i, row in enumerate(rows) if row]
        values = [rows[i].seeds for i in places]
        means = [v.mean for v in values]
        color = BAND_COLORS[band]
        axis.plot(places, means, "o-", color=color, markersize=3, label=BAND_NAMES[band])
        if values and values[0].known:
            axis.fill_between(places, [v.low for v in values], [v.high for v in values],
                              color=color, alpha=0.15, linewidth=0)  # fmt: skip
        levels = [rows[i].nulls["shuffled"].level.mean for i in places]
        axis.plot(places, levels, ":", color=color, linewidth=1)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xticks(range(len(nodes)), nodes, rotation=30, ha="right")
    axis.set_xlim(-0.3, len(nodes) - 0.7)


def draw_auc(axis, result: Similarity) -> None:
    """How well each measure tells planted pairs from pairs without, over the planted strength."""
    found = result.detection
    for (name, values), line in zip(found.auc.items(), DETECTOR_LINES, strict=True):
        means = [v.mean for v in values]
        error = [[v.mean - v.low for v in values], [v.high - v.mean for v in values]]
        axis.errorbar(found.strengths, means, error, linestyle=line, linewidth=1.1,
                      color=_color_detector(name), elinewidth=0.5, label=name)  # fmt: skip
    axis.axhline(0.5, color=INK, linewidth=0.5)
    axis.set_xscale("log")
    axis.set_xticks(found.strengths, [f"{s:g}" for s in found.strengths])
    axis.minorticks_off()
    axis.set_xlabel("planted part of the low band's energy")
    axis.set_ylabel("area under the ROC")


def draw_roc(axis, result: Similarity) -> None:
    found = result.detection
    for (name, curve), line in zip(found.curves.items(), DETECTOR_LINES, strict=True):
        axis.plot(*curve, linestyle=line, color=_color_detector(name), linewidth=1.1)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.5)
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    axis.set_title(f"at {found.shown:.0%} of the low band")


def _color_detector(name: str) -> str:
    for band in ("raw", "low + DC", "high"):
        if name.startswith(band):
            return BAND_COLORS[{"low + DC": "low+dc"}.get(band, band)]
    return {"low cosine": "#0072B2", "low CKA": "#CC79A7"}.get(
        name, "#882255" if "CKA" in name else "#44AA99"
    )


def _name(pair: str) -> str:
    return pair.replace("-", " – ")


def plates(result: Similarity, venue: str = "aaai") -> dict[str, Plate]:
    columns = len(result.pairs)
    shape = {"wide": columns > 1, "columns": columns}
    found = {
        "cosine": _draw_measures(result, venue, ("cosine",), 2.7),
        "measures": _draw_measures(result, venue, MEASURES[1:], 5.2),
    }

    def curves(axes) -> None:
        for column, pair in enumerate(result.pairs):
            draw_curve(axes[0, column], result, pair)
            draw_cka_curve(axes[1, column], result, pair)
        axes[0, 0].set_ylabel("row cosine, DC kept")
        axes[1, 0].set_ylabel("debiased CKA, no DC")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=2)

    found["curve"] = Plate.draw(curves, venue, height=3.9, rows=2, sharex=True, **shape)
    if any(len(result.nodes(pair)) > 1 for pair in result.pairs):
        found["layers"] = _draw_layers(result, venue, shape)
    if result.detection:

        def roc(axes) -> None:
            draw_auc(axes[0, 0], result)
            draw_roc(axes[0, 1], result)
            handles, labels = axes[0, 0].get_legend_handles_labels()
            axes[0, 0].figure.legend(handles, labels, loc="outside right center")

        found["roc"] = Plate.draw(roc, venue, height=2.3, wide=True, columns=2)
    return found


def _draw_measures(
    result: Similarity, venue: str, measures: tuple[str, ...], height: float
) -> Plate:
    def paint(axes) -> None:
        for row, measure in zip(axes, measures, strict=True):
            for axis, pair in zip(row, result.pairs, strict=True):
                draw_measure(axis, result, measure, pair)
            row[0].set_ylabel(LABELS[measure])
        for axis, pair in zip(axes[0], result.pairs, strict=True):
            axis.set_title(_name(pair))
        drawn = {name for row in result.rows if row.node == FEATURE for name in row.nulls}
        handles = [axes[0, 0].plot([], [], ".-", color=INK, label="measured: seeds, mean")[0]]
        if "cosine" in measures:
            cross = axes[0, 0].plot([], [], "x", color=CLOSED, label="closed form, mean alone")
            handles += cross
        if any(len(row.shared_start) for row in result.rows):
            handles += axes[0, 0].plot(
                [], [], "^", mfc="none", mec=INK, label="one initialisation for both"
            )
        handles += [Patch(color=c, label=words) for n, (c, words) in NULLS.items() if n in drawn]
        columns = 4 if len(result.pairs) > 1 else 2
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=columns)

    columns = len(result.pairs)
    extra = 0.0 if columns > 1 else 0.5
    return Plate.draw(paint, venue, height=height + extra, wide=columns > 1, rows=len(measures),
                      columns=columns, sharey="row", sharex=True)  # fmt: skip


def _draw_layers(result: Similarity, venue: str, shape: dict) -> Plate:
    measures = ("cosine", "cka_debiased", "neighbours")

    def paint(axes) -> None:
        for column, pair in enumerate(result.pairs):
            for axis, measure in zip(axes[:, column], measures, strict=True):
                draw_layers(axis, result, measure, pair)
            axes[0, column].set_title(_name(pair))
        for axis, measure in zip(axes[:, 0], measures, strict=True):
            axis.set_ylabel(LABELS[measure])
        handles, labels = axes[-1, 0].get_legend_handles_labels()
        handles += axes[-1, 0].plot([], [], ":", color=INK)
        labels.append("pairs shuffled")
        axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=4)

    return Plate.draw(paint, venue, height=4.6, rows=3, sharey="row", sharex="col", **shape)


def tables(result: Similarity) -> dict[str, Table]:
    about = (
        f"on {result.dataset} (preset {result.preset}), n = {result.n} test samples, "
        f"D = {result.dim}, basis {result.basis}, cut-off {result.cutoff:g}"
    )
    rows = [row for row in result.rows if row.node == FEATURE]
    found = {
        "table1": Table(
            pd.DataFrame([_describe(row) for row in rows]).fillna(""),
            f"Similarity of two modalities' pooled features {about}. Value: mean with its 95 % "
            f"interval over seeds; then over samples. Each control: mean of its draws and Holm's p "
            f"over the pairs and bands of one measure (no p where the control cannot change the "
            f"measure). The paper reports cosines of {describe_published()}, its low band with the "
            f"DC.",
        ),
        "departures": Table(
            pd.DataFrame(
                {
                    "pair": pair,
                    "largest departure": f"{curve.departure:.3f}",
                    "at cut-off": f"{curve.where:.2f}",
                    "p": f"{curve.p:.3f}",
                }
                for pair, curve in result.curves.items()
            ),
            f"How far the low band's cosine leaves the closed form, over every cut-off, {about}. "
            f"p: against random orders of the channels of both sides.",
        ),
    }
    inner = [row for row in result.rows if row.node != FEATURE]
    if inner:
        found["layers"] = Table(
            pd.DataFrame([{"node": row.node} | _describe(row) for row in inner]).fillna(""),
            f"The same at earlier layers, averaged over positions, {about}; intervals over seeds.",
        )
    if result.detection:
        found["detection"] = _tabulate_detection(result)
    return found


def _describe(row) -> dict[str, str]:
    cells = {
        "pair": row.pair,
        "measure": LABELS[row.measure],
        "band": BAND_NAMES[row.band],
        "value": row.seeds.format(3),
        "over samples": row.samples.format(3),
    }
    if np.isfinite(row.predicted) and row.band != "raw":
        cells["closed form"] = f"{row.predicted:.3f}"
    for name, null in row.nulls.items():
        p = f" (p {null.holm:.3f})" if np.isfinite(null.holm) else ""
        cells[NULLS[name][1]] = f"{null.level.mean:.3f}{p}"
    if len(row.shared_start):
        cells["one initialisation"] = row.shared.format(3)
    return cells


def _tabulate_detection(result: Similarity) -> Table:
    found = result.detection
    rows = [
        {"detector": name}
        | {
            f"{strength:g}": value.format(2)
            for strength, value in zip(found.strengths, values, strict=True)
        }
        for name, values in found.auc.items()
    ]
    caption = (
        f"Area under the ROC of each measure as a detector of a shared low band, by the planted "
        f"part of that band's energy: {found.draws} planted pairs with and {found.draws} without, "
        f"{found.events} events, D = {found.dim}; every pair has a common mean of its own. 0.5 is "
        f"chance; the high band holds nothing and has to stay there."
    )
    return Table(pd.DataFrame(rows), caption)

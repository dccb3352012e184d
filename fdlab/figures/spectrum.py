"""Drawings of `studies.spectrum`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import BAND_COLORS, INK, NULLS, plain
from fdlab.spectral.divergence import HIGH, LOW, METRICS
from fdlab.studies.map_pairs import BANDS, EVENT, PAIR, SCENE
from fdlab.studies.spectrum import (
    CKA,
    CURVED,
    DIGITS,
    METRIC_NAMES,
    MMD,
    NOISE,
    ONE,
    OTHER,
    OWN,
    RAW,
    SLOPES,
    STANDARDISED,
    UNTRAINED,
    VIEW,
    Block,
    Likeness,
    Row,
    Spectrum,
    read_published,
)

SETTINGS = (ONE, OWN)
# Marker and colour of a comparison, the same in every figure; its line where it is drawn as one.
LOOKS = {
    PAIR: ("o", INK),
    EVENT: ("s", NULLS["shuffled"][0]),
    SCENE: ("D", NULLS["in_class"][0]),
    UNTRAINED: ("P", "#999999"),
    VIEW: ("^", "#D55E00"),
    OTHER: ("v", NULLS["reordered"][0]),
    "white": ("*", NULLS["one_side"][0]),
    "pink": ("X", NULLS["random"][0]),
}
LINES = {PAIR: "-", EVENT: "--", UNTRAINED: ":", VIEW: "-."}
CLOSED = "#CC79A7"  # what maps give that share nothing
OWN_COLOR = "#009E73"
NOTHING = {"relative": 2, "cosine": 1}  # where both sides have one energy
BAND_MARKS = {"low": "o", "high": "s"}
MOST_TICKS = 8
LIKENESS_NAMES = {CKA: "debiased CKA", MMD: "MMD²"}


def name_setting(result: Spectrum, networks: str) -> str:
    first = plain(result.sides[0])
    return {ONE: f"{first}'s network sees both", OWN: "own networks"}[networks]


def name_pairing(result: Spectrum, pairing: str, networks: str = "") -> str:
    """Of a legend; without networks for both."""
    first = plain(result.sides[0])
    again = {ONE: "with noise", OWN: "other seed"}
    looks = again.get(networks, " / ".join(again.values()))
    return {
        PAIR: "true pairs",
        EVENT: "another event",
        SCENE: "another event, same scene",
        UNTRAINED: "untrained networks",
        VIEW: f"{first} itself: {looks}",
        OTHER: f"{first} of another event",
        "white": "white noise",
        "pink": "1/f noise",
    }[pairing]


def draw_blocks(axis, result: Spectrum, networks: str, metric: str) -> None:
    """Both bands' divergence block by block: true pairs with intervals, and two controls."""
    places = np.arange(len(result.blocks))
    for pairing in (PAIR, EVENT, UNTRAINED):
        rows = [result.find(networks, pairing, metric, block.name) for block in result.blocks]
        for band in BANDS:
            found = [getattr(row, band) for row in rows]
            style = {"color": BAND_COLORS[band], "linestyle": LINES[pairing], "linewidth": 1.0}
            axis.plot(places, [value.mean for value in found], **style)
            if pairing == PAIR:
                _draw_intervals(axis, places, found, BAND_COLORS[band], BAND_MARKS[band])
    _mark_nothing(axis, metric)
    label_blocks(axis, result.blocks)


def _draw_intervals(axis, places, found: list[Estimate], color: str, mark: str) -> None:
    means = np.array([value.mean for value in found])
    error = [[m - v.low for m, v in zip(means, found, strict=True)],
             [v.high - m for m, v in zip(means, found, strict=True)]]  # fmt: skip
    axis.errorbar(places, means, error, fmt=mark, color=color, markersize=2.8, linewidth=0.8)


def _mark_nothing(axis, metric: str) -> None:
    if metric in NOTHING:
        axis.axhline(NOTHING[metric], color=CLOSED, linewidth=0.9, zorder=1.5)


def _scale_axis(axis, result: Spectrum, metric: str) -> None:
    """From 0; a log axis where the smallest would be lost on it."""
    drawn = [r for r in result.rows if r.metric == metric and r.pairing in (PAIR, EVENT, UNTRAINED)]
    values = [getattr(row, band).mean for row in drawn for band in BANDS]
    if max(values) > 10 * min(values) > 0:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def label_blocks(axis, blocks: list[Block]) -> None:
    """A tick for each block, or for every second one and so on where there are many."""
    step = math.ceil(len(blocks) / MOST_TICKS)
    places = range(0, len(blocks), step)
    names = [blocks[i].name.removeprefix("block") for i in places]
    numbered = all(name.isdigit() for name in names)
    turned = {} if numbered else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(places, [plain(name) for name in names], **turned)
    axis.set_xlim(-0.4, len(blocks) - 0.6)


def draw_ratios(axis, result: Spectrum, networks: str) -> None:
    """High over low for each metric, mean of the blocks: true pairs, every control, noise."""
    names = [*result.pairings(networks), *SLOPES]
    step = 0.86 / (len(names) - 1)
    for place, metric in enumerate(METRICS):
        for slot, pairing in enumerate(names):
            row = result.find(NOISE if pairing in SLOPES else networks, pairing, metric)
            marker, color = LOOKS[pairing]
            height = place - 0.43 + step * slot
            axis.plot([row.ratio.low, row.ratio.high], [height] * 2, color=color, linewidth=1.1)
            axis.plot(row.ratio.mean, height, marker, color=color, markersize=3.6, mew=0)
            if pairing == PAIR:
                axis.plot(row.independent, height, "|", color=CLOSED, markersize=7, mew=1.4)
        if place:
            axis.axhline(place - 0.5, color="#cccccc", linewidth=0.5)
    axis.axvline(1, color=INK, linewidth=0.7)
    axis.axvline(read_published(), color=INK, linewidth=0.8, linestyle=":")
    axis.set_xscale("log")
    axis.set_yticks(range(len(METRICS)), [METRIC_NAMES[m] for m in METRICS])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(METRICS) - 0.45, -0.55)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.set_title(name_setting(result, networks))
    axis.set_xlabel("high over low")


def draw_curve(axis, result: Spectrum, metric: str, block: str) -> None:
    """One metric over the radius: in one network true pairs, mismatched ones and another look at
    the first modality; true pairs in own networks. The two bands are grey. Radius 0 is left out
    where the maps' mean over positions was taken away: of the little that is left no error can be
    relative."""
    first = int(result.maps == STANDARDISED)
    for pairing in (VIEW, EVENT, PAIR):
        curve = result.find_curve(ONE, pairing, metric, block)
        radii, span, color = curve.radii[first:], curve.span[:, first:], LOOKS[pairing][1]
        axis.fill_between(radii, *span, color=color, alpha=0.22, linewidth=0)
        axis.plot(radii, curve.means[first:], LINES[pairing], color=color, linewidth=1.1)
    own = result.find_curve(OWN, PAIR, metric, block)
    axis.plot(own.radii[first:], own.means[first:], ":", color=OWN_COLOR, linewidth=1.3)
    _mark_nothing(axis, metric)
    last = own.radii[-1]
    for start, end in ((0, LOW), (HIGH, last)):
        axis.axvspan(start, end, color="#888888", alpha=0.13, linewidth=0)
    axis.set_xlim(0, last)
    axis.set_xticks(np.arange(0, last + 0.01, 0.25))
    if metric == "per_bin" or (metric == "relative" and result.maps == RAW):
        axis.set_yscale("log")
    if metric == CURVED[0]:
        axis.margins(y=0.16)  # room for the bands' names


def draw_likeness(axis, result: Spectrum, measure: str, networks: str) -> None:
    """One dot a seed, the mean as a line, the null's range; broken: untrained networks."""
    places = np.arange(len(result.blocks))
    for band, shift in zip(BANDS, (-0.08, 0.08), strict=True):
        found = result.collect(measure, networks, band)
        color = BAND_COLORS[band]
        spans = np.array([[x.null.low, x.null.high] for x in found]).T
        axis.fill_between(places, *spans, color=color, alpha=0.25, linewidth=0)
        axis.plot(places, [x.values.mean() for x in found], "-", color=color, linewidth=1)
        for seed in range(len(found[0].values)):
            values = [x.values[seed] for x in found]
            axis.plot(places + shift, values, BAND_MARKS[band], color=color, markersize=2.4)
        for control in (UNTRAINED, VIEW):
            if control in found[0].controls:
                values = [x.controls[control] for x in found]
                axis.plot(places, values, LINES[control], color=color, linewidth=0.9)
    axis.axhline(0, color=INK, linewidth=0.5)
    label_blocks(axis, result.blocks)


def plates(result: Spectrum, venue: str = "aaai") -> dict[str, Plate]:
    return {
        "blocks": _draw_blocks(result, venue),
        "ratio": _draw_ratios(result, venue),
        "curve": _draw_curves(result, venue),
        "likeness": _draw_likeness(result, venue),
    }


def _line(label: str, color: str = INK, style: str = "-", mark: str = "") -> Line2D:
    return Line2D([], [], color=color, linestyle=style, marker=mark, markersize=3.6, linewidth=1.0,
                  label=label)  # fmt: skip


def _draw_blocks(result: Spectrum, venue: str) -> Plate:
    shown = ("mse", "relative", "cosine")

    def paint(axes) -> None:
        for row, metric in zip(axes, shown, strict=True):
            for axis, networks in zip(row, SETTINGS, strict=True):
                draw_blocks(axis, result, networks, metric)
            row[0].set_ylabel(METRIC_NAMES[metric])
            _scale_axis(row[0], result, metric)  # of both, once all is drawn
        for axis, networks in zip(axes[0], SETTINGS, strict=True):
            axis.set_title(name_setting(result, networks))
        for axis in axes[-1]:
            axis.set_xlabel("block")
        handles = [_line(f"{band} band", BAND_COLORS[band], "-", BAND_MARKS[band])
                   for band in BANDS]  # fmt: skip
        handles += [
            _line(name_pairing(result, p), style=LINES[p]) for p in (PAIR, EVENT, UNTRAINED)
        ]
        handles.append(_line("nothing shared, equal energies", CLOSED))
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=3)

    return Plate.draw(paint, venue, height=4.3, rows=3, columns=2, sharex=True, sharey="row")


def _draw_ratios(result: Spectrum, venue: str) -> Plate:
    def paint(axes) -> None:
        for axis, networks in zip(axes[0], SETTINGS, strict=True):
            draw_ratios(axis, result, networks)
        handles = [
            _line(name_pairing(result, name), LOOKS[name][1], "-", LOOKS[name][0])
            for name in (*result.pairings(ONE), *SLOPES)
        ]
        handles.append(_line("nothing shared, these energies", CLOSED, "", "|"))
        handles[-1].set(markersize=7, markeredgewidth=1.4)
        handles.append(_line(f"published, {read_published():g}", INK, ":"))
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=2)

    return Plate.draw(paint, venue, height=4.6, columns=2, sharey=True)


def _draw_curves(result: Spectrum, venue: str) -> Plate:
    count = len(result.blocks)
    shown = [result.blocks[i] for i in sorted({0, (count - 1) // 2, count - 1})]

    def paint(axes) -> None:
        for row, metric in zip(axes, CURVED, strict=True):
            for axis, block in zip(row, shown, strict=True):
                draw_curve(axis, result, metric, block.name)
            row[0].set_ylabel(METRIC_NAMES[metric])
        for axis, block in zip(axes[0], shown, strict=True):
            size = "×".join(map(str, block.shape))
            axis.set_title(f"{plain(block.name)}, {size}")
            top = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": 7}
            axis.annotate("low", (0.02, 0.98), **top)
            axis.annotate("high", (HIGH + 0.02, 0.98), **top)
        for axis in axes[-1]:
            axis.set_xlabel("radius (of half the shorter side)")
        handles = [_line(f"{name_pairing(result, p, ONE)}", LOOKS[p][1], LINES[p])
                   for p in (PAIR, EVENT, VIEW)]  # fmt: skip
        handles.append(_line("true pairs, own networks", OWN_COLOR, ":"))
        handles.append(_line("nothing shared, equal energies", CLOSED))
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=3)

    return Plate.draw(paint, venue, height=4.2, wide=True, rows=3, columns=len(shown),
                      sharex="col", sharey="row")  # fmt: skip


def _draw_likeness(result: Spectrum, venue: str) -> Plate:
    def paint(axes) -> None:
        for row, measure in zip(axes, (CKA, MMD), strict=True):
            for axis, networks in zip(row, SETTINGS, strict=True):
                draw_likeness(axis, result, measure, networks)
            row[0].set_ylabel(LIKENESS_NAMES[measure])
        for axis, networks in zip(axes[0], SETTINGS, strict=True):
            axis.set_title(name_setting(result, networks))
        for axis in axes[-1]:
            axis.set_xlabel("block")
        handles = [_line(f"{band} band: seeds, mean", BAND_COLORS[band], "-", BAND_MARKS[band])
                   for band in BANDS]  # fmt: skip
        handles.append(Patch(color="#bbbbbb", label="95 % of the null"))
        handles.append(_line(name_pairing(result, UNTRAINED), style=LINES[UNTRAINED]))
        if any(VIEW in x.controls for x in result.likeness):
            handles.append(_line(name_pairing(result, VIEW), style=LINES[VIEW]))
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=2)

    return Plate.draw(paint, venue, height=3.6, rows=2, columns=2, sharex=True)


def tables(result: Spectrum) -> dict[str, Table]:
    count = len(result.seeds)
    where = (
        f"{' and '.join(result.sides)} on {result.dataset} (preset {result.preset}), "
        f"{result.network}, maps {result.maps}, n = {result.n} test pairs, "
        f"{count} seed{'s' * (count != 1)}"
    )
    bands = (
        f"Low: radius up to {LOW:g} of half the shorter side, the mean over positions included; "
        f"high: from {HIGH:g}, the corners included. MSE: over the whole map, as released; per "
        f"bin: over the band's own, without that mean."
    )
    spans = "95 % intervals over seeds and pairs (hierarchical bootstrap)."
    return {
        "ratio": Table(
            pd.DataFrame([_describe_ratio(result, row) for row in _order(result)]).fillna(""),
            f"Divergence of {where}, mean of the blocks, {spans} {bands} Nothing shared: the "
            f"ratio of independent maps with these energies. Excess: ratio of true pairs minus "
            f"this one. With noise: standard deviation {result.noise:g} of the inputs'. "
            f"{result.untrained} untrained networks. Published: {read_published():g}, the metric "
            f"is not said.",
        ),
        "blocks": Table(
            pd.DataFrame(
                [
                    _describe_block(result, networks, block, metric)
                    for networks in SETTINGS
                    for block in result.blocks
                    for metric in METRICS
                ]
            ).fillna(""),
            f"Divergence of {where}, block by block, {spans} {bands} Last columns: ratios of the "
            f"controls.",
        ),
        "likeness": Table(
            pd.DataFrame([_describe_likeness(result, x) for x in result.likeness]).fillna(""),
            f"What both sides share in each band: {where}. CKA: linear, debiased, an event's band "
            f"as one row; null: pairs shuffled. MMD²: unbiased, RBF with the median distance, of "
            f"each channel's root energy in the band; null: the two sides of each pair swapped. "
            f"Mean over seeds with the 95 % range of the null; Holm's p over the bands, of single "
            f"blocks over bands and blocks.",
        ),
    }


def _order(result: Spectrum) -> list[Row]:
    """The mean of the blocks, metric by metric."""
    return [
        result.find(networks, pairing, metric)
        for metric in METRICS
        for networks in (*SETTINGS, NOISE)
        for pairing in result.pairings(networks)
    ]


def _describe_ratio(result: Spectrum, row: Row) -> dict[str, str]:
    digits = DIGITS[row.metric]
    cells = {
        "metric": METRIC_NAMES[row.metric],
        "networks": {ONE: f"{result.sides[0]}'s", OWN: "own", NOISE: "none"}[row.networks],
        "pairs": name_pairing(result, row.pairing, row.networks),
        "low": _print(row.low.mean),
        "high": _print(row.high.mean),
        "high / low": row.ratio.format(digits),
        "nothing shared": f"{row.independent:.{digits}f}",
    }
    true = result.find(row.networks, PAIR, row.metric)
    if true and row.pairing in true.excess:
        cells["excess"] = true.excess[row.pairing].format(digits, sign=True)
    return cells


def _describe_block(result: Spectrum, networks: str, block: Block, metric: str) -> dict[str, str]:
    row, digits = result.find(networks, PAIR, metric, block.name), DIGITS[metric]
    cells = {
        "networks": f"{result.sides[0]}'s" if networks == ONE else "own",
        "block": block.name,
        "map": "×".join(map(str, block.shape)),
        "bins": f"{block.bins[0]}, {block.bins[1]}",
        "metric": METRIC_NAMES[metric],
        "low": _print(row.low.mean),
        "high": _print(row.high.mean),
        "high / low": row.ratio.format(digits),
        "nothing shared": f"{row.independent:.{digits}f}",
    }
    for pairing in (EVENT, UNTRAINED, VIEW):
        other = result.find(networks, pairing, metric, block.name)
        if other:
            cells[name_pairing(result, pairing)] = f"{other.ratio.mean:.{digits}f}"
    return cells


def _describe_likeness(result: Spectrum, found: Likeness) -> dict[str, str]:
    cells = {
        "measure": LIKENESS_NAMES[found.measure],
        "networks": f"{result.sides[0]}'s" if found.networks == ONE else "own",
        "block": found.block,
        "band": found.band,
        "value": f"{found.values.mean():.3f}",
        "null": found.null.format(3),
        "Holm p": f"{found.holm:.3f}",
    }
    if found.scene:
        cells["shuffled within scene"] = found.scene.format(3)
    cells["untrained"] = f"{found.controls[UNTRAINED]:.3f}"
    if VIEW in found.controls:
        cells[name_pairing(result, VIEW)] = f"{found.controls[VIEW]:.3f}"
    return cells


def _print(value: float) -> str:
    """Three digits, whatever the size."""
    return f"{value:.3g}"

"""Drawings of `studies.scale`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, color_modality
from fdlab.reference import read_table
from fdlab.studies.scale import STEPS, Scale

QUANTITIES = {"mean": "mean", "deviation": "std. deviation", "dc_share": "DC share of energy"}
UNITS = {"mean": "activation", "deviation": "activation", "dc_share": "fraction"}
STEP_NAMES = {
    "raw": "raw",
    "standardised": "standardised",
    "bands": "bands standardised",
}
STEP_NOTES = (
    "Standardised: each sample over its L2 norm (mean square 1/D). Bands standardised: as FD-CMKD "
    "trains, the low and the high band without the DC, each over its own norm, summed (mean square "
    "2/D, mean 0)."
)
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), "-.")
MARKERS = ("o", "s", "^", "D")
SAMPLES = "#0072B2"  # intervals over the samples; those over seeds are INK


def draw_profile(axis, result: Scale, step: str, ordered: bool) -> None:
    """Mean of each channel over the test samples: the first seed in channel order, or every
    seed's sorted means as their average and their range."""
    for place, modality in enumerate(result.modalities):
        color = color_modality(modality)
        style = {"color": color, "linestyle": LINES[place % 4], "label": modality}
        if ordered:
            values = result.sort_profile(modality, step)
            channels = np.arange(values.shape[1])
            span = (values.min(axis=0), values.max(axis=0))
            axis.fill_between(channels, *span, color=color, alpha=0.22, linewidth=0)
            axis.plot(values.mean(axis=0), linewidth=1.1, **style)
        else:
            axis.plot(result.find(modality, step=step).profile[0], linewidth=0.7, **style)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xlim(0, max(result.find(m).dim for m in result.modalities) - 1)


def draw_quantity(axis, result: Scale, quantity: str) -> None:
    """One bar per modality with its intervals over seeds and over samples; each seed is a dot."""
    for place, modality in enumerate(result.modalities):
        found = result.estimate(quantity, modality)
        axis.bar(place, found.mean, 0.7, color=color_modality(modality), alpha=0.6)
        _draw_interval(axis, place, found, color=INK)
        over_samples = result.find(modality).over_samples[quantity]
        _draw_interval(axis, place - 0.2, over_samples, color=SAMPLES)
        seeds = result.find(modality).values[quantity]
        axis.plot(np.full(len(seeds), place + 0.2), seeds, ".", color=INK, markersize=3)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xticks(range(len(result.modalities)), result.modalities)
    axis.set_title(QUANTITIES[quantity])
    axis.set_ylabel(UNITS[quantity])


def _draw_interval(axis, place: float, found: Estimate, color: str, **style) -> None:
    if found.known:
        error = [[found.mean - found.low], [found.high - found.mean]]
        axis.errorbar(place, found.mean, error, color=color, linewidth=0.9, **style)


def draw_layers(axis, result: Scale, quantity: str, step: str) -> None:
    """A quantity from the input to the feature, with intervals over seeds where there are several.

    Networks of different depth end together, at the feature. Standardised values are times √D,
    since the layers differ in width.
    """
    depth = max(len(result.nodes(m)) for m in result.modalities)
    wide = step == "standardised" and quantity != "dc_share"
    for order, modality in enumerate(result.modalities):
        nodes = result.nodes(modality)
        found = [
            result.estimate_by_width(quantity, modality, node)
            if wide
            else result.estimate(quantity, modality, node, step)
            for node in nodes
        ]
        # Side by side, so that no interval hides another.
        shift = 0.12 * (order - (len(result.modalities) - 1) / 2)
        places = np.arange(depth - len(nodes), depth) + shift
        style = {"color": color_modality(modality), "linestyle": LINES[order % 4]}
        axis.plot(places, [f.mean for f in found], marker=MARKERS[order % 4], markersize=3.5,
                  linewidth=1.0, label=modality, **style)  # fmt: skip
        for place, value in zip(places, found, strict=True):
            _draw_interval(axis, place, value, color=color_modality(modality))
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xticks(range(depth), _name_layers(result, depth))
    axis.set_xlim(-0.4, depth - 0.6)
    factor = r" $\times\ \sqrt{D}$" if wide else ""
    axis.set_title(QUANTITIES[quantity] + factor)
    if quantity == "dc_share":
        axis.set_ylim(0, 1)


def _name_layers(result: Scale, depth: int) -> list[str]:
    """Per place the layers' names: the deepest network's, and below it others with their owners."""
    owners: list[dict[str, list[str]]] = [{} for _ in range(depth)]
    for modality in sorted(result.modalities, key=lambda m: -len(result.nodes(m))):
        nodes = result.nodes(modality)
        for place, node in enumerate(nodes, start=depth - len(nodes)):
            owners[place].setdefault(node, []).append(modality)
    labels = [
        [
            name if index == 0 else f"({', '.join(who)}:\n{name})"
            for index, (name, who) in enumerate(names.items())
        ]
        for names in owners
    ]
    return _level(["\n".join(lines) for lines in labels])


def _level(labels: list[str]) -> list[str]:
    """Labels of equally many lines, so that their first lines stand level."""
    most = max(label.count("\n") for label in labels)
    return [label + "\n" * (most - label.count("\n")) for label in labels]


def draw_control(axis, result: Scale, quantity: str, step: str) -> None:
    """Differences of two seeds of one modality beside those of two modalities."""
    inside = [(m, m) for m in result.modalities]
    for place, (one, two) in enumerate(inside + result.pairs):
        gaps = result.list_gaps(quantity, one, two, step)
        color = color_modality(one) if one == two else INK
        shifts = np.linspace(-0.2, 0.2, len(gaps)) if len(gaps) > 1 else np.zeros(len(gaps))
        mark = MARKERS[result.modalities.index(one) % 4] if one == two else "x"
        axis.plot(place + shifts, gaps, mark, color=color, markersize=3, mew=0.8)
        if len(gaps):
            axis.plot([place - 0.36, place + 0.36], [gaps.mean()] * 2, color=color, linewidth=1.2)
    axis.axvline(len(inside) - 0.5, color=INK, linewidth=0.5, linestyle=":")
    names = _level(result.modalities + [f"{one}\n{two}" for one, two in result.pairs])
    axis.set_xticks(range(len(names)), names, fontsize=6)
    half = len(inside)
    for first, last, words in ((0, half, "two seeds of one"), (half, len(names), "two modalities")):
        axis.annotate(
            words,
            ((first + last - 1) / 2, 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -30),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axis.set_xlim(-0.6, len(names) - 0.4)
    # Rounding alone would otherwise fill the panel where two data sets of features agree.
    axis.set_ylim(0, max(axis.get_ylim()[1], 0.001))
    if len(result.seeds) == 1:
        place = ((half - 1) / 2, 0.5)
        axis.annotate("one seed:\nno control", place, xycoords=("data", "axes fraction"),
                      ha="center", va="center", fontsize=7)  # fmt: skip
    axis.set_title(QUANTITIES[quantity] + (", standardised" if step == "standardised" else ""))


def plates(result: Scale, venue: str = "aaai") -> dict[str, Plate]:
    count = len(result.seeds)
    seeds = f"{count} seed{'s' if count > 1 else ''}"

    def profiles(axes) -> None:
        for row, step in zip(axes, STEPS, strict=True):
            for axis, ordered in zip(row, (False, True), strict=True):
                draw_profile(axis, result, step, ordered)
            row[0].set_ylabel(f"{STEP_NAMES[step]}:\nmean over samples")
        axes[0, 0].set_title(f"channel order (seed {result.seeds[0]})")
        many = f": mean and range over {seeds}" if count > 1 else ""
        axes[0, 1].set_title(f"sorted{many}")
        axes[-1, 0].set_xlabel("channel")
        axes[-1, 1].set_xlabel("rank of the channel's mean")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))

    def bars(axes) -> None:
        for axis, quantity in zip(axes[0], QUANTITIES, strict=True):
            draw_quantity(axis, result, quantity)
        axis = axes[0, 0]
        handles = [axis.plot([], [], ".", color=INK, markersize=3, label="one seed")[0]]
        if count > 1:
            handles.append(axis.plot([], [], color=INK, label=f"95 %, {seeds}")[0])
        label = f"95 %, n = {result.n} samples"
        handles.append(axis.plot([], [], color=SAMPLES, label=label)[0])
        axis.figure.legend(handles=handles, loc="outside lower center", ncols=3)

    def layers(axes) -> None:
        for row, step in zip(axes, ("raw", "standardised"), strict=True):
            for axis, quantity in zip(row, ("mean", "deviation"), strict=False):
                draw_layers(axis, result, quantity, step)
            row[0].set_ylabel(f"{step} (activation)" if step == "raw" else step)
        for axis in axes[0, :2]:
            axis.tick_params(labelbottom=False)
        # A factor per sample leaves the DC share as it is: one panel says both.
        draw_layers(axes[1, 2], result, "dc_share", "raw")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        interval = f"95 % intervals over {seeds}," if count > 1 else f"{seeds}, no interval,"
        note = f"{interval}\nn = {result.n} samples.\nDC share: raw and\nstandardised are equal."
        axes[0, 2].axis("off")
        axes[0, 2].legend(
            handles,
            labels,
            loc="center",
            title=note,
            title_fontsize=7,
        )

    def control(axes) -> None:
        shown = (("mean", "raw"), ("deviation", "raw"), ("mean", "standardised"))
        for axis, (quantity, step) in zip(axes[0], shown, strict=True):
            draw_control(axis, result, quantity, step)
        axes[0, 0].set_ylabel("|difference| (activation)")

    return {
        "profile": Plate.draw(
            profiles, venue, height=4.6, wide=True, rows=3, columns=2, sharey="row", sharex=True
        ),
        "bars": Plate.draw(bars, venue, height=1.9, wide=True, columns=3),
        "layers": Plate.draw(layers, venue, height=3.3, wide=True, rows=2, columns=3),
        "control": Plate.draw(control, venue, height=2.0, wide=True, columns=3),
    }


def tables(result: Scale) -> dict[str, Table]:
    many = len(result.seeds) > 1
    seeds = f"{len(result.seeds)} seed{'s' if many else ''}"
    where = f"on {result.dataset} (preset {result.preset}), n = {result.n} samples, {seeds}"
    share = "DC share: part of a sample's energy that is its mean over channels."
    over = "over seeds" if many else "over the samples, there being one seed"
    published = ", ".join(
        f"{row['quantity']} {row['cremad']}" for row in read_table("fdcmkd_figure1_scale")
    )
    summary = (
        f"Scale of pooled pre-ReLU test features {where}, 95 % intervals {over}, differences "
        f"paired. Seed gap: the widest difference of two seeds of one modality. {share} The paper "
        f"reports audio - visual on CREMA-D: {published}."
    )
    notes = f"D: channels. Differences are of the feature. {STEP_NOTES} {share}"
    layers = (
        f"Scale of every pooled layer's test features {where}, 95 % intervals over seeds, "
        f"differences paired by seed. {notes}"
    )
    samples = (
        f"Scale of every pooled layer's test features {where}, mean over the seeds with 95 % "
        f"intervals over the samples: bootstrap of the test samples, the same ones for every "
        f"network, which is held fixed. {notes}"
    )
    return {
        "summary": Table(_list_features(result, many), summary),
        "layers": Table(_list_layers(result, over_seeds=True), layers),
        "samples": Table(_list_layers(result, over_seeds=False), samples),
    }


def _list_features(result: Scale, over_seeds: bool) -> pd.DataFrame:
    rows = []
    for one, two in [(m, m) for m in result.modalities] + result.pairs:
        row = {"modality": one if one == two else f"{one} - {two}"}
        for quantity, name in QUANTITIES.items():
            found = _find(result, quantity, one, two, "feature", "raw", over_seeds)
            gap = result.find_seed_gap(quantity, one, two)
            row[name] = found.format(3, sign=one != two)
            row[f"seed gap, {name}"] = f"{gap:.3f}" if np.isfinite(gap) else "one seed"
        rows.append(row)
    return pd.DataFrame(rows)


def _list_layers(result: Scale, over_seeds: bool) -> pd.DataFrame:
    places = [(x.modality, x.modality, x.node, x.step) for x in result.layers]
    places += [(*pair, "feature", step) for pair in result.pairs for step in STEPS]
    rows = []
    for one, two, node, step in places:
        row = {
            "modality": one if one == two else f"{one} - {two}",
            "layer": node,
            "D": str(result.find(one, node).dim),
            "step": STEP_NAMES[step],
        }
        for quantity, name in QUANTITIES.items():
            found = _find(result, quantity, one, two, node, step, over_seeds)
            digits = 3 if step == "raw" else 4
            row[name] = _drop_sign_of_zero(found.format(digits, sign=one != two), digits)
        rows.append(row)
    return pd.DataFrame(rows)


def _find(
    result: Scale, quantity: str, one: str, two: str, node: str, step: str, over_seeds: bool
) -> Estimate:
    """Of one modality's layer where one and two are the same, else of their features' gap."""
    if one == two:
        if over_seeds:
            return result.estimate(quantity, one, node, step)
        return result.find(one, node, step).over_samples[quantity]
    if over_seeds:
        return result.compare(quantity, one, two, step)
    return result.gaps[step][f"{one}-{two}"][quantity]


def _drop_sign_of_zero(text: str, digits: int) -> str:
    """The bands' mean is 0 but for rounding, whose sign says nothing."""
    zero = f"{0:.{digits}f}"
    return text.replace(f"-{zero}", zero).replace(f"+{zero}", zero)

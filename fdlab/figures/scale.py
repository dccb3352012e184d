"""Drawings of `studies.scale`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, color_modality
from fdlab.reference import read_table
from fdlab.studies.scale import Scale

QUANTITIES = {"mean": "mean", "deviation": "std. deviation", "dc_share": "DC share of energy"}


def draw_profile(axis, result: Scale, ordered: bool) -> None:
    """Mean of each channel over the test samples, first seed; sorted or in channel order."""
    for modality in result.modalities:
        values = result.profile[modality][0]
        values = np.sort(values)[::-1] if ordered else values
        axis.plot(values, color=color_modality(modality), label=modality, linewidth=0.9)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xlabel("channel, sorted by mean" if ordered else "channel")
    axis.set_xlim(0, len(values) - 1)


def draw_quantity(axis, result: Scale, quantity: str) -> None:
    """One bar per modality with the interval over seeds and each seed as a dot."""
    for place, modality in enumerate(result.modalities):
        found = result.estimate(quantity, modality)
        axis.bar(place, found.mean, 0.65, color=color_modality(modality), alpha=0.75)
        if found.known:
            error = [[found.mean - found.low], [found.high - found.mean]]
            axis.errorbar(place, found.mean, error, color=INK, linewidth=0.9)
        seeds = getattr(result, quantity)[modality]
        axis.plot(np.full(len(seeds), place + 0.2), seeds, ".", color=INK, markersize=3)
    axis.axhline(0, color=INK, linewidth=0.5)
    axis.set_xticks(range(len(result.modalities)), result.modalities)
    axis.set_title(QUANTITIES[quantity])


def plates(result: Scale, venue: str = "aaai") -> dict[str, Plate]:
    def profiles(axes) -> None:
        for axis, ordered in zip(axes[0], (False, True), strict=True):
            draw_profile(axis, result, ordered)
        axes[0, 0].set_ylabel("mean over samples")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))

    def bars(axes) -> None:
        for axis, quantity in zip(axes[0], QUANTITIES, strict=True):
            draw_quantity(axis, result, quantity)

    return {
        "profile": Plate.draw(profiles, venue, height=2.0, wide=True, columns=2, sharey=True),
        "bars": Plate.draw(bars, venue, height=1.7, wide=True, columns=3),
    }


def tables(result: Scale) -> dict[str, Table]:
    rows = [
        {"modality": modality}
        | {QUANTITIES[q]: result.estimate(q, modality).format(3) for q in QUANTITIES}
        for modality in result.modalities
    ]
    rows += [
        {"modality": f"{a} - {b}"}
        | {QUANTITIES[q]: result.compare(q, a, b).format(3, sign=True) for q in QUANTITIES}
        for a, b in result.pairs
    ]
    published = ", ".join(
        f"{row['quantity']} {row['cremad']}" for row in read_table("fdcmkd_figure1_scale")
    )
    caption = (
        f"Scale of pooled pre-ReLU test features on {result.dataset} (preset {result.preset}), "
        f"n = {result.n} samples, {len(result.seeds)} seeds, 95 % intervals over seeds, "
        f"differences paired by seed. The paper reports audio - visual on CREMA-D: {published}."
    )
    return {"summary": Table(pd.DataFrame(rows), caption)}

"""Drawings of `studies.data`."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd

from fdlab.data.dataset import SPLITS
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import color_modality
from fdlab.studies.data import Overview

SPLIT_COLORS = ("#44AA99", "#DDCC77", "#882255")


def draw_counts(axis, result: Overview) -> None:
    """Events per class and split."""
    places = np.arange(len(result.counts["train"]))
    for i, split in enumerate(SPLITS):
        axis.bar(places + 0.27 * (i - 1), result.counts[split], 0.25, color=SPLIT_COLORS[i],
                 label=split)  # fmt: skip
    axis.set_xticks(places)
    axis.set_xlabel("class")
    axis.set_ylabel("events")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def draw_example(axis, result: Overview, modality: str, index: int) -> None:
    """One event: a map as an image (low frequencies at the bottom), a vector as a line."""
    example = np.asarray(result.examples[modality][index], dtype=float)
    if example.ndim == 3:
        image = modality in ("image", "visual")
        axis.imshow(example[0], cmap="gray" if image else "cividis",
                    origin="upper" if image else "lower", interpolation="nearest")  # fmt: skip
    else:
        axis.plot(example, color=color_modality(modality), linewidth=0.6)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)


def plates(result: Overview, venue: str = "aaai") -> dict[str, Plate]:
    drawn = [m for m in result.examples if m != "text"]

    def pairs(axes) -> None:
        for column, label in enumerate(result.labels):
            for row, modality in enumerate(drawn):
                draw_example(axes[row, column], result, modality, column)
            axes[0, column].set_title(f"class {label}")
            if result.sentences:
                words = textwrap.fill(result.sentences[column], 17)
                axes[-1, column].set_xlabel(words, fontsize=6, linespacing=1.05)
        for row, modality in enumerate(drawn):
            axes[row, 0].set_ylabel(modality)

    height = 0.25 + 0.84 * len(drawn) + (0.55 if result.sentences else 0)
    return {
        "pairs": Plate.draw(pairs, venue, height=height, wide=True, rows=len(drawn),
                            columns=len(result.labels)),
        "counts": Plate.draw(lambda axes: draw_counts(axes[0, 0], result), venue, height=1.7),
    }  # fmt: skip


def tables(result: Overview) -> dict[str, Table]:
    rows = [
        {
            "split": split,
            "events": str(int(result.counts[split].sum())),
            "smallest class": str(int(result.counts[split].min())),
            "largest class": str(int(result.counts[split].max())),
        }
        for split in SPLITS
    ]
    shared = ", ".join(f"{kind} {count}" for kind, count in result.shared.items()) or "no ids"
    caption = f"{result.dataset}. Values that occur in more than one split: {shared}. {result.note}"
    return {"splits": Table(pd.DataFrame(rows), caption)}

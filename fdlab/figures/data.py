"""Drawings of `studies.data`."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd

from fdlab.data.dataset import SPLITS
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import color_classes, color_modality, find_venue, plain
from fdlab.studies.data import Overview

FEW = 12  # classes whose names fit below a column's figure
GAP = 2  # pixels between the pictures of a sheet
SIDE_BY_SIDE = 40  # letters of names that fit there in one line
SPLIT_COLORS = ("#44AA99", "#DDCC77", "#882255")


def draw_counts(axis, result: Overview) -> None:
    """Events per class and split."""
    places = np.arange(len(result.names))
    for i, split in enumerate(SPLITS):
        axis.bar(places + 0.27 * (i - 1), result.counts[split], 0.25, color=SPLIT_COLORS[i],
                 label=split)  # fmt: skip
    if result.families:  # a tick for each, below the middle of its classes
        size = len(places) // len(result.families)
        places = places[::size] + (size - 1) / 2
    names = result.families or result.names
    words = [plain(textwrap.shorten(name, 18, placeholder="…")) for name in names]
    numbered = all(name.isdigit() for name in words)
    axis.set_xticks(places, words)
    if not numbered and sum(len(name) + 2 for name in words) > SIDE_BY_SIDE:
        few = len(words) <= FEW
        for label in axis.get_xticklabels():
            label.set(rotation=30 if few else 90, rotation_mode="anchor", ha="right",
                      va="top" if few else "center", fontsize=7 if few else 6)  # fmt: skip
    if numbered or result.masks.size:
        axis.set_xlabel("kind of scene" if result.masks.size else "class")
    axis.set_ylabel("events")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def title(result: Overview, label: int) -> str:
    """A column's heading: the class, by its name where it has one; of a family in two lines."""
    name = result.names[label]
    if result.families:
        return plain(name.replace(", ", "\n", 1))
    return f"class {name}" if name.isdigit() else plain(textwrap.shorten(name, 14, placeholder="…"))


def shorten(sentence: str) -> str:
    """A sentence below a column: at most four narrow lines."""
    return plain(textwrap.fill(sentence, 17, max_lines=4, placeholder=" …"))


def draw_example(axis, result: Overview, modality: str, index: int) -> None:
    """One event: a picture, a depth map, a spectrogram (low frequencies at the bottom), a vector as
    a line."""
    example = np.asarray(result.examples[modality][index])
    if example.ndim == 3:
        show_map(axis, example)
    else:
        axis.plot(example, color=color_modality(modality), linewidth=0.6)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)


def show_map(axis, example: np.ndarray) -> None:
    """(C, h, w): uint8 in colour or grey, spectrograms (float16) from below, else depth, near is
    dark and 0, no reading, white."""
    if example.dtype == np.uint8 and len(example) == 3:
        axis.imshow(np.moveaxis(example, 0, -1), interpolation="nearest")
    elif example.dtype == np.uint8:
        axis.imshow(example[0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    elif example.dtype == np.float16:
        axis.imshow(example[0].astype(float), cmap="cividis", origin="lower", aspect="auto",
                    interpolation="nearest")  # fmt: skip
    else:
        axis.imshow(np.ma.masked_equal(example[0].astype(float), 0), cmap="cividis",
                    interpolation="nearest")  # fmt: skip


def show_mask(axis, mask: np.ndarray, palette: np.ndarray, under: np.ndarray | None = None) -> None:
    """(h, w) classes in their colours, pixels without one black; laid over the grey of an image
    (C, h, w) where one is given."""
    colours = color_classes(mask, palette)
    if under is not None:
        grey = np.asarray(under, dtype=float).mean(axis=0)
        grey = (grey - grey.min()) / max(np.ptp(grey), 1e-9)
        colours = np.where((mask == 255)[..., None], colours, 0.7 * colours + 0.3 * grey[..., None])
    axis.imshow(colours, interpolation="nearest")


def draw_specimens(axis, result: Overview) -> None:
    """A clean picture of every class: a row for each family, a column for each of its classes."""
    rows = len(result.families)
    columns = len(result.names) // rows
    *_, channels, height, width = result.specimens.shape
    pad = ((0, 0), (0, 0), (0, GAP), (0, GAP))
    tiles = np.pad(result.specimens, pad, constant_values=255).reshape(
        rows, columns, channels, height + GAP, width + GAP
    )
    sheet = tiles.transpose(2, 0, 3, 1, 4).reshape(channels, rows * (height + GAP), -1)
    show_map(axis, sheet[:, :-GAP, :-GAP])
    names = [title(result, label).split("\n")[-1] for label in range(columns)]
    middles = (np.arange(columns) * (width + GAP) + width / 2 - 0.5,
               np.arange(rows) * (height + GAP) + height / 2 - 0.5)  # fmt: skip
    axis.set_xticks(middles[0], [name.replace(" ", "\n") for name in names])
    axis.set_yticks(middles[1], [plain(name) for name in result.families])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    axis.grid(False)


def plates(result: Overview, venue: str = "aaai") -> dict[str, Plate]:
    drawn = [m for m in result.examples if m != "text"]

    def pairs(axes) -> None:
        for column, label in enumerate(result.labels):
            for row, modality in enumerate(drawn):
                draw_example(axes[row, column], result, modality, column)
            axes[0, column].set_title(title(result, int(label)))
            if result.masks.size:
                show_mask(axes[len(drawn), column], result.masks[column], result.palette)
                axes[len(drawn), column].set(xticks=[], yticks=[])
                axes[len(drawn), column].grid(False)
            if result.sentences:
                words = shorten(result.sentences[column])
                axes[-1, column].set_xlabel(words, fontsize=6, linespacing=1.05)
        for row, modality in enumerate(drawn):
            axes[row, 0].set_ylabel(modality)
        if result.masks.size:
            axes[len(drawn), 0].set_ylabel("classes")

    rows = len(drawn) + bool(result.masks.size)
    height = 0.25 + 0.84 * rows + (0.55 if result.sentences else 0) + 0.15 * bool(result.families)
    many = len(result.names) > FEW and not all(name.isdigit() for name in result.names)
    made = {
        "pairs": Plate.draw(pairs, venue, height=height, wide=True, rows=rows,
                            columns=len(result.labels)),
        "counts": Plate.draw(lambda axes: draw_counts(axes[0, 0], result), venue,
                             height=2.4 if many and not result.families else 1.9, wide=many),
    }  # fmt: skip
    if result.specimens.size:
        families = len(result.families)
        square = find_venue(venue).text * families**2 / len(result.names)
        made["classes"] = Plate.draw(lambda axes: draw_specimens(axes[0, 0], result), venue,
                                     height=square, wide=True)  # fmt: skip
    return made


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

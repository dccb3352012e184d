"""Drawings of `studies.embedding`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import color_sequences, patheffects

from fdlab.core.config import Direction
from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import (
    CONTROL,
    INK,
    arrow,
    color_method,
    color_modality,
    mark_method,
    name_method,
)
from fdlab.studies.embedding import NEIGHBOURS, Embedding, Panel, Separation

BY = ("modality", "class")
CLASS_COLORS = color_sequences["petroff10"]  # told apart under the common colour deficiencies
DENSE = 10  # points around a class's number
MIXED = 0.5  # the AUC of a probe that cannot tell the sides apart


def draw_panel(axis, result: Embedding, panel: Panel, by: str, size: float = 4.0) -> None:
    """t-SNE points, teacher as crosses and student as dots, coloured by modality or by class."""
    count = len(result.labels)
    halves = (panel.points[:count], panel.points[count:])
    sides = Direction.split(result.direction)
    for side, points, marker in zip(sides, halves, "xo", strict=True):
        colors = [color_modality(side)] * count
        if by == "class":
            colors = [CLASS_COLORS[label % len(CLASS_COLORS)] for label in result.labels]
        axis.scatter(
            *points.T,
            marker=marker,
            c=colors,
            s=size,
            linewidths=0.1 * size if marker == "x" else 0,
            antialiased=False,  # thousands of soft edges would make the PNG three times as large
        )
    if by == "class":
        for points in halves:
            _name_classes(axis, result.labels, points)
    # One frame for all panels, since the alignment gave them one size.
    wide, high = np.max([np.abs(other.points).max(axis=0) for other in result.panels], axis=0)
    axis.set_xlim(-1.05 * wide, 1.05 * wide)
    axis.set_ylim(-1.05 * high, 1.05 * high)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(True)


def _name_classes(axis, labels: np.ndarray, points: np.ndarray) -> None:
    """The class number where its points are densest: ten colours alone do not tell."""
    for label in np.unique(labels):
        own = points[labels == label]
        gaps = np.sort(np.linalg.norm(own[:, None] - own[None], axis=-1), axis=1)
        x, y = own[gaps[:, min(DENSE, len(own) - 1)].argmin()]
        halo = [patheffects.withStroke(linewidth=1.4, foreground="white")]
        axis.text(x, y, str(label), ha="center", va="center", fontsize=6.5, path_effects=halo)


def describe_panel(result: Embedding, panel: Panel) -> str:
    """The three numbers that stand below a panel."""
    purity, auc = result.at(panel)
    return f"AUC {auc:.2f}, purity {purity:.2f}\ntrustworthiness {panel.trustworthiness:.3f}"


def draw_numbers(
    axis, result: Embedding, read: Callable[[Separation], tuple[Estimate, np.ndarray]]
) -> None:
    """One number per method: mean with its interval over seeds, and each seed as a dot."""
    for place, found in enumerate(result.separations):
        mean, seeds = read(found)
        color = color_method(found.method)
        if mean.known:
            error = [[mean.mean - mean.low], [mean.high - mean.mean]]
            axis.errorbar(mean.mean, place, xerr=error, color=color)
        axis.plot(mean.mean, place, mark_method(found.method), color=color, zorder=3)
        axis.plot(seeds, np.full(len(seeds), place + 0.28), ".", color=color, markersize=3)
    axis.set_yticks(range(len(result.methods)), [name_method(m) for m in result.methods])
    axis.set_ylim(len(result.methods) - 0.4, -0.5)
    axis.set_xlim(-0.06, 1.06)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.grid(False, axis="y")
    axis.grid(True, axis="x")


def plates(result: Embedding, venue: str = "aaai") -> dict[str, Plate]:
    return {
        "tsne": _draw_first(result, venue),
        **{by: _draw_all(result, venue, by) for by in BY},
        "numbers": _draw_numbers(result, venue),
    }


def _draw_first(result: Embedding, venue: str) -> Plate:
    """The first seed and perplexity, by modality above and by class below."""
    seed, perplexity = result.drawn[0]

    def paint(axes) -> None:
        for column, method in enumerate(result.methods):
            panel = result.find_panel(method, seed, perplexity)
            for row, by in enumerate(BY):
                draw_panel(axes[row, column], result, panel, by)
                axes[row, 0].set_ylabel(f"by {by}")
            axes[0, column].set_title(name_method(method))
            axes[1, column].set_xlabel(describe_panel(result, panel), fontsize=7)
        _explain(axes[0, 0].figure, result, "modality")

    return Plate.draw(paint, venue, height=4.3, wide=True, rows=2, columns=len(result.methods))


def _draw_all(result: Embedding, venue: str, by: str) -> Plate:
    """Every panel: a row for each seed and perplexity, a column for each method."""

    def paint(axes) -> None:
        for row, (seed, perplexity) in enumerate(result.drawn):
            for column, method in enumerate(result.methods):
                panel = result.find_panel(method, seed, perplexity)
                draw_panel(axes[row, column], result, panel, by, size=2.0)
                axes[row, column].set_xlabel(describe_panel(result, panel), fontsize=7)
            axes[row, 0].set_ylabel(f"seed {seed}, perplexity {perplexity}")
        for column, method in enumerate(result.methods):
            axes[0, column].set_title(name_method(method))
        _explain(axes[0, 0].figure, result, by)

    rows = len(result.drawn)
    height = 0.6 + 1.75 * rows
    return Plate.draw(
        paint, venue, height=height, wide=True, rows=rows, columns=len(result.methods)
    )


def _explain(figure, result: Embedding, by: str) -> None:
    """Marks above the panels, and below them what each number would be without any structure."""
    sides = Direction.split(result.direction)
    colors = [color_modality(side) if by == "modality" else INK for side in sides]
    axis = figure.axes[0]
    handles = [
        axis.scatter([], [], marker=marker, s=12, linewidths=0.8 if marker == "x" else 0, color=c)
        for marker, c in zip("xo", colors, strict=True)
    ]
    names = [f"{role} ({side})" for role, side in zip(("teacher", "student"), sides, strict=True)]
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    figure.supxlabel(
        f"AUC: linear probe for the modality, {MIXED:.2f} if mixed. Purity: neighbours of the same "
        f"class, {result.chance:.2f} by chance.\nBoth in the original space. Trustworthiness: 1 "
        f"if the picture keeps all neighbours. Panels are turned and scaled onto the first.",
        fontsize=7,
    )


def _draw_numbers(result: Embedding, venue: str) -> Plate:
    def paint(axes) -> None:
        left, right = axes[0]
        draw_numbers(left, result, lambda found: (found.purity, found.purities))
        left.axvline(result.chance, linestyle="--", color=CONTROL, linewidth=0.9)
        left.set_xlabel(f"class purity\n(dashed: chance, {result.chance:.2f})")
        draw_numbers(right, result, lambda found: (found.auc, found.aucs))
        right.axvline(MIXED, linestyle="--", color=CONTROL, linewidth=0.9)
        right.set_xlabel(f"modality AUC\n(dashed: mixed, {MIXED:.2f})")

    return Plate.draw(paint, venue, height=1.8, columns=2, sharey=True)


def tables(result: Embedding) -> dict[str, Table]:
    where = f"{result.dataset} (preset {result.preset}), {arrow(result.direction)}"
    caption = (
        f"Separability of test features on {where}, {len(result.seeds)} seeds, n = {result.n}, "
        f"measured in the original space. Purity: part of the {NEIGHBOURS} nearest student samples "
        f"(cosine) of the same class, {result.chance:.2f} by chance; 95 % intervals over seeds and "
        f"over samples. Modality AUC: cross-validated linear probe, 0.5 mixed, 1 apart. Other "
        f"side's neighbours: part of the {NEIGHBOURS} nearest samples (Euclidean) that are the "
        f"other modality's, 0.5 mixed, 0 apart. Both with 95 % intervals over seeds."
    )
    drawn = (
        f"The t-SNE pictures on {where}, n = {result.n}. Trustworthiness: 1 where the picture's "
        f"{NEIGHBOURS} nearest neighbours are those of the original space. Disparity: what the "
        f"Procrustes alignment left between the picture and the first, 0 to 1."
    )
    return {
        "separability": Table(
            pd.DataFrame([_row(result, found) for found in result.separations]), caption
        ),
        "pictures": Table(
            pd.DataFrame(
                [
                    {
                        "method": panel.method,
                        "seed": str(panel.seed),
                        "perplexity": str(panel.perplexity),
                        "trustworthiness": f"{panel.trustworthiness:.3f}",
                        "disparity": f"{panel.disparity:.2f}",
                    }
                    for panel in result.panels
                ]
            ),
            drawn,
        ),
    }


def _row(result: Embedding, found: Separation) -> dict[str, str]:
    gain = result.contrasts.get(f"{found.method}-none")
    samples = found.purity_samples
    return {
        "method": found.method,
        "class purity": found.purity.format(3),
        "over samples": f"[{samples.low:.3f}, {samples.high:.3f}]",
        "minus none": gain[0].format(3, sign=True) if gain else "",
        "modality AUC": found.auc.format(3),
        "other side's neighbours": found.mixing.format(3),
    }

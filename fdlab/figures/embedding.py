"""Drawings of `studies.embedding`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps, patheffects

from fdlab.core.config import Direction
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import arrow, color_modality, name_method
from fdlab.studies.embedding import Embedding, Panel


def draw_panel(axis, result: Embedding, panel: Panel, by: str) -> None:
    """t-SNE points, teacher as crosses and student as dots, coloured by modality or by class."""
    teacher, student = Direction.split(result.direction)
    count = len(result.labels)
    sides = ((teacher, panel.points[:count], "x"), (student, panel.points[count:], "o"))
    for name, points, marker in sides:
        style = {"s": 7, "linewidths": 0.5 if marker == "x" else 0, "alpha": 0.75}
        if by == "modality":
            axis.scatter(*points.T, marker=marker, color=color_modality(name), **style)
        else:
            colors = colormaps["tab10"](result.labels % 10)
            axis.scatter(*points.T, marker=marker, c=colors, **style)
    if by == "class":
        _name_classes(axis, result.labels, panel.points[count:])
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(True)


def _name_classes(axis, labels: np.ndarray, points: np.ndarray) -> None:
    """The class number at the middle of its student points: ten colours alone do not tell."""
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        halo = [patheffects.withStroke(linewidth=1.6, foreground="white")]
        axis.text(x, y, str(label), ha="center", va="center", fontsize=8, path_effects=halo)


def plates(result: Embedding, venue: str = "aaai") -> dict[str, Plate]:
    teacher, student = Direction.split(result.direction)

    def paint(axes) -> None:
        for column, panel in enumerate(result.panels):
            for row, by in enumerate(("modality", "class")):
                draw_panel(axes[row, column], result, panel, by)
            axes[0, column].set_title(name_method(panel.method))
            axes[1, column].set_xlabel(
                f"class purity {panel.purity.mean:.2f}\nmodality AUC {panel.modality_auc:.2f}"
            )
        axes[0, 0].set_ylabel("by modality")
        axes[1, 0].set_ylabel("by class")
        handles = [
            axes[0, 0].scatter([], [], marker="x", s=12, color=color_modality(teacher)),
            axes[0, 0].scatter([], [], marker="o", s=12, color=color_modality(student)),
        ]
        labels = [f"teacher ({teacher})", f"student ({student})"]
        axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=2)

    columns = len(result.panels)
    return {"tsne": Plate.draw(paint, venue, height=4.4, wide=True, rows=2, columns=columns)}


def tables(result: Embedding) -> dict[str, Table]:
    rows = [
        {
            "method": panel.method,
            "class purity": panel.purity.format(3),
            "modality AUC": f"{panel.modality_auc:.3f}",
        }
        for panel in result.panels
    ]
    caption = (
        f"Separability of test features on {result.dataset} (preset {result.preset}), "
        f"{arrow(result.direction)}, seed {result.seed}, n = {result.n}, measured in the original "
        f"space. Purity: part of the 10 nearest student samples of the same class, 95 % interval "
        f"over samples. Modality AUC: linear probe, 0.5 mixed, 1 apart."
    )
    return {"separability": Table(pd.DataFrame(rows), caption)}

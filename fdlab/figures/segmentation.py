"""Drawings of `studies.segmentation`."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from fdlab.core.config import Direction
from fdlab.core.estimate import Estimate
from fdlab.figures.data import show_map, show_mask
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import (
    INK,
    arrow,
    color_classes,
    color_method,
    mark_method,
    name_method,
    plain,
)
from fdlab.studies.segmentation import Segmentation


def draw_classes(axis, result: Segmentation, direction: str) -> None:
    """Points above no distillation per class and method, interval over seeds and images."""
    methods = [m for m in result.methods if m != "none"]
    order = np.argsort(-result.shares)
    for place, k in enumerate(order):
        for i, method in enumerate(methods):
            found = result.find(direction, method).gains[k]
            height = place + 0.7 * ((i + 0.5) / len(methods) - 0.5)
            color = color_method(method)
            if found.known:
                error = [[found.mean - found.low], [found.high - found.mean]]
                axis.errorbar(found.mean, height, xerr=error, color=color, linewidth=0.8)
            axis.plot(found.mean, height, mark_method(method), color=color, markersize=3,
                      label=name_method(method) if place == 0 else None)  # fmt: skip
    axis.axvline(0, color=INK, linewidth=0.7)
    axis.set_yticks(
        range(len(order)),
        [f"{plain(result.classes[k])} ({100 * result.shares[k]:.1f} %)" for k in order],
    )
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlabel("IoU, points above no distillation")
    axis.set_title(arrow(direction))
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_overlays(axes, result: Segmentation) -> None:
    """Rows: every modality, and over the student's input the truth and what each method says;
    columns: test images."""
    methods, under = list(result.chosen), result.inputs[Direction.split(result.direction)[1]]
    rows = [*result.inputs, "truth", *methods]
    for column in range(len(result.truth)):
        for row, name in enumerate(rows):
            axis = axes[row, column]
            if name in result.inputs:
                show_map(axis, result.inputs[name][column])
            elif name == "truth":
                show_mask(axis, result.truth[column], result.palette, under[column])
            else:  # where there is no truth nothing is right or wrong
                shown = np.where(result.truth[column] == 255, 255, result.chosen[name][column])
                show_mask(axis, shown, result.palette, under[column])
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if column == 0:
                words = name_method(name) if name in methods else name
                axis.set_ylabel(textwrap.fill(words, 12))
    seen = np.unique(np.stack([result.truth, *result.chosen.values()]))
    handles = [
        Patch(facecolor=color_classes(k, result.palette), edgecolor="#888888", linewidth=0.3,
              label=plain(result.classes[k]))
        for k in seen if k != 255
    ]  # fmt: skip
    handles.append(Patch(color="black", label="not labelled"))
    axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=6)


def plates(result: Segmentation, venue: str = "aaai") -> dict[str, Plate]:
    rows, columns = len(result.inputs) + 1 + len(result.chosen), len(result.truth)
    height, width = result.truth.shape[1:]
    ways = result.directions

    def classes(axes) -> None:
        for axis, way in zip(axes[0], ways, strict=True):
            draw_classes(axis, result, way)
        axes[0, 0].figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4
        )

    cell = 7.0 / (columns + 0.4) * height / width
    return {
        "overlays": Plate.draw(lambda axes: draw_overlays(axes, result), venue,
                               height=min(cell * rows, 8.2) + 0.5, wide=True, rows=rows,
                               columns=columns),
        "classes": Plate.draw(classes, venue, wide=True, columns=len(ways), sharey=True,
                              height=0.9 + 0.05 * len(result.classes) * (1 + len(result.methods))),
    }  # fmt: skip


def tables(result: Segmentation) -> dict[str, Table]:
    about = (
        f"on {result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
        f"n = {result.n} test images"
    )
    lines = []
    for direction in result.directions:
        for k, name in enumerate(result.classes):
            line = {
                "direction": direction,
                "class": name,
                "pixels": f"{100 * result.shares[k]:.1f} %",
            }
            for method in result.methods:
                line[method] = _print(result.find(direction, method).found[k])
            lines.append(line)
        mean = {"direction": direction, "class": "mean", "pixels": ""}
        for method in result.methods:
            values = result.find(direction, method).values
            mean[method] = f"{np.nanmean(values):.1f}"
        lines.append(mean)
    return {
        "classes": Table(
            pd.DataFrame(lines),
            f"Intersection over union (%) of every class {about}; 95 % interval over seeds and "
            "images. Raw head at the best validation epoch; pixels without a class do not count. "
            "A dash: neither true nor chosen.",
        )
    }


def _print(found: Estimate) -> str:
    return "–" if np.isnan(found.mean) else found.format(1)

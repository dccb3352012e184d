"""True and found boxes on the pictures they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from fdlab.data.dataset import IGNORE, NOTHING
from fdlab.figures.data import show_map
from fdlab.figures.style import plain
from fdlab.training.detect import match

# Okabe and Ito's sky blue and orange. Black on either side sets a line off from whatever is below;
# labels are black on their colour.
RIGHT, WRONG, OTHER, TRUE = "#56B4E9", "#E69F00", "#BBBBBB", "white"
DASH = (0, (3, 2))
LETTERS = 5.5  # points
SHOWN = 0.3  # score from which a box is drawn
AROUND = 0.4  # points of black on either side of a line
MARGIN = 0.5  # points of colour around a label's letters


def show_boxes(
    axes: Sequence,
    images: Sequence[np.ndarray],
    truths: np.ndarray,
    found: np.ndarray,
    names: Sequence[str],
    size: tuple[int, int],
    threshold: float = SHOWN,
    most: int = 8,
    missed: bool = True,
) -> None:
    """Draw n pictures, each on its axis, with what is there and what a detector found.

    images: (C, h, w) each. truths: (n, B, 5) class, x0, y0, x1, y1; found: (n, M, 6) with the score
    behind the class; in pixels of images of `size` (height, width), rows of class -1 fill up. True
    boxes are dashed, regions that do not count hatched. Of the found ones those that score at least
    `threshold` are drawn, up to `most` of a picture, in one colour where they are right at an IoU
    of 0.5, else in another. A label says class and score of a found box, and where `missed` the
    class alone of an object that was missed; no two lie on each other, and one without room is left
    out, that of the lowest score first. Before them the figure's layout is made, so nothing that
    takes room may be added to it later.
    """
    found = np.array(found)
    for rows in found:
        order = np.argsort(-rows[:, 1], kind="stable")
        rows[order[most:], 0] = NOTHING
        rows[rows[:, 1] < threshold, 0] = NOTHING
    matches = match(found, truths)
    waiting = []
    for i, (axis, image) in enumerate(zip(axes, images, strict=True)):
        show_map(axis, image)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        height, width = image.shape[1:]
        scale = np.array([width / size[1], height / size[0]] * 2)
        labels = []
        for row, taken in zip(truths[i], matches.taken[i], strict=True):
            corners = row[1:] * scale
            if row[0] == IGNORE:
                _outline(axis, corners, OTHER, hatch="////", linestyle=":")
            elif row[0] != NOTHING:
                _outline(axis, corners, TRUE, linestyle=DASH)
                if missed and not taken:
                    labels.append((names[int(row[0])], TRUE, corners))
        drawn = [j for j in np.argsort(-found[i, :, 1], kind="stable") if found[i, j, 0] >= 0]
        for j in reversed(drawn):  # the best one on top
            kind, score, *corners = found[i, j]
            colour = RIGHT if matches.right[i, j] else WRONG if matches.counted[i, j] else OTHER
            _outline(axis, corners * scale, colour)
            labels.insert(0, (f"{names[int(kind)]} {score:.2f}", colour, corners * scale))
        waiting.append((axis, labels))
    if waiting:
        axes[0].figure.draw_without_rendering()
    for axis, labels in waiting:
        _place(axis, labels)


def explain_boxes(regions: bool = False) -> tuple[list, list[str]]:
    """Handles and words of a legend; with regions that do not count, where there are any."""

    def lines(colour: str, style) -> tuple[Line2D, Line2D]:
        return (
            Line2D([], [], color="black", linewidth=1 + 2 * AROUND, solid_capstyle="butt"),
            Line2D([], [], color=colour, linewidth=1, linestyle=style, solid_capstyle="butt"),
        )

    entries = {
        "true": lines(TRUE, DASH),
        "found, right": lines(RIGHT, "-"),
        "found, wrong": lines(WRONG, "-"),
    }
    if regions:
        entries["does not count"] = Patch(facecolor="none", edgecolor="#777777", hatch="////")
    return list(entries.values()), list(entries)


def _outline(axis, corners: np.ndarray, colour: str, linestyle="-", hatch: str = "") -> None:
    x0, y0, x1, y1 = corners
    place = (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0  # a pixel's middle is a whole number in a plot
    axis.add_patch(
        Rectangle(
            *place, fill=False, edgecolor="black", linewidth=1 + 2 * AROUND, joinstyle="miter"
        )
    )
    axis.add_patch(
        Rectangle(*place, fill=False, edgecolor=colour, linewidth=1, linestyle=linestyle,
                  joinstyle="miter", hatch=hatch)
    )  # fmt: skip


def _place(axis, labels: list[tuple[str, str, np.ndarray]]) -> None:
    """Write every label at its box, where it covers no other and stays in the picture."""
    right, left = sorted(axis.get_xlim(), reverse=True)
    bottom, top = sorted(axis.get_ylim(), reverse=True)
    taken: list[tuple[float, float, float, float]] = []
    pad = MARGIN * axis.figure.dpi / 72
    for words, colour, corners in labels:
        text = axis.text(
            0, 0, plain(words), fontsize=LETTERS, color="black", va="center", ha="center",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": MARGIN},
        )  # fmt: skip
        text.set_in_layout(False)
        extent = text.get_window_extent().padded(pad)
        extent = extent.transformed(axis.transData.inverted())
        width, height = abs(extent.width), abs(extent.height)
        x0, y0, x1, y1 = corners - 0.5
        spots = (
            (x, y)
            for y in (y0 - height, y1, y0, y1 - height)  # above, below, inside
            for x in (x0, x1 - width, *np.linspace(x0, x1 - width, 5)[1:-1])
        )
        for x, y in spots:
            x = min(max(x, left), right - width)
            spot = (x, y, x + width, y + height)
            if top <= y <= bottom - height and not any(_touch(spot, other) for other in taken):
                text.set_position((x + width / 2, y + height / 2))
                taken.append(spot)
                break
        else:
            text.remove()


def _touch(one: tuple, two: tuple) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]

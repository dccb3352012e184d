"""Boxes of objects, moved as the random view of their image moves."""

from __future__ import annotations

import torch

from fdlab.data.augment import SHIFT, Augmentation, View, find_crop, find_start
from fdlab.data.dataset import IGNORE, NOTHING

KEPT = 0.25  # of a box's area; below it a box says too little of its object

Size = tuple[int, int]  # height and width in pixels
Step = tuple[torch.Tensor | float, torch.Tensor | float]  # factor and offset along one axis


def move_boxes(
    truths: torch.Tensor,
    stored: Size,
    held: Size,
    size: Size,
    augmentation: Augmentation | None = None,
    view: View | None = None,
) -> torch.Tensor:
    """Boxes of the stored images → boxes of what a network sees of them, both (N, B, 5) float32.

    A row is class, x0, y0, x1, y1 in pixels, x1 and y1 just behind the last one. stored, held,
    size: of the images in the store, as they lie in memory (shrunk once, where they are large) and
    as the network takes them. view: of these N events, drawn for `augmentation`; without one the
    whole image is seen.

    What leaves the view is cut off. An object that keeps less than a quarter of its box becomes a
    region that does not count (class -2; our choice: a sliver of an object is none to find, but no
    background either), and a row of which nothing is left is filled with -1.
    """
    kind, *corners = truths.float().unbind(2)
    steps = _find_steps(held, size, augmentation, view, truths.device)
    ends, area = [], 1.0
    for axis, (factor, offset) in enumerate(steps):  # down, across
        scale = held[axis] / stored[axis]
        one, two = (x * scale * factor + offset for x in (corners[1 - axis], corners[3 - axis]))
        low, high = torch.minimum(one, two), torch.maximum(one, two)  # a flip turns them round
        area = area * (high - low)
        ends.append((low.clamp(0, size[axis]), high.clamp(0, size[axis])))
    (top, bottom), (left, right) = ends
    left_over = (bottom - top) * (right - left)
    seen = (kind != NOTHING) & (left_over > 0)
    kind = kind.masked_fill((kind >= 0) & (left_over < KEPT * area), IGNORE)
    moved = torch.stack([kind, left, top, right, bottom], dim=2)
    return moved.masked_fill(~seen[:, :, None], NOTHING)


def _find_steps(
    held: Size,
    size: Size,
    augmentation: Augmentation | None,
    view: View | None,
    device: torch.device,
) -> list[Step]:
    """Down and across, the factor and the offset, (N, 1) or plain numbers, that take a place in the
    image as held to its place in the view."""
    scales = [now / before for now, before in zip(size, held, strict=True)]
    whole: list[Step] = [(scale, 0.0) for scale in scales]
    if view is None or augmentation is None:
        return whole
    if view.corner is not None:  # moved after it has the network's size
        corner = view.corner.to(device)
        return [(scale, SHIFT - start) for scale, start in zip(scales, corner, strict=True)]
    if view.box is None:
        return whole
    box = view.box.to(device)
    if augmentation.geometry == "pad":  # moved before it is resized
        edges, starts, mirror = find_start(box, held)
        down, across = (
            (scale, scale * (edge - start)[:, None])
            for scale, edge, start in zip(scales, edges, starts, strict=True)
        )
        mirror = mirror[:, None]
        return [down, (across[0] * mirror, torch.where(mirror < 0, size[1] - across[1], across[1]))]
    shares, middles, mirror = find_crop(box, augmentation.area, held)
    shares = [shares[0][:, None], (shares[1] * mirror)[:, None]]
    return [
        (scale / share, side / 2 * (1 - (1 + middle[:, None]) / share))
        for scale, side, share, middle in zip(scales, size, shares, middles, strict=True)
    ]

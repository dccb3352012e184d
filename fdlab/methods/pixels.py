"""Segmentation as classification of pixels, so that one loss serves both.

A network's logits (N, K, H, W) become rows (P, K), one per pixel that has a class; its feature
becomes the last encoder map's positions as rows (Q, D), Q = N · h · w. Where a method's heads score
the feature, `Pixels.spread` brings their (Q, K) scores to the P pixels. The paper does not say
which map is split, nor along which axis: its channels at each position are our reading, and the
spatial transform an option of `fdcmkd`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from fdlab.data.dataset import IGNORED
from fdlab.models.output import ModelOutput


@dataclass(frozen=True)
class Pixels:
    """Where the rows of a batch of images come from.

    targets: (N, H, W) classes, `IGNORED` where there is none. grid: (h, w) positions of the
    feature. kept: (P,) places of the pixels with a class among all N · H · W.
    """

    targets: torch.Tensor
    grid: tuple[int, int]
    kept: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        """(P,) classes of the pixels kept."""
        return self.targets.flatten()[self.kept]

    def unfold(self, scores: torch.Tensor, grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Scores of the positions (N · h · w, K) as images (N, K, h, w)."""
        count = len(self.targets)
        return scores.view(count, *(grid or self.grid), -1).permute(0, 3, 1, 2)

    def enlarge(self, scores: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """(N, K, h, w) → (N, K, H, W)."""
        size = self.targets.shape[1:]
        aligned = None if mode.startswith("nearest") else False
        return functional.interpolate(scores, size, mode=mode, align_corners=aligned)

    def flatten(self, scores: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W) → (P, K), the pixels kept."""
        return scores.permute(0, 2, 3, 1).flatten(0, 2)[self.kept]

    def spread(
        self,
        scores: torch.Tensor,
        grid: tuple[int, int] | None = None,
        mode: str = "bilinear",
    ) -> torch.Tensor:
        """Scores of the positions (N · h · w, K) → (P, K)."""
        return self.flatten(self.enlarge(self.unfold(scores, grid), mode))

    def gather(
        self, rows: torch.Tensor, grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the pixels kept (P, K) → their mean around every position of a grid (N · h · w,
        K), 0 where there are none, and (N · h · w,) whether there are any."""
        count, height, width = self.targets.shape
        beside = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        images = rows.new_zeros(count * height * width, beside.shape[1])
        images = images.index_copy(0, self.kept, beside).view(count, height, width, -1)
        means = flatten_positions(functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2), grid))
        share = means[:, -1:]
        there = share > 0
        return means[:, :-1] / torch.where(there, share, 1), there.squeeze(1)

    def locate(self, grid: tuple[int, int]) -> torch.Tensor:
        """(N, h · w) class of the pixel at the middle of every position, `IGNORED` among them."""
        targets = self.targets[:, None].float()
        return functional.interpolate(targets, grid, mode="nearest-exact").flatten(1).long()


def find_pixels(student: ModelOutput, targets: torch.Tensor, last: str) -> Pixels:
    """The pixels of a batch; last: the student's map whose positions are the feature's.

    Leaving out pixels waits for the device once a step, to learn how many there are.
    """
    kept = (targets != IGNORED).flatten().nonzero().squeeze(1)
    return Pixels(targets, tuple(student.maps[last].shape[2:]), kept)


def fold(output: ModelOutput, pixels: Pixels, last: str) -> ModelOutput:
    """One row per pixel in the logits and one per position in the feature; the maps stay.

    A map of another size than the grid is resized to it.
    """
    map_ = output.maps[last]
    if tuple(map_.shape[2:]) != pixels.grid:
        map_ = functional.adaptive_avg_pool2d(map_, pixels.grid)
    second = None if output.second is None else fold(output.second, pixels, last)
    return replace(
        output,
        logits=pixels.flatten(output.logits),
        feature=flatten_positions(map_),
        second=second,
    )


def flatten_positions(map_: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N · h · w, C)."""
    return map_.permute(0, 2, 3, 1).flatten(0, 2)

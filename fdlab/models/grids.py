"""Between images and grids of positions that are spread evenly over them."""

from __future__ import annotations

import torch
from torch.nn import functional


def fit_patches(x: torch.Tensor, patch: int) -> torch.Tensor:
    """Images (N, C, H, W) whose sides the patch divides: others are resized, bilinearly, to the
    nearest such sides, at least one patch.

    So every map's positions are spread evenly over the whole image, as those of a convolutional
    network are taken to be. Our choice: the published networks have no rule for such sides.

    >>> fit_patches(torch.zeros(1, 3, 64, 512), 14).shape
    torch.Size([1, 3, 70, 518])
    """
    size = [fit_side(side, patch) for side in x.shape[2:]]
    if size == [*x.shape[2:]]:
        return x
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def fit_side(side: int, patch: int) -> int:
    """The multiple of `patch` nearest to `side`, at least one.

    >>> [fit_side(side, 4) for side in (1, 64, 65, 66)]
    [4, 64, 64, 68]
    """
    return patch * max(1, (side + patch // 2) // patch)


def spread_tokens(x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """(N, h · w, C) → (N, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, grid)


def enlarge(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, C, H, W) of `like`, bilinearly."""
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

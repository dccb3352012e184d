"""Frames of a video: every one goes through the network as an image of its own.

Their maps are stacked along the height, so that every mean over positions is the mean over frames,
height and width, as FD-CMKD takes it.
"""

from __future__ import annotations

import torch

from fdlab.core.errors import UserError


def fold_frames(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(N, F, C, H, W) → (N · F, C, H, W) and F; images (N, C, H, W) stay, and F is 0."""
    return (x.flatten(0, 1), x.shape[1]) if x.ndim == 5 else (x, 0)


def stack_frames(x: torch.Tensor, frames: int) -> torch.Tensor:
    """(N · F, C, h, w) → (N, C, F · h, w); where `frames` is 0 the map stays."""
    if not frames:
        return x
    return x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)  # (N, C, F, h, w) between


def require_image(name: str, shape: tuple[int, ...]) -> None:
    """For networks whose output has places: frames would have to be told apart in it."""
    if len(shape) != 3:
        raise UserError(f"{name} has inputs of shape {shape}: expected images (C, H, W)")

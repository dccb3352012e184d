"""Augmentation of a whole batch on its device, with random numbers from a generator."""

from __future__ import annotations

import torch

from fdlab.core.errors import name_unknown

SHIFT = 2  # pixels


def shift(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image (N, C, H, W) by up to `SHIFT` pixels a side, edges repeated."""
    count, _, height, width = batch.shape
    padded = torch.nn.functional.pad(batch, [SHIFT] * 4, mode="replicate")
    corner = torch.randint(
        0, 2 * SHIFT + 1, (2, count, 1), generator=generator, device=generator.device
    ).to(batch.device)
    rows = corner[0] + torch.arange(height, device=batch.device)  # (N, H)
    columns = corner[1] + torch.arange(width, device=batch.device)  # (N, W)
    first = torch.arange(count, device=batch.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[first, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


AUGMENTATIONS = {"shift": shift}


def augment(name: str, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply the named augmentation; the empty name changes nothing."""
    if not name:
        return batch
    if name not in AUGMENTATIONS:
        raise name_unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name](batch, generator)

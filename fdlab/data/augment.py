"""Augmentation of a whole batch on its device, with random numbers from a generator."""

from __future__ import annotations

import torch

from fdlab.core.errors import name_unknown

SHIFT = 2  # pixels
CONTRAST = 0.4
CUTOUT = 0.5  # of the shorter side, at most
WORD_LOSS = 0.15


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


def strengthen(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A stronger view of inputs that are augmented already, for methods that compare two views.

    Images and spectrograms (N, C, H, W): contrast by 0.6 to 1.4 and a square of up to half the
    shorter side set to 0, the inputs' mean (Cutout). Token ids (N, L): each word left out with
    probability 0.15, but a sentence keeps at least one. Our choice: the published recipe
    (RandAugment) is made for photographs.
    """
    device = batch.device

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=generator.device).to(device)

    if not batch.is_floating_point():
        kept = draw(*batch.shape) >= WORD_LOSS
        kept |= ~(kept & (batch != 0)).any(dim=1, keepdim=True)
        return batch * kept
    count, _, height, width = batch.shape
    batch = batch * (1 + CONTRAST * (2 * draw(count, 1, 1, 1) - 1))
    side = (draw(count) * min(height, width) * CUTOUT).round()
    inside = []
    for size in (height, width):
        start = (draw(count) * (size + 1 - side)).floor()
        place = torch.arange(size, device=device)
        inside.append((place >= start[:, None]) & (place < (start + side)[:, None]))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return batch.masked_fill(hole, 0.0)


AUGMENTATIONS = {"shift": shift}


def augment(name: str, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply the named augmentation; the empty name changes nothing."""
    if not name:
        return batch
    if name not in AUGMENTATIONS:
        raise name_unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name](batch, generator)

"""How methods that read maps bring the two networks' maps together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fdlab.losses.maps import as_grid, pool, resize
from fdlab.models.output import ModelOutput


def match_channels(pairs: Iterable[tuple[int, int]]) -> nn.ModuleList:
    """Per pair of (student's, teacher's) channels a 1×1 convolution without bias, or nothing where
    they are equal."""
    return nn.ModuleList(
        nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1, bias=False)
        for mine, theirs in pairs
    )


def arrange(
    student: ModelOutput, teacher: ModelOutput, names: tuple[str, str], compare: str, relu: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two maps of a pair of names as grids (N, C, h, w) of one height and width.

    compare: "pooled", one position, or "resized", the student's map at the teacher's size. relu:
    of both maps first. The teacher's carries no gradient.
    """
    mine, theirs = student.find(names[0]), teacher.find(names[1]).detach()
    if relu:
        mine, theirs = torch.relu(mine), torch.relu(theirs)
    if compare == "resized":
        return resize(mine, theirs), as_grid(theirs)
    return pool(mine, student.mask)[..., None, None], pool(theirs, teacher.mask)[..., None, None]

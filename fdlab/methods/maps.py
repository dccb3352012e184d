"""How methods that read maps bring the two networks' maps together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.losses.maps import as_grid, pool, resize
from fdlab.methods.base import Sizes
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


def require_layers(layers: list[int]) -> None:
    whole = all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in layers)
    if not whole or layers != sorted(set(layers)):
        raise UserError(
            f"layers is {layers}: expected blocks by number, from 0 and rising, such as [7, 15, 23]"
        )


def choose_layers(sizes: Sizes, layers: list[int]) -> list[tuple[str, str]]:
    """Names of the student's and the teacher's maps that are compared: of all stages where `layers`
    is empty, else of the teacher's blocks of these numbers, from 0.

    A student with as many blocks gives the same ones. Another one gives a stage for each, of more
    stages those at the same relative depth: four stages go with four blocks.
    """
    if not layers:
        return sizes.pair("stages")
    mine, theirs = (list(side.pick("blocks")) for side in (sizes.student, sizes.teacher))
    if layers[-1] >= len(theirs):
        raise UserError(
            f"layers is {layers}: expected numbers from 0 to {len(theirs) - 1}, the teacher's last "
            "block"
        )
    if len(mine) == len(theirs):
        return [(mine[i], theirs[i]) for i in layers]
    stages, count = list(sizes.student.pick("stages")), len(layers)
    if count > len(stages):
        raise UserError(
            f"layers is {layers}: expected at most {len(stages)}, one for each of the student's "
            "stages, as its blocks are not the teacher's"
        )
    places = [math.ceil((i + 1) * len(stages) / count) - 1 for i in range(count)]
    return [(stages[place], theirs[i]) for place, i in zip(places, layers, strict=True)]


class Aligned(nn.Module):
    """Pairs of maps as grids of the teacher's channels, height and width, before their ReLU.

    The student's goes through a 1×1 convolution without bias where channels differ, which trains
    and is counted, and then to the teacher's size, bilinearly. The teacher's carries no gradient.
    """

    def __init__(self, sizes: Sizes, names: list[tuple[str, str]]):
        super().__init__()
        self.names = names
        self.shapes = [(sizes.teacher.maps | sizes.teacher.blocks)[name] for _, name in names]
        mine = sizes.student.maps | sizes.student.blocks
        self.connectors = match_channels(
            (mine[name][0], shape[0]) for (name, _), shape in zip(names, self.shapes, strict=True)
        )

    def forward(
        self, student: ModelOutput, teacher: ModelOutput
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pairs = []
        for (mine, theirs), connector in zip(self.names, self.connectors, strict=True):
            target = as_grid(teacher.find(theirs).detach())
            pairs.append((resize(connector(as_grid(student.find(mine))), target), target))
        return pairs

    @property
    def teacher_maps(self) -> set[str]:
        return {name for _, name in self.names}

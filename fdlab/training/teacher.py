"""The teacher's side of a training step: frozen and read, or trained beside the student."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from fdlab.core.config import RunConfig
from fdlab.core.seeding import derive_seed
from fdlab.data.augment import View, strengthen
from fdlab.data.paired import PairedData
from fdlab.methods.base import DRIFTING, Method
from fdlab.models.mode import freeze
from fdlab.models.output import ModelOutput, describe

CACHE_BYTES = 2**30  # of outputs kept for all training rows; above it they are computed per batch


class Noise:
    """Random numbers of a training's augmentation; those of stronger views come apart, so that a
    method with two views sees the same first one as every other."""

    def __init__(self, seed: int, device: torch.device):
        self.first, self.second = (
            torch.Generator(device).manual_seed(derive_seed(seed, name))
            for name in ("augment", "strengthen")
        )


def look(
    model: Callable[[torch.Tensor], ModelOutput],
    inputs: torch.Tensor,
    noise: Noise,
    views: int,
) -> ModelOutput:
    """A network's output for (augmented) inputs, with its `second` where there are two views."""
    output = model(inputs)
    if views > 1:
        output.second = model(strengthen(inputs, noise.second))
    return output


class Teacher:
    """Outputs of a frozen network in eval mode, for training rows.

    Where the teacher's input is not augmented, its outputs for all training rows are computed at
    the start and reused, if they take at most `CACHE_BYTES`; otherwise each batch is a forward pass
    on the (augmented) input. augments: whether its input is. maps: names of the maps that the
    method reads; others are dropped. order: row → the row whose output it gets instead, for the
    controls that shuffle; else None. constant: every row gets the mean of the un-augmented outputs
    over the training rows. drifting: batch norm runs in training mode, on each batch's own
    statistics. views: 2 to read a stronger view too, with nothing stored.
    """

    def __init__(
        self,
        model: nn.Module,
        data: PairedData,
        modality: str,
        augments: bool,
        maps: set[str] = frozenset(),
        order: torch.Tensor | None = None,
        constant: bool = False,
        drifting: bool = False,
        views: int = 1,
    ):
        self.model, self.data, self.order, self.maps = freeze(model), data, order, maps
        self.modality, self.views = modality, views
        self.augments = augments and not constant
        self.cache: ModelOutput | None = None
        self.constant = constant
        if drifting:
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.training = True
        elif constant:
            self.cache = self._average()
        elif not augments and views == 1 and self._count_bytes() <= CACHE_BYTES:
            rows = data.rows["train"]
            self.place = torch.full_like(data.labels, -1)  # row number → position in the cache
            self.place[rows] = torch.arange(len(rows), device=rows.device)
            parts = rows.split(data.evaluation_batch)
            parts = [self._forward(data.batch(modality, part)) for part in parts]
            self.cache = ModelOutput.join(parts)

    def __call__(self, rows: torch.Tensor, noise: Noise, view: View | None = None) -> ModelOutput:
        """view: the student's random view, where the two share it; else an own one is drawn."""
        if self.order is not None:
            rows = self.order[rows]
        if self.constant:
            output = self.cache.apply(lambda x: x.expand(len(rows), *x.shape[1:]))
            output.second = output if self.views > 1 else None
            return output
        if self.cache is not None:
            place = self.place[rows]
            return self.cache.apply(lambda x: x[place])
        if view is None and self.augments:
            view = self.data.draw(self.modality, len(rows), noise.first)
        return look(self._forward, self.data.batch(self.modality, rows, view), noise, self.views)

    @torch.no_grad()
    def _forward(self, inputs: torch.Tensor) -> ModelOutput:
        return self.model(inputs).keep(self.maps)

    def _average(self) -> ModelOutput:
        """One row: the mean over all training rows."""
        rows, total = self.data.rows["train"], None
        for part in rows.split(self.data.evaluation_batch):
            output = self._forward(self.data.batch(self.modality, part))
            sums = output.apply(lambda x: x.sum(dim=0, keepdim=True))
            total = (
                sums
                if total is None
                else ModelOutput.join([total, sums]).apply(lambda x: x.sum(dim=0, keepdim=True))
            )
        return total.apply(lambda x: x / len(rows))

    def _count_bytes(self) -> int:
        rows = self.data.rows["train"]
        side = describe(self.model, self.data.batch(self.modality, rows[:1]))
        shapes = [x for name, x in (side.maps | side.blocks).items() if name in self.maps]
        if self.data.masks is not None:
            shapes.append((self.data.store.dataset.classes, *self.data.sizes[self.modality]))
        return 4 * len(rows) * sum(math.prod(shape) for shape in shapes)


class Peer:
    """Outputs of a teacher that trains: forward passes in the mode that it is in, with gradient."""

    def __init__(
        self, model: nn.Module, data: PairedData, modality: str, augments: bool, views: int
    ):
        self.model, self.data, self.modality = model, data, modality
        self.augments, self.views = augments, views

    def __call__(self, rows: torch.Tensor, noise: Noise, view: View | None = None) -> ModelOutput:
        if view is None and self.augments:
            view = self.data.draw(self.modality, len(rows), noise.first)
        return look(self.model, self.data.batch(self.modality, rows, view), noise, self.views)


def seat_teacher(
    config: RunConfig, data: PairedData, model: nn.Module, augments: bool, method: Method
) -> Teacher:
    """The frozen teacher of a run, of the kind that the configuration asks for
    (`TEACHER_KINDS`)."""
    order = None
    if config.teacher_kind.startswith("shuffled"):
        within = config.teacher_kind == "shuffled_in_class"
        order = _shuffle_rows(
            data, derive_seed(config.seed, "teacher", config.teacher_kind), within
        )
    maps = method.teacher_maps
    if data.masks is not None:
        maps = maps | set(method.sizes.teacher.pick("last"))  # its positions are the feature
    return Teacher(
        model,
        data,
        config.teacher,
        augments,
        maps,
        order,
        constant=config.teacher_kind == "constant",
        drifting=method.teaching == DRIFTING,
        views=method.views,
    )


def _shuffle_rows(data: PairedData, seed: int, within_class: bool) -> torch.Tensor:
    """Row → another training row: a random cycle through all of them, or through each class.

    A cycle, since a plain permutation would leave some rows with their own output. A class with a
    single row keeps it. Rows outside the training split stay.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(data.labels))
    rows, labels = data.rows["train"].cpu(), data.labels.cpu()
    groups = [rows]
    if within_class:
        groups = [rows[labels[rows] == label] for label in labels[rows].unique()]
    for group in groups:
        cycle = group[torch.randperm(len(group), generator=generator)]
        order[cycle] = cycle.roll(1)
    return order.to(data.labels.device)

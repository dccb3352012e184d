"""The teacher's side of a training step: frozen and read, or trained beside the student."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from torch import nn

from fdlab.core.config import RunConfig
from fdlab.core.seeding import derive_seed
from fdlab.data.augment import View, strengthen
from fdlab.data.paired import PairedData
from fdlab.methods.base import DRIFTING, Method
from fdlab.models.mode import freeze
from fdlab.models.norm import join_norms
from fdlab.models.output import ModelOutput, describe
from fdlab.training.fast import Fast
from fdlab.training.together import Parts, cut_view, find_span, gather, wrap

CACHING = Fast(cache=True)
CACHE_BYTES = 2**30  # of outputs kept for all training rows; above it they are computed per batch


class Noise:
    """Random numbers of a training's augmentation; those of stronger views come apart, so that a
    method with two views sees the same first one as every other. theirs: of the teacher's stronger
    views; where it is of the student's modality they are the student's, as MLKD has it."""

    def __init__(self, seed: int, device: torch.device, alike: bool = False):
        self.first, self.second, theirs = (
            torch.Generator(device).manual_seed(derive_seed(seed, name))
            for name in ("augment", "strengthen", "strengthen")
        )
        self.theirs = theirs if alike else self.second


def look(
    model: Callable[[torch.Tensor], ModelOutput],
    inputs: torch.Tensor,
    noise: torch.Generator,
    views: int,
    total: int,
    known: ModelOutput | None = None,
) -> ModelOutput:
    """A network's output for (augmented) inputs, with its `second` where there are two views.

    noise: of the stronger view. total: rows of the whole batch. The inputs are this process's part
    of it, the output is of all (`fdlab.training.together`). known: that of the inputs as they are,
    where it is kept.
    """
    output = gather(model(inputs), total) if known is None else known
    if views > 1:
        strong = strengthen(inputs, noise, find_span(total)[0], total)
        output.second = gather(model(strong), total)
    return output


class Shared:
    """Of a frozen network that teaches several students: what is computed once for all of them.

    maps: every name that one of them reads. cache: outputs for all training rows, where they are
    kept. Else a forward pass serves all whose rows and random numbers are the same, by its `key`;
    only the last one is kept.
    """

    def __init__(self):
        self.maps: set[str] = set()
        self.cache: ModelOutput | None = None
        self.key: Hashable = None
        self.output: ModelOutput | None = None
        self.done: torch.cuda.Event | None = None

    def find(self, key: Hashable, compute: Callable[[], ModelOutput]) -> ModelOutput:
        """Students may be on streams of their own, which wait for the one that computed."""
        if key != self.key:
            self.key, self.output, self.done = key, compute(), None
            if self.output.logits.is_cuda:
                self.done = torch.cuda.current_stream(self.output.logits.device).record_event()
        elif self.done is not None:
            torch.cuda.current_stream(self.output.logits.device).wait_event(self.done)
        return self.output


class Teacher:
    """Outputs of a frozen network in eval mode, for training rows.

    Where the teacher's input is not augmented, its outputs for all training rows are computed by
    `prepare` and reused, if they take at most `CACHE_BYTES`; otherwise each batch is a forward pass
    on the (augmented) input. augments: whether its input is. maps: names of the maps that the
    method reads; others are dropped. order: row → the row whose output it gets instead, for the
    controls that shuffle; else None. constant: every row gets the mean of the un-augmented outputs
    over the training rows. drifting: batch norm runs in training mode, on each batch's own
    statistics. views: 2 to read a stronger view too, of which nothing is kept. fast: whether
    outputs are kept, and the precision. shared: with other students of the same network, which must
    not drift.
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
        fast: Fast = CACHING,
        shared: Shared | None = None,
    ):
        self.model, self.data, self.order, self.maps = freeze(model), data, order, maps
        self.modality, self.views, self.fast = modality, views, fast
        self.augments = augments and not constant
        self.constant, self.drifting = constant, drifting
        self.shared = shared or Shared()
        self.shared.maps |= maps
        self.cache: ModelOutput | None = None
        self.parts = Parts()
        if drifting:
            join_norms(model)
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.training = True

    def prepare(self) -> None:
        """Compute what is computed once; after every student that shares the network is built."""
        if self.cache is not None:
            return
        if self.constant:
            self.cache = self._average()
        elif self.fast.cache and not (self.augments or self.drifting):
            if self.shared.cache is None and self._count_bytes() <= CACHE_BYTES:
                self.shared.cache = self._store()
            if self.shared.cache is not None:
                self.cache = self.shared.cache.keep(self.maps)
                self.place = self.data.find_places("train")

    def __call__(
        self, rows: torch.Tensor, noise: Noise, view: View | None = None, step: Hashable = None
    ) -> ModelOutput:
        """view: the student's random view, where the two share it; else an own one is drawn. step:
        names the rows and the state of the noise, for others that ask for the same."""
        if self.order is not None:
            rows = self.order[rows]
        if self.constant:
            output = self.cache.apply(lambda x: x.expand(len(rows), *x.shape[1:]))
            output.second = output if self.views > 1 else None
            return output
        if self.cache is not None:
            place = self.place[rows]
            output = self.cache.apply(lambda x: x[place])
            if self.views > 1:
                inputs = self.data.batch(self.modality, self.parts(rows))
                look(self._forward, inputs, noise.theirs, self.views, len(rows), output)
            return output
        if view is None and self.augments:
            view = self.data.draw(self.modality, len(rows), noise.first)

        def compute() -> ModelOutput:
            inputs = self.data.batch(self.modality, self.parts(rows), cut_view(view))
            return look(self._forward, inputs, noise.theirs, self.views, len(rows))

        if step is None or self.order is not None or self.views > 1:
            return compute().keep(self.maps)
        return self.shared.find(step, compute).keep(self.maps)

    def expect(self, batches: list[torch.Tensor]) -> None:
        """Training rows that will be asked for, see `PairedData.expect`."""
        if (self.cache is None or self.views > 1) and self.order is None:
            self.data.expect(self.modality, self.parts.expect(batches), id(self))

    @torch.no_grad()
    def _forward(self, inputs: torch.Tensor) -> ModelOutput:
        with self.fast.autocast(inputs.device):
            return self.model(inputs).keep(self.shared.maps)

    def _store(self) -> ModelOutput:
        """Outputs for all training rows."""
        parts = self.data.rows["train"].split(self.data.evaluation_batch)
        self.data.expect(self.modality, parts)
        return ModelOutput.join([self._forward(self.data.batch(self.modality, p)) for p in parts])

    def _average(self) -> ModelOutput:
        """One row: the mean over all training rows."""
        rows, total = self.data.rows["train"], None
        for part in rows.split(self.data.evaluation_batch):
            output = self._forward(self.data.batch(self.modality, part))
            sums = output.apply(lambda x: x.float().sum(dim=0, keepdim=True))
            total = (
                sums
                if total is None
                else ModelOutput.join([total, sums]).apply(lambda x: x.sum(dim=0, keepdim=True))
            )
        return total.apply(lambda x: x / len(rows))

    def _count_bytes(self) -> int:
        rows = self.data.rows["train"]
        side = describe(self.model, self.data.batch(self.modality, rows[:1]))
        maps = side.maps | side.blocks
        shapes = [shape for name, shape in maps.items() if name in self.shared.maps]
        if self.data.masks is not None:
            shapes.append((self.data.store.dataset.classes, *self.data.sizes[self.modality]))
        return 4 * len(rows) * sum(math.prod(shape) for shape in shapes)


class Peer:
    """Outputs of a teacher that trains: forward passes in the mode that it is in, with gradient."""

    def __init__(
        self,
        model: nn.Module,
        data: PairedData,
        modality: str,
        augments: bool,
        views: int,
        fast: Fast,
    ):
        self.model, self.data, self.modality = wrap(model, data.device), data, modality
        self.augments, self.views, self.fast = augments, views, fast
        self.parts = Parts()

    def __call__(
        self, rows: torch.Tensor, noise: Noise, view: View | None = None, step: Hashable = None
    ) -> ModelOutput:
        if view is None and self.augments:
            view = self.data.draw(self.modality, len(rows), noise.first)
        with self.fast.autocast(self.data.device):
            inputs = self.data.batch(self.modality, self.parts(rows), cut_view(view))
            return look(self.model, inputs, noise.theirs, self.views, len(rows))

    def prepare(self) -> None:
        """Nothing is computed once: every step changes the network."""

    def expect(self, batches: list[torch.Tensor]) -> None:
        self.data.expect(self.modality, self.parts.expect(batches), id(self))


def seat_teacher(
    config: RunConfig,
    data: PairedData,
    model: nn.Module,
    augments: bool,
    method: Method,
    fast: Fast,
    shared: Shared | None = None,
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
        fast=fast,
        shared=shared,
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
    return order.to(data.rows["train"].device)

"""One student with its method and its teacher: what a step of training computes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from fdlab.core.config import RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.methods.base import FRESH, TUNED, Batch, LossTerms, Sizes, build_method
from fdlab.methods.pixels import find_pixels, fold
from fdlab.models.build import build_model, load_weights, place
from fdlab.models.output import ModelOutput, describe
from fdlab.models.precision import widen
from fdlab.training.evaluate import Learner
from fdlab.training.fast import Fast, choose_fast, without
from fdlab.training.graphs import Compiled
from fdlab.training.teacher import Noise, Peer, Shared, Teacher, look, seat_teacher


class Trainer:
    """One student, its method and its teacher, ready to take steps.

    learner: what trains. read_teacher: rows → the teacher's output, None without one. progress: see
    `Batch`; a scalar tensor where steps are to be recorded, as is the optimiser's learning rate.
    shared: see `Teacher`.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PairedData,
        teacher_model: nn.Module | None,
        device: torch.device,
        fast: Fast | None = None,
        shared: Shared | None = None,
    ):
        self.config, self.data, self.device = config, data, device
        self.fast = fast = choose_fast(device, config.train) if fast is None else fast
        self.learner = _build_learner(config, data, teacher_model, device, fast)
        method = self.learner.method
        self.read_teacher: Teacher | Peer | None = None
        self.shares = False
        if teacher_model is not None:
            augments = _augments(config, data, config.teacher)
            self.shares = data.share_view(config.student, config.teacher)
            if data.masks is not None:
                _require_same_pixels(config, data, self.shares)
            if self.learner.peer is None:
                self.read_teacher = seat_teacher(
                    config, data, teacher_model, augments, method, fast, shared
                )
            else:
                self.read_teacher = Peer(
                    teacher_model, data, config.teacher, augments, method.views, fast
                )
            if shared is None:
                self.read_teacher.prepare()
        self.optimiser = self._build_optimiser()
        self.progress: float | torch.Tensor = 1.0
        if fast.graphs:
            self.progress = torch.ones((), device=device)
        self.augments = _augments(config, data, config.student)
        self.noise = Noise(config.seed, device)
        self.place = data.find_places("train")
        self.network = Compiled(self.learner.student, fast, config.train.batch_size)
        self.tally = Tally()

    def look(
        self, rows: torch.Tensor, step: int | None = None
    ) -> tuple[ModelOutput, ModelOutput | None, torch.Tensor]:
        """The student's and the teacher's outputs for some training rows, augmented, and what the
        student learns to say of what it sees (`PairedData.targets`). step: its number, where others
        that train in step have the same rows."""
        modality, view = self.config.student, None
        if self.augments:
            view = self.data.draw(modality, len(rows), self.noise.first)
        views = self.learner.method.views
        inputs = self.data.batch(modality, rows, view)
        output = look(self.network, inputs, self.noise, views)
        targets = self.data.targets(modality, rows, view)
        if self.read_teacher is None:
            return output, None, targets
        shared = None
        if view is not None and self.shares and self.read_teacher.augments:  # as released
            shared = self.data.complete_view(view, self.config.teacher, self.noise.first)
        key = None if step is None else (self.config.seed, modality, step)
        return output, self.read_teacher(rows, self.noise, shared, key), targets

    def compare(
        self, rows: torch.Tensor, step: int | None = None
    ) -> tuple[LossTerms, ModelOutput, ModelOutput | None, Batch]:
        """The loss terms of some training rows, and what they were computed from; no terms where
        there is nothing to learn from them."""
        with self.fast.autocast(self.device):
            mine, theirs, targets = self.look(rows, step)
            batch = Batch(targets, self.place[rows], self.progress)
            if self.data.masks is not None:
                mine, theirs, batch = self._fold(mine, theirs, batch)
                if not len(batch.labels):
                    return {}, mine, theirs, batch  # not one pixel of these has a class
            return self.learner.method(mine, theirs, batch), mine, theirs, batch

    def _fold(
        self, mine: ModelOutput, theirs: ModelOutput | None, batch: Batch
    ) -> tuple[ModelOutput, ModelOutput | None, Batch]:
        """Images as their pixels, see `fdlab.methods.pixels`."""
        sizes = self.learner.method.sizes
        (last,) = sizes.student.pick("last")
        pixels = find_pixels(mine, batch.labels, last)
        if theirs is not None:
            theirs = fold(theirs, pixels, *sizes.teacher.pick("last"))
        return fold(mine, pixels, last), theirs, replace(batch, labels=pixels.labels, pixels=pixels)

    def update(self, terms: LossTerms) -> None:
        """One step down the sum of the terms."""
        loss = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        first = not self.optimiser.state
        try:
            self.optimiser.step()
        except RuntimeError as error:
            if not (self.fast.fused and first):
                raise
            self.fast = without(without(self.fast, "fused", str(error)), "graphs", "it needs fused")
            self.optimiser = self._build_optimiser()
            self.optimiser.step()
        self.learner.method.finish()

    def _build_optimiser(self) -> torch.optim.Optimizer:
        parameters = self.learner.parameters()
        return build_optimiser(self.config.train, parameters, self.fast, self.device)

    def step(self, rows: torch.Tensor, number: int | None = None) -> int:
        """Learn from some training rows and keep count; how many samples, or pixels, they were."""
        terms, mine, _, batch = self.compare(rows, number)
        if not terms:
            return 0
        self.update(terms)
        self.tally.add(terms, mine.logits, batch.labels)
        return len(batch.labels)

    def start_epoch(self, rate: float, progress: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if isinstance(self.progress, torch.Tensor):
            self.progress.fill_(progress)
        else:
            self.progress = progress
        self.learner.train()
        self.tally.clear()


class Tally:
    """Sums over an epoch, kept on the device until the epoch's end, in the same place always."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}

    def clear(self) -> None:
        for value in self.sums.values():
            value.zero_()

    def add(self, terms: LossTerms, logits: torch.Tensor, labels: torch.Tensor) -> None:
        count = len(labels)
        values = {f"loss/{name}": widen(value.detach()) * count for name, value in terms.items()}
        values["train/raw"] = (logits.detach().argmax(dim=1) == labels).sum()
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value)
            self.sums[name] += value

    def read(self, samples: int) -> dict[str, float]:
        names = list(self.sums)
        sums = torch.stack([self.sums[name].double() for name in names]).cpu() / samples
        return dict(zip(names, sums.tolist(), strict=True))


def build_optimiser(
    train: TrainConfig, parameters: list[nn.Parameter], fast: Fast, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, as the recipe says; a teacher that trains too is under its
    student's recipe, as both are one network's in the releases."""
    rate = train.learning_rate
    given = {
        "weight_decay": train.weight_decay,
        "fused" if fast.fused else "foreach": True,
    }
    if fast.graphs:  # a recorded step reads its learning rate from the device
        given["lr"] = torch.tensor(rate, dtype=torch.float32, device=device)
    else:
        given["lr"] = rate
    if train.optimiser == "adam":
        found = torch.optim.Adam(parameters, **given, capturable=fast.graphs)
        found._warned_capturable_if_run_uncaptured = True  # some steps are meant to be plain
        return found
    return torch.optim.SGD(parameters, momentum=train.momentum, **given)


def _require_same_pixels(config: RunConfig, data: PairedData, shared: bool) -> None:
    """Where pixels are compared, both networks have to see the same ones."""
    sizes = [data.sizes[side] for side in (config.student, config.teacher)]
    drawn = any(_augments(config, data, side) for side in (config.student, config.teacher))
    if sizes[0] != sizes[1] or (drawn and not shared):
        raise UserError(
            f"{config.label}: {config.student} {sizes[0]} and {config.teacher} {sizes[1]} are not "
            "seen pixel by pixel alike: expected one size and one kind of augmentation"
        )


def _augments(config: RunConfig, data: PairedData, modality: str) -> bool:
    """Whether a modality's training inputs are random: augmented, or drawn from frames."""
    side = data.store.dataset.modalities[modality]
    return config.train.augment and bool(side.augment or side.frames)


def _build_learner(
    config: RunConfig,
    data: PairedData,
    teacher_model: nn.Module | None,
    device: torch.device,
    fast: Fast,
) -> Learner:
    student = build_model(
        data.store, config.student, width=config.width, seed=config.seed, start=config.start
    )
    if config.weights:
        load_weights(student, config.weights)
    student, rows = place(student, device, fast.channels_last), data.rows["train"]
    sides = ((student, config.student), (teacher_model, config.teacher))
    mine, theirs = (
        None if model is None else describe(model, data.batch(name, rows[:1]))
        for model, name in sides
    )
    sizes = Sizes(mine, theirs, data.store.dataset.classes, data.labels[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "heads"))
        task = data.store.dataset.task
        method = build_method(config.method, config.options, sizes, task)
    peer = teacher_model if method.teaching in (TUNED, FRESH) else None
    return Learner(student, method.to(device), config.student, peer)

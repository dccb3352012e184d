"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
from fdlab.training.evaluate import Learner, score
from fdlab.training.probe import Probe, choose_steps, probe_terms, stack_probes
from fdlab.training.schedules import poly
from fdlab.training.teacher import Noise, Peer, Teacher, look, seat_teacher

Weights = dict[str, torch.Tensor]


@dataclass
class Trained:
    """What a finished training leaves.

    curves: see `RunRecord`. weights, predictions: moment → state dict, and moment/split/head →
    what it says (`evaluate.Predictions`), for the moments "validation" (the epoch with the best raw
    head on the validation split, the first of equals) and "last". chosen: moment → epoch from 1.
    probes: see `RunConfig.probes`; each array of `probe_terms` stacked over the steps, and `step`.
    """

    curves: dict[str, list[float]]
    weights: dict[str, Weights]
    predictions: dict[str, torch.Tensor]
    chosen: dict[str, int]
    parameters: dict[str, int]
    probes: dict[str, torch.Tensor] = field(default_factory=dict)


class Trainer:
    """One student, its method and its teacher, ready to take steps.

    learner: what trains. read_teacher: rows → the teacher's output, None without one.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PairedData,
        teacher_model: nn.Module | None,
        device: torch.device,
    ):
        self.config, self.data = config, data
        self.learner = _build_learner(config, data, teacher_model, device)
        method = self.learner.method
        self.read_teacher: Teacher | Peer | None = None
        self.shares = False
        if teacher_model is not None:
            augments = _augments(config, data, config.teacher)
            self.shares = data.share_view(config.student, config.teacher)
            if data.masks is not None:
                _require_same_pixels(config, data, self.shares)
            if self.learner.peer is None:
                self.read_teacher = seat_teacher(config, data, teacher_model, augments, method)
            else:
                self.read_teacher = Peer(
                    teacher_model, data, config.teacher, augments, method.views
                )
        self.optimiser = build_optimiser(config.train, self.learner.parameters())
        self.augments = _augments(config, data, config.student)
        self.noise = Noise(config.seed, device)
        rows = data.rows["train"]
        self.place = torch.full_like(data.labels, -1)  # row number → place among the training rows
        self.place[rows] = torch.arange(len(rows), device=rows.device)

    def look(self, rows: torch.Tensor) -> tuple[ModelOutput, ModelOutput | None, torch.Tensor]:
        """The student's and the teacher's outputs for some training rows, augmented, and what the
        student learns to say of what it sees (`PairedData.targets`)."""
        modality, view = self.config.student, None
        if self.augments:
            view = self.data.draw(modality, len(rows), self.noise.first)
        views = self.learner.method.views
        inputs = self.data.batch(modality, rows, view)
        output = look(self.learner.student, inputs, self.noise, views)
        targets = self.data.targets(modality, rows, view)
        if self.read_teacher is None:
            return output, None, targets
        shared = None
        if view is not None and self.shares and self.read_teacher.augments:  # as released
            shared = self.data.complete_view(view, self.config.teacher, self.noise.first)
        return output, self.read_teacher(rows, self.noise, shared), targets

    def compare(
        self, rows: torch.Tensor, progress: float = 1.0
    ) -> tuple[LossTerms, ModelOutput, ModelOutput | None, Batch]:
        """The loss terms of some training rows, and what they were computed from; no terms where
        there is nothing to learn from them."""
        mine, theirs, targets = self.look(rows)
        batch = Batch(targets, self.place[rows], progress)
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
        self.optimiser.step()


def train(
    config: RunConfig,
    data: PairedData,
    teacher_model: nn.Module | None,
    device: torch.device,
    report: Callable[[int], None] = lambda epoch: None,
) -> Trained:
    """Train one student by one method; `report` is told of every finished epoch.

    The loop reads nothing back from the device inside an epoch; in segmentation each step waits for
    the number of its labelled pixels. A last batch of a single sample is left out, since batch norm
    has no variance there.
    """
    trainer = Trainer(config, data, teacher_model, device)
    learner = trainer.learner
    order = torch.Generator().manual_seed(derive_seed(config.seed, "order"))
    trained = Trained({}, {}, {}, {}, learner.count_parameters())
    epochs = config.train.epochs
    batches = len(_shuffle(data.rows["train"], config.train.batch_size, torch.Generator()))
    steps = choose_steps(batches * epochs, config.probes)
    probes: dict[int, Probe] = {}
    step = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", config.student))
        for epoch in range(epochs):
            rate = poly(config.train, epoch)
            for group in trainer.optimiser.param_groups:
                group["lr"] = rate
            learner.train()
            tally = _Tally()
            for rows in _shuffle(data.rows["train"], config.train.batch_size, order):
                terms, mine, theirs, batch = trainer.compare(rows, (epoch + 1) / epochs)
                step += 1
                if not terms:
                    continue
                if step - 1 in steps:
                    probes[step - 1] = probe_terms(
                        terms, mine, theirs, list(learner.student.parameters()), learner.last
                    )
                trainer.update(terms)
                tally.add(terms, mine.logits, batch.labels)
            if not tally.samples:
                raise UserError(f"{config.label}: not one training pixel has a class")
            _log_epoch(trained, tally.read() | {"lr": rate}, config)
            _judge(trained, learner, data, last=epoch + 1 == epochs)
            report(epoch + 1)
    trained.probes = stack_probes(probes)
    return trained


class _Tally:
    """Sums over an epoch, kept on the device until the epoch's end."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.samples = 0

    def add(self, terms: dict[str, torch.Tensor], logits: torch.Tensor, labels: torch.Tensor):
        count = len(labels)
        self.samples += count
        values = {f"loss/{name}": value.detach() * count for name, value in terms.items()}
        values["train/raw"] = (logits.detach().argmax(dim=1) == labels).sum()
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self) -> dict[str, float]:
        names = list(self.sums)
        sums = torch.stack([self.sums[name].double() for name in names]).cpu() / self.samples
        return dict(zip(names, sums.tolist(), strict=True))


def build_optimiser(train: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam, as the recipe says; a teacher that trains too is under its
    student's recipe, as both are one network's in the releases."""
    given = {"lr": train.learning_rate, "weight_decay": train.weight_decay, "foreach": True}
    if train.optimiser == "adam":
        return torch.optim.Adam(parameters, **given)
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
    config: RunConfig, data: PairedData, teacher_model: nn.Module | None, device: torch.device
) -> Learner:
    student = build_model(
        data.store, config.student, width=config.width, seed=config.seed, start=config.start
    )
    if config.weights:
        load_weights(student, config.weights)
    student, rows = place(student, device), data.rows["train"]
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


def _shuffle(rows: torch.Tensor, batch: int, order: torch.Generator) -> list[torch.Tensor]:
    shuffled = rows[torch.randperm(len(rows), generator=order).to(rows.device)]
    return [part for part in shuffled.split(batch) if len(part) > 1]


def _log_epoch(trained: Trained, values: dict[str, float], config: RunConfig) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            epoch = len(trained.curves.get("lr", [])) + 1
            raise UserError(
                f"{config.label} diverged: {name} is {value} in epoch {epoch}; "
                f"try a learning rate below {config.train.learning_rate}"
            )
        trained.curves.setdefault(name, []).append(value)


def _judge(trained: Trained, learner: Learner, data: PairedData, last: bool) -> None:
    """Log every head's score; keep weights and predictions of the best epoch and of the last."""
    predictions = learner.predict(data)
    for name, value in score(predictions, data).items():
        trained.curves.setdefault(name, []).append(value)
    history = trained.curves["validation/raw"]
    best = history[-1] > max(history[:-1], default=-1.0)
    for moment, reached in (("validation", best), ("last", last)):
        if reached:
            trained.chosen[moment] = len(history)
            trained.weights[moment] = learner.copy_weights()
            trained.predictions |= {f"{moment}/{k}": v for k, v in predictions.items()}

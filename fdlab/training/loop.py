"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.methods.base import FRESH, TUNED, Batch, LossTerms, Sizes, build_method
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
    (n, K) logits, for the moments "validation" (the epoch with the best raw head on the validation
    split, the first of equals) and "last". chosen: moment → epoch from 1. probes: see
    `RunConfig.probes`; each array of `probe_terms` stacked over the steps, and `step`.
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
        if teacher_model is not None:
            view = _augmentation(config, data, config.teacher)
            if self.learner.peer is None:
                self.read_teacher = seat_teacher(config, data, teacher_model, view, method)
            else:
                self.read_teacher = Peer(teacher_model, data, config.teacher, view, method.views)
        self.optimiser = torch.optim.SGD(
            self.learner.parameters(),
            lr=config.train.learning_rate,
            momentum=config.train.momentum,
            weight_decay=config.train.weight_decay,
            foreach=True,
        )
        self.own = _augmentation(config, data, config.student)
        self.noise = Noise(config.seed, device)
        rows = data.rows["train"]
        self.place = torch.full_like(data.labels, -1)  # row number → place among the training rows
        self.place[rows] = torch.arange(len(rows), device=rows.device)

    def look(self, rows: torch.Tensor) -> tuple[ModelOutput, ModelOutput | None]:
        """The student's and the teacher's outputs for some training rows, augmented."""
        first = self.noise.first
        view = first.get_state() if self.own else None
        inputs = self.data.batch(self.config.student, rows)
        views = self.learner.method.views
        output = look(self.learner.student, inputs, self.own, self.noise, views)
        if self.read_teacher is None:
            return output, None
        if self.own and self.read_teacher.augmentation == self.own:
            first.set_state(view)  # as released: a pair shares one random view
        return output, self.read_teacher(rows, self.noise)

    def compare(
        self, rows: torch.Tensor, progress: float = 1.0
    ) -> tuple[LossTerms, ModelOutput, ModelOutput | None]:
        """The loss terms of some training rows, and what they were computed from."""
        mine, theirs = self.look(rows)
        batch = Batch(self.data.labels[rows], self.place[rows], progress)
        return self.learner.method(mine, theirs, batch), mine, theirs

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

    The loop reads nothing back from the device inside an epoch. A last batch of a single sample is
    left out, since batch norm has no variance there.
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
                terms, mine, theirs = trainer.compare(rows, (epoch + 1) / epochs)
                if step in steps:
                    probes[step] = probe_terms(
                        terms, mine, theirs, list(learner.student.parameters())
                    )
                step += 1
                trainer.update(terms)
                tally.add(terms, mine.logits, data.labels[rows])
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


def _augmentation(config: RunConfig, data: PairedData, modality: str) -> str:
    return data.store.dataset.modalities[modality].augment if config.train.augment else ""


def _build_learner(
    config: RunConfig, data: PairedData, teacher_model: nn.Module | None, device: torch.device
) -> Learner:
    student = build_model(
        data.store, config.student, width=config.width, seed=config.seed, start=config.start
    )
    if config.weights:
        load_weights(student, Path(config.weights))
    student, rows = place(student, device), data.rows["train"]
    sides = ((student, config.student), (teacher_model, config.teacher))
    mine, theirs = (
        None if model is None else describe(model, data.batch(name, rows[:1]))
        for model, name in sides
    )
    sizes = Sizes(mine, theirs, data.store.dataset.classes, data.labels[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "heads"))
        method = build_method(config.method, config.options, sizes)
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
    """Log every head's accuracy; keep weights and predictions of the best epoch and of the last."""
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

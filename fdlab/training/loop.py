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
from fdlab.data.augment import augment
from fdlab.data.paired import PairedData
from fdlab.methods.base import Sizes, build_method
from fdlab.models.build import build_model, load_weights, place
from fdlab.training.evaluate import Learner, score
from fdlab.training.probe import Probe, choose_steps, probe_terms, stack_probes
from fdlab.training.schedules import poly
from fdlab.training.teacher import seat_teacher

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
    learner = _build_learner(config, data, teacher_model, device)
    teacher = None
    if teacher_model is not None:
        view = _augmentation(config, data, config.teacher)
        teacher = seat_teacher(config, data, teacher_model, view)
    optimiser = torch.optim.SGD(
        learner.parameters(),
        lr=config.train.learning_rate,
        momentum=config.train.momentum,
        weight_decay=config.train.weight_decay,
        foreach=True,
    )
    own = _augmentation(config, data, config.student)
    order = torch.Generator().manual_seed(derive_seed(config.seed, "order"))
    noise = torch.Generator(device).manual_seed(derive_seed(config.seed, "augment"))
    trained = Trained({}, {}, {}, {}, learner.count_parameters())
    batches = len(_shuffle(data.rows["train"], config.train.batch_size, torch.Generator()))
    steps = choose_steps(batches * config.train.epochs, config.probes)
    probes: dict[int, Probe] = {}
    step = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", config.student))
        for epoch in range(config.train.epochs):
            rate = poly(config.train, epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            learner.train()
            tally = _Tally()
            for rows in _shuffle(data.rows["train"], config.train.batch_size, order):
                labels = data.labels[rows]
                view = noise.get_state() if own else None
                output = learner.student(augment(own, data.batch(config.student, rows), noise))
                if teacher is not None and own and teacher.augmentation == own:
                    noise.set_state(view)  # as released: a pair shares one random view
                theirs = teacher(rows, noise) if teacher is not None else None
                terms = learner.method(output, theirs, labels)
                if step in steps:
                    own_parameters = list(learner.student.parameters())
                    probes[step] = probe_terms(terms, output, theirs, own_parameters)
                step += 1
                loss = torch.stack(list(terms.values())).sum()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                tally.add(terms, output.logits, labels)
            _log_epoch(trained, tally.read() | {"lr": rate}, config)
            _judge(trained, learner, data, last=epoch + 1 == config.train.epochs)
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
    sizes = Sizes(
        student=student.feature_width,
        teacher=None if teacher_model is None else teacher_model.feature_width,
        classes=data.store.dataset.classes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "heads"))
        method = build_method(config.method, config.options, sizes)
    return Learner(place(student, device), method.to(device), config.student)


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

"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.training.evaluate import Learner, score
from fdlab.training.fast import Fast
from fdlab.training.graphs import Recorder, Rows, read_random, set_random
from fdlab.training.probe import Probe, choose_steps, probe_terms, stack_probes
from fdlab.training.schedules import poly
from fdlab.training.teacher import Shared
from fdlab.training.trainer import Trainer

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


class Course:
    """One run from its first epoch to its last; several may be taken through in step."""

    def __init__(
        self,
        config: RunConfig,
        data: PairedData,
        teacher_model: nn.Module | None,
        device: torch.device,
        report: Callable[[int], None] = lambda epoch: None,
        fast: Fast | None = None,
        shared: Shared | None = None,
    ):
        self.trainer = Trainer(config, data, teacher_model, device, fast, shared or Shared())
        self.config, self.data, self.report = config, data, report
        self.order = torch.Generator().manual_seed(derive_seed(config.seed, "order"))
        self.trained = Trained({}, {}, {}, {}, self.trainer.learner.count_parameters())
        self.size = config.train.batch_size
        self.batches = len(_shuffle(data.rows["train"], self.size, torch.Generator()))
        self.probed = choose_steps(self.batches * config.train.epochs, config.probes)
        self.probes: dict[int, Probe] = {}
        self.epoch = self.step = self.samples = 0
        self.random: list[torch.Tensor] | None = None  # states of the process's generators
        self.error: UserError | None = None

    def start_epoch(self) -> list[torch.Tensor]:
        """Rows of every batch of the next epoch."""
        train = self.config.train
        self.rate, self.samples = poly(train, self.epoch), 0
        self.trainer.start_epoch(self.rate, (self.epoch + 1) / train.epochs)
        batches = _shuffle(self.data.rows["train"], self.size, self.order)
        self.data.expect(self.config.student, batches, id(self))
        if self.trainer.read_teacher is not None:
            self.trainer.read_teacher.expect(batches)
        return batches

    @contextmanager
    def own_random(self, alone: bool) -> Iterator[None]:
        """The process's random numbers, dropout's, as the run finds them that trains alone: seeded
        before its first step, and taken up where its last step left them."""
        if self.random is None:
            torch.manual_seed(derive_seed(self.config.seed, "dropout", self.config.student))
        elif not alone:
            set_random(self.random, self.data.device)
        yield
        self.random = [] if alone else read_random(self.data.device)

    @property
    def is_probed(self) -> bool:
        """Whether the next step's gradients are to be measured."""
        return self.step in self.probed

    def take_step(self, rows: torch.Tensor) -> None:
        trainer = self.trainer
        if not self.is_probed:
            self.note(trainer.step(rows, self.step))
            return
        terms, mine, theirs, batch = trainer.compare(rows, self.step)
        if terms:
            student = trainer.learner.student
            self.probes[self.step] = probe_terms(
                terms, mine, theirs, list(student.parameters()), trainer.learner.last
            )
            trainer.update(terms)
            trainer.tally.add(terms, mine.logits, batch.labels)
        self.note(len(batch.labels) if terms else 0)

    def note(self, samples: int) -> None:
        """A step was taken, here or by replaying it."""
        self.step += 1
        self.samples += samples

    def end_epoch(self) -> None:
        """Log the epoch and judge the student; what is wrong with the run ends it, and only it."""
        self.epoch += 1
        if self.error is None:
            try:
                self._log()
            except UserError as error:
                self.error = error
        self.report(self.epoch)

    def _log(self) -> None:
        if not self.samples:
            raise UserError(f"{self.config.label}: not one training pixel has a class")
        values = self.trainer.tally.read(self.samples) | {"lr": self.rate}
        _log_epoch(self.trained, values, self.config)
        last = self.epoch == self.config.train.epochs
        with self.trainer.fast.autocast(self.data.device):
            _judge(self.trained, self.trainer.learner, self.data, last)

    def finish(self) -> Trained:
        """What the training leaves, or the error that ended it."""
        if self.error is not None:
            raise self.error
        self.trained.probes = stack_probes(self.probes)
        return self.trained


def train(
    config: RunConfig,
    data: PairedData,
    teacher_model: nn.Module | None,
    device: torch.device,
    report: Callable[[int], None] = lambda epoch: None,
    fast: Fast | None = None,
) -> Trained:
    """Train one student by one method; `report` is told of every finished epoch.

    The loop reads nothing back from the device inside an epoch, but for the check of a newly
    recorded step; in segmentation each step waits for the number of its labelled pixels. A last
    batch of a single sample is left out, since batch norm has no variance there. fast: what makes
    it fast, None for what holds on the device.
    """
    course = Course(config, data, teacher_model, device, report, fast)
    train_in_step([course])
    return course.finish()


def train_in_step(courses: list[Course]) -> None:
    """Take courses of equal length through their epochs side by side: step by step, all of them.

    Each gives what it gives alone: it has its own order, random numbers and optimiser. On CUDA one
    recorded graph holds a step of all, so that small networks fill the device together. One that
    diverges leaves the others alone; `Course.finish` raises its error.
    """
    first = courses[0]
    lengths = {(course.batches, course.size, course.config.train.epochs) for course in courses}
    if len(lengths) > 1:
        raise UserError(
            "runs that train in step need equal numbers of batches, batch sizes and epochs, "
            f"found {sorted(lengths)}"
        )
    fast, device = first.trainer.fast, first.data.device

    def walk(rows: Rows) -> None:
        for course, own in zip(courses, rows, strict=True):
            with course.own_random(alone=len(courses) == 1):
                course.take_step(own)

    take_step = Recorder(courses, walk).take_step if fast.graphs else walk
    kept = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with fast.running(device), kept:
        for course in courses:
            if course.trainer.read_teacher is not None:
                course.trainer.read_teacher.prepare()
        for _ in range(first.config.train.epochs):
            for rows in zip(*[course.start_epoch() for course in courses], strict=True):
                take_step(rows)
            for course in courses:
                course.end_epoch()
            if all(course.error for course in courses):
                break


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

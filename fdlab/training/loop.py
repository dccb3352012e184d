"""The one training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fdlab.core import processes
from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.methods.base import LossTerms
from fdlab.models.output import ModelOutput
from fdlab.training.evaluate import Learner, score
from fdlab.training.fast import Fast
from fdlab.training.graphs import Recorder, Rows
from fdlab.training.probe import Probe, choose_steps, probe_terms, stack_probes
from fdlab.training.schedules import find_rate, is_stepwise
from fdlab.training.state import (
    Named,
    are_finite,
    find_generators,
    list_tensors,
    put_tensors,
    read_random,
    set_generator,
    set_random,
)
from fdlab.training.teacher import Shared
from fdlab.training.trainer import NotFinite, Trainer

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
    """One run from its first epoch to its last; several may be taken through in step.

    skipped: steps that were left out, see `TrainConfig.on_nonfinite`. checkpoint: the last one that
    was written, or gone on from.
    """

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
        if config.probes and processes.count() > 1:
            raise UserError(
                f"{config.label} measures gradients at {config.probes} steps: expected 0 where "
                f"{processes.count()} processes train together"
            )
        self.trainer = Trainer(config, data, teacher_model, device, fast, shared or Shared())
        self.config, self.data, self.report = config, data, report
        self.order = torch.Generator().manual_seed(derive_seed(config.seed, "order"))
        self.shuffled = self.order.get_state()  # before the epoch at hand was shuffled
        self.trained = Trained({}, {}, {}, {}, self.trainer.learner.count_parameters())
        self.size = config.train.batch_size
        self.batches = len(_shuffle(data.rows["train"], self.size, torch.Generator()))
        self.steps = self.batches * config.train.epochs
        self.probed = choose_steps(self.steps, config.probes)
        self.probes: dict[int, Probe] = {}
        self.epoch = self.step = self.skipped = 0
        # States of the process's generators: None before the first step, empty where they are the
        # process's at the moment.
        self.random: list[torch.Tensor] | None = None
        self.pending: Named = {}  # sums of an epoch that is gone on with
        self.error: UserError | None = None
        self.checkpoint: Path | None = None

    @property
    def place(self) -> str:
        """'step 37 of 480 (epoch 2 of 16)'."""
        epoch = min(self.epoch + 1, self.config.train.epochs)
        return f"step {self.step} of {self.steps} (epoch {epoch} of {self.config.train.epochs})"

    def start_epoch(self) -> list[torch.Tensor]:
        """Rows of every batch that is left of the next epoch."""
        train = self.config.train
        self.rate = find_rate(train, self.epoch)
        self.trainer.start_epoch(self.rate, (self.epoch + 1) / train.epochs)
        put_tensors(self.trainer, "sums", self.pending)
        self.pending = {}
        self.shuffled = self.order.get_state()
        batches = _shuffle(self.data.rows["train"], self.size, self.order)
        batches = batches[self.step - self.epoch * self.batches :]
        self.trainer.expect(batches)
        return batches

    @contextmanager
    def own_random(self, alone: bool) -> Iterator[None]:
        """The process's random numbers, dropout's, as the run finds them that trains alone: seeded
        before its first step, and taken up where its last step left them."""
        if self.random is None:
            parts = (self.config.seed, "dropout", self.config.student)
            if processes.rank():  # other masks for other parts of a batch
                parts += (processes.rank(), self.step)
            torch.manual_seed(derive_seed(*parts))
        elif self.random:
            set_random(self.random, self.data.device)
        yield
        self.random = [] if alone else read_random(self.data.device)

    @property
    def is_probed(self) -> bool:
        """Whether the next step's gradients are to be measured."""
        return self.step in self.probed

    def set_rate(self) -> None:
        """The next step's learning rate, where it is not its epoch's."""
        if is_stepwise(self.config.train):
            step = self.step - self.epoch * self.batches
            self.rate = find_rate(self.config.train, self.epoch, step, self.batches)
            self.trainer.set_rate(self.rate)

    def take_step(self, rows: torch.Tensor) -> None:
        """One step; of a run that has failed only the number."""
        if self.error is None:
            try:
                self.trainer.step(rows, self.step, self._probe if self.is_probed else None)
            except NotFinite as broken:
                self._fail(f"loss/{broken}", self.step + 1)
        self.note()

    def _probe(self, terms: LossTerms, mine: ModelOutput, theirs: ModelOutput | None) -> None:
        learner = self.trainer.learner
        parameters = list(learner.student.parameters())
        self.probes[self.step] = probe_terms(terms, mine, theirs, parameters, learner.last)

    def note(self) -> None:
        """A step was taken, here or by replaying it."""
        self.step += 1

    def look(self) -> None:
        """Read back whether every loss of this epoch, and every weight, is finite so far; what is
        not ends the run."""
        broken = processes.share(self.trainer.tally.find_broken())
        finite = processes.share(are_finite(self.trainer))
        if self.error is not None:
            return
        if broken:
            self._fail(f"loss/{broken[0]}", self.epoch * self.batches + broken[1])
        elif not finite:  # where a finite loss had another gradient
            self._fail("a weight", self.step)

    def _fail(self, what: str, step: int) -> None:
        train = self.config.train
        held = f"the last good checkpoint is {self.checkpoint}"
        self.error = UserError(
            f"{self.config.label} diverged: {what} is not finite at step {step} of "
            f"{self.steps} (epoch {(step - 1) // self.batches + 1} of {train.epochs}); "
            f"{held if self.checkpoint else 'there is no checkpoint before it'}; try a learning "
            f"rate below {train.learning_rate}, or --on-nonfinite skip"
        )

    def end_epoch(self) -> None:
        """Log the epoch and judge the student; what is wrong with the run ends it, and only it."""
        self.look()
        self.epoch += 1
        if self.error is None:
            try:
                self._log()
            except UserError as error:
                self.error = error
        self.report(self.epoch)

    def _log(self) -> None:
        tally = self.trainer.tally
        self.skipped += tally.count_skipped()
        values = tally.read()
        if values is None:
            why = "not one training pixel has a class"
            if tally.count_skipped():
                why = f"no step of epoch {self.epoch} was finite, all were skipped"
            raise UserError(f"{self.config.label}: {why}")
        for name, value in (values | {"lr": self.rate}).items():
            self.trained.curves.setdefault(name, []).append(value)
        last = self.epoch == self.config.train.epochs
        with self.trainer.fast.autocast(self.data.device):
            _judge(self.trained, self.trainer.learner, self.data, last)

    def finish(self) -> Trained:
        """What the training leaves, or the error that ended it."""
        if self.error is not None:
            raise self.error
        self.trained.probes = stack_probes(self.probes)
        return self.trained

    def save(self) -> tuple[Named, dict[str, Any]]:
        """Everything that the next step needs: tensors by name, and what fits into JSON.

        Names: `<kind>/<name>` for the kinds of `state.KINDS`; `random/<generator>`, `order` that of
        the epoch at hand, from before its shuffle; `process/<i>`; `best/<moment>/<weight>`,
        `said/<prediction>`, `probes/<step>/<name>`.
        """
        found: Named = {}
        for kind, live in list_tensors(self.trainer).items():
            found |= {f"{kind}/{name}": x for name, x in live.items()}
        found["random/order"] = self.shuffled
        for name, generator in find_generators(self).items():
            found[f"random/{name}"] = generator.get_state()
        process = read_random(self.data.device) if self.random == [] else self.random
        found |= {f"process/{place}": state for place, state in enumerate(process or [])}
        for moment, weights in self.trained.weights.items():
            found |= {f"best/{moment}/{name}": x for name, x in weights.items()}
        found |= {f"said/{name}": x for name, x in self.trained.predictions.items()}
        for step, probe in self.probes.items():
            found |= {f"probes/{step}/{name}": x for name, x in probe.items()}
        return found, {
            "step": self.step,
            "epoch": self.epoch,
            "skipped": self.skipped,
            "curves": self.trained.curves,
            "chosen": self.trained.chosen,
        }

    def load(self, tensors: Named, state: dict[str, Any]) -> None:
        """Go on from what `save` gave, before the first step is taken."""
        device = self.data.device
        found: dict[str, Named] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            found.setdefault(kind, {})[rest] = value
        live = list_tensors(self.trainer)
        for kind in ("weights", "buffers", "optimiser"):
            values = found.get(kind, {})
            if kind != "optimiser" and values.keys() != live[kind].keys():
                apart = sorted(values.keys() ^ live[kind].keys())
                raise UserError(f"{self.config.label}: its checkpoint has other {kind}: {apart[0]}")
            put_tensors(self.trainer, kind, values)
        self.pending = found.get("sums", {})
        for name, value in found["random"].items():
            if name == "order":
                self.order.set_state(value)
            else:
                set_generator(self, name, value)
        process = found.get("process", {})
        if (
            processes.rank() == 0
        ):  # whose numbers they are; others begin anew from the step's number
            self.random = [process[str(place)] for place in range(len(process))] or None
        for name, value in found.get("best", {}).items():
            moment, weight = name.split("/", 1)
            self.trained.weights.setdefault(moment, {})[weight] = value.to(device)
        self.trained.predictions = {k: v.to(device) for k, v in found.get("said", {}).items()}
        for name, value in found.get("probes", {}).items():
            step, part = name.split("/", 1)
            self.probes.setdefault(int(step), {})[part] = value.to(device)
        self.probes = dict(sorted(self.probes.items()))  # a file has them by name
        self.step, self.epoch, self.skipped = state["step"], state["epoch"], state["skipped"]
        self.trained.curves, self.trained.chosen = state["curves"], state["chosen"]


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


def train_in_step(courses: list[Course], rest: Callable[[], None] = lambda: None) -> None:
    """Take courses of equal length through their epochs side by side: step by step, all of them.

    rest: is called after every step, and may end the training by an exception.

    Each gives what it gives alone: it has its own order, random numbers and optimiser. On CUDA one
    recorded graph holds a step of all, so that small networks fill the device together. One that
    diverges leaves the others alone; `Course.finish` raises its error.
    """
    first = courses[0]
    lengths = {(c.batches, c.size, c.config.train.epochs, c.step) for c in courses}
    if len(lengths) > 1:
        raise UserError(
            "runs that train in step need equal numbers of batches, batch sizes, epochs and steps "
            f"taken, found {sorted(lengths)}"
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
        for _ in range(first.epoch, first.config.train.epochs):
            for rows in zip(*[course.start_epoch() for course in courses], strict=True):
                for course in courses:
                    course.set_rate()
                take_step(rows)
                rest()
            for course in courses:
                course.end_epoch()
            if all(course.error for course in courses):
                break


def _shuffle(rows: torch.Tensor, batch: int, order: torch.Generator) -> list[torch.Tensor]:
    shuffled = rows[torch.randperm(len(rows), generator=order).to(rows.device)]
    return [part for part in shuffled.split(batch) if len(part) > 1]


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

"""This package's training, timed: epochs through its own loop, and the bare step beneath them."""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from benchmarks.bounds import wait
from benchmarks.shapes import AUDIO, DIRECTIONS, IMAGE, Shape
from fdlab.core.config import RunConfig, TrainConfig
from fdlab.core.device import cores
from fdlab.data.augment import strengthen
from fdlab.data.paired import PairedData
from fdlab.data.store import Store, prepare
from fdlab.methods import METHODS
from fdlab.methods.base import Batch
from fdlab.models.build import place
from fdlab.models.output import ModelOutput
from fdlab.training.ensure import build_untrained
from fdlab.training.fast import Fast, choose_fast
from fdlab.training.loop import Course, train, train_in_step
from fdlab.training.teacher import Shared
from fdlab.training.trainer import Trainer

SEED, TEACHER_SEED = 0, 1
PATIENCE = 900  # seconds that one process waits for the other
WARM = 3  # steps before one is recorded


@dataclass
class Turn:
    """What one contestant did when it was called.

    seconds: direction → one number per epoch (or step), or under "both" where they cannot be told
    apart; samples: what each of these is for. setup: seconds that a training takes once. peak:
    bytes on the device.
    """

    seconds: dict[str, list[float]]
    samples: int
    setup: float | None = None
    peak: int | None = None


@dataclass
class Case:
    """A shape's store, opened for training on a device."""

    shape: Shape
    store: Store
    device: torch.device
    teachers: dict[str, nn.Module] = field(default_factory=dict)  # by modality
    held: dict[bool, PairedData] = field(default_factory=dict)  # by whether it is resident

    @classmethod
    def open(cls, shape: Shape, device: torch.device) -> Case:
        """A case with its teachers: networks as initialised, their batch norm settled."""
        case = cls(shape, prepare(f"bench_{shape.name}"), device)
        data = case.load()
        for name in (AUDIO, IMAGE):
            case.teachers[name] = build_untrained(case.store, data, name, shape.width, TEACHER_SEED)
        return case

    def load(self, resident: bool = True) -> PairedData:
        """The data set on its device, or streamed to it; kept, as all contestants read the same."""
        if resident not in self.held:
            self.held[resident] = PairedData.load(
                self.store, [AUDIO, IMAGE], self.device, self.shape.side, resident
            )
        return self.held[resident]

    def configure(self, direction: str, method: str = "fdcmkd", epochs: int = 1) -> RunConfig:
        teacher, student = DIRECTIONS[direction]
        needs = bool(METHODS[method].needs)
        shape = self.shape
        recipe = TrainConfig(
            epochs=epochs,
            batch_size=shape.batch,
            learning_rate=shape.learning_rate,
            side=shape.side,
        )
        return RunConfig(
            dataset=self.store.manifest["name"],
            student=student,
            teacher=teacher if needs else None,
            method=method,
            seed=SEED,
            teacher_seed=TEACHER_SEED if needs else None,
            width=shape.width,
            train=recipe,
        )

    def copy_teacher(self, direction: str, fast: Fast, method: str = "fdcmkd") -> nn.Module | None:
        """A teacher of a run's own, as runs freeze it."""
        if not METHODS[method].needs:
            return None
        own = copy.deepcopy(self.teachers[DIRECTIONS[direction][0]])
        own = own.to(memory_format=torch.contiguous_format)
        return place(own, self.device, fast.channels_last)

    def build_trainer(self, direction: str, fast: Fast, method: str = "fdcmkd") -> Trainer:
        data = self.load(fast.resident)
        teacher = self.copy_teacher(direction, fast, method)
        return Trainer(self.configure(direction, method), data, teacher, self.device, fast)


def time_training(
    case: Case, fast: Fast, epochs: int, method: str = "fdcmkd", judged: bool = True
) -> Turn:
    """Both directions one after the other, each a training of 1 + `epochs` epochs, whose first is
    not timed: it holds what comes once. judged: False to leave the evaluation out (but for two
    events of each part)."""
    turn = Turn({}, case.shape.samples, 0.0)
    for direction in DIRECTIONS:
        data = case.load(fast.resident)
        if not judged:
            data = replace(
                data, rows=data.rows | {s: data.rows[s][:2] for s in ("validation", "test")}
            )
        with peak_of(case.device, data) as peak:
            setup, turn.seconds[direction] = time_epochs(
                case.configure(direction, method, epochs + 1),
                data,
                case.copy_teacher(direction, fast, method),
                fast,
            )
        turn.setup += setup
        turn.peak = max(turn.peak or 0, peak[0]) or None
    return turn


def time_epochs(
    config: RunConfig,
    data: PairedData,
    teacher: nn.Module | None,
    fast: Fast,
    after_first: Callable[[], object] = lambda: None,
) -> tuple[float, list[float]]:
    """Seconds of what comes once, and of every epoch after the first.

    after_first: called when the first epoch is done, before the clock goes on.
    """
    clock = Clock(data.device, after_first)
    train(config, data, teacher, data.device, clock.note, fast)
    return clock.read()


class Clock:
    """Takes the time of a training's epochs, from its making on; `note` is told of each."""

    def __init__(self, device: torch.device, after_first: Callable[[], object] = lambda: None):
        self.device, self.after_first = device, after_first
        wait(device)
        self.start, self.spans = time.perf_counter(), []

    def note(self, epoch: int) -> None:
        wait(self.device)
        self.spans.append(time.perf_counter() - self.start)
        if epoch == 1:
            self.after_first()
        self.start = time.perf_counter()

    def read(self) -> tuple[float, list[float]]:
        """Seconds of what comes once, at least 0, and of every epoch after the first."""
        first, *others = self.spans
        return max(0.0, first - statistics.median(others)), others


def time_pack(case: Case, fast: Fast, size: int, epochs: int) -> tuple[float, list[float]]:
    """Like `time_epochs`, of `size` students in step: both directions in turn, two to a seed, each
    with a teacher of its own, as in a suite. Of a single one the mean of the two directions."""
    if size == 1:
        turn = time_training(case, fast, epochs)
        return turn.setup / 2, [sum(pair) / 2 for pair in zip(*turn.seconds.values(), strict=True)]
    clock, courses = Clock(case.device), []
    for number in range(size):
        direction = list(DIRECTIONS)[number % 2]
        config = replace(case.configure(direction, epochs=epochs + 1), seed=number // 2)
        told = clock.note if number + 1 == size else lambda epoch: None
        courses.append(
            Course(
                config,
                case.load(fast.resident),
                case.copy_teacher(direction, fast),
                case.device,
                told,
                fast,
                Shared(),
            )
        )
    train_in_step(courses)
    for course in courses:
        course.finish()
    return clock.read()


@contextmanager
def peak_of(device: torch.device, data: PairedData | None = None):
    """A list that holds, after the block, the most bytes that it had on a CUDA device beside what
    lay there before, with the data set's own where it is resident; 0 elsewhere, where processes and
    contestants share their memory."""
    found = [0]
    if device.type != "cuda":
        yield found
        return
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    own = [] if data is None else [x for x in data.inputs.values() if isinstance(x, torch.Tensor)]
    yield found
    wait(device)
    found[0] = torch.cuda.max_memory_allocated(device) - before
    found[0] += sum(x.numel() * x.element_size() for x in own)


class BareStep:
    """A student's step on one batch that lies on the device: forward and backward, the loss and
    the optimiser. Nothing is read, augmented, counted or judged.

    The teacher's forward pass is part of it where its input is augmented and its output can be no
    other epoch's; else the output lies there too. With `fast.graphs` the step is recorded once and
    replayed.
    """

    def __init__(self, trainer: Trainer, fast: Fast):
        self.trainer, self.fast = trainer, fast
        data, config, reader = trainer.data, trainer.config, trainer.read_teacher
        self.device, self.samples = data.device, config.train.batch_size
        rows = data.rows["train"][: self.samples]

        def look(modality: str, augments: bool) -> torch.Tensor:
            view = data.draw(modality, len(rows), trainer.noise.first) if augments else None
            return data.batch(modality, rows, view)

        self.inputs = look(config.student, trainer.augments)
        self.theirs: ModelOutput | None = None
        self.teacher_inputs: torch.Tensor | None = None
        if reader is not None and reader.cache is not None:
            self.theirs = reader(rows, trainer.noise)
        elif reader is not None:
            self.teacher_inputs = look(config.teacher, reader.augments)
        self.strong = self.teacher_strong = None
        if trainer.learner.method.views > 1:
            self.strong = strengthen(self.inputs, trainer.noise.second)
            if self.teacher_inputs is not None:
                self.teacher_strong = strengthen(self.teacher_inputs, trainer.noise.theirs)
        self.batch = Batch(data.labels[rows.to(data.labels.device)], trainer.place[rows])
        trainer.learner.train()
        self.graph: torch.cuda.CUDAGraph | None = None
        if fast.graphs:
            with fast.running(self.device):
                self._record()

    def step(self) -> None:
        """The operations of a step, one by one."""
        trainer = self.trainer
        with self.fast.autocast(self.device):
            mine, theirs = trainer.network(self.inputs), self.theirs
            if self.strong is not None:
                mine.second = trainer.network(self.strong)
            if self.teacher_inputs is not None:
                reader = trainer.read_teacher
                with torch.no_grad():
                    theirs = reader.model(self.teacher_inputs).keep(reader.maps)
                    if self.teacher_strong is not None:
                        theirs.second = reader.model(self.teacher_strong).keep(reader.maps)
            terms = trainer.learner.method(mine, theirs, self.batch)
        trainer.update(terms)

    def __call__(self) -> None:
        if self.graph is None:
            self.step()
        else:
            self.graph.replay()

    def _record(self) -> None:
        main, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self.step()
        main.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph


def time_steps(steps: dict[str, BareStep], count: int) -> Turn:
    """Direction → step; each `count` times without a pause."""
    turn = Turn({}, next(iter(steps.values())).samples)
    for direction, step in steps.items():
        with step.fast.running(step.device):
            step()
            wait(step.device)
            start = time.perf_counter()
            for _ in range(count):
                step()
            wait(step.device)
        turn.seconds[direction] = [(time.perf_counter() - start) / count]
    return turn


class Side:
    """Two processes that train side by side on a CPU, a direction each, as the package's pool does.

    Threads times processes are at most the cores.
    """

    def __init__(self, shape: Shape):
        context = multiprocessing.get_context("spawn")
        self.samples, self.batch = shape.samples, shape.batch
        barrier = context.Barrier(len(DIRECTIONS))
        self.lines, self.processes = [], []
        for direction in DIRECTIONS:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, barrier, shape, direction), daemon=True
            )
            process.start()
            theirs.close()
            self.lines.append(ours)
            self.processes.append(process)
        for line in self.lines:
            line.recv()  # ready

    def ask(self, work: str, count: int) -> float:
        """Seconds per epoch or step of both, from the first one's start to the last one's end."""
        for line in self.lines:
            line.send((work, count))
        spans = [line.recv() for line in self.lines]
        return (max(end for _, end in spans) - min(start for start, _ in spans)) / count

    def time_training(self, epochs: int) -> Turn:
        return Turn({"both": [self.ask("train", epochs)]}, self.samples)

    def time_steps(self, count: int) -> Turn:
        return Turn({"both": [self.ask("step", count)]}, self.batch)

    def close(self) -> None:
        for line in self.lines:
            line.send(None)
        for process in self.processes:
            process.join(10)


def _serve(line, barrier, shape: Shape, direction: str) -> None:
    """One of the two processes: answers with the start and end of what was asked for."""
    torch.set_num_threads(max(1, cores() // len(DIRECTIONS)))
    device = torch.device("cpu")
    case = Case.open(shape, device)
    fast = choose_fast(device, edits="")
    step = BareStep(case.build_trainer(direction, fast), fast)
    line.send("ready")
    while (asked := line.recv()) is not None:
        work, count = asked
        meet = partial(barrier.wait, PATIENCE)
        if work == "train":
            start: list[float] = []

            def begin(meet=meet, start=start) -> None:
                meet()
                start.append(time.perf_counter())

            config = case.configure(direction, epochs=count + 1)
            teacher = case.copy_teacher(direction, fast)
            time_epochs(config, case.load(), teacher, fast, begin)
            line.send((start[0], time.perf_counter()))
        else:
            meet()
            begun = time.perf_counter()
            for _ in range(count):
                step()
            line.send((begun, time.perf_counter()))

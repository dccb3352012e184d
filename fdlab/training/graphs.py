"""A training step as one recorded CUDA graph, and networks through `torch.compile`."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from fdlab.models.output import ModelOutput
from fdlab.training.fast import Fast, tell
from fdlab.training.state import Snapshot, find_generators

if TYPE_CHECKING:
    from fdlab.training.loop import Course

WARM = 3  # plain steps before recording: libraries choose their routines, optimisers their state
CHECKED = 2  # replayed steps that are also taken plainly; two, so that nothing stale passes
APART = 0.1  # of a step's length, by which the two may differ: sums in another order, rounded
RECORDED = -1  # a step's number while it is recorded: no other has it, so nothing of it is kept

Rows = tuple[torch.Tensor, ...]  # one batch of row numbers per course


class Recorder:
    """Steps of courses that train side by side: the first ones plain, then recorded and replayed.

    One graph holds a step of all courses, each on a stream of its own, so that their kernels run
    at the same time. Batches of another size, and steps whose gradients are measured, are taken
    plainly. The first replays are compared with plain steps from the same state. Whatever cannot be
    recorded, or differs, is said in one line, and all steps are plain from there on. walk: takes a
    plain step of every course.
    """

    def __init__(self, courses: list[Course], walk: Callable[[Rows], None]):
        self.courses, self.walk = courses, walk
        self.device = courses[0].data.device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.why = find_obstacle(courses)  # not to record; "" for none
        self.warm, self.checks = WARM, CHECKED
        if self.why:
            tell(f"graphs is off: {self.why}")
            return
        self.rows = [
            torch.zeros(course.size, dtype=torch.int64, device=self.device) for course in courses
        ]
        self.streams = [torch.cuda.Stream(self.device) for _ in courses]

    def take_step(self, rows: Rows) -> None:
        whole = all(len(own) == c.size for own, c in zip(rows, self.courses, strict=True))
        if self.why or not whole or any(course.is_probed for course in self.courses):
            self.walk(rows)
        elif self.warm:
            self.warm -= 1
            self._warm_up(rows)
        else:
            if self.graph is None:
                self._record()
            if self.why:
                self.walk(rows)
            elif self.checks:
                self.checks -= 1
                self._check(rows)
            else:
                self._replay(rows)
                for course in self.courses:
                    course.note()

    def _warm_up(self, rows: Rows) -> None:
        stream, main = self.streams[0], torch.cuda.current_stream(self.device)
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            self.walk(rows)
        main.wait_stream(stream)

    def _record(self) -> None:
        if not all(course.trainer.fast.graphs for course in self.courses):
            self._give_up("not every step's optimiser is fused")
            return
        try:
            self.graph = self._capture()
        except Exception as error:  # whatever a method does that a graph cannot hold
            while error.__context__ is not None:  # the end of a broken recording fails as well
                error = error.__context__
            self._give_up(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record a step from the buffers of rows; nothing of it runs."""
        graph = torch.cuda.CUDAGraph()
        for course in self.courses:
            for generator in find_generators(course).values():
                graph.register_generator_state(generator)
        main, stream = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        torch.cuda.synchronize(self.device)
        gc.collect()
        torch.cuda.empty_cache()
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            graph.capture_begin()
            try:
                self._take_apart(stream)
            finally:
                graph.capture_end()
        main.wait_stream(stream)
        return graph

    def _take_apart(self, stream: torch.cuda.Stream) -> None:
        """Every course's step on a stream of its own, which come together again."""
        parted = []
        try:
            for course, rows, own in zip(self.courses, self.rows, self.streams, strict=True):
                own.wait_stream(stream)
                parted.append(own)
                with torch.cuda.stream(own):
                    course.trainer.step(rows, RECORDED)
        finally:
            for own in parted:
                stream.wait_stream(own)

    def _replay(self, rows: Rows) -> None:
        for held, own in zip(self.rows, rows, strict=True):
            held.copy_(own)
        self.graph.replay()

    def _check(self, rows: Rows) -> None:
        """Replay the step, go back, take it plainly, and compare where the two ended."""
        before = Snapshot(self.courses)
        self._replay(rows)
        replayed = Snapshot(self.courses)
        before.restore()
        self.walk(rows)
        plain = Snapshot(self.courses)
        for kind in plain.values:
            apart, length = plain.measure(replayed, kind), plain.measure(before, kind)
            if math.isfinite(length) and not apart <= APART * length:
                self._give_up(f"a replayed step leaves the {kind} {apart:.2g} from where a plain "
                              f"step of length {length:.2g} leaves them")  # fmt: skip
                return

    def _give_up(self, why: str) -> None:
        self.graph, self.why = None, why
        tell(f"graphs is off for {self.courses[0].config.label}: {why}")


def find_obstacle(courses: list[Course]) -> str:
    """Why a step of these cannot be recorded, as far as is known before; "" where it can."""
    if any(course.data.masks is not None for course in courses):
        return "a step of segmentation waits for the number of its labelled pixels"
    if not all(course.data.is_resident for course in courses):
        return "the data set does not fit on the device"
    networks = [part for course in courses for part in course.trainer.learner.parts.values()]
    if len(courses) > 1 and any(map(draws, networks)):
        return "networks with dropout that train side by side draw from one generator"
    return ""


def draws(network: nn.Module) -> bool:
    """Whether a network's forward pass in training mode is random."""
    return any(
        getattr(part, "p", 0) > 0 if "Dropout" in type(part).__name__ else False
        for part in network.modules()
    )


class Compiled:
    """A student's network through `torch.compile`, for batches of one size; for others, and where
    compiling fails, which is said in one line, as it is."""

    def __init__(self, model: nn.Module, fast: Fast, size: int):
        self.model, self.size = model, size
        self.compiled = torch.compile(model, dynamic=False) if fast.compile else None

    def __call__(self, inputs: torch.Tensor) -> ModelOutput:
        if self.compiled is None or len(inputs) != self.size:
            return self.model(inputs)
        try:
            return self.compiled(inputs)
        except Exception as error:  # of many kinds, depending on what is missing
            self.compiled = None
            reason = next(iter(str(error).splitlines()), "")
            tell(f"compile is off: {type(error).__name__}: {reason}")
            return self.model(inputs)

"""What a method's training costs, beside training without distillation, measured in one run."""

from __future__ import annotations

import gc
import os
import statistics
from dataclasses import dataclass, replace

import torch

from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_threads, measure
from fdlab.core.estimate import Estimate
from fdlab.data.paired import PairedData
from fdlab.studies.plan import Plan
from fdlab.studies.stats import average_seeds
from fdlab.training.ensure import load_teacher
from fdlab.training.runs import complete, find_run_task
from fdlab.training.trainer import Trainer

ROUNDS = 4  # of one step each, timed in turn with those of `none`


@dataclass(frozen=True)
class Cost:
    """seconds: of the training steps of one epoch. relative: the same over those of `none`, mean of
    the rounds. bytes: what the training holds at most (parameters, optimiser, teacher and its
    stored outputs, activations, gradients), without the data set; memory: the same over `none`."""

    seconds: float
    relative: Estimate
    bytes: int
    memory: float


def measure_costs(plan: Plan, configs: dict[str, RunConfig]) -> dict[str, Cost]:
    """Method → cost, of configurations that share a student; trained teachers are found or made.

    Each method's steps alternate with those of `none`, so that a slower moment of the machine
    meets both.
    """
    device = choose_device(plan.device)
    completed = {name: complete(config) for name, config in configs.items()}
    first = next(iter(completed.values()))
    sides = {side for c in completed.values() for side in (c.student, c.teacher) if side}
    task, side = find_run_task(first), first.train.side
    data = PairedData.load(plan.open_store(), sorted(sides), device, side, task=task)
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count_threads())
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            none = complete(replace(first, method="none", options={}, teacher=None))
            base = _Stepper(none, data, device)
            return {
                name: _compare(_Stepper(config, data, device), base)
                for name, config in completed.items()
            }
    finally:
        torch.set_num_threads(before)


class _Stepper:
    """Trains on the same batch over and over."""

    def __init__(self, config: RunConfig, data: PairedData, device: torch.device):
        self.trainer = Trainer(config, data, load_teacher(config, data)[0], device)
        self.trainer.learner.train()
        self.device = device
        rows, size = data.rows["train"], config.train.batch_size
        self.batch, self.batches = rows[:size], len(rows) / min(size, len(rows))
        self.bytes = self._measure_bytes()  # of the first step, when nothing older is freed
        self.run()

    def run(self) -> float:
        """Seconds of a step, until the device has finished it."""
        with measure(self.device) as spent:
            self.trainer.update(self.trainer.compare(self.batch)[0])
        return spent.seconds

    def _measure_bytes(self) -> int:
        """Parameters, buffers, teacher and its stored outputs, and on top of them what the first
        step allocates at most (activations, gradients, the optimiser's state); the data set is
        left out."""
        trainer = self.trainer
        parts = [*trainer.learner.parts.values(), getattr(trainer.read_teacher, "model", None)]
        parts = [part for part in parts if part is not None]
        held = [x for part in parts for x in (*part.parameters(), *part.buffers())]
        cache = getattr(trainer.read_teacher, "cache", None)
        if cache is not None:
            cache.apply(lambda x: held.append(x) or x)
        unique = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}
        return sum(unique.values()) + self._measure_step()

    def _measure_step(self) -> int:
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            self.run()  # starts the peak anew
            return torch.cuda.max_memory_allocated(self.device) - before
        gc.collect()  # what is freed while the profile runs should be the step's own
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports its start and stop
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            self.run()
        # The running sum of what was allocated and freed, in the order in which it happened.
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        total = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            total += event.nbytes()
            peak = max(peak, total)
        return peak


def _compare(stepper: _Stepper, base: _Stepper) -> Cost:
    pairs = [(base.run(), stepper.run()) for _ in range(ROUNDS)]
    return Cost(
        seconds=statistics.median(own for _, own in pairs) * stepper.batches,
        relative=average_seeds([own / none for none, own in pairs]),
        bytes=stepper.bytes,
        memory=stepper.bytes / base.bytes,
    )

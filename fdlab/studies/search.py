"""A small search of each method's strength and learning rate, the same trials for every method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fdlab.core.config import Direction, RunConfig, TrainConfig
from fdlab.core.seeding import derive_seed
from fdlab.methods import METHODS
from fdlab.methods.base import resolve_method_options
from fdlab.studies.hyperparameters import Setting, choose_options
from fdlab.studies.plan import Plan
from fdlab.training.pool import ensure_runs

STRENGTHS = (0.1, 10.0)  # factors, drawn evenly on the logarithm
RATES = (0.3, 3.0)


@dataclass(frozen=True)
class Trial:
    """One draw: the method's distillation weights times `strength`, the learning rate times `rate`,
    and what came of it on the validation split; chosen: the best of its method, the first of
    equals."""

    direction: str
    method: str
    strength: float
    rate: float
    validation: float
    chosen: bool


def draw_factors(trials: int) -> list[tuple[float, float]]:
    """(strength, rate) of each trial, the same for every method; the first changes nothing."""
    rng = np.random.default_rng(derive_seed(0, "search"))
    spans = [np.log(STRENGTHS), np.log(RATES)]
    drawn = np.exp([[rng.uniform(*span) for span in spans] for _ in range(trials - 1)])
    return [(1.0, 1.0), *(tuple(map(float, pair)) for pair in drawn)]


def configure_trials(
    plan: Plan, way: Direction, methods: list[str], settings: list[Setting], trials: int
) -> dict[tuple[str, int], RunConfig]:
    """(method, trial) → its run, under a seed that the comparison does not use."""
    seed = max(plan.seeds) + 1
    return {
        (method, number): plan.configure(
            way.student, method, way.teacher, seed, **_apply(plan, way, settings, method, factors)
        )
        for method in methods
        for number, factors in enumerate(draw_factors(trials))
    }


def search(
    plan: Plan, way: Direction, methods: list[str], settings: list[Setting], trials: int
) -> tuple[dict[str, dict[str, Any]], list[Trial]]:
    """Method → what its runs are configured with, and every trial.

    Judged by the best validation accuracy of the raw head; the test split is not read. A method
    without a strength to change (`none`) has as many trials, of the learning rate alone.
    """
    configs = configure_trials(plan, way, methods, settings, trials)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    factors, chosen, told = draw_factors(trials), {}, []
    for method in methods:
        found = [max(runs[method, n].record.curves["validation/raw"]) for n in range(trials)]
        best = int(np.argmax(found))
        chosen[method] = _apply(plan, way, settings, method, factors[best])
        told += [
            Trial(str(way), method, *factors[n], 100 * found[n], n == best) for n in range(trials)
        ]
    return chosen, told


def _apply(
    plan: Plan, way: Direction, settings: list[Setting], method: str, factors: tuple[float, float]
) -> dict[str, Any]:
    """Options and recipes under a pair of factors; the teacher's recipe stays the plan's."""
    strength, rate = factors
    task = plan.definition.task
    options = resolve_method_options(method, choose_options(settings, method), task)
    scaled = {name: options[name] * strength for name in METHODS[method].strength}
    usual = plan.configure(way.student, method, way.teacher)
    train = usual.train
    fast, last = train.learning_rate * rate, train.final_learning_rate
    if train.learning_rate == last:  # a fixed rate stays one
        last = fast
    recipe: TrainConfig = replace(train, learning_rate=max(fast, last), final_learning_rate=last)
    return {
        "options": options | scaled,
        "train": recipe,
        "teacher_train": usual.teacher_train or usual.train,
    }

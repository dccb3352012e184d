"""Learning-rate schedules."""

from __future__ import annotations

import math

from fdlab.core.config import TrainConfig

COLD = 0.01  # of the rate, with which a warm-up begins


def find_rate(train: TrainConfig, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Learning rate of a step of an epoch, both counted from 0; steps: those of an epoch.

    final + (initial - final) · (1 - epoch/epochs)^power, as FD-CMKD's released code has it, which
    fixes initial = 0.01 and epochs = 100 whatever is asked for; here both are the run's own. With
    milestones: initial · decay^m, m of them at or before epoch/epochs, so that of 240 epochs and
    0.625 the first 150 have the initial rate (the CIFAR-100 benchmark of Tian et al., 2020).

    Schedule "cosine": final + (initial - final) · (1 + cos(π · share)) / 2, share of all steps. A
    warm-up of w steps multiplies the rate of step s < w by 0.01 + 0.99 · s/w, with any schedule.
    """
    if not 0 <= epoch < train.epochs:
        raise ValueError(f"epoch {epoch} is outside 0 to {train.epochs - 1}")
    taken = epoch * steps + step
    warmth = COLD + (1 - COLD) * taken / train.warm_up if taken < train.warm_up else 1.0
    if train.milestones:
        passed = sum(epoch >= place * train.epochs - 1e-9 for place in train.milestones)
        return warmth * train.learning_rate * train.decay**passed
    left = (1 - epoch / train.epochs) ** train.power
    if train.schedule == "cosine":
        left = (1 + math.cos(math.pi * taken / (train.epochs * steps))) / 2
    span = train.learning_rate - train.final_learning_rate
    return warmth * (train.final_learning_rate + span * left)


def is_stepwise(train: TrainConfig) -> bool:
    """Whether the rate changes within an epoch."""
    return bool(train.warm_up) or (train.schedule == "cosine" and not train.milestones)

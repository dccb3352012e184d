"""Learning-rate schedules."""

from __future__ import annotations

from fdlab.core.config import TrainConfig


def find_rate(train: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch counted from 0.

    final + (initial - final) · (1 - epoch/epochs)^power, as FD-CMKD's released code has it, which
    fixes initial = 0.01 and epochs = 100 whatever is asked for; here both are the run's own. With
    milestones: initial · decay^m, m of them at or before epoch/epochs, so that of 240 epochs and
    0.625 the first 150 have the initial rate (the CIFAR-100 benchmark of Tian et al., 2020).
    """
    if not 0 <= epoch < train.epochs:
        raise ValueError(f"epoch {epoch} is outside 0 to {train.epochs - 1}")
    if train.milestones:
        passed = sum(epoch >= place * train.epochs - 1e-9 for place in train.milestones)
        return train.learning_rate * train.decay**passed
    left = (1 - epoch / train.epochs) ** train.power
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * left

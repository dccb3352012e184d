"""Learning-rate schedules."""

from __future__ import annotations

from fdlab.core.config import TrainConfig


def poly(train: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch counted from 0 (FD-CMKD's released code).

    final + (initial - final) · (1 - epoch/epochs)^power. The release fixes initial = 0.01 and
    epochs = 100 whatever is asked for; here both are the run's own.
    """
    if not 0 <= epoch < train.epochs:
        raise ValueError(f"epoch {epoch} is outside 0 to {train.epochs - 1}")
    left = (1 - epoch / train.epochs) ** train.power
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * left

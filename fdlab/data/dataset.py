"""What a data set is to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Modality:
    """One side of an event.

    model: its network's name in `MODELS`, or "" where the data are features already.
    augment: its augmentation's name in `fdlab.data.augment`, or "" for none.
    """

    model: str
    augment: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set's name, sides and builder.

    options: a frozen dataclass with the builder's options, every one with a default.
    build: (options, workers, progress) → `Built`; progress is called with (done, total).
    directions: teacher to student, those that a comparison runs where none are asked for.
    reports: the data set's name in the published tables, or "" where none reports it.
    """

    name: str
    summary: str
    classes: int
    modalities: dict[str, Modality]
    options: type
    build: Callable[..., Built]
    directions: tuple[str, ...]
    reports: str = ""

    @property
    def is_features(self) -> bool:
        """Whether its rows are feature vectors already, with nothing to train on."""
        return not any(modality.model for modality in self.modalities.values())


@dataclass
class Built:
    """A data set in memory: row i of every array is event i.

    modalities: name → (N, …). labels: (N,) int64. split: (N,) uint8, index into `SPLITS`.
    ids: what each event is made of, name → N strings. extras: further arrays of N rows.
    info: JSON facts for the manifest (vocabulary, rates, what is real and what is synthesised).
    """

    modalities: dict[str, np.ndarray]
    labels: np.ndarray
    split: np.ndarray
    ids: dict[str, list[str]] = field(default_factory=dict)
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict = field(default_factory=dict)

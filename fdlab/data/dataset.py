"""What a data set is to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
TASKS = ("classification", "segmentation", "detection")
SCORED = TASKS[:2]  # whose answers are scores of classes, one row of them per label
METRICS = dict(zip(TASKS, ("accuracy", "mIoU", "mAP50"), strict=True))
IGNORED = 255  # a pixel without a class, in every mask
NOTHING, IGNORE = -1, -2  # classes of a row of boxes that fills up, and of a region left out
# What is read as a picture, whatever its name says; for some other kinds (PostScript) pillow starts
# another program.
PICTURES = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class Modality:
    """One side of an event.

    model: its network's name in `MODELS`, or "" where the data are features already.
    augment: its augmentation's name in `fdlab.data.augment`, or "" for none.
    frames: how many of an event's stored frames a network sees, 0 where there is no frame axis: in
    training drawn at random, one in each of as many equal parts; otherwise the middle of each.
    """

    model: str
    augment: str = ""
    frames: int = 0


@dataclass(frozen=True)
class Dataset:
    """A data set's name, sides, and where its arrays come from.

    options: a frozen dataclass with the builder's options, every one with a default.
    build: (options, workers, progress) → `Built`, for a set that is made here; progress is called
    with (done, total). source: for a set that is read from files (`fdlab.data.listing.Source`);
    its store's manifest then says what the classes, modalities and directions are.
    directions: teacher to student, those that a comparison runs where none are asked for; of one
    modality alone from it to itself, between networks.
    reports: the data set's name in the published tables, or "" where none reports it.
    task: "classification" of events, or "segmentation": the array `mask` holds a class for every
    pixel, or "detection": the array `boxes` (N, B, 5) float32 holds class, x0, y0, x1 and y1 in
    stored pixels, x1 and y1 just behind the last, rows of -1 fill up, and class -2 marks a region
    that counts neither as object nor as none. In both the labels are the kind of scene. It is the
    task of the set's own networks; one for another task can be named where the store holds what it
    learns. scenes: names of the kinds of scene.
    recipes: preset → student's modality, or "" for every one → fields of `TrainConfig` that differ
    from the preset's own; a network's name in a modality's place goes before that. presets:
    preset → width, seeds, directions or pairs, where this set takes fewer than the preset.
    pairs: teacher's network to student's, such as "vgg13-vgg8", those that are compared within the
    set's first modality where none are asked for; of a set with one modality the first pair's
    student is its own network. store: the data set whose store this one reads, where not its own.
    specimens: options → (K, C, H, W) uint8, one clean picture of every class, for a set that can
    draw them.
    """

    name: str
    summary: str
    classes: int
    modalities: dict[str, Modality]
    options: type
    directions: tuple[str, ...]
    build: Callable[..., Built] | None = None
    source: Any = None
    reports: str = ""
    task: str = "classification"
    scenes: tuple[str, ...] = ()
    recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    store: str = ""
    pairs: tuple[str, ...] = ()
    specimens: Callable[[Any], np.ndarray] | None = None

    @property
    def labels(self) -> int:
        """Number of kinds of events: the classes, or the kinds of scene."""
        return self.classes if self.task == "classification" else len(self.scenes)

    @property
    def metric(self) -> str:
        """What a score is, in print."""
        return METRICS[self.task]

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

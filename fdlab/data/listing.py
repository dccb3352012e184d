"""What a data set's annotation files say, before any of its media is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.data.dataset import Modality

CHUNK = 16  # events between two entries of the journal, at most


class BadMedium(Exception):
    """A medium that is missing or cannot be decoded: `file`, relative to the root, and `reason`."""

    def __init__(self, file: str, reason: str):
        super().__init__(file, reason)  # both, so that it survives a process boundary
        self.file, self.reason = file, reason


@dataclass(frozen=True)
class Event:
    """One event as the annotation files name it.

    id: unique in the data set. label: its class, or its kind of scene. split: index into `SPLITS`.
    files: what is read for it, relative to the root. facts: JSON values that its decoder needs
    (a text, a start in seconds, an index).
    """

    id: str
    label: int
    split: int
    files: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Everything that the annotation files say. The events' order is the store's, and depends on
    nothing but the files' content.

    arrays: name → (shape of one row, dtype) of everything that decoding an event gives: every
    modality, and extras such as `mask` and `boxes`. A modality with a frame axis is (F, C, H, W);
    an extra `<modality>_frames`, of shape () and int16, then says how many of the F are there.
    modalities, classes, directions, task, scenes: see `Dataset`; classes by name.
    ids: further ids (speaker, video, tweet), name → one string per event.
    splits: further ways to split, name → (N,) uint8, kept as arrays `split_<name>`.
    annotations: the file that says splits and classes, as an error names it.
    expected: counts that the paper states, split → number; a difference is reported. counted: who
    states them, where it is not the paper.
    weights: modality → file (or folder) of pretrained weights that its networks start from; a
    copy goes into the store.
    notes: findings about the files, such as one id in two splits, a line each.
    info: JSON facts for the manifest (rates, what was chosen, a vocabulary).
    """

    events: list[Event]
    arrays: dict[str, tuple[tuple[int, ...], str]]
    modalities: dict[str, Modality]
    classes: list[str]
    directions: tuple[str, ...]
    task: str = "classification"
    scenes: tuple[str, ...] = ()
    ids: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, np.ndarray] = field(default_factory=dict)
    annotations: str = ""
    expected: dict[str, int] = field(default_factory=dict)
    counted: str = "the paper"
    weights: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """How a data set is read from files.

    list_events: (root, options) → `Listing`. Reads annotation files only. A fault of those is a
    `UserError` that names the file (and the line): a missing column, an unknown label, an id
    twice, an empty split, a class with no sample in training.
    decode: (root, event, options) → array name → one row. A plain function of a module, for it
    runs in other processes. A fault of one medium is a `BadMedium`.
    version: raised by one when a changed decoder makes old stores stale.
    chunk: events between two entries of the journal, at most. Each entry waits for the disk, so
    where an event takes less than a millisecond, more of them.
    """

    list_events: Callable[[Path, Any], Listing]
    decode: Callable[[Path, Event, Any], dict[str, np.ndarray]]
    version: int = 1
    chunk: int = CHUNK

"""What the data sets of photographs with one class each have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import stays_inside
from fdlab.data import media
from fdlab.data.audiovisual import RECIPES as SIDES
from fdlab.data.audiovisual import read_text, require_side
from fdlab.data.cifar import BENCHMARK, DIRECTIONS
from fdlab.data.dataset import Dataset, Modality
from fdlab.data.ingest import cut_validation, require_share
from fdlab.data.listing import Event, Listing, Source

PHOTOGRAPH = {"image": Modality("resnet18", "crop_flip")}
PAIRS = ("resnet34-resnet18", "mobilenetv1-resnet18")  # FiGKD's, the set's own student
# FiGKD trains on crops of 224 pixels; the rest of its recipe for these sets is not known, and
# CIFAR-100's stands in: our choice.
RECIPES: dict[str, dict[str, dict[str, Any]]] = SIDES | {"paper": {"": BENCHMARK | {"side": 224}}}


@dataclass(frozen=True)
class PhotographOptions:
    """How photographs are stored.

    validation: share of every class's training photographs that become the validation split, for
    the official lists have none; our choice. side: of the stored square, in pixels. image_weights:
    pretrained weights that the networks start from, "" for none.
    """

    validation: float = 0.1
    side: int = 256
    image_weights: str = ""

    def __post_init__(self):
        require_share(self.validation)
        require_side(self.side)


@dataclass(frozen=True)
class Line:
    """One line of a list, without outer blanks. where: its file and number, as errors name it."""

    where: str
    text: str

    def split(self, count: int, expected: str) -> list[str]:
        """Its first `count` - 1 words and the rest."""
        fields = self.text.split(maxsplit=count - 1)
        if len(fields) != count:
            raise UserError(f"{self.where}: {self.text!r}: expected {expected}")
        return fields


def read_lines(path: Path, whole: str) -> list[Line]:
    """The lines of a list that are not empty. whole: what the root should hold."""
    if not path.is_file():
        raise UserError(f"{path} is missing: expected {whole}")
    texts = (text.strip() for text in read_text(path).split("\n"))
    lines = [Line(f"{path}, line {k}", text) for k, text in enumerate(texts, start=1) if text]
    if not lines:
        raise UserError(f"{path} is empty: expected a line for each entry")
    return lines


def find_folder(root: Path, name: str) -> Path:
    """The unpacked folder, which may be the root itself."""
    return root / name if (root / name).is_dir() else root


def list_classes(folder: Path, whole: str) -> list[str]:
    """Names of the folders below one, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: expected {whole}")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


class Photographs:
    """Events in the making: photographs of known classes, each once.

    root: of the data set. folder: that all of them lie below. classes: names by label, as the
    lists spell them.
    """

    def __init__(self, root: Path, folder: Path, classes: list[str]):
        self.folder = folder.relative_to(root).as_posix()
        self.labels = {name: label for label, name in enumerate(classes)}
        self.events: dict[str, Event] = {}

    def add(self, file: str, kind: str, split: int, where: str) -> None:
        """file: its path below the folder. kind: its class. where: who says so."""
        if kind not in self.labels:
            raise UserError(f"{where}: {name_unknown('class', kind, self.labels)}")
        if not stays_inside(file):
            raise UserError(f"{where}: {file!r}: expected the path of a file below {self.folder}")
        if file in self.events:
            raise UserError(f"{where}: {file} is listed a second time: expected it once")
        place = f"{self.folder}/{file}"
        self.events[file] = Event(file, self.labels[kind], split, (place,))

    def describe(
        self,
        name: str,
        classes: list[str],
        options: PhotographOptions,
        modalities: dict[str, Modality],
        **more: Any,
    ) -> Listing:
        """The listing, with a validation split. classes: their names as figures print them. more:
        further fields of `Listing`."""
        events, notes = cut_validation(name, list(self.events.values()), options.validation)
        return Listing(
            events=events,
            arrays={"image": ((3, options.side, options.side), "uint8")},
            modalities=modalities,
            classes=classes,
            directions=DIRECTIONS,
            counted="the official split",
            weights={"image": options.image_weights} if options.image_weights else {},
            notes=[*more.pop("notes", []), *notes],
            **more,
        )


def decode(root: Path, event: Event, options: PhotographOptions) -> dict[str, np.ndarray]:
    """image (3, side, side) uint8 of one photograph, resized to a square whatever its shape."""
    with media.naming_from(root):
        return {"image": media.read_image(root / event.files[0], options.side)}


def describe_dataset(
    name: str,
    summary: str,
    classes: int,
    list_events: Callable[[Path, PhotographOptions], Listing],
    reports: str = "",
) -> Dataset:
    """The table's entry of a set of photographs; reports: its name in the published tables, where
    that is another one."""
    return Dataset(
        name=name,
        summary=summary,
        classes=classes,
        modalities=PHOTOGRAPH,
        options=PhotographOptions,
        directions=DIRECTIONS,
        source=Source(list_events, decode),
        recipes=RECIPES,
        reports=reports or name,
        pairs=PAIRS,
    )


def tell_apart(names: list[str], marks: list[str]) -> list[str]:
    """Names, each with its mark behind it where two are alike.

    >>> tell_apart(["crane", "owl", "crane"], ["n1", "n2", "n3"])
    ['crane (n1)', 'owl', 'crane (n3)']
    """
    pairs = zip(names, marks, strict=True)
    return [f"{name} ({mark})" if names.count(name) > 1 else name for name, mark in pairs]

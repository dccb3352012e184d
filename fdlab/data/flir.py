"""FLIR ADAS, aligned: roads in colour and thermal photographs (Zhang et al., ICIP 2020).

The root is, or holds, `align` as it is unpacked:

    align_train.txt                          `FLIR_00258_PreviewData`, one a line
    align_validation.txt                     likewise; what is published as its test
    JPEGImages/FLIR_00258_RGB.jpg            colour, fitted to the thermal image
    JPEGImages/FLIR_00258_PreviewData.jpeg   thermal, 640 x 512
    Annotations/FLIR_00258_PreviewData.xml   boxes of both, in the form of Pascal VOC

The lists and files are the release's; its text says neither which pixel a corner means nor which
video an image is from. Corners are taken as FreqKD's release takes them: xmax and ymax lie just
behind the last pixel. Dogs, of which there are four images, are left out, as in what is published.
Instead of the XML files a COCO file may be named, FLIR's own `thermal_annotations.json` or what
FreqKD's converter writes; its images are found by their numbers, and the lists still say which of
them are read. That the aligned release kept FLIR's thermal images and numbers is inferred.

FLIR numbered the images of its short videos in their order, one or two a second, and put whole
videos into training or validation (its ReadMe of 2018). A stretch of 200 numbers stands for a
video when validation is cut from training: our choice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.data.dataset import Dataset
from fdlab.data.ingest import TEST, TRAIN
from fdlab.data.listing import BadMedium, Event, Listing, Source
from fdlab.data.photographs import find_folder, read_lines
from fdlab.data.thermal import (
    DETECTORS,
    DIRECTIONS,
    IGNORE,
    Annotated,
    BoxOptions,
    Mark,
    Pairs,
    decode_pair,
    find_place,
    make_recipes,
    read_coco,
    read_flag,
    read_marks,
)

FOLDER = "align"
LISTS = ((TRAIN, "train", "align_train.txt"), (TEST, "test", "align_validation.txt"))
WHOLE = f"{FOLDER} with JPEGImages/, Annotations/ and {' and '.join(name for *_, name in LISTS)}"
CLASSES = ["person", "car", "bicycle"]
LEFT_OUT = ("dog", "other vehicle")
LABELS = (*CLASSES, *LEFT_OUT)
SCENES = ("road",)
LISTED = re.compile(r"(FLIR_(\d+))(?:_PreviewData)?")
NAMED = re.compile(r"(?:.*/)?(FLIR_\d+)(?:_RGB|_PreviewData)?\.jpe?g")
STRETCH = 200  # numbers


@dataclass(frozen=True)
class FlirOptions(BoxOptions):
    """What is read of FLIR: the annotations are a folder of XML files, or a COCO file."""

    train_annotations: str = "Annotations"
    test_annotations: str = "Annotations"


def list_events(root: Path, options: FlirOptions) -> Listing:
    """The pairs of both lists, in their order.

    rgb: (3, height, width) uint8. thermal: (1, height, width) uint8. boxes: (B, 5) float32, B being
    the most that a pair has. Day and night are not told apart by the release, so that there is one
    kind of scene. Raises `UserError` with the line or entry of a list that cannot be read or names
    a pair twice.
    """
    base = find_folder(root, FOLDER)
    folder = base.relative_to(root).as_posix()
    pairs = Pairs(root, CLASSES, _judge)
    for split, word, file in LISTS:
        place = find_place(base, options, f"{word}_annotations", WHOLE)
        find = _find_file(place) if place.is_dir() else _find_image(place)
        for line in read_lines(base / file, WHOLE):
            found = LISTED.fullmatch(line.text)
            if not found:
                raise UserError(f"{line.where}: {line.text!r}: expected FLIR_00002_PreviewData")
            stem, number = found.groups()
            files = tuple(
                (Path(folder) / "JPEGImages" / f"{stem}_{end}").as_posix()
                for end in ("RGB.jpg", "PreviewData.jpeg")
            )
            stretch = f"{int(number) // STRETCH * STRETCH:05d}"
            pairs.add(stem, 0, split, files, stretch, line.where, find(stem, line.where))
    return pairs.describe(
        "flir",
        options,
        SCENES,
        "stretch",
        {
            "note": "Streets and highways of California from a car, by day and by night; the "
            "colour images were fitted to the thermal ones by hand.",
            "left_out": list(LEFT_OUT),
            "stretch": f"{STRETCH} consecutive numbers, in place of videos, which are not known",
        },
        annotations=" and ".join(name for *_, name in LISTS),
        expected={"train": 4129, "test": 1013},
        counted="the lists as released",
    )


def decode(root: Path, event: Event, options: FlirOptions) -> dict[str, np.ndarray]:
    """rgb, thermal and boxes of one pair, as `list_events` says."""
    return decode_pair(root, event, options)


def _judge(mark: Mark) -> int | None:
    if mark.label in LEFT_OUT:
        return None
    return IGNORE if mark.ignored else CLASSES.index(mark.label)


Finder = Callable[[str, str], Callable[[], Annotated]]  # of a stem and where it is listed


def _find_file(folder: Path) -> Finder:
    return lambda stem, _: partial(read_voc, folder / f"{stem}_PreviewData.xml")


def _find_image(path: Path) -> Finder:
    images: dict[str, Annotated] = {}
    for image in read_coco(path, LABELS):
        name = image.entry.get("file_name")
        found = NAMED.fullmatch(name) if isinstance(name, str) else None
        if not found:
            raise UserError(f"{image.where}: file_name is {name!r}: expected FLIR_00002.jpeg")
        stem = found[1]
        if stem in images:
            other = images[stem]
            raise UserError(
                f"{image.where}: {name} is {stem}, and so is {other.entry['file_name']} of "
                f"{other.where}: expected one image of each"
            )
        images[stem] = image

    def find(stem: str, where: str) -> Callable[[], Annotated]:
        if stem not in images:
            raise UserError(f"{where}: {stem} is no image of {path}: expected all of the list")
        return lambda: images[stem]

    return find


def read_voc(path: Path) -> Annotated:
    """The objects of one XML annotation; those marked difficult are ignored. Raises `BadMedium` for
    whatever is wrong."""
    try:
        tree = ElementTree.fromstring(read_marks(path))
    except ElementTree.ParseError as error:
        raise BadMedium(str(path), f"is not XML ({error}): expected Pascal VOC") from None
    width, height = (_read_number(path, tree, f"size/{side}") for side in ("width", "height"))
    marks = []
    for count, thing in enumerate(tree.findall("object"), start=1):
        label = (thing.findtext("name") or "").strip().lower()
        if label not in LABELS:
            raise BadMedium(str(path), f"object {count}: {name_unknown('class', label, LABELS)}")
        corners = tuple(
            _read_number(path, thing, f"bndbox/{end}", f"object {count}: ")
            for end in ("xmin", "ymin", "xmax", "ymax")
        )
        try:
            ignored = read_flag(thing.findtext("difficult", "0"))
        except ValueError as error:
            raise BadMedium(str(path), f"object {count}: difficult {error}") from None
        marks.append(Mark(label, corners, ignored=ignored, where=f"object {count}"))
    return Annotated(str(path), marks, (int(width), int(height)))


def _read_number(path: Path, tree: ElementTree.Element, place: str, where: str = "") -> float:
    text = tree.findtext(place)
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadMedium(str(path), f"{where}{place} is {text!r}: expected a number")
    return number


FLIR = Dataset(
    name="flir",
    summary="FLIR ADAS, aligned: persons, cars and bicycles, colour and thermal; read from your "
    "copy",
    classes=len(CLASSES),
    modalities=DETECTORS,
    options=FlirOptions,
    directions=DIRECTIONS,
    source=Source(list_events, decode),
    task="detection",
    scenes=SCENES,
    recipes=make_recipes(BoxOptions.height),
)

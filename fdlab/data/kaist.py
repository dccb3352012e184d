"""KAIST multispectral pedestrians: colour and thermal video of streets (Hwang et al., CVPR 2015).

The root holds, as the authors' toolbox has it,

    images/set00/V000/visible/I00000.jpg     colour, 640 x 512
    images/set00/V000/lwir/I00000.jpg        thermal, aligned by a beam splitter
    annotations/set00/V000/I00000.txt        boxes of both
    imageSets/train-all-20.txt               frames, one `set00/V000/I00019` a line

Sets 00 to 05 are for training and 06 to 11 for the test; 00 to 02 and 06 to 08 are by day. The sets
may also lie in the root itself. Annotations are of either kind:

text    the toolbox's: `% bbGt version=3`, then `label left top width height occlusion`, the visible
        part (four numbers), `ignore angle`; occlusion is 0 none, 1 partial, 2 heavy. Sanitised
        annotations come in one folder, `set00_V000_I00000.txt`; that name is inferred from how
        others read them.
COCO    one JSON file a split, which names its images itself, so that no list is read: as the
        benchmark has it (`im_name`, with `occlusion` and `ignore`), or as FreqKD's release
        (`file_name` and `file_name2`, colour and thermal). FreqKD's own file is not published; its
        keys are those that its loader reads, and the paths in it are inferred.

A person is an object. People (a group that cannot be told apart), cyclists, and what may or may not
be a person (`person?`, `person?a`) are regions to be ignored, as in the authors' demonstration;
FreqKD's release drops them, which makes background of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.data.audiovisual import require
from fdlab.data.dataset import Dataset
from fdlab.data.ingest import TEST, TRAIN
from fdlab.data.listing import BadMedium, Event, Listing, Source
from fdlab.data.photographs import read_lines
from fdlab.data.thermal import (
    DETECTORS,
    DIRECTIONS,
    IGNORE,
    OCCLUSIONS,
    Annotated,
    BoxOptions,
    Mark,
    Pairs,
    decode_pair,
    expand_option,
    find_place,
    make_recipes,
    read_coco,
    read_marks,
)

WHOLE = "images/, annotations/ and imageSets/ in the root"
PERSON = "person"
IGNORED = ("people", "person?", "person?a", "cyclist", "__ignore__")
HEADER, FIELDS = "% bbGt version=3", 12
SCENES = ("day", "night")
DAYS = (0, 1, 2, 6, 7, 8)  # sets taken by day
LAST_TRAIN = 5
SET, VIDEO, NUMBER = r"(set(?:0\d|1[01]))", r"(V\d{3})", r"(I\d{5})"
FRAME = re.compile(f"{SET}/{VIDEO}/{NUMBER}")
NAMED = re.compile(rf"(?:.*/)?{SET}/{VIDEO}/(?:visible/)?{NUMBER}(?:\.jpg)?")
COUNTS = {"train-all-02": 25086, "test-all-20": 2252, "test-day-20": 1455, "test-night-20": 797}


@dataclass(frozen=True)
class KaistOptions(BoxOptions):
    """What is read of KAIST, and which persons count.

    train, test: lists in imageSets/ by name, or files of that kind; FreqKD trains on train-all-02,
    every second frame. train_annotations, test_annotations: a folder of text annotations, or a COCO
    file.
    min_height: pixels of the published image, and occlusion: 0 none, 1 partial, 2 heavy; persons
    below the one or above the other are ignored, and so are those within `border` pixels of the
    image's edge. The defaults are the benchmark's "reasonable" setting; 0, 2 and 0 take every
    person, as FreqKD's release does.
    """

    train: str = "train-all-20"
    test: str = "test-all-20"
    train_annotations: str = "annotations"
    test_annotations: str = "annotations"
    min_height: int = 55
    occlusion: int = 1
    border: int = 5

    def __post_init__(self):
        super().__post_init__()
        for name in ("min_height", "border"):
            require(name, getattr(self, name), 0)
        require("occlusion", self.occlusion, OCCLUSIONS[0], OCCLUSIONS[-1])


def list_events(root: Path, options: KaistOptions) -> Listing:
    """The frames of both lists, or of the COCO files, in their order.

    rgb: (3, height, width) uint8. thermal: (1, height, width) uint8. boxes: (B, 5) float32, B being
    the most that a frame has. The label is day or night. Validation is cut from training by whole
    videos. Raises `UserError` with the line or entry of a list that cannot be read, names a frame
    twice, or trains on a set that is tested on.
    """

    def judge(mark: Mark) -> int:
        counts = mark.label == PERSON and not mark.ignored
        fits = mark.height >= options.min_height and mark.occlusion <= options.occlusion
        return 0 if counts and fits else IGNORE

    pairs = Pairs(root, [PERSON], judge)
    base = "images/" if (root / "images").is_dir() else ""
    expected, said = {}, []
    for split, word in ((TRAIN, "train"), (TEST, "test")):
        place = find_place(root, options, f"{word}_annotations", WHOLE)
        if place.is_dir():
            path, name = _find_list(root, options, word)
            listed = _read_list(path, place)
            if name in COUNTS:
                expected[word] = COUNTS[name]
        else:
            name, listed = place.name, _read_images(place)
        said.append(name)
        for where, (kind, video, frame), read in listed:
            number = int(kind[3:])
            if (number > LAST_TRAIN) != (split == TEST):
                side = "set06 to set11" if split == TEST else "set00 to set05"
                raise UserError(f"{where}: {kind} in {word}: expected a frame of {side}")
            pairs.add(
                f"{kind}/{video}/{frame}",
                SCENES.index("day" if number in DAYS else "night"),
                split,
                tuple(f"{base}{kind}/{video}/{side}/{frame}.jpg" for side in ("visible", "lwir")),
                f"{kind}/{video}",
                where,
                read,
            )
    return pairs.describe(
        "kaist",
        options,
        SCENES,
        "video",
        {
            "note": "Campus, roads and downtown from a car, by day and by night; a beam splitter "
            "gives both cameras one view.",
            "objects": f"persons from {options.min_height} pixels of height, occlusion up to "
            f"{options.occlusion} (0 none, 1 partial, 2 heavy), {options.border} pixels from the "
            "edge; others are ignored",
            "ignored": [label for label in IGNORED if not label.startswith("__")],
        },
        border=options.border,
        annotations=" and ".join(said),
        expected=expected,
        counted="the lists as published",
    )


def decode(root: Path, event: Event, options: KaistOptions) -> dict[str, np.ndarray]:
    """rgb, thermal and boxes of one frame, as `list_events` says."""
    return decode_pair(root, event, options, options.border)


Listed = Iterator[tuple[str, tuple[str, str, str], Any]]  # where, set, video and frame, its reader


def _find_list(root: Path, options: KaistOptions, word: str) -> tuple[Path, str]:
    """The list that the option `word` gives, and its name: one of imageSets/ with or without .txt,
    a path relative to the root, or, unless it is the default, to the working directory."""
    path, given = expand_option(options, word)
    folder = root / "imageSets"
    named = path.with_name(f"{path.name}.txt") if path.name else path
    candidates = [base / file for base in (folder, root) for file in (path, named)]
    for candidate in [*candidates, *([path] if given else [])]:
        if candidate.is_file():
            is_usual = candidate.parent == folder
            return candidate, candidate.stem if is_usual else getattr(options, word)
    lists = sorted(file.stem for file in folder.glob("*.txt"))
    if not lists:
        said = f"{word} is {getattr(options, word)!r}"
        raise UserError(f"{said}, and {folder} holds no list: expected {WHOLE}")
    raise UserError(f"{folder}: {name_unknown(f'list of {word}', getattr(options, word), lists)}")


def _read_list(path: Path, annotations: Path) -> Listed:
    for line in read_lines(path, WHOLE):
        found = FRAME.fullmatch(line.text)
        if not found:
            raise UserError(f"{line.where}: {line.text!r}: expected a frame, set00/V000/I00019")
        parts = found.groups()
        places = [annotations / f"{glue.join(parts)}.txt" for glue in "/_"]
        file = places[1] if not places[0].is_file() and places[1].is_file() else places[0]
        yield line.where, parts, partial(read_text_marks, file)


def _read_images(path: Path) -> Listed:
    for image in read_coco(path, (PERSON, *IGNORED)):
        entry = image.entry
        name = entry.get("im_name", entry.get("file_name"))
        found = NAMED.fullmatch(name) if isinstance(name, str) else None
        if not found:
            raise UserError(
                f"{image.where}: {name!r}: expected im_name such as set00/V000/I00019, or "
                "file_name such as set00/V000/visible/I00019.jpg"
            )
        parts = found.groups()
        other = entry.get("file_name2")
        thermal = "{}/{}/lwir/{}.jpg".format(*parts)
        if other is not None and not str(other).endswith(thermal):
            raise UserError(f"{image.where}: file_name2 is {other!r}: expected {thermal}")
        yield image.where, parts, lambda image=image: image


def read_text_marks(path: Path) -> Annotated:
    """The persons of one text annotation. Raises `BadMedium` with the line for whatever is
    wrong."""
    lines = read_marks(path).splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise BadMedium(str(path), f"line 1: expected {HEADER!r}")
    marks = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"line {number}: {line.strip()!r}"
        label, *texts = line.split()
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = []
        if len(numbers) != FIELDS - 1 or not all(map(math.isfinite, numbers)):
            raise BadMedium(str(path), f"{where}: expected a label and {FIELDS - 1} numbers")
        if label not in (PERSON, *IGNORED):
            unknown = name_unknown("class", label, (PERSON, *IGNORED))
            raise BadMedium(str(path), f"line {number}: {unknown}")
        left, top, width, height, occlusion = numbers[:5]
        if occlusion not in OCCLUSIONS:
            raise BadMedium(str(path), f"{where}: occlusion is {occlusion:g}: expected 0, 1 or 2")
        corners = (left, top, left + width, top + height)
        marks.append(Mark(label, corners, int(occlusion), bool(numbers[9]), f"line {number}"))
    return Annotated(str(path), marks)


KAIST = Dataset(
    name="kaist",
    summary="KAIST: pedestrians in colour and thermal video; read from your copy",
    classes=1,
    modalities=DETECTORS,
    options=KaistOptions,
    directions=DIRECTIONS,
    source=Source(list_events, decode),
    task="detection",
    scenes=SCENES,
    recipes=make_recipes(BoxOptions.height),
)

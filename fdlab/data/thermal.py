"""What the data sets of paired colour and thermal photographs have in common.

Both images of a pair have one size and one set of boxes, so that a view of one is a view of the
other. Annotations are read when the pairs are listed, and belong to the listing: files that say
something else make another store. A fault in the annotations of one pair is that pair's, as an
image that cannot be decoded is; a fault in a file that speaks of all of them is an error at once.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.core.seeding import derive_seed
from fdlab.data import media
from fdlab.data.audiovisual import read_text, require
from fdlab.data.dataset import IGNORE, NOTHING, SPLITS, Modality
from fdlab.data.ingest import TEST, TRAIN, VALIDATION, require_share
from fdlab.data.listing import BadMedium, Event, Listing

SIDES = ("rgb", "thermal")
DIRECTIONS = ("rgb2thermal",)
DETECTORS = {side: Modality("resnet18_boxes", augment="scene") for side in SIDES}
MOST = 4096  # pixels of a stored side
OCCLUSIONS = range(3)  # none, partial, heavy
SIZE = (640, 512)  # width and height of KAIST's and FLIR's images as published
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class PairOptions:
    """What every set of pairs is asked.

    height, width: of everything stored, in pixels. Images are averaged over areas, or interpolated
    where they grow; boxes are scaled with them. rgb_weights, thermal_weights: pretrained weights
    that the networks start from, "" for none.
    """

    height: int = 448
    width: int = 560
    rgb_weights: str = ""
    thermal_weights: str = ""

    def __post_init__(self):
        for name in ("height", "width"):
            require(name, getattr(self, name), 8, MOST)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def weights(self) -> dict[str, str]:
        """As `Listing` has them."""
        given = {side: getattr(self, f"{side}_weights") for side in SIDES}
        return {side: path for side, path in given.items() if path}


@dataclass(frozen=True)
class BoxOptions(PairOptions):
    """What every set of pairs with boxes is asked besides.

    validation: share of the training images that become the validation split, whole videos of
    them; see `cut_videos`.
    """

    validation: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        require_share(self.validation)


@dataclass(frozen=True)
class Mark:
    """One object as its annotation says, in pixels of the image as it was published.

    occlusion: 0 none, 1 partial, 2 heavy. ignored: marked so by whoever annotated it. where: its
    line or number, as an error names it.
    """

    label: str
    corners: tuple[float, float, float, float]
    occlusion: int = 0
    ignored: bool = False
    where: str = ""

    @property
    def width(self) -> float:
        return self.corners[2] - self.corners[0]

    @property
    def height(self) -> float:
        return self.corners[3] - self.corners[1]

    @property
    def has_area(self) -> bool:
        return self.width > 0 and self.height > 0


@dataclass
class Annotated:
    """One image and its objects. where: what says so, as an error names it. entry: of the image in
    a COCO file. size: its width and height where the annotations say it."""

    where: str
    marks: list[Mark] = field(default_factory=list)
    size: tuple[int, int] | None = None
    entry: dict[str, Any] = field(default_factory=dict)


def make_recipes(height: int) -> dict[str, dict[str, dict[str, Any]]]:
    """As `Dataset` has them, for images that are stored `height` pixels high and wider: networks
    see an eighth, a quarter and half of it, so that the width is whole too, and at `paper` all of
    it. Our choice."""
    parts = {"smoke": 8, "quick": 4, "reduced": 2}
    recipes = {preset: {"": {"batch_size": 16, "side": height // k}} for preset, k in parts.items()}
    return recipes | {"paper": {"": {"batch_size": 16}}}


class Pairs:
    """Events in the making: pairs of images with boxes, each once.

    root: of the data set. classes: names by number. judge: the class of a mark, `IGNORE` for a
    region that counts neither as object nor as background, None for a mark that is left out.
    """

    def __init__(self, root: Path, classes: list[str], judge: Callable[[Mark], int | None]):
        self.root, self.classes, self.judge = root, classes, judge
        self.events: list[Event] = []
        self.videos: list[str] = []
        self.places: dict[str, str] = {}
        self.left: Counter[str] = Counter()

    def add(
        self,
        key: str,
        scene: int,
        split: int,
        files: tuple[str, str],
        video: str,
        where: str,
        read: Callable[[], Annotated],
    ) -> None:
        """key: the pair's id. scene: its kind's number. files: the colour and the thermal image.
        video: what its neighbours in time share. where: who lists it. read: its annotations."""
        if key in self.places:
            raise UserError(
                f"{where}: {key} is listed a second time, as in {self.places[key]}: expected it "
                "once"
            )
        self.places[key] = where
        facts: dict[str, Any] = {}
        try:
            with media.naming_from(self.root):
                facts = self._judge_all(read())
        except BadMedium as bad:
            facts = {"fault": [bad.file, bad.reason]}
        self.events.append(Event(key, scene, split, files, facts))
        self.videos.append(video)

    def _judge_all(self, found: Annotated) -> dict[str, Any]:
        for mark in found.marks:
            if not all(0 <= side < math.inf for side in (mark.width, mark.height)):
                raise BadMedium(
                    found.where,
                    f"{mark.where}: the box is {mark.width:g} wide and {mark.height:g} high: "
                    "expected 0 or more",
                )
        boxes = []
        for mark in found.marks:
            kind = self.judge(mark) if mark.has_area else None
            if kind is None:
                self.left[mark.label if mark.has_area else "without area"] += 1
                continue
            boxes.append([kind, *mark.corners])
        where = Path(found.where)
        inside = where.is_relative_to(self.root)
        said = where.relative_to(self.root).as_posix() if inside else found.where
        return {"boxes": boxes, "annotations": said, "size": list(found.size or ())}

    def describe(
        self,
        name: str,
        options: BoxOptions,
        scenes: tuple[str, ...],
        video: str,
        info: dict[str, Any],
        border: float = 0,
        **more: Any,
    ) -> Listing:
        """The listing, with a validation split. video: what a video is called. border: see
        `place_boxes`. more: further fields of `Listing`, `annotations` among them. Raises
        `UserError` where training has no object of a class, or another split none at all."""
        rows = max([1, *(len(event.facts.get("boxes", ())) for event in self.events)])
        for event in self.events:
            event.facts["rows"] = rows
        events, notes = cut_videos(name, self.events, self.videos, options.validation, video)
        counts = Counter((e.split, box[0]) for e in events for box in e.facts.get("boxes", ()))
        self._require_objects(f"{name}: {more['annotations']}", events, border)
        left = ", ".join(f"{count} {what}" for what, count in sorted(self.left.items()))
        return Listing(
            events=events,
            arrays={
                "rgb": ((3, *options.shape), "uint8"),
                "thermal": ((1, *options.shape), "uint8"),
                "boxes": ((rows, 5), "float32"),
            },
            modalities=DETECTORS,
            classes=self.classes,
            directions=DIRECTIONS,
            task="detection",
            scenes=scenes,
            ids={video: self.videos},
            weights=options.weights,
            notes=[*([f"annotated boxes that are left out: {left}"] if left else []), *notes],
            info={
                "boxes": "class, x0, y0, x1, y1 in stored pixels, x1 and y1 just behind the last; "
                "class -2 is a region that counts neither as object nor as background; rows of -1 "
                "fill up",
                "annotated": {  # before what lies at the border is ignored
                    split: {
                        word: counts[number, kind]
                        for kind, word in [*enumerate(self.classes), (IGNORE, "ignored")]
                    }
                    for number, split in enumerate(SPLITS)
                },
                "validation": f"{options.validation:.3g} of training, by {video}",
            }
            | info,
            **more,
        )

    def _require_objects(self, where: str, events: list[Event], border: float) -> None:
        """Refuse a class without an object in training, and any split without one. Pairs whose
        annotations are at fault do not count, as they are never stored. Where the annotations do
        not say an image's size, it is taken for the published one."""
        faults = []
        found: set[tuple[int, int]] = set()
        for event in events:
            facts = event.facts
            if "fault" in facts:
                faults.append(facts["fault"])
                continue
            try:
                size = tuple(facts["size"]) or SIZE
                boxes = place_boxes(facts["boxes"], size, SIZE[::-1], facts["rows"], border)
            except (ValueError, OverflowError) as error:  # as it will be when the image is read
                faults.append([facts["annotations"], f"{event.id}: {error}"])
                continue
            found |= {(event.split, int(kind)) for kind in boxes[:, 0] if kind >= 0}
        lacking = [word for kind, word in enumerate(self.classes) if (TRAIN, kind) not in found]
        seen = {split for split, _ in found}
        left = ""
        if faults:
            left = (
                f", of those whose annotations are sound ({len(faults)} are not, the first: "
                f"{faults[0][0]}: {faults[0][1]})"
            )
        if lacking:
            raise UserError(
                f"{where}: no training image has a box of class {', '.join(lacking)} that counts"
                f"{left}: expected one of every class at least"
            )
        for split in (VALIDATION, TEST):
            if split not in seen:
                raise UserError(
                    f"{where}: no {SPLITS[split]} image has a box that counts{left}: expected one "
                    "at least"
                )


def cut_videos(
    name: str, events: list[Event], videos: list[str], share: float, word: str = "video"
) -> tuple[list[Event], list[str]]:
    """The events with whole videos of the training split moved to validation, and a line about it.

    Of every kind of scene videos are drawn by a fixed seed until `share` of its training images is
    met as nearly as whole videos allow: one at least, and never all; a kind with a single video
    keeps it. Neighbouring frames of a video are nearly the same image, so that single images would
    leak. The sets have no validation split; this cut is our choice.
    """
    split = np.array([event.split for event in events])
    scenes = np.array([event.label for event in events])
    names, kept = np.array(videos), []
    rng = np.random.default_rng(derive_seed(0, "validation"))
    for scene in np.unique(scenes):
        found, counts = np.unique(names[(scenes == scene) & (split == TRAIN)], return_counts=True)
        if len(found) < 2:
            continue
        order = rng.permutation(len(found))
        sizes = np.cumsum(counts[order])[:-1]
        kept += found[order[: 1 + np.abs(sizes - share * counts.sum()).argmin()]].tolist()
    if not kept:
        raise UserError(
            f"{name}: no kind of scene has more than one {word} in training, and one is needed for "
            "validation: expected two at least"
        )
    held = np.isin(names, kept) & (split == TRAIN)
    cut = [
        replace(event, split=VALIDATION) if is_held else event
        for event, is_held in zip(events, held, strict=True)
    ]
    return cut, [
        f"there is no validation split: {held.sum()} of {(split == TRAIN).sum()} training images "
        f"were cut for it by {word}, seed 0: {', '.join(sorted(kept))}"
    ]


def decode_pair(
    root: Path, event: Event, options: PairOptions, border: float = 0
) -> dict[str, np.ndarray]:
    """rgb (3, height, width) and thermal (1, height, width) uint8 and boxes (B, 5) float32 of one
    pair; border: see `place_boxes`."""
    facts = event.facts
    if "fault" in facts:
        raise BadMedium(*facts["fault"])
    with media.naming_from(root):
        rgb = media.load_picture(root / event.files[0], "RGB")
        thermal = media.load_picture(root / event.files[1], "L")
    for file, size in ((event.files[1], thermal.size), (facts["annotations"], facts["size"])):
        if size and tuple(size) != rgb.size:
            raise BadMedium(
                file,
                f"is of {size[0]} x {size[1]} pixels and the colour image {event.files[0]} of "
                f"{rgb.width} x {rgb.height}: expected one size",
            )
    try:
        boxes = place_boxes(facts["boxes"], rgb.size, options.shape, facts["rows"], border)
    except ValueError as error:
        raise BadMedium(facts["annotations"], f"{event.id}: {error}") from None
    return {
        "rgb": media.resize(np.asarray(rgb).transpose(2, 0, 1), *options.shape),
        "thermal": media.resize(np.asarray(thermal)[None], *options.shape),
        "boxes": boxes,
    }


def place_boxes(
    boxes: list[list[float]],
    size: tuple[int, int],
    shape: tuple[int, int],
    rows: int,
    border: float = 0,
) -> np.ndarray:
    """Boxes in pixels of an image of `size` (width, height) → (rows, 5) float32 in pixels of the
    stored one, of `shape` (height, width).

    What reaches over the edge is cut off. An object within `border` pixels of the edge becomes a
    region to be ignored, 0 for none. Raises `ValueError` for a box that lies outside.
    """
    width, height = size
    placed = np.full((rows, 5), NOTHING, np.float32)
    for row, (kind, *corners) in enumerate(boxes):
        x0, y0, x1, y1 = corners
        touches = min(x0, y0, width - x1, height - y1) < border
        x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
        y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
        if x0 >= x1 or y0 >= y1:
            said = ", ".join(f"{x:g}" for x in corners)
            raise ValueError(
                f"the box from {said} lies outside the image of {width} x {height}: expected a "
                "part of it inside"
            )
        across, down = shape[1] / width, shape[0] / height
        is_ignored = kind != IGNORE and border and touches
        placed[row] = IGNORE if is_ignored else kind, x0 * across, y0 * down, x1 * across, y1 * down
    return placed


def find_place(root: Path, options: PairOptions, name: str, whole: str) -> Path:
    """The file or folder that the option `name` gives: relative to the data set's folder, else,
    unless it is the default, to the working directory. whole: what the root should hold."""
    path, given = expand_option(options, name)
    for candidate in (root / path, path) if given else (root / path,):
        if candidate.exists():
            return candidate
    raise UserError(f"{root / path} is missing: expected {whole}")


def expand_option(options: PairOptions, name: str) -> tuple[Path, bool]:
    """The path that an option gives, and whether it is another than the default."""
    text = getattr(options, name)
    try:
        return Path(text).expanduser(), text != getattr(type(options), name)
    except RuntimeError:
        raise UserError(
            f"{name} is {text!r}: there is no such home folder: expected a path"
        ) from None


def read_flag(value: Any) -> bool:
    """0, 1, true or false, as a number, a JSON value or a word. Raises `ValueError` for anything
    else."""
    flag = FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(flag, (int, float)) or flag not in (0, 1):
        raise ValueError(f"is {value!r}: expected 0, 1, true or false")
    return bool(flag)


def read_marks(path: Path) -> str:
    """The text of one image's annotations; what is wrong with the file is a `BadMedium`."""
    if not path.is_file():
        raise BadMedium(str(path), "is missing")
    try:
        return read_text(path)
    except UserError:
        raise BadMedium(str(path), "is no text in UTF-8") from None


def read_coco(path: Path, labels: Iterable[str]) -> list[Annotated]:
    """The images of a COCO file, in its order, with their marks.

    Beside `bbox` (left, top, width, height) an annotation may have `occlusion` (0, 1 or 2), and is
    ignored where `ignore` or `iscrowd` says so. labels: names of categories that are known; others
    may stand in the file as long as no annotation uses them. Raises `UserError` with the entry for
    whatever is wrong.
    """
    labels = list(labels)
    content = _load_json(path)
    names: dict[int, str] = {}
    places: dict[int, str] = {}
    for where, entry in _list_entries(path, content, "categories"):
        number = _take(where, entry, "id", int)
        if number in names:
            raise UserError(f"{where}: id {number} stands in {places[number]} too")
        names[number], places[number] = _take(where, entry, "name", str), where
    images: dict[int, Annotated] = {}
    for where, entry in _list_entries(path, content, "images"):
        number = _take(where, entry, "id", int)
        if number in images:
            raise UserError(f"{where}: id {number} stands in {images[number].where} too")
        size = None
        if "width" in entry or "height" in entry:
            size = tuple(_take(where, entry, side, int) for side in ("width", "height"))
        images[number] = Annotated(where, size=size, entry=entry)
    if not images:
        raise UserError(f"{path} has no image: expected one for each pair")
    for where, entry in _list_entries(path, content, "annotations"):
        number, kind = (_take(where, entry, key, int) for key in ("image_id", "category_id"))
        if number not in images:
            raise UserError(f"{where}: image_id is {number}: expected the id of one of its images")
        if kind not in names:
            raise UserError(f"{where}: {name_unknown('category_id', kind, map(str, names))}")
        if names[kind] not in labels:
            raise UserError(f"{where}: {name_unknown('class', names[kind], labels)}")
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            raise UserError(f"{where}: bbox is {box!r}: expected left, top, width and height")
        occlusion = entry.get("occlusion", 0)
        if occlusion not in OCCLUSIONS:
            raise UserError(f"{where}: occlusion is {occlusion!r}: expected 0, 1 or 2")
        left, top, width, height = map(float, box)
        ignored = [_take_flag(where, entry, key) for key in ("ignore", "iscrowd")]
        corners = (left, top, left + width, top + height)
        entry_at = where.removeprefix(f"{path}, ")
        images[number].marks.append(Mark(names[kind], corners, occlusion, any(ignored), entry_at))
    return list(images.values())


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): expected COCO annotations") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object: expected COCO annotations")
    return content


def _list_entries(path: Path, content: dict[str, Any], key: str) -> list[tuple[str, dict]]:
    """The entries of one list of a COCO file, each with its place."""
    entries = content.get(key)
    if not isinstance(entries, list):
        held = ", ".join(content) or "nothing"
        raise UserError(f"{path} has no list of {key}: expected COCO annotations; it holds {held}")
    named = [(f"{path}, {key}[{number}]", entry) for number, entry in enumerate(entries)]
    for where, entry in named:
        if not isinstance(entry, dict):
            raise UserError(f"{where} is {entry!r}: expected an object")
    return named


def _take(where: str, entry: dict[str, Any], key: str, kind: type) -> Any:
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = "a whole number" if kind is int else "a text"
        raise UserError(f"{where}: {key} is {value!r}: expected {expected}")
    return value


def _take_flag(where: str, entry: dict[str, Any], key: str) -> bool:
    try:
        return read_flag(entry.get(key, 0))
    except ValueError as error:
        raise UserError(f"{where}: {key} {error}") from None


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold."""
    fine = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fine and abs(value) <= sys.float_info.max

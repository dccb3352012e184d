"""CrisisMMD v2.0: tweets of seven disasters, their text and one of their images (Alam et al. 2018).

The root holds `data_image/` and the tables of the official splits (Ofli et al. 2020), as they are
unpacked or in the folders that they come in:

    task_<task>_text_img_agreed_lab_{train,dev,test}.tsv   text and image were given one label
    task_<task>_text_img_{train,dev,test}.tsv              all; text and image may differ

A table has one header line and is split at tabs; quotation marks are text. One row is one event:
an image with the text of its tweet, which may have further images.

The humanitarian task has eight labels. FD-CMKD has five classes and does not say which: they are
merged here as is usual since Ofli et al. (`MERGED`). It does not say either whether it used the
agreed labels; they are the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import stays_inside
from fdlab.data import texts
from fdlab.data.dataset import SPLITS, Dataset, Modality
from fdlab.data.listing import BadMedium, Event, Listing, Source

FILES = ("train", "dev", "test")  # in the order of `SPLITS`
FOLDERS = {"agreed": "crisismmd_datasplit_agreed_label", "all": "crisismmd_datasplit_all"}
IMAGES = "data_image"
CLASSES = {
    "humanitarian": (
        "infrastructure_and_utility_damage",
        "not_humanitarian",
        "other_relevant_information",
        "rescue_volunteering_or_donation_effort",
        "affected_individuals",
    ),
    "informative": ("not_informative", "informative"),
    "damage": ("little_or_no_damage", "mild_damage", "severe_damage"),
}
MERGED = {  # of the humanitarian task
    "injured_or_dead_people": "affected_individuals",
    "missing_or_found_people": "affected_individuals",
    "vehicle_damage": "infrastructure_and_utility_damage",
}
# FD-CMKD states no counts of its own; these are the official splits'.
COUNTS = {
    ("humanitarian", "agreed"): (6126, 998, 955),
    ("humanitarian", "all"): (13608, 2237, 2237),
    ("informative", "agreed"): (9601, 1573, 1534),
    ("informative", "all"): (13608, 2237, 2237),
}
LONGEST = 512  # positions that BERT knows


@dataclass(frozen=True)
class CrisisMMDOptions:
    """What is read of CrisisMMD.

    task: "humanitarian" (5 classes), "informative" (2) or "damage" (3; of the image alone, so
    that its only tables are those of all labels). labels: "agreed" or "all". label_of: whose
    label an event of "all" has, "text" or "image"; our choice, as one event has one label.
    words: tokens of a text, [CLS] and [SEP] among them. vocabulary: a BERT `vocab.txt`, or "" for
    whole words counted in the training texts. side: of the stored image, pixels. text_weights,
    visual_weights: pretrained weights that the networks start from, "" for none.
    """

    task: str = "humanitarian"
    labels: str = "agreed"
    label_of: str = "text"
    words: int = 128
    vocabulary: str = ""
    side: int = 256
    text_weights: str = ""
    visual_weights: str = ""

    def __post_init__(self):
        for name, choices in (
            ("task", CLASSES),
            ("labels", FOLDERS),
            ("label_of", ("text", "image")),
        ):
            if getattr(self, name) not in choices:
                raise name_unknown(f"crisismmd {name}", getattr(self, name), choices)
        for name, least, most in (("words", texts.SHORTEST, LONGEST), ("side", 8, 4096)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} is {getattr(self, name)}: expected {least} to {most}")
        if self.task == "damage" and self.labels == "agreed":
            raise UserError(
                "the damage task labels images alone, so no labels agree: expected labels=all"
            )


@dataclass(frozen=True)
class _Row:
    """One line of a table: cells by column, and where it stands."""

    cells: dict[str, str]
    split: int
    path: Path
    number: int

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def list_events(root: Path, options: CrisisMMDOptions) -> Listing:
    """Rows of the three tables, train, dev and test, in their own order; dev is the validation.

    text: (words,) int32. visual: (3, side, side) uint8. An event's id is its image's. Raises
    `UserError` as `Source` says, naming the file and the line.
    """
    rows = [row for split in range(len(SPLITS)) for row in _read_table(root, options, split)]
    _check_ids(rows)
    labels = [_find_label(row, options) for row in rows]
    classes = CLASSES[options.task]
    _check_classes(rows, labels, classes)
    tweets = [row.cells["tweet_text"] for row in rows]
    tokens, cut, facts = _encode(tweets, rows, options)
    kept = [row[: np.flatnonzero(row)[-1] + 1].tolist() for row in tokens]  # without the padding
    return Listing(
        events=[
            Event(
                id=row.cells["image_id"],
                label=classes.index(label),
                split=row.split,
                files=(_check_path(row),),
                facts={"tokens": ids},
            )
            for row, label, ids in zip(rows, labels, kept, strict=True)
        ],
        arrays={
            "text": ((options.words,), "int32"),
            "visual": ((3, options.side, options.side), "uint8"),
        },
        modalities=CRISISMMD.modalities,
        classes=list(classes),
        directions=CRISISMMD.directions,
        ids={
            "tweet": [row.cells["tweet_id"] for row in rows],
            "event": [row.cells["event_name"] for row in rows],
            "image": [row.cells["image_id"] for row in rows],
        },
        counted="the official split",
        expected=dict(zip(SPLITS, COUNTS.get((options.task, options.labels), ()), strict=False)),
        weights={
            name: weights
            for name, weights in (
                ("text", options.text_weights),
                ("visual", options.visual_weights),
            )
            if weights
        },
        notes=[*_describe_labels(rows, options), *_find_shared_tweets(rows)]
        + ([f"{cut} of {len(rows)} texts are cut to {options.words} tokens"] if cut else []),
        info={
            "task": options.task,
            "labels": options.labels,
            "label_of": _name_label_column(options),
            "merged": MERGED if options.task == "humanitarian" else {},
            "texts_cut": cut,
            "expected": "counts of the official split; FD-CMKD states none",
        }
        | facts,
    )


def decode(root: Path, event: Event, options: CrisisMMDOptions) -> dict[str, np.ndarray]:
    """text (words,) int32 and visual (3, side, side) uint8 of one event."""
    from fdlab.data.media import read_image

    (file,) = event.files
    if not (root / file).is_file():
        raise BadMedium(file, "is missing")
    try:
        image = read_image(root / file, options.side)
    except BadMedium as error:
        raise BadMedium(file, error.reason) from None
    text = np.zeros(options.words, np.int32)
    text[: len(event.facts["tokens"])] = event.facts["tokens"]
    return {"text": text, "visual": image}


def _read_table(root: Path, options: CrisisMMDOptions, split: int) -> Iterator[_Row]:
    path = _find_table(root, options, FILES[split])
    header, *lines = _read_lines(path)
    columns = [name.strip() for name in header.split("\t")]
    needed = ["event_name", "tweet_id", "image_id", "tweet_text", "image", "label"]
    if options.task != "damage":
        needed += ["label_text", "label_image"]
    if missing := [name for name in needed if name not in columns]:
        raise UserError(
            f"{path}, line 1: no column {', '.join(missing)}: expected {', '.join(needed)}, "
            f"found {', '.join(columns)}"
        )
    if not lines:
        raise UserError(f"{path} has no rows: expected at least one event of each split")
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise UserError(
                f"{path}, line {number}: {len(cells)} fields: expected {len(columns)}, as many "
                "as the header has"
            )
        yield _Row(dict(zip(columns, cells, strict=True)), split, path, number)


def _find_table(root: Path, options: CrisisMMDOptions, name: str) -> Path:
    """The table of one split, in the root, in its folder, or in that folder unpacked into one."""
    agreed = "_agreed_lab" if options.labels == "agreed" else ""
    file = f"task_{options.task}_text_img{agreed}_{name}.tsv"
    folder = FOLDERS[options.labels]
    places = [root / file, root / folder / file, root / folder / folder / file]
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"{root} has no {file}: expected it there or in {folder}/")


def _read_lines(path: Path) -> list[str]:
    """Lines of a table; only a line feed ends one, for tweets hold other breaks."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {number}: not UTF-8: expected a table in UTF-8") from None
    return [line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n")]


def _check_ids(rows: list[_Row]) -> None:
    first: dict[str, _Row] = {}
    for row in rows:
        name = row.cells["image_id"]
        if not name.strip():
            raise UserError(f"{row.where}: no image_id: expected one in every row")
        if name in first:
            raise UserError(
                f"{row.where}: image_id {name} stands in {first[name].where} too: "
                "expected every image once"
            )
        first[name] = row


def _check_path(row: _Row) -> str:
    """The image's path relative to the root; it must stay below it on every system."""
    cell = row.cells["image"]
    if not stays_inside(cell) or set(cell) & {"\\", ":"}:
        raise UserError(
            f"{row.where}: image {cell!r} leaves the root: "
            f"expected a path such as {IMAGES}/hurricane_irma/6_9_2017/905….jpg"
        )
    return str(PurePosixPath(cell))


def _name_label_column(options: CrisisMMDOptions) -> str:
    if options.task == "damage" or options.labels == "agreed":
        return "label"
    return f"label_{options.label_of}"


def _find_label(row: _Row, options: CrisisMMDOptions) -> str:
    return _read_label(row, _name_label_column(options), options.task)


def _read_label(row: _Row, column: str, task: str) -> str:
    """The class that a cell names, merged."""
    cell = row.cells[column].strip()
    label = MERGED.get(cell, cell) if task == "humanitarian" else cell
    if label not in CLASSES[task]:
        raise UserError(f"{row.where}, {column}: {name_unknown(f'{task} label', cell, _all(task))}")
    return label


def _all(task: str) -> list[str]:
    return [*CLASSES[task], *(MERGED if task == "humanitarian" else ())]


def _check_classes(rows: list[_Row], labels: list[str], classes: tuple[str, ...]) -> None:
    trained = {label for row, label in zip(rows, labels, strict=True) if row.split == 0}
    if missing := [name for name in classes if name not in trained]:
        raise UserError(
            f"{rows[0].path} has no row of {', '.join(missing)}: "
            "expected every class in the training split"
        )


def _encode(
    tweets: list[str], rows: list[_Row], options: CrisisMMDOptions
) -> tuple[np.ndarray, int, dict[str, Any]]:
    """Token ids (N, words), how many texts were cut, and the vocabulary for the manifest."""
    if options.vocabulary:
        vocabulary = texts.read_vocabulary(options.vocabulary)
        ids, cut = texts.encode_wordpieces(tweets, options.vocabulary, options.words)
        return ids, cut, {"tokens": "BERT's word pieces, lower case", "vocabulary": vocabulary}
    vocabulary = texts.build_vocabulary(
        tweet for tweet, row in zip(tweets, rows, strict=True) if row.split == 0
    )
    ids, cut = texts.encode_words(tweets, vocabulary, options.words)
    facts = "words that occur twice or more in the training texts"
    return ids, cut, {"tokens": facts, "vocabulary": vocabulary}


def _describe_labels(rows: list[_Row], options: CrisisMMDOptions) -> Iterator[str]:
    if options.task == "damage":
        yield "labels: all, the image's damage; a text is not labelled in this task"
        return
    if options.labels == "agreed":
        yield "labels: agreed, text and image were given the same one"
    else:
        yield f"labels: all, an event has its {options.label_of}'s"
    differing = [
        row
        for row in rows
        if _read_label(row, "label_text", options.task)
        != _read_label(row, "label_image", options.task)
    ]
    if differing:
        yield (
            f"{len(differing)} of {len(rows)} events whose text and image are labelled "
            f"differently, such as {differing[0].cells['image_id']}"
        )


def _find_shared_tweets(rows: list[_Row]) -> Iterator[str]:
    splits: dict[str, set[int]] = {}
    for row in rows:
        splits.setdefault(row.cells["tweet_id"], set()).add(row.split)
    shared = [tweet for tweet, found in splits.items() if len(found) > 1]
    if shared:
        yield f"{len(shared)} tweets with images in more than one split, such as {shared[0]}"


# Below preset `paper` BERT is a smaller one that starts from nothing: our choice.
SCRATCH = {"optimiser": "adam", "learning_rate": 1e-3, "final_learning_rate": 1e-4}
CRISISMMD = Dataset(
    name="crisismmd",
    summary="tweets of disasters, text and image, in the official splits; read from your copy",
    classes=len(CLASSES["humanitarian"]),
    modalities={
        "text": Modality("bert"),
        "visual": Modality("mobilenetv2", augment="crop_flip"),
    },
    options=CrisisMMDOptions,
    directions=("text2visual", "visual2text"),
    source=Source(list_events, decode),
    reports="crisismmd",
    recipes={
        "paper": {
            "text": {
                "optimiser": "adam",
                "epochs": 20,
                "learning_rate": 1e-5,
                "final_learning_rate": 1e-5,
            },
            "": {"side": 224},
        },
        "reduced": {"text": SCRATCH, "": {"side": 112}},
        "quick": {"text": SCRATCH, "": {"side": 64}},
        "smoke": {"text": SCRATCH, "": {"side": 32}},
    },
)

"""CREMA-D: actors who speak a sentence in one of six emotions, heard and seen.

Files as published: `AudioWAV/<stem>.wav` and `VideoFlash/<stem>.flv`, with stems such as
1001_IEO_NEU_XX: actor, sentence, emotion, intensity. There is no official split. The common one
(6,698 and 744 clips) is two lists without a header, `stem,LABEL`, whose paths the user gives.

Source: Cao et al., IEEE Transactions on Affective Computing 5 (2014); spectrograms and frames as in
FD-CMKD's released preprocessing.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.data import media
from fdlab.data.audiovisual import (
    DIRECTIONS,
    RATE,
    RECIPES,
    describe_arrays,
    find_file,
    make_modalities,
    read_text,
    require,
    require_side,
)
from fdlab.data.dataset import SPLITS, Dataset
from fdlab.data.listing import Event, Listing, Source

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")  # in the order of the release's labels
SPLITTINGS = ("published", "stratified", "actors")
SECONDS, COLUMNS = 3, 299
FRAMES = 6  # one per second of the longest clips, which last five seconds and a few frames
LEAST_FRAMES = 3  # as released
HELD_OUT = 10  # one in so many is tested, as in the common lists, and one validates
STEM = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
MODALITIES = make_modalities(frames=1)


@dataclass(frozen=True)
class CremadOptions:
    """How CREMA-D is read.

    split: "published" (the lists `train_csv` and `test_csv`), "stratified" (by emotion), or
    "actors" (no actor in two parts). The latter two have a validation part, are drawn with `seed`,
    and need no lists; with lists they divide the lists' clips. The lists' paths are relative to the
    data set's folder, else to the working directory. side: of the stored frames, in pixels.
    """

    split: str = "published"
    train_csv: str = ""
    test_csv: str = ""
    side: int = 256
    seed: int = 0

    def __post_init__(self):
        if self.split not in SPLITTINGS:
            raise name_unknown("split of cremad", self.split, SPLITTINGS)
        if bool(self.train_csv) != bool(self.test_csv):
            raise UserError("cremad: one of train_csv and test_csv is given: expected both or none")
        require_side(self.side)
        require("seed", self.seed, 0)


def list_events(root: Path, options: CremadOptions) -> Listing:
    """The clips by their stems, sorted: those of the lists, or without lists those found.

    A clip whose sound or picture is not there is listed all the same. Every way to split that these
    clips allow is in `splits`. Raises `UserError` for a folder or list that is not there, and with
    the line for a stem, label or repetition that cannot be.
    """
    if options.split == "published" and not options.train_csv:
        raise UserError(
            "cremad: split published needs the two lists, train_csv=… and test_csv=… (lines such "
            "as 1001_IEO_NEU_XX,NEU without a header); without lists choose split=stratified or "
            "split=actors"
        )
    found = _find_stems(root)
    listed = _read_lists(root, options)
    stems = sorted(listed or found)
    if not stems:
        raise UserError(f"{root}: no clip in AudioWAV/*.wav and VideoFlash/*.flv")
    parts = [STEM.fullmatch(stem).groups() for stem in stems]
    labels = np.array([CLASSES.index(emotion) for _, _, emotion, _ in parts])
    actors = np.array([actor for actor, *_ in parts])
    splits = {
        "stratified": split_by_class(labels, options.seed),
        "actors": split_by_group(actors, options.seed),
    }
    if listed:
        splits["published"] = np.array([listed[stem] for stem in stems], np.uint8)
    splits = {
        name: split for name, split in splits.items()
        if split is not None and set(labels[split == 0]) == set(labels)
    }  # fmt: skip
    if options.split == "published" and "published" not in splits:
        met = {stem.split("_")[2] for stem, part in listed.items() if part == 0}
        raise UserError(
            f"{options.train_csv}: no clip of {', '.join(sorted(set(CLASSES) - met))}: expected "
            "every emotion in training"
        )
    if options.split not in splits:
        raise UserError(
            f"{root}: {len(stems)} clips of {len(set(actors))} actors cannot be split by "
            f"{options.split}: expected every emotion in training, three clips of each and three "
            "actors"
        )
    split = splits[options.split]
    notes = _describe_overlap(parts, split)
    if listed and (unlisted := len(found - set(stems))):
        notes.append(f"clips of the folder that are in neither list, and left out: {unlisted}")
    events = [
        Event(stem, int(label), int(part), (f"AudioWAV/{stem}.wav", f"VideoFlash/{stem}.flv"))
        for stem, label, part in zip(stems, labels, split, strict=True)
    ]
    return Listing(
        events=events,
        arrays=describe_arrays(COLUMNS, FRAMES, options.side, counted=True),
        modalities=MODALITIES,
        classes=list(CLASSES),
        directions=DIRECTIONS,
        ids={
            "actor": [actor for actor, *_ in parts],
            "sentence": [sentence for _, sentence, *_ in parts],
            "intensity": [intensity for *_, intensity in parts],
        },
        splits=splits,
        expected={"train": 6698, "test": 744} if options.split == "published" else {},
        notes=notes,
        annotations=options.train_csv if options.split == "published" else "",
        info={
            "split": options.split,
            "rate": RATE,
            "seconds": SECONDS,
            "spectrogram": "log power, not standardised",
            "frames": f"one at each whole second, {LEAST_FRAMES} evenly placed in shorter clips",
        },
    )


def decode(root: Path, event: Event, options: CremadOptions) -> dict[str, np.ndarray]:
    """One clip: audio float16 (1, 257, 299), three seconds, not standardised; visual uint8
    (6, 3, side, side), a frame for each whole second; visual_frames, how many there are.

    The release steps by int(frames per second), 29 at 29.97, so that its second i is 3 % earlier.
    """
    audio, visual = (root / file for file in event.files)
    with media.naming_from(root):
        samples = media.read_audio(audio, RATE)
        frames, count = media.read_each_second(visual, FRAMES, LEAST_FRAMES, options.side)
    return {
        "audio": media.log_spectrogram(samples, RATE, SECONDS),
        "visual": frames,
        "visual_frames": np.int16(count),
    }


def split_by_class(labels: np.ndarray, seed: int) -> np.ndarray | None:
    """(N,) uint8: one in ten of every class to test and to validation, at least one; None where a
    class has fewer than three. Our choice: the share of the common lists."""
    split = np.zeros(len(labels), np.uint8)
    rng = np.random.default_rng([seed, 0])
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 3:
            return None
        _hold_out(split, rows)
    return split


def split_by_group(groups: np.ndarray, seed: int) -> np.ndarray | None:
    """(N,) uint8: one in ten of the groups to test and to validation, at least one; None where
    there are fewer than three. No group is in two parts."""
    names, rows = np.unique(groups, return_inverse=True)
    if len(names) < 3:
        return None
    split = np.zeros(len(names), np.uint8)
    _hold_out(split, np.random.default_rng([seed, 1]).permutation(len(names)))
    return split[rows]


def _hold_out(split: np.ndarray, rows: np.ndarray) -> None:
    """Mark the first of `rows` as test and the next as validation."""
    count = max(1, round(len(rows) / HELD_OUT))
    split[rows[:count]] = SPLITS.index("test")
    split[rows[count : 2 * count]] = SPLITS.index("validation")


def _find_stems(root: Path) -> set[str]:
    """Stems of the sound and video files."""
    stems = set()
    for folder, suffix in (("AudioWAV", ".wav"), ("VideoFlash", ".flv")):
        if not (root / folder).is_dir():
            raise UserError(
                f"{root} holds no folder {folder}: expected AudioWAV/*.wav and VideoFlash/*.flv"
            )
        for path in (root / folder).iterdir():
            if path.suffix != suffix or path.name.startswith("."):
                continue
            _require_stem(path.stem, str(path))
            stems.add(path.stem)
    return stems


def _read_lists(root: Path, options: CremadOptions) -> dict[str, int]:
    """Stem → split of the two lists, empty without them."""
    found: dict[str, int] = {}
    for split, text in (("train", options.train_csv), ("test", options.test_csv)):
        if not text:
            continue
        before = len(found)
        path = find_file(root, text)
        for number, row in enumerate(csv.reader(io.StringIO(read_text(path))), start=1):
            if not row:
                continue
            where = f"{path}, line {number}"
            if len(row) != 2:
                raise UserError(f"{where}: {len(row)} fields: expected stem,LABEL")
            stem, label = (field.strip() for field in row)
            _require_stem(stem, where)
            if label != stem.split("_")[2]:
                raise UserError(f"{where}: label {label!r} contradicts the clip's name {stem}")
            if stem in found:
                raise UserError(f"{where}: {stem} is listed already: expected each clip once")
            found[stem] = SPLITS.index(split)
        if len(found) == before:
            raise UserError(
                f"{path}: no clip is listed: expected lines such as 1001_IEO_NEU_XX,NEU"
            )
    return found


def _require_stem(stem: str, where: str) -> None:
    match = STEM.fullmatch(stem)
    if not match:
        raise UserError(f"{where}: {stem!r} is no clip: expected a name such as 1001_IEO_NEU_XX")
    if match[3] not in CLASSES:
        raise UserError(f"{where}: {name_unknown('emotion', match[3], CLASSES)}")


def _describe_overlap(parts: list[tuple[str, ...]], split: np.ndarray) -> list[str]:
    """What test shares with train: a clip's actor and sentence may be remembered."""
    notes = []
    for kind, size in (("actors", 1), ("pairs of actor and sentence", 2)):
        held = [
            {part[:size] for part, s in zip(parts, split, strict=True) if s == SPLITS.index(word)}
            for word in ("train", "test")
        ]
        notes.append(f"{len(held[0] & held[1])} of {len(held[1])} {kind} in test are in train too")
    return notes


CREMAD = Dataset(
    name="cremad",
    summary="CREMA-D: six emotions of 91 actors, speech and video",
    classes=len(CLASSES),
    modalities=MODALITIES,
    options=CremadOptions,
    source=Source(list_events, decode),
    directions=DIRECTIONS,
    reports="cremad",
    recipes=RECIPES,
)

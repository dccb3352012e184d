"""VGGSound: ten-second clips of videos, of which FD-CMKD takes 50 classes at random.

Files: `vggsound.csv` as published (no header: id, start second, label, split) and a folder of
videos named `<id>_<start in six digits>.mp4`, or with the start as it is. Many of the videos are no
longer there to be fetched, and a set without some of them is normal. Which 50 classes the paper
drew is not published, so that its counts (29,999 and 2,497) cannot be met but by chance.

Source: Chen et al., VGGSound: a large-scale audio-visual dataset, ICASSP 2020.
"""

from __future__ import annotations

import csv
import io
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
    require_stem,
)
from fdlab.data.dataset import SPLITS, Dataset
from fdlab.data.listing import Event, Listing, Source

ANNOTATIONS = "vggsound.csv"
SECONDS, COLUMNS = 10, 1004
FRAMES = 3
MODALITIES = make_modalities(frames=FRAMES)


@dataclass(frozen=True)
class VggsoundOptions:
    """How VGGSound is read.

    videos: the folder of the videos, in the data set's. classes: a text file with the labels to
    take, one a line, relative to the data set's folder, else to the working directory; without it
    `count` of them are drawn with `seed`. side: of the stored frames, in pixels.
    """

    videos: str = "video"
    classes: str = ""
    count: int = 50
    seed: int = 0
    side: int = 256

    def __post_init__(self):
        require("count", self.count, 2)
        require("seed", self.seed, 0)
        require_side(self.side)


@dataclass(frozen=True)
class Row:
    """One line of `vggsound.csv`; split: index into `SPLITS`."""

    video: str
    start: int
    label: str
    split: int


def list_events(root: Path, options: VggsoundOptions) -> Listing:
    """The clips of the chosen classes, in the order of `vggsound.csv`.

    The classes are sorted. Raises `UserError` for a file or folder that is not there, with the line
    for a row that cannot be read or stands there twice, and for a class that is not known.
    """
    rows = _read_rows(root / ANNOTATIONS)
    if not (root / options.videos).is_dir():
        raise UserError(f"{root} holds no folder {options.videos}: name it by videos=…")
    known = sorted({row.label for row in rows})
    if options.classes:
        path = find_file(root, options.classes)
        classes, how = _read_classes(path, known), f"fixed by {path.name}"
    else:
        classes, how = choose_classes(known, options.count, options.seed), f"seed {options.seed}"
    order = {name: index for index, name in enumerate(classes)}
    rows = [row for row in rows if row.label in order]
    there = {path.name for path in (root / options.videos).iterdir()}
    folder = Path(options.videos).as_posix()
    events = [
        Event(
            f"{row.video}_{row.start:06d}", order[row.label], row.split,
            (f"{folder}/{_name_file(row, there)}",),
        )
        for row in rows
    ]  # fmt: skip
    notes = [f"{len(classes)} of {len(known)} classes, {how}: {'; '.join(classes)}"]
    videos = [
        {row.video for row in rows if row.split == SPLITS.index(s)} for s in ("train", "test")
    ]
    if shared := len(videos[0] & videos[1]):
        notes.append(f"videos in both train and test: {shared}")
    return Listing(
        events=events,
        arrays=describe_arrays(COLUMNS, FRAMES, options.side, counted=False),
        modalities=MODALITIES,
        classes=classes,
        directions=DIRECTIONS,
        ids={"video": [row.video for row in rows]},
        expected={"train": 29999, "test": 2497},
        notes=notes,
        annotations="vggsound.csv",
        info={
            "classes_chosen": how,
            "classes": classes,
            "rate": RATE,
            "seconds": SECONDS,
            "spectrogram": "log power, standardised for each clip",
            "frames": f"the middles of {FRAMES} equal parts",
        },
    )


def decode(root: Path, event: Event, options: VggsoundOptions) -> dict[str, np.ndarray]:
    """One clip: audio float16 (1, 257, 1004), ten seconds, standardised; visual uint8
    (3, 3, side, side), the middles of three equal parts. Where the paper takes its three frames is
    not published; this is our choice."""
    path = root / event.files[0]
    with media.naming_from(root):
        samples = media.read_audio(path, RATE)
        seconds = min(media.measure_video(path), SECONDS)
        times = [seconds * (part + 0.5) / FRAMES for part in range(FRAMES)]
        frames = media.read_frames(path, times, options.side)
    return {
        "audio": media.log_spectrogram(samples, RATE, SECONDS, standardise=True),
        "visual": frames,
    }


def choose_classes(known: list[str], count: int, seed: int) -> list[str]:
    """`count` of the labels `known`, drawn without replacement; both sorted."""
    if count > len(known):
        raise UserError(f"vggsound: count is {count}: expected at most {len(known)}, the classes "
                        f"of {ANNOTATIONS}")  # fmt: skip
    chosen = np.random.default_rng(seed).choice(len(known), count, replace=False)
    return [known[index] for index in sorted(chosen)]


def _read_rows(path: Path) -> list[Row]:
    """Every line of `vggsound.csv`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected VGGSound's list (id,start,label,split)")
    rows, seen = [], set()
    for number, fields in enumerate(csv.reader(io.StringIO(read_text(path))), start=1):
        if not fields:
            continue
        where = f"{path}, line {number}"
        if len(fields) != 4:
            raise UserError(f"{where}: {len(fields)} fields: expected id,start,label,split")
        video, start, label, split = (field.strip() for field in fields)
        if not start.isdecimal():
            raise UserError(f"{where}: start is {start!r}: expected a whole number of seconds")
        if split not in ("train", "test"):
            raise UserError(f"{where}: split is {split!r}: expected train or test")
        if not video or not label:
            raise UserError(f"{where}: no id or label: expected id,start,label,split")
        require_stem(video, where)
        if (video, int(start)) in seen:
            raise UserError(f"{where}: {video} from {start} s is listed already")
        seen.add((video, int(start)))
        rows.append(Row(video, int(start), label, SPLITS.index(split)))
    return rows


def _read_classes(path: Path, known: list[str]) -> list[str]:
    """The labels that a text file names, sorted; every one known, and once."""
    found: set[str] = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in known:
            raise UserError(f"{path}, line {number}: {name_unknown('class', name, known)}")
        if name in found:
            raise UserError(f"{path}, line {number}: {name!r} is named already: expected it once")
        found.add(name)
    if len(found) < 2:
        raise UserError(f"{path}: {len(found)} classes: expected two or more, one a line")
    return sorted(found)


def _name_file(row: Row, there: set[str]) -> str:
    """The video's file name: with six digits unless only the other is there."""
    long, short = f"{row.video}_{row.start:06d}.mp4", f"{row.video}_{row.start}.mp4"
    return short if short in there and long not in there else long


VGGSOUND = Dataset(
    name="vggsound",
    summary="VGGSound: 50 of its 309 classes, ten-second videos",
    classes=50,
    modalities=MODALITIES,
    options=VggsoundOptions,
    source=Source(list_events, decode),
    directions=DIRECTIONS,
    reports="vggsound",
    recipes=RECIPES,
)

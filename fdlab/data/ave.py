"""AVE: audio-visual events, 4,143 rows of ten-second videos in 28 categories.

Files as published: `AVE_Dataset/AVE/<id>.mp4`, `Annotations.txt`, and the lists trainSet.txt,
valSet.txt and testSet.txt, all `Category&id&quality&start&end`, with one header line or none.

The lists name some videos more than once: under two categories, with two segments, and a few both
for training and for testing. Every row is an event by default, because that is what published
numbers were measured on, and the notes count what leaks; with `drop_leaks` those rows leave.

Source: Tian et al., Audio-visual event localization in unconstrained videos, ECCV 2018.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.data import media
from fdlab.data.audiovisual import (
    DIRECTIONS,
    RATE,
    RECIPES,
    describe_arrays,
    make_modalities,
    read_text,
    require_side,
    require_stem,
)
from fdlab.data.dataset import SPLITS, Dataset
from fdlab.data.listing import Event, Listing, Source

LISTS = dict(zip(SPLITS, ("trainSet.txt", "valSet.txt", "testSet.txt"), strict=True))
ANNOTATIONS = "Annotations.txt"
SECONDS, COLUMNS = 10, 1004
FRAMES = 10  # one per second
MODALITIES = make_modalities(frames=1)


@dataclass(frozen=True)
class AveOptions:
    """How AVE is read.

    drop_leaks: leave out training rows whose video is also validated or tested on, and validation
    rows whose video is also tested on. side: of the stored frames, in pixels.
    """

    drop_leaks: bool = False
    side: int = 256

    def __post_init__(self):
        require_side(self.side)


@dataclass(frozen=True)
class Row:
    """One line of a list."""

    category: str
    video: str
    quality: str
    start: int
    end: int


def list_events(root: Path, options: AveOptions) -> Listing:
    """The rows of the three lists, in their order; `root` is AVE_Dataset or the folder above it.

    The second row of a video has the id `<video>#2`, and so on. Raises `UserError` for a file that
    is not there, and with the line for one that cannot be read or has a category that is not in
    Annotations.txt.
    """
    base = root / "AVE_Dataset" if (root / "AVE_Dataset").is_dir() else root
    annotated = _read_rows(base / ANNOTATIONS, None)
    classes = sorted({row.category for row in annotated})
    lists = {split: _read_rows(base / name, classes) for split, name in LISTS.items()}
    notes = _describe_repeats(lists) + _compare_with(annotated, lists)
    if options.drop_leaks:
        lists, left = drop_leaks(lists)
        notes.append(
            f"left out because they leak: {left['train']} rows of train, {left['validation']} of "
            "validation"
        )
    events, seen = [], Counter()
    folder = (base / "AVE").relative_to(root).as_posix()
    for index, split in enumerate(SPLITS):
        for row in lists[split]:
            seen[row.video] += 1
            times = seen[row.video]
            name = row.video if times == 1 else f"{row.video}#{times}"
            file = f"{folder}/{row.video}.mp4"
            events.append(Event(name, classes.index(row.category), index, (file,)))
    return Listing(
        events=events,
        arrays=describe_arrays(COLUMNS, FRAMES, options.side, counted=True),
        modalities=MODALITIES,
        classes=classes,
        directions=DIRECTIONS,
        ids={"video": [row.video for split in SPLITS for row in lists[split]]},
        expected={"events": 4143},
        notes=notes,
        annotations="trainSet.txt, valSet.txt and testSet.txt",
        info={
            "rate": RATE,
            "seconds": SECONDS,
            "spectrogram": "log power, standardised for each clip",
            "frames": "one at each whole second",
            "drop_leaks": options.drop_leaks,
        },
    )


def decode(root: Path, event: Event, options: AveOptions) -> dict[str, np.ndarray]:
    """One video: audio float16 (1, 257, 1004), ten seconds, standardised; visual uint8
    (10, 3, side, side), a frame for each whole second; visual_frames, how many there are."""
    path = root / event.files[0]
    with media.naming_from(root):
        samples = media.read_audio(path, RATE)
        frames, count = media.read_each_second(path, FRAMES, 1, options.side)
    return {
        "audio": media.log_spectrogram(samples, RATE, SECONDS, standardise=True),
        "visual": frames,
        "visual_frames": np.int16(count),
    }


def drop_leaks(lists: dict[str, list[Row]]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The lists without rows whose video a later list has, train before validation before test;
    and how many each lost."""
    kept, left, later = {}, {}, set()
    for split in reversed(SPLITS):
        kept[split] = [row for row in lists[split] if row.video not in later]
        left[split] = len(lists[split]) - len(kept[split])
        later |= {row.video for row in lists[split]}
    return kept, left


def _read_rows(path: Path, classes: list[str] | None) -> list[Row]:
    """The lines of one list, without its header; every category one of `classes`, where given."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected AVE_Dataset with {ANNOTATIONS}, "
                        f"{', '.join(LISTS.values())} and AVE/*.mp4")  # fmt: skip
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = [field.strip() for field in line.split("&")]
        if not line.strip():
            continue
        if number == 1 and len(fields) == 5 and not any(f.isdecimal() for f in fields[3:]):
            continue  # the header
        where = f"{path}, line {number}"
        if len(fields) != 5 or not all(fields):
            raise UserError(f"{where}: {line!r}: expected Category&id&quality&start&end")
        category, video, quality, start, end = fields
        require_stem(video, where)
        if not (start.isdecimal() and end.isdecimal() and int(start) <= int(end) <= SECONDS):
            raise UserError(
                f"{where}: start {start} and end {end}: expected seconds, 0 <= start <= end <= 10"
            )
        if classes is not None and category not in classes:
            raise UserError(f"{where}: {name_unknown('category', category, classes)}")
        rows.append(Row(category, video, quality, int(start), int(end)))
    if not rows:
        raise UserError(f"{path}: no row: expected lines such as Church bell&<id>&good&0&10")
    return rows


def _describe_repeats(lists: dict[str, list[Row]]) -> list[str]:
    """Videos that stand in more than one row, in a list or across lists; empty without any."""
    videos = {split: {row.video for row in rows} for split, rows in lists.items()}
    every = [row for rows in lists.values() for row in rows]
    counts = Counter(row.video for row in every)
    repeated = [video for video, count in counts.items() if count > 1]
    notes = []
    if repeated:
        kinds = {video: set() for video in repeated}
        for row in every:
            if row.video in kinds:
                kinds[row.video].add(row.category)
        notes.append(
            f"videos in more than one row: {len(repeated)}, "
            f"{sum(len(kind) > 1 for kind in kinds.values())} of them in more than one category; "
            f"{len(every)} rows are {len(counts)} videos"
        )
    for split, rows in lists.items():
        if twice := len(rows) - len(videos[split]):
            notes.append(f"rows of {split} that repeat a video of {split}: {twice}")
    for one, other in combinations(SPLITS, 2):
        if both := len(videos[one] & videos[other]):
            notes.append(f"videos in both {one} and {other}: {both}")
    return notes


def _compare_with(annotated: list[Row], lists: dict[str, list[Row]]) -> list[str]:
    """Rows that only the lists or only the annotations have; empty where they agree."""
    listed = Counter(row for rows in lists.values() for row in rows)
    known = Counter(annotated)
    notes = []
    if extra := (listed - known).total():
        notes.append(f"rows of the lists that are not in {ANNOTATIONS}: {extra}")
    if unused := (known - listed).total():
        notes.append(f"rows of {ANNOTATIONS} that are in no list: {unused}")
    return notes


AVE = Dataset(
    name="ave",
    summary="AVE: 28 kinds of audio-visual events, ten-second videos",
    classes=28,
    modalities=MODALITIES,
    options=AveOptions,
    source=Source(list_events, decode),
    directions=DIRECTIONS,
    reports="ave",
    recipes=RECIPES,
)

"""A data set of small text files, whose decoder can be slow, fail or misbehave, for tests.

`events.json` lists `[id, label, split]`; the file `<id>.txt` says what decoding it does: a whole
number becomes the arrays, and a word makes trouble. Each decoding appends the id to `decoded.log`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data.dataset import Dataset, Modality
from fdlab.data.listing import BadMedium, Event, Listing, Source

CLASSES = ["cat", "dog", "owl"]


@dataclass(frozen=True)
class Options:
    """delay: seconds that an event takes. size: numbers in a row of `first`."""

    delay: float = 0.0
    size: int = 4


def list_events(root: Path, options: Options) -> Listing:
    said = json.loads((root / "events.json").read_text())
    events = [Event(i, label, split, (f"{i}.txt",)) for i, label, split in said["events"]]
    return Listing(
        events=events,
        arrays={"first": ((options.size,), "float32"), "second": ((2, 3), "uint8")},
        modalities={"first": Modality("textcnn"), "second": Modality("resnet18", "shift")},
        classes=CLASSES,
        directions=("first2second",),
        ids={"half": [str(k % 2) for k in range(len(events))]},
        splits={"other": np.arange(len(events)) % 2},
        **{k: v for k, v in said.items() if k != "events"},
    )


def make_rows(number: int, size: int) -> dict[str, np.ndarray]:
    """What a file that says `number` becomes."""
    return {
        "first": (number + np.arange(size) / 7).astype(np.float32),
        "second": ((number * np.arange(6)) % 251).astype(np.uint8).reshape(2, 3),
    }


def decode(root: Path, event: Event, options: Options) -> dict[str, np.ndarray]:
    with (root / "decoded.log").open("a") as handle:
        handle.write(f"{event.id}\n")
    time.sleep(options.delay)
    try:
        text = (root / event.files[0]).read_text()
    except FileNotFoundError:
        raise BadMedium(event.files[0], "no such file") from None
    if text == "bad":
        raise BadMedium(event.files[0], "not a number")
    if text == "crash":
        raise ZeroDivisionError("the decoder's own fault")
    if text == "library":
        raise UserError('numbers need more: pip install "fdlab[media]"')
    if text == "die":
        os._exit(9)
    found = make_rows(int(text.split()[-1]), options.size)
    if text.startswith("shape"):
        found["first"] = found["first"][:-1]
    if text.startswith("dtype"):
        found["second"] = found["second"].astype(np.int64)
    if text.startswith("name"):
        found["third"] = found.pop("first")
    return found


FAKE = Dataset(
    name="fake",
    summary="numbers in text files",
    classes=3,
    modalities={},
    options=Options,
    directions=(),
    reports="",
    source=Source(list_events, decode),
)


def write_files(root: Path, count: int = 60, **more) -> list[list]:
    """A root of `count` events in three classes and the splits train, train, test; returns them."""
    root.mkdir(exist_ok=True)
    events = [[f"e{k:03d}", k % 3, 2 if k % 4 == 3 else 0] for k in range(count)]
    for k, (name, _, _) in enumerate(events):
        (root / f"{name}.txt").write_text(str(k))
    write_listing(root, events, **more)
    return events


def write_listing(root: Path, events: list[list], **more) -> None:
    (root / "events.json").write_text(json.dumps({"events": events} | more))

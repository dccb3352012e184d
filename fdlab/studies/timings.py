"""What the benchmark of training left: one JSON file per device, read and checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from fdlab.core.config import Direction
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate

PATTERN, SUITES = "training-*.json", "suite.json"
COMMAND = "python -m benchmarks.training"
UNJUDGED = "no evaluation"  # ends the name of a loop that leaves it out
SHAPES = ("digits", "small", "cremad", "vggsound")
BOTH = "both"  # directions at once: two students per sample
KINDS = ("plain", "ours", "floor", "bound")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_rate(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is_timed(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_rate, value.values()))


# Each with whether a value is right, and what was expected where it is not.
Text = Annotated[str, lambda v: isinstance(v, str) and v, "a text"]
Rate = Annotated[float, _is_rate, "a number above 0"]
MaybeRate = Annotated[float | None, lambda v: v is None or _is_rate(v), "a number above 0, or null"]
Share = Annotated[float, lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"]
Count = Annotated[int, _is_count, "a whole number from 1"]
MaybeCount = Annotated[
    int | None, lambda v: v is None or _is_count(v), "a whole number from 1, or null"
]
Kind = Annotated[str, lambda v: v in KINDS, "plain, ours, floor or bound"]
DeviceKind = Annotated[str, lambda v: v in ("cuda", "cpu"), "cuda or cpu"]
Texts = Annotated[
    list[str],
    lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v),
    "a list of texts",
]
Sizes = Annotated[
    dict[str, list[int]],
    lambda v: isinstance(v, dict) and all(map(_is_size, v.values())),
    "sizes by input, such as [1, 32, 32]",
]
Seconds = Annotated[
    dict[str, dict[str, float]],
    lambda v: isinstance(v, dict) and all(map(_is_timed, v.values())),
    "seconds above 0 by method and direction",
]


@dataclass(frozen=True)
class Row:
    """One loop. kind: "plain" (as the paper's code is written), "ours" (with `features` switched
    on), "floor" (the step on one resident batch) or "bound" (counted operations or bytes over what
    the device can do). samples_per_second: its interval is [low, high], over `repeats`. ratio: to
    the plain loop; floor_share: of the floor's rate. direction: "both" trains two students."""

    name: Text
    kind: Kind
    features: Texts
    method: Text
    direction: Text
    samples_per_second: Rate
    low: Rate
    high: Rate
    repeats: Count
    ratio: MaybeRate
    floor_share: MaybeRate
    peak_bytes: MaybeCount

    @property
    def rate(self) -> Estimate:
        return Estimate(self.samples_per_second, self.low, self.high, self.repeats)


@dataclass(frozen=True)
class Part:
    """Share of a step's time that one part of it takes."""

    part: Text
    share: Share


@dataclass(frozen=True)
class Pack:
    """`size` students trained side by side; ratio: students per hour over one at a time."""

    size: Count
    students_per_hour: Rate
    low: Rate
    high: Rate
    ratio: Rate


@dataclass(frozen=True)
class Shape:
    """What was measured at one size of the inputs. inputs: modality → size of a sample. methods:
    method → direction → seconds that an epoch takes, its evaluation among it, per training
    sample."""

    inputs: Sizes
    classes: Count
    width: Count
    batch: Count
    samples: Count
    methods: Seconds
    rows: list[Row]
    profile: list[Part]
    pack: list[Pack]

    def list_rows(self, kind: str, method: str, direction: str) -> list[Row]:
        chosen = (kind, method, direction)
        return [row for row in self.rows if (row.kind, row.method, row.direction) == chosen]

    def find_plain(self, method: str, direction: str) -> Row | None:
        """The fastest of the plain loops."""
        found = self.list_rows("plain", method, direction)
        return max(found, key=lambda row: row.samples_per_second, default=None)

    def find_package(self, method: str, direction: str, judged: bool = True) -> Row | None:
        """The loop with the most features on, of equals the fastest, be it one of several
        processes; judged: of those that evaluate, else of those that leave it out."""
        found = [
            row
            for row in self.list_rows("ours", method, direction)
            if row.name.endswith(UNJUDGED) != judged
        ]
        order = lambda row: (len(row.features), row.samples_per_second)  # noqa: E731
        return max(found, key=order, default=None)

    def find_floor(self, row: Row) -> Row | None:
        """The floor that a row's share is of: of several that which gives it."""
        found = self.list_rows("floor", row.method, row.direction)
        share = row.floor_share or 1.0
        rate = row.samples_per_second
        gap = lambda floor: abs(rate / floor.samples_per_second - share)  # noqa: E731
        return min(found, key=gap, default=None)

    def compare(self, row: Row) -> float | None:
        """Ratio to the plain loop of the same method and direction, None where there is none."""
        plain = self.find_plain(row.method, row.direction)
        if row.ratio is not None or plain is None:
            return row.ratio
        return row.samples_per_second / plain.samples_per_second

    def time_sample(self, method: str, student: str) -> float | None:
        """Seconds per training sample that a method's student of a modality takes, None where it
        was not measured.

        Of both directions at once each student counts half.
        """
        found = self.methods.get(method, {})
        ways = {Direction.split(way)[1]: seconds for way, seconds in found.items()}
        return ways.get(student, ways[BOTH] / 2 if BOTH in ways else None)

    def average_sample(self, student: str) -> float | None:
        """The mean of `time_sample` over the methods that were measured for this student."""
        found = [self.time_sample(method, student) for method in self.methods]
        known = [seconds for seconds in found if seconds is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Timing:
    """One device's file. measured: date; kind: "cuda" or "cpu"; cores: of the processor."""

    device: Text
    kind: DeviceKind
    measured: Text
    torch: Text
    cores: Count
    file: str
    shapes: dict[str, Shape]

    @property
    def slug(self) -> str:
        return self.file.removeprefix("training-").removesuffix(".json")


@dataclass(frozen=True)
class SuiteTiming:
    """Seconds of a whole suite: where everything runs, and again where everything is found."""

    device: Text
    cores: Count
    torch: Text
    measured: Text
    suite: Text
    dataset: Text
    preset: Text
    first_seconds: Rate
    second_seconds: Rate


def read_timings(folder: Path) -> tuple[list[Timing], list[str]]:
    """Every device's file in a folder, those with a GPU first; and a line per file that is broken
    or has another schema."""
    found, notes = [], []
    for path in sorted(folder.glob(PATTERN)):
        try:
            found.append(read_timing(path))
        except UserError as error:
            notes.append(str(error))
    return sorted(found, key=lambda t: (t.kind == "cpu", t.device)), notes


def read_timing(path: Path) -> Timing:
    """One device's file. Raises `UserError`, which names the file and the place in it."""
    value = _read(path)
    shapes = _require_dict(value.get("shapes"), f"{path.name}: shapes")
    read = {name: _read_shape(each, f"{path.name}: {name}") for name, each in shapes.items()}
    return _make(Timing, value, path.name, file=path.name, shapes=read)


def read_suite_timings(path: Path) -> list[SuiteTiming]:
    """The file of whole suites. Raises `UserError`, which names the file and the place in it."""
    entries = _read(path, list)
    return [
        _make(SuiteTiming, entry, f"{path.name}: entry {place}")
        for place, entry in enumerate(entries, 1)
    ]


def _read_shape(value: Any, where: str) -> Shape:
    value = _require_dict(value, where)
    lists = {}
    for name, kind in (("rows", Row), ("profile", Part), ("pack", Pack)):
        items = value.get(name)
        if not isinstance(items, list):
            raise UserError(f"{where}: {name} is {_cut(items)}: expected a list")
        lists[name] = [
            _make(kind, item, f"{where}: {name} {place}") for place, item in enumerate(items, 1)
        ]
    total = sum(part.share for part in lists["profile"])
    if total > 1.01:
        raise UserError(f"{where}: the profile's shares add up to {total:.2f}: expected at most 1")
    return _make(Shape, value, where, **lists)


def _read(path: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(value, kind):
        expected = "an object" if kind is dict else "a list"
        raise UserError(f"{path.name} holds {_cut(value)}: expected {expected}")
    return value


def _make(kind: type, value: Any, where: str, **made: Any) -> Any:
    """A dataclass from an object's entries, each checked; further entries do not count."""
    value = _require_dict(value, where)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in made:
            continue
        right, words = hint.__metadata__
        if name not in value:
            raise UserError(f"{where} has no {name}: expected {words}")
        if not right(value[name]):
            raise UserError(f"{where}: {name} is {_cut(value[name])}: expected {words}")
        made[name] = value[name]
    return kind(**made)


def _require_dict(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {_cut(value)}: expected an object")
    return value


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

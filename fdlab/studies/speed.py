"""How fast does training run, and how far is it from what the device allows?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fdlab.core import paths
from fdlab.core.config import Direction
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.studies.claims import Claim
from fdlab.studies.projection import DATA, find_block, project
from fdlab.studies.timings import (
    BOTH,
    COMMAND,
    SHAPES,
    SUITES,
    Row,
    Shape,
    SuiteTiming,
    Timing,
    read_suite_timings,
    read_timings,
)

QUESTION = "How fast does training run, and how far is it from what the device allows?"
METHOD, BASE = "fdcmkd", "none"
# The direction whose teacher sees inputs that are not augmented, and the feature that then keeps
# its outputs.
KEPT, CACHE = "audio2image", "cache"
PACKED = 8
REACHED, MISSED, OPEN = "reached", "missed", "not measured"

Found = tuple[Estimate, str] | str  # a value and what it was computed from, or why there is none


@dataclass(frozen=True)
class Place:
    """The kind of device that a target is for."""

    name: str
    fits: Callable[[Timing], bool]


@dataclass(frozen=True)
class Target:
    """limit: at least that (above), or less than that. unit: "×", "%" or "h". shape: whose profile
    says why it is missed."""

    key: str
    statement: str
    place: Place
    limit: float
    above: bool
    unit: str
    shape: str
    measure: Callable[[Timing], Found]


@dataclass(frozen=True)
class Outcome:
    """A target on one device that it is for; device is "" where there is none.

    value: what was measured, None where nothing was; source: what it was computed from. gap: how
    far from the limit, in words. why: the two largest parts of a step where it is missed, or why it
    was not measured.
    """

    key: str
    statement: str
    place: str
    limit: float
    above: bool
    unit: str
    device: str
    measured: str
    value: Estimate | None
    source: str
    verdict: str
    gap: str
    why: str

    @property
    def goal(self) -> str:
        space = "" if self.unit == "×" else " "
        return f"{'at least' if self.above else 'under'} {self.limit:g}{space}{self.unit}"

    @property
    def progress(self) -> Estimate | None:
        """The value over the limit, or the limit over the value, so that 1 and more is good."""
        found = self.value
        if found is None or self.above:
            return found and Estimate(
                found.mean / self.limit, found.low / self.limit, found.high / self.limit, found.n
            )
        return Estimate(
            self.limit / found.mean, self.limit / found.high, self.limit / found.low, found.n
        )

    def show(self) -> str:
        """'7.1× [6.8, 7.4]', '' where nothing was measured."""
        if self.value is None:
            return ""
        digits = count_digits(self.value.mean)
        span = f" [{self.value.low:.{digits}f}, {self.value.high:.{digits}f}]"
        return show_value(self.value.mean, self.unit) + (span if self.value.known else "")


@dataclass(frozen=True)
class Speed:
    """timings: every device's file. suites: times of whole suites. outcomes: every target on every
    device that it is for. notes: a line per thing that is missing or broken."""

    dataset: str
    preset: str
    results: str
    timings: list[Timing]
    suites: list[SuiteTiming]
    outcomes: list[Outcome]
    notes: list[str]

    def finding(self) -> str:
        if not self.timings:
            return self.notes[0]
        counts = Counter(outcome.verdict for outcome in self.outcomes)
        counted = ", ".join(f"{verdict} {counts[verdict]}" for verdict in (REACHED, MISSED, OPEN))
        parts = [f"Targets: {counted}."]
        parts += [
            f"Missed on {outcome.device}: {outcome.statement}: {outcome.show()}, to be "
            f"{outcome.goal} ({outcome.gap}); {outcome.why}."
            for outcome in self.outcomes
            if outcome.verdict == MISSED
        ]
        for timing in self.timings:
            told = [_tell_shape(name, shape) for name, shape in timing.shapes.items()]
            if told := [text for text in told if text]:
                parts.append(f"{timing.device} ({timing.measured}): {'; '.join(told)}.")
        return " ".join(parts)

    def claims(self) -> list[Claim]:
        return []  # the paper says nothing of time


def _tell_shape(name: str, shape: Shape) -> str:
    row = shape.find_package(METHOD, BOTH)
    ratio = row and shape.compare(row)
    if not ratio:
        return ""
    floor = f" and {100 * row.floor_share:.0f} % of the floor" if row.floor_share else ""
    return f"{name} {show_value(ratio, '×')} the plain loop{floor}"


def collect_speed(
    results: str = "benchmarks", dataset: str = "digits", preset: str = "quick"
) -> Speed:
    """Read every file of the benchmarks in a folder (relative to the project's home) and weigh the
    targets; nothing is timed and nothing is trained.

    What is missing or cannot be read is a line of `notes`. dataset, preset: of the suite that asks,
    which the numbers do not depend on.
    """
    folder = paths.benchmarks(results)
    timings, notes = read_timings(folder)
    if not timings:
        notes.insert(0, f"No device was measured in {results}: `{COMMAND}` measures this one.")
    for timing in timings:
        absent = [name for name in SHAPES if name not in timing.shapes]
        if absent:
            notes.append(f"{timing.file}: shapes not measured: {', '.join(absent)}")
    suites = []
    if (folder / SUITES).is_file():
        try:
            suites = read_suite_timings(folder / SUITES)
        except UserError as error:
            notes.append(str(error))
    outcomes = [outcome for target in TARGETS for outcome in weigh(target, timings)]
    return Speed(dataset, preset, results, timings, suites, outcomes, notes)


def weigh(target: Target, timings: list[Timing]) -> list[Outcome]:
    """A target on every device that it is for, at least one line."""
    fitting = [timing for timing in timings if target.place.fits(timing)]
    if not fitting:
        return [_note_outcome(target, None, None, "", OPEN, "", "no such device")]
    outcomes = []
    for timing in fitting:
        found = target.measure(timing)
        if isinstance(found, str):
            outcomes.append(_note_outcome(target, timing, None, "", OPEN, "", found))
            continue
        value, source = found
        good = value.mean >= target.limit if target.above else value.mean < target.limit
        why = "" if good else explain(timing.shapes.get(target.shape))
        verdict = REACHED if good else MISSED
        gap = describe_gap(value, target.limit, target.above)
        outcomes.append(_note_outcome(target, timing, value, source, verdict, gap, why))
    return outcomes


def _note_outcome(
    target: Target,
    timing: Timing | None,
    value: Estimate | None,
    source: str,
    verdict: str,
    gap: str,
    why: str,
) -> Outcome:
    return Outcome(
        key=target.key,
        statement=target.statement,
        place=target.place.name,
        limit=target.limit,
        above=target.above,
        unit=target.unit,
        device=timing.device if timing else "",
        measured=timing.measured if timing else "",
        value=value,
        source=source,
        verdict=verdict,
        gap=gap,
        why=why,
    )


def describe_gap(value: Estimate, limit: float, above: bool) -> str:
    """How far the value is from the limit, as a share of the limit."""
    over = 100 * (value.mean / limit - 1)
    amount = f"{abs(over):.{1 if abs(over) < 10 else 0}f} %"
    if above:
        words = f"{amount} {'above' if over >= 0 else 'short'}"
    else:
        words = f"{amount} {'below' if over < 0 else 'over'}"
    if over >= 100:
        words = f"{value.mean / limit:.1f} times that"
    spans = value.known and value.low < limit <= value.high
    return words + (", target inside the interval" if spans else "")


def explain(shape: Shape | None) -> str:
    """The two largest parts of a step."""
    if shape is None or not shape.profile:
        return "no profile of a step was measured"
    largest = sorted(shape.profile, key=lambda part: -part.share)[:2]
    return "most of a step: " + ", ".join(f"{p.part} {100 * p.share:.0f} %" for p in largest)


def show_value(value: float, unit: str) -> str:
    """'7.1×', '95 %', '2.4 h'."""
    space = "" if unit == "×" else " "
    return f"{value:.{count_digits(value)}f}{space}{unit}"


def count_digits(value: float) -> int:
    """Decimals that show three digits, two at most."""
    return max(0, min(2, 2 - math.floor(math.log10(abs(value))))) if value else 0


def compare_rows(row: Row, other: Row, mean: float | None = None) -> Estimate:
    """Ratio of two rates with the widest interval that theirs allow; mean: as the file states it,
    which may have been measured in pairs."""
    return Estimate(
        mean or row.samples_per_second / other.samples_per_second,
        row.low / other.high,
        row.high / other.low,
        min(row.repeats, other.repeats),
    )


def _find_shape(timing: Timing, name: str) -> Shape | str:
    return timing.shapes.get(name, f"shape {name} was not measured on this device")


def measure_gain(timing: Timing, name: str) -> Found:
    """Samples per second of the package over those of the plain loop."""
    shape = _find_shape(timing, name)
    if isinstance(shape, str):
        return shape
    row = shape.find_package(METHOD, BOTH)
    plain = shape.find_plain(METHOD, BOTH)
    if row is None or plain is None:
        return f"no row of {'the package' if row is None else 'the plain loop'} at shape {name}"
    return compare_rows(row, plain, row.ratio), f"“{row.name}” over “{plain.name}”"


def measure_floor(timing: Timing, name: str) -> Found:
    """An epoch's rate (%), its evaluation among it, of that of the same step on one batch."""
    shape = _find_shape(timing, name)
    if isinstance(shape, str):
        return shape
    row = shape.find_package(METHOD, BOTH)
    floor = row and shape.find_floor(row)
    if floor is None:
        return f"no row of {'the package' if row is None else 'the floor'} at shape {name}"
    found = compare_rows(row, floor, row.floor_share)
    source = f"“{row.name}” over “{floor.name}”"
    if bare := shape.find_package(METHOD, BOTH, judged=False):
        share = bare.floor_share or bare.samples_per_second / floor.samples_per_second
        source += f"; {show_value(100 * share, '%')} without the evaluation"
    return Estimate(100 * found.mean, 100 * found.low, 100 * found.high, found.n), source


def measure_cost(timing: Timing, name: str) -> Found:
    """An epoch's time over that without distillation, where the teacher's outputs are kept: of two
    loops with the same features; else from the times by method."""
    shape = _find_shape(timing, name)
    if isinstance(shape, str):
        return shape
    row, base = shape.find_package(METHOD, KEPT), shape.find_package(BASE, KEPT)
    if row and base and CACHE in row.features and sorted(row.features) == sorted(base.features):
        return compare_rows(base, row), f"“{row.name}” of both, {KEPT}"
    student = Direction.split(KEPT)[1]
    times = [shape.time_sample(method, student) for method in (METHOD, BASE)]
    if None in times:
        return f"{METHOD} and {BASE} were not both measured at shape {name}, {KEPT}"
    cost = Estimate(times[0] / times[1], math.nan, math.nan, 1)
    return cost, f"seconds per sample by method, {KEPT}"


def measure_pack(timing: Timing, name: str) -> Found:
    """Students per hour of `PACKED` side by side over one at a time."""
    shape = _find_shape(timing, name)
    if isinstance(shape, str):
        return shape
    packs = {pack.size: pack for pack in shape.pack}
    if PACKED not in packs:
        return f"no pack of {PACKED} was measured at shape {name}"
    many, one = packs[PACKED], packs.get(1)
    low, high = (many.low / one.high, many.high / one.low) if one else (math.nan, math.nan)
    return Estimate(many.ratio, low, high, 1), f"packs of {PACKED} and of 1"


def measure_block(timing: Timing) -> Found:
    """Hours of the paper's table."""
    found = project(timing)
    if found is None:
        shape = _find_shape(timing, DATA)
        return shape if isinstance(shape, str) else f"no method was timed at shape {DATA}"
    source = "seconds per sample by method"
    if found.assumed:
        source += f"; the mean of them for {', '.join(found.assumed)}"
    return Estimate(found.seconds / 3600, math.nan, math.nan, 1), source


H200 = Place("NVIDIA H200", lambda timing: timing.kind == "cuda" and "H200" in timing.device)
TWO_CORES = Place("CPU of 2 cores", lambda timing: timing.kind == "cpu" and timing.cores == 2)
TARGETS = (
    Target(
        "gain",
        "CREMA-D's shapes, FD-CMKD in both directions: samples per second over the plain loop's",
        H200, 10, True, "×", DATA, lambda timing: measure_gain(timing, DATA),
    ),
    Target(
        "floor",
        "CREMA-D's shapes, FD-CMKD in both directions: an epoch's rate over that of the step alone "
        "on a resident batch",
        H200, 95, True, "%", DATA, lambda timing: measure_floor(timing, DATA),
    ),
    Target(
        "cost",
        "CREMA-D's shapes, audio to image, where the teacher's outputs are kept: an epoch of "
        "FD-CMKD over one without distillation",
        H200, 1.05, False, "×", DATA, lambda timing: measure_cost(timing, DATA),
    ),
    Target(
        "pack",
        f"networks of digits' size, {PACKED} side by side: students per hour over one at a time",
        H200, 4, True, "×", "digits", lambda timing: measure_pack(timing, "digits"),
    ),
    Target(
        "table",
        f"Table 2's CREMA-D block ({find_block().describe()}): projected time",
        H200, 3, False, "h", DATA, measure_block,
    ),
    Target(
        "cpu",
        "digits at preset quick, FD-CMKD in both directions: samples per second over the plain "
        "loop's",
        TWO_CORES, 3, True, "×", "digits", lambda timing: measure_gain(timing, "digits"),
    ),
)  # fmt: skip

"""How long the paper's main table would take on a device, from the rates measured there."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.core.config import PRESETS
from fdlab.reference import read_table
from fdlab.studies.comparison import TABLE, name_row
from fdlab.studies.published import OWN_RECIPE
from fdlab.studies.timings import Shape, Timing

DATA = "cremad"  # columns `cremad_<student>` of the table, and the shape that is measured for it
INPUTS = {"visual": "image"}  # student of the table → what the benchmark calls its input


@dataclass(frozen=True)
class Block:
    """The part of Table 2 that is one data set's: every method for every student under every seed.

    samples: training samples of an epoch.
    """

    methods: tuple[str, ...]
    students: tuple[str, ...]
    seeds: int
    epochs: int
    samples: int

    def describe(self) -> str:
        return (
            f"{len(self.methods)} methods × {len(self.students)} directions × {self.seeds} seeds "
            f"× {self.epochs} epochs"
        )


@dataclass(frozen=True)
class Projection:
    """seconds: of the whole block. assumed: its methods that were not measured there, and count as
    the mean of those that were."""

    device: str
    measured: str
    seconds: float
    assumed: list[str]


def find_block() -> Block:
    """CREMA-D's block, with the paper's seeds and epochs; its two networks without distillation are
    the teachers of the others."""
    rows = read_table(TABLE)
    columns = [name for name in rows[0] if name.startswith(f"{DATA}_")]
    counts = next(row for row in read_table("fdcmkd_datasets") if row["data"] == DATA)
    preset = PRESETS[OWN_RECIPE]
    return Block(
        methods=tuple(row["method"] for row in rows if any(row[name] for name in columns)),
        students=tuple(name.removeprefix(f"{DATA}_") for name in columns),
        seeds=len(preset.seeds),
        epochs=preset.train.epochs,
        samples=int(counts["train"]),
    )


def project(timing: Timing) -> Projection | None:
    """The block's time on a device, its runs one after the other at the rates measured there; None
    where no method was timed at CREMA-D's shapes.

    A measured rate is of whole epochs, so that it pays for judging validation and test samples too,
    in the benchmark's proportion, which is that of the package's own store. All of the paper's
    training samples count, those too of which the package makes its validation split. Starting a
    run and reading the data are not counted.
    """
    shape = timing.shapes.get(DATA)
    if shape is None:
        return None
    block = find_block()
    ours = {name_row(method): method for method in shape.methods}
    rates = [
        find_rate(shape, ours.get(method, method), INPUTS.get(student, student))
        for student in block.students
        for method in block.methods
    ]
    if None in rates:
        return None
    return Projection(
        device=timing.device,
        measured=timing.measured,
        seconds=block.seeds * block.epochs * block.samples * sum(rates),
        assumed=[method for method in block.methods if method not in ours],
    )


def find_rate(shape: Shape, method: str, student: str) -> float | None:
    """Seconds per training sample of a method's student, at the mean over methods where this one
    was not measured; None where no method was, for this student."""
    return shape.time_sample(method, student) or shape.average_sample(student)

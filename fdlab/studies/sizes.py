"""What the networks of FiGKD's Table VII weigh and compute, counted, beside what it prints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.estimate import Estimate
from fdlab.models.count import build_on_meta, count_macs, count_norm_values, count_parameters
from fdlab.models.output import describe
from fdlab.reference import read_table
from fdlab.studies.claims import REFUTED, SUPPORTED, Claim
from fdlab.studies.printed import find_network
from fdlab.studies.published import Place, is_printed

TABLE = "figkd_table7_model_cost"
CLASSES = 200  # TinyImageNet's
SIDES = (32, 64)  # pixels: CIFAR's and TinyImageNet's
PER_VALUE = 4  # operations that the printed counts charge for a value that a batch norm gives
SIDES_OF = ("teacher", "student")
MILLION = 1e6


@dataclass(frozen=True)
class Size:
    """A network with 200 classes, all but the class count as published; counts in millions.

    printed: its name in the tables. parameters; macs: side of the image → multiply-accumulates of
    convolutions and linear layers; normed: values that its batch norms give at 64 pixels. rest:
    operations beside `macs` at 64 pixels and 4 a normed value that explain the printed count, and
    words: where they are from ("" where there are none). other: where the printed count is of no
    such network at 64 pixels, the count of the one that it fits. printed_parameters,
    printed_operations: as the table has them.
    """

    name: str
    printed: str
    parameters: float
    macs: dict[str, float]
    normed: float
    rest: float
    words: str
    printed_parameters: float
    printed_operations: float
    other: float = 0.0

    @property
    def operations(self) -> float:
        """By the printed counts' rule, at 64 pixels."""
        return self.macs["64"] + PER_VALUE * self.normed + self.rest

    @property
    def left(self) -> float:
        """The printed count minus ours by its own rule."""
        return self.printed_operations - self.operations


@dataclass(frozen=True)
class Ratio:
    """A pair's compression, teacher over student: of parameters and of operations.

    Both are quotients of counts in millions with two decimals, as the printed ones are; operations
    by the printed counts' rule at 64 pixels. macs: side of the image → of multiply-accumulates.
    """

    teacher: str
    student: str
    parameters: float
    operations: float
    macs: dict[str, float]
    printed_parameters: float
    printed_operations: float


@dataclass(frozen=True)
class Sizes:
    """networks: of Table VII, each once, in its order. ratios: of its pairs."""

    networks: list[Size]
    ratios: list[Ratio]

    def find(self, printed: str) -> Size:
        return next(size for size in self.networks if size.printed == printed)

    def measured(self) -> dict[Place, Estimate]:
        """Every cell of Table VII by the printed counts' own rule, at one resolution."""
        found = {}
        for ratio in self.ratios:
            key = f"{ratio.teacher} {ratio.student}"
            for side in SIDES_OF:
                size = self.find(getattr(ratio, side))
                found[TABLE, key, f"{side}_params_m"] = size.parameters
                found[TABLE, key, f"{side}_flops_m"] = size.operations
            # A half goes up, as in the printed ones.
            found[TABLE, key, "params_ratio"] = ratio.parameters + 1e-9
            found[TABLE, key, "flops_ratio"] = ratio.operations + 1e-9
        return {place: Estimate(value, value, value, 1) for place, value in found.items()}

    def controls(self) -> dict[Place, str]:
        """Beside each count: the multiply-accumulates alone, and what explains a difference."""
        found = {}
        for ratio in self.ratios:
            key = f"{ratio.teacher} {ratio.student}"
            for side in SIDES_OF:
                size = self.find(getattr(ratio, side))
                found[TABLE, key, f"{side}_flops_m"] = (
                    f"in millions at 64 pixels: {explain(size)}; multiply-accumulates at 32 "
                    f"pixels {size.macs['32']:.2f}"
                )
            found[TABLE, key, "flops_ratio"] = (
                f"of multiply-accumulates {ratio.macs['64']:.2f} at 64 pixels, "
                f"{ratio.macs['32']:.2f} at 32"
            )
        return found

    def finding(self) -> str:
        exact = [s for s in self.networks if is_printed(s.operations, s.printed_operations)]
        wrong = [r for r in self.ratios if not is_printed(r.operations, r.printed_operations)]
        text = (
            f"Table VII's operations are multiply-accumulates at 64 pixels and {PER_VALUE} for "
            f"every batch-normed value, to the digit in {len(exact)} of {len(self.networks)} "
            "networks"
        )
        for size in self.networks:
            if size not in exact:
                text += (
                    f"; {size.printed}'s {size.printed_operations:.2f} M is another network's at "
                    f"32 pixels (its own at 64: {size.operations:.1f})"
                )
        parts = [
            f"{r.teacher}-{r.student} {r.operations:.1f}× for {r.printed_operations:.1f}×"
            for r in wrong
        ]
        return text + (f", so at one resolution {' and '.join(parts)}." if parts else ".")

    def claims(self) -> list[Claim]:
        off = [r for r in self.ratios if not is_printed(r.operations, r.printed_operations)]
        kept = [r for r in self.ratios if r not in off]
        highest = max(self.ratios, key=lambda r: r.printed_operations)
        return [
            Claim(
                statement="The students need so many times less computation than their teachers",
                where="FiGKD, Table VII, ratio of operations",
                paper=f"{min(r.printed_operations for r in self.ratios):.2f} to "
                f"{highest.printed_operations:.2f} over {len(self.ratios)} pairs",
                ours=f"{len(kept)} of {len(self.ratios)} ratios to the digit"
                + "".join(
                    f"; {r.teacher}-{r.student} {r.operations:.2f} for {r.printed_operations:.2f}"
                    for r in off
                ),
                control="multiply-accumulates alone, at 64 pixels: largest difference to the "
                f"printed ratio in the other pairs {max(_gap(r) for r in kept):.1%}"
                if kept
                else "",
                verdict=REFUTED if off else SUPPORTED,
                why="counted at one resolution, 64 pixels, by the printed counts' own rule; agrees "
                "where every ratio is the same at the printed digits",
                n="counted: no samples",
            )
        ]


def explain(size: Size) -> str:
    """Why the printed count is what it is, or differs: a sum of numbers, each with its words."""
    terms = [
        f"{size.macs['64']:.2f} multiply-accumulates",
        f"{PER_VALUE} × {size.normed:.3f} batch-normed values",
    ]
    if size.rest:
        terms.append(f"{size.rest:.3f} {size.words}")
    text = f"{' + '.join(terms)} = {size.operations:.2f}"
    if size.other:
        text += f"; {size.printed_operations:.2f} is {size.words} ({size.other:.2f})"
    return text


@functools.cache
def count_sizes() -> Sizes:
    """Count every network of Table VII; nothing is trained, and no weight takes memory."""
    rows = read_table(TABLE)
    networks = {}
    for row in rows:
        for side in SIDES_OF:
            if row[side] not in networks:
                numbers = (float(row[f"{side}_{kind}_m"]) for kind in ("params", "flops"))
                networks[row[side]] = _count(row[side], *numbers)
    return Sizes([*networks.values()], [_divide(row, networks) for row in rows])


def _count(printed: str, printed_parameters: float, printed_operations: float) -> Size:
    name = find_network(printed)
    shapes = {str(side): (3, side, side) for side in SIDES}
    model = build_on_meta(name, shapes["64"], CLASSES)
    rest, words, other = 0.0, "", 0.0
    for prefix, measure in REST.items():
        if printed.startswith(prefix):
            rest, words, other = measure(model)
    return Size(
        name=name,
        printed=printed,
        parameters=count_parameters(model) / MILLION,
        macs={side: count_macs(model, shape) / MILLION for side, shape in shapes.items()},
        normed=count_norm_values(model, shapes["64"]) / MILLION,
        rest=rest / MILLION,
        words=words,
        printed_parameters=printed_parameters,
        printed_operations=printed_operations,
        other=other / MILLION,
    )


def _describe(model: nn.Module, side: int):
    return describe(model, torch.empty(1, 3, side, side, device="meta"))


def _norm_twice(model: nn.Module) -> tuple[float, str, float]:
    maps = _describe(model, 64).pick("stages").values()
    values = sum(c * h * w for c, h, w in maps)
    return (
        PER_VALUE * values,
        "a second batch norm at each stage's end, for methods that read it",
        0,
    )


def _pool_last(model: nn.Module) -> tuple[float, str, float]:
    """Adaptive pooling, as that counter has it: a sum and a division for each channel."""
    *_, (channels, height, width) = _describe(model, 64).pick("stages").values()
    return (height * width + 1) * channels, "for adaptive pooling of the last map", 0


def _pool_once(model: nn.Module) -> tuple[float, str, float]:
    return model.feature_width, "for average pooling, one a channel", 0


def _stem_of_nine(model: nn.Module) -> tuple[float, str, float]:
    """At 32 pixels, with nine taps in the stem where the benchmark's has one, and with a count for
    every value that average pooling gives."""
    shape = (3, 32, 32)
    stem, *stages = _describe(model, 32).maps.values()
    taps = 8 * 3 * stem[0] * stem[1] * stem[2]
    pooled = sum(before[0] * after[1] * after[2]
                 for before, after in zip([stem, *stages], stages, strict=False))  # fmt: skip
    count = count_macs(model, shape) + PER_VALUE * count_norm_values(model, shape) + taps + pooled
    return 0.0, "that of a network at 32 pixels whose stem is a 3×3 convolution", count


REST: dict[str, Callable[[nn.Module], tuple[float, str, float]]] = {
    "wrn": _norm_twice,
    "vgg": _pool_last,
    "resnet50": _pool_last,
    "mobilenetv2": _pool_once,
    "shufflenetv1": _stem_of_nine,
}


def _divide(row: dict[str, str], networks: dict[str, Size]) -> Ratio:
    teacher, student = (networks[row[side]] for side in SIDES_OF)
    return Ratio(
        teacher=teacher.printed,
        student=student.printed,
        parameters=_round(teacher.parameters) / _round(student.parameters),
        operations=_round(teacher.operations) / _round(student.operations),
        macs={side: teacher.macs[side] / student.macs[side] for side in teacher.macs},
        printed_parameters=float(row["params_ratio"]),
        printed_operations=float(row["flops_ratio"]),
    )


def _round(value: float) -> float:
    return round(value, 2)


def _gap(ratio: Ratio) -> float:
    return abs(ratio.macs["64"] / ratio.printed_operations - 1)

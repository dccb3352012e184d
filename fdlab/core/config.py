"""Frozen configurations: what a run is, and the presets that fill it in."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from fdlab.core.errors import UserError, name_unknown

SEPARATOR = "2"  # audio2image: teacher audio, student image
PAIR = "-"  # vgg13-vgg8: teacher vgg13, student vgg8
OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("power", "cosine")
PRECISIONS = ("auto", "float32", "bf16")
ON_NONFINITE = ("stop", "skip")
TEACHER_KINDS = {
    "trained": "the unimodal network of its modality",
    "shuffled": "its outputs go to other training samples, in one random order",
    "shuffled_in_class": "its outputs go to other training samples of the same class",
    "untrained": "its network as initialised, batch norm settled on the training inputs",
    "constant": "the mean of its outputs over the training samples, the same for all",
    "start": "the student's own network as it starts; it is of the student's modality",
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def require_types(value: Any) -> None:
    """Refuse a dataclass with a field of another type than it declares, or with a number that is
    not finite: NaN passes every comparison that should catch it."""
    for name, hint in _read_hints(type(value)).items():
        if not _fits(getattr(value, name), hint):
            raise UserError(f"{name} is {getattr(value, name)!r}: expected {_say_hint(hint)}")


@functools.cache
def _read_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; a whole number is a float too, a truth value is no number."""
    parts = typing.get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if parts:
        if not isinstance(value, typing.get_origin(hint)):
            return False
        if isinstance(value, dict):
            return all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
        return all(_fits(item, parts[0]) for item in value)
    if hint in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (hint is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint)


def _say_hint(hint: Any) -> str:
    words = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
    return words.get(hint, hint.__name__ if type(hint) is type else str(hint))


@dataclass(frozen=True)
class Direction:
    """Teacher modality to student modality; prints as `audio2image`."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher}{SEPARATOR}{self.student}"

    @staticmethod
    def split(text: str) -> tuple[str, str]:
        """audio2image → ("audio", "image"); a modality alone → ("", modality)."""
        teacher, _, student = text.rpartition(SEPARATOR)
        return teacher, student

    @classmethod
    def parse(cls, text: str, modalities: list[str]) -> Direction:
        """Read `teacher2student`; both must be among `modalities`. They may be one and the same,
        for networks that differ."""
        choices = [str(cls(a, b)) for a in modalities for b in modalities]
        if text not in choices:
            raise name_unknown("direction", text, choices)
        teacher = next(m for m in modalities if text.startswith(m + SEPARATOR))
        return cls(teacher, text[len(teacher) + len(SEPARATOR) :])


@dataclass(frozen=True)
class Pair:
    """Teacher's network to student's network; prints as `vgg13-vgg8`."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher}{PAIR}{self.student}"

    @classmethod
    def parse(cls, text: str) -> Pair:
        names = text.split(PAIR)
        if len(names) != 2 or not all(names):
            raise UserError(
                f"pair is {text!r}: expected a teacher's and a student's network, such as "
                "vgg13-vgg8; see `fdlab models`"
            )
        return cls(*names)

    def as_teacher(self) -> Pair:
        """The pair whose student is this one's teacher."""
        return Pair(self.teacher, self.teacher)


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. The defaults are FD-CMKD's recipe (paper and released code).

    The learning rate of epoch e is `final + (initial - final)·(1 - e/epochs)^power`; no weight
    decay. milestones: fractions of the epochs, after each of which the rate is multiplied by
    `decay` instead, as in the CIFAR benchmark; then `final` and `power` have no meaning. schedule:
    "cosine" goes from initial to final along half a cosine, step by step, as FreqKD's and OFA-KD's
    recipes do. warm_up: steps over which the rate grows linearly from a hundredth of what it would
    be. clip: the gradients' norm, over all parameters, is scaled down to this; 0 leaves it.
    backbone_rate: factor on the rate of the encoder's parameters, where the network has a head
    beside it (FreqKD's second stage: 0.1). `augment` switches the data set's own augmentation of
    the training inputs. side: shorter side in pixels of the images that a network sees, 0 as
    stored. Under `optimiser` "adam" and "adamw", whose weight decay is decoupled, momentum has no
    meaning, and equal initial and final rates keep it fixed.

    precision: of the networks' arithmetic; losses, optimiser and everything that is kept are in
    float32. "auto" takes bf16 where the device is fast at it and float32 elsewhere, which the
    record says; see `fdlab.training.fast`. deterministic: on CUDA, the same bits at every repeat,
    slower; on the CPU they are the same anyway. on_nonfinite: what becomes of a step whose losses
    or gradients are not finite: "stop" ends the run, "skip" leaves the step out and counts it.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 0.01
    final_learning_rate: float = 1e-4
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 0.0
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    schedule: str = "power"
    warm_up: int = 0
    clip: float = 0.0
    backbone_rate: float = 1.0
    augment: bool = True
    optimiser: str = "sgd"
    side: int = 0
    precision: str = "auto"
    deterministic: bool = False
    on_nonfinite: str = "stop"

    def __post_init__(self):
        object.__setattr__(self, "milestones", tuple(self.milestones))  # a list, read from JSON
        require_types(self)
        if self.precision not in PRECISIONS:
            raise name_unknown("precision", self.precision, PRECISIONS)
        if self.on_nonfinite not in ON_NONFINITE:
            raise name_unknown("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        _require(self.epochs >= 1, f"epochs is {self.epochs}: expected a whole number from 1")
        _require(self.batch_size >= 2, f"batch_size is {self.batch_size}: expected at least 2")
        _require(
            self.learning_rate >= self.final_learning_rate > 0,
            f"learning_rate is {self.learning_rate} and final_learning_rate "
            f"{self.final_learning_rate}: expected initial >= final > 0",
        )
        _require(self.power >= 0, f"power is {self.power}: expected >= 0")
        if self.schedule not in SCHEDULES:
            raise name_unknown("schedule", self.schedule, SCHEDULES)
        _require(self.warm_up >= 0, f"warm_up is {self.warm_up}: expected steps, from 0")
        _require(self.clip >= 0, f"clip is {self.clip}: expected a norm above 0, or 0 for none")
        _require(
            0 <= self.backbone_rate <= 1,
            f"backbone_rate is {self.backbone_rate}: expected a factor from 0 to 1",
        )
        _require(0 <= self.momentum < 1, f"momentum is {self.momentum}: expected 0 <= m < 1")
        if self.optimiser not in OPTIMISERS:
            raise name_unknown("optimiser", self.optimiser, OPTIMISERS)
        _require(
            self.side == 0 or self.side >= 16,
            f"side is {self.side}: expected at least 16 pixels, or 0 for the stored size",
        )
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}: expected >= 0")
        _require(
            list(self.milestones) == sorted(set(self.milestones))
            and all(0 < place < 1 for place in self.milestones),
            f"milestones is {self.milestones}: expected fractions of the epochs, rising, such as "
            "(0.5, 0.75)",
        )
        _require(0 < self.decay <= 1, f"decay is {self.decay}: expected 0 < decay <= 1")


@dataclass(frozen=True)
class RunConfig:
    """One student trained by one method; everything that its numbers depend on.

    teacher is None for a method that needs none; then the run belongs to no direction. The teacher
    is the `none` run of its modality under `teacher_seed`. The student's initialisation and the
    order of the batches follow from `seed` and the modality alone, so that two methods under one
    seed differ in the loss and in nothing else. network, teacher_network: names in the table of
    networks, "" that of the data set; with other networks a teacher may be of the student's own
    modality. weights: a file, a folder or `hub:NAME` that the
    student starts from instead (its content counts, not its path); a teacher never does. Both
    start from those that the data set was prepared with, where it has any. base: the run whose
    student's network this one starts from, in place of all that: of a network for another use its
    encoder alone. The base's adapters are merged at the scale `blend`. rank: of the low-rank
    adapters (LoRA) that train in the place of the network's own parameters; 0 trains those.

    Controls: teacher_kind, see `TEACHER_KINDS`. start: the modality whose initialisation the
    student takes, where the two networks are alike ("" its own). probes: at how many steps, spread
    over the training, the gradient of each loss term is measured; it changes no weight.
    teacher_train: the recipe of the teacher's own run, where it is not the student's.
    """

    dataset: str
    student: str
    teacher: str | None = None
    method: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    network: str = ""
    teacher_network: str = ""
    seed: int = 0
    teacher_seed: int | None = None
    width: int = 64
    data_options: dict[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    weights: str = ""
    base: RunConfig | None = None
    blend: float = 1.0
    rank: int = 0
    teacher_kind: str = "trained"
    start: str = ""
    probes: int = 0
    teacher_train: TrainConfig | None = None

    def __post_init__(self):
        require_types(self)
        if self.teacher_kind not in TEACHER_KINDS:
            raise name_unknown("kind of teacher", self.teacher_kind, TEACHER_KINDS)
        _require(self.probes >= 0, f"probes is {self.probes}: expected a whole number from 0")
        _require(self.rank >= 0, f"rank is {self.rank}: expected a whole number from 0")
        _require(self.blend >= 0, f"blend is {self.blend}: expected a factor from 0")
        _require(
            self.base is None or not (self.weights or self.start),
            "base goes with neither weights nor start: expected one thing to start from",
        )
        _require(self.width >= 1, f"width is {self.width}: expected a whole number from 1")
        for name in ("seed", "teacher_seed"):
            value = getattr(self, name) or 0
            _require(value >= 0, f"{name} is {value}: expected a whole number from 0")

    @property
    def direction(self) -> str:
        """`audio2image`, or the student's modality alone where there is no teacher."""
        return str(Direction(self.teacher, self.student)) if self.teacher else self.student

    @property
    def networks(self) -> str:
        """`vgg13-vgg8`, teacher to student, or the student's alone; "" where they are the data
        set's own."""
        return PAIR.join(filter(None, (self.teacher_network, self.network)))

    @property
    def label(self) -> str:
        parts = (self.dataset, self.direction, self.networks, self.method, f"seed {self.seed}")
        after = f"after {self.base.direction} {self.base.method}" if self.base else ""
        return " ".join(filter(None, (*parts, after)))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RunConfig:
        recipes = {
            name: TrainConfig(**value[name])
            for name in ("train", "teacher_train")
            if value.get(name) is not None
        }
        if value.get("base") is not None:
            recipes["base"] = cls.from_dict(value["base"])
        return cls(**(value | recipes))


@dataclass(frozen=True)
class Preset:
    """How much is trained: network width, recipe, seeds, and any options of the data set.

    fewer: study → seeds, for studies whose many rows would take too long with all of them.
    narrower: study → width, for those whose networks are large at the same width.
    """

    name: str
    purpose: str
    width: int
    train: TrainConfig
    seeds: tuple[int, ...]
    data_options: dict[str, Any] = field(default_factory=dict)
    fewer: dict[str, tuple[int, ...]] = field(default_factory=dict)
    narrower: dict[str, int] = field(default_factory=dict)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke",
            "a few seconds; shows that everything runs, its numbers mean nothing",
            width=8,
            train=TrainConfig(epochs=2, learning_rate=0.05),
            seeds=(0, 1),
            data_options={"limit": 240},
            fewer={"logits": (0, 1), "zoo": (0, 1), "infrared": (0,), "heterogeneous": (0,)},
        ),
        Preset(
            "quick",
            "minutes on two CPU cores",
            width=16,
            train=TrainConfig(epochs=16, learning_rate=0.05),
            seeds=(0, 1, 2, 3),
            fewer={
                "ablation": (0, 1),
                "sensitivity": (0,),
                "methods": (0, 1),
                "logits": (0, 1, 2),
                "zoo": (0, 1, 2),
                "infrared": (0, 1),
                "heterogeneous": (0, 1),
            },
            narrower={"heterogeneous": 8},
        ),
        Preset(
            "reduced",
            "hours on a CPU, minutes on a GPU",
            width=32,
            train=TrainConfig(epochs=40),
            seeds=tuple(range(6)),
        ),
        Preset(
            "paper",
            "the paper's network and recipe: width 64, 100 epochs",
            width=64,
            train=TrainConfig(),
            seeds=tuple(range(6)),
        ),
    )
}


def find_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise name_unknown("preset", name, PRESETS)
    return PRESETS[name]


def resolve_options(kind: str, schema: type, given: dict[str, Any]) -> dict[str, Any]:
    """All options of the dataclass `schema`, `given` over its defaults; names and types checked.

    A whole number is taken where a float is expected. `kind` names the owner in the error.
    """
    defaults = {f.name: getattr(schema(), f.name) for f in dataclasses.fields(schema)}
    for name, value in given.items():
        if not defaults:
            raise UserError(f"{kind} has no options, and {name!r} was given")
        if name not in defaults:
            raise name_unknown(f"option of {kind}", name, defaults)
        expected = defaults[name]
        if not same_type(value, expected):
            example = '["a", "b"]' if expected == [] else repr(expected)
            raise UserError(
                f"option {name} of {kind} is {value!r}: expected {name_type(value, expected)}, "
                f"such as {example}"
            )
        if isinstance(expected, float):
            value = float(value)
        defaults[name] = value
    schema(**defaults)  # its own checks
    return defaults


def list_options(schema: type) -> str:
    """'cutoff=0.5, dc=drop' of a dataclass of options; empty where it has none."""
    return ", ".join(f"{f.name}={getattr(schema(), f.name)}" for f in dataclasses.fields(schema))


def same_type(value: Any, expected: Any) -> bool:
    """Whether `value` may stand where `expected` stood; an int may stand for a float, and NaN or an
    infinity for nothing."""
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(expected, bool) and isinstance(value, bool)
    if isinstance(expected, float):
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(expected, list):
        return isinstance(value, list) and (
            not expected or all(same_type(item, expected[0]) for item in value)
        )
    return isinstance(value, type(expected))


def name_type(value: Any, expected: Any) -> str:
    """What a message calls the type that `same_type` found `value` not to be of."""
    wild = isinstance(value, float) and not math.isfinite(value)
    return f"{'a finite ' if wild else ''}{type(expected).__name__}"

"""What a method is: extra parameters, and a map from two networks' outputs to named loss terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from fdlab.core.config import resolve_options
from fdlab.core.errors import UserError
from fdlab.losses.boxes import detection_loss
from fdlab.losses.logits import cross_entropy
from fdlab.methods import METHODS
from fdlab.methods.pixels import Pixels
from fdlab.models.output import MAPS, ModelOutput, Side

LossTerms = dict[str, torch.Tensor]  # name → scalar, weights included; their sum is the loss

# What becomes of the teacher while the student trains.
FROZEN = "frozen"
DRIFTING = "frozen, its batch norm in training mode"
TUNED = "trains on"
FRESH = "trains from scratch"
WARM_UP = 20 / 240  # of the epochs: 20 of the CIFAR-100 recipe's 240


@dataclass(frozen=True)
class Batch:
    """labels: (N,) class of each sample. rows: (N,) its place among the training samples, for
    methods that remember them. progress: share of the epochs that this one completes, e / E with e
    counted from 1, a scalar tensor where the step is to be recorded. pixels: in segmentation, where
    the rows come from; the N samples are then its P pixels, and the features' rows its Q
    positions. boxes: in detection (N, B, 5), see `Dataset.task`, in pixels of the networks' inputs,
    which are `size` (height, width)."""

    labels: torch.Tensor
    rows: torch.Tensor | None = None
    progress: float | torch.Tensor = 1.0
    pixels: Pixels | None = None
    boxes: torch.Tensor | None = None
    size: tuple[int, int] | None = None

    def spread(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the features' rows (Q, K) as one row per label; the same in classification."""
        return scores if self.pixels is None else self.pixels.spread(scores)

    def ramp(self, share: float) -> float | torch.Tensor:
        """A weight that grows in equal steps over the first `share` of the epochs, then 1."""
        if share <= 0:
            return 1.0
        grown = self.progress / share
        return grown.clamp_max(1) if isinstance(grown, torch.Tensor) else min(grown, 1.0)


def task_loss(student: ModelOutput, batch: Batch) -> torch.Tensor:
    """What the student's own task asks of it: cross-entropy, mean over the batch's samples or
    pixels, or `detection_loss`."""
    if batch.boxes is None:
        return cross_entropy(student.logits, batch.labels)
    stride = batch.size[0] / student.logits.shape[2]
    return detection_loss(student.logits, student.boxes, batch.boxes, stride)


@dataclass(frozen=True)
class Sizes:
    """The two networks (see `Side`), the number K of classes, and (n,) the class of every training
    sample, for methods that remember them. teacher is None for a method without one."""

    student: Side
    teacher: Side | None
    classes: int
    labels: torch.Tensor | None = None

    def pair(self, kind: str) -> list[tuple[str, str]]:
        """Student's and teacher's maps of a kind, by name, shallow to deep.

        Where one network has more of them, its maps at the same relative depth are taken: of 4
        beside 2 the second and the fourth. That is our choice; the sources pair networks of one
        family.
        """
        one, two = (list(side.pick(kind)) for side in (self.student, self.teacher))
        count = min(len(one), len(two))
        places = [
            [math.ceil((i + 1) * len(names) / count) - 1 for i in range(count)]
            for names in (one, two)
        ]
        return [(one[a], two[b]) for a, b in zip(*places, strict=True)]

    def pair_channels(self, kind: str) -> list[tuple[int, int]]:
        """Student's and teacher's channels of each pair."""
        mine, theirs = self.student.pick(kind), self.teacher.pick(kind)
        return [(mine[a][0], theirs[b][0]) for a, b in self.pair(kind)]


class Method(nn.Module):
    """Base of all methods.

    name, summary, source: for tables and `fdlab methods`. needs: which teacher outputs the loss
    reads, of "logits", "feature" and the kinds of maps (`MAPS`, see `Side.pick`); empty for a
    method without a teacher. compares: the loss terms that set the student against the teacher.
    strength: the options that multiply those terms, which a search scales. teaching: what becomes
    of the teacher. views: 2 for a method that sees every sample in a stronger view too; where its
    options say so, the built method has its own. tasks: what it is defined for; in segmentation see
    `fdlab.methods.pixels`. dense_options: its defaults in segmentation, where they differ.
    Options: a frozen dataclass of hyperparameters, every one with a default.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[tuple[str, ...]] = ()
    strength: ClassVar[tuple[str, ...]] = ()
    teaching: ClassVar[str] = FROZEN
    views: ClassVar[int] = 1
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    dense_options: ClassVar[dict[str, Any]] = {}

    @dataclass(frozen=True)
    class Options:
        pass

    @classmethod
    def check_task(cls, task: str, options: Options) -> None:
        """Refuse options that make no sense for a task, before anything is trained."""

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__()
        self.sizes, self.options = sizes, options

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        """Weighted loss terms of one batch. A frozen teacher's tensors carry no gradient."""
        raise NotImplementedError

    def predict(self, student: ModelOutput) -> dict[str, torch.Tensor]:
        """Head name → (N, K) logits; "raw" is the network's own head."""
        return {"raw": student.logits}

    def finish(self) -> None:
        """Called after every step of the optimiser, for methods that keep something of a batch.

        What changes from step to step lives in tensors that are written in place, here or in
        `forward`: a step that was recorded once is replayed without running this code again.
        """

    @property
    def teacher_maps(self) -> set[str]:
        """Names of the teacher's maps that the loss reads."""
        kinds = [need for need in self.needs if need in MAPS]
        return {name for kind in kinds for _, name in self.sizes.pair(kind)}


def find_family(kind: type[Method]) -> str:
    """What a method compares, in a word: "none" without a teacher, "peers" where the teacher
    trains, else the deepest thing that it reads: "maps", "feature" or "logits"."""
    if not kind.needs:
        return "none"
    if kind.teaching in (TUNED, FRESH):
        return "peers"
    if set(kind.needs) & set(MAPS):
        return "maps"
    return "feature" if "feature" in kind.needs else "logits"


def build_method(name: str, options: dict[str, Any], sizes: Sizes, task: str = "") -> Method:
    """The named method with `options` over its defaults."""
    kind = METHODS[name]
    return kind(sizes, kind.Options(**resolve_method_options(name, options, task)))


def resolve_method_options(name: str, options: dict[str, Any], task: str = "") -> dict[str, Any]:
    """Every option of a method, for a task where one is named; a method that is not defined for it
    is an error."""
    kind = METHODS[name]
    if task and task not in kind.tasks:
        able = ", ".join(other for other, each in METHODS.items() if task in each.tasks)
        raise UserError(f"{name} is not defined for {task}: expected one of {able}")
    own = kind.dense_options if task == "segmentation" else {}
    resolved = resolve_options(name, kind.Options, own | options)
    if task:
        kind.check_task(task, kind.Options(**resolved))
    return resolved


def require_weights(options: Any, *names: str) -> None:
    """For options that multiply a loss term: finite and at least 0."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise UserError(f"{name} is {value}: expected a finite number from 0")


def require_positive(options: Any, *names: str) -> None:
    """For temperatures and the like: finite and above 0."""
    for name in names:
        value = getattr(options, name)
        if not 0 < value < math.inf:
            raise UserError(f"{name} is {value}: expected above 0")

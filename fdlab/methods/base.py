"""What a method is: extra parameters, and a map from two networks' outputs to named loss terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from fdlab.core.config import resolve_options
from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.models.output import ModelOutput

LossTerms = dict[str, torch.Tensor]  # name → scalar, weights included; their sum is the loss


@dataclass(frozen=True)
class Sizes:
    """Widths D of the student's and the teacher's feature, and the number K of classes."""

    student: int
    teacher: int | None
    classes: int


class Method(nn.Module):
    """Base of all methods.

    name, summary, source: for tables and `fdlab methods`. needs: which teacher outputs the loss
    reads, of "logits", "feature"; empty for a method without a teacher. compares: the loss terms
    that set the student against the teacher. Options: a frozen dataclass of hyperparameters, every
    one with a default.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__()
        self.sizes, self.options = sizes, options

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, labels: torch.Tensor
    ) -> LossTerms:
        """Weighted loss terms of one batch; labels (N,). Teacher tensors carry no gradient."""
        raise NotImplementedError

    def predict(self, student: ModelOutput) -> dict[str, torch.Tensor]:
        """Head name → (N, K) logits; "raw" is the network's own head."""
        return {"raw": student.logits}


def build_method(name: str, options: dict[str, Any], sizes: Sizes) -> Method:
    """The named method with `options` over its defaults."""
    kind = METHODS[name]
    return kind(sizes, kind.Options(**resolve_method_options(name, options)))


def resolve_method_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return resolve_options(name, METHODS[name].Options, options)


def require_weights(options: Any, *names: str) -> None:
    """For options that multiply a loss term: finite and at least 0."""
    for name in names:
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise UserError(f"{name} is {value}: expected a finite number from 0")


def require_equal_width(method: str, sizes: Sizes) -> None:
    """For a method that compares features entry by entry."""
    if sizes.student != sizes.teacher:
        raise UserError(
            f"{method} compares features of equal width: the student has {sizes.student} "
            f"channels, the teacher {sizes.teacher}"
        )

"""Weighted sums of methods, such as `fdcmkd+0.5*at` (FD-CMKD, Table 5, adds two)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.data.dataset import TASKS
from fdlab.methods import METHODS, split_sum
from fdlab.methods.base import FROZEN, Batch, LossTerms, Method, Sizes
from fdlab.models.output import ModelOutput

COUNTED_ONCE = ("task", "teacher_task")  # cross-entropies


class Combined(Method):
    """L = task of the first part + Σ_i w_i · (every other term of part i).

    The raw head's cross-entropy counts once, with the weight that the first part gives it (so
    `kd+at` has a tenth of it and `at+kd` the whole); so does that of a teacher that trains. A
    part's other terms and heads are named `<part>.<name>`, its options `<part>_<name>`. Parts that
    want different things of the teacher (frozen, trained) cannot be added.
    """

    parts: list[tuple[float, str]]

    def __init__(self, sizes: Sizes, options: Any):
        super().__init__(sizes, options)
        self.methods = nn.ModuleDict()
        for _, part in self.parts:
            self.methods[part] = METHODS[part](sizes, _pick_options(part, options))
        self.views = max(method.views for method in self.methods.values())

    @classmethod
    def check_task(cls, task: str, options: Any) -> None:
        for _, part in cls.parts:
            METHODS[part].check_task(task, _pick_options(part, options))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        terms: dict[str, torch.Tensor] = {}
        for weight, part in self.parts:
            for name, value in self.methods[part](student, teacher, batch).items():
                if name in COUNTED_ONCE:
                    terms.setdefault(name, value)
                else:
                    terms[f"{part}.{name}"] = weight * value
        return terms

    def predict(self, student: ModelOutput) -> dict[str, torch.Tensor]:
        heads = {"raw": student.logits}
        for part, method in self.methods.items():
            found = method.predict(student)
            heads |= {f"{part}.{name}": z for name, z in found.items() if name != "raw"}
        return heads

    def finish(self) -> None:
        for method in self.methods.values():
            method.finish()

    @property
    def teacher_maps(self) -> set[str]:
        return set().union(*(method.teacher_maps for method in self.methods.values()))


def _pick_options(part: str, options: Any) -> Any:
    """A part's own options out of those of the sum."""
    kind = METHODS[part].Options
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: getattr(options, f"{part}_{name}") for name in names})


def _copy_default(field: dataclasses.Field) -> dataclasses.Field:
    """A field with the same default, which a list has from a factory."""
    return dataclasses.field(default=field.default, default_factory=field.default_factory)


@functools.cache
def combine(name: str) -> type[Combined]:
    """The class of a sum, with all that a method's class says of itself."""
    parts = split_sum(name)
    kinds = {part: METHODS[part] for _, part in parts}
    taught = {part: kind.teaching for part, kind in kinds.items() if kind.needs}
    if len(set(taught.values())) > 1:
        each = ", ".join(f"{part}: {teaching}" for part, teaching in taught.items())
        raise UserError(f"{name} wants different things of one teacher ({each})")
    tasks = tuple(task for task in TASKS if all(task in kind.tasks for kind in kinds.values()))
    if not tasks:
        each = ", ".join(f"{part}: {' and '.join(kind.tasks)}" for part, kind in kinds.items())
        raise UserError(f"{name} adds methods that no task has in common ({each})")
    fields = [
        (f"{part}_{field.name}", field.type, _copy_default(field))
        for part, kind in kinds.items()
        for field in dataclasses.fields(kind.Options)
    ]
    about = {
        "__doc__": Combined.__doc__,
        "name": name,
        "summary": "sum of " + ", ".join(f"{weight:g} × {part}" for weight, part in parts),
        "source": "; ".join(kind.source for kind in kinds.values()),
        "needs": tuple(dict.fromkeys(need for kind in kinds.values() for need in kind.needs)),
        "compares": tuple(f"{p}.{term}" for p, kind in kinds.items() for term in kind.compares),
        "strength": tuple(f"{p}_{option}" for p, kind in kinds.items() for option in kind.strength),
        "teaching": next(iter(taught.values()), FROZEN),
        "tasks": tasks,
        "dense_options": {
            f"{part}_{option}": value
            for part, kind in kinds.items()
            for option, value in kind.dense_options.items()
        },
        "views": max(kind.views for kind in kinds.values()),
        "parts": parts,
        "Options": dataclasses.make_dataclass("Options", fields, frozen=True),
    }
    return type("Combined", (Combined,), about)

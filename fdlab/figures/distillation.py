"""Drawings of `studies.distillation`."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK, SPARE, arrow, color_method, find_dot, name_method
from fdlab.studies.distillation import Distillation

LINES = {"raw": "-", "low": "--", "high": ":"}
GROUPS = {
    "task": ("cross-entropy, raw head", "#777777"),
    "task_low": ("band heads", "#E69F00"),
    "task_high": ("band heads", "#E69F00"),
    "align_low": ("align heads, student", "#56B4E9"),
    "align_high": ("align heads, student", "#56B4E9"),
    "align_low_teacher": ("align heads, teacher", "#0072B2"),
    "align_high_teacher": ("align heads, teacher", "#0072B2"),
    "low": ("low band distance", "#009E73"),
    "high": ("high band distance", "#D55E00"),
    "feature": ("feature distance", "#009E73"),
    "kd": ("logit divergence", "#009E73"),
}


def draw_score(axis, result: Distillation) -> None:
    """Test score of every head over the epochs, the unimodal student and the teacher."""
    epochs = np.arange(1, len(result.curves["lr"]) + 1)
    dot = find_dot(len(epochs))
    for head, line in LINES.items():
        if f"test/{head}" in result.curves:
            axis.plot(
                epochs,
                100 * result.curves[f"test/{head}"],
                line + dot,
                color=color_method(result.method),
                label=f"{name_method(result.method)}, {head} head",
            )
    axis.plot(epochs, 100 * result.unimodal["test/raw"], "-" + dot, color=color_method("none"),
              label=name_method("none"))  # fmt: skip
    axis.axhline(100 * result.teacher, color=INK, linewidth=0.8, linestyle=(0, (5, 2)),
                 label="teacher, its own modality")  # fmt: skip
    if result.metric == "accuracy":
        axis.axhline(100 / result.classes, color=INK, linewidth=0.6, linestyle=(0, (1, 3)),
                     label="chance")  # fmt: skip
    found, epoch = result.scores["validation"]
    axis.plot(epoch, 100 * found, "*", color=INK, markersize=7, zorder=5,
              label="chosen on validation")  # fmt: skip
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"test {result.metric} (%)")
    axis.set_ylim(0, 100)


def draw_terms(axis, result: Distillation) -> None:
    """Each group of loss terms over the epochs, on a logarithmic axis (linear near 0 where a term
    is negative). A term of a sum of methods counts as that of its part."""
    sums: dict[str, np.ndarray] = {}
    colors = {}
    spare = itertools.cycle(SPARE)
    for term, values in result.terms.items():
        name, color = GROUPS.get(term.rpartition(".")[2]) or (term.replace("_", " "), next(spare))
        sums[name] = sums.get(name, 0) + values
        colors.setdefault(name, color)
    for name, values in sums.items():
        line = "--" if name.startswith("align") else "-"  # they lie on the band heads' line
        line += find_dot(len(values))
        axis.plot(np.arange(1, len(values) + 1), values, line, color=colors[name], label=name)
    low = min(values.min() for values in sums.values())
    axis.set_yscale("log") if low > 0 else axis.set_yscale("symlog", linthresh=0.1)
    axis.set_xlabel("epoch")
    axis.set_ylabel("training loss (mean per sample)")


def plates(result: Distillation, venue: str = "aaai") -> dict[str, Plate]:
    def paint(axes) -> None:
        draw_score(axes[0, 0], result)
        draw_terms(axes[0, 1], result)
        axes[0, 0].set_title(f"{arrow(result.direction)}, seed {result.seed}")
        axes[0, 1].set_title(f"{name_method(result.method)}: loss terms")
        for axis in axes[0]:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2)

    return {"curves": Plate.draw(paint, venue, height=3.1, wide=True, columns=2)}


def tables(result: Distillation) -> dict[str, Table]:
    rules = {
        "validation": "best epoch on validation, raw head",
        "last": "last epoch, raw head",
        "published": "best epoch and head on test (released code)",
    }
    rows = [
        {
            "rule": words,
            f"test {result.metric} (%)": f"{100 * result.scores[rule][0]:.1f}",
            "epoch": f"{result.scores[rule][1]:.0f}",
            "head": result.heads[rule],
        }
        for rule, words in rules.items()
    ]
    caption = (
        f"One run of {result.method} ({result.direction}, seed {result.seed}) on {result.dataset} "
        f"(preset {result.preset}), read three ways. n = {result.n['test']} test samples"
    )
    if result.metric == "accuracy":
        error = 100 * np.sqrt(0.25 / result.n["test"])
        caption += f": one accuracy has a standard error of up to {error:.1f} points"
    caption += "."

    return {"scores": Table(pd.DataFrame(rows), caption)}

"""Drawings of `studies.heterogeneous`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from fdlab.figures.marks import describe_contrast, explain_contrast
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, INK, plain
from fdlab.studies.heterogeneous import (
    ALIKE,
    BASE,
    LOGITS,
    MAIN,
    MSE,
    START,
    UNLIKE,
    Arm,
    Heterogeneous,
)

# Kind of an arm → colour, marker, words.
KINDS = {
    "base": ("#333333", "o", "no teacher"),
    "rival": ("#E69F00", "s", "another method"),
    "ours": ("#D55E00", "D", "SFKD (reconstruction)"),
    "part": ("#009E73", "^", "a part changed or left out"),
    "control": (CONTROL, "v", "control"),
}
PAIRED = {LOGITS: KINDS["control"][:2], MSE: KINDS["part"][:2], MAIN: KINDS["ours"][:2]}
ENERGY, FILTER = "#BBBBBB", "#CCBB44"
READ = {
    START: ("#0072B2", ":"),
    BASE: ("#333333", "-"),
    MSE: ("#009E73", "--"),
    MAIN: ("#D55E00", "-"),
}


def list_arms(result: Heterogeneous) -> list[Arm]:
    """Those of the first pair."""
    there = {cell.arm for cell in result.collect(result.first)}
    return [arm for arm in result.arms if arm.name in there]


def list_paired(result: Heterogeneous) -> list[str]:
    """Arms of `PAIRED` that every pair has."""
    there = [{cell.arm for cell in result.collect(pair)} for pair in result.pairs]
    return [name for name in PAIRED if all(name in names for names in there)]


def draw_arms(axis, result: Heterogeneous) -> None:
    """Accuracy of every arm in the first pair, gains' intervals over seeds and samples about no
    distillation; small dots are seeds."""
    arms = list_arms(result)
    base = result.find(result.first, BASE)
    for height, arm in enumerate(arms):
        cell, (color, marker, _) = result.find(result.first, arm.name), KINDS[arm.kind]
        if cell.gain is not None:
            ends = np.array([cell.gain.both.low, cell.gain.both.high]) + base.values.mean()
            axis.plot(ends, [height] * 2, color=color, linewidth=1.1)
        axis.plot(cell.values.mean(), height, marker, color=color, markersize=4)
        axis.plot(cell.values, np.full(len(cell.values), height + 0.28), ".", color=color,
                  markersize=2.5, alpha=0.7)  # fmt: skip
    axis.axvline(base.values.mean(), color=INK, linewidth=0.7)
    axis.set_yticks(range(len(arms)), [plain(arm.words) for arm in arms])
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set_title(result.first.replace("-", " → "))
    axis.set_xlabel("test accuracy (%)")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_pairs(axis, result: Heterogeneous) -> None:
    """Points above no distillation in every pair, interval over seeds and samples; small dots are
    seeds. Unlike pairs first, and a rule below them."""
    arms = list_paired(result)
    shifts = np.linspace(-0.2, 0.2, len(arms)) if len(arms) > 1 else [0.0]
    pairs = [p for kind in (UNLIKE, ALIKE) for p in result.pairs if result.kinds[p] == kind]
    for place, pair in enumerate(pairs):
        base = result.find(pair, BASE).values
        for shift, name in zip(shifts, arms, strict=True):
            cell, (color, marker) = result.find(pair, name), PAIRED[name]
            found, at = cell.gain.both, place + shift
            axis.plot([found.low, found.high], [at] * 2, color=color, linewidth=1.1)
            axis.plot(found.mean, at, marker, color=color, markersize=4)
            axis.plot(cell.values - base, np.full(len(base), at + 0.1), ".", color=color,
                      markersize=2.5, alpha=0.7)  # fmt: skip
    axis.axvline(0, color=INK, linewidth=0.7)
    for kind in (UNLIKE, ALIKE):
        members = [place for place, pair in enumerate(pairs) if result.kinds[pair] == kind]
        if members:
            axis.annotate(kind, (0.99, members[0] - 0.36), xycoords=("axes fraction", "data"),
                          ha="right", va="center", fontsize=7)  # fmt: skip
            if members[0]:
                axis.axhline(members[0] - 0.5, color=INK, linewidth=0.5, linestyle=":")
    axis.set_yticks(range(len(pairs)), [pair.replace("-", " →\n") for pair in pairs])
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlabel("points above no distillation")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_stage(axis, result: Heterogeneous, name: str) -> None:
    """Share of the teacher's map that a linear reading of each student's misses over the radius,
    with its interval."""
    stages = [stage for stage in result.stages if stage.name == name]
    for stage in stages:
        color, dashes = READ[stage.arm]
        means = [share.mean for share in stage.share]
        low, high = ([getattr(share, end) for share in stage.share] for end in ("low", "high"))
        axis.fill_between(stage.radii, low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(stage.radii, means, linestyle=dashes, color=color, marker="o", markersize=2.5)
    top = max(share.mean for stage in result.stages for share in stage.share)
    axis.set_ylim(0, 1.05 * max(1.0, top))
    axis.axhline(1, color=INK, linewidth=0.5, linestyle=":")
    channels, height, width = stages[0].shape
    axis.set_title(f"{name}: {channels} × {height} × {width}")


def draw_energy(axis, result: Heterogeneous, name: str) -> None:
    """How the energy of the teacher's map lies over the radius, as it is and as the filter weighs
    it."""
    stage = next(stage for stage in result.stages if stage.name == name)
    weighed = stage.energy * stage.weights
    step = stage.radii[1] - stage.radii[0] if len(stage.radii) > 1 else 1.0
    for side, values, color in (
        (-1, stage.energy, ENERGY),
        (1, weighed / weighed.sum(), FILTER),
    ):
        axis.bar(stage.radii + side * 0.18 * step, values, 0.36 * step, color=color)
    axis.set_ylim(0, 1)
    axis.set_xlabel("radius (of the Nyquist frequency)")
    axis.grid(False, axis="x")


def plates(result: Heterogeneous, venue: str = "aaai") -> dict[str, Plate]:
    kinds = {arm.kind for arm in list_arms(result)}
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1.1, markersize=4, label=words)
        for kind, (color, marker, words) in KINDS.items()
        if kind in kinds
    ]

    def arms(axes) -> None:
        draw_arms(axes[0, 0], result)
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=2)

    def pairs(axes) -> None:
        draw_pairs(axes[0, 0], result)
        own = [
            Line2D([], [], color=color, marker=marker, linewidth=1.1, markersize=4,
                   label=plain(result.name(name)))
            for name, (color, marker) in PAIRED.items()
            if name in list_paired(result)
        ]  # fmt: skip
        axes[0, 0].figure.legend(handles=own, loc="outside lower center", ncols=1)

    drawn = {
        "arms": Plate.draw(arms, venue, height=1.35 + 0.19 * len(list_arms(result))),
    }
    if list_paired(result):
        drawn["pairs"] = Plate.draw(pairs, venue, height=1.1 + 0.5 * len(result.pairs))
    names = list(dict.fromkeys(stage.name for stage in result.stages))
    if names:

        def stages(axes) -> None:
            for column, name in enumerate(names):
                draw_stage(axes[0, column], result, name)
                draw_energy(axes[1, column], result, name)
            axes[0, 0].set_ylabel("share that is missed")
            axes[1, 0].set_ylabel("share of energy")
            read = {START: "untrained student"} | {arm.name: arm.words for arm in result.arms}
            own = [
                Line2D([], [], color=color, linestyle=dashes, marker="o", markersize=2.5,
                       label=plain(read[name]))
                for name, (color, dashes) in READ.items()
                if any(stage.arm == name for stage in result.stages)
            ]  # fmt: skip
            own += [
                Patch(color=ENERGY, label="teacher's energy"),
                Patch(color=FILTER, label="as the filter weighs it"),
            ]
            axes[0, 0].figure.legend(handles=own, loc="outside lower center", ncols=3)

        drawn["missed"] = Plate.draw(
            stages, venue, height=3.4, wide=True, rows=2, columns=len(names), sharey="row",
            sharex="col",
        )  # fmt: skip
    return drawn


def tables(result: Heterogeneous) -> dict[str, Table]:
    """Every arm in every pair with its cost, what the differences rest on, the filter beside MSE,
    networks and recipes."""
    about = (
        f"on {result.dataset} (preset {result.preset}, width {result.width}), "
        f"{len(result.seeds)} seeds, n = {result.n} test samples; SFKD is a reconstruction"
    )
    rows = []
    for pair in result.pairs:
        if pair in result.teachers:
            level = f"{result.teachers[pair].mean():.1f}"
            rows.append({"pair": pair, "arm": "the teacher", "accuracy (%)": level})
        for cell in result.collect(pair):
            rows.append(
                {
                    "pair": pair,
                    "arm": result.name(cell.arm),
                    "accuracy (%)": cell.accuracy.format(1),
                    "above none": cell.gain.seeds.format(1, sign=True) if cell.gain else "",
                    "extra parameters": f"{cell.extra:,}",
                    "of the student's": f"{cell.extra / result.parameters[pair.split('-')[1]]:.0%}",
                    "time": f"× {cell.cost.relative.mean:.2f}" if cell.cost else "",
                    "memory": f"× {cell.cost.memory:.2f}" if cell.cost else "",
                }
            )
    found = {
        "arms": Table(
            pd.DataFrame(rows).fillna(""),
            f"Accuracy {about}; raw head at the best validation epoch, 95 % interval over seeds; "
            f"points above no distillation. Extra: parameters that train beside the student. Time "
            f"and memory of a training step over those of no distillation, measured in turn on "
            f"one machine, not of arms that do the work of others here; where nothing is augmented "
            f"what a frozen teacher says of a sample is computed once, and is not in the time.",
        ),
        "gains": Table(
            pd.DataFrame(
                [
                    {"pair": c.pair, "arm": result.name(c.arm)} | describe_contrast(c.gain)
                    for c in result.cells
                    if c.gain
                ]
            ).fillna(""),
            f"Gains {about}. {explain_contrast('no distillation')}",
        ),
    }
    lines = [
        {"difference of": name, "pair": pair} | describe_contrast(gap)
        for name, pairs in result.contrasts.items()
        for pair, gap in pairs.items()
    ]
    lines += [
        {
            "difference of": f"gain of {result.name(name)}",
            "pair": "unlike minus alike, of one student",
        }
        | describe_contrast(gap)
        for name, gap in result.across.items()
    ]
    if lines:
        found["contrasts"] = Table(
            pd.DataFrame(lines).fillna(""),
            f"Arms against each other {about}. {explain_contrast('the second')}",
        )
    if result.stages:
        found["filter"] = _tabulate_filter(result, about)
    found["recipes"] = Table(
        pd.DataFrame(
            [
                {
                    "network": name,
                    "as": role,
                    "parameters": f"{result.parameters[name]:,}",
                    "recipe": words,
                }
                for role, networks in result.recipes.items()
                for name, words in networks.items()
            ]
        ),
        f"The networks, at width {result.width}.",
    )
    return found


def _tabulate_filter(result: Heterogeneous, about: str) -> Table:
    rows = []
    for stage in result.stages:
        losses = stage.losses
        rows.append(
            {
                "student": "untrained" if stage.arm == START else result.name(stage.arm),
                "stage": stage.name,
                "MSE": f"{losses['mse']:.4f}",
                "flat / MSE - 1": f"{losses['flat'] / losses['mse'] - 1:+.0e}",
                "SFKD's / MSE": f"{losses['low'] / losses['mse']:.2f}",
                "high-pass / MSE": f"{losses['high'] / losses['mse']:.2f}",
                "missed": f"{stage.missed:.0%}",
            }
        )
    return Table(
        pd.DataFrame(rows),
        f"What a linear reading (1×1 convolution, fitted on {result.fitted} training images) of "
        f"the student's map misses of the teacher's, {result.first}, {about}. A flat filter gives "
        f"the MSE, by Parseval's equation, up to rounding; SFKD's filter, of mean 1, weighs the "
        f"same error by the factor beside it. Missed: of the energy about the mean.",
    )

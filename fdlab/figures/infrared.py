"""Drawings of `studies.infrared`."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from fdlab.figures.boxes import explain_boxes, show_boxes
from fdlab.figures.marks import describe_contrast, explain_contrast
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, INK, find_dot, find_venue, plain
from fdlab.studies.infrared import (
    BASE,
    BLIND,
    LOOKED,
    MAIN,
    MSE,
    PERSON,
    SHUFFLED,
    STRICT,
    Arm,
    Infrared,
)

# Kind of an arm → colour, marker, words.
KINDS = {
    "base": ("#333333", "o", "labels alone"),
    "part": ("#009E73", "s", "one part, or no bands"),
    "ours": ("#D55E00", "D", "FreqKD"),
    "control": (CONTROL, "v", "control"),
}
LINES = {BASE: "-", MSE: "--", SHUFFLED: ":"}  # references beside the cut-offs
FAR = "scratch"  # does not stretch the axis
FOLLOWED = ("scratch", BASE, MSE, MAIN, SHUFFLED)  # whose training curves are drawn
DASHES = {"scratch": (0, (1, 1)), BASE: "-", MSE: "--", MAIN: "-", SHUFFLED: ":"}


def find_kind(arm: Arm) -> str:
    if arm.options is None:
        return "base"
    if arm.teacher != "trained":
        return "control"
    weights = {"low_weight", "high_weight", "frequency"}
    return "part" if weights & set(arm.options) else "ours"


def name_score(result: Infrared, task: str) -> str:
    """Of a panel's axis: "test mIoU (%)"."""
    return f"test {result.metric[task]} (%)"


def name_task(task: str) -> str:
    return "before any label" if task == BLIND else task


def list_arms(result: Infrared) -> list[Arm]:
    """All but those that are FreqKD with another cut-off."""
    return [arm for arm in result.arms if arm.name not in result.rivals]


def draw_arms(axis, result: Infrared, task: str) -> None:
    """Score of every arm, interval over seeds and images; small dots are seeds; the line is no
    distillation. A network from scratch that is far off is named at the edge."""
    arms, metric = list_arms(result), result.metric[task]
    there = {cell.arm: cell for cell in result.collect(task)}
    ends = [
        (c.spread[metric].low, c.spread[metric].high, *c.values[metric])
        for name, c in there.items()
        if name != FAR and name not in result.rivals
    ]
    low, high = min(map(min, ends)), max(map(max, ends))
    room = 0.06 * (high - low) or 1.0
    axis.set_xlim(low - room, high + room)
    for height, arm in enumerate(arms):
        if arm.name not in there:
            continue
        cell, (color, marker, _) = there[arm.name], KINDS[find_kind(arm)]
        found, values = cell.spread[metric], cell.values[metric]
        if not low <= found.mean <= high:
            side = "left" if found.mean < low else "right"
            words = f"← {found.mean:.1f}" if side == "left" else f"{found.mean:.1f} →"
            at = 0.02 if side == "left" else 0.98
            axis.annotate(words, (at, height), xycoords=("axes fraction", "data"), ha=side,
                          va="center", fontsize=7, color=color)  # fmt: skip
            continue
        axis.plot([found.low, found.high], [height] * 2, color=color, linewidth=1.1)
        axis.plot(found.mean, height, marker, color=color, markersize=4)
        axis.plot(values, np.full(len(values), height + 0.27), ".", color=color, markersize=2.5,
                  alpha=0.7)  # fmt: skip
    axis.axvline(there[BASE].spread[metric].mean, color=INK, linewidth=0.7)
    axis.set_yticks(range(len(arms)), [plain(arm.words) for arm in arms])
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set_title(name_task(task))
    axis.set_xlabel(name_score(result, task))
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_cutoffs(axis, result: Infrared, task: str) -> None:
    """FreqKD's score over its cut-off, interval over seeds and images; lines are other arms."""
    color, marker, _ = KINDS["ours"]
    metric = result.metric[task]
    shared: dict[str, list[str]] = {}  # arm → its cut-offs, which split these maps alike
    for cutoff, arm in result.cutoffs.items():
        shared.setdefault(arm, []).append(cutoff)
    places = [float(np.mean([float(x) for x in each])) for each in shared.values()]
    cells = [result.find(task, arm) for arm in shared]
    axis.plot(places, [c.spread[metric].mean for c in cells], color=color, linewidth=0.8)
    for at, cell in zip(places, cells, strict=True):
        found, values = cell.spread[metric], cell.values[metric]
        axis.plot([at] * 2, [found.low, found.high], color=color, linewidth=1.1)
        axis.plot(at, found.mean, marker, color=color, markersize=4)
        axis.plot(np.full(len(values), at + 0.025), values, ".", color=color, markersize=2.5,
                  alpha=0.7)  # fmt: skip
    for arm in result.arms:
        if arm.name in LINES:
            level = result.find(task, arm.name).spread[metric].mean
            axis.axhline(level, color=KINDS[find_kind(arm)][0], linestyle=LINES[arm.name],
                         linewidth=0.9)  # fmt: skip
    axis.set_xticks(places, [" = ".join(each) for each in shared.values()])
    axis.set_xlim(0, 0.85 if max(places) < 0.85 else 1.05)
    axis.set_title(name_task(task))
    axis.set_xlabel("cut-off")
    axis.set_ylabel(name_score(result, task))


def draw_curves(axis, result: Infrared, task: str) -> None:
    """Score on the validation split while labels are learned, mean over seeds."""
    for arm in result.arms:
        if arm.name in FOLLOWED:
            values = result.curves[task][arm.name]
            color = KINDS[find_kind(arm)][0]
            axis.plot(np.arange(1, len(values) + 1), values, marker=find_dot(len(values)),
                      color=color, linestyle=DASHES[arm.name], label=plain(arm.words))  # fmt: skip
    axis.set_title(name_task(task))
    axis.set_xlabel("epoch with labels")
    axis.set_ylabel(f"validation {result.metric[task]} (%)")
    axis.xaxis.get_major_locator().set_params(integer=True)


def draw_pictures(axes, result: Infrared) -> None:
    """A row for each detector, on the modality that it sees; a column for each image."""
    shown = result.pictures
    words = {arm.name: arm.words for arm in result.arms}
    names = [plain(textwrap.shorten(name, 9, placeholder="…")) for name in result.classes]
    regions = bool((shown.truths[..., 0] == -2).any())
    for axis, name in zip(axes[:, 0], shown.found, strict=True):
        side = shown.modality[name]
        said = f"{side}: {words[name]}" if name in words else f"{side}: its own detector"
        axis.set_ylabel(textwrap.fill(said, 18))
    handles, labels = explain_boxes(regions)
    axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    for line, (name, found) in zip(axes, shown.found.items(), strict=True):
        show_boxes(
            line,
            shown.inputs[shown.modality[name]],
            shown.truths,
            found,
            names,
            tuple(shown.size),
            threshold=0.0,
            most=found.shape[1],
            missed=False,
        )


def plates(result: Infrared, venue: str = "aaai") -> dict[str, Plate]:
    kinds = {find_kind(arm) for arm in list_arms(result)}
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1.1, markersize=4, label=words)
        for kind, (color, marker, words) in KINDS.items()
        if kind in kinds
    ]

    def arms(axes) -> None:
        for axis, task in zip(axes[0], result.tasks, strict=True):
            draw_arms(axis, result, task)
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    def cutoffs(axes) -> None:
        for axis, task in zip(axes[0], result.tasks, strict=True):
            draw_cutoffs(axis, result, task)
        color, marker, words = KINDS["ours"]
        lines = [Line2D([], [], color=color, marker=marker, linewidth=1.1, markersize=4,
                        label=words)]  # fmt: skip
        lines += [
            Line2D([], [], color=KINDS[find_kind(arm)][0], linestyle=LINES[arm.name],
                   linewidth=0.9, label=plain(arm.words))
            for arm in result.arms if arm.name in LINES
        ]  # fmt: skip
        axes[0, 0].figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))

    def curves(axes) -> None:
        for axis, task in zip(axes[0], result.labelled, strict=True):
            draw_curves(axis, result, task)
        found = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(*found, loc="outside lower center", ncols=min(len(found[1]), 5))

    panels = {"wide": True, "columns": len(result.tasks)}
    height = 0.95 + 0.2 * len(list_arms(result))
    drawn = {"arms": Plate.draw(arms, venue, height=height, sharey=True, **panels)}
    if result.rivals:
        drawn["cutoffs"] = Plate.draw(cutoffs, venue, height=2.1, **panels)
    drawn["curves"] = Plate.draw(
        curves, venue, height=2.1, wide=len(result.labelled) > 1, columns=len(result.labelled)
    )
    if result.pictures is not None:
        rows, columns = len(result.pictures.found), len(result.pictures.places)
        cell = find_venue(venue).text / (columns + 0.3)
        cell *= result.pictures.size[0] / result.pictures.size[1]
        drawn["pictures"] = Plate.draw(
            lambda axes: draw_pictures(axes, result),
            venue,
            height=min(cell * rows, 8.2) + 0.3,
            wide=True,
            rows=rows,
            columns=columns,
        )
    return drawn


def tables(result: Infrared) -> dict[str, Table]:
    """Every arm, what its gains and the differences between arms rest on, classes, recipes."""
    about = (
        f"on {result.dataset} (preset {result.preset}, {result.direction}, {result.networks}), "
        f"{len(result.seeds)} seeds, n = {result.n} test images"
    )
    found = {
        "arms": _tabulate_arms(result, about),
        "gains": Table(
            pd.DataFrame(
                [
                    {"task": name_task(cell.task), "arm": result.name(cell.arm), "score": score}
                    | describe_contrast(gap)
                    for cell in result.cells
                    for score, gap in cell.gains.items()
                ]
            ).fillna(""),
            f"Gains {about}. {explain_contrast('no distillation')}",
        ),
    }
    if result.contrasts:
        lines = [
            {"difference of": name, "task": name_task(task)} | describe_contrast(gap)
            for name, tasks in result.contrasts.items()
            for task, gap in tasks.items()
        ]
        found["contrasts"] = Table(
            pd.DataFrame(lines).fillna(""),
            f"Arms against each other {about}. {explain_contrast('the second')}",
        )
    if "detection" in result.tasks:
        found["classes"] = _tabulate_classes(result, about)
    if result.masks:
        height, width = result.grid
        lines = [
            {
                "cut-off": each.cutoff,
                "mask": each.mask,
                "low frequencies": f"{each.low:.0%}",
                "low band's energy that is imaginary": f"{each.lost:.1%}",
                "low · high over the maps' energy": f"{abs(each.crossed):.4f}",
            }
            for each in result.masks
        ]
        found["masks"] = Table(
            pd.DataFrame(lines),
            f"The two masks on the teacher's last maps ({height} × {width} positions, "
            f"{min(LOOKED, result.n)} test images). The symmetric one holds every frequency with "
            f"its mirror image: both bands are real and orthogonal. The released rectangle does "
            f"not; the code drops the imaginary part.",
        )
    if result.library:
        found["library"] = Table(
            pd.DataFrame(
                [
                    {"modality": side, "mAP50": f"{100 * found.map50:.1f}"}
                    | {"mAP50:95": f"{100 * found.map:.1f}"}
                    for side, found in result.library.items()
                ]
            ),
            f"A detector from a folder, not trained here, n = {result.n} test images as stored.",
        )
    recipes = [{"stage": stage, "recipe": words} for stage, words in result.recipes.items()]
    found["recipes"] = Table(pd.DataFrame(recipes), "How each stage was trained.")
    return found


def _tabulate_arms(result: Infrared, about: str) -> Table:
    rows = []
    for arm in result.arms:
        row = {"arm": arm.words}
        for task in result.tasks:
            cell = next((c for c in result.collect(task) if c.arm == arm.name), None)
            for score in result.find(task, BASE).values:
                head = f"{name_task(task)}: {_name_score(score)}"
                row[head] = cell.found[score].format(1) if cell else ""
        rows.append(row)
    alike = [
        f"{cutoff} as {result.name(arm)}"
        for cutoff, arm in result.cutoffs.items()
        if arm != MAIN and cutoff != result.rivals[arm]
    ]
    height, width = result.grid
    same = f" Of {height} × {width} positions {'; '.join(alike)}." if alike else ""
    return Table(
        pd.DataFrame(rows),
        f"Percentages {about}; 95 % interval over seeds. Before any label: the first stage's last "
        f"epoch under the teacher's frozen head, without distillation the RGB network itself, fed "
        f"with the other modality. With labels: the best validation epoch of the second "
        f"stage.{same}",
    )


def _name_score(score: str) -> str:
    return f"AP50 of {PERSON}" if score == PERSON else score


def _tabulate_classes(result: Infrared, about: str) -> Table:
    values = {arm.words: result.find("detection", arm.name).classes for arm in list_arms(result)}
    lines = [
        {"class": name} | {words: f"{found[k]:.1f}" for words, found in values.items()}
        for k, name in enumerate(result.classes)
        if not np.isnan(next(iter(values.values()))[k])
    ]
    return Table(
        pd.DataFrame(lines),
        f"Average precision (%) of every class at an IoU of 0.5 {about}, mean over seeds; its mean "
        f"over thresholds from 0.5 to 0.95 is {STRICT} in the table of arms. Classes without an "
        "object in the test split are left out.",
    )

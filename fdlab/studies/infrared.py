"""Does an RGB teacher help a network in infrared before it sees a label? (FreqKD)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fdlab.core.config import Direction, RunConfig, TrainConfig
from fdlab.core.device import choose_device
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.data.boxes import move_boxes
from fdlab.data.dataset import IGNORE, METRICS, NOTHING
from fdlab.data.paired import PairedData, fit_size
from fdlab.data.store import Store
from fdlab.losses.boxes import intersect
from fdlab.methods.base import Sizes, build_method
from fdlab.models import BOXES, MODELS, PIXELS
from fdlab.models.build import place
from fdlab.models.detr import detect_with
from fdlab.models.output import describe
from fdlab.spectral.planes import MASKS, find_reach, make_mask, standardise
from fdlab.studies.claims import OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.contrast import (
    Contrast,
    contrast_gaps,
    correct_contrasts,
    judge,
    judge_beside,
)
from fdlab.studies.data import shrink_examples, take_turns
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.spectrum import choose_way
from fdlab.studies.stats import LEVEL, average_percent, compare_both
from fdlab.training.detect import Precision, is_detections, measure_map
from fdlab.training.evaluate import RAW, Learner, judge_samples
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run, build_start, complete, find_run_task

QUESTION = (
    "Does an RGB teacher without labels help detection and segmentation in infrared, do its low "
    "and high frequencies apart do more than its maps whole, and does it have to see the same "
    "scene?"
)
# Task → the array that it is learned from, and how the names of its networks end.
TASKS = {"segmentation": ("mask", PIXELS), "detection": ("boxes", BOXES)}
TEACHER, FIRST, SECOND = "teacher", "first stage", "second stage"
BLIND = "without labels"  # stands for a task: the first stage's student under its teacher's head
BASE, MAIN, MSE, SHUFFLED = "none", "freqkd", "mse", "shuffled"
PERSON, STRICT = "person", "mAP50:95"
CUTOFF, CUTOFFS = 0.5, (0.1, 0.25, 0.5, 0.75)
SHOWN = 5  # detections of an image in a picture
LOOKED = 64  # test images whose maps the masks are measured on, at most
BLEND = 0.5  # at which the adapters are merged between the stages (released code)
# Blocks of the teacher that are compared, with a student of its kind and with one of four stages
# (released); of other networks the ends of all stages.
LAYERS = {"vit_l14": ([7, 15, 19, 21, 23], [7, 15, 21, 23])}
RULE = "judged by both intervals (seeds, samples) in every task: above 0, or below"
Key = tuple[str, str, int]  # task or stage, arm, seed
Answers = dict[tuple[str, str], dict[str, np.ndarray]]  # (task, arm) → score → (S, n)

COSINE = {"optimiser": "adamw", "schedule": "cosine", "clip": 1.0}
# Preset → stage → fields of the recipe; see `choose_recipes`.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        FIRST: {"epochs": 1, "learning_rate": 8e-3, "warm_up": 2},
        SECOND: {"epochs": 1, "learning_rate": 8e-3, "warm_up": 2},
    },
    "quick": {
        FIRST: {"epochs": 3, "learning_rate": 8e-3, "warm_up": 20},
        SECOND: {"epochs": 4, "learning_rate": 8e-3, "warm_up": 20},
    },
    "reduced": {
        FIRST: {"epochs": 12, "learning_rate": 1e-3, "warm_up": 100},
        SECOND: {"epochs": 24, "learning_rate": 1e-3, "warm_up": 100},
    },
    "paper": {
        FIRST: {"epochs": 12, "learning_rate": 2e-4, "warm_up": 500, "batch_size": 32},
        SECOND: {"epochs": 12, "learning_rate": 5e-5, "warm_up": 500},
    },
}


@dataclass(frozen=True)
class Arm:
    """One way to come to a network in infrared.

    options: of `freqkd` in the first stage, None without one. teacher: its kind there. starts:
    whether the network starts from the RGB teacher's weights. blend: scale at which what the first
    stage's adapters learned is merged. adapts: False to train all weights there.
    """

    name: str
    words: str
    options: dict[str, Any] | None = None
    teacher: str = "trained"
    starts: bool = True
    blend: float = BLEND
    adapts: bool = True


ARMS = {
    arm.name: arm
    for arm in (
        Arm("scratch", "from scratch", starts=False),
        Arm(BASE, "no distillation"),
        Arm(MSE, "MSE on everything", {"frequency": False}),
        Arm("low", "low band alone", {"high_weight": 0.0}),
        Arm("high", "high band alone", {"low_weight": 0.0, "high_weight": 1.0}),
        Arm(
            "high_mse",
            "high band alone, MSE",
            {"low_weight": 0.0, "high_weight": 1.0, "high": "mse"},
        ),
        Arm(MAIN, "FreqKD", {}),
        Arm(SHUFFLED, "FreqKD, other scenes", {}, "shuffled"),
        Arm("untrained", "FreqKD, untrained teacher", {}, "untrained"),
        Arm("released", "FreqKD, released mask", {"mask": "released"}),
        Arm("signed", "FreqKD, signed logs", {"high": "log_signed"}),
        Arm("squared", "FreqKD, high MSE", {"high": "mse"}),
        Arm("merged", "FreqKD, merged at 1", {}, blend=1.0),
        Arm("full", "FreqKD, no adapters", {}, adapts=False),
    )
}
USUAL = ("scratch", BASE, MSE, "low", "high", MAIN, SHUFFLED)
# Of two arms, the first minus the second.
COUPLES = (
    *((MAIN, MSE), (MAIN, "low"), ("low", MSE), ("low", "high"), ("low", "high_mse")),
    (MAIN, SHUFFLED),
)


@dataclass(frozen=True)
class Cell:
    """One arm in one task, or before any label (`BLIND`); scores are percentages.

    values: score → (S,). found: score → over seeds; spread: over seeds and images. gains: score →
    minus no distillation, Holm-corrected over the arms; {} of that arm itself, and none of mAP50:95
    which has no value per image. classes: (K,) average precision at an IoU of 0.5 of every class,
    mean over seeds, nan where it has no object; (0,) but in detection.
    """

    task: str
    arm: str
    values: dict[str, np.ndarray]
    found: dict[str, Estimate]
    spread: dict[str, Estimate]
    gains: dict[str, Contrast]
    classes: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Pictures:
    """Some test images. rule: how they were chosen. places: in the test split. inputs: modality →
    (E, C, h, w). truths: (E, B, 5). found: the teacher's modality, and arms → (E, M, 6), see
    `keep_best`; boxes in pixels of images of `size` (height, width). modality: of each row of
    `found`. seed: whose networks."""

    rule: str
    places: np.ndarray
    inputs: dict[str, np.ndarray]
    truths: np.ndarray
    found: dict[str, np.ndarray]
    modality: dict[str, str]
    size: list[int]
    seed: int


@dataclass(frozen=True)
class Mask:
    """One cut-off and one mask on the teacher's last maps. low: share of the frequencies that are
    low. lost: of the low band's energy, what its imaginary part holds, which is dropped. crossed:
    the inner product of the two bands over the maps' energy; 0 where they are orthogonal."""

    cutoff: str
    mask: str
    low: float
    lost: float
    crossed: float


@dataclass(frozen=True)
class Infrared:
    """tasks: `BLIND` first, where there is a first stage whose student has its teacher's head.
    metric: task → its score. arms: in order. cutoffs: cut-off → its arm; two that split a map of
    `grid` (height, width) alike share one. contrasts: "a - b" → task → a minus b, Holm-corrected
    over the contrasts of a task. curves: task → arm → (epochs,) score on the validation split (%),
    mean over seeds. recipes: stage → what it was trained by. pictures: None without boxes.
    masks: see `measure_masks`. library: modality → what a detector from a folder finds there, see
    `judge_detector`."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    direction: str
    network: str
    student: str
    classes: list[str]
    tasks: list[str]
    metric: dict[str, str]
    arms: list[Arm]
    cutoffs: dict[str, str]
    grid: list[int]
    cells: list[Cell]
    contrasts: dict[str, dict[str, Contrast]]
    curves: dict[str, dict[str, np.ndarray]]
    recipes: dict[str, str]
    pictures: Pictures | None
    runs: list[str]
    masks: list[Mask] = field(default_factory=list)
    library: dict[str, Precision] = field(default_factory=dict)

    @property
    def networks(self) -> str:
        """The backbone, or teacher's and student's where they differ."""
        return self.network if self.student == self.network else f"{self.network}-{self.student}"

    def find(self, task: str, arm: str) -> Cell:
        return next(c for c in self.cells if (c.task, c.arm) == (task, arm))

    def collect(self, task: str) -> list[Cell]:
        """Of one task, in the order of the arms."""
        return [cell for cell in self.cells if cell.task == task]

    def name(self, arm: str) -> str:
        return next(each.words for each in self.arms if each.name == arm)

    @property
    def labelled(self) -> list[str]:
        return [task for task in self.tasks if task != BLIND]

    def gain(self, arm: str, tasks: Iterable[str] = ()) -> dict[str, Contrast]:
        """Task → minus no distillation, by the task's score; of the labelled tasks, where none are
        named."""
        wanted = list(tasks) or self.labelled
        return {task: self.find(task, arm).gains[self.metric[task]] for task in wanted}

    def contrast(self, one: str, two: str) -> dict[str, Contrast]:
        """Labelled task → the difference; {} where an arm was not run."""
        found = self.contrasts.get(name_contrast(one, two), {})
        return {task: found[task] for task in self.labelled if task in found}

    @property
    def rivals(self) -> dict[str, str]:
        """See `list_rivals`."""
        return list_rivals(self.cutoffs)

    def finding(self) -> str:
        told, best = [], []
        for task in self.tasks:
            metric = self.metric[task]
            cells = [c for c in self.collect(task) if c.gains and c.arm in (MSE, MAIN, SHUFFLED)]
            cells = cells or [c for c in self.collect(task) if c.gains]
            gains = ", ".join(
                f"{self.name(c.arm)} {c.gains[metric].seeds.format(1, sign=True)}" for c in cells
            )
            level = self.find(task, BASE).found[metric].mean
            told.append(f"{task} ({metric}, {level:.1f} without it) {gains or 'not run'}")
        for task in self.labelled if self.rivals else ():
            values = {
                cutoff: self.find(task, arm).found[self.metric[task]].mean
                for cutoff, arm in self.cutoffs.items()
            }
            spread = max(values.values()) - min(values.values())
            best.append(f"{max(values, key=values.get)} in {task} (a spread of {spread:.1f})")
        return (
            f"{self.direction}, {self.networks}, points above no distillation: {'; '.join(told)}. "
            + (f"Best cut-off: {', '.join(best)}. " if best else "")
            + f"{describe_n(self.n, len(self.seeds))}."
        )

    def claims(self) -> list[Claim]:
        names = {arm.name for arm in self.arms}
        found = []
        if MAIN in names:
            found.append(self._claim_gain())
        if {MAIN, MSE} <= names:
            found.append(self._claim_split())
        if {"low", "high"} <= names:
            found.append(self._claim_low())
        if MAIN in names and self.rivals:
            found.append(self._claim_cutoff())
        if {MAIN, SHUFFLED} <= names:
            found.append(self._claim_scene())
        if MAIN in names and BLIND in self.tasks:
            found.append(self._claim_blind())
        return found

    def _claim_gain(self) -> Claim:
        gains = self.gain(MAIN)
        verdict, why, control = judge(gains.values()), RULE, "not run"
        if rest := self.contrast(MAIN, SHUFFLED):
            free = self.gain(SHUFFLED)
            control = f"other scenes - none: {_print(free)}; minus it: {_print(rest)}"
            why += (
                "; where a teacher that looks at other scenes is not beaten the claim is open, and "
                "the control matches where it is above no distillation too"
            )
            verdict = judge_beside(gains.values(), rest.values(), free.values())
        return Claim(
            statement="FreqKD, without labels, then fine-tuning improves on fine-tuning alone",
            where="FreqKD, abstract and released configurations",
            paper="claimed; no number can be compared with a synthetic data set's",
            ours=_print(gains),
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_split(self) -> Claim:
        gaps, low = self.contrast(MAIN, MSE), self.contrast(MAIN, "low")
        verdict, why = judge(gaps.values()), RULE
        control = f"MSE - none: {_print(self.gain(MSE))}"
        if low:
            free = self.contrast("low", MSE)
            control += f"; FreqKD minus its low band alone: {_print(low)}; that minus MSE: "
            control += _print(free)
            why += (
                "; where its low band alone is not beaten, dropping the high one may do as much: "
                "the claim is open, and the control matches where that is above MSE itself"
            )
            verdict = judge_beside(gaps.values(), low.values(), free.values())
        return Claim(
            statement="Low and high frequencies apart improve on the MSE of whole maps",
            where="FreqKD, its premise",
            paper="claimed; no number is public here",
            ours=f"FreqKD minus MSE {_print(gaps)}",
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_low(self) -> Claim:
        gaps, same = self.contrast("low", "high"), self.contrast("low", "high_mse")
        parts = [f"{name} - none: {_print(self.gain(name))}" for name in ("low", "high")]
        parts.append(f"low minus high by MSE: {_print(same) if same else 'not run'}")
        return Claim(
            statement="The low band alone does more than the high band alone",
            where="FreqKD, its premise; configurations of both are released",
            paper="no number is public here",
            ours=f"low minus high {_print(gaps)}",
            control="; ".join(parts),
            verdict=judge([*gaps.values(), *same.values()]),
            why=f"{RULE}. As released the low band is compared by MSE and the high one by a "
            "distance that does not see signs, so that the two differ in more than the band; arm "
            "`high_mse` has one distance for both, and has to lose too where it was run",
        )

    def _claim_cutoff(self) -> Claim:
        gaps = {arm: self.contrast(MAIN, arm) for arm in self.rivals if self.contrast(MAIN, arm)}
        every = [contrast for found in gaps.values() for contrast in found.values()]
        verdict = SUPPORTED if all(contrast.beats() for contrast in every) else OPEN
        if any(contrast.loses() and contrast.holm < 1 - LEVEL for contrast in every):
            verdict = REFUTED
        alike = [c for c, arm in self.cutoffs.items() if c != self.rivals.get(arm, f"{CUTOFF:g}")]
        return Claim(
            statement=f"A cut-off of {CUTOFF:g} is the best of the grid",
            where="FreqKD, released configurations",
            paper=f"{CUTOFF:g} is the default; {', '.join(self.cutoffs)} are released",
            ours="; ".join(
                f"minus {self.rivals[arm]}: {_print(found)}" for arm, found in gaps.items()
            ),
            control=f"MSE of whole maps minus no distillation: {_print(self.gain(MSE))}"
            if any(arm.name == MSE for arm in self.arms)
            else "not run",
            verdict=verdict,
            why="agrees where it is above every other one by both intervals (seeds, samples) in "
            "every task, which as a demand on all of them needs no correction; differs where it is "
            "below one of them by both intervals and by Holm's correction over the task's contrasts"
            + (f"; {', '.join(alike)} split these maps as another one does" if alike else ""),
        )

    def _claim_scene(self) -> Claim:
        gaps = self.contrast(MAIN, SHUFFLED)
        verdict = judge(gaps.values())
        if verdict == SUPPORTED != judge(self.gain(MAIN).values()):
            verdict = OPEN
        return Claim(
            statement="What helps is the teacher's view of the same scene",
            where="the method's premise; no control is published",
            paper="not tested",
            ours=f"FreqKD minus FreqKD with other scenes {_print(gaps)}",
            control=f"other scenes - none: {_print(self.gain(SHUFFLED))}; FreqKD - none: "
            + _print(self.gain(MAIN)),
            verdict=verdict,
            why=f"{RULE}; it agrees only where FreqKD is above no distillation too, since maps of "
            "other scenes may also harm",
        )

    def _claim_blind(self) -> Claim:
        gains = self.gain(MAIN, [BLIND])
        control, verdict = "not run", judge(gains.values())
        rest = self.contrasts.get(name_contrast(MAIN, SHUFFLED), {})
        if BLIND in rest:
            control = f"FreqKD minus FreqKD with other scenes: {_print({BLIND: rest[BLIND]})}"
            free = self.gain(SHUFFLED, [BLIND])
            verdict = judge_beside(gains.values(), [rest[BLIND]], free.values())
        metric = self.metric[BLIND]
        level = self.find(BLIND, BASE).found[metric].format(1)
        return Claim(
            statement="Before any label in infrared, the teacher's own head reads the distilled "
            "student better than the teacher itself",
            where="FreqKD's first stage, which has no labels; no number of it is published",
            paper="not tested",
            ours=f"{_print(gains)} points of {metric}, the RGB network in infrared having {level}",
            control=control,
            verdict=verdict,
            why="judged by both intervals (seeds, samples); the control matches where another "
            "scene's maps do as much",
        )


def name_contrast(one: str, two: str) -> str:
    return f"{one} - {two}"


def find_tasks(store: Store) -> list[str]:
    """What can be learned of a store: its masks, its boxes, or both; the first is what the teacher
    learns."""
    held = [task for task, (array, _) in TASKS.items() if f"{array}.npy" in store.manifest["files"]]
    if not held:
        raise UserError(
            f"{store.dataset.name} has neither masks nor boxes: this study is for segmentation and "
            "detection"
        )
    return held


def choose_recipes(
    plan: Plan, network: str, epochs: int = 0, crossed: bool = False
) -> dict[str, TrainConfig]:
    """Stage → how it is trained: AdamW, half a cosine after a warm-up, gradients clipped to norm 1.

    network: the teacher's. Its own recipe is the data set's for it, else the plan's with AdamW at
    1e-3, our choice; the stages differ from that one in what is said here. At preset `paper` they
    have the published values: first a rate of 2e-4, 12 epochs, weight decay 1e-4, 500 steps of
    warm-up, down to 1e-7, batches of 32; second 5e-5, the encoder at a tenth of it. The source does
    not say the second stage's epochs and schedule, which are the first one's here. Its teacher is a
    published network that is not trained; ours learns its own modality's labels. The other presets'
    small networks start from random weights, and so have higher rates, and a second stage whose
    encoder learns at half the rate of its head: chosen by the teacher's and the undistilled
    student's validation scores, and the first stage's by its own loss; not by how any distilled
    student ends. epochs: of both stages, 0 for the preset's. crossed: whether the student is
    another network, whose published first rate is 1e-4.
    """
    teacher = plan.recipes.get(network) or replace(
        plan.train,
        **COSINE,
        learning_rate=1e-3,
        final_learning_rate=1e-5,
        weight_decay=0.05,
        warm_up=100,
    )
    found = {TEACHER: teacher}
    paper = plan.preset == "paper"
    for stage, fields in RECIPES[plan.preset].items():
        more = {"epochs": epochs} if epochs else {}
        more["final_learning_rate"] = 1e-7 if paper else fields["learning_rate"] / 100
        if stage == SECOND:
            more["backbone_rate"] = 0.1 if paper else 0.5
        elif crossed and paper:
            more["learning_rate"] = 1e-4
        found[stage] = replace(teacher, **COSINE, weight_decay=1e-4, **fields | more)
    return found


def list_arms(
    arms: list[str] | str | None, cutoffs: dict[str, str], crossed: bool = False
) -> list[Arm]:
    """The arms asked for, or `USUAL`; no distillation among them always, and FreqKD with the other
    cut-offs behind it. crossed: whether the student is another network than the teacher, so that it
    cannot start from its weights; from scratch and no distillation are one then."""
    names = read_list("arms", arms, str) or list(USUAL)
    for name in names:
        if name not in ARMS:
            raise name_unknown("arm", name, ARMS)
    names = [name for name in names if not (crossed and name in ("scratch", "merged", "full"))]
    found = []
    for name in names if BASE in names else [BASE, *names]:
        found.append(ARMS[name])
        if name == MAIN:
            found += [
                Arm(arm, f"FreqKD, cut-off {cutoff}", {"cutoff": float(cutoff)})
                for arm, cutoff in list_rivals(cutoffs).items()
            ]
    return [replace(arm, starts=False) for arm in found] if crossed else found


def list_rivals(cutoffs: dict[str, str]) -> dict[str, str]:
    """Arm → its cut-off, the first of those that split a map alike; without FreqKD itself."""
    found: dict[str, str] = {}
    for cutoff, arm in cutoffs.items():
        if arm != MAIN:
            found.setdefault(arm, cutoff)
    return found


def name_cutoffs(grid: tuple[int, int], cutoffs: list[float] | str | None) -> dict[str, str]:
    """Cut-off → its arm. Two that split maps of `grid` (height, width) alike are one arm, and 1/2,
    the default, is `freqkd` itself.

    >>> name_cutoffs((8, 8), [0.1, 0.25, 0.5])
    {'0.1': 'freqkd 0.1', '0.25': 'freqkd 0.1', '0.5': 'freqkd'}
    """
    wanted = read_list("cutoffs", cutoffs, float) or CUTOFFS
    reach = {value: tuple(find_reach(side, value) for side in grid) for value in {CUTOFF, *wanted}}
    owners = {reach[CUTOFF]: MAIN}
    for value in sorted(reach):
        owners.setdefault(reach[value], f"{MAIN} {value:g}")
    return {f"{value:g}": owners[reach[value]] for value in sorted(reach)}


def find_grid(store: Store, modality: str, network: str, side: int) -> tuple[int, int]:
    """Height and width of a network's last map, found without computing anything."""
    shape = store.read(modality).shape[1:]
    with torch.device("meta"):
        model = MODELS[network](shape, store.dataset.classes, 8, 0)
        maps = describe(model, torch.empty(2, shape[0], *fit_size(shape[-2:], side))).maps
    return list(maps.values())[-1][1:]


def configure_infrared(
    plan: Plan,
    direction: str = "",
    network: str = "vit_small",
    student: str = "",
    arms: list[str] | str | None = None,
    cutoffs: list[float] | str | None = None,
    anchor: float = 0.1,
    epochs: int = 0,
) -> dict[Key, RunConfig]:
    """(task or stage, arm, seed) → its run; the teacher's arm is `none`."""
    return _lay_out(plan, direction, network, student, arms, cutoffs, anchor, epochs)[1]


@dataclass(frozen=True)
class _Layout:
    """What the parameters come to; crossed: whether the student is another network."""

    way: Direction
    tasks: list[str]
    arms: list[Arm]
    cutoffs: dict[str, str]
    grid: tuple[int, int]
    recipes: dict[str, TrainConfig]
    crossed: bool


def _lay_out(
    plan: Plan,
    direction: str,
    network: str,
    student: str,
    arms: list[str] | str | None,
    cutoffs: list[float] | str | None,
    anchor: float,
    epochs: int,
) -> tuple[_Layout, dict[Key, RunConfig]]:
    way, store = choose_way(plan, direction), plan.open_store()
    tasks = find_tasks(store)
    crossed = student not in ("", network)
    learns = TASKS[tasks[0]][1]
    theirs, mine = network + learns, (student or network) + learns
    recipes = choose_recipes(plan, theirs, epochs, crossed)
    grid = find_grid(store, way.teacher, theirs, recipes[TEACHER].side)
    named = name_cutoffs(grid, cutoffs)
    chosen = list_arms(arms, named, crossed)
    layers = {"layers": LAYERS[network][crossed]} if network in LAYERS else {}
    held = {"weight": anchor} | ({} if crossed else layers)
    # Without a start, all weights learn from the labels alone, and at full rate.
    alone = replace(recipes[SECOND], backbone_rate=1.0)

    configs: dict[Key, RunConfig] = {}
    for seed in plan.seeds:
        teacher = plan.configure(way.teacher, seed=seed, network=theirs, train=recipes[TEACHER])
        configs[TEACHER, BASE, seed] = teacher
        for arm in chosen:
            base = teacher if arm.starts else None
            if arm.options is not None:
                base = plan.configure(
                    way.student,
                    MAIN,
                    way.teacher,
                    seed,
                    {"task_weight": 0.0} | layers | arm.options,
                    network=mine,
                    teacher_network=theirs,
                    teacher_kind=arm.teacher,
                    base=base,
                    rank=plan.width if arm.starts and arm.adapts else 0,
                    train=recipes[FIRST],
                    teacher_train=recipes[TEACHER],
                )
                configs[FIRST, arm.name, seed] = base
            for task in tasks:
                configs[task, arm.name, seed] = plan.configure(
                    way.student,
                    "anchor" if base and anchor else BASE,
                    way.student if base and anchor else None,
                    seed,
                    held if base and anchor else {},
                    network=(student or network) + TASKS[task][1],
                    teacher_kind="start" if base and anchor else "trained",
                    base=base,
                    blend=arm.blend,
                    train=recipes[SECOND] if base else alone,
                )
    if "detection" in tasks[1:]:  # else the teacher is a detector
        seed = plan.seeds[0]
        configs["detection", TEACHER, seed] = plan.configure(
            way.teacher,
            seed=seed,
            network=network + BOXES,
            base=configs[TEACHER, BASE, seed],
            train=recipes[SECOND],
        )
    return _Layout(way, tasks, chosen, named, grid, recipes, crossed), configs


def measure_infrared(
    plan: Plan,
    *,
    direction: str = "",
    network: str = "vit_small",
    student: str = "",
    arms: list[str] | str | None = None,
    cutoffs: list[float] | str | None = None,
    anchor: float = 0.1,
    epochs: int = 0,
    examples: int = 5,
    detector: str = "",
) -> Infrared:
    """Train or find teachers, first and second stages of every arm and seed, and compare them,
    paired by seed and image.

    direction: see `spectrum.choose_way`. network: of teacher and student, a backbone's name; the
    teacher is a segmenter on it where the data set has masks, else a detector. student: another
    backbone, such as "resnet50" under a ViT: it starts from random weights, all of them learn in
    the first stage through 1×1 convolutions to the teacher's channels, and nothing is merged (the
    release averages a pretrained backbone with the distilled one). arms: names of
    `ARMS`; empty takes `USUAL`. cutoffs: of FreqKD, beside 1/2. anchor: weight of the second
    stage's distance to the maps that the network started from, for every arm that starts from
    something (published 0.1); 0 leaves it out. epochs: see `choose_recipes`. examples: pictures.
    detector: a folder, see `judge_detector`.

    The first stage's adapters have the plan's width as their rank: 64 at width 64, as released, a
    quarter of the small network's channels at every width; our choice.
    """
    layout, configs = _lay_out(plan, direction, network, student, arms, cutoffs, anchor, epochs)
    store, way, tasks = plan.open_store(), layout.way, layout.tasks
    # First, so that a folder that is none is said before anything is trained.
    library = judge_detector(store, [way.teacher, way.student], detector) if detector else {}
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    truths = read_truths(store, way.student, layout.recipes[TEACHER].side)
    person = find_person(store) if len(store.classes) > 1 else None

    def read(task: str, arm: str) -> list[np.ndarray]:
        moment = "last" if task == FIRST else "validation"
        return [runs[task, arm, seed].read_predictions(moment=moment) for seed in plan.seeds]

    said = {(task, arm.name): read(task, arm.name) for task in tasks for arm in layout.arms}
    if not layout.crossed:
        blind = [arm.name for arm in layout.arms if arm.options is not None]
        said |= {(BLIND, arm): read(FIRST, arm) for arm in blind}
        if blind:
            starts = [configs[FIRST, blind[0], seed] for seed in plan.seeds]
            said[BLIND, BASE] = [predict_start(each, store, plan.device) for each in starts]
    answers = {
        key: _stack([judge_images(x, truths, person) for x in found]) for key, found in said.items()
    }
    precisions = {
        arm: [measure_map(x, truths, len(store.classes)) for x in found]
        for (task, arm), found in said.items()
        if task == "detection"
    }
    cells, contrasts = compare_arms(layout.arms, answers, precisions)
    metric = {task: METRICS[task] for task in tasks}
    if (BLIND, BASE) in said:
        metric = {BLIND: METRICS[tasks[0]]} | metric
    return Infrared(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(store.rows("test")),
        seeds=list(plan.seeds),
        direction=str(way),
        network=network,
        student=student or network,
        classes=store.classes,
        tasks=list(metric),
        metric=metric,
        arms=layout.arms,
        cutoffs=layout.cutoffs if any(arm.name == MAIN for arm in layout.arms) else {},
        grid=list(layout.grid),
        cells=cells,
        contrasts=contrasts,
        curves={
            task: {
                arm.name: _average_curves(runs[task, arm.name, seed] for seed in plan.seeds)
                for arm in layout.arms
            }
            for task in tasks
        },
        recipes=describe_recipes(layout.recipes, 0 if layout.crossed else plan.width, anchor),
        pictures=_take_pictures(plan, store, layout, runs, truths, examples)
        if "detection" in tasks
        else None,
        runs=sorted({run.record.fingerprint for run in runs.values()}),
        masks=measure_masks(
            read_last_maps(runs[TEACHER, BASE, plan.seeds[0]], store, plan.device), layout.cutoffs
        ),
        library=library,
    )


def _load(config: RunConfig, store: Store, device: str) -> PairedData:
    """What a run's student sees."""
    side, task = config.train.side, find_run_task(config)
    return PairedData.load(store, [config.student], choose_device(device), side, task=task)


@torch.no_grad()
def read_last_maps(run: Run, store: Store, device: str) -> torch.Tensor:
    """(n, C, h, w) of a run's network, of the first test images, `LOOKED` at most."""
    config = run.record.config
    data = _load(config, store, device)
    model = place(run.load_student(store), data.device)
    output = model(data.batch(config.student, data.rows["test"][:LOOKED]))
    return list(output.maps.values())[-1].float().cpu()


def measure_masks(maps: torch.Tensor, cutoffs: Iterable[str]) -> list[Mask]:
    """What either mask does to maps (n, C, h, w), standardised as before the split: the released
    rectangle holds frequency -r without r, so that its low band is not real."""
    x = standardise(maps.double())
    spectrum, energy = torch.fft.fft2(x, norm="ortho"), x.square().sum()
    found = []
    for cutoff in cutoffs:
        for name in MASKS:
            kept = make_mask(*x.shape[2:], float(cutoff), name, dtype=x.dtype)
            band = torch.fft.ifft2(spectrum * kept, norm="ortho")
            low = band.real
            found.append(
                Mask(
                    cutoff,
                    name,
                    low=float(kept.mean()),
                    lost=float(band.imag.square().sum() / band.abs().square().sum()),
                    crossed=float((low * (x - low)).sum() / energy),
                )
            )
    return found


def judge_detector(store: Store, modalities: list[str], folder: str) -> dict[str, Precision]:
    """Modality → what a detector of the library's, such as a DETR that was trained elsewhere, finds
    in the test split as it is stored; `detect_with`. Its labels name the data set's classes."""
    rows, found = store.rows("test"), {}
    for modality in modalities:
        truths = read_truths(store, modality, 0)
        if not truths.shape[1]:
            raise UserError(f"{store.dataset.name} has no boxes: there is nothing to judge by")
        images = torch.from_numpy(np.array(store.read(modality)[rows]))
        boxes = detect_with(folder, images, store.classes).numpy()
        found[modality] = measure_map(boxes, truths, len(store.classes))
    return found


def read_truths(store: Store, modality: str, side: int) -> np.ndarray:
    """(n, B, 5) true boxes of the test split in pixels of what a network sees; of a store without
    boxes (n, 0, 5)."""
    rows = store.rows("test")
    if "boxes.npy" not in store.manifest["files"]:
        return np.empty((len(rows), 0, 5), np.float32)
    stored = store.read(modality).shape[-2:]
    boxes = torch.from_numpy(np.array(store.read("boxes")[rows]))
    return move_boxes(boxes, stored, stored, fit_size(stored, side)).numpy()


def find_person(store: Store) -> int | None:
    """The number of the class, None where there is none."""
    return store.classes.index(PERSON) if PERSON in store.classes else None


def judge_images(
    predictions: np.ndarray, truths: np.ndarray, person: int | None = None
) -> dict[str, np.ndarray]:
    """Score → (n,) value of every test image, whose mean is the score (`judge_samples`): of a
    segmenter's pixel counts, or of a detector's boxes with those of one class, `person`, apart."""
    if not is_detections(predictions):
        return {METRICS["segmentation"]: judge_samples(predictions, truths)}
    found = {METRICS["detection"]: judge_samples(predictions, truths)}
    if person is not None:
        sides = (keep_class(boxes, person) for boxes in (predictions, truths))
        found[PERSON] = judge_samples(*sides)
    return found


def keep_class(boxes: np.ndarray, kind: int) -> np.ndarray:
    """Boxes with those of other classes taken out; regions that do not count stay."""
    kept = boxes.copy()
    kept[~np.isin(boxes[..., 0], (kind, IGNORE)), 0] = NOTHING
    return kept


def predict_start(config: RunConfig, store: Store, device: str) -> np.ndarray:
    """What a run's student says of the test split before it has learned anything, as in
    `Run.read_predictions`."""
    config = complete(config)
    data = _load(config, store, device)
    model = place(build_start(config, store, adapt=False), data.device)
    side = describe(model, data.batch(config.student, data.rows["test"][:1]))
    method = build_method(BASE, {}, Sizes(side, None, store.dataset.classes)).to(data.device)
    return Learner(model, method, config.student).predict(data)[f"test/{RAW}"].cpu().numpy()


def compare_arms(
    arms: list[Arm],
    answers: Answers,
    precisions: dict[str, list[Precision]] | None = None,
) -> tuple[list[Cell], dict[str, dict[str, Contrast]]]:
    """Cells, and "a - b" → task → a minus b. answers: (task, arm) → score → (S, n), the task's own
    score first. precisions: arm → of its detectors, seed by seed."""
    cells: list[Cell] = []
    contrasts: dict[str, dict[str, Contrast]] = {}
    order = [arm.name for arm in arms]
    rivals = [(MAIN, name) for name in order if name.startswith(f"{MAIN} ")]
    for task in dict.fromkeys(task for task, _ in answers):
        names = [name for name in order if (task, name) in answers]
        gains: dict[str, dict[str, Contrast]] = {name: {} for name in names}
        for score in answers[task, BASE]:
            gaps = {
                name: _contrast(answers, task, name, BASE, score) for name in names if name != BASE
            }
            for name, gap in correct_contrasts(gaps).items() if gaps else ():
                gains[name][score] = gap
        couples = [c for c in (*COUPLES, *rivals) if set(c) <= set(names)]
        score = next(iter(answers[task, BASE]))
        found = {name_contrast(*c): _contrast(answers, task, *c, score) for c in couples}
        for name, gap in correct_contrasts(found).items() if found else ():
            contrasts.setdefault(name, {})[task] = gap
        for name in names:
            own = (precisions or {}).get(name, []) if task == "detection" else []
            cells.append(_summarise(task, name, answers[task, name], gains[name], own))
    return cells, contrasts


def _contrast(answers: Answers, task: str, one: str, two: str, score: str) -> Contrast:
    return contrast_gaps(100 * (answers[task, one][score] - answers[task, two][score]))


def _summarise(
    task: str,
    arm: str,
    answers: dict[str, np.ndarray],
    gains: dict[str, Contrast],
    precisions: list[Precision],
) -> Cell:
    values = {score: 100 * found.mean(axis=1) for score, found in answers.items()}
    if precisions:
        values[STRICT] = np.array([100 * each.map for each in precisions])
        classes = 100 * np.mean([each.per_class for each in precisions], axis=0)
    return Cell(
        task=task,
        arm=arm,
        values=values,
        found={score: average_percent(found) for score, found in values.items()},
        spread={score: compare_both(100 * found)[0] for score, found in answers.items()},
        gains=gains,
        classes=classes if precisions else np.empty(0),
    )


def _stack(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of every seed score → (n,), as score → (S, n)."""
    return {score: np.stack([each[score] for each in found]) for score in found[0]}


def _average_curves(runs: Iterable[Run]) -> np.ndarray:
    return 100 * np.mean([run.record.curves[f"validation/{RAW}"] for run in runs], axis=0)


def describe_recipes(recipes: dict[str, TrainConfig], rank: int, anchor: float) -> dict[str, str]:
    """Stage → its recipe in a line."""
    found = {}
    for stage, recipe in recipes.items():
        parts = [
            f"{recipe.optimiser}, {recipe.epochs} epochs",
            f"rate {recipe.learning_rate:g} to {recipe.final_learning_rate:g}",
            f"weight decay {recipe.weight_decay:g}, batch {recipe.batch_size}",
            f"{recipe.warm_up} steps of warm-up, clip {recipe.clip:g}",
            f"images at {recipe.side or 'their stored'} pixels",
            "augmented" if recipe.augment else "not augmented",
        ]
        if stage == FIRST:
            parts.append(f"adapters of rank {rank}" if rank else "all weights learn")
        if stage == SECOND:
            parts += [f"encoder at {recipe.backbone_rate:g} of the rate", f"anchor {anchor:g}"]
        found[stage] = ", ".join(parts)
    return found


def choose_pictures(
    labels: np.ndarray, truths: np.ndarray, person: int | None, count: int
) -> np.ndarray:
    """Places of test images: of each kind of scene the one with the largest person, then of each
    the next, until there are `count`; the largest object where the data set knows no persons. So
    nobody picks them by how well they came out."""
    kind, x0, y0, x1, y1 = np.moveaxis(truths.astype(float), 2, 0)
    there = kind >= 0 if person is None else kind == person
    area = np.where(there, (x1 - x0) * (y1 - y0), 0.0).max(axis=1)
    return take_turns(labels, -area)[:count]


def keep_best(found: np.ndarray, truths: np.ndarray, most: int = SHOWN) -> np.ndarray:
    """(n, most, 6) detections, of every image as many as it has objects, those of the highest
    scores; the other rows fill up. A threshold would show more of the arm whose scores are higher.
    What overlaps a kept one by an IoU over 1/2, of whatever class, is passed over, so that a
    picture can be read.
    """
    order = np.argsort(-found[..., 1], axis=1, kind="stable")
    found = np.take_along_axis(found, order[..., None], axis=1)
    corners = torch.from_numpy(found[..., 2:])
    shared, union = intersect(corners[:, :, None], corners[:, None])
    covers = (shared > 0.5 * union).numpy()
    wanted = (truths[..., 0] >= 0).sum(axis=1).clip(max=most)
    for rows, others, count in zip(found, covers, wanted, strict=True):
        kept: list[int] = []
        for i in np.flatnonzero(rows[:, 0] != NOTHING):
            if len(kept) < count and not others[i, kept].any():
                kept.append(i)
        rows[np.setdiff1d(np.arange(len(rows)), kept), 0] = NOTHING
    front = np.argsort(found[..., 0] == NOTHING, axis=1, kind="stable")[:, :most]
    return np.take_along_axis(found, front[..., None], axis=1)


def _take_pictures(
    plan: Plan,
    store: Store,
    layout: _Layout,
    runs: dict[Key, Run],
    truths: np.ndarray,
    count: int,
) -> Pictures:
    """RGB's own detector, no distillation and FreqKD, or the last arm where that was not run; of
    persons alone where the data set knows them, so that a picture can be read."""
    rows, seed = store.rows("test"), plan.seeds[0]
    way, side = layout.way, layout.recipes[TEACHER].side
    person = find_person(store)
    places = choose_pictures(np.array(store.labels[rows]), truths, person, count)
    names = [arm.name for arm in layout.arms]
    last = MAIN if MAIN in names else names[-1]
    rgb = ("detection", TEACHER) if ("detection", TEACHER, seed) in runs else (TEACHER, BASE)
    shown = {way.teacher: rgb, BASE: ("detection", BASE), last: ("detection", last)}
    kind = "object" if person is None else PERSON

    def pick(boxes: np.ndarray) -> np.ndarray:
        return boxes[places] if person is None else keep_class(boxes[places], person)

    return Pictures(
        rule=f"of each kind of scene the test images with the largest {kind}; of each image as "
        f"many detections as it has {kind}s, up to {SHOWN}, of the highest scores, none that "
        f"overlaps another by half" + ("" if person is None else "; other classes are left out"),
        places=places,
        inputs={
            name: shrink_examples(store.read(name)[rows[places]])
            for name in (way.teacher, way.student)
        },
        truths=pick(truths),
        found={
            name: keep_best(pick(runs[*key, seed].read_predictions()), pick(truths))
            for name, key in shown.items()
        },
        modality={name: name if name == way.teacher else way.student for name in shown},
        size=list(fit_size(store.read(way.student).shape[-2:], side)),
        seed=seed,
    )


def _print(contrasts: dict[str, Contrast]) -> str:
    return "; ".join(f"{task} {c.seeds.format(1, sign=True)}" for task, c in contrasts.items())

"""Does filtering frequencies help distillation between unlike architectures? (SFKD, a
reconstruction)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fdlab.core.config import Pair, RunConfig, TrainConfig
from fdlab.core.device import choose_device
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.data.store import Store
from fdlab.methods import METHODS
from fdlab.methods.base import Sizes
from fdlab.models.build import place
from fdlab.models.output import describe
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.contrast import (
    Contrast,
    contrast_answers,
    contrast_gaps,
    correct_contrasts,
    judge,
    judge_beside,
)
from fdlab.studies.cost import Cost, measure_costs
from fdlab.studies.differences import (
    Energies,
    Names,
    measure_energies,
    summarise_share,
    weigh_rings,
)
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.stats import LEVEL, average_percent
from fdlab.training.ensure import build_untrained
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = (
    "Between networks of unlike kinds, does a loss on filtered frequencies of refined maps do more "
    "than the same loss without the filter, and do maps do more than the logits alone?"
)
BASE, MAIN, MSE, LOGITS, OTHERS = "none", "sfkd", "mse", "logits", "others"
STRONG, INFONCE, WHOLE, PLAIN = "mse_strong", "infonce", "no_dwt", "no_refine"
START = "start"  # of the students whose maps are read: the first arm's, before it has learned
RIVALS = ("kd", "dist", "fitnet", "ofa")
# Part of SFKD → with it and without it. Without refinement the wavelets do nothing.
PARTS = {"wavelets": (MAIN, WHOLE), "refinement": (WHOLE, PLAIN), "filter": (MAIN, MSE)}
UNLIKE, ALIKE = "unlike", "alike"
TRANSFORMERS = ("vit_", "swin_")  # how their names begin
# Side in pixels → the pairs, the one that every arm is run on first. Small images keep their
# resolution in networks made for them.
SMALL = 64
PAIRS = {
    True: (
        "swin_t-resnet18_cifar",
        "resnet18_cifar-swin_t",
        "vit_small-mobilenetv2_half",
        "resnet34_cifar-resnet18_cifar",
    ),
    False: ("swin_t-resnet18", "resnet18-swin_t", "vit_s14-mobilenetv2", "resnet34-resnet18"),
}
# At these presets a ViT learns next to nothing: of a thousand digits 12 to 25 % of the validation
# split in trials of 12 to 40 epochs, where chance is 10. Unless asked for, its pairs are left out.
BRIEF = ("smoke", "quick")
FITTED = 600  # training images at most, on which a linear reading of the student's maps is fitted
BATCH = 100
SHOWN = (START, BASE, MSE, MAIN)  # students whose maps are read
FLAT = 1e6  # a filter so wide that it weighs all frequencies alike
RULE = "judged by both intervals (seeds, samples) in every one of these pairs: above 0, or below"
Key = tuple[str, str, int]  # pair, arm, seed

TEACHER, STUDENT = "teacher", "student"
SHORT_RECIPE = {"batch_size": 32, "augment": False}
ADAMW = {"optimiser": "adamw", "schedule": "cosine", "weight_decay": 0.05, "clip": 1.0}
# Preset → fields of a convolutional network's recipe and of a transformer's; see `choose_recipe`.
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smoke": (SHORT_RECIPE, SHORT_RECIPE | {"learning_rate": 2e-3, "warm_up": 2}),
    "quick": (SHORT_RECIPE, SHORT_RECIPE | {"learning_rate": 2e-3, "warm_up": 50}),
    "reduced": ({}, {"learning_rate": 1e-3, "warm_up": 500}),
    "paper": (
        {
            "learning_rate": 0.05,
            "final_learning_rate": 1e-3,
            "weight_decay": 2e-3,
            "schedule": "cosine",
            "milestones": (),
        },
        {"learning_rate": 5e-4, "warm_up": 2000},
    ),
}
# Preset → role → epochs of a convolutional network and of a transformer, as parts of the plan's.
LENGTHS = {
    "smoke": {TEACHER: (0.5, 0.5), STUDENT: (0.5, 0.5)},
    "quick": {TEACHER: (0.5, 0.75), STUDENT: (0.3, 0.25)},
    "reduced": {TEACHER: (1.5, 2.5), STUDENT: (1.0, 1.5)},
}
PUBLISHED = 300  # epochs at preset `paper`


@dataclass(frozen=True)
class Arm:
    """One way to train a student. kind: "base", another method's ("rival"), SFKD ("ours"), SFKD
    with something changed or left out ("part"), or a control."""

    name: str
    words: str
    kind: str
    method: str = MAIN
    options: dict[str, Any] = field(default_factory=dict)
    teacher: str = "trained"


ARMS = {
    arm.name: arm
    for arm in (
        Arm(BASE, "no distillation", "base", BASE),
        Arm("kd", "KD", "rival", "kd"),
        Arm("dist", "DIST", "rival", "dist"),
        Arm("fitnet", "FitNet", "rival", "fitnet"),
        Arm("ofa", "OFA", "rival", "ofa"),
        Arm(LOGITS, "SFKD's logit term alone", "control", options={"weight": 0.0}),
        Arm(MAIN, "SFKD", "ours"),
        Arm(MSE, "SFKD, MSE (no filter)", "part", options={"matching": "mse"}),
        Arm(
            STRONG,
            "SFKD, MSE, weight 3",
            "control",
            options={"matching": "mse", "weight": 3.0},
        ),
        Arm(INFONCE, "SFKD, InfoNCE", "part", options={"matching": "infonce"}),
        Arm(WHOLE, "SFKD, no wavelets", "part", options={"dwt": False}),
        Arm(PLAIN, "SFKD, nor refinement", "part", options={"refine": False}),
        Arm(OTHERS, "SFKD, others of the class", "control", teacher="shuffled_in_class"),
        Arm("shuffled", "SFKD, other images", "control", teacher="shuffled"),
        Arm(
            "constant",
            "its logit term, constant",
            "control",
            options={"weight": 0.0},
            teacher="constant",
        ),
        Arm("untrained", "SFKD, untrained teacher", "control", teacher="untrained"),
        Arm("high", "SFKD, high-pass", "part", options={"passes": "high"}),
        Arm("maps", "SFKD, no logit term", "part", options={"logits": "none"}),
        Arm("kd_term", "SFKD, KD as logit term", "part", options={"logits": "kd"}),
        Arm("flat", "SFKD, flat filter", "control", options={"width": FLAT}),
    )
}
USUAL = (BASE, *RIVALS, LOGITS, MAIN, MSE, STRONG, INFONCE, WHOLE, PLAIN, OTHERS)
TIMED = (BASE, *RIVALS, LOGITS, MAIN, MSE, INFONCE, WHOLE, PLAIN)  # others do the work of these
SHORT = (BASE, LOGITS, MAIN)  # of the other pairs
# Of two arms, the first minus the second.
COUPLES = (
    (MAIN, LOGITS),
    *((MAIN, other) for other in (MSE, STRONG, INFONCE, WHOLE, PLAIN, OTHERS, *RIVALS)),
    (WHOLE, PLAIN),
    (STRONG, MSE),
    ("flat", MSE),
)


@dataclass(frozen=True)
class Cell:
    """One arm in one pair; values: (S,) accuracy (%). gain: minus no distillation, Holm-corrected
    over the pair's arms, None of that arm itself. extra: parameters beside the student's that
    train. cost: of training, measured in turn with no distillation; None of arms that do the same
    work as another."""

    pair: str
    arm: str
    values: np.ndarray
    gain: Contrast | None
    extra: int
    cost: Cost | None

    @property
    def accuracy(self) -> Estimate:
        return average_percent(self.values)


@dataclass(frozen=True)
class Stage:
    """What an arm's student, or START, misses of its teacher's map at a stage, in the first pair.
    name: of the teacher's map; shape: (C, h, w). radii: (K,) in units of half the shorter side,
    share: (K,) of the energy there, over seeds and images. energy: (K,) of the teacher's map, of
    which all make 1. weights: (K,) of SFKD's filter.

    losses: of the reading's error, see `differences.Energies`, mean over seeds. missed: its share
    of the energy over all frequencies.
    """

    arm: str
    name: str
    shape: list[int]
    radii: np.ndarray
    share: list[Estimate]
    energy: np.ndarray
    weights: np.ndarray
    losses: dict[str, float]
    missed: float


@dataclass(frozen=True)
class Heterogeneous:
    """pairs: the first has every arm. kinds: pair → UNLIKE where one of its networks is a
    transformer and the other is not, or ALIKE. arms: in order. teachers: pair → (S,) accuracy of
    its teacher. contrasts: "a - b" → pair → a minus b, Holm-corrected over those of a pair.
    across: arm → its mean gain in unlike pairs minus that in alike ones, of the same students.
    fitted: training images that the readings of `stages` were fitted on. parameters: network → how
    many. recipes: role → network → how it was trained."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    width: int
    pairs: list[str]
    kinds: dict[str, str]
    arms: list[Arm]
    cells: list[Cell]
    teachers: dict[str, np.ndarray]
    contrasts: dict[str, dict[str, Contrast]]
    across: dict[str, Contrast]
    stages: list[Stage]
    fitted: int
    parameters: dict[str, int]
    recipes: dict[str, dict[str, str]]
    runs: list[str]

    @property
    def first(self) -> str:
        return self.pairs[0]

    def find(self, pair: str, arm: str) -> Cell:
        return next(c for c in self.cells if (c.pair, c.arm) == (pair, arm))

    def collect(self, pair: str) -> list[Cell]:
        """Of one pair, in the order of the arms."""
        return [cell for cell in self.cells if cell.pair == pair]

    def name(self, arm: str) -> str:
        return next(each.words for each in self.arms if each.name == arm)

    def gains(self, arm: str, kind: str = UNLIKE) -> dict[str, Contrast]:
        """Pair → minus no distillation, of the pairs of a kind that have the arm."""
        return {c.pair: c.gain for c in self.cells if c.arm == arm and self.kinds[c.pair] == kind}

    def contrast(self, one: str, two: str, kind: str = UNLIKE) -> dict[str, Contrast]:
        found = self.contrasts.get(name_contrast(one, two), {})
        return {pair: gap for pair, gap in found.items() if self.kinds[pair] == kind}

    def finding(self) -> str:
        told = []
        for pair in self.pairs:
            cells = [c for c in self.collect(pair) if c.arm in (LOGITS, MSE, MAIN)]
            gains = ", ".join(
                f"{self.name(c.arm)} {c.gain.seeds.format(1, sign=True)}" for c in cells
            )
            level = f"student {self.find(pair, BASE).accuracy.mean:.1f} % by itself"
            if pair in self.teachers:
                level = f"teacher {self.teachers[pair].mean():.1f} %, {level}"
            told.append(f"{pair} ({self.kinds[pair]}; {level}): {gains or 'not run'}")
        return (
            f"Points above no distillation: {'; '.join(told)}. SFKD is a reconstruction. "
            f"{describe_n(self.n, len(self.seeds))}."
        )

    def claims(self) -> list[Claim]:
        found = [
            self._claim_gain(),
            self._claim_filter(),
            self._claim_parts(),
            self._claim_rivals(),
            self._claim_image(),
            self._claim_unlike(),
        ]
        return [claim for claim in found if claim is not None]

    def _collect(self, couples: Iterable[tuple[str, str]]) -> dict[str, dict[str, Contrast]]:
        """ "a - b" → unlike pair → the difference, of the pairs in which all of them were run."""
        found = {name_contrast(*couple): self.contrast(*couple) for couple in couples}
        shared = set.intersection(*(set(gaps) for gaps in found.values()))
        return {
            name: {pair: gap for pair, gap in gaps.items() if pair in shared}
            for name, gaps in found.items()
            if shared
        }

    def _claim_gain(self) -> Claim | None:
        gains, rest = self.gains(MAIN), self.contrast(MAIN, LOGITS)
        if not gains:
            return None
        verdict, why, control = judge(gains.values()), RULE, "not run"
        if rest:
            free = self.gains(LOGITS)
            control = f"its logit term alone - none: {_print(free)}; SFKD minus it: {_print(rest)}"
            why += (
                "; where the logit term alone, which compares no map, is not beaten the claim is "
                "open, and the control matches where that is above no distillation too"
            )
            verdict = judge_beside(gains.values(), rest.values(), free.values())
        return Claim(
            statement="SFKD improves on no distillation between unlike architectures",
            where="SFKD, abstract",
            paper="claimed; no number is public here",
            ours=_print(gains),
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_filter(self) -> Claim | None:
        found = self._collect([(MAIN, MSE), (MAIN, INFONCE)])
        if not found:
            return None
        every = [gap for gaps in found.values() for gap in gaps.values()]
        verdict = judge(every)
        why = f"{RULE}; InfoNCE's weight is the same number, on another scale, and was not searched"
        control = "MSE with three times the weight: not run"
        if strong := self.contrast(MAIN, STRONG):
            better = self.contrast(STRONG, MSE)
            control = (
                f"SFKD minus MSE with three times the weight: {_print(strong)}; that minus MSE: "
                f"{_print(better)}"
            )
            why += (
                "; the filter has a mean of 1 and so raises the loss where errors are low: where "
                "MSE with more weight is not beaten the claim is open, and the control matches "
                "where that is above MSE itself"
            )
            verdict = judge_beside(every, strong.values(), better.values())
        return Claim(
            statement="The filtered loss does more than MSE and InfoNCE in its place",
            where="SFKD, abstract",
            paper="claimed; no number is public here",
            ours=_print_all(found),
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_parts(self) -> Claim | None:
        found = self._collect(PARTS.values())
        if not found:
            return None
        parts = dict(zip(PARTS, found.values(), strict=True))
        free = self.contrast(MAIN, LOGITS)
        return Claim(
            statement="Wavelets, refinement and filter each add to SFKD",
            where="SFKD, abstract; its ablation is not public here",
            paper="claimed",
            ours="; ".join(f"{part} {_print(gaps)}" for part, gaps in parts.items()),
            control=f"SFKD minus its logit term alone: {_print(free)}" if free else "not run",
            verdict=judge([gap for gaps in parts.values() for gap in gaps.values()]),
            why="judged by both intervals (seeds, samples) for every part: above 0, or below. "
            "Wavelets: SFKD minus a refinement of the map itself, which has fewer parameters; "
            "refinement: that minus the maps as they are; filter: SFKD minus MSE in its place",
        )

    def _claim_rivals(self) -> Claim | None:
        found = self._collect([(MAIN, rival) for rival in RIVALS])
        if not found:
            return None
        every = [gap for gaps in found.values() for gap in gaps.values()]
        verdict = SUPPORTED if judge(every) == SUPPORTED else OPEN
        if any(gap.loses() and gap.holm < 1 - LEVEL for gap in every):
            verdict = REFUTED
        free = self.contrast(MAIN, LOGITS)
        return Claim(
            statement="SFKD does more than KD, DIST, FitNet and OFA",
            where="SFKD, abstract; on the protocol of OFA-KD",
            paper="claimed; no number is public here",
            ours=_print_all(found),
            control=f"SFKD minus its logit term alone: {_print(free)}" if free else "not run",
            verdict=verdict,
            why="agrees where it is above each by both intervals (seeds, samples); differs where "
            "it is below one by both and by Holm's correction over the pair's contrasts. Every "
            "method has its published weights",
        )

    def _claim_image(self) -> Claim | None:
        gaps = self.contrast(MAIN, OTHERS)
        if not gaps:
            return None
        gains = {pair: gain for pair, gain in self.gains(MAIN).items() if pair in gaps}
        own, verdict = judge(gains.values()), judge(gaps.values())
        if verdict == SUPPORTED != own:
            verdict = OPEN
        return Claim(
            statement="What helps is what the teacher says of the same image",
            where="the method's premise; no control is public here",
            paper="not tested",
            ours=f"SFKD minus SFKD with other images of the same class {_print(gaps)}",
            control=f"other images of the class - none: {_print(self.gains(OTHERS))}",
            verdict=verdict,
            why=f"{RULE}; it agrees only where SFKD is above no distillation too, since a teacher "
            "that says the wrong thing may also harm",
        )

    def _claim_unlike(self) -> Claim | None:
        if MAIN not in self.across:
            return None
        gap, free = self.across[MAIN], self.across.get(LOGITS)
        verdict = judge([gap])
        if min(self.count_across()) < 2:
            verdict = OPEN
        elif verdict == SUPPORTED and free is not None and judge([free]) == SUPPORTED:
            verdict = MATCHED
        unlike, alike = self.count_across()
        return Claim(
            statement="SFKD gains more between unlike architectures than between like ones",
            where="SFKD, its premise",
            paper="no number is public here",
            ours=f"of the same students, mean gain in {unlike} unlike pair{'s' * (unlike != 1)} "
            f"minus that in {alike} of one kind {gap.seeds.format(1, sign=True)}",
            control=f"its logit term alone {free.seeds.format(1, sign=True)}"
            if free is not None
            else "not run",
            verdict=verdict,
            why="judged by both intervals (seeds, samples), and open with fewer than two pairs of "
            "each kind, since a pair's teacher counts as much as its kind; the control matches "
            "where the logit term alone gains more between unlike ones too",
        )

    def count_across(self) -> tuple[int, int]:
        """Unlike and alike pairs whose student is one of the other kind's too."""
        members = find_across(self.kinds)
        return len(members[UNLIKE]), len(members[ALIKE])


def name_contrast(one: str, two: str) -> str:
    return f"{one} - {two}"


def is_transformer(network: str) -> bool:
    return network.startswith(TRANSFORMERS)


def find_kind(pair: Pair) -> str:
    return UNLIKE if is_transformer(pair.teacher) != is_transformer(pair.student) else ALIKE


def find_across(kinds: dict[str, str]) -> dict[str, list[str]]:
    """Kind → its pairs whose student is one of the other kind's too: gains of unlike students say
    nothing of the kinds."""
    students = {
        kind: {Pair.parse(pair).student for pair, own in kinds.items() if own == kind}
        for kind in (UNLIKE, ALIKE)
    }
    shared = students[UNLIKE] & students[ALIKE]
    return {
        kind: [p for p, own in kinds.items() if own == kind and Pair.parse(p).student in shared]
        for kind in students
    }


def find_side(store: Store) -> str:
    """The first modality whose events are single images."""
    for name in store.dataset.modalities:
        values = store.read(name)
        if values.ndim == 4 and values.dtype == np.uint8:
            return name
    raise UserError(
        f"{store.dataset.name} has no modality of single images: this study is for networks of "
        "images"
    )


def choose_pairs(plan: Plan, wanted: list[str] | str | None = None) -> list[Pair]:
    """The pairs asked for, or the study's for images of the data set's size and the preset."""
    names = read_list("pairs", wanted, str)
    if not names:
        store = plan.open_store()
        names = PAIRS[max(store.read(find_side(store)).shape[2:]) < SMALL]
        if plan.preset in BRIEF:
            names = [name for name in names if not name.startswith("vit_")]
    pairs = [Pair.parse(name) for name in names]
    for pair in pairs:
        if pair.teacher == pair.student:
            raise UserError(f"pair is {str(pair)!r}: expected two networks")
    return pairs


def choose_recipe(plan: Plan, network: str, role: str, epochs: int = 0) -> TrainConfig:
    """How a network is trained as a teacher or a student: the plan's recipe with what is said here.

    Convolutional networks at preset `paper` have OFA-KD's recipe: SGD at 0.05 down a cosine to
    1e-3, weight decay 2e-3, 300 epochs; its label smoothing of 0.1 is left out, which no method
    here has. Transformers have AdamW at a rate of our choice, as the other presets have. At `quick`
    and `reduced` teachers train for longer than students, since published ones were trained on far
    more. Rates and epochs were chosen by what undistilled networks reach on the validation split of
    `digits`, before any method was run. epochs: of both roles, 0 for the preset's.
    """
    modern = is_transformer(network)
    fields = dict(RECIPES[plan.preset][modern])
    if "batch_size" in fields:  # of few files the plan's is smaller
        fields["batch_size"] = min(fields["batch_size"], plan.train.batch_size)
    if modern:
        fields |= ADAMW | {"final_learning_rate": fields["learning_rate"] / 100, "milestones": ()}
    usual = PUBLISHED
    if plan.preset in LENGTHS:
        usual = max(1, round(plan.train.epochs * LENGTHS[plan.preset][role][modern]))
    return replace(plan.train, **fields, epochs=epochs or usual)


def list_arms(arms: list[str] | str | None) -> list[Arm]:
    """The arms asked for, or `USUAL`; no distillation first and always."""
    names = read_list("arms", arms, str) or list(USUAL)
    for name in names:
        if name not in ARMS:
            raise name_unknown("arm", name, ARMS)
    return [ARMS[name] for name in [BASE, *(name for name in names if name != BASE)]]


def configure_heterogeneous(
    plan: Plan,
    pairs: list[str] | str | None = None,
    arms: list[str] | str | None = None,
    epochs: int = 0,
    every: bool = False,
) -> dict[Key, RunConfig]:
    """(pair, arm, seed) → its run. every: whether all pairs have all arms; else those behind the
    first have `SHORT` alone."""
    side, found = find_side(plan.open_store()), {}
    for place_, pair in enumerate(choose_pairs(plan, pairs)):
        recipes = {
            STUDENT: choose_recipe(plan, pair.student, STUDENT, epochs),
            TEACHER: choose_recipe(plan, pair.teacher, TEACHER, epochs),
        }
        for arm in list_arms(arms):
            if place_ and not every and arm.name not in SHORT:
                continue
            taught = {"network": pair.student, "train": recipes[STUDENT]}
            if METHODS[arm.method].needs:
                taught |= {"teacher_network": pair.teacher, "teacher_train": recipes[TEACHER]}
            for seed in plan.seeds:
                found[str(pair), arm.name, seed] = plan.configure(
                    side,
                    arm.method,
                    side if METHODS[arm.method].needs else None,
                    seed,
                    arm.options,
                    teacher_kind=arm.teacher,
                    **taught,
                )
    return found


def compare_architectures(
    plan: Plan,
    *,
    pairs: list[str] | str | None = None,
    arms: list[str] | str | None = None,
    epochs: int = 0,
    every: bool = False,
) -> Heterogeneous:
    """Train or find every pair, arm and seed, and compare them, paired by seed and sample.

    pairs: teacher's network to student's; see `PAIRS`. arms: names of `ARMS`; empty takes `USUAL`.
    epochs: of every run, 0 for the recipe's. every: see `configure_heterogeneous`.
    """
    configs = configure_heterogeneous(plan, pairs, arms, epochs, every)
    teachers = {
        (pair, seed): plan.configure(
            config.teacher,
            seed=seed,
            network=config.teacher_network,
            train=config.teacher_train,
        )
        for (pair, _, seed), config in configs.items()
        if config.teacher_train
    }
    wanted = [*configs.values(), *teachers.values()]
    trained = ensure_runs(wanted, device=plan.device)
    runs = dict(zip(configs, trained, strict=False))
    taught = dict(zip(teachers, trained[len(configs) :], strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    chosen, names = list_arms(arms), list(dict.fromkeys(pair for pair, _, _ in configs))
    answers = {
        (pair, arm): np.stack([runs[pair, arm, seed].judge(labels) for seed in plan.seeds])
        for pair, arm in dict.fromkeys((pair, arm) for pair, arm, _ in configs)
    }
    kinds = {pair: find_kind(Pair.parse(pair)) for pair in names}
    cells, contrasts, across = compare_arms(chosen, kinds, answers)
    costs = {
        pair: measure_costs(
            plan,
            {
                arm.name: configs[pair, arm.name, plan.seeds[0]]
                for arm in chosen
                if arm.name in TIMED and (pair, arm.name, plan.seeds[0]) in configs
            },
        )
        for pair in names
    }
    return Heterogeneous(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(labels),
        seeds=list(plan.seeds),
        width=plan.width,
        pairs=names,
        kinds=kinds,
        arms=chosen,
        cells=[
            Cell(
                pair,
                arm,
                values,
                gain,
                _count_extra(runs[pair, arm, plan.seeds[0]]),
                costs[pair].get(arm),
            )
            for pair, arm, values, gain in cells
        ],
        teachers={
            pair: np.array([100 * taught[pair, s].judge(labels).mean() for s in plan.seeds])
            for pair in dict.fromkeys(pair for pair, _ in teachers)
        },
        contrasts=contrasts,
        across=across,
        stages=read_stages(plan, runs, taught, names[0]) if taught else [],
        fitted=min(FITTED, len(store.rows("train"))),
        parameters={
            config.network: run.record.parameters["student"]
            for config, run in zip(wanted, trained, strict=True)
        },
        recipes={
            role: {config.network: _describe(config.train) for config in group.values()}
            for role, group in ((TEACHER, teachers), (STUDENT, configs))
        },
        runs=sorted({run.record.fingerprint for run in trained}),
    )


def compare_arms(
    arms: list[Arm], kinds: dict[str, str], answers: dict[tuple[str, str], np.ndarray]
) -> tuple[
    list[tuple[str, str, np.ndarray, Contrast | None]],
    dict[str, dict[str, Contrast]],
    dict[str, Contrast],
]:
    """(pair, arm, values, gain) of each cell, contrasts and gains across kinds, see
    `Heterogeneous`. answers: (pair, arm) → (S, n) right answers."""
    cells: list[tuple[str, str, np.ndarray, Contrast | None]] = []
    contrasts: dict[str, dict[str, Contrast]] = {}
    for pair in kinds:
        names = [arm.name for arm in arms if (pair, arm.name) in answers]
        gains = correct_contrasts(
            {
                name: contrast_answers(answers[pair, name], answers[pair, BASE])
                for name in names
                if name != BASE
            }
        )
        cells += [
            (pair, name, 100 * answers[pair, name].mean(axis=1), gains.get(name)) for name in names
        ]
        found = {
            couple: contrast_answers(*(answers[pair, name] for name in couple))
            for couple in COUPLES
            if set(couple) <= set(names)
        }
        for couple, gap in correct_contrasts(found).items():
            contrasts.setdefault(name_contrast(*couple), {})[pair] = gap

    across, members = {}, find_across(kinds)
    for name in [arm.name for arm in arms if arm.name != BASE and all(members.values())]:
        if all((pair, name) in answers for pairs in members.values() for pair in pairs):
            unlike, alike = (
                np.mean(
                    [answers[p, name].astype(float) - answers[p, BASE] for p in members[kind]],
                    axis=0,
                )
                for kind in (UNLIKE, ALIKE)
            )
            across[name] = contrast_gaps(100 * (unlike - alike))
    return cells, contrasts, across


def read_stages(
    plan: Plan, runs: dict[Key, Run], teachers: dict[tuple[str, int], Run], pair: str
) -> list[Stage]:
    """Of the students of `SHOWN` that were run, at every stage that SFKD compares; START is no
    distillation's before it has learned, so that what any network's maps tell is known too."""
    store, device = plan.open_store(), choose_device(plan.device)
    config = runs[pair, BASE, plan.seeds[0]].record.config
    data = PairedData.load(store, [config.student], device, config.train.side)
    rng = np.random.default_rng(derive_seed(0, "reading"))
    train, test = (data.rows[split].cpu() for split in ("train", "test"))
    train = train[torch.from_numpy(np.sort(rng.permutation(len(train))[:FITTED]))]
    options = METHODS[MAIN].Options()
    shown = [arm for arm in SHOWN if arm == START or (pair, arm, plan.seeds[0]) in runs]
    found: dict[str, list[list[Energies]]] = {arm: [] for arm in shown}
    names: Names = []
    for arm in shown:
        for seed in plan.seeds:
            if arm == START:
                network = {"width": plan.width, "seed": seed, "network": config.network}
                student = build_untrained(store, data, config.student, **network)
            else:
                student = place(runs[pair, arm, seed].load_student(store), device)
            teacher = place(teachers[pair, seed].load_student(store), device)
            look = _Look(student, teacher, data, config.student)
            sides = (describe(x, data.batch(config.student, test[:2])) for x in (student, teacher))
            names = Sizes(*sides, store.dataset.classes).pair("stages")[-options.stages :]
            found[arm].append(
                measure_energies(look, names, train.split(BATCH), test.split(BATCH), options.width)
            )
    stages = []
    for arm, each in found.items():
        for place_, (_, name) in enumerate(names):
            own = [energies[place_] for energies in each]
            shape = own[0].shape
            missed, there = (
                np.stack([getattr(e, part) for e in own]) for part in ("missed", "there")
            )
            stages.append(
                Stage(
                    arm=arm,
                    name=name,
                    shape=list(shape),
                    radii=own[0].radii,
                    share=summarise_share(missed, there),
                    energy=there.sum(axis=(0, 1)) / there.sum(),
                    weights=weigh_rings(shape, options.width, options.passes),
                    losses={
                        kind: float(np.mean([e.losses[kind] for e in own]))
                        for kind in own[0].losses
                    },
                    missed=float(missed.sum() / there.sum()),
                )
            )
    return stages


@dataclass(frozen=True)
class _Look:
    """Rows → what student and teacher say of them, their norms as they are."""

    student: torch.nn.Module
    teacher: torch.nn.Module
    data: PairedData
    side: str

    def __call__(self, rows: torch.Tensor):
        inputs = self.data.batch(self.side, rows.to(self.data.device))
        return self.student(inputs), self.teacher(inputs)


def _count_extra(run: Run) -> int:
    return sum(n for part, n in run.record.parameters.items() if part != "student")


def _describe(recipe: TrainConfig) -> str:
    parts = [
        f"{recipe.optimiser}, {recipe.epochs} epochs",
        f"rate {recipe.learning_rate:g}",
        f"weight decay {recipe.weight_decay:g}, batch {recipe.batch_size}",
        "augmented" if recipe.augment else "not augmented",
    ]
    return ", ".join(parts)


def _print_all(found: dict[str, dict[str, Contrast]]) -> str:
    return "; ".join(f"{name}: {_print(gaps)}" for name, gaps in found.items())


def _print(contrasts: dict[str, Contrast]) -> str:
    if len(contrasts) == 1:
        return next(iter(contrasts.values())).seeds.format(1, sign=True)
    return "; ".join(f"{pair} {c.seeds.format(1, sign=True)}" for pair, c in contrasts.items())

"""Does filtering frequencies help distillation between unlike architectures? (SFKD, a
reconstruction)"""

from __future__ import annotations

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
from fdlab.studies.stats import average_percent
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = (
    "Between networks of unlike kinds, does a loss on filtered frequencies of refined maps do more "
    "than the same loss without the filter, and do maps do more than the logits alone?"
)
BASE, MAIN, MSE, LOGITS, SHUFFLED = "none", "sfkd", "mse", "logits", "shuffled"
STRONG = "mse_strong"
RIVALS = ("kd", "dist", "fitnet", "ofa")
PARTS = ("no_dwt", "no_refine", MSE)  # SFKD without one of its parts; without the filter it is MSE
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
SHOWN = (BASE, MSE, MAIN)  # students whose maps are read
FLAT = 1e6  # a filter so wide that it weighs all frequencies alike
RULE = "judged by both intervals (seeds, samples) in every one of these pairs: above 0, or below"
Key = tuple[str, str, int]  # pair, arm, seed

TEACHER, STUDENT = "teacher", "student"
ADAMW = {"optimiser": "adamw", "schedule": "cosine", "weight_decay": 0.05, "clip": 1.0}
# Preset → kind of network → fields of the recipe, and epochs of each role; see `choose_recipe`.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        "convolutional": {"batch_size": 32, "augment": False},
        "transformer": {"batch_size": 32, "learning_rate": 2e-3, "warm_up": 2, "augment": False},
    },
    "quick": {
        "convolutional": {"batch_size": 32, "augment": False},
        "transformer": {
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warm_up": 50,
            "augment": False,
        },
    },
    "reduced": {
        "convolutional": {},
        "transformer": {"learning_rate": 1e-3, "warm_up": 500},
    },
    "paper": {
        "convolutional": {
            "learning_rate": 0.05,
            "final_learning_rate": 1e-3,
            "weight_decay": 2e-3,
            "schedule": "cosine",
            "milestones": (),
        },
        "transformer": {"learning_rate": 5e-4, "warm_up": 2000},
    },
}
# Preset → role → kind of network → epochs.
EPOCHS = {
    "smoke": {TEACHER: (1, 1), STUDENT: (1, 1)},
    "quick": {TEACHER: (8, 16), STUDENT: (5, 5)},
    "reduced": {TEACHER: (40, 100), STUDENT: (40, 60)},
    "paper": {TEACHER: (300, 300), STUDENT: (300, 300)},
}


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
        Arm("infonce", "SFKD, InfoNCE", "part", options={"matching": "infonce"}),
        Arm("no_dwt", "SFKD, no wavelets", "part", options={"dwt": False}),
        Arm("no_refine", "SFKD, no refinement", "part", options={"refine": False}),
        Arm(SHUFFLED, "SFKD, other images", "control", teacher="shuffled"),
        Arm("untrained", "SFKD, untrained teacher", "control", teacher="untrained"),
        Arm("high", "SFKD, high-pass", "part", options={"passes": "high"}),
        Arm("maps", "SFKD, no logit term", "part", options={"logits": "none"}),
        Arm("kd_term", "SFKD, KD as logit term", "part", options={"logits": "kd"}),
        Arm("flat", "SFKD, flat filter", "control", options={"width": FLAT}),
    )
}
USUAL = (BASE, *RIVALS, LOGITS, MAIN, MSE, STRONG, "infonce", "no_dwt", "no_refine", SHUFFLED)
UNTIMED = (STRONG, SHUFFLED, "untrained", "flat", "high", "maps", "kd_term")  # as SFKD, or nearly
SHORT = (BASE, LOGITS, MAIN)  # of the other pairs
# Of two arms, the first minus the second.
COUPLES = (
    (MAIN, LOGITS),
    *((MAIN, part) for part in (*PARTS, STRONG, "infonce", SHUFFLED, *RIVALS)),
    (MSE, "flat"),
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
    """What one arm's student misses of its teacher's map at one stage, in the first pair. name: of
    the teacher's map; shape: (C, h, w). radii: (K,) in units of half the shorter side, share: (K,)
    of the energy there, over seeds and images. weights: (K,) of SFKD's filter.

    losses: of the reading's error, see `differences.Energies`, mean over seeds. missed: its share
    of the energy over all frequencies.
    """

    arm: str
    name: str
    shape: list[int]
    radii: np.ndarray
    share: list[Estimate]
    weights: np.ndarray
    losses: dict[str, float]
    missed: float


@dataclass(frozen=True)
class Heterogeneous:
    """pairs: the first has every arm. kinds: pair → UNLIKE where one of its networks is a
    transformer and the other is not, or ALIKE. arms: in order. teachers: pair → (S,) accuracy of
    its teacher. contrasts: "a - b" → pair → a minus b, Holm-corrected over those of a pair.
    across: arm → its mean gain in unlike pairs minus that in alike ones. parameters: network →
    how many. recipes: role → network → how it was trained."""

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
            level = f"{self.find(pair, BASE).accuracy.mean:.1f} % without a teacher"
            if pair in self.teachers:
                level += f", which has {self.teachers[pair].mean():.1f}"
            told.append(f"{pair} ({self.kinds[pair]}, {level}) {gains}")
        return (
            f"Points above no distillation: {'; '.join(told)}. SFKD is a reconstruction. "
            f"{describe_n(self.n, len(self.seeds))}."
        )

    def claims(self) -> list[Claim]:
        names, found = {arm.name for arm in self.arms}, []
        if MAIN in names and self.gains(MAIN):
            found.append(self._claim_gain())
        if self.contrast(MAIN, MSE):
            found.append(self._claim_filter())
        if any(self.contrast(MAIN, part) for part in PARTS):
            found.append(self._claim_parts())
        if any(self.contrast(MAIN, rival) for rival in RIVALS):
            found.append(self._claim_rivals())
        if self.contrast(MAIN, SHUFFLED):
            found.append(self._claim_image())
        if MAIN in self.across:
            found.append(self._claim_unlike())
        return found

    def _claim_gain(self) -> Claim:
        gains, rest = self.gains(MAIN), self.contrast(MAIN, LOGITS)
        verdict, why, control = judge(gains.values()), RULE, "not run"
        if rest:
            free = self.gains(LOGITS)
            control = f"its logit term alone - none: {_print(free)}; SFKD minus it: {_print(rest)}"
            why += (
                "; where the logit term alone, which compares no map, is not beaten the claim is "
                "open, and the control matches where that is above no distillation too"
            )
            if verdict == SUPPORTED != judge(rest.values()):
                verdict = MATCHED if judge(free.values()) == SUPPORTED else OPEN
        return Claim(
            statement="SFKD improves on no distillation between unlike architectures",
            where="SFKD, abstract",
            paper="claimed; no number is public here",
            ours=_print(gains),
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_filter(self) -> Claim:
        gaps = {
            name: self.contrast(MAIN, arm) for name, arm in (("MSE", MSE), ("InfoNCE", "infonce"))
        }
        every = [gap for found in gaps.values() for gap in found.values()]
        verdict, why = judge(every), RULE
        control = "MSE with three times the weight: not run"
        if strong := self.contrast(MAIN, STRONG):
            control = f"SFKD minus MSE with three times the weight: {_print(strong)}"
            why += (
                "; the filter has a mean of 1 and raises the loss of maps whose errors are low, so "
                "the control matches where MSE with more weight does as well"
            )
            if verdict == SUPPORTED != judge(strong.values()):
                verdict = MATCHED
        return Claim(
            statement="The filtered loss does more than MSE and InfoNCE in its place",
            where="SFKD, abstract",
            paper="claimed; no number is public here",
            ours="; ".join(f"minus {name}: {_print(found)}" for name, found in gaps.items()),
            control=control,
            verdict=verdict,
            why=why,
        )

    def _claim_parts(self) -> Claim:
        gaps = {part: self.contrast(MAIN, part).get(self.first) for part in PARTS}
        gaps = {part: gap for part, gap in gaps.items() if gap is not None}
        return Claim(
            statement="Wavelets, refinement and filter each add to SFKD",
            where="SFKD, abstract; its ablation is not public here",
            paper="claimed",
            ours=f"{self.first}, SFKD minus: "
            + "; ".join(
                f"{self.name(part)} {gap.seeds.format(1, sign=True)}" for part, gap in gaps.items()
            ),
            control=f"its logit term alone - none: {_print(self.gains(LOGITS))}"
            if any(arm.name == LOGITS for arm in self.arms)
            else "not run",
            verdict=judge(gaps.values()),
            why="judged by both intervals (seeds, samples) for every part: above 0, or below",
        )

    def _claim_rivals(self) -> Claim:
        gaps = {rival: self.contrast(MAIN, rival).get(self.first) for rival in RIVALS}
        gaps = {rival: gap for rival, gap in gaps.items() if gap is not None}
        verdict = judge(gaps.values())
        if any(gap.loses() and gap.holm < 0.05 for gap in gaps.values()):
            verdict = REFUTED
        return Claim(
            statement="SFKD does more than KD, DIST, FitNet and OFA",
            where="SFKD, abstract; on the protocol of OFA-KD",
            paper="claimed; no number is public here",
            ours=f"{self.first}, SFKD minus: "
            + "; ".join(
                f"{self.name(rival)} {gap.seeds.format(1, sign=True)}"
                for rival, gap in gaps.items()
            ),
            control=f"minus its logit term alone: {_print(self.contrast(MAIN, LOGITS))}",
            verdict=verdict,
            why="agrees where it is above each by both intervals (seeds, samples); differs where "
            "it is below one by both and by Holm's correction over the pair's contrasts",
        )

    def _claim_image(self) -> Claim:
        gaps = self.contrast(MAIN, SHUFFLED)
        return Claim(
            statement="What helps is the teacher's view of the same image",
            where="the method's premise; no control is public here",
            paper="not tested",
            ours=f"SFKD minus SFKD with other images {_print(gaps)}",
            control=f"other images - none: {_print(self.gains(SHUFFLED))}",
            verdict=judge(gaps.values()),
            why=RULE,
        )

    def _claim_unlike(self) -> Claim:
        gap = self.across[MAIN]
        control = "not run"
        if LOGITS in self.across:
            free = self.across[LOGITS].seeds.format(1, sign=True)
            control = f"its logit term alone {free}"
        return Claim(
            statement="SFKD gains more between unlike architectures than between like ones",
            where="SFKD, its premise",
            paper="no number is public here",
            ours=f"mean gain in {len(self.gains(MAIN))} unlike pairs minus that in "
            f"{len(self.gains(MAIN, ALIKE))} of one kind {gap.seeds.format(1, sign=True)}",
            control=control,
            verdict=judge([gap]),
            why="judged by both intervals (seeds, samples); pairs differ in more than their kind, "
            "such as in how good the teacher is, so that few pairs settle little",
        )


def name_contrast(one: str, two: str) -> str:
    return f"{one} - {two}"


def is_transformer(network: str) -> bool:
    return network.startswith(TRANSFORMERS)


def find_kind(pair: Pair) -> str:
    return UNLIKE if is_transformer(pair.teacher) != is_transformer(pair.student) else ALIKE


def choose_pairs(plan: Plan, wanted: list[str] | str | None = None) -> list[Pair]:
    """The pairs asked for, or the study's for images of the data set's size and the preset."""
    names = read_list("pairs", wanted, str)
    if not names:
        side = plan.modalities[0]
        shape = plan.open_store().read(side).shape[1:]
        if len(shape) != 3:
            raise UserError(f"{plan.dataset} has no images: this study is for networks of images")
        names = PAIRS[max(shape[1:]) < SMALL]
        if plan.preset in BRIEF:
            names = [name for name in names if not name.startswith("vit_")]
    return [Pair.parse(name) for name in names]


def choose_recipe(plan: Plan, network: str, role: str, epochs: int = 0) -> TrainConfig:
    """How a network is trained as a teacher or a student: the data set's own recipe for it, else
    the plan's with what is said here.

    Convolutional networks at preset `paper` have OFA-KD's recipe: SGD at 0.05 down a cosine to
    1e-3, weight decay 2e-3, 300 epochs; its label smoothing of 0.1 is left out, which no method
    here has. Transformers have AdamW at a rate of our choice. At the other presets teachers train
    for longer than students, since published ones were trained on far more; rates and epochs were
    chosen by what undistilled networks reach on the validation split, before any method was run.
    epochs: of both roles, 0 for the preset's.
    """
    if own := plan.recipes.get(network):
        return own
    modern = is_transformer(network)
    fields = dict(RECIPES[plan.preset]["transformer" if modern else "convolutional"])
    if modern:
        fields |= ADAMW | {"final_learning_rate": fields["learning_rate"] / 100, "milestones": ()}
    fields["epochs"] = epochs or EPOCHS[plan.preset][role][modern]
    return replace(plan.train, **fields)


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
    found: dict[Key, RunConfig] = {}
    for place_, pair in enumerate(choose_pairs(plan, pairs)):
        recipes = {
            "train": choose_recipe(plan, pair.student, STUDENT, epochs),
            "teacher_train": choose_recipe(plan, pair.teacher, TEACHER, epochs),
        }
        for arm in list_arms(arms):
            if place_ and not every and arm.name not in SHORT:
                continue
            taught = recipes if METHODS[arm.method].needs else {"train": recipes["train"]}
            for seed in plan.seeds:
                found[str(pair), arm.name, seed] = plan.configure_pair(
                    pair, arm.method, seed, arm.options, teacher_kind=arm.teacher, **taught
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
        (pair, seed): plan.configure_pair(
            Pair.parse(pair).as_teacher(), BASE, seed, train=config.teacher_train
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
                if arm.name not in UNTIMED and (pair, arm.name, plan.seeds[0]) in configs
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
        stages=read_stages(plan, runs, taught, names[0])
        if (names[0], plan.seeds[0]) in taught
        else [],
        parameters={run.record.config.network: run.record.parameters["student"] for run in trained},
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

    def average_gain(name: str, kind: str) -> np.ndarray:
        members = [pair for pair, own in kinds.items() if own == kind and (pair, name) in answers]
        gains = [answers[pair, name].astype(float) - answers[pair, BASE] for pair in members]
        return np.mean(gains, axis=0) if gains else np.empty(0)

    across = {}
    for arm in arms:
        unlike, alike = (average_gain(arm.name, kind) for kind in (UNLIKE, ALIKE))
        if arm.name != BASE and len(unlike) and len(alike):
            across[arm.name] = contrast_gaps(100 * (unlike - alike))
    return cells, contrasts, across


def read_stages(
    plan: Plan, runs: dict[Key, Run], teachers: dict[tuple[str, int], Run], pair: str
) -> list[Stage]:
    """Of the students of `SHOWN` that were run, at every stage that SFKD compares."""
    store, device = plan.open_store(), choose_device(plan.device)
    config = runs[pair, BASE, plan.seeds[0]].record.config
    data = PairedData.load(store, [config.student], device, config.train.side)
    rng = np.random.default_rng(derive_seed(0, "reading"))
    train, test = (data.rows[split].cpu() for split in ("train", "test"))
    train = train[np.sort(rng.permutation(len(train))[:FITTED])]
    options = METHODS[MAIN].Options()
    shown = [arm for arm in SHOWN if (pair, arm, plan.seeds[0]) in runs]
    found: dict[str, list[list[Energies]]] = {arm: [] for arm in shown}
    names: Names = []
    for arm in shown:
        for seed in plan.seeds:
            student, teacher = (
                place(run.load_student(store), device)
                for run in (runs[pair, arm, seed], teachers[pair, seed])
            )
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
    """Rows → what student and teacher say of them."""

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


def _print(contrasts: dict[str, Contrast]) -> str:
    if len(contrasts) == 1:
        return next(iter(contrasts.values())).seeds.format(1, sign=True)
    return "; ".join(f"{pair} {c.seeds.format(1, sign=True)}" for pair, c in contrasts.items())

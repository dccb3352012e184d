"""What the low and the high part of logits answer alone (FiGKD, figures 2 and 5), beside what
random orders of the classes and random logits with a peak would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.spectral.grids import choose_grid, order_classes, split_logits
from fdlab.studies.contrast import Contrast, contrast_gaps, correct_contrasts
from fdlab.studies.stats import LEVEL, RESAMPLES, resample_means

TEACHER, STUDENT = "teacher", "student"
GRAFT, REVERSE = "graft", "reverse"  # student's low and teacher's high part; the other way round
WHOLE, LOW, HIGH = "whole", "low", "high"
LABEL, RANDOM, PEAKED = "label", "random", "peaked"
SOURCES = {
    LABEL: "order of the labels",
    RANDOM: "random class orders",
    PEAKED: "noise with the same peak",
}
TIE = 1e-9  # of the largest value, up to which two classes tie
# Whom a sample may be drawn from, the first that there is.
RULES = (
    "the teacher is right and the student wrong",
    "the teacher is right",
    "any sample of the test split",
)

Split = dict[str, np.ndarray]  # whole, low, high → (n, K)


@dataclass(frozen=True)
class Part:
    """How often one part alone names the class. source: of `SOURCES`. values: (S,) percent.

    accuracy, family: over seeds and samples (hierarchical bootstrap); family is None where the
    classes have no families. Of random orders and noise the mean over their draws.
    """

    network: str
    source: str
    part: str
    values: np.ndarray
    accuracy: Estimate
    family: Estimate | None = None


@dataclass(frozen=True)
class Sample:
    """One test sample. teacher, student: whole, low and high part, (K,) each."""

    row: int
    label: int
    teacher: Split
    student: Split


@dataclass(frozen=True)
class Parts:
    """ceilings: order of the labels, or random ones → the accuracy (%) of a low part that always
    names the true class's block, which is all that its ties allow, and where there are families
    how often it names the true one, which another block may exceed. chance: percent.

    contrasts: "a - b" → points, paired by seed and sample; see `measure_parts`. share: percent of
    the two networks' squared difference that is in the details, over seeds; share_random: the same
    in each random order, (S, R). rule: whom the samples were drawn from.
    """

    grid: list[int]
    parts: list[Part]
    chance: float
    ceilings: dict[str, list[float]]
    contrasts: dict[str, Contrast]
    share: np.ndarray
    share_random: np.ndarray
    samples: list[Sample]
    rule: str

    @property
    def ceiling(self) -> float:
        return self.ceilings[LABEL][0]

    def find(self, network: str, part: str = WHOLE, source: str = LABEL) -> Part:
        key = (network, source, part)
        return next(p for p in self.parts if (p.network, p.source, p.part) == key)


def split(logits: np.ndarray, order: np.ndarray | None = None) -> Split:
    """(n, K) → its whole, low and high part in float64; Haar, one level, as the method."""
    low, high = split_logits(torch.from_numpy(np.asarray(logits, dtype=float)), order=order)
    return {WHOLE: np.asarray(logits, dtype=float), LOW: low.numpy(), HIGH: high.numpy()}


def score_classes(
    scores: np.ndarray, labels: np.ndarray, families: np.ndarray | None = None
) -> np.ndarray:
    """(n, K) scores → (n,) how often the highest class is the true one, 0 to 1.

    Where several tie it is the expected value of one of them drawn at random: 1/4 where the true
    class is among four. families: (K,) each class's family; then how often the family is right.
    """
    families = np.arange(scores.shape[1]) if families is None else families
    room = TIE * np.abs(scores).max(axis=1, keepdims=True)
    tied = scores >= scores.max(axis=1, keepdims=True) - room
    right = families[None] == families[labels][:, None]
    return (tied & right).sum(axis=1) / tied.sum(axis=1)


def find_ceiling(
    labels: np.ndarray,
    classes: int,
    families: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> float:
    """The mean of `score_classes` for low parts of lone peaks at the true class: 1/4 with Haar and
    even sides."""
    low = split(np.eye(classes), order)[LOW]
    return float(score_classes(low[labels], labels, families).mean())


def draw_peaked(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, K) Gaussian noise with each row's own peak: the class that the row names keeps its value,
    the others are drawn with the mean and the deviation that they had."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    others = np.array(logits, dtype=float)
    others[rows, top] = np.nan
    found = rng.normal(
        np.nanmean(others, axis=1, keepdims=True),
        np.nanstd(others, axis=1, keepdims=True),
        logits.shape,
    )
    found[rows, top] = logits[rows, top]
    return found


def find_share(teacher: np.ndarray, student: np.ndarray, order: np.ndarray | None = None) -> float:
    """Percent of the squared difference of two networks' logits that is in the details.

    What all classes have in common is no answer and is left out before. A difference without any
    structure has as much there as there are directions: 75 of 99 on a grid of 10×10. nan for equal
    logits.
    """
    gaps = np.asarray(teacher, dtype=float) - np.asarray(student, dtype=float)
    found = split(gaps - gaps.mean(axis=1, keepdims=True), order)
    whole = (found[WHOLE] ** 2).sum()
    return float(100 * (found[HIGH] ** 2).sum() / whole) if whole else math.nan


def measure_parts(
    teacher: np.ndarray,
    student: np.ndarray,
    labels: np.ndarray,
    *,
    families: np.ndarray | None = None,
    repeats: int = 10,
    count: int = 3,
) -> Parts:
    """Everything about the parts of two networks' logits, (S, n, K) each, on one test split.

    families: (K,) each class's family. repeats: random class orders, and draws of the noise. count:
    samples that are shown, drawn from the first seed by `RULES`.

    The graft is the student's low part with the teacher's details: what the details carry from one
    network to the other. Under "peaked" the details are those of noise with the teacher's peak, and
    the student's part is its own. contrasts: "high - peaked", the teacher's details against those
    of the noise; "graft - student", "random graft - student" and "peaked graft - student", the gain
    of the graft; "graft - random graft" and "graft - peaked graft", what is left of it.
    """
    seeds, n, classes = teacher.shape
    found: dict[tuple[str, str, str], np.ndarray] = {}
    kinds = [None] if families is None else [None, families]
    for seed in range(seeds):
        for source in SOURCES:
            draws = list(_split_draws(source, teacher[seed], student[seed], repeats, seed))
            for draw in draws:
                for (network, part), scores in draw.items():
                    key = (network, source, part)
                    total = found.setdefault(key, np.zeros((len(kinds), seeds, n)))
                    for kind, groups in enumerate(kinds):
                        total[kind, seed] += score_classes(scores, labels, groups) / len(draws)
    orders = [order_classes(classes, number) for number in range(repeats)]
    pairs = list(zip(teacher, student, strict=True))
    samples, rule = _choose_samples(teacher[0], student[0], labels, count)
    return Parts(
        grid=list(choose_grid(classes)),
        parts=_summarise({key: 100 * values for key, values in found.items()}),
        chance=100 / classes,
        ceilings={
            source: [
                float(np.mean([100 * find_ceiling(labels, classes, groups, o) for o in given]))
                for groups in kinds
            ]
            for source, given in ((LABEL, [None]), (RANDOM, orders))
        },
        contrasts=_contrast({key: 100 * values[0] for key, values in found.items()}),
        share=np.array([find_share(one, two) for one, two in pairs]),
        share_random=np.array([[find_share(*pair, order) for order in orders] for pair in pairs]),
        samples=samples,
        rule=rule,
    )


def _split_draws(
    source: str, teacher: np.ndarray, student: np.ndarray, repeats: int, seed: int
) -> Iterator[dict[tuple[str, str], np.ndarray]]:
    """(network, part) → (n, K) of every draw of a source; grafts are a whole."""
    for number in range(1 if source == LABEL else repeats):
        order, given = None, (teacher, student)
        if source == RANDOM:
            order = order_classes(teacher.shape[1], number)
        if source == PEAKED:
            rng = np.random.default_rng(derive_seed("peaked", seed, number))
            given = tuple(draw_peaked(logits, rng) for logits in given)
        one, two = (split(logits, order) for logits in given)
        own = (one, two) if source != PEAKED else (split(teacher), split(student))
        yield (
            {(TEACHER, part): one[part] for part in one}
            | {(STUDENT, part): two[part] for part in two}
            | {(GRAFT, WHOLE): own[1][LOW] + one[HIGH], (REVERSE, WHOLE): own[0][LOW] + two[HIGH]}
        )


def _summarise(found: dict[tuple[str, str, str], np.ndarray]) -> list[Part]:
    """(network, source, part) → (1 or 2, S, n) percent, of the classes and of their families."""
    rows = np.concatenate(list(found.values()))
    means = resample_means(rows, RESAMPLES)  # the same draws for all of them
    edges = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    ends = zip(rows.mean(axis=(1, 2)), *edges, strict=True)
    estimates = [Estimate(*map(float, end), rows.shape[1]) for end in ends]
    kinds = len(rows) // len(found)
    return [
        Part(*key, values[0].mean(axis=1), *(estimates[kinds * i : kinds * i + kinds]))
        for i, (key, values) in enumerate(found.items())
    ]


def _contrast(values: dict[tuple[str, str, str], np.ndarray]) -> dict[str, Contrast]:
    """(network, source, part) → (S, n) percent to the contrasts of `Parts`."""
    base = values[STUDENT, LABEL, WHOLE]
    grafts = {source: values[GRAFT, source, WHOLE] for source in SOURCES}
    gaps = {
        "high - peaked": values[TEACHER, LABEL, HIGH] - values[TEACHER, PEAKED, HIGH],
        "graft - student": grafts[LABEL] - base,
        "random graft - student": grafts[RANDOM] - base,
        "peaked graft - student": grafts[PEAKED] - base,
        "graft - random graft": grafts[LABEL] - grafts[RANDOM],
        "graft - peaked graft": grafts[LABEL] - grafts[PEAKED],
    }
    return correct_contrasts({name: contrast_gaps(gap) for name, gap in gaps.items()})


def _choose_samples(
    teacher: np.ndarray, student: np.ndarray, labels: np.ndarray, count: int
) -> tuple[list[Sample], str]:
    """At most `count` samples of the first rule that finds any, drawn by a fixed seed, by row."""
    right, wrong = teacher.argmax(axis=1) == labels, student.argmax(axis=1) != labels
    masks = (right & wrong, right, np.ones(len(labels), dtype=bool))
    rule, rows = next((r, np.flatnonzero(m)) for r, m in zip(RULES, masks, strict=True) if m.any())
    rng = np.random.default_rng(derive_seed("samples", len(labels)))
    chosen = np.sort(rng.choice(rows, min(count, len(rows)), replace=False))
    one, two = split(teacher[chosen]), split(student[chosen])
    return [
        Sample(
            int(row),
            int(labels[row]),
            {part: values[place] for part, values in one.items()},
            {part: values[place] for part, values in two.items()},
        )
        for place, row in enumerate(chosen)
    ], rule

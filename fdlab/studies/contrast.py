"""One method against another on the same seeds and samples, and what such a design can find."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fdlab.core.estimate import Estimate
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED
from fdlab.studies.stats import (
    average_samples,
    average_seeds,
    compare_answers,
    compare_both,
    compare_seeds,
    correct_holm,
    count_seeds,
    find_detectable,
)

POINT = 1.0  # the difference, in points, for which the needed seeds are counted


@dataclass(frozen=True)
class Contrast:
    """A difference in points of accuracy, paired by seed and by sample.

    seeds: mean with Student's t interval over S seeds. samples: over the test samples, seeds
    averaged. both: hierarchical bootstrap over the two, p its p-value, holm corrected over the
    contrasts of one table and direction (nan before that). flips: p of the exact sign-flip test
    over seeds, which assumes nothing of their distribution and cannot be below 2 / 2^S. mcnemar:
    (S,) exact p-value of each seed's two runs. detectable: the smallest true difference that S
    seeds of this spread find with 80 % power; needed: seeds for a difference of one point.
    """

    seeds: Estimate
    samples: Estimate
    both: Estimate
    p: float
    holm: float
    flips: float
    mcnemar: np.ndarray
    detectable: float
    needed: int

    def beats(self) -> bool:
        """Above 0 by both intervals."""
        return all(e.excludes(0) and e.mean > 0 for e in (self.seeds, self.samples))

    def loses(self) -> bool:
        return all(e.excludes(0) and e.mean < 0 for e in (self.seeds, self.samples))


def contrast_answers(one: np.ndarray, two: np.ndarray) -> Contrast:
    """(S, n) and (S, n) scores of the samples, of two methods under the same seeds.

    Right answers, 0 or 1, or in segmentation `judge_samples`' values, for which there is no McNemar
    test.
    """
    one, two = np.asarray(one, dtype=float), np.asarray(two, dtype=float)
    mcnemar = None
    if all(np.isin(side, (0, 1)).all() for side in (one, two)):
        mcnemar = np.array([compare_answers(a, b) for a, b in zip(one, two, strict=True)])
    return contrast_gaps(100 * (one - two), mcnemar)


def contrast_gaps(gaps: np.ndarray, mcnemar: np.ndarray | None = None) -> Contrast:
    """(S, n) differences in points; no McNemar test where they are of more than two runs."""
    each = gaps.mean(axis=1)
    deviation = float(each.std(ddof=1)) if len(each) > 1 else np.nan
    both, p = compare_both(gaps)
    return Contrast(
        seeds=average_seeds(each),
        samples=average_samples(gaps.mean(axis=0)),
        both=both,
        p=p,
        holm=np.nan,
        flips=compare_seeds(each),
        mcnemar=np.empty(0) if mcnemar is None else mcnemar,
        detectable=find_detectable(deviation, len(each)) if len(each) > 1 else np.inf,
        needed=count_seeds(deviation, POINT) if len(each) > 1 else 0,
    )


def correct_contrasts(contrasts: dict[str, Contrast]) -> dict[str, Contrast]:
    """The same with Holm's correction over all of them."""
    found = correct_holm([contrast.p for contrast in contrasts.values()])
    pairs = zip(contrasts.items(), found, strict=True)
    return {name: replace(contrast, holm=float(p)) for (name, contrast), p in pairs}


def judge(contrasts: Iterable[Contrast]) -> str:
    """Verdict on "the difference is above 0": both intervals, in every direction; of none of them
    it is open."""
    contrasts = list(contrasts)
    if not contrasts:
        return OPEN
    if all(contrast.beats() for contrast in contrasts):
        return SUPPORTED
    return REFUTED if all(contrast.loses() for contrast in contrasts) else OPEN


def judge_beside(
    gains: Iterable[Contrast], rest: Iterable[Contrast], free: Iterable[Contrast]
) -> str:
    """`judge` of the gains, where a control may explain them. rest: minus the control; free: what
    the control gains itself. Where the control is not beaten the verdict is that it matches, if it
    gains itself, else open."""
    verdict = judge(gains)
    if verdict != SUPPORTED or judge(rest) == SUPPORTED:
        return verdict
    return MATCHED if judge(free) == SUPPORTED else OPEN

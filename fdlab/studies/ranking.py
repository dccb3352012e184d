"""Which rows of a table are best, where the difference holds, and by the paper's convention."""

from __future__ import annotations

import numpy as np
from scipy import stats

from fdlab.core.errors import name_unknown
from fdlab.core.estimate import Estimate
from fdlab.studies.stats import LEVEL, RESAMPLES, compare_both, correct_holm, resample_means

CONVENTIONS = ("tested", "paper")
BEST, SECOND = "best", "second"
ALPHA = 0.05


def mark_rows(answers: dict[str, np.ndarray], convention: str = "tested") -> dict[str, str]:
    """Row → "best", "second" or "", from each row's (S, n) right answers, paired across rows.

    "paper": the two highest means, whatever lies between them and the rest. "tested": the highest
    mean is best only where it beats every other row, and the second highest second only where it
    beats every row below it: hierarchical bootstrap over seeds and samples, Holm over those
    comparisons, 5 %.
    """
    require_convention(convention)
    answers = {name: np.asarray(rows, dtype=float) for name, rows in answers.items()}
    order = sorted(answers, key=lambda name: -answers[name].mean())
    marks = dict.fromkeys(answers, "")
    for place, mark in enumerate((BEST, SECOND)):
        rest = order[place + 1 :]
        if rest and (convention == "paper" or _beats(answers, order[place], rest)):
            marks[order[place]] = mark
    return marks


def rank_rows(answers: dict[str, np.ndarray], seed: int = 0) -> dict[str, Estimate]:
    """Row → its rank, 1 the highest accuracy, with a 95 % interval over seeds *and* samples.

    Percentiles of the rank over resamples in which the same seeds and samples are drawn for every
    row, as in `compare_both`; ties share their mean rank. n is the number of seeds.
    """
    rows = np.stack([np.asarray(x, dtype=float) for x in answers.values()])  # (R, S, n)
    # Rounded, so that equal counts of right answers are ties.
    drawn = stats.rankdata(-np.round(resample_means(rows, RESAMPLES, seed), 9), axis=0)
    own = stats.rankdata(-np.round(rows.mean(axis=(1, 2)), 9))
    spans = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return {
        name: Estimate(float(own[i]), float(spans[0, i]), float(spans[1, i]), rows.shape[1])
        for i, name in enumerate(answers)
    }


def require_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise name_unknown("convention of marks", convention, CONVENTIONS)


def _beats(answers: dict[str, np.ndarray], one: str, others: list[str]) -> bool:
    gaps = [answers[one] - answers[other] for other in others]
    p = correct_holm([compare_both(gap)[1] for gap in gaps])
    return bool((p < ALPHA).all() and all(gap.mean() > 0 for gap in gaps))

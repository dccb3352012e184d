"""Which rows of a table are best, where the difference holds, and by the paper's convention."""

from __future__ import annotations

import numpy as np

from fdlab.core.errors import name_unknown
from fdlab.studies.stats import compare_both, correct_holm

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


def require_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise name_unknown("convention of marks", convention, CONVENTIONS)


def _beats(answers: dict[str, np.ndarray], one: str, others: list[str]) -> bool:
    gaps = [answers[one] - answers[other] for other in others]
    p = correct_holm([compare_both(gap)[1] for gap in gaps])
    return bool((p < ALPHA).all() and all(gap.mean() > 0 for gap in gaps))

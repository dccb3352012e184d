"""A claim of the paper, or a number of its tables, beside what was measured and its control."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.core.estimate import Estimate

SUPPORTED = "agrees"
REFUTED = "differs"
MATCHED = "control matches it"
OPEN = "inconclusive"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Claim:
    """where: place in the paper. paper, ours, control: numbers as printed, n and interval included.

    verdict: one of this module's five words. why: the rule that gave it. n: of what, see
    `describe_n`; study: its stem. Both are filled in by `studies.report` where they are empty.
    """

    statement: str
    where: str
    paper: str
    ours: str
    control: str
    verdict: str
    why: str
    n: str = ""
    study: str = ""


@dataclass(frozen=True)
class Number:
    """One cell of a published table.

    quantity: what it states, in words. table, key, data: its file in `fdlab.reference`, its row and
    its column. paper: its value, printed with `digits` decimals. ours: the same over seeds, None
    where it was not run. control, verdict, why, n and study are those of a `Claim`.
    """

    quantity: str
    where: str
    table: str
    key: str
    data: str
    paper: float
    digits: int
    study: str
    ours: Estimate | None = None
    control: str = ""
    verdict: str = NOT_RUN
    why: str = ""
    n: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        return self.table, self.key, self.data


def describe_n(samples: int, seeds: int, split: str = "test") -> str:
    """
    >>> describe_n(500, 4)
    '500 test samples, 4 seeds'
    """
    return f"{samples} {split} samples, {seeds} seed{'s' if seeds != 1 else ''}"

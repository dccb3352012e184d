"""A claim of the paper beside what was measured and the control that could refute it."""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTED = "agrees"
REFUTED = "differs"
MATCHED = "control matches it"
OPEN = "inconclusive"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Claim:
    """where: place in the paper. paper, ours, control: numbers as printed, n and interval included.

    verdict: one of this module's five words. why: the rule that gave it.
    """

    statement: str
    where: str
    paper: str
    ours: str
    control: str
    verdict: str
    why: str

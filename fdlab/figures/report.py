"""Drawings of `studies.report`."""

from __future__ import annotations

import textwrap

import pandas as pd

from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import VERDICT_COLORS
from fdlab.studies.report import Report


def draw_verdicts(axis, result: Report) -> None:
    """One line per claim with its verdict as a coloured word."""
    for place, claim in enumerate(result.claims):
        color = VERDICT_COLORS[claim.verdict]
        axis.plot(0.01, place, "s", color=color, markersize=6)
        axis.text(0.04, place, claim.verdict, va="center", color=color, fontweight="bold")
        axis.text(0.27, place, textwrap.shorten(claim.statement, 95), va="center")
    axis.set_xlim(0, 1)
    axis.set_ylim(len(result.claims) - 0.4, -0.6)
    axis.axis("off")


def plates(result: Report, venue: str = "aaai") -> dict[str, Plate]:
    height = 0.2 + 0.2 * len(result.claims)
    draw = lambda axes: draw_verdicts(axes[0, 0], result)  # noqa: E731
    return {"verdicts": Plate.draw(draw, venue, height=height, wide=True)}


def tables(result: Report) -> dict[str, Table]:
    rows = [
        {
            "claim": claim.statement,
            "where": claim.where,
            "paper": claim.paper,
            "ours": claim.ours,
            "control": claim.control,
            "verdict": claim.verdict,
            "rule": claim.why,
        }
        for claim in result.claims
    ]
    caption = (
        f"The paper's claims on {result.dataset} at preset {result.preset}. Intervals are 95 %; "
        f"the n of each stands in the study's own table."
    )
    return {"claims": Table(pd.DataFrame(rows), caption)}

"""Drawings of `studies.report`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fdlab.core.files import write_json, write_text
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import VERDICT_COLORS, find_venue, plain
from fdlab.studies.claims import NOT_RUN, Number
from fdlab.studies.report import Report

NEXT = 0.75  # distance of a claim's further lines, where that of two claims is 1


@dataclass(frozen=True)
class Ledger(Table):
    """The report's rows, every one, for programs: as JSON with its numbers, and as CSV."""

    def save(self, stem: Path) -> list[Path]:
        """Write `<stem>.json` and `<stem>.csv`, the same rows in both; None is an empty cell."""
        written = [stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "csv")]
        write_json(written[0], self.frame.to_dict("records"))
        write_text(written[1], self.frame.to_csv(index=False))
        return written


def draw_verdicts(axis, result: Report, characters: int) -> None:
    """Each claim with its verdict as a coloured word; hollow squares were not run."""
    line = 0.0
    for claim in result.claims:
        color = VERDICT_COLORS[claim.verdict]
        fill = "none" if claim.verdict == NOT_RUN else color
        axis.plot(0.01, line, "s", color=color, markerfacecolor=fill, markersize=6)
        axis.text(0.04, line, claim.verdict, va="center", color=color, fontweight="bold")
        for text in textwrap.wrap(claim.statement, characters):
            axis.text(0.27, line, plain(text), va="center")
            line += NEXT
        line += 1 - NEXT
    axis.set_xlim(0, 1)
    axis.set_ylim(line - 0.4, -0.6)
    axis.axis("off")


def plates(result: Report, venue: str = "aaai") -> dict[str, Plate]:
    characters = int(13.5 * find_venue(venue).text)  # of the statements' part of a line
    wrapped = [len(textwrap.wrap(claim.statement, characters)) for claim in result.claims]
    lines = sum(1 + NEXT * (count - 1) for count in wrapped)
    draw = lambda axes: draw_verdicts(axes[0, 0], result, characters)  # noqa: E731
    return {"verdicts": Plate.draw(draw, venue, height=0.2 + 0.2 * lines, wide=True)}


def tables(result: Report) -> dict[str, Table]:
    """claims; numbers, those that were not run in one line per table and reason; ledger, all."""
    return {
        "claims": _tabulate_claims(result),
        "numbers": _tabulate_numbers(result),
        "ledger": Ledger(pd.DataFrame(result.rows(), dtype=object), result.finding()),
    }


def _tabulate_claims(result: Report) -> Table:
    rows = [
        {
            "claim": claim.statement,
            "where": claim.where,
            "paper": claim.paper,
            "ours": claim.ours,
            "control": claim.control,
            "n": claim.n,
            "verdict": claim.verdict,
            "rule": claim.why,
        }
        for claim in result.claims
    ]
    caption = (
        f"The papers' claims on {result.dataset} at preset {result.preset}. Intervals are 95 %."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_numbers(result: Report) -> Table:
    rows = [
        {
            "number": number.quantity,
            "where": number.where,
            "column": _name(number.data),
            "paper": f"{number.paper:.{number.digits}f}",
            "ours": number.ours.format(number.digits),
            "control": number.control,
            "n": number.n,
            "verdict": number.verdict,
            "why": number.why,
        }
        for number in result.measured
    ]
    for (where, why), found in result.fold().items():
        rows.append(
            {
                "number": f"{len(found)} cell{'s' if len(found) > 1 else ''}",
                "where": where,
                "column": ", ".join(dict.fromkeys(_name(number.data) for number in found)),
                "paper": _span(found),
                "ours": "",
                "control": "",
                "n": "",
                "verdict": NOT_RUN,
                "why": why,
            }
        )
    caption = (
        f"The numbers of the papers' tables and figures beside those of {result.dataset} at preset "
        f"{result.preset}: {len(result.measured)} of {len(result.numbers)} were measured. "
        f"Intervals are 95 %, over seeds. What was not run is folded here into a line per table "
        f"and reason; the ledger lists every cell."
    )
    return Table(pd.DataFrame(rows), caption)


def _name(column: str) -> str:
    return column.replace("_", " ")


def _span(numbers: list[Number]) -> str:
    """From the smallest to the largest of the paper's values."""
    ends = [min(numbers, key=lambda n: n.paper), max(numbers, key=lambda n: n.paper)]
    return " to ".join(dict.fromkeys(f"{n.paper:.{n.digits}f}" for n in ends))

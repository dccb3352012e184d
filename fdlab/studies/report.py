"""Which of the paper's claims does this data set support?"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from fdlab.core.results import read_result
from fdlab.studies import STEMS
from fdlab.studies.claims import NOT_RUN, Claim

QUESTION = "Which of the paper's claims hold here, which do not, and which are open?"


@dataclass(frozen=True)
class Report:
    """claims: in the order of the studies. findings: stem → one line. missing: stems not run."""

    dataset: str
    preset: str
    claims: list[Claim]
    findings: dict[str, str]
    missing: list[str]

    def count(self) -> dict[str, int]:
        """Verdict → number of claims."""
        verdicts = [claim.verdict for claim in self.claims]
        return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}

    def finding(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.count().items())
        return f"Of {len(self.claims)} claims on {self.dataset} at preset {self.preset}: {counts}."


def collect_report(folder: Path, dataset: str, preset: str) -> Report:
    """Read every study's saved result in `folder` and gather its claims and its finding."""
    claims, findings, missing = [], {}, []
    for stem in STEMS[:-1]:
        path = folder / f"{stem}.json"
        if not path.is_file():
            missing.append(stem)
            claims.append(_note_absence(stem))
            continue
        result = read_result(path)
        findings[stem] = result.finding()
        claims += result.claims()
    return Report(dataset, preset, claims, findings, missing)


def find_question(stem: str) -> str:
    return importlib.import_module(f"fdlab.studies.{stem}").QUESTION


def _note_absence(stem: str) -> Claim:
    return Claim(
        statement=find_question(stem),
        where=f"study {stem}",
        paper="",
        ours="",
        control="",
        verdict=NOT_RUN,
        why="no saved result was found",
    )

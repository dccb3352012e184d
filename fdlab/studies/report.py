"""Which of the papers' claims and numbers does this data set support?"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fdlab.core.results import read_result
from fdlab.data.store import find_dataset
from fdlab.studies import ACROSS, PAIRS, STEMS, suits
from fdlab.studies.claims import NOT_RUN, Claim, Number, describe_n
from fdlab.studies.published import SOURCES, Place, find_data, list_published, weigh

QUESTION = "Which of the papers' claims and numbers hold here, which do not, and which are open?"


@dataclass(frozen=True)
class Report:
    """claims: in the order of the studies. numbers: every cell of the paper's tables, once.

    findings: stem → one line. missing: stems without a saved result.
    """

    dataset: str
    preset: str
    claims: list[Claim]
    numbers: list[Number]
    findings: dict[str, str]
    missing: list[str]

    @property
    def measured(self) -> list[Number]:
        return [number for number in self.numbers if number.ours]

    def count(self) -> dict[str, int]:
        """Verdict → number of claims."""
        return _count([claim.verdict for claim in self.claims])

    def fold(self) -> dict[tuple[str, str], list[Number]]:
        """(table, why it was not run) → its numbers."""
        found: dict[tuple[str, str], list[Number]] = {}
        for number in self.numbers:
            if number.ours is None:
                found.setdefault((number.where, number.why), []).append(number)
        return found

    def rows(self) -> list[dict[str, str | float | None]]:
        """The ledger: a flat row per claim and per number, the same keys in each.

        paper and ours are text in a claim, whose values are several, and a number (or None) in a
        number; low and high bound ours over seeds, at 95 %, and are None where there is no
        interval.
        """
        rows = []
        for claim in self.claims:
            rows.append({"kind": "claim", **asdict(claim)})
        for number in self.numbers:
            ours = number.ours
            known = ours is not None and ours.known
            found = {
                "kind": "number",
                "statement": f"{number.quantity}; {number.data}",
                "ours": ours.mean if ours else None,
                "low": ours.low if known else None,
                "high": ours.high if known else None,
            }
            rows.append(asdict(number) | found)
        rest = {"dataset": self.dataset, "preset": self.preset}
        blank = {"key": "", "data": "", "low": None, "high": None}
        return [{name: (blank | row | rest)[name] for name in COLUMNS} for row in rows]

    def finding(self) -> str:
        numbers = _count([number.verdict for number in self.measured])
        told = f" ({_list(numbers)})" if numbers else ""
        return (
            f"Of {len(self.claims)} claims on {self.dataset} at preset {self.preset}: "
            f"{_list(self.count())}. Of the {len(self.numbers)} numbers of the papers' tables and "
            f"figures, {len(self.measured)} were measured here{told}."
        )


UNIDENTIFIED = "rdp"  # the row of Table 5 that nobody can run
COLUMNS = (
    *("kind", "statement", "where", "key", "data", "paper", "ours", "low", "high", "n"),
    *("control", "verdict", "why", "study", "dataset", "preset"),
)


def collect_report(folder: Path, dataset: str, preset: str) -> Report:
    """Read every study's saved result in `folder`; gather claims, numbers and findings.

    A study that measures cells of the paper's tables offers `measured()`: place → Estimate over
    seeds; and may offer `controls()`: place → text. See `published.Place`. Of two that measure one
    cell, the first counts.
    """
    claims, findings, missing = [], {}, []
    definition = find_dataset(dataset, prepared=False)
    numbers = {number.place: number for number in list_published()}
    for stem in STEMS[:-1]:
        path = folder / f"{stem}.json"
        if not suits(stem, definition.task):
            continue
        if not path.is_file():
            if stem in PAIRS and not definition.pairs:
                continue
            if stem in ACROSS and len(definition.modalities) == 1:
                continue
            missing.append(stem)
            claims.append(_note_absence(stem))
            continue
        result = read_result(path)
        findings[stem] = result.finding()
        claims += [
            replace(claim, n=claim.n or _describe_n(result), study=stem)
            for claim in result.claims()
        ]
        controls = getattr(result, "controls", dict)()
        for place, ours in getattr(result, "measured", dict)().items():
            # A row of ours that the paper does not have is no number of it; and of two studies that
            # measure one cell the earlier counts.
            if place not in numbers or numbers[place].ours is not None:
                continue
            number = replace(numbers[place], study=stem)
            control = controls.get(place, "")
            numbers[place] = weigh(number, ours, _count_tested(result), preset, control)
    done = {place for place, number in numbers.items() if number.ours}
    explained = [
        number if number.ours else replace(number, why=_explain(number, done, dataset, findings))
        for number in numbers.values()
    ]
    return Report(dataset, preset, claims, explained, findings, missing)


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
        study=stem,
    )


def _explain(number: Number, done: set[Place], dataset: str, findings: dict[str, str]) -> str:
    """Why a number was not run: its data set, its study, its student or its row, in that order."""
    data, column = find_data(number)
    if number.key == UNIDENTIFIED:
        return "unidentified baseline: the paper names no source for it and none was found"
    if data and find_dataset(dataset, prepared=False).reports != data:
        return f"data set {data} was not run: this suite ran on {dataset}"
    if number.study not in findings:
        return f"study {number.study} has no saved result"
    if column and not any(place[::2] == number.place[::2] for place in done):
        return f"study {number.study} measured nothing of {number.data}"
    return f"{number.quantity.removeprefix(SOURCES[number.table].quantity + ', ')} was not run"


def _describe_n(result: Any) -> str:
    """Of a study whose claims do not say it themselves; `seed` is that of a single run."""
    seeds = 1 if hasattr(result, "seed") else len(result.seeds)
    return describe_n(_count_tested(result), seeds)


def _count_tested(result: Any) -> int:
    return result.n["test"] if isinstance(result.n, dict) else result.n


def _count(verdicts: list[str]) -> dict[str, int]:
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in counts.items())

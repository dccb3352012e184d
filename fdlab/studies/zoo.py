"""Distillation between networks of one modality, pair by pair. (FiGKD, Tables I to V and VII)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fdlab.core.config import Pair, RunConfig
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.data.store import Store, find_dataset
from fdlab.methods import METHODS
from fdlab.methods.figkd import BASES
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.comparison import BASE, choose_methods, name_parts
from fdlab.studies.contrast import (
    Contrast,
    contrast_answers,
    contrast_gaps,
    correct_contrasts,
    judge,
)
from fdlab.studies.hyperparameters import (
    Setting,
    choose_options,
    read_pair_settings,
    read_settings,
)
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.printed import (
    AVERAGE,
    CROSS,
    ELSEWHERE,
    FINE,
    GROUPS,
    OURS,
    SAME,
    STUDENT,
    TABLES,
    TEACHER,
    Slip,
    compare_rows,
    count_best,
    find_column,
    find_group,
    find_slips,
    find_value,
    read_values,
)
from fdlab.studies.published import OWN_RECIPE, SOURCES, Place
from fdlab.studies.ranking import CONVENTIONS, mark_rows
from fdlab.studies.sizes import Sizes, count_sizes
from fdlab.studies.stats import average_percent, average_seeds
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = (
    "Does distillation between networks of one modality beat no distillation, and does FiGKD beat "
    "the base it is built on, within and across families?"
)
CE = "ce"  # FiGKD's base that is no method: the cross-entropy
FEW = ("kd", "dkd", OURS)  # methods of a preset that is short
ALL = "all pairs"
SCORES = {
    "class": "class",
    "family": "family",
    "variant": "variant in its family",
    "detail": "variant minus family",
}
RULE = "judged by both intervals (seeds, samples) in every pair: above 0, or below"
Answers = dict[tuple[str, str], dict[str, np.ndarray]]  # (pair or group, row) → score → (S, n)


@dataclass(frozen=True)
class Row:
    """A line of the table below the teacher's. method, options: what is trained. base: the row that
    it is built on, "" of what is built on none. order: the row that it is but for its classes'
    random order, "" for all others."""

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    order: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table: a pair of networks, or the mean over the pairs of a group.

    group: "same" or "cross" family, "" over all pairs. pairs: of which it is the mean. table, key:
    its file and column in the printed tables, "" where they have none.
    """

    name: str
    group: str
    pairs: list[str]
    table: str = ""
    key: str = ""

    @property
    def is_mean(self) -> bool:
        return len(self.pairs) > 1


@dataclass(frozen=True)
class Cell:
    """One row in one column, by score (`SCORES`; the class alone where the data set names no
    families). accuracy, values: percentages over seeds, and of each. versus_none: minus no
    distillation, Holm-corrected over the rows of the column, the teacher's apart; {} of that row.
    """

    column: str
    row: str
    accuracy: dict[str, Estimate]
    values: dict[str, np.ndarray]
    versus_none: dict[str, Contrast]


@dataclass(frozen=True)
class Zoo:
    """columns: the pairs, same families first, then means over them. rows: none first, without the
    teacher, whose cells are there too. contrasts: "a - b" → column → score → a minus b, of what
    FiGKD is built on and of its control, Holm-corrected over the contrasts of a column and score.
    across: reading → score → its mean gain over its base in cross-family pairs minus that in
    same-family ones. rivals: row → column → FiGKD minus that row, classes alone, Holm-corrected
    over the rows of a column.
    marks: convention → column → row → "best", "second" or "", see `ranking.mark_rows`. printed:
    the data set whose printed numbers stand beside, and whether it is this one. settings: the
    hyperparameters, those of single pairs among them. runs: fingerprints, teachers included.
    """

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    columns: list[Column]
    rows: list[Row]
    cells: list[Cell]
    contrasts: dict[str, dict[str, dict[str, Contrast]]]
    across: dict[str, dict[str, Contrast]]
    rivals: dict[str, dict[str, Contrast]]
    marks: dict[str, dict[str, dict[str, str]]]
    printed: str
    own: bool
    sizes: Sizes
    slips: list[Slip]
    settings: list[Setting]
    runs: list[str]

    @property
    def pairs(self) -> list[Column]:
        return [column for column in self.columns if not column.is_mean]

    @property
    def scores(self) -> list[str]:
        return list(self.cells[0].accuracy)

    @property
    def readings(self) -> list[Row]:
        """FiGKD, on each base."""
        return [row for row in self.rows if row.base and not row.order]

    def find(self, column: str, row: str) -> Cell:
        return next(c for c in self.cells if (c.column, c.row) == (column, row))

    def find_row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def find_control(self, row: Row) -> Row | None:
        """The row with the classes in a random order."""
        return next((other for other in self.rows if other.order == row.name), None)

    @property
    def main(self) -> Row | None:
        """The reading of FiGKD that stands for it: on MLKD, which the paper's own ablation points
        to, where it was run."""
        return max(self.readings, key=lambda row: row.base != BASE, default=None)

    def find_printed(self, column: Column, row: str) -> float | None:
        """The printed accuracy (%) of a row; of a mean, over the pairs that every row has that is
        printed and in our table."""
        if not column.is_mean:
            return find_value((column.table, name_row(row), column.key))
        means, _ = self.average_printed(column)
        return means.get(name_row(row))

    def average_printed(self, column: Column) -> tuple[dict[str, float], list[str]]:
        """Printed row → its mean over those pairs of the column that all our printed rows have,
        and these pairs."""
        parts = [c for c in self.pairs if c.name in column.pairs and c.table]
        rows = (name_row(name) for name in (TEACHER, *(row.name for row in self.rows)))
        names = list(dict.fromkeys(filter(None, rows)))
        found = {c.name: {n: find_value((c.table, n, c.key)) for n in names} for c in parts}
        kept = [n for n in names if any(found[c][n] is not None for c in found)]
        common = [c for c in found if all(found[c][n] is not None for n in kept)]
        if not common:
            return {}, []
        return {n: float(np.mean([found[c][n] for c in common])) for n in kept}, common

    def measured(self) -> dict[Place, Estimate]:
        """Cells of Tables I to V where the data set is theirs, and of Table VII."""
        found = {place: cell.accuracy["class"] for place, cell in self._locate().items()}
        return found | self.sizes.measured()

    def controls(self) -> dict[Place, str]:
        found = {}
        for place, cell in self._locate().items():
            table, row, column = place
            if row == OURS:
                own = next(each for each in self.rows if each.name == cell.row)
                found[place] = f"base {own.options['base']}; " + "; ".join(
                    f"{other.name} {self.find(cell.column, other.name).accuracy['class'].format(2)}"
                    for other in self.rows
                    if other.method == OURS and other.name != cell.row
                )
            elif row not in (TEACHER, STUDENT):
                none = self.find(cell.column, BASE).accuracy["class"]
                found[place] = f"no distillation {none.format(2)}"
            if column == AVERAGE:
                own = float(
                    np.mean([x for c, x in read_values(table)[row].items() if c != AVERAGE])
                )
                found[place] = f"mean of the row as printed {own:.2f}"
        return found | self.sizes.controls()

    def _locate(self) -> dict[Place, Cell]:
        if not self.own:
            return {}
        places, rows = {}, [r.name for r in self.rows if r.method != OURS or r == self.main]
        for column in self.columns:
            table, key = column.table, column.key
            if column.is_mean:
                table = TABLES.get((self.printed, column.group), "")
                parts = {c.key for c in self.pairs if c.name in column.pairs}
                key = AVERAGE if table and parts == {*read_values(table)[STUDENT]} else ""
            for row in (TEACHER, *rows) if key else ():
                place = table, name_row(row), key
                if find_value(place) is not None:
                    places[place] = self.find(column.name, row)
        return places

    def finding(self) -> str:
        parts = []
        for column in self.pairs:
            gains = []
            for row in self.rows[1:]:
                if not row.order:
                    gap = self.find(column.name, row.name).versus_none["class"].seeds
                    gains.append(f"{row.name} {gap.format(1, sign=True)}")
            parts.append(f"{column.name} ({GROUPS[column.group]}) {', '.join(gains)}")
        more = [
            f"{name} {found[self._widest]['class'].seeds.format(1, sign=True)}"
            for name, found in self.contrasts.items()
        ]
        over = f" over {self._widest}" if len(self.pairs) > 1 else ""
        return (
            f"Points above no distillation, {len(self.seeds)} seeds, n = {self.n}: "
            f"{'; '.join(parts)}." + (f" FiGKD{over}: {'; '.join(more)}." if more else "")
        )

    @property
    def _widest(self) -> str:
        return self.columns[-1].name

    def claims(self) -> list[Claim]:
        found = []
        if "kd" in {row.name for row in self.rows}:
            found.append(self._claim_distillation())
        for reading in self.readings:
            for group in GROUPS:
                if any(column.group == group for column in self.pairs):
                    found.append(self._claim_gain(reading, group))
        if self.across and self.main:
            found.append(self._claim_across(self.main))
        if self.rivals:
            found.append(self._claim_best())
        if "variant" in self.scores:
            found += [self._claim_detail(reading) for reading in self.readings]
        return [*found, self._claim_sums(), *self.sizes.claims()]

    def _list(self, name: str, score: str = "class", group: str = "") -> dict[str, Contrast]:
        """Pair → a contrast."""
        kept = [c.name for c in self.pairs if c.group == (group or c.group)]
        return {pair: self.contrasts[name][pair][score] for pair in kept}

    def _claim_distillation(self) -> Claim:
        gaps = {c.name: self.find(c.name, "kd").versus_none["class"] for c in self.pairs}
        room = {c.name: self.find(c.name, TEACHER).versus_none["class"] for c in self.pairs}
        printed = [
            values["kd"][c] - values[STUDENT][c]
            for values in map(read_values, TABLES.values())
            for c in values[STUDENT]
        ]
        return Claim(
            statement="Logit distillation improves on the student without a teacher",
            where="FiGKD, Tables I to IV, rows KD and student",
            paper=f"{min(printed):+.2f} to {max(printed):+.2f} points over {len(printed)} columns",
            ours=_print(gaps),
            control=f"teacher minus student: {_print(room)}",
            verdict=judge(gaps.values()),
            why=RULE,
        )

    def _claim_gain(self, reading: Row, group: str) -> Claim:
        base, control = reading.base, self.find_control(reading)
        gaps = self._list(name_contrast(reading.name, base), group=group)
        verdict, why, beside = judge(gaps.values()), RULE, "not run"
        if control:
            free = self._list(name_contrast(control.name, base), group=group)
            rest = self._list(name_contrast(reading.name, control.name), group=group)
            beside = f"{control.name} - {base}: {_print(free)}; minus it: {_print(rest)}"
            why += (
                "; the control matches where FiGKD with its classes in a random order is above the "
                "base too and not beaten"
            )
            if verdict == judge(free.values()) == SUPPORTED != judge(rest.values()):
                verdict = MATCHED
        tables = [table for (_, own), table in TABLES.items() if own == group]
        row = name_row(base)
        spans = (_span(compare_rows(table, row), SOURCES[table].where) for table in tables)
        return Claim(
            statement=f"FiGKD on {_name_base(base)} improves on {_name_rival(base)}, "
            f"{'within a family' if group == SAME else 'across families'}",
            where=_name_tables(tables),
            paper="; ".join(spans),
            ours=_print(gaps),
            control=beside,
            verdict=verdict,
            why=why,
        )

    def _claim_across(self, reading: Row) -> Claim:
        gap = self.across[reading.name]["class"]
        row = name_row(reading.base)
        told = [
            f"{float(np.mean([*compare_rows(TABLES[data, CROSS], row).values()])):+.2f} and "
            f"{float(np.mean([*compare_rows(TABLES[data, SAME], row).values()])):+.2f} ({data})"
            for data in dict.fromkeys(data for data, _ in TABLES)
        ]
        return Claim(
            statement=f"FiGKD gains more on {_name_rival(reading.base)} across families than "
            "within one",
            where=_name_tables(TABLES.values()),
            paper=f"mean gains {', '.join(told)}",
            ours=f"{gap.seeds.format(1, sign=True)}, cross minus same family",
            control="pairs of other networks: they differ in more than the family",
            verdict=judge([gap]),
            why="both intervals (seeds, samples) of the difference of the means: above 0, or below",
        )

    def _claim_best(self) -> Claim:
        names = [c.name for c in self.pairs]
        verdicts = {row: judge(found[n] for n in names) for row, found in self.rivals.items()}
        above = [row for row, verdict in verdicts.items() if verdict == SUPPORTED]
        below = [r for r, found in self.rivals.items() if any(found[n].loses() for n in names)]
        counts = [count_best(table) for table in (*TABLES.values(), FINE)]
        control = self.find_control(self.main)
        rest = self._list(name_contrast(self.main.name, control.name)) if control else {}
        verdict = SUPPORTED if len(above) == len(verdicts) else REFUTED if below else OPEN
        if verdict == SUPPORTED and control and judge(rest.values()) != SUPPORTED:
            verdict = MATCHED
        return Claim(
            statement=f"FiGKD (on {_name_base(self.main.base)}) is the best method for every pair",
            where="FiGKD, Tables I to V",
            paper=f"highest in {sum(n for n, _ in counts)} of {sum(n for _, n in counts)} columns",
            ours=f"above {len(above)} of {len(verdicts)} rows in every pair, in some pair below "
            f"{len(below)}" + (f" ({', '.join(below)})" if below else ""),
            control=f"minus {control.name}: {_print(rest)}" if control else "not run",
            verdict=verdict,
            why="above every row by both intervals (seeds, samples) in every pair, or below a row "
            "in one; "
            "the control matches where a random order of the classes is not beaten",
        )

    def _claim_detail(self, reading: Row) -> Claim:
        name, control = name_contrast(reading.name, reading.base), self.find_control(reading)
        variant, family, detail = (
            self._list(name, score) for score in ("variant", "family", "detail")
        )
        verdict, beside = judge(detail.values()), "not run"
        if verdict == SUPPORTED and judge(variant.values()) != SUPPORTED:
            verdict = OPEN
        if control:
            rest = self._list(name_contrast(reading.name, control.name), "variant")
            beside = f"variants, minus {control.name}: {_print(rest)}"
            if verdict == SUPPORTED and judge(rest.values()) != SUPPORTED:
                verdict = MATCHED
        if reading.base == BASE and "kd" in {row.name for row in self.rows}:
            kept = {c.name: self.find(c.name, "kd").versus_none for c in self.pairs}
            plain, coarse = (
                {name: found[score] for name, found in kept.items()}
                for score in ("variant", "family")
            )
            beside += f"; kd: variants {_print(plain)}; families {_print(coarse)}"
            above = all(plain[name].seeds.mean > coarse[name].seeds.mean for name in plain)
            if verdict == judge(plain.values()) == SUPPORTED and above:
                verdict = MATCHED
        gains = compare_rows(FINE, "mlkd")
        return Claim(
            statement=f"What FiGKD adds to {_name_rival(reading.base)} is fine detail: variants "
            "within a family, not families",
            where="FiGKD, its premise and Table V",
            paper=f"{_span(gains, 'Table V')} over MLKD; no families are told apart there",
            ours=f"variants {_print(variant)}; families {_print(family)}; variants minus families "
            f"{_print(detail)}",
            control=beside,
            verdict=verdict,
            why="agrees where the gain in variants, given the right family, is above 0 and above "
            "the gain in families, by both intervals in every pair; the control matches where a "
            "random order of the classes is not beaten in variants, or where KD, which has no "
            "bands, gains more in variants than in families as well",
        )

    def _claim_sums(self) -> Claim:
        averages = [slip for slip in self.slips if slip.what.startswith("average")]
        others = [slip for slip in self.slips if slip not in averages]
        return Claim(
            statement="The printed tables add up",
            where=_name_tables(TABLES.values()),
            paper="; ".join(f"{s.where}, {s.what}: {s.printed}" for s in averages),
            ours="; ".join(f"{s.where}, {s.what}: {s.found}" for s in averages)
            + "".join(f"; {s.where}, {s.what}: {s.printed}" for s in others),
            control="the printed cells alone, nothing measured",
            verdict=REFUTED if self.slips else SUPPORTED,
            why="agrees where every average is that of its row at two decimals, and no column or "
            "row repeats another one's values",
            n="printed cells: no samples",
        )


def name_contrast(one: str, two: str) -> str:
    """
    >>> name_contrast("figkd", "none")
    'figkd - none'
    """
    return f"{one} - {two}"


def name_row(row: str) -> str:
    """The row of the printed tables that reports one of ours, "" for a control."""
    if row.startswith(OURS):
        return "" if row.endswith("_random") else OURS
    return {BASE: STUDENT, "mlkd_released": "mlkd"}.get(row, row)


def list_rows(
    methods: list[str] | str, bases: list[str] | str, controls: list[str] | str = ()
) -> list[Row]:
    """The rows of a table: `none` first; FiGKD once on each base, that base among them, and on the
    bases in `controls` again with its classes in a random order."""
    chosen, again = (
        read_list(name, list(value) if isinstance(value, tuple) else value, str)
        for name, value in (("bases", bases), ("controls", controls))
    )
    for base in chosen:
        if base not in BASES:
            raise name_unknown("base of FiGKD", base, BASES)
    for base in again:
        if base not in chosen:
            raise name_unknown("base of FiGKD that is run", base, chosen)
    names = choose_methods(methods)
    if OURS in names:
        if not chosen:
            raise UserError(f"bases is empty: expected some of {', '.join(BASES)}")
        first = names.index(OURS)
        wanted = [base for base in chosen if base != CE and base not in names]
        names[first:first] = wanted
    rows = []
    for name in names:
        if name != OURS:
            rows.append(Row(name, name))
            continue
        for base in chosen:
            own = OURS if base == CE else f"{OURS}_{base}"
            on = BASE if base == CE else base
            rows.append(Row(own, OURS, {"base": base, "order": "label"}, on))
            if base in again:
                options = {"base": base, "order": "random"}
                rows.append(Row(f"{own}_random", OURS, options, on, own))
    return rows


def choose_rows(plan: Plan, methods: list[str] | str | None) -> list[str]:
    """The methods asked for; else those of the printed tables that there are here, or only `FEW`
    where the preset is short."""
    every = [row for row in read_values(TABLES[ELSEWHERE, SAME]) if row in METHODS]
    return read_list("methods", methods, str) or (list(FEW) if plan.short else every)


def choose_bases(plan: Plan, bases: list[str] | str | None) -> list[str]:
    """The bases asked for; else both readings of the paper, or only the cross-entropy where the
    preset is short, since MLKD takes twice the time."""
    return read_list("bases", bases, str) or ([CE] if plan.short else [CE, "mlkd"])


def list_columns(pairs: Iterable[Pair], data: str) -> list[Column]:
    """Pairs of one family, then those of two, each with their mean where they are several, then the
    mean of all. data: the data set of the printed tables."""
    columns, grouped = [], {group: [] for group in GROUPS}
    for pair in pairs:
        grouped[find_group(pair.teacher, pair.student)].append(pair)
    for group, members in grouped.items():
        names = [str(pair) for pair in members]
        for pair, name in zip(members, names, strict=True):
            table, key = find_column(data, pair.teacher, pair.student) or ("", "")
            columns.append(Column(name, group, [name], table, key))
        if len(names) > 1:
            columns.append(Column(f"mean, {GROUPS[group]}", group, names))
    if all(grouped.values()):
        columns.append(Column(ALL, "", [str(p) for members in grouped.values() for p in members]))
    return columns


def configure_zoo(
    plan: Plan,
    methods: list[str] | str | None = None,
    pairs: list[str] | str | None = None,
    bases: list[str] | str | None = None,
    controls: list[str] | str = (),
) -> dict[tuple[str, str, int], RunConfig]:
    """(pair, row, seed) → its run, the teachers' among them."""
    rows = list_rows(choose_rows(plan, methods), choose_bases(plan, bases), controls)
    settings = read_settings()
    configs = {}
    for pair in plan.choose_pairs(pairs):
        find_group(pair.teacher, pair.student)  # refuses unknown networks
        own = _choose_pair_settings(plan, pair)
        for seed in plan.seeds:
            configs[str(pair), TEACHER, seed] = plan.configure_pair(pair.as_teacher(), BASE, seed)
            for row in rows:
                options = choose_options([*settings, *own], row.method) | row.options
                configs[str(pair), row.name, seed] = plan.configure_pair(
                    pair, row.method, seed, options
                )
    return configs


def _choose_pair_settings(plan: Plan, pair: Pair) -> list[Setting]:
    """The values for a pair alone, where the data set and the recipe are those that they were found
    for."""
    if plan.preset != OWN_RECIPE or plan.definition.reports != ELSEWHERE:
        return []
    return [setting for setting in read_pair_settings() if setting.pair == str(pair)]


def measure_zoo(
    plan: Plan,
    *,
    methods: list[str] | str | None = None,
    pairs: list[str] | str | None = None,
    bases: list[str] | str | None = None,
    controls: list[str] | str = (),
) -> Zoo:
    """Train or find every pair × row × seed and compare them, paired by seed and sample.

    methods: see `choose_rows`. bases: what FiGKD is built on, see `choose_bases`. controls: those
    on which it is run again with its classes in a random order.
    """
    configs = configure_zoo(plan, methods, pairs, bases, controls)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    answers = _judge_runs(store, runs, plan.seeds)
    chosen = plan.choose_pairs(pairs)
    settings = read_settings()
    settings += [s for pair in chosen for s in _choose_pair_settings(plan, pair)]
    rows = list_rows(choose_rows(plan, methods), choose_bases(plan, bases), controls)
    used = {name for row in rows for name in name_parts(row.method)}
    records = [run.record for run in runs.values()]
    names = {r.fingerprint for r in records} | {r.teacher for r in records if r.teacher}
    return compare_pairs(
        plan.dataset,
        plan.preset,
        list(plan.seeds),
        chosen,
        rows,
        answers,
        [s for s in settings if s.method in used],
        sorted(names),
    )


def compare_pairs(
    dataset: str,
    preset: str,
    seeds: list[int],
    pairs: list[Pair],
    rows: list[Row],
    answers: Answers,
    settings: list[Setting] | None = None,
    runs: list[str] | None = None,
) -> Zoo:
    """The table of what was answered: (pair, row) → score → (S, n), the teacher's among the rows.

    A mean over pairs is that of their answers, sample by sample: every pair has the same test
    samples and seeds.
    """
    reports = find_dataset(dataset, prepared=False).reports
    own = reports in {data for data, _ in TABLES} or any(
        key.partition("_")[0] == reports for key in read_values(FINE)[STUDENT]
    )
    printed = reports if own else ELSEWHERE
    columns = list_columns(pairs, printed)
    scores = list(answers[str(pairs[0]), BASE])
    names = [row.name for row in rows]
    answers = dict(answers)
    for column in columns:
        if column.is_mean:
            for name in (TEACHER, *names):
                parts = [answers[pair, name] for pair in column.pairs]
                answers[column.name, name] = {
                    score: np.mean([part[score] for part in parts], axis=0) for score in scores
                }

    def contrast(column: str, couples: Iterable[tuple[str, str]], score: str):
        found = {
            name_contrast(a, b): contrast_answers(
                answers[column, a][score], answers[column, b][score]
            )
            for a, b in couples
        }
        return correct_contrasts(found) if found else {}

    cells = []
    couples = _list_couples(rows)
    contrasts = {name_contrast(*couple): {} for couple in couples}
    for column in (c.name for c in columns):
        gains = {name: {} for name in (TEACHER, *names)}
        for score in scores:
            if score != "detail":
                found = contrast(column, [(name, BASE) for name in names[1:]], score)
                found |= contrast(column, [(TEACHER, BASE)], score)
                for name in (TEACHER, *names[1:]):
                    gains[name][score] = found[name_contrast(name, BASE)]
            for name, gap in contrast(column, couples, score).items():
                contrasts[name].setdefault(column, {})[score] = gap
        cells += [
            _summarise(column, name, answers[column, name], gains[name])
            for name in (TEACHER, *names)
        ]
    result = Zoo(
        dataset=dataset,
        preset=preset,
        n=answers[str(pairs[0]), BASE]["class"].shape[1],
        seeds=list(seeds),
        columns=columns,
        rows=rows,
        cells=cells,
        contrasts=contrasts,
        across=_contrast_groups(columns, rows, answers, scores),
        rivals={},
        marks={
            convention: {
                c.name: mark_rows({n: answers[c.name, n]["class"] for n in names}, convention)
                for c in columns
            }
            for convention in CONVENTIONS
        },
        printed=printed,
        own=own,
        sizes=count_sizes(),
        slips=find_slips(),
        settings=settings or [],
        runs=runs or [],
    )
    if result.main:
        for row in rows:
            if row.method != OURS:
                result.rivals[row.name] = {}
        for column in columns:
            found = contrast(column.name, [(result.main.name, r) for r in result.rivals], "class")
            for row in result.rivals:
                result.rivals[row][column.name] = found[name_contrast(result.main.name, row)]
    return result


def _list_couples(rows: list[Row]) -> list[tuple[str, str]]:
    """FiGKD and its base, FiGKD and its control, the control and that base."""
    couples = []
    for row in rows:
        if row.base:
            couples.append((row.name, row.base))
        if row.order:
            couples.append((row.order, row.name))
    return couples


def _contrast_groups(
    columns: list[Column], rows: list[Row], answers: Answers, scores: list[str]
) -> dict[str, dict[str, Contrast]]:
    """Reading → score → its mean gain over its base across families minus that within."""
    members = {g: [c.name for c in columns if c.group == g and not c.is_mean] for g in GROUPS}
    if not all(members.values()):
        return {}

    def gain(row: Row, group: str, score: str) -> np.ndarray:
        return np.mean(
            [answers[p, row.name][score] - answers[p, row.base][score] for p in members[group]],
            axis=0,
        )

    return {
        row.name: {
            score: contrast_gaps(100 * (gain(row, CROSS, score) - gain(row, SAME, score)))
            for score in scores
        }
        for row in rows
        if row.base and not row.order
    }


def _summarise(
    column: str, row: str, answers: dict[str, np.ndarray], gains: dict[str, Contrast]
) -> Cell:
    values = {score: 100 * found.mean(axis=1) for score, found in answers.items()}
    accuracy = {
        score: (average_seeds if score == "detail" else average_percent)(found)
        for score, found in values.items()
    }
    return Cell(column, row, accuracy, values, gains)


def _judge_runs(
    store: Store, runs: dict[tuple[str, str, int], Run], seeds: Iterable[int]
) -> Answers:
    labels = np.array(store.labels[store.rows("test")])
    families = find_families(store)
    answers = {}
    for pair, row in dict.fromkeys((pair, row) for pair, row, _ in runs):
        found = [
            judge_families(runs[pair, row, seed].read_predictions(), labels, families)
            for seed in seeds
        ]
        answers[pair, row] = {
            score: np.stack([each[score] for each in found]) for score in found[0]
        }
    return answers


def find_families(store: Store) -> np.ndarray | None:
    """(K,) index of every class's family, of a store whose information has `families`, one name
    per class; None where it has none."""
    names = store.info.get("families")
    if not names:
        return None
    if len(names) != store.dataset.classes:
        raise UserError(
            f"{store.dataset.name} names {len(names)} families: expected one for each of its "
            f"{store.dataset.classes} classes"
        )
    return np.unique(names, return_inverse=True)[1]


def judge_families(
    logits: np.ndarray, labels: np.ndarray, families: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Score → (n,) of logits (n, K): whether the class is right; with families, whether the family
    of the class answered is, and whether the class is right among those of its true family alone.

    The class is right where both are. "detail" is the second minus the first.
    """
    answered = logits.argmax(axis=1)
    found = {"class": (answered == labels).astype(float)}
    if families is None:
        return found
    family = (families[answered] == families[labels]).astype(float)
    inside = np.where(families[labels][:, None] == families, logits, -np.inf)
    variant = (inside.argmax(axis=1) == labels).astype(float)
    return found | {"family": family, "variant": variant, "detail": variant - family}


def _print(contrasts: dict[str, Contrast]) -> str:
    return "; ".join(f"{name} {c.seeds.format(1, sign=True)}" for name, c in contrasts.items())


def _span(gaps: dict[str, float], where: str) -> str:
    values = gaps.values()
    return f"{min(values):+.2f} to {max(values):+.2f} ({where.removeprefix('FiGKD, ')})"


def _name_tables(tables: Iterable[str]) -> str:
    numbers = [SOURCES[table].where.removeprefix("FiGKD, Table ") for table in tables]
    return f"FiGKD, Tables {', '.join(numbers[:-1])} and {numbers[-1]}"


def _name_base(base: str) -> str:
    return "cross-entropy" if base == BASE else base.upper().replace("_", " ")


def _name_rival(base: str) -> str:
    return "no distillation" if base == BASE else base.upper().replace("_", " ")

"""Which part of FD-CMKD does the work? (FD-CMKD, Tables 4, 6, 7 and 8, and controls of our own)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.core.config import Direction, RunConfig
from fdlab.core.estimate import Estimate
from fdlab.methods.base import resolve_method_options
from fdlab.reference import read_table
from fdlab.studies.claims import MATCHED, OPEN, SUPPORTED, Claim
from fdlab.studies.contrast import Contrast, contrast_answers, correct_contrasts, judge
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.published import SOURCES
from fdlab.studies.ranking import CONVENTIONS, mark_rows
from fdlab.studies.stats import average_seeds
from fdlab.studies.variants import TABLES, VARIANTS, configure_variant, find_variants
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = "Which part of FD-CMKD does the work, and does any of it need a frequency or a teacher?"
FULL, BASE, HEADS = "full", "none", "heads_only"
BASES = ("dct", "haar", "random", "permuted")
TEACHERS = ("shuffled", "in_class", "untrained", "constant", "own")
LEARNED = ("soft", "soft_groups")
# What the paper's Table 4 lets one read: a part's gain is one row above another.
STEPS = {
    "frequency": ("freq_align", "align"),
    "align": ("freq_align", "freq"),
    "scale": ("no_log", "freq_align"),
    "log": ("full", "no_log"),
}
REFERENCE = {
    "table4": "fdcmkd_table4_components",
    "table6": "fdcmkd_table6_losses",
    "table7": "fdcmkd_table7_cutoff",
    "table8": "fdcmkd_table8_bands",
}
# Row of ours → the key of the paper's row, per table.
KEYS = {
    "table4": {
        "feat": "0 0 0 0",
        "freq": "1 0 0 0",
        "align": "0 1 0 0",
        "freq_align": "1 1 0 0",
        "freq_scale": "1 0 1 0",
        "no_log": "1 1 1 0",
        "full": "1 1 1 1",
    },
    "table6": {
        "full": "mse logmse",
        "no_log": "mse mse",
        "log_log": "logmse logmse",
        "log_mse": "logmse mse",
    },
    "table7": {"cutoff_quarter": "1/4", "full": "1/2", "cutoff_third": "1/3"},
    "table8": {"high_only": "1 0", "low_only": "0 1", "full": "1 1"},
}


@dataclass(frozen=True)
class Line:
    """One row in one direction. values: (S,) accuracy (%), validation-selected, raw head.

    versus_none, versus_full, versus_heads: paired differences, Holm-corrected over the direction's
    rows. edges: (S, G) where a learned cut-off ended, as a fraction of the bins; else (0, 0).
    epochs: of the student; parameters: of the method's own modules.
    """

    direction: str
    name: str
    words: str
    values: np.ndarray
    versus_none: Contrast
    versus_full: Contrast
    versus_heads: Contrast
    edges: np.ndarray
    epochs: int
    parameters: int

    @property
    def accuracy(self) -> Estimate:
        return average_seeds(self.values)


@dataclass(frozen=True)
class Ablation:
    """lines: one per row and direction. tables: table → its rows. marks: convention → direction →
    table → row → mark. steps: part → direction → what adding it gains. start: where the learned
    cut-offs began. reports: the data set's name in the published tables, "" for none."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    lines: list[Line]
    tables: dict[str, list[str]]
    marks: dict[str, dict[str, dict[str, dict[str, str]]]]
    steps: dict[str, dict[str, Contrast]]
    start: float
    reports: str
    runs: list[str]

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(line.direction for line in self.lines))

    def find(self, direction: str, name: str) -> Line | None:
        found = (line for line in self.lines if (line.direction, line.name) == (direction, name))
        return next(found, None)

    def collect(self, name: str) -> list[Line]:
        """A row in every direction; [] where it was not run."""
        return [line for line in self.lines if line.name == name]

    def measured(self) -> dict[tuple[str, str, str], Estimate]:
        """(reference table, row key, column) → ours, where this data set is the paper's."""
        if not self.reports:
            return {}
        return {
            (REFERENCE[table], KEYS[table][name], f"{self.reports}_{student}"): line.accuracy
            for table, names in self.tables.items()
            if table in KEYS
            for name in names
            for line in self.collect(name)
            for student in [Direction.split(line.direction)[1]]
        }

    def finding(self) -> str:
        parts = []
        for direction in self.directions:
            full = self.find(direction, FULL)
            text = f"{direction}: FD-CMKD {full.versus_none.both.format(1, sign=True)}"
            rows = [self.find(direction, name) for name in (*BASES, *TEACHERS, HEADS)]
            rows = [row for row in rows if row]
            same = [row.words for row in rows if not row.versus_full.both.excludes(0)]
            above = [row.words for row in rows if row.versus_full.both.low > 0]
            if above:
                text += f"; above it: {', '.join(above)}"
            if same:
                text += f"; not told apart from it: {', '.join(same)}"
            learned = [self.find(direction, name) for name in LEARNED]
            ends = [row for row in learned if row]
            if ends:
                text += "; learned cut-offs end at " + " and ".join(
                    f"{row.edges.mean():.2f} ({row.edges.min():.2f} to {row.edges.max():.2f})"
                    for row in ends
                )
            parts.append(text)
        return (
            f"Points above no distillation, {len(self.seeds)} seeds, n = {self.n}, interval over "
            f"both: {'. '.join(parts)}."
        )

    def claims(self) -> list[Claim]:
        claims = [self._claim_step(part) for part in self.steps]
        if self.collect("high_only") and self.collect("low_only"):
            claims.append(self._claim_bands())
        if any(self.collect(name) for name in BASES):
            claims.append(
                self._claim_rivals(
                    "The gain is from frequency: no other basis of the channels does as well",
                    "the method's premise; no control in the paper",
                    BASES,
                )
            )
        if any(self.collect(name) for name in TEACHERS):
            claims.append(
                self._claim_rivals(
                    "The gain is from what the other modality's teacher knows of each sample",
                    "the method's premise; no control in the paper",
                    TEACHERS,
                )
            )
        if self.collect("longer"):
            claims.append(
                self._claim_rivals(
                    "Distillation gains more than longer training at equal cost",
                    "not asked in the paper",
                    ("longer",),
                )
            )
        return claims

    def _claim_step(self, part: str) -> Claim:
        one, two = STEPS[part]
        contrasts = self.steps[part]
        return Claim(
            statement=f"The {part} step adds to the accuracy",
            where=f"Table 4, {VARIANTS[one].words} against {VARIANTS[two].words}",
            paper=describe_step(part),
            ours=_print(contrasts),
            control=self._describe_heads(),
            verdict=judge(contrasts.values()),
            why=f"{_RULE}{_describe_power(contrasts)}",
        )

    def _claim_bands(self) -> Claim:
        contrasts = {
            f"{line.direction}, {line.words}": line.versus_full
            for name in ("high_only", "low_only")
            for line in self.collect(name)
        }
        verdict = SUPPORTED if all(c.loses() for c in contrasts.values()) else OPEN
        return Claim(
            statement="Both bands together are better than either alone",
            where="Table 8",
            paper=_describe_published_bands(),
            ours="minus FD-CMKD: " + _print(contrasts),
            control=self._describe_heads(),
            verdict=verdict,
            why="agrees where each lies below FD-CMKD by both intervals"
            + _describe_power(contrasts),
        )

    def _claim_rivals(self, statement: str, where: str, names: tuple[str, ...]) -> Claim:
        """Whether FD-CMKD beats every rival, or any rival reaches half of its gain and more."""
        rivals = [line for name in names for line in self.collect(name)]
        contrasts = {f"{line.words} ({line.direction})": line.versus_full for line in rivals}
        beaten = all(c.loses() for c in contrasts.values())
        as_well = [line for line in rivals if line.values.mean() >= self._mean(line.direction)]
        gains = [line.versus_none for line in self.collect(FULL)]
        verdict = SUPPORTED if beaten else OPEN
        if not beaten and judge(gains) == SUPPORTED and as_well:
            verdict = MATCHED
        return Claim(
            statement=statement,
            where=where,
            paper="not tested",
            ours="FD-CMKD - none: "
            + _print({g.direction: g.versus_none for g in self.collect(FULL)}),
            control="minus FD-CMKD: " + _print(contrasts),
            verdict=verdict,
            why=(
                "agrees where FD-CMKD beats every one of them by both intervals; the control "
                "matches where FD-CMKD's own gain holds by both and the mean of one of them is as "
                f"high{_describe_power(contrasts)}"
            ),
        )

    def _mean(self, direction: str) -> float:
        return float(self.find(direction, FULL).values.mean())

    def _describe_heads(self) -> str:
        lines = self.collect(HEADS)
        return "heads_only - none: " + _print({line.direction: line.versus_none for line in lines})


_RULE = "agrees (differs) where both intervals, over seeds and samples, lie above (below) 0"


def _print(contrasts: dict[str, Contrast]) -> str:
    return "; ".join(f"{name} {c.both.format(1, sign=True)}" for name, c in contrasts.items())


def _describe_power(contrasts: dict[str, Contrast]) -> str:
    """What these seeds could have found, where there are two or more."""
    found = [c for c in contrasts.values() if np.isfinite(c.detectable)]
    if not found:
        return "; one seed has no interval over seeds, so nothing is decided"
    return (
        f"; printed intervals are over both; {found[0].seeds.n} seeds find differences from "
        f"{min(c.detectable for c in found):.1f} points, a point needs "
        f"{min(c.needed for c in found)} to {max(c.needed for c in found)} seeds"
    )


def describe_step(part: str) -> str:
    """The paper's gain of a part, column by column of its Table 4."""
    one, two = STEPS[part]
    rows = {key: row for row, key in _key_rows("table4")}
    high, low = rows[KEYS["table4"][one]], rows[KEYS["table4"][two]]
    columns = [c for c in high if "_" in c]
    return ", ".join(f"{float(high[c]) - float(low[c]):+.1f} ({c})" for c in columns)


def _describe_published_bands() -> str:
    rows = {key: row for row, key in _key_rows("table8")}
    both = rows[KEYS["table8"][FULL]]
    columns = [c for c in both if "_" in c]
    return "minus both: " + "; ".join(
        f"{name.replace('_', ' ')} "
        + ", ".join(
            f"{float(rows[KEYS['table8'][name]][c]) - float(both[c]):+.1f}" for c in columns
        )
        for name in ("high_only", "low_only")
    )


def _key_rows(table: str) -> list[tuple[dict[str, str], str]]:
    """The paper's rows of a table, each with its key."""
    name = REFERENCE[table]
    return [(row, " ".join(row[c] for c in SOURCES[name].keys)) for row in read_table(name)]


def read_published(table: str, name: str) -> dict[str, str]:
    """Column → the paper's accuracy (%) of a row; empty for a row that it does not have."""
    wanted = KEYS.get(table, {}).get(name)
    for row, key in _key_rows(table) if wanted else []:
        if key == wanted:
            return {c: value for c, value in row.items() if c not in SOURCES[REFERENCE[table]].keys}
    return {}


def configure_ablation(
    plan: Plan, tables: list[str] | str | None = None, directions: list[str] | str | None = None
) -> dict[tuple[str, str, int], RunConfig]:
    """(direction, row, seed) → its run. Without directions, the data set's first alone where the
    preset has fewer seeds for this study, else all."""
    names = find_variants(read_list("tables", tables, str) or TABLES)
    return {
        (str(way), name, seed): configure_variant(plan, name, way, seed)
        for way in plan.choose_ways(directions)
        for name in names
        for seed in plan.seeds
    }


def ablate(
    plan: Plan,
    *,
    tables: list[str] | str | None = None,
    directions: list[str] | str | None = None,
) -> Ablation:
    """Train or find every row of the tables and compare it with none, FD-CMKD and its heads."""
    configs = configure_ablation(plan, tables, directions)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    ways, names = (list(dict.fromkeys(key[i] for key in configs)) for i in range(2))
    shown = {t: [n for n in rows if n in names] for t, rows in TABLES.items()}
    shown = {t: rows for t, rows in shown.items() if rows == list(TABLES[t])}
    lines: list[Line] = []
    marks: dict[str, dict] = {convention: {} for convention in CONVENTIONS}
    steps: dict[str, dict[str, Contrast]] = {}
    for way in ways:
        answers = {
            name: np.stack([runs[way, name, s].judge(labels)
                            for s in plan.seeds])
            for name in names
        }  # fmt: skip
        lines += compare_rows(way, answers, {k[1:]: r for k, r in runs.items() if k[0] == way})
        found = {
            part: contrast_answers(answers[one], answers[two])
            for part, (one, two) in STEPS.items()
            if {one, two} <= set(names)
        }
        for part, contrast in correct_contrasts(found).items():
            steps.setdefault(part, {})[way] = contrast
        for convention in CONVENTIONS:
            marks[convention][way] = {
                table: mark_rows({name: answers[name] for name in rows}, convention)
                for table, rows in shown.items()
            }
    records = [run.record for run in runs.values()]
    return Ablation(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(labels),
        seeds=list(plan.seeds),
        lines=lines,
        tables=shown,
        marks=marks,
        steps=steps,
        start=resolve_method_options("fdcmkd_soft", {})["cutoff"],
        reports=plan.definition.reports,
        runs=sorted({r.fingerprint for r in records} | {r.teacher for r in records if r.teacher}),
    )


def compare_rows(
    way: str, answers: dict[str, np.ndarray], runs: dict[tuple[str, int], Run]
) -> list[Line]:
    versus = {
        base: correct_contrasts(
            {
                name: contrast_answers(rows, answers[base])
                for name, rows in answers.items()
                if name != base
            }
        )
        | {base: contrast_answers(answers[base], answers[base])}
        for base in (BASE, FULL, HEADS)
    }
    lines = []
    for name, rows in answers.items():
        group = [run for (row, _), run in runs.items() if row == name]
        learned = [run.read_method_weights() for run in group if name in LEARNED]
        ends = [1 / (1 + np.exp(-weights["edge"].double().numpy())) for weights in learned]
        lines.append(
            Line(
                direction=way,
                name=name,
                words=VARIANTS[name].words,
                values=100.0 * rows.mean(axis=1),
                versus_none=versus[BASE][name],
                versus_full=versus[FULL][name],
                versus_heads=versus[HEADS][name],
                edges=np.array(ends) if ends else np.empty((0, 0)),
                epochs=group[0].record.config.train.epochs,
                parameters=group[0].record.parameters["method"],
            )
        )
    return lines

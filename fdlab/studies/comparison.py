"""Which method helps, and how much of the gain needs a teacher? (FD-CMKD, Table 2)"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fdlab.core.config import Direction, RunConfig
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.data.dataset import Dataset
from fdlab.data.store import find_dataset
from fdlab.methods import METHODS, split_sum
from fdlab.reference import read_table
from fdlab.studies.claims import MATCHED, OPEN, SUPPORTED, Claim
from fdlab.studies.contrast import (
    Contrast,
    contrast_answers,
    contrast_gaps,
    correct_contrasts,
    judge,
)
from fdlab.studies.cost import Cost, measure_costs
from fdlab.studies.hyperparameters import Setting, choose_options, read_settings
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.published import Place
from fdlab.studies.ranking import CONVENTIONS, mark_rows, rank_rows
from fdlab.studies.search import Trial, configure_trials, search
from fdlab.studies.stats import average_seeds
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = "Does FD-CMKD beat no distillation, and does it beat its own heads without a teacher?"
TABLE = "fdcmkd_table2_classification"
DENSE_TABLE = "fdcmkd_table3_segmentation"  # Tables 3 and 5
RULES = ("validation", "last", "published")
EVERY = "all"
SUMS = {"segmentation": ["cirkd+fdcmkd"]}  # of the paper's tables
Answers = dict[tuple[str, str], np.ndarray]
BASE = "none"
RULE = "judged by both intervals (seeds, samples) in every direction: above 0, or below"
SHARED = "and the control matches where heads_only reaches more than half of the gain over none"


@dataclass(frozen=True)
class Cell:
    """One method in one direction, over seeds; accuracies are percentages.

    accuracy: rule → Estimate over seeds. versus_none: the difference to `none` under the validation
    rule, Holm-corrected over the methods of the direction. rank: see `rank_rows`. optimism:
    published minus validation-selected. values: rule → (S,). cost: of its training.
    """

    direction: str
    method: str
    accuracy: dict[str, Estimate]
    versus_none: Contrast
    rank: Estimate
    optimism: Estimate
    values: dict[str, np.ndarray]
    extra_parameters: int
    cost: Cost
    published: float | None

    @property
    def gain(self) -> Estimate:
        """Points above `none`, over seeds."""
        return self.versus_none.seeds


@dataclass(frozen=True)
class Comparison:
    """contrasts: "a-b" → direction → a minus b, Holm-corrected over the contrasts of a direction.
    marks: convention → direction → method → "best", "second" or "", see `ranking.mark_rows`.

    The contrast "heads_only-half" is heads_only minus the middle between none and fdcmkd: above 0,
    the heads without a teacher reach more than half of the gain. runs: fingerprints of every run
    that the numbers come from, teachers included. settings: the hyperparameters of the methods,
    before any search; trials: what a search tried, empty where there was none.
    """

    dataset: str
    preset: str
    metric: str
    n: int
    seeds: list[int]
    cells: list[Cell]
    contrasts: dict[str, dict[str, Contrast]]
    marks: dict[str, dict[str, dict[str, str]]]
    runs: list[str]
    settings: list[Setting] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(cell.direction for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def find(self, direction: str, method: str) -> Cell:
        return next(c for c in self.cells if (c.direction, c.method) == (direction, method))

    def measured(self) -> dict[Place, Estimate]:
        """Table 2's cells, validation-selected; {} where the paper has no such data set."""
        return {place: cell.accuracy["validation"] for place, cell in self._locate().items()}

    def controls(self) -> dict[Place, str]:
        """Beside each: how the paper selects, and the heads without a teacher."""
        found = {}
        for place, cell in self._locate().items():
            found[place] = f"by the published rule {cell.accuracy['published'].format(1)}"
            if "heads_only" in self.methods:
                heads = self.find(cell.direction, "heads_only").accuracy["validation"]
                found[place] += f"; heads_only {heads.format(1)}"
        return found

    def _locate(self) -> dict[Place, Cell]:
        reports = find_dataset(self.dataset, prepared=False).reports
        table = find_table(self.metric)
        rows = {row["method"] for row in read_table(table)}
        return {
            (table, name_row(cell.method), f"{reports}_{Direction.split(cell.direction)[1]}"): cell
            for cell in self.cells
            if reports and name_row(cell.method) in rows
        }

    def finding(self) -> str:
        parts = []
        for direction in self.directions:
            gains = [
                f"{m} {self.find(direction, m).gain.format(1, sign=True)}"
                for m in ("fdcmkd", "heads_only")
                if m in self.methods
            ]
            parts.append(f"{direction}: {', '.join(gains)}")
        return (
            f"Points above no distillation, {len(self.seeds)} seeds, n = {self.n}: "
            f"{'; '.join(parts)}.{self._compare_heads()}"
        )

    def _compare_heads(self) -> str:
        """In plain words, what the heads reach without any teacher; "" where either was not run."""
        if not {"fdcmkd", "heads_only"} <= set(self.methods):
            return ""
        shares = []
        for direction in self.directions:
            gain, alone = (self.find(direction, m).gain.mean for m in ("fdcmkd", "heads_only"))
            if gain > 0:
                shares.append(f"{alone / gain:.0%} ({direction})")
        reached = f" FD-CMKD's heads without any teacher reach {' and '.join(shares)} of its gain."
        rest = _print(self.contrasts["fdcmkd-heads_only"])
        return f"{reached if shares else ''} FD-CMKD minus those heads: {rest}."

    def claims(self) -> list[Claim]:
        found = []
        for versus, words, where in (
            ("none", "FD-CMKD improves on the unimodal student", "rows Uni and FD-CMKD"),
            ("kd", "FD-CMKD improves on logit distillation", "row Logit"),
            ("feat", "FD-CMKD improves on feature distillation", "row Feat"),
        ):
            where = f"Table {2 if self.metric == 'accuracy' else 3}, {where}"
            if f"fdcmkd-{versus}" in self.contrasts:
                found.append(self._claim(versus, words, where))
        if "fdcmkd-heads_only" in self.contrasts:
            found.append(self._claim_teacher())
        return found

    def _claim(self, versus: str, words: str, where: str) -> Claim:
        contrast = self.contrasts[f"fdcmkd-{versus}"]
        control = self.contrasts.get("fdcmkd-heads_only", {})
        own, verdict = judge(contrast.values()), self._weigh(contrast)
        why = f"{RULE}; agrees only where heads_only is beaten too, {SHARED}"
        if own == SUPPORTED and verdict == OPEN:
            why = (
                f"the gain over {versus} itself is there, both intervals above 0 in every "
                "direction; but heads_only, which has no teacher, is not beaten, and the seeds do "
                "not decide how much of the gain it reaches"
            )
        return Claim(
            statement=words,
            where=where,
            paper=_published_gap(versus, self.metric),
            ours=_print(contrast),
            control=f"fdcmkd - heads_only: {_print(control)}" if control else "not run",
            verdict=verdict,
            why=why,
        )

    def _weigh(self, contrast: dict[str, Contrast]) -> str:
        """The verdict on a contrast, unless heads_only may explain it."""
        verdict = judge(contrast.values())
        control = self.contrasts.get("fdcmkd-heads_only")
        if verdict != SUPPORTED or control is None or judge(control.values()) == SUPPORTED:
            return verdict
        half = judge(self.contrasts["heads_only-half"].values())
        return MATCHED if half == SUPPORTED else OPEN

    def _claim_teacher(self) -> Claim:
        contrast = self.contrasts["fdcmkd-heads_only"]
        half = self.contrasts["heads_only-half"]
        gains = {d: self.find(d, "heads_only").gain for d in self.directions}
        verdict = judge(contrast.values())
        if verdict != SUPPORTED and judge(half.values()) == SUPPORTED:
            verdict = MATCHED
        return Claim(
            statement="The gain comes from the other modality's teacher",
            where="the method's premise; no control in the paper",
            paper="not tested",
            ours=f"fdcmkd - heads_only: {_print(contrast)}",
            control="heads_only - none: "
            + "; ".join(f"{d} {g.format(1, sign=True)}" for d, g in gains.items())
            + f"; heads_only above half of the gain: {_print(half)}",
            verdict=verdict,
            why=f"{RULE}; {SHARED}",
        )


def choose_methods(methods: list[str] | str, task: str = "classification") -> list[str]:
    """The methods asked for, `none` first; ["all"] is every one that is defined for the task,
    and the sums of the paper's tables."""
    asked = read_list("methods", methods, str)
    if asked == [EVERY]:
        asked = [name for name, kind in METHODS.items() if task in kind.tasks]
        asked += SUMS.get(task, [])
    for method in asked:
        METHODS[method]  # refuses what is unknown, and sums that make no sense
    return ["none", *(m for m in asked if m != "none")]


def configure_methods(
    plan: Plan,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    settings: list[Setting] | None = None,
    found: dict[tuple[str, str], dict[str, Any]] | None = None,
) -> dict[tuple[str, str, int], RunConfig]:
    """(direction, method, seed) → its run; `none` is always among the methods.

    settings: the hyperparameters, by default the project's table. found: (direction, method) →
    what a search chose instead.
    """
    settings = read_settings() if settings is None else settings
    found = found or {}
    return {
        (str(way), m, seed): plan.configure(
            way.student,
            m,
            way.teacher,
            seed,
            **found.get((str(way), m), {"options": choose_options(settings, m)}),
        )
        for way in plan.choose_directions(directions)
        for m in choose_methods(methods, plan.definition.task)
        for seed in plan.seeds
    }


def configure_comparison(
    plan: Plan,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    hyperparameters: str = "",
    trials: int = 0,
) -> list[RunConfig]:
    """Every run of a comparison; after a search the runs with what it will choose are unknown, and
    those before it stand for them."""
    settings = read_settings(hyperparameters)
    ways = plan.choose_directions(directions) if trials else []
    tried = [
        config
        for way in ways
        for config in configure_trials(
            plan, way, choose_methods(methods, plan.definition.task), settings, trials
        ).values()
    ]
    return [*tried, *configure_methods(plan, methods, directions, settings).values()]


def compare_methods(
    plan: Plan,
    *,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    hyperparameters: str = "",
    trials: int = 0,
) -> Comparison:
    """Train or find every method × direction × seed and compare them, paired by seed and sample.

    hyperparameters: a CSV file in place of the project's table. trials: of a search for every
    method on the validation split, see `search`; 0 for none.
    """
    return run_comparison(plan, methods, directions, hyperparameters, trials)[0]


def run_comparison(
    plan: Plan,
    methods: list[str] | str,
    directions: list[str] | str | None,
    hyperparameters: str,
    trials: int,
) -> tuple[Comparison, Answers]:
    """The comparison, and (direction, method) → (S, n) right answers that it rests on."""
    require_trials(trials)
    settings, found, told = read_settings(hyperparameters), {}, []
    if trials:
        for way in plan.choose_directions(directions):
            chosen, tried = search(
                plan, way, choose_methods(methods, plan.definition.task), settings, trials
            )
            found |= {(str(way), method): values for method, values in chosen.items()}
            told += tried
    configs = configure_methods(plan, methods, directions, settings, found)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    ways, methods = (list(dict.fromkeys(key[i] for key in configs)) for i in range(2))
    answers = find_answers(plan, runs)

    def contrast(way: str, pairs: list[tuple[str, str]]) -> dict[str, Contrast]:
        found = {f"{a}-{b}": (answers[way, a], answers[way, b]) for a, b in pairs}
        return correct_contrasts({name: contrast_answers(*pair) for name, pair in found.items()})

    cells, contrasts = [], {}
    ours = [("fdcmkd", m) for m in ("none", "kd", "feat", "heads_only")]
    for way in ways:
        gains = contrast(way, [(m, "none") for m in methods[1:]])
        gains |= {"none-none": contrast_answers(*[answers[way, "none"]] * 2)}
        ranks = rank_rows({m: answers[way, m] for m in methods})
        costs = measure_costs(plan, {m: configs[way, m, plan.seeds[0]] for m in methods})
        for method in methods:
            group = [runs[way, method, seed] for seed in plan.seeds]
            cells.append(
                _summarise(
                    plan, way, method, group, gains[f"{method}-none"], ranks[method], costs[method]
                )
            )
        for name, found in contrast(way, [p for p in ours if set(p) <= set(methods)]).items():
            contrasts.setdefault(name, {})[way] = found
        if {"fdcmkd", "heads_only"} <= set(methods):
            middle = (answers[way, "none"] + answers[way, "fdcmkd"].astype(float)) / 2
            half = contrast_gaps(100 * (answers[way, "heads_only"] - middle))
            contrasts.setdefault("heads_only-half", {})[way] = half
    marks = {
        convention: {
            way: mark_rows({m: answers[way, m] for m in methods}, convention) for way in ways
        }
        for convention in CONVENTIONS
    }
    records = [run.record for run in runs.values()]
    sources = {r.fingerprint for r in records} | {r.teacher for r in records if r.teacher}
    comparison = Comparison(
        plan.dataset,
        plan.preset,
        plan.definition.metric,
        len(answers[ways[0], BASE][0]),
        list(plan.seeds),
        cells,
        contrasts,
        marks,
        sorted(sources),
        [s for s in settings if s.method in {name for m in methods for name in name_parts(m)}],
        told,
    )
    return comparison, answers


def require_trials(trials: int) -> None:
    if trials < 0:
        raise UserError(f"trials is {trials}: expected a whole number from 0")


def find_answers(plan: Plan, runs: dict[tuple[str, str, int], Run]) -> Answers:
    """(direction, method) → (S, n) whether each test sample is answered rightly, raw head at the
    best validation epoch."""
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    pairs = dict.fromkeys((way, method) for way, method, _ in runs)
    return {pair: np.stack([runs[*pair, s].judge(labels) for s in plan.seeds]) for pair in pairs}


def _summarise(
    plan: Plan,
    direction: str,
    method: str,
    runs: list[Run],
    versus_none: Contrast,
    rank: Estimate,
    cost: Cost,
) -> Cell:
    values = {
        rule: np.array([100 * run.record.scores[rule].accuracy for run in runs]) for rule in RULES
    }
    return Cell(
        direction=direction,
        method=method,
        accuracy={rule: average_seeds(v) for rule, v in values.items()},
        versus_none=versus_none,
        rank=rank,
        optimism=average_seeds(values["published"] - values["validation"]),
        values=values,
        extra_parameters=sum(
            count for part, count in runs[0].record.parameters.items() if part != "student"
        ),
        cost=cost,
        published=find_published(plan.definition, direction, method),
    )


def find_table(metric: str) -> str:
    """The paper's table of methods for a metric."""
    return TABLE if metric == "accuracy" else DENSE_TABLE


def find_published(dataset: Dataset, direction: str, method: str) -> float | None:
    """The paper's score (%) of a method for the student of a direction, or None."""
    if not dataset.reports:
        return None
    column = f"{dataset.reports}_{Direction.split(direction)[1]}"
    for row in read_table(find_table(dataset.metric)):
        if row["method"] == name_row(method) and row.get(column):
            return float(row[column])
    return None


def name_row(method: str) -> str:
    """The row of the paper's tables that reports a method, "" for none.

    Table 2's row NKD is, by the paper's earlier version, `nckd` here; Yang's `nkd` it lacks.
    """
    return {"nckd": "nkd", "nkd": ""}.get(method, method)


def name_parts(method: str) -> list[str]:
    """A method itself, and of a sum its parts too."""
    return list(dict.fromkeys([method, *(part for _, part in split_sum(method))]))


def _published_gap(versus: str, metric: str) -> str:
    rows = {row["method"]: row for row in read_table(find_table(metric))}
    gaps = [
        float(rows["fdcmkd"][column]) - float(rows[versus][column])
        for column in rows["fdcmkd"]
        if column not in ("category", "table", "method")
    ]
    span = f"{min(gaps):+.1f} to {max(gaps):+.1f} points"
    return f"{span} over its {'eight' if len(gaps) == 8 else len(gaps)} columns, one run each"


def _print(contrast: dict[str, Contrast]) -> str:
    return "; ".join(f"{d} {c.seeds.format(1, sign=True)}" for d, c in contrast.items())

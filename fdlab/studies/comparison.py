"""Which method helps, and how much of the gain needs a teacher? (FD-CMKD, Table 2)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.core.config import Direction
from fdlab.core.estimate import Estimate
from fdlab.reference import read_table
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.stats import average_samples, average_seeds
from fdlab.training.evaluate import find_correct
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = "Does FD-CMKD beat no distillation, and does it beat its own heads without a teacher?"
RULES = ("validation", "last", "published")
RULE = "judged by both intervals (seeds, samples) in every direction: above 0, or below"
SHARED = "and the control matches where heads_only reaches more than half of the gain over none"


@dataclass(frozen=True)
class Cell:
    """One method in one direction, over seeds; accuracies are percentages.

    accuracy: rule → Estimate over seeds. gain: difference to `none`, paired by seed, under the
    validation rule. gain_samples: the same difference averaged over seeds, with its interval over
    the test samples. optimism: published minus validation-selected. values: rule → (S,).
    """

    direction: str
    method: str
    accuracy: dict[str, Estimate]
    gain: Estimate
    gain_samples: Estimate
    optimism: Estimate
    values: dict[str, np.ndarray]
    extra_parameters: int
    seconds: float
    published: float | None


@dataclass(frozen=True)
class Comparison:
    """contrasts: "a-b" → direction → [Estimate over seeds, Estimate over samples] of a minus b.

    The contrast "heads_only-half" is heads_only minus the middle between none and fdcmkd: above 0,
    the heads without a teacher reach more than half of the gain. runs: fingerprints of every run
    that the numbers come from, teachers included.
    """

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    cells: list[Cell]
    contrasts: dict[str, dict[str, list[Estimate]]]
    runs: list[str]

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(cell.direction for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def find(self, direction: str, method: str) -> Cell:
        return next(c for c in self.cells if (c.direction, c.method) == (direction, method))

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
            ("none", "FD-CMKD improves on the unimodal student", "Table 2, rows Uni and FD-CMKD"),
            ("kd", "FD-CMKD improves on logit distillation", "Table 2, row Logit"),
            ("feat", "FD-CMKD improves on feature distillation", "Table 2, row Feat"),
        ):
            if f"fdcmkd-{versus}" in self.contrasts:
                found.append(self._claim(versus, words, where))
        if "fdcmkd-heads_only" in self.contrasts:
            found.append(self._claim_teacher())
        return found

    def _claim(self, versus: str, words: str, where: str) -> Claim:
        contrast = self.contrasts[f"fdcmkd-{versus}"]
        control = self.contrasts.get("fdcmkd-heads_only", {})
        own, verdict = judge(list(contrast.values())), self._weigh(contrast)
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
            paper=_published_gap(versus),
            ours=_print(contrast),
            control=f"fdcmkd - heads_only: {_print(control)}" if control else "not run",
            verdict=verdict,
            why=why,
        )

    def _weigh(self, contrast: dict[str, list[Estimate]]) -> str:
        """The verdict on a contrast, unless heads_only may explain it."""
        verdict = judge(list(contrast.values()))
        control = self.contrasts.get("fdcmkd-heads_only")
        if verdict != SUPPORTED or control is None or judge(list(control.values())) == SUPPORTED:
            return verdict
        half = judge(list(self.contrasts["heads_only-half"].values()))
        return MATCHED if half == SUPPORTED else OPEN

    def _claim_teacher(self) -> Claim:
        contrast = self.contrasts["fdcmkd-heads_only"]
        half = self.contrasts["heads_only-half"]
        gains = {d: self.find(d, "heads_only").gain for d in self.directions}
        verdict = judge(list(contrast.values()))
        if verdict != SUPPORTED and judge(list(half.values())) == SUPPORTED:
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


def judge(contrast: list[list[Estimate]]) -> str:
    """Verdict on "the difference is above 0" from [over seeds, over samples] per direction."""
    above = [all(e.excludes(0) and e.mean > 0 for e in pair) for pair in contrast]
    below = [all(e.excludes(0) and e.mean < 0 for e in pair) for pair in contrast]
    return SUPPORTED if all(above) else REFUTED if all(below) else OPEN


def compare_methods(
    plan: Plan, *, methods: list[str] | str, directions: list[str] | str | None = None
) -> Comparison:
    """Train or find every method × direction × seed and compare them, paired by seed and sample."""
    methods = ["none", *(m for m in read_list("methods", methods, str) if m != "none")]
    ways = plan.choose_directions(directions)
    keys = [(str(way), m, seed) for way in ways for m in methods for seed in plan.seeds]
    parsed = {str(way): way for way in ways}
    configs = [plan.configure(parsed[d].student, m, parsed[d].teacher, seed) for d, m, seed in keys]
    runs = dict(zip(keys, ensure_runs(configs, device=plan.device), strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    right = {key: find_correct(run.read_logits(), labels) for key, run in runs.items()}

    def stack(direction: str, method: str) -> np.ndarray:
        """(S, n) right answers in percent."""
        return np.stack([right[direction, method, s] * 100.0 for s in plan.seeds])

    def contrast(direction: str, one: str, two: str) -> list[Estimate]:
        """[over seeds, over samples], in points."""
        return _average_gaps(stack(direction, one) - stack(direction, two))

    cells = [
        _summarise(plan, str(way), m, [runs[str(way), m, s] for s in plan.seeds],
                   contrast(str(way), m, "none"))
        for way in ways for m in methods
    ]  # fmt: skip
    versus = [m for m in ("none", "kd", "feat", "heads_only") if m in methods]
    contrasts = {
        f"fdcmkd-{m}": {str(way): contrast(str(way), "fdcmkd", m) for way in ways}
        for m in versus
        if "fdcmkd" in methods
    }
    if {"fdcmkd", "heads_only"} <= set(methods):
        for way in map(str, ways):
            middle = (stack(way, "none") + stack(way, "fdcmkd")) / 2
            half = _average_gaps(stack(way, "heads_only") - middle)
            contrasts.setdefault("heads_only-half", {})[way] = half
    records = [run.record for run in runs.values()]
    sources = {r.fingerprint for r in records} | {r.teacher for r in records if r.teacher}
    return Comparison(
        plan.dataset,
        plan.preset,
        len(labels),
        list(plan.seeds),
        cells,
        contrasts,
        sorted(sources),
    )


def _average_gaps(gaps: np.ndarray) -> list[Estimate]:
    """(S, n) differences → [over seeds, over samples]."""
    return [average_seeds(gaps.mean(axis=1)), average_samples(gaps.mean(axis=0))]


def _summarise(
    plan: Plan, direction: str, method: str, runs: list[Run], gain: list[Estimate]
) -> Cell:
    values = {
        rule: np.array([100 * run.record.scores[rule].accuracy for run in runs]) for rule in RULES
    }
    return Cell(
        direction=direction,
        method=method,
        accuracy={rule: average_seeds(v) for rule, v in values.items()},
        gain=gain[0],
        gain_samples=gain[1],
        optimism=average_seeds(values["published"] - values["validation"]),
        values=values,
        extra_parameters=runs[0].record.parameters["method"],
        seconds=float(np.mean([run.record.seconds for run in runs])),
        published=find_published(plan.definition.reports, direction, method),
    )


def find_published(reports: str, direction: str, method: str) -> float | None:
    """The paper's Table 2 accuracy (%) of a method for the student of a direction, or None."""
    if not reports:
        return None
    column = f"{reports}_{Direction.split(direction)[1]}"
    for row in read_table("fdcmkd_table2_classification"):
        if row["method"] == method and row.get(column):
            return float(row[column])
    return None


def _published_gap(versus: str) -> str:
    rows = {row["method"]: row for row in read_table("fdcmkd_table2_classification")}
    gaps = [
        float(rows["fdcmkd"][column]) - float(rows[versus][column])
        for column in rows["fdcmkd"]
        if column not in ("category", "method")
    ]
    return f"{min(gaps):+.1f} to {max(gaps):+.1f} points over its eight columns, one run each"


def _print(contrast: dict[str, list[Estimate]]) -> str:
    return "; ".join(f"{d} {pair[0].format(1, sign=True)}" for d, pair in contrast.items())

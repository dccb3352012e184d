"""Every method in one comparison: which help, which need their teacher, and at what cost?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from fdlab.core.config import RunConfig
from fdlab.core.estimate import Estimate
from fdlab.data.store import find_dataset
from fdlab.methods import METHODS
from fdlab.methods.base import find_family
from fdlab.reference import read_table
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.comparison import (
    TABLE,
    Answers,
    Comparison,
    configure_comparison,
    name_row,
    run_comparison,
)
from fdlab.studies.contrast import Contrast, contrast_answers, correct_contrasts, judge
from fdlab.studies.plan import Plan
from fdlab.studies.published import Place
from fdlab.studies.ranking import rank_rows
from fdlab.studies.stats import LEVEL, resample_means

QUESTION = "Which methods beat no distillation, which beat heads without a teacher, at what cost?"
OURS, BASE, HEADS = "fdcmkd", "none", "heads_only"


@dataclass(frozen=True)
class Survey:
    """comparison: all methods. families: method → what it compares (`find_family`). versus_heads,
    versus_ours: direction → method → the method minus heads_only, and FD-CMKD minus the method,
    Holm-corrected over the methods of a direction. paper_ranks: method → (8,) its rank in each
    column of Table 2, among the methods that are here too; ranks: direction → ours among the same
    ones. order: direction → Kendall's τ_b of our
    accuracies with the paper's mean ranks over those methods, interval over seeds and samples;
    paper_order: τ_b of each of the paper's columns with the mean rank in its others."""

    comparison: Comparison
    families: dict[str, str]
    versus_heads: dict[str, dict[str, Contrast]]
    versus_ours: dict[str, dict[str, Contrast]]
    paper_ranks: dict[str, np.ndarray]
    ranks: dict[str, dict[str, Estimate]]
    order: dict[str, Estimate]
    paper_order: np.ndarray

    @property
    def dataset(self) -> str:
        return self.comparison.dataset

    @property
    def preset(self) -> str:
        return self.comparison.preset

    @property
    def n(self) -> int:
        return self.comparison.n

    @property
    def seeds(self) -> list[int]:
        return self.comparison.seeds

    @property
    def runs(self) -> list[str]:
        return self.comparison.runs

    @property
    def baselines(self) -> list[str]:
        """The methods of Table 2 beside FD-CMKD and no distillation."""
        return [m for m in self.paper_ranks if m not in (OURS, BASE)]

    def measured(self) -> dict[Place, Estimate]:
        return self.comparison.measured()

    def controls(self) -> dict[Place, str]:
        return self.comparison.controls()

    def finding(self) -> str:
        parts = []
        for way in self.comparison.directions:
            gaps = {m: self.comparison.find(way, m).versus_none for m in self.families if m != BASE}
            best = max(gaps, key=lambda m: gaps[m].both.mean)
            text = (
                f"{way}: of {len(gaps)} methods {_count(gaps, 1)} are above no distillation and "
                f"{_count(gaps, -1)} below (Holm over them, 5 %, interval over seeds and samples); "
                f"highest {best} {gaps[best].both.format(1, sign=True)}"
            )
            if way in self.versus_heads:
                text += f"; {_count(self.versus_heads[way], 1)} above the heads without a teacher"
            if OURS in self.families:
                rank = self.comparison.find(way, OURS).rank.format(0)
                text += f"; FD-CMKD has rank {rank} of {len(self.families)}"
            if stuck := self.find_stuck(way):
                text += f"; at chance {', '.join(stuck)}"
            if way in self.order:
                text += f"; order against Table 2's: τ = {self.order[way].format(2, sign=True)}"
            parts.append(text)
        own = ""
        if len(self.paper_order):
            low, high = self.paper_order.min(), self.paper_order.max()
            own = (
                f" One column of Table 2 agrees with its others by τ = "
                f"{self.paper_order.mean():+.2f} ({low:+.2f} to {high:+.2f})."
            )
        return f"{len(self.seeds)} seeds, n = {self.n}: {'; '.join(parts)}.{own}"

    def find_stuck(self, direction: str) -> list[str]:
        """Methods whose mean accuracy chance alone may reach: not above 1/K by two standard errors
        of one run."""
        classes = find_dataset(self.dataset, prepared=False).classes
        if not classes:  # its files are not here, and they alone say
            return []
        chance = 1 / classes
        edge = 100 * (chance + 2 * np.sqrt(chance * (1 - chance) / self.n))
        cells = {m: self.comparison.find(direction, m) for m in self.families}
        return [m for m, cell in cells.items() if cell.accuracy["validation"].mean <= edge]

    def claims(self) -> list[Claim]:
        if not self.baselines:
            return []
        found = [self._claim_baselines()]
        if OURS in self.families:
            found.insert(0, self._claim_best())
        return found

    def _claim_best(self) -> Claim:
        ways = self.comparison.directions
        rivals = [BASE, *self.baselines]
        verdicts = {m: judge([self.versus_ours[way][m] for way in ways]) for m in rivals}
        above = [m for m, verdict in verdicts.items() if verdict == SUPPORTED]
        below = [m for m, verdict in verdicts.items() if verdict == REFUTED]
        verdict = SUPPORTED if len(above) == len(rivals) else REFUTED if below else OPEN
        control = "not run"
        if HEADS in self.families:
            gaps = [self.versus_ours[way][HEADS] for way in ways]
            control = "fdcmkd - heads_only: " + _print(dict(zip(ways, gaps, strict=True)))
            if verdict == SUPPORTED and judge(gaps) != SUPPORTED:
                verdict = MATCHED
        return Claim(
            statement="FD-CMKD is the best of the methods of Table 2",
            where="Table 2, all rows",
            paper="highest in all of 8 columns, one run each",
            ours=f"above {len(above)} of {len(rivals)} rows, below {len(below)}"
            + (f" ({', '.join(below)})" if below else "")
            + f"; rank {_print_ranks(self.comparison, OURS)}",
            control=control,
            verdict=verdict,
            why="above every row by both intervals (seeds, samples) in every direction, or below "
            "one; the control matches where heads_only is not beaten too",
        )

    def _claim_baselines(self) -> Claim:
        ways = self.comparison.directions
        gaps = {m: [self.comparison.find(w, m).versus_none for w in ways] for m in self.baselines}
        verdicts = [judge(each) for each in gaps.values()]
        above, below = verdicts.count(SUPPORTED), verdicts.count(REFUTED)
        half = len(verdicts) / 2
        verdict = SUPPORTED if below >= half else REFUTED if above >= half else OPEN
        return Claim(
            statement="Methods made for one modality fall short of the unimodal student",
            where="Table 2, rows Logit to C2KD beside Uni",
            paper=_count_published(),
            ours=f"of {len(verdicts)} rows {below} below no distillation and {above} above it",
            control="every row's student without a teacher, same seeds and batches",
            verdict=verdict,
            why="at least half of the rows below by both intervals in every direction, or above",
        )


def configure_survey(
    plan: Plan,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    hyperparameters: str = "",
    trials: int = 0,
) -> list[RunConfig]:
    ways = [str(way) for way in plan.choose_ways(directions)]
    return configure_comparison(plan, methods, ways, hyperparameters, trials)


def survey_methods(
    plan: Plan,
    *,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    hyperparameters: str = "",
    trials: int = 0,
) -> Survey:
    """Train or find every method, and compare them with each other and with Table 2's order.

    Without directions, the data set's first alone where the preset has fewer seeds for this study.
    hyperparameters, trials: see `compare_methods`.
    """
    ways = [str(way) for way in plan.choose_ways(directions)]
    comparison, answers = run_comparison(plan, methods, ways, hyperparameters, trials)
    names = comparison.methods
    ranks = rank_published([m for m in names if name_row(m)])
    return Survey(
        comparison=comparison,
        families={m: find_family(METHODS[m]) for m in names},
        versus_heads=_contrast_all(answers, ways, names, HEADS, sign=1),
        versus_ours=_contrast_all(answers, ways, names, OURS, sign=-1),
        paper_ranks=ranks,
        ranks={way: rank_rows({m: answers[way, m] for m in ranks}) for way in ways if ranks},
        order={
            way: agree({m: answers[way, m] for m in ranks}, ranks) for way in ways if len(ranks) > 2
        },
        paper_order=_agree_columns(ranks),
    )


def rank_published(methods: list[str]) -> dict[str, np.ndarray]:
    """Method → its rank in every column of Table 2 among those given, 1 the highest."""
    rows = {row["method"]: row for row in read_table(TABLE)}
    kept = [m for m in methods if name_row(m) in rows]
    if not kept:
        return {}
    columns = [c for c in rows[BASE] if c not in ("category", "method")]
    values = np.array([[float(rows[name_row(m)][c]) for c in columns] for m in kept])
    ranks = stats.rankdata(-values, axis=0)
    return dict(zip(kept, ranks, strict=True))


def agree(answers: dict[str, np.ndarray], ranks: dict[str, np.ndarray]) -> Estimate:
    """Kendall's τ_b of the accuracies, (S, n) right answers each, with the mean published rank;
    percentile interval over seeds and samples, drawn alike for every method."""
    published = np.array([-ranks[m].mean() for m in answers])
    rows = np.stack([np.asarray(x, dtype=float) for x in answers.values()])
    drawn = [stats.kendalltau(x, published).statistic for x in resample_means(rows, 500).T]
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    own = stats.kendalltau(rows.mean(axis=(1, 2)), published).statistic
    return Estimate(float(own), float(low), float(high), rows.shape[1])


def _agree_columns(ranks: dict[str, np.ndarray]) -> np.ndarray:
    if len(ranks) < 3:
        return np.empty(0)
    table = np.stack(list(ranks.values()))  # (methods, columns)
    return np.array(
        [
            stats.kendalltau(table[:, c], np.delete(table, c, axis=1).mean(axis=1)).statistic
            for c in range(table.shape[1])
        ]
    )


def _contrast_all(
    answers: Answers,
    ways: list[str],
    names: list[str],
    one: str,
    sign: int,
) -> dict[str, dict[str, Contrast]]:
    """Direction → method → the method minus `one`, or with sign -1 the other way round."""
    if one not in names:
        return {}
    found = {}
    for way in ways:
        pairs = {m: (answers[way, m], answers[way, one])[::sign] for m in names if m != one}
        found[way] = correct_contrasts({m: contrast_answers(*pair) for m, pair in pairs.items()})
    return found


def _count(gaps: dict[str, Contrast], sign: int) -> int:
    """Contrasts of one sign that hold after Holm's correction."""
    return sum(gap.holm < 0.05 and gap.both.mean * sign > 0 for gap in gaps.values())


def _count_published() -> str:
    rows = {row["method"]: row for row in read_table(TABLE)}
    columns = [c for c in rows[BASE] if c not in ("category", "method")]
    cells = [(m, c) for m in rows if m not in (BASE, OURS) for c in columns]
    below = sum(float(rows[m][c]) < float(rows[BASE][c]) for m, c in cells)
    return f"{below} of {len(cells)} cells below the unimodal student, one run each"


def _print(contrasts: dict[str, Contrast]) -> str:
    return "; ".join(f"{way} {c.both.format(1, sign=True)}" for way, c in contrasts.items())


def _print_ranks(comparison: Comparison, method: str) -> str:
    found = [(way, comparison.find(way, method).rank) for way in comparison.directions]
    return "; ".join(f"{way} {rank.format(1)} of {len(comparison.methods)}" for way, rank in found)

"""How much do the weights of the two distances matter? (FD-CMKD, figure 5)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.reference import read_table
from fdlab.studies.claims import MATCHED, OPEN, SUPPORTED, Claim
from fdlab.studies.contrast import Contrast, contrast_answers, correct_contrasts, judge
from fdlab.studies.plan import Plan
from fdlab.training.pool import ensure_runs

QUESTION = "Do the weights of the two distances matter, over the paper's grid?"
WEIGHTS = (0.5, 1.0, 3.0, 5.0)  # the paper's
CHOSEN = 1.0  # both weights, in the paper's tables


@dataclass(frozen=True)
class Grid:
    """One direction. accuracy: (L, H, S) percent, over low and high weight and seeds; gain, the
    same less no distillation under the same seed. none: (S,) percent. best: the pair of weights
    with the highest mean; versus_chosen: it against the paper's pair, and p of it is Holm-corrected
    over every other pair of the grid. spread: largest less smallest mean over the grid, in points;
    noise: what spread the binomial noise of equally good cells would show, 95 % range.
    """

    direction: str
    accuracy: np.ndarray
    none: np.ndarray
    best: list[float]
    versus_chosen: Contrast
    spread: float
    noise: list[float]

    @property
    def means(self) -> np.ndarray:
        """(L, H)"""
        return self.accuracy.mean(axis=2)


@dataclass(frozen=True)
class Sensitivity:
    """low, high: the weights of the grid, λ1 and λ2."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    low: list[float]
    high: list[float]
    grids: list[Grid]
    runs: list[str]

    def finding(self) -> str:
        parts = [
            f"{g.direction}: {g.means.min():.1f} to {g.means.max():.1f} % over the grid, a spread "
            f"of {g.spread:.1f} points where equally good cells would spread by {g.noise[0]:.1f} "
            f"to {g.noise[1]:.1f}; best λ1 = {g.best[0]:g}, λ2 = {g.best[1]:g}, "
            f"{g.versus_chosen.both.format(1, sign=True)} above λ = {CHOSEN:g}"
            for g in self.grids
        ]
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        return f"{seeds}, n = {self.n}: {'; '.join(parts)}."

    def claims(self) -> list[Claim]:
        inside = [grid.spread <= grid.noise[1] for grid in self.grids]
        found = [judge([grid.versus_chosen]) for grid in self.grids]
        verdict = MATCHED if all(inside) else OPEN
        if not any(inside) and all(v == SUPPORTED for v in found):
            verdict = SUPPORTED
        return [
            Claim(
                statement="The weights of the distances matter, with a best value on the grid",
                where="figure 5",
                paper=_describe_published(),
                ours="; ".join(
                    f"{g.direction}: spread {g.spread:.1f} points, best λ1 {g.best[0]:g}, λ2 "
                    f"{g.best[1]:g}, {g.versus_chosen.both.format(1, sign=True)} above λ = "
                    f"{CHOSEN:g}"
                    for g in self.grids
                ),
                control="; ".join(
                    f"{g.direction}: equally good cells would spread by {g.noise[0]:.1f} to "
                    f"{g.noise[1]:.1f}"
                    for g in self.grids
                ),
                verdict=verdict,
                why=(
                    "the control matches where the grid's spread is no larger than that of cells "
                    "that answer alike but for the noise of their own answers; agrees where it is "
                    "larger and the best pair beats the paper's by both intervals"
                ),
            )
        ]


def _describe_published() -> str:
    (row,) = read_table("fdcmkd_figure5_weights")
    best = ", ".join(f"{row[c]} ({c.replace('_', ' ')})" for c in row if c != "quantity")
    return f"best at {best}; curves without intervals"


def configure_grid(
    plan: Plan, weights: list[float] | None = None, directions: list[str] | str | None = None
) -> dict[tuple[str, float, float, int], RunConfig]:
    """(direction, low weight, high weight, seed) → its run; (direction, 0, 0, seed) is none's."""
    weights = check_weights(weights)
    found = {}
    for way in plan.choose_ways(directions):
        for seed in plan.seeds:
            found[str(way), 0.0, 0.0, seed] = plan.configure(way.student, "none", way.teacher, seed)
            for low in weights:
                for high in weights:
                    options = {"low_weight": low, "high_weight": high}
                    found[str(way), low, high, seed] = plan.configure(
                        way.student, "fdcmkd", way.teacher, seed, options
                    )
    return found


def check_weights(
    weights: list[float] | None, default: tuple[float, ...] = WEIGHTS, name: str = "weights"
) -> list[float]:
    """The grid's weights, the default where none are given; 1 is always among them."""
    given = [float(w) for w in weights or default]
    if any(not 0 < w < np.inf for w in given):
        raise UserError(f"{name} is {weights}: expected finite numbers above 0")
    return sorted({*given, CHOSEN})


def scan_weights(
    plan: Plan,
    *,
    weights: list[float] | None = None,
    directions: list[str] | str | None = None,
) -> Sensitivity:
    """Train or find FD-CMKD at every pair of weights and compare the pairs."""
    configs = configure_grid(plan, weights, directions)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    scale = check_weights(weights)
    grids = []
    for way in dict.fromkeys(key[0] for key in configs):
        answers = {
            (low, high): np.stack([runs[way, low, high, s].judge(labels) for s in plan.seeds])
            for low in scale
            for high in scale
        }
        base = [runs[way, 0.0, 0.0, s].judge(labels) for s in plan.seeds]
        grids.append(summarise_grid(way, answers, np.array(base)))
    return Sensitivity(
        plan.dataset,
        plan.preset,
        len(labels),
        list(plan.seeds),
        scale,
        scale,
        grids,
        sorted({run.record.fingerprint for run in runs.values()}),
    )


def summarise_grid(
    way: str,
    answers: dict[tuple[float, float], np.ndarray],
    none: np.ndarray,
    chosen: tuple[float, float] = (CHOSEN, CHOSEN),
) -> Grid:
    """A grid from each pair's (S, n) right answers, one of the pairs being `chosen`; none: (S, n)
    without distillation."""
    rows, columns = (list(dict.fromkeys(pair[i] for pair in answers)) for i in range(2))
    accuracy = np.array([[100 * answers[a, b].mean(axis=1) for b in columns] for a in rows])
    means = {pair: found.mean() for pair, found in answers.items()}
    best = max(means, key=means.get)
    contrasts = correct_contrasts(
        {
            str(pair): contrast_answers(found, answers[chosen])
            for pair, found in answers.items()
            if pair != chosen
        }
    )
    same = contrast_answers(answers[chosen], answers[chosen])
    return Grid(
        direction=way,
        accuracy=accuracy,
        none=100 * none.mean(axis=1),
        best=list(best),
        versus_chosen=contrasts.get(str(best), same),
        spread=float(np.ptp(accuracy.mean(axis=2))),
        noise=simulate_spread(np.array(list(answers.values()))),
    )


def simulate_spread(answers: np.ndarray, draws: int = 2000, seed: int = 0) -> list[float]:
    """95 % range of the spread of G cells' means (points) if all cells were equally good.

    answers: (G, S, n) right or not. Under that null the cells' answers to one sample, under one
    seed, are exchangeable between the cells; each draw deals them out anew, sample by sample.
    """
    cells, seeds, samples = answers.shape
    flat = answers.reshape(cells, seeds * samples).astype(np.float64)
    rng = np.random.default_rng(seed)
    spreads = np.empty(draws)
    for i in range(draws):
        spreads[i] = np.ptp(rng.permuted(flat, axis=0).mean(axis=1))
    low, high = 100 * np.quantile(spreads, [0.025, 0.975])
    return [float(low), float(high)]

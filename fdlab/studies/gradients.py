"""What does each loss term do to the student, and what does logMSE change? (FD-CMKD, figure 3)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fdlab.core.config import RunConfig
from fdlab.core.estimate import Estimate
from fdlab.losses.features import logmse, mse, normalise
from fdlab.spectral.bands import split_bands
from fdlab.studies.ablation import describe_step
from fdlab.studies.banks import load_unimodal_banks
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.plan import Plan
from fdlab.studies.stats import average_seeds
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = (
    "Is logMSE a weaker constraint than MSE where differences occur, and which term moves the "
    "student?"
)
REACH = 4.0  # of the difference axis, either way
BINS = 121  # of a histogram of differences
FELT = 0.05  # a part of the gradient below this is called small
PLACES = ("feature", "parameters")
REDUCTIONS = ("mean", "sum")
DISTANCES = ("low", "high")
TASK = "task"
SMALL = 0.15  # a relative change below this is called small
QUANTILES = (0.5, 0.95)


@dataclass(frozen=True)
class Trace:
    """Gradients of the loss terms at P steps of S trainings under one reduction over D.

    steps: (P,). terms: T names. norms: place → (S, P, T) gradient norm at the student's last map,
    which is pooled into the feature, and at its network's parameters, weights included. cosines:
    place → (T, T) between the terms' gradients, mean over steps and seeds; nan where one is 0.
    """

    reduction: str
    steps: np.ndarray
    terms: list[str]
    norms: dict[str, np.ndarray]
    cosines: dict[str, np.ndarray]

    def find_shares(self, place: str) -> np.ndarray:
        """(S, P, T) each term's part of the sum of the terms' gradient norms."""
        norms = self.norms[place]
        return norms / norms.sum(axis=-1, keepdims=True)

    def estimate_share(self, place: str, *terms: str) -> Estimate:
        """Of some terms together, mean over steps, with its interval over seeds."""
        chosen = [self.terms.index(term) for term in terms]
        return average_seeds(self.find_shares(place)[..., chosen].sum(axis=-1).mean(axis=1))

    def balance(self, place: str, term: str) -> Estimate:
        """The weight λ at which a distance's gradient is as long as that of the raw head's
        cross-entropy, in place of the λ = 1 that was trained with: median over steps, over seeds.
        """
        task, other = (self.norms[place][..., self.terms.index(t)] for t in (TASK, term))
        ratio = np.divide(task, other, out=np.full_like(task, np.nan), where=other > 0)
        return average_seeds(np.nanmedian(ratio, axis=1))


@dataclass(frozen=True)
class Histogram:
    """Of the entries of teacher minus student in the high band. edges: (B + 1,), density: (B,);
    median and top: median and 95 % quantile of their size."""

    edges: np.ndarray
    density: np.ndarray
    median: float
    top: float


@dataclass(frozen=True)
class Gradients:
    """difference: (P,) axis. value, gradient: loss → (P,), from the package's own losses.

    observed: "raw" and "standardised" → differences of the high bands of student and teacher at
    the probed steps of training; where nothing can be trained, of the two modalities. source says
    which. ratio: the same → pair → (S,) logMSE of the high bands of two unimodal networks over
    their MSE. high: standardised MSE of those, every pair and seed. traces: one per reduction, of
    fdcmkd in one direction; empty where nothing can be trained.
    """

    dataset: str
    preset: str
    n: int
    dim: int
    direction: str
    source: str
    difference: np.ndarray
    value: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]
    observed: dict[str, Histogram]
    ratio: dict[str, dict[str, np.ndarray]]
    high: np.ndarray
    traces: list[Trace]

    def estimate_ratio(self, kind: str, pair: str) -> Estimate:
        return average_seeds(self.ratio[kind][pair])

    def finding(self) -> str:
        change = [1 - self.estimate_ratio("standardised", p).mean for p in self.ratio["raw"]]
        text = (
            f"After standardisation logMSE is {min(change):.1%} to {max(change):.1%} below MSE "
            f"of the same high bands (95 % of the differences in {self.source} under "
            f"{self.observed['standardised'].top:.2f}); the MSE term itself is "
            f"{self.high.mean():.4f}, its ceiling 4/D = {4 / self.dim:.4f} (n = {self.n})."
        )
        parts = [
            f"{trace.estimate_share(place, *DISTANCES).mean:.1%} at the {place} ({trace.reduction})"
            for trace in self.traces
            for place in PLACES
        ]
        if parts:
            trace = self.traces[0]
            text += (
                f" The two distances are {', '.join(parts)} of the terms' gradient norms, mean of "
                f"{len(trace.steps)} steps, {len(trace.norms['feature'])} seeds; under the mean "
                f"λ = {trace.balance('parameters', 'low').mean:.0f} would make the low one as "
                "strong as the raw cross-entropy at the parameters."
            )
        return text

    def claims(self) -> list[Claim]:
        after = {p: self.estimate_ratio("standardised", p) for p in self.ratio["raw"]}
        before = {p: self.estimate_ratio("raw", p) for p in self.ratio["raw"]}
        weak = all(1 - r.mean < SMALL for r in after.values())
        strong = all(1 - r.mean > SMALL for r in after.values())
        claims = [
            Claim(
                statement="logMSE relaxes the high band's constraint",
                where="figure 3 and section 3.4; Table 4 credits the step with "
                + describe_step("log"),
                paper="smaller gradient at large differences (curves)",
                ours="; ".join(
                    f"{p}: logMSE/MSE {r.format(2)} after standardisation" for p, r in after.items()
                ),
                control="; ".join(
                    f"{p}: {r.format(2)} without standardisation" for p, r in before.items()
                ),
                verdict=MATCHED if weak else SUPPORTED if strong else OPEN,
                why=f"control matches: plain MSE is within {SMALL:.0%} for every pair",
                n=describe_n(self.n, next(iter(after.values())).n),
            )
        ]
        return claims + ([self._claim_share()] if self.traces else [])

    def _claim_share(self) -> Claim:
        plain, summed = self.traces
        shares = {place: plain.estimate_share(place, *DISTANCES) for place in PLACES}
        largest = max(e.mean if not e.known else e.high for e in shares.values())
        smallest = min(e.mean if not e.known else e.low for e in shares.values())
        other = {place: summed.estimate_share(place, *DISTANCES) for place in PLACES}
        return Claim(
            statement="The distances to the teacher are a working part of the student's gradient",
            where="section 3; figure 5 finds their best weight at 1",
            paper="not measured",
            ours="; ".join(f"{100 * e.mean:.2f} % at the {p}" for p, e in shares.items())
            + f" (mean over D, {self.direction})",
            control="; ".join(f"{100 * e.mean:.1f} % at the {p}" for p, e in other.items())
            + " with the sum over D instead",
            verdict=REFUTED if largest < FELT else SUPPORTED if smallest > FELT else OPEN,
            why=(
                f"agrees (differs) where their part of the terms' gradient norms, interval over "
                f"seeds included, is above (below) {FELT:.0%} at both places"
            ),
            n=f"{len(plain.steps)} training steps, {shares[PLACES[0]].n} seeds",
        )


def trace_losses(points: int = 401) -> tuple[np.ndarray, dict, dict]:
    """Difference axis, and per loss its value and gradient there, by autograd."""
    axis = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    value, gradient = {}, {}
    for name, loss in (("mse", mse), ("logmse", logmse)):
        x = axis.clone().requires_grad_()
        each = torch.stack([loss(v.view(1, 1), torch.zeros(1, 1)) for v in x])
        (slope,) = torch.autograd.grad(each.sum(), x)
        value[name], gradient[name] = each.detach().numpy(), slope.numpy()
    return axis.numpy(), value, gradient


def configure_probes(
    plan: Plan, direction: str = "", probes: int = 9, runs: int = 2
) -> dict[str, list[RunConfig]]:
    """Reduction → the probed runs of fdcmkd, under the first `runs` of the plan's seeds."""
    if plan.definition.is_features or not probes:
        return {}
    way = plan.choose_way(direction)
    return {
        reduction: [
            plan.configure(way.student, "fdcmkd", way.teacher, seed, {"reduction": reduction},
                           probes=probes)
            for seed in plan.seeds[:runs]
        ]
        for reduction in REDUCTIONS
    }  # fmt: skip


def measure_gradients(
    plan: Plan, *, cutoff: float = 0.5, direction: str = "", probes: int = 9, runs: int = 2
) -> Gradients:
    """The two losses' curves, how they differ on real pairs, and what each term does in training.

    direction: of the probed trainings, the data set's first where none is given; probes: steps of
    each at which gradients are measured; runs: trainings per reduction.
    """
    axis, value, gradient = trace_losses()
    configs = configure_probes(plan, direction, probes, runs)
    found = ensure_runs([c for group in configs.values() for c in group], device=plan.device)
    probed = {reduction: [found.pop(0) for _ in group] for reduction, group in configs.items()}
    banks = load_unimodal_banks(plan)
    ratio: dict[str, dict[str, list[float]]] = {kind: {} for kind in STEPS}
    pairs, high = [], []
    for one, two in plan.pairs:
        for seed in plan.seeds:
            pair = [_take_high(banks[m, seed]["feature"], cutoff) for m in (one, two)]
            for kind, step in STEPS.items():
                a, b = map(step, pair)
                quotient = float(logmse(a, b) / mse(a, b))
                ratio[kind].setdefault(f"{one}-{two}", []).append(quotient)
            pairs.append(pair)
            high.append(float(mse(*map(normalise, pair))))
    if probed:
        pairs = [_read_pair(run, cutoff) for run in probed["mean"]]
    first = banks[plan.modalities[0], plan.seeds[0]]["feature"]
    return Gradients(
        plan.dataset,
        plan.preset,
        *first.shape,
        direction=str(probed["mean"][0].record.config.direction) if probed else "",
        source="training" if probed else "the two modalities",
        difference=axis,
        value=value,
        gradient=gradient,
        observed={
            kind: _count([map(step, pair) for pair in pairs]) for kind, step in STEPS.items()
        },
        ratio={k: {p: np.array(v) for p, v in found.items()} for k, found in ratio.items()},
        high=np.array(high),
        traces=[_trace(reduction, group) for reduction, group in probed.items()],
    )


STEPS = {"raw": lambda x: x, "standardised": normalise}


def _take_high(features: np.ndarray, cutoff: float) -> torch.Tensor:
    return split_bands(torch.from_numpy(np.asarray(features)), cutoff).high


def _read_pair(run: Run, cutoff: float) -> list[torch.Tensor]:
    """High bands of student and teacher at every probed step, one row per sample."""
    sides = (run.probes[side].reshape(-1, run.probes[side].shape[-1])
             for side in ("student", "teacher"))  # fmt: skip
    return [_take_high(x[np.isfinite(x).all(axis=1)], cutoff) for x in sides]


def _count(pairs) -> Histogram:
    gaps = torch.cat([(b - a).flatten() for a, b in pairs]).numpy()
    reach = float(np.quantile(np.abs(gaps), 0.999))
    density, edges = np.histogram(gaps, bins=np.linspace(-reach, reach, BINS), density=True)
    median, top = np.quantile(np.abs(gaps), QUANTILES)
    return Histogram(edges, density, float(median), float(top))


def _trace(reduction: str, runs: list[Run]) -> Trace:
    names = [k.removeprefix("loss/") for k in runs[0].record.curves if k.startswith("loss/")]
    products = {place: np.array([run.probes[place] for run in runs]) for place in PLACES}
    reached = [
        i for i in range(len(names)) if any((p[..., i, i] > 0).any() for p in products.values())
    ]  # without the terms that train the heads alone
    norms, cosines = {}, {}
    for place, product in products.items():
        kept = product[..., reached, :][..., reached]  # (S, P, T, T)
        norms[place] = np.sqrt(np.diagonal(kept, axis1=-2, axis2=-1))
        scale = norms[place][..., :, None] * norms[place][..., None, :]
        each = np.divide(kept, scale, out=np.full_like(kept, np.nan), where=scale > 0)
        cosines[place] = np.nanmean(each, axis=(0, 1))
    return Trace(reduction, runs[0].probes["step"], [names[i] for i in reached], norms, cosines)

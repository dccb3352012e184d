"""How far apart are the scales of two modalities' features? (FD-CMKD, figure 1; ICLR, figure 2)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import torch

from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.data.store import find_dataset
from fdlab.losses.features import normalise
from fdlab.reference import read_table
from fdlab.spectral.bands import split_bands
from fdlab.studies.banks import load_unimodal_banks
from fdlab.studies.claims import MATCHED, OPEN, SUPPORTED, Claim
from fdlab.studies.plan import Plan
from fdlab.studies.published import Place
from fdlab.studies.stats import LEVEL, RESAMPLES, average_seeds

QUESTION = "Do the modalities' features differ in mean and deviation, as the scale step assumes?"
TABLE = "fdcmkd_figure1_scale"
QUANTITIES = ("mean", "deviation", "dc_share")
STEPS = ("raw", "standardised", "bands")
DIGITS = 5  # significant ones of a stored profile


@dataclass(frozen=True)
class Layer:
    """One pooled layer of one modality's networks, after one step; see `scale_rows`.

    dim: D channels. profile: (S, D) mean over the test samples of each channel, one row per seed,
    to 5 digits. values: quantity → (S,). "mean" and "deviation" are over all n · D entries,
    "dc_share" is the mean over the samples of `measure_dc_shares`. over_samples: quantity → mean
    over the seeds with a 95 % interval over the test samples, the networks being held fixed.
    """

    modality: str
    node: str
    step: str
    dim: int
    profile: np.ndarray
    values: dict[str, np.ndarray]
    over_samples: dict[str, Estimate]


@dataclass(frozen=True)
class Scale:
    """From the test features of each modality's own networks.

    n: test samples. cutoff: of the step "bands". seeds: one alone where the data are features,
    since every seed would read the same. layers: every modality, layer (from the input to
    "feature") and step. gaps: step → "one-two" → quantity → difference of two modalities'
    features, mean over the seeds with an interval over the samples. models: the network of each
    modality, "" where the data are features.
    """

    dataset: str
    preset: str
    n: int
    cutoff: float
    seeds: list[int]
    layers: list[Layer]
    gaps: dict[str, dict[str, dict[str, Estimate]]]
    models: dict[str, str]

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(layer.modality for layer in self.layers))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.modalities, 2))

    def nodes(self, modality: str) -> list[str]:
        """The layers of a modality's network, from the input to "feature"."""
        found = [layer.node for layer in self.layers if layer.modality == modality]
        return list(dict.fromkeys(found))

    def find(self, modality: str, node: str = "feature", step: str = "raw") -> Layer:
        key = (modality, node, step)
        return next(x for x in self.layers if (x.modality, x.node, x.step) == key)

    def estimate(
        self, quantity: str, modality: str, node: str = "feature", step: str = "raw"
    ) -> Estimate:
        """Over seeds; quantity is one of `QUANTITIES`."""
        return average_seeds(self.find(modality, node, step).values[quantity])

    def estimate_by_width(self, quantity: str, modality: str, node: str = "feature") -> Estimate:
        """Mean or deviation of the standardised rows times √D, over seeds.

        The rows' mean square is 1/D; times √D, layers of different width compare, and the mean is
        the mean cosine of a row with a constant one. Our choice: the loss has no such factor.
        """
        layer = self.find(modality, node, "standardised")
        return average_seeds(layer.values[quantity] * math.sqrt(layer.dim))

    def compare(
        self, quantity: str, one: str, two: str, step: str = "raw", level: float = LEVEL
    ) -> Estimate:
        """Difference of two modalities' features, paired by seed."""
        first, second = (self.find(m, step=step).values[quantity] for m in (one, two))
        return average_seeds(first - second, level)

    def sort_profile(self, modality: str, step: str = "raw") -> np.ndarray:
        """(S, D) channel means of the feature, each seed's in falling order."""
        return np.sort(self.find(modality, step=step).profile, axis=1)[:, ::-1]

    def list_gaps(self, quantity: str, one: str, two: str, step: str = "raw") -> np.ndarray:
        """Absolute differences of two networks that differ in seed: all such pairs.

        The control where one and two are the same modality, each pair once. Two modalities with
        a single seed have that seed's difference.
        """
        first, second = (self.find(m, step=step).values[quantity] for m in (one, two))
        if one != two and len(first) == 1:
            return np.abs(first - second)
        choose = combinations if one == two else permutations
        return np.array([abs(first[s] - second[t]) for s, t in choose(range(len(first)), 2)])

    def find_seed_gap(self, quantity: str, one: str, two: str, step: str = "raw") -> float:
        """The widest difference of two seeds of either modality; nan with a single seed."""
        gaps = [self.list_gaps(quantity, m, m, step) for m in (one, two)]
        return float(np.concatenate(gaps).max()) if len(self.seeds) > 1 else math.nan

    def measured(self) -> dict[Place, Estimate]:
        """Figure 1's two gaps, audio less visual; {} where the paper has no such data set."""
        reports = find_dataset(self.dataset, prepared=False).reports
        if not reports or not {"audio", "visual"} <= set(self.modalities):
            return {}
        return {
            (TABLE, quantity, reports): self.compare(quantity, "audio", "visual")
            for quantity in ("mean", "deviation")
        }

    def controls(self) -> dict[Place, str]:
        return {
            place: "two seeds of one modality differ by up to "
            f"{self.find_seed_gap(place[1], 'audio', 'visual'):.2f}"
            for place in self.measured()
        }

    def finding(self) -> str:
        one, two = max(self.pairs, key=lambda pair: abs(self.compare("mean", *pair).mean))
        many = len(self.seeds) > 1
        found, times = {}, {}
        for quantity in ("mean", "deviation"):
            gap = self.compare(quantity, one, two)
            found[quantity] = gap if many else self.gaps["raw"][f"{one}-{two}"][quantity]
            times[quantity] = _divide(abs(gap.mean), self.find_seed_gap(quantity, one, two))
        intervals = f"{len(self.seeds)} seeds" if many else "over the samples"
        control = (
            f"{times['mean']:.1f} and {times['deviation']:.1f} times the widest gap between two "
            "seeds of one of them"
            if many
            else "with no second seed to compare with"
        )
        shares = [self.estimate("dc_share", m).mean for m in self.modalities]
        return (
            f"Widest gap, {one} - {two}: mean {found['mean'].format(2, sign=True)}, deviation "
            f"{found['deviation'].format(2, sign=True)} ({intervals}, n = {self.n}), {control}; "
            f"the mean over channels holds {min(shares):.0%} to {max(shares):.0%} of a feature's "
            f"energy, which a factor per sample cannot change."
        )

    def claims(self) -> list[Claim]:
        many = len(self.seeds) > 1
        level = 1 - (1 - LEVEL) / 2  # two chances a pair, mean and deviation (Bonferroni)
        gaps = {
            (pair, quantity): self.compare(quantity, *pair, level=level)
            for pair in self.pairs
            for quantity in ("mean", "deviation")
        }
        limits = {(pair, quantity): self.find_seed_gap(quantity, *pair) for pair, quantity in gaps}
        wider = {key: abs(gap.mean) > limits[key] for key, gap in gaps.items()}
        differs = [
            any(gaps[pair, q].excludes(0) and wider[pair, q] for q in ("mean", "deviation"))
            for pair in self.pairs
        ]
        matched = many and not any(wider.values())
        published = {row["quantity"]: row for row in read_table(TABLE)}
        return [
            Claim(
                statement="Features of different modalities differ in scale",
                where="figure 1; earlier version, figure 2",
                paper="audio - visual on CREMA-D: "
                + ", ".join(f"{name} {row['cremad']}" for name, row in published.items()),
                ours="; ".join(
                    f"{a} - {b}: mean {gaps[(a, b), 'mean'].format(2, sign=True)}, "
                    f"deviation {gaps[(a, b), 'deviation'].format(2, sign=True)}"
                    for a, b in self.pairs
                )
                + f" ({len(self.seeds)} seed{'s' if many else ''}, n = {self.n})",
                control="; ".join(
                    f"{a} - {b}: two seeds of one differ by up to "
                    f"{limits[(a, b), 'mean']:.2f} in the mean, "
                    f"{limits[(a, b), 'deviation']:.2f} in the deviation; networks "
                    f"{self.models[a] or 'none'} and {self.models[b] or 'none'}"
                    for a, b in self.pairs
                )
                if many
                else "no second seed",
                verdict=SUPPORTED if all(differs) else MATCHED if matched else OPEN,
                why=(
                    "agrees where for every pair the mean's or the deviation's interval over "
                    "seeds (97.5 % each) excludes 0 and its gap is wider than that of any two "
                    "seeds of either modality; the control matches where no gap is; a pair with "
                    "two kinds of network shows their difference too"
                ),
            )
        ]


def measure_scale(plan: Plan, *, cutoff: float = 0.5) -> Scale:
    """Channel means, overall mean and deviation, and the DC's share: modality by modality, layer
    by layer, seed by seed, before and after the scale step.

    cutoff: fraction of the non-constant bins that are low, for the step "bands".
    """
    banks = load_unimodal_banks(plan)
    seeds = plan.seeds[:1] if plan.definition.is_features else plan.seeds
    n = len(banks[plan.modalities[0], seeds[0]])
    weights = draw_weights(n)
    layers: list[Layer] = []
    resampled = {}
    for modality in plan.modalities:
        own = [banks[modality, seed] for seed in seeds]
        for node in own[0].nodes:
            # The release splits the pooled feature alone; bands of other layers are not used.
            for step in STEPS if node == "feature" else STEPS[:2]:
                rows = [scale_rows(bank[node], step, cutoff) for bank in own]
                moments = np.stack([measure_moments(x) for x in rows])
                values = summarise(moments.mean(axis=1))
                drawn = summarise(weights @ moments)
                means = {q: drawn[q].mean(axis=0) for q in QUANTITIES}
                resampled[modality, node, step] = means
                layers.append(
                    Layer(
                        modality=modality,
                        node=node,
                        step=step,
                        dim=rows[0].shape[1],
                        profile=_round(np.stack([x.mean(axis=0) for x in rows])),
                        values=values,
                        over_samples={q: _span(values[q].mean(), means[q], n) for q in QUANTITIES},
                    )
                )
    result = Scale(
        dataset=plan.dataset,
        preset=plan.preset,
        n=n,
        cutoff=cutoff,
        seeds=list(seeds),
        layers=layers,
        gaps={},
        models={name: side.model for name, side in plan.definition.modalities.items()},
    )
    for step in STEPS:
        for one, two in result.pairs:
            first, second = (resampled[m, "feature", step] for m in (one, two))
            result.gaps.setdefault(step, {})[f"{one}-{two}"] = {
                q: _span(result.compare(q, one, two, step).mean, first[q] - second[q], n)
                for q in QUANTITIES
            }
    return result


def scale_rows(rows: np.ndarray, step: str, cutoff: float = 0.5) -> np.ndarray:
    """(N, D) features after a step of `STEPS`, (N, D) float64.

    "raw": as they are. "standardised": each row over its L2 norm, `losses.features.normalise`, so
    that a row's mean square is 1/D; our choice, to show the step on the whole feature. "bands": as
    FD-CMKD trains, the low and the high band without the DC, each over its own norm, and here
    summed; the bands share no frequency, so a row's mean square is 2/D and its mean 0.
    """
    tensor = torch.from_numpy(np.asarray(rows, dtype=np.float64))
    if step == "raw":
        return tensor.numpy()
    if step == "standardised":
        return normalise(tensor).numpy()
    bands = split_bands(tensor, cutoff)
    return (normalise(bands.low) + normalise(bands.high)).numpy()


def measure_moments(rows: np.ndarray) -> np.ndarray:
    """(N, D) → (N, 3): each row's mean, mean square and DC share."""
    return np.stack(
        [rows.mean(axis=1), np.square(rows).mean(axis=1), measure_dc_shares(rows)], axis=1
    )


def measure_dc_shares(rows: np.ndarray) -> np.ndarray:
    """(N, D) → (N,) part of each row's energy Σ x² that lies in its mean over channels, D · mean².

    A factor per row changes nothing, so it is the same before and after the scale step. Averaged
    over rows it weights every sample alike; of the samples' total energy the DC would hold a part
    that loud samples decide. 0 for a zero row.
    """
    rows = np.asarray(rows, dtype=np.float64)
    energy = np.square(rows).sum(axis=1)
    constant = rows.shape[1] * np.square(rows.mean(axis=1))
    return np.divide(constant, energy, out=np.zeros_like(energy), where=energy > 0)


def summarise(moments: np.ndarray) -> dict[str, np.ndarray]:
    """(…, 3) row moments averaged over rows of equal width → quantity → (…,).

    The deviation over all entries is √(mean square - mean²): exact, since every row has D entries.
    """
    mean, square, share = np.moveaxis(moments, -1, 0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return {"mean": mean, "deviation": deviation, "dc_share": share}


def draw_weights(n: int) -> np.ndarray:
    """(R, n) weights of R bootstrap resamples of n samples, each row summing to 1.

    One draw for every modality, seed and layer: all answer the same events, so that differences
    are paired by sample.
    """
    rng = np.random.default_rng(derive_seed("scale", "samples"))
    draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]
    return np.stack(draws) / n


def _span(mean: float, drawn: np.ndarray, n: int) -> Estimate:
    """Percentile interval of resampled values."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(mean), float(low), float(high), n)


def _round(profile: np.ndarray) -> np.ndarray:
    size = np.floor(np.log10(np.maximum(np.abs(profile), 1e-12)))
    unit = 10 ** (DIGITS - 1 - size)
    return (np.round(profile * unit) / unit).astype(np.float32)


def _divide(one: float, two: float) -> float:
    return one / two if two > 0 else math.nan

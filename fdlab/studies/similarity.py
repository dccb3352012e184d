"""Is it the low frequencies that modalities share? (FD-CMKD, Table 1; ICLR version, CKA figure)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.reference import read_table
from fdlab.spectral.bands import count_low_bins, split_bands
from fdlab.spectral.similarity import (
    linear_cka,
    predict_low_cosine,
    row_cosines,
    shuffle_cka,
    shuffle_cosines,
)
from fdlab.studies.banks import load_unimodal_banks
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.plan import Plan
from fdlab.studies.stats import average_samples, average_seeds, compare_to_null

QUESTION = "Do two modalities share their low frequencies, or only the mean of their features?"
BANDS = ("raw", "low+dc", "low", "high")
CLOSE = 0.02  # cosine: nearer than this to a control counts as the same number


@dataclass(frozen=True)
class Row:
    """One measure of one band of one pair of networks.

    value: over the test samples (for CKA, whose samples are not separate, no interval).
    null: mean and 95 % range over shuffled pairs, n the number of shuffles; p: against it.
    predicted: what the closed form gives from the raw cosine, nan where it says nothing.
    permuted: the same measure after one random order of the channels on both sides, mean and 95 %
    range over orders; the order carries no meaning for a network, so a band whose value the others
    reach as well is not special for its frequency. nan for "raw", which no order changes.
    """

    pair: str
    seed: int
    measure: str
    band: str
    value: Estimate
    null: Estimate
    p: float
    predicted: float
    permuted: Estimate


@dataclass(frozen=True)
class Similarity:
    """n: test samples. cutoff: fraction of the bins that are low. rows: every measurement."""

    dataset: str
    preset: str
    n: int
    dim: int
    cutoff: float
    rows: list[Row]

    @property
    def pairs(self) -> list[str]:
        return list(dict.fromkeys(row.pair for row in self.rows))

    def select(self, measure: str, pair: str, band: str) -> list[Row]:
        """The rows of one cell, one per seed."""
        return [r for r in self.rows if (r.measure, r.pair, r.band) == (measure, pair, band)]

    def average(self, measure: str, pair: str, band: str) -> Estimate:
        """Over seeds."""
        return average_seeds([row.value.mean for row in self.select(measure, pair, band)])

    def average_permuted(self, measure: str, pair: str, band: str) -> float:
        return float(np.mean([row.permuted.mean for row in self.select(measure, pair, band)]))

    def average_null(self, measure: str, pair: str, band: str) -> float:
        return float(np.mean([row.null.mean for row in self.select(measure, pair, band)]))

    def average_prediction(self, pair: str, band: str) -> float:
        return float(np.mean([row.predicted for row in self.select("cosine", pair, band)]))

    def finding(self) -> str:
        gaps = [
            abs(self.average("cosine", p, "low+dc").mean - self.average_prediction(p, "low+dc"))
            for p in self.pairs
        ]
        without = [self.average("cosine", p, "low").mean for p in self.pairs]
        return (
            f"With the DC kept, the low band's cosine is within {max(gaps):.3f} of what the "
            f"features' mean alone predicts; without it, it is {min(without):+.3f} to "
            f"{max(without):+.3f} ({len(self.pairs)} pairs, n = {self.n} test samples)."
        )

    def claims(self) -> list[Claim]:
        return [self._claim_cosine(), self._claim_paired(), self._claim_cka()]

    def _claim_cosine(self) -> Claim:
        ours = [self.average("cosine", p, "low+dc") for p in self.pairs]
        raw = [self.average("cosine", p, "raw") for p in self.pairs]
        closed = [self.average_prediction(p, "low+dc") for p in self.pairs]
        shuffled = [self.average_null("cosine", p, "low+dc") for p in self.pairs]
        reached = [max(pair) for pair in zip(closed, shuffled, strict=True)]
        rises = all(o.mean > r.mean + CLOSE for o, r in zip(ours, raw, strict=True))
        same = all(o.mean <= c + CLOSE for o, c in zip(ours, reached, strict=True))
        return Claim(
            statement="Low-frequency features are more similar across modalities than raw ones",
            where="Table 1, cosine, DC kept in the low band",
            paper=describe_published(),
            ours=_join(
                self.pairs,
                [f"{o.format(2)}, raw {r.mean:.2f}" for o, r in zip(ours, raw, strict=True)],
            ),
            control=_join(
                self.pairs,
                [
                    f"closed form from the mean {c:.2f}, shuffled pairs {n:.2f}"
                    for c, n in zip(closed, shuffled, strict=True)
                ],
            ),
            verdict=REFUTED if not rises else MATCHED if same else SUPPORTED,
            why=(
                f"supported where low exceeds raw by {CLOSE} in every pair (a cosine below 0 is no "
                f"similarity); the control matches where the closed form or the shuffled pairs "
                f"come within {CLOSE} of each"
            ),
        )

    def _claim_paired(self) -> Claim:
        controls = [self.average_null("cosine", p, "low+dc") for p in self.pairs]
        gaps = [
            self.average("cosine", p, "low+dc").mean - c
            for p, c in zip(self.pairs, controls, strict=True)
        ]
        same = all(abs(gap) <= CLOSE for gap in gaps)
        return Claim(
            statement="The pairing matters: true pairs are more similar than shuffled ones",
            where="Table 1, its reading",
            paper="not tested",
            ours=_join(self.pairs, [f"{g:+.3f} above shuffled pairs" for g in gaps]),
            control=_join(self.pairs, [f"shuffled pairs reach {c:.2f}" for c in controls]),
            verdict=MATCHED if same else SUPPORTED if min(gaps) > CLOSE else OPEN,
            why=f"the control matches where every pair is within {CLOSE} of its shuffled pairs",
        )

    def _claim_cka(self) -> Claim:
        differences = []
        for pair in self.pairs:
            low, high = (
                np.array([row.value.mean for row in self.select("cka", pair, band)])
                for band in ("low", "high")
            )
            differences.append(average_seeds(low - high))
        raised = [d.excludes(0) and d.mean > 0 for d in differences]
        lowered = [d.excludes(0) and d.mean < 0 for d in differences]
        permuted = [
            self.average_permuted("cka", p, "low") - self.average_permuted("cka", p, "high")
            for p in self.pairs
        ]
        return Claim(
            statement="The low band is more similar than the high band also by linear CKA",
            where="earlier version, CKA figure",
            paper="low above high (bars, no numbers)",
            ours=_join(self.pairs, [f"low - high {d.format(3, sign=True)}" for d in differences]),
            control=_join(self.pairs, [f"channels in random orders {c:+.3f}" for c in permuted]),
            verdict=SUPPORTED if all(raised) else REFUTED if all(lowered) else OPEN,
            why="supported (refuted) where every pair's interval over seeds lies above (below) 0",
        )


def measure_similarity(
    plan: Plan, *, cutoff: float = 0.5, shuffles: int = 500, orders: int = 20
) -> Similarity:
    """Compare the test features of every pair of modalities, band by band and seed by seed.

    shuffles: random pairings behind each null. orders: random orders of the channels.
    """
    banks = load_unimodal_banks(plan)
    rows: list[Row] = []
    for one, two in plan.pairs:
        for seed in plan.seeds:
            pair = (banks[one, seed]["feature"], banks[two, seed]["feature"])
            rng = np.random.default_rng(derive_seed("similarity", one, two, seed))
            rows += compare_features(*pair, f"{one}-{two}", seed, cutoff, shuffles, orders, rng)
    first = banks[plan.modalities[0], plan.seeds[0]]["feature"]
    return Similarity(plan.dataset, plan.preset, *first.shape, cutoff, rows)


def compare_features(
    one: np.ndarray,
    two: np.ndarray,
    pair: str,
    seed: int,
    cutoff: float,
    shuffles: int,
    orders: int,
    rng: np.random.Generator,
) -> list[Row]:
    """All measures and bands of two aligned (N, D) feature arrays."""
    first, second = (split_all(x, cutoff) for x in (one, two))
    raw = float(row_cosines(one, two).mean())
    below = predict_low_cosine(raw, measure_low_fraction(one.shape[1], cutoff))
    predicted = {"raw": raw, "low+dc": below, "low": 0.0, "high": 0.0}
    permuted = _permute_channels(one, two, cutoff, orders, rng)
    rows = []
    for band in BANDS:
        a, b = first[band], second[band]
        value = average_samples(row_cosines(a, b))
        null = shuffle_cosines(a, b, shuffles, rng)
        p = compare_to_null(value.mean, null)
        head = (pair, seed, "cosine", band)
        rows.append(
            Row(*head, value, _range(null), p, predicted[band], _range(permuted["cosine", band]))
        )
    for band in BANDS:
        if band == "low+dc":
            continue  # CKA centres over samples; a constant over channels is not a sample's mean
        a, b = first[band], second[band]
        cka = linear_cka(a, b)
        null = shuffle_cka(a, b, shuffles // 5, rng)
        p = compare_to_null(cka, null, two_sided=False)
        value = Estimate(cka, np.nan, np.nan, len(a))
        head = (pair, seed, "cka", band)
        rows.append(Row(*head, value, _range(null), p, np.nan, _range(permuted["cka", band])))
    return rows


def _permute_channels(
    one: np.ndarray, two: np.ndarray, cutoff: float, orders: int, rng: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """(measure, band) → (orders,) value with the channels of both sides in one random order."""
    found: dict[tuple[str, str], list[float]] = {(m, "raw"): [np.nan] for m in ("cosine", "cka")}
    for _ in range(orders):
        order = rng.permutation(one.shape[1])
        first, second = (split_all(x[:, order], cutoff) for x in (one, two))
        for band in BANDS[1:]:
            cosine = float(row_cosines(first[band], second[band]).mean())
            found.setdefault(("cosine", band), []).append(cosine)
            if band != "low+dc":
                cka = linear_cka(first[band], second[band])
                found.setdefault(("cka", band), []).append(cka)
    return {key: np.array(values) for key, values in found.items()}


def measure_low_fraction(dim: int, cutoff: float) -> float:
    """Part of the D - 1 zero-mean dimensions that lies in the low band: two per bin, but one for
    the Nyquist bin of an even D. It is the band's part of the energy where that is spread evenly.
    """
    edge = count_low_bins(dim, cutoff)
    return (2 * edge - (dim % 2 == 0 and edge == dim // 2)) / (dim - 1)


def describe_published() -> str:
    """The paper's Table 1 in one line."""
    rows = {row["feature"]: row for row in read_table("fdcmkd_table1_similarity")}
    names = {"cremad": "CREMA-D", "ave": "AVE"}
    return "; ".join(
        ", ".join(f"{feature} {rows[feature][column]}" for feature in rows) + f" ({name})"
        for column, name in names.items()
    )


def split_all(features: np.ndarray, cutoff: float) -> dict[str, np.ndarray]:
    """Band name → (N, D) float64."""
    tensor = torch.from_numpy(np.asarray(features, dtype=np.float64))
    dropped, kept = split_bands(tensor, cutoff), split_bands(tensor, cutoff, dc="low")
    bands = {"raw": tensor, "low+dc": kept.low, "low": dropped.low, "high": dropped.high}
    return {name: band.numpy() for name, band in bands.items()}


def _range(null: np.ndarray) -> Estimate:
    low, high = np.quantile(null, [0.025, 0.975])
    return Estimate(float(null.mean()), float(low), float(high), len(null))


def _join(names: list[str], values: list[str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))

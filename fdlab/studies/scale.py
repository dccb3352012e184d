"""How far apart are the scales of two modalities' features? (FD-CMKD, figure 1; ICLR, figure 2)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.core.estimate import Estimate
from fdlab.studies.banks import load_unimodal_banks
from fdlab.studies.claims import OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.plan import Plan
from fdlab.studies.stats import average_seeds

QUESTION = "Do the modalities' features differ in mean and deviation, as the scale step assumes?"


@dataclass(frozen=True)
class Scale:
    """Per modality, from the test features of its own networks.

    profile: (S, D) mean over the samples of each channel, one row per seed. mean, deviation: (S,)
    over all entries. dc_share: (S,) part of the features' energy that is their mean over channels.
    """

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    profile: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    deviation: dict[str, np.ndarray]
    dc_share: dict[str, np.ndarray]

    @property
    def modalities(self) -> list[str]:
        return list(self.profile)

    def estimate(self, quantity: str, modality: str) -> Estimate:
        """Over seeds; quantity is "mean", "deviation" or "dc_share"."""
        return average_seeds(getattr(self, quantity)[modality])

    def compare(self, quantity: str, one: str, two: str) -> Estimate:
        """Difference of two modalities, paired by seed."""
        values = getattr(self, quantity)
        return average_seeds(values[one] - values[two])

    @property
    def pairs(self) -> list[tuple[str, str]]:
        names = self.modalities
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    def finding(self) -> str:
        widest = max(self.pairs, key=lambda pair: abs(self.compare("mean", *pair).mean))
        gap, spread = self.compare("mean", *widest), self.compare("deviation", *widest)
        shares = [self.estimate("dc_share", m).mean for m in self.modalities]
        return (
            f"Widest gap, {widest[0]} - {widest[1]}: mean {gap.format(2, sign=True)}, deviation "
            f"{spread.format(2, sign=True)} ({gap.n} seeds, n = {self.n}); the mean over channels "
            f"holds {min(shares):.0%} to {max(shares):.0%} of the features' energy."
        )

    def claims(self) -> list[Claim]:
        gaps = {pair: self.compare("mean", *pair) for pair in self.pairs}
        spreads = {pair: self.compare("deviation", *pair) for pair in self.pairs}
        differs = [gaps[p].excludes(0) or spreads[p].excludes(0) for p in self.pairs]
        known = all(gap.known for gap in gaps.values())
        verdict = OPEN if not known else SUPPORTED if all(differs) else REFUTED
        if verdict == REFUTED and any(differs):
            verdict = OPEN
        return [
            Claim(
                statement="Features of different modalities differ in scale",
                where="figure 1; earlier version, figure 2",
                paper="audio - visual on CREMA-D: mean +0.21, deviation +0.08",
                ours="; ".join(
                    f"{a} - {b}: mean {gaps[a, b].format(2, sign=True)}, "
                    f"deviation {spreads[a, b].format(2, sign=True)}"
                    for a, b in self.pairs
                ),
                control="the same architecture and recipe on both sides, intervals over seeds",
                verdict=verdict,
                why="supported where for every pair an interval over seeds excludes 0",
            )
        ]


def measure_scale(plan: Plan) -> Scale:
    """Channel means, overall mean and deviation, and the share of energy at DC, seed by seed."""
    banks = load_unimodal_banks(plan)

    def collect(measure) -> dict[str, np.ndarray]:
        return {
            modality: np.array([measure(banks[modality, s]["feature"]) for s in plan.seeds])
            for modality in plan.modalities
        }

    return Scale(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(banks[plan.modalities[0], plan.seeds[0]]),
        seeds=list(plan.seeds),
        profile=collect(lambda x: x.mean(axis=0)),
        mean=collect(np.mean),
        deviation=collect(np.std),
        dc_share=collect(measure_dc_share),
    )


def measure_dc_share(features: np.ndarray) -> float:
    """Part of the energy of (N, D) features that lies in each row's mean over its channels."""
    energy = np.square(features, dtype=np.float64).sum()
    constant = features.shape[1] * np.square(features.mean(axis=1, dtype=np.float64)).sum()
    return float(constant / energy) if energy > 0 else 0.0

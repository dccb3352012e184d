"""How far apart are the scales of two modalities' features? (FD-CMKD, figure 1; ICLR, figure 2)"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fdlab.core.estimate import Estimate
from fdlab.reference import read_table
from fdlab.studies.banks import load_unimodal_banks
from fdlab.studies.claims import OPEN, SUPPORTED, Claim
from fdlab.studies.plan import Plan
from fdlab.studies.stats import LEVEL, average_seeds

QUESTION = "Do the modalities' features differ in mean and deviation, as the scale step assumes?"


@dataclass(frozen=True)
class Scale:
    """Per modality, from the test features of its own networks.

    profile: (S, D) mean over the samples of each channel, one row per seed. mean, deviation: (S,)
    over all entries. dc_share: (S,) part of the features' energy that is their mean over channels.
    models: the network of each modality, "" where the data are features.
    """

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    profile: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    deviation: dict[str, np.ndarray]
    dc_share: dict[str, np.ndarray]
    models: dict[str, str]

    @property
    def modalities(self) -> list[str]:
        return list(self.profile)

    def estimate(self, quantity: str, modality: str) -> Estimate:
        """Over seeds; quantity is "mean", "deviation" or "dc_share"."""
        return average_seeds(getattr(self, quantity)[modality])

    def compare(self, quantity: str, one: str, two: str, level: float = LEVEL) -> Estimate:
        """Difference of two modalities, paired by seed."""
        values = getattr(self, quantity)
        return average_seeds(values[one] - values[two], level)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.modalities, 2))

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
        level = 1 - (1 - LEVEL) / 2  # two chances a pair, mean and deviation (Bonferroni)
        gaps = {pair: self.compare("mean", *pair, level) for pair in self.pairs}
        spreads = {pair: self.compare("deviation", *pair, level) for pair in self.pairs}
        differs = [gaps[p].excludes(0) or spreads[p].excludes(0) for p in self.pairs]
        published = {row["quantity"]: row for row in read_table("fdcmkd_figure1_scale")}
        return [
            Claim(
                statement="Features of different modalities differ in scale",
                where="figure 1; earlier version, figure 2",
                paper="audio - visual on CREMA-D: "
                + ", ".join(f"{name} {row['cremad']}" for name, row in published.items()),
                ours="; ".join(
                    f"{a} - {b}: mean {gaps[a, b].format(2, sign=True)}, "
                    f"deviation {spreads[a, b].format(2, sign=True)}"
                    for a, b in self.pairs
                ),
                control="networks: "
                + "; ".join(
                    f"{a} - {b}: {self.models[a] or 'none'} and {self.models[b] or 'none'}"
                    for a, b in self.pairs
                ),
                verdict=SUPPORTED if all(differs) else OPEN,
                why=(
                    "supported where for every pair the mean's or the deviation's interval over "
                    "seeds (97.5 % each) excludes 0; a pair with two kinds of network shows their "
                    "difference too"
                ),
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
        models={name: side.model for name, side in plan.definition.modalities.items()},
    )


def measure_dc_share(features: np.ndarray) -> float:
    """Part of the energy of (N, D) features that lies in each row's mean over its channels."""
    energy = np.square(features, dtype=np.float64).sum()
    constant = features.shape[1] * np.square(features.mean(axis=1, dtype=np.float64)).sum()
    return float(constant / energy) if energy > 0 else 0.0

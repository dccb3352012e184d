"""Which measure can see shared content? ROC of each on planted pairs, where the answer is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score, roc_curve

from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.data.planted import PlantedOptions, plant
from fdlab.spectral.bands import count_low_dims
from fdlab.spectral.bases import make_basis
from fdlab.spectral.similarity import Pair

STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.4)
DETECTORS = {
    "raw cosine": ("cosine", "raw"),
    "low + DC cosine": ("cosine", "low+dc"),
    "low cosine": ("cosine", "low"),
    "low CKA": ("cka", "low"),
    "low CKA, debiased": ("cka_debiased", "low"),
    "low neighbours": ("neighbours", "low"),
    "high cosine": ("cosine", "high"),
}
MEANS = (0.5, 1.5)  # the common mean of a draw lies in here; a measure that follows it is misled


@dataclass(frozen=True)
class Detection:
    """How well each detector tells pairs with a shared low band from pairs without.

    strengths: (T,) planted fraction of the low band's energy. auc: detector → one Estimate per
    strength, area under its ROC with a 95 % interval over draws. curves: detector → (2, F) false
    and true positive rate at the strength `shown`. draws: of each kind; events, dim: of a draw.
    "high cosine" looks where nothing is planted and has to stay at 0.5.
    """

    strengths: np.ndarray
    auc: dict[str, list[Estimate]]
    curves: dict[str, np.ndarray]
    shown: float
    draws: int
    events: int
    dim: int

    def find_blind(self) -> list[str]:
        """Detectors whose interval still holds 0.5 at the strength shown."""
        at = int(np.argmin(np.abs(self.strengths - self.shown)))
        return [name for name, found in self.auc.items() if not found[at].excludes(0.5)]


def score_detectors(
    draws: int = 60, *, events: int = 200, dim: int = 64, shown: float = 0.1
) -> Detection:
    """Score every detector over `draws` planted pairs with, and as many without, at each strength.

    Each draw has a common mean of its own, as pairs of real networks do; it is the same on both
    sides and says nothing about shared content.
    """
    without = [_measure(0.0, i, events, dim) for i in range(draws)]
    auc: dict[str, list[Estimate]] = {name: [] for name in DETECTORS}
    curves = {}
    truth = np.repeat([0, 1], draws)
    for strength in STRENGTHS:
        found = [_measure(strength, draws + i, events, dim) for i in range(draws)]
        for name in DETECTORS:
            scores = np.array([draw[name] for draw in without + found])
            auc[name].append(_estimate_auc(float(roc_auc_score(truth, scores)), draws))
            if strength == shown:
                curves[name] = np.array(roc_curve(truth, scores)[:2])
    return Detection(np.array(STRENGTHS), auc, curves, shown, draws, events, dim)


def _measure(strength: float, number: int, events: int, dim: int) -> dict[str, float]:
    seed = derive_seed("detection", strength, number) % 2**31
    mean = float(np.random.default_rng(seed).uniform(*MEANS))
    one, two, _ = plant(
        PlantedOptions(events=events, dim=dim, strength=strength, mean=mean, seed=seed)
    )
    rows = make_basis("dft", dim)
    last = 1 + count_low_dims(dim, 0.5)
    cuts = {"raw": slice(None), "low+dc": slice(last), "low": slice(1, last),
            "high": slice(last, None)}  # fmt: skip
    sides = [x @ rows.T for x in (one, two)]
    pairs = {band: Pair(*(side[:, cut] for side in sides)) for band, cut in cuts.items()}
    return {name: getattr(pairs[band], kind) for name, (kind, band) in DETECTORS.items()}


def _estimate_auc(auc: float, draws: int) -> Estimate:
    """With the standard error of Hanley and McNeil (1982) for `draws` of either kind."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (draws - 1) * (one - auc**2 + two - auc**2)
    half = float(scipy_stats.norm.ppf(0.975)) * np.sqrt(spread) / draws
    return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half), 2 * draws)

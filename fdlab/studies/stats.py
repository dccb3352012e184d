"""Intervals and p-values, on SciPy."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from fdlab.core.estimate import Estimate

LEVEL = 0.95
RESAMPLES = 2000


def average_seeds(values: np.ndarray | list[float], level: float = LEVEL) -> Estimate:
    """Mean over seeds with Student's t interval; one seed has no interval."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def average_samples(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean over samples with a percentile bootstrap interval."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2 or np.ptp(values) == 0:
        return Estimate(mean, mean, mean, len(values))
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(values))


def compare_to_null(value: float, null: np.ndarray, two_sided: bool = True) -> float:
    """Add-one permutation p-value of `value` against draws from its null.

    Two-sided counts draws at least as far from the null's mean; one-sided those at least as large.
    """
    if two_sided:
        centre = null.mean()
        extreme = np.abs(null - centre) >= abs(value - centre) - 1e-12
    else:
        extreme = null >= value - 1e-12
    return float((extreme.sum() + 1) / (len(null) + 1))

"""Intervals, p-values and what a design can find, on SciPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

from fdlab.core.estimate import Estimate

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 2000
MOST_SEEDS = 100_000


def average_percent(values: np.ndarray | list[float], top: float = 100.0) -> Estimate:
    """`average_seeds` of percentages, or of shares with the top 1: Student's interval does not know
    that there is nothing below 0 or above the top."""
    found = average_seeds(values)
    low, high = (float(np.clip(edge, 0, top)) for edge in (found.low, found.high))
    return Estimate(found.mean, low, high, found.n)


def average_seeds(values: np.ndarray | list[float], level: float = LEVEL) -> Estimate:
    """Mean over seeds with Student's t interval; one seed has no interval."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def estimate_deviation(values: np.ndarray | list[float], level: float = LEVEL) -> Estimate:
    """Standard deviation over S seeds with its chi-squared interval, which takes them as normal;
    one seed has none."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Estimate(math.nan, math.nan, math.nan, n)
    found = float(values.std(ddof=1))
    tails = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], n - 1)
    low, high = found * np.sqrt((n - 1) / tails)
    return Estimate(found, float(low), float(high), n)


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


def compare_both(values: np.ndarray, seed: int = 0) -> tuple[Estimate, float]:
    """Mean of (S, n) paired differences with an interval over seeds *and* samples, and a p-value.

    Hierarchical percentile bootstrap: each resample draws S seeds and n samples with replacement,
    the same samples for every seed drawn, since all seeds answer the same test set. p: twice the
    smaller part of the resampled means on one side of 0, with one added to the counts. n of the
    estimate is S, the smaller of the two. With one seed only the samples are drawn, and neither
    says anything about another seed. Percentile intervals over a handful of seeds are too short;
    `average_seeds` beside it is the careful one for S below about ten.
    """
    values = np.asarray(values, dtype=float)
    seeds = len(values)
    means = resample_means(values[None], RESAMPLES, seed)[0]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    side = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (side + 1) / (RESAMPLES + 1))
    return Estimate(float(values.mean()), float(low), float(high), seeds), float(p)


def resample_means(values: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """(R, S, n) values of R rows → (R, draws) means over seeds and samples drawn with replacement,
    the same ones for every row."""
    rows, seeds, samples = values.shape
    by_seed, by_sample = _draw_counts(seeds, samples, draws, seed)
    sums = by_sample.astype(float) @ values.reshape(rows * seeds, samples).T
    return np.einsum("drs,ds->rd", sums.reshape(draws, rows, seeds), by_seed) / (seeds * samples)


@functools.lru_cache(maxsize=1)  # a table draws the same ones for each of its differences
def _draw_counts(seeds: int, samples: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed (draws, S) and sample (draws, n) is drawn; a resampled mean is a product
    of the two."""
    rng = np.random.default_rng(seed)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    by_sample = rng.multinomial(samples, np.full(samples, 1 / samples), size=draws)
    return by_seed, by_sample.astype(np.int32)  # half the memory while it is kept


def average_halves(
    value: float, measure: Callable[[np.ndarray], float], n: int, draws: int = 100, seed: int = 0
) -> Estimate:
    """A statistic of n samples taken together, with an interval over samples.

    measure(rows) is the statistic of some of the samples. The bootstrap would repeat samples, and
    repeated samples are each other's nearest neighbours and raise every kernel measure; so random
    halves without repetition are drawn instead. A half's variance about the whole is that of the
    whole about its expectation (delete-half jackknife, Shao and Wu, 1989): value ± 1.96 of it.
    """
    rng = np.random.default_rng(seed)
    halves = [measure(np.sort(rng.permutation(n)[: n // 2])) for _ in range(draws)]
    half = float(stats.norm.ppf((1 + LEVEL) / 2) * np.std(halves, ddof=1))
    return Estimate(float(value), float(value) - half, float(value) + half, n)


def compare_to_null(value: float, null: np.ndarray, two_sided: bool = True) -> float:
    """Add-one permutation p-value of `value` against draws from its null.

    Two-sided counts draws at least as far from the null's mean; one-sided those at least as large.
    """
    if two_sided:
        # The observed value is one of the exchangeable draws, so it takes part in their centre.
        centre = (null.sum() + value) / (len(null) + 1)
        extreme = np.abs(null - centre) >= abs(value - centre) - 1e-12
    else:
        extreme = null >= value - 1e-12
    return float((extreme.sum() + 1) / (len(null) + 1))


def correct_holm(p: np.ndarray | list[float]) -> np.ndarray:
    """Holm's step-down correction of a family of p-values (Holm, 1979); nan stays out of it.

    The k-th smallest of m is multiplied by m - k + 1, made monotone and cut at 1.
    """
    p = np.asarray(p, dtype=float)
    found = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return found


def compare_answers(one: np.ndarray, two: np.ndarray) -> float:
    """McNemar's exact test of two runs on the same samples: (n,) and (n,) right or not.

    Only the samples that one run answers rightly and the other does not count; under the null each
    falls either way with probability 1/2 (McNemar, 1947; exact binomial form).
    """
    one, two = np.asarray(one, dtype=bool), np.asarray(two, dtype=bool)
    first, second = int((one & ~two).sum()), int((two & ~one).sum())
    if first + second == 0:
        return 1.0
    return float(stats.binomtest(first, first + second, 0.5).pvalue)


def compare_seeds(gaps: np.ndarray | list[float]) -> float:
    """Exact two-sided sign-flip test of S paired differences (SciPy's permutation test).

    The smallest p that S seeds can give is 2 / 2^S: 0.0625 for 5, 0.031 for 6.
    """
    gaps = np.asarray(gaps, dtype=float)
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    found = stats.permutation_test(
        (gaps, np.zeros_like(gaps)),
        lambda a, b, axis=-1: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=2**14,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def find_detectable(deviation: float, seeds: int, level: float = LEVEL) -> float:
    """The true mean difference that a paired t-test over `seeds` finds with 80 % power.

    deviation: of the paired differences. Solved from the noncentral t distribution.
    """
    if seeds < 2:
        return math.inf
    if deviation == 0:
        return 0.0
    top = 10.0
    while _power(top, seeds, level) < POWER:
        top *= 10
    effect = optimize.brentq(lambda d: _power(d, seeds, level) - POWER, 0, top)
    return effect * deviation


def count_seeds(deviation: float, difference: float, level: float = LEVEL) -> int:
    """The fewest seeds with which a paired t-test finds `difference` with 80 % power.

    At most `MOST_SEEDS`, which then means: out of reach.
    """
    if difference == 0:
        return MOST_SEEDS
    effect = abs(difference) / deviation if deviation > 0 else math.inf
    if effect == math.inf:
        return 2
    return _find_fewest(lambda seeds: _power(effect, seeds, level))


def count_seeds_within(deviation: float, margin: float, level: float = LEVEL) -> int:
    """The fewest seeds with which the t interval of a paired difference that is truly 0 lies inside
    ±margin with 80 % probability; at most `MOST_SEEDS`, which then means: out of reach."""
    if deviation == 0:
        return 2
    return _find_fewest(lambda seeds: _chance_within(margin / deviation, seeds, level))


def _find_fewest(power: Callable[[int], float]) -> int:
    """The fewest seeds from 2 with `POWER`, which grows with them."""
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        if power(middle) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low


def _chance_within(margin: float, seeds: int, level: float, points: int = 4096) -> float:
    """Of an interval about 0 to lie inside ±margin, in deviations: given the sample's deviation u
    the mean is normal, and u is averaged over its quantiles."""
    freedom = seeds - 1
    quantiles = (np.arange(points) + 0.5) / points
    u = np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)
    room = margin * math.sqrt(seeds) - stats.t.ppf((1 + level) / 2, freedom) * u
    return float(np.where(room > 0, 2 * stats.norm.cdf(room) - 1, 0.0).mean())


def _power(effect: float, seeds: int, level: float) -> float:
    """Of a two-sided one-sample t-test; effect: mean over deviation."""
    freedom = seeds - 1
    edge = stats.t.ppf((1 + level) / 2, freedom)
    shift = effect * math.sqrt(seeds)
    if shift > 37:  # SciPy's noncentral t underflows there; the power is above 0.99
        return 1.0
    other = stats.nct.cdf(-edge, freedom, shift)  # nan where it is too small for SciPy
    return float(stats.nct.sf(edge, freedom, shift) + np.nan_to_num(other))

"""Statistics: intervals cover, p-values are SciPy's or uniform, power is what simulation gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fdlab.core.errors import UserError
from fdlab.studies import claims
from fdlab.studies.contrast import contrast_answers, contrast_gaps, correct_contrasts, judge
from fdlab.studies.ranking import mark_rows
from fdlab.studies.stats import (
    MOST_SEEDS,
    RESAMPLES,
    average_halves,
    average_seeds,
    compare_answers,
    compare_both,
    compare_seeds,
    compare_to_null,
    correct_holm,
    count_seeds,
    find_detectable,
)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ():
    one = np.array([1, 1, 1, 1, 1, 0, 0, 1, 0, 1], dtype=bool)
    two = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
    expected = scipy_stats.binomtest(5, 6, 0.5).pvalue  # five one way, one the other
    assert compare_answers(one, two) == pytest.approx(expected)
    assert compare_answers(one, one) == 1


def test_mcnemar_holds_its_level_and_is_two_sided():
    rng = draw()
    p = [compare_answers(*(rng.random((2, 200)) < 0.6)) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.08
    one, two = rng.random((2, 200)) < 0.6
    assert compare_answers(one, two) == pytest.approx(compare_answers(two, one))


def test_holm_is_its_definition_and_leaves_nan_out():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    found = correct_holm(p)
    assert found[[4, 0, 3, 2]] == pytest.approx([0.02, 0.03, 0.06, 0.06])
    assert np.isnan(found[1])
    assert correct_holm([0.5, 0.9]).max() <= 1
    assert correct_holm([]).size == 0


def test_holm_holds_the_error_of_a_whole_family():
    rng = draw(1)
    families = rng.random((2000, 10))
    wrong = [(correct_holm(p) < 0.05).any() for p in families]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.015)


def test_the_sign_flip_test_is_exact():
    assert compare_seeds([1, 2, 3, 4, 5]) == pytest.approx(2 / 2**5)  # why five seeds are too few
    assert compare_seeds([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)
    assert compare_seeds([0.0, 0.0]) == 1
    gaps = draw(2).normal(0.5, 1, 7)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1)
    null = (signs * gaps[:, None]).mean(axis=0)
    assert compare_seeds(gaps) == pytest.approx(np.mean(np.abs(null) >= abs(gaps.mean()) - 1e-12))


def test_the_null_p_value_counts_the_value_itself():
    null = np.arange(99.0)
    assert compare_to_null(200.0, null, two_sided=False) == pytest.approx(1 / 100)
    assert compare_to_null(-50.0, null, two_sided=False) == 1
    assert compare_to_null(-150.0, null) == pytest.approx(1 / 100)


@pytest.mark.parametrize("two_sided", [True, False])
def test_permutation_p_values_are_uniform_under_the_null(two_sided):
    rng = draw(3)
    p = []
    for _ in range(400):
        values = rng.standard_normal(100)
        p.append(compare_to_null(values[0], values[1:], two_sided))
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_the_hierarchical_interval_knows_both_sources():
    rng = draw(4)
    seeds, samples = 12, 300
    by_seed, by_sample = rng.normal(0, 3, (seeds, 1)), rng.normal(0, 20, (1, samples))
    values = 2 + by_seed + by_sample + rng.normal(0, 1, (seeds, samples))
    both, _ = compare_both(values)
    # Percentile intervals of two independent sources add up as their variances do.
    wide = np.sqrt(values.mean(axis=1).var() / seeds + values.mean(axis=0).var() / samples)
    assert (both.high - both.low) / 2 == pytest.approx(1.96 * wide, rel=0.1)
    assert both.low < values.mean() < both.high and both.n == seeds


def test_the_hierarchical_bootstrap_is_the_loop_that_it_stands_for():
    values = draw(5).normal(0.3, 1, (5, 40))
    rng, means = draw(6), []
    for _ in range(4000):
        rows, columns = rng.integers(5, size=5), rng.integers(40, size=40)
        means.append(values[np.ix_(rows, columns)].mean())
    found, p = compare_both(values)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.04)
    assert p == pytest.approx(2 * min(np.mean(np.array(means) <= 0), 0.5), abs=0.05)
    assert compare_both(np.ones((3, 9)))[1] == pytest.approx(2 / (RESAMPLES + 1))


def test_halves_give_the_interval_of_a_mean():
    x = draw(7).standard_normal(400)
    found = average_halves(x.mean(), lambda rows: x[rows].mean(), len(x), draws=800)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.1)


@pytest.mark.parametrize("seeds", [2, 4, 6, 20])
def test_the_detectable_difference_is_found_four_times_in_five(seeds):
    deviation = 2.0
    effect = find_detectable(deviation, seeds)
    rng = draw(seeds)
    gaps = rng.normal(effect, deviation, (4000, seeds))
    found = np.array([average_seeds(g).low > 0 for g in gaps])
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    assert count_seeds(deviation, 1.001 * effect) == seeds  # and one fewer would not do
    assert count_seeds(deviation, 0.999 * effect) == seeds + 1


def test_seeds_are_counted_at_the_edges():
    assert count_seeds(1.0, 0.0) == MOST_SEEDS == count_seeds(1.0, 1e-6)
    assert count_seeds(0.0, 1.0) == 2
    assert count_seeds(1.0, 0.5) > count_seeds(1.0, 1.0) > count_seeds(1.0, 5.0)
    assert find_detectable(1.0, 1) == np.inf and find_detectable(0.0, 4) == 0


def answers(rng, p: float, seeds: int = 6, samples: int = 400) -> np.ndarray:
    return rng.random((seeds, samples)) < p


def test_a_contrast_is_paired_and_knows_its_tests():
    rng = draw(8)
    one, two = answers(rng, 0.7), answers(rng, 0.5)
    found = contrast_answers(one, two)
    gaps = 100 * (one.mean(axis=1) - two.mean(axis=1))
    expected = average_seeds(gaps)
    assert (found.seeds.low, found.seeds.high) == pytest.approx((expected.low, expected.high))
    assert found.samples.mean == pytest.approx(gaps.mean()) and found.samples.n == 400
    assert found.flips == pytest.approx(2 / 2**6)
    assert len(found.mcnemar) == 6 and (found.mcnemar < 0.01).all()
    assert found.beats() and not found.loses() and judge([found]) == claims.SUPPORTED
    assert judge([contrast_answers(two, one)]) == claims.REFUTED
    assert judge([found, contrast_answers(one, one)]) == claims.OPEN
    both = correct_contrasts({"a": found, "b": contrast_answers(one, one)})
    assert both["a"].holm == pytest.approx(min(1, 2 * found.p)) and both["b"].holm == 1


def test_one_seed_decides_nothing():
    rng = draw(9)
    found = contrast_answers(answers(rng, 0.9, 1), answers(rng, 0.3, 1))
    assert not found.beats() and judge([found]) == claims.OPEN
    assert found.detectable == np.inf and found.needed == 0
    assert contrast_gaps(np.zeros((2, 5))).p == 1


def test_marks_hold_only_where_the_difference_does():
    rng = draw(10)
    base = answers(rng, 0.6)
    noise = base ^ (rng.random(base.shape) < 0.01)
    rows = {"a": base, "b": noise, "c": answers(rng, 0.3)}
    paper = mark_rows(rows, "paper")
    assert sorted(paper.values()) == ["", "best", "second"] and paper["c"] == ""
    tested = mark_rows(rows)
    assert "best" not in tested.values()  # a and b cannot be told apart
    assert list(tested.values()).count("second") == 1  # but the second beats the third
    clear = mark_rows({"a": answers(rng, 0.9), "b": answers(rng, 0.6), "c": answers(rng, 0.3)})
    assert clear == {"a": "best", "b": "second", "c": ""}
    with pytest.raises(UserError, match="tested, paper"):
        mark_rows(rows, "papers")

"""Similarity measures against SciPy, against direct computation, and on planted answers."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from scipy.spatial import distance

from fdlab.core.errors import UserError
from fdlab.data.planted import BANDS, PlantedOptions, plant
from fdlab.reference import read_table
from fdlab.spectral.similarity import (
    Pair,
    draw_orders,
    find_neighbours,
    linear_cka,
    mutual_neighbours,
    normalise_rows,
    predict_low_cosine,
    row_cosines,
)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    """tr(KHLH) / sqrt(tr(KHKH) tr(LHLH)) with K = XXᵀ, L = YYᵀ and H = 1 - 11ᵀ/n."""
    n = len(x)
    centre = np.eye(n) - np.full((n, n), 1 / n)
    k, m = (centre @ (z.astype(np.float64) @ z.astype(np.float64).T) @ centre for z in (x, y))
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def correlated(seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    shared = draw(seed, n, 6)
    one = shared @ draw(seed + 1, 6, 9) + draw(seed + 2, n, 9) + 1
    return one, shared @ draw(seed + 3, 6, 14) + draw(seed + 4, n, 14) - 2


def bands(x: np.ndarray, dc: str = "drop") -> dict[str, np.ndarray]:
    return {"raw": x} | oracles.split(x, x.shape[1] // 2 // 2, dc)


def test_row_cosines_equal_scipys():
    one, two = draw(0, 30, 11), draw(1, 30, 11) + 0.5
    expected = [1 - distance.cosine(a, b) for a, b in zip(one, two, strict=True)]
    np.testing.assert_allclose(row_cosines(one, two), expected, rtol=0, atol=1e-12)


def test_row_cosines_of_float32_are_computed_in_float64():
    one, two = (draw(seed, 5, 7).astype(np.float32) for seed in (2, 3))
    found = row_cosines(one, two)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, row_cosines(one.astype(float), two.astype(float)))


def test_the_cosine_of_a_zero_row_is_zero():
    one = np.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(row_cosines(one, np.ones((2, 2))), [0, 7 / 5 / np.sqrt(2)])
    assert not normalise_rows(np.zeros((2, 3))).any()


@pytest.mark.parametrize("seed", range(3))
def test_linear_cka_equals_its_gram_matrix_form(seed):
    one, two = correlated(seed)
    assert linear_cka(one, two) == pytest.approx(gram_cka(one, two), rel=1e-10)


def test_cka_of_the_same_features_rotated_scaled_or_shifted_is_1():
    x = draw(4, 50, 8)
    rotation = np.linalg.qr(draw(5, 8, 8))[0]
    for y in (x, x @ rotation, 3.7 * x, -x, x + draw(6, 1, 8), 0.2 * x @ rotation + 5):
        assert linear_cka(x, y) == pytest.approx(1, abs=1e-12)


def test_cka_does_not_see_a_mean_that_every_sample_has():
    one, two = correlated()
    assert linear_cka(one + 100, two + 100) == pytest.approx(linear_cka(one, two), rel=1e-9)


def test_cka_is_symmetric_between_0_and_1():
    one, two = correlated()
    assert linear_cka(one, two) == pytest.approx(linear_cka(two, one), rel=1e-12)
    assert 0 < linear_cka(one, two) < 1


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_cka_of_features_that_do_not_vary_is_0(value):
    constant, other = np.full((60, 8), value), np.full((60, 8), 1.7 * value)
    assert linear_cka(constant, other) == 0
    assert linear_cka(constant, other, debiased=True) == 0
    assert mutual_neighbours(constant, other) == 0
    orders = draw_orders(60, 3, np.random.default_rng(0))
    assert not Pair(constant, other).shuffle_cka(orders).any()


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. (2012), equation 5, on Gram matrices without their diagonals, term by term."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


@pytest.mark.parametrize("seed", range(3))
def test_debiased_cka_is_the_ratio_of_songs_estimators(seed):
    one, two = correlated(seed)
    expected = unbiased_hsic(one, two) / np.sqrt(unbiased_hsic(one, one) * unbiased_hsic(two, two))
    assert linear_cka(one, two, debiased=True) == pytest.approx(expected, rel=1e-9)


def test_only_the_plain_form_is_biased_for_few_samples():
    """Unrelated features, more channels than samples: the plain form is far above 0."""
    found = np.array([
        (linear_cka(one, two), linear_cka(one, two, debiased=True))
        for one, two in ((draw(seed, 40, 128), draw(seed + 50, 40, 128)) for seed in range(40))
    ])  # fmt: skip
    plain, debiased = found.mean(axis=0)
    assert plain > 0.7 and abs(debiased) < 0.02
    assert np.isnan(linear_cka(draw(0, 3, 5), draw(1, 3, 5), debiased=True))


@pytest.mark.parametrize("k", [1, 5, 10, 99])
def test_neighbours_are_those_of_the_sorted_distances(k):
    one, two = correlated()
    gaps = [distance.squareform(distance.pdist(x)) for x in (one, two)]
    near = [[set(np.argsort(row)[1 : 1 + k]) for row in gap] for gap in gaps]
    assert [set(row) for row in find_neighbours(one, k)] == near[0]
    shared = [len(a & b) / min(k, 39) for a, b in zip(*near, strict=True)]
    assert mutual_neighbours(one, two, k) == pytest.approx(np.mean(shared))
    assert mutual_neighbours(one, one @ np.linalg.qr(draw(0, 9, 9))[0] * 3 + 1, k) == 1


def test_orders_are_permutations_and_keep_to_their_class_when_asked():
    labels = np.array([0, 1, 2, 0, 1, 0, 0, 3])
    for given in (None, labels):
        orders = draw_orders(8, 200, np.random.default_rng(1), given)
        assert (np.sort(orders, axis=1) == np.arange(8)).all()
        same = labels[orders] == labels
        assert same.all() if given is not None else not same.all()
    counts = np.array([np.bincount(column, minlength=8) for column in orders.T])
    assert counts[7, 7] == 200  # alone in its class
    assert (counts[0, [0, 3, 5, 6]] > 25).all() and counts[0].sum() == 200


@pytest.mark.parametrize("width", [9, 60])  # CKA's feature form, and its Gram form
def test_a_null_equals_recomputing_everything_for_each_order(width):
    shared = draw(0, 40, 6)
    one, two = (shared @ draw(i, 6, width) + draw(i + 5, 40, width) + i for i in (1, 2))
    orders = draw_orders(40, 20, np.random.default_rng(9))
    pair = Pair(one, two)
    again = [two[order] for order in orders]
    np.testing.assert_allclose(
        pair.shuffle_cosines(orders), [row_cosines(one, y).mean() for y in again], atol=1e-12
    )
    plain, debiased = pair.shuffle_cka(orders)
    np.testing.assert_allclose(plain, [linear_cka(one, y) for y in again], atol=1e-7)
    np.testing.assert_allclose(debiased, [linear_cka(one, y, True) for y in again], atol=1e-6)
    np.testing.assert_allclose(
        pair.shuffle_neighbours(orders), [mutual_neighbours(one, y) for y in again], atol=1e-12
    )
    for null in (plain, debiased, pair.shuffle_cosines(orders)):
        assert np.ptp(null) > 0


@pytest.mark.parametrize("mean, sign", [(0.5, 1), (1.0, 1), (2.3, 1), (1.0, -1)])
def test_independent_features_with_a_common_mean_have_the_low_cosine_that_it_predicts(mean, sign):
    one, two = draw(7, 2000, 512) + mean, draw(8, 2000, 512) + sign * mean
    raw = row_cosines(one, two).mean()
    kept, dropped = [bands(x, "low") for x in (one, two)], [bands(x) for x in (one, two)]
    low = row_cosines(kept[0]["low"], kept[1]["low"]).mean()
    assert raw == pytest.approx(sign * mean**2 / (1 + mean**2), abs=0.005)
    assert low == pytest.approx(2 * raw / (1 + abs(raw)), abs=0.005)
    assert predict_low_cosine(raw) == pytest.approx(low, abs=0.005)
    for band in ("low", "high"):  # without the mean nothing is left
        assert abs(row_cosines(dropped[0][band], dropped[1][band]).mean()) < 0.005


def test_the_papers_low_row_follows_from_its_raw_row():
    table = {row["feature"]: row for row in read_table("fdcmkd_table1_similarity")}
    for data in ("cremad", "ave"):
        raw, low = float(table["raw"][data]), float(table["low"][data])
        assert round(predict_low_cosine(raw), 2) == low
        assert abs(float(table["high"][data])) <= 0.03
    assert round(float(table["raw"]["cremad"]), 2) == round(0.8379, 2)
    assert round(predict_low_cosine(0.8379), 2) == 0.91
    assert round(predict_low_cosine(0.74), 2) == 0.85


def test_the_prediction_leaves_0_and_1_and_raises_all_between():
    raw = np.linspace(0, 1, 11)
    found = predict_low_cosine(raw)
    assert found[0] == 0 and found[-1] == 1
    assert (found[1:-1] > raw[1:-1]).all() and (np.diff(found) > 0).all()


def p_value(value: float, null: np.ndarray) -> float:
    return ((null >= value).sum() + 1) / (len(null) + 1)


@pytest.mark.parametrize("strength, band", [(0.0, "both"), (0.9, "none")])
def test_nothing_planted_is_no_more_similar_than_shuffled_pairs(strength, band):
    one, two, _ = plant(PlantedOptions(events=400, dim=64, strength=strength, band=band, seed=3))
    orders = draw_orders(400, 200, np.random.default_rng(0))
    for name in ("raw", "low", "high"):
        pair = Pair(bands(one)[name], bands(two)[name])
        null = pair.shuffle_cosines(orders)
        assert abs(pair.cosine - null.mean()) < 4 * null.std()
        assert p_value(pair.cka, pair.shuffle_cka(orders)[0]) > 0.02
        assert p_value(pair.neighbours, pair.shuffle_neighbours(orders)) > 0.02


@pytest.mark.parametrize("band, other", [("low", "high"), ("high", "low")])
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_a_shared_band_is_seen_there_with_its_strength_and_not_in_the_other(band, other, strength):
    one, two, _ = plant(PlantedOptions(events=800, dim=128, strength=strength, band=band, seed=1))
    one, two = bands(one), bands(two)
    inside, outside = (Pair(one[b], two[b]) for b in (band, other))
    orders = draw_orders(800, 100, np.random.default_rng(0))
    assert inside.cosine == pytest.approx(strength, abs=0.03)
    assert abs(outside.cosine) < 0.02
    assert inside.cka > inside.shuffle_cka(orders)[0].max()
    assert inside.cka_debiased > inside.shuffle_cka(orders)[1].max()
    assert inside.neighbours > inside.shuffle_neighbours(orders).max()
    assert p_value(outside.cka, outside.shuffle_cka(orders)[0]) > 0.02


@pytest.mark.parametrize("mean, ratio", [(0.0, 1.0), (1.5, 0.25), (-2.0, 4.0)])
def test_the_planted_mean_and_ratio_come_out_as_asked(mean, ratio):
    one, two, _ = plant(PlantedOptions(events=500, mean=mean, ratio=ratio))
    np.testing.assert_allclose(one.mean(axis=1), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(two.mean(axis=1), ratio * mean, rtol=0, atol=1e-12)
    assert np.std(two - ratio * mean) / np.std(one - mean) == pytest.approx(ratio, rel=0.01)
    assert np.std(one - mean) == pytest.approx(1, abs=0.03)
    raw = row_cosines(one, two).mean()
    same = plant(PlantedOptions(events=500, mean=mean, ratio=1.0))
    assert raw == pytest.approx(row_cosines(*same[:2]).mean(), abs=1e-12)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dim", [32, 33])
def test_every_frequency_has_unit_energy_whatever_is_planted(band, strength, dim):
    options = PlantedOptions(
        events=4000, dim=dim, band=band, strength=strength, class_share=0.0, mean=1.5
    )
    for side in plant(options)[:2]:
        energy = (np.abs(np.fft.rfft(side, axis=1)) ** 2).mean(axis=0) / dim
        assert energy[0] == pytest.approx(dim * 1.5**2)
        np.testing.assert_allclose(energy[1:], 1, atol=0.12)


def test_only_a_class_share_makes_events_of_one_class_alike():
    def gap(share: float) -> float:
        one, _, labels = plant(PlantedOptions(strength=1.0, band="both", class_share=share))
        zero_mean = normalise_rows(one - one.mean(axis=1, keepdims=True))
        cosines = zero_mean @ zero_mean.T
        same = labels[:, None] == labels[None, :]
        np.fill_diagonal(same, False)
        return cosines[same].mean()

    assert gap(0.6) == pytest.approx(0.6, abs=0.05)
    assert abs(gap(0.0)) < 0.02


def test_planting_repeats_under_its_seed_and_differs_between_seeds():
    one, again, other = (plant(PlantedOptions(events=20, seed=seed)) for seed in (5, 5, 6))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(one[0], other[0])


@pytest.mark.parametrize(
    "wrong", [{"band": "middle"}, {"strength": 1.1}, {"class_share": -0.1}, {"ratio": 0.0}]
)
def test_planting_the_impossible_is_refused(wrong):
    with pytest.raises(UserError):
        PlantedOptions(**wrong)

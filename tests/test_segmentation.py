"""The look into classes, on counts whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from fdlab.studies.segmentation import compare_classes, spread_classes

K = 4


def count(chosen: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(n, H, W) twice → (n, K, 3), written out."""
    found = np.zeros((len(true), K, 3), np.int32)
    for i, (one, two) in enumerate(zip(chosen, true, strict=True)):
        for k in range(K):
            found[i, k] = (((one == k) & (two == k)).sum(), (one == k).sum(), (two == k).sum())
    return found


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    true = rng.integers(0, K - 1, (12, 6, 5))  # the last class never occurs
    wrong = rng.random(true.shape) < 0.4
    return true, np.where(wrong, rng.integers(0, K - 1, true.shape), true)


def test_the_images_values_average_to_each_classs_ratio(drawn):
    true, chosen = drawn
    found = spread_classes(count(chosen, true))
    expected = 100 * jaccard_score(true.ravel(), chosen.ravel(), average=None, labels=range(K - 1))
    np.testing.assert_allclose(found.mean(axis=0)[:-1], expected)
    assert np.isnan(found[:, -1]).all()


def test_an_images_value_is_what_leaving_it_out_takes_away(drawn):
    true, chosen = drawn
    true, chosen = (np.concatenate([x] * 60) for x in (true, chosen))  # so that one weighs little
    counts = count(chosen, true)
    values, n = spread_classes(counts), len(counts)
    for i in range(3):
        rest = spread_classes(np.delete(counts, i, axis=0)).mean(axis=0)
        change = (n - 1) * (values.mean(axis=0) - rest)
        np.testing.assert_allclose(
            change[:-1], (values[i] - values.mean(axis=0))[:-1], rtol=0.02, atol=0.02
        )


def test_a_planted_gain_in_one_class_is_found_there_alone(drawn):
    true, chosen = drawn
    rng = np.random.default_rng(1)
    plain, better = [], []
    for _ in range(3):
        other = rng.integers(0, K - 1, true.shape)
        noisy = np.where(rng.random(true.shape) < 0.05, other, chosen)
        mended = np.where((true == 1) & (rng.random(true.shape) < 0.9), 1, noisy)
        plain.append(spread_classes(count(noisy, true)))
        better.append(spread_classes(count(mended, true)))
    row = compare_classes("depth2rgb", "ours", np.stack(better), np.stack(plain))
    assert row.gains[1].excludes(0) and row.gains[1].mean > 20 and row.holm[1] < 0.05
    assert row.gains[1].mean == pytest.approx(
        row.values[:, 1].mean() - np.stack(plain)[..., 1].mean()
    )
    assert np.isnan(row.gains[3].mean) and np.isnan(row.holm[3]) and np.isnan(row.found[3].mean)
    same = compare_classes("depth2rgb", "none", np.stack(plain), np.stack(plain))
    assert all(gain.mean == 0 for gain in same.gains[:3])

"""Embedding: the alignment keeps every neighbour, planted separations come out, verdicts follow."""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist, pdist

from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result, write_result
from fdlab.figures import embedding as figures
from fdlab.studies import claims
from fdlab.studies.embedding import (
    APART,
    NEIGHBOURS,
    Embedding,
    Separation,
    align,
    describe_clusters,
    embed_features,
    find_chance,
    lay_flat,
    measure_mixing,
    measure_purity,
    measure_trust,
    probe_modality,
)
from fdlab.studies.plan import make_plan


@pytest.fixture(scope="module")
def smoke(digits):
    return make_plan("digits", "smoke")


@pytest.fixture(scope="module")
def found(smoke):
    ask = {"methods": ["fdcmkd"], "perplexities": [20, 5]}
    return embed_features(smoke, direction="text2audio", **ask)


@pytest.fixture(scope="module")
def plates(found):
    return figures.plates(found)


def draw_points(seed=0, n=40):
    return np.random.default_rng(seed).standard_normal((n, 2)) * [3.0, 1.0]


def test_the_alignment_changes_no_ratio_of_distances():
    points = draw_points(1)
    aligned, _ = align(points, draw_points(2))
    ratios = pdist(aligned) / pdist(points)
    assert np.allclose(ratios, ratios[0])
    assert np.array_equal(np.argsort(cdist(aligned, aligned)), np.argsort(cdist(points, points)))
    assert np.allclose(aligned.mean(axis=0), 0)
    assert (aligned**2).sum(axis=1).mean() == pytest.approx(1)


@pytest.mark.parametrize("mirror", [1, -1])
def test_a_planted_turn_is_undone(mirror):
    points, angle = draw_points(), 0.9
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = 7.0 * (points * [1, mirror]) @ turn + [5.0, -3.0]
    aligned, disparity = align(moved, points)
    assert disparity == pytest.approx(0, abs=1e-12)
    assert np.allclose(aligned, align(points, points)[0])


def test_the_alignment_is_scipys_up_to_its_shrinking():
    for seed in range(5):
        reference, points = draw_points(seed), draw_points(seed + 100)
        _, theirs, disparity = procrustes(reference, points)
        ours, own = align(points, reference)
        assert own == pytest.approx(disparity)
        assert np.allclose(ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs))


def test_the_first_panel_lies_flat_with_the_teacher_on_the_left():
    points = np.concatenate([draw_points(1), draw_points(2)])
    points[:40, 1] += 9
    points[40:, 1] -= 9
    for given in (points, points[::-1], points * [1, -1]):
        flat = lay_flat(given)
        assert flat[:40, 0].mean() < -5 and flat[:, 0].std() > flat[:, 1].std()
        assert np.allclose(pdist(flat), pdist(given))
        assert abs(np.mean(flat[:, 0] * flat[:, 1])) < 1e-9  # principal axes


def measure_trust_plainly(both, points, k):
    """The definition of Venna and Kaski (2001), row by row."""
    n = len(both)
    far, near = cdist(both, both), cdist(points, points)
    np.fill_diagonal(far, -1), np.fill_diagonal(near, -1)
    penalty = 0
    for i in range(n):
        ranks = np.empty(n, dtype=int)
        ranks[np.argsort(far[i])] = np.arange(n)  # the row itself has rank 0
        shown = np.argsort(near[i])[1 : k + 1]
        penalty += np.maximum(ranks[shown] - k, 0).sum()
    return 1 - 2 * penalty / (n * k * (2 * n - 3 * k - 1))


def test_trustworthiness_is_its_definition_and_one_for_the_space_itself():
    rng = np.random.default_rng(0)
    both, points = rng.standard_normal((60, 5)), rng.standard_normal((60, 2))
    expected = measure_trust_plainly(both, points, NEIGHBOURS)
    assert measure_trust(both, points) == pytest.approx(expected)
    assert measure_trust(both, both[:, :2]) > expected
    assert measure_trust(points, points) == 1.0
    assert measure_trust(points, align(points, draw_points(3, 60))[0]) == 1.0


def test_purity_and_mixing_are_counted_from_all_distances():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((50, 8)) + 1, rng.standard_normal((50, 8)) + 1.5
    labels = rng.integers(0, 3, 50)
    gaps = cdist(one, one, "cosine") + 9 * np.eye(50)
    near = np.argsort(gaps)[:, :NEIGHBOURS]
    assert np.allclose(measure_purity(one, labels), (labels[near] == labels[:, None]).mean(axis=1))
    both, side = np.concatenate([one, two]), np.repeat([0, 1], 50)
    near = np.argsort(cdist(both, both) + 99 * np.eye(100))[:, :NEIGHBOURS]
    assert np.allclose(measure_mixing(one, two), (side[near] != side[:, None]).mean(axis=1))


def test_purity_finds_planted_classes_and_chance_without_them():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [10, 20, 30, 60])
    centres = 8 * rng.standard_normal((4, 16))
    apart = centres[labels] + rng.standard_normal((120, 16))
    assert measure_purity(apart, labels).mean() > 0.95
    blind = [measure_purity(rng.standard_normal((120, 16)), labels).mean() for _ in range(20)]
    assert np.mean(blind) == pytest.approx(find_chance(labels), abs=0.01)
    pairs = (labels[:, None] == labels) & ~np.eye(120, dtype=bool)
    assert find_chance(labels) == pytest.approx(pairs.sum() / (120 * 119))


def test_the_modality_is_told_by_a_shift_and_by_nothing_else():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((120, 16))
    assert probe_modality(one, one + 3) == 1.0 and measure_mixing(one, one + 9).max() == 0
    blind = [probe_modality(*rng.standard_normal((2, 120, 16))) for _ in range(20)]
    assert np.mean(blind) == pytest.approx(0.5, abs=0.05)
    mixed = measure_mixing(one, rng.standard_normal((120, 16)))
    assert mixed.mean() == pytest.approx(0.5, abs=0.05)
    # One event's two rows are in one fold: a copy of the teacher is not found by its own noise.
    assert probe_modality(one, one) == pytest.approx(0.5, abs=0.02)


def test_an_embedding_measures_all_seeds_and_draws_some(smoke, found):
    assert found.methods == ["none", "fdcmkd"] and found.seeds == [0, 1] and found.n == 67
    assert found.drawn == [(0, 20), (0, 5), (1, 20), (1, 5)] and len(found.panels) == 8
    assert found.panels[0].disparity == pytest.approx(0, abs=1e-9)
    assert all(0.5 < p.trustworthiness <= 1 and 0 <= p.disparity <= 1 for p in found.panels)
    for panel in found.panels:
        assert panel.points.shape == (2 * found.n, 2) and panel.points.dtype == np.float32
        assert np.sqrt((panel.points**2).sum(axis=1).mean()) == pytest.approx(1, abs=0.01)
    gain = found.contrasts["fdcmkd-none"]
    ours, base = found.find("fdcmkd"), found.find("none")
    assert gain[0].mean == pytest.approx((ours.purities - base.purities).mean())
    assert gain[1].mean == pytest.approx(gain[0].mean) and (gain[0].n, gain[1].n) == (2, 67)
    assert ours.purity_samples.mean == pytest.approx(ours.purity.mean)
    assert f"chance {found.chance:.2f}" in found.finding() and "n = 67" in found.finding()


def test_an_embedding_is_the_same_for_the_same_seed(smoke):
    ask = {"direction": "text2audio", "methods": ["none"], "perplexities": [10], "drawn": 1}
    one, two = (embed_features(smoke, **ask) for _ in range(2))
    assert len(one.panels) == 1 and np.array_equal(one.panels[0].points, two.panels[0].points)
    assert one.finding() == two.finding() and one.claims() == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"drawn": 0}, "at least 1"),
        ({"perplexities": [134]}, "expected 1 to 133"),
        ({"perplexities": [0]}, "expected 1 to 133"),
        ({"perplexities": ["x"]}, "expected a list of int"),
    ],
)
def test_what_cannot_be_drawn_is_refused(smoke, asked, message):
    with pytest.raises(UserError, match=message):
        embed_features(smoke, direction="text2audio", methods=["none"], **asked)


def test_an_embedding_survives_its_file(found, tmp_path):
    write_result(tmp_path / "embedding.json", found)
    again = read_result(tmp_path / "embedding.json")
    assert again.finding() == found.finding() and again.claims() == found.claims()
    assert all(
        np.array_equal(a.points, b.points) for a, b in zip(again.panels, found.panels, strict=True)
    )
    assert again.drawn == found.drawn and again.contrasts == found.contrasts


def separate(method, purity, auc, mixing=0.0, seeds=4):
    """A Separation whose seeds lie within 0.01 of the numbers given."""
    jitter = np.linspace(-0.01, 0.01, seeds)
    return Separation(
        method,
        purity + jitter,
        Estimate(purity, purity - 0.01, purity + 0.01, 500),
        np.minimum(auc + jitter, 1),
        np.full(seeds, mixing),
    )


def make_result(*separations, contrasts=None):
    labels = np.arange(20) % 3
    return Embedding(
        dataset="planted",
        preset="quick",
        n=20,
        direction="first2second",
        seeds=[0, 1, 2, 3],
        chance=find_chance(labels),
        labels=labels,
        panels=[],
        separations=list(separations),
        contrasts=contrasts or {},
    )


def pair(mean):
    """A contrast of this mean: [over seeds, over samples]."""
    seeds = Estimate(mean, mean - 0.05, mean + 0.05, 4)
    return [seeds, Estimate(mean, mean - 0.01, mean + 0.01, 20)]


@pytest.mark.parametrize(
    ("base", "ours", "verdict", "words"),
    [
        (0.99, 0.99, claims.MATCHED, "also there with no distillation"),
        (0.60, 0.99, claims.SUPPORTED, "with FD-CMKD, not with no distillation"),
        (0.99, 0.60, claims.REFUTED, "are there with no distillation"),
        (0.60, 0.55, claims.REFUTED, "no two clusters"),
        (0.99, APART, claims.OPEN, "are there with no distillation"),
        (APART, 0.99, claims.OPEN, "open with no distillation"),
        (APART, APART, claims.OPEN, "do not decide"),
    ],
)
def test_the_words_on_two_clusters_follow_the_numbers(base, ours, verdict, words):
    result = make_result(
        separate("none", 0.5, base),
        separate("fdcmkd", 0.6, ours),
        contrasts={"fdcmkd-none": pair(0.1)},
    )
    assert result.claims()[1].verdict == verdict
    assert words in result.finding()
    assert f"none {result.find('none').auc.format(2)}" in result.finding()


def test_two_clusters_need_more_than_a_probe_and_more_than_one_seed():
    assert separate("none", 0.5, 1.0).apart is True
    assert separate("none", 0.5, 1.0, mixing=0.3).apart is False
    assert separate("none", 0.5, 1.0, seeds=1).apart is None
    assert "do not decide" in describe_clusters(separate("none", 0.5, 1.0, seeds=1), None)
    assert separate("none", 0.5, 1.0).auc.high == 1.0  # cut where no AUC lies


@pytest.mark.parametrize(
    ("gain", "rest", "half", "verdict"),
    [
        (0.2, 0.2, -0.1, claims.SUPPORTED),
        (0.2, 0.0, 0.1, claims.MATCHED),
        (0.2, 0.0, 0.0, claims.OPEN),
        (0.0, 0.2, 0.1, claims.OPEN),
        (-0.2, 0.2, 0.1, claims.REFUTED),
    ],
)
def test_the_verdict_on_classes_asks_the_heads(gain, rest, half, verdict):
    names = ("fdcmkd-none", "fdcmkd-heads_only", "heads_only-half")
    contrasts = dict(zip(names, map(pair, (gain, rest, half)), strict=True))
    methods = [separate(m, 0.5, 1.0) for m in ("none", "heads_only", "fdcmkd")]
    assert make_result(*methods, contrasts=contrasts).claims()[0].verdict == verdict
    wide = contrasts | {"fdcmkd-none": [Estimate(gain, -1, 1, 4), contrasts["fdcmkd-none"][1]]}
    assert make_result(*methods, contrasts=wide).claims()[0].verdict == claims.OPEN


def test_every_panel_is_drawn_with_its_numbers(found, plates):
    assert set(plates) == {"tsne", "modality", "class", "numbers"}
    for by in ("modality", "class"):
        axes = plates[by].figure.axes
        assert len(axes) == len(found.panels)
        for axis, (place, panel) in zip(axes, enumerate(found.panels), strict=True):
            drawn = np.concatenate([marks.get_offsets() for marks in axis.collections[:2]])
            assert np.allclose(drawn, panel.points)
            purity, auc = found.at(panel)
            text = axis.get_xlabel()
            assert f"AUC {auc:.2f}, purity {purity:.2f}" in text
            assert f"{panel.trustworthiness:.3f}" in text
            label = f"seed {panel.seed}, perplexity {panel.perplexity}"
            assert axis.get_ylabel() == (label if place % 2 == 0 else "")
    marks = plates["numbers"].figure.axes[0].lines
    assert any(line.get_xdata()[0] == pytest.approx(found.chance) for line in marks)
    assert len(figures.tables(found)["pictures"].frame) == len(found.panels)
    assert list(figures.tables(found)["separability"].frame["method"]) == found.methods


def test_the_text_of_every_plate_is_legible_and_inside(found, plates):
    narrow = replace(found, panels=[p for p in found.panels if (p.seed, p.perplexity) == (0, 20)])
    for plate in [*plates.values(), *figures.plates(narrow, "neurips").values()]:
        renderer, box = plate.figure.canvas.get_renderer(), plate.figure.bbox
        texts = [t for t in plate.figure.findobj(matplotlib.text.Text) if t.get_text()]
        for text in (t for t in texts if t.get_visible()):
            extent = text.get_window_extent(renderer)
            assert text.get_fontsize() >= 6
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()

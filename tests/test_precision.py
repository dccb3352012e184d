"""bf16 against float32: planted accuracies give the verdicts that closed forms give."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from scipy import stats

from fdlab.core.config import TrainConfig
from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result
from fdlab.figures import precision as figures
from fdlab.figures.save import RESULTS, redraw, save_study
from fdlab.studies.plan import make_plan
from fdlab.studies.precision import (
    BEYOND,
    CHANGED,
    OPEN,
    PLAIN,
    WITHIN,
    Outcome,
    Precision,
    compare_precisions,
    configure_precision,
    count_needed,
    decide,
    read_outcome,
    reorder,
    summarise,
    train_reordered,
)
from fdlab.studies.stats import MOST_SEEDS, count_seeds_within, estimate_deviation
from fdlab.training.fast import Fast
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import complete, find_teacher, fingerprint

N = 1000  # samples of a planted test split
SEEDS = 6


def make_outcomes(counts, *, loss=1.0, seconds=1.0) -> list[Outcome]:
    """Outcomes whose first `count` samples are right, one per seed: no sample is answered twice
    differently but for the difference of the counts."""
    answers = [(np.arange(N) < count).astype(float) for count in counts]
    return [
        Outcome({"validation": right, "last": right}, np.array([loss, loss / 2]), seconds)
        for right in answers
    ]


PLAINS = np.array([700, 720, 740, 700, 720, 740])  # a deviation of 1.79 points
PLANTED = {
    WITHIN: PLAINS + np.array([1, -1, 0, 1, -1, 0]),
    BEYOND: PLAINS + np.array([100, 102, 98, 100, 102, 98]),
    OPEN: PLAINS + np.array([20, -20, 25, -25, 20, -20]),
}


@pytest.mark.parametrize("verdict", PLANTED)
def test_verdicts_follow_planted_accuracies(verdict):
    found = summarise(
        "a2b", "none", make_outcomes(PLAINS), make_outcomes(PLANTED[verdict], seconds=3.0)
    )
    gaps = (PLANTED[verdict] - PLAINS) / N * 100
    interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    spread = np.std(PLAINS / N * 100, ddof=1)
    assert found.spread.mean == pytest.approx(spread)
    change = found.bf16
    assert (change.gap.seeds.low, change.gap.seeds.high) == pytest.approx(tuple(interval))
    inside = -spread < interval.low and interval.high < spread
    outside = interval.low > spread or interval.high < -spread
    assert change.verdict == verdict
    assert (inside, outside) == (verdict == WITHIN, verdict == BEYOND)
    assert change.deviation == pytest.approx(gaps.std(ddof=1))
    assert found.reordered is None and found.seconds.mean == pytest.approx(3.0)


def test_a_difference_downwards_is_beyond_too_and_one_seed_decides_nothing():
    lower = summarise("a2b", "none", make_outcomes(PLAINS), make_outcomes(PLAINS - 100))
    assert lower.bf16.verdict == BEYOND
    alone = summarise("a2b", "none", make_outcomes(PLAINS[:1]), make_outcomes(PLAINS[:1]))
    assert alone.bf16.verdict == OPEN and alone.bf16.needed == 0
    assert math.isnan(alone.spread.mean) and np.isnan(alone.compare_seeds()).all()


def test_both_intervals_have_to_agree():
    narrow, broad = Estimate(0, -0.5, 0.5, 6), Estimate(0, -0.5, 1.5, 6)
    assert decide([narrow], 1.0) == WITHIN and decide([narrow, broad], 1.0) == OPEN
    far, near = Estimate(3, 2, 4, 6), Estimate(3, 0.9, 5, 6)
    assert decide([far], 1.0) == BEYOND and decide([far, near], 1.0) == OPEN
    assert decide([far, Estimate(-3, -4, -2, 6)], 1.0) == OPEN  # on either side
    assert decide([Estimate(0, math.nan, math.nan, 1)], 1.0) == OPEN


def test_the_deviations_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = [estimate_deviation(rng.normal(5, 2, SEEDS)) for _ in range(4000)]
    assert np.mean([d.low <= 2 <= d.high for d in draws]) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_seeds_that_would_decide_do_so_in_four_of_five_draws(ratio):
    rng = np.random.default_rng(1)
    needed = count_seeds_within(1.0, ratio)

    def reached(seeds):
        values = rng.standard_normal((20000, seeds))
        half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=1, ddof=1) / np.sqrt(seeds)
        return (np.abs(values.mean(axis=1)) + half <= ratio).mean()

    assert reached(needed) > 0.79 and reached(needed - 1) < 0.81


def test_the_seeds_that_would_decide_have_their_limits():
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.9)  # many seeds: t is normal
    assert count_seeds_within(1.0, 0.05) == pytest.approx((z / 0.05) ** 2, rel=0.005)
    assert count_seeds_within(0.0, 1.0) == 2 and count_seeds_within(1.0, 0.0) == MOST_SEEDS
    assert count_needed(0.0, 1.0, 0.5) == count_seeds_within(1.0, 0.5)
    # outside the margin: the seeds of a t-test for what lies beyond it; Cohen's table says 34
    assert count_needed(1.5, 1.0, 1.0) == 34 and count_needed(-1.5, 1.0, 1.0) == 34


def test_losses_are_compared_relative_to_float32():
    plain = make_outcomes(PLAINS, loss=2.0)
    found = summarise("a2b", "none", plain, make_outcomes(PLAINS, loss=2.1), plain)
    np.testing.assert_allclose(found.compare_losses()[CHANGED], 0.05)
    assert found.compare_first().mean == pytest.approx(5.0)
    assert found.reordered.same and not found.bf16.same
    two = replace(found, loss=np.array([[2.0, 1.0], [3.0, 1.0]]))
    np.testing.assert_allclose(two.compare_seeds(), [1 / 2.5, 0])  # one pair: their difference


@pytest.fixture(scope="module")
def plan(digits):
    return make_plan("digits", "smoke", seeds=[0, 1])


def test_configurations_differ_in_precision_alone_and_are_runs_of_their_own(plan):
    configs = configure_precision(plan, ["fdcmkd"])
    assert {method for _, method, _ in configs} == {"none", "fdcmkd"} and len(configs) == 8
    store, names = plan.open_store(), set()
    for (precision, method, seed), config in configs.items():
        assert config.train.precision == precision
        other = configs[PLAIN, method, seed]
        assert replace(config, train=replace(config.train, precision=PLAIN)) == other
        teacher = find_teacher(complete(config))
        assert (teacher is None) == (method == "none")
        assert teacher is None or teacher.train.precision == precision
        names.add(fingerprint(complete(config), store))
        names |= {fingerprint(teacher, store)} if teacher else set()
    assert len(names) == len(configs) + 4  # the teachers


def test_recipes_of_a_modality_have_the_precision_too():
    adam = TrainConfig(optimiser="adam")
    plan = replace(make_plan("digits", "smoke", seeds=[0]), recipes={"audio": adam})
    configs = configure_precision(plan, ["kd"], "audio2image").values()
    for config in configs:
        if config.teacher_train:
            assert config.teacher_train == replace(adam, precision=config.train.precision)
    assert {c.teacher_train.precision for c in configs if c.teacher_train} == {PLAIN, CHANGED}


def test_the_control_changes_the_order_and_nothing_else(plan, monkeypatch):
    fast = Fast(resident=True, cache=True, channels_last=True)
    assert reorder(reorder(fast)) == fast
    assert replace(reorder(fast), channels_last=True, fused=False) == fast
    configs = configure_precision(plan, ["fdcmkd"], "audio2image")
    configs = [configs[PLAIN, method, 0] for method in ("none", "fdcmkd")]
    labels = np.array(plan.open_store().labels[plan.open_store().rows("test")])
    kept = [read_outcome(run, labels) for run in ensure_runs(configs, device="cpu")]
    near = train_reordered(configs[:1], "cpu")[0]
    assert near.loss == pytest.approx(kept[0].loss, rel=2e-3)
    # in the same order it is the run on disk, its teacher's training among it
    monkeypatch.setattr("fdlab.studies.precision.reorder", lambda fast: fast)
    for ours, theirs in zip(train_reordered(configs, "cpu"), kept, strict=True):
        np.testing.assert_array_equal(ours.loss, theirs.loss)
        for moment in ("validation", "last"):
            np.testing.assert_array_equal(ours.answers[moment], theirs.answers[moment])


@pytest.fixture(scope="module")
def result(plan):
    return compare_precisions(plan, methods=["none", "fdcmkd"], direction="audio2image")


def test_the_study_runs_through_and_is_drawn_again_the_same(result, tmp_path):
    assert [e.method for e in result.endings] == ["none", "fdcmkd"]
    for ending in result.endings:
        assert ending.accuracy.shape == (2,) and ending.loss.shape == (2, 2)
        assert not ending.bf16.same and np.isfinite(ending.bf16.loss).all()
        assert ending.reordered.accuracy.shape == (2,) and ending.seconds.mean > 0
    assert "n = 67" in result.finding() and "bf16 minus float32" in result.finding()
    folder = save_study("precision", result, folder=tmp_path / "suite")
    again = read_result(folder / RESULTS / "precision.json")
    assert again.finding() == result.finding()
    assert redraw(folder, tmp_path / "again") == ["precision"]
    for path in sorted((folder / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / "figures" / path.name).read_bytes()
    assert json.loads((folder / RESULTS / "precision.json").read_text())


def plant(methods: list[str], control: bool = True) -> Precision:
    rng = np.random.default_rng(2)
    endings = []
    for i, method in enumerate(methods):
        sides = [
            make_outcomes(counts, loss=loss)
            for counts, loss in zip(
                (PLAINS, list(PLANTED.values())[i % 3], PLAINS + rng.integers(-9, 9, SEEDS)),
                (1.0, 1.01, 1.001),
                strict=True,
            )
        ]
        endings.append(summarise("audio2image", method, *(sides if control else sides[:2])))
    return Precision("digits", "quick", "accuracy", N, list(range(SEEDS)), "x", endings, [])


@pytest.mark.parametrize(
    ("methods", "venue", "control"),
    [(["none", "fdcmkd"], "aaai", True), (["none"], "icml", False),
     (["none", "kd", "fdcmkd", "feat", "heads_only"], "neurips", True)],
)  # fmt: skip
def test_no_text_of_a_figure_is_cut_or_covers_another(methods, venue, control):
    found = plant(methods, control)
    assert len(figures.tables(found)["precision"].frame) == len(methods) * (1 + control)
    for key, plate in figures.plates(found, venue).items():
        figure = plate.figure
        renderer, box = figure.canvas.get_renderer(), figure.bbox
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
        hidden = set()  # labels of ticks outside the axis, and of axes that are off
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                    if not (axes.axison and low <= tick.get_loc() <= high):
                        hidden.update((tick.label1, tick.label2))
        shown = [(t, t.get_window_extent(renderer)) for t in texts if t not in hidden]
        for text, extent in shown:
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, (key, text.get_text())
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, (key, text.get_text())
        for (one, a), (two, b) in itertools.combinations(shown, 2):
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            tall = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 1 or tall <= 1, (key, one.get_text(), two.get_text())

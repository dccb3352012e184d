"""Studies: planted answers come out, intervals are SciPy's, verdicts follow their rules."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result, write_result
from fdlab.data import DATASETS
from fdlab.studies import claims, stats
from fdlab.studies.comparison import compare_methods, find_published
from fdlab.studies.contrast import contrast_gaps, judge
from fdlab.studies.distillation import follow_run
from fdlab.studies.gradients import measure_gradients, trace_losses
from fdlab.studies.plan import make_plan
from fdlab.studies.similarity import measure_similarity


@pytest.fixture(scope="module")
def planted():
    return make_plan("planted", "quick")


@pytest.fixture(scope="module")
def smoke(digits):
    return make_plan("digits", "smoke")


def test_the_loss_curves_are_the_closed_forms():
    axis, value, gradient = trace_losses(points=101)
    log = np.log1p(np.abs(axis))
    assert np.allclose(value["mse"], axis**2, atol=1e-5)
    assert np.allclose(gradient["mse"], 2 * axis, atol=1e-5)
    assert np.allclose(value["logmse"], log**2, atol=1e-5)
    slope = 2 * np.sign(axis) * log / (1 + np.abs(axis))
    assert np.allclose(gradient["logmse"], slope, atol=1e-5)


def test_logmse_is_nearer_to_mse_after_the_scale_step(planted):
    result = measure_gradients(planted)
    pair = "first-second"
    assert (
        result.estimate_ratio("raw", pair).mean < result.estimate_ratio("standardised", pair).mean
    )
    assert result.estimate_ratio("standardised", pair).mean < 1
    assert result.high.max() <= 4 / result.dim


def test_the_seed_interval_is_students_t():
    values = [61.0, 64.0, 62.5, 66.0]
    found = stats.average_seeds(values)
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.n == 4 and not stats.average_seeds([1.0]).known


def test_the_sample_interval_covers_as_it_says():
    rng = np.random.default_rng(1)
    covered = [
        not stats.average_samples(rng.normal(0.3, 1, 80), seed=i).excludes(0.3) for i in range(60)
    ]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_p_values_add_one_and_are_uniform_without_an_effect():
    null = np.arange(99, dtype=float)
    assert stats.compare_to_null(1e9, null, two_sided=False) == 0.01
    assert stats.compare_to_null(-1e9, null, two_sided=False) == 1.0
    rng = np.random.default_rng(0)
    values = [stats.compare_to_null(rng.normal(), rng.normal(size=199)) for _ in range(200)]
    assert scipy_stats.kstest(values, "uniform").pvalue > 0.01


def test_verdicts_follow_both_intervals():
    up, down, open_ = Estimate(5, 1, 9, 4), Estimate(-5, -9, -1, 4), Estimate(5, -1, 11, 4)
    plain = contrast_gaps(np.zeros((2, 2)))

    def weigh(*pairs):
        return judge([dataclasses.replace(plain, seeds=s, samples=n) for s, n in pairs])

    assert weigh((up, up), (up, up)) == claims.SUPPORTED
    assert weigh((up, up), (up, open_)) == claims.OPEN
    assert weigh((down, down), (Estimate(-1, -3, 1, 4), down)) == claims.OPEN
    assert weigh((down, down), (down, down)) == claims.REFUTED
    assert weigh((Estimate(5, math.nan, math.nan, 1), up)) == claims.OPEN


def test_a_comparison_pairs_seeds_and_samples(smoke):
    result = compare_methods(smoke, methods=["heads_only", "fdcmkd"], directions=["text2audio"])
    assert result.methods == ["none", "heads_only", "fdcmkd"] and result.n == 67
    base, ours = result.find("text2audio", "none"), result.find("text2audio", "fdcmkd")
    gaps = ours.values["validation"] - base.values["validation"]
    assert ours.gain.mean == pytest.approx(gaps.mean()) and ours.gain.n == 2
    samples = ours.versus_none.samples
    assert samples.mean == pytest.approx(ours.gain.mean) and samples.n == 67
    assert base.gain.mean == 0 and ours.optimism.mean >= 0
    assert ours.extra_parameters == 4 * (64 + 1) * 10 and base.extra_parameters == 0
    contrast = result.contrasts["fdcmkd-heads_only"]["text2audio"].seeds.mean
    heads = result.find("text2audio", "heads_only").values["validation"]
    assert contrast == pytest.approx((ours.values["validation"] - heads).mean())
    assert len(result.runs) == 8  # three methods and the teacher, two seeds
    assert "n = 67" in result.finding() and len(result.claims()) == 2
    half = result.contrasts["heads_only-half"]["text2audio"].seeds.mean
    assert half == pytest.approx(
        (heads - (ours.values["validation"] + base.values["validation"]) / 2).mean()
    )
    assert set(result.marks) == {"tested", "paper"}
    assert "best" in result.marks["paper"]["text2audio"].values()


def test_published_numbers_stand_beside_the_papers_data_sets_alone():
    assert find_published(DATASETS["cremad"], "audio2visual", "fdcmkd") == 71.0
    assert find_published(DATASETS["cremad"], "visual2audio", "none") == 62.4
    assert find_published(DATASETS["digits"], "audio2image", "fdcmkd") is None
    assert find_published(DATASETS["cremad"], "audio2visual", "heads_only") is None


def test_following_a_run_reports_every_rule(smoke):
    result, record = follow_run(smoke, direction="text2audio", method="fdcmkd", seed=0)
    assert set(result.scores) == {"validation", "last", "published"}
    assert result.fingerprint == record.fingerprint
    assert 0 < result.distance_share.max() < 0.2 and len(result.claims()) == 1
    assert sum(v[-1] for v in result.terms.values()) == pytest.approx(
        sum(record.curves[f"loss/{name}"][-1] for name in result.terms)
    )


def test_results_survive_their_file(planted, tmp_path):
    result = measure_similarity(planted, shuffles=20)
    write_result(tmp_path / "similarity.json", result)
    again = read_result(tmp_path / "similarity.json")
    assert again.finding() == result.finding() and len(again.rows) == len(result.rows)
    assert [c.verdict for c in again.claims()] == [c.verdict for c in result.claims()]


def test_a_result_file_cannot_make_what_is_not_ours(tmp_path):
    path = tmp_path / "similarity.json"
    path.write_text('{"__type__": "subprocess:Popen", "args": "true"}')
    with pytest.raises(UserError, match="no part of fdlab's results"):
        read_result(path)
    path.write_text("{broken")
    with pytest.raises(UserError, match="not valid JSON"):
        read_result(path)

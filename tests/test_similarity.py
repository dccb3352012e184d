"""The similarity study: planted answers, nulls that hold their level, curves in the right place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.data.planted import PlantedOptions, plant
from fdlab.figures import similarity as figures
from fdlab.reference import read_table
from fdlab.spectral.bands import split_bands
from fdlab.spectral.bases import BASES
from fdlab.spectral.similarity import (
    Pair,
    draw_orders,
    linear_cka,
    predict_low_cosine,
    row_cosines,
)
from fdlab.studies import claims
from fdlab.studies.detection import DETECTORS, score_detectors
from fdlab.studies.plan import make_plan
from fdlab.studies.similarity import (
    BANDS,
    FEATURE,
    MEASURES,
    NULLS,
    SHUFFLED,
    SPLIT,
    Settings,
    Similarity,
    describe_published,
    describe_sides,
    draw_null,
    judge_sides,
    measure_low_fraction,
    measure_similarity,
    trace_curve,
)
from fdlab.studies.stats import compare_to_null


def compare_sides(sides, labels, settings, seed=0):
    """What the study does for one pair at one node, in one process."""
    measured = describe_sides(sides, {}, settings)
    nulls = {name: draw_null(name, sides, labels, settings, seed) for name in NULLS}
    return judge_sides(measured, nulls, sides, settings)


QUICK = Settings(shuffles=200, splits=40, halves=10)


def measure_planted(settings=QUICK, seeds=1, **options):
    sides, labels = [], None
    for seed in range(seeds):
        one, two, labels = plant(PlantedOptions(events=300, dim=64, seed=seed, **options))
        sides.append((one, two))
    rows = compare_sides(sides, labels, settings)
    return {(row.measure, row.band): row for row in rows}


@pytest.fixture(scope="module")
def result():
    return measure_similarity(make_plan("planted", "quick"), shuffles=100, splits=20, detect=8)


def test_the_closed_form_gives_the_papers_table_from_its_raw_row_alone():
    table = {row["feature"]: row for row in read_table("fdcmkd_table1_similarity")}
    assert round(predict_low_cosine(0.838), 2) == float(table["low"]["cremad"]) == 0.91
    assert round(predict_low_cosine(0.74), 2) == float(table["low"]["ave"]) == 0.85


def test_a_mean_alone_gives_the_papers_table_and_its_closed_form():
    found = measure_planted(strength=0.0, mean=2.3)
    raw, low = found["cosine", "raw"].mean, found["cosine", "low+dc"]
    assert raw == pytest.approx(2.3**2 / (1 + 2.3**2), abs=0.02)
    assert low.mean == pytest.approx(2 * raw / (1 + raw), abs=0.01)
    assert low.predicted == pytest.approx(2 * raw / (1 + raw), abs=0.005)
    assert abs(found["cosine", "high"].mean) < 0.02 and found["cosine", "dc"].mean == 1
    for (_, band), row in found.items():
        for name in SHUFFLED:
            assert band == "dc" or row.nulls[name].p > 0.004


@pytest.mark.parametrize(("band", "other"), [("low", "high"), ("high", "low")])
def test_a_planted_band_is_found_in_its_band_and_not_in_the_other(band, other):
    found = measure_planted(strength=0.6, band=band, mean=1.0, class_share=0.3)
    for measure in MEASURES:
        for name in SHUFFLED:  # within class too: the event is shared, not the class alone
            assert found[measure, band].nulls[name].p < 0.02
            assert found[measure, other].nulls[name].p > 0.02
        assert found[measure, band].mean > found[measure, band].nulls["shuffled"].level.high
    for name in ("reordered", "random"):  # and it is that band that is special
        null = found["cosine", band].nulls[name]
        assert null.p == pytest.approx(1 / 41 * 1, rel=0.01)
        assert found["cosine", band].mean > null.level.high + 0.1


def test_what_only_the_class_shares_is_no_more_than_shuffles_within_class():
    found = measure_planted(strength=0.6, band="low", class_share=1.0)
    for measure in MEASURES:
        row = found[measure, "low"]
        assert row.nulls["shuffled"].p < 0.02
        assert row.nulls["in_class"].p > 0.02 or measure == "cosine"
    assert found["cosine", "low"].mean == pytest.approx(
        found["cosine", "low"].nulls["in_class"].level.mean, abs=0.02
    )


def test_what_is_shared_everywhere_is_not_called_a_frequency():
    found = measure_planted(strength=0.5, band="both", mean=1.0)
    for name in ("reordered", "random"):
        assert found["cosine", "low"].nulls[name].p > 0.05
    assert found["cosine", "low"].nulls["shuffled"].p < 0.01


def test_a_control_that_cannot_change_a_measure_has_no_p_value():
    found = measure_planted(strength=0.3, mean=1.0)
    assert np.isnan(found["cosine", "dc"].nulls["shuffled"].p)  # every DC has the same sign
    for name in SPLIT[1:]:
        assert name not in found["cosine", "raw"].nulls
        assert name not in found["cka", "dc"].nulls
    assert set(found["cosine", "raw"].nulls) == {*SHUFFLED, "one_side"}


def test_nulls_over_seeds_are_of_the_mean_over_seeds():
    one, three = measure_planted(seeds=1, mean=1.0), measure_planted(seeds=3, mean=1.0)
    key = ("cosine", "low")
    assert len(three[key].values) == 3 and three[key].values[0] == one[key].values[0]
    widths = [
        row[key].nulls["shuffled"].level.high - row[key].nulls["shuffled"].level.low
        for row in (one, three)
    ]
    assert widths[1] == pytest.approx(widths[0] / np.sqrt(3), rel=0.35)


def shuffle_p(measure: str, seed: int, labels_too: bool) -> float:
    """One data set with nothing shared, one add-one p-value of one measure of the low band."""
    one, two, labels = plant(PlantedOptions(events=60, dim=32, strength=0.0, seed=seed))
    low = [split_bands(torch.from_numpy(x)).low.numpy() for x in (one, two)]
    pair = Pair(*low)
    rng = np.random.default_rng(seed)
    orders = draw_orders(60, 99, rng, labels if labels_too else None)
    null = {
        "cosine": lambda: pair.shuffle_cosines(orders),
        "cka": lambda: pair.shuffle_cka(orders)[0],
        "cka_debiased": lambda: pair.shuffle_cka(orders)[1],
        "neighbours": lambda: pair.shuffle_neighbours(orders),
    }[measure]()

    return compare_to_null(getattr(pair, measure), null, two_sided=measure == "cosine")


@pytest.mark.parametrize("labels_too", [False, True])
@pytest.mark.parametrize("measure", MEASURES)
def test_p_values_are_uniform_where_nothing_is_shared(measure, labels_too):
    """Kolmogorov–Smirnov over 200 draws; neighbours are counts, whose ties only raise p."""
    p = np.array([shuffle_p(measure, seed, labels_too) for seed in range(200)])
    if measure == "neighbours":
        for level in (0.05, 0.1, 0.25, 0.5):
            assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 200)
    else:
        assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", SPLIT[:3])
def test_p_values_of_other_splits_are_uniform_where_no_frequency_is_special(name):
    settings = Settings(splits=39)
    p = []
    for seed in range(200):
        one, two, labels = plant(PlantedOptions(events=40, dim=16, strength=0.0, seed=seed))
        null = draw_null(name, [(one, two)], labels, settings, seed)["cosine", "low"]
        low = [split_bands(torch.from_numpy(x)).low.numpy() for x in (one, two)]
        p.append(compare_to_null(row_cosines(*low).mean(), null))
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


def test_the_departure_of_the_curve_is_uniform_where_nothing_is_shared():
    settings = Settings(splits=39)
    p = []
    for seed in range(200):
        one, two, _ = plant(PlantedOptions(events=40, dim=16, strength=0.0, seed=seed))
        p.append(trace_curve([(one, two)], settings, seed).p)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("band, sign", [("low", 1), ("high", -1)])
def test_the_curve_departs_where_the_shared_band_ends(band, sign):
    one, two, _ = plant(PlantedOptions(events=400, dim=64, strength=0.8, band=band, mean=1.0))
    curve = trace_curve([(one, two)], QUICK)
    gap = sign * (curve.cosine[0] - curve.predicted)
    assert curve.p == pytest.approx(1 / 41) and curve.where == pytest.approx(0.5, abs=0.05)
    assert gap.max() == pytest.approx(curve.departure) and gap[curve.cutoff < 0.98].min() > -0.01


def test_the_curve_of_a_mean_alone_stays_on_the_closed_form():
    one, two, _ = plant(PlantedOptions(events=2000, dim=64, strength=0.0, mean=1.0))
    curve = trace_curve([(one, two)], QUICK)
    assert curve.departure < 0.01 and curve.p > 0.05
    assert np.abs(curve.cka).max() < 0.01  # debiased, and without the DC


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dim", [32, 33])
def test_the_curve_is_what_splitting_at_every_cutoff_gives(basis, dim):
    if dim == 33 and basis in ("haar", "db4"):
        pytest.skip("wavelets need an even width")
    one, two, _ = plant(PlantedOptions(events=30, dim=dim, strength=0.4))
    curve = trace_curve([(one, two)], Settings(basis=basis, splits=3))
    for place in (0, 1, 5, dim // 2):
        cutoff = place / (dim // 2)
        kept, dropped = (
            [split_bands(torch.from_numpy(x), cutoff, dc, basis=basis).low.numpy()
             for x in (one, two)]
            for dc in ("low", "drop")
        )  # fmt: skip
        assert curve.cosine[0, place] == pytest.approx(row_cosines(*kept).mean(), abs=1e-6)
        if place:
            expected = linear_cka(*dropped, debiased=True)
            assert curve.cka[0, place] == pytest.approx(expected, abs=1e-6)
    assert curve.cosine[0, -1] == pytest.approx(row_cosines(one, two).mean(), abs=1e-6)


@pytest.mark.parametrize("cutoff", [0.25, 0.5, 0.75])
def test_a_mean_alone_is_never_called_support(cutoff):
    """At every cut-off the closed form follows, and the verdict blames the control."""
    settings = dataclasses.replace(QUICK, cutoff=cutoff)
    found = measure_planted(settings, strength=0.0, mean=1.0)
    low = found["cosine", "low+dc"]
    assert low.predicted == pytest.approx(low.mean, abs=0.02)
    rows = [
        dataclasses.replace(
            row,
            pair="a-b",
            node=FEATURE,
            nulls={k: dataclasses.replace(n, holm=n.p) for k, n in row.nulls.items()},
        )
        for row in found.values()
    ]
    result = Similarity("planted", "quick", 300, 64, cutoff, "dft", rows, {}, None)
    cosine, paired, frequency, cka = (claim.verdict for claim in result.claims())
    assert cosine == paired == frequency == claims.MATCHED and cka != claims.SUPPORTED


def test_opposite_means_mirror_the_closed_form():
    one, two, labels = plant(PlantedOptions(events=300, dim=64, strength=0.0, mean=1.0))
    rows = compare_sides([(one, -two)], labels, Settings(shuffles=9, splits=2, halves=0))
    low = next(row for row in rows if (row.measure, row.band) == ("cosine", "low+dc"))
    assert low.mean < -0.5 and low.mean == pytest.approx(low.predicted, abs=0.02)


def test_the_low_fraction_counts_dimensions():
    assert measure_low_fraction(512, 0.5) == pytest.approx(256 / 511)
    assert measure_low_fraction(512, 1.0) == measure_low_fraction(511, 1.0) == 1.0
    assert measure_low_fraction(8, 0.0) == 0.0
    assert "low 0.91" in describe_published() and "high -0.01 (AVE)" in describe_published()


def test_bands_of_unequal_widths_have_no_cosine():
    one, _, labels = plant(PlantedOptions(events=60, dim=32))
    two, _, _ = plant(PlantedOptions(events=60, dim=16))
    rows = compare_sides([(one, two)], labels, Settings(shuffles=9, splits=2, halves=0))
    assert {row.measure for row in rows} == set(MEASURES[1:])


def test_only_some_measures_see_a_weak_shared_band():
    found = score_detectors(draws=20, events=150, dim=32, shown=0.2)
    at = list(found.strengths).index(0.2)
    assert found.auc["low cosine"][at].mean > 0.95
    assert found.auc["low cosine"][at].mean > found.auc["raw cosine"][at].mean + 0.2
    assert 0.25 < found.auc["high cosine"][at].mean < 0.75  # nothing is planted there
    assert set(found.curves) == set(DETECTORS) and "low cosine" not in found.find_blind()


def test_the_study_runs_end_to_end_and_survives_its_file(result, tmp_path):
    write_result(tmp_path / "similarity.json", result)
    again = read_result(tmp_path / "similarity.json")
    assert again.finding() == result.finding() and len(again.rows) == len(result.rows)
    assert [c.verdict for c in again.claims()] == [c.verdict for c in result.claims()]
    family = [
        row.nulls["shuffled"] for row in result.rows if row.measure == "cka" and row.band != "dc"
    ]
    assert all(null.holm >= null.p for null in family)
    assert {row.band for row in result.rows} == set(BANDS)


def test_figures_draw_the_studys_values_and_tables_keep_every_row(result):
    axis = figures.plates(result)["cosine"].figure.axes[0]
    means = [float(line.get_ydata()[0]) for line in axis.lines if len(line.get_xdata()) == 2]
    pair = result.pairs[0]
    for band in set(BANDS) - {"dc"}:
        assert result.find("cosine", pair, band).mean in means
    tables = figures.tables(result)
    assert len(tables["table1"].frame) == len(MEASURES) * len(BANDS)
    assert len(tables["detection"].frame) == len(DETECTORS)


def test_a_wrong_split_is_refused_before_anything_runs():
    plan = make_plan("planted", "quick")
    with pytest.raises(UserError, match="unknown basis"):
        measure_similarity(plan, basis="fourier")
    with pytest.raises(UserError, match="0 to 1"):
        measure_similarity(plan, cutoff=2.0)


def test_untrained_and_alike_networks_are_measured_on_real_data(digits):
    plan = make_plan("digits", "smoke", seeds=[0, 1])
    result = measure_similarity(plan, shuffles=20, splits=4, untrained=3, detect=0, halves=3)
    row = result.find("cosine", "image-audio", "low+dc")
    assert row.nulls["untrained"].level.n == 3 and len(row.shared_start) == 2
    assert not len(result.find("cosine", "image-text", "low+dc").shared_start)
    assert result.nodes("image-audio") == ["stem", "layer1", "layer2", "layer3", FEATURE]
    drawn = figures.plates(result)
    assert set(drawn) == {"cosine", "measures", "curve", "layers"}

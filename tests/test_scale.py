"""Scale: planted moments come out of every layer, the scale step's laws hold, the control bites."""

from __future__ import annotations

import math
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import split, unit
from scipy import stats as scipy_stats

from fdlab.core.results import read_result, write_result
from fdlab.data.planted import PlantedOptions, plant
from fdlab.features.bank import FeatureBank
from fdlab.figures import scale as figures
from fdlab.figures.style import VENUES
from fdlab.spectral.similarity import normalise_rows
from fdlab.studies import claims
from fdlab.studies.plan import make_plan
from fdlab.studies.scale import (
    QUANTITIES,
    STEPS,
    draw_weights,
    measure_dc_shares,
    measure_moments,
    measure_scale,
    scale_rows,
    summarise,
)

SEEDS, EVENTS = 4, 150
NARROW = min(VENUES, key=lambda name: VENUES[name].text)
DIMS = {  # an odd width among them
    "image": {"stem": 12, "layer1": 16, "feature": 33},
    "audio": {"stem": 12, "layer1": 16, "feature": 33},
    "text": {"layer1": 33, "feature": 33},
}
MEANS = {"image": 0.5, "audio": 0.7, "text": -1.0}
DEVIATIONS = {"stem": 0.3, "layer1": 0.6, "feature": 1.2}


def make_banks(means=MEANS, wobble=0.01, seeds=SEEDS):
    """(modality, seed) → bank whose every layer has its modality's mean, its node's deviation, and
    seeds that differ in both by up to `wobble`, evenly spread about 0."""
    rng = np.random.default_rng(3)
    banks = {}
    for modality, dims in DIMS.items():
        for seed in range(seeds):
            shift = 0.0 if seeds == 1 else wobble * (seed / (seeds - 1) - 0.5)
            features = {}
            for node, dim in dims.items():
                noise = rng.standard_normal((EVENTS, dim))
                noise = (noise - noise.mean()) / noise.std()
                rows = means[modality] + shift + (DEVIATIONS[node] + shift) * noise
                features[node] = rows.astype(np.float32)
            features["logits"] = np.zeros((EVENTS, 10), np.float32)
            banks[modality, seed] = FeatureBank(
                np.arange(EVENTS), np.zeros(EVENTS, np.int64), features
            )
    return banks


def measure(banks):
    """The study over given banks; nothing is trained or read."""
    seeds = sorted({seed for _, seed in banks})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fdlab.studies.scale.load_unimodal_banks", lambda plan: banks)
        return measure_scale(make_plan("digits", "quick", seeds=seeds))


@pytest.fixture(scope="module")
def banks():
    return make_banks()


@pytest.fixture(scope="module")
def result(banks):
    return measure(banks)


@pytest.fixture(scope="module")
def planted():
    return measure_scale(make_plan("planted", "quick"))


@pytest.fixture(scope="module")
def drawn(result, planted):
    return {"result": figures.plates(result), "planted": figures.plates(planted)}


def test_scale_recovers_the_planted_mean_and_ratio(planted):
    assert planted.estimate("mean", "first").mean == pytest.approx(1.0, abs=0.01)
    assert planted.estimate("deviation", "first").mean == pytest.approx(1.0, abs=0.02)
    assert planted.estimate("dc_share", "first").mean == pytest.approx(0.5, abs=0.02)
    one, two, _ = plant(PlantedOptions(ratio=3.0, mean=0.4))
    found = [summarise(measure_moments(x).mean(axis=0)) for x in (one, two)]
    assert found[1]["mean"] == pytest.approx(3 * found[0]["mean"])
    assert found[1]["deviation"] / found[0]["deviation"] == pytest.approx(3.0, rel=0.02)
    after = [summarise(measure_moments(scale_rows(x, "standardised")).mean(0)) for x in (one, two)]
    assert after[1]["mean"] == pytest.approx(after[0]["mean"], rel=0.02)


def test_every_layer_gives_its_planted_moments(result):
    assert result.modalities == list(DIMS) and result.n == EVENTS
    for modality, dims in DIMS.items():
        assert result.nodes(modality) == list(dims)
        for node, dim in dims.items():
            layer = result.find(modality, node)
            assert layer.dim == dim and layer.profile.shape == (SEEDS, dim)
            mean, deviation = (result.estimate(q, modality, node) for q in ("mean", "deviation"))
            assert mean.mean == pytest.approx(MEANS[modality], abs=1e-6) and mean.n == SEEDS
            assert deviation.mean == pytest.approx(DEVIATIONS[node], abs=1e-6)
            assert layer.over_samples["mean"].mean == pytest.approx(mean.mean)
            assert layer.over_samples["mean"].n == EVENTS
    gap = result.compare("mean", "audio", "text")
    assert gap.mean == pytest.approx(1.7, abs=1e-6) and gap.n == SEEDS


def test_the_study_agrees_with_its_transcription(banks, result):
    """NumPy in float64 that shares no code with the package."""
    for layer in result.layers:
        for seed in range(SEEDS):
            rows = banks[layer.modality, seed][layer.node].astype(np.float64)
            if layer.step == "standardised":
                rows = unit(rows)
            elif layer.step == "bands":
                bands = split(rows, math.floor(0.5 * (layer.dim // 2)))
                rows = unit(bands["low"]) + unit(bands["high"])
            constant = np.repeat(rows.mean(axis=1, keepdims=True), layer.dim, axis=1)
            share = np.mean((constant**2).sum(axis=1) / (rows**2).sum(axis=1))
            expected = {"mean": rows.mean(), "deviation": rows.std(), "dc_share": share}
            for quantity, value in expected.items():
                assert layer.values[quantity][seed] == pytest.approx(value, rel=1e-9, abs=1e-12)
            assert layer.profile[seed] == pytest.approx(rows.mean(axis=0), rel=6e-5, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(2, 40))
def test_a_factor_per_sample_leaves_the_dc_share_as_it_is(seed, dim):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, dim)) + rng.standard_normal()
    factors = np.exp(rng.uniform(-8, 8, (6, 1))) * rng.choice([-1, 1], (6, 1))
    shares = measure_dc_shares(rows)
    assert np.all((shares >= 0) & (shares <= 1 + 1e-12))
    assert measure_dc_shares(factors * rows) == pytest.approx(shares, rel=1e-9, abs=1e-12)
    assert measure_dc_shares(scale_rows(rows, "standardised")) == pytest.approx(shares, abs=1e-12)


def test_dc_share_is_one_for_a_constant_and_zero_without_a_mean():
    assert measure_dc_shares(np.full((5, 8), -2.0)) == pytest.approx(np.ones(5))
    assert measure_dc_shares(np.array([[1.0, -1.0], [0.0, 0.0]])).tolist() == [0.0, 0.0]


def test_the_scale_step_fixes_the_mean_square(banks, result):
    rows = banks["image", 0]["feature"]
    after = scale_rows(rows, "standardised")
    assert after == pytest.approx(normalise_rows(rows), abs=1e-12)  # the NumPy twin
    assert np.linalg.norm(after, axis=1) == pytest.approx(np.ones(EVENTS))
    for modality, dims in DIMS.items():
        for node, dim in dims.items():
            values = result.find(modality, node, "standardised").values
            square = values["mean"] ** 2 + values["deviation"] ** 2
            assert square == pytest.approx(np.full(SEEDS, 1 / dim), rel=1e-6)
            raw = result.find(modality, node).values["dc_share"]
            assert values["dc_share"] == pytest.approx(raw, rel=1e-9)
            wide = [result.estimate_by_width(q, modality, node) for q in ("mean", "deviation")]
            assert wide[0].mean == pytest.approx(values["mean"].mean() * dim**0.5)
            assert np.all([abs(x.mean) <= 1 for x in wide])


def test_the_bands_as_trained_leave_nothing_of_the_moments(result):
    for modality, dims in DIMS.items():
        values = result.find(modality, step="bands").values
        assert values["mean"] == pytest.approx(np.zeros(SEEDS), abs=1e-12)
        assert values["dc_share"] == pytest.approx(np.zeros(SEEDS), abs=1e-12)
        expected = np.full(SEEDS, math.sqrt(2 / dims["feature"]))
        assert values["deviation"] == pytest.approx(expected, rel=1e-6)


def test_the_profile_averages_to_the_mean_and_sorts_to_itself(result):
    for layer in result.layers:
        means = layer.profile.astype(np.float64).mean(axis=1)
        assert means == pytest.approx(layer.values["mean"], abs=5e-5)
    for step in STEPS:
        profile = result.find("image", step=step).profile
        ordered = result.sort_profile("image", step)
        assert np.all(np.diff(ordered, axis=1) <= 0)
        assert np.array_equal(np.sort(ordered, axis=1), np.sort(profile, axis=1))


def test_sample_intervals_are_the_bootstraps(banks, result):
    """SciPy's bootstrap of the rows gives the same intervals, up to its own draws."""
    moments = [measure_moments(banks["text", s]["feature"].astype(float)) for s in range(SEEDS)]
    columns = [m[:, k] for m in moments for k in (0, 1)]

    def deviation(*columns, axis):
        pairs = zip(columns[::2], columns[1::2], strict=True)
        return np.mean([np.sqrt(q.mean(axis) - m.mean(axis) ** 2) for m, q in pairs], axis=0)

    found = result.find("text").over_samples["deviation"]
    other = scipy_stats.bootstrap(
        columns, deviation, paired=True, n_resamples=2000, method="percentile", random_state=1
    ).confidence_interval
    width = other.high - other.low
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.12 * width)
    gap = result.gaps["raw"]["image-text"]["mean"]
    rows = np.mean(
        [
            (banks["image", s]["feature"].astype(float) - banks["text", s]["feature"]).mean(axis=1)
            for s in range(SEEDS)
        ],
        axis=0,
    )
    half = 1.96 * rows.std() / math.sqrt(EVENTS)
    assert gap.mean == pytest.approx(1.5, abs=1e-6) and gap.n == EVENTS
    assert (gap.low, gap.high) == pytest.approx((1.5 - half, 1.5 + half), abs=0.25 * half)
    assert draw_weights(9).sum(axis=1) == pytest.approx(1)


def test_the_control_is_every_pair_of_seeds(result):
    values = {m: result.find(m).values["mean"] for m in ("image", "audio")}
    within = result.list_gaps("mean", "image", "image")
    assert within.max() == pytest.approx(np.ptp(values["image"])) and len(within) == 6
    across = result.list_gaps("mean", "image", "audio")
    assert len(across) == SEEDS * (SEEDS - 1)
    assert np.mean(across) == pytest.approx(0.2, abs=1e-6)
    widest = max(np.ptp(v) for v in values.values())
    assert result.find_seed_gap("mean", "image", "audio") == pytest.approx(widest)


@pytest.mark.parametrize(
    ("means", "wobble", "verdict"),
    [
        (MEANS, 0.01, claims.SUPPORTED),
        (MEANS, 5.0, claims.MATCHED),  # paired by seed each gap is sure, and still the control wins
        ({"image": 0.5, "audio": 0.5, "text": -1.0}, 0.01, claims.OPEN),
    ],
)
def test_the_verdict_needs_a_gap_beyond_the_seeds(means, wobble, verdict):
    found = measure(make_banks(means, wobble))
    claim = found.claims()[0]
    assert claim.verdict == verdict
    assert f"{SEEDS} seeds, n = {EVENTS}" in claim.ours and "two seeds of one" in claim.control
    assert "+0.21" in claim.paper and "+0.08" in claim.paper
    gap = found.compare("mean", "audio", "text")
    times = abs(gap.mean) / found.find_seed_gap("mean", "audio", "text")
    assert f"{times:.1f} and " in found.finding() and f"n = {EVENTS}" in found.finding()


def test_one_seed_has_no_control_and_no_verdict(planted):
    single = measure(make_banks(seeds=1))
    for found in (planted, single):
        assert found.claims()[0].verdict == claims.OPEN
        assert "no second seed" in found.finding() and "over the samples" in found.finding()
        assert len(found.seeds) == 1 and math.isnan(found.find_seed_gap("mean", *found.pairs[0]))


@pytest.mark.parametrize("which", ["result", "planted"])
def test_a_result_survives_its_file(which, request, tmp_path):
    found = request.getfixturevalue(which)
    write_result(tmp_path / "scale.json", found)
    again = read_result(tmp_path / "scale.json")
    assert again.finding() == found.finding() and again.claims() == found.claims()
    for one, two in zip(again.layers, found.layers, strict=True):
        assert np.array_equal(one.profile, two.profile) and one.over_samples == two.over_samples
    for name, table in figures.tables(again).items():
        assert table.frame.equals(figures.tables(found)[name].frame)


@pytest.mark.parametrize("which", ["result", "planted"])
def test_bars_stand_on_the_estimates(which, request, drawn):
    found, axes = request.getfixturevalue(which), drawn[which]["bars"].figure.axes
    for axis, quantity in zip(axes, QUANTITIES, strict=True):
        heights = [bar.get_height() for bar in axis.patches]
        expected = [found.estimate(quantity, m).mean for m in found.modalities]
        assert heights == pytest.approx(expected)


def test_lines_stand_on_the_profile_and_on_the_layers(result, drawn):
    plates = drawn["result"]
    lines = plates["profile"].figure.axes[0].lines[:3]
    for line, modality in zip(lines, result.modalities, strict=True):
        assert line.get_ydata() == pytest.approx(result.find(modality).profile[0])
    axis = plates["layers"].figure.axes[5]
    lines = {line.get_label(): line for line in axis.lines if line.get_label() in DIMS}
    for modality, line in lines.items():
        expected = [result.estimate("dc_share", modality, n).mean for n in DIMS[modality]]
        assert line.get_ydata() == pytest.approx(expected)
    # A shorter network ends at the feature too, and its layers go by their own names.
    assert np.round(lines["text"].get_xdata()).tolist() == [1, 2]
    names = [text.get_text().strip() for text in axis.get_xticklabels()]
    assert names == ["stem", "layer1", "feature"]


def test_layers_of_another_name_are_named_with_their_owner():
    names = {"image": ["stem", "conv", "feature"], "text": ["embed", "feature"]}
    stub = SimpleNamespace(modalities=list(names), nodes=names.get)
    labels = [label.strip() for label in figures._name_layers(stub, 3)]
    assert labels == ["stem", "conv\n(text:\nembed)", "feature"]


@pytest.mark.parametrize(("which", "venue"), [("result", ""), ("planted", ""), ("result", NARROW)])
def test_text_is_legible_and_inside_every_figure(which, venue, request, drawn):
    found = request.getfixturevalue(which)
    plates = figures.plates(found, venue) if venue else drawn[which]
    assert set(plates) == {"profile", "bars", "layers", "control"}
    for name, plate in plates.items():
        plate.figure.canvas.draw()  # saving draws again too, which settles the layout
        renderer = plate.figure.canvas.get_renderer()
        box = plate.figure.get_tightbbox(renderer)  # in inches, of what is drawn
        assert box.x0 >= 0 and box.x1 <= plate.figure.get_figwidth() + 1e-9, name
        assert box.y0 >= 0 and box.y1 <= plate.figure.get_figheight() + 1e-9, name
        for text in plate.figure.findobj(matplotlib.text.Text):
            assert text.get_fontsize() >= 6 or not text.get_text()


def test_tables_have_a_row_per_layer_and_step(result):
    tables = figures.tables(result)
    layers, pairs = sum(map(len, DIMS.values())), 3
    assert len(tables["summary"].frame) == 3 + pairs
    for name in ("layers", "samples"):
        assert len(tables[name].frame) == 2 * layers + 3 + 3 * pairs
        assert f"n = {EVENTS}" in tables[name].caption
    assert not tables["samples"].frame.map(lambda text: "-0.0000" in text).any().any()

"""Divergence by frequency: planted maps give the closed forms, controls what was planted."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.spatial.distance import cdist

from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result, write_result
from fdlab.execute.forecast import NEEDS
from fdlab.figures import spectrum as figures
from fdlab.spectral.divergence import (
    METRICS,
    compare_distributions,
    draw_noise,
    find_rings,
    list_coefficients,
    measure_divergence,
    pool_energies,
    predict_divergence,
    sum_energies,
    transform,
)
from fdlab.spectral.similarity import linear_cka
from fdlab.studies import claims
from fdlab.studies.map_pairs import BANDS, EVENT, PAIR, SCENE, gather, pair_events
from fdlab.studies.plan import make_plan
from fdlab.studies.spectrum import (
    CKA,
    MEAN,
    MMD,
    NOISE,
    ONE,
    OTHER,
    OWN,
    UNTRAINED,
    VIEW,
    Row,
    configure_spectrum,
    describe_rows,
    fit_channels,
    judge_gap,
    judge_ratio,
    look_at_noise,
    measure_spectrum,
    reduce_rows,
    stack_readings,
    summarise,
)
from fdlab.training.runs import complete, find_name

SHAPES = [(5, 16, 16), (3, 9, 9), (4, 8, 13), (2, 11, 10)]


def release_bands(maps: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """FreqKD's two bands (N, C, h, w), by a shifted complex transform and its inverse's real part;
    unit: the radius that counts as 1, in bins."""
    h, w = maps.shape[-2:]
    rows, columns = np.arange(h) - h // 2, np.arange(w) - w // 2
    radii = np.sqrt(rows[:, None] ** 2 + columns**2) / unit
    shifted = np.fft.fftshift(np.fft.fft2(maps, norm="ortho"), axes=(-2, -1))
    parts = (shifted * mask for mask in (radii <= 0.25, radii >= 0.75))
    return tuple(np.fft.ifft2(np.fft.ifftshift(x, (-2, -1)), norm="ortho").real for x in parts)


def measure(one: torch.Tensor, two: torch.Tensor, standardised: bool = False):
    """Metric → (N, G) of pairs of maps, and what energies (3, N, G), rings they come from."""
    rings = find_rings(*one.shape[2:])
    spectra = [transform(x, standardised).to(torch.complex128) for x in (one, two)]
    sides = [*spectra, spectra[0] - spectra[1]]
    energies = [sum_energies(x, rings.weights.double()).numpy() for x in sides]
    return measure_divergence(*energies, one.shape[1:], rings.bins), energies, rings


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bands_and_metrics_are_the_releases(shape):
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(6, *shape, generator=generator) + 0.5 for _ in range(2))
    found, _, rings = measure(one, two, standardised=True)
    sides = []
    for x in (one.numpy(), two.numpy()):
        centred = x - x.mean(axis=(2, 3), keepdims=True)
        sides.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    bands = zip(*(release_bands(x, min(shape[1:]) / 2) for x in sides), strict=True)
    for place, (t, s) in enumerate(bands):
        t, s = (x.reshape(len(x), -1) for x in (t, s))
        gap, own = np.square(t - s), np.square(t).sum(axis=1)
        cosine = (t * s).sum(axis=1) / np.linalg.norm(t, axis=1) / np.linalg.norm(s, axis=1)
        apart = (t - s).reshape(len(t), shape[0], -1)
        own_bins = rings.bins[place] - (place == 0)  # the low band's but the mean over positions
        apart = apart - apart.mean(axis=2, keepdims=True) if place == 0 else apart
        average = np.square(apart).mean(axis=(1, 2)) * shape[1] * shape[2] / own_bins
        expected = {"mse": gap.mean(axis=1), "per_bin": average,
                    "relative": gap.sum(axis=1) / own, "cosine": 1 - cosine}  # fmt: skip
        for metric in METRICS:
            np.testing.assert_allclose(found[metric][:, place], expected[metric], rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rings_hold_every_bin_once_and_energies_add_up(shape):
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    rings = find_rings(*shape[1:])
    assert rings.bins[2:].sum() == shape[1] * shape[2] == rings.weights[2:].sum()
    energies = sum_energies(transform(maps, standardised=False), rings.weights)
    torch.testing.assert_close(energies[:, 2:].sum(dim=1), maps.square().sum(dim=(1, 2, 3)))
    assert (np.diff(rings.radii) > 0).all() and len(rings.radii) == len(rings.bins) - 2


def test_maps_that_share_their_low_band_alone_diverge_at_high_frequencies_alone():
    generator = torch.Generator().manual_seed(2)
    layout, *details = (torch.randn(200, 8, 16, 16, generator=generator) for _ in range(3))
    low = torch.from_numpy(release_bands(layout.numpy(), 8)[0])
    one, two = (low + torch.from_numpy(release_bands(x.numpy(), 8)[1]) for x in details)
    found, energies, rings = measure(one, two)
    for metric in METRICS:
        assert np.abs(found[metric][:, 0]).max() < 1e-10
    expected = predict_divergence(*energies[:2], one.shape[1:], rings.bins)
    for metric in METRICS:
        assert found[metric][:, 1].mean() == pytest.approx(expected[metric][1], rel=0.01)
    assert found["relative"][:, 1].mean() == pytest.approx(2, rel=0.02)
    assert found["cosine"][:, 1].mean() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("slope", "power"), [(0.0, 0), (1.0, -2)])
def test_noise_has_ratio_one_but_where_the_metric_counts_bins_or_energy(slope, power):
    generator = torch.Generator().manual_seed(3)
    one, two = (draw_noise((400, 4, 16, 16), slope, generator) for _ in range(2))
    found, energies, rings = measure(one, two)
    ratio = {m: x[:, 1].mean() / x[:, 0].mean() for m, x in found.items()}
    k = np.fft.fftfreq(16) * 16
    radii = np.sqrt(k[:, None] ** 2 + k**2) / 8
    spectrum = np.where(radii > 0, np.maximum(radii, 1e-9), np.inf if power else 1.0) ** power
    bands = [spectrum[radii <= 0.25], spectrum[radii >= 0.75]]
    assert ratio["mse"] == pytest.approx(bands[1].sum() / bands[0].sum(), rel=0.03)
    low = spectrum[(radii > 0) & (radii <= 0.25)]
    assert ratio["per_bin"] == pytest.approx(bands[1].mean() / low.mean(), rel=0.03)
    assert ratio["cosine"] == pytest.approx(1, rel=0.01)
    # Of few numbers a side's energy varies, and so does what it divides: more at low frequencies.
    expected = predict_divergence(*energies[:2], (4, 16, 16), rings.bins)["relative"]
    assert ratio["relative"] == pytest.approx(expected[1] / expected[0], rel=0.02)


@given(st.lists(st.integers(0, 4), min_size=6, max_size=90), st.integers(8, 40), st.integers(0, 99))
def test_mismatched_pairs_are_derangements_within_random_chunks(labels, batch, seed):
    labels = np.array(labels)
    chunks = pair_events(labels, np.random.default_rng(seed), batch)
    assert sorted(np.concatenate([c.places for c in chunks])) == list(range(len(labels)))
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    for chunk in chunks:
        own = np.arange(len(chunk.places))
        assert (chunk.partners[PAIR] == own).all()
        for name in (EVENT, SCENE):
            assert (chunk.partners[name] != own).all()
        assert sorted(chunk.partners[EVENT]) == list(own)
        assert (chunk.partners[EVENT] != chunk.partners[SCENE]).all() or 1 in counts.values()
        kinds = labels[chunk.places]
        several = np.array([counts[kind] > 1 for kind in kinds])
        assert (kinds[chunk.partners[SCENE]] == kinds)[several].all()


def test_coefficients_have_the_products_of_the_bands_maps():
    maps = torch.randn(5, 3, 9, 12, generator=torch.Generator().manual_seed(4))
    spectrum, rings = transform(maps, standardised=False), find_rings(9, 12)
    bands = release_bands(maps.numpy(), 4.5)
    for group, band in zip(rings.weights, bands, strict=False):
        rows, flat = list_coefficients(spectrum, group, 10_000).numpy(), band.reshape(5, -1)
        np.testing.assert_allclose(rows @ rows.T, flat @ flat.T, rtol=1e-5, atol=1e-4)
        pooled = np.square(band).sum(axis=(2, 3))
        np.testing.assert_allclose(pool_energies(spectrum, group).numpy() ** 2, pooled, rtol=1e-4)
    few = [list_coefficients(spectrum, rings.weights[1], 20).numpy() for _ in range(2)]
    assert few[0].shape == (5, 20) and (few[0] == few[1]).all()
    assert np.isin(few[0], list_coefficients(spectrum, rings.weights[1], 10_000).numpy()).all()


def test_reduced_rows_leave_cka_as_it_is():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(30, 200))
    two = 0.3 * one[:, :80] + rng.normal(size=(30, 80))
    for debiased in (False, True):
        found = linear_cka(reduce_rows(one), reduce_rows(two), debiased)
        assert found == pytest.approx(linear_cka(one, two, debiased), abs=1e-9)
    assert reduce_rows(one).shape == (30, 30)


def test_mmd_is_its_definition():
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=(12, 3)), rng.normal(0.5, size=(12, 3))
    swaps = rng.choice([-1, 1], (5, 12))
    value, null = compare_distributions(one, two, swaps)
    rows = np.concatenate([one, two])
    scale = np.median(cdist(rows, rows, "sqeuclidean")[np.triu_indices(24, 1)])

    def define(x: np.ndarray, y: np.ndarray) -> float:
        xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / scale)
                      for a, b in ((x, x), (y, y), (x, y)))  # fmt: skip
        apart = ~np.eye(len(x), dtype=bool)
        return float((xx + yy - xy - xy.T)[apart].mean())

    assert value == pytest.approx(define(one, two), abs=1e-12)
    for swap, found in zip(swaps, null, strict=True):
        kept = (swap == 1)[:, None]
        expected = define(np.where(kept, one, two), np.where(kept, two, one))
        assert found == pytest.approx(expected, abs=1e-12)
    assert compare_distributions(one[:, :1] * 0, two[:, :1] * 0, swaps)[0] == 0


def test_mmd_is_calibrated_also_for_pairs_that_share_much_and_finds_a_shift():
    rng = np.random.default_rng(2)
    p, far = [], []
    for _ in range(150):
        common = rng.normal(size=(40, 4))
        one, two = (common + 0.7 * rng.normal(size=(40, 4)) for _ in range(2))
        swaps = rng.choice([-1, 1], (99, 40))
        for shift, kept in ((0.0, p), (0.8, far)):
            value, null = compare_distributions(one, two + shift, swaps)
            kept.append(((null >= value - 1e-12).sum() + 1) / 100)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(far) <= 0.05) > 0.95


def read_planted(draw) -> dict[str, dict]:
    """Metric → verdict and row of planted maps, `draw` giving those of each seed as two
    (n, C, h, w), beside mismatched pairs of them."""
    readings = []
    for _ in range(4):
        maps = dict(zip(("first", "shown"), draw(), strict=True))
        chunks = pair_events(np.zeros(len(maps["first"]), int), np.random.default_rng(0))
        found = gather(
            lambda places, maps=maps: {side: {"block": x[places]} for side, x in maps.items()},
            chunks,
            {(ONE, PAIR): ("first", "shown", PAIR), (ONE, EVENT): ("first", "shown", EVENT)},
        )
        readings.append(summarise(found))
    keys = readings[0].measured
    rows = describe_rows({key: stack_readings(readings, key) for key in keys})
    rows = {(r.metric, r.pairing): r for r in rows if r.block == MEAN}
    return {m: (judge_ratio(rows[m, PAIR], rows[m, EVENT]), rows[m, PAIR]) for m in METRICS}


def test_verdicts_tell_pairs_from_what_all_events_share():
    generator = torch.Generator().manual_seed(5)

    def draw(slope: float, count: int = 160) -> torch.Tensor:
        x = draw_noise((count, 6, 16, 16), slope, generator)
        return x / x.std()

    def pair(base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return base + 0.4 * draw(0), base + 0.4 * draw(0)

    paired = read_planted(lambda: pair(draw(1.0)))
    assert paired["cosine"][0] == paired["relative"][0] == claims.SUPPORTED
    layout = draw(2.0, 1)  # the same in every event and on both sides
    shared = read_planted(lambda: pair(layout))
    assert shared["cosine"][0] == shared["relative"][0] == claims.MATCHED
    alone = read_planted(lambda: (draw(1.0), draw(1.0)))
    assert alone["cosine"][0] == alone["per_bin"][0] == claims.OPEN
    assert alone["per_bin"][1].ratio.high < 1  # the spectrum's own slope
    for metric in METRICS:
        row = alone[metric][1]
        assert not row.excess[EVENT].excludes(0)
        assert row.ratio.mean == pytest.approx(row.independent, rel=0.05)


def plant_rows(seeds, excess, independent=1.0, width=0.05) -> tuple[Row, Row]:
    """True and mismatched pairs, of these ratios a seed."""
    seeds, excess = np.array(seeds), np.array(excess)

    def estimate(values):
        return Estimate(values.mean(), values.mean() - width, values.mean() + width, len(values))

    nothing = estimate(seeds)
    own = Row(ONE, PAIR, MEAN, "mse", nothing, nothing, estimate(seeds), seeds, independent,
              {EVENT: estimate(excess)})  # fmt: skip
    return own, replace(own, pairing=EVENT, seeds=seeds - excess, excess={})


def test_a_ratio_is_judged_by_both_intervals():
    high, low, wide = [1.5, 1.52, 1.48], [0.5, 0.52, 0.48], [1.2, 2.8, 1.1]
    more, less, loose = [0.4, 0.41, 0.39], [-0.4, -0.41, -0.39], [0.1, 0.9, 0.2]
    assert judge_ratio(*plant_rows(high, more)) == claims.SUPPORTED
    for excess in ([0.01, 0.0, -0.01], less, loose):
        assert judge_ratio(*plant_rows(high, excess)) == claims.MATCHED
    assert judge_ratio(*plant_rows(low, more)) == claims.REFUTED
    assert judge_ratio(*plant_rows(low, more, independent=0.3)) == claims.OPEN  # energies alone
    assert judge_ratio(*plant_rows(low, more, independent=0.7)) == claims.REFUTED
    assert judge_ratio(*plant_rows(wide, more)) == claims.OPEN
    assert judge_ratio(*plant_rows(high, more, width=0.8)) == claims.OPEN
    assert judge_ratio(*plant_rows([1.5], [0.4])) == claims.OPEN  # one seed


def test_cka_of_the_bands_is_compared_where_either_holds_more_than_shuffled_pairs():
    up, down, across = (Estimate(m, m - 0.1, m + 0.1, 2) for m in (0.2, -0.2, 0.05))
    assert judge_gap(up, 0.01, 0.5) == claims.SUPPORTED
    assert judge_gap(down, 0.5, 0.01) == claims.REFUTED
    assert judge_gap(across, 0.01, 0.01) == judge_gap(up, 0.5, 0.01) == claims.OPEN
    assert judge_gap(up, 0.3, 0.5) == judge_gap(down, 0.06, 0.5) == claims.MATCHED


def test_standardised_white_noise_shows_what_is_the_metrics_own():
    found = gather(
        lambda places: {"a": {"block": torch.zeros(len(places), 16, 16, 16)}},
        pair_events(np.zeros(6, int), np.random.default_rng(0)),
        {(ONE, PAIR): ("a", "a", PAIR)},
    )
    reading = look_at_noise(found, standardised=True)
    key = (NOISE, "white")
    rows = {r.metric: r for r in describe_rows({key: stack_readings([reading], key)})}
    low, high = found["block"].rings.bins[:2]
    assert rows["mse"].ratio.mean == pytest.approx(high / (low - 1), rel=0.05)  # without its mean
    assert rows["per_bin"].ratio.mean == pytest.approx(1, rel=0.05)
    assert rows["relative"].ratio.mean == pytest.approx(1, rel=0.05)
    assert rows["cosine"].ratio.mean == pytest.approx(1, rel=0.02)


def test_a_network_for_colours_sees_one_channel_three_times():
    x = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert (fit_channels(x, 3) == x).all() and fit_channels(x, 3).shape == (2, 3, 2, 2)
    assert (fit_channels(torch.cat([x, 3 * x], dim=1), 1) == 2 * x).all()
    assert fit_channels(x, 1) is x


@pytest.fixture(scope="module")
def plan():
    small = make_plan("rooms", "smoke", seeds=[0, 1], epochs=1)
    return replace(small, data_options={"limit": 72, "side": 32})


@pytest.fixture(scope="module")
def result(plan):
    return measure_spectrum(plan, network="deeplabv3plus", untrained=1, shuffles=20)


def test_the_study_compares_every_block_with_every_control(plan, result):
    names = [block.name for block in result.blocks]
    assert names == ["layer1.0", "layer1.1"]  # the only ones with eight rows
    assert result.n == len(plan.open_store().rows("test")) and result.direction == "rgb2thermal"
    assert set(result.pairings(ONE)) == {PAIR, EVENT, SCENE, UNTRAINED, VIEW, OTHER}
    assert result.pairings(ONE) == result.pairings(OWN)
    for block in (MEAN, *names):
        for metric in METRICS:
            row = result.find(ONE, PAIR, metric, block)
            assert row.low.mean > 0 and row.ratio.mean == pytest.approx(
                row.high.mean / row.low.mean
            )
            every = {EVENT, SCENE, UNTRAINED, VIEW, OTHER}
            assert row.ratio.known and len(row.seeds) == 2
            assert set(row.excess) == (every if block == MEAN else every - {SCENE, OTHER})
            event = result.find(ONE, EVENT, metric, block).ratio.mean
            assert row.excess[EVENT].mean == pytest.approx(row.ratio.mean - event)
    curve = result.find_curve(OWN, PAIR, "relative", names[0])
    bins = find_rings(8, 8).bins
    assert len(curve.means) == len(bins) - 2 and (curve.span[0] <= curve.span[1]).all()
    configs = [complete(c) for c in configure_spectrum(plan, "", "deeplabv3plus").values()]
    asked = {"direction": "", "network": "deeplabv3plus"}
    assert result.runs == sorted(map(find_name, configs))
    assert result.runs == sorted(find_name(complete(c)) for c in NEEDS["spectrum"](plan, asked))


def test_noise_on_the_inputs_is_nearer_than_another_modality_and_another_event(result):
    for metric in ("relative", "cosine"):
        near, pair = (result.find(ONE, p, metric) for p in (VIEW, PAIR))
        assert near.low.mean < pair.low.mean
        assert near.low.mean < result.find(ONE, OTHER, metric).low.mean
    for x in (result.find_likeness(m, n, b) for m in (CKA, MMD) for n in (ONE, OWN) for b in BANDS):
        each = [y.values for y in result.collect(x.measure, x.networks, x.band)]
        np.testing.assert_allclose(x.values, np.mean(each, axis=0))
    for found in result.likeness:
        assert 0 < found.p <= found.holm <= 1 and found.null.n == 20
        assert (found.scene is not None) == (found.measure == CKA)
        assert (VIEW in found.controls) == (found.measure == MMD)


def test_a_result_survives_its_file_and_says_what_it_found(result, tmp_path):
    write_result(tmp_path / "spectrum.json", result)
    again = read_result(tmp_path / "spectrum.json")
    assert again.finding() == result.finding() and again.claims() == result.claims()
    assert "published 2.4" in result.finding() and "nan" not in result.finding()
    found = result.claims()
    assert len(found) == len(METRICS) + 1
    assert all("2.4 times" in claim.paper for claim in found[:-1])
    row = result.find(ONE, PAIR, "cosine")
    assert row.ratio.format(2) in found[METRICS.index("cosine")].ours
    assert "nan" not in json.dumps([vars(claim) for claim in found])


def test_figures_are_legible_and_tables_hold_every_row(result):
    for name, plate in figures.plates(result).items():
        figure = plate.figure
        renderer, box = figure.canvas.get_renderer(), figure.bbox
        shown = [
            t for axis in figure.axes for t in (axis.title, axis.xaxis.label, axis.yaxis.label)
        ]
        shown += [t for legend in figure.legends for t in legend.get_texts()]
        for text in filter(matplotlib.text.Text.get_text, shown):
            extent = text.get_window_extent(renderer)
            assert text.get_fontsize() >= 6, name
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, (name, text.get_text())
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, (name, text.get_text())
    tables = figures.tables(result)
    assert len(tables["blocks"].frame) == 2 * len(result.blocks) * len(METRICS)
    assert len(tables["ratio"].frame) == len(METRICS) * (6 + 6 + 2)
    assert len(tables["likeness"].frame) == len(result.likeness) == 8 * (1 + len(result.blocks))
    assert all(table.to_latex().count(r"\toprule") for table in tables.values())


def test_one_seed_leaves_the_other_seeds_control_out(plan):
    alone = replace(plan, seeds=(0,))
    found = measure_spectrum(alone, network="deeplabv3plus", untrained=1, shuffles=5, maps="raw")
    assert VIEW in found.pairings(ONE) and not {VIEW, OTHER} & set(found.pairings(OWN))
    assert figures.tables(found) and "nan" not in found.finding()
    assert all(not x.controls.keys() - {UNTRAINED} for x in found.likeness
               if (x.measure, x.networks) == (MMD, OWN))  # fmt: skip


def test_what_cannot_be_compared_is_refused(plan):
    with pytest.raises(UserError, match="expected two modalities"):
        configure_spectrum(plan, "rgb2rgb", "deeplabv3plus")
    with pytest.raises(UserError, match="positions of two modalities correspond"):
        configure_spectrum(make_plan("digits", "smoke"))
    with pytest.raises(UserError, match="unknown kind of maps"):
        measure_spectrum(plan, network="deeplabv3plus", maps="whole")
    with pytest.raises(UserError, match="noise is 0"):
        measure_spectrum(plan, network="deeplabv3plus", noise=0)
    with pytest.raises(UserError, match="5 test pairs: expected 6 or more"):
        pair_events(np.zeros(5, int), np.random.default_rng(0))

"""Ablation, weights and gradients: every row of the paper is a run, verdicts follow their rules."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from fdlab.core.config import PRESETS
from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.figures import ablation as figures
from fdlab.figures import gradients as gradient_figures
from fdlab.figures import sensitivity as grid_figures
from fdlab.reference import read_table
from fdlab.studies import claims
from fdlab.studies.ablation import (
    BASES,
    KEYS,
    REFERENCE,
    STEPS,
    Ablation,
    ablate,
    compare_rows,
    configure_ablation,
    describe_step,
    read_published,
)
from fdlab.studies.contrast import contrast_answers
from fdlab.studies.gradients import DISTANCES, PLACES, configure_probes, measure_gradients
from fdlab.studies.plan import make_plan
from fdlab.studies.published import SOURCES
from fdlab.studies.sensitivity import (
    check_weights,
    configure_grid,
    scan_weights,
    simulate_spread,
)
from fdlab.studies.variants import LONGER, TABLES, VARIANTS, configure_variant, find_variants
from fdlab.training.runs import complete

WAY = ["text2audio"]


@pytest.fixture(scope="module")
def plan(digits):
    return make_plan("digits", "smoke", seeds=[0, 1])


@pytest.fixture(scope="module")
def result(plan):
    return ablate(plan, tables=["table7", "controls"], directions=WAY)


def test_every_row_of_the_papers_tables_is_a_row_of_ours():
    for table, name in REFERENCE.items():
        paper = {" ".join(row[c] for c in SOURCES[name].keys) for row in read_table(name)}
        assert paper == set(KEYS[table].values())
        assert set(KEYS[table]) == set(TABLES[table]) <= set(VARIANTS)
    assert {name for rows in TABLES.values() for name in rows} == set(VARIANTS)


def test_the_rows_are_the_papers_options(plan):
    way = plan.choose_directions(WAY)[0]
    options = {n: complete(configure_variant(plan, n, way, 0)).options for n in VARIANTS}
    parts = {"freq": "frequency", "align": "align", "scale": "scale", "log": "log"}
    for name, key in KEYS["table4"].items():
        row = dict(zip(SOURCES[REFERENCE["table4"]].keys, key.split(), strict=True))
        if name == "feat":
            assert set(row.values()) == {"0"}  # the Feat row, which is every part off
            continue
        found = {part: options[name][ours] for part, ours in parts.items()}
        assert found == {part: bool(int(value)) for part, value in row.items()}
    for name, key in KEYS["table6"].items():
        low, high = key.split()
        assert options[name]["log_low"] == (low == "logmse")
        assert options[name]["log"] == (high == "logmse")
    assert [options[n]["cutoff"] for n in KEYS["table7"]] == [0.25, 0.5, pytest.approx(1 / 3)]
    for name, key in KEYS["table8"].items():
        high, low = key.split()
        wanted = {"10": "high", "01": "low", "11": "both"}[high + low]
        assert options[name]["bands"] == wanted


def test_rows_that_differ_are_different_runs(plan):
    configs = configure_ablation(plan, None, WAY)
    assert len(configs) == 2 * len(VARIANTS)
    one = {repr(complete(c)) for (_, _, seed), c in configs.items() if seed == 0}
    assert len(one) == len(VARIANTS)


def test_controls_change_the_teacher_the_basis_or_the_length(plan):
    way = plan.choose_directions(WAY)[0]
    configs = {name: configure_variant(plan, name, way, 3) for name in TABLES["controls"]}
    assert configs["own"].teacher == configs["own"].student == "audio"
    assert configs["own"].teacher_seed == 4
    assert [configs[b].options["basis"] for b in BASES] == list(BASES)
    assert configs["constant"].teacher_kind == "constant"
    assert configs["longer"].train.epochs == round(LONGER * plan.train.epochs)
    assert configs["longer"].method == "none"


def test_a_short_preset_takes_fewer_seeds_and_one_direction():
    few = PRESETS["quick"].fewer
    for study in ("ablation", "sensitivity"):
        plan = make_plan("digits", "quick", study=study)
        assert plan.seeds == few[study] and plan.short
        assert len(plan.choose_ways(None)) == 1
        assert len(plan.choose_ways(["audio2image", "image2audio"])) == 2
        whole = make_plan("digits", "paper", study=study)
        assert len(whole.seeds) >= 6 and len(whole.choose_ways(None)) == 2
    assert make_plan("digits", "quick", seeds=[7, 8, 9], study="ablation").seeds == (7, 8, 9)


def test_presets_for_numbers_have_six_seeds():
    """With five, an exact two-sided paired test cannot reach 0.05."""
    for name in ("reduced", "paper"):
        assert len(PRESETS[name].seeds) >= 6 and not PRESETS[name].fewer


def test_the_ablation_compares_every_row_paired(result, plan):
    full, none = (result.find(WAY[0], name) for name in ("full", "none"))
    assert full.versus_none.seeds.mean == pytest.approx((full.values - none.values).mean())
    assert full.versus_full.both.mean == none.versus_none.both.mean == 0
    assert set(result.tables) == {"table7", "controls"} and not result.steps
    for name in ("soft", "soft_groups"):
        line = result.find(WAY[0], name)
        assert line.edges.shape == (2, 8 if name == "soft_groups" else 1)
        assert ((line.edges > 0) & (line.edges < 1)).all()
    assert result.find(WAY[0], "longer").epochs == round(LONGER * plan.train.epochs)


def test_the_ablation_is_drawn_tabled_and_read_back(result, tmp_path):
    write_result(tmp_path / "ablation.json", result)
    again = read_result(tmp_path / "ablation.json")
    assert again.finding() == result.finding()
    assert [c.verdict for c in again.claims()] == [c.verdict for c in result.claims()]
    assert set(figures.plates(result)) == {"rows", "edges"}
    tables = figures.tables(result)
    assert len(tables["controls"].frame) == len(TABLES["controls"])
    assert list(tables["table7"].frame["paper, cremad visual"]) == ["70.7", "71.0", "69.4"]
    paper = figures.tables(result, "paper")["controls"].frame["accuracy (%)"]
    assert sum(text.endswith("**") for text in paper) == 1


def test_the_papers_steps_are_read_from_its_table():
    assert describe_step("log").startswith("+1.9 (cremad_audio), +0.4 (cremad_visual)")
    assert describe_step("scale").startswith("+0.4 (cremad_audio), +1.9 (cremad_visual)")
    assert read_published("table8", "low_only")["ave_visual"] == "44.5"
    assert read_published("controls", "dct") == {} == read_published("table4", "dct")
    assert set(STEPS) == {"frequency", "align", "scale", "log"}


def make_ablation(answers: dict[str, np.ndarray]) -> Ablation:
    """An ablation whose rows answer as planted, over 8 seeds."""

    config = SimpleNamespace(train=SimpleNamespace(epochs=1))
    run = SimpleNamespace(record=SimpleNamespace(config=config, parameters={"method": 0}))
    runs = {(name, seed): run for name in answers for seed in range(8)}
    lines = compare_rows("a2b", answers, runs)
    steps = {"log": {"a2b": contrast_answers(answers["full"], answers["no_log"])}}
    return Ablation("x", "y", 400, list(range(8)), lines, {}, {}, steps, 0.5, "", [])


def test_verdicts_follow_planted_answers():
    rng = np.random.default_rng(0)
    base = rng.random((8, 400))

    def answer(p):
        return base + 0.1 * rng.standard_normal(base.shape) < p

    rows = {"none": 0.5, "heads_only": 0.6, "full": 0.7, "no_log": 0.7}
    rows |= dict.fromkeys(BASES, 0.5) | dict.fromkeys(("shuffled", "in_class"), 0.5)
    rows |= {"untrained": 0.5, "constant": 0.5, "own": 0.5, "longer": 0.55}
    planted = make_ablation({name: answer(p) for name, p in rows.items()})
    verdicts = {claim.statement[:24]: claim.verdict for claim in planted.claims()}
    assert verdicts["The log step adds to the"] == claims.OPEN
    assert verdicts["The gain is from frequen"] == claims.SUPPORTED
    assert verdicts["Distillation gains more "] == claims.SUPPORTED
    rows |= {"permuted": 0.72, "constant": 0.72}
    planted = make_ablation({name: answer(p) for name, p in rows.items()})
    verdicts = {claim.statement[:24]: claim.verdict for claim in planted.claims()}
    assert verdicts["The gain is from frequen"] == claims.MATCHED
    assert verdicts["The gain is from what th"] == claims.MATCHED
    assert "random" in find_variants(["controls"]) and "dct" not in find_variants(["table4"])


def test_an_unknown_table_is_refused():
    with pytest.raises(UserError, match="table4, table6"):
        find_variants(["table5"])


def test_the_grid_is_the_papers_and_its_best_cell_is_found(plan, tmp_path):
    assert len(configure_grid(plan, None, WAY)) == 2 * (16 + 1)
    found = scan_weights(plan, weights=[0.5, 1.0], directions=WAY)
    grid = found.grids[0]
    assert grid.accuracy.shape == (2, 2, 2) and grid.spread == pytest.approx(np.ptp(grid.means))
    place = np.unravel_index(grid.means.argmax(), grid.means.shape)
    assert grid.best == [found.low[place[0]], found.high[place[1]]]
    write_result(tmp_path / "sensitivity.json", found)
    assert read_result(tmp_path / "sensitivity.json").finding() == found.finding()
    assert set(grid_figures.plates(found)) == {"grid"}
    assert len(grid_figures.tables(found)["grid"].frame) == 2
    assert "best at 1 (cremad audio)" in found.claims()[0].paper


def test_weights_are_checked_and_hold_the_papers_choice():
    assert check_weights(None) == [0.5, 1.0, 3.0, 5.0] and check_weights([2]) == [1.0, 2.0]
    with pytest.raises(UserError, match="above 0"):
        check_weights([0.0, 1.0])


def test_equally_good_cells_spread_as_simulated_and_a_better_one_does_not():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(60):
        same = rng.random((16, 1, 300)) < 0.7
        low, high = simulate_spread(same, draws=200)
        spread = 100 * np.ptp(same.mean(axis=(1, 2)))
        inside.append(low <= spread <= high)
    assert np.mean(inside) > 0.85
    same[3] = rng.random((1, 300)) < 0.95
    assert 100 * np.ptp(same.mean(axis=(1, 2))) > simulate_spread(same, draws=200)[1]


def test_gradients_of_the_terms_are_traced_for_both_reductions(plan, tmp_path):
    found = measure_gradients(plan, direction=WAY[0], probes=3, runs=1)
    mean, summed = found.traces
    assert mean.norms["feature"].shape == (1, 3, len(mean.terms)) and found.source == "training"
    assert "align_low_teacher" not in mean.terms and set(DISTANCES) < set(mean.terms)
    for place in PLACES:
        np.testing.assert_allclose(mean.find_shares(place).sum(axis=-1), 1)
        np.testing.assert_allclose(np.diagonal(mean.cosines[place]), 1)
        assert np.nanmax(np.abs(mean.cosines[place])) <= 1 + 1e-9
    # At the first step both start from the same weights: the sum is D times the mean.
    for term in DISTANCES:
        i = mean.terms.index(term)
        ratio = summed.norms["parameters"][0, 0, i] / mean.norms["parameters"][0, 0, i]
        assert ratio == pytest.approx(found.dim, rel=1e-3)
    i, j = (mean.terms.index(t) for t in ("low", "task"))
    norms = mean.norms["feature"][0]
    assert mean.balance("feature", "low").mean == pytest.approx(
        np.median(norms[:, j] / norms[:, i])
    )
    assert found.observed["standardised"].top < found.observed["raw"].top
    assert found.claims()[1].verdict in (claims.REFUTED, claims.OPEN, claims.SUPPORTED)
    write_result(tmp_path / "gradients.json", found)
    assert read_result(tmp_path / "gradients.json").finding() == found.finding()
    assert set(gradient_figures.plates(found)) == {"figure3", "shares", "cosines"}
    table = gradient_figures.tables(found)["terms"].frame
    assert len(table) == len(mean.terms)


def test_features_alone_have_no_trained_gradients():
    plan = make_plan("planted", "quick")
    assert configure_probes(plan) == {}
    found = measure_gradients(plan)
    assert not found.traces and found.source == "the two modalities" and len(found.claims()) == 1
    density, edges = found.observed["raw"].density, found.observed["raw"].edges
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    assert dataclasses.is_dataclass(found)

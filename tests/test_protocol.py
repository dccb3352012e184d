"""Protocol audit: planted logs are read rightly, luck is told from merit, leakage is counted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy import integrate, stats

from fdlab.core.config import RunConfig
from fdlab.core.records import RunRecord
from fdlab.core.results import read_result, write_result
from fdlab.figures import protocol as figures
from fdlab.studies import claims
from fdlab.studies.plan import make_plan
from fdlab.studies.protocol import (
    ASKED,
    FOUND,
    READINGS,
    Log,
    Protocol,
    audit_protocol,
    expect_surplus,
    find_error,
    find_leaks,
    open_log,
    pool_runs,
    read_cells,
)
from fdlab.training.pool import ensure_runs

HEADS = ("raw", "low", "high")
N = {"train": 1000, "validation": 300, "test": 500}


def make_record(test, validation, *, method="none", seed=0, name=None, n=N) -> RunRecord:
    """A run's record with planted curves: (H, E) fractions."""
    curves = {"lr": [0.1] * len(test[0])}
    for split, values in (("validation", validation), ("test", test)):
        for head, row in zip(HEADS, values, strict=False):
            curves[f"{split}/{head}"] = [float(value) for value in row]
    return RunRecord(
        fingerprint=name or f"{method}{seed}",
        config=RunConfig("digits", "image", "audio", method=method, seed=seed),
        data="",
        teacher=None,
        curves=curves,
        scores={},
        n=n,
        parameters={},
        seconds=0.0,
        peak_bytes=0,
        device="",
        versions={},
        finished="",
    )


def make_protocol(records: dict[tuple[str, str, int], RunRecord]) -> Protocol:
    runs = list(records.values())
    methods = list(dict.fromkeys(key[1] for key in records))
    shown = "fdcmkd" if "fdcmkd" in methods else methods[-1]
    seeds = sorted({key[2] for key in records})
    direction = next(iter(records))[0]
    return Protocol(
        dataset="digits",
        preset="quick",
        n=N,
        seeds=seeds,
        cells=read_cells(records),
        pools=pool_runs(ASKED, runs),
        leaks=[],
        logs=[open_log(records[direction, shown, seed]) for seed in seeds],
        logged=[direction, shown],
        runs=[run.fingerprint for run in runs],
    )


def draw_logs(heads, epochs, seeds, p=0.75, n=N, seed=0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(test, validation) per seed: every reading equally good, each on fresh samples."""
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.binomial(n[s], p, (heads, epochs)) / n[s] for s in ("test", "validation"))
        for _ in range(seeds)
    ]


def test_every_rule_reads_what_is_planted():
    test = [[0.50, 0.70, 0.60, 0.65], [0.40, 0.80, 0.60, 0.80], [0.40, 0.50, 0.10, 0.20]]
    validation = [[0.50, 0.60, 0.72, 0.72], [0.9, 0.60, 0.90, 0.10], [0.40, 0.90, 0.90, 0.20]]
    log = open_log(make_record(test, validation))
    chosen = {rule: log.find(rule) for rule in READINGS}
    assert chosen == {
        "validation": (0, 2),  # the first of equals
        "last": (0, 3),
        "test": (0, 1),
        "published": (1, 1),
        "fair": (1, 0),
    }
    read = [log.read(rule) for rule in READINGS]
    assert read == pytest.approx([60.0, 65.0, 70.0, 80.0, 40.0])
    assert log.cells == 12 and log.heads == ["raw", "low", "high"]
    # level: the last epoch alone, a quarter of four
    assert log.measure_level("test") == pytest.approx(65.0)
    assert log.measure_level("published") == pytest.approx((65 + 80 + 20) / 3)
    assert log.measure_bias("test") == pytest.approx((70 - 65) - (60 - 72))


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 9))
def test_a_maximum_never_reads_below_what_it_chooses_from(seed, heads, epochs):
    (test, validation), *_ = draw_logs(heads, epochs, 1, seed=seed)
    log = Log(list(HEADS[:heads]), 100 * validation, 100 * test)
    read = {rule: log.read(rule) for rule in READINGS}
    assert read["test"] >= max(read["last"], read["validation"])
    assert read["published"] >= max(read["test"], read["fair"])
    if heads == 1:
        assert read["published"] == read["test"] and read["fair"] == read["validation"]


@pytest.mark.parametrize(("n", "p", "cells"), [(1, 0.3, 5), (20, 0.5, 3), (500, 0.75, 48)])
def test_the_ceiling_is_the_order_statistics(n, p, cells):
    """Against the distribution of the maximum itself, and against draws."""
    k = np.arange(n + 1)
    heights = np.diff(stats.binom.cdf(k, n, p) ** cells, prepend=0.0)
    found = expect_surplus(p, n, cells)
    assert found == pytest.approx(heights @ k / n - p, abs=1e-12)
    draws = np.random.default_rng(0).binomial(n, p, (4000, cells)).max(axis=1) / n
    assert found == pytest.approx(draws.mean() - p, abs=5 * draws.std() / math.sqrt(4000))


def test_the_ceiling_has_its_limits():
    assert expect_surplus(0.7, 500, 1) == pytest.approx(0.0, abs=1e-12)
    assert expect_surplus(1.0, 50, 9) == expect_surplus(0.0, 50, 9) == 0.0
    assert expect_surplus(0.3, 1, 5) == pytest.approx(1 - 0.7**5 - 0.3)
    # Many samples: the expected maximum of normal variables, times one standard error.
    maximum, _ = integrate.quad(
        lambda x: x * 16 * stats.norm.pdf(x) * stats.norm.cdf(x) ** 15, -10, 10
    )
    error = find_error(0.4, 1_000_000)
    assert error == pytest.approx(math.sqrt(0.24) / 1000)
    assert expect_surplus(0.4, 1_000_000, 16) == pytest.approx(maximum * error, rel=0.01)


@pytest.mark.parametrize("heads", [1, 3])
def test_equally_good_readings_give_the_optimism_that_theory_expects(heads):
    """Optimism and bias are the ceiling where its assumptions hold, and it is where they say."""
    drawn = draw_logs(heads, 16, 400)
    records = {("a2b", "none", i): make_record(*log, seed=i) for i, log in enumerate(drawn)}
    (cell,) = read_cells(records)
    expected = 100 * expect_surplus(0.75, N["test"], 16 * heads)
    assert (cell.heads, cell.epochs) == (heads, 16)
    for found in (cell.optimism["published"], cell.bias["published"]):
        error = (found.high - found.low) / (2 * 1.966)
        assert found.mean == pytest.approx(expected, abs=4 * error)
    assert cell.ceiling["published"] == pytest.approx(expected, abs=0.1)
    assert abs(cell.optimism["last"].mean) < 0.5 and abs(cell.optimism["fair"].mean) < 0.5
    assert cell.error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 500), abs=0.05)
    assert cell.error_gap == pytest.approx(math.sqrt(2) * cell.error)
    (pool,) = pool_runs(ASKED, list(records.values()))
    assert pool.runs == 400 and pool.bias["published"] == cell.bias["published"]


def test_readings_that_share_answers_are_luckier_by_less_and_the_bias_follows():
    """Each epoch renews a tenth of the answers: same truth everywhere, so all surplus is luck."""
    rng = np.random.default_rng(3)
    records, luck = {}, []
    for seed in range(400):
        curves = {}
        for split in ("test", "validation"):
            right = rng.random((3, N[split])) < 0.75
            rows = []
            for _ in range(12):
                fresh = rng.random(right.shape) < 0.1
                right = np.where(fresh, rng.random(right.shape) < 0.75, right)
                rows.append(right.mean(axis=1))
            curves[split] = np.array(rows).T
        records["a2b", "none", seed] = make_record(curves["test"], curves["validation"], seed=seed)
        luck.append(100 * (curves["test"].max() - 0.75))
    (cell,) = read_cells(records)
    found = cell.bias["published"]
    error = (found.high - found.low) / (2 * 1.966)
    # The level is the run's own and takes part of the luck with it, on validation none.
    late = np.mean([open_log(r).measure_level("published") - 75 for r in records.values()])
    assert found.mean == pytest.approx(np.mean(luck) - late, abs=4 * error)
    assert found.mean < cell.ceiling["published"] - 0.5


def test_what_is_truly_better_is_no_bias():
    """Without noise the rules differ by merit alone, also where the splits differ in level."""
    rise = np.linspace(0.3, 0.8, 20)
    test = np.array([rise, rise + 0.05])
    log = open_log(make_record(test, test - 0.1))
    assert log.measure_bias("published") == pytest.approx(0.0, abs=1e-9)
    assert log.measure_bias("test") == pytest.approx(0.0, abs=1e-9)
    assert log.read("published") == log.read("fair") == pytest.approx(85.0)


def plant_comparison(seeds=300) -> Protocol:
    """none with one head and fdcmkd, heads_only with three: all equally good."""
    heads = {"none": 1, "heads_only": 3, "fdcmkd": 3}
    return make_protocol(
        {
            ("audio2image", method, seed): make_record(*log, method=method, seed=seed)
            for i, (method, count) in enumerate(heads.items())
            for seed, log in enumerate(draw_logs(count, 16, seeds, seed=i))
        }
    )


def test_three_heads_against_one_are_favoured_by_as_much_as_theory_says():
    result = plant_comparison()
    added = result.compare("audio2image", "fdcmkd", "none").added
    expected = 100 * (expect_surplus(0.75, 500, 48) - expect_surplus(0.75, 500, 16))
    assert added["heads"].mean == pytest.approx(expected, abs=0.25)
    assert added["all"].mean == pytest.approx(added["epochs"].mean + added["heads"].mean)
    assert abs(result.compare("audio2image", "fdcmkd", "heads_only").added["all"].mean) < 0.5
    favour, bias, _ = result.claims()
    assert favour.verdict == claims.REFUTED and bias.verdict == claims.REFUTED
    assert result.pairs == [("heads_only", "none"), ("fdcmkd", "none"), ("fdcmkd", "heads_only")]
    assert result.contrasts == [("fdcmkd", "none"), ("fdcmkd", "heads_only")]


def test_logs_without_a_choice_are_read_alike_by_every_rule():
    flat = [[0.6] * 8]
    records = {
        ("audio2image", method, seed): make_record([[p] * 8], flat, method=method, seed=seed)
        for method, p in (("none", 0.6), ("fdcmkd", 0.7))
        for seed in range(3)
    }
    result = make_protocol(records)
    favour, bias, order = result.claims()
    assert favour.verdict == bias.verdict == order.verdict == claims.SUPPORTED
    assert result.compare("audio2image", "fdcmkd", "none").added["all"].mean == 0
    one = make_protocol({key: run for key, run in records.items() if key[2] == 0})
    assert [claim.verdict for claim in one.claims()] == [claims.OPEN] * 3
    assert "no interval" in one.finding()
    assert len(figures.plates(one)) == 3  # one seed draws, without intervals


@pytest.mark.parametrize(("spread", "verdict"), [(0.001, claims.REFUTED), (0.2, claims.OPEN)])
def test_an_order_that_turns_counts_where_the_seeds_decide_it(spread, verdict):
    """On validation `none` stays ahead; at the last epoch `kd` is."""
    records = {}
    for seed, shift in enumerate((-spread, 0.0, spread)):
        records["audio2image", "none", seed] = make_record([[0.7, 0.7]], [[0.8, 0.6]], seed=seed)
        test = [[0.65 + shift, 0.75 + shift]]
        kd = make_record(test, [[0.8, 0.6]], method="kd", seed=seed)
        records["audio2image", "kd", seed] = kd
    result = make_protocol(records)
    decided = verdict == claims.REFUTED
    assert result.find_flips("last") == [("audio2image", "kd", "none", decided)]
    assert result.find_flips("fair") == result.find_flips("validation") == []
    assert result.rank("audio2image", "validation") == ["none", "kd"]
    assert result.rank("audio2image", "last") == ["kd", "none"]
    _, order = result.claims()
    assert order.verdict == verdict and "last 1 (kd/none (audio2image" in order.ours
    assert result.count_seed_flips() == (0 if decided else pytest.approx(1 / 3))


def test_a_pool_counts_a_run_once_and_averages_within_a_seed():
    lift = {"a": 0.00, "b": 0.02, "c": 0.10}
    records = [
        make_record([[0.5 + lift[name], 0.5]], [[0.5, 0.6]], seed=seed, name=name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1), ("a", 0))
    ]
    records.append(make_record([[0.5] * 2] * 3, [[0.5] * 2] * 3, seed=0, name="d"))
    one, three = pool_runs(FOUND, records)
    assert (one.runs, one.heads, three.runs, three.heads) == (3, 1, 1, 3)
    assert one.optimism["published"].mean == pytest.approx((np.mean([0.0, 2.0]) + 10.0) / 2)
    assert one.optimism["published"].n == 2 and not three.bias["test"].known


def test_leakage_is_counted_by_hand():
    split = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2])
    ids = {
        "actor": list("aabbcaaba"),
        "line": list("121212332"),
        "clip": list("123456789"),
    }
    actor, line, clip, both = find_leaks(ids, split)
    assert (actor.train, actor.test, actor.shared, actor.seen, actor.n) == (2, 2, 2, 4, 4)
    assert (line.train, line.test, line.shared, line.seen) == (2, 2, 1, 2)
    assert (clip.shared, clip.seen, clip.chance) == (0, 0, 0.0)
    assert both.kind == "actor x line"  # training a1 a2 b1 b2, test a2 a3 b3 a2
    assert (both.train, both.test, both.shared, both.seen) == (4, 3, 1, 2)
    assert find_leaks({}, split) == []


def test_the_random_splits_share_is_what_permutations_give():
    rng = np.random.default_rng(0)
    values = [f"v{i}" for i in np.minimum(rng.geometric(0.15, 120), 30)]
    split = np.repeat([0, 1, 2], [50, 30, 40])
    (leak,) = find_leaks({"kind": values}, split)
    shares = []
    for _ in range(1500):
        drawn = rng.permutation(split)
        train = {v for v, s in zip(values, drawn, strict=True) if s == 0}
        own = [v for v, s in zip(values, drawn, strict=True) if s == 2]
        shares.append(np.mean([v in train for v in own]))
    assert leak.chance == pytest.approx(np.mean(shares), abs=5 * np.std(shares) / math.sqrt(1500))


def test_figures_keep_inside_their_frame_and_tables_their_rows():
    result = plant_comparison(seeds=5)
    for venue in ("aaai", "neurips"):
        for plate in figures.plates(result, venue).values():
            figure = plate.figure
            drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert drawn.x0 >= -0.01 and drawn.x1 <= width + 0.01
            assert drawn.y0 >= -0.01 and drawn.y1 <= height + 0.01
            assert min(text.get_fontsize() for text in figure.findobj(Text)) >= 6
    tables = figures.tables(result)
    assert list(tables["leakage"].frame["id"]) == ["no ids"] and "no ids" in result.finding()
    assert len(tables["readings"].frame) == len(tables["optimism"].frame) == 3
    assert len(tables["order"].frame) == len(READINGS)
    shown = tables["readings"].frame["best on test, any head"].iloc[-1]
    assert shown == result.find("audio2image", "fdcmkd").accuracy["published"].format(1)


def test_the_audit_of_trained_runs_agrees_with_their_records(digits, tmp_path):
    plan = make_plan("digits", "smoke")
    result = audit_protocol(plan, methods=["heads_only"], directions=["text2audio"])
    assert result.methods == ["none", "heads_only"] and result.n["test"] == 67
    configs = [plan.configure("audio", "heads_only", "text", seed) for seed in plan.seeds]
    records = [run.record for run in ensure_runs(configs)]
    cell = result.find("text2audio", "heads_only")
    for rule in ("validation", "last", "published"):
        expected = [100 * record.scores[rule].accuracy for record in records]
        assert cell.values[rule] == pytest.approx(expected)
        for record in records:
            log, score = open_log(record), record.scores[rule]
            assert log.find(rule) == (log.heads.index(score.head), score.epoch - 1)
    assert (cell.heads, cell.epochs) == (3, 2)
    asked, found = result.select_pools(ASKED), result.select_pools(FOUND)
    assert [pool.runs for pool in asked] == [2, 2]
    assert all(f.runs >= a.runs for a, f in zip(asked, found, strict=True))
    leaks = {leak.kind: leak for leak in result.leaks}
    assert set(leaks) == {"image", "voice", "sentence", "template"}
    assert not any(leak.shared or leak.seen for leak in result.leaks)
    assert leaks["image"].chance == 0 and leaks["template"].chance > 0.5
    assert [claim.statement.split()[0] for claim in result.claims()] == ["The", "The"]
    write_result(tmp_path / "protocol.json", result)
    again = read_result(tmp_path / "protocol.json")
    assert again.finding() == result.finding() and again.claims() == result.claims()
    assert dataclasses.asdict(again)["pools"] == dataclasses.asdict(result)["pools"]
    plates = figures.plates(again)
    assert set(plates) == {"rules", "gaps", "epochs"} and set(figures.tables(again))

"""The page of speed on made-up files: its numbers by a closed form, its targets, its gaps in one
line each, its figures without overlap."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from matplotlib.text import Text
from timing_files import PARTS, STEPS, alter, make_cpu, make_gpu, make_pack, make_row, plant

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.results import read_result
from fdlab.execute.ledger import make_key
from fdlab.figures import speed as figures
from fdlab.figures.save import RESULTS, redraw, save_study
from fdlab.studies.speed import MISSED, OPEN, REACHED, collect_speed, describe_gap
from fdlab.studies.timings import PATTERN, SUITES, read_timing

SUITE = {
    "device": "x86_64 CPU, 1 of 2 cores", "cores": 2, "torch": "2.13.0", "measured": "2026-11-19",
    "suite": "core", "dataset": "digits", "preset": "quick", "first_seconds": 601.2,
    "second_seconds": 14.5, "notebooks": {"01_data": [4.0, 0.1]}, "pairs": [],
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def result(home):
    plant(home, h200=make_gpu(), cpu=make_cpu())
    return collect_speed()


def outcomes(found):
    return {outcome.key: outcome for outcome in found.outcomes}


def test_ratios_are_those_of_the_rates_with_the_widest_intervals_they_allow(result):
    found = outcomes(result)
    for key, ratio in (("gain", 12.0), ("cpu", 4.0)):  # over the plain loop, each within 4 %
        value = found[key].value
        expected = (ratio, ratio * 0.96 / 1.04, ratio * 1.04 / 0.96)
        assert (value.mean, value.low, value.high) == pytest.approx(expected)
        assert found[key].verdict == REACHED and not found[key].why
    assert found["gain"].gap == "20 % above" and found["cpu"].gap == "33 % above"
    floor = found["floor"]
    assert floor.value.mean == pytest.approx(90) and floor.verdict == MISSED
    assert floor.value.high == pytest.approx(90 * 1.04 / 0.96) and floor.value.high > 95
    assert floor.gap == "5.3 % short, target inside the interval"
    pack = found["pack"]
    assert pack.value.mean == 3.5 and pack.value.low == pytest.approx(3.5 * 0.97 / 1.03)
    assert (pack.verdict, pack.gap) == (MISSED, "12 % short")  # 3.5 of 4


def test_a_missed_target_names_the_two_largest_parts_of_a_step(result):
    largest = sorted(PARTS, key=PARTS.get)[-2:]
    for outcome in outcomes(result).values():
        assert (outcome.verdict == MISSED) == all(part in outcome.why for part in largest)
        assert (outcome.verdict == MISSED) == (
            outcome.statement in result.finding() and outcome.why in result.finding()
        )


def test_the_cost_of_a_method_is_of_the_direction_whose_teacher_is_kept(home):
    found = outcomes_of(home, make_gpu())["cost"]
    expected = (1.04, 1.04 * 0.96 / 1.04, 1.04 * 1.04 / 0.96)
    assert (found.value.mean, found.value.low, found.value.high) == pytest.approx(expected)
    assert (found.verdict, found.gap) == (REACHED, "1.0 % below, target inside the interval")
    gpu = make_gpu()
    for row in gpu["shapes"]["cremad"]["rows"]:
        if "cache" in row["features"]:
            row["features"].remove("cache")
    found = outcomes_of(home, gpu)["cost"]
    assert found.value.mean == pytest.approx(5e-4 / 6e-4) and not found.value.known
    assert found.source == "seconds per sample by method, audio2image"
    del gpu["shapes"]["cremad"]["methods"]["none"]
    assert "not both measured" in outcomes_of(home, gpu)["cost"].why


def outcomes_of(home, gpu):
    plant(home, h200=gpu)
    return outcomes(collect_speed())


def test_the_package_is_the_fastest_loop_with_every_feature_that_evaluates(home):
    gpu = make_gpu()
    rows = gpu["shapes"]["cremad"]["rows"]
    rows.append(make_row("streaming", "ours", 90_000, list(STEPS[:2])))
    rows.append(make_row("+ graphs, no evaluation", "ours", 90_000, list(STEPS)))
    assert outcomes_of(home, gpu)["gain"].value.mean == 12.0
    rows.append(make_row("two processes", "ours", 300 * 18, list(STEPS), floor_share=0.81))
    found = outcomes_of(home, gpu)
    assert found["gain"].value.mean == pytest.approx(18)
    assert found["gain"].source == "“two processes” over “plain loop”"
    floor = 300 * 12 / 0.9
    assert found["floor"].value.high == pytest.approx(
        100 * (300 * 18 * 1.04) / (1.7 * floor * 0.96)
    )
    assert "two processes' floor" in found["floor"].source


def test_the_floor_is_also_told_without_the_evaluation(result):
    assert outcomes(result)["floor"].source == (
        "“+ graphs” over “floor”; 98.0 % without the evaluation"
    )


def test_a_target_at_its_limit_is_reached_only_where_at_least_is_asked(home):
    gpu = make_gpu()
    for shape in gpu["shapes"].values():
        for row in shape["rows"]:
            row["ratio"] = row["ratio"] and row["ratio"] / 1.2  # 10 in all
    for row in gpu["shapes"]["cremad"]["rows"]:
        if row["direction"] == "audio2image":
            row["samples_per_second"] = {"fdcmkd": 1024.0, "none": 1.05 * 1024.0}[row["method"]]
    gpu["shapes"]["digits"]["pack"] = make_pack(60, {8: 4.0})
    found = outcomes_of(home, gpu)
    assert [found[key].verdict for key in ("gain", "pack", "cost")] == [REACHED, REACHED, MISSED]
    assert found["cost"].value.mean == found["cost"].limit
    assert describe_gap(found["gain"].value, 10, above=True).startswith("0.0 % above")


def test_without_a_device_or_a_shape_a_target_is_not_measured_and_says_why(home, result):
    (paths.benchmarks() / "training-h200.json").unlink()
    found = outcomes(collect_speed())
    for key in ("gain", "floor", "cost", "pack", "table"):
        assert (found[key].verdict, found[key].why) == (OPEN, "no such device")
        assert found[key].value is None and not found[key].device
    assert found["cpu"].verdict == REACHED
    gpu = make_gpu()
    del gpu["shapes"]["cremad"]
    found = outcomes_of(home, gpu)
    assert found["gain"].why == "shape cremad was not measured on this device"
    assert found["table"].verdict == OPEN and found["table"].device == "NVIDIA H200"
    gpu = alter(make_gpu(), "shapes", "cremad", "methods", to={})
    gpu = alter(gpu, "shapes", "digits", "pack", to=make_pack(1, {4: 4.0}))
    gpu = alter(gpu, "device", to="NVIDIA H200 NVL")
    found = outcomes_of(home, gpu)
    assert found["table"].why == "no method was timed at shape cremad"
    assert found["pack"].why == "no pack of 8 was measured at shape digits"
    found = outcomes_of(home, alter(gpu, "device", to="NVIDIA A100"))
    assert {found[key].why for key in ("gain", "table")} == {"no such device"}


def test_two_devices_of_a_kind_have_a_line_each(home):
    arm = alter(make_cpu(), "device", to="aarch64 CPU, 1 of 2 cores")
    arm["shapes"]["digits"]["rows"] = [
        row | {"ratio": row["ratio"] and row["ratio"] / 2}
        for row in arm["shapes"]["digits"]["rows"]
    ]
    many = alter(make_cpu(), "cores", to=8)
    plant(home, arm=arm, cpu=make_cpu(), many=many)
    found = [o for o in collect_speed().outcomes if o.key == "cpu"]
    assert [(o.device.split()[0], o.verdict) for o in found] == [
        ("aarch64", MISSED),
        ("x86_64", REACHED),
    ]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "training-x.json is not valid JSON"),
        ("[1]", r"training-x.json holds \[1\]: expected an object"),
        ({}, "training-x.json: shapes is None: expected an object"),
        (alter(make_cpu(), "kind", to="tpu"), "training-x.json: kind is 'tpu': expected cuda or"),
        (alter(make_cpu(), "cores", to=True), "cores is True: expected a whole number from 1"),
        (alter(make_cpu(), "shapes", "digits", "rows", 3, "low", to="fast"),
         "training-x.json: digits: rows 4: low is 'fast': expected a number above 0"),
        (alter(make_cpu(), "shapes", "digits", "rows", 0, "low", to=math.nan), "low is nan"),
        (alter(make_cpu(), "shapes", "digits", "rows", 0, to={}), "digits: rows 1 has no name"),
        (alter(make_cpu(), "shapes", "digits", "pack", to=None), "digits: pack is None"),
        (alter(make_cpu(), "shapes", "digits", "methods", "kd", to={"both": 0}), "methods is"),
        (alter(make_cpu(), "shapes", "small", "profile", 0, "share", to=0.9), "add up to 1.5"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line_and_the_page_comes_out(home, broken, words):
    folder = plant(home, x=broken if isinstance(broken, str) else json.dumps(broken))
    with pytest.raises(UserError, match=words) as caught:
        read_timing(folder / "training-x.json")
    assert "\n" not in str(caught.value) and str(home) not in str(caught.value)
    plant(home, h200=make_gpu())
    found = collect_speed()
    assert str(caught.value) in found.notes and len(found.timings) == 1
    assert outcomes(found)["gain"].verdict == REACHED
    assert str(caught.value) in figures.tables(found)["files"].frame["note"].tolist()


def test_nothing_measured_is_a_page_too(home):
    found = collect_speed()
    assert len(found.notes) == 1 and "python -m benchmarks.training" in found.finding()
    assert {outcome.verdict for outcome in found.outcomes} == {OPEN} and not found.claims()
    assert list(figures.plates(found)) == ["targets"]
    assert set(figures.tables(found)) == {"targets", "files"}
    assert collect_speed("elsewhere").finding() != found.finding()


def test_shapes_that_are_absent_are_a_line_per_device(result):
    assert result.notes == [
        "training-h200.json: shapes not measured: small",
        "training-cpu.json: shapes not measured: cremad, vggsound",
    ]


def test_whole_suites_are_read_where_they_were_timed(home, result):
    suites = home / "benchmarks" / SUITES
    suites.write_text(json.dumps([SUITE]))
    found = collect_speed()
    (row,) = figures.tables(found)["suites"].frame.to_dict("records")
    assert (row["suite"], row["first"], row["second"]) == ("core", "601 s", "14.5 s")
    suites.write_text(json.dumps([SUITE, {}]))
    found = collect_speed()
    assert not found.suites and "suite.json: entry 2 has no device: expected a text" in found.notes


def test_tables_hold_every_row_and_pack(result):
    tables = figures.tables(result)
    shapes = [shape for timing in result.timings for shape in timing.shapes.values()]
    rows = tables["rows"].frame
    assert len(rows) == sum(len(shape.rows) for shape in shapes)
    assert len(tables["packs"].frame) == sum(len(shape.pack) for shape in shapes)
    bounds = rows[(rows["kind"] == "bound") & (rows["shape"] == "cremad")]
    assert bounds["× plain"].tolist() == ["80.0×", "120×"]  # 6 and 9 times the floor's 12 / 0.9
    last = rows[(rows["row"] == f"+ {STEPS[-1]}") & (rows["direction"] == "both")].iloc[0]
    assert (last["× plain"], last["of the floor"], last["peak"]) == ("12.0×", "90.0 %", "2.00 GB")


def test_a_result_survives_its_file_and_is_drawn_again_the_same(home):
    plant(home, **make_variants()["small"])
    result = collect_speed()
    folder = save_study("speed", result, folder=home / "suite")
    again = read_result(folder / RESULTS / "speed.json")
    assert (again.timings, again.notes) == (result.timings, result.notes)
    assert again.finding() == result.finding()
    assert redraw(folder, home / "again") == ["speed"]
    for path in sorted((folder / "figures").iterdir()):
        assert path.read_bytes() == (home / "again" / "figures" / path.name).read_bytes()


def test_a_new_measurement_is_a_reason_to_run_again(home, result):
    source = home / "13_speed.ipynb"
    root = paths.Path(__file__).resolve().parents[1] / "notebooks"
    source.write_bytes((root / "13_speed.ipynb").read_bytes())
    before = make_key(source, {}, home)
    assert make_key(source, {}, home) == before != make_key(source, {"results": "other"}, home)
    plant(home, cpu=alter(make_cpu(), "measured", to="2026-11-21"))
    assert make_key(source, {}, home) != before
    other = root / "01_data.ipynb"
    before = make_key(other, {}, home)
    plant(home, cpu=make_cpu())
    assert make_key(other, {}, home) == before


def make_variants():
    """Files of other forms: one shape, rates close together, long names, one or many parts."""
    cpu = make_cpu()
    del cpu["shapes"]["small"]
    cpu["shapes"]["digits"]["rows"] = cpu["shapes"]["digits"]["rows"][:6]  # no floor, no bounds
    gpu = make_gpu()
    gpu["shapes"]["small"] = make_cpu()["shapes"]["small"]
    gpu["shapes"]["cremad"]["profile"] = [{"part": f"part {i}", "share": 0.07} for i in range(13)]
    gpu["shapes"]["cremad"]["rows"][2]["name"] = "package with nothing switched on, in float32"
    return {"usual": {"h200": make_gpu(), "cpu": make_cpu()}, "small": {"cpu": cpu},
            "large": {"h200": gpu}, "none": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "venue"),
    [("usual", "aaai"), ("usual", "neurips"), ("small", "cvpr"), ("large", "icml"),
     ("none", "neurips")],
)  # fmt: skip
def test_no_text_of_a_figure_is_cut_or_covers_another(home, name, venue):
    plant(home, **make_variants()[name])
    found = collect_speed()
    for key, plate in figures.plates(found, venue).items():
        figure = plate.figure
        renderer, box = figure.canvas.get_renderer(), figure.bbox
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
        hidden = set()  # labels of ticks outside the axis, which are not drawn
        for axis in (a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden.update((tick.label1, tick.label2))
        shown = [(t, t.get_window_extent(renderer)) for t in texts if t not in hidden]
        assert shown, key
        for text, extent in shown:
            assert text.get_fontsize() >= 6
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, (key, text.get_text())
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, (key, text.get_text())
        for (one, a), (two, b) in itertools.combinations(shown, 2):
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            tall = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 1 or tall <= 1, (key, one.get_text(), two.get_text())


def test_bars_are_the_rates_in_order_and_carry_their_ratio(result):
    figure = figures.plates(result)["rates-cpu"].figure
    axis = next(a for a in figure.axes if a.get_title().startswith("digits"))
    shape = next(t for t in result.timings if t.kind == "cpu").shapes["digits"]
    rates = [row.samples_per_second for row in shape.rows if row.direction == "both"]
    assert [patch.get_width() for patch in axis.patches] == pytest.approx(rates)
    told = [float(text.get_text().rstrip("×")) for text in axis.texts]
    assert told == pytest.approx([rate / rates[0] for rate in rates], rel=0.005)
    assert axis.get_xscale() == "log" and len(list(paths.benchmarks().glob(PATTERN))) == 2

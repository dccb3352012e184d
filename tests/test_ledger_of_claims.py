"""The ledger: every cell of the paper's tables once, verdicts by the rule, the same rows in every
form, and a reason wherever nothing was measured."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from collections import Counter
from dataclasses import replace
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats as scipy_stats

from fdlab.core.estimate import Estimate
from fdlab.core.results import read_result, write_result
from fdlab.data import DATASETS
from fdlab.data.planted import PLANTED
from fdlab.execute import ledger
from fdlab.execute.page import write_page
from fdlab.figures import report as figures
from fdlab.figures.latex import escape, share_width, write_latex
from fdlab.figures.plate import Table
from fdlab.figures.save import RESULTS, TABLES, redraw, save_study
from fdlab.figures.style import VENUES
from fdlab.studies import PAIRS, STEMS, claims, suits
from fdlab.studies import report as studies
from fdlab.studies.ablation import KEYS, REFERENCE
from fdlab.studies.comparison import RULES, Cell, Comparison
from fdlab.studies.contrast import contrast_answers
from fdlab.studies.cost import Cost
from fdlab.studies.plan import make_plan
from fdlab.studies.published import (
    SOURCES,
    count_tested,
    find_data,
    find_error,
    list_published,
    weigh,
)
from fdlab.studies.report import COLUMNS, collect_report
from fdlab.studies.scale import measure_scale
from fdlab.studies.similarity import measure_similarity

TESTED, WAY = 67, "visual2audio"
ROWS = ("method", "teacher", "student")  # the columns of FiGKD's tables that name a row
SETS = ("cremad", "ave", "vggsound", "crisismmd", "nyuv2")
MADE = replace(PLANTED, reports="cremad")  # what the ledger asks of a data set
ONE, TWO, FOUR = "fdcmkd_table1_similarity", "fdcmkd_table2_classification", (
    "fdcmkd_table4_components"
)  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    plan = make_plan("planted", "quick")
    settings = {"shuffles": 20, "splits": 8, "halves": 4, "detect": 0}
    return measure_similarity(plan, **settings), measure_scale(plan)


@pytest.fixture(scope="module")
def results(planted):
    """Results of a data set of audio and visual events, by stem: its numbers are made up."""
    similarity, scale = planted
    bands = {"raw": 0.80, "low+dc": 0.91, "high": 0.5}
    rows = [
        replace(row, values=np.array([-0.05, 0.0, 0.05]) + bands[row.band])
        if row.measure == "cosine" and row.band in bands
        else row
        for row in similarity.rows
    ]
    names = {"first": "visual", "second": "audio"}
    shifts = {"first": 1.0, "second": 1.213}
    wobble = {"first": np.array([-0.01, 0.0, 0.01]), "second": np.array([0.01, 0.0, -0.01])}
    layers = [
        replace(
            layer,
            modality=names[layer.modality],
            values={q: shifts[layer.modality] + wobble[layer.modality] * (q == "mean")
                    for q in layer.values},
        )
        for layer in scale.layers
    ]  # fmt: skip
    return {
        "similarity": replace(similarity, dataset="made", rows=rows),
        "scale": replace(scale, dataset="made", layers=layers, seeds=[0, 1, 2],
                         models={"visual": "", "audio": ""}),
        "comparison": make_comparison(),
    }  # fmt: skip


def make_comparison() -> Comparison:
    """Three methods in one direction under two seeds, without a run behind them."""
    rng = np.random.default_rng(0)
    accuracies = {"none": (60.0, 62.0), "heads_only": (63.0, 63.5), "fdcmkd": (69.9, 70.1)}
    answers = {m: rng.random((2, TESTED)) < 0.6 for m in accuracies}
    versus = {m: contrast_answers(answers["fdcmkd"], answers[m]) for m in answers}
    cells = [
        Cell(
            direction=WAY,
            method=method,
            accuracy=dict.fromkeys(RULES, over_two(*values)),
            versus_none=contrast_answers(answers[method], answers["none"]),
            rank=over_two(1.0, 2.0),
            optimism=over_two(0.0, 1.0),
            values=dict.fromkeys(RULES, np.array(values)),
            extra_parameters=0,
            cost=Cost(1.0, over_two(1.0, 1.1), 1, 1.0),
            published=None,
        )
        for method, values in accuracies.items()
    ]
    contrasts = {
        "fdcmkd-none": "none",
        "fdcmkd-heads_only": "heads_only",
        "heads_only-half": "none",
    }
    contrasts = {name: {WAY: versus[method]} for name, method in contrasts.items()}
    return Comparison("made", "paper", "accuracy", TESTED, [0, 1], cells, contrasts, {}, [])


@pytest.fixture
def made(results, tmp_path, monkeypatch):
    """The made-up suite's folder."""
    monkeypatch.setitem(DATASETS.places, "made", f"{__name__}:MADE")
    for stem, result in results.items():
        write_result(tmp_path / RESULTS / f"{stem}.json", result)
    return tmp_path


@pytest.fixture
def report(made):
    return collect_report(made / RESULTS, "made", "paper")


def over_two(low: float, high: float) -> Estimate:
    """Two seeds with their Student interval, by SciPy."""
    mean, error = (low + high) / 2, (high - low) / 2
    half = error * scipy_stats.t.ppf(0.975, 1)
    return Estimate(mean, mean - half, mean + half, 2)


def read_cells() -> list[tuple[str, int, str, float]]:
    """(file, line, column, value) of every number of the reference files, read anew."""
    cells = []
    for file in resources.files("fdlab.reference").iterdir():
        if not file.name.endswith(".csv") or file.name == "fdcmkd_datasets.csv":
            continue
        rows = csv.reader(file.read_text(encoding="utf-8").splitlines())
        head = next(rows)
        if head[:3] == ["dataset", "teacher", "student"]:  # a line of it is a column of the others
            rows = list(rows)
            columns = ["_".join([data, f"{one}-{two}"]) for data, one, two, *_ in rows]
            rows, head = list(zip(*rows, strict=True))[3:], columns
        for line, row in enumerate(rows):
            for column, value in zip(head, row, strict=True):
                figkd = file.name.startswith("figkd") and column not in ROWS
                if (figkd or column.split("_")[0] in SETS) and value:
                    cells.append((file.name.removesuffix(".csv"), line, column, float(value)))
    return cells


def test_every_cell_of_every_table_is_listed_once():
    numbers, cells = list_published(), read_cells()
    assert len(cells) > 150
    assert Counter((n.table, n.data, n.paper) for n in numbers) == Counter(
        (file, column, value) for file, _, column, value in cells
    )
    assert len({number.place for number in numbers}) == len(numbers)
    lines = {(file, line) for file, line, _, _ in cells}
    assert len({(n.table, n.key) for n in numbers}) == len(lines)
    assert all(n.verdict == claims.NOT_RUN and n.ours is None for n in numbers)


def test_every_cell_is_in_the_ledger_once_whatever_was_measured(report, tmp_path):
    empty = collect_report(tmp_path / "nowhere", "digits", "quick")
    for found in (empty, report):
        rows = [row for row in found.rows() if row["kind"] == "number"]
        assert Counter((row["where"], row["data"], row["paper"]) for row in rows) == Counter(
            (SOURCES[file].where, column, value) for file, _, column, value in read_cells()
        )
        assert len({(row["where"], row["key"], row["data"]) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("paper", "ours", "verdict"),
    [
        (64.1, Estimate(62.0, 61.0, 63.0, 6), claims.SUPPORTED),
        (64.1, Estimate(68.0, 67.9, 68.1, 6), claims.REFUTED),
        (64.1, Estimate(60.0, 56.0, 64.0, 6), claims.SUPPORTED),
        (64.1, Estimate(64.1, math.nan, math.nan, 1), claims.OPEN),
    ],
)
def test_an_accuracy_agrees_within_both_errors(paper, ours, verdict):
    number = find_number(TWO, "fdcmkd", "cremad_audio")
    assert number.paper == paper
    found = weigh(number, ours, 500, "paper")
    error = 1.959964 * 100 * math.sqrt(0.641 * 0.359 / 744)  # the paper's 744 test samples
    assert find_error(paper, 744) == pytest.approx(error, rel=1e-5)
    if ours.known:
        side = ours.high - ours.mean if paper > ours.mean else ours.mean - ours.low
        assert (abs(paper - ours.mean) <= math.hypot(side, error)) == (verdict == claims.SUPPORTED)
    assert found.verdict == verdict and found.n.startswith("500 test samples")
    assert "744 test samples" in found.why or not ours.known


def test_an_unknown_test_split_is_said_and_replaced_by_ours():
    assert count_tested("cremad") == 744 and count_tested("vggsound") == 2497
    assert count_tested("ave") is count_tested("crisismmd") is None
    number = find_number(TWO, "none", "ave_audio")
    near = Estimate(number.paper + 5, number.paper + 4.9, number.paper + 5.1, 6)
    few, many = (weigh(number, near, samples, "paper") for samples in (50, 5000))
    assert (few.verdict, many.verdict) == (claims.SUPPORTED, claims.REFUTED)
    assert "50 test samples (ours: its own n is not reported)" in few.why


def test_a_cosine_is_compared_as_printed_with_nothing_added():
    number = find_number(ONE, "low", "cremad")
    for low, verdict in (
        (0.905, claims.SUPPORTED),
        (0.914, claims.SUPPORTED),
        (0.916, claims.REFUTED),
    ):
        assert weigh(number, Estimate(0.92, low, 0.93, 6), 744, "paper").verdict == verdict


def test_another_recipe_than_the_papers_is_said():
    number = find_number(TWO, "none", "cremad_audio")
    ours = Estimate(62.0, 61.0, 63.0, 4)
    assert "preset quick is not the paper's" in weigh(number, ours, 744, "quick").why
    assert "preset" not in weigh(number, ours, 744, "paper").why


def find_number(table: str, key: str, data: str, numbers=None):
    numbers = numbers or list_published()
    return next(n for n in numbers if n.place == (table, key, data))


def test_a_data_set_of_the_papers_gets_its_verdicts(report):
    found = {n.place: n for n in report.numbers}
    expected = {
        (TWO, "none", "cremad_audio"): claims.SUPPORTED,  # 61, the paper has 62.4
        (TWO, "fdcmkd", "cremad_audio"): claims.REFUTED,  # 70, the paper has 64.1
        (ONE, "raw", "cremad"): claims.SUPPORTED,  # 0.80 ± 0.12, 0.84
        (ONE, "low", "cremad"): claims.SUPPORTED,
        (ONE, "high", "cremad"): claims.REFUTED,  # 0.5, -0.02
        ("fdcmkd_figure1_scale", "mean", "cremad"): claims.SUPPORTED,  # 0.21, audio - visual
        ("fdcmkd_figure1_scale", "deviation", "cremad"): claims.REFUTED,  # 0.21, 0.08
    }
    assert {n.place: n.verdict for n in report.measured} == expected
    number = found[TWO, "none", "cremad_audio"]
    assert number.ours.mean == 61.0 and number.n == "67 test samples, 2 seeds"
    assert "published rule" in number.control and "heads_only 63.2" in number.control
    assert "closed form" in found[ONE, "low", "cremad"].control
    assert "two seeds" in found["fdcmkd_figure1_scale", "mean", "cremad"].control
    assert f"{len(expected)} were measured here (agrees 4, differs 3)" in report.finding()


def test_what_was_not_measured_says_why(report):
    why = {n.place: n.why for n in report.numbers}
    assert why[TWO, "dist", "cremad_audio"] == "method dist was not run"
    assert why[TWO, "dist", "cremad_visual"] == "study comparison measured nothing of cremad_visual"
    assert why[TWO, "none", "ave_audio"] == "data set ave was not run: this suite ran on made"
    assert why[FOUR, "1 0 1 0", "cremad_audio"] == "study ablation has no saved result"
    for number in report.numbers:
        assert number.why and (number.verdict == claims.NOT_RUN) == (number.ours is None)


def test_a_missing_study_is_a_claim_not_run(planted, tmp_path):
    write_result(tmp_path / "similarity.json", planted[0])
    found = collect_report(tmp_path, "planted", "quick")
    suited = {stem for stem in STEMS if suits(stem, "classification")}
    assert set(found.missing) == suited - {"similarity", "report", *PAIRS}
    absent = [claim for claim in found.claims if claim.verdict == claims.NOT_RUN]
    assert [claim.study for claim in absent] == found.missing
    assert all(claim.why == "no saved result was found" for claim in absent)
    assert sum(found.count().values()) == len(found.claims) > len(absent)
    assert not found.measured
    whys = {n.why.split(":")[1] for n in found.numbers if n.key != "rdp" and find_data(n)[0]}
    assert whys == {" this suite ran on planted"}
    counted = {n.why for n in found.numbers if not find_data(n)[0]}  # of networks, on any data set
    assert counted == {"study zoo has no saved result"}


def test_any_study_fills_in_the_cells_that_it_names(made, monkeypatch):
    """The interface alone: a place that the paper does not have is no number of the paper."""
    ours = Estimate(60.0, 55.0, 65.0, 3)
    stub = SimpleNamespace(
        n={"test": 744},
        seeds=[0, 1, 2],
        finding=lambda: "found",
        claims=list,
        measured=lambda: {(FOUR, "1 1 1 1", "cremad_audio"): ours, (FOUR, "9", "x"): ours},
    )
    monkeypatch.setattr(studies, "read_result", lambda path: stub)
    found = collect_report(made / RESULTS, "made", "paper")
    (number,) = found.measured
    assert (number.where, number.ours, number.verdict) == ("Table 4", ours, claims.SUPPORTED)
    assert len(found.numbers) == len(list_published())


def test_the_ablations_rows_are_the_rows_of_the_papers_tables():
    ours = {(REFERENCE[table], key) for table, keys in KEYS.items() for key in keys.values()}
    assert ours == {(n.table, n.key) for n in list_published() if n.study == "ablation"}


def test_every_measured_claim_has_its_n_and_its_study(report):
    run = [claim for claim in report.claims if claim.verdict != claims.NOT_RUN]
    assert {claim.study for claim in run} == {"similarity", "scale", "comparison"}
    for claim in run:
        assert re.fullmatch(r"\d+ test samples, \d seeds?", claim.n), claim.statement


def test_the_ledger_holds_the_same_rows_as_json_and_csv(report, tmp_path):
    folder = save_study("report", report, folder=tmp_path / "suite")
    rows = json.loads((folder / TABLES / "report-ledger.json").read_text(encoding="utf-8"))
    with (folder / TABLES / "report-ledger.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert len(rows) == len(report.claims) + len(report.numbers) == len(table)
    for row, line in zip(rows, table, strict=True):
        assert tuple(row) == tuple(line) == COLUMNS
        for name, value in row.items():
            same = float(line[name]) == value if isinstance(value, float) else line[name] == (
                value or "")  # fmt: skip
            assert same, (name, value, line[name])
        assert row["verdict"] and row["study"] and row["dataset"] == "made"
    (number,) = (r for r in rows if (r["where"], r["key"], r["data"]) == (
        "Table 2", "none", "cremad_audio"))  # fmt: skip
    expected = over_two(60.0, 62.0)
    assert (number["paper"], number["ours"]) == (62.4, 61.0)
    assert (number["low"], number["high"]) == pytest.approx((expected.low, expected.high))
    loaded = pd.read_json(folder / TABLES / "report-ledger.json")
    assert list(loaded.columns) == list(COLUMNS)


def test_a_report_survives_its_file_and_is_drawn_again_the_same(report, tmp_path):
    folder = save_study("report", report, folder=tmp_path / "suite")
    again = read_result(folder / RESULTS / "report.json")
    assert again.rows() == report.rows() and again.finding() == report.finding()
    assert redraw(folder, tmp_path / "again") == ["report"]
    for kind in ("claims.tex", "numbers.md", "ledger.json", "ledger.csv"):
        name = f"{TABLES}/report-{kind}"
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_done_record_covers_the_ledger(report, tmp_path):
    folder = save_study("report", report, folder=tmp_path / "suite")
    kept = ledger.list_files(folder, "00_report")
    assert {f"{TABLES}/report-ledger.json", f"{TABLES}/report-ledger.csv"} <= set(kept)
    ledger.note_done(folder, "00_report", "key", 1.0)
    assert ledger.find_reason(folder, "00_report", "key") is None
    (folder / TABLES / "report-ledger.json").write_text("[]")
    assert "report-ledger.json" in ledger.find_reason(folder, "00_report", "key")


def test_the_page_shows_every_claim_and_every_number_or_why_not(made, report):
    save_study("report", report, folder=made)
    page = write_page(made, "made", "paper", ["00_report"]).read_text(encoding="utf-8")
    for claim in report.claims:
        assert html.escape(claim.statement) in page and html.escape(claim.n) in page
    for number in report.numbers:
        assert html.escape(number.why) in page
    for number in report.measured:
        assert html.escape(number.ours.format(number.digits)) in page
    assert page.count("class='verdict'") == len(report.claims)
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (made / link).is_file(), link
    assert "report-ledger.json" in page


def test_folded_lines_stand_for_every_number_that_was_not_run(report):
    table = figures.tables(report)["numbers"].frame
    measured = len(report.measured)
    assert list(table["verdict"][:measured]) == [n.verdict for n in report.measured]
    folded = table[measured:]
    counts = [int(text.split()[0]) for text in folded["number"]]
    assert sum(counts) == len(report.numbers) - measured and set(folded["verdict"]) == {"not run"}
    assert len(table) < len(report.numbers) / 2
    assert not folded.duplicated(["where", "why"]).any()


def test_latex_is_balanced_escaped_and_on_the_page(report):
    for name in ("claims", "numbers"):
        text = figures.tables(report)[name].to_latex()
        check_latex(text)
        assert text.isascii()
    frame = pd.DataFrame(
        {"a_b": ["[1, 2] & 50 %", "x < y ~ z^2 {}", "*"], "c": ["λ → Δ", "#$", ""]}
    )
    text = Table(frame, "50 % of \\all_").to_latex()
    check_latex(text)
    assert text.count(r"\begin{table}") == 1 and "\n{}[1, 2]" in text and "\n{}* " in text
    assert r"50 \% of \textbackslash{}all\_" in text and text.isascii()


def test_a_long_latex_table_is_cut_into_pages_and_keeps_its_rows():
    rows = [[f"row {i}", "a long sentence about what was measured " * 12] for i in range(40)]
    text = write_latex(["name", "what"], rows, "Rows")
    check_latex(text)
    assert text.count(r"\begin{table*}") == text.count(r"\bottomrule") > 2
    assert all(text.count(f"row {i} &") == 1 for i in range(40))
    parts = re.findall(r"\(Part (\d) of (\d)\.\)", text)
    assert [int(part) for part, _ in parts] == list(range(1, len(parts) + 1))
    assert {int(of) for _, of in parts} == {len(parts)}


def test_columns_have_room_for_their_longest_word():
    head, rows = ["n", "why"], [["crisismmd_visual", "short words only " * 40], ["1", ""]]
    first, second = share_width(head, rows, 125)
    assert first >= len("crisismmd_visual") and second > 3 * first


def check_latex(text: str) -> None:
    """Environments nest, braces close, every row has its columns, widths fit the text."""
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    plain = re.sub(r"\\[\\{}&%$#_]", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0 and not set("#_%~") & set(re.sub(r"\$.*?\$", "", plain))
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{([^\n]*)\}\n\\toprule\n(.*?)\\bottomrule", text, re.S
    ):
        widths = [float(width) for width in re.findall(r"p\{([\d.]+)\\textwidth\}", columns)]
        count = len(widths) or columns.count("l")
        gaps = 2 * 3 / 505 * (count - 1)  # \tabcolsep on both sides, of 7 inches in points
        assert sum(widths) + gaps <= 1
        for row in body.replace("\\midrule\n", "").strip().split("\n"):
            assert row.endswith(r" \\")
            assert len(re.findall(r"(?<!\\)&", row)) == count - 1, row


def test_escaping_leaves_letters_alone():
    assert escape("FD-CMKD gains 1.9") == "FD-CMKD gains 1.9"


@pytest.mark.parametrize("venue", VENUES)
def test_the_verdicts_are_whole_and_inside_the_figure(report, venue):
    figure = figures.plates(report, venue)["verdicts"].figure
    renderer, box = figure.canvas.get_renderer(), figure.bbox
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
    shown = " ".join(t.get_text() for t in texts)
    for claim in report.claims:
        assert set(claim.statement.split()) <= set(shown.split())
    for text in texts:
        extent = text.get_window_extent(renderer)
        assert text.get_fontsize() >= 6
        assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
        assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()


def test_tables_keep_signs_and_zeros_in_markdown_and_whole_cells_in_html(tmp_path):
    long = "a cell of more than fifty characters, which pandas would cut short with dots"
    table = Table(pd.DataFrame({"gain": ["+1.0", "64.0"], "why": [long, "a | b"]}), "x < y")
    text = next(p for p in table.save(tmp_path / "t") if p.suffix == ".md").read_text()
    assert "| +1.0 " in text and "| 64.0 " in text and r"a \| b" in text
    assert long in table._repr_html_() and "x &lt; y" in table._repr_html_()


def test_every_data_set_of_the_tables_is_one_of_ours():
    """Else its cells could never be measured."""
    ours = {DATASETS[name].reports for name in DATASETS} - {""}
    assert {find_data(number)[0] for number in list_published()} - {""} == ours
    assert set(SETS) < ours
    for name in ("crisismmd", "nyuv2", "cremad", "ave", "vggsound"):
        sides = set(DATASETS[name].modalities)
        told = {c.partition("_")[2] for _, _, c, _ in read_cells() if c.split("_")[0] == name}
        assert told - {""} <= sides


def test_a_dense_comparison_fills_the_papers_table_of_segmentation():
    result = replace(make_comparison(), metric="mIoU", dataset="nyuv2")
    cells = [replace(cell, direction="rgb2depth") for cell in result.cells]
    found = replace(result, cells=cells).measured()
    methods = {place[1] for place in found}
    assert "fdcmkd" in methods
    assert {(file, column) for file, _, column in found} == {
        ("fdcmkd_table3_segmentation", "nyuv2_depth")
    }

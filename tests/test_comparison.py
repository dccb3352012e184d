"""The comparison's parts: hyperparameters with sources, ranks, costs, and the search."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.data import DATASETS
from fdlab.figures import methods as figures
from fdlab.methods import METHODS
from fdlab.reference import read_table
from fdlab.studies.comparison import (
    TABLE,
    choose_methods,
    compare_methods,
    configure_comparison,
    find_published,
)
from fdlab.studies.cost import measure_costs
from fdlab.studies.hyperparameters import choose_options, read_settings
from fdlab.studies.methods import agree, rank_published, survey_methods
from fdlab.studies.plan import make_plan
from fdlab.studies.ranking import rank_rows
from fdlab.studies.search import draw_factors, search

WAY = "audio2image"


@pytest.fixture(scope="module")
def plan(digits):
    return make_plan("digits", "smoke", seeds=[0, 1])


def test_the_table_of_hyperparameters_is_every_default_with_a_source():
    settings = read_settings()
    assert all(setting.source for setting in settings)
    found = {}
    for setting in settings:
        found.setdefault(setting.method, {})[setting.option] = setting.value
    for method, options in found.items():
        assert options == dataclasses.asdict(METHODS[method].Options())
    assert {"none", *found} >= {row["method"] for row in read_table(TABLE)}


def test_a_table_of_ones_own_changes_the_runs(plan, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("method,option,value,source\nkd,temperature,2,ours\nfdcmkd,bands,low,ours\n")
    assert choose_options(read_settings(str(table)), "fdcmkd") == {"bands": "low"}
    configs = configure_comparison(plan, ["kd", "fdcmkd+2*kd"], [WAY], str(table))
    assert [c.options for c in configs if c.method == "kd"] == [{"temperature": 2}] * 2
    (first, *_) = [c.options for c in configs if "+" in c.method]
    assert first == {"fdcmkd_bands": "low", "kd_temperature": 2}


def test_the_projects_table_leaves_a_tasks_own_default_and_ones_own_does_not(tmp_path):
    assert choose_options(read_settings(), "pkd") == {"weight": 6.0}
    assert "pkd_compare" not in choose_options(read_settings(), "kd+pkd")
    table = tmp_path / "mine.csv"
    table.write_text("method,option,value,source\npkd,compare,pooled,ours\n")
    assert choose_options(read_settings(str(table)), "pkd") == {"compare": "pooled"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("method,option\nkd,weight\n", "expected method, option, value, source"),
        ("method,option,value,source\nkdd,weight,1,x\n", "did you mean 'kd'"),
        ("method,option,value,source\nkd,wait,1,x\n", "wait"),
        ("method,option,value,source\nkd,weight,much,x\n", "expected float"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    table = tmp_path / "mine.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        read_settings(str(table))


def test_no_such_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file of hyperparameters"):
        read_settings(str(tmp_path / "none.csv"))


def test_all_is_every_method_and_none_comes_first():
    for task, others in (
        ("classification", {"mmanet", "cirkd", "anchor"}),
        ("segmentation", {"at", "dml"}),
    ):
        found = choose_methods(["all"], task)
        sums = ["cirkd+fdcmkd"] if task == "segmentation" else []  # Table 5's
        assert found == [name for name in METHODS if name in found] + sums and found[0] == "none"
        assert not others & {*found} and {"fdcmkd"} < {*found} - {*sums} < {*METHODS}
        assert task != "classification" or {*METHODS} - {*found} == others
    assert choose_methods(["all"]) == choose_methods(["all"], "classification")
    assert choose_methods(["kd", "none"]) == ["none", "kd"]
    with pytest.raises(UserError, match="fdcmkd"):
        choose_methods(["fdckmd"])


def test_ranks_are_scipys_and_their_interval_covers_what_sampling_does():
    rng = np.random.default_rng(0)
    share = {"a": 0.8, "b": 0.6, "c": 0.59, "d": 0.2}
    answers = {name: rng.random((4, 500)) < p for name, p in share.items()}
    ranks = rank_rows(answers)
    means = [-x.mean() for x in answers.values()]
    assert [r.mean for r in ranks.values()] == stats.rankdata(means).tolist()
    assert (ranks["a"].low, ranks["a"].high) == (1, 1)
    assert (ranks["d"].low, ranks["d"].high) == (4, 4)
    assert ranks["b"].low == 2 and ranks["c"].high == 3  # not told apart
    assert rank_rows({"a": answers["a"], "b": answers["a"]})["b"].mean == 1.5


def test_published_ranks_are_those_of_the_table_and_nkd_is_nckd():
    ranks = rank_published(["none", "kd", "nckd", "fdcmkd", "at"])
    assert set(ranks) == {"none", "kd", "nckd", "fdcmkd"}
    assert (ranks["fdcmkd"] == 1).all()
    rows = {row["method"]: row for row in read_table(TABLE)}
    cremad = DATASETS["cremad"]
    assert find_published(cremad, "visual2audio", "nckd") == float(rows["nkd"]["cremad_audio"])
    assert find_published(cremad, "visual2audio", "nkd") is None


def test_agreement_is_kendalls_tau_with_the_mean_published_rank():
    ranks = {"a": np.array([1.0, 2]), "b": np.array([2.0, 1]), "c": np.array([3.0, 3])}
    right = {"a": 0.9, "b": 0.8, "c": 0.1}
    answers = {m: np.arange(100)[None] < 100 * np.array([[p], [p]]) for m, p in right.items()}
    expected = stats.kendalltau([0.9, 0.8, 0.1], [-1.5, -1.5, -3]).statistic
    assert agree(answers, ranks).mean == pytest.approx(expected)


def test_costs_are_beside_none_and_count_the_second_network(plan):
    configs = {m: plan.configure("image", m, "audio") for m in ("none", "kd", "dml")}
    costs = measure_costs(plan, configs)
    assert set(costs) == set(configs)
    assert costs["none"].memory == pytest.approx(1, abs=0.1)
    assert costs["dml"].memory > 1.5 and costs["dml"].relative.mean > 1.3
    assert all(cost.seconds > 0 for cost in costs.values())


def test_every_method_gets_the_same_trials_and_the_best_on_validation_is_kept(plan):
    way = plan.choose_directions([WAY])[0]
    settings = read_settings()
    chosen, trials = search(plan, way, ["none", "kd"], settings, 3)
    assert [(t.strength, t.rate) for t in trials[:3]] == draw_factors(3)
    for method in ("none", "kd"):
        own = [t for t in trials if t.method == method]
        assert len(own) == 3 and sum(t.chosen for t in own) == 1
        best = next(t for t in own if t.chosen)
        assert best.validation == max(t.validation for t in own)
        rate = plan.train.learning_rate * best.rate
        assert chosen[method]["train"].learning_rate == pytest.approx(rate)
        assert chosen[method]["teacher_train"] == plan.train
        if method == "kd":
            assert chosen["kd"]["options"]["weight"] == pytest.approx(0.9 * best.strength)
            assert chosen["kd"]["options"]["temperature"] == 4.0


def test_a_comparison_reports_its_search_and_reads_back(plan, tmp_path):
    result = compare_methods(plan, methods=["kd"], directions=[WAY], trials=2)
    assert len(result.trials) == 4 and {s.method for s in result.settings} == {"kd"}
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json").trials == result.trials
    with pytest.raises(UserError, match="trials is -1"):
        compare_methods(plan, methods=["kd"], trials=-1)


@pytest.fixture(scope="module")
def survey(plan):
    return survey_methods(
        plan, methods=["heads_only", "kd", "feat", "at", "fdcmkd"], directions=[WAY]
    )


def test_a_survey_judges_the_papers_order_and_the_best_row(survey):
    assert survey.baselines == ["kd", "feat"]
    assert set(survey.versus_heads[WAY]) == {"none", "kd", "feat", "at", "fdcmkd"}
    gap = survey.versus_ours[WAY]["kd"]
    cells = {m: survey.comparison.find(WAY, m) for m in survey.families}
    accuracy = {m: cell.accuracy["validation"].mean for m, cell in cells.items()}
    assert gap.seeds.mean == pytest.approx(accuracy["fdcmkd"] - accuracy["kd"])
    assert survey.families == {"none": "none", "heads_only": "none", "kd": "logits",
                               "feat": "feature", "at": "maps", "fdcmkd": "feature"}  # fmt: skip
    assert len(survey.paper_order) == 8 and set(survey.order) == {WAY}
    best, baselines = survey.claims()
    assert "best of the methods" in best.statement and "heads_only" in best.control
    assert "43 of 80 cells" in baselines.paper
    assert "of 5 methods" in survey.finding()


def test_a_survey_is_drawn_tabled_and_read_back(survey, tmp_path):
    write_result(tmp_path / "methods.json", survey)
    again = read_result(tmp_path / "methods.json")
    plates = figures.plates(again)
    assert set(plates) == {"gain", "cost", "ranks"}
    rows = figures.order_rows(again, WAY)
    gains = [again.comparison.find(WAY, m).versus_none.both.mean for m in rows]
    assert gains == sorted(gains, reverse=True) and "none" not in rows
    (axis,) = plates["gain"].figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == rows
    drawn = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("o", "D")]
    assert drawn == pytest.approx(gains)
    tables = figures.tables(again)
    assert set(tables) == {"methods", "details", "settings", "heads", "fdcmkd"}
    frame = tables["methods"].frame
    assert list(frame["method"]) == ["none", "heads_only", "kd", "feat", "at", "fdcmkd"]
    assert {"accuracy (%)", "minus none", "p", "rank", "s/epoch", "time", "memory",
            "parameters"} <= set(frame.columns)  # fmt: skip
    assert all(table.to_latex().count("toprule") == 1 for table in tables.values())


def test_a_survey_without_table_2s_methods_makes_no_claim(plan):
    result = survey_methods(plan, methods=["at"], directions=[WAY])
    assert result.claims() == [] and result.order == {}

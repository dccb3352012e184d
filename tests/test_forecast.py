"""A dry run counts what the notebooks train, and trains nothing."""

from __future__ import annotations

import pytest
import torch
from timing_files import alter, make_cpu, make_gpu, plant

from fdlab.cli import main
from fdlab.core import paths
from fdlab.core.device import describe_device
from fdlab.execute.forecast import NEEDS, describe_projections, estimate_seconds, forecast
from fdlab.execute.ledger import stem_of
from fdlab.execute.suite import plan_suite, read_suites
from fdlab.studies.plan import make_plan
from fdlab.studies.projection import project
from fdlab.studies.timings import read_timing
from fdlab.training.pool import ensure_runs, find_missing
from fdlab.training.runs import complete, fingerprint


def test_every_notebook_that_trains_says_what_it_needs():
    stems = {stem_of(name) for name in read_suites()["all"]}
    assert set(NEEDS) == stems - {"data", "speed", "report"}


def test_runs_are_counted_once_and_missing_ones_are_named(home):
    found = forecast(plan_suite("core", preset="smoke", only="03,06", values={"seeds": [0]}))
    scale, comparison = found.needed.values()
    assert len(scale) == 3  # one network per modality
    # none and heads_only once a modality, three methods with a teacher once a direction
    assert len(comparison) == len(set(comparison)) == 2 * 2 + 3 * 2
    every = set(scale) | set(comparison)
    assert set(found.missing) == every and found.seconds > 0
    assert "timed now" in found.basis
    assert not list(paths.runs().glob("*/record.json"))


def test_what_exists_is_not_counted_as_missing(home):
    plan = make_plan("digits", "smoke", seeds=[0])
    runs = ensure_runs([plan.configure(m, seed=0) for m in plan.modalities])
    found = forecast(plan_suite("core", preset="smoke", only="03", values={"seeds": [0]}))
    assert not found.missing and found.seconds == 0
    lines = found.describe()
    assert lines[0].startswith("03_scale") and "0 to train" in lines[0]
    assert "3 exist" in lines[-1]
    more = [complete(plan.configure("audio", "heads_only", seed=0))]
    seconds, basis = estimate_seconds(more)
    audio = next(r.record for r in runs if r.record.config.student == "audio")
    assert seconds <= 2 * audio.seconds and "finished runs" in basis
    assert set(find_missing(more)) == {fingerprint(more[0], plan.open_store())}


def test_the_command_prints_and_runs_nothing(home, capsys):
    assert main(["reproduce", "--preset", "smoke", "--suite", "ablation", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*read_suites()["ablation"], "in", "Table"]
    assert lines[-1].endswith(
        "no device was measured at its shapes; "
        "`python -m benchmarks.training --shapes cremad --methods` measures one"
    )
    assert not list(paths.runs().glob("*/record.json"))
    assert not (paths.outputs() / "digits-smoke").exists()


def test_without_data_the_data_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    found = forecast(plan_suite("core", preset="smoke"))
    assert "fdlab data prepare digits" in found.describe()[-1]
    assert "unknown" in found.describe()[-1]


# Of the made-up device, in seconds per training sample: no distillation audio 3e-4 and image 6e-4,
# FD-CMKD 5e-4 each, logit KD 4e-4 and 8e-4. The mean of the three is 4e-4 and 19e-4 / 3.
TRAINED, RUNS, EPOCHS = 6698, 6, 100


def count_by_hand(audio: list[float], image: list[float]) -> float:
    """Seconds of twelve methods: those measured, and the rest at their mean."""
    total = 0.0
    for rates in (audio, image):
        for rate in [*rates, *[sum(rates) / len(rates)] * (12 - len(rates))]:
            total += RUNS * EPOCHS * TRAINED * rate
    return total


def test_the_papers_table_is_projected_from_the_measured_rates(tmp_path):
    folder = plant(tmp_path, h200=make_gpu(), cpu=make_cpu())
    found = project(read_timing(folder / "training-h200.json"))
    expected = count_by_hand([3e-4, 5e-4, 4e-4], [6e-4, 5e-4, 8e-4])
    assert found.seconds == pytest.approx(expected)
    assert found.seconds == pytest.approx(600 * 6698 * 12 * (4e-4 + 19e-4 / 3))
    assert (found.device, found.measured, len(found.assumed)) == ("NVIDIA H200", "2026-11-20", 9)
    assert not {"none", "kd", "fdcmkd"} & set(found.assumed)
    assert project(read_timing(folder / "training-cpu.json")) is None


def test_a_method_counts_under_the_name_that_the_table_gives_it(tmp_path):
    """The table's NKD is `nckd` here, and Yang's `nkd` is no row of it."""
    methods = {"none": {"both": 8e-4}, "nckd": {"both": 2e-3}, "nkd": {"both": 8e-4}}
    gpu = alter(make_gpu(), "shapes", "cremad", "methods", to=methods)
    found = project(read_timing(plant(tmp_path, x=gpu) / "training-x.json"))
    mean = (4e-4 + 1e-3 + 4e-4) / 3
    side = 6698 * (4e-4 + 1e-3 + 10 * mean)
    assert found.seconds == pytest.approx(600 * 2 * side) and "nkd" not in found.assumed


def test_the_command_projects_on_every_device_that_was_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    other = alter(make_gpu(), "device", to="NVIDIA A100")
    names = ["dist", "dml", "nkd", "dkd", "feat", "pkd", "ofd", "afd", "c2kd", "kd"]
    every = {name: {"both": 9e-4} for name in [*names, "none", "fdcmkd", "nckd"]}
    other = alter(other, "shapes", "cremad", "methods", to=every)
    plant(tmp_path, h200=make_gpu(), other=other, cpu=make_cpu(), broken="no")
    first, second, note = describe_projections()
    hours = 600 * 12 * 6698 * 9e-4 / 3600
    head = "Table 2, CREMA-D (12 methods × 2 directions × 6 seeds × 100 epochs, n = 6,698): "
    assert first == f"{head}{hours:.1f} h on NVIDIA A100 (rates of 2026-11-20)"
    rest = "(rates of 2026-11-20; 9 of 12 methods at the mean of the others)"
    assert second == f"{head}13.8 h on NVIDIA H200 {rest}"
    assert note.startswith("training-broken.json is not valid JSON")


def test_a_measured_rate_of_this_device_comes_before_timing_steps(home, monkeypatch):
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    here = describe_device(torch.device("cpu"))
    cpu = alter(make_cpu(), "device", to=here)
    plan = make_plan("digits", "smoke", seeds=[0])
    cpu["shapes"]["digits"]["width"] = plan.width
    plant(home, cpu=cpu)
    counts = plan.open_store().manifest["counts"]
    configs = [
        complete(plan.configure("image", "fdcmkd", "audio", seed=0)),  # 9e-4 as measured
        complete(plan.configure("audio", "kd", "image", seed=0)),  # the mean of none alone, 3e-4
    ]
    epoch = counts["train"] * (9e-4 + 3e-4)
    seconds, basis = estimate_seconds(configs)
    assert seconds == pytest.approx(plan.train.epochs * epoch)
    assert basis.startswith("from rates measured on 2026-11-19,")
    text = complete(plan.configure("text", seed=0))
    _, basis = estimate_seconds([*configs, text])
    assert "measured on 2026-11-19 and from some steps timed now" in basis
    plant(home, cpu=alter(cpu, "shapes", "digits", "width", to=64))
    assert "measured" not in estimate_seconds(configs)[1]

"""A dry run counts what the notebooks train, and trains nothing."""

from __future__ import annotations

import pytest

from fdlab.cli import main
from fdlab.core import paths
from fdlab.execute.forecast import NEEDS, estimate_seconds, forecast
from fdlab.execute.ledger import stem_of
from fdlab.execute.suite import plan_suite, read_suites
from fdlab.studies.plan import make_plan
from fdlab.training.pool import ensure_runs, find_missing
from fdlab.training.runs import complete, fingerprint


@pytest.fixture
def empty(tmp_path, monkeypatch, digits):
    """A root without runs, but with the data."""
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "stores").symlink_to(digits.folder.parent)
    return tmp_path


def test_every_notebook_that_trains_says_what_it_needs():
    stems = {stem_of(name) for name in read_suites()["all"]}
    assert set(NEEDS) == stems - {"data", "report"}


def test_runs_are_counted_once_and_missing_ones_are_named(empty):
    found = forecast(plan_suite("core", preset="smoke", only="03,06", values={"seeds": [0]}))
    scale, comparison = found.needed.values()
    assert len(scale) == 3  # one network per modality
    # none and heads_only once a modality, three methods with a teacher once a direction
    assert len(comparison) == len(set(comparison)) == 2 * 2 + 3 * 2
    every = set(scale) | set(comparison)
    assert set(found.missing) == every and found.seconds > 0
    assert "timed now" in found.basis
    assert not list(paths.runs().glob("*/record.json"))


def test_what_exists_is_not_counted_as_missing(empty):
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


def test_the_command_prints_and_runs_nothing(empty, capsys):
    assert main(["reproduce", "--preset", "smoke", "--suite", "ablation", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*read_suites()["ablation"], "in"]
    assert not list(paths.runs().glob("*/record.json"))
    assert not (paths.outputs() / "digits-smoke").exists()


def test_without_data_the_data_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    found = forecast(plan_suite("core", preset="smoke"))
    assert "fdlab data prepare digits" in found.describe()[-1]
    assert "unknown" in found.describe()[-1]

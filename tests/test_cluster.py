"""Runs on a cluster: lost workers, failing runs, workers of another version, and no deadlock."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from others import PATIENCE, wait_for

import fdlab
from fdlab.cli import main
from fdlab.core import paths, progress, stop, workers
from fdlab.core.errors import UserError
from fdlab.core.locks import find_owner
from fdlab.execute.suite import read_suites
from fdlab.studies.grid import configure_grid
from fdlab.studies.plan import make_plan
from fdlab.training import checkpoint, cluster, pool
from fdlab.training.ensure import ensure_run
from fdlab.training.pool import attempt_runs, ensure_runs

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def crowd():
    """A scheduler and two workers, each a process; a task may lose two of them."""
    import dask

    # A worker's process outlives neither its nanny nor this one.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as found,
    ):
        yield found


@pytest.fixture()
def scheduler(crowd, digits, monkeypatch):
    monkeypatch.setenv(cluster.VARIABLE, crowd.scheduler_address)
    monkeypatch.setattr(workers, "POLL", 0.05)
    monkeypatch.setattr(cluster, "ASK", 0.1)
    return crowd.scheduler_address


@pytest.fixture()
def plan(digits):
    return make_plan("digits", "smoke", epochs=1)


def lengthen(config, epochs: int):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))


def spoil(config):
    """A run that diverges."""
    train = dataclasses.replace(config.train, epochs=2, learning_rate=1e30)
    return dataclasses.replace(config, train=train)


def test_a_lost_workers_run_goes_elsewhere_and_is_as_if_trained_here(
    plan, crowd, scheduler, tmp_path, monkeypatch
):
    events = tmp_path / "events"
    events.touch()
    monkeypatch.setenv(progress.VARIABLE, str(events))
    monkeypatch.setenv(checkpoint.VARIABLE, "0")  # after every step
    configs = [lengthen(plan.configure(side, seed=31), 8) for side in ("audio", "image")]
    configs.append(plan.configure("image", "kd", "audio", 31))
    outcomes: list[pool.Outcome] = []

    def read_events() -> list[dict]:
        lines = events.read_text().splitlines(True)
        return [line for line in map(json.loads, lines[:-1]) if line["unit"] == "epoch"]

    sweep = threading.Thread(target=lambda: outcomes.extend(attempt_runs(configs)))
    sweep.start()

    def find_workers() -> list[tuple[psutil.Process, str]]:
        """Those that have a run which is past its first epoch, with its fingerprint."""
        if not any(1 <= line["done"] < 7 and line["total"] == 8 for line in read_events()):
            return []
        pids = {worker.pid for worker in crowd.workers.values() if worker.pid}
        owners = {name: find_owner(paths.runs() / name) for name in list_begun()}
        found = [(owner.process, name) for name, owner in owners.items() if owner]
        return [(psutil.Process(pid), name) for pid, name in found if pid in pids]

    victim, lost = wait_for(find_workers)[0]
    victim.send_signal(signal.SIGKILL)
    sweep.join(PATIENCE)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    begun = {line["id"] for line in read_events() if line["total"] == 8}
    assert len(begun) == 3  # two runs, one of them twice
    sessions = {o.run.record.fingerprint: o.run.record.sessions for o in outcomes}
    assert [session.first > 0 for session in sessions[lost]] == [False, True]
    assert not any(outcome.found for outcome in outcomes)
    assert all(attempt.found for attempt in attempt_runs(configs))
    monkeypatch.delenv(progress.VARIABLE)
    for outcome in outcomes:
        alone = ensure_run(outcome.config, force=True).record
        assert alone.curves == outcome.run.record.curves
        assert alone.files == outcome.run.record.files


def list_begun() -> list[str]:
    """Fingerprints of runs that have a checkpoint, and can go on from it."""
    return [name for name, step, _ in checkpoint.list_unfinished() if step > 3]


@pytest.mark.parametrize("where", ["here", "side by side", "cluster"])
def test_a_failing_run_stops_no_other(plan, scheduler, monkeypatch, where):
    if where != "cluster":
        monkeypatch.delenv(cluster.VARIABLE)
    monkeypatch.setenv("FDLAB_WORKERS", "2" if where == "side by side" else "1")
    monkeypatch.setattr(pool, "open_pool", lambda *given: ThreadPoolExecutor(1))
    seed = 40 + len(where)
    bad = spoil(plan.configure("text", seed=seed))
    taught = dataclasses.replace(
        plan.configure("image", "kd", "text", seed), teacher_train=bad.train
    )
    good = [plan.configure("text", seed=seed), plan.configure("image", seed=seed)]
    configs = [bad, taught, *good]
    with pytest.raises(UserError, match=rf"text none seed {seed} diverged.*\(2 of 4 runs failed\)"):
        ensure_runs(configs)
    first, second, *others = attempt_runs(configs)
    assert "diverged" in str(first.error)
    assert str(second.error) == f"what it needs failed: {first.error}"
    assert all(other.found and other.error is None for other in others)


def test_a_worker_with_other_code_refuses_and_names_both(plan, scheduler, monkeypatch, capsys):
    own = cluster.digest_package()
    monkeypatch.setattr(cluster, "digest_package", lambda: "0" * 16)
    config = plan.configure("text", seed=50)
    with pytest.raises(
        cluster.ClusterError, match=rf"worker .* with code {own}, and .* {'0' * 16}"
    ):
        ensure_runs([config, plan.configure("text", seed=51)])
    assert main([*SWEEP, "--seeds", "50"]) == 1
    found = capsys.readouterr()
    assert found.out.splitlines()[-1] == "fdlab: 2 runs: 0 trained, 0 found, 2 failed, 0 left"
    assert found.out.count("  failed\n") == 2 and f"failed: worker {os.uname()[1]}" in found.err
    monkeypatch.undo()
    assert not pool.find_missing([config]).keys() & {p.name for p in paths.runs().iterdir()}


def swap_code(code: str) -> str:
    """On a worker: it has other code; returns what it had."""
    before = cluster.digest_package()
    cluster.digest_package = lambda: code
    return before


def test_what_an_outdated_worker_refuses_another_trains(plan, scheduler, capsys):
    configs = [plan.configure("text", seed=seed) for seed in range(52, 57)]
    with distributed.Client(scheduler, set_as_default=False) as client:
        outdated = sorted(client.scheduler_info()["workers"])[0]
        (code,) = client.run(swap_code, "0" * 16, workers=[outdated]).values()
        try:
            outcomes = attempt_runs(configs)
        finally:
            client.run(swap_code, code, workers=[outdated])
    assert [outcome.error for outcome in outcomes] == [None] * 5
    told = capsys.readouterr().err
    assert told.count(outdated) == 1 and f"has fdlab {fdlab.__version__} with code 0000" in told


def test_a_worker_that_does_not_see_the_folder_refuses(tmp_path):
    task = cluster.make_task("os:getpid", {}, needs=[tmp_path / "store"])
    with pytest.raises(cluster.ClusterError, match=r"store: expected FDLAB_HOME to be a folder"):
        task()
    (tmp_path / "store").touch()
    assert task() == os.getpid()


def wait_for_a_stop(folder: str) -> None:
    """On a worker: what a training does that is asked to stop."""
    names = ("FDLAB_HOME", "FDLAB_WORKERS", "FDLAB_OWN", cluster.VARIABLE)
    (Path(folder) / "started").write_text(json.dumps([os.environ.get(name) for name in names]))
    while not stop.find_reason():
        time.sleep(0.05)
    (Path(folder) / "stopped").write_text(stop.find_reason())


def test_a_task_has_the_senders_variables_and_stops_when_nobody_waits(
    scheduler, tmp_path, monkeypatch
):
    monkeypatch.setenv("FDLAB_OWN", "mine")
    task = cluster.make_task("test_cluster:wait_for_a_stop", {"folder": str(tmp_path)})
    with cluster.open_crew() as crew:
        assert crew.count() == 2 and crew.count_room() == 4
        future = crew.submit(task)
        wait_for((tmp_path / "started").exists)
    assert json.loads(wait_for((tmp_path / "started").read_text)) == [
        *(str(paths.root()), "1", "mine", None)
    ]
    wait_for((tmp_path / "stopped").exists)
    with pytest.raises(CancelledError):
        future.result()


SWEEP = ["sweep", "--preset", "smoke", "--epochs", "1", "--seeds", "70", "--directions",
         "text2image", "--methods", "none,kd"]  # fmt: skip


def test_a_sweep_is_a_line_for_each_run_and_found_again(scheduler, capsys):
    assert main([*SWEEP, "--dask", scheduler]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[1:5] for line in lines] == [
        ["image", "none", "seed", "70"],
        ["text2image", "kd", "seed", "70"],
    ]
    assert len({len(line) for line in lines}) == 1 and lines[0].endswith("s  trained")
    assert total == "fdlab: 2 runs: 2 trained, 0 found, 0 failed, 0 left"
    assert main([*SWEEP, "--dask", scheduler]) == 0
    assert capsys.readouterr().out.count("found") == 3


def test_a_sweep_names_what_failed_and_ends_with_one(scheduler, monkeypatch, capsys):
    monkeypatch.delenv(cluster.VARIABLE)
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    assert main([*SWEEP, "--seeds", "71", "-o", "weight=1e38"]) == 1
    found = capsys.readouterr()
    assert "1 trained, 0 found, 1 failed" in found.out
    assert "fdlab: digits text2image kd seed 71 failed: " in found.err


def test_a_stopped_sweep_says_what_is_left(plan, scheduler, monkeypatch, capsys):
    monkeypatch.delenv(cluster.VARIABLE)
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    calls = []

    def train(pack, device):
        calls.append(pack)
        if len(calls) == 3:  # the teacher, the first student, and then
            raise stop.Stopped("the time budget is over")
        return ensure_run(*pack, device=device)

    monkeypatch.setattr(pool, "ensure_pack", train)
    assert main([*SWEEP, "--seeds", "72,73", "--methods", "none,kd"]) == stop.EXIT_CODE
    found = capsys.readouterr()
    assert found.out.count("stopped") == 4 - found.out.count(" s  trained")
    assert "stopped: the time budget is over; 0 of 4 runs are done, 4 left" in found.err
    command = shlex.join(["fdlab", *SWEEP, "--seeds", "72,73", "--methods", "none,kd"])
    assert found.err.splitlines()[-1] == f"fdlab: to go on: {command}"
    monkeypatch.setenv(stop.DEADLINE, str(time.time() - 1))
    monkeypatch.setenv(cluster.VARIABLE, scheduler)
    assert main([*SWEEP, "--seeds", "74"]) == stop.EXIT_CODE
    assert "2 left" in capsys.readouterr().out


def test_notebooks_and_their_runs_share_one_thread(crowd, home, monkeypatch):
    """The notebook leaves the worker's only thread to the run that it asks for."""
    code = """
import os
from fdlab.studies.plan import make_plan
from fdlab.training.pool import ensure_runs
assert os.environ["FDLAB_DASK"].startswith("tcp://")
assert "FDLAB_SUITE" in os.environ
plan = make_plan(dataset, preset, epochs=1)
ensure_runs([plan.configure("text", seed=seed) for seed in (60, 61)])
"""
    head = 'dataset = "digits"  # x\npreset = "smoke"  # x\n'
    for name in read_suites()["core"]:
        write_notebook(home / "notebooks", name, head, code)
    write_notebook(home / "notebooks", "02_similarity", head, "1 / 0")
    crowd.scale(1)
    wait_for(lambda: len(crowd.scheduler_info["workers"]) == 1)
    found = home / "scheduler.json"
    found.write_text(json.dumps({"address": crowd.scheduler_address}))
    monkeypatch.setenv(cluster.VARIABLE, "")  # what the command sets is undone afterwards
    ask = ["reproduce", "--preset", "smoke", "--only", "01,02", "--jobs", "2"]
    assert main([*ask, "--dask", str(found)]) == 1
    done = home / "outputs" / "digits-smoke" / "done"
    assert [path.stem for path in done.iterdir()] == ["01_data"]
    assert "ZeroDivisionError" in (done.parent / "notebooks" / "02_similarity.ipynb").read_text()
    assert len(list(paths.runs().glob("*/record.json"))) == 2


def write_notebook(folder: Path, name: str, parameters: str, code: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [first, nbformat.v4.new_code_cell(code)]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def test_a_run_that_kills_its_workers_is_named(plan, scheduler, monkeypatch):
    task = cluster.make_task("os:_exit", {"status": 9})
    monkeypatch.setattr(pool, "_make_task", lambda pack, device, events: task)
    (killed,) = attempt_runs([plan.configure("text", seed=955)])
    assert isinstance(killed.error, UserError)
    assert "text none seed 955: 2 workers died while they ran it" in str(killed.error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dask", "tcp://127.0.0.1:1"], "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (["--dask", "no://where"], "unknown address scheme"),
        (["--dask", "no-file.json"], "'no-file.json' is no scheduler of Dask"),
        (["--dask", "{damaged}"], "damaged.json names no address"),
        (["--dask", "tcp://127.0.0.1:1", "--jobs", "2"], "--jobs is of this machine"),
        (["--seeds", "0,x"], "--seeds is '0,x'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--methods", ","], "methods is empty"),
        (["--methods", "none,fdckmd"], "did you mean 'fdcmkd'"),
        (["-o", "tempersture=2"], "did you mean 'temperature'"),
        (["--time-budget", "soon"], "time budget is 'soon'"),
    ],
)
def test_what_is_wrong_is_one_line(digits, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    monkeypatch.setenv(cluster.VARIABLE, "")
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"id": 3')
    found = [argument.format(damaged=damaged) for argument in arguments]
    assert main([*SWEEP, *found]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.strip().splitlines()) == 1


def test_without_dask_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install .*\[dask\]"), cluster.open_crew("a:1"):
        pass


def test_a_grid_has_each_run_once_and_options_where_they_belong():
    plan = make_plan("digits", "smoke", seeds=[0, 1])
    ways = ["audio2image", "text2image"]
    configs = configure_grid(plan, ["none", "kd", "feat"], ways, {"temperature": 2.0})
    assert [c.label for c in configs] == [
        *(f"digits image none seed {seed}" for seed in (0, 1)),
        *(f"digits {way} {m} seed {s}" for m in ("kd", "feat") for way in ways for s in (0, 1)),
    ]
    assert [c.options.get("temperature") for c in configs] == [None] * 2 + [2.0] * 4 + [None] * 4

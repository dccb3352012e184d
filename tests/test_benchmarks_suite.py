"""The benchmark of whole suites: what it reads, what runs at once, and what a kernel may take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_execute import write_notebook

from benchmarks import losses
from benchmarks import suite as benchmark
from benchmarks.analysis import main as analyse
from benchmarks.entries import keep_entry
from benchmarks.suite import Command, main, run_at_once, run_in_turn
from fdlab.core.device import cores
from fdlab.core.errors import UserError
from fdlab.execute.suite import read_suites
from fdlab.studies.timings import read_suite_timings

MEET = """
import os, sys, time, pathlib
mine, other = map(pathlib.Path, sys.argv[1:])
mine.write_text(str(os.getpid()))
while not other.exists():
    time.sleep(0.01)
"""
ALONE = """
import sys, time, pathlib
mark = pathlib.Path(sys.argv[1])
mark.touch(exist_ok=False)
time.sleep(0.2)
mark.unlink()
"""
# Stands for `fdlab reproduce`: leaves what the first run leaves, and nothing in the second.
ACT = """
import json, os, sys, pathlib
outputs = pathlib.Path(os.environ["FDLAB_HOME"]) / "outputs"
only = dict(word.lstrip("-").split("=") for word in sys.argv[1:])["only"]
runs = outputs / "runs"
runs.mkdir(exist_ok=True)
before = len(list(runs.iterdir()))
with open(os.environ["NOTED"], "a") as log:
    linked = (outputs / "runs").is_symlink(), [p.is_symlink() for p in outputs.glob("stores/*")]
    log.write(json.dumps([only, before, *linked]) + "\\n")
done = outputs / "planted-smoke" / "done"
done.mkdir(parents=True, exist_ok=True)
for name, seconds in (("01_data", 7.5), ("02_similarity", 30.5)):
    if only in (name, "01,02") and (os.environ.get("AGAIN") or not (done / name).exists()):
        (done / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
        (done / name).touch()
        (runs / name).mkdir(exist_ok=True)
        (runs / name / "record.json").write_text(json.dumps({"seconds": seconds / 10}))
"""


def command(folder: Path, name: str, script: str, *words: object) -> Command:
    home = folder / name
    home.mkdir()
    return Command(home, (sys.executable, "-c", script, *map(str, words)))


def test_at_once_is_at_once_and_a_command_that_takes_too_long_is_ended(tmp_path):
    """Each waits for the other: at once they meet; in turn the first would wait for ever."""
    one, two = tmp_path / "one", tmp_path / "two"
    meeting = [command(tmp_path, "a", MEET, one, two), command(tmp_path, "b", MEET, two, one)]
    seconds, cpu = run_at_once(meeting, 60)
    assert seconds > 0 and cpu > 0
    two.unlink()
    with pytest.raises(UserError, match=r"took longer than 0.5 s: give more by --limit"):
        run_in_turn(meeting, 0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int(one.read_text()), 0)


def test_a_benchmark_that_is_told_to_end_leaves_nothing_at_work(tmp_path):
    """The command marks that it runs, and is gone when the benchmark is; so is the scratch."""
    code = """
import sys
from pathlib import Path
from benchmarks import suite
words = (sys.executable, "-c", sys.argv[1], *sys.argv[2:4])
suite.reproduce = lambda *_: words
suite.main(["--dataset", "planted", "--preset", "smoke", "--only", "01"])
"""
    one, never = tmp_path / "one", tmp_path / "never"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": root, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, MEET, str(one), str(never)], env=environment, cwd=root
    )
    end = time.monotonic() + 100
    while not (one.exists() and one.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(one.read_text()), 0)
    assert not list(scratch.glob("fdlab-suite-*"))


def test_in_turn_is_one_after_the_other_and_a_failure_is_named(tmp_path):
    mark = tmp_path / "mark"
    alone = [command(tmp_path, name, ALONE, mark) for name in "ab"]
    assert run_in_turn(alone, 60)[0] >= 0.4  # each sleeps for 0.2
    mark.touch()
    with pytest.raises(UserError, match="FileExistsError"):
        run_in_turn(alone, 60)


@pytest.fixture()
def acting(tmp_path, monkeypatch):
    """A home with tiny notebooks, and a command in fdlab's place; yields its calls."""
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    for name in read_suites()["core"]:
        write_notebook(tmp_path / "home" / "notebooks", name, 'dataset = "x"\npreset = "x"')
    monkeypatch.setattr(benchmark, "reproduce", lambda *words: (sys.executable, "-c", ACT, *words))
    return lambda: [json.loads(line) for line in (tmp_path / "noted").read_text().splitlines()]


ASKED = ["--dataset", "planted", "--preset", "smoke", "--only", "01,02"]


def test_an_entry_holds_what_both_runs_left_and_the_pair_shares_its_runs(acting, tmp_path):
    out = tmp_path / "suite.json"
    out.write_text(json.dumps([{"suite": "methods", "kept": True}]))
    for _ in range(2):  # the second replaces the first's entry
        words = [*ASKED, "--pairs", "01,02_similarity", "--repeats", "2", "--out", str(out)]
        assert main(words) == 0
    kept, entry = json.loads(out.read_text())
    assert kept == {"suite": "methods", "kept": True}
    out.write_text(json.dumps([entry]))
    (read,) = read_suite_timings(out)  # as the notebook that draws it does
    assert (read.suite, read.first_seconds) == ("core", entry["first_seconds"])
    assert entry["notebooks"] == {"01_data": 7.5, "02_similarity": 30.5}
    assert (entry["runs"], entry["training_seconds"]) == (2, 3.8)
    assert (entry["suite"], entry["dataset"], entry["preset"]) == ("core", "planted", "smoke")
    assert (entry["cores"], entry["data"], entry["jobs"]) == (cores(), "built", 1)
    first, second = entry["first_seconds"], entry["second_seconds"]
    assert entry["ratio"] == pytest.approx(first / second, abs=0.01)
    assert [pair["state"] for pair in entry["pairs"]] == ["fresh", "found"]
    for pair in entry["pairs"]:
        assert pair["notebooks"] == ["01_data", "02_similarity"]
        assert [len(times) for times in pair["repeats"].values()] == [2, 2]
        middle = {way: sum(times) / 2 for way, times in pair["repeats"].items()}
        assert pair["at_once_seconds"] == pytest.approx(middle["at_once"])
        assert pair["ratio"] == pytest.approx(middle["at_once"] / middle["in_turn"], abs=1e-3)
    calls = acting()[: len(acting()) // 2]
    assert [each[:2] for each in calls[:2]] == [["01,02", 0], ["01,02", 2]]
    assert all(shared for _, _, shared, _ in calls[2:]) and not calls[0][2]
    fresh, found = calls[2:10], calls[10:]
    assert len(found) == 8 and all(before == 2 for _, before, *_ in found)
    assert [each[:2] for each in fresh[2:4]] == [["01_data", 0], ["02_similarity", 1]]  # in turn


def test_a_prepared_data_set_is_linked_and_may_be_built_anew(acting, tmp_path):
    from fdlab.data.store import prepare

    prepare("planted")
    for words, data, links in (([], "linked", [True]), (["--build"], "built", [])):
        out = tmp_path / f"{data}.json"
        assert main([*ASKED, *words, "--out", str(out)]) == 0
        assert json.loads(out.read_text())[0]["data"] == data
        assert acting()[-1][3] == links


def test_a_second_run_that_does_its_work_again_is_refused(acting, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AGAIN", "1")
    out = tmp_path / "suite.json"
    assert main([*ASKED, "--out", str(out)]) == 2
    assert "again: expected that it finds everything" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "01"], "expected two notebooks"),
        (["--pairs", "01,02,03"], "expected two notebooks"),
        (["--pairs", "01,simliarity"], "did you mean 'similarity'|unknown notebook"),
        (["--preset", "fast"], "unknown preset"),
        (["--repeats", "0"], "expected a whole number from 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(acting, words, message, capsys, tmp_path):
    import re

    assert main([*ASKED, "--out", str(tmp_path / "x.json"), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "noted").exists()


def test_entries_keep_their_place_and_another_file_is_not_overwritten(tmp_path):
    path = tmp_path / "entries.json"
    for device, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        keep_entry(path, {"device": device, "value": value}, ["device"])
    assert [(e["device"], e["value"]) for e in json.loads(path.read_text())] == [
        ("a", 3),
        ("b", 2),
        ("c", 4),
    ]
    path.write_text('{"device": "a"}')
    with pytest.raises(UserError, match="holds no list of entries"):
        keep_entry(path, {"device": "a"}, ["device"])
    assert path.read_text() == '{"device": "a"}'


def test_the_real_command_runs_and_the_threads_of_its_kernels_keep_to_the_cores(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "64")
    tell = """
import json, os, pathlib, numpy, torch
from threadpoolctl import threadpool_info
pools = [[pool["internal_api"], pool["num_threads"]] for pool in threadpool_info()]
found = {"pools": pools, "torch": torch.get_num_threads(), "wait": os.environ["OMP_WAIT_POLICY"]}
pathlib.Path(FOLDER, str(os.getpid())).write_text(json.dumps(found))
"""
    told = tmp_path / "told"
    told.mkdir()
    for name in read_suites()["core"]:
        head = 'dataset = "planted"\npreset = "smoke"'
        code = f"FOLDER = {str(told)!r}{tell}"
        write_notebook(tmp_path / "home" / "notebooks", name, head, code)
    jobs = min(2, cores())
    out = tmp_path / "suite.json"
    assert main([*ASKED, "--jobs", str(jobs), "--limit", "300", "--out", str(out)]) == 0
    entry = json.loads(out.read_text())[0]
    assert set(entry["notebooks"]) == {"01_data", "02_similarity"} and entry["runs"] == 0
    kernels = [json.loads(path.read_text()) for path in told.iterdir()]
    assert len(kernels) == 2  # the second run found both
    for kernel in kernels:
        assert kernel["torch"] * jobs <= cores() and kernel["wait"] == "passive"
        assert {api for api, _ in kernel["pools"]} >= {"openmp"}
        for api, threads in kernel["pools"]:
            assert threads * jobs <= cores() and (api != "openblas" or threads == 1)


def test_analysis_agrees_with_its_plain_forms_and_times_every_method(tmp_path, monkeypatch):
    for name, small in (("COUNT", 12), ("WIDTH", 16), ("MAPS", {"layer4": (16, 5, 5)})):
        monkeypatch.setattr(losses, name, small)
    out, threads = tmp_path / "analysis.json", torch.get_num_threads()
    words = "--samples 40 --dim 24 --bands 3 --shuffles 12 --recompute 4 --repeats 1"
    try:
        analyse([*words.split(), "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    (entry,) = json.loads(out.read_text())
    assert set(entry["similarity"]) == {"cosine", "cka", "cka_debiased", "neighbours"}
    for row in entry["similarity"].values():
        assert 0 <= row["largest_difference"] < 1e-9 and row["sweep_ms"] > 0
    assert entry["split"]["largest_difference"] < 1e-5
    assert set(entry["nulls"]) == set(entry["similarity"])
    timed = entry["losses"]["milliseconds"]
    assert {"kd", "fdcmkd", "c2kd"} <= set(timed) and not {"mmanet", "cirkd"} & set(timed)
    assert all(ms > 0 for row in timed.values() for ms in row.values())
    assert len(entry["losses"]["parts"]) == 3

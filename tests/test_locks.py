"""Several processes at one thing: it is made once, by whom is known, and a dead one is no owner.

What is killed here is killed for good; whatever a test starts, it ends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from others import PATIENCE, run_holder, wait_for

from fdlab.core import locks, stop
from fdlab.core.errors import UserError
from fdlab.core.locks import Lock, Taken, find_owner, holding, locate_claim, remove_leftovers

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fdlab.cli", "fdlab.execute.suite", "fdlab.training.pool"])

HOLD = """
import sys
from fdlab.core.locks import holding
with holding(sys.argv[1], "it"):
    print("held", flush=True)
    sys.stdin.readline()
print("given back", flush=True)
sys.stdin.readline()
"""


@pytest.fixture()
def other(tmp_path):
    """A process that holds the lock of `thing`, until it reads a line."""
    with run_holder(HOLD, str(tmp_path / "thing")) as process:
        yield process


@pytest.fixture(params=["with", "without"])
def exchange(request, monkeypatch):
    """A file system that can exchange two names at once, and one that cannot, such as NFS."""
    if request.param == "without":
        for module in ("filelock._soft", "filelock._util"):
            monkeypatch.setattr(f"{module}.exchange_names", lambda source, target: False)


@pytest.fixture()
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(locks, "say", lines.append)
    return lines


def test_the_owner_is_named_and_waited_for(tmp_path, other, said):
    owner = find_owner(tmp_path / "thing")
    assert (owner.process, owner.host) == (other.pid, os.uname().nodename)
    with pytest.raises(Taken, match=f"it is in use: process {other.pid} on") as caught:
        Lock(tmp_path / "thing", "it").acquire(wait=False)
    assert caught.value.owner == owner and isinstance(caught.value, UserError)
    lock = Lock(tmp_path / "thing", "it")
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    wait_for(lambda: said)
    assert thread.is_alive()
    other.stdin.write("\n")
    other.stdin.flush()
    thread.join(PATIENCE)
    assert find_owner(tmp_path / "thing").process == os.getpid()
    lock.release()
    assert find_owner(tmp_path / "thing") is None and not list(tmp_path.iterdir())
    expected = rf"fdlab: waiting for it: process {other.pid} on \S+ has had it since \d\d:\d\d:\d\d"
    assert len(said) == 1 and re.fullmatch(expected, said[0])


@pytest.mark.parametrize("collected", [True, False])
def test_a_killed_owner_is_recognised_at_once(tmp_path, other, said, exchange, collected):
    """Without waiting at all, also where its parent has not taken note of its end."""
    other.kill()
    if collected:
        other.wait()
    else:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert find_owner(tmp_path / "thing") is None
    with holding(tmp_path / "thing", "it", wait=False):
        assert find_owner(tmp_path / "thing").process == os.getpid()
    assert len(said) == 1 and f"process {other.pid} on" in said[0] and "taking over" in said[0]
    assert not list(tmp_path.iterdir())


def test_an_owner_on_another_host_is_waited_for_as_long_as_it_shows_life(
    tmp_path, said, exchange, monkeypatch
):
    """The lease is short here; its length is all that differs from the one in use."""
    monkeypatch.setattr(locks, "LEASE", 0.6)
    claim = locate_claim(tmp_path / "thing")
    fields = {"pid": 4711, "host": "elsewhere", "mode": "lease", "token": "ab", "duration": 0.6}
    lines = [f"{name}={value}" for name, value in fields.items()]
    since = "since=2001-02-03T04:05:06+00:00"
    claim.write_text("\n".join(["filelock/2", *lines, since]) + "\n")
    lock = Lock(tmp_path / "thing", "it")
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    for _ in range(60):  # five leases
        time.sleep(0.05)
        os.utime(claim)
        assert thread.is_alive() and find_owner(tmp_path / "thing").host == "elsewhere"
    thread.join(PATIENCE)
    assert find_owner(tmp_path / "thing").process == os.getpid()
    lock.release()
    assert said[0].startswith("fdlab: waiting for it: process 4711 on elsewhere has had it since 2")
    assert "2001-02-03" in said[0] and not list(tmp_path.iterdir())


def test_a_claim_without_a_name_is_taken_after_the_lease(tmp_path, exchange, monkeypatch):
    """Its owner was killed between making the file and writing its name."""
    monkeypatch.setattr(locks, "LEASE", 0.4)
    locate_claim(tmp_path / "thing").touch()
    assert str(find_owner(tmp_path / "thing")) == "another process"
    with holding(tmp_path / "thing", "it"):
        assert find_owner(tmp_path / "thing").process == os.getpid()


def test_a_living_owner_shows_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    with holding(tmp_path / "thing", "it"):
        stamps = set()
        wait_for(lambda: stamps.add(locate_claim(tmp_path / "thing").stat().st_mtime_ns)
                   or len(stamps) > 3)  # fmt: skip


def test_threads_exclude_each_other(tmp_path):
    inside, most = 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(5):
            with holding(tmp_path / "thing", "it"):
                inside += 1
                most.append(inside)
                time.sleep(0.002)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 20


def test_a_wait_ends_where_there_is_a_reason_to_stop(tmp_path, other):
    with stop.listening():
        stop.request("SIGTERM")
        with pytest.raises(stop.Stopped, match="SIGTERM, while waiting for it"):
            Lock(tmp_path / "thing", "it").acquire()
    assert find_owner(tmp_path / "thing").process == other.pid


def test_leftovers_go_and_living_claims_stay(tmp_path, other):
    dead = locate_claim(tmp_path / "dead")
    text = locate_claim(tmp_path / "thing").read_text()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead.write_text(text.replace(f"pid={other.pid}", f"pid={ended.pid}"))
    (tmp_path / "dead.claim.0123").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.claim"]


@contextmanager
def reading_only(folder: Path):
    """Nothing below `folder` can be written in the block, by whoever runs the tests."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o555)
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for place in places:
            place.chmod(0o755)


@pytest.fixture()
def home(monkeypatch):
    """A folder of its own for all outputs, which others may read."""
    folder = Path(tempfile.mkdtemp(prefix="fdlab-locks-"))
    folder.chmod(0o755)
    monkeypatch.setenv("FDLAB_HOME", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_what_exists_in_a_read_only_folder_is_found_and_the_rest_is_one_line(
    home, digits, monkeypatch
):
    from fdlab.data import store
    from fdlab.training.ensure import ensure_run

    monkeypatch.setattr(store, "_verified", {})
    shutil.copytree(digits.folder, home / "outputs" / "stores" / digits.folder.name)
    first, second = make_configs()[:2]
    made = ensure_run(first)
    make_bank(home, [])
    store._verified.clear()
    with reading_only(home / "outputs"):
        assert ensure_run(first).record == made.record
        assert make_bank(home, made := []) == 3 and not made
        with pytest.raises(UserError, match=r"run \w+ \(digits .*\) cannot be made: .* cannot be"):
            ensure_run(second)
        with pytest.raises(UserError, match="the store of planted cannot be made"):
            store.prepare("planted")
    assert not list(home.rglob("*.claim*"))


def make_configs() -> list:
    """Two teachers' runs and one that needs the second."""
    from fdlab.studies.plan import make_plan

    plan = make_plan("digits", "smoke", epochs=1)
    return [
        plan.configure("image", "none", None, 0, {}),
        plan.configure("audio", "none", None, 0, {}),
        plan.configure("image", "kd", "audio", 0, {}),
    ]


def make_bank(home: Path, made: list) -> int:
    import numpy as np

    from fdlab.features.bank import FeatureBank, keep_bank

    def make() -> FeatureBank:
        made.append("bank")
        return FeatureBank(np.arange(3), np.zeros(3, int), {"feature": np.ones((3, 2), "f4")})

    return len(keep_bank(home / "outputs" / "banks" / "one.safetensors", make))


def race(number: int, home: str, log: str, line) -> None:
    """Make the same as everyone else, and note what this process made itself."""
    os.environ |= {"FDLAB_HOME": home, "FDLAB_WORKERS": "1"}
    from fdlab.data import store
    from fdlab.training import ensure, pool

    made = []
    train, build = ensure._train, store._build
    ensure._train = lambda found, *rest: made.extend(f.name for f in found) or train(found, *rest)
    store._build = lambda *arguments: made.append("store") or build(*arguments)
    configs = make_configs()
    if number % 2:  # in another order
        configs = configs[::-1]
    line.wait(PATIENCE)
    make_bank(Path(home), made)
    if number < 2:
        found = pool.ensure_runs(configs)
    else:
        found = [ensure.ensure_run(config) for config in configs]
    scores = {run.folder.name: run.record.curves["loss/task"] for run in found}
    Path(f"{log}-{number}.json").write_text(json.dumps({"made": made, "scores": scores}))


@contextmanager
def started(function, arguments: list[tuple]):
    """Processes of a function, one for each tuple; killed at the end, with what they started."""
    processes = [CONTEXT.Process(target=function, args=each) for each in arguments]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("count", [2, 4])
def test_racing_processes_make_each_thing_once(home, count):
    pytest.importorskip("espeakng_loader")
    log, line = str(home / "log"), CONTEXT.Barrier(count)
    with started(race, [(i, str(home), log, line) for i in range(count)]) as processes:
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * count
    notes = [json.loads(Path(f"{log}-{i}.json").read_text()) for i in range(count)]
    made = sorted(name for note in notes for name in note["made"])
    runs = sorted(path.name for path in (home / "outputs" / "runs").iterdir())
    assert len(runs) == 3 and made == sorted(["bank", "store", *runs])
    assert all(note["scores"] == notes[0]["scores"] for note in notes)
    assert not list(home.rglob("*.claim*"))


def read_files(number: int, home: str, log: str, root: str, events: list) -> None:
    """`fdlab data prepare` of a person's files; the first reads no event before the others wait."""
    os.environ |= {"FDLAB_HOME": home, "FDLAB_WORKERS": "1"}
    from fdlab.data import ingest, store

    said, made = [], []
    locks.say = lambda line: (said.append(line), events[1].set())
    decode = ingest._decode_all

    def count(*arguments):
        made.append("read")
        events[0].set()
        assert events[1].wait(PATIENCE)
        return decode(*arguments)

    ingest._decode_all = count
    if number:
        assert events[0].wait(PATIENCE)
    found = store.prepare("mine", {"side": 16}, root=root, kind="folder")
    note = {"said": said, "made": made, "digest": found.digest}
    Path(f"{log}-{number}.json").write_text(json.dumps(note))


def test_a_second_reader_of_files_waits_and_finds_the_store(home):
    import numpy as np
    from PIL import Image

    rows = ["split,label,image,text"]
    for number in range(12):
        split = ("train", "validation", "test")[number // 2 % 3]
        pixels = np.full((16, 16, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(home / f"{number}.png")
        rows.append(f"{split},{'ab'[number % 2]},{number}.png,word {number}")
    (home / "manifest.csv").write_text("\n".join(rows) + "\n")
    log, events = str(home / "log"), [CONTEXT.Event(), CONTEXT.Event()]
    arguments = [(i, str(home), log, str(home / "manifest.csv"), events) for i in range(2)]
    with started(read_files, arguments) as processes:
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0, 0]
        number = processes[0].pid
    first, second = (json.loads(Path(f"{log}-{i}.json").read_text()) for i in range(2))
    assert first["made"] == ["read"] and second["made"] == []
    assert first["digest"] == second["digest"]
    assert f"waiting for the store of mine: process {number} on" in second["said"][0]


HEAD = 'dataset = "planted"  # x\npreset = "quick"  # x\n'
PRELUDE = """
import json, os, random, time
from pathlib import Path
from fdlab.core.files import write_json, write_text
home, suite = Path(os.environ["FDLAB_HOME"]), Path(os.environ["FDLAB_SUITE"])
with (home / "began").open("a") as handle:
    handle.write("{stem}\\n")
"""
WORK = """
rng = random.Random("{stem}")
rows = []
for row in range(6):
    rows.append([row, rng.random()])
    time.sleep(0.05)
write_text(suite / "tables" / "{stem}-rows.csv", "\\n".join(f"{{a}},{{b}}" for a, b in rows))
write_text(suite / "tables" / "{stem}-rows.md", f"{{rows}}\\n\\nA caption.")
write_json(suite / "results" / "{stem}.json", json.loads((home / "made.json").read_text()))
print(rows)
"""
READ = """
names = sorted(path.name for path in (suite / "results").glob("*.json"))
write_json(suite / "results" / "report.json", {{"read": names}})
write_text(suite / "tables" / "report-rows.csv", "name\\n" + "\\n".join(names))
write_text(suite / "tables" / "report-rows.md", "x\\n\\nA caption.")
"""
NAMES = ["01_data", "02_similarity", "03_scale", "00_report"]
END = ["--only", "01,02,03,00"]


def write_suite(home: Path, **cells: str) -> None:
    """A core suite of notebooks that take no time; `cells`: stem → another last cell."""
    from fdlab.core.results import write_result
    from fdlab.execute.suite import read_suites
    from fdlab.studies.data import describe_data
    from fdlab.studies.plan import make_plan

    write_result(home / "made.json", describe_data(make_plan("planted", "quick")))
    for name in read_suites()["core"]:
        stem = name.split("_", 1)[1]
        last = cells.get(stem, READ if stem == "report" else WORK)
        notebook = nbformat.v4.new_notebook()
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        first = nbformat.v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]})
        texts = [PRELUDE.format(stem=stem), last.format(stem=stem)]
        notebook.cells = [first, *map(nbformat.v4.new_code_cell, texts)]
        (home / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, home / "notebooks" / f"{name}.ipynb")


def reproduce(home: str, log: str, arguments: list[str]) -> None:
    """`fdlab reproduce` in a session of its own, its words in a file."""
    os.setsid()
    os.environ["FDLAB_HOME"] = home
    os.chdir(home)
    with open(log, "a") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    from fdlab.cli import main

    sys.exit(main(["reproduce", "--dataset", "planted", *arguments]))


def test_two_commands_share_a_suite(home):
    write_suite(home)
    logs = [home / "first.log", home / "second.log"]
    with started(reproduce, [(str(home), str(log), END) for log in logs]) as processes:
        for process in processes:
            process.join(PATIENCE)
        texts = [log.read_text() for log in logs]
        assert [process.exitcode for process in processes] == [0, 0], texts
    began = (home / "began").read_text().split()
    assert sorted(began) == ["data", "report", "scale", "similarity"] and began[-1] == "report"
    counts = [re.search(r"4 notebooks: (\d) ran, (\d) found, 0 left", t).groups() for t in texts]
    assert sum(int(ran) for ran, _ in counts) == 4
    assert all(int(ran) + int(found) == 4 for ran, found in counts)
    waited = re.findall(r"waiting for notebook (\w+): process (\d+)", "".join(texts))
    assert waited and {int(number) for _, number in waited} <= {p.pid for p in processes}
    assert not list(home.rglob("*.claim*"))


def read_outcome(home: Path) -> dict[str, str]:
    suite = home / "outputs" / "planted-quick"
    paths = [*suite.glob("results/*"), *suite.glob("tables/*"), suite / "report.html"]
    return {str(path.relative_to(suite)): path.read_text() for path in sorted(paths)}


TRAIN = """
os.environ["FDLAB_CHECKPOINT_SECONDS"] = "0"
from fdlab.studies.plan import make_plan
from fdlab.training.ensure import ensure_run
plan = make_plan("digits", "smoke", epochs=24)
losses = ensure_run(plan.configure("text")).record.curves["loss/task"]
write_text(suite / "tables" / "{stem}-rows.csv", "\\n".join(map(repr, losses)))
write_text(suite / "tables" / "{stem}-rows.md", f"{{losses}}\\n\\nA caption.")
write_json(suite / "results" / "{stem}.json", json.loads((home / "made.json").read_text()))
"""


def find_step(home: Path) -> int:
    """Where the only run that is trained stands; 0 without a checkpoint."""
    found = (home / "outputs" / "checkpoints").glob("*/*.safetensors")
    return max((int(path.name[:9]) for path in found), default=0)


def count_begun(home: Path, stem: str) -> int:
    """How often a notebook was begun."""
    path = home / "began"
    return path.read_text().split().count(stem) if path.exists() else 0


def test_a_suite_that_is_killed_again_and_again_ends_as_an_undisturbed_one(home, digits, tmp_path):
    """Five kills, each while a notebook is at work: three while it trains, after a seeded number of
    steps, its kernel too; two in another, whose kernel is left to end itself."""
    shutil.copytree(digits.folder, home / "outputs" / "stores" / digits.folder.name)
    write_suite(home, data=TRAIN)
    calm = tmp_path / "calm"
    shutil.copytree(home, calm)
    with started(reproduce, [(str(calm), str(tmp_path / "log"), END)]) as (process,):
        process.join(PATIENCE)
        assert process.exitcode == 0, (tmp_path / "log").read_text()
    rng = random.Random(7)
    done, runs = home / "outputs" / "planted-quick" / "done", home / "outputs" / "runs"
    for name in ["01_data"] * 3 + ["02_similarity"] * 2:
        stem, first, more = name[3:], find_step(home), rng.randint(3, 12)
        before = count_begun(home, stem)
        with started(reproduce, [(str(home), str(home / "log"), END)]) as (process,):
            if stem == "data":
                wait_for(lambda first=first, more=more: find_step(home) >= first + more)
                (place,) = (home / "outputs" / "checkpoints").iterdir()
                os.kill(find_owner(runs / place.name).process, signal.SIGKILL)
            else:
                wait_for(lambda stem=stem, before=before: count_begun(home, stem) > before)
                time.sleep(rng.uniform(0, 0.3))
            owner = find_owner(done / f"{name}.json")
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            assert owner.process == process.pid and not (done / f"{name}.json").exists()
    with started(reproduce, [(str(home), str(home / "log"), END)]) as (process,):
        process.join(PATIENCE)
        assert process.exitcode == 0, (home / "log").read_text()
    (record,) = runs.glob("*/record.json")
    steps = [session["first"] for session in json.loads(record.read_text())["sessions"]]
    assert len(steps) == 4 and steps == sorted(set(steps))  # on from where each kill left it
    outcome = read_outcome(home)
    assert outcome == read_outcome(calm) and len(outcome) == 4 + 8 + 1
    assert not list(home.rglob("*.claim*"))


ASKED = """
from fdlab.core import stop
while not stop.find_reason():
    time.sleep(0.02)
raise stop.Stopped(stop.find_reason())
"""


@pytest.mark.parametrize("how", ["SIGTERM", "budget"])
def test_a_suite_stops_in_good_order_and_goes_on(home, how):
    write_suite(home, data=ASKED)
    arguments = [*END, "--time-budget", "12s" if how == "budget" else "1h"]
    with started(reproduce, [(str(home), str(home / "log"), arguments)]) as (process,):
        wait_for(lambda: (home / "began").exists())
        if how == "SIGTERM":
            os.kill(process.pid, signal.SIGTERM)
        process.join(PATIENCE)
        text = (home / "log").read_text()
        assert process.exitcode == stop.EXIT_CODE, text
    assert "4 notebooks: 0 ran, 0 found, 1 stopped (01_data), 3 left" in text
    reason = "SIGTERM" if how == "SIGTERM" else "the time budget is over"
    assert text.rstrip().splitlines()[-2:] == [
        f"fdlab: the suite was stopped: {reason}",
        "fdlab: to go on: fdlab reproduce --dataset planted " + " ".join(arguments),
    ]
    suite = home / "outputs" / "planted-quick"
    assert "Stopped" in (suite / "notebooks" / "01_data.ipynb").read_text()
    assert not (suite / "failed").exists() and not list((home / "outputs").glob(".stop-*"))
    assert (home / "began").read_text().split() == ["data"]


def test_kernels_that_do_not_stop_are_ended_and_count_as_stopped(home, monkeypatch):
    from fdlab.execute import suite

    write_suite(home, data="time.sleep(1000)")
    monkeypatch.setattr(suite, "GRACE", 0.5)
    planned = suite.plan_suite(dataset="planted", only="01,02")
    found = []
    thread = threading.Thread(target=lambda: found.append(suite.run_suite(planned)))
    thread.start()
    wait_for(lambda: (home / "began").exists())
    stop.request("enough")
    thread.join(PATIENCE)
    (summary,) = found
    assert summary.stopped == {"01_data": "enough"} and summary.left == ["02_similarity"]
    assert summary.reason == "enough" and not summary.failed and not stop.find_reason()
    partial = (planned.folder / "notebooks" / "01_data.ipynb").read_text()
    assert "DeadKernelError" in partial and "time.sleep(1000)" in partial


def test_a_notebook_whose_kernel_a_stop_ended_did_not_fail(home, monkeypatch):
    from fdlab.execute import engine, suite

    def fall(*arguments):
        stop.request("enough")
        raise RuntimeError("its kernel was stopped")  # as engine says of one on a cluster

    write_suite(home)
    monkeypatch.setattr(engine, "run_notebook", fall)
    summary = suite.run_suite(suite.plan_suite(dataset="planted", only="01,02"))
    assert summary.stopped == {"01_data": "enough"} and not summary.failed
    assert summary.left == ["02_similarity"] and not (summary.folder / "failed").exists()


def test_where_a_notebook_cannot_be_locked_or_looked_up_the_others_run(home, monkeypatch):
    from fdlab.execute import ledger, suite

    write_suite(home)
    acquire, make_key = Lock.acquire, ledger.make_key

    def fill(word, plain):
        def work(first, *others, **named):
            if word in str(getattr(first, "path", first)):
                raise OSError(28, "No space left on device")
            return plain(first, *others, **named)

        return work

    monkeypatch.setattr(Lock, "acquire", fill("01_data", acquire))
    monkeypatch.setattr(ledger, "make_key", fill("02_similarity", make_key))
    summary = suite.run_suite(suite.plan_suite(dataset="planted", only="01,02,03", jobs=2))
    full = "OSError: [Errno 28] No space left on device"
    assert summary.failed == {"01_data": full, "02_similarity": full}
    assert list(summary.ran) == ["03_scale"] and not summary.left
    assert f"01_data failed: {full}" in re.sub(r"<[^>]*>", "", summary.page.read_text())


def test_what_failed_is_in_the_report_until_it_runs(home, monkeypatch):
    from fdlab.execute import suite

    write_suite(home, similarity="raise OSError(28, '<full>')", scale="os._exit(9)")
    summary = suite.run_suite(suite.plan_suite(dataset="planted", only="01,02,03"))
    assert summary.describe() == (
        "3 notebooks: 1 ran, 0 found, 2 failed (02_similarity, 03_scale), 0 left"
    )
    page = summary.page.read_text()
    assert "02_similarity</a> failed: OSError: [Errno 28] &lt;full&gt;" in page
    assert "03_scale</a> failed: DeadKernelError: Kernel died" in page
    for name, words in (("02_similarity", "Errno 28"), ("03_scale", "DeadKernelError")):
        copy = nbformat.read(summary.folder / "notebooks" / f"{name}.ipynb", as_version=4)
        assert words in str(copy.cells) and "os.environ" in str(copy.cells)
    write_suite(home)

    def refuse(*arguments, **others):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("papermill.execute_notebook", refuse)
        full = suite.run_suite(suite.plan_suite(dataset="planted", only="02"))
    assert full.failed == {"02_similarity": "OSError: [Errno 28] No space left on device"}
    assert "No space" in (summary.folder / "notebooks" / "02_similarity.ipynb").read_text()
    again = suite.run_suite(suite.plan_suite(dataset="planted", only="02,03"))
    assert set(again.ran) == {"02_similarity", "03_scale"}
    assert " failed: " not in again.page.read_text()

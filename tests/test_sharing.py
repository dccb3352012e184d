"""Several fdlab processes on one machine: who gets a core, and that nobody waits for ever."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from others import run_holder

from fdlab.core import device, paths, slots, stop, workers
from fdlab.core.errors import UserError
from fdlab.core.locks import holding
from fdlab.core.slots import claim_core, claiming
from fdlab.execute import suite as execute
from fdlab.execute.suite import SuiteRun
from fdlab.training import pool
from fdlab.training.pool import _is_at_work

HOLD = """
import sys, time
from fdlab.core import slots
slots.list_cores = lambda: [0, 1]
held = [slots.claim_core(), slots.claim_core()]
assert all(held) and slots.claim_core() is None
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Two cores, and a temporary folder of the test's own."""
    monkeypatch.setattr(slots, "list_cores", lambda: [0, 1])
    monkeypatch.setattr(workers, "POLL", 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("FDLAB_WORKERS", raising=False)


@pytest.fixture()
def other():
    """Another process that has claimed both cores."""
    with run_holder(HOLD) as process:
        yield process


class Crowd:
    """Tasks that count how many are at work at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def work(self, pause: float = 0.05) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(pause)
        with self.lock:
            self.now -= 1
        return self.most


def run(tasks, **others) -> dict:
    with ThreadPoolExecutor(4) as executor:
        return dict(workers._work(executor, tasks, **{"workers": 2, "sharing": True} | others))


def count_free() -> int:
    held = []
    while core := claim_core():
        held.append(core)
    for core in held:
        core.release()
    return len(held)


def test_a_core_is_claimed_once_and_given_back(other):
    assert claim_core() is None
    with claiming():  # goes on without one
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert count_free() == 2  # the system has given back what the killed process held
    with claiming():
        assert count_free() == 1
    with claiming(False):
        assert count_free() == 2


def test_commands_bound_to_different_cores_do_not_share(other, monkeypatch):
    monkeypatch.setattr(slots, "list_cores", lambda: [2, 3])
    assert count_free() == 2


def test_alone_all_workers_work_and_leave_every_core_free():
    meeting = threading.Barrier(2, timeout=30)  # broken where fewer than two are at work
    assert set(run([meeting.wait, meeting.wait]).values()) == {0, 1}
    assert count_free() == 2


def test_beside_another_one_works_and_two_when_the_other_is_gone(other):
    crowd = Crowd()
    assert set(run([crowd.work] * 4).values()) == {1}
    meeting, gone = threading.Barrier(2, timeout=30), threading.Event()

    def leave() -> None:
        gone.set()
        other.send_signal(signal.SIGKILL)

    found = run([lambda: meeting.wait() + 10, lambda: meeting.wait() + 10, leave][::-1])
    assert gone.is_set() and sorted(found) == [0, 1, 2]
    assert count_free() == 2


def test_a_number_of_workers_that_was_asked_for_is_kept(other, monkeypatch):
    monkeypatch.setenv("FDLAB_WORKERS", "2")
    meeting = threading.Barrier(2, timeout=30)
    assert set(run([meeting.wait, meeting.wait]).values()) == {0, 1}


def test_devices_of_their_own_share_no_cores(other):
    meeting = threading.Barrier(2, timeout=30)
    assert set(run([meeting.wait, meeting.wait], sharing=False).values()) == {0, 1}


def test_without_a_folder_for_locks_every_core_is_free(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(tempfile, "tempdir", str(blocked))
    meeting = threading.Barrier(2, timeout=30)
    assert set(run([meeting.wait, meeting.wait]).values()) == {0, 1}


def test_a_failing_task_raises_and_gives_its_core_back():
    def fail() -> None:
        raise ZeroDivisionError

    crowd = Crowd()
    with pytest.raises(ZeroDivisionError):
        run([crowd.work, fail, crowd.work])
    assert count_free() == 2


def test_what_somebody_else_is_at_comes_last(monkeypatch):
    """Of five tasks the first two are another's until the last is done."""
    order, over = [], threading.Event()

    def task(place: int):
        def work() -> int:
            order.append(place)
            if place == 4:
                over.set()
            return place

        return work

    found = run([task(i) for i in range(5)], workers=1, is_free=lambda i: i > 1 or over.is_set())
    assert found == {i: i for i in range(5)} and order == [2, 3, 4, 0, 1]
    order.clear()
    assert set(run([task(i) for i in range(3)], is_free=lambda i: False)) == {0, 1, 2}


def test_a_run_that_is_locked_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    assert not _is_at_work("0123")
    with holding(paths.runs() / "0123", "a run"):
        assert _is_at_work("0123") and not _is_at_work("4567")
    assert not _is_at_work("0123")


@pytest.mark.parametrize("jobs", [1, 2, 3, 8])
@pytest.mark.parametrize("asked", ["", "1", "2", "64", "many"])
def test_threads_of_all_kernels_keep_to_the_cores(jobs, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, asked)
    suite = SuiteRun([], "digits", "smoke", {}, tmp_path, jobs)
    found = execute._make_environment(suite, "events")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        threads = int(found[name])
        assert threads >= 1 and threads * jobs <= 8
        assert threads == min(8 // jobs, int(asked) if asked.isdigit() else 8)
    assert found["OPENBLAS_NUM_THREADS"] == "1" and found["OMP_WAIT_POLICY"] == "passive"


def test_workers_are_left_to_those_who_share_the_cores_or_devices(tmp_path, monkeypatch):
    monkeypatch.delenv("FDLAB_WORKERS", raising=False)
    suite = SuiteRun([], "digits", "smoke", {}, tmp_path, jobs=2)
    assert "FDLAB_WORKERS" not in execute._make_environment(suite, "events")
    monkeypatch.setenv("FDLAB_WORKERS", "3")
    assert execute._make_environment(suite, "events")["FDLAB_WORKERS"] == "3"


def test_where_there_is_a_reason_to_stop_nothing_more_starts():
    began = []

    def work() -> None:
        began.append(1)
        stop.request("SIGTERM")

    with stop.listening(), pytest.raises(stop.Stopped, match="SIGTERM, with 3 left to do"):
        run([work] * 4, workers=1)
    assert len(began) == 1 and count_free() == 2


def test_workers_that_were_told_to_end_did_not_fail(monkeypatch):
    """Whoever ends every process of a command breaks the pool before the workers have answered."""

    fallen = Future()
    fallen.set_exception(BrokenProcessPool())

    def follow(*given):
        stop.request("SIGTERM")
        yield 0, fallen

    monkeypatch.setattr(pool, "follow_tasks", follow)
    monkeypatch.setattr(pool, "gather_packs", lambda asked, size: [[config] for config in asked])
    monkeypatch.setattr(pool, "count_workers", lambda: 2)
    missing, failed = {name: SimpleNamespace() for name in "ab"}, {}
    with stop.listening():
        staff = pool._Staff(ExitStack(), nullcontext)
        assert not pool._train_here(missing, "cpu", staff, failed)
        assert [str(error) for error in failed.values()] == ["SIGTERM"] * 2
        assert {type(error) for error in failed.values()} == {stop.Stopped}


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def train_or_die(pack: list, device: str) -> None:
    """In a worker: "killer" ends its process whenever it runs, once "victim" is at work too."""
    ((name, log),) = ((each.name, each.log) for each in pack)
    with log.open("a") as handle:
        handle.write(f"{name}\n")
    if name == "killer":
        while "victim" not in read_lines(log):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "victim" and read_lines(log).count(name) == 1:
        time.sleep(60)  # ended with the pool
    with log.open("a") as handle:
        handle.write(f"end {name}\n")


def test_a_run_that_kills_its_process_is_found_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    monkeypatch.setenv("FDLAB_WORKERS", "2")
    monkeypatch.setattr(pool, "ensure_pack", train_or_die)
    monkeypatch.setattr(pool, "gather_packs", lambda asked, size: [[config] for config in asked])
    log, failed = tmp_path / "log", {}
    names = ["killer", "victim", "third", "fourth"]
    missing = {name: SimpleNamespace(name=name, log=log) for name in names}
    with pool._spreading(), ExitStack() as stack:
        staff = pool._Staff(stack, lambda: workers.open_pool(2))
        assert pool._train_here(missing, "cpu", staff, failed) == set(names[1:])
    assert set(failed) == {"killer"} and isinstance(failed["killer"], UserError)
    assert "was killed, perhaps for memory: 2 ran side by side" in str(failed["killer"])
    assert "set FDLAB_WORKERS to fewer" in str(failed["killer"])
    lines = read_lines(log)
    assert lines.count("killer") == 2 and "end killer" not in lines
    assert all(lines.count(name) == lines.count(f"end {name}") == 1 for name in names[2:])
    second = len(lines) - lines[::-1].index("killer") - 1
    before, after = set(lines[:second]), lines[second:]
    beside = {name for name in names[1:] if name in before and f"end {name}" not in before}
    assert not beside or (beside == {"victim"} and "victim" in after)  # was at work, and is lost


def wait_for_a_stop(folder: Path) -> None:
    """In a worker: what a training does."""
    (folder / "began").touch()
    end = time.monotonic() + 60
    while not (reason := stop.find_reason()) and time.monotonic() < end:
        time.sleep(0.02)
    (folder / "ended").write_text(reason)


def test_an_interrupt_of_the_command_alone_reaches_its_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    monkeypatch.setenv(stop.FILE, str(tmp_path / "outer"))  # as in a suite's kernel
    with pytest.raises(KeyboardInterrupt), pool._spreading(), workers.open_pool(1) as opened:
        future = opened.submit(wait_for_a_stop, tmp_path)
        while not (tmp_path / "began").exists():
            assert not future.done()
            time.sleep(0.02)
        raise KeyboardInterrupt
    assert (tmp_path / "ended").read_text() == "the command was interrupted"
    assert not stop.find_reason() and not list(tmp_path.rglob("outer"))
    assert not list(tmp_path.rglob(".stop-*"))


@pytest.fixture()
def gpus(monkeypatch):
    """Devices that are not there: `gpus(3)` makes three of them visible."""
    monkeypatch.delenv(device.VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("places", range(1, 10))
@pytest.mark.parametrize("count", range(1, 9))
def test_devices_are_shared_out_evenly_and_none_is_idle(count, places):
    names = [f"GPU-{index}" for index in range(count)]
    shares = device.share_devices(names, places)
    held = [name for share in shares for name in share]
    assert len(shares) == places and all(shares) and set(held) == set(names)
    assert max(map(held.count, names)) - min(map(held.count, names)) <= 1
    sizes = sorted(map(len, shares))
    assert sizes[-1] - sizes[0] <= 1 and (sizes[-1] == 1 or places < count)
    assert device.share_devices([], places) == []


def test_devices_are_named_as_the_environment_names_them(gpus, monkeypatch):
    gpus(2)
    assert device.list_devices() == ["0", "1"]
    monkeypatch.setenv(device.VISIBLE, "5, GPU-3f,7")  # the last is not there
    assert device.list_devices() == ["5", "GPU-3f"]
    gpus(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.list_devices() == []


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        ("auto", 3, ["4", "5", "6"]),
        ("cuda", 4, ["4", "5", "6", "4"]),
        ("auto", 2, ["4", "5,6"]),
        ("cuda:1", 3, ["4,5,6"] * 3),
        ("cpu", 2, ["4,5,6"] * 2),
    ],
)
def test_every_worker_sees_its_own_device(asked, count, expected, gpus, monkeypatch):
    gpus(3)
    caught = {}

    class Pool:
        def __init__(self, workers, mp_context, initializer, initargs):
            caught.update(start=initializer, arguments=initargs)

        def shutdown(self, cancel_futures):
            pass

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(workers, "follow_parent", lambda parent: None)
    monkeypatch.setenv("FDLAB_PROGRESS", "events")
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    seen = []
    with monkeypatch.context() as patch:
        patch.setenv(device.VISIBLE, "4,5,6")
        with workers.open_pool(count, asked):
            pass
        for _ in range(count):  # as each of them would, in its own process
            patch.setenv(device.VISIBLE, "4,5,6")
            caught["start"](*caught["arguments"])
            seen.append(os.environ[device.VISIBLE])
    assert seen == expected
    assert pool._choose_first("auto") == "cuda:0" and pool._choose_first("cuda:2") == "cuda:2"


@pytest.mark.parametrize(
    ("count", "jobs", "values", "expected"),
    [
        (4, 2, {}, ["0,1", "2,3"]),
        (2, 4, {}, ["0", "1", "0", "1"]),
        (4, 1, {}, [None]),
        (4, 2, {"device": "cuda:3"}, [None, None]),
        (4, 2, {"device": "cpu"}, [None, None]),
    ],
)
def test_kernels_side_by_side_see_their_share(count, jobs, values, expected, gpus, tmp_path):
    gpus(count)
    suite = SuiteRun([], "digits", "smoke", values, tmp_path, jobs)
    found = [execute._make_environment(suite, "events", place) for place in range(jobs)]
    assert [each.get(device.VISIBLE) for each in found] == expected


def test_as_many_jobs_as_cores_or_devices(gpus, monkeypatch):
    monkeypatch.setattr(execute, "cores", lambda: 2)
    gpus(5)
    assert execute.plan_suite(dataset="planted", jobs=5).jobs == 5
    with pytest.raises(UserError, match="expected 1 to 5, the cores or devices here"):
        execute.plan_suite(dataset="planted", jobs=6)

"""Several fdlab processes on one machine: who gets a core, and that nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from fdlab.core import paths, slots
from fdlab.core.slots import claim_core, claiming
from fdlab.execute import suite as execute
from fdlab.execute.suite import SuiteRun
from fdlab.training import pool
from fdlab.training.pool import _is_at_work, _work

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
    monkeypatch.setattr(pool, "POLL", 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("FDLAB_WORKERS", raising=False)


@pytest.fixture()
def other():
    """Another process that has claimed both cores."""
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


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
        return dict(_work(executor, tasks, **{"workers": 2, "sharing": True} | others))


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
    with FileLock(paths.runs() / "0123.lock"):
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

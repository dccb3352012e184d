"""Stopping: reasons, budgets, signals, and processes whose parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from fdlab.core import stop
from fdlab.core.errors import UserError
from fdlab.core.parent import tell_children
from fdlab.training.pool import _Job


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    monkeypatch.setattr(stop, "LOOK", 0.0)
    monkeypatch.setenv(stop.DEADLINE, "")


@pytest.mark.parametrize(
    ("text", "seconds"), [("50m", 3000), ("1h30m", 5400), ("90s", 90), ("2h", 7200), ("1h1s", 3601)]
)
def test_a_budget_is_read(text, seconds):
    assert stop.read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "50", "m50", "-5m", "1.5h", "5m1h"])
def test_what_is_no_budget_is_named(text):
    with pytest.raises(UserError, match="such as 1h30m"):
        stop.read_budget(text)


def test_the_earlier_of_two_budgets_holds(monkeypatch):
    for texts in (["1h", "5m"], ["5m", "1h"]):
        monkeypatch.setenv(stop.DEADLINE, "")
        for text in texts:
            stop.set_budget(text)
        assert 290 < float(os.environ[stop.DEADLINE]) - time.time() <= 300


def test_a_deadline_is_a_reason_once_it_has_passed(monkeypatch):
    monkeypatch.setenv(stop.DEADLINE, str(time.time() + 100))
    assert stop.find_reason() == ""
    monkeypatch.setenv(stop.DEADLINE, str(time.time() - 1))
    assert stop.find_reason() == "the time budget is over"


def test_sigterm_is_a_reason_inside_the_block_and_forgotten_after_it():
    with stop.listening():
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.find_reason() == "SIGTERM"
        assert stop.find_reason() == "SIGTERM"
    assert stop.find_reason() == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_someone_elses_stays():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.find_reason() == ""
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_reaches_whatever_was_started(tmp_path):
    code = "import time; from fdlab.core import stop\nwhile not stop.find_reason(): time.sleep(.02)"
    code += "\nprint(stop.find_reason())"  # once found it stays found
    with stop.spreading(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert stop.spread() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.spread() == "SIGTERM"
        assert child.communicate(timeout=30)[0].strip() == "SIGTERM"
    assert stop.FILE not in os.environ
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_a_stop_is_still_heard(tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    with stop.spreading(tmp_path):
        assert tell_children() == "" and not _Job({}, [], {}).halts()
        os.kill(os.getpid(), signal.SIGTERM)
        assert tell_children() == "SIGTERM" and _Job({}, [], {}).halts()


def test_what_is_started_inside_stops_with_the_block_around_it(tmp_path):
    with stop.spreading(tmp_path):
        outer = os.environ[stop.FILE]
        with stop.spreading(tmp_path):
            assert stop.find_reason() == ""
            (tmp_path / os.path.basename(outer)).write_text("the outer one")
            assert stop.find_reason() == "the outer one"
        assert os.environ[stop.FILE] == outer


ORPHAN = """
import os, sys, time
from pathlib import Path
from fdlab.core import stop
from fdlab.core.parent import follow_parent
if os.fork():
    time.sleep(0.3)
    os._exit(0)
follow_parent(os.getppid())
if sys.argv[2] == "listens":
    with stop.listening():
        while not stop.find_reason():
            time.sleep(0.02)
        Path(sys.argv[1]).write_text(stop.find_reason())
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["listens", "does not"])
def test_an_orphan_saves_what_it_has_and_ends(tmp_path, kind):
    saved = tmp_path / "saved"
    # Both ends of the pipe close only once the orphan is gone too.
    subprocess.run(
        [sys.executable, "-c", ORPHAN, str(saved), kind], capture_output=True, timeout=30
    )
    assert saved.exists() == (kind == "listens")

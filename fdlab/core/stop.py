"""Stopping in good order: for a signal, for a time budget, or because another process says so.

Work that can stop keeps a block of `listening` and asks `find_reason` where it can; where there is
one, it saves what it has and raises `Stopped`. A deadline and a stop file are variables of the
environment, so that whatever a command starts stops with it, on other machines of a shared folder
too.
"""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fdlab.core.errors import UserError

DEADLINE = "FDLAB_DEADLINE"  # in seconds since 1970
# Paths, the nearest command's first: once a file is at one of them, its text is the reason to stop.
FILE = "FDLAB_STOP"
EXIT_CODE = 75  # EX_TEMPFAIL: nothing is wrong, the same command goes on later
BUDGET = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

LOOK = 0.5  # seconds between two looks for a file, which may be on another machine

_reason = ""
_depth = 0
_looked = float("-inf")  # when a file was last looked for
_found = "", ""  # the paths of which one had a file, and what it said


class Stopped(Exception):
    """Work was stopped in good order; its text says why, where, and how it goes on."""


def read_budget(text: str) -> float:
    """'50m', '1h30m' or '90s' in seconds."""
    found = BUDGET.fullmatch(text.strip())
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise UserError(f"time budget is {text!r}: expected hours, minutes, seconds, such as 1h30m")
    return float(seconds)


def set_budget(text: str) -> None:
    """This process, and whatever it starts, stops when the time is over; "" for no bound. An
    earlier end that somebody else has set stays."""
    if text:
        end = time.time() + read_budget(text)
        earlier = os.environ.get(DEADLINE)
        os.environ[DEADLINE] = str(min(end, _read_deadline(earlier)) if earlier else end)


def request(reason: str) -> None:
    """Ask the work of this process to stop."""
    global _reason
    _reason = reason


def find_reason() -> str:
    """Why to stop now; "" where there is no reason. Files are looked for every `LOOK` seconds."""
    global _looked, _found
    if _reason:
        return _reason
    deadline = os.environ.get(DEADLINE)
    if deadline and time.time() >= _read_deadline(deadline):
        return "the time budget is over"
    held = os.environ.get(FILE, "")
    if not held:
        return ""
    if held != _found[0] and time.monotonic() - _looked >= LOOK:
        _looked = time.monotonic()
        for path in filter(None, held.split(os.pathsep)):
            with suppress(OSError):
                said = Path(path).read_text(encoding="utf-8")
                _found = held, said or "its command was stopped"
    return _found[1] if held == _found[0] else ""


def _read_deadline(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{DEADLINE} is {text!r}: expected seconds since 1970")
    return found


@contextmanager
def listening() -> Iterator[None]:
    """SIGTERM asks for a stop in the block, where nothing else handles it yet.

    Outside the main thread, where signals cannot be heard, the block only counts as listening.
    """
    global _depth, _reason
    main = threading.current_thread() is threading.main_thread()
    hears = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if hears:
        signal.signal(signal.SIGTERM, lambda number, frame: request("SIGTERM"))
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if hears:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not _depth:
            _reason = ""  # the next work of this process starts afresh


def is_listening() -> bool:
    """Whether some work of this process will stop by itself once it is asked to."""
    return _depth > 0


@contextmanager
def spreading(folder: Path) -> Iterator[None]:
    """Whatever is started in the block stops when this process is asked to: through a stop file in
    `folder`, which all of it can see, and when a block around this one is. `spread` has to be
    called now and then."""
    path = folder / f".stop-{uuid.uuid4().hex[:8]}"
    before = os.environ.get(FILE)
    os.environ[FILE] = os.pathsep.join(filter(None, (str(path), before)))
    try:
        with listening():
            yield
    finally:
        if before is None:
            del os.environ[FILE]
        else:
            os.environ[FILE] = before
        path.unlink(missing_ok=True)


def spread() -> str:
    """The reason to stop, if any; written where the block's processes look for it."""
    reason = find_reason()
    path = os.environ.get(FILE, "").split(os.pathsep)[0]
    if reason and path and not Path(path).exists():
        Path(path).write_text(reason, encoding="utf-8")
    return reason

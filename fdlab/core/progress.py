"""Progress that is seen wherever it is made: in a terminal, a notebook, or a kernel's workers.

Work calls `track`. Where `$FDLAB_PROGRESS` names a file, each step is one appended line of JSON,
and whoever set that variable shows them (`listen`); elsewhere `track` draws a bar itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fdlab.core import processes

VARIABLE = "FDLAB_PROGRESS"
PLAIN_SECONDS = 15.0  # between two lines where the output is no terminal


@contextmanager
def track(label: str, total: int, unit: str = "epoch") -> Iterator[Callable[..., None]]:
    """Yield `report(done, note="")`; the bar is named `label` and the note, and ends at `total`."""
    path = os.environ.get(VARIABLE)
    if not processes.is_first():
        yield lambda done, note="": None
        return
    if path is None:
        bar = _bar(label, total, unit)
        try:
            yield lambda done, note="": _advance(bar, label, done, note)
        finally:
            bar.close()
        return
    name = uuid.uuid4().hex[:8]

    def send(done: int, note: str = "", ended: bool = False) -> None:
        line = {"id": name, "label": label, "done": done, "total": total, "unit": unit}
        line["note"] = note
        try:
            with open(path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line | {"ended": ended}) + "\n")
        except OSError:
            pass  # the listener is gone; the work itself goes on

    send(0)
    try:
        yield send
    finally:
        send(total, ended=True)


@contextmanager
def listen() -> Iterator[str]:
    """Show other processes' progress in the block; yields the path for `$FDLAB_PROGRESS`."""
    folder = tempfile.TemporaryDirectory(prefix="fdlab-progress-")
    path = Path(folder.name) / "events.jsonl"
    path.touch()
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(path, stop), daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        stop.set()
        thread.join()
        folder.cleanup()


def say(text: str) -> None:
    """One line on standard error that does not tear a bar apart; of processes that train together
    the first one's."""
    if not processes.is_first():
        return
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _advance(bar, label: str, done: int, note: str) -> None:
    bar.set_description_str(f"{label}: {note}" if note else label, refresh=False)
    bar.update(done - bar.n)
    bar.refresh()


def _bar(label: str, total: int, unit: str):
    if sys.stderr.isatty() or _in_notebook():
        from tqdm.auto import tqdm

        return tqdm(total=total, desc=label, unit=unit, leave=False)
    return _PlainBar(label, total, unit)


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


class _PlainBar:
    """A bar for logs: a line now and then instead of a redrawn one."""

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit, self.n = label, total, unit, 0
        self.start = self.last = time.monotonic()

    def update(self, step: int) -> None:
        self.n += step
        now = time.monotonic()
        if self.n and now - self.last >= PLAIN_SECONDS:
            left = (now - self.start) / self.n * (self.total - self.n)
            say(f"  {self.label}: {self.unit} {self.n}/{self.total}, {left:.0f} s left")
            self.last = now

    def set_description_str(self, label: str, refresh: bool = True) -> None:
        self.label = label

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


def _show(path: Path, stop: threading.Event) -> None:
    bars: dict[str, object] = {}
    with path.open(encoding="utf-8") as handle:
        partial = ""
        while True:
            ending = stop.is_set()
            partial += handle.read()
            *lines, partial = partial.split("\n")
            for event in map(json.loads, filter(None, lines)):
                bar = bars.get(event["id"])
                if event["ended"]:
                    if bar is not None:
                        bars.pop(event["id"]).close()
                elif bar is None:
                    bars[event["id"]] = _bar(event["label"], event["total"], event["unit"])
                else:
                    _advance(bar, event["label"], event["done"], event["note"])
            if ending:
                break
            stop.wait(0.2)
    for bar in bars.values():
        bar.close()

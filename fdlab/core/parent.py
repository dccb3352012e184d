"""Processes that end when the one that started them does, or says so."""

from __future__ import annotations

import os
import threading
import time

from fdlab.core import stop

GRACE = 60.0  # seconds for work that stops by itself to save what it has


def tell_children() -> str:
    """The reason to stop, if any; whatever this process started is told of it (`stop.spread`).

    On a full disk they are told where an empty file can still be made; else they are not.
    """
    try:
        return stop.spread()
    except OSError:
        return stop.find_reason()


def follow_parent(parent: int) -> None:
    """End this process, by a thread of its own, once `parent` is no longer its parent.

    A killed parent leaves its workers waiting for ever; they end themselves. Work that listens for
    a stop, such as a training, saves what it has first.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        stop.request("the process that started it ended")
        patience = time.monotonic() + GRACE
        while stop.is_listening() and time.monotonic() < patience:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

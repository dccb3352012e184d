"""Processes that end when the one that started them does."""

from __future__ import annotations

import os
import threading
import time


def follow_parent(parent: int) -> None:
    """End this process, by a thread of its own, once `parent` is no longer its parent.

    A killed parent leaves its workers waiting for ever; they end themselves.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

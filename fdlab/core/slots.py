"""This machine's cores, shared by all fdlab processes of one user: a lock file for each.

Whoever would start one more worker claims a core for it first, so that two commands, or two
notebooks of one, share the cores and do not fight for them. Nobody waits for a core, and the system
gives it back when the process that claimed it ends, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout


class Claim(Protocol):
    """A core, until it is given back."""

    def release(self) -> object: ...


class _Unshared:
    """Stands for a core where no lock file can be made."""

    def release(self) -> None:
        pass


def claim_core() -> Claim | None:
    """A core that no fdlab process has claimed, or None where there is none left.

    Where the temporary folder cannot be written there is nothing to share by, and every core counts
    as free. Commands with temporary folders of their own do not know of each other.
    """
    try:
        folder = locate_slots()
        folder.mkdir(mode=0o700, exist_ok=True)
        for core in list_cores():
            lock = FileLock(folder / f"core-{core}.lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return lock
    except (OSError, NotImplementedError):
        return _Unshared()
    return None


@contextmanager
def claiming(wanted: bool = True) -> Iterator[None]:
    """A core is claimed in the block, where one is free: the work in it goes on without, too."""
    core = claim_core() if wanted else None
    try:
        yield
    finally:
        if core:
            core.release()


def list_cores() -> list[int]:
    """Numbers of the cores that this process may use: commands that are bound to different cores
    claim different ones."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def locate_slots() -> Path:
    """The folder of the lock files; of one user, since others may not write there."""
    user = os.getuid() if hasattr(os, "getuid") else "all"
    return Path(tempfile.gettempdir()) / f"fdlab-cores-{user}"

"""Worker processes: as many side by side as there are cores or devices, each with its own share.

They report their progress to the process that started them, hear of its stop, and end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from fdlab.core import stop
from fdlab.core.device import VISIBLE, choose_device, count_workers, list_devices, share_devices
from fdlab.core.parent import follow_parent, tell_children
from fdlab.core.progress import VARIABLE, listen
from fdlab.core.slots import claim_core
from fdlab.core.stop import Stopped

POLL = 0.5  # seconds between two looks for a free core


class Workers(Protocol):
    """Whoever takes tasks: an executor, or what works as one."""

    def submit(self, task: Callable[[], Any], /) -> Future: ...


def run_side_by_side(work: list[tuple[Callable, tuple]]) -> list:
    """Results of (function, arguments), in their order, one process per worker.

    For work in NumPy that takes seconds; functions and arguments are pickled. One thread each, so
    that a result does not depend on how many run; in this process where there is little to do.
    """
    workers = min(len(work) // 2, count_workers())
    if workers < 2:
        return [_run_alone(*task) for task in work]
    tasks = [partial(_run_alone, *task) for task in work]
    with open_pool(workers) as pool:
        found = dict(_work(pool, tasks, workers, sharing=True))
    return [found[place] for place in range(len(work))]


def _run_alone(function: Callable, arguments: tuple):
    with threadpool_limits(1):
        return function(*arguments)


def _work(
    pool: Executor,
    tasks: list[Callable[[], Any]],
    workers: int,
    sharing: bool,
    is_free: Callable[[int], bool] = lambda place: True,
) -> Iterator[tuple[int, Any]]:
    """(place, result) of every task as it ends, see `follow_tasks`; an error of one is raised, and
    a stop once what is at work has ended."""
    left = len(tasks)
    for place, future in follow_tasks(
        pool, tasks, lambda: workers, sharing, is_free, lambda: bool(stop.find_reason())
    ):
        left -= 1
        yield place, future.result()
    if left:
        reason = stop.find_reason()
        raise Stopped(f"{reason}, with {left} left to do; the same command goes on")


def follow_tasks(
    pool: Workers,
    tasks: list[Callable[[], Any]],
    count: Callable[[], int],
    sharing: bool,
    is_free: Callable[[int], bool],
    halts: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Future]]:
    """(place, future) of every task as it ends, at most `count()` at once, asked again and again.

    sharing: a task claims a core. One always runs; more start only on cores that no other fdlab
    process has claimed, so that all together keep to the cores but for one of each process; where
    `$FDLAB_WORKERS` says how many run, so many do. is_free: whether nobody else is at the same
    task; those that somebody is at come last, when there may be nothing left to do. halts: once it
    is so, nothing new starts, and what is at work comes to its end.
    """
    bound = sharing and not os.environ.get("FDLAB_WORKERS")
    waiting, busy, watched = list(range(len(tasks))), {}, False
    try:
        while waiting or busy:
            if halts():
                waiting.clear()
            room = count()
            while waiting and len(busy) < room:
                free = any(map(is_free, waiting))
                core = claim_core() if sharing and free else None
                if busy and not (free and (core or not bound)):
                    break
                place = take_free(waiting, is_free)
                busy[_submit(pool, tasks[place])] = place, core
                watched = False
            if not waiting and not room and halts():
                break  # what was handed out has nobody to end it
            if not busy:
                time.sleep(POLL if waiting else 0)  # until somebody is there to work
                continue
            over, _ = wait(busy, POLL, FIRST_COMPLETED)
            full = isinstance(pool, ProcessPoolExecutor) and len(busy) == count_workers()
            if full and not over and not watched:
                # The executor notices the death of a process only if it was asked for something
                # after that process had begun; where all are there, this begins no other.
                _submit(pool, os.getpid)
                watched = True
            for future in over:
                place, core = busy.pop(future)
                if core:
                    core.release()
                yield place, future
    finally:
        for _, core in busy.values():
            if core:
                core.release()


def _submit(pool: Workers, task: Callable[[], Any]) -> Future:
    """Of a pool whose process was lost just now: as if the task had been at work in it."""
    try:
        return pool.submit(task)
    except BrokenProcessPool as error:
        future: Future = Future()
        future.set_exception(error)
        return future


def take_free(waiting: list[int], is_free: Callable[[int], bool]) -> int:
    """Take out the first that nobody else is at, or the first of all where there is none."""
    place = next(filter(is_free, waiting), waiting[0])
    waiting.remove(place)
    return place


@contextmanager
def open_pool(workers: int, device: str = "cpu") -> Iterator[Executor]:
    """Processes that report their progress here, and that end when this process does.

    Where the block ends with an error, trainings in them are told to stop, as they are waited for.
    Each sees its own share of the CUDA devices, unless one of them is asked for by its number.
    """
    chosen = choose_device(device)
    shared = chosen.type == "cuda" and chosen.index is None
    context = multiprocessing.get_context("spawn")
    with hear() as path:
        shares = share_devices(list_devices(), workers) if shared else []
        pool = ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(path, os.getpid(), shares, context.Value("i", 0)),
        )
        try:
            yield pool
        except BaseException:
            if stop.is_listening():  # else nobody would forget the reason
                stop.request("the command was interrupted")
                tell_children()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def hear() -> Iterator[str]:
    """The file that takes progress events: the one of whoever listens already, or our own."""
    if path := os.environ.get(VARIABLE):
        yield path
    else:
        with listen() as path:
            yield path


def _start_worker(progress: str, parent: int, shares: list[list[str]], started) -> None:
    """shares: devices of each worker, in the order in which they start, which `started` counts."""
    os.environ[VARIABLE] = progress
    os.environ["FDLAB_WORKERS"] = "1"
    if shares:  # before anything here has asked for a device
        with started:
            place = started.value
            started.value += 1
        os.environ[VISIBLE] = ",".join(shares[place % len(shares)])
    follow_parent(parent)

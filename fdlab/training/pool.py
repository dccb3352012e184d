"""Many runs at once: one process each, as many side by side as there are cores or devices."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from fdlab.core import paths
from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_pack, count_workers
from fdlab.core.errors import UserError
from fdlab.core.fingerprint import digest
from fdlab.core.parent import follow_parent
from fdlab.core.progress import VARIABLE, listen, track
from fdlab.core.slots import claim_core, claiming
from fdlab.data.store import prepare
from fdlab.training.runs import (
    Run,
    complete,
    ensure_pack,
    ensure_run,
    find_teacher,
    fingerprint,
    open_run,
)

POLL = 0.5  # seconds between two looks for a free core


def ensure_runs(configs: Iterable[RunConfig], *, device: str = "auto") -> list[Run]:
    """The finished runs of all configurations, in their order; what is missing is trained.

    Teachers come first, each once. With one run to train, or one worker, nothing is spawned.
    """
    configs = [complete(config) for config in configs]
    with ExitStack() as stack:
        # Opened by the first who needs it; its processes stay, as each takes seconds to start.
        hire = functools.cache(lambda: stack.enter_context(_open_pool(count_workers())))
        for wave in (find_teachers(configs), configs):
            _train_missing(wave, device, hire)
    return [ensure_run(config, device=device) for config in configs]


def find_teachers(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """The trained teachers of completed configurations."""
    taught = (config for config in configs if config.teacher_kind != "untrained")
    return [teacher for teacher in map(find_teacher, taught) if teacher]


def find_missing(configs: Iterable[RunConfig]) -> dict[str, RunConfig]:
    """Fingerprint → configuration of those that are not on disk, each once."""
    missing: dict[str, RunConfig] = {}
    for config in map(complete, configs):
        store = prepare(config.dataset, config.data_options, workers=count_workers())
        name = fingerprint(config, store)
        if name not in missing and open_run(paths.runs() / name) is None:
            missing[name] = config
    return missing


def gather_packs(configs: Iterable[RunConfig], size: int) -> list[list[RunConfig]]:
    """Runs that may train in step, at most `size` of them together: of one data set and recipe."""
    alike: dict[str, list[RunConfig]] = {}
    for config in configs:
        kind = digest([config.dataset, config.data_options, config.train])
        alike.setdefault(kind, []).append(config)
    return [
        group[start : start + size]
        for group in alike.values()
        for start in range(0, len(group), size)
    ]


def _train_missing(configs: list[RunConfig], device: str, hire: Callable[[], Executor]) -> None:
    missing = find_missing(configs)
    share = math.ceil(len(missing) / count_workers())  # a worker without work helps nobody
    packs = gather_packs(missing.values(), max(min(count_pack(), share), 1))
    names = {id(config): name for name, config in missing.items()}

    def is_free(place: int) -> bool:
        return not any(_is_at_work(names[id(config)]) for config in packs[place])

    tasks = [
        partial(ensure_pack, pack, device=_choose_share(device, index))
        for index, pack in enumerate(packs)
    ]
    workers = min(len(packs), count_workers())
    sharing = choose_device(device).type == "cpu"
    if workers == 1:
        waiting = list(range(len(tasks)))
        while waiting:
            with claiming(sharing):
                tasks[_take(waiting, is_free)]()
    elif workers > 1:
        pool = hire()
        with track("training", len(missing), unit="run") as report:
            done = 0
            try:
                for place, _ in _work(pool, tasks, workers, sharing, is_free):
                    done += len(packs[place])
                    report(done)
            except BrokenProcessPool:
                raise UserError(
                    f"a training process was killed, perhaps for memory: {workers} ran side by "
                    "side, set FDLAB_WORKERS to fewer"
                ) from None


def _is_at_work(name: str) -> bool:
    """Whether some process trains, or reads, the run of a fingerprint just now."""
    paths.runs().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.runs() / f"{name}.lock", timeout=0):
            return False
    except Timeout:
        return True


def _take(waiting: list[int], is_free: Callable[[int], bool]) -> int:
    """Take out the first that nobody else is at, or the first of all where there is none."""
    place = next(filter(is_free, waiting), waiting[0])
    waiting.remove(place)
    return place


def run_side_by_side(work: list[tuple[Callable, tuple]]) -> list:
    """Results of (function, arguments), in their order, one process per worker.

    For work in NumPy that takes seconds; functions and arguments are pickled. One thread each, so
    that a result does not depend on how many run; in this process where there is little to do.
    """
    workers = min(len(work) // 2, count_workers())
    if workers < 2:
        return [_run_alone(*task) for task in work]
    tasks = [partial(_run_alone, *task) for task in work]
    with _open_pool(workers) as pool:
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
    """(place, result) of every task as it ends, at most `workers` at once.

    sharing: a task claims a core. One always runs; more start only on cores that no other fdlab
    process has claimed, so that all together keep to the cores but for one of each process; where
    `$FDLAB_WORKERS` says how many run, so many do. is_free: whether nobody else is at the same
    task; those that somebody is at come last, when there may be nothing left to do.
    """
    bound = sharing and not os.environ.get("FDLAB_WORKERS")
    waiting, busy = list(range(len(tasks))), {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                free = any(map(is_free, waiting))
                core = claim_core() if sharing and free else None
                if busy and not (free and (core or not bound)):
                    break
                place = _take(waiting, is_free)
                busy[pool.submit(tasks[place])] = place, core
            over, _ = wait(busy, POLL if waiting else None, FIRST_COMPLETED)
            for future in over:
                place, core = busy.pop(future)
                if core:
                    core.release()
                yield place, future.result()
    finally:
        for _, core in busy.values():
            if core:
                core.release()


@contextmanager
def _open_pool(workers: int) -> Iterator[Executor]:
    """Processes that report their progress here, and that end when this process does."""
    with _hear() as path:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(path, os.getpid()),
        )
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _hear() -> Iterator[str]:
    """The file that takes progress events: the one of whoever listens already, or our own."""
    if path := os.environ.get(VARIABLE):
        yield path
    else:
        with listen() as path:
            yield path


def _start_worker(progress: str, parent: int) -> None:
    os.environ[VARIABLE] = progress
    os.environ["FDLAB_WORKERS"] = "1"
    follow_parent(parent)


def _choose_share(device: str, index: int) -> str:
    """Spread runs over the CUDA devices where the choice of one was left open."""
    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return f"cuda:{index % torch.cuda.device_count()}"
    return str(chosen)

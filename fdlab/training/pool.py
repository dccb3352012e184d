"""Many runs at once: one process each, as many side by side as there are cores or devices."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from fdlab.core import paths
from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_pack, count_workers
from fdlab.core.errors import UserError
from fdlab.core.fingerprint import digest
from fdlab.core.parent import follow_parent
from fdlab.core.progress import VARIABLE, listen, track
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


def ensure_runs(configs: Iterable[RunConfig], *, device: str = "auto") -> list[Run]:
    """The finished runs of all configurations, in their order; what is missing is trained.

    Teachers come first, each once. With one run to train, or one worker, nothing is spawned.
    """
    configs = [complete(config) for config in configs]
    for wave in (find_teachers(configs), configs):
        _train_missing(wave, device)
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


def _train_missing(configs: list[RunConfig], device: str) -> None:
    missing = find_missing(configs)
    share = math.ceil(len(missing) / count_workers())  # a worker without work helps nobody
    packs = gather_packs(missing.values(), max(min(count_pack(), share), 1))
    workers = min(len(packs), count_workers())
    if workers == 1:
        for pack in packs:
            ensure_pack(pack, device=device)
    elif workers > 1:
        with _open_pool(workers) as pool, track("training", len(missing), unit="run") as report:
            futures = {
                pool.submit(ensure_pack, pack, device=_choose_share(device, index)): len(pack)
                for index, pack in enumerate(packs)
            }
            done = 0
            try:
                for future in as_completed(futures):
                    future.result()
                    done += futures[future]
                    report(done)
            except BrokenProcessPool:
                raise UserError(
                    f"a training process was killed, perhaps for memory: {workers} ran side by "
                    "side, set FDLAB_WORKERS to fewer"
                ) from None


def run_side_by_side(work: list[tuple[Callable, tuple]]) -> list:
    """Results of (function, arguments), in their order, one process per worker.

    For work in NumPy that takes seconds; functions and arguments are pickled. One thread each, so
    that a result does not depend on how many run; in this process where there is little to do.
    """
    workers = min(len(work) // 2, count_workers())
    if workers < 2:
        return [_run_alone(*task) for task in work]
    with _open_pool(workers) as pool:
        return list(pool.map(_run_alone, *zip(*work, strict=True)))


def _run_alone(function: Callable, arguments: tuple):
    with threadpool_limits(1):
        return function(*arguments)


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

"""Many runs at once: one process each, as many side by side as there are cores or devices."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fdlab.core import paths, processes, stop
from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_pack, count_workers
from fdlab.core.errors import UserError
from fdlab.core.locks import find_owner
from fdlab.core.parent import tell_children
from fdlab.core.progress import VARIABLE, say, track
from fdlab.core.slots import claiming
from fdlab.core.stop import Stopped
from fdlab.core.workers import follow_tasks, hear, open_pool, take_free
from fdlab.data.store import prepare
from fdlab.training import cluster
from fdlab.training.ensure import ensure_pack, ensure_run
from fdlab.training.runs import (
    Run,
    complete,
    find_name,
    find_pack,
    find_sources,
    find_waves,
    fingerprint,
    open_run,
)


@dataclass(frozen=True)
class Outcome:
    """What became of one configuration: its run, or the error that it ended with.

    found: whether the run was there already. The error of one that was stopped, or that was not
    begun for a stop, is a `Stopped`.
    """

    config: RunConfig
    run: Run | None = None
    error: Exception | None = None
    found: bool = False


def ensure_runs(configs: Iterable[RunConfig], *, device: str = "auto") -> list[Run]:
    """The finished runs of all configurations, in their order; what is missing is trained.

    Teachers come first, each once. With one run to train, or one worker, nothing is spawned. Where
    some fail the others are trained all the same, and then the first error is raised.
    """
    outcomes = attempt_runs(configs, device=device)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        raise _join(errors, len(outcomes))
    return [outcome.run for outcome in outcomes]


def _join(errors: list[Exception], total: int) -> Exception:
    """The first error, and how many there are; a stop goes before all others."""
    first = next((error for error in errors if isinstance(error, Stopped)), errors[0])
    if len(errors) > 1 and type(first) is UserError:
        return UserError(f"{first} ({len(errors)} of {total} runs failed)")
    return first


def attempt_runs(configs: Iterable[RunConfig], *, device: str = "auto") -> list[Outcome]:
    """What became of each configuration, in their order; see `ensure_runs`.

    Where `$FDLAB_DASK` names a scheduler its workers train, else this machine's processes. A stop
    is passed on to whoever trains, and nothing new starts.
    """
    processes.require_one("training many runs")
    configs = [complete(config) for config in configs]
    failed: dict[str, Exception] = {}
    trained: set[str] = set()
    remote = bool(os.environ.get(cluster.VARIABLE))
    with ExitStack() as stack:
        begin = functools.cache(lambda: stack.enter_context(_spreading()))
        opened = cluster.open_crew if remote else partial(open_pool, count_workers(), device)
        staff = _Staff(stack, opened)
        for wave in find_waves(configs):
            missing = _leave_out(find_missing(wave), failed)
            if missing and staff.trouble is None:
                begin()
                train = _train_there if remote else _train_here
                trained |= train(missing, device, staff, failed)
            elif missing:
                failed |= dict.fromkeys(missing, staff.trouble)
    return [_report(config, failed, trained, device) for config in configs]


def _report(
    config: RunConfig, failed: dict[str, Exception], trained: set[str], device: str
) -> Outcome:
    name = find_name(config)
    if name in failed:
        return Outcome(config, error=failed[name])
    return Outcome(config, run=ensure_run(config, device=device), found=name not in trained)


def _leave_out(missing: dict[str, RunConfig], failed: dict[str, Exception]) -> dict[str, RunConfig]:
    """What can still be trained: not what failed, nor what needs it, which is noted too."""
    if not failed:
        return missing
    left = {}
    for name, config in missing.items():
        causes = (failed.get(find_name(source)) for source in find_sources(config))
        cause = next(filter(None, causes), None)
        if cause is not None:
            stopped = isinstance(cause, Stopped)
            failed[name] = cause if stopped else UserError(f"what it needs failed: {cause}")
        elif name not in failed:
            left[name] = config
    return left


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
    """Runs that may train in step, at most `size` of them together: of one data set, recipe and
    task."""
    alike: dict[str, list[RunConfig]] = {}
    for config in configs:
        alike.setdefault(find_pack(config), []).append(config)
    return [
        group[start : start + size]
        for group in alike.values()
        for start in range(0, len(group), size)
    ]


@dataclass
class _Staff:
    """Whoever trains: hired by the first who needs them, and kept, as processes take seconds to
    start. trouble: why they can do nothing at all."""

    stack: ExitStack
    opened: Callable[[], AbstractContextManager]
    hired: Any = None
    trouble: Exception | None = None

    def hire(self) -> Any:
        if self.hired is None:
            self.hired = self.stack.enter_context(self.opened())
        return self.hired

    def dismiss(self) -> None:
        """They are lost: whoever needs some hires others."""
        self.hired = None


def _train_here(
    missing: dict[str, RunConfig],
    device: str,
    staff: _Staff,
    failed: dict[str, Exception],
) -> set[str]:
    """Train on this machine: fingerprints of what was; errors are noted in `failed`."""
    job = _Job.make(missing, count_workers(), failed)
    tasks = [partial(ensure_pack, pack, device=_choose_first(device)) for pack in job.packs]
    workers = min(len(tasks), count_workers())
    sharing = choose_device(device).type == "cpu"
    if workers == 1:
        waiting = list(range(len(tasks)))
        while waiting and not job.halts():
            with claiming(sharing):
                place = take_free(waiting, job.is_free)
                job.note(place, _attempt(tasks[place]))
        return job.finish()
    with track("training", len(missing), unit="run") as report:
        for place, error in _train_side_by_side(tasks, workers, sharing, staff, job):
            job.note(place, error)
            report(job.count())
    return job.finish()


def _train_side_by_side(
    tasks: list[Callable[[], Any]],
    workers: int,
    sharing: bool,
    staff: _Staff,
    job: _Job,
) -> Iterator[tuple[int, BaseException | None]]:
    """(place, error) of every task as it ends, until the job halts.

    With one process its whole pool is lost. What was at work is then tried once more, from its
    checkpoints and nothing beside it, so that a run that kills its process is known by it; the
    rest goes on side by side.
    """
    left = list(range(len(tasks)))

    def follow(places: list[int], most: int) -> Iterator[tuple[int, BaseException | None]]:
        pool = staff.hire()
        own = [tasks[place] for place in places]
        ended = follow_tasks(
            pool,
            own,
            lambda: most,
            sharing,
            lambda index: job.is_free(places[index]),
            lambda: job.halts() or staff.hired is not pool,
        )
        for index, future in ended:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                staff.dismiss()
                if reason := stop.find_reason():  # it was told to end, and did not fail
                    error = Stopped(reason)
            yield places[index], error

    while left and not job.halts():
        lost = []
        for place, error in follow(list(left), workers):
            left.remove(place)
            if isinstance(error, BrokenProcessPool):
                lost.append(place)
            else:
                yield place, error
        if lost:
            say(f"fdlab: a training process was killed; {len(lost)} of {workers} go on, one by one")
        for place in lost:
            for _, error in follow([place], 1):
                if isinstance(error, BrokenProcessPool):
                    error = UserError(
                        f"a training process was killed, perhaps for memory: {workers} ran side by "
                        "side, then this one alone, set FDLAB_WORKERS to fewer"
                    )
                yield place, error


def _train_there(
    missing: dict[str, RunConfig],
    device: str,
    staff: _Staff,
    failed: dict[str, Exception],
) -> set[str]:
    """Train on a cluster's workers, each of which chooses its device; see `_train_here`.

    What the cluster cannot do is the error of all that it has left to do.
    """
    crew = staff.hire()
    job = _Job.make(missing, max(crew.count(), 1), failed)
    with hear() as progress, track("training", len(missing), unit="run") as report:
        tasks = [_make_task(pack, device, progress) for pack in job.packs]
        try:
            for place, error in _train_far(tasks, crew, job):
                job.note(place, error)
                report(job.count())
        except cluster.ClusterError as error:
            staff.trouble = error
            failed |= {name: error for name in missing if name not in job.over | failed.keys()}
    return job.finish()


def _train_far(
    tasks: list[Callable[[], Any]], crew: cluster.Crew, job: _Job
) -> Iterator[tuple[int, BaseException | None]]:
    """(place, error) of every task as it ends, until the job halts; a worker that refuses is left
    out, and what it was sent goes to the others. Raises `ClusterError` where there are none."""
    places = list(range(len(tasks)))
    while places:
        refused = []
        own = [tasks[place] for place in places]
        is_free = functools.partial(lambda places, index: job.is_free(places[index]), places)
        for index, future in follow_tasks(crew, own, crew.count_room, False, is_free, job.halts):
            place = places[index]
            try:
                error = future.exception()
            except CancelledError as cancelled:
                error = cancelled
            if error is not None:
                error = cluster.explain(error, job.packs[place][0].label, crew.address)
            if isinstance(error, cluster.Refused) and crew.leave_out(error):
                refused.append(place)
                continue
            if isinstance(error, cluster.ClusterError):
                raise error
            for name in job.names(place) if error is None else ():
                cluster.await_file(paths.runs() / name / "record.json")
            yield place, error
        places = refused


def _make_task(pack: list[RunConfig], device: str, progress: str) -> Callable[[], None]:
    store = prepare(pack[0].dataset, pack[0].data_options)
    plain = [config.as_dict() for config in pack]
    for config in plain:
        if config["weights"] and Path(config["weights"]).exists():  # relative to this process
            config["weights"] = str(Path(config["weights"]).resolve())
    return cluster.make_task(
        "fdlab.training.pool:train_sent",
        {"configs": plain, "device": device},
        needs=[store.folder / "manifest.json", paths.runs()],
        environment=os.environ | {VARIABLE: progress},
    )


def train_sent(configs: list[dict[str, Any]], device: str) -> None:
    """On a cluster's worker: what `_make_task` sent is trained, in this process."""
    ensure_pack([RunConfig.from_dict(config) for config in configs], device=device)


@dataclass
class _Job:
    """Packs of runs that are to be trained, and what became of them."""

    missing: dict[str, RunConfig]
    packs: list[list[RunConfig]]
    failed: dict[str, Exception]
    over: set[str] = field(default_factory=set)

    @classmethod
    def make(
        cls, missing: dict[str, RunConfig], workers: int, failed: dict[str, Exception]
    ) -> _Job:
        paths.runs().mkdir(parents=True, exist_ok=True)
        share = math.ceil(len(missing) / workers)  # a worker without work helps nobody
        packs = gather_packs(missing.values(), max(min(count_pack(), share), 1))
        return cls(missing, packs, failed)

    def names(self, place: int) -> list[str]:
        """Fingerprints of a pack's runs."""
        own = {id(config) for config in self.packs[place]}
        return [name for name, config in self.missing.items() if id(config) in own]

    def is_free(self, place: int) -> bool:
        return not any(map(_is_at_work, self.names(place)))

    def halts(self) -> bool:
        """Whether nothing new shall start; whoever trains hears of it."""
        return bool(tell_children()) or any(isinstance(e, Stopped) for e in self.failed.values())

    def note(self, place: int, error: BaseException | None) -> None:
        """The end of a pack; of one that failed, some runs may be there."""
        if error is not None and not isinstance(error, Exception):
            raise error
        for name in self.names(place):
            if error is None or (len(self.packs[place]) > 1 and open_run(paths.runs() / name)):
                self.over.add(name)
            else:
                self.failed[name] = error

    def count(self) -> int:
        return len(self.over) + sum(name in self.failed for name in self.missing)

    def finish(self) -> set[str]:
        """Fingerprints of what was trained; what was not begun is noted as stopped."""
        left = [name for name in self.missing if name not in self.over | self.failed.keys()]
        for name in left:
            self.failed[name] = Stopped(stop.find_reason() or "another run was stopped")
        return self.over


def _attempt(task: Callable[[], Any]) -> Exception | None:
    try:
        task()
    except Exception as error:
        return error
    return None


@contextmanager
def _spreading() -> Iterator[None]:
    """A stop of this process reaches those that train for it, and nobody else."""
    paths.outputs().mkdir(parents=True, exist_ok=True)
    with stop.spreading(paths.outputs()):
        yield


def _is_at_work(name: str) -> bool:
    """Whether some process trains the run of a fingerprint just now."""
    return find_owner(paths.runs() / name) is not None


def _choose_first(device: str) -> str:
    """The first CUDA device that a process sees, where the choice of one was left open."""
    chosen = choose_device(device)
    return "cuda:0" if chosen.type == "cuda" and chosen.index is None else str(chosen)

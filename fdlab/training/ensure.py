"""Runs are made: what does not exist is trained now, in this process, and written to its folder."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from fdlab import __version__
from fdlab.core import paths, processes, stop
from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_threads, describe_device, measure, versions
from fdlab.core.errors import UserError
from fdlab.core.files import checksums, replace_folder, restore_folder, write_bytes
from fdlab.core.fingerprint import digest
from fdlab.core.locks import Lock
from fdlab.core.progress import say, track
from fdlab.core.records import RunRecord, Score, Session, describe_command
from fdlab.data.paired import PairedData
from fdlab.data.store import Store, prepare
from fdlab.methods import METHODS
from fdlab.methods.base import FROZEN
from fdlab.models.build import build_model, place
from fdlab.models.settle import settle_norms
from fdlab.training.checkpoint import Keeper, drop_checkpoints, find_checkpoints, resume
from fdlab.training.fast import Fast, choose_fast
from fdlab.training.loop import Course, Trained, train_in_step
from fdlab.training.runs import (
    Run,
    build_start,
    complete,
    find_code,
    find_name,
    find_pack,
    find_run_damage,
    find_run_task,
    find_sources,
    find_teacher,
    fingerprint,
    open_run,
    read_run,
)
from fdlab.training.teacher import Shared


def ensure_run(config: RunConfig, *, device: str = "auto", force: bool = False) -> Run:
    """The finished run of a configuration, trained now where it does not exist.

    Of several processes that want one run, one trains and the others wait for its result. A run
    whose files do not match their checksums is named and trained again.
    """
    return ensure_pack([config], device=device, force=force)[0]


def ensure_pack(
    configs: Iterable[RunConfig], *, device: str = "auto", force: bool = False
) -> list[Run]:
    """The finished runs of configurations of one data set and recipe, in their order; those that
    do not exist are trained in step, in this process, over one copy of the data set."""
    configs = [complete(config) for config in configs]
    kinds = set(map(find_pack, configs))
    if len(kinds) > 1:
        raise UserError(
            f"{len(configs)} runs are to train in step: expected one data set, recipe and task, "
            f"found {len(kinds)}"
        )
    stores = [prepare(config.dataset, config.data_options) for config in configs]
    for config, store in zip(configs, stores, strict=True):
        _require_batch(config, store)
    pairs = zip(configs, stores, strict=True)
    folders = [paths.runs() / fingerprint(config, store) for config, store in pairs]
    wanted = dict(zip(folders, configs, strict=True))
    sources = {
        paths.runs() / find_name(source): source
        for config in configs
        for source in find_sources(config)
    }
    found: dict[Path, Run | None] = {}
    for folder in [folder for folder in wanted if folder in sources]:  # before their students
        found[folder] = ensure_run(wanted.pop(folder), device=device, force=force)
    if processes.decide(lambda: force or not all(folder.is_dir() for folder in wanted)):
        for source in sources.values():  # before a lock is held
            ensure_run(source, device=device)
    with ExitStack() as locks:
        missing = {}
        # Everyone takes them in this order; of processes that train together the first does.
        for folder in sorted(wanted) if processes.rank() == 0 else ():
            if not force and (run := _open_whole(folder)) is not None:
                found[folder] = run  # without a lock, or a folder that can be written
                continue
            lock = Lock(folder, f"run {folder.name} ({wanted[folder].label})")
            lock.acquire()
            locks.callback(lock.release)
            restore_folder(folder)  # of a process that was killed while it put another
            found[folder] = None if force else open_run(folder)
            if found[folder] is None:
                missing[folder] = wanted[folder]
            else:
                lock.release()
        for folder in missing if force else ():
            drop_checkpoints(folder.name)
        if processes.count() > 1:
            names = processes.share([folder.name for folder in missing])
            missing = {folder: wanted[folder] for folder in sorted(wanted) if folder.name in names}
            found |= {folder: read_run(folder) for folder in wanted if folder not in missing}
        if missing:
            found |= _train(missing, stores[0], choose_device(device))
    return [found[folder] for folder in folders]


def _require_batch(config: RunConfig, store: Store) -> None:
    """A batch that the training split cannot fill is no choice that anybody means."""
    held = store.manifest["counts"]["train"]
    for recipe in filter(None, (config.train, config.teacher_train)):
        if recipe.batch_size > held:
            raise UserError(
                f"{config.label}: batch_size is {recipe.batch_size}, and the training split has "
                f"{held} events: expected 2 to {held}"
            )


def _open_whole(folder: Path) -> Run | None:
    """A run that needs nothing done, or None, without a word."""
    with suppress(OSError):
        if find_run_damage(folder) is None:
            return read_run(folder)
    return None


def build_untrained(
    store: Store,
    data: PairedData,
    modality: str,
    width: int,
    seed: int,
    network: str = "",
    channels_last: bool = True,
) -> nn.Module:
    """A network as initialised, in eval mode on the data's device: what training starts from.

    Its batch norm is settled on the training inputs; our choice, see `settle_norms`.
    """
    model = build_model(store, modality, width=width, seed=seed, network=network)
    model = place(model, data.device, channels_last)
    rows = data.rows["train"].split(data.evaluation_batch)
    return settle_norms(model.eval(), (data.batch(modality, part) for part in rows))


def load_teacher(
    config: RunConfig, data: PairedData, fast: Fast | None = None
) -> tuple[nn.Module | None, str | None]:
    """The teacher's network of a completed configuration, on the data's device, as the student's
    training meets it, and the fingerprint of the run that it comes from; None where there is none.
    """
    device, store = data.device, data.store
    channels_last = fast is None or fast.channels_last
    if config.teacher is None:
        return None, None
    kind = {"width": config.width, "seed": config.teacher_seed, "network": config.teacher_network}
    if config.teacher_kind == "untrained":
        model = build_untrained(store, data, config.teacher, **kind, channels_last=channels_last)
        return model, None
    if config.teacher_kind == "start":
        return place(build_start(config, store, adapt=False), device, channels_last), None
    if own := find_teacher(config):
        run = ensure_run(own, device=str(device))
        return place(run.load_student(store), device, channels_last), run.record.fingerprint
    model = build_model(store, config.teacher, **kind)
    return place(model, device, channels_last), None  # it starts from scratch


def _train(configs: dict[Path, RunConfig], store: Store, device: torch.device) -> dict[Path, Run]:
    """Train runs in step, from their checkpoints where they have any, and write each into its
    folder; the first error of one is raised after the others are written."""
    if reason := processes.agree(stop.find_reason(), False)[0]:
        label = next(iter(configs.values())).label
        raise stop.Stopped(f"{label} was not begun ({reason}); the same command goes on")
    if device.type == "cpu":
        torch.set_num_threads(count_threads())
    runs, errors = {}, []
    for step, checkpoints in processes.decide(lambda: _part_by_progress(configs, device)):
        part = {folder: config for folder, config in configs.items() if folder.name in checkpoints}
        found, wrong = _train_from(step, part, checkpoints, store, device)
        runs |= found
        errors += wrong
    if errors:
        raise errors[0]
    return runs


def _part_by_progress(
    configs: Iterable[Path], device: torch.device
) -> list[tuple[int, dict[str, str]]]:
    """(steps taken, run → checkpoint, "" for none) of the runs that go on from there together: the
    newest checkpoints that all have, or else each from its own newest."""
    found = {folder.name: find_checkpoints(folder.name, device.type) for folder in configs}
    common = set.intersection(*map(set, found.values()))
    parts: dict[int, dict[str, str]] = {}
    for name, own in found.items():
        step = max(common or own, default=0)
        parts.setdefault(step, {})[name] = str(own[step]) if step else ""
    return list(parts.items())


def _train_from(
    step: int,
    configs: dict[Path, RunConfig],
    checkpoints: dict[str, str],
    store: Store,
    device: torch.device,
) -> tuple[dict[Path, Run], list[Exception]]:
    """Runs that stand at one step, to their ends; and the errors of those that fail."""
    first = next(iter(configs.values()))
    fast = choose_fast(device, first.train)
    sides = {side: None for c in configs.values() for side in (c.student, c.teacher) if side}
    task, side = find_run_task(first), first.train.side
    data = PairedData.load(store, list(sides), device, side, fast.resident, task)
    label = f"{len(configs)} runs in step"
    if len(configs) == 1:
        label = first.label.removeprefix(f"{first.dataset} ")
    before: dict[str, list[Session]] = {folder.name: [] for folder in configs}
    started, clock = _tell_time(), time.perf_counter()

    def list_sessions(name: str, seconds: float) -> list[Session]:
        """Those of a run with the one at hand, so many seconds after its start."""
        own = round(seconds / len(configs), 3)
        now = (step, started, own, name_devices(device), versions()["torch"], describe_command())
        return [*before[name], Session(*now)]

    def describe(name: str) -> dict[str, Any]:
        sessions = list_sessions(name, time.perf_counter() - clock)
        return {"sessions": [dataclasses.asdict(session) for session in sessions]}

    with measure(device) as cost, track(label, first.train.epochs) as report:
        courses, teachers = _gather(list(configs.values()), data, fast, report)
        own = dict(zip((folder.name for folder in configs), courses, strict=True))
        for name, course in own.items() if step else ():
            state = resume(course, Path(checkpoints[name]))
            before[name] = [Session(**session) for session in state["sessions"]]
            say(f"fdlab: {course.config.label} goes on from {course.place}")
        keeper = Keeper(own, describe)
        with stop.listening():
            train_in_step(courses, keeper.rest)
    runs: dict[Path, Run] = {}
    errors: list[Exception] = []
    for (folder, config), course, teacher in zip(configs.items(), courses, teachers, strict=True):
        try:
            trained = course.finish()
        except UserError as error:
            errors.append(error)
            continue
        sessions = list_sessions(folder.name, cost.seconds)
        record = RunRecord(
            fingerprint=folder.name,
            config=config,
            data=store.digest,
            teacher=teacher,
            curves=trained.curves,
            scores=_select(trained),
            n={split: len(rows) for split, rows in data.rows.items()},
            parameters=trained.parameters,
            seconds=round(sum(session.seconds for session in sessions), 3),
            peak_bytes=cost.peak_bytes,
            device=name_devices(device),
            versions=versions(),
            finished=_tell_time(),
            fast=course.trainer.fast.names,
            in_step=len(courses),
            processes=processes.count(),
            skipped=course.skipped,
            package=__version__,
            code=find_code(config, store),
            sessions=sessions,
        )
        error: Exception | None = None
        if processes.rank() == 0:
            try:
                record = _write(folder, record, trained)
                drop_checkpoints(folder.name)
            except OSError as full:  # the others are written all the same
                error = full
                if processes.count() == 1:
                    keeper.write(folder.name)
        if not processes.share(error is None):
            errors.append(error or UserError(f"{folder} could not be written"))
            continue
        runs[folder] = read_run(folder) if processes.rank() else Run(folder, record)
    return runs, errors


def name_devices(device: torch.device) -> str:
    """'NVIDIA H200', or '2 × NVIDIA H200' where so many processes train together."""
    count = processes.count()
    return f"{count} × {describe_device(device)}" if count > 1 else describe_device(device)


def _tell_time() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _gather(
    configs: list[RunConfig], data: PairedData, fast: Fast, report: Callable[[int], None]
) -> tuple[list[Course], list[str | None]]:
    """Courses over one data set, and the fingerprints of their teachers' runs.

    Courses whose methods leave the teacher as it is share its network and what it computes.
    """
    shared: dict[str, tuple[nn.Module | None, str | None, Shared | None]] = {}
    courses, teachers = [], []
    for number, config in enumerate(configs):
        kinds = {"trained": config.teacher_kind != "untrained"}
        kinds |= {"teacher": config.teacher, "seed": config.teacher_seed}
        kinds |= {"network": config.teacher_network}
        key = digest(kinds | {"recipe": config.teacher_train, "width": config.width})
        alone = METHODS[config.method].teaching != FROZEN or config.teacher_kind == "start"
        if alone or len(configs) == 1:
            key = f"{number} alone"
        if key not in shared:
            model, name = load_teacher(config, data, fast)
            shared[key] = model, name, Shared() if len(configs) > 1 else None
        model, name, own = shared[key]
        told = report if number + 1 == len(configs) else lambda epoch: None
        courses.append(Course(config, data, model, data.device, told, fast, own))
        teachers.append(name)
    return courses, teachers


def _select(trained: Trained) -> dict[str, Score]:
    """Read the curves by each rule; the first of equals wins."""
    tests = {k.split("/")[1]: v for k, v in trained.curves.items() if k.startswith("test/")}
    scores = {
        moment: Score("raw", epoch, tests["raw"][epoch - 1])
        for moment, epoch in trained.chosen.items()
    }
    best = max(tests, key=lambda head: max(tests[head]))
    top = max(tests[best])
    scores["published"] = Score(best, tests[best].index(top) + 1, top)
    return scores


def _write(folder: Path, record: RunRecord, trained: Trained) -> RunRecord:
    with replace_folder(folder) as beside:
        parts = dict(trained.weights) | {"predictions": trained.predictions}
        if trained.probes:
            parts["probes"] = trained.probes
        for name, tensors in parts.items():
            content = save({k: v.cpu().clone() for k, v in tensors.items()})
            write_bytes(beside / f"{name}.safetensors", content)
        names = sorted(path.name for path in beside.iterdir())
        record = replace(record, files=checksums(beside, names))
        record.write(beside / "record.json")
    return record

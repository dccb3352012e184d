"""Checkpoints of trainings at work: whole or absent, checked, the last two kept.

A checkpoint is one file, `outputs/checkpoints/<fingerprint>/<step>-<device>-<digest>.safetensors`,
whose digest is the beginning of its bytes' SHA-256: the tensors of `Course.save`, and in the
metadata under `state` its JSON, with the run's fingerprint and its `sessions` so far. Its device is
a kind, "cpu" or "cuda": their random numbers differ, so each goes on from its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fdlab.core import paths, processes, stop
from fdlab.core.errors import UserError
from fdlab.core.files import checksum, write_bytes
from fdlab.core.progress import say
from fdlab.training.loop import Course

VARIABLE = "FDLAB_CHECKPOINT_SECONDS"
EVERY = 30.0  # seconds between two checkpoints of a training
SHARE = 0.01  # of the time, at most, that goes into writing them
NAME = re.compile(r"(\d{9})-([a-z]+)-([0-9a-f]{16})\.safetensors")
FORMAT = 1


def locate_checkpoints(fingerprint: str) -> Path:
    return paths.checkpoints() / fingerprint


def list_checkpoints(fingerprint: str, device: str = "") -> list[tuple[int, Path]]:
    """(step, file) of a run's checkpoints, of one kind of device or of all, the newest first; none
    of them is read."""
    folder = locate_checkpoints(fingerprint)
    names = os.listdir(folder) if folder.is_dir() else []
    found = [(name, NAME.fullmatch(name)) for name in names]
    kept = ((int(m[1]), folder / name) for name, m in found if m and device in ("", m[2]))
    return sorted(kept, reverse=True)


def write_checkpoint(fingerprint: str, course: Course, state: dict[str, Any]) -> Path:
    """Write what a course needs to go on; of those of its kind of device this one and the one
    before it stay. state: what the run keeps beside it."""
    tensors, own = course.save()
    head = json.dumps({"format": FORMAT, "fingerprint": fingerprint} | own | state)
    copies = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    content = save(copies, metadata={"state": head})
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder, device = locate_checkpoints(fingerprint), course.data.device.type
    path = folder / f"{course.step:09d}-{device}-{digest}.safetensors"
    write_bytes(path, content)
    for _, old in list_checkpoints(fingerprint, device):
        if old not in (path, course.checkpoint):
            old.unlink(missing_ok=True)
    for left in folder.glob(".*"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    return path


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint; a `UserError` that names the file where its bytes
    are not those that were written."""
    _, _, digest = NAME.fullmatch(path.name).groups()
    try:
        if not checksum(path).startswith(digest):
            raise UserError(f"{path} does not match its checksum")
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} is no checkpoint: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if state.get("format") != FORMAT or state.get("fingerprint") != path.parent.name:
        raise UserError(f"{path} is a checkpoint of another format, or of another run")
    return tensors, state


def find_checkpoints(fingerprint: str, device: str) -> dict[int, Path]:
    """Step → file of a run's sound checkpoints of one kind of device, the newest first; damage is
    said, and that there are others."""
    found: dict[int, Path] = {}
    for step, path in list_checkpoints(fingerprint, device):
        if step in found:
            continue
        try:
            read_checkpoint(path)
        except UserError as error:
            say(f"fdlab: {error}; an older checkpoint is used, or the run begins again")
            continue
        found[step] = path
    others = list_checkpoints(fingerprint)
    if others and not found and not list_checkpoints(fingerprint, device):
        say(f"fdlab: {others[0][1]} is of another device than {device}, where the run begins again")
    return found


def list_unfinished() -> Iterator[tuple[str, int, Path]]:
    """(fingerprint, step, newest checkpoint) of every run that has one; none of them is read."""
    folder = paths.checkpoints()
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if found := list_checkpoints(name):
            yield name, *found[0]


def drop_checkpoints(fingerprint: str) -> None:
    shutil.rmtree(locate_checkpoints(fingerprint), ignore_errors=True)


def resume(course: Course, path: Path) -> dict[str, Any]:
    """Take a course to where a checkpoint was written; returns the checkpoint's state."""
    tensors, state = read_checkpoint(path)
    course.load(tensors, state)
    course.checkpoint = path
    return state


class Keeper:
    """Writes checkpoints of courses in step, now and then and when they are asked to stop.

    describe: name of a run → what else its checkpoint holds. Every `$FDLAB_CHECKPOINT_SECONDS`, by
    default `EVERY`, but never for more than `SHARE` of the time.
    """

    def __init__(self, courses: dict[str, Course], describe: Callable[[str], dict[str, Any]]):
        self.courses, self.describe = courses, describe
        self.every = read_interval()
        self.due = time.monotonic() + self.every

    def rest(self) -> None:
        """Between two steps: write if it is time to; where there is a reason to stop, write and
        raise `Stopped`. Processes that train together do the same, and the first of them writes.
        """
        if not processes.has_come(next(iter(self.courses.values())).step):
            return
        late = time.monotonic() >= self.due
        reason, late = processes.agree(stop.find_reason(), late)
        if reason:
            trouble = self.write()
            raise stop.Stopped(processes.share(self._part(reason, trouble)))
        if late:
            self.write()

    def write(self, only: str = "") -> str:
        """A checkpoint of every course that is sound, or of one; what went wrong, or ""."""
        start, trouble = time.monotonic(), ""
        for name, course in self.courses.items():
            course.look()
            if course.error is not None or processes.rank() or only not in ("", name):
                continue
            try:
                course.checkpoint = write_checkpoint(name, course, self.describe(name))
            except OSError as error:
                trouble = f"{error.strerror or error}: {error.filename or name}"
        if trouble:
            say(f"fdlab: no checkpoint could be written: {trouble}")
        now = time.monotonic()
        self.due = now + max(self.every, (now - start) / SHARE if self.every else 0.0)
        return trouble

    def _part(self, reason: str, trouble: str) -> str:
        courses = self.courses.values()
        first = next((course for course in courses if course.error is None), next(iter(courses)))
        what = first.config.label if len(self.courses) == 1 else f"{len(self.courses)} runs"
        text = f"{what} stopped ({reason}) at {first.place}"
        if not trouble:
            return f"{text}; the same command goes on from there, checkpoint {first.checkpoint}"
        held = first.checkpoint or "none; the same command begins again"
        return f"{text}, but no checkpoint could be written ({trouble}); the last is {held}"


def read_interval() -> float:
    text = os.environ.get(VARIABLE) or str(EVERY)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{VARIABLE} is {text!r}: expected seconds, 0 for after every step")
    return seconds

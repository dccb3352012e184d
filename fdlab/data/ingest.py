"""Official files to a store: each event decoded once, by several processes, and never from the
start again.

Beside the store `NAME` lie, while it is made,

    NAME.partial/state.json     what is read and how: the listing's digest, options, versions
    NAME.partial/journal.txt    finished rows, a JSON list a line
    NAME.partial/arrays/        the arrays, at their full size from the beginning
    NAME.report.json            what could not be read, and why

A row counts as finished once its arrays are on the disk; then, and only then, it goes into the
journal. Rows that failed are not in it, and are tried again.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.config import Direction
from fdlab.core.errors import UserError
from fdlab.core.files import checksums, put_folder, read_json, write_json
from fdlab.core.fingerprint import digest
from fdlab.core.parent import follow_parent
from fdlab.core.progress import say, track
from fdlab.core.seeding import derive_seed
from fdlab.data.dataset import IGNORED, SPLITS, TASKS, Dataset
from fdlab.data.listing import BadMedium, Event, Listing

FORMAT = 1  # of the store's layout
QUEUED = 2  # chunks that wait for each process, so that none idles and few are lost
HELD_OUT = 0.1  # of the training events become validation where a set has none
MOST_HELD_OUT = 0.5
SHOWN = 10  # failures printed; the report has all
BLOCK = 1 << 24  # bytes copied at a time
TRAIN, VALIDATION, TEST = range(3)
RESERVED = ("labels", "split", "ids")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder


def ingest(
    dataset: Dataset,
    root: Path,
    options: Any,
    folder: Path,
    *,
    workers: int = 1,
    allow_missing: int = 0,
    force: bool = False,
) -> bool:
    """Read the files below `root` into the store `folder`, whose name is the data set's.

    dataset: the table's entry of this kind. options: its dataclass. Returns False where the store
    was made from the same listing, options and version already; `force` reads again nevertheless.
    workers: processes; one means this one, and the result never depends on their number.
    Raises `UserError` for a fault of the annotation files, for more than `allow_missing` media that
    cannot be read (those that are allowed are left out), and for what the disk cannot hold; what
    was decoded stays, and the same call goes on. An error of the decoder itself is a RuntimeError
    that names the event.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder (--root)")
    started = time.monotonic()
    name = folder.name
    listing = dataset.source.list_events(root, options)
    origin = describe_origin(dataset, listing, options)
    if not force and _find_origin(folder) == origin:
        return False
    _require_consistent(name, listing)
    listing = _check(name, listing)
    weights = {side: locate_weights(root, path) for side, path in listing.weights.items()}
    partial = _Partial(folder.with_name(f"{name}.partial"), name, listing)
    done = partial.open(origin, force)
    pending = [row for row in range(len(listing.events)) if row not in done]
    job = _Job(name, dataset.source.decode, root, options, listing.arrays, _limit(listing),
               partial.arrays)  # fmt: skip
    most = dataset.source.chunk
    failed = _decode_all(job, listing.events, pending, workers, most, partial.note)
    report = folder.with_name(f"{name}.report.json")
    _write_report(report, name, listing, failed)
    if len(failed) > allow_missing:
        for note in listing.notes:
            say(f"fdlab: note: {note}")
        _, file, reason = failed[0]
        raise UserError(
            f"{name}: {len(failed)} of {len(listing.events)} events cannot be read"
            f"{f', and {allow_missing} may be missing' if allow_missing else ''}; the first: "
            f"{file}: {reason}; all in {report}; expected every file"
            + (
                f", or --allow-missing {len(failed)} to leave these out"
                if len(failed) < len(listing.events)
                else ""
            )
        )
    kept = np.ones(len(listing.events), bool)
    kept[[row for row, _, _ in failed]] = False
    _check_rows(name, listing, kept)
    final = partial.arrays if kept.all() else _drop_rows(partial.arrays, listing.arrays, kept)
    seconds = time.monotonic() - started
    _finish(final, dataset, listing, options, origin, kept, weights, seconds)
    put_folder(final, folder)
    shutil.rmtree(partial.folder, ignore_errors=True)
    return True


def describe_origin(dataset: Dataset, listing: Listing, options: Any) -> dict[str, Any]:
    """What a store is made from, as JSON: equal for equal annotations, options and versions."""
    hashed = hashlib.sha256()
    for event in listing.events:
        hashed.update(digest(event).encode())
    parts = {f.name: getattr(listing, f.name) for f in dataclasses.fields(listing)}
    parts |= {"events": hashed.hexdigest(), "weights": None}
    parts["splits"] = {k: np.asarray(v).tolist() for k, v in listing.splits.items()}
    origin = {
        "kind": dataset.name,
        "format": FORMAT,
        "version": dataset.source.version,
        "options": dataclasses.asdict(options),
        "listing": digest(parts),
    }
    return json.loads(json.dumps(origin))  # as it is read back


def require_share(validation: float) -> None:
    """Refuse a share of the training events that cannot be cut off for validation. None at all is
    refused too: every run chooses its epoch on that split."""
    if not 0 < validation <= MOST_HELD_OUT:
        raise UserError(
            f"validation is {validation}: expected a share above 0 and up to {MOST_HELD_OUT}, for "
            "the epoch is chosen on it"
        )


def cut_validation(
    name: str, events: list[Event], share: float = HELD_OUT
) -> tuple[list[Event], list[str]]:
    """The events with a validation split, and a line about it where it had to be cut from train.

    A share of the training events of every label, at least one where a label has two, drawn by a
    fixed seed. Sets without a validation split have no published one; this cut is our choice.
    """
    split = np.array([event.split for event in events])
    if (split == VALIDATION).any() or not (split == TRAIN).any():
        return events, []
    labels = np.array([event.label for event in events])
    rng = np.random.default_rng(derive_seed(0, "validation"))
    chosen: set[int] = set()
    for label in np.unique(labels):
        rows = np.flatnonzero((labels == label) & (split == TRAIN))
        count = max(1, math.floor(len(rows) * share + 0.5)) if len(rows) > 1 else 0
        chosen.update(rng.permutation(rows)[:count].tolist())
    if not chosen:
        raise UserError(
            f"{name}: there is no validation split, and no class has two training events to cut "
            "one from"
        )
    cut = [replace(e, split=VALIDATION) if i in chosen else e for i, e in enumerate(events)]
    note = (
        f"there is no validation split: {len(chosen)} of {(split == TRAIN).sum()} training events "
        f"were cut for it, {share:.3g} of every class, seed 0"
    )
    return cut, [note]


def _find_origin(folder: Path) -> dict[str, Any] | None:
    """What an existing store was made from."""
    try:
        return read_json(folder / "manifest.json").get("origin")
    except (FileNotFoundError, UserError, AttributeError):
        return None


def _limit(listing: Listing) -> int:
    """Classes that a mask or boxes may hold; 0 where there are none."""
    return 0 if listing.task == "classification" else len(listing.classes)


def _require_consistent(name: str, listing: Listing) -> None:
    """What a loader promises, whatever the files hold: a fault is the program's."""
    count = len(listing.events)
    sides = list(listing.modalities)
    for way in listing.directions:
        Direction.parse(way, sides)
    for said, fine in (
        (f"task {listing.task}", listing.task in TASKS),
        ("no array for a modality", set(sides) <= set(listing.arrays)),
        ("segmentation without a mask", listing.task != "segmentation" or "mask" in listing.arrays),
        ("detection without boxes", listing.task != "detection" or "boxes" in listing.arrays),
        ("a reserved name of an array", not set(RESERVED) & set(listing.arrays)),
        ("weights for no modality", set(listing.weights) <= set(sides)),
        ("ids for other events", all(len(v) == count for v in listing.ids.values())),
        ("splits for other events", all(len(v) == count for v in listing.splits.values())),
    ):
        if not fine:
            raise ValueError(f"{name}: its listing has {said}")


def _check(name: str, listing: Listing) -> Listing:
    """The listing with a validation split; faults of its events are the user's."""
    if not listing.events:
        raise UserError(f"{name}: the annotation files name no event at all")
    labels = _names(listing)
    seen: set[str] = set()
    for event in listing.events:
        if event.id in seen:
            raise UserError(f"{name}: two events have the id {event.id!r}: expected each once")
        seen.add(event.id)
        if not 0 <= event.label < len(labels):
            raise UserError(
                f"{name}: event {event.id!r} has label {event.label}: expected 0 to "
                f"{len(labels) - 1}"
            )
        if event.split not in range(len(SPLITS)):
            raise UserError(f"{name}: event {event.id!r} has split {event.split}: expected 0 to 2")
    _check_rows(name, listing, np.ones(len(listing.events), bool), before=True)
    events, notes = cut_validation(name, listing.events)
    if notes:
        split = np.array([event.split for event in events])
        for kind, values in listing.ids.items():
            sets = [{v for v, s in zip(values, split, strict=True) if s == i} for i in (0, 1)]
            if shared := len(sets[0] & sets[1]):
                notes.append(f"{kind}: {shared} values are in train and in this validation split")
    return replace(listing, events=events, notes=[*listing.notes, *notes])


def _names(listing: Listing) -> list[str]:
    """What labels stand for: the classes, or the kinds of scene."""
    return list(listing.classes if listing.task == "classification" else listing.scenes)


def _check_rows(name: str, listing: Listing, kept: np.ndarray, before: bool = False) -> None:
    """Refuse an empty split, and a class that training never meets. before: validation may still
    be cut, and so may be empty."""
    left = "" if kept.all() else " after what cannot be read was left out"
    where = f"{name}: {listing.annotations}" if listing.annotations else name
    events = [event for event, stays in zip(listing.events, kept, strict=True) if stays]
    split = np.array([event.split for event in events])
    for index, word in enumerate(SPLITS):
        if not (split == index).any() and not (before and index == VALIDATION):
            held = ", ".join(f"{(split == i).sum()} {w}" for i, w in enumerate(SPLITS))
            raise UserError(
                f"{where}: no event is in the {word} split{left} ({held}): expected one at least"
            )
    if listing.task == "classification":  # a kind of scene is not learned
        trained = {event.label for event in events if event.split == TRAIN}
        lacking = [c for k, c in enumerate(listing.classes) if k not in trained]
        if lacking:
            raise UserError(
                f"{where}: no training event is of class {', '.join(lacking)}{left}: expected one "
                "of every class at least"
            )


def locate_weights(root: Path, place: str) -> Path:
    """The file of pretrained weights: relative to the root, else to the working directory."""
    path = next((p for p in (root / place, Path(place).expanduser()) if p.exists()), None)
    if path is None:
        raise UserError(f"{place}: no such weights file or folder")
    if path.is_file():
        return path
    held = [path / file for file in WEIGHT_FILES if (path / file).is_file()]
    if not held:
        raise UserError(f"{path} holds no weights: expected {' or '.join(WEIGHT_FILES)}")
    return held[0]


class _Partial:
    """The folder of an unfinished store."""

    def __init__(self, folder: Path, name: str, listing: Listing):
        self.folder, self.name, self.listing = folder, name, listing
        self.arrays = folder / "arrays"
        self.journal = folder / "journal.txt"

    def open(self, origin: dict[str, Any], force: bool) -> set[int]:
        """Finished rows; the arrays exist afterwards. A forced run goes on with what a forced run
        began, and with nothing else."""
        state = self._read_state()
        changed = "" if state is None else self._find_change(state, origin, force)
        done = set() if state is None or changed else self._read_journal()
        if changed:
            say(f"fdlab: {self.name}: {changed}; the unfinished store starts again")
        self._require_space(len(done))
        if state is None or changed:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._create(origin | {"forced": force})
        elif done:
            total = len(self.listing.events)
            say(f"fdlab: {self.name}: {len(done)} of {total} events were read before")
        with self.journal.open("a", encoding="utf-8") as handle:
            handle.write("\n")  # ends a line that a killed process left in the middle
        return done

    def note(self, rows: list[int]) -> None:
        with self.journal.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(rows) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def _read_state(self) -> dict[str, Any] | None:
        """None where there is nothing to go on with."""
        try:
            state = read_json(self.folder / "state.json")
        except FileNotFoundError:
            return None
        except UserError:
            return {}
        return state if isinstance(state, dict) else {}

    def _find_change(self, state: dict[str, Any], origin: dict[str, Any], force: bool) -> str:
        """Why the unfinished store is of no use, or nothing."""
        if set(state) != {*origin, "forced"}:
            return "its journal is damaged"
        if force and not state["forced"]:
            return "asked to read everything again"
        if state["options"] != origin["options"]:
            old, new = state["options"], origin["options"]
            names = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            return f"other options than before ({', '.join(names)})"
        for part in ("kind", "format", "version"):
            if state[part] != origin[part]:
                return f"{part} {state[part]} became {origin[part]}"
        if state["listing"] != origin["listing"]:
            return "the annotation files say something else than before"
        for array in self.listing.arrays:
            path = self.arrays / f"{array}.npy"
            if not path.is_file() or path.stat().st_size != self._measure(array)[1]:
                return f"{path} is not what was begun"
        return ""

    def _read_journal(self) -> set[int]:
        done: set[int] = set()
        count = len(self.listing.events)
        for line in self.journal.read_text(encoding="utf-8").split("\n")[:-1]:
            try:
                done.update(row for row in json.loads(line or "[]") if row in range(count))
            except (json.JSONDecodeError, TypeError):
                continue  # cut off in the middle: its rows are decoded again
        return done

    def _measure(self, array: str) -> tuple[int, int]:
        """Bytes of one row and of the whole file."""
        shape, dtype = self.listing.arrays[array]
        row = _row_bytes(shape, dtype)
        head = _header_bytes(len(self.listing.events), shape, dtype)
        return row, head + row * len(self.listing.events)

    def _require_space(self, done: int) -> None:
        row = sum(self._measure(array)[0] for array in self.listing.arrays)
        _require_free(self.folder.parent, row * (len(self.listing.events) - done), self.name)

    def _create(self, origin: dict[str, Any]) -> None:
        self.arrays.mkdir(parents=True)
        for array, (shape, dtype) in self.listing.arrays.items():
            _create_array(self.arrays / f"{array}.npy", len(self.listing.events), shape, dtype)
        self.journal.touch()
        write_json(self.folder / "state.json", origin)  # last: from now on it can be gone on with


def _require_free(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{name} needs {needed / 1e9:.1f} GB more below {folder}, where {free / 1e9:.1f} GB "
            "are free"
        )


def _row_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _header_bytes(count: int, shape: tuple[int, ...], dtype: str) -> int:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, _describe_array(count, shape, dtype))
    return head.tell()


def _describe_array(count: int, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    described = np.lib.format.dtype_to_descr(np.dtype(dtype))
    return {"descr": described, "fortran_order": False, "shape": (count, *shape)}


def _create_array(path: Path, count: int, shape: tuple[int, ...], dtype: str) -> None:
    """A `.npy` file of zeros (count, *shape) that takes no space yet."""
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, _describe_array(count, shape, dtype))
        handle.truncate(handle.tell() + count * _row_bytes(shape, dtype))


@dataclass(frozen=True)
class _Job:
    """What a process needs to decode events into the arrays. classes: that a mask or boxes may
    hold."""

    name: str
    decode: Callable[[Path, Event, Any], dict[str, np.ndarray]]
    root: Path
    options: Any
    arrays: dict[str, tuple[tuple[int, ...], str]]
    classes: int
    folder: Path


@dataclass
class _Outcome:
    """Of one chunk. rows: on the disk. failed: (row, file, reason). error: what ends the work."""

    rows: list[int] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    error: Exception | None = None


def _decode_all(
    job: _Job,
    events: list[Event],
    pending: list[int],
    workers: int,
    most: int,
    note: Callable[[list[int]], None],
) -> list[tuple[int, str, str]]:
    """Decode the pending rows, note the finished ones; returns the others in their order.

    most: rows that are noted at once.
    """
    failed: list[tuple[int, str, str]] = []
    over = 0
    size = min(most, max(1, len(pending) // (8 * workers)))
    parts = (pending[i : i + size] for i in range(0, len(pending), size))
    chunks = ([(row, events[row]) for row in part] for part in parts)
    with track(f"reading {job.name}", len(pending), unit="event") as report:

        def take(outcome: _Outcome) -> None:
            nonlocal over
            if outcome.rows:
                note(outcome.rows)
            failed.extend(outcome.failed)
            over += len(outcome.rows) + len(outcome.failed)
            report(over, f"{len(failed)} cannot be read" if failed else "")
            if outcome.error is not None:
                raise outcome.error

        if workers == 1 or len(pending) < 2:
            for chunk in chunks:
                take(_decode_chunk(job, chunk))
        else:
            _decode_side_by_side(job, chunks, workers, take)
    return sorted(failed)


def _decode_side_by_side(
    job: _Job,
    chunks: Iterator[list[tuple[int, Event]]],
    workers: int,
    take: Callable[[_Outcome], None],
) -> None:
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    )
    waiting = set()
    try:
        while True:
            while len(waiting) < QUEUED * workers and (chunk := next(chunks, None)):
                waiting.add(pool.submit(_decode_chunk, job, chunk))
            if not waiting:
                break
            over, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in over:
                take(future.result())
    except BrokenProcessPool:
        raise UserError(
            f"{job.name}: a process that reads files was killed, perhaps for memory: {workers} ran "
            "side by side, set FDLAB_WORKERS to fewer; the same command goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    follow_parent(parent)


def _decode_chunk(job: _Job, chunk: list[tuple[int, Event]]) -> _Outcome:
    """Decode some events and write their rows; all of them are on the disk on return."""
    outcome = _Outcome()
    try:
        with ExitStack() as stack:
            files = {
                name: stack.enter_context((job.folder / f"{name}.npy").open("r+b"))
                for name in job.arrays
            }
            starts = {name: _find_start(handle) for name, handle in files.items()}
            for row, event in chunk:
                try:
                    values = _decode_one(job, event)
                except BadMedium as bad:
                    outcome.failed.append((row, bad.file, bad.reason))
                    continue
                except Exception as error:
                    outcome.error = error
                    break
                for name, value in values.items():
                    # Written, not mapped: a page of a map counts as this process's memory, and a
                    # full disk would kill it.
                    files[name].seek(starts[name] + row * value.nbytes)
                    files[name].write(np.ascontiguousarray(value).tobytes())
                outcome.rows.append(row)
            for handle in files.values():
                handle.flush()
                os.fsync(handle.fileno())
    except OSError as error:
        outcome.rows = []  # perhaps not whole
        outcome.error = error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            outcome.error = UserError(
                f"{job.name}: the disk of {job.folder} is full; with more space the same command "
                "goes on"
            )
    return outcome


def _find_start(handle) -> int:
    """Where the data of an open `.npy` file begin."""
    np.lib.format.read_magic(handle)
    np.lib.format.read_array_header_1_0(handle)
    return handle.tell()


def _decode_one(job: _Job, event: Event) -> dict[str, np.ndarray]:
    """One event's rows, as the listing promises them. Whatever goes wrong that is no fault of a
    medium names the event."""
    try:
        found = job.decode(job.root, event, job.options)
        values = {name: np.asarray(value) for name, value in found.items()}
        if set(values) != set(job.arrays):
            raise ValueError(f"decoded {sorted(values)}, promised {sorted(job.arrays)}")
        for name, (shape, dtype) in job.arrays.items():
            value = values[name]
            if value.shape != tuple(shape) or value.dtype != np.dtype(dtype):
                raise ValueError(
                    f"{name} is {value.dtype} {value.shape}, promised {dtype} {tuple(shape)}"
                )
        if job.classes:
            found = {"mask": values["mask"][values["mask"] != IGNORED]} if "mask" in values else {}
            found |= {"boxes": values["boxes"][:, 0]} if "boxes" in values else {}
            for name, held in found.items():
                if held.size and held.max() >= job.classes:
                    raise ValueError(
                        f"{name} hold {held.max():g}, and there are {job.classes} classes"
                    )
    except (BadMedium, UserError):
        raise
    except Exception as error:
        # A text, because not every exception survives the way to another process.
        trace = traceback.format_exc()
        kind = type(error).__name__
        raise RuntimeError(f"{job.name}: event {event.id!r}: {kind}: {error}\n\n{trace}") from None
    return values


def _write_report(
    path: Path, name: str, listing: Listing, failed: list[tuple[int, str, str]]
) -> None:
    """The report of what could not be read, and its beginning on the screen."""
    failures = [
        {"id": listing.events[row].id, "file": file, "reason": reason}
        for row, file, reason in failed
    ]
    write_json(path, {"name": name, "events": len(listing.events), "failed": failures})
    for failure in failures[:SHOWN]:
        say(f"fdlab: {name}: {failure['file']}: {failure['reason']}")
    if len(failures) > SHOWN:
        say(f"fdlab: {name}: and {len(failures) - SHOWN} more, in {path}")


def _drop_rows(
    arrays: Path, wanted: dict[str, tuple[tuple[int, ...], str]], kept: np.ndarray
) -> Path:
    """A copy of the arrays with the kept rows alone; the work itself stays until it is in place."""
    total = sum(_row_bytes(*spec) for spec in wanted.values()) * int(kept.sum())
    _require_free(arrays.parent, total, arrays.parent.stem)
    final = arrays.with_name("kept")
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], kept.astype(np.int8), [0]])))
    for name, (shape, dtype) in wanted.items():
        path, row = final / f"{name}.npy", _row_bytes(shape, dtype)
        _create_array(path, int(kept.sum()), shape, dtype)
        with (arrays / f"{name}.npy").open("rb") as source, path.open("r+b") as target:
            start = _find_start(source)
            target.seek(_find_start(target))
            for first, last in edges.reshape(-1, 2).tolist():
                source.seek(start + first * row)
                left = (last - first) * row
                while left:
                    block = source.read(min(left, BLOCK))
                    target.write(block)
                    left -= len(block)
    return final


def _finish(
    final: Path,
    dataset: Dataset,
    listing: Listing,
    options: Any,
    origin: dict[str, Any],
    kept: np.ndarray,
    weights: dict[str, Path],
    seconds: float,
) -> None:
    """Write everything beside the arrays, the manifest last."""
    name = final.parent.stem
    events = [event for event, stays in zip(listing.events, kept, strict=True) if stays]
    split = np.array([event.split for event in events], np.uint8)
    np.save(final / "labels.npy", np.array([event.label for event in events], np.int64))
    np.save(final / "split.npy", split)
    for other, values in listing.splits.items():
        np.save(final / f"split_{other}.npy", np.asarray(values, np.uint8)[kept])
    ids = {"id": [event.id for event in listing.events]} | listing.ids
    rows = np.flatnonzero(kept).tolist()
    write_json(final / "ids.json", {k: [values[row] for row in rows] for k, values in ids.items()})
    for side, path in weights.items():
        shutil.copyfile(path, final / f"weights_{side}{path.suffix}")
    names = sorted(
        path.name
        for path in final.iterdir()
        if path.name[0] != "." and path.name != "manifest.json"
    )
    counts = {word: int((split == i).sum()) for i, word in enumerate(SPLITS)}
    sides = {
        side: describe_modality(modality, listing.arrays[side][1], listing.arrays[side][0])
        for side, modality in listing.modalities.items()
    }
    manifest = {
        "dataset": name,
        "name": name,
        "kind": dataset.name,
        "format": FORMAT,
        "version": dataset.source.version,
        "options": dataclasses.asdict(options),
        "task": listing.task,
        "events": len(events),
        "counts": counts,
        "expected": listing.expected,
        "counted": listing.counted,
        "differs": _compare_counts(listing, counts),
        "notes": listing.notes,
        "dropped": [e.id for e, stays in zip(listing.events, kept, strict=True) if not stays],
        "classes": listing.classes,
        "scenes": list(listing.scenes),
        "directions": list(listing.directions),
        "modalities": sides,
        "seconds": round(seconds, 3),
        "origin": origin,
        "info": listing.info,
        "sizes": {file: (final / file).stat().st_size for file in names},
        "files": checksums(final, names),
    }
    write_json(final / "manifest.json", manifest)


def describe_modality(modality, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """A modality as a manifest has it. shape: of one row."""
    return {
        "dtype": str(np.dtype(dtype)),
        "shape": list(shape),
        "network": modality.model,
        "augment": modality.augment,
        "frames": modality.frames,
    }


def _compare_counts(listing: Listing, counts: dict[str, int]) -> list[str]:
    """Where the counts differ from the paper's, a line each. A validation part that the paper does
    not have counts as training; a name that is no split stands for all events."""
    found = dict(counts)
    if "validation" not in listing.expected:
        found["train"] += found["validation"]
    lines = []
    for word, expected in listing.expected.items():
        here = found.get(word, sum(counts.values()))
        if here != expected:
            lines.append(f"{word}: {here:,} here, {expected:,} in {listing.counted}")
    return lines

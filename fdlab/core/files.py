"""Files that are either whole or absent, and checksums that tell."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from fdlab.core.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside `path`, flush it, then rename: a reader never meets half a file, nor does a
    machine that lost its power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say what was written
        raise
    finally:
        beside.unlink(missing_ok=True)


def _flush_file(path: Path) -> None:
    """What any process wrote into a file is on the disk; a link is its target's affair."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """A rename is on disk once its folder is; some systems cannot say so of a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds; NaN and infinities are no JSON, `write_json` never writes them."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it to rebuild it") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to be, beside `path`; on a clean exit it is flushed to the disk and
    takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield beside
        with beside.open("rb+") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
        _flush_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on a clean exit it takes the place of `folder`, as
    `put_folder` says."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    try:
        yield beside
        for path in beside.iterdir():
            if path.is_file():
                open_to_readers(path)
        put_folder(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def open_to_readers(path: Path) -> None:
    """Let those read a file who may read its folder; libraries make files that only their owner
    can read, and a shared folder has several users."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def put_folder(source: Path, folder: Path) -> None:
    """Move a whole folder into the place of another, which is removed, on one file system.

    Its files are flushed to the disk first, so that no power cut leaves a name without content.
    Killed in the middle, it leaves the old folder where `restore_folder` finds it. Of two processes
    that do so at once the later one wins.
    """
    for place, _, names in os.walk(source):
        for name in names:
            _flush_file(Path(place, name))
        _flush_folder(Path(place))
    while True:
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            source.rename(folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                restore_folder(folder)
                raise
    _flush_folder(folder.parent)
    for path in _list_old(folder):  # a killed process's too
        gone = path.with_suffix(".gone")  # what is called old is whole
        with suppress(OSError):
            path.rename(gone)
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.{'?' * 8}.gone"):
        shutil.rmtree(path, ignore_errors=True)


def restore_folder(folder: Path) -> bool:
    """Move back what a process that was killed inside `put_folder` had moved aside; whether so.

    Nothing happens where the folder exists, nor where it cannot be written. Without a lock too it
    takes nothing from a `put_folder` at work, which puts its folder into the place again, and of
    several processes that restore one succeeds.
    """
    if folder.exists():
        return False
    for old in sorted(_list_old(folder), key=_tell_change, reverse=True):  # the latest first
        try:
            old.rename(folder)
        except OSError:  # another process was faster
            continue
        _flush_folder(folder.parent)
        return True
    return False


def _list_old(folder: Path) -> list[Path]:
    return list(folder.parent.glob(f".{glob.escape(folder.name)}.{'?' * 8}.old"))


def _tell_change(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def stays_inside(name: object) -> bool:
    """Whether a name leads below the folder that it is joined to, on every system: a relative path
    without `..`, without a drive, and without what no name has (line ends, NUL)."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        return False
    path = PureWindowsPath(name)  # it splits at both kinds of slash
    return not (name.startswith(("/", "\\")) or path.drive or ".." in path.parts)


def find_inside(folder: Path, name: str) -> Path:
    """`folder / name`, for a name that comes from a file (a manifest, a record, a listing).

    A name that leaves the folder, as it is spelt or through a link, is a `UserError`. The folder
    itself may be a link, such as one to a larger disk.
    """
    if not stays_inside(name):
        raise UserError(f"{name!r} leaves {folder}: expected the path of a file below it")
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise UserError(f"{path} is a link out of {folder}: expected a file of its own")
    return path


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: checksum(folder / name) for name in names}


def find_damage(folder: Path, expected: dict[str, str]) -> str | None:
    """Name the first file of `folder` that is missing, differs from its checksum, or is no file of
    the folder; or None."""
    for name, value in expected.items():
        try:
            path = find_inside(folder, name)
        except UserError as error:
            return str(error)
        if not path.is_file():
            return f"{path} is missing"
        if checksum(path) != value:
            return f"{path} does not match its checksum"
    return None

"""Locks between processes, on any machines that share a folder: who makes a thing, and who waits.

A lock is a small file beside the thing that it guards, `<thing>.claim`: a lease of the library
filelock that names its owner and that the owner's heartbeat, a thread, touches every `BEAT`
seconds. Nothing is assumed of the folder but that a file can be created exclusively, so network
file systems without `flock` will do. An owner that ended on this host is recognised at once; one on
another host once its file was not touched for `LEASE` seconds of the waiter's own clock, so clocks
need not agree. Whoever computes for long is not robbed as long as its heartbeat runs, which a step
that keeps the interpreter to itself for some seconds does not hinder.

A lease is no guarantee: an owner that was suspended for longer than `LEASE` may wake beside its
successor. That costs time and nothing else, since everything made here is deterministic, and
whole or absent: both write the same.
"""

from __future__ import annotations

import datetime
import errno
import functools
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from fdlab.core import stop
from fdlab.core.errors import UserError
from fdlab.core.progress import say

LEASE = 60.0  # seconds without a sign of life after which an owner counts as gone
BEAT = 10.0  # seconds between two signs of life
SPARE = 1.25  # our own judgement comes after the library's, in leases
QUIET = 0.5  # seconds of waiting that are not worth a line
REMIND = 300.0  # seconds between two lines about one wait
PAUSES = 0.05, 1.0  # seconds between two looks, at first and at most
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process (its number) on a host, and since when, where that is known."""

    host: str
    process: int
    since: datetime.datetime | None = None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.process else "another process"

    def describe(self) -> str:
        """'process 123 on host-a has had it since 12:03:11', with the date where that is not today,
        in local time."""
        if self.since is None:
            return f"{self} has it"
        since = self.since.astimezone()
        today = since.date() == datetime.datetime.now().date()
        return f"{self} has had it since {since:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}"


class Taken(UserError):
    """Somebody else holds the lock that was not to be waited for; `owner` says who."""

    def __init__(self, what: str, owner: Owner):
        super().__init__(f"{what} is in use: {owner.describe()}")
        self.owner = owner


@dataclass(frozen=True)
class _Claim:
    """A lock's file as it was read: equal as long as its owner gave no sign of life."""

    text: str
    stamp: tuple[int, int]

    @functools.cached_property
    def owner(self) -> Owner:
        found = dict(line.split("=", 1) for line in self.text.splitlines() if "=" in line)
        process = found.get("pid", "")
        since = None
        with suppress(ValueError, KeyError):
            since = datetime.datetime.fromisoformat(found["since"])
        host = found.get("host", "")
        return Owner(host.split("?pidns")[0], int(process) if process.isdigit() else 0, since)

    @functools.cached_property
    def is_local(self) -> bool:
        """Whether its process can be looked for here: same host, same container."""
        return f"host={_name_host()}" in self.text.splitlines()


_seen: dict[str, tuple[_Claim, float]] = {}  # lock file → what was read last, and when first so
_seeing = threading.Lock()


class Lock:
    """The lock of the thing at `path`, called `what` where it is waited for.

    It excludes every other `Lock` of the path, those of threads of this process too; the thread
    that acquired it need not be the one that releases it.
    """

    def __init__(self, path: Path | str, what: str):
        self.path, self.what = locate_claim(path), what
        self._lease = SoftFileLease(
            str(self.path),
            lease_duration=LEASE,
            heartbeat_interval=min(BEAT, LEASE / 3),
            thread_local=False,
            mode=0o644,  # another user who waits reads whom for
        )

    def acquire(self, wait: bool = True) -> None:
        """Take it, waiting for whoever has it; a line says for whom.

        Raises `Taken`, without wait; `stop.Stopped` where there is a reason to stop meanwhile;
        `UserError` for a folder that cannot be written.
        """
        began = time.monotonic()
        told, pause, heir_of = began + QUIET - REMIND, PAUSES[0], None
        while True:
            claim = _read(self.path)
            gone = claim is not None and _is_gone(self.path, claim) and _read(self.path) == claim
            if self._try():
                heir_of = claim if gone else heir_of
                if heir_of:
                    say(f"fdlab: {heir_of.owner}, which had {self.what}, is gone: taking over")
                self._note_time()
                return
            if gone and _remove(self.path, claim):
                heir_of = claim
                continue
            if claim is None:  # it came or went between two looks
                claim = _read(self.path)
            if not wait:
                raise Taken(self.what, claim.owner if claim else Owner("", 0))
            if reason := stop.find_reason():
                raise stop.Stopped(f"{reason}, while waiting for {self.what}")
            now = time.monotonic()
            if claim and now - told >= REMIND:
                say(f"fdlab: waiting for {self.what}: {claim.owner.describe()}")
                told = now
            time.sleep(pause)
            pause = min(1.5 * pause, PAUSES[1])

    def release(self) -> None:
        """Give it back; nothing happens where it is not held."""
        self._lease.release()

    def _try(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lease.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            return False
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            raise UserError(
                f"{self.what} cannot be made: {self.path.parent} cannot be written "
                f"({error.strerror})"
            ) from None
        return True

    def _note_time(self) -> None:
        """Add to the claim since when it holds; the library reads over lines that it does not
        know."""
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with suppress(OSError), self.path.open("a", encoding="utf-8") as handle:
            handle.write(f"since={since}\n")


@contextmanager
def holding(path: Path | str, what: str, wait: bool = True) -> Iterator[None]:
    """The lock of the thing at `path` is held in the block; see `Lock.acquire`."""
    lock = Lock(path, what)
    lock.acquire(wait)
    try:
        yield
    finally:
        lock.release()


def find_owner(path: Path | str) -> Owner | None:
    """Who holds the lock of the thing at `path`; None where nobody does, or nobody who lives.

    An owner on another host is known to be gone only to a process that looks more than once, over
    more than `LEASE` seconds.
    """
    place = locate_claim(path)
    claim = _read(place)
    return None if claim is None or _is_gone(place, claim) else claim.owner


def locate_claim(path: Path | str) -> Path:
    """The file of a thing's lock."""
    return Path(f"{path}.claim")


def remove_leftovers(folder: Path) -> None:
    """Remove the locks in a folder whose owners are gone, and what was left of taking over."""
    for path in folder.glob("*.claim*"):
        if path.suffix != ".claim":
            path.unlink(missing_ok=True)
        elif (claim := _read(path)) and _is_gone(path, claim):
            _remove(path, claim)


def _read(path: Path) -> _Claim | None:
    """A lock's file; None where there is none. Opening it, and not its name alone, makes a network
    file system ask its server."""
    try:
        with path.open("rb") as handle:
            text = handle.read(4096).decode("utf-8", "replace")
            found = os.fstat(handle.fileno())
    except FileNotFoundError:
        return None
    except OSError:  # it is there, and that is all that can be said
        return _Claim("", (0, 0))
    return _Claim(text, (found.st_mtime_ns, found.st_ino))


def _is_gone(path: Path, claim: _Claim) -> bool:
    """Whether a claim's owner ended here, or gave no sign of life for too long, as seen here."""
    if claim.is_local and claim.owner.process and _has_ended(claim.owner.process):
        return True
    now = time.monotonic()
    with _seeing:
        before, since = _seen.get(str(path), (None, now))
        if before != claim:
            _seen[str(path)] = claim, now
            return False
    return now - since >= SPARE * LEASE


def _has_ended(process: int) -> bool:
    """Whether a process of this host is no more; one that nobody has collected yet has ended."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] in (["Z"], ["X"])


def _remove(path: Path, claim: _Claim) -> bool:
    """Take away the file of an owner that is gone, where the library leaves it: without an atomic
    exchange of two names (NFS, SMB), for an owner that nobody has collected, or for one killed
    before it had written its name.

    Moved aside first: of several who do this one gets the file, and a claim that somebody made
    meanwhile goes back.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        if _read(path) != claim:
            return False
        path.rename(aside)
    except OSError:
        return False
    try:
        found = _read(aside)
        if found is None or found.text == claim.text:
            return True
        with suppress(OSError):
            os.link(aside, path)
        return False
    finally:
        with suppress(OSError):
            aside.unlink()


@functools.cache
def _name_host() -> str:
    """This host as the library writes it into a claim."""
    with tempfile.TemporaryDirectory(prefix="fdlab-host-") as folder:
        lease = SoftFileLease(str(Path(folder) / "claim"))
        with lease:
            return lease.owner.hostname if lease.owner else ""

"""Work on other machines, through Dask: what is sent is plain data, and the results lie on disk.

A task is a function's name and plain arguments, with this process's variables; a worker needs the
shared folder and an installed fdlab of the same code, and refuses in one line where it lacks them.
Who trains what, and from where a lost worker's run goes on, is settled by the folders of the runs
as it is between processes of one machine. Only this file imports Dask, and only once it is asked
for; what the scheduler has to unpickle imports nothing heavy.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fdlab
from fdlab.core import paths, stop
from fdlab.core.errors import UserError
from fdlab.core.files import checksums
from fdlab.core.fingerprint import digest
from fdlab.core.progress import VARIABLE as PROGRESS
from fdlab.core.progress import say

VARIABLE = "FDLAB_DASK"  # a scheduler's address, or the file that names it
OWN = "FDLAB_"  # how the variables begin that a task takes along
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
PATIENCE = 10.0  # seconds for a scheduler to answer
SIGHT = 90.0  # seconds until a file of another machine is seen: network folders remember absence
ASK = 2.0  # seconds between two questions for the number of workers
LOOK = 0.5  # seconds between two looks whether a task is still wanted
QUEUED = 2  # tasks per worker: one at work and one that waits for it

_alone = threading.Lock()  # PyTorch's random state and the environment belong to the process


class ClusterError(UserError):
    """The cluster, or a worker of it, cannot do this work at all: no other run would do better."""


class Refused(ClusterError):
    """What a worker, at the address `worker`, cannot do; another may."""

    worker = ""


class Crew:
    """The workers of a scheduler, as an executor for what `make_task` makes."""

    def __init__(self, client: Any, address: str):
        self.address = address
        self._client = client
        # A run that fails would fail again. Lost workers are counted by the scheduler.
        self._executor = client.get_executor(pure=False, retries=0)
        self._asked, self._count = -ASK, 0
        self._said = False
        self._left_out: set[str] = set()

    def submit(self, task: Callable[[], Any]) -> Future:
        if not self._left_out:
            return self._executor.submit(task)
        others = {"workers": self._list_workers(), "allow_other_workers": True}  # if those are lost
        return self._client.get_executor(pure=False, retries=0, **others).submit(task)

    def leave_out(self, refusal: Refused) -> bool:
        """Send nothing more to a worker that refused, which is said; whether there are others."""
        if refusal.worker not in self._left_out:
            say(f"fdlab: {refusal}")
        self._left_out.add(refusal.worker)
        self._asked = -ASK
        return bool(self._list_workers())

    def _list_workers(self) -> list[str]:
        """Addresses of those that there are now, and that did not refuse."""
        try:
            return sorted(set(self._client.nthreads()) - self._left_out)
        except (OSError, TimeoutError) as error:
            raise ClusterError(_describe_loss(self.address)) from error

    def count(self) -> int:
        """Workers that there are now; they come and go. Says so, once, where there are none."""
        if time.monotonic() - self._asked >= ASK:
            self._count = len(self._list_workers())
            self._asked = time.monotonic()
        if not self._count and not self._said:
            say(f"fdlab: no worker at {self.address}: waiting for one")
        self._said = not self._count
        return self._count

    def count_room(self) -> int:
        """Tasks that the workers may be given at a time; none waits where a worker refused, or that
        worker would help itself to it."""
        return (1 if self._left_out else QUEUED) * self.count()


@contextmanager
def open_crew(where: str = "") -> Iterator[Crew]:
    """Connect to a scheduler: `where`, or `$FDLAB_DASK`; its tasks are given up at the end."""
    address = find_address(where or os.environ.get(VARIABLE, ""))
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            'Dask is not installed: in the clone, pip install -c constraints.txt -e ".[dask]"'
        ) from None
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"no Dask scheduler answers at {address} ({first}): expected that of a running "
            "`dask scheduler`"
        ) from None
    try:
        yield Crew(client, address)
    finally:
        client.close()


def find_address(where: str) -> str:
    """An address as it is, such as tcp://host:8786; else the one in a scheduler's file.

    The file is what `dask scheduler --scheduler-file` writes: JSON with an `address`.
    """
    if "://" in where or re.fullmatch(r"[\w.-]+:\d+", where):
        return where
    path = Path(where).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["address"]
    except OSError:
        raise UserError(
            f"{where!r} is no scheduler of Dask: expected an address such as tcp://host:8786, or "
            "the file that `dask scheduler --scheduler-file` wrote"
        ) from None
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise UserError(f"{path} names no address: expected the file that a Dask scheduler wrote")
    return found


def make_task(
    function: str,
    arguments: dict[str, Any],
    *,
    needs: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
    alone: bool = True,
) -> Callable[[], Any]:
    """A task for a worker: calls `function`, "module:name", with plain keyword arguments.

    needs: files that the worker has to see, or the folder is not shared. environment: whose
    variables it takes along (`select_variables`), by default this process's. alone: no other such
    task runs in the worker's process beside it, and the variables are set there; else it leaves the
    worker's threads to those that come, and the variables to the function.
    """
    task = {
        "version": fdlab.__version__,
        "code": digest_package(),
        "function": function,
        "arguments": arguments,
        "needs": [str(path) for path in needs],
        "environment": select_variables(os.environ if environment is None else environment),
        "alone": alone,
    }
    return functools.partial(perform, task)


def select_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What goes along: fdlab's own variables, the root, and the numbers of threads."""
    kept = {k: v for k, v in environment.items() if k.startswith(OWN) or k in THREADS}
    kept.pop(VARIABLE, None)  # a run on a worker is trained there
    return kept | {"FDLAB_HOME": str(paths.root())}


@functools.cache
def digest_package() -> str:
    """Digest of the package's files as this process met them first.

    Of their bytes, where a run's fingerprint reads its imports: to follow those of the whole
    package would import all of it, on every worker.
    """
    folder = Path(fdlab.__file__).parent
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return digest(checksums(folder, sorted(n for n in names if "__pycache__" not in n)))


def perform(task: dict[str, Any]) -> Any:
    """On a worker: do a task of `make_task`, or refuse it with a `ClusterError`.

    A run whose worker closes in good order saves what it has and is given back to the scheduler.
    """
    _refuse(task)
    module, _, name = task["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    sent = hear(task["environment"])
    if not task["alone"]:
        from distributed import secede

        secede()
        return function(**task["arguments"], environment=sent)
    with _alone, _setting(sent | {"FDLAB_WORKERS": "1"}), stop.listening():
        if reason := stop.find_reason():
            raise stop.Stopped(reason)
        try:
            with watching(stop.request):
                return function(**task["arguments"])
        except stop.Stopped:
            if _is_closing():
                from distributed import Reschedule

                raise Reschedule from None
            raise


def _refuse(task: dict[str, Any]) -> None:
    here = f"worker {_name_worker()}"
    asked, found = ((task["version"], task["code"]), (fdlab.__version__, digest_package()))
    if asked != found:
        raise _make_refusal(
            f"{here} has fdlab {found[0]} with code {found[1]}, and {asked[0]} with code "
            f"{asked[1]} was sent work: expected the same; install it there and start it again"
        )
    for path in task["needs"]:
        if not Path(path).exists():
            raise _make_refusal(
                f"{here} does not see {path}: expected FDLAB_HOME to be a folder that all share"
            )


def _make_refusal(text: str) -> Refused:
    refusal = Refused(text)
    found = _find_task()
    refusal.worker = found[0].address if found else ""
    return refusal


def hear(environment: dict[str, str]) -> dict[str, str]:
    """Without the file for progress where that is another machine's."""
    if Path(environment.get(PROGRESS, os.devnull)).is_file():
        return environment
    return {name: value for name, value in environment.items() if name != PROGRESS}


@contextmanager
def _setting(environment: dict[str, str]) -> Iterator[None]:
    """The process's own variables are those of a task in the block, and no others."""
    before = {k: v for k, v in os.environ.items() if k.startswith(OWN) or k in environment}
    for name in before:
        del os.environ[name]
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def watching(end: Callable[[str], None]) -> Iterator[None]:
    """`end(reason)` is called, again and again, once nobody waits for this thread's task any more
    or its worker closes; never outside a worker."""
    found = _find_task()
    if found is None:
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            state = found[0].state.tasks.get(found[1])
            if state is None or state.state in ("cancelled", "released", "forgotten"):
                end("nobody waits for it any more")
            elif _is_closing(found[0]):
                end("its worker closes")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _find_task() -> tuple[Any, str] | None:
    """The worker and the key of this thread's task."""
    from distributed import get_worker

    with suppress(ValueError, AttributeError):
        worker = get_worker()
        return worker, worker.get_current_task()
    return None


def _is_closing(worker: Any = None) -> bool:
    if worker is None:
        found = _find_task()
        worker = found and found[0]
    return worker is not None and worker.status.name.startswith("clos")


def _name_worker() -> str:
    found = _find_task()
    return f"{socket.gethostname()} ({found[0].address})" if found else socket.gethostname()


def find_scheduler() -> str:
    """On a worker: the address at which it reaches the scheduler."""
    found = _find_task()
    return found[0].scheduler.address if found else os.environ.get(VARIABLE, "")


def explain(error: BaseException, label: str, address: str) -> BaseException:
    """What became of a task in the user's words; an error of its own as it is."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        count = error.allowed_failures + 1
        return UserError(
            f"{label}: {count} workers died while they ran it, perhaps for memory, the last at "
            f"{error.last_worker.address}"
        )
    if isinstance(error, CancelledError):
        return ClusterError(_describe_loss(address))
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "fdlab":
        return ClusterError(f"a worker at {address} has no fdlab: expected {fdlab.__version__}")
    return error


def _describe_loss(address: str) -> str:
    return (
        f"the Dask scheduler at {address} is gone; what finished is kept, and the same command "
        "goes on with another"
    )


def await_file(path: Path) -> None:
    """Wait until what another machine wrote is seen on this one."""
    end = time.monotonic() + SIGHT
    while not path.exists():
        if time.monotonic() > end:
            raise ClusterError(
                f"a worker finished {path}, which is not seen here: expected FDLAB_HOME to be a "
                "folder that all share"
            )
        with suppress(OSError):
            os.listdir(path.parent)
        time.sleep(0.2)

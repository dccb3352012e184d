"""Run a suite of notebooks: what is finished is found again, the rest runs, one page ties it up."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import papermill
import yaml

from fdlab.core import paths, stop
from fdlab.core.config import find_preset
from fdlab.core.device import VISIBLE, choose_device, cores, list_devices, share_devices
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.fingerprint import digest
from fdlab.core.locks import Lock, Taken
from fdlab.core.parent import GRACE, tell_children
from fdlab.core.progress import VARIABLE, listen, say, track
from fdlab.data.dataset import Dataset
from fdlab.data.store import find_dataset
from fdlab.execute import engine, ledger
from fdlab.execute.page import export_notebook, write_page
from fdlab.execute.parameters import check_values, read_notebook, read_parameters
from fdlab.figures.style import find_venue
from fdlab.methods import METHODS
from fdlab.spectral.bands import count_low_bins
from fdlab.studies import suits
from fdlab.studies.comparison import choose_methods, require_trials
from fdlab.studies.hyperparameters import read_settings
from fdlab.studies.plan import make_plan
from fdlab.studies.ranking import require_convention
from fdlab.studies.zoo import list_rows
from fdlab.training import cluster
from fdlab.training.runs import complete

REPORT = "00_report"


@dataclass(frozen=True)
class SuiteRun:
    """What to run. notebooks: in order. values: parameter → value, for those that have it."""

    notebooks: list[str]
    dataset: str
    preset: str
    values: dict[str, Any]
    folder: Path
    jobs: int = 1
    force: bool = False


@dataclass(frozen=True)
class _Outcome:
    """How a notebook ended: `ran`, `found` done already, `failed`, or `stopped` in good order."""

    kind: str
    seconds: float = 0.0
    error: str = ""

    def __str__(self) -> str:
        if self.kind == "ran":
            return f"{self.seconds:.0f} s"
        return "found, unchanged" if self.kind == "found" else f"{self.kind}: {self.error}"


@dataclass
class Summary:
    """folder and page of the suite; notebook → seconds, or what went wrong.

    left: those that were not begun, in order. reason: why the suite stopped before its end, or "".
    """

    folder: Path
    page: Path
    ran: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    reason: str = ""

    def count(self) -> int:
        """Notebooks that are over, one way or another."""
        return len(self.ran) + len(self.found) + len(self.failed) + len(self.stopped)

    def describe(self) -> str:
        """'12 notebooks: 9 ran, 2 found, 1 failed (03_scale), 0 left'."""
        total = self.count() + len(self.left)
        parts = [f"{len(self.ran)} ran", f"{len(self.found)} found"]
        for kind, names in (("failed", self.failed), ("stopped", self.stopped)):
            if names:
                parts.append(f"{len(names)} {kind} ({', '.join(names)})")
        return f"{total} notebook{'s' * (total != 1)}: {', '.join(parts)}, {len(self.left)} left"


def read_suites(dataset: str = "") -> dict[str, list[str]]:
    """Suite → notebooks, from `suites.yml`; `all` joins them.

    Of a suite that names its data sets, the notebooks for `dataset`, or all of them where that is
    none of them.
    """
    suites = {}
    for suite, names in _read_file().items():
        if isinstance(names, dict):
            names = names.get(dataset) or [name for each in names.values() for name in each]
        suites[suite] = sorted(dict.fromkeys(names), key=lambda name: name == REPORT)
    every = list(dict.fromkeys(name for names in suites.values() for name in names))
    return suites | {"all": sorted(every, key=lambda name: (name == REPORT, name))}


def list_datasets(suite: str) -> list[str]:
    """The data sets that a suite runs on where none is asked for."""
    named = _read_file().get(suite)
    return list(named) if isinstance(named, dict) else ["digits"]


def _read_file() -> dict[str, list[str] | dict[str, list[str]]]:
    text = resources.files("fdlab").joinpath("suites.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def plan_suites(
    suite: str,
    datasets: list[str],
    preset: str = "quick",
    *,
    only: str = "",
    values: dict[str, Any] | None = None,
    **others: Any,
) -> list[SuiteRun]:
    """`plan_suite` on each data set in turn; of several, `only` and the values are what the suite
    has on any of them: each part takes what it has, and one of which no notebook is asked for is
    left out."""
    if len(datasets) == 1:
        return [plan_suite(suite, datasets[0], preset, only=only, values=values, **others)]
    parts = {dataset: read_suites(dataset)[suite] for dataset in datasets}
    wanted = _choose(list(dict.fromkeys(name for own in parts.values() for name in own)), only)
    parameters = {name: read_parameters(_source(name)) for name in wanted}
    given = {"preset": preset} | (values or {})
    check_values(given, parameters)
    planned = []
    for dataset, names in parts.items():
        own = [name for name in names if name in wanted]
        if not own or (own == [REPORT] != wanted):
            continue
        known = {key for name in own for key in parameters[name]}
        kept = {key: value for key, value in given.items() if key in known}
        planned.append(
            plan_suite(suite, dataset, preset, only=",".join(own), values=kept, **others)
        )
    return planned


def plan_suite(
    suite: str = "core",
    dataset: str = "digits",
    preset: str = "quick",
    *,
    only: str = "",
    values: dict[str, Any] | None = None,
    jobs: int = 1,
    force: bool = False,
) -> SuiteRun:
    """Check everything that can be wrong before anything runs."""
    suites = read_suites(dataset)
    if suite not in suites:
        raise name_unknown("suite", suite, suites)
    most = max(cores(), len(list_devices()))
    elsewhere = bool(os.environ.get(cluster.VARIABLE))  # a cluster may have any number of them
    if jobs < 1 or (jobs > most and not elsewhere):
        raise UserError(f"--jobs is {jobs}: expected 1 to {most}, the cores or devices here")
    find_preset(preset)
    definition = find_dataset(dataset)
    paired = bool(definition.pairs or (values or {}).get("pairs"))
    notebooks = [n for n in _choose(suites[suite], only) if _suits(n, definition, paired)]
    values = {"dataset": dataset, "preset": preset} | (values or {})
    if (values["dataset"], values["preset"]) != (dataset, preset):
        raise UserError("dataset and preset are given by --dataset and --preset, not by -p")
    if definition.is_features:
        out = [name for name in notebooks if _trains(name)]
        notebooks = [name for name in notebooks if name not in out]
        if out:
            say(f"fdlab: {dataset} holds features, nothing to train on; left out: {', '.join(out)}")
    if not notebooks:
        raise UserError(f"no notebook of suite {suite} is left to run on {dataset}")
    parameters = {name: read_parameters(_source(name)) for name in notebooks}
    check_values(values, parameters)
    _check_meaning(dataset, preset, values)
    changed = {
        name: value
        for name, value in values.items()
        if name not in ("dataset", "preset")
        and any(name in own and own[name].default != value for own in parameters.values())
    }
    folder = paths.suite_folder(dataset, preset)
    if changed:  # a folder of its own: other parameters never mix with the plain suite's results
        folder = folder.with_name(f"{folder.name}-{digest(changed)[:6]}")
    return SuiteRun(notebooks, dataset, preset, values, folder, jobs, force)


def _check_meaning(dataset: str, preset: str, values: dict[str, Any]) -> None:
    """Names and numbers inside the values: seeds, directions, methods, cut-off, device, venue."""
    for name, value in values.items():  # counts, seeds, weights: none of them is negative
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, (int, float)) and item < 0:
                raise UserError(f"parameter {name} is {value!r}: expected nothing below 0")
    own = {k: values[k] for k in ("seeds", "epochs", "width", "device") if k in values}
    plan = make_plan(dataset, preset, **own)
    plan.choose_directions(values.get("directions"))
    if "direction" in values:
        plan.choose_directions([values["direction"]])
    choose_methods(values.get("methods", []), plan.definition.task)
    METHODS[values.get("method", "none")]
    if values.get("pairs"):
        for pair in plan.choose_pairs(values["pairs"]):
            complete(plan.configure_pair(pair, "kd"))
    if values.get("bases"):
        list_rows(values.get("methods", []), values["bases"])
    read_settings(values.get("hyperparameters", ""))
    require_trials(values.get("trials", 0))
    find_venue(values.get("venue", "aaai"))
    require_convention(values.get("marks", "tested"))
    count_low_bins(2, values.get("cutoff", 0.5))  # refuses a cut-off outside 0 to 1


def run_suite(suite: SuiteRun) -> Summary:
    """Run what is not done yet, `jobs` notebooks at a time, the report last.

    A notebook that fails leaves its partial copy with the error in it; the others go on. Several
    processes share a suite: each takes notebooks that nobody is at, and finds what others finished.
    Where there is a reason to stop (see `core.stop`), nothing new starts, trainings save what they
    have, and kernels that are still at work after `GRACE` seconds are killed.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    suite.folder.mkdir(parents=True, exist_ok=True)
    summary = Summary(suite.folder, suite.folder / "report.html", left=list(suite.notebooks))
    total = len(suite.notebooks)
    try:
        with (
            stop.spreading(paths.outputs()),
            listen() as events,
            track("notebooks", total, unit="notebook") as report,
        ):
            work = _Work(suite, summary, events, report)
            for wave in ([n for n in summary.left if n != REPORT], [REPORT]):
                work.waiting = [name for name in wave if name in summary.left]
                with ThreadPoolExecutor(suite.jobs) as pool:
                    try:
                        _wait_all([pool.submit(work.go_on, place) for place in range(suite.jobs)])
                    except BaseException:
                        stop.request("the command was interrupted")  # nothing new starts, or waits
                        engine.stop_kernels()
                        raise
            summary.reason = stop.find_reason() if summary.left or summary.stopped else ""
    finally:
        say(f"fdlab: {summary.describe()}")
    write_page(suite.folder, suite.dataset, suite.preset, read_suites(suite.dataset)["all"])
    return summary


class _Work:
    """A suite's notebooks, for the threads that run them side by side."""

    def __init__(self, suite: SuiteRun, summary: Summary, events: str, report: Callable[..., None]):
        self.suite, self.summary, self.events, self.report = suite, summary, events, report
        self.waiting: list[str] = []
        self.running: list[str] = []
        self.gate = threading.Lock()

    def go_on(self, place: int) -> None:
        """Take a notebook and run it, until none waits; `place` numbers the threads."""
        while (taken := self._take()) is not None:
            name, lock, outcome = taken
            try:
                self._note(name, outcome or _run_one(self.suite, name, self.events, place))
            finally:
                lock.release()

    def _take(self) -> tuple[str, Lock, _Outcome | None] | None:
        """The first notebook that nobody is at, locked; where there is none, the first of all, once
        whoever is at it has ended. See `_lock`."""
        with self.gate:
            if not self.waiting or stop.find_reason():
                return None
            taken = next(filter(None, (self._lock(name, False) for name in self.waiting)), None)
            name = taken[0] if taken else self.waiting[0]
            self.waiting.remove(name)
        taken = taken or self._lock(name)
        if taken is None:
            return None
        with self.gate:
            self.summary.left.remove(name)
            self.running.append(name)
            self.report(self.summary.count(), ", ".join(self.running))
        return taken

    def _lock(self, name: str, wait: bool = True) -> tuple[str, Lock, _Outcome | None] | None:
        """A notebook and its lock, held; one that cannot be made, as on a full disk, has failed.
        None where somebody else has it, or where a stop ended the wait."""
        lock = Lock(ledger.locate_record(self.suite.folder, name), f"notebook {name}")
        try:
            lock.acquire(wait)
        except (Taken, stop.Stopped):
            return None
        except OSError as error:
            return name, lock, _fail(self.suite, name, error)
        return name, lock, None

    def _note(self, name: str, outcome: _Outcome) -> None:
        summary = self.summary
        with self.gate:
            self.running.remove(name)
            if outcome.kind == "found":
                summary.found.append(name)
            elif outcome.kind == "ran":
                summary.ran[name] = outcome.seconds
            else:
                getattr(summary, outcome.kind)[name] = outcome.error
            say(f"[{summary.count()}/{len(self.suite.notebooks)}] {name}: {outcome}")
            self.report(summary.count(), ", ".join(self.running))


def _wait_all(futures: list[Future]) -> None:
    """Raise the first error, or the keyboard's interrupt, as soon as it comes; tell the kernels of
    a reason to stop, and end those that take no heed of it."""
    waiting, patience = set(futures), None
    while waiting:
        done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        if tell_children() and patience is None:
            patience = time.monotonic() + GRACE
        if patience is not None and time.monotonic() >= patience:
            engine.stop_kernels()


def _run_one(suite: SuiteRun, name: str, events: str, place: int) -> _Outcome:
    """Run a notebook, whose lock is held, unless it is done already."""
    source = _source(name)
    target = suite.folder / "notebooks" / f"{name}.ipynb"
    try:
        own = {k: v for k, v in suite.values.items() if k in read_parameters(source)}
        key = ledger.make_key(source, own, suite.folder)
        reason = None if suite.force else ledger.find_reason(suite.folder, name, key)
        if reason is None and not suite.force:
            return _Outcome("found")
        if reason:
            say(f"fdlab: {name} runs again: {reason}")
        start = time.perf_counter()
        ledger.forget(suite.folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        environment = _make_environment(suite, events, place)
        engine.run_notebook(source, target, own, paths.root(), environment)
        seconds = time.perf_counter() - start
        export_notebook(target)
        ledger.note_done(suite.folder, name, key, seconds)
        return _Outcome("ran", seconds)
    except papermill.PapermillExecutionError as error:
        ended = error.ename in ("DeadKernelError", "BrokenProcessPool") and stop.find_reason()
        if error.ename == stop.Stopped.__name__ or ended:
            return _Outcome("stopped", error=ended or _first_line(error.evalue))
        text = f"{_first_line(f'{error.ename}: {error.evalue}')} (see {target})"
        with suppress(Exception):
            export_notebook(target)
        return _fail(suite, name, text)
    except Exception as error:  # a full disk, a kernel that does not start: the others go on
        if ended := stop.find_reason():  # as for one that was killed while it started
            return _Outcome("stopped", error=ended)
        return _fail(suite, name, error)


def _fail(suite: SuiteRun, name: str, error: Exception | str) -> _Outcome:
    """A notebook's failure, noted for the report where that can be."""
    text = error if isinstance(error, str) else _first_line(f"{type(error).__name__}: {error}")
    with suppress(OSError):
        ledger.note_failed(suite.folder, name, text)
    return _Outcome("failed", error=text)


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


def _make_environment(suite: SuiteRun, events: str, place: int = 0) -> dict[str, str]:
    """A kernel's environment: its share of the cores and of the CUDA devices, by its `place` among
    those that run side by side, and where its progress and results go.

    Threads sleep while they wait for each other, and NumPy's products take one. By default both
    wait awake, and where anything else runs they then keep a core from the very thread that they
    wait for: on two busy cores, a product of two threads takes ten times as long as one of one.
    """
    share = max(1, cores() // suite.jobs)
    given = os.environ
    return (
        given
        | _choose_visible(suite, place)
        | {
            VARIABLE: events,
            paths.SUITE: str(suite.folder),
            "FDLAB_HOME": str(paths.root()),
            "OMP_NUM_THREADS": _limit_threads(given.get("OMP_NUM_THREADS"), share),
            "MKL_NUM_THREADS": _limit_threads(given.get("MKL_NUM_THREADS"), share),
            "OMP_WAIT_POLICY": given.get("OMP_WAIT_POLICY", "passive"),
            "OPENBLAS_NUM_THREADS": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
    )


def _choose_visible(suite: SuiteRun, place: int) -> dict[str, str]:
    """A kernel's share of the CUDA devices; all of them where one is asked for by its number."""
    if suite.jobs == 1:
        return {}
    asked = choose_device(suite.values.get("device", "auto"))
    if asked.type != "cuda" or asked.index is not None:
        return {}
    return {VISIBLE: ",".join(share_devices(list_devices(), suite.jobs)[place])}


def _limit_threads(asked: str | None, most: int) -> str:
    """Fewer threads than `most` may be asked for, more may not."""
    return str(min(int(asked), most) if asked and asked.isdecimal() and int(asked) else most)


def _source(name: str) -> Path:
    return paths.notebooks() / f"{name}.ipynb"


def _trains(name: str) -> bool:
    return bool(read_notebook(_source(name)).metadata.get("fdlab", {}).get("trains"))


def _suits(name: str, definition: Dataset, paired: bool) -> bool:
    """Whether a notebook is for data sets of a task, of so many modalities, with or without pairs
    of networks; most are for all."""
    about = read_notebook(_source(name)).metadata.get("fdlab", {})
    return (
        suits(ledger.stem_of(name), definition.task)
        and about.get("modalities", 1) <= len(definition.modalities)
        and (paired or not about.get("pairs"))
    )


def _choose(notebooks: list[str], only: str) -> list[str]:
    """`only` names notebooks by number or name, with commas; empty takes all."""
    if not only:
        return notebooks
    wanted = [part.strip() for part in str(only).split(",") if part.strip()]
    chosen = set()
    for part in wanted:
        found = [n for n in notebooks if _is_named(n, part)]
        if not found:
            owners = {
                suite: [n for n in names if _is_named(n, part)]
                for suite, names in read_suites().items()
            }
            for suite, names in owners.items():
                if names and suite != "all":
                    raise UserError(f"{names[0]} is of suite {suite}: add --suite {suite}")
            raise name_unknown("notebook", part, notebooks)
        chosen.update(found)
    return [name for name in notebooks if name in chosen]


def _is_named(notebook: str, text: str) -> bool:
    """By its name, its number or its stem."""
    return text in (notebook, notebook.split("_")[0], ledger.stem_of(notebook))

"""Run a suite of notebooks: what is finished is found again, the rest runs, one page ties it up."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import papermill
import yaml
from filelock import FileLock, Timeout

from fdlab.core import paths
from fdlab.core.config import find_preset
from fdlab.core.device import cores
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.fingerprint import digest
from fdlab.core.progress import VARIABLE, listen, say, track
from fdlab.data.store import find_dataset
from fdlab.execute import engine, ledger
from fdlab.execute.page import export_notebook, write_page
from fdlab.execute.parameters import check_values, read_notebook, read_parameters
from fdlab.figures.style import find_venue
from fdlab.methods import METHODS
from fdlab.studies.comparison import choose_methods, require_trials
from fdlab.studies.hyperparameters import read_settings
from fdlab.studies.plan import make_plan
from fdlab.training import cluster

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


@dataclass
class Summary:
    """folder and page of the suite; notebook → seconds, or what went wrong."""

    folder: Path
    page: Path
    ran: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def count(self) -> int:
        """Notebooks that are over, one way or another."""
        return len(self.ran) + len(self.found) + len(self.failed)


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
    elsewhere = bool(os.environ.get(cluster.VARIABLE))  # a cluster may have any number of them
    if jobs < 1 or (jobs > cores() and not elsewhere):
        raise UserError(f"--jobs is {jobs}: expected 1 to {cores()}, the cores of this machine")
    find_preset(preset)
    definition = find_dataset(dataset)
    notebooks = [name for name in _choose(suites[suite], only) if _suits(name, definition.task)]
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
    """Names inside the values: seeds, directions, methods, device and venue."""
    plan = make_plan(dataset, preset, **{k: values[k] for k in ("seeds", "device") if k in values})
    plan.choose_directions(values.get("directions"))
    if "direction" in values:
        plan.choose_directions([values["direction"]])
    choose_methods(values.get("methods", []), plan.definition.task)
    METHODS[values.get("method", "none")]
    read_settings(values.get("hyperparameters", ""))
    require_trials(values.get("trials", 0))
    find_venue(values.get("venue", "aaai"))


def run_suite(suite: SuiteRun) -> Summary:
    """Run what is not done yet, `jobs` notebooks at a time, the report last.

    A notebook that fails leaves its partial copy with the error in it; the others go on.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    suite.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(suite.folder / ".lock", timeout=0):
            return _run_locked(suite)
    except Timeout:
        raise UserError(f"another `fdlab reproduce` is at work in {suite.folder}") from None


def _run_locked(suite: SuiteRun) -> Summary:
    summary = Summary(suite.folder, suite.folder / "report.html")
    lock = threading.Lock()
    first = [name for name in suite.notebooks if name != REPORT]
    last = [name for name in suite.notebooks if name == REPORT]
    total = len(suite.notebooks)
    running: list[str] = []
    stop = threading.Event()
    with listen() as events, track("notebooks", total, unit="notebook") as report:

        def finish(name: str) -> None:
            if stop.is_set():
                return
            with lock:
                running.append(name)
                report(summary.count(), ", ".join(running))
            outcome = _run_one(suite, name, events)
            with lock:
                running.remove(name)
                _note(summary, name, outcome)
                say(f"[{summary.count()}/{total}] {name}: {_describe(outcome)}")
                report(summary.count(), ", ".join(running))

        for wave in (first, last):
            with ThreadPoolExecutor(suite.jobs) as pool:
                try:
                    _wait_all([pool.submit(finish, name) for name in wave])
                except BaseException:
                    stop.set()  # nothing new starts, and the kernels at work end
                    engine.stop_kernels()
                    raise
    write_page(suite.folder, suite.dataset, suite.preset, read_suites(suite.dataset)["all"])
    return summary


def _wait_all(futures: list[Future]) -> None:
    """Raise the first error, or the keyboard's interrupt, as soon as it comes."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


def _run_one(suite: SuiteRun, name: str, events: str) -> float | str | None:
    """Seconds that it took, None where it was done already, or the error's last line."""
    source = _source(name)
    own = {k: v for k, v in suite.values.items() if k in read_parameters(source)}
    key = ledger.make_key(source, own, suite.folder)
    reason = None if suite.force else ledger.find_reason(suite.folder, name, key)
    if reason is None and not suite.force:
        return None
    if reason:
        say(f"fdlab: {name} runs again: {reason}")
    ledger.forget(suite.folder, name)
    target = suite.folder / "notebooks" / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    try:
        environment = _make_environment(suite, events)
        engine.run_notebook(source, target, own, paths.root(), environment)
        seconds = time.perf_counter() - start
        export_notebook(target)
        ledger.note_done(suite.folder, name, key, seconds)
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".splitlines()[0] + f" (see {target})"
    except Exception as error:  # a full disk, a dead kernel: the other notebooks go on
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return seconds


def _make_environment(suite: SuiteRun, events: str) -> dict[str, str]:
    """A kernel's environment: its share of the cores, and where its progress and results go.

    Threads sleep while they wait for each other, and NumPy's products take one. By default both
    wait awake, and where anything else runs they then keep a core from the very thread that they
    wait for: on two busy cores, a product of two threads takes ten times as long as one of one.
    """
    share = max(1, cores() // suite.jobs)
    given = os.environ
    return given | {
        VARIABLE: events,
        paths.SUITE: str(suite.folder),
        "FDLAB_HOME": str(paths.root()),
        "OMP_NUM_THREADS": _limit_threads(given.get("OMP_NUM_THREADS"), share),
        "MKL_NUM_THREADS": _limit_threads(given.get("MKL_NUM_THREADS"), share),
        "OMP_WAIT_POLICY": given.get("OMP_WAIT_POLICY", "passive"),
        "OPENBLAS_NUM_THREADS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _limit_threads(asked: str | None, most: int) -> str:
    """Fewer threads than `most` may be asked for, more may not."""
    return str(min(int(asked), most) if asked and asked.isdigit() and int(asked) else most)


def _source(name: str) -> Path:
    return paths.notebooks() / f"{name}.ipynb"


def _trains(name: str) -> bool:
    return bool(read_notebook(_source(name)).metadata.get("fdlab", {}).get("trains"))


def _suits(name: str, task: str) -> bool:
    """Whether a notebook is for data sets of a task; most are for all."""
    return read_notebook(_source(name)).metadata.get("fdlab", {}).get("task", task) == task


def _choose(notebooks: list[str], only: str) -> list[str]:
    """`only` names notebooks by number or name, with commas; empty takes all."""
    if not only:
        return notebooks
    wanted = [part.strip() for part in str(only).split(",") if part.strip()]
    chosen = set()
    for part in wanted:
        found = [n for n in notebooks if part in (n, n.split("_")[0], ledger.stem_of(n))]
        if not found:
            raise name_unknown("notebook", part, notebooks)
        chosen.update(found)
    return [name for name in notebooks if name in chosen]


def _note(summary: Summary, name: str, outcome: float | str | None) -> None:
    if outcome is None:
        summary.found.append(name)
    elif isinstance(outcome, str):
        summary.failed[name] = outcome
    else:
        summary.ran[name] = outcome


def _describe(outcome: float | str | None) -> str:
    if outcome is None:
        return "found, unchanged"
    return f"failed: {outcome}" if isinstance(outcome, str) else f"{outcome:.0f} s"

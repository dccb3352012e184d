"""Run a suite of notebooks: what is finished is found again, the rest runs, one page ties it up."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import papermill
import yaml

from fdlab.core import paths
from fdlab.core.config import find_preset
from fdlab.core.device import cores
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.progress import VARIABLE, listen, say, track
from fdlab.data import DATASETS
from fdlab.execute import engine, ledger
from fdlab.execute.page import export_notebook, write_page
from fdlab.execute.parameters import check_values, read_notebook, read_parameters

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


def read_suites() -> dict[str, list[str]]:
    """Suite → notebooks, from `suites.yml`; `all` joins them."""
    text = resources.files("fdlab").joinpath("suites.yml").read_text(encoding="utf-8")
    suites = yaml.safe_load(text)
    every = list(dict.fromkeys(name for names in suites.values() for name in names))
    return suites | {"all": sorted(every, key=lambda name: (name == REPORT, name))}


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
    suites = read_suites()
    if suite not in suites:
        raise name_unknown("suite", suite, suites)
    if not 1 <= jobs <= cores():
        raise UserError(f"--jobs is {jobs}: expected 1 to {cores()}, the cores of this machine")
    find_preset(preset)
    definition = DATASETS[dataset]
    notebooks = _choose(suites[suite], only)
    values = {"dataset": dataset, "preset": preset} | (values or {})
    if (values["dataset"], values["preset"]) != (dataset, preset):
        raise UserError("dataset and preset are given by --dataset and --preset, not by -p")
    if definition.is_features:
        out = [name for name in notebooks if _trains(name)]
        notebooks = [name for name in notebooks if name not in out]
        if out:
            say(f"fdlab: {dataset} holds features, nothing to train on; left out: {', '.join(out)}")
    check_values(values, {name: read_parameters(_source(name)) for name in notebooks})
    return SuiteRun(
        notebooks, dataset, preset, values, paths.suite_folder(dataset, preset), jobs, force
    )


def run_suite(suite: SuiteRun) -> Summary:
    """Run what is not done yet, `jobs` notebooks at a time, the report last.

    A notebook that fails leaves its partial copy with the error in it; the others go on.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    summary = Summary(suite.folder, suite.folder / "report.html")
    lock = threading.Lock()
    first = [name for name in suite.notebooks if name != REPORT]
    last = [name for name in suite.notebooks if name == REPORT]
    total = len(suite.notebooks)
    running: list[str] = []
    with listen() as events, track("notebooks", total, unit="notebook") as report:

        def finish(name: str) -> None:
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
                _wait_all([pool.submit(finish, name) for name in wave])
    write_page(suite.folder, suite.dataset, suite.preset, read_suites()["all"])
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                source,
                target,
                parameters=own,
                engine_name=engine.NAME,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                request_save_on_cell_execute=False,
                kernel_cwd=str(paths.root()),
                kernel_env=_make_environment(suite.jobs, events),
            )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".splitlines()[0] + f" (see {target})"
    except (RuntimeError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    seconds = time.perf_counter() - start
    export_notebook(target)
    ledger.note_done(suite.folder, name, key, seconds)
    return seconds


def _make_environment(jobs: int, events: str) -> dict[str, str]:
    """A kernel's environment: its share of the cores, and where its progress goes."""
    share = str(max(1, cores() // jobs))
    return os.environ | {
        VARIABLE: events,
        "FDLAB_HOME": str(paths.root()),
        "FDLAB_WORKERS": os.environ.get("FDLAB_WORKERS", share),
        "OMP_NUM_THREADS": share,
        "OPENBLAS_NUM_THREADS": share,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def _source(name: str) -> Path:
    return paths.notebooks() / f"{name}.ipynb"


def _trains(name: str) -> bool:
    return bool(read_notebook(_source(name)).metadata.get("fdlab", {}).get("trains"))


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

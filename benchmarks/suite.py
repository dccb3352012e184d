"""Time a whole suite by the package's own command: the first run, the second, and two at once.

    python -m benchmarks.suite [--suite core] [--dataset digits] [--preset quick] [--only 02,03]
                               [--jobs 1] [--pairs 02_similarity,03_scale] [--repeats 3] [--build]

Every measurement is `fdlab reproduce` in a process of its own, in a fresh folder that links the
notebooks and the data set of this one. First run: nothing is trained; the data set is found
("linked"), or built in that time where this folder has none or with `--build` ("built"). Second
run: everything is found. Seconds of a notebook are those of its done-record, training seconds the
sum over the run records, more than the wall time where several train side by side.

`--pairs A,B`: two commands, `--only A` and `--only B`, at the same moment and one after the other,
in alternation. As a suite's folder takes one command at a time, each has a folder of its own, and
both share data set, runs and features. "fresh": nothing is trained; "found": every run is there,
and what is left is mostly NumPy. ratio is at once over in turn: above 1, two at once are slower.
cpu_seconds are the processor's, which other work on the machine does not lengthen as much.

Workers and threads are what the package chooses, or `FDLAB_WORKERS`. A command that takes longer
than `--limit` seconds is stopped. Writes a list of entries, `benchmarks/suite.json`; a run replaces
the entry of the same device, suite, data set, preset, notebooks and jobs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import torch

import fdlab
from benchmarks.entries import keep_entry
from fdlab.core import paths
from fdlab.core.device import choose_device, cores, count_workers, describe_device
from fdlab.core.errors import UserError
from fdlab.core.files import read_json
from fdlab.core.progress import VARIABLE
from fdlab.data.store import find_dataset, find_store
from fdlab.execute import ledger
from fdlab.execute.suite import SuiteRun, plan_suite
from fdlab.studies.plan import make_plan

SAME = ("device", "suite", "dataset", "preset", "only", "jobs")
SHARED = ("runs", "banks")
GRACE = 90  # seconds for a stopped command to save what it has and end its kernels


@dataclass(frozen=True)
class Command:
    """`fdlab reproduce` with arguments in a home, or whatever `words` says."""

    home: Path
    words: tuple[str, ...]

    def start(self) -> subprocess.Popen:
        package = str(Path(fdlab.__file__).resolve().parents[1])
        found = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "FDLAB_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, found])),
        }
        for name in (VARIABLE, paths.SUITE):  # of a suite that this one runs in
            environment.pop(name, None)
        with self.log.open("w") as log:
            return subprocess.Popen(
                self.words, cwd=self.home, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        return self.home / "command.log"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time a whole suite")
    parser.add_argument("--suite", default="core")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--only", default="", help="some notebooks, such as 02,05")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--pairs", default="", help="two notebooks to run at once and in turn")
    parser.add_argument("--repeats", type=int, default=3, help="of the pair, either way")
    parser.add_argument("--build", action="store_true", help="build the data set in the first run")
    parser.add_argument("--limit", type=float, default=7200, help="seconds of one command")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    asked = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        entry = time_suite(asked)
        keep_entry(Path(asked.out), entry, SAME)
    except UserError as error:
        print(f"benchmarks.suite: error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _end(number: int, frame: object) -> NoReturn:
    """A request to end is an exit, so that commands at work are stopped and nothing is left."""
    sys.exit(128 + number)


def time_suite(asked: argparse.Namespace) -> dict[str, Any]:
    """The entry of a suite; everything that can be wrong is said before anything runs."""
    chosen = asked.suite, asked.dataset, asked.preset
    suite = plan_suite(*chosen, only=asked.only, jobs=asked.jobs)
    pair = choose_pair(asked)
    if asked.repeats < 1:
        raise UserError(f"--repeats is {asked.repeats}: expected a whole number from 1")
    device = choose_device("auto")
    common = [f"--{k}={v}" for k, v in zip(("suite", "dataset", "preset"), chosen, strict=True)]
    entry = {
        "device": describe_device(device),
        "cores": cores(),
        "workers": count_workers(),
        "torch": torch.__version__,
        "measured": datetime.date.today().isoformat(),
        "suite": asked.suite,
        "dataset": asked.dataset,
        "preset": asked.preset,
        "only": asked.only,
        "jobs": asked.jobs,
    }
    found = locate_store(suite)
    if asked.build and find_dataset(asked.dataset).source is not None:
        raise UserError(f"{asked.dataset} is read from files: it cannot be built here")
    linked = [found] if found and not asked.build else []
    entry["data"] = "linked" if linked else "built"
    with tempfile.TemporaryDirectory(prefix="fdlab-suite-") as scratch:
        home = make_home(Path(scratch) / "suite", linked)
        words = reproduce(*common, f"--only={asked.only}", f"--jobs={asked.jobs}")
        entry |= time_twice(Command(home, words), suite, asked.limit)
        describe_runs(entry)
        outputs, entry["pairs"] = home / "outputs", []
        stores = [path.parent for path in outputs.glob("stores/*/manifest.json")]
        for state in ("fresh", "found") if pair else ():

            def prepare(folder: Path, state: str = state) -> list[Command]:
                shared = outputs if state == "found" else folder / "shared"
                return [
                    Command(
                        make_home(folder / name, stores, shared),
                        reproduce(*common, f"--only={name}"),
                    )
                    for name in pair
                ]

            if state == "found" and not set(pair) <= set(suite.notebooks):
                run_in_turn(prepare(Path(scratch) / "before"), asked.limit)
            folders = (Path(scratch) / f"{state}-{number}" for number in count())
            times = time_pair(prepare, folders, asked.repeats, asked.limit)
            entry["pairs"].append({"notebooks": pair, "state": state} | times)
            print(
                f"{' and '.join(pair)}, {state}: {times['at_once_seconds']:.1f} s at once, "
                f"{times['in_turn_seconds']:.1f} s in turn: ratio {times['ratio']:.2f}"
            )
    return entry


def describe_runs(entry: dict[str, Any]) -> None:
    print(
        f"first run {entry['first_seconds']:.1f} s (data set {entry['data']}, {entry['runs']} "
        f"runs, {entry['training_seconds']:.1f} s of training), second "
        f"{entry['second_seconds']:.1f} s: ratio {entry['ratio']:.1f}"
    )
    for name, seconds in entry["notebooks"].items():
        print(f"  {name:16s} {seconds:7.1f} s")


def choose_pair(asked: argparse.Namespace) -> list[str]:
    """Two notebooks of the suite, by number or name; [] where none is asked for."""
    if not asked.pairs:
        return []
    chosen = asked.suite, asked.dataset, asked.preset
    names = [name.strip() for name in asked.pairs.split(",")]
    found = [name for each in names for name in plan_suite(*chosen, only=each).notebooks]
    if len(names) != 2 or len(found) != 2:
        raise UserError(
            f"--pairs is {asked.pairs!r}: expected two notebooks, such as 02_similarity,03_scale"
        )
    return found


def reproduce(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "fdlab", "reproduce", *arguments)


def locate_store(suite: SuiteRun) -> Path | None:
    """The suite's data set in this home, where it is prepared."""
    plan = make_plan(suite.dataset, suite.preset)
    store = find_store(suite.dataset, plan.data_options)
    return store.folder.resolve() if store else None


def make_home(home: Path, stores: list[Path], shared: Path | None = None) -> Path:
    """A folder for `FDLAB_HOME` with this home's notebooks and measured files, and with prepared
    data sets; with `shared`, runs and features are kept there."""
    folder = home / "outputs" / "stores"
    folder.mkdir(parents=True)
    (home / "notebooks").symlink_to(paths.notebooks().resolve())
    if paths.benchmarks().is_dir():  # which a notebook reads
        (home / "benchmarks").symlink_to(paths.benchmarks().resolve())
    for store in stores:
        (folder / store.name).symlink_to(store.resolve())
    for name in SHARED if shared else ():
        (shared / name).mkdir(parents=True, exist_ok=True)
        (home / "outputs" / name).symlink_to((shared / name).resolve())
    return home


def time_twice(command: Command, suite: SuiteRun, limit: float) -> dict[str, Any]:
    """First and second run of one command in one home, and what the first left there."""
    first = run_in_turn([command], limit)
    outputs = command.home / "outputs"
    done = outputs / f"{suite.dataset}-{suite.preset}" / ledger.FOLDER
    stamps = {path: path.stat().st_mtime_ns for path in _list_records(outputs)}
    second = run_in_turn([command], limit)
    again = [path for path in _list_records(outputs) if stamps.get(path) != path.stat().st_mtime_ns]
    if again:
        raise UserError(f"the second run made {again[0]} again: expected that it finds everything")
    trained = [read_json(path)["seconds"] for path in outputs.glob("runs/*/record.json")]
    return {
        "first_seconds": first[0],
        "second_seconds": second[0],
        "ratio": round(first[0] / second[0], 2),
        "first_cpu_seconds": first[1],
        "second_cpu_seconds": second[1],
        "notebooks": {
            name: read_json(done / f"{name}.json")["seconds"] for name in suite.notebooks
        },
        "runs": len(trained),
        "training_seconds": round(sum(trained), 2),
    }


def _list_records(outputs: Path) -> list[Path]:
    """Done-records of notebooks and records of runs."""
    return [*outputs.glob(f"*/{ledger.FOLDER}/*.json"), *outputs.glob("runs/*/record.json")]


def time_pair(
    prepare: Callable[[Path], list[Command]],
    folders: Iterator[Path],
    repeats: int,
    limit: float,
) -> dict[str, Any]:
    """Two commands at once and in turn, each time in a fresh folder, whichever first in turn."""
    ways = {"at_once": run_at_once, "in_turn": run_in_turn}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats):
        for way in sorted(ways, reverse=repeat % 2 == 1):
            wall, cpu = ways[way](prepare(next(folders)), limit)
            seconds[way].append(wall)
            spent[way].append(cpu)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "at_once_seconds": medians["at_once"],
        "in_turn_seconds": medians["in_turn"],
        "ratio": round(medians["at_once"] / medians["in_turn"], 3),
        "repeats": seconds,
        "cpu_seconds": {way: statistics.median(values) for way, values in spent.items()},
    }


def run_at_once(commands: list[Command], limit: float) -> tuple[float, float]:
    """Wall and processor seconds of all, started at the same moment."""
    return _run([commands], limit)


def run_in_turn(commands: list[Command], limit: float) -> tuple[float, float]:
    """Wall and processor seconds of all, each started when the one before has ended."""
    return _run([[command] for command in commands], limit)


def _run(waves: list[list[Command]], limit: float) -> tuple[float, float]:
    before, start = os.times(), time.perf_counter()
    for commands in waves:
        with _started(commands) as processes:
            end = time.monotonic() + limit
            for command, process in zip(commands, processes, strict=True):
                try:
                    code = process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise UserError(
                        f"{_describe(command)} took longer than {limit:g} s: give more by --limit"
                    ) from None
                if code:
                    raise UserError(f"{_describe(command)} failed: {_find_reason(command, code)}")
    after = os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return round(time.perf_counter() - start, 2), round(spent, 2)


@contextmanager
def _started(commands: list[Command]) -> Iterator[list[subprocess.Popen]]:
    """Running commands; those that still run at the end are stopped, and so are their kernels."""
    processes: list[subprocess.Popen] = []
    try:
        for command in commands:
            processes.append(command.start())
        yield processes
    finally:
        left = [process for process in processes if process.poll() is None]
        for process in left:  # a background job's children ignore an interrupt
            process.terminate()
        for process in left:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _describe(command: Command) -> str:
    return " ".join(["fdlab", *command.words[3:]])


def _find_reason(command: Command, code: int) -> str:
    """The line of a command's output that names what went wrong."""
    lines = command.log.read_text(errors="replace").strip().splitlines()
    named = [line for line in lines if "failed:" in line or "error:" in line]
    return [f"exit code {code}", *lines[-1:], *named[:1]][-1]


if __name__ == "__main__":
    sys.exit(main())

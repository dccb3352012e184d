"""The command line. Nothing heavy is imported until a command runs, so that --help is instant."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shlex
import sys
from contextlib import nullcontext
from typing import NoReturn

from fdlab import __version__
from fdlab.core import processes, stop
from fdlab.core.errors import UserError, put_on_one_line
from fdlab.core.records import COMMAND, RunRecord

LISTENING = ("train", "sweep", "reproduce")  # commands that stop in good order when told to end


class _Parser(argparse.ArgumentParser):
    """A wrong call is one line and exit code 2, like every other error of the user's."""

    def error(self, message: str) -> NoReturn:
        line = put_on_one_line(f"{self.prog}: error: {message}; see {self.prog} --help")
        self.exit(2, f"{line}\n" if processes.speaks() else None)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    options = _build_parser().parse_args(arguments)
    before = _read_settings()
    command = os.environ.setdefault(COMMAND, _describe_command(arguments))
    try:
        if options.command != "train":
            processes.require_one(f"fdlab {options.command}")
        with stop.listening() if options.command in LISTENING else nullcontext():
            return options.run(options) or 0
    except stop.Stopped as stopped:
        _complain(str(stopped))
        _complain(f"to go on: {command}")
        return stop.EXIT_CODE
    except KeyboardInterrupt:
        print("\nfdlab: stopped; what finished is kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (UserError, OSError) as error:
        if debug:
            raise
        _complain(f"error: {_describe(error)}")
        return 2
    except RuntimeError as error:
        if processes.count_started() == 1:
            raise
        if not processes.is_loss(error):
            if processes.speaks():
                raise
        else:
            _complain(f"error: {processes.LOSS}")
        return 1
    finally:
        for name in _read_settings():
            del os.environ[name]
        os.environ.update(before)


def _read_settings() -> dict[str, str]:
    """Those of the environment; what a command's options set there ends with the command."""
    return {name: value for name, value in os.environ.items() if name.startswith("FDLAB_")}


def _describe_command(arguments: list[str]) -> str:
    line = put_on_one_line(shlex.join(["fdlab", *arguments]))
    if (count := processes.count_started()) > 1:
        line = f"torchrun --nproc-per-node {count} -m {line}"
    return line


def _complain(text: str) -> None:
    """One line, of processes that train together one alone."""
    if processes.speaks():
        print(f"fdlab: {put_on_one_line(text)}", file=sys.stderr, flush=True)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or 'no file named'}"
    return str(error)


def _build_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(
        prog="fdlab",
        description="A laboratory for frequency-decoupled cross-modal knowledge distillation.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"fdlab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run, help: str, parent=commands) -> argparse.ArgumentParser:
        sub = parent.add_parser(name, help=help, description=help, parents=[common])
        sub.set_defaults(run=run)
        return sub

    def add_choice(sub: argparse.ArgumentParser, dataset: str = "digits") -> None:
        sub.add_argument("--dataset", default=dataset, help="data set (default: digits)")
        sub.add_argument("--preset", default="quick", help="smoke, quick, reduced or paper")

    sub = add("reproduce", _reproduce, "run a suite of notebooks and write its report")
    add_choice(sub, dataset="")
    sub.add_argument("--suite", default="core", help="suite of notebooks, or all (default: core)")
    sub.add_argument("--only", default="", help="some notebooks, such as 02,05")
    sub.add_argument("--jobs", type=int, default=1, help="notebooks at a time (default: 1)")
    sub.add_argument("--force", action="store_true", help="run notebooks that are done already")
    sub.add_argument("--pack", type=int, default=None, metavar="N",
                     help="train up to N runs in step in one process (default: 1)")  # fmt: skip
    _add_recipe(sub)
    _add_fast(sub)
    _add_dask(sub)
    sub.add_argument("--dry-run", action="store_true", help="count runs and time, train nothing")
    _add_budget(sub)
    _add_values(sub, "-p", "parameter of the notebooks, such as seeds=[0,1]; may be repeated")

    sub = add("train", _train, "train one run, or find it")
    add_choice(sub)
    sub.add_argument("--direction", default="", help="teacher to student, such as audio2image")
    sub.add_argument("--student", default="", help="modality, for a method without a teacher")
    sub.add_argument("--networks", default="", metavar="TEACHER-STUDENT",
                     help="other networks than the data set's, such as vgg13-vgg8, or vgg13 for a "
                     "method without a teacher")  # fmt: skip
    sub.add_argument("--method", default="none", help="see `fdlab methods`")
    sub.add_argument("--seed", type=int, default=0)
    _add_sizes(sub)
    sub.add_argument(
        "--weights", default="", help="what the student starts from: a file, a folder, or hub:NAME"
    )
    sub.add_argument("--base", default="", metavar="RUN",
                     help="the run, by its fingerprint, whose student's network this one starts "
                     "from; of a network for another use its encoder")  # fmt: skip
    sub.add_argument("--blend", type=float, default=1.0,
                     help="scale at which the base's adapters are merged (default: 1)")  # fmt: skip
    sub.add_argument("--rank", type=int, default=0,
                     help="of low-rank adapters in the network's place; 0 for none")  # fmt: skip
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_recipe(sub)
    sub.add_argument("--deterministic", action="store_true",
                     help="on CUDA, the same bits at every repeat; slower")  # fmt: skip
    _add_fast(sub)
    sub.add_argument("--force", action="store_true", help="train again what exists")
    _add_budget(sub)
    _add_values(sub, "-o", "option of the method, such as cutoff=0.25; may be repeated")

    sub = add("sweep", _sweep, "train many runs, or find them")
    add_choice(sub)
    sub.add_argument("--methods", default="none,fdcmkd", help="with commas; see `fdlab methods`")
    sub.add_argument("--directions", default="", help="with commas (default: the data set's)")
    sub.add_argument(
        "--pairs",
        default="",
        metavar="PAIRS",
        help="networks within one modality, such as vgg13-vgg8",
    )
    sub.add_argument("--seeds", default="", help="with commas (default: the preset's)")
    sub.add_argument("--jobs", type=int, default=None, metavar="N",
                     help="runs at a time (default: one per core, or per CUDA device)")  # fmt: skip
    _add_sizes(sub)
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_recipe(sub)
    _add_fast(sub)
    sub.add_argument("--pack", type=int, default=None, metavar="N",
                     help="train up to N runs in step in one process (default: 1)")  # fmt: skip
    _add_budget(sub)
    _add_dask(sub)
    _add_values(sub, "-o", "option of the methods that have it, such as cutoff=0.25")

    group = add("data", _data_list, "data sets: list, prepare, verify")
    data = group.add_subparsers(metavar="ACTION", required=True)
    add("list", _data_list, "data sets and which of them are prepared", data)
    for name, run, help in (
        ("prepare", _data_prepare, "build a data set's store, or find it"),
        ("verify", _data_verify, "check every file of a store against its checksum"),
    ):
        sub = add(name, run, help, data)
        sub.add_argument("name", help="data set")
        _add_values(sub, "-o", "option of the data set, such as seed=1; may be repeated")
        if name == "prepare":
            sub.add_argument("--root", help="folder of the official files, or your manifest")
            sub.add_argument("--as", dest="alias", default="", metavar="NAME2",
                             help="another name for what is read from these files")  # fmt: skip
            sub.add_argument("--allow-missing", type=int, default=0, metavar="N",
                             help="leave out up to N events that cannot be read")  # fmt: skip
            sub.add_argument("--force", action="store_true", help="build again what exists")

    add("methods", _methods, "distillation methods, what they need, and their options")
    add("models", _models, "networks and their sizes")

    group = add("runs", _runs_list, "finished runs: list, show, clean, export, import")
    runs = group.add_subparsers(metavar="ACTION", required=True)
    add("list", _runs_list, "all runs, one line each", runs)
    sub = add("show", _runs_show, "the record of one run as JSON", runs)
    sub.add_argument("fingerprint", help="fingerprint, or the start of one")
    sub = add("clean", _runs_clean, "remove damaged runs and leftovers", runs)
    sub.add_argument("--all", action="store_true", help="remove every run")
    sub = add("export", _runs_export, "pack runs, or a suite with its runs, into one .zip", runs)
    sub.add_argument("archive", help="the file to write, which ends in .zip")
    words = "runs, or starts of their names (default: the suite's, or all)"
    sub.add_argument("fingerprints", nargs="*", metavar="FINGERPRINT", help=words)
    words = "folder of outputs, such as digits-quick"
    sub.add_argument("--suite", default="", metavar="FOLDER", help=words)
    words = "with weights and predictions, so that the runs count as finished elsewhere"
    sub.add_argument("--weights", action="store_true", help=words)
    sub = add("import", _runs_import, "check an archive, and put what it holds in its place", runs)
    sub.add_argument("archive", help="a file that `fdlab runs export` wrote")
    words = "folder of outputs/imported (default: the suite's or the archive's name)"
    sub.add_argument("--as", dest="alias", default="", metavar="NAME", help=words)

    add("doctor", _doctor, "what this machine has, and what is missing")
    sub = add("publish", _publish, "copy a finished suite into outputs/reference and the README")
    add_choice(sub)
    sub.add_argument("--suite", default="", help="speed or spatial: into a folder of its own")
    sub = add("redraw", _redraw, "draw published results again, without training")
    add_choice(sub)
    sub.add_argument("--venue", default="aaai", help="column widths: aaai, cvpr, icml, neurips")
    sub.add_argument("--marks", default="tested", help="best rows: tested, or paper")
    return parser


def _add_recipe(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--precision", default="", help="auto, float32 or bf16 (default: auto)")
    sub.add_argument("--on-nonfinite", default="", metavar="CHOICE",
                     help="a step that is not finite: stop the run, or skip the step and count it "
                     "(default: stop)")  # fmt: skip


def _set_recipe(options) -> None:
    """For this process and all that it starts."""
    from fdlab.studies.plan import ON_NONFINITE, PRECISION

    for variable, value in (
        (PRECISION, options.precision),
        (ON_NONFINITE, options.on_nonfinite),
    ):
        if value:
            os.environ[variable] = value


def _add_dask(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dask", default="", metavar="SCHEDULER",
                     help="work on a Dask cluster: a scheduler's address, or its file")  # fmt: skip


def _set_dask(options) -> None:
    """For this process and all that it starts; a scheduler that does not answer is found now."""
    from fdlab.training import cluster

    if where := options.dask or os.environ.get(cluster.VARIABLE, ""):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # an error is one line
        os.environ[cluster.VARIABLE] = cluster.find_address(where)
        with cluster.open_crew():
            pass


def _add_budget(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--time-budget", default="", metavar="TIME",
                     help="stop in good order after this time, such as 50m or 1h30m")  # fmt: skip


def _add_fast(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--fast", default="", metavar="EDITS",
                     help="what makes training fast, such as --fast=-graphs,+compile or "
                     "--fast=none; `fdlab doctor` lists it")  # fmt: skip


def _set_fast(options) -> None:
    """For this process and all that it starts."""
    import fdlab.training.fast as fast

    if options.fast:
        os.environ[fast.VARIABLE] = options.fast
    fast.read_edits(os.environ.get(fast.VARIABLE, ""))


def _add_values(sub: argparse.ArgumentParser, flag: str, help: str) -> None:
    sub.add_argument(flag, dest="values", action="append", default=[], metavar="NAME=VALUE",
                     help=help)  # fmt: skip


def _reproduce(options) -> int:
    from fdlab.execute.parameters import parse_assignments
    from fdlab.execute.suite import list_datasets, plan_suites, run_suite

    _set_fast(options)
    _set_recipe(options)
    _set_dask(options)
    _set_count("--pack", options.pack, "FDLAB_PACK")
    datasets = [options.dataset] if options.dataset else list_datasets(options.suite)
    suites = plan_suites(
        options.suite,
        datasets,
        options.preset,
        only=options.only,
        values=parse_assignments(options.values),
        jobs=options.jobs,
        force=options.force,
    )
    if options.dry_run:
        from fdlab.execute.forecast import describe_projections, forecast

        for suite in suites:
            if len(suites) > 1:
                print(f"{suite.dataset}:")
            print("\n".join(forecast(suite).describe()))
        print("\n".join(describe_projections()))
        return 0
    stop.set_budget(options.time_budget)
    failures = 0
    for suite in suites:
        summary = run_suite(suite)
        for name, error in summary.failed.items():
            print(put_on_one_line(f"fdlab: {name} failed: {error}"), file=sys.stderr)
        state = "report, with failures," if summary.failed else "report"
        state = "unfinished report" if summary.stopped or summary.left else state
        print(f"fdlab: {state} at {summary.page}")
        if summary.stopped or summary.left:
            reason = summary.reason or next(iter(summary.stopped.values()))
            raise stop.Stopped(f"the suite was stopped: {reason}")
        failures += len(summary.failed)
    return 1 if failures else 0


def _add_sizes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--epochs", type=int, default=None, help="default: the preset's")
    sub.add_argument("--width", type=int, default=None, help="default: the preset's")


def _read_sizes(options) -> dict[str, int]:
    """For `make_plan`, where 0 stands for the preset's."""
    sizes = {"epochs": options.epochs, "width": options.width}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: expected a whole number from 1")
    return {name: value or 0 for name, value in sizes.items()}


def _set_count(flag: str, value: int | None, variable: str) -> None:
    if value is not None:
        if value < 1:
            raise UserError(f"{flag} is {value}: expected a whole number from 1")
        os.environ[variable] = str(value)


def _sweep(options) -> int:
    from fdlab.execute.parameters import parse_assignments
    from fdlab.studies.grid import configure_grid
    from fdlab.studies.plan import make_plan
    from fdlab.training.pool import attempt_runs

    if options.dask and options.jobs is not None:
        raise UserError("--jobs is of this machine: with --dask its workers say how many run")
    stop.set_budget(options.time_budget)
    _set_fast(options)
    _set_recipe(options)
    _set_count("--pack", options.pack, "FDLAB_PACK")
    _set_count("--jobs", options.jobs, "FDLAB_WORKERS")
    plan = make_plan(
        options.dataset,
        options.preset,
        seeds=_split_numbers("--seeds", options.seeds),
        **_read_sizes(options),
        device=options.device,
    )
    values = parse_assignments(options.values)
    ways, pairs = _split(options.directions), _split(options.pairs)
    configs = configure_grid(plan, _split(options.methods), ways, values, pairs)
    _set_dask(options)
    plan.open_store()
    outcomes = attempt_runs(configs, device=plan.device)
    wide = max(len(config.label) for config in configs)
    stopped, failed = [], []
    for config, outcome in zip(configs, outcomes, strict=True):
        line = f"{config.label:{wide}s}"
        if isinstance(outcome.error, stop.Stopped):
            stopped.append(outcome.error)
            print(f"{line}  stopped")
        elif outcome.error is not None:
            failed.append(f"{config.label} failed: {_describe_failure(outcome.error)}")
            print(f"{line}  failed")
        else:
            record = outcome.run.record
            score = 100 * record.scores["validation"].accuracy
            how = "found" if outcome.found else "trained"
            print(f"{line}  {score:5.1f} % test  {record.seconds:8.1f} s  {how}")
    found = sum(outcome.found for outcome in outcomes)
    done = sum(outcome.run is not None for outcome in outcomes)
    print(f"fdlab: {len(configs)} runs: {done - found} trained, {found} found, "
          f"{len(failed)} failed, {len(stopped)} left")  # fmt: skip
    for line in failed:
        print(f"fdlab: {line}", file=sys.stderr)
    if stopped:
        print(f"fdlab: stopped: {stopped[0]}; {done} of {len(configs)} runs are done, "
              f"{len(stopped)} left", file=sys.stderr)  # fmt: skip
        print(f"fdlab: to go on: {os.environ[COMMAND]}", file=sys.stderr)
        return stop.EXIT_CODE
    return 1 if failed else 0


def _describe_failure(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _split_numbers(flag: str, text: str) -> list[int]:
    parts = _split(text)
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{flag} is {text!r}: expected whole numbers with commas, such as 0,1,2")
    return [int(part) for part in parts]


def _train(options) -> None:
    with processes.joining(options.device) as device:
        _train_on(device, options)


def _train_on(device: str, options) -> None:
    from fdlab.core.config import Direction
    from fdlab.execute.parameters import parse_assignments
    from fdlab.methods import METHODS
    from fdlab.studies.plan import make_plan
    from fdlab.training.ensure import ensure_run

    _set_fast(options)
    _set_recipe(options)
    stop.set_budget(options.time_budget)
    plan = make_plan(
        options.dataset,
        options.preset,
        **_read_sizes(options),
        device=device,
    )
    student, teacher = options.student, None
    if not options.direction and not student and len(plan.modalities) == 1:
        (student,) = plan.modalities
        teacher = student
    elif bool(options.direction) == bool(student):
        raise UserError("give either --direction, such as audio2image, or --student, such as image")
    if options.direction:
        way = Direction.parse(options.direction, plan.modalities)
        student, teacher = way.student, way.teacher
    found = _read_networks(options, bool(METHODS[options.method].needs))
    names = dict(zip(("network", "teacher_network"), found, strict=False))
    values = parse_assignments(options.values)
    config = plan.configure(student, options.method, teacher, options.seed, values, **names)
    for name in ("train", "teacher_train"):
        if recipe := getattr(config, name):
            recipe = dataclasses.replace(recipe, deterministic=options.deterministic)
            config = dataclasses.replace(config, **{name: recipe})
    base = _find_record(options.base).config if options.base else None
    if options.blend != 1 and not (base and base.rank):
        what = f"{options.base} has none" if base else "there is none"
        raise UserError(f"--blend goes with a --base that has adapters, and {what}")
    starts = {"weights": options.weights, "base": base, "blend": options.blend}
    config = dataclasses.replace(config, rank=options.rank, **starts)
    processes.decide(lambda: plan.open_store() and None)  # built once, by the first
    run = ensure_run(config, device=plan.device, force=options.force)
    if not processes.is_first():
        return
    record = run.record
    for rule, score in record.scores.items():
        print(
            f"{rule:10s} {100 * score.accuracy:5.1f} % test, epoch {score.epoch}, {score.head} head"
        )
    print(f"n = {record.n['test']} test samples, {record.seconds:.1f} s on {record.device}"
          f" ({', '.join(record.fast) or 'nothing fast'})")  # fmt: skip
    if record.skipped:
        print(f"fdlab: {record.skipped} steps were not finite and were skipped")
    print(f"fdlab: run at {run.folder}")


def _read_networks(options, teaches: bool) -> list[str]:
    """The student's network and the teacher's, where they are named."""
    from fdlab.core.config import Pair

    if not (teaches and options.networks):
        return [options.networks] if options.networks else []
    pair = Pair.parse(options.networks)
    return [pair.student, pair.teacher]


def _data_list(options) -> None:
    from fdlab.data import DATASETS
    from fdlab.data.store import find_store, list_prepared

    given = {name: None for name in list_prepared() if name not in DATASETS}
    every = dict(DATASETS) | given
    wide = max(10, *map(len, every))
    for name, entry in every.items():
        ask = f"fdlab data prepare {name}" + (" --root FOLDER" if entry and entry.source else "")
        ask += " --as NAME" if entry and not entry.classes else ""
        try:
            store = find_store(name)
            lines = _describe_store(store) if store else [f"not prepared: {ask}"]
        except UserError as error:
            store, lines = None, [str(error)]
        if entry:
            summary = entry.summary
        else:
            kind = f", read as {store.manifest['kind']}" if store else ""
            summary = f"files of your own{kind}; a name given here"
        print(f"{name:{wide}s} {summary}")
        if store or (entry and entry.modalities):
            dataset = store.dataset if store else entry
            plural = "es" if dataset.classes > 1 else ""
            classes = f"; {dataset.classes} class{plural}" if dataset.classes else ""
            print(f"{'':{wide}s} {', '.join(dataset.modalities)}{classes}")
        for line in lines:
            print(f"{'':{wide}s} {line}")


def _describe_store(store) -> list[str]:
    counts = ", ".join(f"{count:,} {split}" for split, count in store.manifest["counts"].items())
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    amount = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
    return [f"{counts}; {amount} at {store.folder}"]


def _data_prepare(options) -> None:
    import time
    from pathlib import Path

    from fdlab.core.device import count_readers
    from fdlab.data.ingest import locate_weights
    from fdlab.data.store import prepare
    from fdlab.execute.parameters import parse_assignments
    from fdlab.models.build import read_weights

    if options.allow_missing < 0:
        raise UserError(f"--allow-missing is {options.allow_missing}: expected 0 or more")
    values = parse_assignments(options.values)
    for name, value in values.items():
        if name.endswith("_network") and value:
            _require_network(name, str(value))  # found before hours of reading
        if name.endswith("_weights") and value and options.root:
            read_weights(locate_weights(Path(options.root).expanduser(), str(value)))
    started = time.monotonic()
    name = options.alias or options.name
    store = prepare(
        name,
        values,
        root=None if options.root is None else Path(options.root).expanduser(),
        kind=options.name if options.alias else "",
        allow_missing=options.allow_missing,
        workers=count_readers(),
        force=options.force,
    )
    for note in store.manifest.get("notes", []):
        print(f"fdlab: note: {note}")
    if dropped := store.manifest.get("dropped"):
        many = len(dropped) > 1
        print(
            f"fdlab: {len(dropped)} event{'s' if many else ''} could not be read and "
            f"{'are' if many else 'is'} left out: {dropped[0]}"
            f"{' and others, in the manifest' if many else ''}"
        )
    for line in store.manifest.get("differs", []):
        print(f"fdlab: counts differ: {line}")
    if store.manifest.get("expected") and not store.manifest["differs"]:
        print(f"fdlab: counts as in {store.manifest['counted']}")
    seconds = time.monotonic() - started
    print(f"fdlab: {name}: {_describe_store(store)[0]}; {seconds:.0f} s")


def _require_network(option: str, name: str) -> None:
    """A network that the table has, and that reads what its side is."""
    import torch

    from fdlab.models import MODELS

    MODELS.find_place(name)
    with torch.device("meta"):
        found = MODELS[name]((1, 64, 64), 2, 8, 8).inputs
    expected = "tokens" if option == "text_network" else "images"
    if found != expected:
        raise UserError(f"{option} is {name}, which reads {found}: expected one for {expected}")


def _data_verify(options) -> None:
    from fdlab.data.store import verify
    from fdlab.execute.parameters import parse_assignments

    store = verify(options.name, parse_assignments(options.values))
    print(f"fdlab: {len(store.manifest['files'])} files of {options.name} match at {store.folder}")


def _methods(options) -> None:
    import torch

    from fdlab.core.config import list_options
    from fdlab.methods import METHODS
    from fdlab.methods.base import Sizes, build_method
    from fdlab.models import MODELS
    from fdlab.models.output import MAPS, describe

    classes = 6
    network = MODELS["resnet18"]((3, 64, 64), classes, 64, 0)
    side = describe(network, torch.zeros(1, 3, 64, 64))
    sizes = Sizes(side, side, classes, torch.arange(60) % classes)
    print(f"Extra parameters: between two ResNet-18 of width 64 (D = {side.width}), "
          f"{classes} classes. Methods may be added: fdcmkd+0.5*at.\n")  # fmt: skip
    for name, method in METHODS.items():
        extra = sum(p.numel() for p in build_method(name, {}, sizes).parameters())
        needs = [f"map: {need}" if need in MAPS else need for need in method.needs]
        teacher = f"teacher's {', '.join(needs)} ({method.teaching})" if needs else "no teacher"
        views = "; two views of every sample" if method.views > 1 else ""
        print(f"{name:14s} {method.summary} ({method.source})")
        print(f"{'':14s} needs: {teacher}{views}; extra parameters: {extra:,}")
        if chosen := list_options(method.Options):
            print(f"{'':14s} options: {chosen}")


def _models(options) -> None:
    from fdlab.models import MODELS
    from fdlab.models.count import (
        WORDS,
        build_on_meta,
        count_macs,
        count_parameters,
        find_published,
    )

    print("At width 64. MACs: multiply-accumulates of convolutions and linear layers, one input.\n")
    for name, build in MODELS.items():
        try:
            model, (shape, classes) = build_on_meta(name), find_published(name)
        except UserError as error:  # an extra that is not installed
            print(f"{name:16s} {build.__doc__.splitlines()[0]}\n{'':16s} {error}")
            continue
        count = count_parameters(model)
        head = sum(p.numel() for k, p in model.named_parameters() if k.startswith(model.head))
        if model.inputs == "tokens":
            takes, macs = f"{WORDS:,} words", ""
        else:
            takes = "×".join(map(str, shape))
            macs = f", {count_macs(model, shape) / 1e6:,.1f} million MACs"
        print(f"{name:16s} {build.__doc__.splitlines()[0]}")
        print(
            f"{'':16s} {takes}, {classes} classes: D = {model.feature_width}, "
            f"{count:,} parameters, {count - head:,} without the classifier{macs}"
        )


def _runs_list(options) -> None:
    from fdlab.training.checkpoint import list_unfinished
    from fdlab.training.runs import list_runs

    found = list(list_runs())
    for folder, record, damage in found:
        if record is None:
            print(f"{folder.name}  damaged: {damage}")
            continue
        config, score = record.config, record.scores["validation"]
        line = (
            f"{record.fingerprint}  {config.label:40s} width {config.width:<3d} "
            f"epochs {config.train.epochs:<4d} {100 * score.accuracy:5.1f} %  {record.finished}"
        )
        print(put_on_one_line(line))  # a record may come from elsewhere
    print(f"fdlab: {len(found)} runs")
    finished = {folder.name for folder, record, _ in found if record}
    for name, step, path in list_unfinished():
        if name not in finished:
            print(f"{name}  unfinished: step {step}, {path}; the command that began it goes on")


def _runs_show(options) -> None:
    print(json.dumps(_find_record(options.fingerprint).as_dict(), indent=1))


def _find_record(start: str) -> RunRecord:
    """Of the one finished run whose fingerprint starts so."""
    from fdlab.training.runs import list_runs

    found = {folder.name: record for folder, record, _ in list_runs() if record}
    matches = [name for name in found if name.startswith(start)]
    if len(matches) != 1:
        raise UserError(
            f"{len(matches)} runs start with {start!r}: expected exactly one; see `fdlab runs list`"
        )
    return found[matches[0]]


def _runs_clean(options) -> None:
    from fdlab.training.runs import clean_runs

    removed = clean_runs(everything=options.all)
    print(f"fdlab: removed {len(removed)} folders")


def _runs_export(options) -> None:
    from pathlib import Path

    from fdlab.execute.archive import export

    archive = Path(options.archive).expanduser()
    packed = export(archive, options.fingerprints, options.suite, options.weights)
    for line in packed.notes:
        print(f"fdlab: note: {line}")
    print(f"fdlab: {packed.describe()} at {archive}")


def _runs_import(options) -> None:
    from pathlib import Path

    from fdlab.execute.archive import unpack

    found = unpack(Path(options.archive).expanduser(), options.alias)
    for line in found.notes:
        print(f"fdlab: note: {line}")
    print(f"fdlab: {found.describe()}")


def _doctor(options) -> None:
    from fdlab.core.device import choose_device
    from fdlab.core.doctor import examine
    from fdlab.training.fast import FEATURES, choose_fast

    print("\n".join(examine()))
    fast = choose_fast(choose_device())
    for name, line in FEATURES.items():
        print(f"{name:13s} {'on' if getattr(fast, name) else 'off':3s}  {line}")


def _publish(options) -> None:
    from fdlab.execute.publish import publish, write_gallery

    _require_names(options)
    folder = publish(options.dataset, options.preset, options.suite)
    readme = write_gallery(options.dataset, options.preset, options.suite)
    print(f"fdlab: published to {folder}; gallery written to {readme}")


def _require_names(options) -> None:
    """Of a data set, whose files need not be here, and of a preset: both become a path."""
    from fdlab.core.config import find_preset
    from fdlab.data.store import find_dataset

    find_dataset(options.dataset, prepared=False)
    find_preset(options.preset)


def _redraw(options) -> None:
    from fdlab.core import paths
    from fdlab.figures.save import redraw

    _require_names(options)
    name = f"{options.dataset}-{options.preset}"
    target = paths.outputs() / "redrawn" / name
    drawn = redraw(paths.reference() / name, target, options.venue, options.marks)
    print(f"fdlab: drew {', '.join(drawn)} at {target}")

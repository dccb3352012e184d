"""Training's speed: a plain loop, this package's with each part of it in turn, and the floor.

    python -m benchmarks.training [--device auto] [--shapes digits,small] [--epochs 2] [--rounds 3]
                                  [--methods] [--quick] [--out benchmarks/training-<device>.json]

On synthetic events of the paper's shapes ("cremad", "vggsound"), of the embedded data set's
("digits") and of small ones ("small"), in one process, with ResNet-18 and FD-CMKD:

    plain   a loop as the paper's released code works, see `benchmarks.plain`; on the CPU with
            torch's own number of threads, which it shares with the workers, and with one
    ours    this package's `train` on a store on disk, nothing that makes it fast at first, then
            each part of `fdlab.training.fast` added to those before; on CUDA `compile` in place of
            the last; on the CPU two processes side by side, a direction each
    floor   a step alone, on one batch that lies on the device, see `benchmarks.ours.BareStep`
    bound   the step's counted operations over the device's measured rate of a matrix product, and
            its counted bytes over the measured rate of a copy; a cache may be faster than a copy

samples/s is of both directions: training samples over the time of one's epoch and the other's, the
evaluation of both among it. The contestants are called in turn, `--rounds` times, an untimed epoch
and `--epochs` timed ones each, so that noise meets all of them. Numbers are medians of all timed
epochs with the least and the largest; `ratio` is to the plain loop of the same run, the faster of
the two, `floor_share` to the floor. `setup_seconds` is what a training takes once: caching,
recording, compiling. Peak memory is the device's, on CUDA alone. A run replaces the shapes that it
measured in the file and keeps the others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.bounds import count_bytes, count_flops, measure_arithmetic, measure_bandwidth
from benchmarks.measured import place_file, scratch_home, write_measured
from benchmarks.ours import (
    BareStep,
    Case,
    Side,
    Turn,
    peak_of,
    time_pack,
    time_steps,
    time_training,
)
from benchmarks.parts import profile_steps
from benchmarks.plain import PlainLoop, count_plain_threads
from benchmarks.shapes import (
    DIRECTIONS,
    IMAGE,
    SHAPES,
    Shape,
    build_events,
    make_store,
    write_files,
)
from fdlab.core.device import choose_device, count_threads
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import read_json
from fdlab.core.progress import say
from fdlab.reference import read_table
from fdlab.training.fast import Fast, choose_fast

HOURLY = 3600
# Parts of this package's loop in the order in which they are added; one that changes numbers
# before the one that records them.
LADDER = ("resident", "cache", "channels_last", "fused", "autotune", "bf16", "graphs")
PACKS = (1, 2, 4, 8)
PACKED = "digits"  # the shape whose networks are small enough to train side by side
STEPS = {"cuda": 50, "cpu": 8}  # of the floor in one turn
PROFILED = {"cuda": 20, "cpu": 6}
BOTH = "both"


@dataclass
class Contestant:
    """One row, or a row for each direction, in the making. call: one turn."""

    name: str
    kind: str
    call: Callable[[], Turn]
    features: list[str] = field(default_factory=list)
    method: str = "fdcmkd"
    apart: bool = False  # rows of each direction too
    once: bool = False  # a single turn, of something slow to start
    turns: list[Turn] = field(default_factory=list)

    def rate(self, direction: str) -> list[float]:
        """Samples per second of every epoch or step, of one direction or of both together."""
        found = []
        for turn in self.turns:
            seconds = turn.seconds.get(direction)
            if seconds is None:
                seconds = [sum(pair) for pair in zip(*turn.seconds.values(), strict=True)]
            found += [turn.samples / value for value in seconds]
        return found

    @property
    def directions(self) -> list[str]:
        return [BOTH, *(DIRECTIONS if self.apart else ())]


def main(arguments: list[str] | None = None) -> None:
    asked = read_arguments(arguments)
    device = choose_device(asked.device)
    out = place_file("training", device, asked.out)
    with scratch_home() as scratch:
        for shape in asked.shapes:
            shape = shape.shrink() if asked.quick else shape
            found = measure_shape(shape, scratch, device, asked)
            print_shape(shape, found)
            write_shape(out, device, shape.name, found)


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time training against a plain loop")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shapes", default="", help=f"of {', '.join(SHAPES)}; those of the device")
    parser.add_argument("--epochs", type=int, default=2, help="timed ones of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant")
    parser.add_argument(
        "--methods", action="store_true", help="every method of the paper's Table 2 too"
    )
    parser.add_argument("--quick", action="store_true", help="tiny; its numbers mean nothing")
    parser.add_argument("--out", default="")
    asked = parser.parse_args(arguments)
    cuda = choose_device(asked.device).type == "cuda"
    names = asked.shapes or ("digits,cremad,vggsound" if cuda else "digits,small")
    chosen = []
    for name in filter(None, names.split(",")):
        if name not in SHAPES:
            raise name_unknown("shape", name, SHAPES)
        chosen.append(SHAPES[name])
    for name in ("epochs", "rounds"):
        if getattr(asked, name) < 1:
            raise UserError(f"{name} is {getattr(asked, name)}: expected a whole number from 1")
    asked.shapes = chosen
    asked.threads = count_plain_threads()
    if asked.quick:  # one thread, since more of them wait for each other where others are at work
        asked.epochs = asked.rounds = asked.threads = 1
    return asked


def measure_shape(
    shape: Shape, scratch: Path, device: torch.device, asked: argparse.Namespace
) -> dict[str, Any]:
    """A shape's entry of the file."""
    say(f"{shape.name}: writing {sum(shape.counts)} events")
    built = build_events(shape)
    make_store(shape, built)
    files = scratch / "files" / shape.name
    write_files(files, built)
    labels = built.labels
    del built
    torch.set_num_threads(asked.threads)
    case = Case.open(shape, device)
    fast = choose_fast(device, edits="")
    with ExitStack() as stack:
        contestants = enter(shape, case, fast, files, labels, asked, stack)
        take_turns(contestants, asked.rounds, shape.name)
        rows = make_rows(contestants)
    set_threads(device, asked.threads)
    share = profile_case(case, fast, contestants, 1 if asked.quick else PROFILED[device.type])
    rows += bound(case, fast, asked.threads)
    for row in rows:
        place_row(row, rows)
    return {
        "inputs": {"audio": list(shape.audio), "image": list(shape.image)},
        "classes": shape.classes,
        "width": shape.width,
        "batch": shape.batch,
        "samples": shape.samples,
        "rows": rows,
        "profile": share,
        "pack": measure_packs(case, fast, asked) if shape.name == PACKED else [],
        "methods": measure_methods(case, fast, asked) if asked.methods else {},
    }


def set_threads(device: torch.device, others: int) -> None:
    """As the package has them: its own number on the CPU, elsewhere everyone's."""
    torch.set_num_threads(count_threads() if device.type == "cpu" else others)


def list_forms(fast: Fast) -> dict[str, Fast]:
    """Name → form of this package's loop: nothing, then each part that holds by default added."""
    form = Fast()
    forms = {"all off": form}
    for name in LADDER:
        if getattr(fast, name):
            form = replace(form, **{name: True})
            forms[f"+ {name}"] = form
    if fast.graphs:
        forms["compile, no graphs"] = replace(form, graphs=False, compile=True)
    return forms


def enter(
    shape: Shape,
    case: Case,
    fast: Fast,
    files: Path,
    labels,
    asked: argparse.Namespace,
    stack: ExitStack,
) -> list[Contestant]:
    """Everyone who is timed, ready."""
    device, epochs = case.device, asked.epochs
    steps = 2 if asked.quick else STEPS[device.type]
    networks = {}
    for direction in DIRECTIONS:
        trainer = case.build_trainer(direction, Fast())
        learner = trainer.learner
        networks[direction] = (trainer.read_teacher.model, learner.student, learner.method)
    loop = PlainLoop(shape, files, labels, case.load().scale[IMAGE], networks, device)
    stack.callback(loop.close)

    def plain(threads: int) -> Callable[[], Turn]:
        def turn() -> Turn:
            torch.set_num_threads(threads)
            with peak_of(device) as peak:
                seconds = [loop.time_epoch() for _ in range(epochs)]
            most = peak[0] + loop.count_bytes() if peak[0] else None
            return Turn({BOTH: seconds}, shape.samples, None, most)

        return turn

    def ours(form: Fast, method: str = "fdcmkd", judged: bool = True) -> Callable[[], Turn]:
        def turn() -> Turn:
            set_threads(device, asked.threads)
            if not form.compile:
                return time_training(case, form, epochs, method, judged)
            torch.compiler.reset()  # of other shapes; else it gives up after some
            return time_training(case, form, epochs * asked.rounds, method, judged)

        return turn

    def floor(method: str) -> Callable[[], Turn]:
        bare: dict[str, BareStep] = {}

        def turn() -> Turn:
            set_threads(device, asked.threads)
            if not bare:
                trainers = {d: case.build_trainer(d, fast, method) for d in DIRECTIONS}
                bare.update({d: BareStep(trainer, fast) for d, trainer in trainers.items()})
            return time_steps(bare, steps)

        return turn

    loop.time_epoch()  # workers start, files come into the system's memory
    found = [Contestant("plain loop", "plain", plain(asked.threads))]
    if device.type == "cpu" and asked.threads > 1:
        found.append(Contestant("plain loop, one thread", "plain", plain(1)))
    forms = list_forms(fast)
    for name, form in forms.items():
        own = form == fast
        entry = Contestant(name, "ours", ours(form), form.names, apart=own, once=form.compile)
        found.append(entry)
    last = next(name for name, form in forms.items() if form == fast)
    found += [
        Contestant(f"{last}, no evaluation", "ours", ours(fast, judged=False), fast.names),
        Contestant(last, "ours", ours(fast, "none"), fast.names, "none", apart=True),
    ]
    if device.type == "cpu":
        side = Side(shape)
        stack.callback(side.close)
        found += [
            Contestant("two processes", "ours", lambda: side.time_training(epochs), fast.names),
            Contestant("two processes' floor", "floor", lambda: side.time_steps(steps), fast.names),
        ]
    for method in ("fdcmkd", "none"):
        found.append(Contestant("floor", "floor", floor(method), fast.names, method, apart=True))
    return found


def take_turns(contestants: list[Contestant], rounds: int, label: str) -> None:
    for number in range(rounds):
        say(f"{label}: round {number + 1} of {rounds}")
        for contestant in contestants:
            if not (contestant.once and contestant.turns):
                contestant.turns.append(contestant.call())


def make_rows(contestants: list[Contestant]) -> list[dict[str, Any]]:
    rows = []
    for each in contestants:
        setups = [turn.setup for turn in each.turns if turn.setup is not None]
        peaks = [turn.peak for turn in each.turns if turn.peak is not None]
        for direction in each.directions:
            row = summarise(each.rate(direction), "samples_per_second")
            row = {
                "name": each.name,
                "kind": each.kind,
                "features": each.features,
                "method": each.method,
                "direction": direction,
                **row,
                "ratio": None,
                "floor_share": None,
                "peak_bytes": max(peaks, default=None),
            }
            if setups:
                row["setup_seconds"] = round(statistics.median(setups), 3)
            rows.append(row)
    return rows


def summarise(values: list[float], name: str) -> dict[str, Any]:
    """Median, least and largest of some numbers, and how many there are."""
    return {
        name: round_to(statistics.median(values)),
        "low": round_to(min(values)),
        "high": round_to(max(values)),
        "repeats": len(values),
    }


def round_to(value: float, digits: int = 4) -> float:
    """To some significant digits."""
    return float(f"{value:.{digits}g}")


def place_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Set a row beside the plain loop and beside its own floor, where there are such."""
    rate = row["samples_per_second"]
    best = max(r["samples_per_second"] for r in rows if r["kind"] == "plain")
    own = ("method", "direction")
    if (row["method"], row["direction"]) == ("fdcmkd", BOTH):
        row["ratio"] = round_to(rate / best)
    side = row["name"].startswith("two processes")
    for floor in rows if row["kind"] != "bound" else ():
        if (
            floor["kind"] == "floor"
            and all(floor[name] == row[name] for name in own)
            and floor["name"].startswith("two processes") == side
        ):
            row["floor_share"] = round_to(rate / floor["samples_per_second"])


def bound(case: Case, fast: Fast, threads: int) -> list[dict[str, Any]]:
    """Rows of what the device's peaks allow: by arithmetic, and by bytes. counted: operations or
    bytes of a sample, both directions. peak_rate: of them per second."""
    torch.set_num_threads(threads)
    plain = replace(fast, graphs=False)
    dtype = torch.bfloat16 if fast.bf16 else torch.float32
    counted = {"arithmetic": 0, "memory": 0}
    for direction in DIRECTIONS:
        step = BareStep(case.build_trainer(direction, plain), plain)
        step.step()  # the optimiser's state is there from the first step on
        counted["arithmetic"] += count_flops(step.step)
        counted["memory"] += count_bytes(step.step)
    peaks = {
        "arithmetic": measure_arithmetic(case.device, dtype),
        "memory": measure_bandwidth(case.device),
    }
    found = []
    for name, amount in counted.items():
        rates = [case.shape.batch * peak / amount for peak in peaks[name]]
        found.append(
            {
                "name": name,
                "kind": "bound",
                "features": fast.names,
                "method": "fdcmkd",
                "direction": BOTH,
                **summarise(rates, "samples_per_second"),
                "samples_per_second": round_to(max(rates)),  # a peak is the best that was seen
                "ratio": None,
                "floor_share": None,
                "peak_bytes": None,
                "counted": amount // case.shape.batch,
                "peak_rate": round_to(max(peaks[name])),
            }
        )
    return found


def profile_case(
    case: Case, fast: Fast, contestants: list[Contestant], count: int
) -> list[dict[str, Any]]:
    """Part → share of a step of this package's own form, mean over `count` of both directions.

    On CUDA also "idle": what is left of a step's measured time, the evaluation left out.
    """
    seconds: dict[str, float] = {}
    for direction in DIRECTIONS:
        trainer = case.build_trainer(direction, replace(fast, graphs=False))
        whole = case.load(fast.resident).rows["train"].split(case.shape.batch)
        batches = [whole[place % max(len(whole) - 1, 1)] for place in range(count + 1)]
        for part, value in profile_steps(trainer, batches).items():
            seconds[part] = seconds.get(part, 0.0) + value
    busy = sum(seconds.values())
    if case.device.type == "cuda":
        bare = next(c for c in contestants if c.name.endswith("no evaluation"))
        taken = case.shape.batch / statistics.median(bare.rate(BOTH))
        seconds["idle"] = max(0.0, taken - busy)
        busy = sum(seconds.values())
    return [{"part": part, "share": round_to(value / busy)} for part, value in seconds.items()]


def measure_packs(case: Case, fast: Fast, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Students per hour of whole trainings, by how many train side by side in one process; on the
    CPU, where little is to be had, in two rounds of one timed epoch."""
    set_threads(case.device, asked.threads)
    sizes = PACKS[:2] if asked.quick else PACKS
    few = case.device.type == "cpu"
    rounds, timed = (min(asked.rounds, 2), 1) if few else (asked.rounds, asked.epochs)
    epochs = case.shape.epochs
    hourly: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        say(f"{case.shape.name}: packs, round {number + 1} of {rounds}")
        for size in sizes:
            setup, seconds = time_pack(case, fast, size, timed)
            for value in seconds:
                hourly[size].append(HOURLY * size / (setup + epochs * value))
    alone = statistics.median(hourly[sizes[0]])
    return [
        {
            "size": size,
            **summarise(values, "students_per_hour"),
            "ratio": round_to(statistics.median(values) / alone),
        }
        for size, values in hourly.items()
    ]


def measure_methods(
    case: Case, fast: Fast, asked: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Method of Table 2 → direction → seconds of training, its evaluation among it, per sample and
    epoch."""
    set_threads(case.device, asked.threads)
    rows = [row["method"] for row in read_table("fdcmkd_table2_classification")]
    names = [{"nkd": "nckd"}.get(row, row) for row in rows]  # what the paper calls NKD
    found = {}
    for name in names:
        say(f"{case.shape.name}: {name}")
        turn = time_training(case, fast, asked.epochs, name)
        found[name] = {
            direction: round_to(statistics.median(seconds) / turn.samples)
            for direction, seconds in turn.seconds.items()
        }
    return found


def print_shape(shape: Shape, found: dict[str, Any]) -> None:
    inputs = ", ".join(f"{k} {'x'.join(map(str, v))}" for k, v in found["inputs"].items())
    print(f"\n{shape.name}: {inputs}, width {shape.width}, batch {shape.batch}, "
          f"{shape.samples} training samples")  # fmt: skip
    print(f"{'':28s} {'method':8s} {'direction':12s} {'samples/s':>10s} {'least':>9s} {'most':>9s} "
          f"{'n':>3s} {'to plain':>8s} {'of floor':>8s} {'peak MB':>8s}")  # fmt: skip
    for row in found["rows"]:
        ratio, share, peak = row["ratio"], row["floor_share"], row["peak_bytes"]
        print(
            f"{row['name']:28s} {row['method']:8s} {row['direction']:12s} "
            f"{row['samples_per_second']:10.5g} {row['low']:9.4g} {row['high']:9.4g} "
            f"{row['repeats']:3d} {'' if ratio is None else f'{ratio:.2f}':>8s} "
            f"{'' if share is None else f'{share:.1%}':>8s} "
            f"{'' if peak is None else f'{peak / 1e6:.0f}':>8s}"
        )
    for kind, what in (("floor", "step"), ("ours", "training")):
        print(
            f"fdcmkd over none, teacher cached, {what}: {compare_methods(found['rows'], kind):.3f}"
        )
    shares = ", ".join(f"{each['part']} {each['share']:.0%}" for each in found["profile"])
    print(f"a step: {shares}")
    for each in found["pack"]:
        print(
            f"{each['size']} side by side: {each['students_per_hour']:.4g} students per hour "
            f"({each['low']:.4g} to {each['high']:.4g}), {each['ratio']:.2f} times one"
        )
    for name, each in found["methods"].items():
        print(f"{name:14s} " + ", ".join(f"{d} {1e6 * s:.4g} µs a sample" for d, s in each.items()))


def compare_methods(rows: list[dict[str, Any]], kind: str, direction: str = "audio2image") -> float:
    """Time of FD-CMKD over that of no method, in the direction whose teacher is not augmented."""
    rates = {
        row["method"]: row["samples_per_second"]
        for row in rows
        if (row["kind"], row["direction"]) == (kind, direction)
    }
    return rates["none"] / rates["fdcmkd"]


def write_shape(out: Path, device: torch.device, name: str, found: dict[str, Any]) -> None:
    """Put a shape into the file, beside those of earlier runs on the same device."""
    before = read_json(out)["shapes"] if out.exists() else {}
    write_measured(out, device, shapes=before | {name: found})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"benchmarks.training: {error}")

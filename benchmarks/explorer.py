"""How long each control of the explorer takes, from its change to the picture, as JSON.

    python benchmarks/explorer.py [data set] [repeats]

One core. For every control, measure and null, medians over the repeats in milliseconds of a change
to a value of which nothing is computed yet; the features of its runs are in memory. `first`: to the
first picture, which shows everything but a null that takes long. `all`: to the last. `cpu`: the
processor's time to the last, which other work on the machine does not lengthen as much. Pairs
shuffled in class cost what shuffled pairs do, no null costs less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import product

import torch
from threadpoolctl import threadpool_limits

from fdlab.execute.explorer import Explorer
from fdlab.studies.explore import Shelf, View
from fdlab.studies.similarity import MEASURES

NULLS = ("shuffled", "reordered")
COLUMNS = ("first", "all", "cpu")


def measure_change(explorer: Explorer, name: str, value: object) -> tuple[float, float, float]:
    """Milliseconds in the order of `COLUMNS`."""
    seen: list[float] = []

    def note(_change: dict) -> None:
        seen.append(time.perf_counter())

    explorer.image.observe(note, "value")
    start, work = time.perf_counter(), time.process_time()
    explorer.controls[name].value = value
    end, spent = time.perf_counter(), time.process_time() - work
    explorer.image.unobserve(note, "value")
    first = seen[0] if seen else end  # the same picture again is no change
    return 1e3 * (first - start), 1e3 * (end - start), 1e3 * spent


def list_changes(explorer: Explorer) -> dict[str, tuple]:
    """Control → two values to go to and fro, for controls that have two."""
    found = {"cutoff": (0.3, 0.6), "dc": (False, True)}
    for name, choices in explorer.shelf.list_choices(explorer.view).items():
        if name not in ("dataset", "preset", "measure", "null") and len(choices) > 1:
            found[name] = tuple(choices[-2:])
    return found


def measure_controls(explorer: Explorer, repeats: int) -> dict[str, list[tuple]]:
    """Control → times of its changes, at the measure and the null that are set."""
    found: dict[str, list[tuple]] = {}
    home = explorer.view
    for name, values in list_changes(explorer).items():
        for value in values:
            explorer.controls[name].value = value  # reads the features
        for turn in range(repeats):
            if name not in ("cutoff", "dc"):
                explorer.shelf.forget()
            elif name == "dc":
                forget_and_look(explorer)
            found.setdefault(name, []).append(measure_change(explorer, name, values[turn % 2]))
        explorer.controls[name].value = getattr(home, name)
    others = {
        "measure": "cka" if home.measure == "cosine" else "cosine",
        "null": "none",
    }
    for name, other in others.items():
        for _ in range(repeats):
            explorer.controls[name].value = other
            forget_and_look(explorer)
            times = measure_change(explorer, name, getattr(home, name))
            found.setdefault(name, []).append(times)
    return found


def forget_and_look(explorer: Explorer) -> None:
    """Only what is on the screen is computed."""
    explorer.shelf.forget()
    explorer.shelf.examine(explorer.view)


def main() -> None:
    dataset = sys.argv[1] if len(sys.argv) > 1 else "digits"
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    with threadpool_limits(1):
        explorer = Explorer(View(dataset=dataset))
        start = time.perf_counter()
        Shelf().examine(explorer.view)
        reading = 1e3 * (time.perf_counter() - start)
        for measure, null in product(MEASURES, NULLS):
            explorer.controls["measure"].value = measure
            explorer.controls["null"].value = null
            for name, times in measure_controls(explorer, repeats).items():
                medians = [
                    round(statistics.median(column), 1) for column in zip(*times, strict=True)
                ]
                row = dict(zip(COLUMNS, medians, strict=True))
                found.setdefault(name, {})[f"{measure}, {null}"] = row
    slowest = {name: max(row["first"] for row in rows.values()) for name, rows in found.items()}
    result = {
        "dataset": explorer.view.dataset,
        "n": explorer.scene.n,
        "D": explorer.scene.dim,
        "repeats": repeats,
        "records and features read from disk": round(reading, 1),
        "slowest first picture": slowest,
        "milliseconds": found,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

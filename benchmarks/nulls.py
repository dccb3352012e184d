"""Time the null distributions against recomputing everything, and check that the values agree.

    python benchmarks/nulls.py [--samples 744] [--dim 512] [--shuffles 1000] [--recompute 20]

One thread. Prints JSON: milliseconds for all shuffles by the cached form; the same for the plain
form, timed over a few shuffles and scaled up; their ratio; and the largest difference of a value.
The default size is CREMA-D's test split with the paper's features. Both forms are timed in
alternation, and the median of the repeats is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from fdlab.data.planted import PlantedOptions, plant
from fdlab.spectral.similarity import (
    Pair,
    draw_orders,
    linear_cka,
    mutual_neighbours,
    row_cosines,
)

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="time the similarity measures' nulls")
    parser.add_argument("--samples", type=int, default=744)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shuffles", type=int, default=1000)
    parser.add_argument("--recompute", type=int, default=20, help="shuffles of the plain form")
    asked = parser.parse_args()
    found = time_nulls(**vars(asked))
    about = vars(asked) | {"device": f"{platform.machine()} CPU, 1 thread", "repeats": REPEATS}
    print(json.dumps(about | {"measures": found}, indent=1))


def time_nulls(
    samples: int, dim: int, shuffles: int, recompute: int
) -> dict[str, dict[str, float]]:
    """Measure → milliseconds of both forms, their ratio and the largest difference of a value."""
    one, two, _ = plant(PlantedOptions(events=samples, dim=dim, strength=0.3))
    plain = {
        "cosine": lambda order: row_cosines(one, two[order]).mean(),
        "cka": lambda order: linear_cka(one, two[order]),
        "cka_debiased": lambda order: linear_cka(one, two[order], debiased=True),
        "neighbours": lambda order: mutual_neighbours(one, two[order]),
    }
    # Plain and debiased CKA come from one pass; each is billed the whole of it.
    cached = {
        "cosine": lambda pair, orders: pair.shuffle_cosines(orders),
        "cka": lambda pair, orders: pair.shuffle_cka(orders)[0],
        "cka_debiased": lambda pair, orders: pair.shuffle_cka(orders)[1],
        "neighbours": lambda pair, orders: pair.shuffle_neighbours(orders),
    }
    found = {}
    for measure in plain:
        times: dict[str, list[float]] = {"cached": [], "plain": []}
        for repeat in range(REPEATS):
            start = time.perf_counter()  # drawing the orders is part of the cost
            orders = draw_orders(samples, shuffles, np.random.default_rng(repeat))
            values = cached[measure](Pair(one, two), orders)
            times["cached"].append(time.perf_counter() - start)
            few = orders[:recompute]
            start = time.perf_counter()
            expected = [plain[measure](order) for order in few]
            spent = time.perf_counter() - start
            times["plain"].append(spent / len(few) * shuffles)
        fast, slow = (1000 * statistics.median(times[form]) for form in ("cached", "plain"))
        found[measure] = {
            "cached_ms": round(fast, 1),
            "recompute_ms": round(slow, 1),
            "ratio": round(slow / fast, 1),
            "largest_difference": float(np.abs(values[: len(few)] - expected).max()),
        }
    return found


if __name__ == "__main__":
    with threadpool_limits(1):
        main()

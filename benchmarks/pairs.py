"""Training of a pair of networks on CIFAR-100's shapes, beside its floor.

    python -m benchmarks.pairs [--device auto] [--preset reduced] [--pair resnet32x4-resnet8x4]
                               [--methods none,kd,figkd] [--epochs 1] [--rounds 3]
                               [--samples 45000] [--quick] [--out benchmarks/pairs-<device>.json]

Random images (3, 32, 32) in 100 classes, with the recipe that the data set `cifar100` has at the
preset: batch, padded crops and flips on the device, a frozen teacher that sees what its student
sees.

    ours    this package's `train`: every step of an epoch and the evaluation after it, on as many
            images for validation and test as CIFAR-100 has of them to each for training
    floor   a step alone, on one batch that lies on the device, see `benchmarks.ours.BareStep`

Both are called in turn, `--rounds` times, an untimed epoch and `--epochs` timed ones each. Numbers
are medians of training samples per second with the least and the largest; `floor_share` is what the
training reaches of the floor, `target` what a GPU is meant to reach.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measured import place_file, scratch_home, write_measured
from benchmarks.ours import BareStep, time_epochs, time_steps
from benchmarks.shapes import put_store
from benchmarks.training import STEPS, round_to, summarise
from fdlab.core.config import Pair, RunConfig, TrainConfig, find_preset
from fdlab.core.device import choose_device, count_threads
from fdlab.core.progress import say
from fdlab.data import DATASETS
from fdlab.data.dataset import Built
from fdlab.data.paired import PairedData
from fdlab.methods import METHODS
from fdlab.training.ensure import build_untrained
from fdlab.training.fast import Fast, choose_fast
from fdlab.training.runs import complete
from fdlab.training.trainer import Trainer

DATA = "cifar100"
NAME = f"bench_{DATA}"
IMAGE, SHAPE, CLASSES = "image", (3, 32, 32), 100
PARTS = 5_000 / 45_000, 10_000 / 45_000  # validation and test beside training
SAMPLES = {"cuda": 45_000, "cpu": 1_280}
TARGET = 0.6  # of the floor, on a GPU
SEED = 0


def main(arguments: list[str] | None = None) -> None:
    asked = read_arguments(arguments)
    device = choose_device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(count_threads())
    with scratch_home():
        rows = measure(asked, device)
    print_rows(rows)
    sizes = {"preset": asked.preset, "pair": str(asked.pair), "samples": asked.samples}
    out = place_file("pairs", device, asked.out)
    write_measured(out, device, **sizes, target=TARGET, rows=rows)


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time the training of a pair of networks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", default="reduced")
    parser.add_argument("--pair", type=Pair.parse, default=Pair("resnet32x4", "resnet8x4"))
    parser.add_argument("--methods", default="none,kd,figkd")
    parser.add_argument("--epochs", type=int, default=1, help="timed ones of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=0, help="for training; those of the device")
    parser.add_argument("--quick", action="store_true", help="tiny; its numbers mean nothing")
    parser.add_argument("--out", default="")
    asked = parser.parse_args(arguments)
    asked.samples = asked.samples or SAMPLES[choose_device(asked.device).type]
    if asked.quick:
        asked.epochs = asked.rounds = 1
        asked.samples, asked.preset, asked.pair = 256, "smoke", Pair("resnet14", "resnet8")
    return asked


def measure(asked: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for every method and contestant."""
    store = put_store(
        NAME, CLASSES, DATASETS[DATA].modalities, ("image2image",), build_images(asked.samples)
    )
    own = DATASETS[DATA].recipes.get(asked.preset, {})
    recipe = replace(find_preset(asked.preset).train, **own.get("", {}), epochs=asked.epochs + 1)
    fast = choose_fast(device, recipe)
    data = PairedData.load(store, [IMAGE], device, recipe.side, fast.resident)
    width = DATASETS[DATA].presets.get(asked.preset, {}).get("width")
    width = width or find_preset(asked.preset).width
    teacher = build_untrained(store, data, IMAGE, width, SEED, asked.pair.teacher)
    rates: dict[tuple[str, str], list[float]] = {}
    floors: dict[str, BareStep] = {}
    for number in range(asked.rounds):
        say(f"round {number + 1} of {asked.rounds}")
        for method in asked.methods.split(","):
            config = configure(asked.pair, method, recipe, width)
            own = copy.deepcopy(teacher) if config.teacher else None
            _, seconds = time_epochs(config, data, own, fast)
            rates.setdefault(("ours", method), []).extend(asked.samples / each for each in seconds)
            if method not in floors:
                floors[method] = BareStep(Trainer(config, data, own, device, fast), fast)
            turn = time_steps({IMAGE: floors[method]}, 2 if asked.quick else STEPS[device.type])
            each = [turn.samples / value for value in turn.seconds[IMAGE]]
            rates.setdefault(("floor", method), []).extend(each)
    return [make_row(kind, method, rates, recipe, fast) for kind, method in rates]


def build_images(samples: int) -> Built:
    """Random pixels in balanced classes, so many of them for training."""
    counts = [samples, *(round(samples * part) for part in PARTS)]
    rng, total = np.random.default_rng(0), sum(counts)
    return Built(
        modalities={IMAGE: rng.integers(0, 256, (total, *SHAPE), dtype=np.uint8)},
        labels=np.arange(total) % CLASSES,
        split=np.repeat(np.arange(3, dtype=np.uint8), counts),
        ids={IMAGE: [str(number) for number in range(total)]},
    )


def configure(pair: Pair, method: str, recipe: TrainConfig, width: int) -> RunConfig:
    teaches = bool(METHODS[method].needs)
    return complete(
        RunConfig(
            dataset=NAME,
            student=IMAGE,
            teacher=IMAGE if teaches else None,
            method=method,
            network=pair.student,
            teacher_network=pair.teacher if teaches else "",
            seed=SEED,
            width=width,
            train=recipe,
        )
    )


def make_row(
    kind: str,
    method: str,
    rates: dict[tuple[str, str], list[float]],
    recipe: TrainConfig,
    fast: Fast,
) -> dict[str, Any]:
    row = {"kind": kind, "method": method, "batch": recipe.batch_size, "features": fast.names}
    row |= summarise(rates[kind, method], "samples_per_second")
    if kind == "ours":
        floor = summarise(rates["floor", method], "samples_per_second")
        row["floor_share"] = round_to(row["samples_per_second"] / floor["samples_per_second"])
    return row


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'':6s} {'method':10s} {'samples/s':>10s} {'least':>9s} {'most':>9s} {'of floor':>8s}")
    for row in rows:
        share = f"{row['floor_share']:.1%}" if "floor_share" in row else ""
        print(
            f"{row['kind']:6s} {row['method']:10s} {row['samples_per_second']:10.5g} "
            f"{row['low']:9.4g} {row['high']:9.4g} {share:>8s}"
        )


if __name__ == "__main__":
    main()

"""Time forward and backward of every method's loss, and of the parts that were made fast.

    python benchmarks/losses.py [--device cpu] [--repeats 30] [--out benchmarks/losses.json]

Batch 64: logits (64, 6) and (64, 50), features (64, 512), a map (64, 512, 7, 7); both sides alike.
A method's own modules (heads, projectors, convolutions) are part of its loss, and gradients
go to the student's outputs and to them. One CPU thread, or a GPU waited for after each step.
Medians in milliseconds; ratios beside a plain form are of the same run, timed in turn. Prints a
table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn
from torch.nn import functional

from fdlab.core.device import choose_device, describe_device
from fdlab.losses.correlations import kendall_tau
from fdlab.losses.relations import angle_relation
from fdlab.methods import METHODS
from fdlab.methods.base import FRESH, TUNED, Batch, Method, Sizes, build_method
from fdlab.models.output import ModelOutput, Side

COUNT, WIDTH = 64, 512
MAPS = {"layer4": (WIDTH, 7, 7)}
CLASSES = (6, 50)
TASK = "classification"
NAMES = [name for name, kind in METHODS.items() if TASK in kind.tasks]


def main() -> None:
    parser = argparse.ArgumentParser(description="time every method's loss")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    asked = parser.parse_args()
    device = choose_device(asked.device)
    torch.set_num_threads(1)
    names = [name for name in asked.methods.split(",") if name]
    found = time_losses(names, device, asked.repeats)
    print_losses(found)
    result = {
        "device": describe_device(device),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    Path(asked.out).write_text(json.dumps(result | found, indent=1) + "\n")


def time_losses(names: list[str], device: torch.device, repeats: int) -> dict[str, object]:
    """The sizes; method → classes → milliseconds; the fast parts beside their plain forms."""
    return {
        "batch": COUNT,
        "feature": WIDTH,
        "maps": {name: list(shape) for name, shape in MAPS.items()},
        "milliseconds": {name: time_method(name, device, repeats) for name in names},
        "parts": time_parts(device, repeats),
    }


def print_losses(result: dict) -> None:
    print(f"{'method':14s} " + " ".join(f"{k} classes (ms)".rjust(16) for k in CLASSES))
    for name, found in result["milliseconds"].items():
        print(f"{name:14s} " + " ".join(f"{found[str(k)]:16.2f}" for k in CLASSES))
    for name, found in result["parts"].items():
        print(f"{name}: {found['ms']:.2f} ms, plain form {found['plain_ms']:.2f} ms "
              f"({found['ratio']:.1f} times as long)")  # fmt: skip


def draw(device: torch.device, classes: int, grad: bool) -> ModelOutput:
    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(COUNT, *shape, device=device).requires_grad_(grad)

    maps = {name: noise(*shape) for name, shape in MAPS.items()}
    second = ModelOutput(noise(classes), noise(WIDTH))
    return ModelOutput(noise(classes), noise(WIDTH), maps, second=second)


def list_leaves(output: ModelOutput) -> list[torch.Tensor]:
    found = [output.logits, output.feature, *output.maps.values()]
    return found + (list_leaves(output.second) if output.second else [])


def build(name: str, classes: int, device: torch.device) -> Method:
    norms = {key: nn.BatchNorm2d(shape[0]) for key, shape in MAPS.items()}
    side = Side(WIDTH, dict(MAPS), {}, nn.Linear(WIDTH, classes).to(device), norms)
    sizes = Sizes(side, side, classes, torch.arange(1000) % classes)
    return build_method(name, {}, sizes, TASK).to(device)


def time_method(name: str, device: torch.device, repeats: int) -> dict[str, float]:
    found = {}
    for classes in CLASSES:
        torch.manual_seed(0)
        method = build(name, classes, device)
        trained = METHODS[name].teaching in (TUNED, FRESH)
        student, teacher = (draw(device, classes, grad) for grad in (True, trained))
        labels = torch.randint(classes, (COUNT,), device=device)
        batch = Batch(labels, torch.arange(COUNT, device=device))
        outputs = [student, *([teacher] if trained else [])]
        wanted = [x for output in outputs for x in list_leaves(output)]
        wanted += [p for p in method.parameters() if p.requires_grad]

        def step(method=method, pair=(student, teacher), batch=batch, wanted=wanted) -> None:
            loss = torch.stack(list(method(*pair, batch).values())).sum()
            torch.autograd.grad(loss, wanted, allow_unused=True)

        found[str(classes)] = round(measure([step], device, repeats)[0], 4)
    return found


def time_parts(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Each fast part beside the plain way to compute it."""
    torch.manual_seed(0)
    one, two = torch.randn(2, COUNT, 50, device=device)
    features = torch.randn(2, COUNT, WIDTH, device=device)
    own = features[0].clone().requires_grad_()
    methods = [build("fdcmkd", 6, device) for _ in range(2)]
    student, teacher = (draw(device, 6, grad) for grad in (True, False))
    labels = torch.randint(6, (COUNT,), device=device)

    wanted = [student.logits, student.feature, *(p for m in methods for p in m.parameters())]

    def run(loss: Callable[[Method], torch.Tensor]) -> None:
        torch.autograd.grad(torch.stack([loss(method) for method in methods]).sum(), wanted)

    pairs = {
        "fdcmkd, both directions": (
            lambda: run(lambda m: sum(m(student, teacher, Batch(labels)).values())),
            lambda: run(lambda m: plain_fdcmkd(m, student, teacher, labels)),
        ),
        "rkd, angles": (
            lambda: torch.autograd.grad(angle_relation(own, features[1]), own),
            lambda: torch.autograd.grad(plain_angles(own, features[1]), own),
        ),
        "c2kd, Kendall's tau": (
            lambda: kendall_tau(one, two),
            lambda: [
                kendalltau(*(np.asarray(x.cpu()) for x in rows))
                for rows in zip(one, two, strict=True)
            ],
        ),
    }
    found = {}
    for name, forms in pairs.items():
        fast, plain = measure(list(forms), device, repeats)
        found[name] = {"ms": round(fast, 4), "plain_ms": round(plain, 4),
                       "ratio": round(plain / fast, 2)}  # fmt: skip
    return found


def plain_fdcmkd(
    method: Method, student: ModelOutput, teacher: ModelOutput, labels: torch.Tensor
) -> torch.Tensor:
    """FD-CMKD's loss as its formulas read: one head and one band at a time, all by autograd."""

    def split(x: torch.Tensor) -> dict[str, torch.Tensor]:
        spectrum, half = torch.fft.rfft(x), x.shape[1] // 4
        bins = torch.arange(spectrum.shape[1], device=x.device)
        masks = {"low": (bins >= 1) & (bins <= half), "high": bins > half}
        return {name: torch.fft.irfft(spectrum * m, n=x.shape[1]) for name, m in masks.items()}

    def bend(x: torch.Tensor) -> torch.Tensor:
        return x.sign() * torch.log(1 + x.abs())

    mine, theirs = split(student.feature), split(teacher.feature)
    total = functional.cross_entropy(student.logits, labels)
    for band in ("low", "high"):
        for heads, x in (
            (method.task_heads, mine),
            (method.align_heads, mine),
            (method.align_heads, theirs),
        ):
            scores = heads[band](torch.relu(x[band]))
            total = total + functional.cross_entropy(scores, labels)
        pair = [functional.normalize(x[band], dim=1) for x in (mine, theirs)]
        pair = [bend(x) for x in pair] if band == "high" else pair
        total = total + functional.mse_loss(*pair)
    return total


def plain_angles(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """RKD's angles from the (N, N, D) array of differences."""
    sides = []
    for x in (student, teacher):
        unit = functional.normalize(x[None] - x[:, None], dim=2)
        sides.append(torch.bmm(unit, unit.transpose(1, 2)))
    return functional.smooth_l1_loss(*sides)


def measure(steps: list[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """Median milliseconds of each, timed in turn after three rounds that do not count."""
    times: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats + 3):
        for place, step in enumerate(steps):
            wait(device)
            start = time.perf_counter()
            step()
            wait(device)
            if repeat >= 3:
                times[place].append(1000 * (time.perf_counter() - start))
    return [statistics.median(each) for each in times]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()

"""FreqKD's loss at five blocks of a vision transformer, beside its student's step.

    python -m benchmarks.planes [--device auto] [--network vit_l14] [--width 64] [--side 518]
                                [--batch 8] [--layers 7,15,19,21,23] [--rank 64] [--repeats 20]
                                [--quick] [--out benchmarks/planes-<device>.json]

By default ViT-L/14 at 518 pixels: five maps (8, 1024, 37, 37) of either network.

    step    the student's: forward, cross-entropy, backward and AdamW, with adapters of `--rank` and
            the rest frozen, 0 trains everything; in bf16 under autocast where the device is fast
            at it, as a training takes it. The teacher's forward is no part of it.
    loss    the method `freqkd` from the two networks' maps to the gradients by the student's, in
            float32: with the symmetric mask, with the released one, without the split, and
            `plain`, the released formula as it reads, by the whole complex FFT and autograd

Milliseconds, medians of the repeats with the least and the largest, the contestants in alternation
after three that do not count; on CUDA by its events. `share` is of the student's step, `target`
what a GPU is meant to stay under. bytes: what a loss's operations read and write. peak_bytes: what
it takes beside what lies there, on CUDA alone. On a CPU one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.bounds import count_bytes
from benchmarks.measured import place_file, write_measured
from benchmarks.training import round_to, summarise
from fdlab.core.device import choose_device
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.methods.maps import choose_layers
from fdlab.models import MODELS
from fdlab.models.lora import add_adapters
from fdlab.models.output import ModelOutput
from fdlab.models.output import describe as describe_network
from fdlab.training.fast import choose_fast

TARGET = 0.05  # of the student's step, on a GPU
CLASSES = 10
FORMS = {  # options of the method
    "symmetric": {},
    "released": {"mask": "released"},
    "whole": {"frequency": False},
}


def main(arguments: list[str] | None = None) -> None:
    asked = read_arguments(arguments)
    device = choose_device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = measure(asked, device)
    print_rows(rows)
    sizes = {k: v for k, v in vars(asked).items() if k not in ("device", "quick", "out")}
    out = place_file("planes", device, asked.out)
    write_measured(out, device, **sizes, target=TARGET, rows=rows)


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="time FreqKD's loss beside its student's step")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default="vit_l14")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=518, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=read_layers, default=[7, 15, 19, 21, 23])
    parser.add_argument("--rank", type=int, default=64, help="of the adapters; 0 trains everything")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="tiny; its numbers mean nothing")
    parser.add_argument("--out", default="")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.network, asked.width, asked.side, asked.layers = "vit_small", 8, 32, [1, 3, 5]
        asked.batch, asked.rank, asked.repeats = 2, 4, 2
    return asked


def read_layers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(asked: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """A row for the step and for every form of the loss."""
    torch.manual_seed(0)
    shape = (3, asked.side, asked.side)
    student = MODELS[asked.network](shape, CLASSES, asked.width, 0)
    if asked.rank:
        add_adapters(student, asked.rank)
    student, fast = student.to(device).train(), choose_fast(device)
    images = torch.randn(asked.batch, *shape, device=device)
    labels = torch.arange(asked.batch, device=device) % CLASSES
    side = describe_network(student, images[:1])
    sizes = Sizes(side, side, CLASSES)
    with fast.autocast(device), torch.no_grad():
        outputs = [student(x) for x in (images, images.flip(0))]
    mine, theirs = (keep_blocks(x, sizes, asked.layers) for x in outputs)
    leaves = [x.requires_grad_() for x in mine.blocks.values()]

    calls = {"step": Step(student, images, labels, fast.autocast)}
    for name, options in FORMS.items():
        options = options | {"task_weight": 0.0, "layers": asked.layers}
        method = build_method("freqkd", options, sizes).to(device)
        calls[name] = Loss(lambda m=method: sum(m(mine, theirs, Batch(labels)).values()), leaves)
    pairs = list(zip(leaves, theirs.blocks.values(), strict=True))
    calls["plain"] = Loss(lambda: sum(plain_loss(*pair) for pair in pairs), leaves)

    times = time_calls(calls, device, asked.repeats)
    rows = [{"name": name} | summarise(values, "milliseconds") for name, values in times.items()]
    for row in rows[1:]:
        row["share"] = round_to(row["milliseconds"] / rows[0]["milliseconds"])
        row["bytes"] = count_bytes(calls[row["name"]])
        row["peak_bytes"] = find_peak(calls[row["name"]], device)
    return rows


def keep_blocks(output: ModelOutput, sizes: Sizes, layers: list[int]) -> ModelOutput:
    """A pass with the blocks that are compared alone, as the network laid them in memory."""
    names = [name for name, _ in choose_layers(sizes, layers)]
    return ModelOutput(output.logits, output.feature, {}, {n: output.blocks[n] for n in names})


class Step:
    """One step of the student's training. Its loss stands behind the last block, so that the
    gradient walks through all of them, as that of the blocks' maps does."""

    def __init__(
        self,
        student: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        autocast: Callable[[torch.device], Any],
    ):
        self.student, self.images, self.labels, self.autocast = student, images, labels, autocast
        trained = [p for p in student.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=images.is_cuda)

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        with self.autocast(self.images.device):
            logits = self.student(self.images).logits
        functional.cross_entropy(logits.float(), self.labels).backward()
        self.optimiser.step()


class Loss:
    """A loss from the maps on, and its gradients by the student's."""

    def __init__(self, find: Callable[[], torch.Tensor], leaves: list[torch.Tensor]):
        self.find, self.leaves = find, leaves

    def __call__(self) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(self.find(), self.leaves)


def plain_loss(student: torch.Tensor, teacher: torch.Tensor, cutoff: float = 0.5) -> torch.Tensor:
    """FreqKD's loss of one block as its released formula reads."""
    bands = []
    for x in (student.float(), teacher.float()):
        x = functional.normalize(x - x.mean(dim=(2, 3), keepdim=True), dim=1)
        spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(2, 3))
        kept = torch.zeros(x.shape[2:], device=x.device)
        spans = []
        for size in x.shape[2:]:
            reach = max(1, int(size * cutoff / 2))
            spans.append(slice(size // 2 - reach, size // 2 + reach))
        kept[spans[0], spans[1]] = 1
        parts = [torch.fft.ifftshift(spectrum * mask, dim=(2, 3)) for mask in (kept, 1 - kept)]
        bands.append([torch.fft.ifft2(part, norm="ortho").real for part in parts])
    (s_low, s_high), (t_low, t_high) = bands
    high = functional.mse_loss(s_high.abs().log1p(), t_high.abs().log1p())
    return functional.mse_loss(s_low, t_low) + 0.1 * high


def time_calls(
    calls: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of every repeat of each."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 3):
        for name, call in calls.items():
            taken = time_call(call, device)
            if repeat >= 3:
                found[name].append(taken)
    return found


def time_call(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def find_peak(call: Callable[[], object], device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'':10s} {'ms':>9s} {'least':>9s} {'most':>9s} {'of step':>8s} {'target':>7s} {'GB':>8s}"
    )
    for row in rows:
        beside = ""
        if "share" in row:
            beside = f"{row['share']:8.1%} {'< ' + format(TARGET, '.0%'):>7s} "
            beside += f"{row['bytes'] / 1e9:8.3g}"
        print(
            f"{row['name']:10s} {row['milliseconds']:9.4g} {row['low']:9.4g} {row['high']:9.4g} "
            f"{beside}"
        )


if __name__ == "__main__":
    main()

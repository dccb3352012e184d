"""Time what is computed of finished features: similarity, its nulls, and every method's loss.

    python -m benchmarks.analysis [--device cpu] [--samples 744] [--dim 512] [--bands 8]
                                  [--repeats 10] [--out benchmarks/analysis.json]

similarity: each measure of the bands below `--bands` even cut-offs, the mean over channels left
out, from features to values: `sweep`, all bands at once; `pair`, the package's measure of one band
at a time; `plain`, the formula as it reads, on bands by a masked transform. Beside them the split
itself, on the device. nulls and losses: what `benchmarks.nulls` and `benchmarks.losses` print. All
in milliseconds, contestants in alternation, medians of the repeats; `largest_difference` is of a
value from the plain form's. One CPU thread; only the split and the losses use another device.

Writes a list with one entry per device; a run replaces its device's.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from benchmarks.entries import keep_entry
from benchmarks.losses import NAMES, measure, print_losses, time_losses
from benchmarks.nulls import time_nulls
from fdlab.core.device import choose_device, describe_device, versions
from fdlab.data.planted import PlantedOptions, plant
from fdlab.spectral.bands import count_low_bins, count_low_dims, split_bands
from fdlab.spectral.bases import make_basis
from fdlab.spectral.similarity import NEIGHBOURS, Pair
from fdlab.spectral.sweep import Sweep

MEASURES = ("cosine", "cka", "cka_debiased", "neighbours")
ROUNDS = 3  # of the similarity measures, whose plain forms take seconds

Sides = tuple[np.ndarray, np.ndarray]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="time similarity, nulls and losses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=744)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--bands", type=int, default=8, help="cut-offs, evenly spaced")
    parser.add_argument("--shuffles", type=int, default=1000, help="of a null")
    parser.add_argument("--recompute", type=int, default=20, help="shuffles of the plain null")
    parser.add_argument("--repeats", type=int, default=10, help="of a loss")
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    asked = parser.parse_args(arguments)
    device = choose_device(asked.device)
    torch.set_num_threads(1)
    names = [name for name in asked.methods.split(",") if name]
    with threadpool_limits(1):
        similarity = time_similarity(asked.samples, asked.dim, asked.bands)
        split = time_split(asked.samples, asked.dim, asked.bands, device, asked.repeats)
        nulls = time_nulls(asked.samples, asked.dim, asked.shuffles, asked.recompute)
        losses = time_losses(names, device, asked.repeats)
    sizes = {k: v for k, v in vars(asked).items() if k not in ("device", "methods", "out")}
    entry = {
        "device": describe_device(device),
        "versions": versions(),
        "measured": datetime.date.today().isoformat(),
        **sizes,
        "similarity": similarity,
        "split": split,
        "nulls": nulls,
        "losses": losses,
    }
    for title, rows in (("similarity", similarity), ("split", {"bands": split}), ("nulls", nulls)):
        print(title)
        for name, row in rows.items():
            print(f"  {name:14s} " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    print_losses(losses)
    keep_entry(Path(asked.out), entry, ["device"])


def list_cutoffs(bands: int) -> list[float]:
    return [(number + 1) / bands for number in range(bands)]


def time_similarity(samples: int, dim: int, bands: int) -> dict[str, dict[str, float]]:
    """Measure → milliseconds of all bands by each form, plain over sweep, largest difference."""
    one, two, _ = plant(PlantedOptions(events=samples, dim=dim, strength=0.3, mean=0.5))
    sides, cutoffs, found = (one, two), list_cutoffs(bands), {}
    make_basis("dft", dim)  # kept by the package, made once
    for name in MEASURES:
        forms: dict[str, Callable[[], np.ndarray]] = {
            "sweep": lambda name=name: sweep_bands(sides, cutoffs, name),
            "pair": lambda name=name: pair_bands(sides, cutoffs, name),
            "plain": lambda name=name: plain_bands(sides, cutoffs, name),
        }
        times: dict[str, list[float]] = {form: [] for form in forms}
        values = {}
        for _ in range(ROUNDS):
            for form, work in forms.items():
                start = time.perf_counter()
                values[form] = work()
                times[form].append(1000 * (time.perf_counter() - start))
        spent = {form: statistics.median(each) for form, each in times.items()}
        away = max(np.abs(values[form] - values["plain"]).max() for form in ("sweep", "pair"))
        found[name] = {f"{form}_ms": round(each, 2) for form, each in spent.items()} | {
            "ratio": round(spent["plain"] / spent["sweep"], 2),
            "largest_difference": float(away),
        }
    return found


def sweep_bands(sides: Sides, cutoffs: list[float], name: str) -> np.ndarray:
    """(N, D) twice → (E,) values of the bands below the cut-offs, all in one pass."""
    dim = sides[0].shape[1]
    rows = make_basis("dft", dim)[1:]
    stops = np.array([count_low_dims(dim, cutoff) for cutoff in cutoffs])
    return getattr(Sweep(*(side @ rows.T for side in sides), stops), name)


def pair_bands(sides: Sides, cutoffs: list[float], name: str) -> np.ndarray:
    return np.array([
        getattr(Pair(*(split_bands(torch.from_numpy(x), cutoff).low.numpy() for x in sides)), name)
        for cutoff in cutoffs
    ])  # fmt: skip


def plain_bands(sides: Sides, cutoffs: list[float], name: str) -> np.ndarray:
    return np.array([
        PLAIN[name](*(plain_split(x, cutoff)[0] for x in sides)) for cutoff in cutoffs
    ])  # fmt: skip


def plain_split(x: np.ndarray, cutoff: float) -> Sides:
    """Low and high band by two masked transforms."""
    dim = x.shape[1]
    spectrum, edge = np.fft.rfft(x, axis=1), count_low_bins(dim, cutoff)
    bins = np.arange(spectrum.shape[1])
    masks = (bins >= 1) & (bins <= edge), bins > edge
    return tuple(np.fft.irfft(spectrum * mask, n=dim, axis=1) for mask in masks)


def plain_cosine(x: np.ndarray, y: np.ndarray) -> float:
    pairs = zip(x, y, strict=True)
    return float(np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]))


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    """tr(KHLH) / sqrt(tr(KHKH) tr(LHLH)) with K = XXᵀ, L = YYᵀ and H = 1 - 11ᵀ/n."""
    n = len(x)
    centre = np.eye(n) - np.full((n, n), 1 / n)
    k, m = (z @ z.T @ centre for z in (x, y))
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def plain_debiased(x: np.ndarray, y: np.ndarray) -> float:
    """The ratio of Song's estimators (2012, equation 5), on Gram matrices without diagonals."""

    def estimate(x: np.ndarray, y: np.ndarray) -> float:
        n, one = len(x), np.ones(len(x))
        k, m = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        product = k @ m
        total = np.trace(product) + k.sum() * m.sum() / ((n - 1) * (n - 2))
        return total - 2 / (n - 2) * (one @ product @ one)

    return float(estimate(x, y) / np.sqrt(estimate(x, x) * estimate(y, y)))


def plain_neighbours(x: np.ndarray, y: np.ndarray) -> float:
    near = [[set(np.argsort(row)[1 : 1 + NEIGHBOURS]) for row in cdist(z, z)] for z in (x, y)]
    return float(np.mean([len(a & b) / len(a) for a, b in zip(*near, strict=True)]))


PLAIN = dict(
    zip(MEASURES, (plain_cosine, plain_cka, plain_debiased, plain_neighbours), strict=True)
)


def time_split(
    samples: int, dim: int, bands: int, device: torch.device, repeats: int
) -> dict[str, float]:
    """Milliseconds of splitting features at every cut-off, float32, on the device and plainly."""
    x = plant(PlantedOptions(events=samples, dim=dim, mean=0.5))[0].astype(np.float32)
    placed, cutoffs = torch.from_numpy(x).to(device), list_cutoffs(bands)
    values: dict[str, list] = {}

    def fast() -> None:
        values["fast"] = [split_bands(placed, cutoff) for cutoff in cutoffs]

    def plain() -> None:
        values["plain"] = [plain_split(x, cutoff) for cutoff in cutoffs]

    spent = measure([fast, plain], device, repeats)
    away = max(
        np.abs(mine.cpu().numpy() - theirs).max()
        for pair in zip(values["fast"], values["plain"], strict=True)
        for mine, theirs in zip(pair[0][:2], pair[1], strict=True)
    )
    return {
        "split_ms": round(spent[0], 3),
        "plain_ms": round(spent[1], 3),
        "ratio": round(spent[1] / spent[0], 2),
        "largest_difference": float(away),
    }


if __name__ == "__main__":
    main()

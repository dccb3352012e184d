"""Made-up files of the benchmark of training, whose numbers are round."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

STEPS = ("resident", "cache", "channels_last", "fused", "autotune", "bf16", "graphs")
PARTS = {
    "student backward": 0.38,
    "teacher forward": 0.21,
    "student forward": 0.19,
    "optimiser": 0.08,
    "losses": 0.05,
    "augmentation": 0.04,
    "batches": 0.03,
}
SIZES = {
    "digits": ([1, 32, 32], [1, 32, 32], 16),
    "small": ([1, 65, 75], [3, 64, 64], 32),
    "cremad": ([1, 257, 299], [3, 224, 224], 64),
    "vggsound": ([1, 257, 1004], [3, 224, 224], 64),
}


def make_row(name: str, kind: str, rate: float, features: list[str], **other: Any) -> dict:
    return {
        "name": name,
        "kind": kind,
        "features": features,
        "method": "fdcmkd",
        "direction": "both",
        "samples_per_second": rate,
        "low": 0.96 * rate,
        "high": 1.04 * rate,
        "repeats": 5,
        "ratio": None,
        "floor_share": None,
        "peak_bytes": 2_000_000_000,
    } | other


def make_shape(name: str, plain: float, gains: list[float], floor: float) -> dict:
    """gains: over the plain loop, with one step of `STEPS` after the other."""
    audio, image, width = SIZES[name]
    rows = [make_row("plain loop", "plain", plain, [], ratio=1.0)]
    rows.append(make_row("plain loop, one thread", "plain", 0.8 * plain, [], ratio=0.8))
    rows.append(make_row("all off", "ours", 1.1 * plain, [], ratio=1.1))
    for count, gain in enumerate(gains, 1):
        row = make_row(f"+ {STEPS[count - 1]}", "ours", gain * plain, list(STEPS[:count]))
        rows.append(row | {"ratio": gain, "floor_share": gain * plain / floor})
    last, full = f"+ {STEPS[len(gains) - 1]}", list(STEPS[: len(gains)])
    rate = gains[-1] * plain
    rows.append(make_row(f"{last}, no evaluation", "ours", 0.98 * floor, full, floor_share=0.98))
    for method, faster in (("fdcmkd", 1.0), ("none", 1.04)):  # rates of one student
        for direction, times in (("audio2image", 2.0), ("image2audio", 3.0)):
            rows.append(make_row(last, "ours", faster * times * rate, full, method=method,
                                 direction=direction))  # fmt: skip
    rows.append(make_row("floor", "floor", floor, full, ratio=floor / plain))
    rows.append(make_row("two processes' floor", "floor", 1.7 * floor, full))
    for words, factor in (("arithmetic", 6.0), ("memory", 9.0)):
        bound = factor * floor
        rows.append(make_row(words, "bound", bound, [], low=bound, high=bound, repeats=1,
                             peak_bytes=None))  # fmt: skip
    return {
        "inputs": {"audio": audio, "image": image},
        "classes": 6,
        "width": width,
        "batch": 64,
        "samples": 2048,
        "rows": rows,
        "profile": [{"part": part, "share": share} for part, share in PARTS.items()],
        "pack": [],
        "methods": {},
    }


def make_pack(first: float, ratios: dict[int, float]) -> list[dict]:
    return [
        {"size": size, "students_per_hour": first * ratio, "low": 0.97 * first * ratio,
         "high": 1.03 * first * ratio, "ratio": ratio}
        for size, ratio in {1: 1.0, **ratios}.items()
    ]  # fmt: skip


def make_gpu() -> dict:
    """12 times the plain loop and 90 % of the floor; a pack of eight is 3.5 times one."""
    gains = [2.0, 3.0, 6.0, 7.0, 9.0, 11.0, 12.0]
    shapes = {
        "digits": make_shape("digits", 4000, gains, 4000 * 12 / 0.9),
        "cremad": make_shape("cremad", 300, gains, 300 * 12 / 0.9),
        "vggsound": make_shape("vggsound", 90, gains, 90 * 12 / 0.9),
    }
    shapes["digits"]["pack"] = make_pack(60, {2: 1.8, 4: 2.9, 8: 3.5, 16: 3.6})
    shapes["cremad"]["pack"] = make_pack(2, {2: 1.1, 4: 1.2, 8: 1.2})
    shapes["cremad"]["methods"] = {
        "none": {"audio": 3e-4, "image": 6e-4},
        "fdcmkd": {"both": 1e-3},
        "kd": {"image2audio": 4e-4, "audio2image": 8e-4},
    }
    return {
        "device": "NVIDIA H200",
        "kind": "cuda",
        "measured": "2026-11-20",
        "torch": "2.13.0",
        "cores": 16,
        "shapes": shapes,
    }


def make_cpu() -> dict:
    """Two cores, four times the plain loop at digits, and no shape of CREMA-D's."""
    shapes = {
        "digits": make_shape("digits", 250, [1.3, 2.2, 4.0], 1100),
        "small": make_shape("small", 20, [1.3, 2.2, 3.1], 70),
    }
    shapes["digits"]["pack"] = make_pack(9, {2: 1.3, 4: 1.4, 8: 1.4})
    shapes["digits"]["methods"] = {
        "none": {"image": 6e-4, "audio": 3e-4},
        "fdcmkd": {"audio2image": 9e-4},
    }
    return {
        "device": "x86_64 CPU, 1 of 2 cores",
        "kind": "cpu",
        "measured": "2026-11-19",
        "torch": "2.13.0",
        "cores": 2,
        "shapes": shapes,
    }


def plant(home: Path, **devices: dict | str) -> Path:
    """Write `benchmarks/training-<name>.json` of each, a text as it is; returns the folder."""
    folder = home / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in devices.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"training-{name}.json").write_text(text)
    return folder


def alter(value: dict, *place: str | int, to: Any) -> dict:
    """A copy with one entry changed."""
    changed = inner = copy.deepcopy(value)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = to
    return changed

"""What a person with data of their own brings: media in folders, and a manifest that names them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 60, "validation": 20, "test": 30}
BIRDS = ("finch", "house wren", "owl")
COLOURS = ((190, 120, 60), (90, 130, 190), (120, 190, 90))  # a class's picture, on average
TONES = (500.0, 1100.0, 2100.0)  # Hz of a class's call
SAID = (
    ("small and rusty", "it cracks seeds"),
    ("brown with a raised tail", "it hops in a hedge"),
    ("large, with round eyes", "it waits for the night"),
)
SIZE = (36, 28)  # width and height of a picture
SURFACES = ("wall", "floor", "table", "lamp")
GREYS = (60, 110, 160, 220)  # of a surface, on average
DISTANCES = (3500, 1500, 2200, 2600)  # millimetres, of a surface
ROOMS = ("kitchen", "study")


def write_birds(root: Path) -> list[dict[str, str]]:
    """JPEG, WAV and a sentence for each of 110 birds of three classes; the manifest's rows.

    Every modality says the class, and says it under noise: a colour, a tone, a phrase. A quarter of
    the sentences say the phrase of another class.
    """
    import soundfile

    for folder in ("pictures", "calls"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for split, count in SPLITS.items():
        for k in range(count):
            kind, name = k % len(BIRDS), f"{split}{k:02d}"
            noise = rng.normal(0, 40, (SIZE[1], SIZE[0], 3))
            pixels = np.clip(np.array(COLOURS[kind]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "pictures" / f"{name}.jpg", quality=90)
            time = np.arange(3200) / 8000
            call = 0.1 * np.sin(2 * np.pi * TONES[kind] * time + rng.uniform(0, 6))
            call += rng.normal(0, 0.1, len(time))
            soundfile.write(root / "calls" / f"{name}.wav", call, 8000)
            said = SAID[rng.integers(len(BIRDS)) if rng.random() < 0.25 else kind]
            rows.append(
                {
                    "split": split,
                    "label": BIRDS[kind],
                    "image": f"pictures/{name}.jpg",
                    "audio": f"calls/{name}.wav",
                    "text": f"Seen at {k} o'clock: {said[rng.integers(2)]}.",
                    "group": f"{split} garden {k // 10}",
                }
            )
    return write_manifest(root, rows)


def write_rooms(root: Path) -> list[dict[str, str]]:
    """RGB, 16-bit depth and masks of 40 rooms with four classes; the manifest's rows.

    A wall above a floor, on it a table, and a lamp at the wall, each at a place of its own; grey
    value and distance both say the surface. The outermost column has no class.
    """
    root.mkdir()
    rng = np.random.default_rng(1)
    rows = []
    for split, count in {"train": 24, "validation": 6, "test": 10}.items():
        for k in range(count):
            mask = np.zeros((30, 40), np.uint8)
            mask[rng.integers(14, 20) :] = 1
            left = rng.integers(3, 22)
            mask[16:26, left : left + 14] = 2
            left = rng.integers(3, 32)
            mask[3:9, left : left + 6] = 3
            noise = rng.normal(0, 20, (*mask.shape, 3))
            pixels = np.clip(np.array(GREYS)[mask][..., None] + noise, 0, 255).astype(np.uint8)
            depth = np.array(DISTANCES)[mask] + rng.normal(0, 150, mask.shape)
            depth[rng.random(mask.shape) < 0.02] = 0  # no reading
            mask[:, 0] = 255
            files = {"image": pixels, "depth": depth.astype(np.uint16), "mask": mask}
            row = {"split": split, "label": ROOMS[k % 2]}
            for side, values in files.items():
                row[side] = f"{side}_{split}{k}.png"
                Image.fromarray(values).save(root / row[side])
            rows.append(row)
    return write_manifest(root, rows)


def write_manifest(root: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows

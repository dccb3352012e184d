"""Small CrisisMMD and NYU Depth v2 folders in the official layouts, written by real encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "event_name", "tweet_id", "image_id", "tweet_text", "image",
    "label", "label_text", "label_image", "label_text_image",
)  # fmt: skip
# Of tweet 4 there are two images; the first row's text has what tweets have: quotation marks, a
# link, a next-line character and one from beyond the basic plane.
CRISIS = {
    "train": (
        ("1", 0, 'RT @a: "the water" rose\x85 \U0001f4a7 https://t.co/x1', "vehicle_damage"),
        ("2", 0, "the water took the bridge", "infrastructure_and_utility_damage"),
        ("3", 0, "the water is not news", "not_humanitarian"),
        ("4", 0, "storm warning", "other_relevant_information"),
        ("4", 1, "storm warning", "other_relevant_information"),
        ("5", 0, "storm relief, please donate", "rescue_volunteering_or_donation_effort"),
        ("6", 0, "many hurt", "injured_or_dead_people"),
    ),
    "dev": (("7", 0, "a missing child", "missing_or_found_people"),),
    "test": (
        ("8", 0, "families hurt by the storm", "affected_individuals"),
        ("9", 0, "the cat", "not_humanitarian"),
    ),
}


def make_rows(split: str) -> list[dict[str, str]]:
    """Rows of a table as cells by column; text and image agree."""
    return [
        dict(
            zip(
                HEADER,
                (
                    "hurricane_irma", tweet, f"{tweet}_{number}", text,
                    f"data_image/hurricane_irma/6_9_2017/{tweet}_{number}.jpg",
                    label, label, label, "Positive",
                ),
                strict=True,
            )
        )
        for tweet, number, text, label in CRISIS[split]
    ]  # fmt: skip


def write_crisismmd(
    root: Path,
    tables: dict[str, list[dict[str, str]]] | None = None,
    stem: str = "task_humanitarian_text_img_agreed_lab",
    folder: str = "",
) -> Path:
    """Three tables (`make_rows` where `tables` has none) and a JPEG, red | blue, for every row."""
    for split in CRISIS:
        rows = (tables or {}).get(split, make_rows(split))
        columns = list(rows[0]) if rows else list(HEADER)
        lines = ["\t".join(columns), *("\t".join(row.values()) for row in rows)]
        path = root / folder / f"{stem}_{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
        for row in make_rows(split):
            path = root / row["image"]
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, :32, 0], pixels[:, 32:, 2] = 255, 255
            Image.fromarray(pixels).save(path, quality=95, subsampling=0)
    return root


def plant_nyuv2(count: int = 6, width: int = 16, height: int = 12) -> dict[str, np.ndarray]:
    """Arrays as h5py shows them, columns before rows; each pixel's values say where it is."""
    n, x, y = np.ogrid[:count, :width, :height]
    colour = np.arange(3)[:, None, None]
    images = 60 * colour + 3 * x[:, None] + y[:, None] + 0 * n[:, None]
    return {
        "images": images.astype(np.uint8),
        "depths": (1 + n + x / 10 + y / 100).astype(np.float32),
        "rawDepths": np.where((x + y) % 5 == 0, 0, 1 + n + x / 10).astype(np.float32),
        "labels": ((n * 7 + x * height + y) * 5 % 895).astype(np.uint16),
    }


def write_nyuv2(
    root: Path,
    arrays: dict[str, np.ndarray] | None = None,
    types: tuple[str, ...] = ("kitchen", "office", "kitchen", "bedroom", "office", "kitchen"),
    train: tuple[int, ...] = (6, 1, 3),
    test: tuple[int, ...] = (2, 5),
    mapping: np.ndarray | None = None,
    names: tuple[str, ...] | None = None,
) -> Path:
    """The three files. `train` and `test` count from 1; label k has the class (k - 1) % 40 + 1."""
    import h5py
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    names = names or tuple(f"thing {number}" for number in range(1, 895))
    path = root / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, values in (arrays or plant_nyuv2()).items():
            file.create_dataset(key, data=values, compression="gzip", chunks=True)
        places = [f"{kind}_{number:04d}" for number, kind in enumerate(types)]
        for key, texts in (("names", names), ("sceneTypes", types), ("scenes", places)):
            cells = np.empty((1, len(texts)), h5py.ref_dtype)
            for place, text in enumerate(texts):
                units = np.array([[ord(letter)] for letter in text], np.uint16)
                cells[0, place] = file.create_dataset(f"#refs#/{key}{place}", data=units).ref
            file.create_dataset(key, data=cells, dtype=h5py.ref_dtype)
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512, b" "))
    numbers = {key: np.array(part)[:, None] for key, part in
               (("trainNdxs", train), ("testNdxs", test))}  # fmt: skip
    savemat(root / "splits.mat", numbers)
    if mapping is None:
        mapping = np.arange(894) % 40 + 1
    classes = np.array([f"class {number}" for number in range(1, 41)], object)
    content = {
        "mapClass": mapping[None].astype(np.uint8),
        "className": classes[None],
        "allClassName": np.array(names, object)[None],
    }
    savemat(root / "classMapping40.mat", content)
    return root

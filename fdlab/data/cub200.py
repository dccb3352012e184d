"""CUB-200-2011: 11,788 photographs of 200 species of birds (Wah et al. 2011).

The root is, or holds, `CUB_200_2011` as it is unpacked: `images/`, and lists of two words a line:

    images.txt               number, path below images/
    classes.txt              class, name
    image_class_labels.txt   number, class
    train_test_split.txt     number, 1 for training and 0 for test

Boxes, parts and attributes are not read. Classes keep the official order.
"""

from __future__ import annotations

from pathlib import Path

from fdlab.core.errors import UserError
from fdlab.data.listing import Listing
from fdlab.data.photographs import (
    PHOTOGRAPH,
    PhotographOptions,
    Photographs,
    describe_dataset,
    find_folder,
    read_lines,
)

FOLDER = "CUB_200_2011"
IMAGES, NAMES, LABELS, SPLIT = (
    "images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt",
)  # fmt: skip
WHOLE = f"{FOLDER} with images/, {IMAGES}, {NAMES}, {LABELS} and {SPLIT}"
SPLITS = {"1": 0, "0": 2}


def list_events(root: Path, options: PhotographOptions) -> Listing:
    """Photographs in the order of `images.txt`.

    image: (3, side, side) uint8. Raises `UserError` with the line of a list that cannot be read,
    names an unknown class, or speaks of another photograph than `images.txt` does.
    """
    base = find_folder(root, FOLDER)
    names = {number: name for number, (name, _) in _read_pairs(base / NAMES).items()}
    files, labels, splits = (_read_pairs(base / name) for name in (IMAGES, LABELS, SPLIT))
    for path, said in ((base / LABELS, labels), (base / SPLIT, splits)):
        if differing := sorted(files.keys() ^ said.keys()):
            raise UserError(
                f"{path} and {IMAGES} do not both have the image {differing[0]}: expected the same "
                "numbers in both"
            )
    found = Photographs(root, base / "images", list(names))
    for number, (file, _) in files.items():
        split, where = splits[number]
        if split not in SPLITS:
            raise UserError(f"{where}: {split!r}: expected 1 for training or 0 for test")
        label, where = labels[number]
        found.add(file, label, SPLITS[split], where)
    return found.describe(
        "cub200",
        [name.partition(".")[2] or name for name in names.values()],
        options,
        PHOTOGRAPH,
        annotations=f"{LABELS} and {SPLIT}",
        expected={"train": 5994, "test": 5794},
    )


def _read_pairs(path: Path) -> dict[str, tuple[str, str]]:
    """First word → the rest of its line, and where it stands."""
    pairs: dict[str, tuple[str, str]] = {}
    for line in read_lines(path, WHOLE):
        key, value = line.split(2, "a number and what belongs to it")
        if key in pairs:
            raise UserError(f"{line.where}: {key} stands in {pairs[key][1]} too: expected it once")
        pairs[key] = value, line.where
    return pairs


CUB200 = describe_dataset(
    "cub200", "photographs of 200 species of birds; read from your copy", 200, list_events
)

"""Stanford Dogs: 20,580 photographs of 120 breeds, of ImageNet's (Khosla et al. 2011).

The root holds `Images/<number>-<breed>/*.jpg`, and the official lists, in `lists/` or beside it:

    train_list.mat, test_list.mat   file_list, paths below Images/; labels, counted from 1

Boxes (Annotation) are not read. A class is its official label.
"""

from __future__ import annotations

from pathlib import Path

from fdlab.core.errors import UserError
from fdlab.data.listing import Listing
from fdlab.data.matlab import load_mat
from fdlab.data.photographs import (
    PHOTOGRAPH,
    PhotographOptions,
    Photographs,
    describe_dataset,
    find_folder,
    list_classes,
)

LISTS = {"train_list.mat": 0, "test_list.mat": 2}
WHOLE = f"Images/ with a folder for each breed, and {' and '.join(LISTS)} in lists/"


def list_events(root: Path, options: PhotographOptions) -> Listing:
    """Photographs in the lists' order, those for training first.

    image: (3, side, side) uint8. Raises `UserError` for a list that is missing or of another
    layout, names a breed without a folder, or gives a breed two labels or a label two breeds.
    """
    base = find_folder(root, "lists")
    known = list_classes(root / "Images", WHOLE)
    rows = [
        (file, label, split, f"{base / name}, entry {number}")
        for name, split in LISTS.items()
        for number, (file, label) in enumerate(_read_list(base / name), start=1)
    ]
    folders: dict[int, str] = {}
    labels: dict[str, int] = {}
    for file, label, _, where in rows:
        folder = file.partition("/")[0]
        if folders.setdefault(label, folder) != folder or labels.setdefault(folder, label) != label:
            raise UserError(
                f"{where}: {file} has label {label}: expected one label for each folder"
            )
    if sorted(folders) != list(range(1, len(folders) + 1)):
        raise UserError(
            f"{base}: the lists have labels {min(folders)} to {max(folders)}, {len(folders)} "
            f"different ones: expected all from 1 to {len(folders)}"
        )
    classes = [folders[label] for label in sorted(folders)]
    found = Photographs(root, root / "Images", [name for name in classes if name in known])
    for file, _, split, where in rows:
        found.add(file, file.partition("/")[0], split, where)
    return found.describe(
        "stanford_dogs",
        [name.partition("-")[2] or name for name in classes],
        options,
        PHOTOGRAPH,
        annotations=" and ".join(LISTS),
        expected={"train": 12_000, "test": 8580},
    )


def _read_list(path: Path) -> list[tuple[str, int]]:
    """Paths and labels, in order."""
    content = load_mat(path, ("file_list", "labels"), WHOLE)
    try:
        files = ["".join(cell.ravel().tolist()) for cell in content["file_list"].ravel()]
        labels = [int(label) for label in content["labels"].ravel()]
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {error}: expected file_list with paths, and labels with whole numbers"
        ) from None
    if len(files) != len(labels) or not files:
        raise UserError(
            f"{path} has {len(files)} files and {len(labels)} labels: expected a label for each"
        )
    return list(zip(files, labels, strict=True))


STANFORD_DOGS = describe_dataset(
    "stanford_dogs",
    "photographs of 120 breeds of dogs; read from your copy",
    120,
    list_events,
    "dogs",
)

"""TinyImageNet: 110,000 photographs of 64 × 64 pixels in 200 classes, of ImageNet's.

The root is, or holds, `tiny-imagenet-200` as it is unpacked:

    wnids.txt                        the classes' numbers in WordNet, a line each
    words.txt                        number, tab, names with commas between them
    train/<number>/images/*.JPEG     500 of each class
    val/val_annotations.txt          file, class and a box, a line for each of 10,000
    val/images/*.JPEG

Its own test part has no labels and is not read; what it calls validation is the test split here,
as in every published table, and the validation split is cut from training. Classes follow their
numbers' alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fdlab.core.errors import UserError
from fdlab.data.cifar import DIRECTIONS, PAIRS, PRESETS, RECIPES, SMALL
from fdlab.data.dataset import Dataset
from fdlab.data.listing import Listing, Source
from fdlab.data.photographs import (
    PhotographOptions,
    Photographs,
    decode,
    find_folder,
    list_classes,
    read_lines,
    tell_apart,
)

FOLDER = "tiny-imagenet-200"
WHOLE = f"{FOLDER} with wnids.txt, words.txt, train/ and val/"


@dataclass(frozen=True)
class TinyImageNetOptions(PhotographOptions):
    """As of every set of photographs, stored at their own size."""

    side: int = 64


def list_events(root: Path, options: TinyImageNetOptions) -> Listing:
    """Photographs by class and file name, then those of `val_annotations.txt` in its order.

    image: (3, side, side) uint8. Raises `UserError` with the line of a list that names an unknown
    class or a file twice, and for a class without a folder.
    """
    base = find_folder(root, FOLDER)
    wnids = sorted({line.text for line in read_lines(base / "wnids.txt", WHOLE)})
    words = dict(
        line.split(2, "a class's number and its names")
        for line in read_lines(base / "words.txt", WHOLE)
    )
    if unnamed := [wnid for wnid in wnids if wnid not in words]:
        raise UserError(f"{base / 'words.txt'} has no name for {unnamed[0]}: expected one for each")
    found = Photographs(root, base, wnids)
    trained = base / "train"
    for wnid in list_classes(trained, WHOLE):
        folder = trained / wnid / "images"
        files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for file in files:
            if file.endswith(".JPEG"):
                found.add(f"train/{wnid}/images/{file}", wnid, 0, str(trained))
    for line in read_lines(base / "val" / "val_annotations.txt", WHOLE):
        file, wnid, _ = line.split(3, "a file, its class and a box")
        found.add(f"val/images/{file}", wnid, 2, line.where)
    first = [words[wnid].split(",")[0] for wnid in wnids]
    return found.describe(
        "tinyimagenet",
        tell_apart(first, wnids),
        options,
        SMALL,
        annotations="wnids.txt and val_annotations.txt",
        expected={"train": 100_000, "test": 10_000},
        notes=["the test split is the official validation part, for the test part has no labels"],
        info={"wnids": wnids},
    )


TINYIMAGENET = Dataset(
    name="tinyimagenet",
    summary="small photographs of 200 kinds of things; read from your copy",
    classes=200,
    modalities=SMALL,
    options=TinyImageNetOptions,
    directions=DIRECTIONS,
    source=Source(list_events, decode, chunk=256),
    recipes=RECIPES,
    presets=PRESETS,
    reports="tinyimagenet",
    pairs=PAIRS,
)

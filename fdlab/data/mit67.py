"""MIT Indoor 67: photographs of 67 kinds of rooms (Quattoni and Torralba 2009).

The root holds `Images/<class>/*.jpg`, and the official lists TrainImages.txt and TestImages.txt
with a path below Images/ in each line: 80 and 20 photographs of every class or about that many.
The other photographs of Images/ are in neither list and are not read. Classes follow the alphabet.
"""

from __future__ import annotations

from pathlib import Path

from fdlab.data.listing import Listing
from fdlab.data.photographs import (
    PHOTOGRAPH,
    PhotographOptions,
    Photographs,
    describe_dataset,
    list_classes,
    read_lines,
)

LISTS = {"TrainImages.txt": 0, "TestImages.txt": 2}
WHOLE = f"Images/ with a folder for each class, and {' and '.join(LISTS)}"


def list_events(root: Path, options: PhotographOptions) -> Listing:
    """Photographs in the lists' order, those for training first.

    image: (3, side, side) uint8. The classes are the folders of Images/. Raises `UserError` with
    the line of a list that names a class without a folder, or a photograph a second time.
    """
    classes = list_classes(root / "Images", WHOLE)
    found = Photographs(root, root / "Images", classes)
    for name, split in LISTS.items():
        for line in read_lines(root / name, WHOLE):
            found.add(line.text, line.text.partition("/")[0], split, line.where)
    return found.describe(
        "mit67",
        classes,
        options,
        PHOTOGRAPH,
        annotations=" and ".join(LISTS),
        expected={"train": 5360, "test": 1340},
    )


MIT67 = describe_dataset(
    "mit67", "photographs of 67 kinds of rooms; read from your copy", 67, list_events
)

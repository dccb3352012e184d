"""Stanford 40 Actions: 9,532 photographs of people in 40 actions (Yao et al. 2011).

The root holds `JPEGImages/<action>_<number>.jpg` and `ImageSplits/`:

    actions.txt                     a header, then an action and its number of photographs a line
    train.txt, test.txt             file names, a line each
    <action>_train.txt, …_test.txt  the same for one action, read where a list of all is not there

The action is the file name without its number; boxes (XMLAnnotations) are not read. Classes keep
the order of actions.txt, the alphabet's.
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
    read_lines,
)

LISTS = {"train": 0, "test": 2}
WHOLE = "JPEGImages/, and ImageSplits/ with actions.txt, train.txt and test.txt"


def list_events(root: Path, options: PhotographOptions) -> Listing:
    """Photographs in the lists' order, those for training first.

    image: (3, side, side) uint8. Raises `UserError` with the line of a list that names an unknown
    action, or a photograph a second time.
    """
    lists = root / "ImageSplits"
    _, *rows = read_lines(lists / "actions.txt", WHOLE)
    classes = [row.text.split()[0] for row in rows]
    if not classes:
        raise UserError(f"{lists / 'actions.txt'} names no action: expected one a line")
    found = Photographs(root, root / "JPEGImages", classes)
    for part, split in LISTS.items():
        each = [lists / f"{action}_{part}.txt" for action in classes]
        joint = lists / f"{part}.txt"
        for path in [joint] if joint.is_file() or not each[0].is_file() else each:
            for line in read_lines(path, WHOLE):
                found.add(line.text, line.text.rpartition("_")[0], split, line.where)
    return found.describe(
        "stanford40",
        classes,
        options,
        PHOTOGRAPH,
        annotations="ImageSplits",
        expected={"train": 4000, "test": 5532},
    )


STANFORD40 = describe_dataset(
    "stanford40", "photographs of people in 40 actions; read from your copy", 40, list_events
)

"""MFNet: 1,569 streets in colour and thermal photographs, a class per pixel (Ha et al., IROS 2017).

The root is, or holds, `ir_seg_dataset` as it is unpacked:

    images/00001D.png              red, green, blue and thermal: four channels, 640 x 480
    labels/00001D.png              a class for every pixel, 0 to 8
    train.txt, val.txt, test.txt   names, one a line

Names end in D by day and N by night. The authors' training list also names mirrored copies,
`00001D_flip`, which a script of theirs makes beforehand; they are left out, for the views of
training are mirrored at random.

All nine classes count, class 0 being what is not labelled: most pixels of every image, and part of
the mean in what is published. No pixel is ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data import media
from fdlab.data.dataset import SPLITS, Dataset, Modality
from fdlab.data.listing import BadMedium, Event, Listing, Source
from fdlab.data.photographs import find_folder, read_lines
from fdlab.data.thermal import DIRECTIONS, SIDES, PairOptions, make_recipes

FOLDER = "ir_seg_dataset"
LISTS = ("train.txt", "val.txt", "test.txt")
WHOLE = f"{FOLDER} with images/, labels/, {', '.join(LISTS)}"
CLASSES = [
    "unlabeled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump",
]  # fmt: skip
SCENES = ("day", "night")
NAME = re.compile(r"(\d{5}[DN])(_flip)?")
MODALITIES = {side: Modality("deeplabv3plus", augment="scene") for side in SIDES}


@dataclass(frozen=True)
class MfnetOptions(PairOptions):
    """How MFNet is stored; masks keep the nearest pixel."""

    height: int = 336
    width: int = 448


def list_events(root: Path, options: MfnetOptions) -> Listing:
    """The images of the three lists, in their order, without mirrored copies.

    rgb: (3, height, width) uint8. thermal: (1, height, width) uint8. mask: (height, width) uint8.
    The label is day or night. Raises `UserError` with the line of a list that cannot be read or
    names an image twice.
    """
    base = find_folder(root, FOLDER)
    folder = Path(base.relative_to(root).as_posix())
    events: dict[str, Event] = {}
    mirrored = 0
    for split, file in enumerate(LISTS):
        for line in read_lines(base / file, WHOLE):
            found = NAME.fullmatch(line.text)
            if not found:
                raise UserError(f"{line.where}: {line.text!r}: expected a name such as 00001D")
            name, flip = found.groups()
            if flip:
                mirrored += 1
                continue
            if name in events:
                raise UserError(
                    f"{line.where}: {name} is listed a second time, in "
                    f"{LISTS[events[name].split]} too: expected it once"
                )
            files = tuple(
                (folder / kind / f"{name}.png").as_posix() for kind in ("images", "labels")
            )
            scene = SCENES.index("night" if name.endswith("N") else "day")
            events[name] = Event(name, scene, split, files)
    notes = [f"{mirrored} mirrored copies of the lists are left out"] if mirrored else []
    return Listing(
        events=list(events.values()),
        arrays={
            "rgb": ((3, *options.shape), "uint8"),
            "thermal": ((1, *options.shape), "uint8"),
            "mask": (options.shape, "uint8"),
        },
        modalities=MODALITIES,
        classes=CLASSES,
        directions=DIRECTIONS,
        task="segmentation",
        scenes=SCENES,
        annotations=", ".join(LISTS),
        expected=dict(zip(SPLITS, (784, 392, 393), strict=True)),
        counted="the lists as published",
        weights=options.weights,
        notes=notes,
        info={
            "note": "Streets from a car, by day and by night. Class 0 is what is not labelled, and "
            "counts as a class; no pixel is ignored.",
        },
    )


def decode(root: Path, event: Event, options: MfnetOptions) -> dict[str, np.ndarray]:
    """rgb, thermal and mask of one image, as `list_events` says."""
    file, labels = event.files
    with media.naming_from(root):
        image = media.load_picture(root / file)
        mask = media.load_picture(root / labels)
    if image.mode != "RGBA":
        raise BadMedium(file, f"has mode {image.mode}: expected four channels, RGB and thermal")
    if mask.mode not in ("L", "P"):
        raise BadMedium(labels, f"has mode {mask.mode}: expected one class number a pixel")
    if mask.size != image.size:
        raise BadMedium(
            labels,
            f"is of {mask.width} x {mask.height} pixels and its image of {image.width} x "
            f"{image.height}: expected one size",
        )
    numbers = np.asarray(mask)
    if numbers.max() >= len(CLASSES):
        raise BadMedium(labels, f"holds class {numbers.max()}: expected 0 to {len(CLASSES) - 1}")
    pixels = np.asarray(image).transpose(2, 0, 1)
    rows, columns = map(media.find_nearest, numbers.shape, options.shape)
    return {  # the channels apart: pillow takes the fourth for a measure of the other three
        "rgb": media.resize(pixels[:3], *options.shape),
        "thermal": media.resize(pixels[3:], *options.shape),
        "mask": numbers[rows[:, None], columns],
    }


MFNET = Dataset(
    name="mfnet",
    summary="MFNet: streets in colour and thermal, masks of nine classes; read from your copy",
    classes=len(CLASSES),
    modalities=MODALITIES,
    options=MfnetOptions,
    directions=DIRECTIONS,
    source=Source(list_events, decode),
    task="segmentation",
    scenes=SCENES,
    recipes=make_recipes(MfnetOptions.height),
)

"""NYU Depth v2: 1,449 indoor photographs with depth and a class for every pixel (Silberman 2012).

The root holds three files:

    nyu_depth_v2_labeled.mat   MATLAB v7.3, which is HDF5: images, depths, labels, scenes
    splits.mat                 trainNdxs (795) and testNdxs (654), counted from 1
    classMapping40.mat         mapClass: 894 names to 40 classes (Gupta et al. 2013)

MATLAB stores columns first, so that HDF5 shows an image as (3, W, H) and a depth as (W, H); here
they are (3, H, W) and (1, H, W). Label 0, not labelled, becomes `IGNORED` in a mask and classes 1
to 40 become 0 to 39.

Raw depth is as the sensor gave it, 0 where it has no reading; the other is filled in by the data
set's authors. The three-channel form stands in for HHA, which needs the direction of gravity;
what it holds is our choice (`describe_depth`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from fdlab.core.errors import UserError, name_unknown
from fdlab.data import media
from fdlab.data.dataset import IGNORED, SPLITS, Dataset, Modality
from fdlab.data.listing import BadMedium, Event, Listing, Source
from fdlab.data.matlab import load_mat

DATA, SPLIT, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
WHOLE = f"{DATA}, {SPLIT} and {MAPPING} in the root"
NAMES, CLASSES = 894, 40
CHANNELS = {"metres": ("metres",), "three": ("metres", "1/metres", "slope in radians")}
# The colour camera, onto which the depth is projected: toolbox of the data set, for 640 x 480.
CAMERA = {"size": (640, 480), "focal": (518.857901, 519.469611), "centre": (325.582449, 253.736166)}


@dataclass(frozen=True)
class NYUv2Options:
    """What is read of NYU Depth v2.

    depth: "metres" (1 channel) or "three" (see `describe_depth`). raw: the sensor's depth with 0
    for no reading, instead of the filled one. height, width: of everything stored, pixels; images
    are averaged over areas, or interpolated where they grow, and of depths and masks the nearest
    pixel is taken. rgb_weights, depth_weights: pretrained weights that the networks start from,
    "" for none.
    """

    depth: str = "metres"
    raw: bool = False
    height: int = 240
    width: int = 320
    rgb_weights: str = ""
    depth_weights: str = ""

    def __post_init__(self):
        if self.depth not in CHANNELS:
            raise name_unknown("nyuv2 depth", self.depth, CHANNELS)
        for name in ("height", "width"):
            if not 2 <= getattr(self, name) <= 4096:
                raise UserError(f"{name} is {getattr(self, name)}: expected 2 to 4096 pixels")


def list_events(root: Path, options: NYUv2Options) -> Listing:
    """Images of both parts of `splits.mat` by ascending number; there is no validation part.

    rgb: (3, height, width) uint8. depth: (1 or 3, height, width) float32. mask: (height, width)
    uint8. The label is the type of scene. An image's id is its number, counted from 1. Raises
    `UserError` for a file that is missing, damaged or of another layout, and for image numbers
    that are out of range or stand twice.
    """
    classes, mapped = _read_mapping(root / MAPPING)
    with _open_whole(root / DATA) as file:
        count = _check_layout(file, root / DATA, options)
        names, types, places = (
            _read_strings(file, key, root / DATA, expected)
            for key, expected in (("names", NAMES), ("sceneTypes", count), ("scenes", count))
        )
    split = _read_split(root / SPLIT, count)
    scenes = sorted({types[index] for index in split})
    shape = (options.height, options.width)
    return Listing(
        events=[
            Event(
                id=f"{index + 1:04d}",
                label=scenes.index(types[index]),
                split=split[index],
                files=(DATA,),
                facts={"index": index},
            )
            for index in sorted(split)
        ],
        arrays={
            "depth": ((len(CHANNELS[options.depth]), *shape), "float32"),
            "rgb": ((3, *shape), "uint8"),
            "mask": (shape, "uint8"),
        },
        modalities=NYUV2.modalities,
        classes=classes,
        directions=NYUV2.directions,
        task="segmentation",
        scenes=tuple(scenes),
        ids={"place": [places[index] for index in sorted(split)]},
        annotations=SPLIT,
        expected={"train": 795, "test": 654},
        weights={
            name: weights
            for name, weights in (("rgb", options.rgb_weights), ("depth", options.depth_weights))
            if weights
        },
        notes=list(_find_oddities(split, count, places, names, mapped)),
        info={
            "depth": "as measured, 0 where there is no reading" if options.raw else "filled in",
            "depth_channels": list(CHANNELS[options.depth]),
            "camera": {key: list(value) for key, value in CAMERA.items()},
            "ignored": IGNORED,
        },
    )


def decode(root: Path, event: Event, options: NYUv2Options) -> dict[str, np.ndarray]:
    """depth, rgb and mask of one image, as `list_events` says."""
    index = event.facts["index"]
    try:
        file, table = _open_once(root)
        image = file["images"][index].transpose(0, 2, 1)
        depth = file[_name_depth(options)][index].T
        labels = file["labels"][index].T
    except (OSError, KeyError, UserError) as error:  # changed or damaged since it was listed
        raise BadMedium(DATA, f"image {index + 1}: {error}") from None
    if labels.max() > NAMES:
        raise BadMedium(DATA, f"image {index + 1}: label {labels.max()}: expected 0 to {NAMES}")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise BadMedium(DATA, f"image {index + 1}: a depth below 0 or not finite")
    rows = media.find_nearest(labels.shape[0], options.height)
    columns = media.find_nearest(labels.shape[1], options.width)
    nearest = depth[rows[:, None], columns].astype(np.float32)
    channels = nearest[None]
    if options.depth == "three":
        channels = describe_depth(nearest, rows, columns, labels.shape)
    return {
        "depth": channels,
        "rgb": media.resize(image, options.height, options.width),
        "mask": table[labels[rows[:, None], columns]],
    }


def describe_depth(
    depth: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Depth in metres (h, w) → (3, h, w) float32: metres, 1/metres, slope.

    `rows` and `columns` are the pixels of the whole image, of `shape` (H, W), that `depth` was
    taken from. The slope is the angle in radians, 0 to π/2, between the surface and the image
    plane: 0 for a wall seen straight on. It follows from the points that the camera's focal length
    and centre give, by differences to the neighbours. Where a pixel has no reading (0), all three
    are 0, and so is the slope where a neighbour has none.
    """
    scale = [size / full for size, full in zip(shape[::-1], CAMERA["size"], strict=True)]
    focal, centre = (np.multiply(CAMERA[name], scale) for name in ("focal", "centre"))
    metres = depth.astype(np.float64)
    points = np.stack(
        [
            (columns[None, :] - centre[0]) / focal[0] * metres,
            (rows[:, None] - centre[1]) / focal[1] * metres,
            metres,
        ]
    )
    normal = np.cross(np.gradient(points, axis=2), np.gradient(points, axis=1), axis=0)
    slope = np.arctan2(np.hypot(normal[0], normal[1]), np.abs(normal[2]))
    known = metres > 0
    slope[~ndimage.binary_erosion(known, border_value=1)] = 0
    inverse = np.divide(1, metres, where=known, out=np.zeros_like(metres))
    return np.stack([metres, inverse, slope]).astype(np.float32)


def _name_depth(options: NYUv2Options) -> str:
    return "rawDepths" if options.raw else "depths"


def _import_h5py():
    try:
        import h5py
    except ImportError:
        raise UserError(
            'nyuv2 needs the package h5py: expected after pip install "fdlab[media]"'
        ) from None
    return h5py


def _open_whole(path: Path) -> Any:
    """An open HDF5 file, or a `UserError` for one that is missing, cut short or something else."""
    h5py = _import_h5py()
    if not path.is_file():
        raise UserError(f"{path} is missing: expected {WHOLE}")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is not HDF5: expected a MATLAB v7.3 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is damaged or cut short ({error}): expected the whole") from None


def _open_once(root: Path) -> tuple[Any, np.ndarray]:
    """The open data file and the table of classes (895,), kept from one image to the next."""
    path = root / DATA
    stamp = path.stat()
    return _keep_open(root, (stamp.st_mtime_ns, stamp.st_size))


@lru_cache(maxsize=1)
def _keep_open(root: Path, _stamp: tuple[int, int]) -> tuple[Any, np.ndarray]:
    table = np.full(NAMES + 1, IGNORED, np.uint8)
    table[1:] = _load_mapping(root / MAPPING)["mapClass"].ravel() - 1
    return _open_whole(root / DATA), table


def _check_layout(file: Any, path: Path, options: NYUv2Options) -> int:
    """Check keys and shapes; return the number of images."""
    depth = _name_depth(options)
    needed = ("images", depth, "labels", "names", "sceneTypes", "scenes")
    if missing := [key for key in needed if key not in file]:
        found = ", ".join(sorted(key for key in file if not key.startswith("#"))) or "nothing"
        raise UserError(f"{path} has no {', '.join(missing)}: expected it; it holds {found}")
    for key in needed:
        own = file[key]
        if own.file.filename != file.filename or getattr(own, "is_virtual", False):
            raise UserError(f"{path}: {key} is a link to another file: expected it in this one")
        if getattr(own, "external", None):
            raise UserError(f"{path}: {key} lies in another file: expected it in this one")
    shape = file["images"].shape
    if len(shape) != 4 or shape[1] != 3:
        raise UserError(f"{path}: images is {shape}: expected (N, 3, W, H)")
    expected = (shape[0], *shape[2:])
    for key in (depth, "labels"):
        if file[key].shape != expected:
            raise UserError(f"{path}: {key} is {file[key].shape}: expected {expected} as images")
    return shape[0]


def _read_strings(file: Any, key: str, path: Path, expected: int) -> list[str]:
    """A MATLAB cell array of strings: references to arrays of 16-bit characters."""
    references = file[key][()].ravel()
    if len(references) != expected:
        raise UserError(f"{path}: {key} has {len(references)} entries: expected {expected}")
    try:
        values = [file[reference] for reference in references]
        # MATLAB stores an empty string as its shape, with a mark.
        return [
            ""
            if value.attrs.get("MATLAB_empty", 0)
            else value[()].astype("<u2").tobytes().decode("utf-16-le")
            for value in values
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {key} ({error}): expected references to strings") from None


def _load_mapping(path: Path) -> dict[str, np.ndarray]:
    content = load_mat(path, ("mapClass", "className"), WHOLE)
    mapped = content["mapClass"]
    if mapped.size != NAMES:
        raise UserError(f"{path}: mapClass has {mapped.size} entries: expected {NAMES}")
    if mapped.min() < 1 or mapped.max() > CLASSES:
        raise UserError(
            f"{path}: mapClass holds {mapped.min()} to {mapped.max()}: expected 1 to {CLASSES}"
        )
    if content["className"].size != CLASSES:
        raise UserError(
            f"{path}: className has {content['className'].size} entries: expected {CLASSES}"
        )
    return content


def _read_mapping(path: Path) -> tuple[list[str], list[str]]:
    """Names of the 40 classes, and of the 894 labels where the file has them."""
    content = _load_mapping(path)
    return tuple(
        ["".join(np.ravel(cell).tolist()) for cell in content[key].ravel()]
        if key in content
        else []
        for key in ("className", "allClassName")
    )


def _read_split(path: Path, count: int) -> dict[int, int]:
    """Image, counted from 0 → index into `SPLITS`."""
    content = load_mat(path, ("trainNdxs", "testNdxs"), WHOLE)
    split: dict[int, int] = {}
    for key, part in (("trainNdxs", "train"), ("testNdxs", "test")):
        numbers = content[key].ravel().tolist()
        if not numbers:
            raise UserError(f"{path}: {key} is empty: expected the numbers of its images")
        for number in numbers:
            if number != int(number) or not 1 <= number <= count:
                raise UserError(f"{path}: {key} holds {number}: expected 1 to {count}")
            index = int(number) - 1
            if index in split:
                both = "both splits" if SPLITS[split[index]] != part else f"{key} twice"
                raise UserError(f"{path}: image {number} is in {both}: expected it once")
            split[index] = SPLITS.index(part)
    return split


def _find_oddities(
    split: dict[int, int], count: int, places: list[str], names: list[str], mapped: list[str]
) -> Iterator[str]:
    if left_out := count - len(split):
        yield f"{left_out} of {count} images are in neither split and are left out"
    found: dict[str, set[int]] = {}
    for index, part in split.items():
        found.setdefault(places[index], set()).add(part)
    if shared := sorted(place for place, parts in found.items() if len(parts) > 1):
        yield f"{len(shared)} places with images in both splits, such as {shared[0]}"
    differing = [pair for pair in zip(names, mapped, strict=False) if pair[0] != pair[1]]
    if differing:
        one, other = differing[0]
        yield (
            f"{len(differing)} names that {DATA} and {MAPPING} give differently, "
            f"such as {one!r} and {other!r}"
        )


NYUV2 = Dataset(
    name="nyuv2",
    summary="indoor photographs, depth and masks of 40 classes; read from your copy",
    classes=CLASSES,
    modalities={
        "depth": Modality("deeplabv3plus", augment="scene"),
        "rgb": Modality("deeplabv3plus", augment="scene_hsv"),
    },
    options=NYUv2Options,
    directions=("depth2rgb", "rgb2depth"),
    source=Source(list_events, decode),
    reports="nyuv2",
    task="segmentation",
    recipes={
        "smoke": {"": {"batch_size": 16, "side": 32}},
        "paper": {"": {"learning_rate": 0.02, "batch_size": 16, "epochs": 50}},
        "reduced": {"": {"batch_size": 16, "side": 128}},
        "quick": {"": {"batch_size": 16, "side": 64}},
    },
)

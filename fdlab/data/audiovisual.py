"""What the data sets of sound and picture have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fdlab.core.errors import UserError
from fdlab.core.files import stays_inside
from fdlab.data.dataset import Modality

RATE = 16000  # Hz
DIRECTIONS = ("audio2visual", "visual2audio")
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {"": {"side": 32}},
    "paper": {"": {"side": 224}},
    "reduced": {"": {"side": 112}},
    "quick": {"": {"side": 64}},
}


def make_modalities(frames: int) -> dict[str, Modality]:
    """The paper's two networks; frames: how many of an event's the visual one sees."""
    return {
        "audio": Modality("resnet18"),
        "visual": Modality("resnet18", augment="crop_flip", frames=frames),
    }


def describe_arrays(
    columns: int, frames: int, side: int, counted: bool
) -> dict[str, tuple[tuple[int, ...], str]]:
    """A spectrogram (1, 257, columns) and frames (frames, 3, side, side), as `Listing.arrays` has
    them; counted: some events have fewer frames."""
    arrays = {
        "audio": ((1, 257, columns), "float16"),
        "visual": ((frames, 3, side, side), "uint8"),
    }
    return arrays | ({"visual_frames": ((), "int16")} if counted else {})


def require(name: str, value: int, least: int, most: int | None = None) -> None:
    """Refuse an option outside its range."""
    if value < least or (most is not None and value > most):
        expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"{name} is {value}: expected {expected}")


def require_side(side: int) -> None:
    """Refuse a side of stored frames, in pixels, that is none."""
    require("side", side, 8, 4096)


def require_stem(video: str, where: str) -> None:
    """Refuse a video's id that cannot be the name of a file in one folder."""
    if not stays_inside(video) or set(video) & set("/\\"):
        raise UserError(f"{where}: {video!r} is no video's id: expected the stem of a file's name")


def find_file(root: Path, text: str) -> Path:
    """A file that an option names: relative to the data set's folder, else to the working
    directory."""
    path = Path(text).expanduser()
    for candidate in (root / path, path):
        if candidate.is_file():
            return candidate
    raise UserError(f"{text}: no such file in {root} or in the working directory")


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark; line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8: expected a text file in UTF-8") from None

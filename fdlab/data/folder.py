"""Anybody's own pairs: a manifest, CSV or Parquet, with one event a row.

Columns: `split` (train, validation or val, test); `label` (a class, a word or a whole number), or
`mask` (a PNG with a class for every pixel, 255 for none), or both, where the label is then the kind
of scene; at least two of `image`, `audio`, `text`, `depth`; and, as one likes, `id` and `group`
(who or what several events have in common). `text` is the text itself, the others are paths
relative to the manifest's folder, from which no path leads out. Rows keep the manifest's order.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.config import Direction
from fdlab.core.errors import UserError
from fdlab.core.files import find_inside, stays_inside
from fdlab.data.dataset import IGNORED, PICTURES, SPLITS, Dataset, Modality
from fdlab.data.ingest import cut_validation
from fdlab.data.listing import BadMedium, Event, Listing, Source
from fdlab.data.sentences import PAD, UNKNOWN

SIDES = ("image", "audio", "text", "depth")
DENSE = ("image", "depth")  # those with a value for every pixel of a mask
DENSE_NETWORK = "deeplabv3plus"  # the one that scores pixels
PATHS = ("image", "audio", "depth", "mask")
KNOWN = ("split", "label", "mask", *SIDES, "id", "group")
SPLIT_WORDS = dict(zip(SPLITS, range(3), strict=True)) | {"val": 1}
MANIFESTS = ("manifest.csv", "manifest.parquet")
WINDOW = 512  # samples of one spectrum, in `fdlab.data.media`
LISTED = 5  # of a long list, in a note
SLACK = 0.02  # of a mask's proportions, which cameras and rounding change a little
_TOKEN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_NUMBER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class FolderOptions:
    """How a manifest's media are stored, and what is trained on them.

    side: of images, depth maps and masks, in pixels. seconds, rate: length and samples a second of
    what becomes a spectrogram. words: tokens of a text; what is longer is cut. vocabulary: tokens
    that are told apart, the most frequent ones of the training split.
    classes: how many a mask may hold, 0 where `names` says so. names: of the classes, in order; of
    labels they are the labels themselves, and empty means those that occur, sorted.
    `<modality>_network`: in the table of networks; "" is resnet18, textcnn for texts, and
    deeplabv3plus where there are masks. `<modality>_weights`: a file of pretrained weights that its
    networks start from. augment: random crops and flips of images and depth.
    directions: teacher to student, such as "audio2image,image2audio"; "" means every pair.
    """

    side: int = 64
    seconds: float = 3.0
    rate: int = 16000
    words: int = 64
    vocabulary: int = 30000
    classes: int = 0
    names: list[str] = field(default_factory=list)
    image_network: str = ""
    audio_network: str = ""
    text_network: str = ""
    depth_network: str = ""
    image_weights: str = ""
    audio_weights: str = ""
    text_weights: str = ""
    depth_weights: str = ""
    augment: bool = True
    directions: str = ""

    def __post_init__(self):
        for name, fine, expected in (
            ("side", 8 <= self.side <= 4096, "8 to 4096"),
            ("rate", self.rate >= 1000, "1000 or more"),
            ("seconds", self.rate * self.seconds >= WINDOW, f"{WINDOW} samples or more"),
            ("words", self.words >= 1, "1 or more"),
            ("vocabulary", self.vocabulary >= 1, "1 or more"),
            ("classes", 0 <= self.classes < IGNORED, f"0 to {IGNORED - 1}"),
            ("names", all(type(name) is str for name in self.names), "a list of texts"),
            ("names", len(set(self.names)) == len(self.names) < IGNORED, "each once"),
        ):
            if not fine:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected {expected}")


@dataclass(frozen=True)
class Row:
    """One row of a manifest. where: its line, as an error names it. values: column → text."""

    where: str
    values: dict[str, str]


def list_events(root: Path, options: FolderOptions) -> Listing:
    """What the manifest says; `root` is the file, or the folder that holds it.

    Raises `UserError` with the line for a column that is missing or of no use, a split or label
    that is empty or unknown, two rows with one id, and a path that leads out of the folder.
    """
    path = find_manifest(root)
    columns, rows = read_manifest(path)
    sides = _choose_sides(path, columns)
    masked = "mask" in columns
    labels, names = _read_labels(path, columns, rows, options)
    events, notes = [], []
    lines: dict[str, str] = {}
    base = path.parent.resolve()
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        split = row.values["split"].lower()
        if split not in SPLIT_WORDS:
            raise UserError(
                f"{row.where}: split is {row.values['split']!r}: expected {', '.join(SPLIT_WORDS)}"
            )
        own = row.values["id"] if "id" in columns else str(number)
        if not own:
            raise UserError(f"{row.where}: the id is empty")
        if own in lines:
            raise UserError(f"{row.where}: the id {own!r} is that of {lines[own]} too")
        lines[own] = row.where
        files = {column: _read_path(row, column, base) for column in PATHS if column in columns}
        facts: dict[str, Any] = {"files": files}
        if "text" in sides:
            if not row.values["text"]:
                raise UserError(f"{row.where}: the text is empty: expected a word at least")
            facts["tokens"] = tokenise(row.values["text"])
        events.append(Event(own, label, SPLIT_WORDS[split], tuple(files.values()), facts))
    if not events:
        raise UserError(f"{path} has no row: expected one for every event")
    events, cut = cut_validation(path.name, events)  # before the vocabulary, which is of train
    unread = [column for column in columns if column not in KNOWN]
    if unread:
        notes.append(f"columns that nothing was read from: {', '.join(unread)}")
    ids = {side: [row.values[side] for row in rows] for side in sides}
    if "group" in columns:
        ids["group"] = [row.values["group"] for row in rows]
        notes += _compare_groups(events, ids["group"])
    info: dict[str, Any] = {"note": f"read from {path.name}; {len(events)} events"}
    if "text" in sides:
        info["vocabulary"], said = _encode_texts(events, options)
        notes += said
    if "audio" in sides:
        info["rate"] = options.rate
    return Listing(
        events=events,
        arrays=_list_arrays(sides, masked, options),
        modalities={side: _choose_network(side, masked, options) for side in sides},
        classes=names if not masked else _name_classes(path, options),
        directions=_choose_directions(sides, options),
        weights={side: file for side in sides if (file := getattr(options, f"{side}_weights"))},
        task="segmentation" if masked else "classification",
        scenes=tuple(names) if masked else (),
        ids=ids,
        notes=[*notes, *cut],
        annotations=path.name,
        info=info,
    )


def find_manifest(root: Path) -> Path:
    if root.is_file():
        return root
    held = [root / name for name in MANIFESTS if (root / name).is_file()]
    if len(held) != 1:
        found = "both" if held else "neither"
        raise UserError(
            f"{root} holds {found} of {' and '.join(MANIFESTS)}: expected one of them, or --root "
            "with the manifest's own path"
        )
    return held[0]


def read_manifest(path: Path) -> tuple[list[str], list[Row]]:
    """Column names and rows of a CSV or Parquet file, every value a text without outer blanks."""
    if path.suffix == ".csv":
        columns, rows = _read_csv(path)
    elif path.suffix == ".parquet":
        columns, rows = _read_parquet(path)
    else:
        raise UserError(f"{path}: expected a manifest that ends in .csv or .parquet")
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two columns are named {twice[0]!r}: expected each once")
    return columns, rows


def _require_columns(path: Path, columns: list[str]) -> None:
    """A header with a split, and a label or a mask; before any row, whose faults would hide it."""
    found = ", ".join(columns)
    if not found:
        raise UserError(f"{path} is empty: expected a line of column names, then one per event")
    if len(columns) == 1 and (other := next((mark for mark in ";\t|" if mark in found), "")):
        raise UserError(f"{path}: the columns are separated by {other!r}: expected commas")
    for word, names in (("split", {"split"}), ("label (or mask)", {"label", "mask"})):
        if not names & set(columns):
            near = [name for name in columns if name.lower() in names]
            hint = f"; {near[0]!r} in lower case?" if near else ""
            raise UserError(
                f"{path}: column {word} is missing: found {found}; expected split, label (or "
                f"mask), and two or more of {', '.join(SIDES)}{hint}"
            )


def _read_csv(path: Path) -> tuple[list[str], list[Row]]:
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _require_columns(path, columns)
            first = reader.line_num + 1
            for values in reader:
                where, first = f"{path}, line {first}", reader.line_num + 1
                if not values:
                    continue
                if len(values) != len(columns):
                    quotes = " (a value that holds a comma needs quotes around it)"
                    raise UserError(
                        f"{where}: {len(values)} values, expected {len(columns)}"
                        f"{quotes if len(values) > len(columns) else ''}"
                    )
                stripped = (value.strip() for value in values)
                rows.append(Row(where, dict(zip(columns, stripped, strict=True))))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text ({error.reason})") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    return columns, rows


def _read_parquet(path: Path) -> tuple[list[str], list[Row]]:
    import pandas as pd

    try:
        table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError:
        raise UserError(
            f'{path}: reading Parquet needs pyarrow: pip install "fdlab[media]"'
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable Parquet file: {error}") from None
    columns = [str(name) for name in table.columns]
    _require_columns(path, columns)
    texts = {}
    for name in (name for name in columns if name in KNOWN):
        kind = table[name].dtype
        if isinstance(kind, pd.CategoricalDtype):
            kind = kind.categories.dtype
        whole = pd.api.types.is_integer_dtype(kind)
        if not (whole or isinstance(kind, pd.StringDtype)):
            raise UserError(f"{path}: column {name} holds {kind}: expected texts or whole numbers")
        held = table[name].astype(object)
        pairs = zip(held, table[name].isna(), strict=True)
        texts[name] = ["" if missing else str(value).strip() for value, missing in pairs]
    rows = [
        Row(f"{path}, row {number + 1}", {name: values[number] for name, values in texts.items()})
        for number in range(len(table))
    ]
    return columns, rows


def _choose_sides(path: Path, columns: list[str]) -> list[str]:
    sides = [side for side in SIDES if side in columns]
    if "mask" in columns and (flat := [side for side in sides if side not in DENSE]):
        raise UserError(
            f"{path}: column {flat[0]} beside mask: a side of a mask has pixels, expected "
            f"{' and '.join(DENSE)}"
        )
    if len(sides) < 2:
        raise UserError(
            f"{path}: {len(sides)} of the columns {', '.join(SIDES)} found ({', '.join(columns)}): "
            "expected two or more"
        )
    return sides


def _read_labels(
    path: Path, columns: list[str], rows: list[Row], options: FolderOptions
) -> tuple[list[int], list[str]]:
    """Every row's class, or kind of scene, and their names; one kind where no column says."""
    if "label" not in columns:
        return [0] * len(rows), ["scene"]
    given = [] if "mask" in columns else options.names
    for row in rows:
        if not row.values["label"]:
            raise UserError(f"{row.where}: the label is empty: expected a class")
        if given and row.values["label"] not in given:
            raise UserError(
                f"{row.where}: label {row.values['label']!r}: expected one of {', '.join(given)}"
            )
    names = given or sort_labels({row.values["label"] for row in rows})
    if rows and len(names) < 2 and "mask" not in columns:
        raise UserError(f"{path}: every label is {names[0]!r}: expected two classes or more")
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[row.values["label"]] for row in rows], names


def sort_labels(labels: set[str]) -> list[str]:
    """By value where all are whole numbers, else by alphabet.

    >>> sort_labels({"10", "9"}), sort_labels({"10", "9", "x"})
    (['9', '10'], ['10', '9', 'x'])
    """
    whole = all(_NUMBER.fullmatch(label) for label in labels)
    return sorted(labels, key=lambda label: (int(label) if whole else 0, label))


def _read_path(row: Row, column: str, base: Path) -> str:
    """A path below `base`, as the manifest has it; no way leads out."""
    text = row.values[column]
    if not text:
        raise UserError(f"{row.where}: the {column} is empty: expected the path of a file")
    if not stays_inside(text):
        raise UserError(
            f"{row.where}: {column} {text!r}: expected a path below the manifest's folder"
        )
    try:
        find_inside(base, text)
    except UserError:
        raise UserError(
            f"{row.where}: {column} {text!r} is a link out of the manifest's folder"
        ) from None
    return text


def tokenise(text: str) -> list[str]:
    """Lower-case words of any script, and punctuation marks, in order.

    >>> tokenise("Don't run, René!")
    ["don't", 'run', ',', 'rené', '!']
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


def _encode_texts(events: list[Event], options: FolderOptions) -> tuple[list[str], list[str]]:
    """Replace every event's tokens by numbers; the vocabulary, and what was cut.

    The vocabulary is that of the training split, by falling count and then by alphabet, after
    `[PAD]` (0) and `[UNK]` (1).
    """
    texts = [event.facts["tokens"] for event in events]
    counts = Counter(
        token for event, text in zip(events, texts, strict=True) if event.split == 0
        for token in text
    )  # fmt: skip
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    vocabulary = [PAD, UNKNOWN, *ranked[: options.vocabulary]]
    index = {token: number for number, token in enumerate(vocabulary)}
    for event, text in zip(events, texts, strict=True):
        # A text without a single token, such as one of underscores, is one unknown word.
        event.facts["tokens"] = [index.get(token, 1) for token in text[: options.words]] or [1]
    notes = []
    if long := sum(len(text) > options.words for text in texts):
        lost = sum(max(0, len(text) - options.words) for text in texts)
        notes.append(f"{long} texts are longer than {options.words} tokens; {lost} tokens were cut")
    if len(ranked) > options.vocabulary:
        notes.append(f"{len(ranked) - options.vocabulary} rare tokens are not in the vocabulary")
    return vocabulary, notes


def _compare_groups(events: list[Event], groups: list[str]) -> list[str]:
    """A line about groups that occur in two splits; an empty group is none."""
    splits: dict[str, set[int]] = {}
    for event, group in zip(events, groups, strict=True):
        if group:
            splits.setdefault(group, set()).add(event.split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if not shared:
        return []
    more = f" and {len(shared) - LISTED} more" if len(shared) > LISTED else ""
    return [f"{len(shared)} groups are in two splits: {', '.join(shared[:LISTED])}{more}"]


def _name_classes(path: Path, options: FolderOptions) -> list[str]:
    """Of the classes in masks."""
    if options.names and options.classes not in (0, len(options.names)):
        raise UserError(f"classes is {options.classes}, and {len(options.names)} names are given")
    names = options.names or [str(k) for k in range(options.classes)]
    if len(names) < 2:
        raise UserError(
            f"{path}: masks need the number of their classes: expected -o classes=N, or "
            '-o \'names=["wall", "floor"]\''
        )
    return names


def _choose_network(side: str, masked: bool, options: FolderOptions) -> Modality:
    usual = "textcnn" if side == "text" else DENSE_NETWORK if masked else "resnet18"
    moved = options.augment and side in DENSE
    network = getattr(options, f"{side}_network") or usual
    if (network == DENSE_NETWORK) != masked:
        has = "masks" if masked else "no masks"
        fit = DENSE_NETWORK if masked else f"one that classifies, such as {usual}"
        raise UserError(f"{side}_network is {network!r}, and there are {has}: expected {fit}")
    return Modality(network, "crop_flip" if moved else "")


def _choose_directions(sides: list[str], options: FolderOptions) -> tuple[str, ...]:
    if not options.directions:
        return tuple(str(Direction(*pair)) for pair in permutations(sides, 2))
    names = [name.strip() for name in options.directions.split(",")]
    return tuple(str(Direction.parse(name, sides)) for name in names)


def _list_arrays(
    sides: list[str], masked: bool, options: FolderOptions
) -> dict[str, tuple[tuple[int, ...], str]]:
    square = (options.side, options.side)
    arrays: dict[str, tuple[tuple[int, ...], str]] = {
        "image": ((3, *square), "uint8"),
        "text": ((options.words,), "int32"),
        "depth": ((1, *square), "uint16"),
        "mask": (square, "uint8"),
    }
    if "audio" in sides:
        from fdlab.data.media import log_spectrogram

        silence = np.zeros(round(options.rate * options.seconds), np.float32)
        arrays["audio"] = (log_spectrogram(silence, options.rate, options.seconds).shape, "float16")
    return {side: arrays[side] for side in (*sides, *(["mask"] if masked else []))}


def decode(root: Path, event: Event, options: FolderOptions) -> dict[str, np.ndarray]:
    """One event's rows.

    image: (3, side, side) uint8 RGB, bilinear. depth: (1, side, side) uint16, millimetres, 0 where
    nothing was read, nearest. mask: (side, side) uint8, nearest. audio: (1, 257, T) float16, the
    log-spectrogram of `fdlab.data.media`. text: (words,) int32. Shapes are not kept in proportion,
    so that image, depth and mask stay aligned.
    """
    base = find_manifest(root).parent
    files, found = event.facts["files"], {}
    names = options.names or [str(k) for k in range(options.classes)]
    for side, file in files.items():
        try:
            if side == "audio":
                found[side] = _read_audio(base / file, options)
            elif side == "image":
                found[side] = _read_image(base, file, options.side)
            elif side == "depth":
                found[side] = _read_depth(base, file, options.side)
            else:
                found[side] = _read_mask(base, file, options.side, len(names))
        except BadMedium as bad:
            raise BadMedium(file, bad.reason) from None
    if "mask" in files:
        _require_one_shape(base, files)
    if "tokens" in event.facts:
        row = found["text"] = np.zeros(options.words, np.int32)
        row[: len(event.facts["tokens"])] = event.facts["tokens"]
    return found


def _read_audio(path: Path, options: FolderOptions) -> np.ndarray:
    from fdlab.data.media import log_spectrogram, read_audio

    _require_file(path, path.name)
    return log_spectrogram(read_audio(path, options.rate), options.rate, options.seconds)


def _require_file(path: Path, file: str) -> None:
    if not path.is_file():
        raise BadMedium(file, "a folder, expected a file" if path.is_dir() else "no such file")


def _open_image(base: Path, file: str):
    """A loaded PIL image; whatever is wrong with the file is a `BadMedium`."""
    from PIL import Image, UnidentifiedImageError

    path = base / file
    _require_file(path, file)
    try:
        with Image.open(path, formats=PICTURES) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        raise BadMedium(file, "not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadMedium(file, f"unreadable image: {error}") from None


def _require_one_shape(base: Path, files: dict[str, str]) -> None:
    """A mask of other proportions than a picture does not lie on it."""
    wide, high = _measure(base, files["mask"])
    for side, file in files.items():
        across, down = _measure(base, file)
        if abs(across * high - down * wide) > SLACK * across * high:
            raise BadMedium(
                files["mask"],
                f"mask is {wide}×{high}, and the {side} {across}×{down}: expected the same "
                "proportions",
            )


def _measure(base: Path, file: str) -> tuple[int, int]:
    """Width and height as a viewer shows them."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(_open_image(base, file)).size


def _read_image(base: Path, file: str, side: int) -> np.ndarray:
    from PIL import Image, ImageOps

    # As every viewer shows it, where a camera only noted how it was held.
    image = ImageOps.exif_transpose(_open_image(base, file)).convert("RGB")
    small = image.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def _read_depth(base: Path, file: str, side: int) -> np.ndarray:
    image = _open_image(base, file)
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize == 1 or pixels.ndim != 2:
        raise BadMedium(file, f"depth has mode {image.mode}: expected a 16-bit PNG, millimetres")
    if pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max:
        raise BadMedium(file, f"depth is up to {pixels.max()}: expected 0 to 65535 millimetres")
    return _pick_nearest(pixels.astype(np.uint16), side)[None]


def _read_mask(base: Path, file: str, side: int, classes: int) -> np.ndarray:
    image = _open_image(base, file)
    if image.format == "JPEG":
        raise BadMedium(file, "mask is a JPEG, which blurs class numbers: expected a PNG")
    pixels = np.asarray(image)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iub":
        raise BadMedium(file, f"mask has mode {image.mode}: expected one class number a pixel")
    held = np.unique(pixels.astype(np.int64))
    outside = held[((held < 0) | (held >= classes)) & (held != IGNORED)]
    if len(outside):
        raise BadMedium(
            file,
            f"mask holds {outside[0]}: expected 0 to {classes - 1}, or {IGNORED} for no class (-o "
            "classes=N says how many there are)",
        )
    return _pick_nearest(pixels.astype(np.uint8), side)


def _pick_nearest(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W) → (side, side): of each new pixel's centre, the old pixel that it lies in."""
    rows, columns = (((2 * np.arange(side) + 1) * size) // (2 * side) for size in pixels.shape)
    return pixels[rows[:, None], columns]


FOLDER = Dataset(
    name="folder",
    summary="your own pairs: a manifest in CSV or Parquet, and the files that it names",
    classes=0,
    modalities={},
    options=FolderOptions,
    directions=(),
    source=Source(list_events, decode),
)

"""CIFAR-10 and CIFAR-100: 60,000 pictures of 32 × 32 pixels (Krizhevsky 2009).

Any of the official archives, packed or unpacked, the first of these that the root holds or is:

    cifar-100-python.tar.gz   cifar-100-python/{meta, train, test}, pickles
    cifar-100-binary.tar.gz   cifar-100-binary/{*_label_names.txt, train.bin, test.bin}
    cifar-10-python.tar.gz    cifar-10-batches-py/{batches.meta, data_batch_1 … 5, test_batch}
    cifar-10-binary.tar.gz    cifar-10-batches-bin/{batches.meta.txt, data_batch_1.bin …}

No pickle is run (`fdlab.data.pickled`), and no archive is unpacked to the disk: of its members only
those with exactly these names are read. Both versions give the same store but for its manifest.

A class is its number in the files, so that neighbouring numbers are neighbouring names. CIFAR-100
has a superclass for each class besides, its family.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data.dataset import Dataset, Modality
from fdlab.data.ingest import cut_validation, require_share
from fdlab.data.listing import Event, Listing, Source
from fdlab.data.pickled import read_pickle

SIDE = 32
PIXELS = 3 * SIDE * SIDE  # bytes of one picture: its red, green and blue plane, each by rows
MOST = 1 << 29  # unpacked bytes that are read of an archive; the official ones have 186 MB
MEMBERS = 1000  # of an archive that are looked at
DIRECTIONS = ("image2image",)
SMALL = {"image": Modality("resnet8x4", "pad_flip")}  # of pictures of 32 or 64 pixels
# The pairs of networks in FiGKD's tables, of one family and of two; the set's own network first.
PAIRS = (
    "resnet32x4-resnet8x4",
    "resnet110-resnet32",
    "wrn_40_2-wrn_16_2",
    "wrn_40_2-wrn_40_1",
    "vgg13-vgg8",
    "wrn_40_2-shufflenetv1",
    "resnet50_cifar-mobilenetv2_half",
    "resnet32x4-shufflenetv1",
    "resnet32x4-shufflenetv2",
    "vgg13-mobilenetv2_half",
)
# The benchmark's recipe (Tian et al. 2020), with its lower rate for the lightest networks.
BENCHMARK = {
    "epochs": 240,
    "batch_size": 64,
    "learning_rate": 0.05,
    "milestones": (0.625, 0.75, 0.875),
    "momentum": 0.9,
    "weight_decay": 5e-4,
}
LIGHT = ("mobilenetv2_half", "shufflenetv1", "shufflenetv2")


def spread_recipe(**fields: Any) -> dict[str, dict[str, Any]]:
    """The benchmark's recipe with some fields changed, for every network."""
    recipe = BENCHMARK | fields
    return {"": recipe} | {name: recipe | {"learning_rate": 0.01} for name in LIGHT}


# "quick": about ninety seconds for a student on a CPU's core. "reduced": the published networks,
# meant for about ten minutes a pair on one GPU.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "quick": spread_recipe(epochs=2, milestones=()),
    "reduced": spread_recipe(epochs=30),
    "paper": spread_recipe(),
}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"pairs": ("vgg13-vgg8",)},
    "quick": {"pairs": ("vgg13-vgg8", "vgg13-mobilenetv2_half"), "seeds": (0, 1, 2)},
    "reduced": {"width": 64, "pairs": (PAIRS[0], PAIRS[-2])},
}


@dataclass(frozen=True)
class CifarOptions:
    """validation: share of every class's training pictures that become the validation split, for
    the official files have none; our choice."""

    validation: float = 0.1

    def __post_init__(self):
        require_share(self.validation)


@dataclass(frozen=True)
class Version:
    """One official archive. train, test: files with pictures. names: files that name the classes,
    and the families where there are any. pickled: whether all of them are pickles."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: tuple[str, ...]
    pickled: bool

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.names, *self.train, *self.test)


@dataclass(frozen=True)
class Cifar:
    """What tells the two sets apart. labels, names: the keys of a pickle's labels and of their
    names, the classes' first; a binary file has the labels' bytes the other way round."""

    classes: int
    labels: tuple[str, ...]
    names: tuple[str, ...]
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class Batch:
    """One file: images (N, 3072) uint8, and (N,) labels of each kind, the classes' first."""

    images: np.ndarray
    labels: list[list[int]]


SETS = {
    "cifar10": Cifar(
        10,
        ("labels",),
        ("label_names",),
        (
            Version(
                "cifar-10-python.tar.gz",
                "cifar-10-batches-py",
                tuple(f"data_batch_{k}" for k in range(1, 6)),
                ("test_batch",),
                ("batches.meta",),
                pickled=True,
            ),
            Version(
                "cifar-10-binary.tar.gz",
                "cifar-10-batches-bin",
                tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
                ("test_batch.bin",),
                ("batches.meta.txt",),
                pickled=False,
            ),
        ),
    ),
    "cifar100": Cifar(
        100,
        ("fine_labels", "coarse_labels"),
        ("fine_label_names", "coarse_label_names"),
        (
            Version(
                "cifar-100-python.tar.gz",
                "cifar-100-python",
                ("train",),
                ("test",),
                ("meta",),
                pickled=True,
            ),
            Version(
                "cifar-100-binary.tar.gz",
                "cifar-100-binary",
                ("train.bin",),
                ("test.bin",),
                ("fine_label_names.txt", "coarse_label_names.txt"),
                pickled=False,
            ),
        ),
    ),
}


def list_events(kind: str, root: Path, options: CifarOptions) -> Listing:
    """The pictures in the files' order, training first. kind: of `SETS`.

    image: (3, 32, 32) uint8. An event's id is its split's name and its number there. Of CIFAR-100
    `info["families"]` has each class's family, and the ids `family` each event's. Raises
    `UserError` for a file that is missing, damaged, of another layout, or no plain pickle.
    """
    version, place = find_version(root, kind)
    names, batches = _read_once(kind, version, place, _stamp(version, place))
    here = place.relative_to(root).as_posix()
    number = SETS[kind].versions.index(version)
    events: list[Event] = []
    families: list[int] = []
    for split, files in ((0, version.train), (2, version.test)):
        first = len(events)
        for file in files:
            labels = batches[file].labels
            before = len(events) - first
            events += [
                Event(
                    id=f"{'test' if split else 'train'}-{before + row:05d}",
                    label=label,
                    split=split,
                    files=(here,),
                    facts={"version": number, "file": file, "row": row},
                )
                for row, label in enumerate(labels[0])
            ]
            families += labels[1] if len(labels) > 1 else []
    events, notes = cut_validation(kind, events, options.validation)
    info: dict[str, Any] = {"version": version.archive}
    if families:
        info["families"] = _find_families(events, families, names, str(place))
    return Listing(
        events=events,
        arrays={"image": ((3, SIDE, SIDE), "uint8")},
        modalities=SMALL,
        classes=names[0],
        directions=DIRECTIONS,
        ids={"family": [names[1][family] for family in families]} if families else {},
        annotations=place.name,
        expected={"train": 50_000, "test": 10_000},
        counted="the official files",
        notes=notes,
        info=info,
    )


def decode(kind: str, root: Path, event: Event, options: CifarOptions) -> dict[str, np.ndarray]:
    """image (3, 32, 32) uint8 of one event."""
    version, place = SETS[kind].versions[event.facts["version"]], root / event.files[0]
    _, batches = _read_once(kind, version, place, _stamp(version, place))
    image = batches[event.facts["file"]].images[event.facts["row"]]
    return {"image": image.reshape(3, SIDE, SIDE)}


def find_version(root: Path, kind: str) -> tuple[Version, Path]:
    """The first official version that the root is or holds, unpacked or not, and its place."""
    versions = SETS[kind].versions
    for version in versions:
        names = (version.folder, version.archive)
        if held := next((root / name for name in names if (root / name).exists()), None):
            return version, held
        if root.resolve().name in names:
            return version, root
    expected = " or ".join(version.archive for version in versions)
    raise UserError(f"{root} holds no {kind}: expected {expected}, or the folder that is in it")


def _stamp(version: Version, place: Path) -> tuple[tuple[int, int], ...]:
    """Tells files that were changed since they were read; a file that is missing is said there."""
    files = [place / file for file in version.files] if place.is_dir() else [place]
    found = [file.stat() for file in files if file.exists()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in found)


@lru_cache(maxsize=1)
def _read_once(
    kind: str, version: Version, place: Path, _stamp: tuple[tuple[int, int], ...]
) -> tuple[list[list[str]], dict[str, Batch]]:
    """Names of classes and families, and every file's batch, kept from one event to the next."""
    cifar = SETS[kind]
    contents = dict(_read_folder(version, place) if place.is_dir() else _read_tar(version, place))
    named = {file: f"{place}{'/' if place.is_dir() else ': '}{file}" for file in version.files}
    if version.pickled:
        (file,) = version.names
        meta = read_pickle(contents.pop(file), named[file])
        names = [_read_names(meta, key, named[file]) for key in cifar.names]
    else:
        names = [
            [line.strip() for line in contents.pop(file).decode("latin-1").split("\n")]
            for file in version.names
        ]
        names = [[name for name in kind_of if name] for kind_of in names]
    if len(names[0]) != cifar.classes:
        raise UserError(
            f"{named[version.names[0]]} names {len(names[0])} classes: expected {cifar.classes}"
        )
    read = _read_pickled if version.pickled else _read_binary
    batches = {}
    for file in (*version.train, *version.test):
        batch = batches[file] = read(contents.pop(file), cifar, named[file])
        for labels, known in zip(batch.labels, names, strict=True):
            wrong = next((k for k in labels if k >= len(known)), None)
            if wrong is not None:
                raise UserError(
                    f"{named[file]} has the label {wrong}: expected 0 to {len(known) - 1}"
                )
    return names, batches


def _read_folder(version: Version, place: Path) -> Iterator[tuple[str, bytes]]:
    for file in version.files:
        path = place / file
        if not path.is_file():
            raise UserError(f"{path} is missing: expected {', '.join(version.files)} there")
        if path.stat().st_size > MOST:
            raise UserError(f"{path} has more than {MOST:,} bytes: expected an official file")
        yield file, path.read_bytes()


class _Unpacked(gzip.GzipFile):
    """What an archive holds, up to `MOST` bytes, whatever it announces."""

    def read(self, size: int = -1) -> bytes:
        self._require(self.tell() + size if size >= 0 else MOST + 1)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._require(offset)
        return super().seek(offset, whence)

    def _require(self, end: int) -> None:
        if end > MOST:
            raise UserError(f"announces more than {MOST:,} bytes")


def _read_tar(version: Version, place: Path) -> Iterator[tuple[str, bytes]]:
    """The version's files, each a plain member with exactly its name; nothing is unpacked."""
    wanted = {f"{version.folder}/{file}": file for file in version.files}
    try:
        with (
            _Unpacked(place) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:", errorlevel=2) as archive,
        ):
            for number, member in enumerate(archive):
                if number >= MEMBERS:
                    raise UserError(f"has more than {MEMBERS} members")
                file = wanted.pop(member.name, None)
                if file is None:
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{member.name} is a link or no plain file")
                content = archive.extractfile(member).read()
                if len(content) != member.size:
                    raise UserError(f"{member.name} is cut off")
                yield file, content
                if not wanted:
                    return
    except UserError as error:
        raise UserError(f"{place}: {error}: expected the official archive") from None
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(
            f"{place} is damaged, cut off or no archive ({error}): expected {version.archive}"
        ) from None
    raise UserError(f"{place} has no member {', '.join(wanted)}: expected {version.archive}")


def _read_names(meta: dict[str, Any], key: str, where: str) -> list[str]:
    names = meta.get(key)
    if type(names) is not list or not all(type(name) is bytes for name in names):
        raise UserError(f"{where} has no list of names {key}: expected it")
    return [name.decode("latin-1") for name in names]


def _read_pickled(content: bytes, cifar: Cifar, where: str) -> Batch:
    found = read_pickle(content, where)
    images = found.get("data")
    if not isinstance(images, np.ndarray) or images.shape[1:] != (PIXELS,):
        raise UserError(f"{where} has no array data of N × {PIXELS} bytes: expected it")
    for key in cifar.labels:
        labels = found.get(key)
        if type(labels) is not list or not all(type(k) is int and k >= 0 for k in labels):
            raise UserError(f"{where} has no list of whole numbers {key}: expected it")
        if len(labels) != len(images):
            raise UserError(f"{where} has {len(labels)} {key}: expected {len(images)} as pictures")
    return Batch(images, [found[key] for key in cifar.labels])


def _read_binary(content: bytes, cifar: Cifar, where: str) -> Batch:
    size = len(cifar.labels) + PIXELS
    if not content or len(content) % size:
        raise UserError(f"{where} has {len(content):,} bytes: expected a multiple of {size:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    labels = rows[:, : len(cifar.labels)].T[::-1]
    return Batch(rows[:, len(cifar.labels) :], labels.tolist())


def _find_families(
    events: list[Event], families: list[int], names: list[list[str]], where: str
) -> list[str]:
    """Each class's family; "" for a class without a picture."""
    found: dict[int, int] = {}
    for event, family in zip(events, families, strict=True):
        if found.setdefault(event.label, family) != family:
            both = " and ".join(names[1][k] for k in (found[event.label], family))
            raise UserError(
                f"{where}: class {names[0][event.label]} is in {both}: expected one superclass"
            )
    return [names[1][found[k]] if k in found else "" for k in range(len(names[0]))]


def _describe(kind: str, summary: str) -> Dataset:
    return Dataset(
        name=kind,
        summary=summary,
        classes=SETS[kind].classes,
        modalities=SMALL,
        options=CifarOptions,
        directions=DIRECTIONS,
        source=Source(partial(list_events, kind), partial(decode, kind), chunk=1024),
        recipes=RECIPES,
        presets=PRESETS,
        reports=kind if kind == "cifar100" else "",
        pairs=PAIRS,
    )


CIFAR10 = _describe("cifar10", "small pictures of 10 kinds of things; read from your copy")
CIFAR100 = _describe(
    "cifar100", "small pictures of 100 classes in 20 superclasses; read from your copy"
)

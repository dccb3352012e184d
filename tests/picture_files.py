"""Small sets of pictures in the official layouts, written by real encoders.

CIFAR's pixels are noise, so that every one of them counts. A photograph has a plain colour that
says its class, and a shape that is no square.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def pickle_as_python2(value) -> bytes:
    """Protocol 2 as Python 2's cPickle and its NumPy wrote it: texts are bytes, and everything that
    has an identity is remembered."""
    count = 0

    def put() -> bytes:
        nonlocal count
        count += 1
        return b"q" + bytes([count]) if count < 256 else b"r" + struct.pack("<I", count)

    def write(value) -> bytes:
        if isinstance(value, dict):
            parts = b"".join(write(part) for pair in value.items() for part in pair)
            return b"}" + put() + b"(" + parts + b"u"
        if isinstance(value, list):
            head = b"]" + put()
            blocks = [value[i : i + 1000] for i in range(0, len(value), 1000)]
            return head + b"".join(
                b"(" + b"".join(map(write, block)) + b"e"
                if len(block) > 1
                else write(block[0]) + b"a"
                for block in blocks
            )  # fmt: skip
        if isinstance(value, bytes):
            short = len(value) < 256
            head = b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))
            return head + value + put()
        if isinstance(value, np.ndarray):
            made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
            made += b"K\x00\x85" + put() + b"U\x01b" + put() + b"\x87" + put() + b"R" + put()
            sizes = b"".join(map(write, value.shape))
            shape = (b"\x85", b"\x86", b"\x87")[value.ndim - 1]
            kind = b"cnumpy\ndtype\n" + put() + b"U\x02u1" + put() + b"K\x00K\x01\x87" + put()
            kind += b"R" + put() + b"(K\x03U\x01|" + put() + b"NNN" + 2 * b"J\xff\xff\xff\xff"
            first = not value.flags.c_contiguous
            return (
                made + b"(K\x01" + sizes + shape + put() + kind + b"K\x00t" + put() + b"b"
                + (b"\x88" if first else b"\x89") + write(value.tobytes("F" if first else "C"))
                + b"t" + put() + b"b"
            )  # fmt: skip
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return (
            b"M" + struct.pack("<H", value)
            if 0 <= value < 65536
            else b"J" + struct.pack("<i", value)
        )

    return b"\x80\x02" + write(value) + b"."


def pack(path: Path, files: dict[str, bytes], folder: str) -> None:
    """A gzipped tar of the files below a folder, with the folder's own entry first."""
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def unpack(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@dataclass
class Planted:
    """CIFAR's files by name, in both versions, and what they hold, training first."""

    python: dict[str, bytes]
    binary: dict[str, bytes]
    images: np.ndarray
    labels: np.ndarray
    train: int
    names: list[str]
    families: list[str] = field(default_factory=list)


def plant_cifar10(train: int = 40, test: int = 20, seed: int = 0) -> Planted:
    """Five training files of `train` pictures in all, and one for the test; labels in turn."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (train + test, 3072), np.uint8)
    labels = np.arange(train + test) % 10
    names = [f"kind_{k}" for k in range(10)]
    parts = [*np.split(np.arange(train), 5), np.arange(train, train + test)]
    files = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    python, binary = {}, {}
    for name, rows in zip(files, parts, strict=True):
        content = {
            b"batch_label": b"a batch",
            b"labels": labels[rows].tolist(),
            b"data": images[rows],
            b"filenames": [b"thing_%06d.png" % row for row in rows],
        }
        python[name] = pickle_as_python2(content)
        binary[f"{name}.bin"] = np.column_stack([labels[rows], images[rows]]).astype("u1").tobytes()
    meta = {b"num_cases_per_batch": 10_000, b"label_names": [name.encode() for name in names]}
    python["batches.meta"] = pickle_as_python2(meta | {b"num_vis": 3072})
    binary["batches.meta.txt"] = "".join(f"{name}\n" for name in [*names, ""]).encode()
    return Planted(python, binary, images, labels, train, names)


def plant_cifar100(train: int = 400, test: int = 200, seed: int = 1) -> Planted:
    """Labels in turn; the class k belongs to the family 7 k mod 20."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (train + test, 3072), np.uint8)
    labels = np.arange(train + test) % 100
    names = [f"thing_{k:02d}" for k in range(100)]
    groups = [f"group_{k:02d}" for k in range(20)]
    python, binary = {}, {}
    for name, rows in (("train", np.arange(train)), ("test", np.arange(train, train + test))):
        coarse = 7 * labels[rows] % 20
        content = {
            b"filenames": [b"thing_%06d.png" % row for row in rows],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": labels[rows].tolist(),
            b"coarse_labels": coarse.tolist(),
            b"data": np.asfortranarray(images[rows]) if name == "test" else images[rows],
        }
        python[name] = pickle_as_python2(content)
        columns = [coarse, labels[rows], images[rows]]
        binary[f"{name}.bin"] = np.column_stack(columns).astype("u1").tobytes()
    meta = {
        b"fine_label_names": [name.encode() for name in names],
        b"coarse_label_names": [name.encode() for name in groups],
    }
    python["meta"] = pickle_as_python2(meta)
    for word, texts in (("fine", names), ("coarse", groups)):
        binary[f"{word}_label_names.txt"] = "".join(f"{text}\n" for text in texts).encode()
    families = [groups[7 * k % 20] for k in range(100)]
    return Planted(python, binary, images, labels, train, names, families)


def choose_colour(kind: int) -> tuple[int, int, int]:
    return (40 + 60 * kind, 200 - 50 * kind, 90)


def write_photograph(path: Path, kind: int, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, choose_colour(kind)).save(path, "JPEG", quality=95)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# Each writer makes three classes with ten photographs for training and three for the test, and
# returns the classes' names, the colours' own order, as the store should have them.

TRAIN, TEST = 10, 3


def write_tinyimagenet(root: Path) -> list[str]:
    base = root / "tiny-imagenet-200"
    wnids = ["n01443537", "n01629819", "n03444034"]
    write_lines(base / "wnids.txt", wnids[::-1])
    words = ["goldfish, Carassius auratus", "crane", "crane, lifting device"]
    pairs = [f"{wnid}\t{word}" for wnid, word in zip(wnids, words, strict=True)]
    write_lines(base / "words.txt", ["n00001740\tentity", *pairs])
    rows = []
    for kind, wnid in enumerate(wnids):
        for number in range(TRAIN):
            file = base / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            write_photograph(file, kind, (64, 64))
        write_lines(base / "train" / wnid / f"{wnid}_boxes.txt", [f"{wnid}_0.JPEG\t0\t0\t9\t9"])
        for number in range(TEST):
            file = f"val_{TEST * kind + number}.JPEG"
            write_photograph(base / "val" / "images" / file, kind, (64, 64))
            rows.append(f"{file}\t{wnid}\t0\t32\t44\t62")
    write_lines(base / "val" / "val_annotations.txt", rows)
    write_photograph(base / "test" / "images" / "test_0.JPEG", 0, (64, 64))
    return ["goldfish", "crane (n01629819)", "crane (n03444034)"]


def write_cub200(root: Path) -> list[str]:
    base = root / "CUB_200_2011"
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    for kind, name in enumerate(classes):
        for number in range(TRAIN + TEST):
            image = len(lists["images"]) + 1
            file = f"{name}/{name[4:]}_{number:04d}_{900 + image}.jpg"
            write_photograph(base / "images" / file, kind)
            lists["images"].append(f"{image} {file}")
            lists["image_class_labels"].append(f"{image} {kind + 1}")
            lists["train_test_split"].append(f"{image} {int(number < TRAIN)}")
    lists["classes"] = [f"{k} {name}" for k, name in enumerate(classes, start=1)]
    for name, lines in lists.items():
        write_lines(base / f"{name}.txt", lines)
    return [name[4:] for name in classes]


def write_mit67(root: Path) -> list[str]:
    classes = ["airport_inside", "bakery", "winecellar"]
    lists: dict[str, list[str]] = {"TrainImages.txt": [], "TestImages.txt": []}
    for kind, name in enumerate(classes):
        for number in range(TRAIN + TEST):
            file = f"{name}/{name} {number:02d}_altavista.jpg"
            write_photograph(root / "Images" / file, kind)
            lists["TrainImages.txt" if number < TRAIN else "TestImages.txt"].append(file)
        write_photograph(root / "Images" / name / "in_no_list.jpg", kind)
    for name, lines in lists.items():
        write_lines(root / name, lines)
    return classes


def write_stanford40(root: Path, joint: bool = True) -> list[str]:
    classes = ["applauding", "riding_a_bike", "writing_on_a_book"]
    lists: dict[str, list[str]] = {}
    for kind, name in enumerate(classes):
        for number in range(TRAIN + TEST):
            file = f"{name}_{number:03d}.jpg"
            write_photograph(root / "JPEGImages" / file, kind)
            part = "train" if number < TRAIN else "test"
            for key in (part,) * joint + (f"{name}_{part}",):
                lists.setdefault(key, []).append(file)
    for name, lines in lists.items():
        write_lines(root / "ImageSplits" / f"{name}.txt", lines)
    rows = [f"{name}\t\t{TRAIN + TEST}" for name in classes]
    write_lines(root / "ImageSplits" / "actions.txt", ["Action Name\tNumber of Images", *rows])
    return classes


def write_stanford_dogs(root: Path, folder: str = "lists") -> list[str]:
    classes = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02095314-wire-haired_terrier"]
    lists: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for kind, name in enumerate(classes):
        for number in range(TRAIN + TEST):
            file = f"{name}/{name[:9]}_{100 + number}.jpg"
            write_photograph(root / "Images" / file, kind)
            files, labels = lists["train" if number < TRAIN else "test"]
            files.append(file)
            labels.append(kind + 1)
    for name, (files, labels) in lists.items():
        write_dog_list(root / folder / f"{name}_list.mat", files, labels)
    return [name.partition("-")[2] for name in classes]


def write_dog_list(path: Path, files: list[str], labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.array(files, object)[:, None]
    names = np.array([file.removesuffix(".jpg") for file in files], object)[:, None]
    content = {"file_list": cells, "annotation_list": names}
    savemat(path, content | {"labels": np.array(labels)[:, None]})

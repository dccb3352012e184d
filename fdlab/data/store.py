"""A data set on disk: one memory-mapped array per modality, labels, splits, ids and a manifest.

A store is a plain folder:

    manifest.json   data set, options, counts, information, SHA-256 of every file
    ids.json        name → one string per event
    labels.npy      (N,) int64
    split.npy       (N,) uint8, 0 train, 1 validation, 2 test
    <name>.npy      (N, …) one per modality and per extra array
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fdlab.core import paths
from fdlab.core.config import resolve_options
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import checksums, find_damage, read_json, replace_folder, write_json
from fdlab.core.fingerprint import code_digest, digest
from fdlab.core.progress import say, track
from fdlab.data import DATASETS
from fdlab.data.dataset import SPLITS, Built, Dataset

_verified: dict[Path, Store] = {}  # checked against its checksums once per process


@dataclass(frozen=True)
class Store:
    """An opened store; arrays are read-only memory maps."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def dataset(self) -> Dataset:
        return DATASETS[self.manifest["dataset"]]

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal arrays, however they were made."""
        return digest(self.manifest["files"])

    @property
    def info(self) -> dict[str, Any]:
        return self.manifest["info"]

    @cached_property
    def labels(self) -> np.ndarray:
        return self.read("labels")

    @cached_property
    def split(self) -> np.ndarray:
        return self.read("split")

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        return read_json(self.folder / "ids.json")

    def read(self, name: str) -> np.ndarray:
        """(N, …) read-only memory map of one array."""
        path = self.folder / f"{name}.npy"
        if f"{name}.npy" not in self.manifest["files"]:
            known = [file.removesuffix(".npy") for file in self.manifest["files"]]
            raise name_unknown(f"array of {self.manifest['dataset']}", name, known)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        if split not in SPLITS:
            raise name_unknown("split", split, SPLITS)
        return np.flatnonzero(self.split == SPLITS.index(split))


def prepare(
    name: str, options: dict[str, Any] | None = None, *, workers: int = 1, force: bool = False
) -> Store:
    """Open the store of a data set, building it where it is absent, damaged or out of date."""
    dataset, resolved, folder = _locate(name, options)
    if not force and folder in _verified:
        return _verified[folder]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        damage = None if force else find_store_damage(folder)
        if damage and folder.exists():
            say(f"fdlab: {damage}; rebuilding the store of {name}")
        if damage or force:
            _build(dataset, resolved, folder, workers)
        _verified[folder] = Store(folder, read_json(folder / "manifest.json"))
    return _verified[folder]


def find_store(name: str, options: dict[str, Any] | None = None) -> Store | None:
    """The store of a data set where it exists, unverified; None where it must be built first."""
    folder = _locate(name, options)[2]
    if not (folder / "manifest.json").is_file():
        return None
    return Store(folder, read_json(folder / "manifest.json"))


def verify(name: str, options: dict[str, Any] | None = None) -> Store:
    """Check every file of an existing store against its checksum."""
    folder = _locate(name, options)[2]
    if not folder.is_dir():
        raise UserError(f"{name} is not prepared yet: run `fdlab data prepare {name}`")
    if damage := find_store_damage(folder):
        raise UserError(f"{damage}: run `fdlab data prepare {name}` to rebuild it")
    return Store(folder, read_json(folder / "manifest.json"))


def find_store_damage(folder: Path) -> str | None:
    """What is wrong with a store, naming the file, or None."""
    try:
        manifest = read_json(folder / "manifest.json")
        return find_damage(folder, manifest["files"])
    except FileNotFoundError:
        return f"{folder} holds no manifest.json"
    except (UserError, KeyError, TypeError):
        return f"{folder / 'manifest.json'} is damaged"


def write_store(folder: Path, dataset: Dataset, options: dict[str, Any], built: Built) -> None:
    """Write `built` as a store, whole or not at all."""
    _check(dataset, built)
    with replace_folder(folder) as beside:
        arrays = {"labels": built.labels, "split": built.split}
        for name, array in (arrays | built.modalities | built.extras).items():
            np.save(beside / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        write_json(beside / "ids.json", built.ids)
        names = sorted(path.name for path in beside.iterdir())
        counts = {split: int((built.split == i).sum()) for i, split in enumerate(SPLITS)}
        manifest = {
            "dataset": dataset.name,
            "options": options,
            "events": len(built.labels),
            "counts": counts,
            "classes": dataset.classes,
            "modalities": {k: [str(v.dtype), *v.shape[1:]] for k, v in built.modalities.items()},
            "info": built.info,
            "files": checksums(beside, names),
        }
        write_json(beside / "manifest.json", manifest)


def _locate(name: str, options: dict[str, Any] | None) -> tuple[Dataset, dict[str, Any], Path]:
    dataset = DATASETS[name]
    resolved = resolve_options(name, dataset.options, options or {})
    code = code_digest([DATASETS.find_module(name)], inside=["fdlab.data"])
    return dataset, resolved, paths.stores() / f"{name}-{digest([resolved, code])}"


def _build(dataset: Dataset, options: dict[str, Any], folder: Path, workers: int) -> None:
    with track(f"building {dataset.name}", 100, unit="%") as report:
        built = dataset.build(
            dataset.options(**options),
            workers=workers,
            progress=lambda done, total: report(100 * done // max(total, 1)),
        )
    write_store(folder, dataset, options, built)


def _check(dataset: Dataset, built: Built) -> None:
    events = len(built.labels)
    rows = built.modalities | built.extras | {"split": built.split} | built.ids
    for name, values in rows.items():
        if len(values) != events:
            raise ValueError(f"{dataset.name}: {name} has {len(values)} rows, labels {events}")
    missing = set(dataset.modalities) - set(built.modalities)
    if missing:
        raise ValueError(f"{dataset.name}: its builder made no {', '.join(sorted(missing))}")
    if built.labels.min() < 0 or built.labels.max() >= dataset.classes:
        raise ValueError(f"{dataset.name}: labels outside 0 to {dataset.classes - 1}")

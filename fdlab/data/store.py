"""A data set on disk: one memory-mapped array per modality, labels, splits, ids and a manifest.

A store is a plain folder:

    manifest.json   data set, options, counts, information, SHA-256 of every file
    ids.json        name → one string per event
    labels.npy      (N,) int64
    split.npy       (N,) uint8, 0 train, 1 validation, 2 test
    <name>.npy      (N, …) one per modality and per extra array

One that is read from files (`fdlab.data.ingest`) lies at `stores/NAME`, where NAME is the data
set's own or the one that a person gave it; its manifest says what the data set is. It may also hold

    split_<name>.npy       (N,) uint8, a further way to split
    weights_<modality>.*   pretrained weights that the modality's networks start from
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core import paths, stop
from fdlab.core.config import resolve_options
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import (
    checksums,
    find_damage,
    find_inside,
    read_json,
    replace_folder,
    restore_folder,
    write_json,
)
from fdlab.core.fingerprint import code_digest, digest
from fdlab.core.locks import holding
from fdlab.core.progress import say, track
from fdlab.data import DATASETS
from fdlab.data.dataset import SPLITS, Built, Dataset, Modality
from fdlab.data.ingest import FORMAT, describe_modality, ingest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of a store that is read from files

_verified: dict[tuple[Path, str], Store] = {}  # checked once per process


@dataclass(frozen=True)
class Store:
    """An opened store; arrays are read-only memory maps.

    name: the data set that it was asked for as, where that reads another one's store.
    """

    folder: Path
    manifest: dict[str, Any]
    name: str = ""

    @property
    def dataset(self) -> Dataset:
        name = self.name or self.manifest["dataset"]
        if "kind" in self.manifest and name == self.manifest["name"]:
            return _describe(self.manifest)
        return DATASETS[name]

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal arrays, however they were made."""
        return digest(self.manifest["files"])

    @property
    def info(self) -> dict[str, Any]:
        return self.manifest["info"]

    @property
    def classes(self) -> list[str]:
        """Names of the classes; their numbers where they have none."""
        names = self.manifest["classes"]
        if isinstance(names, int):
            names = self.info.get("classes", [str(k) for k in range(names)])
        return names

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
        if f"{name}.npy" not in self.manifest["files"]:
            known = [file.removesuffix(".npy") for file in self.manifest["files"]]
            raise name_unknown(f"array of {self.manifest['dataset']}", name, known)
        path = find_inside(self.folder, f"{name}.npy")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:  # no array of numbers
            raise UserError(f"{path} is no readable array: {error}") from None

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split, ascending."""
        if split not in SPLITS:
            raise name_unknown("split", split, SPLITS)
        return np.flatnonzero(self.split == SPLITS.index(split))

    def find_weights(self, modality: str) -> Path | None:
        """The file of pretrained weights that a modality's networks start from, if any."""
        held = (file for file in self.manifest["files"] if file.startswith(f"weights_{modality}."))
        return next((find_inside(self.folder, file) for file in held), None)


def list_datasets() -> list[str]:
    """Data sets that are made here, and those read from files whose store can be opened."""
    found = [name for name in DATASETS if not _is_read(name)]
    for name in list_prepared():
        try:
            _open(name)
        except UserError:  # of an older format, or damaged: `fdlab data list` says so
            continue
        found.append(name)
    return found


def list_prepared() -> list[str]:
    """Names of the stores that were read from files."""
    folders = sorted(paths.stores().iterdir()) if paths.stores().is_dir() else []
    return [p.name for p in folders if NAME.fullmatch(p.name) and (p / "manifest.json").is_file()]


def find_dataset(name: str, *, prepared: bool = True) -> Dataset:
    """What a data set is: the table's entry where it is made here, what the store's manifest says
    where it is read from files.

    prepared: without a store that can be opened it is an error. Otherwise the table's entry stands
    for it, and the one of `folder` for a name that is known nowhere: results may be looked at where
    the files never were. What is no name at all is an error even then, for names become paths.
    """
    if not NAME.fullmatch(name):
        raise name_unknown("data set", name, dict.fromkeys([*DATASETS, *list_prepared()]))
    if name in DATASETS and not _is_read(name):
        return DATASETS[name]
    try:
        return _open(name).dataset
    except UserError:
        if prepared:
            raise
    return replace(DATASETS[name if name in DATASETS else "folder"], name=name)


def prepare(
    name: str,
    options: dict[str, Any] | None = None,
    root: Path | str | None = None,
    kind: str = "",
    *,
    allow_missing: int = 0,
    workers: int = 1,
    force: bool = False,
) -> Store:
    """Open the store of a data set, building it where it is absent, damaged or out of date.

    One that is read from files is built from those below `root`, as `ingest` says; without a root
    it is only opened, and its files' sizes are checked, but not their content, which takes a minute
    for tens of gigabytes (`verify`). kind: the table's entry that reads the files, where `name` is
    another name for the result.
    """
    if not _is_read(name, kind):
        if root is not None or kind or allow_missing:
            raise UserError(f"{name} is made here: expected no files, and no other name")
        return _prepare_made(name, options, workers, force)
    if root is not None:
        folder = _read_files(name, options, Path(root), kind, allow_missing, workers, force)
        _verified.pop((folder, name), None)
    elif force or kind or allow_missing:
        raise UserError(f"{name} is read from files: expected --root FOLDER, where they lie")
    return _open(name, options)


def _prepare_made(name: str, options: dict[str, Any] | None, workers: int, force: bool) -> Store:
    dataset, resolved, folder = _locate(name, options)
    if not force and (folder, name) in _verified:
        return _verified[folder, name]
    if force or not folder.exists() or find_store_damage(folder):  # else no lock is needed
        with holding(folder, f"the store of {dataset.name}"):
            _restore(folder)
            damage = None if force else find_store_damage(folder)
            if damage and folder.exists():
                say(f"fdlab: {damage}; rebuilding the store of {dataset.name}")
            if damage or force:
                _build(dataset, resolved, folder, workers)
    _verified[folder, name] = Store(folder, read_json(folder / "manifest.json"), name)
    return _verified[folder, name]


def _read_files(
    name: str,
    options: dict[str, Any] | None,
    root: Path,
    kind: str,
    allow_missing: int,
    workers: int,
    force: bool,
) -> Path:
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a data set: expected letters, digits and _")
    entry, folder = _find_kind(name, kind), _locate_read(name)
    if folder.name != name:
        raise UserError(f"{name} reads the store of {folder.name}: prepare that one")
    resolved = entry.options(**resolve_options(entry.name, entry.options, options or {}))
    with holding(folder, f"the store of {name}"):
        _restore(folder)
        damage = find_store_damage(folder) if folder.exists() and not force else None
        if damage:
            say(f"fdlab: {damage}; reading the files of {name} again")
        ingest(
            entry,
            root,
            resolved,
            folder,
            workers=workers,
            allow_missing=allow_missing,
            force=force or damage is not None,
        )
    return folder


def find_store(name: str, options: dict[str, Any] | None = None) -> Store | None:
    """The store of a data set where it exists, unverified; None where it must be built first."""
    if _is_read(name):
        return None if _read_manifest(name) is None else _open(name, options)
    folder = _locate(name, options)[2]
    if not (folder / "manifest.json").is_file():
        return None
    return Store(folder, read_json(folder / "manifest.json"), name)


def verify(name: str, options: dict[str, Any] | None = None) -> Store:
    """Check every file of an existing store against its checksum, and every array's rows."""
    read = _is_read(name)
    folder = _locate_read(name) if read else _locate(name, options)[2]
    _restore(folder)
    if not folder.is_dir():
        raise _miss(name)
    again = f"{_ask(name)} --force" if read else f"fdlab data prepare {name}"
    if damage := find_store_damage(folder):
        raise UserError(f"{damage}: run `{again}` to rebuild it")
    return _open(name, options) if read else find_store(name, options)


def find_store_damage(folder: Path) -> str | None:
    """What is wrong with a store, naming the file, or None."""
    try:
        manifest = read_json(folder / "manifest.json")
        return find_damage(folder, manifest["files"]) or _find_other_rows(folder, manifest)
    except FileNotFoundError:
        return f"{folder} holds no manifest.json"
    except (UserError, KeyError, TypeError, AttributeError, ValueError):
        return f"{folder / 'manifest.json'} is damaged"


def _find_other_rows(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Name the first array that has not a row for every event."""
    for name in manifest["files"]:
        path = find_inside(folder, name)
        if path.suffix == ".npy":
            rows = np.load(path, mmap_mode="r", allow_pickle=False).shape[:1]
            if rows != (manifest["events"],):
                return f"{path} has {rows[0]} rows, the manifest {manifest['events']}"
    return None


def _find_cut(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Name the first file that is missing or has another size than its manifest says."""
    for name, size in manifest["sizes"].items():
        path = find_inside(folder, name)
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes, its manifest says {size}"
    return None


def _is_read(name: str, kind: str = "") -> bool:
    """Whether a data set is read from files; an unknown name is an error."""
    entry = _find_kind(name, kind)
    owner = DATASETS[entry.store] if entry.store else entry
    return owner.source is not None


def _find_kind(name: str, kind: str = "") -> Dataset:
    """The table's entry that makes, or reads the files of, a data set."""
    if kind:
        if name in DATASETS and name != kind:
            raise UserError(f"{name} is a data set of its own: expected another name for {kind}")
        return DATASETS[kind]
    if name in DATASETS:
        return DATASETS[name]
    manifest = _read_manifest(name)
    if manifest is None:
        raise name_unknown("data set", name, dict.fromkeys([*DATASETS, *list_prepared()]))
    if manifest.get("kind") not in DATASETS:
        raise UserError(f"the store of {name} is of an unknown kind: prepare it again")
    return DATASETS[manifest["kind"]]


def _locate_read(name: str) -> Path:
    """The folder of a store that is read from files."""
    owner = DATASETS[name].store if name in DATASETS else ""
    return paths.stores() / (owner or name)


def _read_manifest(name: str) -> dict[str, Any] | None:
    """Of a store that is read from files; None where there is none."""
    if not NAME.fullmatch(name):
        return None
    path = _locate_read(name) / "manifest.json"
    _restore(path.parent)
    if not path.is_file():
        return None
    manifest = _read_once(path, path.stat().st_mtime_ns)
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is damaged: run `{_ask(name)} --force`")
    return manifest


def _restore(folder: Path) -> None:
    """A store whose replacement was killed half-way is the one that was to be replaced."""
    if restore_folder(folder):
        say(
            f"fdlab: {folder} was being replaced by a process that was killed: it is back as it was"
        )


@lru_cache(maxsize=32)
def _read_once(path: Path, changed: int) -> Any:
    return read_json(path)


def _ask(name: str) -> str:
    return f"fdlab data prepare {_locate_read(name).name} --root FOLDER"


def _miss(name: str) -> UserError:
    ask = _ask(name) if _is_read(name) else f"fdlab data prepare {name}"
    return UserError(f"{name} is not prepared yet: run `{ask}`")


def _open(name: str, options: dict[str, Any] | None = None) -> Store:
    """A store that is read from files, as it lies there."""
    entry, folder = _find_kind(name), _locate_read(name)
    manifest = _read_manifest(name)
    if manifest is None:
        raise _miss(name)
    if (folder, name) not in _verified or _verified[folder, name].manifest is not manifest:
        owner = DATASETS[entry.store] if entry.store else entry
        for part, current in (("format", FORMAT), ("version", owner.source.version)):
            if manifest.get(part) != current:
                raise UserError(
                    f"the store of {name} is of {part} {manifest.get(part)}, and this is "
                    f"{part} {current}: prepare it again with `{_ask(name)}`"
                )
        try:
            damage = _find_cut(folder, manifest)
            held = Store(folder, manifest, name)
            required = held.info, held.dataset, held.classes, manifest["counts"]["train"]
            required += (dict(manifest["files"]), manifest["options"].get(""))
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            damage = f"{folder / 'manifest.json'} is damaged"
        if damage:
            raise UserError(f"{damage}: run `{_ask(name)} --force`")
        _verified[folder, name] = Store(folder, manifest, name)
    resolve_options(entry.name, entry.options, options or {})
    for option, value in (options or {}).items():
        if manifest["options"].get(option) != value:
            raise UserError(
                f"{name} was prepared with {option}={manifest['options'].get(option)!r}, and "
                f"{value!r} is asked for: run `{_ask(name)} -o {option}={value}`"
            )
    return _verified[folder, name]


def _describe(manifest: dict[str, Any]) -> Dataset:
    """The data set that a store of files says it is."""
    entry = DATASETS[manifest["kind"]]
    return replace(
        entry,
        name=manifest["name"],
        classes=len(manifest["classes"]),
        modalities={
            name: Modality(side["network"], side["augment"], side["frames"])
            for name, side in manifest["modalities"].items()
        },
        directions=tuple(manifest["directions"]),
        task=manifest["task"],
        scenes=tuple(manifest["scenes"]),
    )


def write_store(folder: Path, dataset: Dataset, options: dict[str, Any], built: Built) -> None:
    """Write `built` as a store, whole or not at all."""
    _check(dataset, built)
    with replace_folder(folder) as beside:
        arrays = {"labels": built.labels, "split": built.split} | built.modalities | built.extras
        for name, array in arrays.items():
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
            "modalities": {
                side: describe_modality(modality, arrays[side].dtype, arrays[side].shape[1:])
                for side, modality in dataset.modalities.items()
            },
            "info": built.info,
            "sizes": {name: (beside / name).stat().st_size for name in names},
            "files": checksums(beside, names),
        }
        write_json(beside / "manifest.json", manifest)


def _locate(name: str, options: dict[str, Any] | None) -> tuple[Dataset, dict[str, Any], Path]:
    """Of a data set that is made here: who makes it, with which options, and where."""
    dataset = DATASETS[DATASETS[name].store or name]
    resolved = resolve_options(name, dataset.options, options or {})
    code = code_digest([DATASETS.find_module(dataset.name)], inside=["fdlab.data"])
    return dataset, resolved, paths.stores() / f"{dataset.name}-{digest([resolved, code])}"


def _build(dataset: Dataset, options: dict[str, Any], folder: Path, workers: int) -> None:
    with track(f"building {dataset.name}", 100, unit="%") as report:

        def go_on(done: int, total: int) -> None:
            if reason := stop.find_reason():
                raise stop.Stopped(f"the store of {dataset.name} was not built ({reason})")
            report(100 * done // max(total, 1))

        built = dataset.build(
            dataset.options(**options),
            workers=workers,
            progress=go_on,
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
    if built.labels.min() < 0 or built.labels.max() >= dataset.labels:
        raise ValueError(f"{dataset.name}: labels outside 0 to {dataset.labels - 1}")

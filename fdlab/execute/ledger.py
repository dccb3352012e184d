"""What finished: one done-record per notebook, since an executed notebook on disk is no proof.

A done-record names the key of everything that the notebook depends on (its source, its parameters,
the package's code) and the checksum of everything that it left.
"""

from __future__ import annotations

import datetime
import pkgutil
from pathlib import Path
from typing import Any

import fdlab
from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.files import checksums, find_damage, read_json, write_json
from fdlab.core.fingerprint import code_digest, digest
from fdlab.execute.parameters import read_parameters
from fdlab.figures.save import FIGURES, RESULTS, TABLES

FOLDER, FAILED = "done", "failed"


def stem_of(notebook: str) -> str:
    """02_similarity → similarity."""
    return notebook.split("_", 1)[-1]


def make_key(source: Path, parameters: dict[str, Any], folder: Path) -> str:
    """Digest of a notebook's source, its parameters and the package's code.

    The report reads the other studies' results, so those count for it too; and a notebook with a
    parameter `results` reads the benchmarks' files in the folder that it names.
    """
    modules = [m.name for m in pkgutil.walk_packages(fdlab.__path__, "fdlab.")]
    parts = [source.read_text(encoding="utf-8"), parameters, code_digest(modules, ["fdlab"])]
    if stem_of(source.stem) == "report":
        results = sorted((folder / RESULTS).glob("*.json"))
        names = [path.name for path in results if path.stem != "report"]
        parts.append(checksums(folder / RESULTS, names))
    if own := read_parameters(source).get("results"):
        read = paths.benchmarks(parameters.get("results", own.default))
        parts.append(checksums(read, sorted(path.name for path in read.glob("*.json"))))
    return digest(parts)


def list_files(folder: Path, notebook: str) -> list[str]:
    """What a notebook left, relative to the suite's folder."""
    stem = stem_of(notebook)
    found = [folder / "notebooks" / f"{notebook}.{kind}" for kind in ("ipynb", "html")]
    found.append(folder / RESULTS / f"{stem}.json")
    for kind in (FIGURES, TABLES):
        found += sorted((folder / kind).glob(f"{stem}-*"))
    return [str(path.relative_to(folder)) for path in found if path.is_file()]


def note_done(folder: Path, notebook: str, key: str, seconds: float) -> None:
    record = {
        "notebook": notebook,
        "key": key,
        "seconds": round(seconds, 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": checksums(folder, list_files(folder, notebook)),
    }
    write_json(locate_record(folder, notebook), record)


def note_failed(folder: Path, notebook: str, error: str) -> None:
    """For the report, which names what failed; nothing depends on it."""
    write_json(folder / FAILED / f"{notebook}.json", {"notebook": notebook, "error": error})


def read_failures(folder: Path) -> dict[str, str]:
    """Notebook → the last line of the error that it ended with, of those that failed last."""
    found = {}
    for path in sorted((folder / FAILED).glob("*.json")):
        try:
            record = read_json(path)
            found[str(record["notebook"])] = str(record["error"])
        except (OSError, UserError, KeyError, TypeError):
            continue  # gone meanwhile, or damaged: the notebook has no done-record either
    return found


def locate_record(folder: Path, notebook: str) -> Path:
    """A notebook's done-record; whoever runs the notebook holds the lock of this path."""
    return folder / FOLDER / f"{notebook}.json"


def find_reason(folder: Path, notebook: str, key: str | None) -> str | None:
    """Why a notebook must run: a short reason, "" where it never ran, or None where it is done.

    Without a key only the files are checked.
    """
    path = folder / FOLDER / f"{notebook}.json"
    if not path.is_file():
        return ""
    try:
        record = read_json(path)
        if key is not None and record["key"] != key:
            return "its source, parameters, code or what it reads changed"
        return find_damage(folder, record["files"])
    except (UserError, KeyError, TypeError, AttributeError):
        return f"{path} is damaged"


def forget(folder: Path, notebook: str) -> None:
    """Before a notebook runs: what it left earlier no longer counts, in the report neither."""
    locate_record(folder, notebook).unlink(missing_ok=True)
    (folder / FAILED / f"{notebook}.json").unlink(missing_ok=True)
    (folder / RESULTS / f"{stem_of(notebook)}.json").unlink(missing_ok=True)


def find_unfinished(folder: Path, notebooks: list[str]) -> list[str]:
    """Those of the notebooks that have no done-record, or whose files differ from it."""
    return [name for name in notebooks if find_reason(folder, name, None) is not None]

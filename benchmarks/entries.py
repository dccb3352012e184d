"""A benchmark's file: a list of entries, one for each machine and task, newest measurement kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fdlab.core.errors import UserError
from fdlab.core.files import read_json, write_json


def keep_entry(path: Path, entry: dict[str, Any], same: Iterable[str]) -> None:
    """Write `entry` in the place of the one that agrees with it in the fields `same`, or at the
    end where there is none."""
    entries = read_json(path) if path.exists() else []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise UserError(f"{path} holds no list of entries: expected one that a benchmark wrote")
    alike = [i for i, e in enumerate(entries) if all(e.get(k) == entry[k] for k in same)]
    place = alike[0] if alike else len(entries)
    kept = [each for number, each in enumerate(entries) if number not in alike]
    write_json(path, [*kept[:place], entry, *kept[place:]])

"""The hyperparameters that a comparison runs with, from one table with the source of each."""

from __future__ import annotations

import csv
import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

from fdlab.core.config import Pair
from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.methods.base import resolve_method_options

OWN = "hyperparameters.csv"  # beside the methods
PAIRS = "pair_hyperparameters.csv"  # likewise: values of their own for pairs of networks
COLUMNS = ("method", "option", "value", "source")


@dataclasses.dataclass(frozen=True)
class Setting:
    """own: whether it is of the project's table. pair: teacher's and student's network, such as
    vgg13-vgg8, where it is for these alone."""

    method: str
    option: str
    value: Any
    source: str
    own: bool = False
    pair: str = ""


def read_settings(path: str = "") -> list[Setting]:
    """Every row of a CSV file with the columns method, option, value, source; "" is the project's.

    Of the project's, every value is the method's default. A method or an option that has no row
    keeps its default. Values are JSON, or plain text.
    """
    if path and not Path(path).is_file():
        raise UserError(f"{path}: no such file of hyperparameters")
    place = Path(path) if path else resources.files("fdlab.methods").joinpath(OWN)
    reader = csv.DictReader(place.read_text(encoding="utf-8").splitlines())
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise UserError(
            f"{path} has the columns {', '.join(reader.fieldnames or ['none'])}: expected "
            f"{', '.join(COLUMNS)}"
        )
    settings = [
        Setting(row["method"], row["option"], _parse(row["value"]), row["source"], not path)
        for row in reader
    ]
    for method in dict.fromkeys(setting.method for setting in settings):
        resolve_method_options(method, choose_options(settings, method))
    return settings


def read_pair_settings() -> list[Setting]:
    """The values that the methods' authors have for each pair of networks on CIFAR-100, under the
    benchmark's own recipe."""
    text = resources.files("fdlab.methods").joinpath(PAIRS).read_text(encoding="utf-8")
    return [
        Setting(
            row["method"],
            row["option"],
            _parse(row["value"]),
            row["source"],
            True,
            str(Pair(row["teacher"], row["student"])),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def choose_options(settings: list[Setting], method: str) -> dict[str, Any]:
    """Option → value of one method; of a sum of methods each option of each part, unless the sum
    has rows of its own.

    The project's value is left out where a task has a default of its own (`dense_options`).
    """
    settings = [s for s in settings if not (s.own and s.option in METHODS[s.method].dense_options)]
    found = {
        f"{part}_{s.option}": s.value
        for _, part in getattr(METHODS[method], "parts", ())
        for s in settings
        if s.method == part
    }
    return found | {s.option: s.value for s in settings if s.method == method}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text

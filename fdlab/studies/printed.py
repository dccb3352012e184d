"""FiGKD's tables of teacher–student pairs as they are printed, and what does not add up in them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fdlab.core.config import PAIR
from fdlab.core.errors import name_unknown
from fdlab.models import MODELS
from fdlab.reference import read_table
from fdlab.studies.published import SOURCES, Place

SAME, CROSS = "same", "cross"  # groups of pairs: networks of one family, or of two
GROUPS = {SAME: "same family", CROSS: "cross family"}
# (data set's name in the tables, group) → its file. That of the fine-grained sets has a column per
# set and teacher, and one student.
TABLES = {
    ("cifar100", SAME): "figkd_cifar100_same_family",
    ("cifar100", CROSS): "figkd_cifar100_cross_family",
    ("tinyimagenet", SAME): "figkd_tinyimagenet_same_family",
    ("tinyimagenet", CROSS): "figkd_tinyimagenet_cross_family",
}
FINE = "figkd_fgvr"
FINE_STUDENT = "resnet18"
ELSEWHERE = "cifar100"  # whose numbers stand beside a data set that the tables do not have
TEACHER, STUDENT, OURS = "teacher", "student", "figkd"  # rows
AVERAGE = "average"
# What the tables call a network, where its name here says more.
NAMES = {
    "mobilenetv2_half": "mobilenetv2",
    "resnet18_cifar": "resnet18",
    "resnet34_cifar": "resnet34",
    "resnet50_cifar": "resnet50",
}
KNOWN_AS = {name: own for own, name in NAMES.items()}


def find_group(teacher: str, student: str) -> str:
    """Of two names in `MODELS`: one family is one file of networks."""
    files = {MODELS.find_module(name) for name in (teacher, student)}
    return SAME if len(files) == 1 else CROSS


def name_printed(networks: str) -> str:
    """A network's name, or a pair of them, as the tables have it.

    >>> name_printed("resnet50_cifar-mobilenetv2_half")
    'resnet50-mobilenetv2'
    """
    return PAIR.join(NAMES.get(name, name) for name in networks.split(PAIR))


def find_network(printed: str) -> str:
    """The name in `MODELS` of a network of the CIFAR tables."""
    name = KNOWN_AS.get(printed, printed)
    if name not in MODELS:
        raise name_unknown("network of the printed tables", printed, MODELS)
    return name


def find_column(data: str, teacher: str, student: str) -> tuple[str, str] | None:
    """(file, column) of a pair of names in `MODELS` on a data set of the tables, or None."""
    first, second = name_printed(teacher), name_printed(student)
    table, column = TABLES.get((data, find_group(teacher, student))), f"{first}{PAIR}{second}"
    if table is None:
        table, column = FINE, f"{data}_{first}"
        if second != FINE_STUDENT:
            return None
    return (table, column) if column in read_table(table)[0] else None


@functools.cache
def read_values(table: str) -> dict[str, dict[str, float]]:
    """Row → column → value of a table of pairs; what is not printed is left out."""
    return {
        row["method"]: {c: float(x) for c, x in row.items() if c != "method" and x}
        for row in read_table(table)
    }


def find_value(place: Place) -> float | None:
    """The printed value of a cell; None where there is none, or no file ("")."""
    table, row, column = place
    if not table:
        return None
    return read_values(table).get(row, {}).get(column)


def compare_rows(table: str, rival: str) -> dict[str, float]:
    """Column → FiGKD minus another row, in points, as printed."""
    values = read_values(table)
    return {c: values[OURS][c] - values[rival][c] for c in values[OURS] if c != AVERAGE}


def count_best(table: str) -> tuple[int, int]:
    """In how many columns FiGKD is the highest of the distilled students, and of how many."""
    values = read_values(table)
    rows = [row for row in values if row != TEACHER]
    columns = [c for c in values[OURS] if c != AVERAGE]
    return sum(max(rows, key=lambda r: values[r].get(c, 0)) == OURS for c in columns), len(columns)


@dataclass(frozen=True)
class Slip:
    """Something in a printed table that its own cells contradict or make unlikely.

    what: in words; printed: as it stands there; found: what its cells say.
    """

    where: str
    what: str
    printed: str
    found: str


def find_slips() -> list[Slip]:
    """What the cells of Tables I to IV show by themselves; nothing here is typed.

    Averages that are not those of their row at two decimals; two columns that share three values or
    more, row by row; a method that equals the bare student in two columns or more; different
    students with one value.
    """
    slips = []
    for table in TABLES.values():
        values, where = read_values(table), SOURCES[table].where
        for row, cells in values.items():
            if AVERAGE in cells:
                own = np.mean([x for c, x in cells.items() if c != AVERAGE])
                if abs(own - cells[AVERAGE]) > 0.00501:
                    slips.append(Slip(where, f"average of {row}", f"{cells[AVERAGE]:.2f}",
                                      f"{own:.2f} over its {len(cells) - 1} cells"))  # fmt: skip
        slips += _find_repeats(values, where)
    return slips


def _find_repeats(values: dict[str, dict[str, float]], where: str) -> list[Slip]:
    slips, bare = [], values[STUDENT]
    methods = [row for row in values if row not in (TEACHER, STUDENT)]
    for one, two in combinations(bare, 2):
        alike = [m for m in methods if one in values[m] and values[m][one] == values[m].get(two)]
        if len(alike) > 2:
            slips.append(Slip(where, f"columns {one} and {two}", f"equal in {', '.join(alike)}",
                              "two students of their own"))  # fmt: skip
    students: dict[float, list[str]] = {}
    for column, value in bare.items():
        students.setdefault(value, []).append(column.split("-")[1])
    for value, names in students.items():
        if len(set(names)) > 1:
            slips.append(Slip(where, f"bare students {' and '.join(dict.fromkeys(names))}",
                              f"{value:.2f}", "two networks with one value"))  # fmt: skip
    for method in methods:
        alike = [c for c, value in bare.items() if values[method].get(c) == value]
        if len(alike) > 1:
            slips.append(Slip(where, f"row {method}", f"the bare student in {', '.join(alike)}",
                              "no gain and no loss, to the digit"))  # fmt: skip
    return slips

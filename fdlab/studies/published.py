"""The papers' tables cell by cell, and the verdict on a measured cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scipy import stats

from fdlab.core.estimate import Estimate
from fdlab.reference import read_table
from fdlab.studies.claims import OPEN, REFUTED, SUPPORTED, Number, describe_n
from fdlab.studies.stats import LEVEL

OWN_RECIPE = "paper"  # the preset that is the paper's network and recipe


@dataclass(frozen=True)
class Source:
    """Where a file of `fdlab.reference` is from, and which study measures it.

    keys: the columns that name a row. aside: further columns that hold no value. percent: whether
    the values are accuracies, each a share of right answers. turned: whether a line is of one data
    set and pair of networks, which it names aside, and a column is what others have as a row. data:
    the data set that all of a file is about, "" where each column names its own. counted: whether
    the values are counts of a network, which any data set's suite can make and which have no
    interval. runs: how many the paper averages.
    """

    where: str
    study: str
    quantity: str
    keys: tuple[str, ...]
    aside: tuple[str, ...] = ()
    percent: bool = False
    turned: bool = False
    data: str = ""
    counted: bool = False
    runs: int = 1


def _accuracy(
    where: str, study: str, *keys: str, aside: tuple[str, ...] = (), data: str = "", runs: int = 1
) -> Source:
    about = "top-1 accuracy (%)"
    return Source(where, study, about, keys, aside, percent=True, data=data, runs=runs)


def _pairs(number: str, data: str = "") -> Source:
    return _accuracy(f"FiGKD, Table {number}", "zoo", "method", data=data, runs=3)


# Columns of values are `<data set>` or `<data set>_<student's modality>`, or of FiGKD's pairs
# `<teacher>-<student>`, `<data set>_<teacher>-<student>` and `<data set>_<teacher>`.
SOURCES = {
    "fdcmkd_figure1_scale": Source("figure 1", "scale", "features, audio - visual", ("quantity",)),
    "fdcmkd_table1_similarity": Source(
        "Table 1", "similarity", "cosine of two modalities", ("feature",)
    ),
    "fdcmkd_table2_classification": _accuracy(
        "Table 2", "comparison", "method", aside=("category",)
    ),
    "fdcmkd_table3_segmentation": Source(
        "Tables 3 and 5", "comparison", "mIoU (%)", ("method",), aside=("table",)
    ),
    "fdcmkd_table4_components": _accuracy("Table 4", "ablation", "freq", "align", "scale", "log"),
    "fdcmkd_table6_losses": _accuracy("Table 6", "ablation", "low_loss", "high_loss"),
    "fdcmkd_table7_cutoff": _accuracy("Table 7", "ablation", "cutoff"),
    "fdcmkd_table8_bands": _accuracy("Table 8", "ablation", "high", "low"),
    "fdcmkd_figure5_weights": Source(
        "figure 5", "sensitivity", "weight of the distances", ("quantity",)
    ),
    "figkd_cifar100_same_family": _pairs("I", "cifar100"),
    "figkd_cifar100_cross_family": _pairs("II", "cifar100"),
    "figkd_tinyimagenet_same_family": _pairs("III", "tinyimagenet"),
    "figkd_tinyimagenet_cross_family": _pairs("IV", "tinyimagenet"),
    "figkd_fgvr": _pairs("V"),
    "figkd_table7_model_cost": Source(
        "FiGKD, Table VII", "zoo", "size", ("teacher", "student"), counted=True
    ),
    "figkd_table6_frequency_ablation": Source(
        "FiGKD, Table VI",
        "logits",
        "top-1 accuracy (%)",
        ("bands",),
        aside=("dataset", "teacher", "student"),
        percent=True,
        turned=True,
        runs=3,
    ),
}
Place = tuple[str, str, str]  # of a cell: file, row, column


def list_published() -> list[Number]:
    """Every cell that has a value, once, none of them measured yet.

    A row's key is the values of its key columns with spaces between, such as "1 0 1 0".
    """
    numbers = []
    for table, source in SOURCES.items():
        for names, column, value in _list_cells(table, source):
            words = [f"{key} {name}" for key, name in zip(source.keys, names, strict=True)]
            numbers.append(
                Number(
                    quantity=f"{source.quantity}, {', '.join(words)}",
                    where=source.where,
                    table=table,
                    key=" ".join(names),
                    data=column,
                    paper=float(value),
                    digits=len(value.partition(".")[2]),
                    study=source.study,
                )
            )
    return numbers


def _list_cells(table: str, source: Source) -> Iterator[tuple[list[str], str, str]]:
    """Every cell that has a value: (what names its row, its column, its value)."""
    for row in read_table(table):
        for column, value in row.items():
            if column in (*source.keys, *source.aside) or not value:
                continue
            if source.turned:
                yield [column], f"{row['dataset']}_{row['teacher']}-{row['student']}", value
            else:
                yield [row[key] for key in source.keys], column, value


def find_data(number: Number) -> tuple[str, str]:
    """(data set, what else its column names) of a number; ("", column) where it is about none."""
    source = SOURCES[number.table]
    if source.data or source.counted:
        return source.data, number.data
    data, _, rest = number.data.partition("_")
    return data, rest


def weigh(number: Number, ours: Estimate, samples: int, preset: str, control: str = "") -> Number:
    """The number with what was measured of it over seeds, on `samples` test samples.

    It agrees where the paper's value lies inside our interval over seeds. An accuracy's interval is
    first widened by the binomial error of the paper's one run on its own test split, both at 95 %
    and added in squares (our choice). Where that split's size is not reported, ours is taken. How
    the paper's run varies over seeds is not known, and nothing is added for it. Compared at the
    digits that the paper prints. A mean of several runs on one split is taken as one of them, since
    they share its samples. A count agrees where it is the same at those digits.
    """
    source = SOURCES[number.table]
    if source.counted:
        same = is_printed(ours.mean, number.paper, number.digits)
        why = f"counted, {'and' if same else 'but not'} the same at the paper's digits"
        return replace(number, ours=ours, control=control, why=why, n="counted: no samples",
                       verdict=SUPPORTED if same else REFUTED)  # fmt: skip
    low, high, rule = ours.low, ours.high, "our interval over seeds; the paper gives none"
    if source.percent:
        known = count_tested(find_data(number)[0])
        error = find_error(number.paper, known or samples)
        low = ours.mean - math.hypot(ours.mean - ours.low, error)
        high = ours.mean + math.hypot(ours.high - ours.mean, error)
        rule = (
            f"our interval over seeds widened by the binomial error of {_say_runs(source.runs)} on "
            + (f"{known} test samples" if known else f"{samples} test samples (ours: its own n is "
               "not reported)")
        )  # fmt: skip
    inside = round(low, number.digits) <= number.paper <= round(high, number.digits)
    span = f"[{low:.{number.digits}f}, {high:.{number.digits}f}]"
    why = f"the paper's value lies {'inside' if inside else 'outside'} {span}, {rule}"
    if not ours.known:
        why = "one seed has no interval"
    if preset != OWN_RECIPE:
        why += f"; preset {preset} is not the paper's network and recipe"
    return replace(
        number,
        ours=ours,
        control=control,
        verdict=OPEN if not ours.known else SUPPORTED if inside else REFUTED,
        why=why,
        n=describe_n(samples, ours.n),
    )


def is_printed(value: float, printed: float, digits: int = 2) -> bool:
    """Whether a value rounds to a printed one; half of the last digit may have gone either way.

    >>> is_printed(3.625, 3.63), is_printed(3.62, 3.63)
    (True, False)
    """
    return abs(value - printed) < 0.5 * 10**-digits + 1e-9


def _say_runs(runs: int) -> str:
    return "the paper's one run" if runs == 1 else f"one of the paper's {runs} runs"


def find_error(percent: float, samples: int) -> float:
    """Half width of the 95 % normal interval of an accuracy (%) of one run on `samples` samples."""
    share = percent / 100
    return float(100 * stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt(share * (1 - share) / samples))


def count_tested(data: str) -> int | None:
    """The paper's number of test samples of a data set, None where it is not reported."""
    found = (row["test"] for row in read_table("fdcmkd_datasets") if row["data"] == data)
    return int(next(found, "") or 0) or None

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
    set and pair of networks, which it names aside, and a column is what others have as a row.
    """

    where: str
    study: str
    quantity: str
    keys: tuple[str, ...]
    aside: tuple[str, ...] = ()
    percent: bool = False
    turned: bool = False


def _accuracy(where: str, study: str, *keys: str, aside: tuple[str, ...] = ()) -> Source:
    return Source(where, study, "top-1 accuracy (%)", keys, aside, percent=True)


# Columns of values are `<data set>`, `<data set>_<student's modality>`, or `<data set>_<pair>`.
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
    "figkd_table6_frequency_ablation": Source(
        "FiGKD, Table VI",
        "logits",
        "top-1 accuracy (%)",
        ("bands",),
        aside=("dataset", "teacher", "student"),
        percent=True,
        turned=True,
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


def name_pair(pair: str) -> str:
    """A pair of our networks as FiGKD's tables print it: its MobileNetV2 is the one of half width.

    >>> name_pair("vgg13-mobilenetv2_half")
    'vgg13-mobilenetv2'
    """
    return pair.replace("mobilenetv2_half", "mobilenetv2")


def weigh(number: Number, ours: Estimate, samples: int, preset: str, control: str = "") -> Number:
    """The number with what was measured of it over seeds, on `samples` test samples.

    It agrees where the paper's value lies inside our interval over seeds. An accuracy's interval is
    first widened by the binomial error of the paper's one run on its own test split, both at 95 %
    and added in squares (our choice). Where that split's size is not reported, ours is taken. How
    the paper's run varies over seeds is not known, and nothing is added for it. Compared at the
    digits that the paper prints.
    """
    low, high, rule = ours.low, ours.high, "our interval over seeds; the paper gives none"
    if SOURCES[number.table].percent:
        known = count_tested(number.data.partition("_")[0])
        error = find_error(number.paper, known or samples)
        low = ours.mean - math.hypot(ours.mean - ours.low, error)
        high = ours.mean + math.hypot(ours.high - ours.mean, error)
        rule = (
            "our interval over seeds widened by the binomial error of the paper's one run on "
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


def find_error(percent: float, samples: int) -> float:
    """Half width of the 95 % normal interval of an accuracy (%) of one run on `samples` samples."""
    share = percent / 100
    return float(100 * stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt(share * (1 - share) / samples))


def count_tested(data: str) -> int | None:
    """The paper's number of test samples of a data set, None where it is not reported."""
    found = (row["test"] for row in read_table("fdcmkd_datasets") if row["data"] == data)
    return int(next(found, "") or 0) or None

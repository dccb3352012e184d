"""Every row of the paper's ablation tables and every control beside them, as runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fdlab.core.config import Direction, RunConfig, TrainConfig
from fdlab.core.errors import name_unknown
from fdlab.studies.plan import Plan

GROUPS = 8  # of channels, for the learned cut-off with an edge per group
# Passes of a distilled student's whole training, in forward passes: its own (a backward pass costs
# two), the teacher's forward pass in every step, and the teacher's training. None of them is free.
LONGER = (3 + 1 + 3) / 3


@dataclass(frozen=True)
class Variant:
    """One row. words: as printed. options: of the method, over its defaults.

    others: further fields of the run (`teacher_kind`). own: the teacher is of the student's own
    modality, trained under the next seed. longer: the epochs are multiplied by `LONGER`.
    """

    words: str
    method: str = "fdcmkd"
    options: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    own: bool = False
    longer: bool = False


def _parts(words: str, **on: bool) -> Variant:
    off = dict.fromkeys(("frequency", "align", "scale", "log"), False)
    return Variant(words, options=off | on)


VARIANTS = {
    "full": Variant("FD-CMKD"),
    "feat": Variant("none of the parts (feature MSE)", "feat"),
    "freq": _parts("frequency", frequency=True),
    "align": _parts("align", align=True),
    "freq_align": _parts("frequency, align", frequency=True, align=True),
    "freq_scale": _parts("frequency, scale", frequency=True, scale=True),
    "no_log": Variant("frequency, align, scale", options={"log": False}),
    "log_log": Variant("low logMSE, high logMSE", options={"log_low": True}),
    "log_mse": Variant("low logMSE, high MSE", options={"log_low": True, "log": False}),
    "cutoff_quarter": Variant("cut-off 1/4", options={"cutoff": 0.25}),
    "cutoff_third": Variant("cut-off 1/3", options={"cutoff": 1 / 3}),
    "high_only": Variant("high band only", options={"bands": "high"}),
    "low_only": Variant("low band only", options={"bands": "low"}),
    "none": Variant("no distillation", "none"),
    "longer": Variant("no distillation, longer at equal cost", "none", longer=True),
    "heads_only": Variant("its heads, no teacher", "heads_only"),
    "shuffled": Variant("teacher shuffled over samples", others={"teacher_kind": "shuffled"}),
    "in_class": Variant("teacher shuffled in class", others={"teacher_kind": "shuffled_in_class"}),
    "untrained": Variant("untrained teacher", others={"teacher_kind": "untrained"}),
    "constant": Variant("constant teacher", others={"teacher_kind": "constant"}),
    "own": Variant("teacher of its own modality", own=True),
    "dct": Variant("cosine basis (DCT)", options={"basis": "dct"}),
    "haar": Variant("Haar basis", options={"basis": "haar"}),
    "random": Variant("random basis", options={"basis": "random"}),
    "permuted": Variant("Fourier, channels permuted", options={"basis": "permuted"}),
    "sum": Variant("sum over D", options={"reduction": "sum"}),
    "soft": Variant("learned cut-off", "fdcmkd_soft"),
    "soft_groups": Variant("learned cut-off per group", "fdcmkd_soft", {"groups": GROUPS}),
}

# Table → its rows in the paper's order. The rows that the paper does not have are in "controls".
TABLES = {
    "table4": ("feat", "freq", "align", "freq_align", "freq_scale", "no_log", "full"),
    "table6": ("full", "no_log", "log_log", "log_mse"),
    "table7": ("cutoff_quarter", "full", "cutoff_third"),
    "table8": ("high_only", "low_only", "full"),
    "controls": (
        *("full", "none", "longer", "heads_only"),
        *("shuffled", "in_class", "untrained", "constant", "own"),
        *("dct", "haar", "random", "permuted", "sum", "soft", "soft_groups"),
    ),
}


def find_variants(tables: Iterable[str]) -> list[str]:
    """The rows of some tables, each once; none and heads_only are always among them."""
    names = ["none", "heads_only", "full"]
    for table in tables:
        if table not in TABLES:
            raise name_unknown("table", table, TABLES)
        names += TABLES[table]
    return list(dict.fromkeys(names))


def _lengthen(train: TrainConfig) -> TrainConfig:
    return replace(train, epochs=round(LONGER * train.epochs))


def configure_variant(plan: Plan, name: str, way: Direction, seed: int) -> RunConfig:
    """The run of a row in one direction under one seed."""
    variant = VARIANTS[name]
    others = dict(variant.others)
    teacher = way.teacher
    usual = plan.configure(way.student, variant.method, teacher, seed)
    if variant.own:
        teacher, others["teacher_seed"] = way.student, seed + 1
        if usual.network:  # its own network too, where a pair of them is compared
            others |= {"network": usual.network, "teacher_network": usual.network}
    if variant.longer:
        others["train"] = _lengthen(usual.train)
    return plan.configure(way.student, variant.method, teacher, seed, variant.options, **others)

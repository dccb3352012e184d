"""Distillation methods: one file each, one line each in `METHODS`."""

from __future__ import annotations

import math
from typing import Any

from fdlab.core.errors import UserError
from fdlab.core.tables import Table


class _Methods(Table):
    """The table, which also answers for weighted sums of its methods, such as `fdcmkd+0.5*at`."""

    def __getitem__(self, name: str) -> Any:
        if not is_sum(name):
            return super().__getitem__(name)
        from fdlab.methods.combined import combine

        return combine(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not is_sum(name):
            return super().__contains__(name)
        try:
            return all(part in self.places for _, part in split_sum(name))
        except UserError:
            return False

    def find_modules(self, name: str) -> list[str]:
        """The modules of a method, or of every part of a sum; unknown names are refused."""
        if not is_sum(name):
            return [self.find_module(name)]
        own = [self.find_module(part) for _, part in split_sum(name)]
        return ["fdlab.methods.combined", *own]


def is_sum(name: str) -> bool:
    return "+" in name or "*" in name


def split_sum(name: str) -> list[tuple[float, str]]:
    """`fdcmkd+0.5*at` → [(1.0, "fdcmkd"), (0.5, "at")]."""
    parts = []
    for text in name.split("+"):
        factor, star, part = text.rpartition("*")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf or not part:
            raise UserError(
                f"{text!r} in {name!r} is no part of a sum: expected a method, or a weight from 0 "
                "and a method, such as fdcmkd+0.5*at"
            )
        parts.append((weight, part))
    if len({part for _, part in parts}) < len(parts):
        raise UserError(f"{name!r} names a method twice: expected each once")
    return parts


METHODS = _Methods(
    "method",
    {
        "none": "fdlab.methods.none:NoDistillation",
        "heads_only": "fdlab.methods.heads_only:HeadsOnly",
        # FD-CMKD's Table 2
        "kd": "fdlab.methods.kd:LogitDistillation",
        "dist": "fdlab.methods.dist:DIST",
        "dml": "fdlab.methods.dml:DML",
        "nkd": "fdlab.methods.nkd:NKD",
        "nckd": "fdlab.methods.nckd:NCKD",
        "dkd": "fdlab.methods.dkd:DKD",
        "feat": "fdlab.methods.feat:FeatureDistillation",
        "fitnet": "fdlab.methods.fitnet:FitNet",
        "pkd": "fdlab.methods.pkd:PKD",
        "ofd": "fdlab.methods.ofd:OFD",
        "afd": "fdlab.methods.afd:AFD",
        "c2kd": "fdlab.methods.c2kd:C2KD",
        "fdcmkd": "fdlab.methods.fdcmkd:FDCMKD",
        "fdcmkd_soft": "fdlab.methods.fdcmkd_soft:SoftFDCMKD",
        # what the other papers compare with
        "at": "fdlab.methods.at:AT",
        "sp": "fdlab.methods.sp:SP",
        "rkd": "fdlab.methods.rkd:RKD",
        "pkt": "fdlab.methods.pkt:PKT",
        "vid": "fdlab.methods.vid:VID",
        "crd": "fdlab.methods.crd:CRD",
        "reviewkd": "fdlab.methods.reviewkd:ReviewKD",
        "mlkd": "fdlab.methods.mlkd:MLKD",
        "catkd": "fdlab.methods.catkd:CATKD",
        "ofa": "fdlab.methods.ofa:OFA",
        "freekd": "fdlab.methods.freekd:FreeKD",
        "freqkd": "fdlab.methods.freqkd:FreqKD",
        "anchor": "fdlab.methods.anchor:Anchor",
        # of the other papers' own, those of which no code is public: reconstructions
        "figkd": "fdlab.methods.figkd:FiGKD",
        "sfkd": "fdlab.methods.sfkd:SFKD",
        # segmentation alone: FD-CMKD's Table 5
        "mmanet": "fdlab.methods.mmanet:MMANet",
        "cirkd": "fdlab.methods.cirkd:CIRKD",
        # released forms that differ from their papers
        "c2kd_released": "fdlab.methods.c2kd:ReleasedC2KD",
        "dml_released": "fdlab.methods.dml:ReleasedDML",
        "mlkd_released": "fdlab.methods.mlkd:ReleasedMLKD",
        "ofd_released": "fdlab.methods.ofd:ReleasedOFD",
        "vid_released": "fdlab.methods.vid:ReleasedVID",
    },
)

"""The control that shows what deep supervision alone gives: FD-CMKD's heads and no teacher."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.methods.base import Batch, LossTerms
from fdlab.methods.fdcmkd import FDCMKD
from fdlab.models.output import ModelOutput


class HeadsOnly(FDCMKD):
    """L = L_task + the student's half of L_align; nothing of the teacher enters.

    Same bands, heads and predictions as `fdcmkd` between networks of one width; every difference
    between the two is the teacher's. Our own control, in no paper.
    """

    name = "heads_only"
    summary = "FD-CMKD's extra heads with no teacher at all"
    source = "control"
    tasks = SCORED
    needs = ()
    compares = ()
    strength = ()

    @dataclass(frozen=True)
    class Options:
        """Those of `fdcmkd` that shape its heads."""

        frequency: bool = True
        align: bool = True
        cutoff: float = 0.5
        dc: str = "drop"
        bands: str = "both"
        basis: str = "dft"
        basis_seed: int = 0
        axis: str = "channel"

        def __post_init__(self):
            FDCMKD.Options(**dataclasses.asdict(self))  # its checks

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        bands = self.split(self.projector(student.feature), student)
        return self.classify(student, bands, {}, batch)

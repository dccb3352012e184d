"""NCKD: distillation of the non-target logits alone, the "NKD" of FD-CMKD's Table 2."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.data.dataset import SCORED
from fdlab.losses.logits import cross_entropy
from fdlab.losses.targets import nckd
from fdlab.methods.base import Batch, LossTerms, Method, require_positive, require_weights
from fdlab.models.output import ModelOutput


class NCKD(Method):
    """L = CE + w · T² · KL of the K - 1 classes beside the target, softmax over those alone.

    The second half of DKD. The earlier version of the FD-CMKD paper defines its row "NKD" so; the
    AAAI version dropped that sentence. T = 4 is DKD's; w = 1 is our choice, since the paper gives
    none.
    """

    name = "nckd"
    summary = "divergence of the non-target logits alone"
    source = "FD-CMKD, Table 2 (row NKD); Zhao et al., CVPR 2022"
    tasks = SCORED
    needs = ("logits",)
    compares = ("others",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        temperature: float = 4.0

        def __post_init__(self):
            require_weights(self, "weight")
            require_positive(self, "temperature")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        others = nckd(
            student.logits, teacher.logits.detach(), batch.labels, self.options.temperature
        )
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "others": self.options.weight * others}

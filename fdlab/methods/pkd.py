"""PKD: Pearson correlation of standardised maps (Cao et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fdlab.data.dataset import SCORED
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import require_arrangement, standardised_mse
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.maps import arrange, match_channels
from fdlab.models.output import ModelOutput


class PKD(Method):
    """L = CE + w · ½ mean (Ŝ - T̂)², each channel of the last map standardised over the batch.

    Equals w (n - 1)/n (1 - mean_c r_c), r Pearson's correlation per channel, n values a channel.
    Default w = 6, the authors' for Faster R-CNN (10 for RetinaNet); none is given for
    classification. Maps before the ReLU, pooled first, so that n = N; `compare` = "resized" keeps
    the positions, n = N·H·W, as in detection. Where channels differ the student's go through a 1×1
    convolution: our choice.
    """

    name = "pkd"
    summary = "correlation of the last map's channels over the batch"
    source = "Cao et al., NeurIPS 2022"
    tasks = SCORED
    dense_options: ClassVar[dict[str, Any]] = {"compare": "resized"}  # positions correspond
    needs = ("last",)
    compares = ("feature",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 6.0
        compare: str = "pooled"

        def __post_init__(self):
            require_weights(self, "weight")
            require_arrangement(self.compare)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("last")
        self.connectors = match_channels(sizes.pair_channels("last"))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine, theirs = arrange(student, teacher, self.names[0], self.options.compare, relu=False)
        distance = standardised_mse(self.connectors[0](mine), theirs)
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "feature": self.options.weight * distance}

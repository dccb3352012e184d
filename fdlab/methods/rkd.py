"""RKD: relations of distance and of angle (Park et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.losses.logits import cross_entropy
from fdlab.losses.relations import angle_relation, distance_relation
from fdlab.methods.base import Batch, LossTerms, Method, require_weights
from fdlab.models.output import ModelOutput


class RKD(Method):
    """L = CE + w_d · L_distance + w_a · L_angle over the pairs and triples of the batch.

    Smooth L1 of the distances over their mean (`distance_relation`), and of the cosines of the
    angles (`angle_relation`), mean over N² and N³. Defaults w_d = 25, w_a = 50: the paper's for
    CIFAR-100.
    On the pooled feature before the ReLU, as every feature method here, where the authors' networks
    pool after it: our choice. Widths may differ.
    """

    name = "rkd"
    summary = "distances and angles between the batch's features"
    source = "Park et al., CVPR 2019"
    needs = ("feature",)
    compares = ("distance", "angle")
    strength = ("distance_weight", "angle_weight")

    @dataclass(frozen=True)
    class Options:
        distance_weight: float = 25.0
        angle_weight: float = 50.0

        def __post_init__(self):
            require_weights(self, "distance_weight", "angle_weight")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        pair = student.feature, teacher.feature.detach()
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "distance": self.options.distance_weight * distance_relation(*pair),
            "angle": self.options.angle_weight * angle_relation(*pair),
        }

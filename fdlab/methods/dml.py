"""Deep mutual learning: two networks from scratch (Zhang et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.losses.logits import cross_entropy, kl_divergence, kl_with_floor
from fdlab.methods.base import FRESH, Batch, LossTerms, Method, require_weights
from fdlab.models.output import ModelOutput


class DML(Method):
    """L_s = CE(z_s, y) + w KL(p(z_t) ‖ p(z_s)), L_t = CE(z_t, y) + w KL(p(z_s) ‖ p(z_t)), T = 1.

    The teacher's network is a peer: it starts from scratch and trains beside the student, each by
    its own loss, the other's logits detached. Default w = 1 (the paper). Both are updated in one
    step on one batch, where the release updates one after the other. Its use across modalities is
    our reading: the FD-CMKD paper says nothing of how its row was run.
    """

    name = "dml"
    summary = "two networks from scratch that teach each other"
    source = "Zhang et al., CVPR 2018"
    needs = ("logits",)
    compares = ("kd", "teacher_kd")
    strength = ("weight",)
    teaching = FRESH

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0

        def __post_init__(self):
            require_weights(self, "weight")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine, theirs, weight = student.logits, teacher.logits, self.options.weight
        return {
            "task": cross_entropy(mine, batch.labels),
            "kd": weight * self.diverge(mine, theirs.detach()),
            "teacher_task": cross_entropy(theirs, batch.labels),
            "teacher_kd": weight * self.diverge(theirs, mine.detach()),
        }

    def diverge(self, own: torch.Tensor, peer: torch.Tensor) -> torch.Tensor:
        """KL(p(peer) ‖ p(own))."""
        return kl_divergence(own, peer)


class ReleasedDML(DML):
    """`dml` as released: KL as Σ p_j log(ε + p_j / (p_i + ε)), ε = 1e-8, instead of its exact form.

    The release also smooths its labels and updates the two networks one after the other, with Adam;
    its recipe is not taken over.
    """

    name = "dml_released"
    summary = "dml with ε inside the divergence's logarithm, as released"

    def diverge(self, own: torch.Tensor, peer: torch.Tensor) -> torch.Tensor:
        return kl_with_floor(own, peer)

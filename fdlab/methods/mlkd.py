"""MLKD: predictions matched per sample, per batch and per class (Jin et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.losses.correlations import batch_correlation, class_correlation, kl_over
from fdlab.losses.logits import cross_entropy
from fdlab.methods.base import Batch, LossTerms, Method, require_weights
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
STRONG, REST = (3.0, 4.0, 5.0), (2.0, 6.0)  # of the released stronger view, and what it lacks


class MLKD(Method):
    """L = a [CE(z) + CE(z')] + b Σ_T [mean_n m_n KD_T,n(z) + KD_T(z') + CC_T + BC_T], T of 2 to 6.

    z, z': logits of the plain and of the stronger view. KD_T,n = T² KL of sample n, KD_T its mean;
    BC_T = (1/N) Σ_n m_n ‖rows of P_t P_tᵀ - P_s P_sᵀ‖², CC_T = (1/K) Σ_c m_c ‖rows of
    P_tᵀ P_t - P_sᵀ P_s‖², P = softmax(z/T). m_n = 1 where the teacher's confidence is at most the
    batch's median, m_c likewise for the probability a class receives. Defaults a = 0.1, b = 0.9
    (released configuration). The masks act on samples and on classes, which the released code sets
    out to do and does not (`mlkd_released`); how they act on BC and CC is our reading.
    """

    name = "mlkd"
    summary = "per-sample, batch and class levels, five temperatures, two views"
    source = "Jin et al., CVPR 2023"
    needs = ("logits",)
    compares = ("kd", "class", "batch")
    strength = ("weight",)
    views = 2

    @dataclass(frozen=True)
    class Options:
        task_weight: float = 0.1
        weight: float = 0.9

        def __post_init__(self):
            require_weights(self, "task_weight", "weight")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        weak = student.logits, teacher.logits.detach()
        strong = student.second.logits, teacher.second.logits.detach()
        samples, classes = choose_unsure(weak[1])
        kd, by_class, by_batch = self.compare(weak, strong, samples, classes)
        weight, task_weight = self.options.weight, self.options.task_weight
        return {
            "task": task_weight * cross_entropy(weak[0], batch.labels),
            "task_strong": task_weight * cross_entropy(strong[0], batch.labels),
            "kd": weight * kd,
            "class": weight * by_class,
            "batch": weight * by_batch,
        }

    def compare(
        self,
        weak: tuple[torch.Tensor, torch.Tensor],
        strong: tuple[torch.Tensor, torch.Tensor],
        samples: torch.Tensor,
        classes: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """KD, CC and BC, summed over the temperatures."""
        kd = (kl_over(*weak, TEMPERATURES) * samples).mean(dim=1).sum()
        return (
            kd + kl_over(*strong, TEMPERATURES).mean(dim=1).sum(),
            class_correlation(*weak, TEMPERATURES, classes),
            batch_correlation(*weak, TEMPERATURES, samples),
        )


class ReleasedMLKD(MLKD):
    """`mlkd` as released: the losses are scalars before their mask, which only multiplies them by
    the fraction kept (about ½), and for T = 2 and 6 the plain view's KD stands for the stronger's.
    """

    name = "mlkd_released"
    summary = "mlkd with masks that only scale, as released"

    def compare(
        self,
        weak: tuple[torch.Tensor, torch.Tensor],
        strong: tuple[torch.Tensor, torch.Tensor],
        samples: torch.Tensor,
        classes: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        every = torch.ones_like(samples), torch.ones_like(classes)
        plain = kl_over(*weak, TEMPERATURES).mean(dim=1)
        second = kl_over(*strong, STRONG).mean(dim=1).sum() + kl_over(*weak, REST).mean(dim=1).sum()
        return (
            plain.sum() * samples.mean() + second,
            class_correlation(*weak, TEMPERATURES, every[1]) * classes.mean(),
            batch_correlation(*weak, TEMPERATURES, every[0]) * samples.mean(),
        )


@torch.no_grad()
def choose_unsure(teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) logits → (N,) 1 where the teacher's confidence is at most the median, else 0; (K,)
    likewise for the probability mass of each class."""
    p = widen(teacher).softmax(dim=1)
    confidence, mass = p.max(dim=1).values, p.sum(dim=0)
    return tuple((x <= x.quantile(0.5)).to(x.dtype) for x in (confidence, mass))

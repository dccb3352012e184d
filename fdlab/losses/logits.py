"""Distances between class scores; z (N, K) logits, p_T(z) = softmax(z / T), labels (N,)."""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.models.precision import in_full_precision


@in_full_precision
def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CE(z, y), mean over the batch."""
    return functional.cross_entropy(logits, labels)


@in_full_precision
def kl_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """T² · KL(p_T(z_t) ‖ p_T(z_s)) (Hinton et al., 2015, section 2).

    Sum over classes, mean over the batch. T² keeps the gradient's size as T grows.
    """
    return kl_rows(student, teacher, temperature).mean()


@in_full_precision
def kl_rows(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """(N,) T² · KL(p_T(z_t) ‖ p_T(z_s)) of each sample."""
    log_student = functional.log_softmax(student / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=1)
    rows = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return temperature**2 * rows.sum(dim=1)


@in_full_precision
def kl_with_floor(student: torch.Tensor, teacher: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """mean Σ_c p_t log(ε + p_t / (p_s + ε)), p the softmax at T = 1 (DML's released code)."""
    s, t = student.softmax(dim=1), teacher.softmax(dim=1)
    return (t * torch.log(eps + t / (s + eps))).sum(dim=1).mean()

"""Distances between class scores."""

from __future__ import annotations

import torch
from torch.nn import functional


def kl_divergence(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)) of (N, K) logits (Hinton et al., 2015, section 2).

    Sum over classes, mean over the batch. T² keeps the gradient's size as T grows.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence

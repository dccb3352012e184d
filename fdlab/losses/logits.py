"""Distances between class scores; z (N, K) logits, p_T(z) = softmax(z / T), labels (N,)."""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.models.precision import in_full_precision
from fdlab.spectral.grids import as_logit_grid
from fdlab.spectral.wavelets import decompose

BANDS = ("LL", "LH", "HL", "HH")  # of `decompose`: the low band, then its details in their order
DISTANCES = {"l1": torch.abs, "l2": torch.square}


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


@in_full_precision
def wavelet_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    bands: tuple[str, ...] = BANDS[1:],
    distance: str = "l1",
    wavelet: str = "haar",
    levels: int = 1,
    mode: str = "zero",
) -> torch.Tensor:
    """Σ over bands of mean |W_t - W_s|^p, W the wavelet transform of the logits as a grid (FiGKD).

    z (N, K) becomes `choose_grid(K)` positions in the order of its classes; p = 1 for "l1", 2 for
    "l2", mean over the batch and a band's coefficients. bands: of LL, LH (high-pass down the
    columns), HL (along the rows) and HH; LL is the last level's, the others are summed over the
    levels. With Haar, one level, even sides and "l2" the details are 4/K times the mean over the
    batch of the squared deviations of z_t - z_s from its mean in every 2×2 block of the grid, and
    all four bands 4/K times its squared length.
    """
    low, details = decompose(as_logit_grid(student - teacher), wavelet, levels, mode)  # linear
    size, found = DISTANCES[distance], []
    if "LL" in bands:
        found.append(size(low).mean())
    for level in details:
        means = size(level).mean(dim=(0, 1, 3, 4)).unbind()
        found += [mean for band, mean in zip(BANDS[1:], means, strict=True) if band in bands]
    return torch.stack(found).sum()

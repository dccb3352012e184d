"""Correlations of two networks' predictions, over classes and over the batch; (N, K) logits."""

from __future__ import annotations

import torch

from fdlab.models.precision import in_full_precision


@in_full_precision
def correlation_distances(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0, eps: float = 1e-8
) -> tuple[torch.Tensor, torch.Tensor]:
    """DIST's two parts (Huang et al., NeurIPS 2022): T² (1 - mean ρ) over rows and over columns.

    ρ(a, b) = Pearson's correlation, eps added to its denominator. Rows: of each sample's
    p_T(z_s) with p_T(z_t) over the classes (inter); columns: of each class over the batch (intra).
    A class that no sample of the batch resembles has a nearly constant column, whose correlation
    is noise.
    """
    s, t = ((z / temperature).softmax(dim=1) for z in (student, teacher))
    inter = 1 - _correlate(s, t, eps).mean()
    intra = 1 - _correlate(s.T, t.T, eps).mean()
    return temperature**2 * inter, temperature**2 * intra


def _correlate(a: torch.Tensor, b: torch.Tensor, eps: float) -> torch.Tensor:
    """Pearson's correlation of each row of a with that of b."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (norms + eps)


@in_full_precision
def kl_over(
    student: torch.Tensor, teacher: torch.Tensor, temperatures: tuple[float, ...]
) -> torch.Tensor:
    """(T, N) T² · KL(p_T(z_t) ‖ p_T(z_s)) of each sample at each temperature (MLKD)."""
    scale = _spread(temperatures, student)
    s, t = ((z / scale).log_softmax(dim=2) for z in (student, teacher))
    return scale[..., 0] ** 2 * (t.exp() * (t - s)).sum(dim=2)


@in_full_precision
def batch_correlation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperatures: tuple[float, ...],
    keep: torch.Tensor,
) -> torch.Tensor:
    """Σ_T (1/N) Σ_n keep_n Σ_m (P_t P_tᵀ - P_s P_sᵀ)²_nm, P = p_T(z) (MLKD, batch level); keep
    (N,)."""
    scale = _spread(temperatures, student)
    s, t = ((z / scale).softmax(dim=2) for z in (student, teacher))  # (T, N, K)
    rows = (t @ t.mT - s @ s.mT).square().sum(dim=2)
    return (keep * rows).sum() / len(student)


@in_full_precision
def class_correlation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperatures: tuple[float, ...],
    keep: torch.Tensor,
) -> torch.Tensor:
    """Σ_T (1/K) Σ_c keep_c Σ_d (P_tᵀ P_t - P_sᵀ P_s)²_cd, P = p_T(z) (MLKD, class level); keep
    (K,)."""
    scale = _spread(temperatures, student)
    s, t = ((z / scale).softmax(dim=2) for z in (student, teacher))
    rows = (t.mT @ t - s.mT @ s).square().sum(dim=2)
    return (keep * rows).sum() / student.shape[1]


def _spread(temperatures: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    """(T, 1, 1), filled on the device: a copy from the host would wait for it."""
    parts = [
        torch.full((1, 1), value, dtype=like.dtype, device=like.device) for value in temperatures
    ]
    return torch.stack(parts)


@torch.no_grad()
@in_full_precision
def kendall_tau(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """(N, K), (N, K) → (N,) Kendall's τ_b of each pair of rows, ties included.

    τ_b = Σ sign(a_i - a_j) sign(b_i - b_j) / √((n₀ - ties_a)(n₀ - ties_b)) over the n₀ pairs i < j;
    nan where a row is constant, as SciPy's. All pairs at once, O(N K²).
    """
    first, second = torch.triu_indices(one.shape[1], one.shape[1], 1, device=one.device)
    a, b = (torch.sign(x[:, first] - x[:, second]) for x in (one, two))
    return (a * b).sum(dim=1) / (a.abs().sum(dim=1) * b.abs().sum(dim=1)).sqrt()

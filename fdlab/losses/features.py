"""Distances between feature vectors (FD-CMKD, sections 3.3 and 3.4)."""

from __future__ import annotations

import torch

from fdlab.core.errors import name_unknown

REDUCTIONS = ("mean", "sum")


def signed_log(x: torch.Tensor) -> torch.Tensor:
    """σ(x) = sign(x) · log(1 + |x|), element by element (FD-CMKD's log of the high band).

    1-Lipschitz, so a distance after σ is at most the distance before it. The slope is
    1 / (1 + |x|); at an exact 0, where autograd's product of sign and abs would give 0, it is 1.
    """
    return torch.where(x >= 0, torch.log1p(x.clamp_min(0)), -torch.log1p((-x).clamp_min(0)))


def normalise(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """x / max(‖x‖₂, eps) along the last axis (FD-CMKD's scale step).

    A row shorter than eps passes its value but no gradient: the formula's own would be 1/eps.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    whole = norm > eps
    safe = torch.where(whole, norm, torch.ones_like(norm))
    return torch.where(whole, x / safe, (x / eps).detach())


def mse(student: torch.Tensor, teacher: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Squared distance of (N, D) rows, mean over N, and mean (as published) or sum over D."""
    require_reduction(reduction)
    squares = (student.float() - teacher.float()).square().mean(dim=0)
    return squares.mean() if reduction == "mean" else squares.sum()


def require_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise name_unknown("reduction over D", reduction, REDUCTIONS)


def logmse(student: torch.Tensor, teacher: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """`mse` of σ(student) and σ(teacher)."""
    return mse(signed_log(student.float()), signed_log(teacher.float()), reduction)

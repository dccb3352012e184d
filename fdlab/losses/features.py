"""Distances between feature vectors (FD-CMKD, sections 3.3 and 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fdlab.core.errors import name_unknown
from fdlab.models.precision import in_full_precision

REDUCTIONS = ("mean", "sum")


class _SignedLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        size = x.abs()
        ctx.save_for_backward(size)
        return torch.log1p(size).copysign_(x)

    @staticmethod
    @once_differentiable  # what is saved is no input, so a second derivative would miss a part
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (size,) = ctx.saved_tensors
        return gradient / (1 + size)


def signed_log(x: torch.Tensor) -> torch.Tensor:
    """σ(x) = sign(x) · log(1 + |x|), element by element (FD-CMKD's log of the high band).

    1-Lipschitz, so a distance after σ is at most the distance before it. The slope is
    1 / (1 + |x|), at an exact 0 too, where autograd's product of sign and abs would give 0.
    """
    return _SignedLog.apply(x)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        whole = norm > eps
        unit = x / norm.clamp_min(eps)
        ctx.save_for_backward(unit, whole / norm.clamp_min(eps))
        return unit

    @staticmethod
    @once_differentiable  # what is saved is no input, so a second derivative would miss a part
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        unit, inverse = ctx.saved_tensors
        along = (gradient * unit).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, unit, along, value=-1) * inverse, None


def normalise(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """x / max(‖x‖₂, eps) along the last axis (FD-CMKD's scale step).

    A row shorter than eps passes its value but no gradient: the formula's own would be 1/eps.
    """
    return _Normalise.apply(x, eps)


class _UnitDistance(torch.autograd.Function):
    """Mean of (f(s/‖s‖) - f(t/‖t‖))², f the signed log or nothing; the gradients that are wanted
    are made along the way, in one pass over each array, where autograd would keep and walk seven.
    """

    @staticmethod
    def forward(
        ctx: Any, student: torch.Tensor, teacher: torch.Tensor, log: bool, eps: float
    ) -> torch.Tensor:
        norms = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (student, teacher)]
        units = [x / n.clamp_min(eps) for x, n in zip((student, teacher), norms, strict=True)]
        if log:
            sizes = [u.abs() for u in units]
            bent = [torch.log1p(z).copysign_(u) for z, u in zip(sizes, units, strict=True)]
            gap = bent[0].sub_(bent[1])
        else:
            gap = units[0] - units[1]
        gradients = []
        for side, sign in ((0, 1), (1, -1)):
            if not ctx.needs_input_grad[side]:
                gradients.append(None)
                continue
            slope = gap / sizes[side].add_(1) if log else gap
            along = (slope * units[side]).sum(dim=-1, keepdim=True)
            scale = torch.where(norms[side] > eps, 2 * sign / (gap.numel() * norms[side]), 0)
            gradients.append(torch.addcmul(slope, units[side], along, value=-1).mul_(scale))
        ctx.save_for_backward(*gradients)
        return gap.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(None if g is None else gradient * g for g in ctx.saved_tensors), None, None)


@in_full_precision
def unit_distance(
    student: torch.Tensor, teacher: torch.Tensor, log: bool = False, reduction: str = "mean"
) -> torch.Tensor:
    """`mse`, or with `log` `logmse`, of (N, D) rows scaled to length 1 first (`normalise`)."""
    require_reduction(reduction)
    distance = _UnitDistance.apply(student, teacher, log, 1e-8)
    return distance if reduction == "mean" else distance * student.shape[-1]


@in_full_precision
def mse(student: torch.Tensor, teacher: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Squared distance of (N, D) rows, mean over N, and mean (as published) or sum over D; of maps
    of one shape the mean over everything."""
    require_reduction(reduction)
    distance = torch.nn.functional.mse_loss(student, teacher)
    return distance if reduction == "mean" else distance * student.shape[-1]


def require_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise name_unknown("reduction over D", reduction, REDUCTIONS)


@in_full_precision
def logmse(student: torch.Tensor, teacher: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """`mse` of σ(student) and σ(teacher)."""
    return mse(signed_log(student), signed_log(teacher), reduction)

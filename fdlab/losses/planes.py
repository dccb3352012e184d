"""Distances between maps by their spatial frequencies (FreqKD, SFKD), and between whole maps.

Maps are (N, C, h, w), of one shape. No gradient reaches the teacher's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fdlab.core.errors import name_unknown
from fdlab.losses.features import logmse, mse, normalise, unit_distance
from fdlab.models.precision import in_full_precision
from fdlab.spectral.planes import (
    analyse,
    as_rows,
    place_bases,
    place_gaussian,
    require_mask,
    split_plane,
    subtract_low,
)

FORMS = ("log_magnitude", "log_signed", "mse", "fdcmkd")


def require_form(form: str) -> None:
    if form not in FORMS:
        raise name_unknown("distance of the high bands", form, FORMS)


@in_full_precision
def band_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    cutoff: float = 0.5,
    mask: str = "symmetric",
    high: str = "log_magnitude",
) -> tuple[torch.Tensor, torch.Tensor]:
    """mean (s_low - t_low)² and the distance of the high bands of `split_plane` (FreqKD), both the
    mean over N · C · h · w; the maps come standardised.

    high: "log_magnitude", as released, mean (log(1 + |s|) - log(1 + |t|))², which does not see
    signs: it is 0 for s and -s. "log_signed": mean (σ(s) - σ(t))², FD-CMKD's σ (`signed_log`).
    "fdcmkd": likewise, each position's high band scaled to length 1 over the channels first, as
    FD-CMKD does with its features. "mse": mean (s - t)².
    """
    require_form(high)
    require_mask(mask)
    teacher = teacher.detach()
    if mask == "symmetric" and high != "fdcmkd":
        bases = place_bases(student, cutoff)
        return _BandLoss.apply(as_rows(student), as_rows(teacher), bases, high)
    mine, theirs = (split_plane(x, cutoff, mask) for x in (student, teacher))
    return mse(mine[0], theirs[0]), compare_high(mine[1], theirs[1], high)


def compare_high(student: torch.Tensor, teacher: torch.Tensor, form: str) -> torch.Tensor:
    """The distance of two high bands by one of `FORMS`; see `band_loss`."""
    if form == "log_magnitude":
        return mse(student.abs().log1p(), teacher.abs().log1p())
    if form == "fdcmkd":
        return unit_distance(as_rows(student), as_rows(teacher), log=True)
    return (logmse if form == "log_signed" else mse)(student, teacher)


class _BandLoss(torch.autograd.Function):
    """`band_loss` of rows (N, h, w, C) with the symmetric mask.

    The low bands are compared by their coefficients, a quarter as many numbers at cut-off 1/2 and
    of the same energy, and the gradient's low part is added to them too. A large map's cost is how
    often it is passed over, so whatever can be written in place is.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        bases: tuple[torch.Tensor, torch.Tensor],
        form: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sides = (student, teacher)
        coefficients = [analyse(x, bases) for x in sides]
        s, t = (subtract_low(x, c, bases) for x, c in zip(sides, coefficients, strict=True))
        low = coefficients[0].sub_(coefficients[1])
        if form == "mse":
            high = slope = s.sub_(t)
        else:
            size = s.abs()
            high, theirs = size.log1p(), t.abs().log1p_()
            if form == "log_signed":
                high.copysign_(s)
                theirs.copysign_(t)
            high.sub_(theirs)
            size.add_(1)
            slope = high / (size.copysign_(s) if form == "log_magnitude" else size)
        ctx.bases, ctx.scale = bases, 2 / student.numel()
        ctx.save_for_backward(low, slope)
        return tuple(torch.linalg.vector_norm(x) ** 2 / student.numel() for x in (low, high))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_low: torch.Tensor, by_high: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        low, slope = ctx.saved_tensors
        slope = slope * (ctx.scale * by_high)
        # A high band's gradient has no low part; the low band's takes its place.
        coefficients = analyse(slope, ctx.bases).sub_(low * (ctx.scale * by_low))
        return subtract_low(slope, coefficients, ctx.bases, in_place=True), None, None, None


@in_full_precision
def gaussian_fft_loss(
    student: torch.Tensor, teacher: torch.Tensor, width: float = 0.25, passes: str = "low"
) -> torch.Tensor:
    """mean over N, C, u, v of g(u, v) · |FFT₂(s) - FFT₂(t)|², the FFT orthonormal, g of mean 1
    (`make_gaussian`; SFKD, a reconstruction).

    With an infinite width it is the mean (s - t)², by Parseval's equation.
    """
    weights = place_gaussian(
        tuple(student.shape[2:]), float(width), passes, student.dtype, student.device
    )
    gap = torch.fft.rfft2(student - teacher.detach(), norm="ortho")
    energy = torch.view_as_real(gap).square().sum(dim=-1)
    return (energy * weights).sum() / student.numel()


@in_full_precision
def info_nce(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """-mean_n log softmax_m(cos(s_n, t_m) / τ) at m = n: every map of the student is to find its
    own teacher's among those of the batch (InfoNCE).

    Cosines are of whole maps, all channels and positions of a sample as one vector. SFKD's abstract
    names the loss alone; that and the temperature, as CRD's, are our choice. At most as large as
    the batch allows: of one sample it is 0.
    """
    mine, theirs = (normalise(x.flatten(1)) for x in (student, teacher.detach()))
    labels = torch.arange(len(mine), device=mine.device)
    return functional.cross_entropy(mine @ theirs.T / temperature, labels)


@in_full_precision
def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - mean cos(s, t), the cosine over the channels of each position."""
    mine, theirs = (normalise(as_rows(x)) for x in (student, teacher.detach()))
    return 1 - (mine * theirs).sum(dim=-1).mean()

"""Band split of a feature along its channels, by Fourier (FD-CMKD, section 3.2) or otherwise."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch

from fdlab.core.errors import UserError, name_unknown
from fdlab.spectral.bases import make_basis, order_channels, require_basis

DC_RULES = ("drop", "low", "own")


class BandSplit(NamedTuple):
    """low + high (+ dc where it is a band of its own) rebuild the feature; see `split_bands`."""

    low: torch.Tensor
    high: torch.Tensor
    dc: torch.Tensor | None = None


def count_low_bins(dim: int, cutoff: float) -> int:
    """How many of the D//2 non-constant bins are low.

    FD-CMKD's release has D = 512: bins 1 to 128 of 256 at cut-off 1/2. For other widths and
    cut-offs the source is silent; our choice is floor(cutoff · (D//2)), which gives the release's
    numbers and leaves the Nyquist bin to the high band for every cut-off below 1.
    """
    if not 0 <= cutoff <= 1:
        raise UserError(f"cutoff is {cutoff}: expected a fraction of the bins, 0 to 1")
    return math.floor(cutoff * (dim // 2) + 1e-9)


def count_low_dims(dim: int, cutoff: float) -> int:
    """How many of the D - 1 dimensions beside the DC are low: two per bin, one for the Nyquist bin.

    Every basis splits by this number, so that their bands have equally many dimensions.
    """
    edge = count_low_bins(dim, cutoff)
    return 2 * edge - (dim % 2 == 0 and edge == dim // 2)


def split_bands(
    feature: torch.Tensor,
    cutoff: float = 0.5,
    dc: str = "drop",
    dim: int = -1,
    basis: str = "dft",
    seed: int = 0,
) -> BandSplit:
    """Split a real feature (…, D, …) into a low and a high band of the same shape.

    The real FFT along `dim` has D//2 + 1 bins: bin 0 is the mean over channels (DC), bins 1 to
    `count_low_bins` are low, the rest high. dc="drop" puts the DC in neither band (as FD-CMKD
    trains; low + high = feature - mean), "low" in the low band (as its Table 1 measures; low + high
    = feature), "own" in a third one. Exact for odd and even D. Half precision is computed in
    float32, since a half-precision FFT takes only powers of two; float64 stays float64.

    basis: another orthonormal basis in place of Fourier's (`spectral.bases`), split after the same
    number of dimensions, its row 0 in the part of the DC; seed: of a basis that is drawn.
    """
    if dc not in DC_RULES:
        raise name_unknown("rule for the DC", dc, DC_RULES)
    if not feature.is_floating_point():
        raise UserError(f"split_bands takes a real floating-point feature, not {feature.dtype}")
    if feature.dtype in (torch.float16, torch.bfloat16):
        feature = feature.float()
    require_basis(basis)
    feature = feature.movedim(dim, -1)
    edge = count_low_bins(feature.shape[-1], cutoff)
    if basis == "dft":
        mean, low, high = _FourierSplit.apply(feature, edge)
    elif basis == "permuted":
        order = torch.from_numpy(order_channels(feature.shape[-1], seed)).to(feature.device)
        mean, *bands = _FourierSplit.apply(feature[..., order], edge)
        low, high = (band[..., torch.argsort(order)] for band in bands)
    else:
        mean, low = _split_basis(feature, cutoff, basis, seed)
        high = feature - mean - low
    parts = [low + mean if dc == "low" else low, high]
    if dc == "own":
        parts.append(mean.expand_as(feature))
    return BandSplit(*(part.movedim(-1, dim) for part in parts))


def split_fourier_softly(feature: torch.Tensor, low: torch.Tensor) -> BandSplit:
    """Split (N, D) by a soft mask: `low` (D//2,) in 0 to 1 is each non-constant bin's low share.

    The DC is in neither band; low + high = feature - mean for every mask.
    """
    feature = feature if feature.dtype == torch.float64 else feature.float()
    spectrum = torch.fft.rfft(feature, dim=-1)
    mask = torch.cat([low.new_zeros(1), low])
    part = torch.fft.irfft(spectrum * mask, n=feature.shape[-1], dim=-1)
    return BandSplit(part, feature - feature.mean(dim=-1, keepdim=True) - part)


class _FourierSplit(torch.autograd.Function):
    """(…, D), edge → the DC (…, 1), bins 1 to edge, and the rest.

    The split projects orthogonally, so its gradient is the same projection of the gradients: one
    transform there and back, where autograd would take three through complex numbers.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, edge: int) -> tuple[torch.Tensor, ...]:
        ctx.edge = edge
        mean = x.mean(dim=-1, keepdim=True)
        rest = x - mean
        low = _project_low(rest, edge)
        # The high band by difference: one transform less, and they add up to the last bit or two.
        return mean, low, rest - low

    @staticmethod
    def backward(
        ctx: Any, by_mean: torch.Tensor, by_low: torch.Tensor, by_high: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        constant = by_mean / by_high.shape[-1] - by_high.mean(dim=-1, keepdim=True)
        return _project_low(by_low - by_high, ctx.edge) + by_high + constant, None


def _project_low(x: torch.Tensor, edge: int) -> torch.Tensor:
    """(…, D) → its real FFT bins 1 to `edge` alone."""
    spectrum = torch.fft.rfft(x, dim=-1)
    spectrum[..., :1] = 0
    spectrum[..., edge + 1 :] = 0
    return torch.fft.irfft(spectrum, n=x.shape[-1], dim=-1)


def _split_basis(
    feature: torch.Tensor, cutoff: float, basis: str, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(…, D) → the part along row 0, and the low band without it."""
    size = feature.shape[-1]
    rows = _place_basis(basis, size, seed, feature.dtype, feature.device)
    first, low = rows[:1], rows[1 : 1 + count_low_dims(size, cutoff)]
    return (feature @ first.T) @ first, (feature @ low.T) @ low


@functools.lru_cache(maxsize=32)
def _place_basis(
    basis: str, dim: int, seed: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    return torch.tensor(make_basis(basis, dim, seed), dtype=dtype, device=device)

"""Fourier band split of a feature along its channels (FD-CMKD, section 3.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from fdlab.core.errors import UserError, name_unknown

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


def split_bands(
    feature: torch.Tensor, cutoff: float = 0.5, dc: str = "drop", dim: int = -1
) -> BandSplit:
    """Split a real feature (…, D, …) into a low and a high band of the same shape.

    The real FFT along `dim` has D//2 + 1 bins: bin 0 is the mean over channels (DC), bins 1 to
    `count_low_bins` are low, the rest high. dc="drop" puts the DC in neither band (as FD-CMKD
    trains; low + high = feature - mean), "low" in the low band (as its Table 1 measures; low + high
    = feature), "own" in a third one. Exact for odd and even D. Half precision is computed in
    float32, since a half-precision FFT takes only powers of two; float64 stays float64.
    """
    if dc not in DC_RULES:
        raise name_unknown("rule for the DC", dc, DC_RULES)
    if not feature.is_floating_point():
        raise UserError(f"split_bands takes a real floating-point feature, not {feature.dtype}")
    if feature.dtype in (torch.float16, torch.bfloat16):
        feature = feature.float()
    size = feature.shape[dim]
    edge = count_low_bins(size, cutoff)
    mean = feature.mean(dim=dim, keepdim=True)
    spectrum = torch.fft.rfft(feature - mean, dim=dim)
    bins = torch.arange(spectrum.shape[dim], device=feature.device)
    shape = [1] * feature.ndim
    shape[dim] = -1
    keep = ((bins >= 1) & (bins <= edge)).view(shape)
    low = torch.fft.irfft(spectrum * keep, n=size, dim=dim)
    # The high band by difference: one transform less, and the two add up to the last bit or two.
    high = feature - mean - low
    if dc == "low":
        return BandSplit(low + mean, high)
    return BandSplit(low, high, mean.expand_as(feature) if dc == "own" else None)

"""Frequencies of maps over their positions: the split into two bands (FreqKD), radii, a Gaussian.

Spectra are in the order of the two-dimensional FFT: frequency 0 first, then 1, 2, …, and the
negative ones behind. A frequency is a whole number of waves along a side.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fdlab.core.errors import UserError, name_unknown
from fdlab.models.precision import HALVES, in_full_precision
from fdlab.spectral.bands import DC_RULES, BandSplit, count_low_bins

MASKS = ("symmetric", "released")
PASSES = ("low", "high")
ROUNDING = 8  # times a number's own precision: what of a difference may be rounding alone

Bases = tuple[torch.Tensor, torch.Tensor]


def require_mask(mask: str) -> None:
    if mask not in MASKS:
        raise name_unknown("mask", mask, MASKS)


def find_reach(size: int, cutoff: float) -> int:
    """FreqKD's r of a side: max(1, ⌊size · cutoff / 2⌋), so that 1/2 is half of the way to the
    Nyquist frequency."""
    count_low_bins(2, cutoff)  # refuses a cut-off outside 0 to 1
    return max(1, int(size * cutoff / 2))


def make_mask(
    height: int,
    width: int,
    cutoff: float = 0.5,
    mask: str = "symmetric",
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """(height, width), 1 at the low frequencies and 0 elsewhere.

    "symmetric": |u| ≤ r and |v| ≤ r, r that of each side (`find_reach`). It holds k with -k, so
    that a real map's bands are real. "released": FreqKD's code, -r ≤ u < r and -r ≤ v < r, which is
    its rectangle [h_c - r, h_c + r) about the middle of a shifted spectrum. It holds -r without r.
    """
    require_mask(mask)
    sides = []
    for size in (height, width):
        k, reach = _list_frequencies(size), find_reach(size, cutoff)
        sides.append(np.abs(k) <= reach if mask == "symmetric" else (-reach <= k) & (k < reach))
    return torch.tensor(np.outer(*sides), dtype=dtype, device=device)


@in_full_precision
def split_plane(
    x: torch.Tensor, cutoff: float = 0.5, mask: str = "symmetric"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (N, C, h, w) → their low and high band, of the same shape; low + high = x.

    The mean over positions is low. "symmetric": two orthogonal projections, so that <low, high> = 0
    and energies add; a side of three positions or less is low altogether. "released": as FreqKD's
    code does, with the mask that is not symmetric and the inverse's imaginary part dropped: it
    holds some 5 % of the low band's energy, and the bands are not orthogonal (`make_mask`).

    Half precision is computed in float32.
    """
    require_mask(mask)
    if mask == "released":
        half = _place_released(*x.shape[2:], float(cutoff), x.dtype, x.device)
        low = torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[2:])
    else:
        low = _keep_low(x, place_bases(x, cutoff))
    return low, x - low


@in_full_precision
def split_space(feature: torch.Tensor, cutoff: float = 0.5, dc: str = "drop") -> BandSplit:
    """Split maps (N, D, h, w) by spatial frequency, every channel by itself, for FD-CMKD.

    Frequencies up to `cutoff` of the Nyquist frequency along both sides are low, the mean over
    positions apart, which goes where `dc` says, as in `split_bands`. For segmentation; no source
    says how, the square is our choice. Unlike in `split_plane` a side may have no low frequency.
    Of a single position nothing but the mean is left.
    """
    if dc not in DC_RULES:
        raise name_unknown("rule for the DC", dc, DC_RULES)
    count_low_bins(2, cutoff)  # refuses a cut-off outside 0 to 1
    mean = feature.mean(dim=(-2, -1), keepdim=True)
    rest = feature - mean
    bases = tuple(
        _place_basis(size, math.floor(size * (cutoff + 1e-6) / 2), feature.dtype, feature.device)
        for size in feature.shape[2:]
    )
    low = _keep_low(rest, bases)
    parts = [low + mean if dc == "low" else low, rest - low]
    if dc == "own":
        parts.append(mean.expand_as(feature))
    return BandSplit(*parts)


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, h, w, C). A transformer's maps lie so in memory, and both of a
    projection's products are large ones then."""
    return x.permute(0, 2, 3, 1)


def as_maps(rows: torch.Tensor) -> torch.Tensor:
    """(N, h, w, C) → (N, C, h, w)."""
    return rows.permute(0, 3, 1, 2)


def place_bases(x: torch.Tensor, cutoff: float) -> Bases:
    """Orthonormal columns (h, k) and (w, l) that span the low frequencies of each side, on the
    device of the maps x."""
    down, along = (
        _place_basis(size, find_reach(size, cutoff), x.dtype, x.device) for size in x.shape[2:]
    )
    return down, along


def analyse(rows: torch.Tensor, bases: Bases) -> torch.Tensor:
    """(N, h, w, C) → the coefficients (N, k, l, C) of its low band, with the same energy."""
    down, along = bases
    count, height, width, channels = rows.shape
    part = _multiply(down.T, rows.reshape(count, height, width * channels))
    found = _multiply(along.T, part.view(-1, width, channels))
    return found.view(count, -1, along.shape[1], channels)


def synthesise(coefficients: torch.Tensor, bases: Bases) -> torch.Tensor:
    """(N, k, l, C) → the low band (N, h, w, C)."""
    down, along = bases
    low = _multiply(down, _spread(coefficients, along))
    return low.view(len(low), len(down), len(along), -1)


def subtract_low(
    rows: torch.Tensor, coefficients: torch.Tensor, bases: Bases, in_place: bool = False
) -> torch.Tensor:
    """(N, h, w, C) - `synthesise`, while the last product is taken; in_place: the rows may go."""
    down, along = bases
    flat = rows.reshape(*rows.shape[:2], -1)
    subtract = torch.Tensor.baddbmm_ if in_place else torch.baddbmm
    each = down.expand(len(flat), -1, -1)
    return subtract(flat, each, _spread(coefficients, along), alpha=-1).view(rows.shape)


def _spread(coefficients: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """(N, k, l, C) → (N, k, w · C)."""
    count, _, kept, channels = coefficients.shape
    wide = _multiply(along, coefficients.reshape(-1, kept, channels))
    return wide.view(count, -1, len(along) * channels)


def _multiply(matrix: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
    """(m, n) times every one of (B, n, p)."""
    return torch.bmm(matrix.expand(len(each), -1, -1), each)


def _keep_low(x: torch.Tensor, bases: Bases) -> torch.Tensor:
    return as_maps(synthesise(analyse(as_rows(x), bases), bases))


class _Standardise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.float32 if x.dtype in HALVES else x.dtype
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=dtype)
        unit = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        torch.sub(x, mean, out=unit)
        norm = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
        size = norm.square().mean(dim=(2, 3), keepdim=True) + mean.square().sum(1, keepdim=True)
        inverse = torch.where(norm > ROUNDING * torch.finfo(dtype).eps * size.sqrt(), 1 / norm, 0)
        unit.mul_(inverse)
        ctx.save_for_backward(unit, inverse)
        ctx.dtype = x.dtype
        return unit

    @staticmethod
    @once_differentiable  # what is saved is no input, so a second derivative would miss a part
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        unit, inverse = ctx.saved_tensors
        along = (gradient * unit).sum(dim=1, keepdim=True)
        found = torch.addcmul(gradient, unit, along, value=-1).mul_(inverse)
        return found.sub_(found.mean(dim=(2, 3), keepdim=True)).to(ctx.dtype)


def standardise(x: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, h, w), less each channel's mean over the positions, then of length 1 over the
    channels at each position (FreqKD's code). In float32 at least, channels last in memory.

    A position that is the mean but for rounding, as all are in a constant map, becomes 0 and passes
    no gradient. That is our choice: divided by its length, as the source has it, rounding would
    count like everything else.
    """
    return _Standardise.apply(x)


@in_full_precision
def standardise_samples(x: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) with mean 0 and deviation 1 over all of each sample."""
    return functional.layer_norm(x, x.shape[1:])


def radius(height: int, width: int, device: torch.device | str | None = None) -> torch.Tensor:
    """(height, width) √(u² + v²) of every frequency, in units of min(height, width) / 2, the
    Nyquist frequency of the shorter side."""
    squares = np.add.outer(*(_list_frequencies(size) ** 2 for size in (height, width)))
    found = np.sqrt(squares) / (min(height, width) / 2)
    return torch.tensor(found, dtype=torch.float32, device=device)


def radial_mask(
    height: int,
    width: int,
    low: float | None = None,
    high: float | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """(height, width), true where the `radius` is at most `low` and at least `high`, each where it
    is given: FreqKD's bands of the spectral divergence are low=0.25 and high=0.75."""
    r = radius(height, width, device)
    kept = torch.ones_like(r, dtype=torch.bool)
    if low is not None:
        kept &= r <= low
    if high is not None:
        kept &= r >= high
    return kept


def make_gaussian(height: int, width: int, spread: float = 0.25, passes: str = "low") -> np.ndarray:
    """(height, width) weights of mean 1 for the energy at every frequency.

    "low": exp(-(u² + v²) / (2 (spread · min(height, width))²)); "high": 1 less that. An infinite
    spread weighs all frequencies alike. Of a single position nothing is high: 0.
    """
    if passes not in PASSES:
        raise name_unknown("side that the filter passes", passes, PASSES)
    if not spread > 0 or (passes == "high" and math.isinf(spread)):
        raise UserError(
            f"the filter's width is {spread}: expected above 0, and finite where it passes high"
        )
    squares = np.add.outer(*(_list_frequencies(size) ** 2 for size in (height, width)))
    exponent = -squares / (2 * (spread * min(height, width)) ** 2)
    weights = np.exp(exponent) if passes == "low" else -np.expm1(exponent)
    mean = weights.mean()
    return weights / mean if mean > 0 else weights


@functools.lru_cache(maxsize=64)
def place_gaussian(
    size: tuple[int, int],
    spread: float,
    passes: str,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """`make_gaussian` for a real map's half of the spectrum (h, w // 2 + 1), with the weight of a
    frequency that stands for its mirror image too counted twice."""
    width = size[1]
    half = make_gaussian(*size, spread, passes)[:, : width // 2 + 1].copy()
    half[:, 1 : (width + 1) // 2] *= 2
    return torch.tensor(half, dtype=dtype, device=device)


def _list_frequencies(size: int) -> np.ndarray:
    """(size,) 0, 1, …, -2, -1."""
    return (np.arange(size) + size // 2) % size - size // 2


@functools.lru_cache(maxsize=64)
def _place_basis(size: int, reach: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(size, k) orthonormal columns that span the frequencies up to `reach`."""
    if 2 * reach + 1 >= size:
        return torch.eye(size, dtype=dtype, device=device)  # all of them, and exactly
    angles = 2 * np.pi * np.outer(np.arange(size), np.arange(1, reach + 1)) / size
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * math.sqrt(2 / size)
    columns = np.concatenate([np.full((size, 1), 1 / math.sqrt(size)), waves], axis=1)
    return torch.tensor(columns, dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _place_released(
    height: int, width: int, cutoff: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The released mask for a real map's half of the spectrum. To drop an inverse's imaginary part
    is to take the mean of the mask and its mirror image: 1/2 where the one has k without -k."""
    mask = make_mask(height, width, cutoff, "released", dtype=torch.float64)
    mirrored = mask.flip((0, 1)).roll((1, 1), (0, 1))
    return ((mask + mirrored) / 2)[:, : width // 2 + 1].to(device, dtype)

"""Two-dimensional wavelet transform of maps, differentiable, on the map's device."""

from __future__ import annotations

import functools

import numpy as np
import pywt
import torch
from torch.nn import functional

from fdlab.core.errors import UserError


def decompose(
    x: torch.Tensor, wavelet: str = "haar", levels: int = 1
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(N, C, H, W) → the low band (N, C, h, w), and per level, finest first, the detail bands
    (N, C, 3, h_j, w_j).

    The three are PyWavelets' horizontal, vertical and diagonal details: high-pass down the columns,
    along the rows, and both. Edges are padded with zeros (PyWavelets' mode "zero"), so that an odd
    side keeps its energy; with even sides Haar's transform is orthonormal.
    """
    if levels < 1:
        raise UserError(f"levels is {levels}: expected a whole number from 1")
    taps = len(_find_filters(wavelet)[0])
    low, details = x, []
    for _ in range(levels):
        padding = []
        for size in reversed(low.shape[2:]):
            out = (size + taps - 1) // 2
            padding += [taps - 2, 2 * out - size]
        padded = functional.pad(low, padding) if any(padding) else low
        bands = _split_haar(padded) if taps == 2 else _split(padded, wavelet)
        low = bands[:, :, 0]
        details.append(bands[:, :, 1:])
    return low, details


def _split(x: torch.Tensor, wavelet: str) -> torch.Tensor:
    """One level of a padded map (N, C, H, W) → LL and the details (N, C, 4, h, w)."""
    kernel = _make_kernel(wavelet, x.dtype, x.device)
    bands = functional.conv2d(x.flatten(0, 1).unsqueeze(1), kernel, stride=2)
    return bands.unflatten(0, x.shape[:2])


def _split_haar(x: torch.Tensor) -> torch.Tensor:
    """`_split` for two taps, as sums of the four corners of every 2×2 block: a convolution of one
    channel is slow."""
    top, bottom = x[:, :, ::2], x[:, :, 1::2]
    sums, gaps = top + bottom, top - bottom
    parts = [(y[..., ::2], y[..., 1::2]) for y in (sums, gaps)]
    (s, u), (g, v) = parts
    return torch.stack([s + u, g + v, s - u, g - v], dim=2) / 2


@functools.lru_cache(maxsize=16)
def _make_kernel(wavelet: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(4, 1, taps, taps) filters for LL and the details, reversed since conv2d correlates."""
    low, high = (filter[::-1] for filter in _find_filters(wavelet))
    pairs = [(low, low), (high, low), (low, high), (high, high)]
    kernels = np.stack([np.outer(down, along) for down, along in pairs])[:, None]
    return torch.tensor(kernels, dtype=dtype, device=device)


@functools.lru_cache(maxsize=16)
def _find_filters(wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """PyWavelets' low-pass and high-pass decomposition filters."""
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise UserError(f"wavelet is {wavelet!r}: expected a name such as haar, db2 or sym4")
    return tuple(np.array(filter) for filter in pywt.Wavelet(wavelet).filter_bank[:2])

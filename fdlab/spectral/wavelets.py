"""Two-dimensional wavelet transform of maps, differentiable, on the map's device."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pywt
import torch
from torch.nn import functional

from fdlab.core.errors import UserError, name_unknown
from fdlab.models.precision import in_full_precision, widen

MODES = tuple(pywt.Modes.modes)  # how a map goes on beyond its edges, by PyWavelets' names


def require_transform(wavelet: str, levels: int, mode: str) -> None:
    _find_filters(wavelet)  # refuses what is no wavelet
    if levels < 1:
        raise UserError(f"levels is {levels}: expected a whole number from 1")
    if mode not in MODES:
        raise name_unknown("boundary mode", mode, MODES)


def decompose(
    x: torch.Tensor, wavelet: str = "haar", levels: int = 1, mode: str = "zero"
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(N, C, H, W) → the low band (N, C, h, w), and per level, finest first, the detail bands
    (N, C, 3, h_j, w_j).

    The three are PyWavelets' horizontal, vertical and diagonal details: high-pass down the columns,
    along the rows, and both. mode: how the map goes on beyond its edges, by PyWavelets' names. By
    default with zeros, so that an odd side keeps its energy, where the other modes do not; with
    even sides Haar's transform is orthonormal and never looks beyond an edge.
    """
    require_transform(wavelet, levels, mode)
    low, details = x, []
    for _ in range(levels):
        bands = _split_padded(low, wavelet) if mode == "zero" else _multiply(low, wavelet, mode)
        low = bands[:, :, 0]
        details.append(bands[:, :, 1:])
    return low, details


@in_full_precision
def rebuild(
    low: torch.Tensor,
    details: list[torch.Tensor],
    wavelet: str = "haar",
    mode: str = "zero",
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """The inverse of `decompose`: (N, C, h, w) and the details, finest first → (N, C, H, W).

    size: (H, W). A level of an odd side comes back one position longer, as PyWavelets has it: the
    finer level's details, and at the end `size`, say what is cut off. None keeps what there is.
    """
    require_transform(wavelet, len(details), mode)
    for level in reversed([widen(level) for level in details]):
        sides = level.shape[3:]
        if any(not 0 <= a - b <= 1 for a, b in zip(low.shape[2:], sides, strict=True)):
            raise UserError(
                f"a low band of {tuple(low.shape[2:])} positions and details of {tuple(sides)}: "
                "expected those of one transform"
            )
        bands = torch.cat([low[..., : sides[0], : sides[1]].unsqueeze(2), level], dim=2)
        low = _join(bands, wavelet, mode)
    if size is None:
        return low
    if any(not 0 <= a - b <= 1 for a, b in zip(low.shape[2:], size, strict=True)):
        raise UserError(f"size is {tuple(size)}: expected {tuple(low.shape[2:])} or one less")
    return low[..., : size[0], : size[1]]


@in_full_precision
def keep_low(
    x: torch.Tensor, wavelet: str = "haar", levels: int = 1, mode: str = "zero"
) -> torch.Tensor:
    """(N, C, H, W) → what its low band alone rebuilds, of the same shape.

    The rest, x - keep_low(x), is what the details alone rebuild, since the transform is linear and
    its inverse exact.
    """
    require_transform(wavelet, levels, mode)
    down, along = (
        _make_smoother(size, wavelet, levels, mode, x.dtype, x.device) for size in x.shape[2:]
    )
    return down @ x @ along.T


def _split_padded(x: torch.Tensor, wavelet: str) -> torch.Tensor:
    """One level of a map among zeros → LL and the details (N, C, 4, h, w)."""
    taps, padding = len(_find_filters(wavelet)[0]), []
    for size in reversed(x.shape[2:]):
        out = (size + taps - 1) // 2
        padding += [taps - 2, 2 * out - size]
    padded = functional.pad(x, padding) if any(padding) else x
    return _split_haar(padded) if taps == 2 else _split(padded, wavelet)


@in_full_precision
def _multiply(x: torch.Tensor, wavelet: str, mode: str) -> torch.Tensor:
    """`_split_padded` in any mode: a product with PyWavelets' transform of each side, which costs
    more and is meant for small maps."""
    down, along = (_make_analysis(size, wavelet, mode, x.dtype, x.device) for size in x.shape[2:])
    return torch.einsum("aph,nchw,bqw->ncbapq", down, x, along).flatten(2, 3)


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


def _join(bands: torch.Tensor, wavelet: str, mode: str) -> torch.Tensor:
    """One level back: LL and the details (N, C, 4, h, w) → (N, C, H, W)."""
    taps = len(_find_filters(wavelet)[0])
    if taps == 2:
        return _join_haar(bands)
    if mode == "periodization":  # the one mode whose inverse looks beyond an edge
        down, along = (
            _make_synthesis(size, wavelet, mode, bands.dtype, bands.device)
            for size in bands.shape[3:]
        )
        parts = bands.unflatten(2, (2, 2))  # high-pass along the rows, down the columns
        return torch.einsum("pah,ncqphw,qbw->ncab", down, parts, along)
    kernel = _make_kernel(wavelet, bands.dtype, bands.device, inverse=True)
    joined = functional.conv_transpose2d(bands.flatten(0, 1), kernel, stride=2)
    cut = taps - 2
    return joined[..., cut : joined.shape[2] - cut, cut : joined.shape[3] - cut].reshape(
        *bands.shape[:2], joined.shape[2] - 2 * cut, joined.shape[3] - 2 * cut
    )


def _join_haar(bands: torch.Tensor) -> torch.Tensor:
    """`_join` for two taps: the four corners of every 2×2 block, as in `_split_haar`."""
    low, down, along, both = (band / 2 for band in bands.unbind(2))
    (s, u), (g, v) = (low + along, low - along), (down + both, down - both)
    corners = torch.stack([s + g, u + v, s - g, u - v], dim=2)
    return functional.pixel_shuffle(corners.flatten(1, 2), 2)


@functools.lru_cache(maxsize=16)
def _make_kernel(
    wavelet: str, dtype: torch.dtype, device: torch.device, inverse: bool = False
) -> torch.Tensor:
    """(4, 1, taps, taps) filters for LL and the details, reversed since conv2d correlates; of the
    inverse as they are, since a transposed convolution does not."""
    if inverse:
        low, high = pywt.Wavelet(wavelet).filter_bank[2:]
    else:
        low, high = (filter[::-1] for filter in _find_filters(wavelet))
    pairs = [(low, low), (high, low), (low, high), (high, high)]
    kernels = np.stack([np.outer(down, along) for down, along in pairs])[:, None]
    return torch.tensor(kernels, dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _make_analysis(
    size: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """(2, h, size) low-pass and high-pass: PyWavelets' transform of every unit vector."""
    _require_extension(size, mode)
    parts = pywt.dwt(np.eye(size), wavelet, mode, axis=0)
    return torch.tensor(np.stack(parts), dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _make_synthesis(
    size: int, wavelet: str, mode: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """(2, H, size): PyWavelets' inverse of every unit vector's low-pass and high-pass band."""
    one, none = np.eye(size), np.zeros((size, size))
    parts = [pywt.idwt(*pair, wavelet, mode, axis=0) for pair in ((one, none), (none, one))]
    return torch.tensor(np.stack(parts), dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _make_smoother(
    size: int, wavelet: str, levels: int, mode: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """(size, size): PyWavelets' inverse of every unit vector's low band, its details set to 0."""
    left, taps = size, len(_find_filters(wavelet)[0])
    for _ in range(levels):
        _require_extension(left, mode)
        left = pywt.dwt_coeff_len(left, taps, mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a level is deep for so short a side
        low, *details = pywt.wavedec(np.eye(size), wavelet, mode, levels, axis=0)
    parts = [low, *map(np.zeros_like, details)]
    rebuilt = pywt.waverec(parts, wavelet, mode, axis=0)[:size]
    return torch.tensor(rebuilt, dtype=dtype, device=device)


def _require_extension(size: int, mode: str) -> None:
    """A reflection about a side's last position needs another one to reflect."""
    if size == 1 and mode in ("reflect", "antireflect"):
        raise UserError(f"mode is {mode!r} and a side has one position: expected more, or 'zero'")


@functools.lru_cache(maxsize=16)
def _find_filters(wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """PyWavelets' low-pass and high-pass decomposition filters."""
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise UserError(f"wavelet is {wavelet!r}: expected a name such as haar, db2 or sym4")
    return tuple(np.array(filter) for filter in pywt.Wavelet(wavelet).filter_bank[:2])

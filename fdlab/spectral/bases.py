"""Orthonormal bases of the channel space, ordered from slow to fast: what "low" may mean.

The paper splits by the discrete Fourier transform. The others are its rivals and its controls: if a
basis without any frequency in it does as well, the gain is not from frequency.
"""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pywt

from fdlab.core.errors import UserError, name_unknown
from fdlab.core.seeding import derive_seed

BASES = {
    "dft": "Fourier, the paper's",
    "dct": "cosine transform (DCT-II)",
    "haar": "Haar wavelet, coarse to fine",
    "db4": "Daubechies wavelet with four vanishing moments, coarse to fine",
    "permuted": "Fourier after one fixed random order of the channels",
    "random": "fixed random directions beside the constant vector",
    "free": "fixed random directions, the constant vector not among them",
}


def require_basis(basis: str) -> None:
    if basis not in BASES:
        raise name_unknown("basis", basis, BASES)


@functools.lru_cache(maxsize=32)
def make_basis(basis: str, dim: int, seed: int = 0) -> np.ndarray:
    """(D, D) float64 with orthonormal rows, slow to fast; read-only.

    Row 0 is the constant vector, and plays the part of the DC; in "free", which does not set it
    apart, row 0 is a random direction. "dft": rows 2k-1 and 2k are the cosine and sine of bin k;
    an even D ends with the Nyquist row. Wavelets are periodic, at as many levels as D can be
    halved; within a level, rows run along the channels. seed counts where the basis is drawn.
    """
    require_basis(basis)
    if dim < 2:
        raise UserError(f"a basis needs at least 2 channels, and D is {dim}")
    rng = np.random.default_rng(derive_seed("basis", basis, dim, seed))
    if basis == "free":
        rows = _draw_rotation(rng.standard_normal((dim, dim)))
    elif basis == "random":
        drawn = rng.standard_normal((dim, dim))
        drawn[:, 0] = 1.0
        rows = _draw_rotation(drawn)
    elif basis == "dct":
        rows = _make_dct(dim)
    elif basis in ("dft", "permuted"):
        rows = _make_dft(dim)
        if basis == "permuted":
            rows = rows[:, np.argsort(order_channels(dim, seed))]
    else:
        rows = _make_wavelet(basis, dim)
    rows.setflags(write=False)
    return rows


def order_channels(dim: int, seed: int = 0) -> np.ndarray:
    """(D,) the fixed random order of the basis "permuted": its channel i is the feature's
    order[i]."""
    return np.random.default_rng(derive_seed("channels", dim, seed)).permutation(dim)


def _draw_rotation(columns: np.ndarray) -> np.ndarray:
    """Rows: the columns made orthonormal from left to right, signs so that each keeps its side."""
    q, r = np.linalg.qr(columns)
    return np.ascontiguousarray((q * np.sign(np.diag(r))).T)


def _make_dct(dim: int) -> np.ndarray:
    k, i = np.ogrid[:dim, :dim]
    rows = np.sqrt(2 / dim) * np.cos(np.pi * (2 * i + 1) * k / (2 * dim))
    rows[0] = 1 / np.sqrt(dim)
    return rows


def _make_dft(dim: int) -> np.ndarray:
    i = np.arange(dim)
    rows = [np.full(dim, 1 / np.sqrt(dim))]
    for k in range(1, dim // 2 + 1):
        angle = 2 * np.pi * k * i / dim
        if 2 * k == dim:
            rows.append(np.cos(angle) / np.sqrt(dim))
        else:
            rows += [np.sqrt(2 / dim) * np.cos(angle), np.sqrt(2 / dim) * np.sin(angle)]
    return np.array(rows)


def _make_wavelet(name: str, dim: int) -> np.ndarray:
    """Rows by PyWavelets: the transform of every unit vector, transposed.

    The approximation left at the coarsest level contains the constant vector; it is turned so that
    its first row is that vector, for widths that are no power of two as well.
    """
    levels = (dim & -dim).bit_length() - 1  # how often 2 divides D
    if levels == 0:
        raise UserError(f"basis {name} halves the channels, and D is {dim}: expected an even width")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of edge effects, which a periodic transform does not have
        parts = pywt.wavedec(np.eye(dim), name, mode="periodization", level=levels, axis=0)
    coarse = parts[0]
    turned = np.vstack([np.full(dim, 1 / np.sqrt(dim)), coarse])
    coarse = _draw_rotation(turned.T)[: len(coarse)] if len(coarse) > 1 else turned[:1]
    return np.vstack([coarse, *parts[1:]])

"""How much two sets of paired features share: (N, D) float arrays in, numbers out."""

from __future__ import annotations

import numpy as np


def row_cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N, D), (N, D) → (N,) cosine of each pair; 0 where a row is zero (FD-CMKD, Table 1)."""
    return (normalise_rows(one) * normalise_rows(two)).sum(axis=1)


def normalise_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) → rows of unit length, zero rows left zero."""
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def linear_cka(one: np.ndarray, two: np.ndarray) -> float:
    """Linear centred kernel alignment of (N, D1) and (N, D2), in 0 to 1 (Kornblith et al., 2019).

    ‖X̃ᵀỸ‖²_F / (‖X̃ᵀX̃‖_F ‖ỸᵀỸ‖_F) with columns centred over the samples, so that a mean over
    channels, which every sample has, cannot raise it. The biased form: for N not much larger than
    D, unrelated features score well above 0, so read it beside its shuffled-pair null. 0 where
    either side does not vary.
    """
    one, two = centre_columns(one), centre_columns(two)
    cross = np.linalg.norm(one.T @ two) ** 2
    scale = np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)
    return float(cross / scale) if scale > 0 else 0.0


def centre_columns(rows: np.ndarray) -> np.ndarray:
    """(N, D) less each column's mean over the samples, in float64.

    A column that does not vary comes out as exact zeros: what rounding leaves of it would
    otherwise count as shared content.
    """
    rows = np.asarray(rows, dtype=np.float64)
    return np.where(np.ptp(rows, axis=0) > 0, rows - rows.mean(axis=0), 0.0)


def shuffle_cosines(
    one: np.ndarray, two: np.ndarray, shuffles: int, rng: np.random.Generator
) -> np.ndarray:
    """(shuffles,) mean row cosine with the pairs shuffled.

    All pairs' cosines are one (N, N) product; a shuffle then reads N entries of it.
    """
    cosines = normalise_rows(one) @ normalise_rows(two).T
    rows = np.arange(len(cosines))
    return np.array([cosines[rows, rng.permutation(rows)].mean() for _ in range(shuffles)])


def shuffle_cka(
    one: np.ndarray, two: np.ndarray, shuffles: int, rng: np.random.Generator
) -> np.ndarray:
    """(shuffles,) linear CKA with the pairs shuffled; only ‖X̃ᵀỸ‖ depends on the pairing."""
    one, two = centre_columns(one), centre_columns(two)
    scale = np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)
    if scale == 0:
        return np.zeros(shuffles)
    crosses = (one.T @ two[rng.permutation(len(two))] for _ in range(shuffles))
    return np.array([np.linalg.norm(cross) ** 2 / scale for cross in crosses])


def predict_low_cosine(
    raw: np.ndarray | float, fraction: np.ndarray | float = 0.5
) -> np.ndarray | float:
    """The low band's cosine if two vectors share their mean over channels and nothing else.

    c / (|c| + f · (1 - |c|)) for raw cosine c, with the DC kept in the low band and the fraction f
    of the zero-mean energy below the cut-off: the split takes that part of the energy and leaves
    the mean whole. At f = 1/2 it is 2c / (1 + |c|). The high band's cosine is then 0. Exact where
    the mean holds the same part of the energy on both sides and f is equal too; c is negative where
    the two means have opposite signs (the paper's two cosines are positive, where |c| = c).
    """
    return raw / (np.abs(raw) + fraction * (1 - np.abs(raw)))

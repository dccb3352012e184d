"""How much two sets of features share: (N, D) float arrays in, numbers and their nulls out.

Row i of both sides is one event. A null is made by giving the rows of the second side another
order; `draw_orders` draws (P, N) of them. Everything that an order does not change (normalised
rows, Gram matrices, neighbours) is computed once.
"""

from __future__ import annotations

import functools

import numpy as np

NEIGHBOURS = 10
BLOCK = 32  # rows summed in single precision before the sums are added in double


def row_cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N, D), (N, D) → (N,) cosine of each pair; 0 where a row is zero (FD-CMKD, Table 1)."""
    return (normalise_rows(one) * normalise_rows(two)).sum(axis=1)


def normalise_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) → rows of unit length, zero rows left zero."""
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def linear_cka(one: np.ndarray, two: np.ndarray, debiased: bool = False) -> float:
    """Linear centred kernel alignment of (N, D1) and (N, D2) (Kornblith et al., 2019).

    ‖X̃ᵀỸ‖²_F / (‖X̃ᵀX̃‖_F ‖ỸᵀỸ‖_F) with columns centred over the samples, so that a mean over
    channels, which every sample has, cannot raise it. Plain: in 0 to 1, and for N not much larger
    than D unrelated features score well above 0. debiased: the same ratio of unbiased estimates
    of HSIC (Song et al., 2012, equation 5), which is around 0, and may be below it, for unrelated
    features; nan for N < 4. 0 where either side does not vary.
    """
    return Pair(one, two).cka_debiased if debiased else Pair(one, two).cka


def mutual_neighbours(one: np.ndarray, two: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Part of each row's k nearest rows that both sides agree on, mean over rows, in 0 to 1.

    Mutual k-nearest-neighbour overlap (Huh et al., 2024). Euclidean distance is our choice: it
    orders the rows of a band that holds the DC alone, too, which are all parallel.
    """
    return Pair(one, two, k).neighbours


def centre_columns(rows: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """(N, D) less each column's mean over the samples, in `dtype`; the mean is taken in float64.

    A column that does not vary comes out as exact zeros: what rounding leaves of it would
    otherwise count as shared content.
    """
    rows = np.asarray(rows, dtype=dtype)
    centred = rows - rows.mean(axis=0, dtype=np.float64).astype(dtype)
    centred[:, ~(np.ptp(rows, axis=0) > 0)] = 0.0
    return centred


def find_neighbours(rows: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """(N, D) → (N, k) indices of each row's nearest other rows, in no order."""
    rows = centre_columns(rows).astype(np.float32)  # twice as fast, and only orders
    k = min(k, len(rows) - 1)
    energy = np.square(rows).sum(axis=1)
    distances = energy - 2 * (rows @ rows.T)  # less each row's own energy, which orders nothing
    np.fill_diagonal(distances, np.inf)
    return np.argpartition(distances, k - 1, axis=1)[:, :k]


def draw_orders(
    samples: int, draws: int, rng: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """(draws, N) random orders of N rows; with labels (N,) rows keep to their class."""
    orders = np.tile(np.arange(samples), (draws, 1))
    if labels is None:
        return rng.permuted(orders, axis=1, out=orders)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        orders[:, members] = rng.permuted(orders[:, members], axis=1)
    return orders


class Pair:
    """Two sides of N events, and every measure of what they share, with its null.

    one (N, D1), two (N, D2); equal widths for the cosine. k: neighbours.
    """

    def __init__(self, one: np.ndarray, two: np.ndarray, k: int = NEIGHBOURS):
        if len(one) != len(two):
            raise ValueError(f"rows are pairs: {len(one)} and {len(two)} of them")
        self.one, self.two, self.k = one, two, k

    @property
    def cosine(self) -> float:
        """Mean row cosine."""
        return float(row_cosines(self.one, self.two).mean())

    @property
    def cka(self) -> float:
        return float(self._finish_cka(self._cross)[0])

    @property
    def cka_debiased(self) -> float:
        return float(self._finish_cka(self._cross, np.arange(len(self.one)))[1])

    @property
    def neighbours(self) -> float:
        return float(self.shuffle_neighbours(np.arange(len(self.one))[None])[0])

    def shuffle_cosines(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (P,) mean row cosine.

        All pairs' cosines are one (N, N) product; an order then reads N entries of it, row by row
        so that they stay in the cache.
        """
        cosines = normalise_rows(self.one) @ normalise_rows(self.two).T
        columns = np.ascontiguousarray(orders.T)
        total = np.zeros(len(orders))
        for row, column in zip(cosines, columns, strict=True):
            total += row.take(column)
        return total / len(cosines)

    def shuffle_cka(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (2, P) plain and debiased linear CKA.

        Only ‖X̃ᵀỸ‖² depends on the order. It is taken in feature space, or, where that costs more,
        as the product of two N × N Gram matrices of which one is reordered: single precision with
        sums in double, which agrees with recomputing everything to 1e-7.
        """
        rows, columns = self._centred
        if rows.shape[1] * columns.shape[1] < 12 * len(rows):  # measured, see benchmarks/nulls.py
            crosses = [np.square(rows.T @ columns[order]).sum() for order in orders]
        else:
            first, second = ((x @ x.T).astype(np.float32) for x in (rows, columns))
            blocks = range(0, len(first), BLOCK)
            crosses = []
            for order in orders:
                moved = second.take(order, axis=0).take(order, axis=1)
                parts = (np.vdot(first[i : i + BLOCK], moved[i : i + BLOCK]) for i in blocks)
                crosses.append(sum(map(float, parts)))
        found = zip(crosses, orders, strict=True)
        return np.array([self._finish_cka(cross, order) for cross, order in found]).T

    def shuffle_neighbours(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (P,) mutual neighbour overlap; 0 where a side does
        not vary."""
        if not all(np.ptp(side, axis=0).any() for side in (self.one, self.two)):
            return np.zeros(len(orders))
        mine = find_neighbours(self.one, self.k)
        count = mine.shape[1]
        near = np.zeros((len(mine), len(mine)), dtype=bool)
        near[np.arange(len(mine))[:, None], find_neighbours(self.two, self.k)] = True
        rows = np.repeat(np.arange(len(mine)), count)
        columns = mine.ravel()
        return np.array([near[order[rows], order[columns]].mean() for order in orders])

    @functools.cached_property
    def _centred(self) -> tuple[np.ndarray, np.ndarray]:
        return centre_columns(self.one), centre_columns(self.two)

    @functools.cached_property
    def _cross(self) -> float:
        one, two = self._centred
        return float(np.square(one.T @ two).sum())

    @functools.cached_property
    def _energies(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) squared length of each centred row: the diagonals of the Gram matrices."""
        return tuple(np.square(side).sum(axis=1) for side in self._centred)

    @functools.cached_property
    def _scales(self) -> tuple[float, float]:
        """The denominators of plain and debiased CKA."""
        plain = [np.linalg.norm(side.T @ side) for side in self._centred]
        unbiased = [
            debias(size**2, energy, energy)
            for size, energy in zip(plain, self._energies, strict=True)
        ]
        whole = unbiased[0] * unbiased[1]
        return float(plain[0] * plain[1]), float(np.sqrt(whole)) if whole > 0 else 0.0

    def _finish_cka(self, cross: float, order: np.ndarray | None = None) -> tuple[float, float]:
        """Plain and debiased CKA from ‖X̃ᵀỸ‖² under an order of the second side."""
        plain, unbiased = self._scales
        if plain == 0:
            return 0.0, 0.0
        if order is None:
            return cross / plain, np.nan
        first, second = self._energies
        if len(first) < 4:
            return cross / plain, np.nan
        debiased = debias(cross, first, second[order]) / unbiased if unbiased > 0 else 0.0
        return cross / plain, debiased


def debias(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """N (N - 3) times the unbiased HSIC of two centred Gram matrices; nan for N < 4.

    cross: the sum of their entries' products; first, second: (N,) their diagonals. For E pairs of
    matrices at once (E,) and (N, E). Song's estimator takes the matrices without their diagonals;
    as rows of a centred Gram matrix sum to 0, what is left of a row sums to minus its diagonal
    entry, and three sums suffice.
    """
    n = len(first)
    if n < 4:
        return cross * np.nan
    shared = np.einsum("n...,n...->...", first, second, dtype=np.float64)
    outer = first.sum(axis=0) * second.sum(axis=0) / ((n - 1) * (n - 2))
    return cross - shared + outer - 2 * shared / (n - 2)


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

"""Every measure of the band below the cut-off, for all cut-offs at once.

In an orthonormal basis the band below a cut-off is the first few coefficients, so that all cut-offs
come from sums over the same products. `similarity.Pair` is one band; its numbers are these.
"""

from __future__ import annotations

import functools

import numpy as np

from fdlab.spectral.similarity import NEIGHBOURS, centre_columns, debias


class Sweep:
    """Two sides of N events in one basis, and E bands that grow from the first coefficient.

    one, two: (N, D) coefficients, slow to fast. stops: (E,) whole numbers, ascending from 0 to D:
    how many coefficients the band has. A band of none measures 0. Computed in the precision of the
    inputs; single precision agrees with double to 1e-5 and takes half the time.
    """

    def __init__(
        self, one: np.ndarray, two: np.ndarray, stops: np.ndarray, k: int = NEIGHBOURS
    ) -> None:
        if one.shape != two.shape:
            raise ValueError(f"sides of one shape expected: {one.shape} and {two.shape}")
        self.one, self.two, self.stops, self.k = one, two, np.asarray(stops), k

    @functools.cached_property
    def row_cosines(self) -> np.ndarray:
        """(N, E) cosine of each pair in each band; 0 where a side is zero."""
        return ((self.one * self.two) @ self._below) * self._norms[0] * self._norms[1]

    @property
    def cosine(self) -> np.ndarray:
        """(E,) mean row cosine."""
        return self.row_cosines.mean(axis=0)

    def shuffle_cosine(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (P, E) mean row cosine."""
        found = np.empty((len(orders), len(self.stops)))
        for place, order in enumerate(orders):
            products = self.one * self.two.take(order, axis=0)
            scale = self._norms[0] * self._norms[1].take(order, axis=0)
            # Σ over rows of (products up to the stop) · scale, as one matrix product of D × E.
            found[place] = ((products.T @ scale) * self._below).sum(axis=0)
        return found / len(self.one)

    @property
    def cka(self) -> np.ndarray:
        """(E,) linear CKA; plain."""
        return self.shuffle_cka(np.arange(len(self.one))[None])[0, 0]

    @property
    def cka_debiased(self) -> np.ndarray:
        """(E,) linear CKA of unbiased estimates; see `similarity.linear_cka`."""
        return self.shuffle_cka(np.arange(len(self.one))[None])[1, 0]

    def shuffle_cka(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (2, P, E) plain and debiased linear CKA; the latter is
        nan for N < 4."""
        one, two = self._centred
        first, second = self._energies
        plain, unbiased = self._scales
        found = np.empty((2, len(orders), len(self.stops)))
        for place, order in enumerate(orders):
            cross = self._add_squares(one.T @ two.take(order, axis=0))
            found[0, place] = cross / plain
            found[1, place] = debias(cross, first, second.take(order, axis=0)) / unbiased
        return found

    @property
    def neighbours(self) -> np.ndarray:
        """(E,) mutual neighbour overlap; 0 where a side does not vary."""
        return self.shuffle_neighbours(np.arange(len(self.one))[None])[0]

    def shuffle_neighbours(self, orders: np.ndarray) -> np.ndarray:
        """(P, N) orders of the second side → (P, E) mutual neighbour overlap."""
        samples = len(self.one)
        found = np.zeros((len(orders), len(self.stops)))
        for column, (mine, theirs) in enumerate(zip(*self._near, strict=True)):
            if mine is None or theirs is None:
                continue
            rows, columns = np.divmod(np.flatnonzero(mine), samples)
            near = theirs.ravel()
            for place, order in enumerate(orders):
                moved = order.take(rows) * samples + order.take(columns)
                shared = np.count_nonzero(near.take(moved))
                found[place, column] = shared / len(rows)
        return found

    @functools.cached_property
    def _below(self) -> np.ndarray:
        """(D, E) 1 where a coefficient is in a band."""
        inside = np.arange(self.one.shape[1])[:, None] < self.stops
        return inside.astype(self.one.dtype)

    @functools.cached_property
    def _norms(self) -> list[np.ndarray]:
        """(N, E) one over the length of each row in each band, 0 for a zero row."""
        squares = [(side * side) @ self._below for side in (self.one, self.two)]
        return [np.divide(1, np.sqrt(s), out=np.zeros_like(s), where=s > 0) for s in squares]

    @functools.cached_property
    def _centred(self) -> list[np.ndarray]:
        return [centre_columns(side, side.dtype) for side in (self.one, self.two)]

    @functools.cached_property
    def _energies(self) -> list[np.ndarray]:
        """(N, E) squared length of each centred row."""
        return [(side * side) @ self._below for side in self._centred]

    @functools.cached_property
    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        """(E,) the denominators of plain and debiased CKA, infinite where there is none."""
        squares = [self._add_squares(side.T @ side) for side in self._centred]
        plain = np.sqrt(squares[0] * squares[1])
        debiased = [debias(s, e, e) for s, e in zip(squares, self._energies, strict=True)]
        whole = debiased[0] * debiased[1]
        unbiased = np.sqrt(np.where(whole > 0, whole, np.inf))
        # Rounding leaves a debiased scale where a side does not vary; the plain one is exactly 0.
        plain = np.where(plain > 0, plain, np.inf)
        return plain, np.where(np.isfinite(plain), unbiased, np.inf)

    def _add_squares(self, product: np.ndarray) -> np.ndarray:
        """(D, D) → (E,) sum of the squares in its upper left corner of each band's size."""
        size = len(product)
        rings = np.bincount(_find_rings(size), np.square(product).ravel(), minlength=size)
        return np.concatenate([[0.0], np.cumsum(rings)])[self.stops]

    @functools.cached_property
    def _near(self) -> list[list[np.ndarray | None]]:
        return [self._find_near(side) for side in self._centred]

    def _find_near(self, side: np.ndarray) -> list[np.ndarray | None]:
        """(N, N) per band: whether a column's row is among the nearest of a row; None where the
        band does not vary. Distances grow by each band's own coefficients."""
        side = side.astype(np.float32)  # twice as fast, and only orders
        samples = len(side)
        k = min(self.k, samples - 1)
        distances = np.zeros((samples, samples), np.float32)
        np.fill_diagonal(distances, np.inf)
        found, start = [], 0
        for stop in self.stops:
            part = side[:, start:stop]
            distances -= 2 * (part @ part.T)
            distances += np.square(part).sum(axis=1)
            start = stop
            if not side[:, :stop].any():
                found.append(None)
                continue
            edge = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
            found.append(distances <= edge)
        return found


@functools.lru_cache(maxsize=8)
def _find_rings(size: int) -> np.ndarray:
    """(size · size,) the larger of row and column of each entry."""
    place = np.arange(size)
    return np.maximum.outer(place, place).ravel()

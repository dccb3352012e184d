"""A number with its interval and its n."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval [low, high] and the number n of what was averaged.

    An interval that n cannot support (n = 1) is (nan, nan), and prints as such.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def excludes(self, value: float) -> bool:
        """Whether the interval exists and `value` lies outside it."""
        return self.known and not self.low <= value <= self.high

    def format(self, digits: int = 1, sign: bool = False) -> str:
        plus = "+" if sign else ""
        mean = f"{self.mean:{plus}.{digits}f}"
        if not self.known:
            return f"{mean} (n={self.n}, no interval)"
        return f"{mean} [{self.low:{plus}.{digits}f}, {self.high:{plus}.{digits}f}]"

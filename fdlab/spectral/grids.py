"""Logits as a grid (FiGKD): its shape, the order of the classes on it, its low and high part."""

from __future__ import annotations

import math

import numpy as np
import torch

from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.models.precision import widen
from fdlab.spectral.wavelets import keep_low


def choose_grid(classes: int) -> tuple[int, int]:
    """(rows, columns) of the most nearly square grid of exactly K positions, rows ≤ columns.

    100 → 10×10, 200 → 10×20, 120 → 10×12, 40 → 5×8; a prime number has one row, 67 → 1×67.
    That H · W = K and the grid is as square as possible is the source's, rows ≤ columns our choice.
    """
    if classes < 1:
        raise UserError(f"classes is {classes}: expected a whole number from 1")
    rows = next(r for r in range(math.isqrt(classes), 0, -1) if classes % r == 0)
    return rows, classes // rows


def as_logit_grid(logits: torch.Tensor) -> torch.Tensor:
    """(N, K) → (N, 1, rows, columns), row by row in the order of the classes."""
    return logits.unflatten(1, (1, *choose_grid(logits.shape[1])))


def order_classes(classes: int, seed: int = 0) -> np.ndarray:
    """(K,) a fixed random order: position i of the grid holds the class order[i]."""
    return np.random.default_rng(derive_seed("classes", classes, seed)).permutation(classes)


def split_logits(
    logits: torch.Tensor,
    wavelet: str = "haar",
    levels: int = 1,
    mode: str = "zero",
    order: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) → what the grid's low band alone and its details alone rebuild, (N, K) each; they add
    up to the logits.

    order: the classes' places on the grid (`order_classes`), by default their own; the parts are in
    the classes' own order either way. With Haar, one level and even sides low is the mean of every
    2×2 block: the block's four classes tie in it, and one class that stands out does so in high,
    whatever the logits mean. Beyond an odd side's last position the mean takes in zeros. Half
    precision is computed in float32.
    """
    logits = widen(logits)
    if order is None:
        low = keep_low(as_logit_grid(logits), wavelet, levels, mode).flatten(1)
    else:
        places = torch.from_numpy(order).to(logits.device)
        moved = keep_low(as_logit_grid(logits[:, places]), wavelet, levels, mode).flatten(1)
        low = moved[:, torch.argsort(places)]
    return low, logits - low

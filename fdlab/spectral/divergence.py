"""How far two maps are apart, frequency by frequency, and how far two sets of features.

Everything about a pair of maps follows from three energies in each group of frequencies: of the
one, of the other, and of their difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fdlab.spectral.planes import radius, standardise

LOW, HIGH = 0.25, 0.75  # FreqKD's release: radii up to the one are low, from the other on high
METRICS = ("mse", "per_bin", "relative", "cosine")
TINY = 1e-12  # FreqKD's release adds it to every denominator


@dataclass(frozen=True)
class Rings:
    """Groups of the bins of a real map's transform (h, w // 2 + 1): low, high, then every ring.

    weights: (G, h, w // 2 + 1), how many bins of the whole transform each bin stands for, 0 outside
    the group; what a group keeps of a real map is real. bins: (G,) how many it has of those.
    radii: (G - 2,) of the rings, in units of min(h, w) / 2.
    """

    weights: torch.Tensor
    bins: np.ndarray
    radii: np.ndarray


def find_rings(h: int, w: int, device: torch.device | None = None) -> Rings:
    """FreqKD's two radial bands, between which the middle is dropped, and rings as wide as a bin
    about 0, 1, 2, …, which hold every bin once, the corners included.

    Where min(h, w) is odd the release's unit is half a bin shorter.
    """
    r = radius(h, w)[:, : w // 2 + 1]
    twice = torch.full((w // 2 + 1,), 2.0)
    twice[0] = 1
    if w % 2 == 0:
        twice[-1] = 1  # the Nyquist bin is its own mirror image
    half = min(h, w) / 2
    place = torch.round(r * half)
    groups = [r <= LOW + 1e-6, r >= HIGH - 1e-6]
    groups += [place == k for k in range(int(place.max()) + 1)]
    weights = torch.stack([group * twice for group in groups])
    bins = weights.sum(dim=(1, 2)).numpy()
    return Rings(weights.to(device), bins, np.arange(len(groups) - 2) / half)


def has_low_band(h: int, w: int) -> bool:
    """Whether a map has a low frequency beside its mean over positions."""
    return LOW * min(h, w) / 2 >= 1


def transform(maps: torch.Tensor, standardised: bool = True) -> torch.Tensor:
    """(N, C, h, w) → (N, C, h, w // 2 + 1), the orthonormal transform of real maps.

    standardised: as FreqKD's release does before it, see `planes.standardise`.
    """
    maps = maps.float()
    return torch.fft.rfft2(standardise(maps) if standardised else maps, norm="ortho")


def sum_energies(spectrum: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w'), (G, h, w') → (N, G) energy in each group, over all channels."""
    power = torch.view_as_real(spectrum).square().sum(dim=(1, 4))
    return power.flatten(1) @ weights.flatten(1).T


def pool_energies(spectrum: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w'), (h, w') → (N, C) root of the energy of what one group keeps of each channel.

    What is left of a band when its positions are pooled: its mean over positions is 0.
    """
    return (torch.view_as_real(spectrum).square().sum(dim=4) * weights).sum(dim=(2, 3)).sqrt()


def list_coefficients(
    spectrum: torch.Tensor, weights: torch.Tensor, most: int, seed: int = 0
) -> torch.Tensor:
    """(N, C, h, w'), (h, w') → (N, D) real numbers whose products are those of one group's maps.

    most: where there are more, so many of them, the same for every call, drawn without repetition;
    products are then those of a random part.
    """
    kept = weights > 0
    rows = torch.view_as_real(spectrum[:, :, kept] * weights[kept].sqrt()).flatten(1)
    if rows.shape[1] <= most:
        return rows
    drawn = np.random.default_rng(seed).choice(rows.shape[1], most, replace=False)
    return rows[:, torch.from_numpy(np.sort(drawn)).to(rows.device)]


def measure_divergence(
    one: np.ndarray,
    two: np.ndarray,
    gap: np.ndarray,
    shape: Sequence[int],
    bins: np.ndarray,
) -> dict[str, np.ndarray]:
    """Metric → how far two maps (C, h, w) of a shape are apart in each group, from the energies
    (…, G) of the one, of the other and of their difference. bins: (G,) of each group.

    "mse": the mean over all channels and positions of the map, as FreqKD's release takes it,
    however many bins the group has; "per_bin": over the group's own, of the low band without
    frequency 0, of which standardised maps have next to nothing; "relative": the difference's
    energy over that of the first map; "cosine": 1 - the cosine of the two as vectors, 1 where one
    of them is 0.
    """
    one, two, gap = (np.asarray(x, dtype=np.float64) for x in (one, two, gap))
    both = np.sqrt(one * two)
    apart = gap - np.square(np.sqrt(one) - np.sqrt(two))  # 2 (both - product), without cancelling
    cosine = np.divide(apart, 2 * both, out=np.ones_like(gap), where=both > TINY)
    return {
        "mse": gap / math.prod(shape),
        "per_bin": _average_bins(gap, shape[0], bins),
        "relative": gap / (one + TINY),
        "cosine": cosine,
    }


def _average_bins(energies: np.ndarray, channels: int, bins: np.ndarray) -> np.ndarray:
    """(…, G) of `Rings`' groups → the mean over each one's bins, of the low band without ring 0."""
    energies, bins = energies.copy(), bins.astype(np.float64)
    energies[..., 0] -= energies[..., 2]
    bins[0] -= bins[2]
    return energies / (channels * bins)


def predict_divergence(
    one: np.ndarray, two: np.ndarray, shape: Sequence[int], bins: np.ndarray
) -> dict[str, np.ndarray]:
    """Metric → its mean (G,) over pairs that share nothing, from n maps' energies (n, G) a side.

    The closed form for independent maps of zero mean: the difference's energy is the sum of the
    two, so that the mean squared error says how much energy a group has and nothing else; the
    relative error is 1 + E‖S‖² · E(1 / ‖T‖²), 2 where all have one energy; 1 - cosine is 1.
    """
    one, two = (np.asarray(x, dtype=np.float64) for x in (one, two))
    gap = one.mean(axis=0) + two.mean(axis=0)
    return {
        "mse": gap / math.prod(shape),
        "per_bin": _average_bins(gap, shape[0], bins),
        "relative": 1 + two.mean(axis=0) * (1 / (one + TINY)).mean(axis=0),
        "cosine": np.ones_like(gap),
    }


def draw_noise(
    shape: Sequence[int], slope: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Gaussian maps (N, C, h, w) whose amplitude falls as 1 / radius^slope; 0 is white noise."""
    white = torch.randn(*shape, generator=generator)
    if slope == 0:
        return white
    h, w = white.shape[-2:]
    r = radius(h, w)[:, : w // 2 + 1]
    r[0, 0] = torch.inf  # no mean, whose amplitude would be infinite
    return torch.fft.irfft2(torch.fft.rfft2(white) / r**slope, s=(h, w))


def compare_distributions(
    one: np.ndarray, two: np.ndarray, swaps: np.ndarray
) -> tuple[float, np.ndarray]:
    """Squared maximum mean discrepancy of (N, D) and (N, D), and its null (P,).

    The unbiased U-statistic for paired rows (Gretton et al., 2012, equation 6) with the kernel
    exp(-d² / m), m the median squared distance of all rows: of a pair's own two rows nothing
    counts, so that what an event shares with itself pulls neither way. swaps: (P, N) of 1 and -1;
    where it is -1 a pair's rows change sides, which changes nothing if both sides have one
    distribution.
    """
    rows = np.concatenate([one, two]).astype(np.float64)
    n = len(one)
    energy = np.square(rows).sum(axis=1)
    squared = np.maximum(energy[:, None] + energy - 2 * rows @ rows.T, 0)
    median = np.median(squared[np.triu_indices(2 * n, 1)])
    if median <= 0:
        return 0.0, np.zeros(len(swaps))
    kernel = np.exp(-squared / median)
    own = np.arange(n)
    kernel[own, own + n] = kernel[own + n, own] = 0
    np.fill_diagonal(kernel, 0)
    signs = np.concatenate([swaps, -swaps], axis=1).astype(np.float64)
    signs = np.concatenate([np.concatenate([np.ones(n), -np.ones(n)])[None], signs])
    values = np.einsum("pi,pi->p", signs @ kernel, signs) / (n * (n - 1))
    return float(values[0]), values[1:]

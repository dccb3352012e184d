"""Feature pairs with the answer built in, against which every measurement is tested.

Each side is a vector over D channels,

    x = shared + private + mean,        y = ratio · (shared' + private' + mean)

where `shared` lives in one band of channel frequencies, is equal on both sides and holds the
fraction `strength` of the zero-mean energy; `private` is independent between the sides and fills
the rest, so that the expected energy of every frequency is the same whatever the strength; and
`mean` is a constant over the channels. With strength 0 two sides share the mean and nothing else:
the null model behind cos_low = 2c / (1 + c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fdlab.core.errors import UserError, name_unknown
from fdlab.data.dataset import Built, Dataset, Modality

BANDS = ("low", "high", "both", "none")
LARGEST = 100_000_000  # numbers per side


@dataclass(frozen=True)
class PlantedOptions:
    """events: N. dim: D channels. band: where the shared part lives. strength: its energy in
    that band as a fraction of the band's energy, 0 to 1. mean: added to every channel; the
    zero-mean part has a standard deviation of about 1 (sqrt((D - 1) / D)). ratio: scale of the
    second side over the first. classes: the shared part of each class has a centre of its own that
    holds `class_share` of the shared energy."""

    events: int = 600
    dim: int = 128
    band: str = "low"
    strength: float = 0.5
    mean: float = 1.0
    ratio: float = 1.0
    classes: int = 10
    class_share: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.band not in BANDS:
            raise name_unknown("planted band", self.band, BANDS)
        for name in ("strength", "class_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}: expected 0 to 1")
        if not 2 <= self.classes <= 10:
            raise UserError(f"classes is {self.classes}: expected 2 to 10")
        for name in ("mean", "ratio"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}: expected a finite number")
        if self.events < self.classes or self.dim < 4 or self.ratio <= 0 or self.seed < 0:
            raise UserError("planted needs events >= classes, dim >= 4, ratio > 0 and seed >= 0")
        if self.events * self.dim > LARGEST:
            raise UserError(f"events * dim is {self.events * self.dim}: expected up to {LARGEST}")


def plant(options: PlantedOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sides (N, D) float64 and labels (N,), as the module states."""
    rng = np.random.default_rng([options.seed, 7])
    labels = np.arange(options.events) % options.classes
    size = (options.events, options.dim)
    centres = rng.standard_normal((options.classes, options.dim))[labels]
    shared = _mix(centres, rng.standard_normal(size), options.class_share)
    held = _mask(options.dim, options.band) * options.strength
    first, second = (
        _synthesise(shared, rng.standard_normal(size), held) + options.mean for _ in range(2)
    )
    return first, options.ratio * second, labels


def build_planted(options: PlantedOptions, *, workers: int = 1, progress=None) -> Built:
    first, second, labels = plant(options)
    split = np.repeat([0, 1, 2], np.diff([0, *_cuts(options.events), options.events]))
    return Built(
        modalities={"first": first.astype(np.float32), "second": second.astype(np.float32)},
        labels=labels.astype(np.int64),
        split=split.astype(np.uint8),
        info={"note": "synthetic feature vectors with a planted shared part; no real data"},
    )


def _cuts(events: int) -> tuple[int, int]:
    return events // 4, events // 2  # half of the events are the test split


def _mix(one: np.ndarray, two: np.ndarray, share: float | np.ndarray) -> np.ndarray:
    """Unit-variance mixture of two unit-variance arrays, `share` of the energy from the first."""
    return np.sqrt(share) * one + np.sqrt(1 - share) * two


def _mask(dim: int, band: str) -> np.ndarray:
    """(D//2 + 1,) of 0 and 1: the bins of a band at cut-off 1/2; the DC belongs to neither."""
    bins = np.arange(dim // 2 + 1)
    low = (bins >= 1) & (bins <= (dim // 2) // 2)
    chosen = {"low": low, "high": (bins >= 1) & ~low, "both": bins >= 1, "none": bins < 0}
    return chosen[band].astype(float)


def _synthesise(shared: np.ndarray, private: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Zero-mean rows whose bin k holds the fraction `held[k]` of its energy from `shared`."""
    spectra = (np.fft.rfft(part, axis=-1) for part in (shared, private))
    mixed = _mix(*spectra, held)
    mixed[:, 0] = 0
    return np.fft.irfft(mixed, n=shared.shape[-1], axis=-1)


PLANTED = Dataset(
    name="planted",
    summary="feature pairs with a shared part planted in a chosen band; for testing measurements",
    classes=10,
    modalities={"first": Modality(""), "second": Modality("")},
    options=PlantedOptions,
    build=build_planted,
    directions=("first2second",),
)

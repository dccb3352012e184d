"""What a student's maps miss of its teacher's, spatial frequency by spatial frequency.

The best linear reading of the student's map, a 1×1 convolution, is fitted to the teacher's on
training images in closed form; what it misses on test images is split by frequency. No trained
projector takes part, so that students that were never compared with the teacher can be asked too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from fdlab.core.estimate import Estimate
from fdlab.losses.features import mse
from fdlab.losses.maps import as_grid, resize
from fdlab.losses.planes import gaussian_fft_loss
from fdlab.models.output import ModelOutput
from fdlab.spectral.divergence import find_rings, sum_energies, transform
from fdlab.spectral.planes import make_gaussian, standardise_samples
from fdlab.studies.stats import LEVEL, resample_means

RIDGE = 1e-3  # of the mean variance of the student's channels
DRAWS = 500
Names = list[tuple[str, str]]  # of the student's map and the teacher's
Look = Callable[[torch.Tensor], tuple[ModelOutput, ModelOutput]]  # rows → student's, teacher's


@dataclass(frozen=True)
class Energies:
    """One stage, of one student. radii: (K,) of the rings, in units of half the shorter side.
    missed, there: (n, K) energy of the teacher's map of n test images, less its mean over images
    and positions, in each ring: what the reading misses of it, and all of it. losses: what is
    missed by the mean squared error ("mse") and by SFKD's loss with a flat filter ("flat"), its own
    ("low") and its complement ("high"); mean over images."""

    shape: tuple[int, ...]
    radii: np.ndarray
    missed: np.ndarray
    there: np.ndarray
    losses: dict[str, float]


@torch.no_grad()
def measure_energies(
    look: Look,
    names: Names,
    fitted: Iterable[torch.Tensor],
    tested: Iterable[torch.Tensor],
    width: float = 0.25,
) -> list[Energies]:
    """Of every pair of maps; fitted, tested: the batches of rows to fit on and to test on. width:
    of the filter.

    Maps are brought together as SFKD does it: the student's at the teacher's size, bilinearly,
    each with mean 0 and deviation 1 over all of a sample.
    """
    readings: list[_Reading] = []
    for rows in fitted:
        found = _bring_together(*look(rows), names)
        readings = readings or [_Reading(mine.shape[1], theirs.shape[1]) for mine, theirs in found]
        for reading, pair in zip(readings, found, strict=True):
            reading.add(*pair)
    for reading in readings:
        reading.solve()
    parts: list[list[_Part]] = [[] for _ in names]
    for rows in tested:
        found = _bring_together(*look(rows), names)
        for part, reading, pair in zip(parts, readings, found, strict=True):
            part.append(_compare(reading, *pair, width))
    return [_join(part) for part in parts]


def summarise_share(missed: np.ndarray, there: np.ndarray) -> list[Estimate]:
    """(S, n, K) energies → of each ring the share that is missed: the ratio of the means over seeds
    and images, percentile interval over both, n of it the number of seeds."""
    count = missed.shape[2]
    rows = np.concatenate([missed, there], axis=2).transpose(2, 0, 1)
    drawn = resample_means(rows, DRAWS)
    found = []
    for k in range(count):
        low, high = np.quantile(drawn[k] / drawn[count + k], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        share = missed[..., k].mean() / there[..., k].mean()
        found.append(Estimate(float(share), float(low), float(high), missed.shape[0]))
    return found


def weigh_rings(shape: tuple[int, ...], width: float, passes: str) -> np.ndarray:
    """(K,) mean weight of SFKD's filter in each ring of a map (C, h, w)."""
    rings = find_rings(*shape[1:])
    half = torch.from_numpy(make_gaussian(*shape[1:], width, passes)[:, : shape[2] // 2 + 1])
    total = (rings.weights[2:].double() * half).sum(dim=(1, 2)).numpy()
    return total / rings.bins[2:]


_Part = tuple[tuple[int, ...], torch.Tensor, torch.Tensor, dict[str, float]]


def _compare(reading: _Reading, mine: torch.Tensor, theirs: torch.Tensor, width: float) -> _Part:
    """Of one batch the maps' shape, the energies of what is missed and of all, and the losses."""
    weights = find_rings(*theirs.shape[2:], theirs.device).weights[2:]
    target = theirs - reading.target_mean.to(theirs)[:, None, None]
    read = reading.read(mine)
    missed, there = (
        sum_energies(transform(x, False), weights).cpu() for x in (target - read, target)
    )
    losses = {
        "mse": mse(read, target),
        "flat": gaussian_fft_loss(read, target, float("inf")),
        "low": gaussian_fft_loss(read, target, width),
        "high": gaussian_fft_loss(read, target, width, "high"),
    }
    return (
        tuple(target.shape[1:]),
        missed,
        there,
        {name: float(loss) for name, loss in losses.items()},
    )


def _join(parts: list[_Part]) -> Energies:
    """The batches of one stage put together."""
    (shape, *_), missed, there, losses = zip(*parts, strict=True)
    counts = [len(each) for each in missed]
    return Energies(
        shape,
        find_rings(*shape[1:]).radii,
        *(torch.cat(each).double().numpy() for each in (missed, there)),
        {name: float(np.average([x[name] for x in losses], weights=counts)) for name in losses[0]},
    )


def _bring_together(
    student: ModelOutput, teacher: ModelOutput, names: Names
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for mine, theirs in names:
        target = as_grid(teacher.find(theirs))
        own = resize(as_grid(student.find(mine)), target)
        found.append((standardise_samples(own.float()), standardise_samples(target.float())))
    return found


class _Reading:
    """The linear map from a student's channels to a teacher's with the least squared error, the
    mean over images and positions taken from both; ridge, so that it exists."""

    def __init__(self, mine: int, theirs: int):
        self.count = 0
        self.own = torch.zeros(mine + theirs, dtype=torch.float64)
        self.products = torch.zeros(mine, mine + theirs, dtype=torch.float64)
        self.size = mine

    def add(self, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        rows = torch.cat([mine, theirs], dim=1).permute(0, 2, 3, 1).flatten(0, 2).double().cpu()
        self.count += len(rows)
        self.own += rows.sum(dim=0)
        self.products += rows[:, : self.size].T @ rows

    def solve(self) -> None:
        mean = self.own / self.count
        self.mean, self.target_mean = mean[: self.size], mean[self.size :]
        covariance = self.products / self.count - torch.outer(self.mean, mean)
        left, right = covariance[:, : self.size], covariance[:, self.size :]
        ridge = RIDGE * left.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        self.weights = torch.linalg.solve(left + ridge * torch.eye(self.size), right)

    def read(self, mine: torch.Tensor) -> torch.Tensor:
        """(N, C_s, h, w) → (N, C_t, h, w), the teacher's mean taken off."""
        centred = mine - self.mean.to(mine)[:, None, None]
        return torch.einsum("nchw,cd->ndhw", centred, self.weights.to(mine))

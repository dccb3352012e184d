"""SFKD's refinement of a map's sub-bands, two streams in two stages: a reconstruction."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from fdlab.methods.adapt import Norm
from fdlab.spectral.wavelets import decompose, rebuild

SQUEEZE = 4  # times fewer channels inside a gate


class Refinement(nn.Module):
    """A map (N, C, h, w) → its sub-bands refined and put together again, of the same shape.

    SFKD's abstract names a dual-stream, dual-stage refinement of the sub-bands and says no more;
    this is our reconstruction. The streams are the low band of Haar's transform and all its
    details. First stage: each by itself, x + GELU(norm(1×1(3×3 per channel(x)))), the details with
    one such block per level, shared by its three orientations. Second stage: each stream's channels
    are weighed by the other, from the mean size of its coefficients (`Gate`). With no levels the
    map itself is the one stream.
    """

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.levels = levels
        self.low = Stream(channels)
        self.high = nn.ModuleList(Stream(channels) for _ in range(levels))
        self.gates = nn.ModuleList(Gate(channels) for _ in range(2 if levels else 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.levels:
            return self.low(x)
        low, details = decompose(x, "haar", self.levels)
        low = self.low(low)
        details = [
            _apart(stream(_together(level)), level.shape[2])
            for stream, level in zip(self.high, details, strict=True)
        ]
        low_size = low.abs().mean(dim=(2, 3))
        high_size = torch.stack([d.abs().mean(dim=(2, 3, 4)) for d in details]).mean(dim=0)
        by_high, by_low = (g(s) for g, s in zip(self.gates, (high_size, low_size), strict=True))
        low = low * by_high[..., None, None]
        details = [level * by_low[..., None, None, None] for level in details]
        return rebuild(low, details, size=x.shape[2:])


class Stream(nn.Module):
    """(N, C, h, w) → x + GELU(norm(1×1(3×3 per channel(x)))).

    In channels-last layout, in which the CPU's convolution of each channel by itself takes up to a
    quarter of the time; not below eight channels, see `models.build.place`.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.layout = torch.channels_last if channels >= 8 else torch.contiguous_format
        self.change = nn.Sequential(
            PerChannel(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            Norm(channels),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=self.layout)
        return x + self.change(x)


class PerChannel(nn.Conv2d):
    """The convolution of each channel by itself, with padding. At a single position the middle of
    the kernel alone counts, and a product takes a tenth of the time or less."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        return x * self.weight[:, 0, 1, 1, None, None]


class Gate(nn.Module):
    """(N, C) → (N, C) weights from 0 to 2, about 1 at first: squeeze and excitation."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(channels // SQUEEZE, 1)
        self.squeeze, self.excite = nn.Linear(channels, inner), nn.Linear(inner, channels)

    def forward(self, size: torch.Tensor) -> torch.Tensor:
        return 2 * torch.sigmoid(self.excite(functional.relu(self.squeeze(size))))


def _together(level: torch.Tensor) -> torch.Tensor:
    """(N, C, O, h, w) → (N · O, C, h, w)."""
    return level.transpose(1, 2).flatten(0, 1)


def _apart(maps: torch.Tensor, orientations: int) -> torch.Tensor:
    return maps.unflatten(0, (-1, orientations)).transpose(1, 2)

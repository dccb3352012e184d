"""FD-CMKD with a learned cut-off: what the paper names as future work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.methods.base import Sizes
from fdlab.methods.fdcmkd import FDCMKD
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen
from fdlab.spectral.bands import BandSplit, split_fourier_softly


class SoftFDCMKD(FDCMKD):
    """`fdcmkd` whose band edge is a parameter, trained with everything else by the same loss.

    Bin k of the K non-constant bins is low by the share

        m_k = sigmoid((c - (k - 1/2)/K) / softness),        c = sigmoid(a), a trained

    so that c is the fraction of the bins below the edge, as `cutoff` is in `fdcmkd`. With groups
    G > 1 the channels are cut into G runs of D/G, and each has a spectrum and an edge of its own.
    The loss can lower itself by moving the edge to where the two networks agree or the heads
    classify best; where it ends up is read by `edges`. Source: named as future work (FD-CMKD,
    conclusion); every detail here is our choice.
    """

    name = "fdcmkd_soft"
    summary = "FD-CMKD with a trained soft cut-off, one or one per group of channels"
    source = "FD-CMKD, future work; our form"

    @dataclass(frozen=True)
    class Options(FDCMKD.Options):
        """Those of `fdcmkd`, of which `cutoff` is where the edges start; groups: G; softness: of
        the edge, as a fraction of the bins."""

        groups: int = 1
        softness: float = 0.05

        def __post_init__(self):
            super().__post_init__()
            plain = self.dc == "drop" and self.basis == "dft" and self.axis == "channel"
            if not (self.frequency and plain):
                raise UserError(
                    "fdcmkd_soft splits channels by frequency, drops the DC and takes no basis"
                )
            if not 0 < self.cutoff < 1:
                raise UserError(f"cutoff is {self.cutoff}: expected inside 0 to 1, to start from")
            if self.groups < 1:
                raise UserError(f"groups is {self.groups}: expected a whole number from 1")
            if not 0 < self.softness < math.inf:
                raise UserError(f"softness is {self.softness}: expected above 0")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        width = sizes.student.width if sizes.teacher is None else sizes.teacher.width
        if width % options.groups or width < 4 * options.groups:
            raise UserError(
                f"groups is {options.groups}: expected a divisor of the {width} channels "
                "with at least 4 channels a group"
            )
        start = math.log(options.cutoff / (1 - options.cutoff))
        self.edge = nn.Parameter(torch.full((options.groups,), start))

    @property
    def edges(self) -> torch.Tensor:
        """(G,) fraction of the bins below each group's edge."""
        return torch.sigmoid(self.edge)

    def split(self, feature: torch.Tensor, student: ModelOutput) -> dict[str, torch.Tensor]:
        """ "low" and "high" → (N, D), in float32 where the feature is less."""
        groups = widen(feature).chunk(self.options.groups, dim=1)
        bins = groups[0].shape[1] // 2
        places = (torch.arange(bins, dtype=self.edge.dtype, device=feature.device) + 0.5) / bins
        split = [
            split_fourier_softly(group, torch.sigmoid((edge - places) / self.options.softness))
            for group, edge in zip(groups, self.edges, strict=True)
        ]
        low, high = (torch.cat([part[i] for part in split], dim=1) for i in range(2))
        return self.keep_bands(BandSplit(low, high))

"""FreeKD's wavelet loss: detail bands of the maps (Zhang et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.core.errors import UserError
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import as_grid, resize, wavelet_l1
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.methods.maps import match_channels
from fdlab.models.output import ModelOutput


class FreeKD(Method):
    """L = CE + w · Σ_stages Σ_levels mean |W_s - W_t| over the three detail bands.

    Haar transform of the maps after the ReLU, up to `levels` = 3 (as many as the longer side can be
    halved; across a side of one position there is no detail), zero padding; the low band is not
    distilled. The student's map goes to the teacher's
    size, bilinearly, and where channels differ through a 1×1 convolution. A stage of a single
    position has no detail and is left out. Default w = 1 (released configuration). This is the
    wavelet loss alone: the paper's masks come from prompts of a training phase of their own, and
    its relation weights are in no released file; stages stand for the levels of a detector's
    pyramid. It compares positions, which in two modalities do not correspond.
    """

    name = "freekd"
    summary = "wavelet details of every stage, low band left out"
    source = "Zhang et al., CVPR 2024"
    needs = ("stages",)
    compares = ("details",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        levels: int = 3

        def __post_init__(self):
            require_weights(self, "weight")
            require_positive(self, "levels")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")
        self.levels = []
        for _, theirs in self.names:
            shape = (*sizes.teacher.maps[theirs][1:], 1)[:2]
            halvings = max(shape).bit_length() - 1
            self.levels.append(min(options.levels, halvings))
        if not any(self.levels):
            raise UserError("freekd needs a teacher's map of more than one position")
        self.connectors = match_channels(sizes.pair_channels("stages"))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        distances = []
        parts = zip(self.names, self.connectors, self.levels, strict=True)
        for (mine, theirs), connector, levels in parts:
            if levels:
                target = torch.relu(as_grid(teacher.find(theirs).detach()))
                own = resize(torch.relu(student.find(mine)), target)
                distances.append(wavelet_l1(connector(own), target, levels))
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "details": self.options.weight * torch.stack(distances).sum()}

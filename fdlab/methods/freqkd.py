"""FreqKD: low and high spatial frequencies of several blocks' maps, apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fdlab.data.dataset import TASKS
from fdlab.losses.features import mse
from fdlab.losses.planes import band_loss, require_form
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights, task_loss
from fdlab.methods.maps import Aligned, choose_layers, require_layers
from fdlab.models.output import ModelOutput
from fdlab.spectral.planes import find_reach, require_mask, standardise


class FreqKD(Method):
    """L = w · task + Σ_layers [λ_low · mean (s_low - t_low)² + λ_high · d(s_high, t_high)].

    s and t are maps less each channel's mean over positions, then of length 1 over the channels at
    each position (`standardise`); low and high their bands over the positions, d the distance of
    `band_loss`. Defaults λ_low = 1, λ_high = 0.1, cut-off 1/2, for d the logs of magnitudes
    (released code). The released mask's bands are neither real nor orthogonal: `mask` "released"
    has it, the default is symmetric. The source trains in two stages, of which this is the first,
    without labels: task_weight 0, and then there is no task term. A weight of 0 for one band leaves
    the other alone (for "high only" the source has λ_high = 1). Without `frequency` the
    standardised maps are compared whole, by their mean square, weighted by `low_weight`.

    layers: blocks by number, from 0; the source's are 7, 15, 19, 21 and 23 of ViT-L's 24. None: the
    ends of all stages, our choice for networks of other depths. Which of another student's maps go
    with the teacher's blocks: `choose_layers`. Where channels or sizes differ: `Aligned`, as the
    source has it between a ViT and ResNet-50; its convolution's bias, which we leave out, is lost
    in the standardisation. It compares positions.
    """

    name = "freqkd"
    summary = "low and high spatial frequencies of maps, weighted apart"
    source = "FreqKD, released code"
    tasks = TASKS
    needs = ("stages",)
    compares = ("low", "high", "feature")
    strength = ("low_weight", "high_weight")

    @dataclass(frozen=True)
    class Options:
        """cutoff, mask: see `split_plane`. high: the high bands' distance, see `band_loss`.
        frequency: whether the maps are split at all. layers: see the method."""

        task_weight: float = 1.0
        low_weight: float = 1.0
        high_weight: float = 0.1
        cutoff: float = 0.5
        mask: str = "symmetric"
        high: str = "log_magnitude"
        frequency: bool = True
        layers: list[int] = field(default_factory=list)

        def __post_init__(self):
            require_weights(self, "task_weight", "low_weight", "high_weight")
            find_reach(2, self.cutoff)  # refuses a cut-off outside 0 to 1
            require_mask(self.mask)
            require_form(self.high)
            require_layers(self.layers)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.aligned = Aligned(sizes, choose_layers(sizes, options.layers))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        terms = {}
        if options.task_weight:
            terms["task"] = options.task_weight * task_loss(student, batch)
        found = []
        for pair in self.aligned(student, teacher):
            mine, theirs = (standardise(x) for x in pair)
            if options.frequency:
                found.append(band_loss(mine, theirs, options.cutoff, options.mask, options.high))
            else:
                found.append((mse(mine, theirs),))
        names = {"low": options.low_weight, "high": options.high_weight}
        if not options.frequency:
            names = {"feature": options.low_weight}
        for (name, weight), parts in zip(names.items(), zip(*found, strict=True), strict=True):
            terms[name] = weight * torch.stack(parts).sum()
        return terms

    @property
    def teacher_maps(self) -> set[str]:
        return self.aligned.teacher_maps

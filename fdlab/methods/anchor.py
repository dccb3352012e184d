"""FreqKD's second stage: features that stay near those of the first."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fdlab.data.dataset import TASKS
from fdlab.losses.planes import cosine_distance
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights, task_loss
from fdlab.methods.maps import Aligned, choose_layers, require_layers
from fdlab.models.output import ModelOutput


class Anchor(Method):
    """L = task + w · Σ_layers (1 - mean cos(F_s, F_t)), cosines over the channels of each position.

    FreqKD's second stage: the student is fine-tuned with labels, and the teacher is its own network
    as it started, frozen (teacher kind "start"), which the maps are held to. w = 0.1 (released
    code). layers, and maps of other channels or sizes: as in `freqkd`.
    """

    name = "anchor"
    summary = "fine-tuning held to the maps that it started from"
    source = "FreqKD, released code, second stage"
    tasks = TASKS[1:]
    needs = ("stages",)
    compares = ("anchor",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 0.1
        layers: list[int] = field(default_factory=list)

        def __post_init__(self):
            require_weights(self, "weight")
            require_layers(self.layers)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.aligned = Aligned(sizes, choose_layers(sizes, options.layers))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        found = [cosine_distance(*pair) for pair in self.aligned(student, teacher)]
        distance = torch.stack(found).sum()
        return {"task": task_loss(student, batch), "anchor": self.options.weight * distance}

    @property
    def teacher_maps(self) -> set[str]:
        return self.aligned.teacher_maps

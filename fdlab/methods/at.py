"""AT: attention transfer (Zagoruyko and Komodakis, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import attention_transfer
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.models.output import ModelOutput


class AT(Method):
    """L = CE + w · Σ_stages mean (Q_s - Q_t)², Q = mean over channels of F² (F after the ReLU),
    flattened, length 1.

    The mean is over N and positions, so a stage counts the less the larger its map. Default
    w = 1000 (released code, CIFAR-100 benchmark). It compares positions, which in two modalities do
    not correspond; pooled to one there would be nothing left (Q = 1), so the larger map is averaged
    down to the smaller.
    """

    name = "at"
    summary = "where each stage looks: maps of mean squares"
    source = "Zagoruyko and Komodakis, ICLR 2017"
    needs = ("stages",)
    compares = ("attention",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 1000.0

        def __post_init__(self):
            require_weights(self, "weight")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        distances = [
            attention_transfer(
                torch.relu(student.find(mine)), torch.relu(teacher.find(theirs).detach())
            )
            for mine, theirs in self.names
        ]
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "attention": self.options.weight * torch.stack(distances).sum()}

"""MMANet's distillation between positions (Wei et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.core.errors import UserError
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import average_to
from fdlab.losses.pixels import entropy_weights, gram_distance
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.maps import arrange
from fdlab.methods.pixels import flatten_positions
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen

STAGES = 3
GRID = (30, 40)  # rows and columns of positions at most


class MMANet(Method):
    """L = CE + w · Σ over 3 maps of `gram_distance`, the paper's margin-aware distillation (MAD).

    A map's rows are its positions, those of all images of the batch, after the ReLU and averaged
    down to at most 30 × 40 of an image. Each counts by its share of the entropy of the teacher's
    softmax there, of logits averaged to the same positions, so that the uncertain ones (between two
    things) count most. Defaults w = 4, and nothing before 10 of 300 epochs, here a share of the
    epochs (released code for NYUv2).

    A reconstruction: the paper has a teacher of both modalities, a student from which modalities
    are dropped at random, and a term for the weakest of them (MAR), which has no meaning where
    there is one modality on each side. What is left is MAD between two unimodal networks. Where the
    source is silent, our choice: the maps are the last 3 stages (the release: layers 2 and 3 and
    the context module upon layer 4); the student's are resized to the teacher's; a pixel without a
    class has no part in the entropies, and a position without any other gets no weight.
    """

    name = "mmanet"
    summary = "which positions resemble each other, where the teacher is uncertain"
    source = "Wei et al., CVPR 2023"
    tasks = ("segmentation",)
    needs = ("logits", "stages")
    compares = ("margin",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        """warmup: share of the epochs before which only the cross-entropy trains."""

        weight: float = 4.0
        warmup: float = 10 / 300

        def __post_init__(self):
            require_weights(self, "weight", "warmup")
            if self.warmup >= 1:
                raise UserError(f"warmup is {self.warmup}: expected a share of the epochs below 1")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        self.names = sizes.pair("stages")[-STAGES:]

    @property
    def teacher_maps(self) -> set[str]:
        return {name for _, name in self.names}

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        total = student.logits.new_zeros((), dtype=widen(student.logits).dtype)
        if batch.progress > self.options.warmup:
            total = torch.stack([self.compare(student, teacher, p, batch) for p in self.names])
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "margin": self.options.weight * total.sum()}

    def compare(
        self, student: ModelOutput, teacher: ModelOutput, names: tuple[str, str], batch: Batch
    ) -> torch.Tensor:
        """The distance of one pair of maps."""
        pair = arrange(student, teacher, names, "resized", relu=True)
        grid = tuple(map(min, pair[1].shape[2:], GRID))
        logits, there = batch.pixels.gather(widen(teacher.logits.detach()), grid)
        rows = (flatten_positions(average_to(x, grid)) for x in pair)
        return gram_distance(*rows, entropy_weights(logits, there))

"""A frozen teacher's outputs, computed once where its input never changes."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.data.augment import augment
from fdlab.data.paired import EVALUATION_BATCH, PairedData
from fdlab.models.mode import freeze
from fdlab.models.output import ModelOutput


class Teacher:
    """Outputs of a frozen network in eval mode, for training rows.

    Where the teacher's input is not augmented, `logits` and `feature` of all training rows are
    computed at the start and reused; otherwise each batch is a forward pass on the augmented input.
    """

    def __init__(self, model: nn.Module, data: PairedData, modality: str, augmentation: str):
        self.model, self.data = freeze(model), data
        self.modality, self.augmentation = modality, augmentation
        self.cache: ModelOutput | None = None
        self.place = torch.full_like(data.labels, -1)  # row number → position in the cache
        if not augmentation:
            rows = data.rows["train"]
            self.place[rows] = torch.arange(len(rows), device=rows.device)
            parts = [
                self._forward(data.batch(modality, part)) for part in rows.split(EVALUATION_BATCH)
            ]
            self.cache = ModelOutput(
                torch.cat([part.logits for part in parts]),
                torch.cat([part.feature for part in parts]),
            )

    def __call__(self, rows: torch.Tensor, generator: torch.Generator) -> ModelOutput:
        if self.cache is not None:
            place = self.place[rows]
            return ModelOutput(self.cache.logits[place], self.cache.feature[place])
        inputs = self.data.batch(self.modality, rows)
        return self._forward(augment(self.augmentation, inputs, generator))

    @torch.no_grad()
    def _forward(self, inputs: torch.Tensor) -> ModelOutput:
        return self.model(inputs)

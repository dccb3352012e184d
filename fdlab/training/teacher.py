"""A frozen teacher's outputs, computed once where its input never changes, and its controls."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.core.config import RunConfig
from fdlab.core.seeding import derive_seed
from fdlab.data.augment import augment
from fdlab.data.paired import EVALUATION_BATCH, PairedData
from fdlab.models.mode import freeze
from fdlab.models.output import ModelOutput


class Teacher:
    """Outputs of a frozen network in eval mode, for training rows.

    Where the teacher's input is not augmented, `logits` and `feature` of all training rows are
    computed at the start and reused; otherwise each batch is a forward pass on the augmented input.
    order: row → the row whose output it gets instead, for the controls that shuffle; else None.
    constant: every row gets the mean of the un-augmented outputs over the training rows.
    """

    def __init__(
        self,
        model: nn.Module,
        data: PairedData,
        modality: str,
        augmentation: str,
        order: torch.Tensor | None = None,
        constant: bool = False,
    ):
        self.model, self.data, self.order = freeze(model), data, order
        self.modality = modality
        self.augmentation = "" if constant else augmentation
        self.cache: ModelOutput | None = None
        self.place = torch.full_like(data.labels, -1)  # row number → position in the cache
        if not self.augmentation:
            rows = data.rows["train"]
            self.place[rows] = torch.arange(len(rows), device=rows.device)
            parts = [
                self._forward(data.batch(modality, part)) for part in rows.split(EVALUATION_BATCH)
            ]
            whole = (torch.cat([getattr(p, name) for p in parts]) for name in ("logits", "feature"))
            self.cache = ModelOutput(
                *(x.mean(dim=0, keepdim=True).expand_as(x) if constant else x for x in whole)
            )

    def __call__(self, rows: torch.Tensor, generator: torch.Generator) -> ModelOutput:
        if self.order is not None:
            rows = self.order[rows]
        if self.cache is not None:
            place = self.place[rows]
            return ModelOutput(self.cache.logits[place], self.cache.feature[place])
        inputs = self.data.batch(self.modality, rows)
        return self._forward(augment(self.augmentation, inputs, generator))

    @torch.no_grad()
    def _forward(self, inputs: torch.Tensor) -> ModelOutput:
        return self.model(inputs)


def seat_teacher(
    config: RunConfig, data: PairedData, model: nn.Module, augmentation: str
) -> Teacher:
    """The teacher of a run, of the kind that the configuration asks for (`TEACHER_KINDS`)."""
    order = None
    if config.teacher_kind.startswith("shuffled"):
        within = config.teacher_kind == "shuffled_in_class"
        order = _shuffle_rows(
            data, derive_seed(config.seed, "teacher", config.teacher_kind), within
        )
    constant = config.teacher_kind == "constant"
    return Teacher(model, data, config.teacher, augmentation, order, constant)


def _shuffle_rows(data: PairedData, seed: int, within_class: bool) -> torch.Tensor:
    """Row → another training row: a random cycle through all of them, or through each class.

    A cycle, since a plain permutation would leave some rows with their own output. A class with a
    single row keeps it. Rows outside the training split stay.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(data.labels))
    rows, labels = data.rows["train"].cpu(), data.labels.cpu()
    groups = [rows]
    if within_class:
        groups = [rows[labels[rows] == label] for label in labels[rows].unique()]
    for group in groups:
        cycle = group[torch.randperm(len(group), generator=generator)]
        order[cycle] = cycle.roll(1)
    return order.to(data.labels.device)

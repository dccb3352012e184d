"""A data set on its device: one tensor per modality, row i of each the same event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fdlab.data.dataset import SPLITS
from fdlab.data.store import Store

EVALUATION_BATCH = 256  # rows of one forward pass where no gradient is kept


@dataclass(frozen=True)
class PairedData:
    """Inputs and labels of every event, on one device.

    inputs: modality → (N, …), as stored; `batch` turns rows into what a network takes.
    labels: (N,) int64. rows: split → row numbers. scale: modality → (shift, factor) for images.
    """

    store: Store
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    rows: dict[str, torch.Tensor]
    scale: dict[str, tuple[float, float]]

    @classmethod
    def load(cls, store: Store, modalities: list[str], device: torch.device) -> PairedData:
        inputs, scale = {}, {}
        train = store.rows("train")
        for name in modalities:
            array = np.array(store.read(name))
            inputs[name] = torch.from_numpy(array).to(device)
            if array.dtype == np.uint8:
                pixels = array[train].astype(np.float64)
                scale[name] = (float(pixels.mean()), 1.0 / float(pixels.std()))
        return cls(
            store=store,
            inputs=inputs,
            labels=torch.from_numpy(np.array(store.labels)).to(device),
            rows={split: torch.from_numpy(store.rows(split)).to(device) for split in SPLITS},
            scale=scale,
        )

    def batch(self, modality: str, rows: torch.Tensor) -> torch.Tensor:
        """Network input of some rows: token ids as int64, everything else as float32.

        Images (uint8) are standardised by the mean and deviation of the training split's pixels;
        spectrograms are stored standardised.
        """
        values = self.inputs[modality][rows]
        if values.dtype == torch.int32:
            return values.long()
        values = values.float()
        if modality in self.scale:
            shift, factor = self.scale[modality]
            values = (values - shift) * factor
        return values

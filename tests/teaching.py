"""What tests of training share: the embedded data set's sides, methods, an untrained teacher."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.data.paired import PairedData
from fdlab.methods import METHODS
from fdlab.models.build import build_model, place

CPU = torch.device("cpu")
SIDES = ["audio", "image", "text"]
CLASSIFIERS = [name for name, kind in METHODS.items() if "classification" in kind.tasks]


def build_teacher(data: PairedData, modality: str | None, width: int = 8) -> nn.Module | None:
    """A network as initialised, for the time's sake; of no student's seed."""
    if modality is None:
        return None
    return place(build_model(data.store, modality, width=width, seed=9), CPU)

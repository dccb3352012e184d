"""CAT-KD: class activation maps transferred (Guo et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import as_grid, class_map_mse
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.models.output import ModelOutput


class CATKD(Method):
    """L = CE + β · mean (n(pool_r(M_s)) - n(pool_r(M_t)))², M the class maps (N, K, h, w).

    M = W F: the classifier's weight at every position of the last map after the ReLU, without its
    bias, so that the mean over positions is the logit without it. pool_r: averages to r × r; n:
    each class's map to length 1 (`scaled`), or nothing. Defaults β = 15, r = 2, scaled: the
    authors' for VGG13 → MobileNetV2; they scale for every pair of different families, as two
    modalities' networks are, and their β range from 1.5 to 600. The student keeps its
    classifier with its bias, where the authors replace it by a convolution without one: our choice,
    so that all methods train one network. It compares positions, on r × r of them; in a sentence
    padded positions count, with the value 0, so there the mean is not the logit.
    """

    name = "catkd"
    summary = "class activation maps of the two classifiers"
    source = "Guo et al., CVPR 2023"
    needs = ("last",)
    compares = ("class_map",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 15.0
        side: int = 2
        scaled: bool = True

        def __post_init__(self):
            require_weights(self, "weight")
            require_positive(self, "side")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        (self.names,) = sizes.pair("last")
        for name, side in (("student", sizes.student), ("teacher", sizes.teacher)):
            if side.head is None:
                raise UserError(f"catkd needs a linear classifier, and the {name} has none (`fc`)")

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine = map_classes(student.find(self.names[0]), self.sizes.student.head)
        theirs = map_classes(teacher.find(self.names[1]), self.sizes.teacher.head).detach()
        distance = class_map_mse(mine, theirs, self.options.side, self.options.scaled)
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "class_map": self.options.weight * distance}


def map_classes(x: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """(N, C, …) before its ReLU → (N, K, h, w)."""
    return torch.einsum("nchw,kc->nkhw", torch.relu(as_grid(x)), head.weight)

"""What the package asks of a network beside its forward pass."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class Network(nn.Module):
    """Base of all networks; `forward` gives a `ModelOutput`.

    feature_width: D of its feature. inputs: "images" (N, C, H, W), or "tokens" (N, L).
    head: where its classifier stands among the parameters; weights for another number of classes
    are loaded without it. entry: the weight of its first convolution, "" without one.
    optional: beginnings of the names that published weights may lack, all of a beginning or none.
    pools_maps: whether its feature is the mean over the last map's positions.
    backbone: how the names of its encoder's parameters begin, where a head stands beside it.
    adapters: endings of the names of the linear layers that take adapters (`fdlab.models.lora`).
    A network with one linear classifier also has it as `fc`, for methods that read it.
    """

    feature_width: int
    inputs: ClassVar[str] = "images"
    head: ClassVar[str] = "fc"
    entry: ClassVar[str] = ""
    optional: ClassVar[tuple[str, ...]] = ()
    pools_maps: ClassVar[bool] = True
    backbone: ClassVar[str] = ""
    adapters: ClassVar[tuple[str, ...]] = ()

    @property
    def norms(self) -> dict[str, nn.Module]:
        """Map → the batch norm nearest before it, for the maps where there is one."""
        return {}

    def translate(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Published weights under this network's names; what it has no use for is left out."""
        return state

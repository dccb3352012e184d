"""Batch norm of an untrained network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fdlab.models.mode import evaluating


@torch.no_grad()
def settle_norms(model: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Set every batch norm's running statistics to the average over some batches; no weight moves.

    An untrained network in eval mode would otherwise divide by statistics that it never saw, and
    its features would grow from layer to layer. The mode of every module is as before afterwards.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):  # dropout stays off
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        for batch in batches:
            model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model

"""What every network returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class ModelOutput:
    """One forward pass over N samples.

    logits: (N, K) class scores.
    feature: (N, D) pooled vector before the last ReLU, the feature that FD-CMKD splits.
    maps: name → feature map (N, C, H, W) or (N, C, L), before its ReLU, shallow to deep.
    """

    logits: torch.Tensor
    feature: torch.Tensor
    maps: dict[str, torch.Tensor] = field(default_factory=dict)

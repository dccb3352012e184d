"""What a detector is asked for."""

from __future__ import annotations

import torch


def detection_loss(
    logits: torch.Tensor, boxes: torch.Tensor, truths: torch.Tensor, stride: float
) -> torch.Tensor:
    raise NotImplementedError

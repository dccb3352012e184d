"""Extra modules that methods share: a projector between widths, and a batch norm for any batch."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.methods.base import Sizes


def match_width(sizes: Sizes) -> nn.Module:
    """The student's feature to the teacher's width D_t: a linear layer, or nothing where they are
    equal or there is no teacher. No source mentions the case; the side and the form are our choice.
    """
    if sizes.teacher is None or sizes.student.width == sizes.teacher.width:
        return nn.Identity()
    return nn.Linear(sizes.student.width, sizes.teacher.width)


class Norm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch has one value per channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.shape[1]:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)

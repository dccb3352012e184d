"""Extra modules that methods share: a projector between widths, and a batch norm for any batch."""

from __future__ import annotations

from torch import nn

from fdlab.methods.base import Sizes
from fdlab.models.norm import Norm

__all__ = ["Norm", "match_width"]


def match_width(sizes: Sizes) -> nn.Module:
    """The student's feature to the teacher's width D_t: a linear layer, or nothing where they are
    equal or there is no teacher. No source mentions the case; the side and the form are our choice.
    """
    if sizes.teacher is None or sizes.student.width == sizes.teacher.width:
        return nn.Identity()
    return nn.Linear(sizes.student.width, sizes.teacher.width)

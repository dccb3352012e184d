"""A convolution that leaves out the taps of its kernel that meet nothing but padding."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d`, with the same parameters and the same function.

    Where the output is a single position, as at the end of a network that meets small images, a
    3×3 kernel over a 1×1 map multiplies eight ninths of its weights with padding. The rest is one
    product of matrices, which is several times as fast forward and backward.
    """

    def _conv_forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self.groups == 1 and self.padding_mode == "zeros" and isinstance(self.padding, tuple):
            cuts = [
                cut_kernel(*of) for of in zip(
                    x.shape[2:], weight.shape[2:], self.stride, self.padding, self.dilation,
                    strict=True,
                )
            ]  # fmt: skip
            if all(cuts):
                (rows, taps_down), (columns, taps_across) = cuts
                met = x[:, :, rows, columns].flatten(1)
                used = weight[:, :, taps_down, taps_across].flatten(1)
                return functional.linear(met, used, bias)[:, :, None, None]
        return super()._conv_forward(x, weight, bias)


def cut_kernel(
    length: int, taps: int, stride: int, padding: int, dilation: int
) -> tuple[slice, slice] | None:
    """Along one side: which positions of the input meet which taps, where the output has a single
    position; else None.

    >>> cut_kernel(1, 3, 1, 1, 1)
    (slice(0, 1, 1), slice(1, 2, None))
    """
    if (length + 2 * padding - dilation * (taps - 1) - 1) // stride:
        return None
    first = -(-padding // dilation)  # the first tap that is not before the input
    last = min((length - 1 + padding) // dilation, taps - 1)
    start = first * dilation - padding
    return slice(start, start + (last - first) * dilation + 1, dilation), slice(first, last + 1)

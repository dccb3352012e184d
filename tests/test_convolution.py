"""A convolution without the taps that meet padding is torch's, value and gradient."""

import itertools

import pytest
import torch
from torch.nn import functional

from fdlab.models.convolution import Convolution, cut_kernel

CASES = [
    (size, taps, stride, padding, dilation, bias)
    for size, taps, stride, padding, dilation, bias in itertools.product(
        ((1, 1), (2, 2), (1, 3), (5, 2)), (1, 2, 3, 7), (1, 2, 3), (0, 1, 3), (1, 2), (False, True)
    )
    if all(side + 2 * padding > dilation * (taps - 1) for side in size)
]


@pytest.mark.parametrize(("size", "taps", "stride", "padding", "dilation", "bias"), CASES)
def test_value_and_gradients_are_torchs(size, taps, stride, padding, dilation, bias):
    torch.manual_seed(0)
    layer = Convolution(3, 4, taps, stride, padding, dilation, bias=bias).double()
    found, expected = [], []
    for into, run in (
        (found, layer),
        (
            expected,
            lambda x: functional.conv2d(x, layer.weight, layer.bias, stride, padding, dilation),
        ),
    ):
        torch.manual_seed(1)
        x = torch.randn(5, 3, *size, dtype=torch.float64, requires_grad=True)
        y = run(x)
        wanted = [x, *layer.parameters()]
        into.extend([y, *torch.autograd.grad(y.sin().sum(), wanted)])
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_single_position_is_one_product_and_more_are_not():
    """Which path runs is seen from the operations, not from the values."""
    seen = {}
    for side in (1, 2, 4):
        layer = Convolution(2, 3, 3, 1, 1, bias=False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            layer(torch.randn(2, 2, side, side))
        seen[side] = any("convolution" in event.key for event in profile.key_averages())
    assert seen == {1: False, 2: True, 4: True}


def test_taps_that_lie_outside_are_cut():
    assert cut_kernel(2, 3, 2, 1, 1) == (slice(0, 2, 1), slice(1, 3))
    assert cut_kernel(1, 3, 1, 2, 2) == (slice(0, 1, 2), slice(1, 2))
    assert cut_kernel(4, 3, 2, 1, 1) is None

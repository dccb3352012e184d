"""Laws of the band split: it rebuilds the feature, its bands are orthogonal, its bins are named."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdlab.core.errors import UserError
from fdlab.losses.features import logmse, mse, normalise, signed_log, unit_distance
from fdlab.spectral.bands import (
    DC_RULES,
    BandSplit,
    _FourierSplit,
    count_low_bins,
    split_bands,
)

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
FRACTIONS = [Fraction(text) for text in ("0", "1/4", "1/3", "1/2", "5/7", "1")]

widths = st.integers(1, 40)
cutoffs = st.sampled_from(FRACTIONS)
rules = st.sampled_from(DC_RULES)
dtypes = st.sampled_from([torch.float32, torch.float64])
seeds = st.integers(0, 2**16)


def draw(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 0.7).to(dtype)


def assert_close(actual: torch.Tensor, expected: torch.Tensor | np.ndarray, tolerance: float):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == expected.shape
    worst = (actual.double() - expected).abs().max().item()
    assert worst <= tolerance * max(1.0, expected.abs().max().item())


@given(seeds, widths, cutoffs, rules, dtypes)
def test_the_bands_rebuild_the_feature(seed, width, cutoff, dc, dtype):
    x = draw(seed, 3, width, dtype=dtype)
    bands = split_bands(x, float(cutoff), dc)
    mean = x.mean(dim=1, keepdim=True)
    expected = x - mean if dc == "drop" else x
    total = bands.low + bands.high + (bands.dc if dc == "own" else 0)
    assert (bands.dc is None) == (dc != "own")
    assert bands.low.dtype == bands.high.dtype == dtype
    assert_close(total, expected.double(), TOLERANCE[dtype])


@given(seeds, widths, cutoffs, rules, dtypes)
def test_the_bands_are_those_of_numpys_masked_bins(seed, width, cutoff, dc, dtype):
    x = draw(seed, 3, width, dtype=dtype)
    edge = cutoff.numerator * (width // 2) // cutoff.denominator
    expected = oracles.split(x.numpy(), edge, dc)
    bands = split_bands(x, float(cutoff), dc)
    assert_close(bands.low, expected["low"], TOLERANCE[dtype])
    assert_close(bands.high, expected["high"], TOLERANCE[dtype])
    if dc == "own":
        assert_close(bands.dc, expected["dc"], TOLERANCE[dtype])


@pytest.mark.parametrize("width, last_low", [(512, 128), (768, 192), (1280, 320)])
def test_published_widths_split_at_the_published_bin(width, last_low):
    x = draw(width, 4, width)
    spectrum = np.fft.rfft(x.numpy(), axis=1)
    assert spectrum.shape[1] == 2 * last_low + 1
    low, high = np.zeros_like(spectrum), np.zeros_like(spectrum)
    low[:, 1 : last_low + 1] = spectrum[:, 1 : last_low + 1]
    high[:, last_low + 1 :] = spectrum[:, last_low + 1 :]
    bands = split_bands(x)  # the defaults are the paper's
    assert count_low_bins(width, 0.5) == last_low
    assert_close(bands.low, np.fft.irfft(low, n=width, axis=1), 1e-13)
    assert_close(bands.high, np.fft.irfft(high, n=width, axis=1), 1e-13)


@pytest.mark.parametrize("cutoff, bins", [(0, 0), (1 / 4, 64), (1 / 3, 85), (1 / 2, 128), (1, 256)])
def test_the_papers_cutoffs_are_fractions_of_the_bins(cutoff, bins):
    assert count_low_bins(512, cutoff) == bins


def test_rounding_of_the_cutoff_loses_no_bin():
    assert 0.29 * 100 < 29
    assert count_low_bins(200, 0.29) == 29
    assert [count_low_bins(2 * n, k / n) for n in range(1, 60) for k in range(n + 1)] == [
        k for n in range(1, 60) for k in range(n + 1)
    ]


def test_a_pure_wave_is_in_one_band_alone():
    channels = torch.arange(512, dtype=torch.float64)
    for wave, low in [(1, True), (128, True), (129, False), (256, False)]:
        x = torch.cos(2 * torch.pi * wave * channels / 512)
        bands = split_bands(x)
        full, empty = (bands.low, bands.high) if low else (bands.high, bands.low)
        assert_close(full, x, 1e-12)
        assert empty.abs().max() < 1e-12


def test_cutoff_0_leaves_the_low_band_empty_and_cutoff_1_the_high_band():
    for width in (7, 8):
        x = draw(1, 5, width)
        assert not split_bands(x, 0.0).low.any()
        assert split_bands(x, 1.0).high.abs().max() < 1e-14
        mean = x.mean(1, keepdim=True).expand(5, width)
        assert_close(split_bands(x, 0.0, "low").low, mean, 1e-14)


@given(seeds, widths, cutoffs)
def test_energies_add_and_the_bands_are_orthogonal(seed, width, cutoff):
    x = draw(seed, 3, width)
    low, high, dc = split_bands(x, float(cutoff), "own")
    total = x.square().sum(1)
    parts = sum(band.square().sum(1) for band in (low, high, dc))
    assert torch.allclose(parts, total, rtol=1e-12)
    for a, b in ((low, high), (low, dc), (high, dc)):
        assert ((a * b).sum(1).abs() <= 1e-12 * total).all()


@given(seeds, st.integers(2, 24), cutoffs)
def test_a_band_split_again_is_itself(seed, width, cutoff):
    low, high, _ = split_bands(draw(seed, 2, width), float(cutoff))
    assert_close(split_bands(low, float(cutoff)).low, low, 1e-13)
    assert_close(split_bands(high, float(cutoff)).high, high, 1e-13)


@given(seeds, st.integers(-4, 3), cutoffs, rules)
def test_any_axis_is_split_as_the_last_one_would_be(seed, dim, cutoff, dc):
    x = draw(seed, 5, 6, 7, 4)
    there = split_bands(x, float(cutoff), dc, dim=dim)
    here = split_bands(x.movedim(dim, -1), float(cutoff), dc)
    for a, b in zip(there, here, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b.movedim(-1, dim), 1e-13)


def test_only_the_dc_rule_decides_where_the_mean_goes():
    x = draw(3, 4, 9)
    mean = x.mean(1, keepdim=True)
    drop, low, own = (split_bands(x, 0.5, dc) for dc in ("drop", "low", "own"))
    assert torch.equal(low.high, drop.high) and torch.equal(own.high, drop.high)
    assert torch.equal(own.low, drop.low)
    assert_close(low.low - drop.low, mean.expand(4, 9), 1e-14)
    assert_close(own.dc, mean.expand(4, 9), 1e-14)
    assert drop.low.mean(1).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = draw(4, 3, 12, dtype=dtype)  # 12: no power of two
    for dc in DC_RULES:
        half, full = split_bands(x, 0.5, dc), split_bands(x.float(), 0.5, dc)
        assert half.low.dtype == half.high.dtype == torch.float32
        assert torch.equal(half.low, full.low) and torch.equal(half.high, full.high)


@pytest.mark.parametrize("dc", DC_RULES)
@pytest.mark.parametrize("basis", ["dft", "permuted", "dct"])
def test_gradients_agree_with_numerical_ones(dc, basis):
    x = draw(5, 2, 7).requires_grad_()

    def bands(x):
        return tuple(band for band in split_bands(x, 0.5, dc, basis=basis) if band is not None)

    assert torch.autograd.gradcheck(bands, (x,))


@pytest.mark.parametrize("width", [1, 2, 6, 7])
@pytest.mark.parametrize("cutoff", [0.0, 0.34, 0.5, 1.0])
def test_the_splits_own_gradient_agrees_with_the_numerical_one(width, cutoff):
    """Of all three bands at once and of each alone, once and twice."""
    x, edge = draw(5, 2, 3, width).requires_grad_(), count_low_bins(width, cutoff)
    for chosen in (slice(None), 0, 1, 2):

        def split(x, chosen=chosen):
            return _FourierSplit.apply(x, edge)[chosen]

        assert torch.autograd.gradcheck(split, (x,))
        assert torch.autograd.gradgradcheck(split, (x,))


@pytest.mark.parametrize("function", [signed_log, normalise])
def test_the_gradients_of_the_log_and_of_the_length_agree_with_numerical_ones(function):
    x = draw(9, 3, 5)
    x[0, :2] = 0  # where the log's two halves meet
    x[1] *= 1e-2  # short, and longer than eps: below it there is no gradient, by choice
    assert torch.autograd.gradcheck(function, (x.requires_grad_(),))


@pytest.mark.parametrize("log", [False, True])
def test_the_fused_unit_distance_is_its_parts_with_gradients_to_both_sides(log):
    s, t = torch.randn(2, 6, 9, dtype=torch.float64)
    parts = (logmse if log else mse)(normalise(s), normalise(t))
    assert unit_distance(s, t, log).item() == pytest.approx(parts.item(), rel=1e-12)
    pair = s.requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: unit_distance(a, b, log), pair)
    zero = torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)
    unit_distance(zero, t[:1], log).backward()
    assert not zero.grad.any()  # a row without a length has no direction to move


@pytest.mark.parametrize("function", [signed_log, normalise])
def test_a_second_derivative_that_would_be_wrong_is_refused(function):
    x = draw(9, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_gradient_of_a_band_stays_in_the_band():
    x = draw(6, 3, 10).requires_grad_()
    weights = draw(7, 3, 10)
    (split_bands(x).low * weights).sum().backward()
    assert_close(x.grad, oracles.split(weights.numpy(), 2)["low"], 1e-13)


def test_a_permutation_of_the_channels_changes_the_bands():
    x = draw(8, 4, 64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = split_bands(x[:, order]).low
    assert (moved - split_bands(x).low[:, order]).abs().max() > 0.1


@pytest.mark.parametrize("cutoff", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_cutoff_outside_0_to_1_is_refused(cutoff):
    with pytest.raises(UserError, match="expected a fraction of the bins, 0 to 1"):
        split_bands(draw(0, 2, 8), cutoff)


def test_an_unknown_dc_rule_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"'keep'.*Choices: drop, low, own"):
        split_bands(draw(0, 2, 8), 0.5, "keep")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_a_feature_that_is_not_real_floating_point_is_refused(dtype):
    with pytest.raises(UserError, match=str(dtype)):
        split_bands(torch.ones(2, 8, dtype=dtype))


def test_the_result_unpacks_as_low_high_dc():
    assert BandSplit._fields == ("low", "high", "dc")

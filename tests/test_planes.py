"""Laws of the frequencies of maps: the two bands, standardised maps, radii, and the Gaussian."""

from __future__ import annotations

import math

import numpy as np
import oracles_planes
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.spectral.planes import (
    MASKS,
    analyse,
    as_rows,
    find_reach,
    make_gaussian,
    make_mask,
    place_bases,
    place_gaussian,
    radial_mask,
    radius,
    split_plane,
    standardise,
    standardise_samples,
    subtract_low,
    synthesise,
)

SIZES = [(8, 8), (7, 9), (5, 8), (37, 37), (16, 3), (1, 6), (2, 3), (1, 1)]
CUTOFFS = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a * b).sum().item()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_both_masks_split_as_the_whole_complex_spectrum_does(size, cutoff, mask):
    x = draw(2, 3, *size)
    for found, wanted in zip(
        split_plane(x, cutoff, mask), oracles_planes.split(x.numpy(), cutoff, mask), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-12)
    kept = np.fft.ifft2(np.fft.fft2(x.numpy()) * make_mask(*size, cutoff, mask).numpy())
    np.testing.assert_allclose(kept, oracles_planes.keep(x.numpy(), cutoff, mask), atol=1e-12)


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_symmetric_split_is_real_and_orthogonal_and_loses_nothing(size, cutoff):
    x = draw(2, 3, *size)
    low, high = split_plane(x, cutoff)
    energy = dot(x, x)
    torch.testing.assert_close(low + high, x, rtol=0, atol=1e-15)
    assert abs(dot(low, high)) <= 1e-13 * energy
    assert dot(low, low) + dot(high, high) == pytest.approx(energy, rel=1e-12)
    torch.testing.assert_close(split_plane(low, cutoff)[0], low, rtol=0, atol=1e-13)
    assert np.abs(oracles_planes.keep(x.numpy(), cutoff, "symmetric").imag).max() < 1e-13
    # Parseval: the low band's energy is that of the spectrum under the mask.
    spectrum = torch.fft.fft2(x, norm="ortho").abs().square()
    kept = spectrum * make_mask(*size, cutoff, dtype=torch.float64)
    assert dot(low, low) == pytest.approx(kept.sum().item(), rel=1e-12)


def test_the_released_mask_drops_energy_and_its_bands_are_not_orthogonal():
    """White noise on ViT-L's grid: 35 of the 324 bins of the mask have no mirror image in it, and
    half of their energy is imaginary; <low, high> is a quarter of the energy of those 35 and the 35
    that they are mirrored to."""
    x = draw(4, 64, 37, 37)
    kept = oracles_planes.keep(x.numpy(), 0.5, "released")
    lost = (kept.imag**2).sum() / (np.abs(kept) ** 2).sum()
    assert lost == pytest.approx(35 / 324 / 2, rel=0.05)  # the "about 5 %"
    low, high = split_plane(x, 0.5, "released")
    assert dot(low, high) / dot(x, x) == pytest.approx(70 / 37**2 / 4, rel=0.05)
    missing = 1 - (dot(low, low) + dot(high, high)) / dot(x, x)
    assert missing == pytest.approx(2 * 70 / 37**2 / 4, rel=0.05)
    again = split_plane(low, 0.5, "released")[0]
    assert (again - low).abs().max() > 0.1 * low.abs().max()  # no projection either
    own = split_plane(x)
    assert abs(dot(*own)) < 1e-13 * dot(x, x)


@pytest.mark.parametrize("size, cutoff, reach", [(37, 0.5, 9), (8, 0.5, 2), (8, 0.1, 1), (5, 1, 2)])
def test_a_wave_at_the_reach_is_low_and_the_next_one_high(size, cutoff, reach):
    assert find_reach(size, cutoff) == reach
    places = torch.arange(size, dtype=torch.float64)
    for along in (0, 1):
        for k in range(size // 2 + 1):
            wave = torch.cos(2 * math.pi * k * places / size + 0.3)
            x = wave.expand(size, size) if along else wave[:, None].expand(size, size)
            low, high = split_plane(x[None, None], cutoff)
            full, empty = (low, high) if k <= reach else (high, low)
            torch.testing.assert_close(full[0, 0], x, rtol=0, atol=1e-12)
            assert empty.abs().max() < 1e-12


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (1, 6)], ids=str)
def test_coefficients_have_the_low_bands_energy_and_rebuild_it(size):
    x = draw(2, 3, *size)
    bases, rows = place_bases(x, 0.5), as_rows(x)
    coefficients = analyse(rows, bases)
    low, high = (as_rows(band) for band in split_plane(x))
    assert dot(coefficients, coefficients) == pytest.approx(dot(low, low), rel=1e-12)
    torch.testing.assert_close(synthesise(coefficients, bases), low, rtol=0, atol=1e-14)
    torch.testing.assert_close(subtract_low(rows, coefficients, bases), high, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mask", MASKS)
def test_half_precision_is_split_in_float32_under_autocast_too(mask):
    x = draw(2, 3, 9, 7, dtype=torch.float32).bfloat16()
    wanted = split_plane(x.float(), 0.5, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = split_plane(x, 0.5, mask)
    for band, other in zip(found, wanted, strict=True):
        assert band.dtype == torch.float32 and torch.equal(band, other)
    exact = split_plane(x.double(), 0.5, mask)
    for band, other in zip(wanted, exact, strict=True):
        torch.testing.assert_close(band, other.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_the_splits_gradient_agrees_with_the_numerical_one(size, mask):
    x = draw(1, 2, *size).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: split_plane(x, 0.5, mask), (x,))


@pytest.mark.parametrize("seed, layout", [(1, "maps"), (2, "channels last"), (3, "tokens")])
def test_maps_are_standardised_whatever_way_they_lie_in_memory(seed, layout):
    x = 5 * draw(2, 6, 4, 3, seed=seed) + draw(1, 6, 1, 1, seed=9)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "tokens":  # those of a transformer, two that are no patches before them
        tokens = draw(2, 2 + 12, 6, seed=seed)
        x = tokens[:, 2:].transpose(1, 2).unflatten(2, (4, 3))
    found = standardise(x)
    np.testing.assert_allclose(found.numpy(), oracles_planes.standardise(x.numpy()), atol=1e-14)
    torch.testing.assert_close(found.square().sum(1), torch.ones(2, 4, 3, dtype=torch.float64))
    torch.testing.assert_close(standardise(3 * x + 7), found)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.autograd.gradcheck(standardise, (x.requires_grad_(),))


def test_what_is_the_mean_but_for_rounding_is_0_and_passes_no_gradient():
    """Whole maps, and the middle of two rows made five."""
    two = draw(2, 8, 2, 1, dtype=torch.float32)
    five = torch.nn.functional.interpolate(two, (5, 1), mode="bilinear")
    assert (five - five.mean(dim=(2, 3), keepdim=True))[:, :, 2].any()
    for x in (
        torch.zeros(2, 3, 4, 4),
        torch.full((2, 3, 7, 7), 3.1),
        torch.randn(2, 3, 1, 1),
        five,
    ):
        x.requires_grad_()
        found, kept = standardise(x), x is five
        length = found.square().sum(1)
        assert not length[:, 2 if kept else slice(None)].any()
        assert not kept or length[:, [0, 1, 3, 4]].min() > 0.999
        (by_found,) = torch.autograd.grad(found.sum(), x)
        assert by_found.abs().max() < 100 if kept else not by_found.any()


def test_half_precision_is_standardised_in_float32_and_its_gradient_is_of_its_own_type():
    x = torch.randn(2, 3, 4, 5).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = standardise(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, standardise(x.detach().float()))
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_samples_are_standardised_each_by_itself():
    x = 4 * draw(3, 2, 5, 4) + 7
    found = standardise_samples(x)
    np.testing.assert_allclose(found.numpy(), oracles_planes.whiten(x.numpy()), atol=1e-12)
    torch.testing.assert_close(found[:1], standardise_samples(x[:1]))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (37, 37), (1, 5)], ids=str)
def test_radii_are_those_of_the_frequencies_written_out(size):
    found = radius(*size).numpy()
    k = [[oracles_planes.frequency(i, n) for i in range(n)] for n in size]
    wanted = [[math.hypot(u, v) / (min(size) / 2) for v in k[1]] for u in k[0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[0, 0] == 0
    low, high = radial_mask(*size, low=0.25).numpy(), radial_mask(*size, high=0.75).numpy()
    np.testing.assert_array_equal(low, np.array(wanted) <= 0.25)
    np.testing.assert_array_equal(high, np.array(wanted) >= 0.75)
    ring = radial_mask(*size, low=0.75, high=0.25).numpy()
    np.testing.assert_array_equal(ring, (found <= 0.75) & (found >= 0.25))
    assert radial_mask(*size).all()
    for mask in (low, high):  # k with -k, so that what it keeps of a real map is real
        np.testing.assert_array_equal(mask, np.roll(mask[::-1, ::-1], (1, 1), (0, 1)))


@pytest.mark.parametrize("passes", ["low", "high"])
@pytest.mark.parametrize("spread", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3)], ids=str)
def test_the_gaussian_is_the_formula_with_mean_1(size, spread, passes):
    found = make_gaussian(*size, spread, passes)
    np.testing.assert_allclose(
        found, oracles_planes.gaussian(*size, spread, passes), rtol=1e-12, atol=1e-15
    )
    assert found.mean() == pytest.approx(1, rel=1e-12)
    rising = np.diff(found[0, : size[1] // 2 + 1])
    assert (rising < 0).all() if passes == "low" else (rising > 0).all()
    half = place_gaussian(size, spread, passes, torch.float64, torch.device("cpu"))
    assert half.sum().item() == pytest.approx(math.prod(size), rel=1e-12)


def test_a_gaussian_without_end_weighs_all_alike_and_none_of_one_position_is_high():
    np.testing.assert_array_equal(make_gaussian(4, 6, math.inf), np.ones((4, 6)))
    assert make_gaussian(1, 1, 0.25, "high").tolist() == [[0.0]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: split_plane(draw(1, 1, 4, 4), 0.5, "round"), "Choices: symmetric, released"),
        (lambda: split_plane(draw(1, 1, 4, 4), 1.5), "0 to 1"),
        (lambda: make_mask(4, 4, math.nan), "0 to 1"),
        (lambda: make_mask(4, 4, 0.5, "symetric"), "did you mean 'symmetric'"),
        (lambda: make_gaussian(4, 4, 0.0), "width is 0.0: expected above 0"),
        (lambda: make_gaussian(4, 4, math.inf, "high"), "finite where it passes high"),
        (lambda: make_gaussian(4, 4, 0.5, "band"), "Choices: low, high"),
    ],
)
def test_what_there_is_none_of_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()

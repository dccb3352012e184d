"""Laws of the wavelet transform: PyWavelets' values, energy, shapes and gradients."""

from __future__ import annotations

import warnings

import numpy as np
import oracles_maps
import pytest
import pywt
import torch

from fdlab.core.errors import UserError
from fdlab.spectral.wavelets import MODES, decompose, keep_low, rebuild

WAVELETS = ("haar", "db2", "sym4")
SIDES = [(8, 8), (7, 9), (5, 8), (8, 5), (1, 67), (67, 1), (1, 1), (2, 3), (16, 12)]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_every_band_is_pywavelets(sides, wavelet, levels):
    x = draw(2, 3, *sides)
    low, details = decompose(torch.from_numpy(x), wavelet, levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a level is deep for so small a map
        wanted = pywt.wavedec2(x, wavelet, mode="zero", level=levels, axes=(-2, -1))
    assert len(details) == levels
    np.testing.assert_allclose(low.numpy(), wanted[0], rtol=1e-10, atol=1e-13)
    for level, bands in enumerate(details, start=1):  # finest first, PyWavelets' last
        for place, band in enumerate(wanted[-level]):
            np.testing.assert_allclose(bands[:, :, place].numpy(), band, rtol=1e-10, atol=1e-13)


GRIDS = [(10, 10), (10, 20), (10, 12), (1, 67), (5, 8), (4, 7), (2, 3), (1, 1)]


def list_modes(sides) -> list[str]:
    """PyWavelets' own; nothing is there to reflect beside a single position."""
    return [mode for mode in MODES if min(sides) > 1 or "reflect" not in mode]


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("sides", GRIDS, ids=str)
def test_every_mode_at_an_edge_is_pywavelets(sides, wavelet, dtype, close):
    assert set(MODES) == set(pywt.Modes.modes)
    x = 0.3 * draw(3, 1, *sides)
    for mode in list_modes(sides):
        low, (details,) = decompose(torch.from_numpy(x).to(dtype), wavelet, 1, mode)
        wanted, three = pywt.dwt2(x, wavelet, mode, axes=(-2, -1))
        assert low.dtype == details.dtype == dtype
        largest = max(1, np.abs(wanted).max())  # modes that extrapolate grow beyond the edge
        for found, band in ((low, wanted), (details, np.stack(three, 2))):
            np.testing.assert_allclose(found.numpy(), band, rtol=0, atol=close * largest)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("sides", [(8, 8), (10, 12), (9, 7), (1, 67)], ids=str)
def test_the_low_part_and_the_rest_are_what_pywavelets_rebuilds_from_each(sides, wavelet, levels):
    x = draw(2, 3, *sides)
    for mode in list_modes(sides):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a level is deep for so small a map
            parts = pywt.wavedec2(x, wavelet, mode, levels, axes=(-2, -1))
        without = [np.zeros_like(parts[0]), *parts[1:]]
        parts[1:] = [tuple(np.zeros_like(band) for band in level) for level in parts[1:]]
        found = keep_low(torch.from_numpy(x), wavelet, levels, mode).numpy()
        for part, coefficients in ((found, parts), (x - found, without)):
            wanted = pywt.waverec2(coefficients, wavelet, mode, axes=(-2, -1))
            wanted = wanted[..., : sides[0], : sides[1]]
            np.testing.assert_allclose(part, wanted, rtol=0, atol=1e-11)


def list_pywavelets(low, details):
    """Their order: the low band, then the details from the coarsest."""
    return [low, *(tuple(level.transpose(2, 0, 1, 3, 4)) for level in reversed(details))]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "bior2.2"])
@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (5, 8), (1, 67), (16, 12)], ids=str)
def test_whatever_coefficients_there_are_are_rebuilt_as_pywavelets_does(sides, wavelet, levels):
    """Not those of a map alone, so that the inverse is tested by itself; in every mode."""
    for mode in list_modes(sides):
        low, details = decompose(torch.zeros(2, 3, *sides, dtype=torch.float64), wavelet, levels,
                                 mode)  # fmt: skip
        low, *details = (draw(*x.shape, seed=i) for i, x in enumerate((low, *details)))
        given = [torch.from_numpy(x).requires_grad_() for x in (low, *details)]
        found = rebuild(given[0], given[1:], wavelet, mode)
        wanted = pywt.waverec2(list_pywavelets(low, details), wavelet, mode, axes=(-2, -1))
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-11)
        # R is linear: the gradient of |R(c)|² / 2 is R'R(c), and <R'R(c), d> = <R(c), R(d)>.
        slopes = torch.autograd.grad(found.square().sum() / 2, given)
        ways = [torch.from_numpy(draw(*x.shape, seed=9 + i)) for i, x in enumerate(given)]
        along = sum((slope * way).sum() for slope, way in zip(slopes, ways, strict=True))
        across = (found * rebuild(ways[0], ways[1:], wavelet, mode)).sum()
        assert along.item() == pytest.approx(across.item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("sides", [*SIDES, (37, 37)], ids=str)
def test_a_map_is_rebuilt_from_its_bands_at_odd_sides_too(sides, wavelet, dtype, close):
    x = torch.from_numpy(draw(2, 3, *sides)).to(dtype)
    for mode in list_modes(sides):
        levels = 1 if "reflect" in mode else 3  # a band of one position has nothing to reflect
        found = rebuild(*decompose(x, wavelet, levels, mode), wavelet, mode, size=sides)
        assert found.dtype == dtype
        torch.testing.assert_close(found, x, rtol=0, atol=close)


def test_haars_inverse_keeps_the_energy_and_each_coefficients_place():
    low, details = draw(1, 2, 3, 4), [draw(1, 2, 3, 6, 8, seed=1), draw(1, 2, 3, 3, 4, seed=2)]
    low, details = torch.from_numpy(low), [torch.from_numpy(x) for x in details]
    found = rebuild(low, details)
    energy = sum(x.square().sum() for x in (low, *details))
    assert found.square().sum().item() == pytest.approx(energy.item(), rel=1e-12)
    again, others = decompose(found, "haar", 2)
    for one, two in zip((again, *others), (low, *details), strict=True):
        torch.testing.assert_close(one, two)


def test_the_inverse_computes_half_precision_in_float32_under_autocast_too():
    x = torch.from_numpy(draw(1, 2, 8, 8)).bfloat16()
    for wavelet in ("haar", "db2"):
        low, details = decompose(x, wavelet, 2)
        wanted = rebuild(low.float(), [level.float() for level in details], wavelet)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = rebuild(low, details, wavelet)
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize(
    "size, message",
    [((7, 9), r"size is \(7, 9\): expected \(8, 8\) or one less"), ((6, 8), "or one less")],
)
def test_a_size_that_the_bands_do_not_have_is_refused(size, message):
    low, details = decompose(torch.zeros(1, 1, 8, 8))
    with pytest.raises(UserError, match=message):
        rebuild(low, details, size=size)
    with pytest.raises(UserError, match=r"\(4, 4\) positions and details of \(8, 8\)"):
        rebuild(low, [torch.zeros(1, 1, 3, 8, 8)])
    with pytest.raises(UserError, match="levels is 0"):
        rebuild(low, [])


@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_haar_keeps_the_energy_at_even_sides_and_at_odd_ones(sides):
    """At each level: padding with zeros adds no energy, and Haar's transform is orthonormal."""
    x = torch.from_numpy(draw(2, 3, *sides))
    for levels in (1, 2, 3):
        low, details = decompose(x, "haar", levels)
        energy = sum(band.square().sum() for band in (low, *details))
        assert energy.item() == pytest.approx(x.square().sum().item(), rel=1e-12)


def test_haars_bands_are_the_sums_and_differences_of_two_by_two_blocks():
    """Named: horizontal details see what changes down the columns."""
    low, (details,) = decompose(torch.tensor([[[[1.0, 2.0], [3.0, 7.0]]]]))
    assert low.flatten().tolist() == pytest.approx([6.5])
    assert details.flatten().tolist() == pytest.approx([-3.5, -2.5, 1.5])


def test_a_single_row_is_its_own_low_band_in_the_details():
    """Zeros beside the only row: what goes down the columns is a step as high as the row, so the
    horizontal details are the low band again, a quarter of all energy each."""
    low, (details,) = decompose(torch.from_numpy(draw(2, 3, 1, 67)))
    torch.testing.assert_close(details[:, :, 0], low)
    torch.testing.assert_close(details[:, :, 2], details[:, :, 1])


@pytest.mark.parametrize("wavelet, sides", [("haar", (5, 8)), ("db2", (4, 3)), ("sym4", (1, 6))])
@pytest.mark.parametrize("mode", ["zero", "symmetric"])
def test_the_transform_passes_a_gradient_check(wavelet, sides, mode):
    x = torch.from_numpy(draw(1, 2, *sides)).requires_grad_()

    def bands(x):
        low, details = decompose(x, wavelet, 2, mode)
        return low, *details

    assert torch.autograd.gradcheck(bands, (x,), atol=1e-9, rtol=1e-7)


def test_the_oracles_order_of_details_is_finest_first():
    """A checkerboard is all diagonal detail of the finest level."""
    x = (-1.0) ** np.add.outer(np.arange(8), np.arange(8))[None, None]
    found = oracles_maps.detail_bands(x, 3)
    sizes = [np.abs(level).sum(axis=(0, 1, 3, 4)) for level in found]
    np.testing.assert_allclose(sizes[0], [0, 0, 32], atol=1e-12)
    np.testing.assert_allclose(sizes[1:], 0, atol=1e-12)
    torch.testing.assert_close(
        decompose(torch.from_numpy(x), "haar", 3)[1][0], torch.from_numpy(found[0])
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (("harr",), "wavelet is 'harr'"),
        (("morl",), "'morl'"),
        (("haar", 0), "levels is 0"),
        (("haar", 1, "symetric"), "did you mean 'symmetric'"),
        (("haar", 2, "reflect"), "a side has one position"),
    ],
)
@pytest.mark.parametrize("transform", [decompose, keep_low])
def test_a_transform_that_there_is_none_of_is_refused(transform, options, message):
    with pytest.raises(UserError, match=message):
        transform(torch.zeros(1, 1, 2, 4), *options)

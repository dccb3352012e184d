"""Bases: orthonormal, ordered, equal to SciPy's and PyWavelets' transforms; splits by them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import pywt
import scipy.fft
import torch

from fdlab.core.errors import UserError
from fdlab.spectral.bands import (
    BandSplit,
    count_low_bins,
    count_low_dims,
    split_bands,
    split_fourier_softly,
)
from fdlab.spectral.bases import BASES, make_basis, order_channels


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape) + 0.7


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dim", [2, 8, 12, 96, 128])
def test_rows_are_orthonormal_and_begin_with_the_constant(basis, dim):
    rows = make_basis(basis, dim)
    np.testing.assert_allclose(rows @ rows.T, np.eye(dim), atol=1e-10)
    constant = np.full(dim, dim**-0.5)
    if basis == "free":
        assert not np.allclose(np.abs(rows[0]), constant)
    else:
        np.testing.assert_allclose(rows[0], constant, atol=1e-10)


@pytest.mark.parametrize("basis", [b for b in BASES if b not in ("haar", "db4")])
def test_odd_widths_work_where_nothing_is_halved(basis):
    rows = make_basis(basis, 33)
    np.testing.assert_allclose(rows @ rows.T, np.eye(33), atol=1e-10)


@pytest.mark.parametrize("basis", ["haar", "db4"])
def test_a_wavelet_refuses_an_odd_width(basis):
    with pytest.raises(UserError, match="D is 33: expected an even width"):
        make_basis(basis, 33)


def test_the_cosine_basis_is_scipys():
    x = draw(5, 24)
    np.testing.assert_allclose(x @ make_basis("dct", 24).T, scipy.fft.dct(x, norm="ortho", axis=1))


@pytest.mark.parametrize("basis", ["haar", "db4"])
def test_the_wavelet_coefficients_are_pywavelets(basis):
    x = draw(5, 64)
    found = x @ make_basis(basis, 64).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = pywt.wavedec(x, basis, mode="periodization", level=6, axis=1)
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), atol=1e-10)


@pytest.mark.parametrize("dim", [12, 13, 128])
@pytest.mark.parametrize("cutoff", [0.0, 0.25, 0.5, 1.0])
def test_the_fourier_basis_gives_the_fft_split(dim, cutoff):
    x = draw(4, dim)
    rows = make_basis("dft", dim)
    low = rows[1 : 1 + count_low_dims(dim, cutoff)]
    expected = (x @ low.T) @ low
    found = split_bands(torch.from_numpy(x), cutoff)
    np.testing.assert_allclose(found.low.numpy(), expected, atol=1e-12)
    assert count_low_dims(dim, cutoff) == np.linalg.matrix_rank(
        split_bands(torch.eye(dim).double(), cutoff).low
    )


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dc", ["drop", "low", "own"])
def test_every_basis_splits_orthogonally_and_rebuilds(basis, dc):
    x = torch.from_numpy(draw(3, 4, 16))
    bands = split_bands(x, 0.4, dc, basis=basis, seed=3)
    first = torch.tensor(make_basis(basis, 16, 3)[:1])
    dropped = (x @ first.T) @ first
    whole = bands.low + bands.high + (bands.dc if dc == "own" else 0)
    torch.testing.assert_close(whole, x - dropped if dc == "drop" else x)
    assert (bands.low * bands.high).sum(dim=-1).abs().max() < 1e-10
    assert torch.linalg.matrix_rank(bands.high.flatten(0, 1)) <= 15 - count_low_dims(16, 0.4)


def test_the_permuted_split_is_fouriers_on_reordered_channels():
    x = torch.from_numpy(draw(5, 20))
    order = torch.from_numpy(order_channels(20, 4))
    there = split_bands(x[:, order], 0.5, "low")
    here = split_bands(x, 0.5, "low", basis="permuted", seed=4)
    torch.testing.assert_close(here.low[:, order], there.low)
    by_matrix = x.numpy() @ make_basis("permuted", 20, 4).T
    np.testing.assert_allclose(by_matrix, x[:, order].numpy() @ make_basis("dft", 20).T, atol=1e-12)


def test_a_drawn_basis_follows_its_seed_alone():
    for basis in ("random", "free", "permuted"):
        make_basis.cache_clear()
        first = make_basis(basis, 12, 1).copy()
        make_basis.cache_clear()
        assert np.array_equal(first, make_basis(basis, 12, 1))
        assert not np.allclose(first, make_basis(basis, 12, 2))


def test_an_unknown_basis_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"did you mean 'haar'.*dft, dct"):
        split_bands(torch.ones(2, 8), basis="har")


@pytest.mark.parametrize("dim", [16, 17])
def test_a_soft_mask_of_zeros_and_ones_is_the_hard_split(dim):
    x = torch.from_numpy(draw(5, dim))
    edge = count_low_bins(dim, 0.5)
    mask = (torch.arange(dim // 2) < edge).double()
    soft: BandSplit = split_fourier_softly(x, mask)
    hard = split_bands(x, 0.5)
    torch.testing.assert_close(soft.low, hard.low)
    torch.testing.assert_close(soft.high, hard.high)

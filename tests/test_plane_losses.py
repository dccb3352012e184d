"""Distances of maps by their frequencies against NumPy's FFT, and their laws."""

from __future__ import annotations

import math

import numpy as np
import oracles_planes
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.losses.features import mse
from fdlab.losses.planes import (
    FORMS,
    band_loss,
    compare_high,
    cosine_distance,
    gaussian_fft_loss,
    info_nce,
)
from fdlab.spectral.planes import MASKS, split_plane, standardise

SIZES = [(6, 6), (7, 5), (1, 6)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def draw_pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return draw(*shape, seed=1), draw(*shape, seed=2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cutoff", [0.25, 0.5])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_band_losses_and_their_gradients_are_those_of_the_formulas(size, cutoff, mask, form):
    s, t = draw_pair(2, 3, *size)
    found = band_loss(s, t, cutoff, mask, form)
    wanted = oracles_planes.bands(s.numpy(), t.numpy(), cutoff, mask, form)
    assert [x.item() for x in found] == pytest.approx(wanted, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda s: band_loss(s, t, cutoff, mask, form), (s.requires_grad_(),)
    )


@pytest.mark.parametrize("form", [form for form in FORMS if form != "fdcmkd"])
def test_the_fused_loss_is_its_parts_in_float32(form):
    """Values and both terms' gradients, each by itself and added, as autograd walks the formula."""
    s, t = (standardise(x.float()) for x in draw_pair(2, 16, 9, 8))
    sides = [s.clone().requires_grad_() for _ in range(2)]
    fused = band_loss(sides[0], t, 0.5, "symmetric", form)
    mine, theirs = split_plane(sides[1]), split_plane(t)
    plain = mse(mine[0], theirs[0]), compare_high(mine[1], theirs[1], form)
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.1)):
        grads = []
        for terms, side in zip((fused, plain), sides, strict=True):
            total = sum(w * x for w, x in zip(weights, terms, strict=True))
            grads.append(torch.autograd.grad(total, side, retain_graph=True)[0])
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-9)
    for one, two in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=0)


def test_the_released_logs_do_not_see_signs_and_fdcmkds_do():
    """And how large each is beside the mean square, for independent normal values: E(|s| - |t|)² is
    1 - 2/π of E(s - t)²."""
    s, t = (standardise(x) for x in draw_pair(4, 768, 12, 12))
    for mask in MASKS:
        low, high = band_loss(s, -s, mask=mask)
        assert high.item() == pytest.approx(0, abs=1e-20) and low.item() > 1e-5
        assert band_loss(s, -s, mask=mask, high="log_signed")[1].item() > 1e-4
    plain = band_loss(s, t, high="mse")[1].item()
    blind, signed = (band_loss(s, t, high=f"log_{k}")[1].item() for k in ("magnitude", "signed"))
    assert blind / plain == pytest.approx(1 - 2 / math.pi, rel=0.1)
    assert 0.93 < signed / plain < 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_equal_maps_are_at_no_distance_and_the_teacher_learns_nothing(mask, form):
    s, t = (x.requires_grad_() for x in draw_pair(2, 3, 6, 5))
    assert [x.item() for x in band_loss(s, s, 0.5, mask, form)] == pytest.approx([0, 0], abs=1e-25)
    sum(band_loss(s, t, 0.5, mask, form)).backward()
    assert s.grad.any() and t.grad is None


def test_the_mean_squares_of_the_bands_add_up_to_that_of_the_maps():
    s, t = draw_pair(2, 3, 7, 6)
    assert sum(band_loss(s, t, high="mse")).item() == pytest.approx(mse(s, t).item(), rel=1e-12)
    assert sum(band_loss(s, t, 0.5, "released", "mse")).item() < 0.99 * mse(s, t).item()


@pytest.mark.parametrize("passes", ["low", "high"])
@pytest.mark.parametrize("width", [0.1, 0.25, 2.0])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (4, 9)], ids=str)
def test_the_filtered_loss_is_that_of_the_whole_spectrum(size, width, passes):
    s, t = draw_pair(2, 3, *size)
    wanted = oracles_planes.filtered(s.numpy(), t.numpy(), width, passes)
    assert gaussian_fft_loss(s, t, width, passes).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda s: gaussian_fft_loss(s, t, width, passes), (s.requires_grad_(),)
    )


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (4, 9), (1, 1)], ids=str)
def test_a_flat_filter_is_the_mean_square_over_space(size):
    """Parseval: whatever a filter gains, it gains by not being flat."""
    s, t = draw_pair(2, 3, *size)
    wanted = (s - t).square().mean().item()
    assert gaussian_fft_loss(s, t, math.inf).item() == pytest.approx(wanted, rel=1e-12)
    narrow = gaussian_fft_loss(s, t, 0.1).item()
    assert size == (1, 1) or abs(narrow - wanted) > 0.01 * wanted


def test_a_filter_weighs_a_wave_by_its_own_frequency_alone():
    places = torch.arange(8, dtype=torch.float64)
    none = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    for passes in ("low", "high"):
        weights = oracles_planes.gaussian(8, 8, 0.25, passes)
        for u, v in [(0, 0), (1, 0), (0, 3), (2, 2), (4, 4)]:
            wave = torch.cos(2 * math.pi * (u * places[:, None] + v * places) / 8)[None, None]
            found = gaussian_fft_loss(wave, none, 0.25, passes).item()
            wanted = weights[u, v] * wave.square().mean().item()
            assert found == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_a_map_is_told_from_the_batchs_others():
    """Closed forms: N maps at right angles, all alike, and one alone."""
    n, temperature = 5, 0.2
    apart = torch.eye(n, dtype=torch.float64).view(n, 1, 1, n)
    known = math.log1p((n - 1) * math.exp(-1 / temperature))
    assert info_nce(3 * apart, apart, temperature).item() == pytest.approx(known, rel=1e-12)
    alike = torch.ones(n, 2, 3, 3, dtype=torch.float64)
    assert info_nce(alike, alike).item() == pytest.approx(math.log(n), rel=1e-12)
    assert info_nce(apart[:1], -apart[:1]).item() == 0
    s, t = draw_pair(4, 2, 3, 5)
    wanted = oracles_planes.info_nce(s.numpy(), t.numpy(), temperature)
    assert info_nce(s, t, temperature).item() == pytest.approx(wanted, rel=1e-12)


def test_the_cosine_distance_is_of_each_positions_channels():
    s, t = draw_pair(2, 4, 3, 5)
    assert cosine_distance(s, 3 * s).item() == pytest.approx(0, abs=1e-15)
    assert cosine_distance(s, -s).item() == pytest.approx(2, rel=1e-14)
    across = torch.stack([-s[:, 1], s[:, 0], -s[:, 3], s[:, 2]], dim=1)
    assert cosine_distance(s, across).item() == pytest.approx(1, rel=1e-14)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 4).numpy() for x in (s, t)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*rows, strict=True)]
    assert cosine_distance(s, t).item() == pytest.approx(1 - np.mean(cosines), rel=1e-12)


def test_an_unknown_distance_is_refused_with_the_choices():
    with pytest.raises(UserError, match="Choices: log_magnitude, log_signed, mse, fdcmkd"):
        band_loss(*draw_pair(1, 1, 2, 2), high="logmse")

"""Laws of the losses: values against NumPy and SciPy, bounds, and gradients at the edges."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fdlab.core.errors import UserError
from fdlab.losses.features import REDUCTIONS, logmse, mse, normalise, signed_log
from fdlab.losses.logits import kl_divergence

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def draw(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * scale


def tensors(*values: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(value) for value in values]


@given(arrays(np.float64, 20, elements=numbers))
def test_signed_log_is_sign_times_log1p(x):
    found = signed_log(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, np.sign(x) * np.log1p(np.abs(x)), rtol=1e-14)


@given(arrays(np.float64, 20, elements=numbers))
def test_the_slope_of_signed_log_is_one_over_one_plus_size_also_at_zero(x):
    x[:2] = 0.0, -0.0
    tensor = torch.from_numpy(x).requires_grad_()
    signed_log(tensor).sum().backward()
    np.testing.assert_allclose(tensor.grad.numpy(), 1 / (1 + np.abs(x)), rtol=1e-14)
    assert tensor.grad[0] == tensor.grad[1] == 1


def test_signed_log_at_named_points():
    x = torch.tensor([0.0, np.e - 1, 1 - np.e, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 1.0, -1.0, np.log(2)], dtype=torch.float64)
    assert torch.allclose(signed_log(x), expected, rtol=1e-15, atol=0)


@given(numbers, numbers)
def test_signed_log_is_odd_increasing_and_1_lipschitz(a, b):
    x = torch.tensor([a, b, -a], dtype=torch.float64)
    one, two, mirrored = signed_log(x).tolist()
    assert mirrored == -one
    assert abs(one - two) <= abs(a - b) + 1e-12
    assert (one - two) * (a - b) >= 0


def test_normalise_gives_the_direction_whatever_the_length():
    x = draw(0, 6, 9)
    for scale in (1e-4, 1.0, 1e6):
        found = normalise(torch.from_numpy(x * scale)).numpy()
        np.testing.assert_allclose(found, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-12)


def test_normalise_divides_by_eps_below_eps():
    x = torch.full((1, 4), 1e-9, dtype=torch.float64)  # length 2e-9
    assert torch.allclose(normalise(x), torch.full_like(x, 0.1), rtol=1e-12)


def test_the_gradient_of_normalise_is_the_projection_over_the_length():
    x, v = draw(1, 5, 7), draw(2, 5, 7)
    tensor = torch.from_numpy(x).requires_grad_()
    (normalise(tensor) * torch.from_numpy(v)).sum().backward()
    length = np.linalg.norm(x, axis=1, keepdims=True)
    u = x / length
    expected = (v - u * (u * v).sum(axis=1, keepdims=True)) / length
    np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-10, atol=1e-14)


def test_a_zero_row_normalises_to_zero_with_zero_gradient_and_spares_the_others():
    x = draw(3, 3, 5)
    x[1] = 0
    tensor = torch.from_numpy(x).requires_grad_()
    value = normalise(tensor)
    (value * torch.from_numpy(draw(4, 3, 5))).sum().backward()
    assert not value[1].any() and not tensor.grad[1].any()
    assert torch.isfinite(tensor.grad).all()
    assert tensor.grad[0].any() and tensor.grad[2].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (64, 512)])
def test_mse_and_logmse_equal_numpy(reduction, shape):
    s, t = draw(5, *shape), draw(6, *shape, scale=3)
    for loss, expected in (
        (mse, oracles.mse(s, t, reduction)),
        (logmse, oracles.mse(oracles.signed_log(s), oracles.signed_log(t), reduction)),
    ):
        assert loss(*tensors(s, t), reduction).item() == pytest.approx(expected, rel=1e-6)


def test_mse_takes_the_mean_over_rows_and_columns_unless_told_to_sum_columns():
    s, t = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert mse(s, t).item() == pytest.approx(14 / 6)
    assert mse(s, t, "sum").item() == pytest.approx(14 / 2)


def test_an_unknown_reduction_is_refused_with_the_choices():
    for loss in (mse, logmse):
        with pytest.raises(UserError, match=r"'batchmean'.*Choices: mean, sum"):
            loss(torch.zeros(2, 3), torch.zeros(2, 3), "batchmean")


@given(arrays(np.float64, (2, 5, 16), elements=st.floats(-100, 100)))
def test_distances_of_unit_vectors_are_at_most_4_over_d_and_the_log_only_shrinks_them(pair):
    s, t = (normalise(x) for x in torch.from_numpy(pair))
    plain, log = mse(s, t).item(), logmse(s, t).item()
    assert 0 <= log <= plain * (1 + 1e-6)
    assert plain <= 4 / 16 * (1 + 1e-6)


def test_opposite_unit_vectors_reach_4_over_d():
    u = normalise(torch.from_numpy(draw(7, 8, 512)))
    assert mse(u, -u).item() == pytest.approx(4 / 512, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_equals_scipys_relative_entropy_times_temperature_squared(temperature):
    s, t = draw(8, 6, 5, scale=3), draw(9, 6, 5, scale=3)
    p_s, p_t = (scipy.special.softmax(z / temperature, axis=1) for z in (s, t))
    rows = scipy.stats.entropy(p_t, p_s, axis=1)  # Σ p_t log(p_t / p_s)
    found = kl_divergence(*tensors(s, t), temperature).item()
    assert found == pytest.approx(temperature**2 * rows.mean(), rel=1e-5)
    assert found != pytest.approx(temperature**2 * rows.mean() / 5, rel=0.5)  # not torch's "mean"


def test_kl_takes_the_teacher_as_the_reference():
    s, t = tensors(np.array([[4.0, 0.0]]), np.array([[0.0, 0.0]]))
    p = scipy.special.softmax([4.0, 0.0])
    assert kl_divergence(s, t).item() == pytest.approx(scipy.special.rel_entr(0.5, p).sum())
    assert kl_divergence(t, s).item() == pytest.approx(scipy.special.rel_entr(p, 0.5).sum())


def test_kl_is_the_mean_over_the_batch():
    s, t = tensors(draw(10, 4, 6), draw(11, 4, 6))
    once, rows = kl_divergence(s, t), [kl_divergence(s[i : i + 1], t[i : i + 1]) for i in range(4)]
    assert kl_divergence(s.repeat(3, 1), t.repeat(3, 1)).item() == pytest.approx(once.item())
    assert torch.stack(rows).mean().item() == pytest.approx(once.item())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_of_equal_distributions_is_zero_with_zero_gradient(temperature):
    t = torch.from_numpy(draw(12, 4, 6)).float()
    s = (t + 7).requires_grad_()  # softmax forgets a constant
    loss = kl_divergence(s, t, temperature)
    loss.backward()
    assert abs(loss.item()) < 1e-5 and s.grad.abs().max() < 1e-5


def test_temperature_squared_keeps_the_gradients_size():
    t = torch.from_numpy(draw(13, 8, 5, scale=0.01))
    sizes = []
    for temperature in (1.0, 10.0):
        s = torch.from_numpy(draw(14, 8, 5, scale=0.01)).requires_grad_()
        kl_divergence(s, t, temperature).backward()
        sizes.append(s.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(-80, 80)))
def test_kl_is_never_negative_and_stays_finite_at_large_logits(pair):
    value = kl_divergence(*torch.from_numpy(pair))
    assert torch.isfinite(value) and value.item() >= -1e-5


@pytest.mark.parametrize("loss", [mse, logmse, kl_divergence])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_computed_in_float32(loss, dtype):
    s, t = (torch.from_numpy(draw(seed, 4, 8, scale=30)).to(dtype) for seed in (15, 16))
    value = loss(s, t)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(s.float(), t.float()))

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
from fdlab.losses.correlations import (
    batch_correlation,
    class_correlation,
    correlation_distances,
    kendall_tau,
)
from fdlab.losses.features import REDUCTIONS, logmse, mse, normalise, signed_log
from fdlab.losses.logits import cross_entropy, kl_divergence, kl_with_floor
from fdlab.losses.relations import (
    angle_relation,
    contrast,
    distance_relation,
    probability_transfer,
    similarity_preserving,
)
from fdlab.losses.targets import drop_target, nckd, nkd, ofa, tckd

numbers = st.floats(-1e6, 1e6, allow_nan=False)


def draw(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * scale


def rotate(seed: int, dim: int) -> np.ndarray:
    return scipy.stats.ortho_group.rvs(dim, random_state=seed)


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
        assert loss(*tensors(s, t), reduction).item() == pytest.approx(expected, rel=1e-12)


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
    assert 0 <= log <= plain * (1 + 1e-12)
    assert plain <= 4 / 16 * (1 + 1e-12)


def test_opposite_unit_vectors_reach_4_over_d():
    u = normalise(torch.from_numpy(draw(7, 8, 512)))
    assert mse(u, -u).item() == pytest.approx(4 / 512, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_equals_scipys_relative_entropy_times_temperature_squared(temperature):
    s, t = draw(8, 6, 5, scale=3), draw(9, 6, 5, scale=3)
    p_s, p_t = (scipy.special.softmax(z / temperature, axis=1) for z in (s, t))
    rows = scipy.stats.entropy(p_t, p_s, axis=1)  # Σ p_t log(p_t / p_s)
    found = kl_divergence(*tensors(s, t), temperature).item()
    assert found == pytest.approx(temperature**2 * rows.mean(), rel=1e-12)
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
    t = torch.from_numpy(draw(12, 4, 6))
    s = (t + 7).requires_grad_()  # softmax forgets a constant
    loss = kl_divergence(s, t, temperature)
    loss.backward()
    assert abs(loss.item()) < 1e-12 and s.grad.abs().max() < 1e-12


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
    assert torch.isfinite(value) and value.item() >= -1e-12


LABELS = torch.tensor([0, 3, 1, 7])
KEEP = torch.ones(4), torch.ones(8)
LOSSES = {
    "mse": mse,
    "logmse": logmse,
    "cross_entropy": lambda s, t: cross_entropy(s, LABELS),
    "kl": kl_divergence,
    "kl_with_floor": kl_with_floor,
    "tckd": lambda s, t: tckd(s, t, LABELS),
    "nckd": lambda s, t: nckd(s, t, LABELS),
    "nkd": lambda s, t: sum(nkd(s, t, LABELS)),
    "dist": lambda s, t: sum(correlation_distances(s, t)),
    "ofa": lambda s, t: ofa(s, t, LABELS, 1.5),
    "batch": lambda s, t: batch_correlation(s, t, (2.0, 4.0), KEEP[0]),
    "class": lambda s, t: class_correlation(s, t, (2.0, 4.0), KEEP[1]),
    "sp": similarity_preserving,
    "pkt": probability_transfer,
    "rkd distance": distance_relation,
    "rkd angle": angle_relation,
    "kendall": lambda s, t: kendall_tau(s, t).sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_half_precision_is_widened_and_float64_is_kept(loss):
    """Autocast, which would take matrix products in half precision again, changes nothing."""
    s, t = (torch.from_numpy(draw(seed, 4, 8, scale=3)) for seed in (15, 16))
    assert loss(s, t).dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16):
        half = s.to(dtype), t.to(dtype)
        value = loss(*half)
        assert value.dtype == torch.float32
        assert torch.equal(value, loss(*(x.float() for x in half)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(*half), value)


# DKD's halves


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_its_target_half_and_the_share_left_of_the_other(temperature):
    """KL = TCKD + (1 - q_y) NCKD, sample by sample, q the teacher's."""
    for n in range(4):
        s, t = tensors(draw(20 + n, 1, 8, scale=3), draw(30 + n, 1, 8, scale=3))
        y = LABELS[n : n + 1]
        q = scipy.special.softmax(t.numpy()[0] / temperature)[y.item()]
        halves = tckd(s, t, y, temperature) + (1 - q) * nckd(s, t, y, temperature)
        assert halves.item() == pytest.approx(kl_divergence(s, t, temperature).item(), rel=1e-12)


def test_dropping_the_target_is_lowering_it_by_1000():
    s, t = tensors(draw(21, 4, 8, scale=3), draw(22, 4, 8, scale=3))
    far = 1000 * torch.nn.functional.one_hot(LABELS, 8)
    expected = kl_divergence(s - far, t - far, 1.0)
    assert nckd(s, t, LABELS, 1.0).item() == pytest.approx(expected.item(), rel=1e-12)
    expected = [np.delete(row, y) for row, y in zip(s.numpy(), LABELS, strict=True)]
    np.testing.assert_array_equal(drop_target(s, LABELS), expected)


@pytest.mark.parametrize("sure, wrong", [(50.0, False), (50.0, True), (1e4, False)])
def test_the_target_half_stays_exact_where_one_minus_p_is_0_in_float32(sure, wrong):
    """A teacher of logits ± sure against an unsure student and the other way round, log-sum-exp by
    SciPy in float64; `wrong`: the teacher is as sure of another class."""
    y = torch.tensor([2])
    teacher = np.full((1, 6), -sure)
    teacher[0, 4 if wrong else 2] = sure
    student = draw(23, 1, 6)

    def halve(z):
        logs = np.array([z[0, 2], scipy.special.logsumexp(np.delete(z[0], 2))])
        return logs - scipy.special.logsumexp(z[0])

    for s, t in ((student, teacher), (teacher, student)):
        log_s, log_t = halve(s), halve(t)
        expected = (np.exp(log_t) * (log_t - log_s)).sum()
        one, two = (torch.from_numpy(z).float() for z in (s, t))
        one.requires_grad_()
        found = tckd(one, two, y, 1.0)
        found.backward()
        assert found.item() == pytest.approx(expected, rel=1e-5)
        # By the target's logit: p_s - p_t.
        slope = np.exp(log_s[0]) - np.exp(log_t[0])
        assert one.grad[0, 2].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_two_classes_have_no_other_half():
    s, t = tensors(draw(24, 4, 2), draw(25, 4, 2))
    y = torch.tensor([0, 1, 1, 0])
    assert nckd(s, t, y).item() == 0
    assert tckd(s, t, y).item() == pytest.approx(kl_divergence(s, t, 4.0).item(), rel=1e-12)


# Other distances between scores


def relate(p: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Rows a · p + (1 - a) / K as logits: affine in p, still probabilities."""
    return np.log(slopes[:, None] * p + (1 - slopes[:, None]) / p.shape[1])


def test_dist_is_zero_for_affinely_related_probabilities_and_not_for_logits():
    """ε in the denominator leaves T² ε over the norms' product, below 1e-5 here."""
    z = draw(26, 6, 5)
    p = scipy.special.softmax(z, axis=1)
    unequal, equal = np.linspace(0.3, 0.9, 6), np.full(6, 0.4)
    inter, intra = correlation_distances(*tensors(relate(p, unequal), z), 1.0)
    assert inter.abs() < 1e-5 and intra > 1e-3
    # One slope for all samples: the columns are affinely related too.
    assert all(
        part.abs() < 1e-5 for part in correlation_distances(*tensors(relate(p, equal), z), 1.0)
    )
    opposite = correlation_distances(*tensors(relate(p, -0.2 * np.ones(6)), z), 1.0)
    assert [part.item() for part in opposite] == pytest.approx([2, 2], abs=1e-5)
    assert correlation_distances(*tensors(2 * z + 1, z), 1.0)[0] > 1e-3


def test_dist_of_a_constant_column_is_finite_and_counts_as_uncorrelated():
    z = torch.zeros(4, 3, requires_grad=True)
    parts = correlation_distances(z, torch.from_numpy(draw(27, 4, 3)).float(), 4.0)
    assert [part.item() for part in parts] == [16, 16]
    (gradient,) = torch.autograd.grad(sum(parts), [z])
    assert torch.isfinite(gradient).all()


def test_ofa_at_power_1_is_the_cross_entropy_with_the_teacher_and_grows_with_it_where_sure():
    s, t = tensors(draw(28, 4, 8), draw(29, 4, 8))
    p = t.softmax(dim=1)
    expected = torch.nn.functional.cross_entropy(s, p)
    assert ofa(s, t, LABELS).item() == pytest.approx(expected.item(), rel=1e-12)
    assert ofa(s, t + 50 * torch.nn.functional.one_hot(LABELS, 8), LABELS, 2.0).item() == (
        pytest.approx(3 * cross_entropy(s, LABELS).item(), rel=1e-9)  # (1 + 1)² - 1
    )


def test_the_floor_bounds_the_divergence_of_disjoint_predictions():
    s = torch.tensor([[90.0, -90.0]], requires_grad=True)
    value = kl_with_floor(s, -s.detach())
    value.backward()
    assert value.item() == pytest.approx(-np.log(1e-8), rel=1e-5)
    assert torch.isfinite(s.grad).all()


@given(arrays(np.int8, (2, 3, 7), elements=st.integers(-3, 3)))
def test_kendalls_tau_is_scipys_with_ties_and_constant_rows(pair):
    a, b = pair.astype(np.float64)
    expected = [scipy.stats.kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(kendall_tau(*tensors(a, b)), expected, rtol=1e-12, atol=1e-15)
    found = kendall_tau(*(x.float() for x in tensors(a, b)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_kendalls_tau_at_named_points():
    one = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [2, 2, 2, 2], [5, 5, 5, 5]])
    two = torch.tensor([[10.0, 20, 30, 99], [4, 3, 2, 1], [1, 1, 2, 2], [1, 2, 3, 4], [5, 5, 5, 5]])
    found = kendall_tau(one, two).numpy()
    np.testing.assert_allclose(found, [1, -1, 4 / 24**0.5, np.nan, np.nan], rtol=1e-6)


# Relations


def test_relations_of_a_feature_with_itself_are_zero_and_at_their_minimum():
    """PKT's but for its ε, 1e-7 of the probabilities."""
    x = draw(40, 6, 5)
    for loss in (similarity_preserving, probability_transfer, distance_relation, angle_relation):
        s, t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(x)
        value = loss(s, t)
        value.backward()
        assert abs(value.item()) < 1e-15, loss.__name__
        assert s.grad.abs().max() < (1e-7 if loss is probability_transfer else 1e-13), loss.__name__


@pytest.mark.parametrize(
    "loss, changes",
    [
        (similarity_preserving, {"rotation", "scale"}),
        (probability_transfer, {"rotation", "scale", "scale of each sample"}),
        (distance_relation, {"rotation", "scale", "shift"}),
        (angle_relation, {"rotation", "scale", "shift"}),
    ],
)
def test_a_relation_forgets_what_it_should_and_nothing_else(loss, changes):
    s, t, generator = draw(41, 6, 5), draw(42, 6, 4), np.random.default_rng(43)
    moved = {
        "rotation": s @ rotate(44, 5),
        "scale": s * 1e-3,
        "scale of each sample": s * generator.uniform(0.2, 5, size=(6, 1)),
        "shift": s + 2 * generator.standard_normal(5),
        "order": s[::-1].copy(),
    }
    before = loss(*tensors(s, t)).item()
    for name, x in moved.items():
        same = loss(*tensors(x, t)).item() == pytest.approx(before, rel=1e-9)
        assert same == (name in changes), name


@pytest.mark.parametrize("apart", [0.0, 1e-5, 1e-4])
def test_nearly_equal_samples_do_not_blow_up_the_relations_in_float32(apart):
    """Half of the batch repeats the other half but for `apart`, which rounding swamps: the loss is
    that of float64 without the pairs' own, a small part, and the gradient stays of its size."""
    s, t = draw(45, 32, 64), draw(46, 32, 16)
    s[16:] = s[:16] + apart * draw(47, 16, 64)
    whole = torch.from_numpy(s).requires_grad_(), torch.from_numpy(t)
    for loss, slack in ((distance_relation, 1e-3), (angle_relation, 0.1)):
        expected = loss(*whole).item()
        single = torch.from_numpy(s).float().requires_grad_()
        value = loss(single, torch.from_numpy(t).float())
        value.backward()
        assert value.item() == pytest.approx(expected, rel=slack)
        assert single.grad.norm() < 1e-2 and torch.isfinite(single.grad).all()


@pytest.mark.parametrize("loss", [distance_relation, angle_relation])
def test_relations_of_one_point_or_of_equal_points_are_finite(loss):
    for x in (torch.ones(1, 3), torch.ones(4, 3), torch.zeros(4, 3)):
        s = x.clone().requires_grad_()
        value = loss(s, torch.from_numpy(draw(48, len(x), 5)).float())
        value.backward()
        assert torch.isfinite(value) and not s.grad.any()


def test_a_contrast_without_negatives_is_of_the_positives_alone():
    own, others = torch.tensor([0.2, 0.4]), torch.rand(2, 3)
    counted = torch.tensor([[0.0, 0, 0], [1, 0, 1]])
    expected = -(
        np.log(0.2 / (0.2 + 1e-7))
        + np.log(0.4 / (0.4 + 0.2 + 1e-7))
        + sum(np.log(0.2 / (others[1, m].item() + 0.2 + 1e-7)) for m in (0, 2))
    )
    assert contrast(own, others, counted, 10).item() == pytest.approx(expected / 2, rel=1e-5)

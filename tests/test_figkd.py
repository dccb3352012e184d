"""FiGKD: the grid of logits, the distance's closed forms and invariances, its bases, its control.

Its terms and gradients beside a transcription are in test_methods, where there are four classes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.losses.logits import BANDS, wavelet_distance
from fdlab.methods import METHODS
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.output import ModelOutput, Side
from fdlab.spectral.grids import as_logit_grid, choose_grid, order_classes, split_logits

N = 3
NAMED = (100, 200, 120, 67, 40, 28)  # classes of the paper's data sets, and an odd side more
EVEN = (100, 200, 120)


def draw(classes: int, seed: int, n: int = N) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def build(classes: int, **options):
    sizes = Sizes(Side(12), Side(12), classes)
    return build_method("figkd", options, sizes).double()


def run(method, classes: int) -> dict[str, float]:
    outputs = [
        ModelOutput(draw(classes, i), None, second=ModelOutput(draw(classes, 9 + i), None))
        for i in (1, 2)
    ]
    terms = method(*outputs, Batch(torch.arange(N) % classes))
    return {name: term.item() for name, term in terms.items()}


def test_the_grid_is_the_most_nearly_square_one():
    for classes, grid in oracles.GRIDS.items():
        assert choose_grid(classes) == grid
    for classes in range(1, 300):
        pairs = [(r, classes // r) for r in range(1, classes + 1) if classes % r == 0]
        rows, columns = choose_grid(classes)
        assert (rows, columns) in pairs and rows <= columns
        assert columns - rows == min(abs(a - b) for a, b in pairs)
    with pytest.raises(UserError, match="classes is 0"):
        choose_grid(0)
    rows = as_logit_grid(torch.arange(80.0).view(2, 40))
    assert rows.shape == (2, 1, 5, 8) and rows[1, 0, 2].tolist() == [*range(56, 64)]


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("classes", NAMED)
def test_value_and_gradient_equal_the_transcription_at_every_named_number_of_classes(
    classes, distance
):
    s, t = draw(classes, 1, 1).requires_grad_(), draw(classes, 2, 1)
    o = {"distance": distance}
    value = wavelet_distance(s, t, distance=distance)
    start = s.detach().numpy()
    assert value.item() == pytest.approx(oracles.wavelet_distance(start, t.numpy(), o), rel=1e-9)
    (gradient,) = torch.autograd.grad(value, [s])
    wanted = oracles.differentiate(lambda x: oracles.wavelet_distance(x, t.numpy(), o), start)
    assert np.linalg.norm(gradient.numpy() - wanted) <= 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "random", "bands": "HL"},
        {"order": "random", "order_seed": 3, "distance": "l2", "two_view": True},
        {"mode": "periodization", "wavelet": "db2", "levels": 2, "base": "mlkd"},
    ],
    ids=str,
)
def test_a_grid_of_more_than_one_block_gives_the_transcriptions_terms(options):
    """Four classes are one block, in which no order of them changes the sum of the details."""
    s, t, v_s, v_t = (draw(12, seed) for seed in (1, 2, 10, 11))
    given = oracles.Given(
        options, s.numpy(), None, t.numpy(), None, v_s.numpy(), v_t.numpy(), np.arange(N)
    )
    found, wanted = run(build(12, **options), 12), oracles.figkd_terms(given)
    assert found.keys() == wanted.keys()
    for term, value in found.items():
        assert value == pytest.approx(wanted[term], rel=1e-9), term


@pytest.mark.parametrize("classes", EVEN)
def test_squared_details_are_the_deviations_from_the_mean_of_every_block(classes):
    """Σ over 2×2 blocks of Σ (Δz - block mean)², over K/4 coefficients a band."""
    s, t = draw(classes, 1), draw(classes, 2)
    rows, columns = oracles.GRIDS[classes]
    gaps, total = (s - t).numpy().reshape(N, rows, columns), 0.0
    for i in range(0, rows, 2):
        for j in range(0, columns, 2):
            block = gaps[:, i : i + 2, j : j + 2].reshape(N, 4)
            total += ((block - block.mean(axis=1, keepdims=True)) ** 2).sum()
    found = wavelet_distance(s, t, distance="l2").item()
    assert found == pytest.approx(4 / classes * total / N, rel=1e-12)
    # A shift of any one block changes nothing, that of three of its classes does.
    moved = s.clone()
    moved[:, [2, 3, columns + 2, columns + 3]] += 5.0
    for distance in ("l1", "l2"):
        before = wavelet_distance(s, t, distance=distance).item()
        assert wavelet_distance(moved, t, distance=distance).item() == pytest.approx(before)
    moved[:, 2] -= 50.0
    assert wavelet_distance(moved, t, distance="l2").item() > 2 * found


@pytest.mark.parametrize("classes", NAMED)
def test_only_all_four_bands_by_l2_do_not_care_for_the_order_of_the_classes(classes):
    """They are the squared distance of the logits (Parseval), at odd sides too since beyond the
    edge there are zeros."""
    s, t = draw(classes, 1), draw(classes, 2)
    rows, columns = oracles.GRIDS[classes]
    coefficients = -(-rows // 2) * -(-columns // 2)  # of a band
    plain = (s - t).square().sum().item() / N / coefficients

    def spread(bands, distance):
        options = {"bands": "+".join(bands), "distance": distance}
        orders = [{}] + [{"order": "random", "order_seed": seed} for seed in range(3)]
        found = [run(build(classes, **options, **order), classes)["details"] for order in orders]
        return found[0], np.ptp(found) / found[0]

    value, change = spread(BANDS, "l2")
    assert value == pytest.approx(plain, rel=1e-12) and change < 1e-12
    for bands, distance in ((BANDS[1:], "l2"), (BANDS[1:], "l1"), (BANDS, "l1")):
        assert spread(bands, distance)[1] > 1e-3


def test_a_single_row_distils_its_low_band_with_the_details_unless_they_are_the_rows_own():
    """67 classes: LH is LL, HH is HL; shifting pairs of neighbours moves LH, and HL not."""
    s, t = draw(67, 1), draw(67, 2)
    shifted = s + torch.arange(67).div(2, rounding_mode="floor") * (torch.arange(67) < 66)
    values = {band: wavelet_distance(s, t, (band,)).item() for band in BANDS}
    assert values["LH"] == pytest.approx(values["LL"], rel=1e-12)
    assert values["HH"] == pytest.approx(values["HL"], rel=1e-12)
    assert wavelet_distance(shifted, t, ("HL",)).item() == pytest.approx(values["HL"], rel=1e-12)
    assert wavelet_distance(shifted, t, ("LH",)).item() > 2 * values["LH"]


def test_the_random_order_is_fixed_by_its_seed_and_the_same_for_both_networks():
    orders = [order_classes(100, seed) for seed in (0, 0, 1)]
    assert np.array_equal(*orders[:2]) and not np.array_equal(*orders[1:])
    assert sorted(orders[2]) == [*range(100)]
    method = build(100, order="random", order_seed=1, distance="l2")
    s, t = draw(100, 1), draw(100, 2)
    place = torch.from_numpy(orders[2])
    assert (
        method.compare(s, t).item()
        == wavelet_distance(s[:, place], t[:, place], distance="l2").item()
    )
    assert method.compare(s, s).item() == 0
    assert "order" not in method.state_dict()


def test_without_details_the_base_is_left():
    for base in ("mlkd", "mlkd_released"):
        kind = METHODS[base]
        plain = kind(Sizes(Side(12), Side(12), 12), kind.Options())
        wanted = run(plain, 12)
        found = run(build(12, base=base, beta=0.0), 12)
        assert found.pop("details") == 0 and found == wanted
        halved = run(build(12, base=base, alpha=0.5), 12)
        assert all(halved[term] == pytest.approx(wanted[term] / 2) for term in wanted)
    alone = run(build(12, beta=0.0, alpha=0.5), 12)
    labels = np.arange(N)
    assert alone["task"] == pytest.approx(0.5 * oracles.cross_entropy(draw(12, 1).numpy(), labels))


def test_the_base_mlkd_is_the_sum_of_the_two_methods():
    sizes = Sizes(Side(12), Side(12), 12)
    added = run(build_method("mlkd+2*figkd", {}, sizes), 12)
    found = run(build(12, base="mlkd", beta=2.0), 12)
    assert {name.split(".")[-1]: value for name, value in added.items()} == pytest.approx(found)


@pytest.mark.parametrize(
    "options, views, terms",
    [
        ({}, 1, {"task", "details"}),
        ({"two_view": True}, 2, {"task", "details", "task_strong", "details_strong"}),
        ({"base": "mlkd"}, 2, {"task", "details", "task_strong", "kd", "class", "batch"}),
    ],
    ids=["ce", "two views", "mlkd"],
)
def test_the_options_say_whether_there_is_a_second_view(options, views, terms):
    method = build(12, **options)
    assert method.views == views and run(method, 12).keys() == terms
    options = {f"figkd_{name}": value for name, value in options.items()}
    assert build_method("kd+figkd", options, Sizes(Side(12), Side(12), 12)).views == views


@pytest.mark.parametrize("mode", ["zero", "symmetric"])
@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_every_choice_stays_on_its_device(wavelet, mode, monkeypatch):
    """On "meta", where a value that is read or a tensor of another device is refused."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # meta has none
    options = {"order": "random", "base": "mlkd", "two_view": True, "wavelet": wavelet}
    method = build(40, **options, mode=mode).float().to("meta")
    outputs = []
    for _ in range(2):
        z = [torch.randn(N, 40, device="meta", requires_grad=True) for _ in range(2)]
        outputs.append(ModelOutput(z[0], None, second=ModelOutput(z[1], None)))
    labels = torch.zeros(N, dtype=torch.int64, device="meta")
    loss = torch.stack(list(method(*outputs, Batch(labels)).values())).sum()
    assert loss.device.type == "meta" and loss.dtype == torch.float32
    loss.backward()


@pytest.mark.parametrize("order", [None, order_classes(100, 1)], ids=["label", "random"])
@pytest.mark.parametrize("wavelet, mode", [("haar", "zero"), ("db2", "symmetric")])
def test_the_two_parts_of_logits_add_up_and_each_has_its_bands_alone(wavelet, mode, order):
    z = draw(100, 1)
    low, high = split_logits(z, wavelet, 1, mode, order)
    torch.testing.assert_close(low + high, z, rtol=0, atol=1e-13)
    place = torch.arange(100) if order is None else torch.from_numpy(order)
    for row in range(N):
        whole, *parts = (
            oracles.wavelet_bands(x[row, place].numpy(), wavelet, 1, mode) for x in (z, low, high)
        )
        if mode == "zero":  # and even sides: orthonormal
            for part, kept in zip(parts, (("LL",), BANDS[1:]), strict=True):
                for band in BANDS:
                    wanted = whole[band][0] * (band in kept)
                    np.testing.assert_allclose(part[band][0], wanted, atol=1e-12)
    half = split_logits(z.bfloat16(), wavelet, 1, mode, order)
    assert half[0].dtype == half[1].dtype == torch.float32


def test_a_peak_on_noise_stays_the_highest_in_the_high_part_by_construction():
    """So that the high part alone picks a class is no sign of what the logits mean."""
    z = draw(100, 3, 200) / 2
    peak = torch.arange(200) % 100
    z[torch.arange(200), peak] += 8
    low, high = split_logits(z)
    assert (high.argmax(dim=1) == peak).all()
    blocks = as_logit_grid(z).reshape(200, 5, 2, 5, 2).mean(dim=(2, 4), keepdim=True)
    wanted = blocks.expand(200, 5, 2, 5, 2).reshape(200, 100)
    torch.testing.assert_close(low, wanted)
    ties = (low == low.gather(1, peak[:, None])).sum(dim=1)
    assert (ties >= 4).all()


def test_every_record_names_each_choice_and_the_source_says_that_it_is_reconstructed():
    kind = METHODS["figkd"]
    assert "reconstruct" in kind.summary and "reconstruct" in kind.source
    names = {field.name for field in dataclasses.fields(kind.Options)}
    assert names >= {"wavelet", "levels", "mode", "bands", "distance", "alpha", "beta", "base"}
    from fdlab.studies.hyperparameters import read_settings

    rows = [row for row in read_settings() if row.method == "figkd" and row.option != "order_seed"]
    assert all(row.source.startswith("reconstruction") for row in rows) and len(rows) > 8

"""Every method against an independent float64 transcription, and the laws of FD-CMKD's parts."""

from __future__ import annotations

from functools import partial

import numpy as np
import oracles
import pytest
import torch

from fdlab.methods import METHODS
from fdlab.methods.base import Sizes, build_method
from fdlab.models.output import ModelOutput
from fdlab.spectral.bands import split_bands

N, K = 5, 4
OFF = {"frequency": False, "align": False, "scale": False, "log": False}
FULL = {
    *("task", "task_low", "task_high", "align_low", "align_high"),
    *("align_low_teacher", "align_high_teacher", "low", "high"),
}


def build(name: str, options: dict | None = None, width: int = 12):
    torch.manual_seed(11)
    return build_method(name, options or {}, Sizes(width, width, K))


def draw(seed: int, width: int = 12, n: int = N, grad: bool = False) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, K, generator=generator)
    feature = torch.randn(n, width, generator=generator) + 0.5
    return ModelOutput(logits.requires_grad_(grad), feature.requires_grad_(grad))


def labels(n: int = N) -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 1, 0, 2, 3])[:n]


def run(method, width: int = 12) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Terms, and the gradient of their sum with respect to the student's logits and feature."""
    student = draw(1, width, grad=True)
    terms = method(student, draw(2, width), labels())
    pair = (student.logits, student.feature)
    gradients = torch.autograd.grad(sum(terms.values()), pair, materialize_grads=True)
    return {name: term.item() for name, term in terms.items()}, list(gradients)


TRANSCRIBED = {
    "none": oracles.none_terms,
    "kd": oracles.kd_terms,
    "feat": oracles.feat_terms,
    "fdcmkd": oracles.fdcmkd_terms,
    "fdcmkd_soft": partial(oracles.fdcmkd_terms, soft=True),
    "heads_only": partial(oracles.fdcmkd_terms, with_teacher=False),
}
CASES = [
    ("none", {}, 12),
    ("kd", {}, 12),
    ("kd", {"task_weight": 0.5, "weight": 2.0, "temperature": 1.5}, 12),
    ("feat", {}, 12),
    ("feat", {"weight": 3.0, "reduction": "sum"}, 13),
    ("fdcmkd", {}, 12),
    ("fdcmkd", {}, 13),
    ("fdcmkd", {"cutoff": 0.25, "dc": "low", "reduction": "sum", "high_weight": 3.0}, 12),
    ("fdcmkd", {"dc": "own", "low_weight": 5.0, "log": False}, 16),
    ("fdcmkd", {"scale": False}, 12),
    ("fdcmkd", {"align": False}, 12),
    ("fdcmkd", {"frequency": False, "low_weight": 2.0, "high_weight": 7.0}, 12),
    ("fdcmkd", OFF, 12),
    ("fdcmkd", {"log_low": True}, 12),
    ("fdcmkd", {"log_low": True, "log": False}, 12),
    ("fdcmkd", {"bands": "low"}, 12),
    ("fdcmkd", {"bands": "high", "align": False}, 12),
    ("fdcmkd", {"basis": "dct", "cutoff": 0.34}, 12),
    ("fdcmkd_soft", {}, 12),
    ("fdcmkd_soft", {"groups": 2, "cutoff": 0.3, "softness": 0.2, "log": False}, 16),
    ("fdcmkd_soft", {"bands": "low", "softness": 0.1}, 13),
    ("heads_only", {}, 12),
    ("heads_only", {"align": False, "dc": "low"}, 12),
    ("heads_only", {"frequency": False}, 12),
    ("heads_only", {"bands": "low", "basis": "dct"}, 12),
]


def test_every_method_is_transcribed():
    assert set(TRANSCRIBED) == set(METHODS) == {name for name, *_ in CASES}


@pytest.mark.parametrize("name, options, width", CASES)
def test_terms_and_gradients_equal_the_transcription(name, options, width):
    method = build(name, options, width)
    heads = {
        (kind, band): (head.weight.detach().double().numpy(), head.bias.detach().double().numpy())
        for kind in ("task", "align")
        for band, head in getattr(method, f"{kind}_heads", {}).items()
    }
    student, teacher, y = draw(1, width, grad=True), draw(2, width), labels()
    z_s, x_s, z_t, x_t = (
        tensor.detach().double().numpy()
        for output in (student, teacher)
        for tensor in (output.logits, output.feature)
    )

    def expect(z, x):
        return TRANSCRIBED[name](options, heads, z, x, z_t, x_t, y.numpy())

    terms = method(student, teacher, y)
    assert set(terms) == set(expect(z_s, x_s))
    for term, value in terms.items():
        assert value.ndim == 0
        assert value.item() == pytest.approx(expect(z_s, x_s)[term], rel=1e-5)
        if not value.requires_grad:
            by_logits, by_feature = torch.zeros_like(student.logits), torch.zeros(N, width)
        else:
            pair = (student.logits, student.feature)
            by_logits, by_feature = torch.autograd.grad(
                value, pair, retain_graph=True, materialize_grads=True
            )
        wanted = (
            oracles.differentiate(lambda z, term=term: expect(z, x_s)[term], z_s),
            oracles.differentiate(lambda x, term=term: expect(z_s, x)[term], x_s),
        )
        for found, gradient in zip((by_logits, by_feature), wanted, strict=True):
            error = np.linalg.norm(found.double().numpy() - gradient)
            assert error <= 1e-5 * np.linalg.norm(gradient), term


def test_a_soft_edge_that_is_sharp_is_fdcmkd():
    """One group, hardly any softness: the hard split, with no gradient left for the edge."""
    torch.manual_seed(3)
    hard = build_method("fdcmkd", {}, Sizes(16, 16, K))
    torch.manual_seed(3)
    soft = build_method("fdcmkd_soft", {"softness": 1e-4}, Sizes(16, 16, K))
    one, two = (method(draw(1, 16), draw(2, 16), labels()) for method in (hard, soft))
    assert one.keys() == two.keys()
    for term in one:
        assert two[term].item() == pytest.approx(one[term].item(), rel=1e-5)


def test_the_edge_moves_to_where_the_two_networks_agree():
    """Equal below a quarter of the bins and unrelated above: the distance terms pull the edge."""
    torch.manual_seed(4)
    shared, mine, theirs = (torch.randn(64, 64) for _ in range(3))
    quarter = 0.25

    def join(private):
        return split_bands(shared, quarter).low * 4 + split_bands(private, quarter).high

    student, teacher = (ModelOutput(torch.zeros(64, K), join(x)) for x in (mine, theirs))
    method = build_method(
        "fdcmkd_soft", {"align": False, "reduction": "sum", "cutoff": 0.6}, Sizes(64, 64, K)
    )
    optimiser = torch.optim.SGD([method.edge], lr=0.3)
    for _ in range(200):
        optimiser.zero_grad()
        method(student, teacher, torch.arange(64) % K)["low"].backward()
        optimiser.step()
    assert method.edges.item() < 0.4


def test_a_group_has_an_edge_of_its_own():
    method = build_method("fdcmkd_soft", {"groups": 4}, Sizes(32, 32, K))
    assert method.edges.tolist() == pytest.approx([0.5] * 4)
    terms = method(draw(1, 32), draw(2, 32), labels())
    (gradient,) = torch.autograd.grad(sum(terms.values()), [method.edge])
    assert gradient.shape == (4,) and bool((gradient != 0).all())


def test_fdcmkd_with_every_part_off_is_feat():
    assert not list(build("fdcmkd", OFF).parameters())
    for extra in ({}, {"reduction": "sum"}):
        (off, off_gradients), (feat, gradients) = (
            run(build("fdcmkd", OFF | extra)),
            run(build("feat", extra)),
        )
        assert off == feat
        assert all(map(torch.equal, off_gradients, gradients))


@pytest.mark.parametrize(
    "options, changed, gone",
    [
        ({"log": False}, {"high"}, set()),
        ({"scale": False}, {"low", "high"}, set()),
        ({"align": False}, set(), {term for term in FULL if term.startswith("align")}),
        ({"low_weight": 3.0}, {"low"}, set()),
        ({"high_weight": 3.0}, {"high"}, set()),
        ({"reduction": "sum"}, {"low", "high"}, set()),
        ({"dc": "own"}, set(), set()),
        ({"dc": "low"}, {"low", "task_low", "align_low", "align_low_teacher"}, set()),
        ({"cutoff": 0.25}, FULL - {"task"}, set()),
    ],
)
def test_an_option_changes_its_own_terms_and_no_others(options, changed, gone):
    full, other = run(build("fdcmkd"))[0], run(build("fdcmkd", options))[0]
    assert set(full) == FULL and set(other) == FULL - gone
    assert {term for term in other if other[term] != full[term]} == changed


def test_weights_and_reduction_only_multiply():
    full = run(build("fdcmkd"))[0]
    weighted = run(build("fdcmkd", {"low_weight": 3.0, "high_weight": 0.5}))[0]
    summed = run(build("fdcmkd", {"reduction": "sum"}))[0]
    for band, weight in (("low", 3.0), ("high", 0.5)):
        assert weighted[band] == pytest.approx(weight * full[band], rel=1e-6)
        assert summed[band] == pytest.approx(12 * full[band], rel=1e-5)


def test_without_frequency_the_whole_feature_is_one_band_without_task_heads():
    whole = run(build("fdcmkd", {"frequency": False}))[0]
    assert set(whole) == {"task", "align_whole", "align_whole_teacher", "feature"}
    for options, changed in (
        ({"scale": False}, {"feature"}),
        ({"log": False}, {"feature"}),
        ({"low_weight": 2.0}, {"feature"}),
        ({"high_weight": 2.0, "cutoff": 0.25, "dc": "low"}, set()),
    ):
        other = run(build("fdcmkd", {"frequency": False} | options))[0]
        assert {term for term in whole if other[term] != whole[term]} == changed


@pytest.mark.parametrize("options", [{}, {"align": False}, {"frequency": False}, {"dc": "low"}])
def test_heads_only_is_fdcmkd_without_its_teacher(options):
    heads, full = run(build("heads_only", options))[0], run(build("fdcmkd", options))[0]
    of_teacher = {"low", "high", "feature"} | {term for term in full if "teacher" in term}
    assert heads == {term: full[term] for term in full if term not in of_teacher}


@pytest.mark.parametrize("name", ["none", "heads_only"])
def test_a_method_that_needs_no_teacher_ignores_it(name):
    method = build_method(name, {}, Sizes(12, None, K))
    assert not method.needs
    alone, beside = (method(draw(1), t, labels()) for t in (None, draw(2)))
    assert {k: v.item() for k, v in alone.items()} == {k: v.item() for k, v in beside.items()}


@pytest.mark.parametrize("name", ["kd", "feat", "fdcmkd"])
def test_a_method_reads_only_the_teacher_outputs_that_it_names(name):
    method, student, teacher = build(name), draw(1), draw(2)
    before = {k: v.item() for k, v in method(student, teacher, labels()).items()}
    for output in {"logits", "feature"} - set(method.needs):
        setattr(teacher, output, None)
    assert {k: v.item() for k, v in method(student, teacher, labels()).items()} == before


def test_the_teachers_feature_alone_changes_the_teachers_terms():
    method, full = build("fdcmkd"), run(build("fdcmkd"))[0]
    other = {k: v.item() for k, v in method(draw(1), draw(99), labels()).items()}
    changed = {term for term in full if other[term] != full[term]}
    assert changed == {"low", "high", "align_low_teacher", "align_high_teacher"}


@pytest.mark.parametrize("options", [{}, {"frequency": False}, OFF])
def test_no_gradient_of_fdcmkd_reaches_the_teacher(options):
    method, student, teacher = build("fdcmkd", options), draw(1, grad=True), draw(2, grad=True)
    sum(method(student, teacher, labels()).values()).backward()
    assert teacher.feature.grad is None and teacher.logits.grad is None
    assert student.feature.grad.any() and student.logits.grad.any()


def test_every_head_of_fdcmkd_is_trained_and_the_align_heads_by_the_teacher_too():
    method = build("fdcmkd")
    assert sum(p.numel() for p in method.parameters()) == 4 * (12 * K + K)
    terms = method(draw(1), draw(2), labels())  # outputs without gradient: only heads remain
    sum(terms.values()).backward(retain_graph=True)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    method.zero_grad()
    (terms["align_low_teacher"] + terms["align_high_teacher"]).backward()
    assert all(p.grad.any() for p in method.align_heads.parameters())
    assert all(p.grad is None for p in method.task_heads.parameters())


@pytest.mark.parametrize("name", [*METHODS])
def test_the_order_of_the_batch_does_not_matter(name):
    method, order = build(name), torch.tensor([3, 0, 4, 1, 2])
    student, teacher, y = draw(1), draw(2), labels()
    moved = [ModelOutput(o.logits[order], o.feature[order]) for o in (student, teacher)]
    before, after = method(student, teacher, y), method(*moved, y[order])
    for term in before:
        assert after[term].item() == pytest.approx(before[term].item(), rel=1e-6)


def make_nasty(kind: str) -> tuple[ModelOutput, ModelOutput, torch.Tensor]:
    student, teacher, y = draw(1), draw(2), labels()
    if kind == "batch of one":
        return draw(1, n=1), draw(2, n=1), labels(1)
    if kind == "one class":
        y = torch.zeros_like(y)
    for output in (student, teacher):
        if kind == "constant":
            output.feature = torch.full_like(output.feature, 3.1)
        if kind == "zero":
            output.feature = torch.zeros_like(output.feature)
        if kind == "large":
            output.feature = output.feature * 1e6
        if kind == "extreme logits":
            output.logits = 50 * output.logits.sign()
    return student, teacher, y


@pytest.mark.parametrize("name, options, width", CASES)
@pytest.mark.parametrize(
    "kind", ["batch of one", "one class", "constant", "zero", "large", "extreme logits"]
)
def test_losses_and_gradients_stay_finite(name, options, width, kind):
    method, (student, teacher, y) = build(name, options), make_nasty(kind)
    leaves = [x.requires_grad_() for x in (student.logits, student.feature)]
    terms = method(student, teacher, y)
    assert all(torch.isfinite(term) for term in terms.values())
    loss = sum(terms.values())
    gradients = torch.autograd.grad(loss, [*leaves, *method.parameters()], materialize_grads=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", [*METHODS])
def test_terms_are_float32_and_finite_under_autocast(name):
    method, plain = build(name), run(build(name))[0]
    student, teacher = draw(1), draw(2)
    for output in (student, teacher):
        output.logits, output.feature = output.logits.bfloat16(), output.feature.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(student, teacher, labels())
    for term, value in terms.items():
        assert value.dtype == torch.float32 and torch.isfinite(value)
        assert value.item() == pytest.approx(plain[term], rel=0.05)


def test_predictions_are_named_by_head():
    feature = draw(1).feature.double().numpy()
    for name in METHODS:
        soft = name == "fdcmkd_soft"
        x = oracles.split_softly(feature, 0.5, 0.05) if soft else oracles.split(feature, 3)
        method = build(name)
        found = method.predict(draw(1))
        extra = {"low", "high"} if name in ("fdcmkd", "fdcmkd_soft", "heads_only") else set()
        assert set(found) == {"raw"} | extra
        assert torch.equal(found["raw"], draw(1).logits)
        for band in extra:
            weight, bias = (p.detach().numpy() for p in method.task_heads[band].parameters())
            expected = np.maximum(x[band], 0) @ weight.T + bias
            np.testing.assert_allclose(found[band].detach().numpy(), expected, atol=1e-5)
    assert set(build("fdcmkd", {"frequency": False}).predict(draw(1))) == {"raw"}

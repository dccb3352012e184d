"""Methods that read logits or pooled features against independent float64 transcriptions, and the
laws of FD-CMKD's parts."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import oracles
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.losses.relations import similarity_preserving
from fdlab.losses.targets import ofa
from fdlab.methods import METHODS
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.output import ModelOutput, Side
from fdlab.spectral.bands import split_bands

N, K = 5, 4
OFF = {"frequency": False, "align": False, "scale": False, "log": False}
FULL = {
    *("task", "task_low", "task_high", "align_low", "align_high"),
    *("align_low_teacher", "align_high_teacher", "low", "high"),
}


def build(name: str, options: dict | None = None, width: int = 12, theirs: int | None = None):
    """A method in float64 for a student's width and a teacher's, its own where not given."""
    torch.manual_seed(11)
    sizes = Sizes(Side(width), Side(theirs or width), K)
    return build_method(name, options or {}, sizes).double()


def draw(seed: int, width: int = 12, n: int = N, grad: bool = False) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits, feature, again = 2 * normal(n, K), normal(n, width) + 0.5, 2 * normal(n, K)
    leaves = [x.requires_grad_(grad) for x in (logits, feature, again)]
    return ModelOutput(*leaves[:2], second=ModelOutput(leaves[2], leaves[1]))


def batch(n: int = N, progress: float = 1.0) -> Batch:
    return Batch(torch.tensor([0, 1, 2, 3, 1, 0, 2, 3])[:n], torch.arange(n), progress)


def run(method, width: int = 12) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Terms, and the gradient of their sum with respect to the student's logits and feature."""
    student = draw(1, width, grad=True)
    terms = method(student, draw(2, width), batch())
    pair = (student.logits, student.feature)
    gradients = torch.autograd.grad(sum(terms.values()), pair, materialize_grads=True)
    return {name: term.item() for name, term in terms.items()}, list(gradients)


def find_parameters(method) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in method.named_parameters()}


TRANSCRIBED = {
    "none": oracles.none_terms,
    "heads_only": partial(oracles.fdcmkd_terms, with_teacher=False),
    "kd": oracles.kd_terms,
    "dist": oracles.dist_terms,
    "dml": oracles.dml_terms,
    "dml_released": partial(oracles.dml_terms, released=True),
    "nkd": oracles.nkd_terms,
    "nckd": oracles.nckd_terms,
    "dkd": oracles.dkd_terms,
    "feat": oracles.feat_terms,
    "fdcmkd": oracles.fdcmkd_terms,
    "fdcmkd_soft": partial(oracles.fdcmkd_terms, soft=True),
    "mlkd": oracles.mlkd_terms,
    "mlkd_released": partial(oracles.mlkd_terms, released=True),
    "figkd": oracles.figkd_terms,
    "rkd": oracles.rkd_terms,
    "pkt": oracles.pkt_terms,
}
# name, options, student's width, teacher's width, progress
CASES = [
    ("none", {}, 12, 12, 1.0),
    ("kd", {}, 12, 12, 1.0),
    ("kd", {"task_weight": 0.5, "weight": 2.0, "temperature": 1.5}, 9, 12, 1.0),
    ("dist", {}, 12, 12, 1.0),
    ("dist", {"weight": 3.0, "beta": 0.5, "gamma": 2.0, "temperature": 1.0}, 12, 12, 1.0),
    ("dml", {}, 12, 12, 1.0),
    ("dml", {"weight": 2.5}, 12, 12, 1.0),
    ("dml_released", {"weight": 0.5}, 12, 12, 1.0),
    ("nkd", {}, 12, 12, 1.0),
    ("nkd", {"weight": 2.0, "gamma": 1.5, "temperature": 1.0}, 12, 12, 1.0),
    ("nckd", {}, 12, 12, 1.0),
    ("nckd", {"weight": 3.0, "temperature": 1.5}, 12, 12, 1.0),
    ("dkd", {}, 12, 12, 1.0),
    ("dkd", {}, 12, 12, 1 / 240),
    ("dkd", {"alpha": 2.0, "beta": 0.5, "temperature": 1.0, "warmup": 0.5}, 12, 12, 0.3),
    ("dkd", {"warmup": 0.0}, 12, 12, 0.001),
    ("mlkd", {}, 12, 12, 1.0),
    ("mlkd", {"task_weight": 0.4, "weight": 3.0}, 12, 12, 1.0),
    ("mlkd_released", {}, 12, 12, 1.0),
    ("figkd", {}, 12, 12, 1.0),
    ("figkd", {"alpha": 0.5, "beta": 3.0, "distance": "l2", "bands": "LL+LH"}, 12, 12, 1.0),
    ("figkd", {"wavelet": "db2", "levels": 2, "mode": "symmetric", "bands": "HH"}, 9, 12, 1.0),
    ("figkd", {"two_view": True, "alpha": 0.5, "beta": 3.0}, 12, 12, 1.0),
    ("figkd", {"base": "mlkd", "alpha": 0.5}, 12, 12, 1.0),
    ("figkd", {"base": "mlkd", "two_view": True, "bands": "LL+HL"}, 12, 12, 1.0),
    ("figkd", {"base": "mlkd_released", "beta": 2.0}, 12, 12, 1.0),
    ("rkd", {}, 12, 12, 1.0),
    ("rkd", {"distance_weight": 1.0, "angle_weight": 2.0}, 2, 9, 1.0),
    ("pkt", {}, 12, 12, 1.0),
    ("pkt", {"weight": 2.0}, 3, 9, 1.0),
    ("feat", {}, 12, 12, 1.0),
    ("feat", {"weight": 3.0, "reduction": "sum"}, 13, 13, 1.0),
    ("feat", {"reduction": "sum"}, 10, 13, 1.0),
    ("fdcmkd", {}, 12, 12, 1.0),
    ("fdcmkd", {}, 13, 13, 1.0),
    ("fdcmkd", {}, 16, 13, 1.0),
    ("fdcmkd", {"cutoff": 0.25, "dc": "low", "reduction": "sum", "high_weight": 3.0}, 12, 12, 1.0),
    ("fdcmkd", {"dc": "own", "low_weight": 5.0, "log": False}, 16, 16, 1.0),
    ("fdcmkd", {"scale": False}, 12, 12, 1.0),
    ("fdcmkd", {"align": False}, 12, 12, 1.0),
    ("fdcmkd", {"frequency": False, "low_weight": 2.0, "high_weight": 7.0}, 12, 12, 1.0),
    ("fdcmkd", OFF, 10, 12, 1.0),
    ("fdcmkd", {"log_low": True}, 12, 12, 1.0),
    ("fdcmkd", {"log_low": True, "log": False}, 12, 12, 1.0),
    ("fdcmkd", {"bands": "low"}, 12, 12, 1.0),
    ("fdcmkd", {"bands": "high", "align": False}, 12, 12, 1.0),
    ("fdcmkd", {"basis": "dct", "cutoff": 0.34}, 12, 12, 1.0),
    ("fdcmkd_soft", {}, 12, 12, 1.0),
    ("fdcmkd_soft", {"groups": 2, "cutoff": 0.3, "softness": 0.2, "log": False}, 10, 16, 1.0),
    ("fdcmkd_soft", {"bands": "low", "softness": 0.1}, 13, 13, 1.0),
    ("heads_only", {}, 12, 12, 1.0),
    ("heads_only", {"align": False, "dc": "low"}, 12, 12, 1.0),
    ("heads_only", {"frequency": False}, 12, 16, 1.0),
    ("heads_only", {"bands": "low", "basis": "dct"}, 12, 12, 1.0),
]


def test_every_transcription_is_of_a_method_and_is_compared():
    assert set(TRANSCRIBED) <= set(METHODS)
    assert set(TRANSCRIBED) == {name for name, *_ in CASES}


@pytest.mark.parametrize("name, options, width, theirs, progress", CASES)
def test_terms_and_gradients_equal_the_transcription(name, options, width, theirs, progress):
    """Values, and gradients with respect to both networks' outputs and the method's own parameters.

    No term has a gradient for the teacher but those named so, which have none for the student.
    """
    method = build(name, options, width, theirs)
    student, teacher = draw(1, width, grad=True), draw(2, theirs, grad=True)
    given_now = batch(progress=progress)
    leaves = {
        f"{letter}_{side}": x
        for side, output in (("s", student), ("t", teacher))
        for letter, x in zip(
            "zxv", (output.logits, output.feature, output.second.logits), strict=True
        )
    }
    given = oracles.Given(
        o=options,
        y=given_now.labels.numpy(),
        parameters=find_parameters(method),
        progress=progress,
        **{leaf: x.detach().numpy() for leaf, x in leaves.items()},
    )
    terms, expected = method(student, teacher, given_now), TRANSCRIBED[name](given)
    assert set(terms) == set(expected)
    for term, value in terms.items():
        assert value.ndim == 0 and value.dtype == torch.float64
        assert value.item() == pytest.approx(expected[term], rel=1e-9), term

    def evaluate(**changed) -> np.ndarray:
        found = TRANSCRIBED[name](dataclasses.replace(given, **changed))
        return np.array([found[term] for term in terms])

    wanted = {
        leaf: oracles.differentiate(
            lambda x, leaf=leaf: evaluate(**{leaf: x}), getattr(given, leaf)
        )
        for leaf in leaves
    }
    # Of the parameters, which are many, the derivative along one direction.
    generator = np.random.default_rng(5)
    way = {key: 0.1 * generator.standard_normal(p.shape) for key, p in given.parameters.items()}
    by_parameters = oracles.differentiate(
        lambda t: evaluate(parameters={k: p + t[0] * way[k] for k, p in given.parameters.items()}),
        np.zeros(1),
    )
    for place, (term, value) in enumerate(terms.items()):
        found = find_gradients(value, [*leaves.values(), *method.parameters()])
        for (leaf, _), gradient in zip(leaves.items(), found, strict=False):
            trained = leaf.endswith("_t") == term.startswith("teacher_")
            assert_gradient(gradient, wanted[leaf][place] * trained, f"{term} by {leaf}")
        along = sum(
            (gradient.numpy() * way[key]).sum()
            for key, gradient in zip(way, found[len(leaves) :], strict=True)
        )
        assert along == pytest.approx(by_parameters[place, 0], rel=1e-6, abs=1e-12), term


def find_gradients(value: torch.Tensor, of: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    if not value.requires_grad:
        return tuple(map(torch.zeros_like, of))
    return torch.autograd.grad(value, of, retain_graph=True, materialize_grads=True)


def assert_gradient(found: torch.Tensor, expected: np.ndarray, what: str) -> None:
    error = np.linalg.norm(found.numpy() - expected)
    assert error <= 1e-6 * np.linalg.norm(expected), what


@pytest.mark.parametrize("power, temperature", [(1.0, 1.0), (1.7, 1.0), (2.5, 3.0)])
def test_the_loss_of_ofa_equals_its_transcription(power, temperature):
    compare_losses(
        partial(ofa, labels=batch().labels, power=power, temperature=temperature),
        lambda s, t: oracles.ofa(s, t, batch().labels.numpy(), power, temperature),
        draw(1).logits,
        draw(2).logits,
    )


def test_the_loss_of_sp_equals_its_transcription_for_flattened_maps_of_other_sizes():
    generator = torch.Generator().manual_seed(6)
    maps = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).relu()
        for shape in ((N, 3, 2, 4), (N, 5, 3))
    ]
    compare_losses(similarity_preserving, oracles.sp, *(x.flatten(1) for x in maps))


def compare_losses(loss, oracle, student: torch.Tensor, teacher: torch.Tensor) -> None:
    s, t = student.requires_grad_(), teacher.detach().numpy()
    value = loss(s, teacher)
    assert value.item() == pytest.approx(oracle(s.detach().numpy(), t), rel=1e-9)
    (gradient,) = torch.autograd.grad(value, [s])
    wanted = oracles.differentiate(lambda x: oracle(x, t), s.detach().numpy())
    assert_gradient(gradient, wanted, "student")


# CRD remembers: three batches in a row, its memories between them.

SIDES = ("student", "teacher")
CLASSES = torch.tensor([2, 0, 1, 3, 3, 0, 2, 1, 0, 3, 1, 0, 2])  # of the training samples


def build_crd(**options):
    torch.manual_seed(7)
    sizes = Sizes(Side(6), Side(9), K, CLASSES)
    return build_method("crd", {"units": 5, **options}, sizes).double()


def embed(x: np.ndarray, parameters: dict, side: str) -> np.ndarray:
    weight, bias = (parameters[f"embed_{side}.{part}"] for part in ("weight", "bias"))
    return oracles.unit(x @ weight.T + bias)


@pytest.mark.parametrize("negatives, sampled", [(13, False), (4, True)])
def test_crd_equals_its_transcription_over_three_batches(negatives, sampled):
    """Z is of the first batch; row 3 comes twice, so its entry moves twice, rows 5 and 11 never."""
    options = {"temperature": 0.3, "momentum": 0.7, "weight": 1.5}
    method = build_crd(negatives=negatives, **options)
    assert method.sampled == sampled
    parameters = find_parameters(method)
    memory = {side: getattr(method, f"memory_{side}").numpy().copy() for side in SIDES}
    norms = dict.fromkeys(SIDES)
    for number, rows in enumerate([[3, 0, 7, 9], [1, 12, 3], [2, 4, 6, 8, 10]]):
        student, teacher = (
            draw(20 + 2 * number + place, width, len(rows), grad=True)
            for place, width in enumerate((6, 9))
        )
        x = {"student": student.feature, "teacher": teacher.feature}
        now = Batch(CLASSES[rows], torch.tensor(rows))
        method.generator = torch.Generator().manual_seed(number)
        chosen, _ = method.choose_negatives(now.labels)
        if sampled:
            others = chosen.numpy()
        else:
            assert chosen is None
            others = [np.flatnonzero(CLASSES.numpy() != CLASSES[row].item()) for row in rows]

        def evaluate(features, parameters, norms=norms, rows=rows, others=others):
            """Each network's embedding against the other's memory: the loss, and the two Z."""
            total, found = 0.0, {}
            for side, other in (("student", "teacher"), ("teacher", "student")):
                embedding = embed(features[side], parameters, side)
                loss, found[other] = oracles.crd_direction(
                    embedding, memory[other], norms[other], rows, others, 0.3
                )
                total += loss
            return 1.5 * total, found

        method.generator = torch.Generator().manual_seed(number)
        terms = method(student, teacher, now)
        features = {side: value.detach().numpy() for side, value in x.items()}
        expected, norms = evaluate(features, parameters)
        assert set(terms) == {"task", "contrast"}
        assert terms["contrast"].item() == pytest.approx(expected, rel=1e-9)
        task = oracles.cross_entropy(student.logits.detach().numpy(), now.labels.numpy())
        assert terms["task"].item() == pytest.approx(task, rel=1e-9)
        # From here on Z is a number that the gradient does not see, in the first batch too.
        names = [key for key, _ in method.named_parameters()]
        of = [student.feature, teacher.feature, *method.parameters()]
        by_student, by_teacher, *found = find_gradients(terms["contrast"], of)
        wanted = oracles.differentiate(
            lambda s, norms=norms, run=evaluate, features=features: run(
                features | {"student": s}, parameters, norms
            )[0],
            features["student"],
        )
        assert_gradient(by_student, wanted, "feature")
        assert not by_teacher.any()
        for key, gradient in zip(names, found, strict=True):
            wanted = oracles.differentiate(
                lambda p, key=key, norms=norms, run=evaluate, features=features: run(
                    features, parameters | {key: p}, norms
                )[0],
                parameters[key],
            )
            assert_gradient(gradient, wanted, key)
        method.finish()
        for side in SIDES:
            moved = embed(features[side], parameters, side)
            memory[side] = oracles.crd_memory(memory[side], rows, moved, 0.7)
    for side in SIDES:
        np.testing.assert_allclose(getattr(method, f"memory_{side}"), memory[side], rtol=1e-9)
        assert getattr(method, f"norm_{side}").item() == pytest.approx(norms[side], rel=1e-9)


def test_crd_moves_no_memory_while_evaluating():
    method = build_crd(negatives=13).eval()
    before = {name: x.clone() for name, x in method.named_buffers() if name.startswith("memory")}
    for _ in range(2):
        method(draw(1, 6), draw(2, 9), Batch(CLASSES[:N], torch.arange(N)))
        method.finish()
    assert len(before) == 2
    assert all(torch.equal(getattr(method, name), x) for name, x in before.items())


def test_the_drawn_negatives_of_crd_are_the_other_classes_equally_often():
    """Labels in no order, classes of unequal sizes: uniform over the rows of the other classes."""
    method, count = build_crd(negatives=8), 4000
    torch.manual_seed(3)
    for label in range(K):
        chosen, counted = method.choose_negatives(torch.full((count,), label))
        assert chosen.shape == counted.shape == (count, 8) and counted.all()
        often = torch.bincount(chosen.flatten(), minlength=len(CLASSES)).double()
        others = label != CLASSES
        assert not often[~others].any()
        mean = 8 * count / others.sum()
        # Of about 3,000 each; five standard deviations are 290.
        assert (often[others] - mean).abs().max() < 5 * mean.sqrt()


def test_crd_without_the_training_labels_is_refused():
    with pytest.raises(UserError, match=r"Sizes\.labels is not given"):
        build("crd")


# Sums of methods


def test_a_sum_adds_the_weighted_terms_of_its_parts_and_one_task_term():
    options = {"fdcmkd_low_weight": 3.0, "kd_temperature": 2.0, "kd_weight": 1.0}
    total = build("fdcmkd+0.5*kd", options)
    parts = {
        "fdcmkd": total.methods["fdcmkd"],
        "kd": build("kd", {"temperature": 2.0, "weight": 1.0}),
    }
    assert total.methods["fdcmkd"].options == build("fdcmkd", {"low_weight": 3.0}).options
    student, teacher = draw(1), draw(2)
    found = total(student, teacher, batch())
    terms = {part: method(student, teacher, batch()) for part, method in parts.items()}
    expected = {"task": terms["fdcmkd"].pop("task")}  # the weight 1 of the first part, not 0.1
    expected |= {f"fdcmkd.{name}": value for name, value in terms["fdcmkd"].items()}
    expected["kd.kd"] = 0.5 * terms["kd"]["kd"]
    assert set(found) == set(expected) and len(found) == len(FULL) + 1
    for name, value in expected.items():
        assert found[name].item() == value.item(), name
    assert found["task"].item() == pytest.approx(
        oracles.cross_entropy(student.logits.numpy(), batch().labels.numpy()), rel=1e-9
    )
    turned = build("kd+fdcmkd")(student, teacher, batch())["task"]
    assert turned.item() == pytest.approx(0.1 * found["task"].item(), rel=1e-12)


def test_a_sum_has_the_heads_parameters_and_claims_of_its_parts():
    kind, total = METHODS["fdcmkd+0.5*kd"], build("fdcmkd+0.5*kd")
    assert kind is METHODS["fdcmkd+0.5*kd"] and "fdcmkd+0.5*kd" in METHODS
    assert kind.name == "fdcmkd+0.5*kd"
    assert kind.needs == ("feature", "logits")
    assert kind.compares == ("fdcmkd.low", "fdcmkd.high", "fdcmkd.feature", "kd.kd")
    assert kind.strength == ("fdcmkd_low_weight", "fdcmkd_high_weight", "kd_weight")
    count = sum(p.numel() for p in total.parameters())
    assert count == sum(p.numel() for p in build("fdcmkd").parameters()) == 4 * (12 * K + K)
    heads, own = total.predict(draw(1)), total.methods["fdcmkd"].predict(draw(1))
    assert set(heads) == {"raw", "fdcmkd.low", "fdcmkd.high"}
    assert all(torch.equal(heads[f"fdcmkd.{band}"], own[band]) for band in ("low", "high"))
    assert METHODS["mlkd+feat"].views == 2 and kind.views == 1
    assert METHODS["dml+none"].teaching == METHODS["dml"].teaching != kind.teaching


@pytest.mark.parametrize(
    "name, message",
    [
        ("kd+kd", "names a method twice"),
        ("2*kd+0.5*kd", "names a method twice"),
        ("dml+kd", "different things of one teacher"),
        ("fdcmkd+0.5*kdd", "did you mean 'kd'"),
        ("fdcmkd+half*kd", "'half\\*kd'.*is no part of a sum"),
        ("fdcmkd+-1*kd", "is no part of a sum"),
        ("fdcmkd+inf*kd", "is no part of a sum"),
        ("fdcmkd+", "is no part of a sum"),
        ("0.5*", "is no part of a sum"),
    ],
)
def test_a_sum_that_is_none_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        build(name)


def test_a_sum_names_its_options_by_part():
    with pytest.raises(UserError, match="did you mean 'kd_weight'"):
        build("fdcmkd+0.5*kd", {"weight": 1.0})
    with pytest.raises(UserError, match="temperature is 0"):
        build("fdcmkd+0.5*kd", {"kd_temperature": 0.0})


# Laws of FD-CMKD


def test_a_soft_edge_that_is_sharp_is_fdcmkd():
    """One group, hardly any softness: the hard split, with no gradient left for the edge."""
    hard, soft = build("fdcmkd", {}, 16), build("fdcmkd_soft", {"softness": 1e-4}, 16)
    one, two = (method(draw(1, 16), draw(2, 16), batch()) for method in (hard, soft))
    assert one.keys() == two.keys()
    for term in one:
        assert two[term].item() == pytest.approx(one[term].item(), rel=1e-12)


def test_the_edge_moves_to_where_the_two_networks_agree():
    """Equal below a quarter of the bins and unrelated above: the distance terms pull the edge."""
    torch.manual_seed(4)
    shared, mine, theirs = (torch.randn(64, 64, dtype=torch.float64) for _ in range(3))
    quarter = 0.25

    def join(private):
        return split_bands(shared, quarter).low * 4 + split_bands(private, quarter).high

    student, teacher = (ModelOutput(torch.zeros(64, K).double(), join(x)) for x in (mine, theirs))
    method = build("fdcmkd_soft", {"align": False, "reduction": "sum", "cutoff": 0.6}, 64)
    optimiser = torch.optim.SGD([method.edge], lr=0.3)
    for _ in range(200):
        optimiser.zero_grad()
        method(student, teacher, Batch(torch.arange(64) % K))["low"].backward()
        optimiser.step()
    assert method.edges.item() < 0.4


def test_a_group_has_an_edge_of_its_own():
    method = build("fdcmkd_soft", {"groups": 4, "cutoff": 0.3}, 32)
    assert method.edges.tolist() == pytest.approx([0.3] * 4)
    terms = method(draw(1, 32), draw(2, 32), batch())
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
        assert weighted[band] == pytest.approx(weight * full[band], rel=1e-12)
        assert summed[band] == pytest.approx(12 * full[band], rel=1e-12)


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
    method = build_method(name, {}, Sizes(Side(12), None, K)).double()
    assert not method.needs
    alone, beside = (method(draw(1), t, batch()) for t in (None, draw(2)))
    assert {k: v.item() for k, v in alone.items()} == {k: v.item() for k, v in beside.items()}


def test_the_teachers_feature_alone_changes_the_teachers_terms():
    method, full = build("fdcmkd"), run(build("fdcmkd"))[0]
    other = {k: v.item() for k, v in method(draw(1), draw(99), batch()).items()}
    changed = {term for term in full if other[term] != full[term]}
    assert changed == {"low", "high", "align_low_teacher", "align_high_teacher"}


def test_every_head_of_fdcmkd_is_trained_and_the_align_heads_by_the_teacher_too():
    method = build("fdcmkd")
    assert sum(p.numel() for p in method.parameters()) == 4 * (12 * K + K)
    terms = method(draw(1), draw(2), batch())  # outputs without gradient: only heads remain
    sum(terms.values()).backward(retain_graph=True)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    method.zero_grad(set_to_none=False)
    (terms["align_low_teacher"] + terms["align_high_teacher"]).backward()
    assert all(p.grad.any() for p in method.align_heads.parameters())
    assert not any(p.grad.any() for p in method.task_heads.parameters())


@pytest.mark.parametrize("name", ["fdcmkd", "fdcmkd_soft", "heads_only"])
@pytest.mark.parametrize("width", [12, 9])
def test_the_band_heads_predict_from_the_bands_at_the_teachers_width(name, width):
    method, student = build(name, {}, width, 12), draw(1, width)
    x = student.feature.numpy()
    if width != 12:
        weight, bias = (p.detach().numpy() for p in method.projector.parameters())
        x = x @ weight.T + bias
    bands = oracles.split_softly(x, 0.5, 0.05) if "soft" in name else oracles.split(x, 3)
    found = method.predict(student)
    assert set(found) == {"raw", "low", "high"} and torch.equal(found["raw"], student.logits)
    for band in ("low", "high"):
        weight, bias = (p.detach().numpy() for p in method.task_heads[band].parameters())
        expected = np.maximum(bands[band], 0) @ weight.T + bias
        np.testing.assert_allclose(found[band].detach().numpy(), expected, atol=1e-12)


def test_without_band_heads_the_raw_head_alone_predicts():
    assert set(build("fdcmkd", {"frequency": False}).predict(draw(1))) == {"raw"}
    assert set(build("kd").predict(draw(1))) == {"raw"}

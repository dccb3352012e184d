"""Laws that every method keeps which is defined for segmentation; see test_method_laws."""

from __future__ import annotations

import copy
from dataclasses import replace

import dense
import pytest
import torch
from dense import PAIRS, K, N, draw, draw_targets, fold_pair, make_sizes

from fdlab.core.errors import UserError
from fdlab.data.dataset import IGNORED, SCORED
from fdlab.methods import METHODS
from fdlab.methods.base import FRESH, TUNED, Batch, build_method
from fdlab.models.output import MAPS, ModelOutput

DENSE = [name for name, kind in METHODS.items() if "segmentation" in kind.tasks]
NAMES = [*DENSE, "cirkd+fdcmkd", "mmanet+0.5*pkd"]
BOTH = [name for name in DENSE if "classification" in METHODS[name].tasks]
# The two halves of the batch change places, and images inside one: MMANet compares halves.
ORDER = torch.tensor([3, 2, 0, 1])


def build(name: str, pair: tuple[str, str] = PAIRS[0]):
    torch.manual_seed(11)
    return build_method(name, {}, make_sizes(*pair), "segmentation").train()


def list_tensors(output: ModelOutput) -> list[torch.Tensor]:
    return [output.logits, *output.maps.values(), *output.blocks.values()]


def require_grad(output: ModelOutput) -> list[torch.Tensor]:
    return [x.requires_grad_() for x in list_tensors(output)]


def run(method, student: ModelOutput, teacher: ModelOutput, targets: torch.Tensor):
    return method(*fold_pair(student, teacher, targets, method.sizes))


def is_trained(name: str) -> bool:
    return METHODS[name].teaching in (TUNED, FRESH)


def test_the_issues_methods_are_defined_for_segmentation_and_others_are_refused():
    asked = {"none", "kd", "dist", "dkd", "feat", "pkd", "afd", "c2kd", "fdcmkd"}
    assert asked | {"mmanet", "cirkd", "heads_only"} <= set(DENSE)
    assert METHODS["cirkd+fdcmkd"].tasks == ("segmentation",)
    assert METHODS["fdcmkd+kd"].tasks == SCORED and METHODS["fdcmkd+at"].tasks == SCORED[:1]
    sizes = make_sizes(*PAIRS[0])
    for name, task in (("at", "segmentation"), ("cirkd", "classification")):
        with pytest.raises(UserError, match=f"{name} is not defined for {task}"):
            build_method(name, {}, sizes, task)
    with pytest.raises(UserError, match=r"no task has in common.*at: classification"):
        METHODS["cirkd+at"]


def test_positions_correspond_in_segmentation_so_pkd_keeps_them_in_a_sum_too():
    sizes = make_sizes(*PAIRS[0])
    for name, option in (("pkd", "compare"), ("kd+pkd", "pkd_compare")):
        found = [getattr(build_method(name, {}, sizes, task).options, option) for task in SCORED]
        assert found == ["pooled", "resized"]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_terms_are_scalars_that_reach_student_and_modules_and_nothing_else(name, pair):
    method = build(name, pair)
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    require_grad(student), require_grad(teacher)
    terms = run(method, student, teacher, draw_targets())
    assert "task" in terms and (
        not METHODS[name].compares or set(METHODS[name].compares) & {*terms}
    )
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert student.logits.grad.any()
    reached = [x for x in list_tensors(teacher) if x.grad is not None and x.grad.any()]
    assert bool(reached) == is_trained(name)
    for parameter, value in method.named_parameters():
        assert value.grad is not None, f"{parameter} is in no term"


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].compares])
def test_every_distance_moves_the_student(name):
    method, pair = build(name), PAIRS[0]
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    leaves = require_grad(student)
    terms = run(method, student, teacher, draw_targets())
    for term in set(METHODS[name].compares) & {*terms} - {"teacher_non_target"}:
        found = torch.autograd.grad(terms[term], leaves, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 1e-9 for g in found), term


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_says_of_an_ignored_pixel_changes_nothing(name):
    method, targets = build(name), draw_targets()
    ignored = (targets == IGNORED)[:, None].expand(N, K, *targets.shape[1:])
    assert 0 < ignored.float().mean() < 0.5
    found = []
    for value in (None, 40.0, -1e6):
        student, teacher = draw(PAIRS[0][0], 1), draw(PAIRS[0][1], 2)
        if value is not None:
            for output in (student, teacher):
                output.logits = output.logits.masked_fill(ignored, value)
        leaves = require_grad(student)
        terms = run(copy.deepcopy(method), student, teacher, targets)
        gradients = torch.autograd.grad(sum(terms.values()), leaves, materialize_grads=True)
        assert not gradients[0][ignored].any() and gradients[0][~ignored].any()
        found.append([*terms.values(), *gradients])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("name", BOTH)
def test_an_image_of_one_pixel_is_a_sample_of_classification(name):
    """Maps of one position too: every term, and its gradient, is the classification's, where the
    paper has the same parts in both (it leaves FD-CMKD's alignment out of segmentation)."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 3, 1, 4])
    shapes = {"layer1": (5, 1, 1), "layer2": (6, 1, 1), "layer3": (8, 1, 1)}
    sides, outputs = [], []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        maps = {n: torch.randn(N, *s, generator=generator) + 0.3 for n, s in shapes.items()}
        blocks = {f"{n}.0": x.clone() for n, x in maps.items()}
        logits = 2 * torch.randn(N, K, generator=generator)
        sides.append(replace(dense.make_side("alike"), width=8, maps=shapes,
                             blocks={f"{n}.0": s for n, s in shapes.items()}))  # fmt: skip
        outputs.append(ModelOutput(logits, maps["layer3"].flatten(1), maps, blocks))
    sizes = replace(make_sizes("alike", "alike"), student=sides[0], teacher=sides[1])
    found = []
    for task in SCORED:
        torch.manual_seed(11)
        same = {"align": False} if "align" in METHODS[name].Options.__dataclass_fields__ else {}
        method = build_method(name, same, sizes, task)
        student, teacher = (output.apply(torch.clone) for output in outputs)
        require_grad(student)
        student.feature = student.maps["layer3"].flatten(1)
        if task == "segmentation":
            for output in (student, teacher):
                output.logits = output.logits[:, :, None, None]
            terms = run(method, student, teacher, labels[:, None, None])
        else:
            terms = method(student, teacher, Batch(labels, None, 0.5))
        gradients = torch.autograd.grad(
            sum(terms.values()), [*student.maps.values()], materialize_grads=True
        )
        found.append(({n: x.item() for n, x in terms.items()}, gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-7)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_only_the_teacher_outputs_that_it_names(name):
    method, needs = build(name), METHODS[name].needs
    student, teacher = draw(PAIRS[0][0], 1), draw(PAIRS[0][1], 2)
    mine, theirs, given = fold_pair(student, teacher, draw_targets(), method.sizes)
    expected = copy.deepcopy(method)(mine, theirs, given)
    kept = theirs.keep(method.teacher_maps)
    for output in {"logits", "feature"} - set(needs):
        kept = replace(kept, **{output: None})
    found = method(mine, kept if needs else None, given)
    assert set(needs) <= {"logits", "feature", *MAPS}
    assert {n: x.item() for n, x in found.items()} == {n: x.item() for n, x in expected.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_images_does_not_matter(name):
    method, targets = build(name), draw_targets()
    student, teacher = draw(PAIRS[0][0], 1), draw(PAIRS[0][1], 2)
    before = run(copy.deepcopy(method), student, teacher, targets)
    moved = (output.apply(lambda x: x[ORDER]) for output in (student, teacher))
    after = run(method, *moved, targets[ORDER])
    for term in before:
        assert after[term].item() == pytest.approx(before[term].item(), rel=2e-5, abs=1e-6), term


def make_nasty(kind: str, pair: tuple[str, str]):
    """Inputs of (student, teacher, targets) at an edge."""
    count = 1 if kind == "one image" else N
    outputs = draw(pair[0], 1, count), draw(pair[1], 2, count)
    targets = draw_targets(n=count)
    if kind == "one class":
        targets = torch.where(targets == IGNORED, IGNORED, 2)
    if kind == "an image without classes":
        targets[1] = IGNORED
    if kind == "one pixel with a class":
        targets[:] = IGNORED
        targets[0, 3, 3] = 1
    change = {
        "constant maps": lambda x: torch.full_like(x, 3.1),
        "negative maps": lambda x: torch.full_like(x, -2.0),
        "zero maps": torch.zeros_like,
        "large maps": lambda x: 1e6 * x,
        "small maps": lambda x: 1e-12 * x,
        "the same images": lambda x: x[:1].expand_as(x).clone(),
    }.get(kind)
    for output in outputs:
        if kind == "logits of 50":
            output.logits = 50 * output.logits.sign()
        elif change is not None:
            output.maps = {n: change(x) for n, x in output.maps.items()}
            output.blocks = {n: change(x) for n, x in output.blocks.items()}
    return *outputs, targets


NASTY = [
    *("one image", "one class", "an image without classes", "one pixel with a class"),
    *("constant maps", "negative maps", "zero maps", "large maps", "small maps"),
    *("the same images", "logits of 50"),
]


@pytest.mark.parametrize("pair", PAIRS[:2], ids="-".join)
@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_stay_finite(name, kind, pair):
    method = build(name, pair)
    student, teacher, targets = make_nasty(kind, pair)
    leaves = require_grad(student) + (require_grad(teacher) if is_trained(name) else [])
    for _ in range(2):  # memories are empty in the first batch
        terms = run(method, student, teacher, targets)
        assert all(torch.isfinite(term) for term in terms.values()), terms
        wanted = [*leaves, *method.parameters()]
        gradients = torch.autograd.grad(sum(terms.values()), wanted, materialize_grads=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("pair", PAIRS[:2], ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_under_autocast_and_near_those_without(name, pair):
    method, targets = build(name, pair), draw_targets()
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    plain = run(copy.deepcopy(method), student, teacher, targets)
    halved = [output.apply(lambda x: x.bfloat16()) for output in (student, teacher)]
    leaves = require_grad(halved[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = run(method, *halved, targets)
    for term, value in terms.items():
        assert value.dtype == torch.float32 and torch.isfinite(value), term
        assert value.item() == pytest.approx(plain[term].item(), rel=0.15, abs=0.02), term
    gradients = torch.autograd.grad(sum(terms.values()), leaves, materialize_grads=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns_on_a_fixed_batch(name):
    method, targets = build(name), draw_targets()
    student, teacher = draw(PAIRS[0][0], 1), draw(PAIRS[0][1], 2)
    leaves = [*require_grad(student), *method.parameters()]
    leaves += require_grad(teacher) if is_trained(name) else []
    optimiser = torch.optim.Adam(leaves, lr=0.01)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = sum(run(method, student, teacher, targets).values())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("name", NAMES)
def test_heads_score_positions_and_the_raw_head_is_the_networks(name):
    method = build(name).eval()
    student, teacher = draw(PAIRS[0][0], 1), draw(PAIRS[0][1], 2)
    mine, _, given = fold_pair(student, teacher, draw_targets(), method.sizes)
    heads = method.predict(mine)
    assert torch.equal(heads.pop("raw"), mine.logits)
    for scores in heads.values():
        assert given.pixels.enlarge(given.pixels.unfold(scores)).shape == student.logits.shape

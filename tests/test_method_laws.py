"""Laws that every method in the table keeps, a reader's own among them, whatever it computes."""

from __future__ import annotations

import copy
import sys
import textwrap
import types
from dataclasses import replace

import pytest
import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.methods.base import DRIFTING, FRESH, FROZEN, TUNED, Batch, Sizes, build_method
from fdlab.models.output import MAPS, ModelOutput, Side

N, K, SAMPLES = 6, 4, 40
SUMS = ["fdcmkd+0.5*at", "heads_only+kd"]
TASK = "classification"  # of segmentation, see test_dense_laws
NAMES = [*(name for name, kind in METHODS.items() if TASK in kind.tasks), *SUMS]
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])
ORDER = torch.tensor([3, 0, 5, 4, 1, 2])
# Two networks of different widths, depths and map sizes, one with blocks; and a sentence's.
SCENES = {
    "small": ({"layer1": (8, 8, 8), "layer2": (10, 4, 4), "layer3": (12, 2, 2)}, 12),
    "large": ({"stem": (6, 9, 7), "layer1": (9, 5, 4), "layer2": (14, 3, 2)}, 14),
    "words": ({"layer1": (12, 7), "layer2": (12, 7)}, 12),
}
PAIRS = [("small", "small"), ("small", "large"), ("large", "words"), ("words", "small")]


class Head(nn.Module):
    """What a method may ask of a network: a classifier and the norm before each map."""

    def __init__(self, maps: dict, width: int):
        super().__init__()
        self.fc = nn.Linear(width, K)
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(s[0]) for name, s in maps.items()})


def make_side(scene: str) -> Side:
    maps, width = SCENES[scene]
    torch.manual_seed(5)
    parts = Head(maps, width)
    blocks = {f"{n}.{i}": s for n, s in maps.items() if n != "stem" for i in (0, 1)}
    blocks = blocks if scene == "small" else {}
    return Side(width, dict(maps), blocks, parts.fc, dict(parts.norms.items()))


def make_sizes(student: str, teacher: str | None) -> Sizes:
    labels = torch.arange(SAMPLES) % K
    return Sizes(make_side(student), teacher and make_side(teacher), K, labels)


def draw(scene: str, seed: int, n: int = N, views: int = 2) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)
    maps, width = SCENES[scene]

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, generator=generator) + 0.3

    mask = None
    found = {name: noise(*shape) for name, shape in maps.items()}
    blocks = {name: noise(*shape) for name, shape in make_side(scene).blocks.items()}
    if scene == "words":
        mask = (torch.arange(7)[None] < torch.arange(2, 2 + n)[:, None].clamp_max(7)).float()
        found = {name: x * mask[:, None] for name, x in found.items()}
    output = ModelOutput(2 * noise(K), noise(width), found, blocks, mask)
    if views > 1:
        output.second = draw(scene, seed + 50, n, views=1)
    return output


def build(name: str, pair: tuple[str, str] = PAIRS[0]):
    torch.manual_seed(11)
    return build_method(name, {}, make_sizes(*pair)).train()


def batch(labels: torch.Tensor = LABELS) -> Batch:
    return Batch(labels, torch.arange(len(labels)) * 3, 0.5)


def list_tensors(output: ModelOutput) -> list[torch.Tensor]:
    found = [output.logits, output.feature, *output.maps.values(), *output.blocks.values()]
    return found + (list_tensors(output.second) if output.second else [])


def require_grad(output: ModelOutput) -> list[torch.Tensor]:
    return [x.requires_grad_() for x in list_tensors(output)]


def index(output: ModelOutput, order: torch.Tensor) -> ModelOutput:
    return output.apply(lambda x: x[order])


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_terms_are_scalars_that_reach_student_and_modules_and_nothing_else(name, pair):
    """Between networks of any widths and map sizes."""
    method = build(name, pair)
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    require_grad(student), require_grad(teacher)
    terms = method(student, teacher, batch())
    assert terms and "task" in terms
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert student.logits.grad.any()
    kind = METHODS[name]
    reached = [x for x in list_tensors(teacher) if x.grad is not None and x.grad.any()]
    if kind.teaching in (TUNED, FRESH):
        assert reached
    else:
        assert not reached, "a frozen teacher's outputs got a gradient"
    trained = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    for parameter, value in trained:
        assert value.grad is not None, f"{parameter} is in no term"
    assert all(p.grad is None for side in (method.sizes.student, method.sizes.teacher)
               for p in side.norms.get("layer1", nn.Identity()).parameters())  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_module_of_a_method_holds_a_network(name):
    """Else the optimiser would train the teacher, and its weights would be saved twice."""
    method = build(name)
    own = {id(p) for p in method.parameters()}
    for side in (method.sizes.student, method.sizes.teacher):
        assert id(side.head.weight) not in own


@pytest.mark.parametrize("name", NAMES)
def test_every_distance_is_a_term_and_every_strength_an_option(name):
    kind = METHODS[name]
    terms = build(name)(draw("small", 1), draw("small", 2), batch())
    if kind.compares:
        assert kind.needs and set(kind.compares) & set(terms)
    defaults = kind.Options()
    for option in kind.strength:
        assert isinstance(getattr(defaults, option), float)
    if kind.strength:
        doubled = {option: 2 * getattr(defaults, option) for option in kind.strength}
        torch.manual_seed(11)
        method = build_method(name, doubled, make_sizes("small", "small")).train()
        stronger = method(draw("small", 1), draw("small", 2), batch())
        assert terms.keys() == stronger.keys()
        moved = {n for n in terms if not torch.isclose(terms[n], stronger[n], rtol=1e-4)}
        assert moved and "task" not in moved


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_says_of_itself_is_known_vocabulary(name):
    kind = METHODS[name]
    assert kind.name == name and kind.summary and kind.source
    assert set(kind.needs) <= {"logits", "feature", *MAPS}
    assert kind.teaching in (FROZEN, DRIFTING, TUNED, FRESH) and kind.views in (1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_reads_only_the_teacher_outputs_that_it_names(name):
    """logits, feature and the maps that `teacher_maps` lists: the loop keeps no others."""
    method, pair = build(name), PAIRS[0]
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    expected = copy.deepcopy(method)(student, teacher, batch())
    needs = METHODS[name].needs
    kept = teacher.keep(method.teacher_maps)
    for output in {"logits", "feature"} - set(needs):
        kept = replace(kept, **{output: None})
    found = method(student, kept if needs else None, batch())
    assert {n: x.item() for n, x in found.items()} == {n: x.item() for n, x in expected.items()}


@pytest.mark.parametrize("pair", PAIRS[::2], ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_does_not_matter(name, pair):
    method = build(name, pair)
    student, teacher, given = draw(pair[0], 1), draw(pair[1], 2), batch()
    moved = Batch(given.labels[ORDER], given.rows[ORDER], given.progress)
    before = copy.deepcopy(method)(student, teacher, given)
    after = method(index(student, ORDER), index(teacher, ORDER), moved)
    for term in before:
        assert after[term].item() == pytest.approx(before[term].item(), rel=2e-5, abs=1e-7), term


def make_nasty(kind: str, pair: tuple[str, str]) -> tuple[ModelOutput, ModelOutput, Batch]:
    student, teacher, given = draw(pair[0], 1), draw(pair[1], 2), batch()
    if kind == "batch of one":
        return draw(pair[0], 1, n=1), draw(pair[1], 2, n=1), batch(LABELS[:1])
    if kind == "one class":
        given = batch(torch.zeros_like(LABELS))
    change = {
        "constant": lambda x: torch.full_like(x, 3.1),
        "zero": torch.zeros_like,
        "large": lambda x: 1e6 * x,
        "logits of 50": lambda x: 50 * x.sign(),
        "the same rows": lambda x: x[:1].expand_as(x).clone(),
    }.get(kind)
    if change is None:
        return student, teacher, given
    for output in (student, teacher):
        for view in (output, output.second):
            if kind in ("logits of 50", "the same rows"):
                view.logits = change(view.logits)
            if kind != "logits of 50":
                view.feature = change(view.feature)
                view.maps = {n: change(x) for n, x in view.maps.items()}
                view.blocks = {n: change(x) for n, x in view.blocks.items()}
    return student, teacher, given


NASTY = ["batch of one", "one class", "constant", "zero", "large", "logits of 50", "the same rows"]


@pytest.mark.parametrize("pair", PAIRS[:3], ids="-".join)
@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_stay_finite(name, kind, pair):
    method = build(name, pair)
    student, teacher, given = make_nasty(kind, pair)
    leaves = require_grad(student)
    if METHODS[name].teaching in (TUNED, FRESH):
        leaves += require_grad(teacher)
    terms = method(student, teacher, given)
    assert all(torch.isfinite(term) for term in terms.values())
    wanted = [*leaves, *(p for p in method.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(sum(terms.values()), wanted, materialize_grads=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("pair", PAIRS[1:3], ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_under_autocast_and_near_those_without(name, pair):
    method = build(name, pair)
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    plain = copy.deepcopy(method)(student, teacher, batch())
    halved = [output.apply(lambda x: x.bfloat16()) for output in (student, teacher)]
    require_grad(halved[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(*halved, batch())
    for term, value in terms.items():
        assert value.dtype == torch.float32 and torch.isfinite(value), term
        assert value.item() == pytest.approx(plain[term].item(), rel=0.15, abs=0.02), term
    sum(terms.values()).backward()
    gradients = [x.grad for x in list_tensors(halved[0]) if x.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_learns_on_a_fixed_batch(name):
    """Its own loss falls when its modules and the student's outputs follow the gradient."""
    method, pair = build(name), PAIRS[0]
    student, teacher = draw(pair[0], 1), draw(pair[1], 2)
    leaves = [*require_grad(student), *(p for p in method.parameters() if p.requires_grad)]
    if METHODS[name].teaching in (TUNED, FRESH):
        leaves += require_grad(teacher)
    optimiser = torch.optim.Adam(leaves, lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = sum(method(student, teacher, batch()).values())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


OWN = """
    from torch.nn import functional
    from fdlab.losses.logits import cross_entropy
    from fdlab.methods.base import Method


    class Cosine(Method):
        name, summary, source, needs = "cosine", "cosine distance of logits", "ours", ("logits",)

        def forward(self, student, teacher, batch):
            pair = student.logits.float(), teacher.logits.detach().float()
            distance = 1 - functional.cosine_similarity(*pair).mean()
            return {"task": cross_entropy(student.logits, batch.labels), "cosine": distance}
"""


def test_the_readers_method_is_the_readmes():
    from pathlib import Path

    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert textwrap.dedent(OWN).strip() in readme


@pytest.fixture
def reader(monkeypatch):
    """The README's method, as a module and one line of the table."""
    module = types.ModuleType("fdlab.methods.cosine")
    exec(textwrap.dedent(OWN), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METHODS.places, "cosine", "fdlab.methods.cosine:Cosine")


def test_a_readers_method_is_listed_and_searched_and_summed(reader, capsys):
    from fdlab.cli import main
    from fdlab.studies.comparison import choose_methods, configure_methods
    from fdlab.studies.plan import make_plan

    assert main(["methods"]) == 0
    assert "cosine distance of logits" in capsys.readouterr().out
    assert "cosine" in choose_methods(["all"])
    configs = configure_methods(make_plan("digits", "smoke"), ["all"], ["audio2image"])
    assert ("audio2image", "cosine", 0) in configs
    assert METHODS["feat+2*cosine"].needs == ("feature", "logits")


LAWS = [
    (test_what_a_method_says_of_itself_is_known_vocabulary, [()]),
    (test_every_distance_is_a_term_and_every_strength_an_option, [()]),
    (test_a_method_reads_only_the_teacher_outputs_that_it_names, [()]),
    (test_no_module_of_a_method_holds_a_network, [()]),
    (test_a_method_learns_on_a_fixed_batch, [()]),
    (test_terms_are_scalars_that_reach_student_and_modules_and_nothing_else, PAIRS),
    (test_the_order_of_the_batch_does_not_matter, PAIRS),
    (test_losses_are_float32_under_autocast_and_near_those_without, PAIRS),
    (test_losses_and_gradients_stay_finite, [(kind, pair) for kind in NASTY for pair in PAIRS]),
]


@pytest.mark.parametrize("law, cases", LAWS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_readers_method_keeps_the_laws(reader, law, cases):
    for case in cases:
        law("cosine", *((case,) if case in PAIRS else case))


@pytest.mark.parametrize(
    "name, message",
    [
        ("kd+kd", "names a method twice"),
        ("kd+", "no part of a sum"),
        ("x*kd", "no part of a sum"),
        ("-1*kd", "no part of a sum"),
        ("kd+nothing", "nothing"),
        ("dml+kd", "different things of one teacher"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        METHODS[name]
    assert name == "dml+kd" or name not in METHODS

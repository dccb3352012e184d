"""FreqKD, its second stage, and the reconstruction of SFKD: layers, controls, the refinement."""

from __future__ import annotations

import numpy as np
import oracles_planes
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.methods import METHODS
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.methods.maps import choose_layers
from fdlab.methods.refine import Refinement
from fdlab.models.output import ModelOutput, Side
from fdlab.spectral.planes import standardise_samples

N, K = 4, 5
LABELS = torch.tensor([0, 3, 1, 3])


def make_vit(depth: int, channels: int = 6, side: int = 6) -> Side:
    """As a transformer's: every block a map, of which four end a quarter of the depth."""
    blocks = {f"block{i}": (channels, side, side) for i in range(depth)}
    names = [f"block{depth * (i + 1) // 4 - 1}" for i in range(4)]
    return Side(channels, {name: blocks[name] for name in names}, blocks)


def make_resnet(channels: int = 4) -> Side:
    """Four stages that halve the map and double the channels, of two blocks each."""
    maps = {f"layer{i + 1}": (channels * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)}
    blocks = {f"{name}.{i}": shape for name, shape in maps.items() for i in (0, 1)}
    return Side(8 * channels, {"stem": (3, 16, 16)} | maps, blocks)


def draw(side: Side, seed: int) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(N, *shape, generator=generator, dtype=torch.float64)

    blocks = {name: noise(*shape) for name, shape in side.blocks.items()}
    maps = {n: blocks[n] if n in blocks else noise(*shape) for n, shape in side.maps.items()}
    return ModelOutput(noise(K), noise(side.width), maps, blocks)


def build(name: str, student: Side, teacher: Side, **options):
    torch.manual_seed(3)
    return build_method(name, options, Sizes(student, teacher, K)).double()


def run(method, seed: int = 1) -> dict[str, float]:
    student, teacher = draw(method.sizes.student, seed), draw(method.sizes.teacher, 100 + seed)
    return {n: x.item() for n, x in method(student, teacher, Batch(LABELS)).items()}


def count(method) -> int:
    return sum(p.numel() for p in method.parameters())


SOURCE = [7, 15, 19, 21, 23]  # FreqKD's, of ViT-L's 24


@pytest.mark.parametrize(
    "student, teacher, layers, wanted",
    [
        (make_vit(24), make_vit(24), SOURCE, [(f"block{i}",) * 2 for i in SOURCE]),
        (make_vit(24), make_vit(24), [], [(f"block{i}",) * 2 for i in (5, 11, 17, 23)]),
        (
            make_resnet(),
            make_vit(24),
            [7, 15, 21, 23],
            [(f"layer{i + 1}", f"block{b}") for i, b in enumerate([7, 15, 21, 23])],
        ),
        (make_resnet(), make_vit(24), [3, 23], [("layer2", "block3"), ("layer4", "block23")]),
        (make_vit(6), make_vit(24), [23], [("block5", "block23")]),
        (make_vit(12), make_resnet(), [], [
            (f"block{i}", f"layer{n}") for i, n in ((2, 1), (5, 2), (8, 3), (11, 4))
        ]),
    ],
)  # fmt: skip
def test_layers_name_the_teachers_blocks_and_the_students_beside_them(
    student, teacher, layers, wanted
):
    sizes = Sizes(student, teacher, K)
    assert choose_layers(sizes, layers) == wanted
    for name in ("freqkd", "anchor"):
        method = build(name, student, teacher, layers=layers)
        assert method.teacher_maps == {theirs for _, theirs in wanted}
        kept = draw(teacher, 2).keep(method.teacher_maps)
        assert set(method(draw(student, 1), kept, Batch(LABELS))) >= {"task"}


@pytest.mark.parametrize(
    "layers, message",
    [
        ([24], r"layers is \[24\]: expected numbers from 0 to 23"),
        (SOURCE, "at most 4, one for each of the student's stages"),
        ([3, 3], "from 0 and rising"),
        ([7, 3], "from 0 and rising"),
        ([-1], "from 0 and rising"),
        (["block3"], "expected blocks by number"),
        ([True], "expected blocks by number"),
    ],
)
def test_layers_that_there_are_none_of_are_refused(layers, message):
    for name in ("freqkd", "anchor"):
        with pytest.raises(UserError, match=message):
            build(name, make_resnet(), make_vit(24), layers=layers)


def test_equal_channels_take_no_projection_and_others_one_that_is_counted():
    assert count(build("freqkd", make_vit(24), make_vit(24), layers=SOURCE)) == 0
    across = build("freqkd", make_resnet(), make_vit(24, channels=6), layers=[7, 15, 21, 23])
    assert count(across) == 6 * (4 + 8 + 16 + 32)
    terms = across(draw(make_resnet(), 1), draw(make_vit(24), 2), Batch(LABELS))
    for term in ("low", "high"):
        across.zero_grad()
        terms[term].backward(retain_graph=True)
        assert all(p.grad.any() for p in across.parameters())


def test_without_labels_there_is_no_task_and_no_label_is_read():
    method = build("freqkd", make_vit(8), make_vit(8), task_weight=0.0)
    student = draw(make_vit(8), 1)
    student.logits.requires_grad_()
    terms = method(student, draw(make_vit(8), 2), Batch(None))
    assert set(terms) == {"low", "high"}


def test_the_controls_are_the_parts_of_the_whole():
    """By Parseval the mean square of everything is that of both bands; each band alone is a weight
    of 0 for the other; and weights multiply their own term."""
    sides = make_resnet(), make_vit(8)
    whole = run(build("freqkd", *sides, frequency=False))
    squares = run(build("freqkd", *sides, high="mse", high_weight=1.0))
    assert whole.keys() == {"task", "feature"}
    assert squares["low"] + squares["high"] == pytest.approx(whole["feature"], rel=1e-12)
    both = run(build("freqkd", *sides))
    low_only = run(build("freqkd", *sides, high_weight=0.0))
    high_only = run(build("freqkd", *sides, low_weight=0.0, high_weight=1.0))
    assert (low_only["low"], low_only["high"]) == (both["low"], 0)
    assert high_only["low"] == 0 and high_only["high"] == pytest.approx(10 * both["high"])


def test_freqkd_forgets_what_standardising_takes_and_sees_where_things_are():
    """Neither a channel's mean, which a projection's bias would be, nor a position's length counts;
    the same values at other positions do."""
    sides = make_vit(4, side=8), make_vit(4, side=8)
    method = build("freqkd", *sides)
    student, teacher = draw(sides[0], 1), draw(sides[1], 2)
    start = method(student, teacher, Batch(LABELS))
    moved = ModelOutput(student.logits, student.feature,
                        {n: 3 * x + torch.arange(6)[:, None, None] for n, x in
                         student.maps.items()})  # fmt: skip
    after = method(moved, teacher, Batch(LABELS))
    rolled = ModelOutput(student.logits, student.feature,
                         {n: x.roll(3, 2) for n, x in student.maps.items()})  # fmt: skip
    other = method(rolled, teacher, Batch(LABELS))
    for band in ("low", "high"):
        assert after[band].item() == pytest.approx(start[band].item(), rel=1e-9)
        assert abs(other[band].item() / start[band].item() - 1) > 1e-4


def test_the_anchor_holds_maps_by_their_directions_and_is_for_dense_tasks():
    side = make_vit(4)
    method = build("anchor", side, side)
    output = draw(side, 1)
    stretched = output.apply(lambda x: 2 * x)
    assert method(stretched, output, Batch(LABELS))["anchor"].item() == pytest.approx(0, abs=1e-12)
    turned = ModelOutput(output.logits, output.feature,
                         {name: -x for name, x in output.maps.items()})  # fmt: skip
    assert method(turned, output, Batch(LABELS))["anchor"].item() == pytest.approx(0.1 * 2 * 4)
    with pytest.raises(UserError, match="anchor is not defined for classification"):
        build_method("anchor", {}, Sizes(side, side, K), "classification")


def test_a_list_among_the_options_can_be_summed_and_given():
    sizes = Sizes(make_vit(24), make_vit(24), K)
    method = build_method("freqkd+0.5*kd", {"freqkd_layers": [3, 23]}, sizes)
    assert method.options.freqkd_layers == [3, 23] and method.options.kd_temperature == 4.0
    assert METHODS["freqkd+kd"].Options().freqkd_layers == []
    assert method.teacher_maps == {"block3", "block23"}


# The reconstruction of SFKD


def test_sfkd_is_called_a_reconstruction_wherever_it_is_listed():
    kind = METHODS["sfkd"]
    assert "reconstruction" in kind.summary and "reconstruct" in kind.source
    assert "reconstruction" in kind.__doc__


@pytest.mark.parametrize("levels, size", [(0, (4, 6)), (1, (4, 6)), (2, (5, 7)), (2, (8, 8))])
def test_the_refinement_is_its_transcription(levels, size):
    torch.manual_seed(7)
    refinement = Refinement(5, levels).double()
    for x in refinement.parameters():  # away from the 0 and 1 that norms start at
        x.data += 0.3 * torch.randn_like(x)
    parameters = {key: x.numpy().copy() for key, x in refinement.state_dict().items()}
    x = torch.randn(3, 5, *size, dtype=torch.float64)
    found = refinement(x)
    assert found.shape == x.shape
    wanted = oracles_planes.refine(x.numpy(), parameters, levels)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-11)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in refinement.parameters())


def test_parts_that_are_off_have_no_parameters():
    sides = make_resnet(), make_vit(8)
    full = build("sfkd", *sides)
    plain = build("sfkd", *sides, refine=False)
    assert count(plain) == 6 * (8 + 16 + 32)  # the three last stages' projections
    flat = build("sfkd", *sides, dwt=False)
    assert count(plain) < count(flat) < count(full)
    assert [r.levels for r in full.refine_student] == [2, 2, 2]
    assert [r.levels for r in flat.refine_teacher] == [0, 0, 0]
    small = build("sfkd", make_resnet(), make_resnet(), levels=3)
    assert [r.levels for r in small.refine_student] == [3, 2, 1]  # sides of 8, 4 and 2
    assert build("sfkd", *sides, stages=1).teacher_maps == {"block7"}
    alike = build("sfkd", make_vit(8), make_vit(8), refine=False)
    assert count(alike) == 0


def test_a_wide_filter_is_the_mean_square_and_a_narrow_one_is_not():
    """Parseval, through the whole method."""
    sides = make_resnet(), make_vit(8)
    found = {width: run(build("sfkd", *sides, width=width))["match"] for width in (1e6, 0.25, 0.1)}
    plain = run(build("sfkd", *sides, matching="mse"))["match"]
    assert found[1e6] == pytest.approx(plain, rel=1e-9)
    assert abs(found[0.25] / plain - 1) > 1e-3 and abs(found[0.1] / plain - 1) > 1e-3
    high = run(build("sfkd", *sides, passes="high"))["match"]
    assert abs(high / found[0.25] - 1) > 1e-3


def train(method, steps: int, free: bool) -> list[torch.Tensor]:
    """Student's maps and the method's parameters on one batch, the teacher's refinement included;
    free: it learns from the match instead, as if its target were not held. Its maps at the end."""
    student, teacher = draw(method.sizes.student, 1), draw(method.sizes.teacher, 2)
    leaves = [x.requires_grad_() for x in student.maps.values()]
    optimiser = torch.optim.Adam([*leaves, *method.parameters()], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        if free:
            pairs = zip(method.aligned(student, teacher), method.refine_student,
                        method.refine_teacher, strict=True)  # fmt: skip
            loss = sum((mine(s) - theirs(t)).square().mean() for (s, t), mine, theirs in pairs)
        else:
            loss = sum(method(student, teacher, Batch(LABELS)).values())
        loss.backward()
        optimiser.step()
    return [
        refine(standardise_samples(target))
        for (_, target), refine in zip(
            method.aligned(student, teacher), method.refine_teacher, strict=True
        )
    ]


def test_the_teachers_refinement_does_not_collapse():
    """It stays near the teacher's own map; left to the match, it goes elsewhere."""
    sides = make_resnet(), make_vit(8)
    teacher = draw(sides[1], 2)
    for free in (False, True):
        method = build("sfkd", *sides, stages=1, logits="none")
        found = train(method, 60, free)
        for (_, name), refined in zip(method.aligned.names, found, strict=True):
            own = teacher.maps[name]
            r = np.corrcoef(refined.detach().flatten().numpy(), own.flatten().numpy())[0, 1]
            share = refined.std().item() / own.std().item()
            assert (r > 0.95 and share > 0.3) != free, (free, r, share)


def test_the_match_trains_the_student_alone_and_the_last_term_the_teachers_refinement():
    method = build("sfkd", make_resnet(), make_vit(8))
    student = draw(method.sizes.student, 1)
    for x in student.maps.values():
        x.requires_grad_()
    terms = method(student, draw(method.sizes.teacher, 2), Batch(LABELS))
    mine = [*method.aligned.parameters(), *method.refine_student.parameters()]
    theirs = list(method.refine_teacher.parameters())
    for term, reached, left in (("match", mine, theirs), ("rebuilt", theirs, mine)):
        of = [*reached, *left]
        grads = torch.autograd.grad(terms[term], of, retain_graph=True, allow_unused=True)
        assert all(grad is not None for grad in grads[: len(reached)]), term
        assert all(grad is None for grad in grads[len(reached) :]), term


def test_sfkd_does_not_see_how_large_a_networks_maps_are():
    """Nor does the refinement, which would else be lost beside large maps and drown small ones."""
    method = build("sfkd", make_resnet(), make_vit(8))
    student, teacher = draw(method.sizes.student, 1), draw(method.sizes.teacher, 2)
    start = method(student, teacher, Batch(LABELS))
    for output in (student, teacher):
        output.maps = {name: 50 * x for name, x in output.maps.items()}
    after = method(student, teacher, Batch(LABELS))
    for term in ("match", "rebuilt"):
        assert after[term].item() == pytest.approx(start[term].item(), rel=1e-4)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("freqkd", {"mask": "round"}, "Choices: symmetric, released"),
        ("freqkd", {"high": "log"}, "Choices: log_magnitude, log_signed, mse, fdcmkd"),
        ("freqkd", {"cutoff": 1.5}, "0 to 1"),
        ("freqkd", {"high_weight": -0.1}, "high_weight is -0.1"),
        ("freqkd", {"layers": 7}, "expected list"),
        ("anchor", {"weight": -1.0}, "weight is -1.0"),
        ("sfkd", {"logits": "dist"}, "Choices: ofa, kd, none"),
        ("sfkd", {"matching": "cosine"}, "Choices: gaussian, mse, infonce"),
        ("sfkd", {"passes": "band"}, "Choices: low, high"),
        ("sfkd", {"width": 0.0}, "width is 0.0: expected above 0"),
        ("sfkd", {"levels": 0}, "levels is 0: expected above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, make_vit(8), make_vit(8), **options)

"""The methods that read feature maps: each against an independent transcription, and their laws."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import oracles_maps
import oracles_planes
import pytest
import scipy.special
import scipy.stats
import torch
from oracles_maps import Output
from torch import nn

from fdlab.core.errors import UserError
from fdlab.losses.correlations import kendall_tau
from fdlab.losses.maps import find_margin, partial_l2, pyramid_mse
from fdlab.methods.afd import AFD
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.output import ModelOutput, Side
from fdlab.models.resnet import ResNet18

N, K = 4, 5
LABELS = torch.tensor([0, 3, 1, 3])
LENGTHS = (5, 3, 4, 2)  # words of each sentence
STEP = 1e-5  # of the central differences; no input to a ReLU lies within 1e-2 of its kink

# The two networks: an image's has maps (C, H, W) and a stem that no method reads, a sentence's
# (C, L) and no blocks.
SMALL = (
    {"stem": (2, 5, 5), "layer1": (3, 4, 4), "layer2": (5, 2, 2)},
    {"layer1.0": (3, 4, 4), "layer1.1": (3, 4, 4), "layer2.0": (5, 2, 2)},
)
LARGE = (
    {"stem": (2, 7, 5), "layer1": (2, 7, 5), "layer2": (4, 6, 4), "layer3": (6, 3, 2)},
    {"layer1.0": (2, 7, 5), "layer2.0": (4, 6, 4), "layer3.0": (6, 3, 2)},
)
SENTENCE = ({"layer1": (3, 5), "layer2": (4, 5)}, {})

LEVEL = [("layer1", "layer1"), ("layer2", "layer2")]
UP = [("layer1", "layer2"), ("layer2", "layer3")]  # two stages beside three
DOWN = [("layer2", "layer1"), ("layer3", "layer2")]
SCENES = {
    "images": (SMALL, LARGE, UP),
    "images, larger student": (LARGE, SMALL, DOWN),
    "sentence teaches": (SMALL, SENTENCE, LEVEL),
    "sentence learns": (SENTENCE, LARGE, UP),
}


def make_side(network, seed: int) -> Side:
    """A side with a classifier, and norms of which some margins are the floor of -3 |γ|."""
    maps, blocks = network
    generator = torch.Generator().manual_seed(seed)
    channels = list(maps.values())[-1][0]
    head, norms = nn.Linear(channels, K).double(), {}
    for name, shape in maps.items():
        if name != "stem":
            norms[name] = nn.BatchNorm2d(shape[0]).double()
            for values in norms[name].parameters():
                values.data = torch.randn(shape[0], generator=generator, dtype=torch.float64)
            norms[name].weight.data[0], norms[name].bias.data[0] = 0.2, 0.9
    return Side(channels, maps, blocks, head, norms)


def draw(network, seed: int) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)

    def fill(*shape: int) -> torch.Tensor:
        x = torch.randn(N, *shape, generator=generator, dtype=torch.float64) + 0.2
        return x + 0.01 * x.sign()

    maps, blocks = ({name: fill(*shape) for name, shape in part.items()} for part in network)
    mask = None
    if "stem" not in maps:
        length = maps["layer1"].shape[2]
        mask = (torch.arange(length) < torch.tensor(LENGTHS)[:, None]).double()
        maps = {name: x * mask[:, None] for name, x in maps.items()}
    logits = 2 * fill(K)
    for x in (logits, *maps.values(), *blocks.values()):
        x.requires_grad_()
    return ModelOutput(logits, fill(7), maps, blocks, mask)


def build(name: str, options: dict, scene: str):
    one, two, _ = SCENES[scene]
    torch.manual_seed(5)
    method = build_method(name, options, Sizes(make_side(one, 1), make_side(two, 2), K)).double()
    for x in method.parameters():  # away from the 0 and 1 that norms and biases start at
        x.data += 0.3 * torch.randn_like(x)
    return method


def as_arrays(output: ModelOutput, side: Side) -> Output:
    """Copies, so that the differences may change them."""

    def copy_of(x: torch.Tensor) -> np.ndarray:
        return x.detach().numpy().copy()

    return Output(
        copy_of(output.logits),
        {name: copy_of(x) for name, x in (output.maps | output.blocks).items()},
        None if output.mask is None else copy_of(output.mask),
        copy_of(side.head.weight),
        {name: (copy_of(norm.weight), copy_of(norm.bias)) for name, norm in side.norms.items()},
    )


def name_maps(scene: str, name: str) -> dict:
    """Which maps the oracle reads, chosen by hand."""
    one, two, stages = SCENES[scene]
    if name == "ofa":
        return {"stages": [place for place in one[0] if place != "stem"]}
    blocks = [list(network[1] or network[0]) for network in (one, two)]
    kinds = {"middle": stages[:1], "penultimate": stages[:1], "last": stages[-1:]}
    # Of the three stages the middle one is the second, and so is the last but one.
    return {"stages": stages, "blocks": blocks, **kinds}


TRANSCRIBED = {
    "at": oracles_maps.at_terms,
    "fitnet": oracles_maps.fitnet_terms,
    "pkd": oracles_maps.pkd_terms,
    "ofd": oracles_maps.ofd_terms,
    "ofd_released": oracles_maps.ofd_terms,
    "afd": oracles_maps.afd_terms,
    "c2kd": oracles_maps.c2kd_terms,
    "c2kd_released": partial(oracles_maps.c2kd_terms, released=True),
    "sp": oracles_maps.sp_terms,
    "vid": oracles_maps.vid_terms,
    "vid_released": oracles_maps.vid_terms,
    "reviewkd": oracles_maps.reviewkd_terms,
    "catkd": oracles_maps.catkd_terms,
    "ofa": oracles_maps.ofa_terms,
    "freekd": oracles_maps.freekd_terms,
    "freqkd": oracles_planes.freqkd_terms,
    "anchor": oracles_planes.anchor_terms,
    "sfkd": oracles_planes.sfkd_terms,
}
PLAIN = [
    *((name, {}) for name in TRANSCRIBED if name not in ("afd", "sfkd")),
    *((name, {"compare": "resized"}) for name in ("fitnet", "pkd", "ofd", "vid")),
    ("afd", {"units": 6}),
    ("sfkd", {"refine": False}),  # the refinement by itself: test_spatial_methods
]
CHANGED = [
    ("at", {"weight": 3.0}),
    ("fitnet", {"weight": 3.0}),
    ("pkd", {"weight": 3.0}),
    ("ofd", {"weight": 3.0}),
    ("afd", {"units": 9, "weight": 3.0, "kd_weight": 0.3, "temperature": 1.5}),
    ("c2kd", {"krc": 0.3, "weight": 3.0}),
    ("sp", {"weight": 3.0}),
    ("vid", {"weight": 3.0, "start": 0.5}),
    ("reviewkd", {"weight": 3.0, "warmup": 0.5}),
    ("catkd", {"weight": 3.0, "side": 3, "scaled": False}),
    ("ofa", {"weight": 3.0, "stage_weight": 0.4, "power": 1.5, "temperature": 2.0}),
    ("freekd", {"weight": 3.0, "levels": 1}),
    ("freqkd", {"task_weight": 0.5, "low_weight": 3.0, "high_weight": 2.0, "cutoff": 0.25}),
    ("freqkd", {"mask": "released", "high": "log_signed"}),
    ("freqkd", {"high": "fdcmkd"}),
    ("freqkd", {"frequency": False, "low_weight": 3.0}),
    ("anchor", {"weight": 3.0}),
    ("sfkd", {"refine": False, "weight": 3.0, "width": 0.5, "passes": "high", "logits": "kd"}),
    ("sfkd", {"refine": False, "matching": "infonce", "temperature": 0.3, "stages": 1}),
    ("sfkd", {"refine": False, "matching": "mse", "logits": "none"}),
]
CASES = [(*case, scene) for case in PLAIN for scene in SCENES]
CASES += [(*case, scene) for case in CHANGED for scene in ("images", "sentence learns")]


def differentiate(expect, x: np.ndarray, entries) -> dict[str, np.ndarray]:
    """Every term's central differences in the chosen entries of x, which `expect` reads."""
    columns = []
    for index in entries:
        start, found = x[index], []
        for step in (STEP, -STEP):
            x[index] = start + step
            found.append(expect())
        x[index] = start
        columns.append({term: (found[0][term] - found[1][term]) / (2 * STEP) for term in found[0]})
    return {term: np.array([column[term] for column in columns]) for term in columns[0]}


def choose(x: np.ndarray, most: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Entries to differentiate in. A sentence's padding is an exact 0, the ReLU's kink: not it."""
    entries = np.argwhere(x != 0)
    if len(entries) > most:
        entries = np.random.default_rng(seed).permutation(entries)[:most]
    return [tuple(entry) for entry in entries]


@pytest.mark.parametrize("name, options, scene", CASES, ids=str)
def test_terms_and_gradients_equal_the_transcription(name, options, scene):
    method, (one, two, _) = build(name, options, scene), SCENES[scene]
    student, teacher = draw(one, 21), draw(two, 22)
    tuned = method.teaching == "trains on"
    parameters = {key: x.detach().numpy().copy() for key, x in method.state_dict().items()}
    s, t = as_arrays(student, method.sizes.student), as_arrays(teacher, method.sizes.teacher)
    held = {"held": copy.deepcopy((parameters, s, t))} if tuned else {}
    names, y = name_maps(scene, name), LABELS.numpy()
    expect = partial(TRANSCRIBED[name], options, parameters, s, t, y, names, 0.25, **held)

    terms = method(student, teacher, Batch(LABELS, progress=0.25))
    wanted = expect()
    assert terms.keys() == wanted.keys()
    for term, value in terms.items():
        assert value.ndim == 0 and value.dtype == torch.float64
        assert value.item() == pytest.approx(wanted[term], rel=1e-9), term

    def slopes(term: str, tensors: list[torch.Tensor]) -> list[np.ndarray]:
        grads = torch.autograd.grad(
            terms[term], tensors, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return [grad.numpy() for grad in grads]

    def check(term: str, found: np.ndarray, expected: np.ndarray, where: str) -> None:
        error = np.linalg.norm(found - expected)
        assert error <= 1e-6 * np.linalg.norm(expected), (term, where, error)

    sides = [(student, s)] + [(teacher, t)] * tuned
    for output, arrays in sides:
        for place, tensor in {"logits": output.logits, **output.maps, **output.blocks}.items():
            if place == "stem":
                continue
            array = arrays.logits if place == "logits" else arrays.maps[place]
            entries = choose(array, 16)
            expected = differentiate(expect, array, entries)
            for term in terms:
                (found,) = slopes(term, [tensor])
                check(term, np.array([found[index] for index in entries]), expected[term], place)

    # The method's own parameters, all at once, along one direction.
    own = {key: x for key, x in method.named_parameters() if x.requires_grad}
    if own:
        rng = np.random.default_rng(3)
        direction = {key: rng.standard_normal(x.shape) for key, x in own.items()}
        length = math.sqrt(sum((v * v).sum() for v in direction.values()))
        start, along = {key: parameters[key].copy() for key in own}, np.zeros(1)

        def expect_along() -> dict[str, float]:
            for key in own:
                parameters[key][...] = start[key] + along[0] * direction[key] / length
            return expect()

        expected = differentiate(expect_along, along, [(0,)])
        for term in terms:
            grads = slopes(term, list(own.values()))
            found = sum((g * v).sum() for g, v in zip(grads, direction.values(), strict=True))
            size = math.sqrt(sum((g * g).sum() for g in grads))
            assert abs(found / length - expected[term][0]) <= 1e-6 * size, term

    if not tuned:  # a frozen teacher's tensors carry no gradient
        for term in terms:
            tensors = [teacher.logits, *teacher.maps.values(), *teacher.blocks.values()]
            assert not any(grad.any() for grad in slopes(term, tensors)), term


# Laws

ONE_STAGE = ({"layer1": (5, 3, 4)}, {})  # every kind of map is this one


def build_plain(name: str, networks, options: dict | None = None):
    torch.manual_seed(6)
    sizes = Sizes(*(make_side(network, seed) for seed, network in enumerate(networks)), K)
    return build_method(name, options or {}, sizes).double()


def plant(x: torch.Tensor) -> ModelOutput:
    """A pass whose only map is x, with logits that are all equal."""
    return ModelOutput(x.new_zeros(len(x), K), x.new_zeros(len(x), 1), {"layer1": x})


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "mine, theirs, pairs",
    [
        ("abcd", "xy", ["bx", "dy"]),
        ("xy", "abcd", ["xb", "yd"]),
        ("abc", "xy", ["bx", "cy"]),
        ("abcd", "xyz", ["bx", "cy", "dz"]),
        ("abcdefgh", "xyz", ["cx", "fy", "hz"]),
        ("abc", "x", ["cx"]),
        ("abc", "xyz", ["ax", "by", "cz"]),
    ],
)
def test_maps_are_paired_by_relative_depth(mine, theirs, pairs):
    one, two = (
        Side(1, {"stem": (9, 1, 1)} | {name: (place + start, 1, 1) for place, name in enumerate(x)})
        for start, x in ((1, mine), (11, theirs))
    )
    sizes = Sizes(one, two, K)
    assert sizes.pair("stages") == [tuple(pair) for pair in pairs]
    channels = [(mine.index(a) + 1, theirs.index(b) + 11) for a, b in pairs]
    assert sizes.pair_channels("stages") == channels


def test_a_batch_with_one_value_per_channel_takes_the_running_statistics():
    """Where batch norm has nothing to take a mean of, the method still trains."""
    for name in ("fitnet", "ofd", "afd", "c2kd", "reviewkd", "ofa"):
        method = build(name, {}, "images")
        student, teacher = (draw(network, 7).apply(lambda x: x[:1]) for network in (SMALL, LARGE))
        terms = method(student, teacher, Batch(LABELS[:1]))
        assert all(torch.isfinite(value) for value in terms.values()), name


def test_at_forgets_the_order_of_channels_and_is_zero_for_equal_maps():
    method = build_plain("at", (ONE_STAGE, ONE_STAGE))
    s, t = random(1, N, 5, 3, 4), random(2, N, 5, 3, 4)

    def measure(one, two):
        return method(plant(one), plant(two), Batch(LABELS))["attention"].item()

    order = torch.tensor([3, 0, 4, 1, 2])
    assert measure(s, t) > 1
    assert measure(s[:, order], t) == pytest.approx(measure(s, t), rel=1e-12)
    assert measure(s, s) == 0
    assert measure(s[:, order], s) == pytest.approx(0, abs=1e-20)
    assert measure(3 * s, s) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("compare", ["pooled", "resized"])
def test_pkd_is_one_less_the_mean_correlation(compare):
    method = build_plain("pkd", (ONE_STAGE, ONE_STAGE), {"weight": 1.0, "compare": compare})
    s, t = random(1, N, 5, 3, 4), random(2, N, 5, 3, 4) + 0.7 * random(1, N, 5, 3, 4)
    rows = [x.transpose(0, 1).flatten(1) for x in (s, t)]
    if compare == "pooled":
        rows = [x.mean(dim=(2, 3)).T for x in (s, t)]
    r = [np.corrcoef(one, two)[0, 1] for one, two in zip(*rows, strict=True)]
    n = rows[0].shape[1]
    found = method(plant(s), plant(t), Batch(LABELS))["feature"].item()
    assert found == pytest.approx((n - 1) / n * (1 - np.mean(r)), rel=1e-4)  # 1e-6 beside the std
    moved = method(plant(s), plant(5 * s + 2), Batch(LABELS))["feature"].item()
    assert moved == pytest.approx(0, abs=1e-9)


def test_a_margin_is_the_mean_of_the_negative_part_of_the_norms_output():
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert find_margin(one, zero).item() == pytest.approx(-math.sqrt(2 / math.pi), rel=1e-12)
    # Φ(-3.09) is just above 0.001, Φ(-3.1) just below.
    gamma = torch.tensor([0.3, -0.3, 2.0, 1.0, 1.0, 1.0, -0.5, 0.0], dtype=torch.float64)
    beta = torch.tensor([0.1, 0.1, -4.0, 3.09, 3.1, 30.0, 2.0, 1.0], dtype=torch.float64)
    found, floor = find_margin(gamma, beta).numpy(), (-3 * gamma.abs()).numpy()
    scale = gamma.abs().numpy()[:4]
    wanted = scipy.stats.truncnorm.mean(
        -np.inf, -beta.numpy()[:4] / scale, loc=beta.numpy()[:4], scale=scale
    )
    np.testing.assert_allclose(found[:4], wanted, rtol=1e-9)
    np.testing.assert_allclose(found[4:], floor[4:], rtol=1e-12, atol=1e-11)


def test_ofd_teaches_nothing_where_both_are_at_or_under_the_margin():
    """Every combination of a student's and a teacher's value about the margin of -0.5."""
    margin = torch.tensor([-0.5], dtype=torch.float64)
    places = [-2.0, -0.7, -0.5, -0.2, 0.0, 0.3, 1.0]
    pairs = torch.tensor([(s, t) for s in places for t in places], dtype=torch.float64)
    student = pairs[:, 0].view(-1, 1, 1, 1).clone().requires_grad_()
    partial_l2(student, pairs[:, 1].view(-1, 1, 1, 1), margin).backward()
    for (s, t), slope in zip(pairs.tolist(), student.grad.flatten().tolist(), strict=True):
        target = max(t, -0.5)
        if s <= -0.5 and t <= -0.5:
            assert slope == 0
        if t > 0 or s > target:
            assert slope == pytest.approx(2 * (s - target) / len(pairs), abs=1e-15)
        else:
            assert slope == 0


def test_ofd_takes_its_margins_from_the_teachers_norms_and_refuses_a_teacher_without():
    method = build("ofd", {}, "images")
    for place, (_, name) in enumerate(UP):
        norm = method.sizes.teacher.norms[name]
        pairs = zip(norm.weight.tolist(), norm.bias.tolist(), strict=True)
        wanted = [oracles_maps.margin(*pair) for pair in pairs]
        np.testing.assert_allclose(getattr(method, f"margin_{place}").numpy(), wanted, rtol=1e-9)
        assert wanted[0] == pytest.approx(-0.6)  # the floor
    bare = Sizes(make_side(SMALL, 1), Side(6, *LARGE), K)
    with pytest.raises(UserError, match="names none for layer2"):
        build_method("ofd", {}, bare)


@pytest.mark.parametrize(
    "height, weights",
    [
        (16, [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
        (8, [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
        (4, [4 / 7, 2 / 7, 1 / 7]),
        (2, [2 / 3, 1 / 3]),
        (1, [1.0]),
    ],
)
def test_the_pyramids_weights(height, weights):
    """A difference of ±1, alternating over a grid of `size` blocks a side, is seen by the map
    itself and by averages over at least so many blocks."""
    sizes = [height, *(size for size in (4, 2, 1) if size < height)]
    found = []
    for size in sizes:
        block = torch.arange(height) * size // height
        signs = (-1.0) ** (block[:, None] + block)
        found.append(pyramid_mse(signs.expand(2, 3, -1, -1), torch.zeros(2, 3, height, height)))
    np.testing.assert_allclose(torch.stack(found).numpy(), np.cumsum(weights), rtol=1e-6)


def test_the_pyramid_of_a_map_narrower_than_its_levels_keeps_the_width():
    s, t = random(1, 2, 3, 8, 3), random(2, 2, 3, 8, 3)
    wanted = oracles_maps.compare_pyramid(s.numpy(), t.numpy())
    assert pyramid_mse(s, t).item() == pytest.approx(wanted, rel=1e-12)


def test_afds_attention_sums_to_one_and_all_its_parts_train():
    method = build("afd", {}, "images")
    seen = []
    whole = method.attend
    method.attend = lambda *pooled: seen.append(whole(*pooled)) or seen[0]
    terms = method(draw(SMALL, 21), draw(LARGE, 22), Batch(LABELS))
    assert seen[0].shape == (N, 3, 3)
    torch.testing.assert_close(seen[0].sum(dim=2), torch.ones(N, 3, dtype=torch.float64))
    assert seen[0].std() > 0.05  # no uniform attention

    terms["attention"].backward()
    for name, parameter in method.named_parameters():
        # A bias before a batch norm does nothing, nor one that all blocks share before a softmax.
        idle = name.endswith("0.bias") or name == "bilinear.1.bias"
        assert (parameter.grad.abs().max() < 1e-12) == idle, name
    assert method.place_student.grad.any() and method.place_teacher.grad.any()


def test_afd_has_as_many_parameters_as_the_authors_between_two_resnet18():
    channels = (64, 64, 128, 128, 256, 256, 512, 512)
    blocks = {f"b{place}": (count, 1, 1) for place, count in enumerate(channels)}
    side = Side(512, {"layer4": (512, 1, 1)}, blocks)
    count = sum(x.numel() for x in AFD(Sizes(side, side, K), AFD.Options()).parameters())
    embeddings = 2 * sum(128 * (c + 1) + 2 * 128 for c in channels)
    assert count == embeddings + 128 * 8 * (128 + 1) + 2 * 128 * 8 + 2 * 8 * 128
    assert round(count / 1e6, 2) == 0.63


@pytest.mark.parametrize("name", ["vid", "vid_released"])
def test_vids_variance_starts_at_5_and_trains_unless_as_released(name):
    method = build_plain(name, (ONE_STAGE, ONE_STAGE))
    variance = nn.functional.softplus(method.alphas[0]) + 1e-5
    torch.testing.assert_close(variance, torch.full_like(variance, 5.0), rtol=1e-6, atol=0)
    trained = [x for x in method.parameters() if x.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    s, t = plant(random(1, N, 5, 3, 4)), plant(random(2, N, 5, 3, 4))
    first = method(s, t, Batch(LABELS))["stages"]
    first.backward()
    optimiser.step()
    assert method(s, t, Batch(LABELS))["stages"] < first
    moved = nn.functional.softplus(method.alphas[0]) + 1e-5
    if name == "vid":
        assert (moved < variance).all()  # the residual is smaller than 5
    else:
        assert torch.equal(moved, variance)


def test_vid_is_least_at_the_variance_of_the_residual():
    method = build_plain("vid", (ONE_STAGE, ONE_STAGE), {"compare": "resized"})
    s, t = random(1, N, 5, 3, 4), random(2, N, 5, 3, 4)
    with torch.no_grad():
        residual = torch.relu(t) - method.regressors[0](torch.relu(s))
        variance = residual.square().mean(dim=(0, 2, 3)) - 1e-5
        method.alphas[0].copy_(torch.log(torch.expm1(variance)))
    terms = method(plant(s), plant(t), Batch(LABELS))
    terms["stages"].backward()
    assert method.alphas[0].grad.abs().max() < 1e-12
    expected = (1 + torch.log(variance + 1e-5)).mean() / 2
    assert terms["stages"].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("start", [1e-5, 1e-9])
def test_vid_refuses_to_start_at_or_under_its_least_variance(start):
    with pytest.raises(UserError, match="start is"):
        build_plain("vid", (ONE_STAGE, ONE_STAGE), {"start": start})


def run_c2kd(name: str = "c2kd", options: dict | None = None, **logits: np.ndarray):
    """C2KD with proxies that return the logits given for student and teacher, whatever they see."""
    method = build_plain(name, (ONE_STAGE, ONE_STAGE), options)
    outputs, proxies = [], []
    for place, side in enumerate(("student", "teacher")):
        output = plant(random(place, len(logits[side]), 5, 3, 4))
        output.logits = random(place + 5, len(logits[side]), K).requires_grad_()
        outputs.append(output)
        proxies.append(nn.Parameter(torch.from_numpy(logits[side])))
    method.proxies = nn.ModuleList(Constant(value) for value in proxies)
    terms = method(*outputs, Batch(LABELS.repeat(4)[: len(logits["student"])]))
    return terms, proxies, [output.logits for output in outputs]


class Constant(nn.Module):
    def __init__(self, value: nn.Parameter):
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


@pytest.mark.parametrize("krc", [0.0, 0.3])
def test_c2kd_keeps_the_samples_whose_ranks_agree(krc):
    """Which samples reach the proxy, by its gradient, beside SciPy's τ_b; ties among them."""
    rng = np.random.default_rng(0)
    logits = {side: rng.integers(0, 4, (16, K)).astype(float) for side in ("student", "teacher")}
    logits["student"][2] = 1.5  # constant: no τ, left out
    logits["teacher"][7] = -2.0
    with np.errstate(invalid="ignore"):
        tau = [
            scipy.stats.kendalltau(*pair).statistic
            for pair in zip(logits["student"], logits["teacher"], strict=True)
        ]
    assert np.isnan(tau).sum() == 2
    found = kendall_tau(*(torch.from_numpy(logits[side]) for side in ("student", "teacher")))
    np.testing.assert_allclose(found.numpy(), tau, rtol=1e-12, atol=1e-15)

    terms, proxies, _ = run_c2kd("c2kd", {"krc": krc}, **logits)
    for term, proxy in (("non_target", proxies[0]), ("teacher_non_target", proxies[1])):
        (slope,) = torch.autograd.grad(terms[term], proxy, retain_graph=True)
        kept = slope.abs().amax(dim=1) > 1e-12
        assert kept.tolist() == [bool(t > krc) for t in tau]
        assert 2 <= kept.sum() <= 14


def test_c2kd_teaches_one_side_of_each_term():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((8, K))
    logits = {side: shared + 0.3 * rng.standard_normal((8, K)) for side in ("student", "teacher")}
    terms, proxies, own = run_c2kd(**logits)
    parts = {
        "student's proxy": proxies[0],
        "teacher's proxy": proxies[1],
        "student": own[0],
        "teacher": own[1],
    }
    taught = {
        "task": "student",
        "from_proxy": "student",
        "to_proxy": "student's proxy",
        "non_target": "student's proxy",
        "teacher_task": "teacher",
        "teacher_from_proxy": "teacher",
        "teacher_to_proxy": "teacher's proxy",
        "teacher_non_target": "teacher's proxy",
    }
    assert terms.keys() == taught.keys()
    for term, value in terms.items():
        grads = torch.autograd.grad(
            value,
            list(parts.values()),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        reached = [part for part, grad in zip(parts, grads, strict=True) if grad.any()]
        assert reached == [taught[term]]


@pytest.mark.parametrize("name", ["c2kd", "c2kd_released"])
def test_the_released_c2kd_leaves_the_target_its_share_of_the_softmax(name):
    """Non-target logits near -5: the target's 0 holds 95 % of the probability of nine classes, and
    what the others say hardly counts; left out, the others are all there is."""
    method = build_plain(name, (ONE_STAGE, ONE_STAGE))
    share = method.hide_target(torch.full((1, 9), -5.0), torch.tensor([4])).softmax(dim=1)
    if name == "c2kd":
        torch.testing.assert_close(share, torch.full((1, 8), 1 / 8))
    else:
        assert share[0, 4].item() == pytest.approx(0.95, abs=0.002)

    order = np.sort(np.random.default_rng(2).standard_normal((N, K)), axis=1)  # ranks agree
    logits = {"student": -5 + 0.1 * order, "teacher": -5 + 0.5 * order}
    terms, *_ = run_c2kd(name, **logits)
    rows = []
    for n, label in enumerate(LABELS.tolist()):
        target, own = (logits[side][n].copy() for side in ("teacher", "student"))
        if name == "c2kd":
            target, own = np.delete(target, label), np.delete(own, label)
        else:
            target[label] = own[label] = 0.0
        rows.append(scipy.stats.entropy(*map(scipy.special.softmax, (target, own))))
    assert terms["non_target"].item() == pytest.approx(np.mean(rows), rel=1e-9)
    assert (np.mean(rows) < 0.01) == (name == "c2kd_released")


FINE = ({"layer1": (2, 16, 16)}, {})


def test_freekd_does_not_see_the_low_band():
    """A map that is constant over 8 × 8 blocks is all low band at three levels; over 4 × 4 blocks
    it is not."""
    method = build_plain("freekd", (FINE, FINE))
    s, t = random(1, N, 2, 16, 16).abs(), random(2, N, 2, 16, 16).abs()

    def measure(one, two):
        return method(plant(one), plant(two), Batch(LABELS))["details"].item()

    def spread(size):
        coarse = random(3, N, 2, 16 // size, 16 // size).abs()
        return coarse.repeat_interleave(size, 2).repeat_interleave(size, 3)

    start = measure(s, t)
    assert measure(s + spread(8), t) == pytest.approx(start, rel=1e-12)
    assert measure(s, t + spread(8)) == pytest.approx(start, rel=1e-12)
    assert abs(measure(s + spread(4), t) - start) > 1e-2 * start
    assert measure(s, s + spread(8)) == pytest.approx(0, abs=1e-12)


def test_freekd_leaves_out_single_positions_and_refuses_a_network_of_them():
    single = ({"layer1": (3, 4, 4), "layer2": (5, 1, 1)}, {})
    method = build_plain("freekd", (SMALL, single))
    assert method.levels == [2, 0]
    with pytest.raises(UserError, match="more than one position"):
        build_plain("freekd", (SMALL, ({"layer1": (5, 1, 1)}, {})))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = ResNet18(3, K, width=8).double().eval()
    nn.init.normal_(model.fc.bias)
    with torch.no_grad():
        output = model(random(4, N, 3, 64, 96))
    return model, output


def test_the_mean_of_catkds_class_maps_and_the_bias_are_the_logits(network):
    """By the loss itself: at side 1 and unscaled, the distance of the two logits without biases."""
    model, output = network
    assert output.maps["layer4"].shape[2:] == (2, 3)
    side = Side(64, {name: x.shape[1:] for name, x in output.maps.items()}, head=model.fc)
    silent = Side(64, side.maps, head=nn.Linear(64, K).double())
    nn.init.zeros_(silent.head.weight)  # class maps of zeros
    method = build_method("catkd", {"weight": 1.0, "side": 1, "scaled": False},
                          Sizes(side, silent, K))  # fmt: skip
    found = method(output, output, Batch(LABELS))["class_map"].item()
    logits = output.logits - model.fc.bias
    assert found == pytest.approx(logits.square().mean().item(), rel=1e-9)

    mean = (
        oracles_maps.project(
            output.maps["layer4"].clamp(min=0).numpy(), model.fc.weight.detach().numpy()
        ).mean(axis=(2, 3))
        + model.fc.bias.detach().numpy()
    )
    np.testing.assert_allclose(mean, output.logits.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_catkd_trains_the_students_classifier_and_has_none_of_its_own():
    method = build("catkd", {}, "images")
    assert not list(method.parameters())
    heads = [side.head.weight for side in (method.sizes.student, method.sizes.teacher)]
    term = method(draw(SMALL, 1), draw(LARGE, 2), Batch(LABELS))["class_map"]
    mine, theirs = torch.autograd.grad(term, heads, allow_unused=True)
    assert mine.any() and theirs is None
    with pytest.raises(UserError, match="the teacher has none"):
        build_method("catkd", {}, Sizes(make_side(SMALL, 1), Side(6, *LARGE), K))

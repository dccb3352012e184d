"""Segmentation: pixels as rows, its scores, its band split, and the two methods made for it."""

from __future__ import annotations

import copy
import math
from collections import deque

import dense
import numpy as np
import oracles
import oracles_maps
import oracles_pixels
import pytest
import torch
from dense import K, N, draw, draw_targets, fold_pair, make_sizes
from oracles_pixels import Output
from sklearn.metrics import confusion_matrix, jaccard_score

from fdlab.core.errors import UserError
from fdlab.data.dataset import IGNORED
from fdlab.losses.pixels import entropy_weights, gram_distance
from fdlab.methods.base import Batch, build_method
from fdlab.methods.cirkd import Memory, bound, shrink_by_patch
from fdlab.methods.pixels import Pixels, find_pixels, flatten_positions, fold
from fdlab.spectral.planes import split_space
from fdlab.training.evaluate import count_pixels, judge_samples, mean_iou

DOUBLE = torch.float64


# Pixels as rows


def test_folding_keeps_every_pixel_with_a_class_beside_its_label_and_every_position():
    targets, output = draw_targets(), draw("decoder", 1)
    output.second = draw("decoder", 2)
    pixels = find_pixels(output, targets, "layer4")
    folded = fold(output, pixels, "layer4")
    rows = [(n, i, j) for n, i, j in np.ndindex(*targets.shape) if targets[n, i, j] != IGNORED]
    assert pixels.labels.tolist() == [targets[place] for place in rows]
    for whole, part in ((output, folded), (output.second, folded.second)):
        expected = torch.stack([whole.logits[n, :, i, j] for n, i, j in rows])
        assert torch.equal(part.logits, expected)
        places = list(np.ndindex(N, 3, 2))
        expected = torch.stack([whole.maps["layer4"][n, :, i, j] for n, i, j in places])
        assert torch.equal(part.feature, expected) and part.maps is whole.maps


def test_a_map_of_another_size_is_brought_to_the_grid():
    student, teacher = draw("plain", 1), draw("decoder", 2)
    pixels = find_pixels(student, draw_targets(), "layer2")  # 4 × 3 positions
    found = fold(teacher, pixels, "layer4").feature
    expected = oracles_maps.pool_adaptively(teacher.maps["layer4"].double().numpy(), 4, 3)
    np.testing.assert_allclose(found, oracles_pixels.list_rows(expected), rtol=1e-5)


@pytest.mark.parametrize("grid", [(3, 2), (4, 8), (12, 8), (1, 1), (5, 3)])
def test_scores_of_positions_are_spread_to_the_pixels_by_interpolation(grid):
    targets = draw_targets()
    pixels = Pixels(targets, grid, (targets != IGNORED).flatten().nonzero().squeeze(1))
    scores = torch.randn(N * grid[0] * grid[1], K, dtype=DOUBLE)
    images = pixels.unfold(scores)
    assert torch.equal(flatten_positions(images), scores)
    for n, k, i, j in [(0, 0, 0, 0), (N - 1, K - 1, grid[0] - 1, grid[1] - 1)]:
        assert images[n, k, i, j] == scores[(n * grid[0] + i) * grid[1] + j, k]
    large = oracles_maps.resize_bilinearly(images.numpy(), *dense.SIZE)
    expected = oracles_pixels.list_pixels(large, targets.numpy())
    np.testing.assert_allclose(pixels.spread(scores), expected, atol=1e-12)
    assert torch.equal(Batch(pixels.labels, pixels=pixels).spread(scores), pixels.spread(scores))
    nearest = oracles_maps.resize_nearest(images.numpy(), *dense.SIZE)
    expected = oracles_pixels.list_pixels(nearest, targets.numpy())
    np.testing.assert_array_equal(pixels.spread(scores, grid, "nearest"), expected)


@pytest.mark.parametrize("grid", [(3, 2), (4, 8), (5, 3), (12, 8)])
def test_rows_are_gathered_around_positions_from_the_pixels_that_have_a_class(grid):
    targets = draw_targets()
    targets[1, :6] = IGNORED
    pixels = find_pixels(draw("decoder", 1), targets, "layer4")
    rows = torch.randn(len(pixels.kept), 3, dtype=DOUBLE)
    means, there = pixels.gather(rows, grid)
    at = {int(place): row for row, place in enumerate(pixels.kept)}
    for q, (n, i, j) in enumerate(np.ndindex(N, *grid)):
        top, bottom = oracles_pixels.find_cell(i, dense.SIZE[0], grid[0])
        left, right = oracles_pixels.find_cell(j, dense.SIZE[1], grid[1])
        inside = [(n * 12 + y) * 8 + x for y in range(top, bottom) for x in range(left, right)]
        own = [rows[at[place]] for place in inside if place in at]
        assert there[q] == bool(own)
        expected = torch.stack(own).mean(dim=0) if own else torch.zeros(3)
        torch.testing.assert_close(means[q], expected.to(DOUBLE), atol=1e-12, rtol=0)
    middle = [targets[n, int((i + 0.5) * 12 / grid[0]), int((j + 0.5) * 8 / grid[1])]
              for n, i, j in np.ndindex(N, *grid)]  # fmt: skip
    assert pixels.locate(grid).flatten().tolist() == middle


# Scores


def make_answers(images: int = 30, classes: int = 6, seed: int = 0):
    """Masks with ignored pixels, answers that are mostly right, a class that only one image has,
    and one that is nowhere."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes - 2, (images, 9, 7))
    truth[3, :4] = classes - 2
    wrong = rng.random(truth.shape) < rng.uniform(0.1, 0.6, (images, 1, 1))
    chosen = np.where(wrong, rng.integers(0, classes - 2, truth.shape), truth)
    truth[rng.random(truth.shape) < 0.1] = IGNORED
    truth[5] = IGNORED  # an image without a single class
    return torch.from_numpy(chosen), torch.from_numpy(truth), classes


def test_pixel_counts_are_the_confusion_matrixs():
    chosen, truth, classes = make_answers()
    counts = count_pixels(chosen, truth, classes)
    assert counts.dtype == torch.int32 and counts.shape == (len(truth), classes, 3)
    for image, found in enumerate(counts):
        kept = truth[image] != IGNORED
        if not kept.any():
            assert not found.any()
            continue
        matrix = confusion_matrix(truth[image][kept], chosen[image][kept], labels=range(classes))
        expected = np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)], axis=1)
        np.testing.assert_array_equal(found, expected)


def test_mean_iou_is_scikit_learns_over_the_classes_that_are_there():
    chosen, truth, classes = make_answers()
    kept = truth != IGNORED
    expected = jaccard_score(truth[kept], chosen[kept], average="macro")  # of the labels it sees
    counts = count_pixels(chosen, truth, classes)
    assert mean_iou(counts.sum(dim=0).double()).item() == pytest.approx(expected, abs=1e-12)
    chosen[0, 0, 0], truth[0, 0, 0] = classes - 1, 0  # now the last class is chosen once, wrongly
    kept = truth != IGNORED
    counts = count_pixels(chosen, truth, classes)
    every = jaccard_score(truth[kept], chosen[kept], average="macro", labels=range(classes))
    assert mean_iou(counts.sum(dim=0).double()).item() == pytest.approx(every, abs=1e-12)
    nothing = count_pixels(chosen[5:6], truth[5:6], classes)
    assert mean_iou(nothing.sum(dim=0).double()).item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_the_images_values_is_the_mean_iou(seed):
    chosen, truth, classes = make_answers(seed=seed)
    counts = count_pixels(chosen, truth, classes)
    values = judge_samples(counts.numpy(), np.zeros(len(truth)))
    whole = mean_iou(counts.sum(dim=0).double()).item()
    assert values.mean() == pytest.approx(whole, abs=1e-12)
    assert values[5] == pytest.approx(whole, abs=1e-12)  # an image without pixels pulls nowhere


def test_resampled_means_of_the_images_values_spread_as_recomputed_mean_ious():
    """The point of the values: their bootstrap is that of the mIoU, to first order."""
    chosen, truth, classes = make_answers(images=300, seed=4)
    for part in (chosen, truth):  # no class of a single image: whether it is drawn is no small step
        part[part == classes - 2] = 1
    counts = count_pixels(chosen, truth, classes).numpy()
    values = judge_samples(counts, np.zeros(len(truth)))
    rng = np.random.default_rng(0)
    means, recomputed = [], []
    for _ in range(400):
        rows = rng.integers(0, len(counts), len(counts))
        means.append(values[rows].mean())
        recomputed.append(mean_iou(torch.from_numpy(counts[rows].sum(axis=0)).double()).item())
    assert np.std(means) == pytest.approx(np.std(recomputed), rel=0.02)
    assert np.corrcoef(means, recomputed)[0, 1] > 0.999
    assert np.mean(means) == pytest.approx(np.mean(recomputed), abs=0.1 * np.std(means))


def test_logits_are_judged_by_their_answers():
    logits, labels = np.array([[0.1, 2.0], [3.0, 1.0], [0.0, 1.0]]), np.array([1, 1, 1])
    assert judge_samples(logits, labels).tolist() == [1.0, 0.0, 1.0]


# Bands over the positions


@pytest.mark.parametrize("cutoff", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (6, 3), (1, 4), (1, 1)])
def test_the_plane_is_split_as_by_a_mask_over_the_whole_spectrum(size, cutoff):
    x = torch.randn(2, 3, *size, dtype=DOUBLE)
    low, high, mean = split_space(x, cutoff, "own")
    expected = oracles_pixels.split_plane(x.numpy(), cutoff)
    for found, wanted in zip((low, high, mean), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    torch.testing.assert_close(low + high + mean, x, atol=1e-12, rtol=0)
    for rule, part in (("drop", low), ("low", low + mean)):
        torch.testing.assert_close(split_space(x, cutoff, rule).low, part)
        torch.testing.assert_close(split_space(x, cutoff, rule).high, high)


@pytest.mark.parametrize(
    "down, along, band", [(1, 0, 0), (2, 2, 0), (0, 2, 0), (3, 0, 1), (1, 3, 1), (4, 4, 1)]
)
def test_a_planted_sinusoid_lands_in_its_band(down, along, band):
    """Over 8 × 8 positions the Nyquist frequency is 4 waves: at one half, 2 waves are low."""
    i, j = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    wave = torch.cos(2 * math.pi * (down * i + along * j) / 8)[None, None] + 5.0
    parts = split_space(wave, 0.5)
    torch.testing.assert_close(parts[band], wave - 5.0, atol=1e-5, rtol=0)
    assert parts[1 - band].abs().max() < 1e-5


@pytest.mark.parametrize("scale, log", [(True, True), (False, False)])
def test_fdcmkd_splits_channels_over_space_where_asked(scale, log):
    """Its distances against the oracle's split of the two maps, at every position."""
    sizes = make_sizes("alike", "decoder")
    options = {"axis": "space", "scale": scale, "log": log, "align": False}
    method = build_method("fdcmkd", options, sizes, "segmentation").double()
    student, teacher = draw("alike", 1, dtype=DOUBLE), draw("decoder", 2, dtype=DOUBLE)
    terms = method(*fold_pair(student, teacher, draw_targets(), sizes))
    bands = [
        oracles_pixels.split_plane(x.numpy(), 0.5)
        for x in (student.maps["layer2"], teacher.maps["layer4"])  # both 8 channels, 3 × 2
    ]
    for place, band in enumerate(("low", "high")):
        mine, theirs = (oracles_pixels.list_rows(part[place]) for part in bands)
        if scale:
            mine, theirs = oracles.unit(mine), oracles.unit(theirs)
        if log and band == "high":
            mine, theirs = oracles.signed_log(mine), oracles.signed_log(theirs)
        assert terms[band].item() == pytest.approx(oracles.mse(mine, theirs), rel=1e-9)
    channel = build_method("fdcmkd", options | {"axis": "channel"}, sizes, "segmentation").double()
    channel.load_state_dict(method.state_dict())
    other = channel(*fold_pair(student, teacher, draw_targets(), sizes))
    assert abs(other["low"].item() / terms["low"].item() - 1) > 1e-3


@pytest.mark.parametrize("options", [{"frequency": False}, {"basis": "dct"}])
def test_the_spatial_transform_needs_positions_and_fourier(options):
    sizes = make_sizes("alike", "decoder")
    with pytest.raises(UserError, match="axis is 'space'"):
        build_method("fdcmkd", {"axis": "space"} | options, sizes)
    with pytest.raises(UserError, match="expected segmentation"):
        build_method("fdcmkd", {"axis": "space"}, sizes, "classification")


# MMANet and CIRKD against the transcriptions


CASES = {
    "mmanet": [
        ("decoder", "decoder", {}, [(f"layer{i}", f"layer{i}") for i in (2, 3, 4)]),
        ("plain", "decoder", {"weight": 1.5}, [("layer1", "layer2"), ("layer2", "layer4")]),
    ],
    "cirkd": [
        ("decoder", "decoder", {}, (("aspp", "aspp"), (3, 2), (3, 2))),
        ("decoder", "plain", {}, (("aspp", "layer2"), (4, 3), (4, 3))),
        ("plain", "decoder", {"refine": False}, (("layer2", "aspp"), (3, 2), (3, 2))),
        ("decoder", "plain", {"positions": 5}, (("aspp", "layer2"), (2, 1), (4, 3))),
    ],
}
CHECKED = [(name, *case) for name, cases in CASES.items() for case in cases]


def prepare(name, student, teacher, options):
    torch.manual_seed(7)
    method = build_method(name, options, make_sizes(student, teacher), "segmentation").double()
    for x in method.parameters():  # away from the 0 and 1 that norms start at
        x.data += 0.3 * torch.randn_like(x)
    outputs = draw(student, 1, dtype=DOUBLE), draw(teacher, 2, dtype=DOUBLE)
    return method.train(), outputs, draw_targets()


def transcribe(name, p, outputs, targets, options, places):
    pair = [Output(x["logits"], x) for x in outputs]
    if name == "mmanet":
        return oracles_pixels.mmanet_terms(*pair, targets, places, **options)
    return oracles_pixels.cirkd_terms(*pair, targets, p, *places, K)


@pytest.mark.parametrize("name, student, teacher, options, places", CHECKED)
def test_terms_and_gradients_are_the_transcriptions(name, student, teacher, options, places):
    """Values to 1e-9; gradients at maps, logits and parameters along random directions to 1e-6."""
    method, outputs, targets = prepare(name, student, teacher, options)
    p = {n: x.detach().numpy().copy() for n, x in method.state_dict().items()}
    arrays = [
        {n: x.numpy().copy() for n, x in (output.maps | {"logits": output.logits}).items()}
        for output in outputs
    ]
    expected = transcribe(name, p, arrays, targets.numpy(), options, places)
    leaves = {"logits": outputs[0].logits, **outputs[0].maps}
    for leaf in leaves.values():
        leaf.requires_grad_()
    terms = method(*fold_pair(*outputs, targets, method.sizes))
    assert {n: x.item() for n, x in terms.items()} == pytest.approx(expected, rel=1e-9, abs=1e-12)

    wanted, names = leaves | dict(method.named_parameters()), list(terms)
    found = [
        torch.autograd.grad(x, list(wanted.values()), retain_graph=True, materialize_grads=True)
        for x in terms.values()
    ]
    rng = np.random.default_rng(0)
    for number, (place, leaf) in enumerate(wanted.items()):
        direction = rng.standard_normal(leaf.shape)
        home, key = (p, place) if place in p else (arrays[0], place)
        base = home[key]

        def along(step, home=home, key=key, base=base, direction=direction):
            home[key] = base + step[0] * direction
            values = transcribe(name, p, arrays, targets.numpy(), options, places)
            home[key] = base
            return np.array([values[term] for term in names])

        measured = oracles.differentiate(along, np.zeros(1), step=1e-5)[:, 0]
        slopes = [(gradients[number].numpy() * direction).sum() for gradients in found]
        assert slopes == pytest.approx(measured, rel=1e-6, abs=1e-8), place
    used = {
        name for gradients in found for name, g in zip(wanted, gradients, strict=True) if g.any()
    }
    assert used >= {"logits", *dict(method.named_parameters())}


# MMANet


def draw_rows(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, generator=generator, dtype=DOUBLE)


def test_the_gram_distance_is_that_of_the_whole_matrices_also_in_float32():
    """No matrix of positions is made; nothing of it is lost, and a dead position is none."""
    s, t, weights = draw_rows(101, 7, 1), draw_rows(101, 4, 2), draw_rows(101, 1, 3)[:, 0]
    s[3], t[3], t[10] = 0, 0, 0
    expected = 0.0
    for half in (slice(0, 50), slice(50, 101)):
        for i in range(101):
            a, b = ((x @ x.T).numpy()[i, half] for x in (s, t))
            a, b = (x / max(np.linalg.norm(x), 1e-12) for x in (a, b))
            expected += weights[i].item() * ((a - b) ** 2).sum()
    assert gram_distance(s, t, weights).item() == pytest.approx(expected, rel=1e-10)
    single = gram_distance(s.float(), t.float(), weights.float()).item()
    assert single == pytest.approx(expected, rel=1e-4)


def test_the_gram_distance_sees_relations_alone():
    s, t, weights = draw_rows(40, 6, 1), draw_rows(40, 6, 2), torch.full((40,), 1 / 40)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    value = gram_distance(s, t, weights)
    assert value > 1e-3
    torch.testing.assert_close(gram_distance(1e9 * s, 1e-9 * t, weights), value)
    torch.testing.assert_close(gram_distance(s @ torch.from_numpy(rotation), t, weights), value)
    assert gram_distance(s, 2 * s, weights).abs() < 1e-12


def test_uncertain_positions_weigh_most_and_sure_ones_never_give_nan():
    logits = torch.tensor([[0.0, 0, 0], [9.0, 0, 0], [1e4, -1e4, 0], [0, 0, 0]])
    there = torch.tensor([True, True, True, False])
    weights = entropy_weights(logits, there)
    assert weights.sum().item() == pytest.approx(1) and weights[0] > 100 * weights[1] > 0
    assert weights[3] == 0
    sure = entropy_weights(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.ones(2))
    assert sure.tolist() == [0.5, 0.5]


def test_mmanet_waits_for_its_warm_up_and_reads_three_stages():
    sizes = make_sizes("decoder", "decoder")
    method = build_method("mmanet", {}, sizes, "segmentation")
    assert method.teacher_maps == {"layer2", "layer3", "layer4"}
    student, teacher, batch = fold_pair(
        draw("decoder", 1), draw("decoder", 2), draw_targets(), sizes
    )
    for progress, on in ((1 / 300, False), (10 / 300, False), (11 / 300, True), (1.0, True)):
        given = Batch(batch.labels, batch.rows, progress, batch.pixels)
        assert (method(student, teacher, given)["margin"].item() > 0) == on


def test_large_maps_are_averaged_to_thirty_by_forty_positions(monkeypatch):
    from fdlab.methods import mmanet

    sizes, seen = make_sizes("plain", "plain"), []
    original = mmanet.gram_distance
    monkeypatch.setattr(mmanet, "gram_distance", lambda s, t, w: seen.append(
        (s.shape, t.shape, w.shape)) or original(s, t, w))  # fmt: skip
    pair = []
    for seed in (1, 2):
        output = draw("plain", seed, 2, (64, 96))
        output.maps["layer1"], output.maps["layer2"] = (torch.rand(2, c, h, w) for c, h, w in
                                                        ((5, 64, 96), (6, 31, 20)))  # fmt: skip
        pair.append(output)
    method = build_method("mmanet", {}, sizes, "segmentation")
    method(*fold_pair(*pair, draw_targets(n=2, size=(64, 96)), sizes))
    rows = [2 * 30 * 40, 2 * 30 * 20]
    assert seen == [((r, c), (r, c), (r,)) for r, c in zip(rows, (5, 6), strict=True)]


# CIRKD


@pytest.mark.parametrize("size", [4, 7])
def test_a_memory_keeps_the_newest_of_each_group(size):
    rng = np.random.default_rng(0)
    memory, expected = Memory(3, size, 1), [deque(maxlen=size) for _ in range(3)]
    generator, number = torch.Generator().manual_seed(0), 0
    for _ in range(30):
        there = rng.random((3, 10)) < rng.choice([0.1, 0.5, 0.9])
        values = np.arange(number, number + 30).reshape(3, 10)
        number += 30
        memory.add(torch.from_numpy(values)[..., None], torch.from_numpy(there))
        for group in range(3):
            expected[group].extend(values[group][there[group]])
        for count in (2, size, 100):
            drawn, found = memory.draw(count, generator)
            drawn, found = drawn.view(3, -1), found.view(3, -1)
            assert drawn.shape == (3, min(count, size))
            for group in range(3):
                kept = drawn[group][found[group]].tolist()
                assert len(set(kept)) == len(kept) == min(count, len(expected[group]))
                assert set(kept) <= set(expected[group])


def test_draws_from_a_memory_are_even():
    memory = Memory(2, 8, 1)
    memory.add(torch.arange(10.0).view(2, 5, 1), torch.ones(2, 5, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([memory.draw(2, generator)[0].flatten() for _ in range(2000)])
    counts = torch.bincount(drawn.long(), minlength=10)
    assert (counts - 800).abs().max() < 100  # 800 ± 22 each


def build_cirkd(options=None, samples: int = 40):
    torch.manual_seed(7)
    sizes = make_sizes("decoder", "alike", samples)
    return build_method("cirkd", options or {}, sizes, "segmentation").train()


def test_memories_are_as_large_as_published_but_no_larger_than_an_epoch_and_in_no_state_dict():
    method = build_cirkd()  # 40 images, teacher's map of 6 channels and 3 × 2 positions
    shapes = [tuple(x.entries.shape) for x in (method.pixels, method.regions, method.channels)]
    assert shapes == [(K, 16 * 40 + 1, 6), (K, 40 + 1, 6), (1, 6 * 40 + 1, 6)]
    large = build_cirkd(samples=5000)
    assert [x.size for x in (large.pixels, large.regions, large.channels)] == [
        20_000,
        2_000,
        10_000,
    ]
    assert not [
        n for n in method.state_dict() if n.split(".")[0] in ("pixels", "regions", "channels")
    ]


def test_the_queue_of_a_class_holds_positions_of_that_class_and_no_more_than_sixteen_an_image():
    """Features that say their class: the release stores an image's first positions instead."""
    method = build_cirkd({"pixel_additions": 3})
    targets = draw_targets()
    student, teacher = draw("decoder", 1), draw("alike", 2)
    pixels = find_pixels(student, targets, "layer4")
    labels = pixels.locate((3, 2))
    classes = labels.clamp_max(K).view(N, 3, 2)
    teacher.maps["aspp"] = torch.nn.functional.one_hot(classes, 6).permute(0, 3, 1, 2).float()
    method(*fold_pair(student, teacher, targets, method.sizes))
    for k in range(K):
        per = [(labels[n] == k).sum().item() for n in range(N)]
        assert method.pixels.filled[k] == sum(min(count, 3) for count in per)
        assert method.regions.filled[k] == sum(count > 0 for count in per)
        for memory in (method.pixels, method.regions):
            kept = memory.entries[k, : memory.filled[k]]
            assert torch.equal(kept.argmax(dim=1), torch.full((len(kept),), k))
            torch.testing.assert_close(kept.sum(dim=1), torch.ones(len(kept)))
    assert sum(method.pixels.filled) > 0
    before = method.pixels.filled.clone()
    method.eval()(*fold_pair(student, teacher, targets, method.sizes))
    assert torch.equal(method.pixels.filled, before)  # a look without training leaves no trace


def test_what_was_remembered_counts_later():
    """The same batch after another one differs from it alone, in the memory terms only."""
    method, targets = build_cirkd(), draw_targets()
    for x in method.modules():
        if isinstance(x, torch.nn.BatchNorm2d):
            x.momentum = 0.0
    student, teacher, other = draw("decoder", 1), draw("alike", 2), draw("alike", 5)
    alone = copy.deepcopy(method)(*fold_pair(student, teacher, targets, method.sizes))
    method(*fold_pair(student, other, targets, method.sizes))
    after = method(*fold_pair(student, teacher, targets, method.sizes))
    changed = {n for n in alone if abs(alone[n].item() - after[n].item()) > 1e-6}
    assert changed == {"memory_pixel", "memory_region", "memory_channel"}


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn():
    method = build_cirkd({"refine": False})
    sizes = make_sizes("alike", "alike")
    teacher = draw("alike", 2)
    terms = method(*fold_pair(teacher, teacher, draw_targets(), sizes))
    assert terms["kd"].abs() < 1e-6 and terms["pixel"].abs() < 1e-6 and terms["hint"] > 1e-3


@pytest.mark.parametrize(
    "size, most, expected",
    [((16, 16), 256, (16, 16)), ((30, 40), 256, (13, 18)), ((64, 128), 256, (11, 22)),
     ((1, 900), 256, (1, 256)), ((900, 1), 256, (256, 1)), ((3, 2), 1, (1, 1))],
)  # fmt: skip
def test_positions_are_bounded(size, most, expected):
    found = bound(size, most)
    assert math.prod(found) <= most
    ratio = math.sqrt(most / math.prod(size))
    if 1 not in size and most > 1 and ratio < 1:  # a whole number is lost to rounding at most
        assert all(length * ratio - 1 < part <= length * ratio for part, length in
                   zip(found, size, strict=True))  # fmt: skip
    else:
        assert found == expected


def test_channels_are_averaged_by_four_but_not_to_nothing():
    sizes = {(64, 128): (16, 32), (16, 16): (4, 4), (30, 40): (8, 10), (8, 5): (4, 4)}
    for size, expected in (sizes | {(3, 2): (3, 2), (1, 1): (1, 1)}).items():
        assert shrink_by_patch(size) == expected


@pytest.mark.parametrize("name, options, message", [
    ("cirkd", {"temperature": 0.0}, "above 0"), ("cirkd", {"pixel_memory": 0}, "above 0"),
    ("cirkd", {"hint_weight": -1.0}, "from 0"), ("mmanet", {"warmup": -0.1}, "from 0"),
])  # fmt: skip
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        build_method(name, options, make_sizes("decoder", "alike"), "segmentation")

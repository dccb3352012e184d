"""Boxes from the truth to the number: views, targets, loss, decoding and average precision."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.transforms import Bbox
from torch.nn import functional

from fdlab.core.errors import UserError
from fdlab.data.augment import AUGMENTATIONS, View, draw_view
from fdlab.data.boxes import move_boxes
from fdlab.data.dataset import IGNORE, NOTHING
from fdlab.data.paired import PairedData, shrink
from fdlab.figures.boxes import show_boxes
from fdlab.figures.plate import Plate
from fdlab.losses.boxes import assign_targets, detection_loss, focal_terms, generalised_iou
from fdlab.training.detect import (
    decode_detections,
    match,
    measure_map,
    score_detections,
    spread_precision,
)

CPU = torch.device("cpu")
FILL = [-1.0] * 5


# Views


def fill_rectangles(count: int, size: tuple[int, int], step: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) masks of one filled rectangle each and its box (N, 1, 5); corners are multiples
    of `step`."""
    rng = np.random.default_rng(0)
    masks, boxes = np.zeros((count, *size), np.uint8), np.zeros((count, 1, 5), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        (y0, y1), (x0, x1) = (
            np.sort(step * rng.choice(side // step + 1, 2, replace=False)) for side in size
        )
        mask[y0:y1, x0:x1] = 1
        box[0] = 3, x0, y0, x1, y1
    return masks, boxes


@pytest.mark.parametrize("stored, size", [((40, 56), (40, 56)), ((40, 48), (35, 42)),
                                          ((128, 128), (56, 56)), ((24, 32), (48, 64))],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["", *(n for n, a in AUGMENTATIONS.items() if a.geometry != "shift")]
)
def test_a_box_goes_where_its_rectangle_goes(name, stored, size):
    """Boxes and masks of the same data."""
    count, augmentation = 300, AUGMENTATIONS.get(name)
    masks, truths = fill_rectangles(count, stored, step=2)
    held = torch.from_numpy(shrink(masks, size))
    data = PairedData(
        store=SimpleNamespace(read={"m": masks}.get), inputs={}, labels=torch.zeros(count), rows={},
        scale={}, masks=held, sizes={"m": size}, augmentations={"m": augmentation},
    )  # fmt: skip
    rows, generator = torch.arange(count), torch.Generator().manual_seed(1)
    view = draw_view(augmentation, count, 0, generator)
    seen = data.targets("m", rows, view)
    found = replace(data, boxes=torch.from_numpy(truths)).targets("m", rows, view)[:, 0]
    assert tuple(seen.shape[1:]) == size
    kinds = set()
    for mask, (kind, *corners) in zip((seen == 1).numpy(), found.tolist(), strict=True):
        kinds.add(kind)
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        if not len(rows):  # nothing, or less than a pixel's middle
            sides = corners[2] - corners[0], corners[3] - corners[1]
            assert kind == NOTHING or min(sides) < 1
            continue
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(corners, expected, atol=1.0)
    cuts = augmentation is not None and augmentation.geometry == "crop"
    assert kinds >= {3.0, IGNORE, NOTHING} if cuts else 3.0 in kinds


def test_a_shift_moves_boxes_at_the_networks_size():
    """Planted: two pixels down, one to the left, of an image that is shrunk to half."""
    truths = torch.tensor([[[1, 8, 8, 20, 16], FILL]])
    view = View(1, corner=torch.tensor([[[0]], [[3]]]))
    found = move_boxes(truths, (32, 32), (32, 32), (16, 16), AUGMENTATIONS["shift"], view)
    assert found.tolist() == [[[1, 3, 6, 9, 10], FILL]]


def test_a_cut_box_is_a_region_below_a_quarter_and_none_outside():
    """Planted: 40 × 40 with a border of 5 black pixels, seen from 10 columns to the right."""
    truths = torch.tensor([[[5, 1, 10, 9, 20],  # half of it stays
                            [5, 2, 10, 6, 20],  # a quarter, which is enough
                            [5, 1, 10, 6, 20],  # a fifth
                            [5, 0, 10, 5, 20],  # nothing: it ends where the view begins
                            [IGNORE, 0, 10, 6, 20],  # a region stays one, however little of it
                            FILL]])  # fmt: skip
    view = View(2, box=torch.tensor([[0.5, 0.95, 0.9], [0.5, 0.95, 0.1]]))  # the second flipped
    found = move_boxes(
        truths.repeat(2, 1, 1), (40, 40), (40, 40), (40, 40), AUGMENTATIONS["pad_flip"], view
    )
    rows = [[5, 0, 10, 4, 20], [5, 0, 10, 1, 20], [IGNORE, 0, 10, 1, 20], FILL,
            [IGNORE, 0, 10, 1, 20], FILL]  # fmt: skip
    turned = [[k, 40 - x1, y0, 40 - x0, y1] if k != NOTHING else FILL for k, x0, y0, x1, y1 in rows]
    assert found.tolist() == [rows, turned]


# Targets


def make_truths(*images: list, rows: int = 4) -> torch.Tensor:
    return torch.tensor([[*map(list, image), *[FILL] * (rows - len(image))] for image in images])


def test_targets_of_a_hand_made_image():
    """Stride 10, 6 × 7 positions: a large box, a smaller one in it, and a region."""
    truths = make_truths([(1, 0, 0, 50, 50), (4, 20, 20, 34.5, 40), (IGNORE, 50, 0, 70, 40)])
    classes, distances, centreness = assign_targets(truths, 6, 7, 10)
    b, i = NOTHING, IGNORE
    assert classes.tolist() == [[
        [b, b, b, b, b, i, i],
        [b, 1, 1, 1, b, i, i],  # centres 15, 25, 35 lie within 15 pixels of 25
        [b, 1, 4, 1, b, i, i],  # the smaller box wins, but holds no centre at 35
        [b, 1, 4, 1, b, i, i],  # all of a region, however far from its middle
        [b, b, b, b, b, b, b],
        [b, b, b, b, b, b, b],
    ]]  # fmt: skip
    assert classes.dtype == torch.int64
    assert distances[0, :, 1, 1].tolist() == [1.5, 1.5, 3.5, 3.5]
    torch.testing.assert_close(distances[0, :, 2, 2], torch.tensor([0.5, 0.5, 0.95, 1.5]))
    assert centreness[0, 1, 1].item() == pytest.approx(1.5 / 3.5)
    assert centreness[0, 2, 2].item() == pytest.approx(math.sqrt(0.5 / 0.95 * 0.5 / 1.5))
    assert centreness[0, 1, 2].item() == pytest.approx(math.sqrt(1.5 / 3.5))
    nowhere = classes[0] < 0
    assert not centreness[0][nowhere].any() and not distances[0][:, nowhere].any()


def test_an_object_smaller_than_a_stride_is_assigned():
    """A box and a region that hold no centre get the cell of their middle, at the very edge too."""
    truths = make_truths(
        [(2, 27, 11, 29, 18), (IGNORE, 1, 31, 3, 33), (0, 41, 42, 44, 45)],  # beyond the map
        [(2, 20, 20, 24, 24), (3, 25.5, 25.5, 29, 29), (1, 0, 0, 40, 40)],  # the smaller one wins
    )
    classes, distances, centreness = assign_targets(truths, 4, 4, 10)
    assert classes[0, 1, 2] == 2 and classes[0, 3, 0] == IGNORE and classes[0, 3, 3] == 0
    assert (classes[0] >= 0).sum() == 2 and centreness[0, 1, 2] == centreness[0, 3, 3] == 1
    # From its centre (25, 15) the box begins 2 pixels to the right: that distance counts as 0.
    torch.testing.assert_close(distances[0, :, 1, 2], torch.tensor([0, 0.4, 0.4, 0.3]))
    assert classes[1, 2, 2] == 3 and not (classes[1] == 2).any() and (classes[1] == 1).any()


# The loss


def test_focal_terms_are_the_formula():
    rng = np.random.default_rng(0)
    z, wanted = 4 * rng.standard_normal((3, 5, 2, 2)), rng.random((3, 5, 2, 2)) < 0.2
    p = 1 / (1 + np.exp(-z))
    expected = np.where(wanted, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
    found = focal_terms(torch.from_numpy(z), torch.from_numpy(wanted))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    extreme = torch.tensor([200.0, -200.0], requires_grad=True)
    value = focal_terms(extreme, torch.tensor([False, True]))
    assert torch.isfinite(value).all()
    assert torch.isfinite(torch.autograd.grad(value.sum(), extreme)[0]).all()


@pytest.mark.parametrize("one, two, expected", [
    ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
    ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),  # nested: the box around both is the larger one
    ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 9),
    ((0, 0, 1, 1), (3, 0, 4, 1), -0.5),  # disjoint: 2 of 4 are empty
    ((0, 0, 1, 1), (1, 1, 2, 2), -0.5),
    ((0, 0, 0, 0), (0, 0, 2, 2), 0.0),
])  # fmt: skip
def test_giou_of_hand_made_boxes(one, two, expected):
    one, two = (torch.tensor(x, dtype=torch.float32) for x in (one, two))
    assert generalised_iou(one, two).item() == pytest.approx(expected)
    assert generalised_iou(two, one).item() == pytest.approx(expected)


def answer_perfectly(truths: torch.Tensor, classes: int, h: int, w: int, stride: float):
    """Logits, and boxes with the centreness's logit, that say the targets themselves."""
    kinds, distances, centreness = assign_targets(truths, h, w, stride)
    named = functional.one_hot(kinds.clamp_min(0), classes) * (kinds >= 0)[..., None]
    logits = 30 * (2 * named.permute(0, 3, 1, 2).float() - 1)
    return logits, torch.cat([distances, centreness.logit(1e-6)[:, None]], dim=1), kinds


SCENE = make_truths(
    [(1, 0, 0, 50, 50), (4, 20, 20, 40, 40), (IGNORE, 50, 0, 70, 30)],
    [(2, 27, 11, 29, 18), (0, 3, 30, 33, 58)],
)


def test_a_perfect_answer_is_the_minimum():
    logits, boxes, kinds = answer_perfectly(SCENE, 5, 6, 7, 10)
    _, _, centreness = assign_targets(SCENE, 6, 7, 10)
    logits.requires_grad_(), boxes.requires_grad_()
    loss = detection_loss(logits, boxes, SCENE, 10)
    p = centreness[kinds >= 0].double().clamp(1e-6, 1 - 1e-6)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()  # all that is left
    assert loss.item() == pytest.approx(entropy.item(), abs=1e-5)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-2, 1.0):
        for _ in range(20):
            worse = boxes.detach() + size * torch.randn(boxes.shape, generator=generator)
            worse[:, :4].clamp_min_(0)
            assert detection_loss(logits, worse, SCENE, 10) > loss
            noise = 50 * size * torch.randn(logits.shape, generator=generator)
            assert detection_loss(logits + noise, boxes, SCENE, 10) >= loss
    gradient = torch.autograd.grad(loss, boxes)[0]
    assert gradient[:, 4].abs().max() < 1e-5


def test_the_loss_is_its_three_parts():
    """Written out position by position in float64."""
    rng = np.random.default_rng(1)
    logits, boxes = rng.standard_normal((2, 5, 6, 7)), rng.random((2, 5, 6, 7)) * 3
    kinds, true, centreness = (x.double().numpy() for x in assign_targets(SCENE, 6, 7, 10))
    focal = giou = cross = weight = 0.0
    for n, i, j in np.ndindex(kinds.shape):
        kind, c = kinds[n, i, j], centreness[n, i, j]
        for k in range(5) if kind != IGNORE else ():
            p = 1 / (1 + math.exp(-logits[n, k, i, j]))
            focal -= (
                0.25 * (1 - p) ** 2 * math.log(p) if k == kind
                else 0.75 * p**2 * math.log(1 - p)
            )  # fmt: skip
        if kind >= 0:
            (a, t, r, b), (x, y, u, v) = boxes[n, :4, i, j], true[n, :, i, j]
            shared = (min(a, x) + min(r, u)) * (min(t, y) + min(b, v))
            union = (a + r) * (t + b) + (x + u) * (y + v) - shared
            around = (max(a, x) + max(r, u)) * (max(t, y) + max(b, v))
            giou += c * (1 - shared / union + (around - union) / around)
            p = 1 / (1 + math.exp(-boxes[n, 4, i, j]))
            cross -= c * math.log(p) + (1 - c) * math.log(1 - p)
            weight += c
    count = (kinds >= 0).sum()
    expected = focal / count + giou / weight + cross / count
    found = detection_loss(torch.from_numpy(logits), torch.from_numpy(boxes), SCENE, 10)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_what_is_ignored_or_background_gets_no_gradient_and_cannot_break_the_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator).requires_grad_()
    boxes = torch.randn(2, 5, 6, 7, generator=generator).abs()
    kinds = assign_targets(SCENE, 6, 7, 10)[0]
    boxes[:, [0, 4]] = boxes[:, [0, 4]].masked_fill((kinds < 0)[:, None], torch.inf)
    boxes.requires_grad_()
    by_logits, by_boxes = torch.autograd.grad(
        detection_loss(logits, boxes, SCENE, 10), (logits, boxes)
    )
    for gradient, without in ((by_logits, kinds == IGNORE), (by_boxes, kinds < 0)):
        positions = gradient.abs().sum(dim=1)
        assert without.any() and not positions[without].any() and positions[~without].all()
    empty = make_truths([], [])
    loss = detection_loss(logits, boxes, empty, 10)
    names = torch.zeros(logits.shape, dtype=torch.bool)
    torch.testing.assert_close(loss, focal_terms(logits, names).sum())


def test_the_loss_is_full_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator).bfloat16()
    boxes = torch.randn(2, 5, 6, 7, generator=generator).abs().bfloat16()
    expected = detection_loss(logits.float(), boxes.float(), SCENE, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detection_loss(logits, boxes, SCENE, 10)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_nothing_is_read_back_from_the_device():
    """On a device without values every such read, and every boolean index, is an error."""
    on_meta = {"device": "meta"}
    logits = torch.zeros(2, 5, 6, 7, **on_meta, requires_grad=True)
    boxes = torch.zeros(2, 5, 6, 7, **on_meta, requires_grad=True)
    truths, box = SCENE.to("meta"), torch.zeros(2, 5, **on_meta)
    for name in ("pad_flip", "scene", "shift"):
        corner = torch.zeros(2, 2, 1, dtype=torch.int64, **on_meta) if name == "shift" else None
        view = View(2, corner=corner, box=box[:, :3] if name == "pad_flip" else box)
        seen = move_boxes(truths, (80, 80), (64, 64), (60, 70), AUGMENTATIONS[name], view)
        detection_loss(logits, boxes, seen, 10).backward()
    assert logits.grad.is_meta and boxes.grad.is_meta
    assert decode_detections(logits, boxes, 10, (60, 70)).shape == (2, 50, 6)
    with pytest.raises(RuntimeError):
        boxes[boxes > 0].sum().item()


# Decoding


def test_a_perfect_answer_decodes_to_its_boxes():
    """Also an object without a centre, whose box reaches to the centre of its cell."""
    logits, boxes, _ = answer_perfectly(SCENE, 5, 6, 7, 10)
    found = decode_detections(logits, boxes, 10, (60, 70))
    assert found.shape == (2, 50, 6) and found.dtype == torch.float32
    for rows, expected in zip(found, ([(1, 0, 0, 50, 50), (4, 20, 20, 40, 40)],
                                      [(2, 25, 11, 29, 18), (0, 3, 30, 33, 58)]),
                              strict=True):  # fmt: skip
        objects = rows[rows[:, 0] >= 0]
        assert (rows[rows[:, 0] < 0] == torch.tensor([-1.0, 0, 0, 0, 0, 0])).all()
        boxes = objects[:, [0, 2, 3, 4, 5]].tolist()
        np.testing.assert_allclose(sorted(boxes), sorted(map(list, expected)), atol=1e-4)


def suppress(rows: list, overlap: float) -> list:
    """Greedy suppression of each class, written out: rows are class, score, box."""
    kept = []
    for row in sorted(rows, key=lambda r: (-r[1], r[0])):  # stable: then by position
        for other in kept:
            (a, b, c, d), (e, f, g, h) = row[2], other[2]
            shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
            union = (c - a) * (d - b) + (g - e) * (h - f) - shared
            if other[0] == row[0] and shared > overlap * union:
                break
        else:
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_decoding_is_greedy_suppression_of_each_class(seed):
    """Written out; with scores that are equal, boxes that leave the image, and nan."""
    rng = np.random.default_rng(seed)
    n, classes, h, w, stride, size = 2, 3, 4, 5, 8, (32, 40)
    logits = rng.choice([-6.0, -1.0, 0.5, 2.0], (n, classes, h, w)).astype(np.float32)
    boxes = rng.uniform(0, 2, (n, 5, h, w)).astype(np.float32)
    boxes[:, 4] = rng.choice([-2.0, 1.0], (n, h, w))
    boxes[0, :4, 1, 1] = 0  # no area
    logits[1, 2, 0, 3] = np.nan
    found = decode_detections(
        torch.from_numpy(logits), torch.from_numpy(boxes), stride, size, 12, 0.2, 0.4
    )
    for image in range(n):
        rows = []
        p, c = (1 / (1 + np.exp(-x[image].astype(np.float64))) for x in (logits, boxes[:, 4]))
        for k, i, j in np.ndindex(classes, h, w):
            score = math.sqrt(p[k, i, j] * c[i, j])
            left, top, right, bottom = stride * boxes[image, :4, i, j].astype(np.float64)
            x, y = (j + 0.5) * stride, (i + 0.5) * stride
            box = max(x - left, 0), max(y - top, 0), min(x + right, 40), min(y + bottom, 32)
            if score >= 0.2:
                rows.append((k, round(score, 5), box))
        kept = suppress(rows, 0.4)[:12]
        assert len(kept) > 5
        expected = [[k, s, *box] for k, s, box in kept] + [[-1, 0, 0, 0, 0, 0]] * (12 - len(kept))
        np.testing.assert_allclose(found[image].numpy(), expected, atol=2e-4)


# Average precision


def pack(images: list[list], width: int, rows: int) -> np.ndarray:
    packed = np.full((len(images), rows, width), -1, np.float32)
    for image, found in zip(packed, images, strict=True):
        for row, values in zip(image, found, strict=False):
            row[:] = values
    return packed


A, B = (0, 0, 10, 10), (20, 20, 30, 30)


@pytest.mark.parametrize("found, true, expected", [
    # Each image: what is found (class, score, box), what is true (class, box).
    ([[(0, 0.9, *A)], [(1, 0.3, *B)]], [[(0, *A)], [(1, *B)]], (1, 1)),
    ([[], []], [[(0, *A)], [(1, *B)]], (0, 0)),
    ([[(0, 0.9, *A), (0, 0.5, *B)]], [[(0, *A)]], (1, None)),  # wrong, but below
    ([[(0, 0.4, *A), (0, 0.5, *B)]], [[(0, *A)]], (0.5, None)),  # above: 1 of 2 at every recall
    ([[(0, 0.9, *A), (0, 0.8, *A)], [(0, 0.7, *A)]], [[(0, *A)], [(0, *A)]],
     ((51 + 50 * 2 / 3) / 101, None)),  # the duplicate is wrong: 1 up to recall 0.5, then 2 of 3
    ([[(0, 0.9, *B), (0, 0.5, *A)]], [[(0, *A), (-2, 15, 15, 40, 40)]], (1, None)),
    ([[(0, 0.9, 0, 0, 10, 4.5)]], [[(0, *A)]], (0, None)),
    ([[(0, 0.9, 0, 0, 10, 5)]], [[(0, *A)]], (1, None)),  # an IoU of exactly one half
    ([[(0, 0.9, *A), (1, 0.8, *B)]], [[(0, *A)]], (1, None)),  # no object of 1: left out
    ([[(1, 0.9, *A)]], [[(0, *A)]], (0, None)),  # the wrong class
    # Of two objects that it overlaps alike a box takes the last, which the next then lacks.
    ([[(0, 0.9, 0, 0, 20, 10), (0, 0.8, 10, 0, 20, 10)]], [[(0, *A), (0, 10, 0, 20, 10)]],
     (51 / 101, None)),
])  # fmt: skip
def test_average_precision_of_hand_made_cases(found, true, expected):
    found, true = pack(found, 6, 3), pack(true, 5, 3)
    result = measure_map(found, true, 2)
    np.testing.assert_allclose(
        result.per_class, [np.nan if x is None else x for x in expected], rtol=1e-12
    )
    whole = np.nanmean(result.per_class)
    assert result.map50 == pytest.approx(whole) == pytest.approx(score_detections(found, true))
    values = spread_precision(found, true)
    assert values.shape == (len(true),) and values.mean() == pytest.approx(whole)


def test_the_mean_over_thresholds_and_no_object_at_all(capsys):
    """IoU 0.7 counts at 5 of the 10 thresholds, 0.5 to 0.7."""
    found, true = pack([[(0, 0.9, 0, 0, 10, 7)]], 6, 1), pack([[(0, *A)]], 5, 1)
    result = measure_map(found, true, 1)
    assert result.map50 == pytest.approx(1) and result.map == pytest.approx(0.5)
    nothing = np.full((2, 1, 5), -1.0)
    assert math.isnan(measure_map(found.repeat(2, 0), nothing, 1).map50)
    assert math.isnan(score_detections(found.repeat(2, 0), nothing))
    assert np.isnan(spread_precision(found.repeat(2, 0), nothing)).all()
    assert capsys.readouterr().out == ""


def test_average_precision_names_what_is_missing(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install "fdlab\[spatial\]"'):
        measure_map(np.zeros((1, 1, 6)), np.zeros((1, 1, 5)), 1)


def draw_scenes(seed: int, n: int, classes: int, found: int, objects: int):
    """Detections that are objects moved a little, or nothing at all; scores of few values, boxes on
    a coarse grid so that overlaps are equal, regions, and images without either."""
    rng = np.random.default_rng(seed)
    true = np.full((n, objects, 5), -1.0, np.float32)
    boxes = np.full((n, found, 6), -1.0, np.float32)
    for image in range(n):
        count = rng.integers(0, objects + 1)
        low = rng.integers(0, 12, (objects, 2)) * 4
        true[image, :, 1:3], true[image, :, 3:] = low, low + 4 * rng.integers(1, 6, (objects, 2))
        true[image, :, 0] = rng.choice([*range(classes - 1), IGNORE], objects)
        for row in range(rng.integers(0, found + 1)):
            other = true[image, rng.integers(objects)]
            kind = other[0] if rng.random() < 0.7 and other[0] >= 0 else rng.integers(classes)
            corners = other[1:] + rng.choice([-2, 0, 0, 2], 4)
            boxes[image, row] = kind, rng.integers(1, 12) / 12, *corners
        true[image, count:] = -1
    return boxes, true


@pytest.mark.parametrize("seed", range(4))
def test_our_average_precision_is_pycocotools(seed):
    boxes, true = draw_scenes(seed, 40, 5, 12, 6)
    result = measure_map(boxes, true, 5)
    assert 0.1 < result.map50 < 0.9 and np.isnan(result.per_class[4])
    assert score_detections(boxes, true) == pytest.approx(result.map50, rel=1e-12)


def test_of_a_class_the_hundred_best_of_an_image_count():
    boxes, true = draw_scenes(0, 3, 2, 150, 60)
    true[..., 0], boxes[:, :, 0] = 0, np.where(np.arange(150) % 30, 0, 1)
    result = measure_map(boxes, true, 2)
    assert score_detections(boxes, true) == pytest.approx(result.map50, rel=1e-12)
    assert match(boxes, true).counted.sum(axis=1).max() <= 105


def weigh(boxes: np.ndarray, true: np.ndarray, weights: np.ndarray) -> float:
    """Mean over classes of the area under the best precision over the recall, image i counted
    weights[i] times; written out."""
    found, areas = match(boxes, true), []
    for kind in np.unique(true[..., 0][true[..., 0] >= 0]):
        rows = [
            (-boxes[i, j, 1], i, found.right[i, j])
            for i, j in np.argwhere(found.counted & (boxes[..., 0] == kind))
        ]
        objects = sum(
            w * (image[:, 0] == kind).sum() for w, image in zip(weights, true, strict=True)
        )
        points, hits, seen = [], 0.0, 0.0
        for _, i, right in sorted(rows):
            hits, seen = hits + weights[i] * right, seen + weights[i]
            points.append((weights[i] * right / objects, hits / seen))
        areas.append(
            sum(step * max(p for _, p in points[k:]) for k, (step, _) in enumerate(points))
        )
    return np.mean(areas)


def draw_apart(seed: int, n: int, classes: int, found: int, objects: int):
    """`draw_scenes` without equal scores, those of right ones higher by and large."""
    boxes, true = draw_scenes(seed, n, classes, found, objects)
    rng = np.random.default_rng(seed)
    score = (rng.random(boxes.shape[:2]) + 0.4 * match(boxes, true).right) / 1.4
    boxes[..., 1] = np.where(boxes[..., 0] >= 0, score, -1)
    return boxes, true


@pytest.mark.parametrize("seed", range(2))
def test_the_values_of_the_images_are_the_areas_derivatives(seed):
    """Where two ranks have the best precision alike the area has a kink, and the value lies between
    the slopes on its sides."""
    n, step = 12, 1e-6
    boxes, true = draw_apart(seed, n, 4, 8, 4)
    values = spread_precision(boxes, true)
    assert values.dtype == np.float64
    assert values.mean() == pytest.approx(measure_map(boxes, true, 4).map50, abs=1e-12)
    weights, sharp = np.ones(n) + step * np.array([-1, 0, 1])[:, None, None] * np.eye(n), 0
    for i in range(n):
        left, middle, right = (weigh(boxes, true, w) for w in weights[:, i])
        slopes = n * (middle - left) / step, n * (right - middle) / step
        assert slopes[0] - 1e-4 < values[i] - values.mean() < slopes[1] + 1e-4
        sharp += slopes[1] - slopes[0] < 1e-4
    assert sharp >= n // 2 and np.ptp(values) > 0.3


def test_means_of_resampled_values_follow_the_precision_of_resampled_images():
    boxes, true = draw_apart(7, 250, 4, 8, 4)
    values, rng = spread_precision(boxes, true), np.random.default_rng(0)
    draws = rng.integers(0, 250, (200, 250))
    means = values[draws].mean(axis=1)
    again = np.array([score_detections(boxes[rows], true[rows]) for rows in draws])
    assert np.corrcoef(means, again)[0, 1] > 0.98
    assert means.std() == pytest.approx(again.std(), rel=0.05)


# Pictures


def test_labels_of_a_crowded_picture_lie_apart_and_inside():
    boxes, true = draw_apart(3, 2, 4, 12, 6)
    names = ("a", "bb", "cabinet", "window")
    images = np.zeros((2, 3, 64, 64), np.uint8)

    def paint(axes):
        show_boxes(list(axes[0]), images, true / [1, 2, 2, 2, 2], boxes / [1, 1, 2, 2, 2, 2], names,
                   size=(32, 32), threshold=0.2, most=5)  # fmt: skip

    plate = Plate.draw(paint, height=1.8, columns=2)
    for axis, rows, objects in zip(plate.figure.axes, boxes, true, strict=True):
        spots = [text.get_bbox_patch().get_window_extent() for text in axis.texts]
        words = [text.get_text().split() for text in axis.texts]
        scores = [float(word[1]) for word in words if len(word) > 1]
        best = np.sort(rows[:, 1])[::-1][:5]
        assert 0 < len(scores) <= 5 and {*scores} <= {round(float(x), 2) for x in best}
        assert {word[0] for word in words} <= {*names} and len(words) > 5
        frame = axis.get_window_extent().padded(1)
        for i, spot in enumerate(spots):
            assert frame.containsx(spot.x0) and frame.containsx(spot.x1)
            assert frame.containsy(spot.y0) and frame.containsy(spot.y1)
            for other in spots[:i]:
                shared = Bbox.intersection(spot.padded(-0.1), other.padded(-0.1))
                assert shared is None or shared.width * shared.height == 0
        corners = [(p.get_x() + 0.5, p.get_y() + 0.5) for p in axis.patches]
        for kind, x0, y0, *_ in objects:
            assert kind == NOTHING or (x0, y0) in corners  # drawn at the picture's own size

"""From a detector's maps to boxes, and how good these are: average precision as COCO defines it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import torch

from fdlab.core.errors import UserError
from fdlab.data.dataset import IGNORE, NOTHING
from fdlab.losses.boxes import intersect, place_centres
from fdlab.models.precision import in_full_precision

MOST = 100  # detections of a class in an image that COCO counts
OVERLAP = 0.5  # IoU from which a box counts as found
LEVELS = np.linspace(0, 1, 101)  # of the recall, at which COCO reads the precision


@torch.no_grad()
@in_full_precision
def decode_detections(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    stride: float,
    size: tuple[int, int],
    count: int = 50,
    threshold: float = 0.02,
    overlap: float = 0.6,
) -> torch.Tensor:
    """The boxes that a detector finds, (n, count, 6) float32: class, score, x0, y0, x1, y1 in
    pixels of its input, best first; rows of class -1 and score 0 fill up.

    logits: (n, K, h, w). boxes: (n, 5, h, w) distances in strides and the centreness's logit. size:
    height and width of the input, at which boxes are cut off. A score is the square root of class
    probability times centreness, as in FCOS's released code. Of what scores at least `threshold`
    the best is taken again and again, and each time what overlaps it by an IoU over `overlap` and
    is of its class falls away: the usual suppression of each class, until `count` boxes are found.
    Equal scores: the lower class first, then the position further up, then further left. What is no
    number is not found.
    """
    n, _, h, w = logits.shape
    rows, columns = place_centres(h, w, stride, logits.device)
    left, top, right, bottom = (stride * boxes[:, :4]).unbind(1)
    down, across = rows[:, None], columns
    edges = [
        (across - left).clamp(0, size[1]), (down - top).clamp(0, size[0]),
        (across + right).clamp(0, size[1]), (down + bottom).clamp(0, size[0]),
    ]  # fmt: skip
    corners = torch.stack(edges).flatten(2).movedim(0, 2)  # (n, P, 4), an edge's values together
    scores = (logits.sigmoid() * boxes[:, 4:].sigmoid()).sqrt().flatten(2)  # (n, K, P)
    scores = scores.masked_fill(~(scores >= threshold), 0.0)
    best, places = scores.max(dim=2)  # (n, K), and kept so, since one class alone changes at a time
    images, found = torch.arange(n, device=logits.device), []
    nothing = scores.new_zeros(6)
    nothing[0] = NOTHING
    for _ in range(count):
        score, kind = best.max(dim=1)
        place = places[images, kind]
        box = corners[images, place]
        row = torch.cat([kind[:, None], score[:, None], box], dim=1)
        found.append(torch.where((score > 0)[:, None], row, nothing))
        shared, union = intersect(box[:, None], corners)
        gone = shared > overlap * union
        gone[images, place] = True  # a box without area, too
        rest = scores[images, kind].masked_fill(gone, 0.0)
        scores[images, kind] = rest
        best[images, kind], places[images, kind] = rest.max(dim=1)
    return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Precision:
    """map50, map: mean average precision at an IoU of 0.5, and its mean over 0.5, 0.55, …, 0.95.
    per_class: (K,) the former's parts, nan for a class that has no object."""

    map50: float
    map: float
    per_class: np.ndarray


def measure_map(detections: np.ndarray, truths: np.ndarray, classes: int) -> Precision:
    """Average precision by COCO's own evaluation (pycocotools), in 0 to 1.

    detections: (n, M, 6) class, score, x0, y0, x1, y1; truths: (n, B, 5) class, x0, y0, x1, y1;
    rows of class -1 fill up. A region of class -2 is one of every class whose objects COCO calls a
    crowd: a detection that lies in it by half or more is neither right nor wrong. Of an image the
    100 best detections of each class count. A class without any object is left out of the means;
    without any at all they are nan.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError(
            'average precision needs pycocotools: pip install "fdlab[spatial]"'
        ) from None
    true, found = [], []
    for image, (objects, boxes) in enumerate(zip(truths, detections, strict=True)):
        for kind, *corners in objects[objects[:, 0] != NOTHING].tolist():
            region = kind == IGNORE
            names = range(classes) if region else [kind]
            true += [_annotate(image, name, corners, iscrowd=int(region)) for name in names]
        for kind, score, *corners in boxes[boxes[:, 0] != NOTHING].tolist():
            found.append(_annotate(image, kind, corners, score=score))
    with contextlib.redirect_stdout(io.StringIO()):  # it talks about its progress
        sides = []
        for rows in (true, found):
            side = COCO()
            side.dataset = {
                "images": [{"id": image} for image in range(len(truths))],
                "categories": [{"id": kind} for kind in range(classes)],
                # Ids from 1: an object of id 0 would count as not found.
                "annotations": [{**row, "id": i} for i, row in enumerate(rows, start=1)],
            }
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, np.inf]], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 0].mean(axis=1)  # (thresholds, K), -1: none
    there = precision[0] >= 0
    if not there.any():
        return Precision(np.nan, np.nan, np.full(classes, np.nan))
    return Precision(
        float(precision[0, there].mean()),
        float(precision[:, there].mean()),
        np.where(there, precision[0], np.nan),
    )


def _annotate(image: int, kind: float, corners: list[float], iscrowd: int = 0, **more) -> dict:
    x0, y0, x1, y1 = corners
    width, height = x1 - x0, y1 - y0
    return {
        "image_id": image, "category_id": int(kind), "bbox": [x0, y0, width, height],
        "area": width * height, "iscrowd": iscrowd, **more,
    }  # fmt: skip


@dataclass(frozen=True)
class Matches:
    """right: (n, M) detections that found an object of their class. counted: (n, M) those that are
    right or wrong. taken: (n, B) objects that were found."""

    right: np.ndarray
    counted: np.ndarray
    taken: np.ndarray


def match(detections: np.ndarray, truths: np.ndarray, least: float = OVERLAP) -> Matches:
    """Give every detection its object, image by image, as COCO does.

    In the order of their scores, of equal ones in the order of their rows, detections take the
    object of their class that they overlap most, by an IoU of at least `least`, of those that are
    free, of equal ones the last. One that gets none and lies in a region by the share `least` or
    more does not count; neither does what lies behind the 100 best of its class and image.
    """
    kinds, names = detections[..., 0], truths[..., 0]
    mine, theirs = (
        torch.from_numpy(x.astype(np.float64))
        for x in (detections[:, :, None, 2:], truths[:, None, :, 1:])
    )
    shared, union = (x.numpy() for x in intersect(mine, theirs))  # (n, M, B)
    area = (mine[..., 2] - mine[..., 0]) * (mine[..., 3] - mine[..., 1])
    same = (kinds[..., None] == names[:, None]) & (names >= 0)[:, None]
    iou = np.where(same, _divide(shared, union), -1.0)
    cover = np.where((names == IGNORE)[:, None], _divide(shared, area.numpy()), 0.0)

    order = np.argsort(np.where(kinds >= 0, -detections[..., 1], np.inf), axis=1, kind="stable")
    images, objects = np.arange(len(kinds)), names.shape[1]
    within = kinds >= 0
    for kind in np.unique(kinds[within]):
        ranks = np.cumsum(np.take_along_axis(kinds == kind, order, axis=1), axis=1)
        late = np.zeros_like(within)
        np.put_along_axis(late, order, ranks > MOST, axis=1)
        within &= ~(late & (kinds == kind))
    right, taken = np.zeros(kinds.shape, bool), np.zeros(names.shape, bool)
    for rows in order.T:
        free = np.where(taken, -1.0, iou[images, rows])
        best = objects - 1 - free[:, ::-1].argmax(axis=1)
        hit = within[images, rows] & (free[images, best] >= least)
        right[images, rows] = hit
        taken[images[hit], best[hit]] = True
    return Matches(right, within & (right | (cover.max(axis=2) < least)), taken)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(part.shape), where=part > 0)


@dataclass(frozen=True)
class _Ranking:
    """The detections of one class over all images, best first: whether each is right (D,) and its
    image (D,); and (n,) how many objects every image has."""

    right: np.ndarray
    images: np.ndarray
    objects: np.ndarray

    def judge(self) -> float:
        return average_precision(self.right, int(self.objects.sum()))


def average_precision(right: np.ndarray, objects: int) -> float:
    """COCO's average precision of ranked detections: the mean over the recalls 0, 0.01, …, 1 of the
    best precision at that recall or a higher one; 0 where it is not reached.

    right: (D,) whether each is right, best first. objects: how many there are to find, not 0.
    """
    best = _find_best(right)[0]
    recall = np.cumsum(right) / objects
    return np.append(best, 0.0)[np.searchsorted(recall, LEVELS)].mean()


def _find_best(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) the best precision from each rank on, and the rank (from 0) that has it."""
    ranks = np.arange(len(right))
    precision = np.cumsum(right) / (ranks + 1 + np.spacing(1))
    back = precision[::-1]
    best = np.maximum.accumulate(back)
    place = np.maximum.accumulate(np.where(back == best, ranks, 0))
    return best[::-1], len(right) - 1 - place[::-1]


def _find_pull(ranking: _Ranking) -> np.ndarray:
    """(n,) how the area under the curve of the best precision over the recall changes with every
    image's weight; the sum is 0.

    With weights w the area is Σ w_k P_m(k) over the right detections k, over Σ w·objects. P is the
    precision, and m(k) the rank from k on where it is best, which a small change leaves in place.
    An image pulls by its own k, by its detections up to each m(k), and by its objects.
    """
    right, images, objects = ranking.right, ranking.images, ranking.objects
    best, place = _find_best(right)
    area = best[right].sum() / objects.sum()
    ranks = np.arange(1, len(right) + 1)
    # 1 / N_m for every right k, at its m; then the sum over the m from a detection on.
    share = np.bincount(place[right], minlength=len(right)) / ranks
    up, down = (np.cumsum(x[::-1])[::-1] for x in (share, share * best))
    pull = np.bincount(images, right * (best + up) - down, minlength=len(objects))
    return (pull - area * objects) / objects.sum()


def _rank(detections: np.ndarray, truths: np.ndarray) -> list[_Ranking]:
    """Of every class that has an object."""
    found = match(detections, truths)
    kinds, names = detections[..., 0], truths[..., 0]
    rankings = []
    for kind in np.unique(names[names >= 0]):
        chosen = found.counted & (kinds == kind)
        order = np.argsort(-detections[..., 1][chosen], kind="stable")
        images = chosen.nonzero()[0][order]
        objects = (names == kind).sum(axis=1)
        rankings.append(_Ranking(found.right[chosen][order], images, objects))
    return rankings


def score_detections(
    detections: np.ndarray | torch.Tensor, truths: np.ndarray | torch.Tensor
) -> float:
    """`measure_map(…).map50` without pycocotools and in a fraction of its time; nan where
    there is no object at all."""
    detections, truths = (
        x.cpu().numpy() if isinstance(x, torch.Tensor) else x for x in (detections, truths)
    )
    found = [ranking.judge() for ranking in _rank(detections, truths)]
    return float(np.mean(found)) if found else np.nan


def spread_precision(detections: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(n,) float64 values of the images whose mean is the mAP at an IoU of 0.5 exactly.

    The mAP is no mean over images. These are the infinitesimal jackknife's values, mAP + n · the
    mean over classes of the derivative with respect to an image's weight, so that means of
    resampled values agree with the mAP of the resampled images to first order; ours, as for the
    mean intersection over union, so that one set of statistics serves all tasks. COCO's precision
    at 101 recalls moves in jumps; the derivative is that of the area under the same curve, which
    those recalls sample.
    """
    rankings = _rank(detections, truths)
    if not rankings:
        return np.full(len(truths), np.nan)
    pull = np.mean([_find_pull(ranking) for ranking in rankings], axis=0)
    values = len(truths) * (pull - pull.mean())  # a sum of 0 but for rounding
    return np.mean([ranking.judge() for ranking in rankings]) + values


def is_detections(predictions: np.ndarray | torch.Tensor) -> bool:
    """Whether an array is what `decode_detections` gives."""
    return predictions.ndim == 3 and predictions.shape[2] == 6

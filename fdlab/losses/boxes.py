"""Detection without anchors on one map: which position answers for which box, and the loss.

After FCOS (Tian et al., ICCV 2019) with what its authors added to the code they released: centre
sampling and GIoU. Of its five maps one is left, so an object's size does not choose its map.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.data.dataset import IGNORE, NOTHING
from fdlab.models.precision import in_full_precision

ALPHA, GAMMA = 0.25, 2.0  # focal loss (Lin et al., ICCV 2017)
RADIUS = 1.5  # strides around an object's middle in which positions are its own
SMALLEST = 1e-7  # of an area, in squared strides, that something is divided by


def place_centres(
    h: int, w: int, stride: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (h,) and columns (w,) of the positions' centres, in pixels."""
    rows, columns = ((torch.arange(count, device=device) + 0.5) * stride for count in (h, w))
    return rows, columns


@torch.no_grad()
def assign_targets(
    truths: torch.Tensor, h: int, w: int, stride: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What every position of a map is to say: classes (N, h, w) int64, distances (N, 4, h, w) to
    the left, top, right and bottom edge in strides, and centreness (N, h, w).

    truths: (N, B, 5) class, x0, y0, x1, y1 in pixels of the network's input; rows of class -1 fill
    up, those of class -2 are regions that do not count. A position whose centre lies inside a box,
    at most 1.5 strides from its middle along either axis, gets its class, of several the smallest
    box's; any other is background (-1), or where its centre lies in a region, none of both (-2).
    Without an object distances and centreness are 0.

    Our choice, where the publication leaves an object out: one (or a region) that holds no centre
    gets the position in whose cell its own middle lies. Its distances, some of which are negative
    there, count as at least 0, and its centreness as 1: it is the best place that the object has.
    Where smaller boxes take all of an object's positions, it has none, as published.
    """
    kind, corners = truths[..., 0].long(), truths[..., 1:].float()
    x0, y0, x1, y1 = corners[..., None].unbind(2)  # (N, B, 1) each
    inside, near, cell = [], [], []
    centres = place_centres(h, w, stride, truths.device)
    for place, low, high in zip(centres, (y0, x0), (y1, x1), strict=True):
        middle = (low + high) / 2
        inside.append((place > low) & (place < high))
        near.append((place - middle).abs() < RADIUS * stride)
        own = (middle / stride).floor().clamp(0, len(place) - 1)
        cell.append(torch.arange(len(place), device=place.device) == own)
    inside, near, cell = (
        down[:, :, :, None] & across[:, :, None] for down, across in (inside, near, cell)
    )  # (N, B, h, w)
    is_object, is_region = (x[..., None, None] for x in (kind >= 0, kind == IGNORE))
    taken = (inside & (near | is_region)) | cell  # of a box with centres its own cell's is one
    region = (taken & is_region).any(dim=1)

    area = ((x1 - x0) * (y1 - y0))[..., None]
    area, row = torch.where(taken & is_object, area, torch.inf).min(dim=1)
    there = area < torch.inf
    classes = kind.gather(1, row.flatten(1)).view_as(row)
    classes = torch.where(there, classes, torch.where(region, IGNORE, NOTHING))

    corners = corners.gather(1, row.flatten(1)[..., None].expand(-1, -1, 4))
    x0, y0, x1, y1 = corners.view(*row.shape, 4).unbind(3)
    down, across = centres[0][:, None], centres[1]
    distances = torch.stack([across - x0, down - y0, x1 - across, y1 - down], dim=1) / stride
    outside = distances.amin(dim=1) <= 0
    distances = torch.where(there[:, None], distances.clamp_min(0), 0.0)
    pairs = distances.view(len(truths), 2, 2, h, w)  # left and top, right and bottom
    ratios = pairs.amin(dim=1) / pairs.amax(dim=1).clamp_min(SMALLEST)
    centreness = ratios.prod(dim=1).sqrt().masked_fill(outside, 1.0)
    return classes, distances, torch.where(there, centreness, 0.0)


@in_full_precision
def detection_loss(
    logits: torch.Tensor, boxes: torch.Tensor, truths: torch.Tensor, stride: float
) -> torch.Tensor:
    """FCOS's loss, a scalar: focal loss of the classes, GIoU of the boxes and cross-entropy of the
    centreness, each with weight 1.

    logits: (N, K, h, w), a sigmoid for each class. boxes: (N, 5, h, w) distances left, top, right
    and bottom from a position's centre in strides, from 0, and the centreness's logit. truths: see
    `assign_targets`. The focal terms of all classes and positions outside regions that do not count
    are summed, over the number of positions with an object; 1 - GIoU is a mean over those, weighted
    by their centreness, and the cross-entropy a plain mean. A batch without any object has the
    focal terms alone, over 1.
    """
    classes, distances, centreness = assign_targets(truths, *logits.shape[2:], stride)
    there = classes >= 0
    count = there.sum().clamp_min(1)
    names = torch.arange(logits.shape[1], device=logits.device)[:, None, None]
    focal = focal_terms(logits, classes[:, None] == names) * (classes != IGNORE)[:, None]

    # Elsewhere both boxes are one and the same, so that nothing there can become infinite.
    found, true = (_spread(x.where(there[:, None], 1.0)) for x in (boxes[:, :4], distances))
    far = centreness * (1 - generalised_iou(found, true))
    far = far.sum() / centreness.sum().clamp_min(SMALLEST)

    centre = functional.binary_cross_entropy_with_logits(
        boxes[:, 4].where(there, 0.0), centreness, reduction="none"
    )
    return focal.sum() / count + far + (centre * there).sum() / count


def _spread(distances: torch.Tensor) -> torch.Tensor:
    """(N, 4, h, w) distances → (N, h, w, 4) boxes around the origin."""
    left, top, right, bottom = distances.unbind(1)
    return torch.stack([-left, -top, right, bottom], dim=-1)


def focal_terms(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """-α_t (1 - p_t)^γ log p_t of every logit (Lin et al., ICCV 2017), α = 0.25, γ = 2; wanted: of
    the same shape, where p is to be 1. α_t and p_t are α and p there, else 1 - α and 1 - p."""
    sure = torch.where(wanted, logits, -logits)
    alpha = torch.where(wanted, ALPHA, 1 - ALPHA)
    return -alpha * torch.sigmoid(-sure) ** GAMMA * functional.logsigmoid(sure)


def intersect(one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas of the intersection and the union of boxes (…, 4), x0, y0, x1, y1; they broadcast."""
    low = torch.maximum(one[..., :2], two[..., :2])
    high = torch.minimum(one[..., 2:], two[..., 2:])
    shared = _multiply((high - low).clamp_min(0))
    areas = [_multiply(x[..., 2:] - x[..., :2]) for x in (one, two)]
    return shared, areas[0] + areas[1] - shared


def generalised_iou(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """GIoU of boxes (…, 4), x0, y0, x1, y1 (Rezatofighi et al., CVPR 2019): the intersection over
    the union, less the share of the smallest box around both that neither covers; -1 to 1."""
    shared, union = intersect(one, two)
    low = torch.minimum(one[..., :2], two[..., :2])
    high = torch.maximum(one[..., 2:], two[..., 2:])
    around = _multiply(high - low).clamp_min(SMALLEST)
    return shared / union.clamp_min(SMALLEST) - (around - union) / around


def _multiply(sides: torch.Tensor) -> torch.Tensor:
    """Width times height; `prod` waits for the device in its gradient, to count zeros."""
    return sides[..., 0] * sides[..., 1]

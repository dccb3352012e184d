"""A student with its method's heads: predictions of every head over a split, and its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fdlab.core import processes
from fdlab.data.dataset import IGNORED
from fdlab.data.paired import PairedData
from fdlab.methods.base import Method
from fdlab.methods.pixels import find_pixels, fold
from fdlab.models.mode import evaluating
from fdlab.models.output import ModelOutput
from fdlab.models.precision import widen
from fdlab.training.detect import (
    decode_detections,
    is_detections,
    score_detections,
    spread_precision,
)
from fdlab.training.together import collect, cut

JUDGED = ("validation", "test")
RAW = "raw"  # the network's own head
MAP = "test/map"  # in segmentation, (n, H, W) uint8, the raw head's class of every pixel

# `<split>/<head>` → (n, K) float32 logits, in segmentation (n, K, 3) int32 pixel counts (see
# `count_pixels`), with `MAP` beside them, in detection (n, M, 6) what was found (see
# `decode_detections`).
Predictions = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Learner:
    """What is trained: the student network of one modality, the method's own modules, and the
    teacher's network where the method trains that too."""

    student: nn.Module
    method: Method
    modality: str
    peer: nn.Module | None = None

    @property
    def parts(self) -> dict[str, nn.Module]:
        found = {"student": self.student, "method": self.method, "teacher": self.peer}
        return {name: part for name, part in found.items() if part is not None}

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that trains."""
        found = [p for part in self.parts.values() for p in part.parameters()]
        return [parameter for parameter in found if parameter.requires_grad]

    def count_parameters(self) -> dict[str, int]:
        """Of every part, those that train."""
        return {
            name: sum(p.numel() for p in part.parameters() if p.requires_grad)
            for name, part in self.parts.items()
        }

    def train(self) -> None:
        for part in self.parts.values():
            part.train()

    def copy_weights(self) -> dict[str, torch.Tensor]:
        """`student.<name>` and `method.<name>` → a copy of every parameter and buffer."""
        parts = {"student": self.student, "method": self.method}
        return {
            f"{owner}.{name}": value.detach().clone().contiguous()
            for owner, part in parts.items()
            for name, value in part.state_dict().items()
        }

    def list_backbone(self) -> list[nn.Parameter]:
        """The student's encoder, where a head stands beside it; else nothing."""
        prefix = self.student.backbone
        named = self.student.named_parameters() if prefix else ()
        return [x for name, x in named if name.startswith(prefix)]

    @property
    def last(self) -> str:
        """Name of the student's map whose positions are its feature; "" where it has none."""
        side = self.method.sizes.student
        if not side.maps or not getattr(self.student, "pools_maps", True):
            return ""
        return next(iter(side.pick("last")))

    @torch.no_grad()
    def predict(self, data: PairedData) -> Predictions:
        """What every head says of the judged splits, networks in eval mode; heads in float32 under
        autocast too. Of processes that train together each judges its part of every batch."""
        found: dict[str, list[torch.Tensor]] = {}
        with evaluating(self.student, self.method):
            for split in JUDGED:
                batches = data.rows[split].split(data.evaluation_batch)
                own = [rows if _is_whole(rows) else cut(rows) for rows in batches]
                data.expect(self.modality, own)
                for batch, rows in zip(batches, own, strict=True):
                    output = self.student(data.batch(self.modality, rows))
                    if data.boxes is not None:
                        found_boxes = self._detect(output, data.sizes[self.modality])
                        parts = {f"{split}/{RAW}": found_boxes}
                    elif data.masks is None:
                        heads = self._judge(output)
                        parts = {f"{split}/{head}": z.float() for head, z in heads.items()}
                    else:
                        targets = data.targets(self.modality, rows)
                        parts = self._count(split, output, targets, data.store.dataset.classes)
                    if not _is_whole(batch):
                        parts = {name: collect(x, len(batch)) for name, x in parts.items()}
                    for name, values in parts.items():
                        found.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in found.items()}

    def _detect(self, output: ModelOutput, size: tuple[int, int]) -> torch.Tensor:
        stride = size[0] / output.logits.shape[2]
        return decode_detections(widen(output.logits), widen(output.boxes), stride, size)

    def _judge(self, output: ModelOutput) -> dict[str, torch.Tensor]:
        with torch.autocast(output.logits.device.type, enabled=False):
            return self.method.predict(output.apply(widen))

    def _count(
        self, split: str, output: ModelOutput, targets: torch.Tensor, classes: int
    ) -> Predictions:
        """Pixel counts of every head, and the raw head's map of the test split."""
        pixels = find_pixels(output, targets, self.last)
        heads = self._judge(fold(output, pixels, self.last))
        found = {}
        for head, scores in heads.items():
            dense = output.logits
            if head != "raw":
                dense = pixels.enlarge(pixels.unfold(scores))
            chosen = dense.argmax(dim=1)
            found[f"{split}/{head}"] = count_pixels(chosen, targets, classes)
            if (split, head) == ("test", "raw"):
                found[MAP] = chosen.to(torch.uint8)
        return found


def _is_whole(rows: torch.Tensor) -> bool:
    """Whether every process judges all of a batch: where it is alone, or others would have nothing
    to do."""
    return processes.count() == 1 or len(rows) < processes.count()


def count_pixels(chosen: torch.Tensor, targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Per image and class the pixels that are right, chosen, and true: (n, K, 3) int32.

    chosen, targets: (n, H, W); pixels whose target is `IGNORED` do not count anywhere.
    """
    count = len(targets)
    place = torch.arange(count, device=targets.device)[:, None, None] * classes
    kept = targets != IGNORED
    found = []
    for of, weight in (
        (chosen, kept & (chosen == targets)),
        (chosen, kept),
        (targets.clamp_max(classes - 1), kept),
    ):
        flat = torch.zeros(count * classes, dtype=torch.int32, device=targets.device)
        flat.index_add_(0, (place + of).flatten(), weight.flatten().int())
        found.append(flat.view(count, classes))
    return torch.stack(found, dim=2)


def score(predictions: Predictions, data: PairedData) -> dict[str, float]:
    """`<split>/<head>` → accuracy, mean intersection over union, or average precision."""
    found = {}
    for name, values in predictions.items():
        if name == MAP:
            continue
        if data.masks is not None:
            found[name] = mean_iou(values.sum(dim=0).double())
            continue
        rows = data.rows[name.split("/")[0]]
        if data.boxes is not None:
            found[name] = torch.tensor(score_detections(values, data.list_boxes(rows)))
            continue
        labels = data.labels[rows]
        found[name] = (values.argmax(dim=1) == labels).sum().double() / len(labels)
    values = torch.stack([value.double() for value in found.values()]).cpu().tolist()
    return dict(zip(found, values, strict=True))


def mean_iou(counts: torch.Tensor) -> torch.Tensor:
    """Mean over classes of |right| / |chosen ∪ true|, from summed counts (K, 3).

    A class that is neither true nor chosen anywhere has no such ratio and is left out.
    """
    right, chosen, true = counts.unbind(1)
    union = chosen + true - right
    return (right / union.clamp_min(1)).sum() / (union > 0).sum().clamp_min(1)


def judge_samples(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) float64 score of every sample, whose mean is the score of them all.

    From logits (n, K): 1 where the sample is answered rightly, else 0. From pixel counts (n, K, 3),
    where the mean intersection over union is no mean over images: the infinitesimal jackknife's
    values, mIoU + n · (1/K) Σ_c (right_ic - IoU_c · union_ic) / Σ_i union_ic. Their mean is the
    mIoU exactly, and means of resampled ones agree with the mIoU of the resampled images to first
    order; ours, so that one set of statistics serves every task. From detections (n, M, 6) likewise
    (`spread_precision`), of the mAP50; labels are then the true boxes (n, B, 5).
    """
    if is_detections(predictions):
        return spread_precision(predictions, labels)
    if predictions.ndim == 2:
        return (predictions.argmax(axis=1) == labels).astype(np.float64)
    right, chosen, true = np.moveaxis(predictions.astype(np.float64), 2, 0)
    union = chosen + true - right  # (n, K)
    total = union.sum(axis=0)
    there = total > 0
    ratio = right.sum(axis=0)[there] / total[there]
    pull = (right[:, there] - ratio * union[:, there]) / total[there]
    return ratio.mean() + len(predictions) * pull.mean(axis=1)

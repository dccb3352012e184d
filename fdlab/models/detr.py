"""Detectors of `transformers`, such as DETR, RT-DETR and YOLOS, from a user's local folder.

They are judged, not trained here: their queries are no map, and their set loss matches on the host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fdlab.core.errors import UserError, name_unknown
from fdlab.models.library import import_transformers


@torch.no_grad()
def detect_with(
    folder: str | Path,
    images: torch.Tensor,
    classes: tuple[str, ...] = (),
    *,
    device: str | torch.device = "cpu",
    batch: int = 8,
) -> torch.Tensor:
    """What the detector in a folder finds: (n, M, 6) float32 rows of class, score, x0, y0, x1, y1
    in pixels of `images`, the highest score first; rows of class -1 and score 0 fill up.

    folder: as the library saves a detector, with `config.json`, its weights and
    `preprocessor_config.json`; resizing, normalising and reading the queries are the library's.
    images: (n, 3, H, W), or (n, 1, H, W) for grey, uint8 or float from 0 to 1. classes: the names
    that count, each a row's class by its place; () for the detector's own numbers.
    A folder without a detector, or with weights that lack something, is a `UserError`.
    """
    detector, processor = _load(Path(folder))
    labels = [name for _, name in sorted(detector.config.id2label.items())]
    for name in classes:
        if name not in labels:
            raise name_unknown("class of the detector", name, labels)
    kept = [classes.index(name) if name in classes else -1 for name in labels]
    places = torch.tensor(kept if classes else range(len(labels)))  # its number → the class
    if not images.is_floating_point():
        images = images.float() / 255
    images = images.expand(-1, 3, -1, -1).cpu()
    detector.to(device).eval()
    found = []
    for part in images.split(batch):
        inputs = processor(images=[*part], do_rescale=False, return_tensors="pt").to(device)
        sizes = [tuple(images.shape[2:])] * len(part)
        output = detector(**inputs)
        for one in processor.post_process_object_detection(output, 0.0, sizes):
            kind = places[one["labels"].cpu()]
            rows = torch.column_stack([kind, one["scores"].cpu(), one["boxes"].cpu()])[kind >= 0]
            found.append(rows[rows[:, 1].argsort(descending=True, stable=True)])
    most = max((len(rows) for rows in found), default=0)
    filled = torch.zeros(len(found), most, 6)
    filled[:, :, 0] = -1
    for rows, to in zip(found, filled, strict=True):
        to[: len(rows)] = rows
    return filled


def _load(folder: Path) -> tuple[Any, Any]:
    """The detector and what prepares its images."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no detector: expected config.json in it")
    library = import_transformers("a detector from a folder")
    library.utils.logging.disable_progress_bar()
    local = {"local_files_only": True}
    try:
        detector, report = library.AutoModelForObjectDetection.from_pretrained(
            folder, output_loading_info=True, **local
        )
        processor = library.AutoImageProcessor.from_pretrained(folder, **local)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{folder} holds no detector that runs here: {reason}") from None
    if lacking := sorted(report["missing_keys"]):
        raise UserError(f"{folder} lacks {len(lacking)} weights of its detector: {lacking[0]}, …")
    return detector, processor

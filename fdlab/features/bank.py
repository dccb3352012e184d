"""Features of one network over one split: extracted once, kept aligned with the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from fdlab.core.errors import UserError
from fdlab.core.files import checksum, write_bytes, write_text
from fdlab.core.locks import holding
from fdlab.core.progress import say
from fdlab.data.paired import PairedData
from fdlab.features.capture import capture
from fdlab.models.mode import evaluating
from fdlab.models.output import STEM

OWN = ("feature", "logits")  # nodes that every ModelOutput has; others are submodules


@dataclass(frozen=True)
class FeatureBank:
    """features: node → (N, D) float32; row i is of event `rows[i]` with class `labels[i]`."""

    rows: np.ndarray
    labels: np.ndarray
    features: dict[str, np.ndarray]

    def __getitem__(self, node: str) -> np.ndarray:
        return self.features[node]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nodes(self) -> list[str]:
        """Everything but the logits, from the input to the pooled feature."""
        return [node for node in self.features if node != "logits"]


def extract(
    model: nn.Module,
    data: PairedData,
    modality: str,
    split: str,
    nodes: tuple[str, ...] = OWN,
    layers: bool = False,
) -> FeatureBank:
    """Run the network in eval mode over a split, in the split's order.

    nodes: "feature" (pooled, before the last ReLU), "logits" (in segmentation their mean over the
    pixels), and names of submodules, whose maps are averaged over everything after the channel
    axis. layers: before those, the stem and the end of every stage but the last, whose average is
    the feature, averaged likewise.
    """
    inner = tuple(node for node in nodes if node not in OWN)
    found: dict[str, list[torch.Tensor]] = {}
    with evaluating(model), torch.no_grad(), capture(model, *inner, pool=True) as seen:
        for rows in data.rows[split].split(data.evaluation_batch):
            output = model(data.batch(modality, rows))
            own = {node: getattr(output, node) for node in OWN if node in nodes}
            if data.masks is not None and "logits" in own:  # of every pixel; what an image says
                own["logits"] = own["logits"].flatten(2).mean(2)
            before = [STEM, *output.stages[:-1]] if layers else []
            maps = [(name, output.maps[name]) for name in before if name in output.maps]
            pooled = {name: values.flatten(2).mean(2) for name, values in maps}
            for node, value in (pooled | own | seen).items():
                if len(value) != len(rows):
                    raise UserError(f"{node} gives {len(value)} rows for {len(rows)} events")
                found.setdefault(node, []).append(value)
    rows = data.rows[split]
    return FeatureBank(
        rows.cpu().numpy(),
        data.labels[rows].cpu().numpy(),
        {node: torch.cat(parts).float().cpu().numpy() for node, parts in found.items()},
    )


def keep_bank(path: Path, make: Callable[[], FeatureBank]) -> FeatureBank:
    """The bank at `path`, made and written where it is absent or damaged.

    One that exists is read without a lock; of several processes that want one, one makes it.
    """
    seal = path.with_suffix(".sha256")
    if (found := _read_sealed(path, seal)) is not None:
        return found
    with holding(path, f"the features {path.stem}"):
        if (found := _read_sealed(path, seal)) is not None:
            return found
        if path.is_file() and seal.is_file():
            say(f"fdlab: {path} does not match its checksum; extracting the features again")
        bank = make()
        nodes = enumerate(bank.features.items())
        arrays = {f"{place}/{node}": value for place, (node, value) in nodes}
        arrays |= {"rows": bank.rows, "labels": bank.labels}
        write_bytes(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
        write_text(seal, checksum(path) + "\n")
        return bank


def _read_sealed(path: Path, seal: Path) -> FeatureBank | None:
    """The bank at `path` where it is whole."""
    try:
        if checksum(path).encode() == seal.read_bytes().strip():
            return _read(path)
    except (FileNotFoundError, SafetensorError, KeyError):
        pass
    return None


def _read(path: Path) -> FeatureBank:
    arrays = load_file(path)
    names = [name.split("/", 1) for name in arrays if "/" in name]
    names.sort(key=lambda pair: int(pair[0]))  # the file does not keep the order
    features = {node: arrays[f"{place}/{node}"] for place, node in names}
    return FeatureBank(arrays["rows"], arrays["labels"], features)

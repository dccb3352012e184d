"""A student with its method's heads: predictions of every head over a split, and its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fdlab.data.paired import EVALUATION_BATCH, PairedData
from fdlab.methods.base import Method
from fdlab.models.mode import evaluating

JUDGED = ("validation", "test")


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

    @torch.no_grad()
    def predict(self, data: PairedData) -> dict[str, torch.Tensor]:
        """`<split>/<head>` → (n, K) float32 logits of the judged splits, networks in eval mode."""
        parts: dict[str, list[torch.Tensor]] = {}
        with evaluating(self.student, self.method):
            for split in JUDGED:
                for rows in data.rows[split].split(EVALUATION_BATCH):
                    output = self.student(data.batch(self.modality, rows))
                    for head, logits in self.method.predict(output).items():
                        parts.setdefault(f"{split}/{head}", []).append(logits.float())
        return {name: torch.cat(logits) for name, logits in parts.items()}


def score(predictions: dict[str, torch.Tensor], data: PairedData) -> dict[str, float]:
    """`<split>/<head>` → accuracy, read back from the device once."""
    right, total = [], []
    for name, logits in predictions.items():
        labels = data.labels[data.rows[name.split("/")[0]]]
        right.append((logits.argmax(dim=1) == labels).sum())
        total.append(len(labels))
    accuracies = torch.stack(right).double().cpu() / torch.tensor(total)
    return dict(zip(predictions, accuracies.tolist(), strict=True))


def find_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, K), (n,) → (n,) bool: which samples are answered rightly."""
    return logits.argmax(axis=1) == labels

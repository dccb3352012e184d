"""CRD: contrastive representation distillation (Tian et al., ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.errors import UserError
from fdlab.losses.features import normalise
from fdlab.losses.logits import cross_entropy
from fdlab.losses.relations import contrast
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.models.output import ModelOutput
from fdlab.models.precision import in_full_precision


class CRD(Method):
    """L = CE + w · Σ over both directions of `contrast`, which tells a sample's own memory from
    those of samples of other classes.

    Embeddings: linear D → 128, length 1, both sides trained. Two memories (n, 128), one entry per
    training sample; the student's embedding v is scored against the teacher's memory and the
    teacher's against the student's, exp(v · m / τ) / Z, with Z = n times the mean score of the
    first batch, and the batch's own entries move afterwards, m ← length 1 of (½ m + ½ v). Defaults
    w = 0.8, τ = 0.07, momentum 0.5, k = 16,384 negatives (released code, CIFAR-100). Where a sample
    has fewer of other classes than k, all of them are taken once: our choice, since drawing 16,384
    times from 900 only repeats them. On the pooled feature before the ReLU, as every feature method
    here.
    """

    name = "crd"
    summary = "own sample against other classes' memories, contrastively"
    source = "Tian et al., ICLR 2020"
    needs = ("feature",)
    compares = ("contrast",)
    strength = ("weight",)

    @dataclass(frozen=True)
    class Options:
        weight: float = 0.8
        temperature: float = 0.07
        momentum: float = 0.5
        negatives: int = 16_384
        units: int = 128

        def __post_init__(self):
            require_weights(self, "weight", "momentum")
            require_positive(self, "temperature", "negatives", "units")
            if self.momentum > 1:
                raise UserError(f"momentum is {self.momentum}: expected 0 to 1")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        if sizes.labels is None:
            raise UserError("crd remembers every training sample: Sizes.labels is not given")
        labels = sizes.labels.cpu()
        self.embed_student = nn.Linear(sizes.student.width, options.units)
        self.embed_teacher = nn.Linear(sizes.teacher.width, options.units)
        reach = (3 / options.units) ** 0.5
        for side in ("student", "teacher"):
            memory = torch.empty(len(labels), options.units).uniform_(-reach, reach)
            self.register_buffer(f"memory_{side}", memory, persistent=False)
            self.register_buffer(f"norm_{side}", torch.zeros(()), persistent=False)
        self.register_buffer("classes", labels, persistent=False)
        # Training samples in the order of their classes, and where each class begins and how many
        # it has, so that a draw from all others is one number.
        counts = torch.bincount(labels, minlength=sizes.classes)
        self.register_buffer("by_class", torch.argsort(labels, stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("begins", counts.cumsum(0) - counts, persistent=False)
        self.sampled = bool(len(labels) - counts.min() > options.negatives)
        # Of its own, so that its draws do not shift those of a student's dropout.
        self.seed = int(torch.randint(2**31, ()))
        self.generator: torch.Generator | None = None
        self.waiting: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        mine = normalise(self.embed_student(student.feature))
        theirs = normalise(self.embed_teacher(teacher.feature.detach()))
        chosen, counted = self.choose_negatives(batch.labels)
        total = self.compare("teacher", mine, chosen, counted, batch.rows)
        total = total + self.compare("student", theirs, chosen, counted, batch.rows)
        if self.training:
            self.waiting = {
                "student": (batch.rows, mine.detach()),
                "teacher": (batch.rows, theirs.detach()),
            }
        task = cross_entropy(student.logits, batch.labels)
        return {"task": task, "contrast": self.options.weight * total}

    def choose_negatives(self, labels: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """None, for all samples, and (N, n) which of them count; or (N, k) drawn from others."""
        if not self.sampled:
            return None, self.classes[None, :] != labels[:, None]
        begin, count = self.begins[labels][:, None], self.counts[labels][:, None]
        if self.generator is None:
            self.generator = torch.Generator(labels.device).manual_seed(self.seed)
        size = (len(labels), self.options.negatives)
        drawn = torch.rand(size, device=labels.device, generator=self.generator)
        place = (drawn * (len(self.classes) - count)).long()
        place = torch.where(place < begin, place, place + count)
        others = (count < len(self.classes)).expand_as(place)  # none, where all are of one class
        return self.by_class[place.clamp_max(len(self.classes) - 1)], others

    def compare(
        self,
        side: str,
        embedding: torch.Tensor,
        chosen: torch.Tensor | None,
        counted: torch.Tensor,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Embeddings (N, U) against one side's memory, as it was before this batch."""
        memory, norm = getattr(self, f"memory_{side}"), getattr(self, f"norm_{side}")
        own, others = score(embedding, memory, rows, chosen, self.options.temperature)
        with torch.no_grad():  # only the first batch sets it
            shares = (own.sum() + (others * counted).sum()) / (len(own) + counted.sum())
            norm.copy_(torch.where(norm > 0, norm, shares * len(memory)))
        return contrast(own / norm, others / norm, counted.to(own.dtype), len(memory))

    @torch.no_grad()
    def finish(self) -> None:
        """Move the batch's entries, once the backward pass no longer reads the memories."""
        momentum = self.options.momentum
        for side, (rows, embedding) in self.waiting.items():
            memory = getattr(self, f"memory_{side}")
            moved = momentum * memory[rows] + (1 - momentum) * embedding.to(memory.dtype)
            memory[rows] = normalise(moved)
        self.waiting = {}


@in_full_precision
def score(
    embedding: torch.Tensor,
    memory: torch.Tensor,
    rows: torch.Tensor,
    chosen: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(v · m / τ) of (N, U) embeddings with their own entry, (N,), and with others, (N, M)."""
    own = (embedding * memory[rows]).sum(dim=1)
    if chosen is None:
        others = embedding @ memory.T
    else:
        others = torch.einsum("nu,nmu->nm", embedding, memory[chosen])
    return (own / temperature).exp(), (others / temperature).exp()

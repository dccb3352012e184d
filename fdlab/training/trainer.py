"""One student with its method and its teacher: what a step of training computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fdlab.core.config import RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.methods.base import FRESH, TUNED, Batch, LossTerms, Sizes, build_method
from fdlab.methods.pixels import find_pixels, fold
from fdlab.models.build import place
from fdlab.models.output import ModelOutput, describe
from fdlab.models.precision import widen
from fdlab.training.evaluate import RAW, Learner
from fdlab.training.fast import Fast, choose_fast, without
from fdlab.training.graphs import Compiled
from fdlab.training.runs import build_start, find_run_task
from fdlab.training.state import Held, is_finite
from fdlab.training.teacher import Noise, Peer, Shared, Teacher, look, seat_teacher
from fdlab.training.together import (
    Parts,
    average_gradients,
    collect,
    cut_view,
    find_any,
    spread,
    wrap,
)


class Trainer:
    """One student, its method and its teacher, ready to take steps.

    learner: what trains. read_teacher: rows → the teacher's output, None without one. progress: see
    `Batch`; a scalar tensor where steps are to be recorded, as is the optimiser's learning rate.
    shared: see `Teacher`.
    """

    def __init__(
        self,
        config: RunConfig,
        data: PairedData,
        teacher_model: nn.Module | None,
        device: torch.device,
        fast: Fast | None = None,
        shared: Shared | None = None,
    ):
        self.config, self.data, self.device = config, data, device
        self.fast = fast = choose_fast(device, config.train) if fast is None else fast
        self.learner = _build_learner(config, data, teacher_model, device, fast)
        method = self.learner.method
        self.read_teacher: Teacher | Peer | None = None
        self.shares = False
        if teacher_model is not None:
            augments = _augments(config, data, config.teacher)
            self.shares = data.share_view(config.student, config.teacher)
            if data.is_dense:
                _require_same_pixels(config, data, self.shares)
            if self.learner.peer is None:
                self.read_teacher = seat_teacher(
                    config, data, teacher_model, augments, method, fast, shared
                )
            else:
                self.read_teacher = Peer(
                    teacher_model, data, config.teacher, augments, method.views, fast
                )
            if shared is None:
                self.read_teacher.prepare()
        self.optimiser = self._build_optimiser()
        self.progress: float | torch.Tensor = 1.0
        if fast.graphs:
            self.progress = torch.ones((), device=device)
        self.augments = _augments(config, data, config.student)
        self.noise = Noise(config.seed, device, alike=config.teacher == config.student)
        self.place = data.find_places("train")
        network = wrap(self.learner.student, device)
        self.network = Compiled(network, fast, config.train.batch_size)
        spread(method)
        self.parts = Parts()
        self.tally = Tally()

    def look(
        self, rows: torch.Tensor, step: int | None = None
    ) -> tuple[ModelOutput, ModelOutput | None, torch.Tensor]:
        """The student's and the teacher's outputs for some training rows, augmented, and what the
        student learns to say of what it sees (`PairedData.targets`). step: its number, where others
        that train in step have the same rows."""
        modality, view = self.config.student, None
        if self.augments:
            view = self.data.draw(modality, len(rows), self.noise.first)
        views = self.learner.method.views
        own, seen = self.parts(rows), cut_view(view)
        inputs = self.data.batch(modality, own, seen)
        output = look(self.network, inputs, self.noise.second, views, len(rows))
        targets = collect(self.data.targets(modality, own, seen), len(rows))
        if self.read_teacher is None:
            return output, None, targets
        shared = None
        if view is not None and self.shares and self.read_teacher.augments:  # as released
            shared = self.data.complete_view(view, self.config.teacher, self.noise.first)
        key = None if step is None else (self.config.seed, modality, step)
        return output, self.read_teacher(rows, self.noise, shared, key), targets

    def compare(
        self, rows: torch.Tensor, step: int | None = None
    ) -> tuple[LossTerms, ModelOutput, ModelOutput | None, Batch]:
        """The loss terms of some training rows, and what they were computed from; no terms where
        there is nothing to learn from them."""
        with self.fast.autocast(self.device):
            mine, theirs, targets = self.look(rows, step)
            batch = Batch(targets, self.place[rows], self.progress)
            if self.data.boxes is not None:
                size = self.data.sizes[self.config.student]
                batch = replace(batch, labels=self.data.labels[rows], boxes=targets, size=size)
            if self.data.masks is not None:
                mine, theirs, batch = self._fold(mine, theirs, batch)
                if not len(batch.labels):
                    return {}, mine, theirs, batch  # not one pixel of these has a class
            return self.learner.method(mine, theirs, batch), mine, theirs, batch

    def expect(self, batches: list[torch.Tensor]) -> None:
        """Batches that steps will be taken with, in this order."""
        self.data.expect(self.config.student, self.parts.expect(batches), id(self))
        if self.read_teacher is not None:
            self.read_teacher.expect(batches)

    def _fold(
        self, mine: ModelOutput, theirs: ModelOutput | None, batch: Batch
    ) -> tuple[ModelOutput, ModelOutput | None, Batch]:
        """Images as their pixels, see `fdlab.methods.pixels`."""
        sizes = self.learner.method.sizes
        (last,) = sizes.student.pick("last")
        pixels = find_pixels(mine, batch.labels, last)
        if theirs is not None:
            theirs = fold(theirs, pixels, *sizes.teacher.pick("last"))
        return fold(mine, pixels, last), theirs, replace(batch, labels=pixels.labels, pixels=pixels)

    def update(self, terms: LossTerms) -> None:
        """One step down the sum of the terms."""
        loss = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.learner.method)
        if self.config.train.clip:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.train.clip)
        first = not self.optimiser.state
        try:
            self.optimiser.step()
        except RuntimeError as error:
            if not (self.fast.fused and first):
                raise
            self.fast = without(without(self.fast, "fused", str(error)), "graphs", "it needs fused")
            self.optimiser = self._build_optimiser()
            self.optimiser.step()
        self.learner.method.finish()

    def _build_optimiser(self) -> torch.optim.Optimizer:
        """Parameters whose rate is not the recipe's are a group with its factor as `share`."""
        train, parameters = self.config.train, self.learner.parameters()
        if train.backbone_rate != 1:
            backbone = {id(x) for x in self.learner.list_backbone()}
            parts = {1.0: [], train.backbone_rate: []}
            for parameter in parameters:
                own = id(parameter) in backbone
                parts[train.backbone_rate if own else 1.0].append(parameter)
            parameters = [{"params": part, "share": share} for share, part in parts.items() if part]
        return build_optimiser(train, parameters, self.fast, self.device)

    def step(
        self,
        rows: torch.Tensor,
        number: int | None = None,
        probe: Callable[[LossTerms, ModelOutput, ModelOutput | None], None] | None = None,
    ) -> None:
        """Learn from some training rows and keep count. probe: is shown the terms before the
        update.

        Where the recipe skips what is not finite, the step is taken and, where it was not, undone:
        so nothing has to be read back.
        """
        held = Held(self) if self.config.train.on_nonfinite == "skip" else None
        terms, mine, theirs, batch = self.compare(rows, number)
        if not terms:
            return
        if held is None and self.device.type == "cpu":
            _require_finite(terms)
        if probe is not None:
            probe(terms, mine, theirs)
        self.update(terms)
        self.tally.add(terms, mine.logits, batch)
        if held is not None:
            bad = find_any(~is_finite(terms, self.learner.parameters()))
            held.put_back(bad)
            self.tally.skip(bad)

    def set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            own = rate * group.get("share", 1.0)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(own)
            else:
                group["lr"] = own

    def start_epoch(self, rate: float, progress: float) -> None:
        self.set_rate(rate)
        if isinstance(self.progress, torch.Tensor):
            self.progress.fill_(progress)
        else:
            self.progress = progress
        self.learner.train()
        self.tally.clear()


class NotFinite(Exception):
    """A loss term is not finite; the text is its name."""


def _require_finite(terms: LossTerms) -> None:
    """Before the update, where asking costs nothing."""
    finite = torch.stack([value.detach() for value in terms.values()]).isfinite().tolist()
    for name, fine in zip(terms, finite, strict=True):
        if not fine:
            raise NotFinite(name)


class Tally:
    """Sums over an epoch, kept on the device until they are read, in the same place always.

    sums: `count` of samples, or pixels, `right` of them, `steps`, and those `skipped`; for each set
    of loss terms that a step had, joined by commas, `loss:<terms>` (T,), their values times the
    samples, and `broken:<terms>` (T,), the first step of the epoch, from 1, at which each was not
    finite, else 0.
    """

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}

    def clear(self) -> None:
        for value in self.sums.values():
            value.zero_()

    def add(self, terms: LossTerms, logits: torch.Tensor, batch: Batch) -> None:
        count, names = len(batch.labels), ",".join(terms)
        values = torch.stack([widen(value.detach()) for value in terms.values()])
        self._grow("steps", torch.ones((), dtype=torch.int64, device=values.device))
        self._grow("count", torch.full((), count, dtype=torch.int64, device=values.device))
        if batch.boxes is None:
            self._grow("right", (logits.detach().argmax(dim=1) == batch.labels).sum())
        self._grow(f"loss:{names}", values * count)
        fresh = ~values.isfinite()
        if f"broken:{names}" in self.sums:
            fresh &= self.sums[f"broken:{names}"] == 0
        self._grow(f"broken:{names}", fresh * self.sums["steps"])

    def skip(self, bad: torch.Tensor) -> None:
        """Count a step that was undone."""
        self._grow("skipped", bad.to(torch.int64))

    def _grow(self, name: str, value: torch.Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros_like(value)
        self.sums[name] += value

    def count_skipped(self) -> int:
        return int(self.sums["skipped"]) if "skipped" in self.sums else 0

    def find_broken(self) -> tuple[str, int] | None:
        """The loss term that first was not finite, and its step of the epoch, from 1; else None."""
        found = []
        for key, steps in self.sums.items():
            kind, _, names = key.partition(":")
            if kind == "broken":
                pairs = zip(names.split(","), steps.tolist(), strict=True)
                found += [(name, step) for name, step in pairs if step]
        return min(found, key=lambda pair: pair[1], default=None)

    def read(self) -> dict[str, float] | None:
        """Means over the epoch: `loss/<term>`, and `train/raw` but of a detector; None where
        nothing was learned."""
        flat = {name: value.flatten() for name, value in self.sums.items()}
        if not flat:
            return None
        joined = torch.cat([value.double() for value in flat.values()]).cpu()
        parts = joined.split([len(value) for value in flat.values()])
        sums = dict(zip(flat, parts, strict=True))
        count = sums["count"].item()
        if not count:
            return None
        found: dict[str, float] = {}
        for key, values in sums.items():
            kind, _, names = key.partition(":")
            if kind == "loss":
                for name, value in zip(names.split(","), (values / count).tolist(), strict=True):
                    found[f"loss/{name}"] = found.get(f"loss/{name}", 0.0) + value
        return found | {f"train/{RAW}": (x / count).item() for k, x in sums.items() if k == "right"}


def build_optimiser(
    train: TrainConfig,
    parameters: list[nn.Parameter] | list[dict[str, Any]],
    fast: Fast,
    device: torch.device,
) -> torch.optim.Optimizer:
    """SGD with momentum, Adam or AdamW, as the recipe says; a teacher that trains too is under its
    student's recipe, as both are one network's in the releases."""
    rate = train.learning_rate
    given = {
        "weight_decay": train.weight_decay,
        "fused" if fast.fused else "foreach": True,
    }
    if fast.graphs:  # a recorded step reads its learning rate from the device
        given["lr"] = torch.tensor(rate, dtype=torch.float32, device=device)
    else:
        given["lr"] = rate
    if train.optimiser in ("adam", "adamw"):
        kind = torch.optim.Adam if train.optimiser == "adam" else torch.optim.AdamW
        found = kind(parameters, **given, capturable=fast.graphs)
        found._warned_capturable_if_run_uncaptured = True  # some steps are meant to be plain
        return found
    return torch.optim.SGD(parameters, momentum=train.momentum, **given)


def _require_same_pixels(config: RunConfig, data: PairedData, shared: bool) -> None:
    """Where pixels are compared, both networks have to see the same ones."""
    sizes = [data.sizes[side] for side in (config.student, config.teacher)]
    drawn = any(_augments(config, data, side) for side in (config.student, config.teacher))
    if sizes[0] != sizes[1] or (drawn and not shared):
        raise UserError(
            f"{config.label}: {config.student} {sizes[0]} and {config.teacher} {sizes[1]} are not "
            "seen pixel by pixel alike: expected one size and one kind of augmentation"
        )


def _augments(config: RunConfig, data: PairedData, modality: str) -> bool:
    """Whether a modality's training inputs are random: augmented, or drawn from frames."""
    side = data.store.dataset.modalities[modality]
    return config.train.augment and bool(side.augment or side.frames)


def _build_learner(
    config: RunConfig,
    data: PairedData,
    teacher_model: nn.Module | None,
    device: torch.device,
    fast: Fast,
) -> Learner:
    student = place(build_start(config, data.store), device, fast.channels_last)
    rows = data.rows["train"]
    sides = ((student, config.student), (teacher_model, config.teacher))
    mine, theirs = (
        None if model is None else describe(model, data.batch(name, rows[:1]))
        for model, name in sides
    )
    sizes = Sizes(mine, theirs, data.store.dataset.classes, data.labels[rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "heads"))
        task = find_run_task(config, data.store.dataset)
        method = build_method(config.method, config.options, sizes, task)
    peer = teacher_model if method.teaching in (TUNED, FRESH) else None
    return Learner(student, method.to(device), config.student, peer)

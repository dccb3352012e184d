"""What every network returns, and what is known of it before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fdlab.core.errors import UserError, name_unknown
from fdlab.models.mode import evaluating

MAPS = ("last", "penultimate", "middle", "stages", "blocks", "context")
STEM, CONTEXT = "stem", "aspp"  # maps that end no stage: the first's input, and a decoder's


@dataclass
class ModelOutput:
    """One forward pass over N samples.

    logits: (N, K) class scores, in segmentation (N, K, H, W), of a detector (N, K, h, w) at each of
    its positions.
    feature: (N, D) pooled vector before the last ReLU, the feature that FD-CMKD splits.
    maps: name → feature map (N, C, H, W) or (N, C, L), before its ReLU, shallow to deep; "stem" is
    what the first stage takes in, "aspp" what a segmentation network's decoder takes in (after its
    ReLU), every other one the end of a stage. Of F frames (N, C, F · H, W).
    blocks: likewise for the end of every residual block, where a stage has several.
    mask: (N, L) share of each position that is there, 1 or 0, for inputs that differ in length;
    maps are zero where it is 0.
    second: the same samples in a stronger view, for methods that compare two (`Method.views`).
    boxes: of a detector (N, 5, h, w), at each position the distances from its centre to the left,
    upper, right and lower side in units of the stride, and the centreness logit.
    """

    logits: torch.Tensor
    feature: torch.Tensor
    maps: dict[str, torch.Tensor] = field(default_factory=dict)
    blocks: dict[str, torch.Tensor] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    second: ModelOutput | None = None
    boxes: torch.Tensor | None = None

    def find(self, name: str) -> torch.Tensor:
        """The map or block of that name."""
        return self.maps[name] if name in self.maps else self.blocks[name]

    @property
    def stages(self) -> list[str]:
        """Names of the maps that end a stage."""
        return list_stages(self.maps)

    def keep(self, names: set[str]) -> ModelOutput:
        """The same without the maps and blocks that are not named."""
        maps, blocks = (
            {name: x for name, x in each.items() if name in names}
            for each in (self.maps, self.blocks)
        )
        return replace(self, maps=maps, blocks=blocks)

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> ModelOutput:
        """Every tensor through `change`, such as an index."""
        return ModelOutput(
            change(self.logits),
            change(self.feature),
            {name: change(x) for name, x in self.maps.items()},
            {name: change(x) for name, x in self.blocks.items()},
            None if self.mask is None else change(self.mask),
            None if self.second is None else self.second.apply(change),
            None if self.boxes is None else change(self.boxes),
        )

    @staticmethod
    def join(parts: list[ModelOutput]) -> ModelOutput:
        """Several passes as one, their rows in the order given."""
        first = parts[0]
        return ModelOutput(
            torch.cat([part.logits for part in parts]),
            torch.cat([part.feature for part in parts]),
            {name: torch.cat([part.maps[name] for part in parts]) for name in first.maps},
            {name: torch.cat([part.blocks[name] for part in parts]) for name in first.blocks},
            None if first.mask is None else torch.cat([part.mask for part in parts]),
            boxes=None if first.boxes is None else torch.cat([part.boxes for part in parts]),
        )


def list_stages(maps: Iterable[str]) -> list[str]:
    """Of the names of a network's maps those that end a stage, shallow to deep."""
    return [name for name in maps if name not in (STEM, CONTEXT)]


@dataclass(frozen=True)
class Side:
    """What a method knows of one of its two networks when it is built.

    width: D of its feature. maps, blocks: name → shape of one sample's map, (C, H, W) or (C, L).
    head: its classifier, a live part of the network, or None where it has no single linear one.
    norms: map → the batch norm nearest before it, for the maps where there is one.
    """

    width: int
    maps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    blocks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    head: nn.Linear | None = None
    norms: dict[str, nn.Module] = field(default_factory=dict)

    def pick(self, kind: str) -> dict[str, tuple[int, ...]]:
        """Shapes by kind of map: "stages" all but the stem and the decoder's; of those the "last",
        the one before it ("penultimate"), and the ceil(n/2)-th of n ("middle"); "blocks", where
        there are none the stages; "context" what a decoder takes in, where there is none the last
        stage. Of a single stage every kind is that one."""
        if kind not in MAPS:
            raise name_unknown("kind of map", kind, MAPS)
        stages = {name: self.maps[name] for name in list_stages(self.maps)}
        if not stages:
            raise UserError("the network returns no maps: ModelOutput.maps is empty")
        if kind == "blocks":
            return self.blocks or stages
        if kind == "stages":
            return stages
        if kind == "context":
            if CONTEXT in self.maps:
                return {CONTEXT: self.maps[CONTEXT]}
            kind = "last"
        count = len(stages)
        place = {"last": count - 1, "penultimate": max(count - 2, 0), "middle": (count - 1) // 2}
        name = list(stages)[place[kind]]
        return {name: stages[name]}


@torch.no_grad()
def describe(model: nn.Module, inputs: torch.Tensor) -> Side:
    """What a network is like, from one forward pass in eval mode on any inputs."""
    with evaluating(model):
        output = model(inputs)
    return Side(
        model.feature_width,
        {name: tuple(x.shape[1:]) for name, x in output.maps.items()},
        {name: tuple(x.shape[1:]) for name, x in output.blocks.items()},
        getattr(model, "fc", None),
        getattr(model, "norms", {}),
    )

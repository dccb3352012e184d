"""What a notebook's parameters mean: a data set, a preset, and what was asked to differ from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from fdlab.core.config import Direction, RunConfig, TrainConfig, find_preset
from fdlab.core.device import count_workers
from fdlab.data import DATASETS
from fdlab.data.dataset import Dataset
from fdlab.data.store import Store, prepare


@dataclass(frozen=True)
class Plan:
    """How the runs of a suite are configured; see `make_plan`."""

    dataset: str
    preset: str
    seeds: tuple[int, ...]
    width: int
    train: TrainConfig
    device: str = "auto"
    data_options: dict[str, Any] = field(default_factory=dict)

    @property
    def definition(self) -> Dataset:
        return DATASETS[self.dataset]

    @property
    def modalities(self) -> list[str]:
        return list(self.definition.modalities)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Unordered pairs of modalities."""
        return list(combinations(self.modalities, 2))

    def open_store(self) -> Store:
        return prepare(self.dataset, self.data_options, workers=count_workers())

    def choose_directions(self, wanted: list[str] | None = None) -> list[Direction]:
        """The directions asked for, or the data set's own choice."""
        names = wanted or self.definition.directions
        return [Direction.parse(name, self.modalities) for name in names]

    def configure(
        self,
        student: str,
        method: str = "none",
        teacher: str | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> RunConfig:
        return RunConfig(
            dataset=self.dataset,
            student=student,
            teacher=teacher,
            method=method,
            options=options or {},
            seed=seed,
            width=self.width,
            data_options=self.data_options,
            train=self.train,
        )


def make_plan(
    dataset: str,
    preset: str = "quick",
    *,
    seeds: list[int] | None = None,
    epochs: int = 0,
    width: int = 0,
    device: str = "auto",
) -> Plan:
    """The preset's plan for a data set; an empty list of seeds, or 0, leaves the preset's value."""
    chosen = find_preset(preset)
    definition = DATASETS[dataset]
    known = definition.options.__dataclass_fields__
    return Plan(
        dataset=dataset,
        preset=preset,
        seeds=tuple(seeds or chosen.seeds),
        width=width or chosen.width,
        train=replace(chosen.train, epochs=epochs or chosen.train.epochs),
        device=device,
        data_options={k: v for k, v in chosen.data_options.items() if k in known},
    )

"""What a notebook's parameters mean: a data set, a preset, and what was asked to differ from it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from fdlab.core.config import Direction, Pair, RunConfig, TrainConfig, find_preset
from fdlab.core.device import choose_device, count_workers
from fdlab.core.errors import UserError
from fdlab.data.dataset import Dataset
from fdlab.data.store import Store, find_dataset, find_store, prepare
from fdlab.methods import METHODS

PRECISION = "FDLAB_PRECISION"  # of every training of a command
ON_NONFINITE = "FDLAB_ON_NONFINITE"  # likewise


@dataclass(frozen=True)
class Plan:
    """How the runs of a suite are configured; see `make_plan`. short: whether the preset has fewer
    seeds for the study that the plan was made for. recipes: student's modality or network →
    recipe, where the data set has one of its own for it; `train` is that of every other.
    directions, pairs (of networks): those that are run where none are asked for."""

    dataset: str
    preset: str
    seeds: tuple[int, ...]
    width: int
    train: TrainConfig
    device: str = "auto"
    data_options: dict[str, Any] = field(default_factory=dict)
    short: bool = False
    recipes: dict[str, TrainConfig] = field(default_factory=dict)
    directions: tuple[str, ...] = ()
    network_pairs: tuple[str, ...] = ()

    @property
    def definition(self) -> Dataset:
        return find_dataset(self.dataset)

    @property
    def modalities(self) -> list[str]:
        return list(self.definition.modalities)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Unordered pairs of modalities."""
        return list(combinations(self.modalities, 2))

    def describe(self) -> str:
        """The recipe in one line."""
        return (
            f"{self.dataset}, preset {self.preset}: width {self.width}, "
            f"{self.train.epochs} epochs, learning rate {self.train.learning_rate:g}, "
            f"batch {self.train.batch_size}, "
            + (f"images at {self.train.side} pixels, " if self.train.side else "")
            + f"{'with' if self.train.augment else 'no'} augmentation, seeds {list(self.seeds)}"
            + "".join(
                f"; {modality}: {recipe.optimiser}, {recipe.epochs} epochs, "
                f"learning rate {recipe.learning_rate:g}"
                for modality, recipe in self.recipes.items()
            )
        )

    def find_recipe(self, modality: str, network: str = "") -> TrainConfig:
        """How a student of a modality is trained, with a network other than the data set's."""
        return self.recipes.get(network, self.recipes.get(modality, self.train))

    def open_store(self) -> Store:
        return prepare(self.dataset, self.data_options, workers=count_workers())

    def choose_directions(self, wanted: list[str] | str | None = None) -> list[Direction]:
        """The directions asked for, or the data set's own choice."""
        names = read_list("directions", wanted, str) or self.directions
        return [Direction.parse(name, self.modalities) for name in names]

    def choose_pairs(self, wanted: list[str] | str | None = None) -> list[Pair]:
        """The pairs of networks asked for, or the data set's own choice."""
        names = read_list("pairs", wanted, str) or self.network_pairs
        if not names:
            raise UserError(
                f'{self.dataset} has no pairs of networks: expected some, such as ["vgg13-vgg8"]'
            )
        return [Pair.parse(name) for name in names]

    def choose_way(self, wanted: str = "") -> Direction:
        """The direction asked for, or the data set's first."""
        return self.choose_directions([wanted] if wanted else None)[0]

    def choose_ways(self, wanted: list[str] | str | None = None) -> list[Direction]:
        """The directions asked for; else the data set's, or only its first where the preset is
        short for the study."""
        ways = self.choose_directions(wanted)
        return ways if read_list("directions", wanted, str) or not self.short else ways[:1]

    def configure(
        self,
        student: str,
        method: str = "none",
        teacher: str | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        **others: Any,
    ) -> RunConfig:
        """A run of the plan; others: further fields of `RunConfig`. Within one modality the first
        pair of networks, where none are named."""
        if teacher == student and self.network_pairs and "teacher_network" not in others:
            pair = self.choose_pairs()[0]
            others = {"network": pair.student, "teacher_network": pair.teacher} | others
        recipes = {"train": self.find_recipe(student, others.get("network", ""))}
        if teacher:
            theirs = self.find_recipe(teacher, others.get("teacher_network", ""))
            recipes |= {"teacher_train": theirs} if theirs != recipes["train"] else {}
        return RunConfig(
            dataset=self.dataset,
            student=student,
            teacher=teacher,
            method=method,
            options=options or {},
            seed=seed,
            width=self.width,
            data_options=self.data_options,
            **recipes | others,
        )

    def configure_pair(
        self,
        pair: Pair,
        method: str = "none",
        seed: int = 0,
        options: dict[str, Any] | None = None,
        **others: Any,
    ) -> RunConfig:
        """A run of the pair's student within the data set's first modality, with its teacher where
        the method has one."""
        side = self.modalities[0]
        networks = {"network": pair.student}
        teacher = None
        if METHODS[method].needs:
            teacher, networks["teacher_network"] = side, pair.teacher
        return self.configure(side, method, teacher, seed, options, **networks | others)


def read_list(name: str, value: list | str | None, of: type) -> list:
    """A list parameter; papermill's own command line hands over the text of one.

    >>> read_list("seeds", "[0, 1]", int)
    [0, 1]
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = [value]
    value = value or []
    if not isinstance(value, list) or not all(type(item) is of for item in value):
        raise UserError(f"{name} is {value!r}: expected a list of {of.__name__}, such as [0, 1]")
    if len(set(value)) != len(value):
        raise UserError(f"{name} is {value!r}: expected each once")
    return value


def make_plan(
    dataset: str,
    preset: str = "quick",
    *,
    seeds: list[int] | str | None = None,
    epochs: int = 0,
    width: int = 0,
    device: str = "auto",
    study: str = "",
) -> Plan:
    """The preset's plan for a data set; an empty list of seeds, or 0, leaves the preset's value.

    study: takes the preset's seeds and width for that study, where it has fewer of them.
    `$FDLAB_PRECISION` and `$FDLAB_ON_NONFINITE` go before what the recipe says. A preset's batch
    that the training split of somebody's own files cannot fill is that split.
    """
    for name, value in (("epochs", epochs), ("width", width)):
        if type(value) is not int or value < 0:
            raise UserError(f"{name} is {value!r}: expected a whole number from 1, or 0")
    chosen = find_preset(preset)
    choose_device(device)  # refuses an unknown one before anything runs
    definition = find_dataset(dataset)
    made = definition.source is None  # files were read as they are, with options of their own
    known = definition.options.__dataclass_fields__ if made else ()
    fewer = definition.presets.get(preset, {})
    choices = [chosen.seeds, chosen.fewer.get(study), fewer.get("seeds")]
    few = min(filter(None, choices), key=len)
    own = definition.recipes.get(preset, {})
    most = 0 if made else find_store(dataset).manifest["counts"]["train"]
    train = _adapt(chosen.train, own.get("", {}), epochs, most)
    if precision := os.environ.get(PRECISION):
        train = replace(train, precision=precision)
    if choice := os.environ.get(ON_NONFINITE):
        train = replace(train, on_nonfinite=choice)
    return Plan(
        dataset=dataset,
        preset=preset,
        seeds=tuple(read_list("seeds", seeds, int) or few),
        width=width
        or min(fewer.get("width", chosen.width), chosen.narrower.get(study, chosen.width)),
        train=train,
        device=device,
        data_options={k: v for k, v in chosen.data_options.items() if k in known},
        short=study in chosen.fewer,
        directions=fewer.get("directions", definition.directions),
        network_pairs=fewer.get("pairs", definition.pairs),
        recipes={m: _adapt(train, fields, epochs, most) for m, fields in own.items() if m},
    )


def _adapt(train: TrainConfig, fields: dict[str, Any], epochs: int, most: int) -> TrainConfig:
    """A recipe with some fields changed. epochs: above 0 those that were asked for. most: events
    of the training split, beyond which no batch goes; 0 where they are not counted."""
    changed = replace(train, **fields)
    batch = min(changed.batch_size, max(most, 2)) if most else changed.batch_size
    return replace(changed, epochs=epochs or changed.epochs, batch_size=batch)

"""Runs on disk: trained once, found again under a fingerprint of everything that made them.

A run is a plain folder `outputs/runs/<fingerprint>/`:

    record.json                   the `RunRecord`
    validation.safetensors        weights of the best epoch on the validation split
    last.safetensors              weights of the last epoch
    predictions.safetensors       <moment>/<split>/<head> → (n, K) logits, rows in split order; in
                                  segmentation (n, K, 3) pixel counts, and <moment>/test/map
    probes.safetensors            gradients of the loss terms, where the configuration asks for them
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from fdlab.core import paths
from fdlab.core.config import RunConfig
from fdlab.core.device import count_threads
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import checksum, find_damage, restore_folder
from fdlab.core.fingerprint import code_digest, digest
from fdlab.core.locks import Taken, holding, remove_leftovers
from fdlab.core.progress import say
from fdlab.core.records import RunRecord
from fdlab.core.seeding import derive_seed
from fdlab.data.dataset import Dataset
from fdlab.data.store import Store, find_dataset, prepare
from fdlab.methods import METHODS
from fdlab.methods.base import DRIFTING, FRESH, TUNED, resolve_method_options
from fdlab.models import MODELS, find_task, find_use
from fdlab.models.build import build_model, find_weights, fit_state, load_weights, read_weights
from fdlab.models.lora import add_adapters, merge_state
from fdlab.training.evaluate import judge_samples

CODE = (
    "fdlab.core.seeding",
    "fdlab.data.augment",
    "fdlab.data.boxes",
    "fdlab.data.paired",
    "fdlab.data.streamed",
    "fdlab.losses",
    "fdlab.methods",
    "fdlab.models",
    "fdlab.spectral.bands",
    "fdlab.spectral.bases",
    "fdlab.spectral.grids",
    "fdlab.spectral.planes",
    "fdlab.spectral.wavelets",
    "fdlab.training",
)


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and its weights and predictions when they are asked for."""

    folder: Path
    record: RunRecord

    @functools.cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        return load_file(self.folder / "predictions.safetensors")

    def read_predictions(
        self, split: str = "test", head: str = "raw", moment: str = "validation"
    ) -> np.ndarray:
        """(n, K) logits, or in segmentation (n, K, 3) pixel counts, in the split's order."""
        name = f"{moment}/{split}/{head}"
        if name not in self.predictions:
            raise name_unknown("prediction", name, sorted(self.predictions))
        return self.predictions[name]

    def judge(
        self, labels: np.ndarray, split: str = "test", head: str = "raw", moment: str = "validation"
    ) -> np.ndarray:
        """(n,) float64 score of every sample, see `judge_samples`; labels: the split's."""
        return judge_samples(self.read_predictions(split, head, moment), labels)

    @functools.cached_property
    def probes(self) -> dict[str, np.ndarray]:
        """What `probe_terms` measured, stacked over `step`; the terms are those of the curves."""
        return load_file(self.folder / "probes.safetensors")

    def read_method_weights(self, moment: str = "validation") -> dict[str, torch.Tensor]:
        """Name → value of the method's own parameters."""
        return self._read_weights("method.", moment)

    def load_student(self, store: Store, moment: str = "validation") -> nn.Module:
        """The student network in eval mode on the CPU."""
        config = self.record.config
        model = build_model(
            store,
            config.student,
            width=config.width,
            seed=config.seed,
            network=config.network,
            pretrained=False,
        )
        if config.rank:
            add_adapters(model, config.rank)
        model.load_state_dict(self._read_weights("student.", moment))
        return model.eval()

    def _read_weights(self, owner: str, moment: str) -> dict[str, torch.Tensor]:
        """What belongs to the "student." or the "method.", under its own names."""
        weights = read_weights(self.folder / f"{moment}.safetensors")
        return {k.removeprefix(owner): v for k, v in weights.items() if k.startswith(owner)}

    def read_merged(self, scale: float = 1.0) -> dict[str, torch.Tensor]:
        """The student's weights for whoever starts from them, its adapters merged at a scale: of
        the last epoch where it learned without labels, since none should choose, else of the best
        one on the validation split."""
        blind = self.record.config.options.get("task_weight") == 0
        state = self._read_weights("student.", "last" if blind else "validation")
        return merge_state(state, scale)


def complete(config: RunConfig) -> RunConfig:
    """`config` with every name checked and every default filled in.

    A method without a teacher loses its teacher, so that one unimodal run serves every direction;
    one with a teacher gets `teacher_seed` = `seed` where none is given. Both networks are named
    where one of them is not the data set's own.
    """
    dataset = find_dataset(config.dataset)
    method = METHODS[config.method]
    if dataset.is_features:
        raise UserError(f"{config.dataset} holds features, not inputs: there is nothing to train")
    for modality in filter(None, (config.student, config.teacher, config.start)):
        if modality not in dataset.modalities:
            raise name_unknown(f"modality of {config.dataset}", modality, dataset.modalities)
    if config.weights:
        find_weights(config.weights)
    mine, own = _choose_network(config, config.student, config.network)
    task = dataset.task if mine == own else find_task(mine)
    options = resolve_method_options(config.method, config.options, task)
    config = replace(
        config,
        base=complete(config.base) if config.base else None,
        blend=config.blend if config.base and config.base.rank else 1.0,
        start="" if config.start == config.student else config.start,
        network="" if mine == own else mine,
    )
    if config.start and config.network:
        raise UserError(
            f"start is {config.start} and the network {config.network}: expected the data set's "
            "own network where another modality's start is taken"
        )
    if not method.needs:
        plain = {"teacher": None, "teacher_seed": None, "teacher_kind": "trained"}
        plain |= {"teacher_network": "", "teacher_train": None}
        return replace(config, options=options, **plain)
    if config.teacher is None:
        raise UserError(f"{config.method} needs a teacher: give a direction such as audio2image")
    seed = config.seed if config.teacher_seed is None else config.teacher_seed
    if config.teacher_kind == "start":
        if config.teacher != config.student or config.teacher_network not in ("", mine):
            raise UserError(
                f"teacher_kind is start and the direction {config.direction}: expected the "
                f"student's own network as its teacher, {config.student}2{config.student}"
            )
        own_start = {"teacher_seed": config.seed, "teacher_network": mine, "teacher_train": None}
        return replace(config, options=options, network=mine, **own_start)
    theirs, usual = _choose_network(config, config.teacher, config.teacher_network)
    start = config.start or config.student
    if (config.teacher, theirs, seed) == (start, mine, config.seed):
        raise UserError(
            f"a teacher of the student's own start ({config.teacher}, seed {seed}) is no other "
            "network: give another teacher_network or teacher_seed"
        )
    if method.teaching in (TUNED, FRESH) and config.teacher_kind != "trained":
        raise UserError(
            f"teacher_kind is {config.teacher_kind}: it controls a frozen teacher, and that of "
            f"{config.method} {method.teaching}"
        )
    if method.teaching == DRIFTING and config.teacher_kind == "constant":
        raise UserError(
            f"teacher_kind is constant: {config.method} reads its teacher on each batch anew"
        )
    recipe = config.teacher_train
    if recipe == config.train or method.teaching == FRESH:
        recipe = None
    if (mine, theirs) == (own, usual):
        mine = theirs = ""
    config = replace(config, network=mine, teacher_network=theirs)
    return replace(config, options=options, teacher_seed=seed, teacher_train=recipe)


def _choose_network(config: RunConfig, modality: str, name: str) -> tuple[str, str]:
    """The network of a modality, and the data set's own, in whose place it can stand: one for the
    same use, or for another that the store holds the answers of."""
    dataset = find_dataset(config.dataset)
    own = dataset.modalities[modality].model
    if name and find_use(name) != find_use(own):
        uses = {find_use(own)}
        if uses != {"words"}:
            store = prepare(config.dataset, config.data_options)
            held = {"pixels": "mask", "boxes": "boxes"}
            uses |= {
                use for use, array in held.items() if f"{array}.npy" in store.manifest["files"]
            }
        if find_use(name) not in uses:
            choices = [other for other in MODELS if find_use(other) in uses]
            raise name_unknown(f"network for {' or '.join(sorted(uses))}", name, choices)
    return name or own, own


def find_run_task(config: RunConfig, dataset: Dataset | None = None) -> str:
    """What a run's student learns: what its network is for. dataset: the run's, where it is at
    hand."""
    if config.network:
        return find_task(config.network)
    return (dataset or find_dataset(config.dataset)).task


def find_pack(config: RunConfig) -> str:
    """Digest of what runs share that train in step."""
    alike = [config.dataset, config.data_options, config.train, find_run_task(config)]
    return digest(alike)


def build_start(config: RunConfig, store: Store, adapt: bool = True) -> nn.Module:
    """A completed configuration's student as its training begins, on the CPU, with its adapters
    where it has any. Its base's run has to be there. adapt: False for what a frozen copy needs."""
    model = build_model(
        store,
        config.student,
        width=config.width,
        seed=config.seed,
        network=config.network,
        start=config.start,
        pretrained=config.base is None,
    )
    if config.weights:
        load_weights(model, config.weights)
    if config.base:
        _start_from(model, config)
    if config.rank and adapt:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "adapters", config.student))
            add_adapters(model, config.rank)
    return model


def _start_from(model: nn.Module, config: RunConfig) -> None:
    """Give a network its base's weights: all of them where both learn the same task, else the
    encoder's alone, the head staying as it was drawn."""
    run = read_run(paths.runs() / find_name(config.base))
    state, own = run.read_merged(config.blend), model.state_dict()
    if find_run_task(config.base) != find_run_task(config):
        prefix = model.backbone
        encoder = {k: v for k, v in state.items() if prefix and k.startswith(prefix)}
        if not encoder:
            raise UserError(
                f"{config.label}: its base has no encoder of its own to start from: expected a "
                "network with a head beside it, such as vit_small_pixels"
            )
        state = {k: v for k, v in own.items() if not k.startswith(prefix)} | encoder
    fit_state(model, state, run.folder)


def find_teacher(config: RunConfig) -> RunConfig | None:
    """The configuration of a completed run's teacher: its modality's own `none` run.

    None too for a method whose teacher starts from scratch, and where it is the student's start.
    """
    if config.teacher is None or METHODS[config.method].teaching == FRESH:
        return None
    if config.teacher_kind == "start":
        return None
    return complete(
        replace(
            config,
            student=config.teacher,
            teacher=None,
            network=config.teacher_network,
            teacher_network="",
            method="none",
            options={},
            seed=config.teacher_seed,
            teacher_seed=None,
            weights="",
            base=None,
            blend=1.0,
            rank=0,
            teacher_kind="trained",
            start="",
            probes=0,
            train=config.teacher_train or config.train,
            teacher_train=None,
        )
    )


def find_code(config: RunConfig, store: Store) -> str:
    """Digest of the package's code that a completed run depends on."""
    modules = ["fdlab.training.loop", *METHODS.find_modules(config.method)]
    sides = [(config.student, config.network), (config.teacher, config.teacher_network)]
    names = {name or store.dataset.modalities[side].model for side, name in sides if side}
    modules += map(MODELS.find_module, names)
    return code_digest(modules, inside=CODE)


def fingerprint(config: RunConfig, store: Store) -> str:
    """16 hexadecimal digits of a completed configuration, the data's content and the code."""
    teacher = find_teacher(config)
    dataset = store.dataset
    content = checksum(find_weights(config.weights)) if config.weights else ""
    parts: dict[str, Any] = {
        "config": replace(config, weights=content),
        "data": store.digest,
        "sides": {m: dataset.modalities[m] for m in (config.student, config.teacher) if m},
        "classes": dataset.classes,
        "teacher": fingerprint(teacher, store) if teacher else None,
        "base": find_name(config.base) if config.base else None,
        "code": find_code(config, store),
        "threads": count_threads(),
    }
    return digest(parts)


def find_name(config: RunConfig) -> str:
    """The fingerprint of a completed configuration."""
    return fingerprint(config, prepare(config.dataset, config.data_options))


def find_sources(config: RunConfig) -> list[RunConfig]:
    """The runs that a completed configuration needs to be there: its trained teacher's, and the
    one that it starts from."""
    teacher = None if config.teacher_kind == "untrained" else find_teacher(config)
    return [source for source in (teacher, config.base) if source]


def find_waves(configs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """All that completed configurations need, in waves that can each be trained at once after those
    before it; they themselves are the last one."""
    waves = [list(configs)]
    while sources := [source for config in waves[0] for source in find_sources(config)]:
        waves.insert(0, sources)
    return waves


def read_run(folder: Path) -> Run:
    """A run from its folder, of which nothing is checked."""
    return Run(folder, RunRecord.read(folder / "record.json"))


def open_run(folder: Path) -> Run | None:
    """A run from its folder; None where it is absent, or damaged, which is said."""
    if not folder.is_dir():
        return None
    damage = find_run_damage(folder)
    if damage:
        say(f"fdlab: {damage}; the run will be trained again")
        return None
    return read_run(folder)


def find_run_damage(folder: Path) -> str | None:
    """What is wrong with a run's folder, naming the file, or None."""
    try:
        record = RunRecord.read(folder / "record.json")
    except FileNotFoundError:
        return f"{folder} holds no record.json"
    except UserError as error:
        return str(error)
    if record.fingerprint != folder.name and not folder.name.startswith("."):
        return f"{folder / 'record.json'} is the record of {record.fingerprint!r}"
    return find_damage(folder, record.files)


def list_runs() -> Iterator[tuple[Path, RunRecord | None, str | None]]:
    """Every folder of runs: (folder, record, None), or (folder, None, what is wrong with it)."""
    if not paths.runs().is_dir():
        return
    for folder in sorted(paths.runs().iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            damage = find_run_damage(folder)
            yield folder, None if damage else RunRecord.read(folder / "record.json"), damage


def clean_runs(everything: bool = False) -> list[Path]:
    """Remove damaged runs and what killed processes left behind, or every run; names the folders.

    A run that some process is working on is left alone. So are the checkpoints of unfinished runs,
    but where every run goes.
    """
    removed = []
    found = [*paths.runs().glob("*"), *paths.checkpoints().glob("*")]
    for folder in sorted(path for path in found if path.is_dir()):
        leftover = folder.name.startswith(".")
        name = folder.name.split(".")[1] if leftover else folder.name
        if folder.parent == paths.checkpoints():
            leftover = find_run_damage(paths.runs() / name) is None  # it has served its purpose
        elif not leftover:
            leftover = find_run_damage(folder) is not None
        if not (everything or leftover):
            continue
        try:
            with holding(paths.runs() / name, f"run {name}", wait=False):
                if folder.suffix == ".old" and restore_folder(folder.with_name(name)):
                    continue  # it is the run: a kill left no other
                shutil.rmtree(folder)
                removed.append(folder)
        except Taken as error:
            say(f"fdlab: {folder} stays: {error}")
    remove_leftovers(paths.runs())
    return removed

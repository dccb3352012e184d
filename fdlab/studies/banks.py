"""Feature banks of finished runs, extracted once and found again."""

from __future__ import annotations

import numpy as np

from fdlab.core import paths
from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device
from fdlab.core.fingerprint import code_digest, digest
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.data.store import Store
from fdlab.features.bank import FeatureBank, extract, keep_bank
from fdlab.models.build import have_same_network, place
from fdlab.studies.plan import Plan
from fdlab.training.ensure import build_untrained
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

CODE = ("fdlab.features", "fdlab.models", "fdlab.data.paired")


def load_unimodal_banks(
    plan: Plan, split: str = "test", *, start: str = "", modalities: list[str] | None = None
) -> dict[tuple[str, int], FeatureBank]:
    """(modality, seed) → bank of that modality's own network, which is the paper's teacher.

    For a data set of features the vectors themselves, the same for every seed. start: the modality
    whose initialisation the networks take, see `RunConfig`. modalities: all where none are named.
    """
    store = plan.open_store()
    if plan.definition.is_features:
        return {
            (modality, seed): read_bank(store, modality, split)
            for modality in modalities or plan.modalities
            for seed in plan.seeds
        }
    configs = configure_unimodal(plan, start=start, modalities=modalities)
    runs = ensure_runs(configs.values(), device=plan.device)
    banks = [load_bank(run, store, split, plan.device) for run in runs]
    return dict(zip(configs, banks, strict=True))


def configure_unimodal(
    plan: Plan, *, start: str = "", modalities: list[str] | None = None
) -> dict[tuple[str, int], RunConfig]:
    """(modality, seed) → the run of its own network; none where the data are features."""
    if plan.definition.is_features:
        return {}
    return {
        (modality, seed): plan.configure(modality, seed=seed, start=start)
        for modality in modalities or plan.modalities
        for seed in plan.seeds
    }


def are_alike(plan: Plan, one: str, two: str) -> bool:
    """Whether one modality's network may start from the other's weights; never for features."""
    if plan.definition.is_features:
        return False
    return have_same_network(plan.open_store(), one, two)


def load_untrained_banks(
    plan: Plan, count: int, split: str = "test"
) -> dict[tuple[str, int], FeatureBank]:
    """(modality, 0 to count - 1) → bank of that modality's network as initialised.

    Under seeds of their own, since a plan's seeds are those of trained networks. Not kept on disk:
    a forward pass over the data is all that they cost.
    """
    store, device = plan.open_store(), choose_device(plan.device)
    data = PairedData.load(store, plan.modalities, device, plan.train.side)
    banks = {}
    for modality in plan.modalities:
        for number in range(count):
            seed = derive_seed("untrained", number) % 2**31
            model = build_untrained(store, data, modality, plan.width, seed)
            banks[modality, number] = extract(model, data, modality, split, layers=True)
    return banks


def load_bank(run: Run, store: Store, split: str = "test", device: str = "auto") -> FeatureBank:
    """A run's student at its validation-selected epoch, over one split: pooled layers, feature and
    logits."""
    code = code_digest(["fdlab.features.bank"], inside=CODE)
    name = f"{run.record.fingerprint}-{digest([split, run.record.files, code])}"

    def make() -> FeatureBank:
        chosen = choose_device(device)
        config = run.record.config
        modality = config.student
        data = PairedData.load(store, [modality], chosen, config.train.side)
        return extract(place(run.load_student(store), chosen), data, modality, split, layers=True)

    return keep_bank(paths.banks() / f"{name}.safetensors", make)


def read_bank(store: Store, modality: str, split: str = "test") -> FeatureBank:
    """The rows of a data set of features as a bank."""
    rows = store.rows(split)
    vectors = np.array(store.read(modality)[rows])
    return FeatureBank(rows, np.array(store.labels[rows]), {"feature": vectors})

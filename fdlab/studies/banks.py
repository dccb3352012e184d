"""Feature banks of finished runs, extracted once and found again."""

from __future__ import annotations

import numpy as np

from fdlab.core import paths
from fdlab.core.device import choose_device
from fdlab.core.fingerprint import code_digest, digest
from fdlab.data.paired import PairedData
from fdlab.data.store import Store
from fdlab.features.bank import FeatureBank, extract, keep_bank
from fdlab.models.build import place
from fdlab.studies.plan import Plan
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

CODE = ("fdlab.features", "fdlab.models", "fdlab.data.paired")


def load_unimodal_banks(plan: Plan, split: str = "test") -> dict[tuple[str, int], FeatureBank]:
    """(modality, seed) → bank of that modality's own network, which is the paper's teacher.

    For a data set of features the vectors themselves, the same for every seed.
    """
    store = plan.open_store()
    wanted = [(modality, seed) for modality in plan.modalities for seed in plan.seeds]
    if plan.definition.is_features:
        return {(modality, seed): read_bank(store, modality, split) for modality, seed in wanted}
    runs = ensure_runs(
        [plan.configure(modality, seed=seed) for modality, seed in wanted], device=plan.device
    )
    banks = [load_bank(run, store, split, plan.device) for run in runs]
    return dict(zip(wanted, banks, strict=True))


def load_bank(run: Run, store: Store, split: str = "test", device: str = "auto") -> FeatureBank:
    """A run's student at its validation-selected epoch, over one split: pooled layers, feature and
    logits."""
    code = code_digest(["fdlab.features.bank"], inside=CODE)
    name = f"{run.record.fingerprint}-{digest([split, run.record.files, code])}"

    def make() -> FeatureBank:
        chosen = choose_device(device)
        modality = run.record.config.student
        data = PairedData.load(store, [modality], chosen)
        return extract(place(run.load_student(store), chosen), data, modality, split, layers=True)

    return keep_bank(paths.banks() / f"{name}.safetensors", make)


def read_bank(store: Store, modality: str, split: str = "test") -> FeatureBank:
    """The rows of a data set of features as a bank."""
    rows = store.rows(split)
    vectors = np.array(store.read(modality)[rows])
    return FeatureBank(rows, np.array(store.labels[rows]), {"feature": vectors})

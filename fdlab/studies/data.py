"""What is in the data set?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.data.dataset import SPLITS
from fdlab.data.store import Store
from fdlab.studies.claims import Claim
from fdlab.studies.plan import Plan

QUESTION = "What does one event look, sound and read like, and what separates the splits?"


@dataclass(frozen=True)
class Overview:
    """counts: split → events per class (K,). examples: modality → (E, …) of the `shown` events.

    sentences: of the shown events where there are any. shared: kind of id → how many of its values
    occur in two splits. note: what is real and what is synthesised.
    """

    dataset: str
    preset: str
    counts: dict[str, np.ndarray]
    shown: np.ndarray
    labels: np.ndarray
    examples: dict[str, np.ndarray]
    sentences: list[str]
    shared: dict[str, int]
    note: str

    @property
    def n(self) -> int:
        return int(sum(count.sum() for count in self.counts.values()))

    def finding(self) -> str:
        sizes = ", ".join(f"{int(self.counts[split].sum())} {split}" for split in SPLITS)
        clean = [kind for kind, shared in self.shared.items() if shared == 0]
        apart = f"; disjoint between the splits: {', '.join(clean)}" if clean else ""
        return f"{self.n} events in {len(self.counts['train'])} classes ({sizes}){apart}."

    def claims(self) -> list[Claim]:
        return []


def describe_data(plan: Plan, *, examples: int = 8) -> Overview:
    """Counts, ids shared between splits, and the first test event of each of some classes."""
    store = plan.open_store()
    labels, split = np.array(store.labels), np.array(store.split)
    classes = store.dataset.classes
    test = store.rows("test")
    firsts = [test[labels[test] == k][0] for k in range(classes) if (labels[test] == k).any()]
    shown = np.array(firsts[:examples])
    return Overview(
        dataset=plan.dataset,
        preset=plan.preset,
        counts={
            name: np.bincount(labels[split == i], minlength=classes)
            for i, name in enumerate(SPLITS)
        },
        shown=shown,
        labels=labels[shown],
        examples={name: np.array(store.read(name)[shown]) for name in plan.modalities},
        sentences=[store.ids["sentence"][i] for i in shown] if "sentence" in store.ids else [],
        shared={kind: _count_shared(values, split) for kind, values in store.ids.items()},
        note=store.info.get("note", ""),
    )


def read_clips(store: Store, rows: np.ndarray) -> list[tuple[int, np.ndarray, int]]:
    """(label, samples int16, rate in Hz) of some events to listen to; [] where nothing sounds."""
    if "waveform_rate" not in store.info:
        return []
    clips, rate = store.read("waveform"), store.info["waveform_rate"]
    return [(int(store.labels[row]), np.array(clips[row]), rate) for row in rows]


def collect_values(values: list, split: np.ndarray) -> list[set]:
    """Distinct values of one kind of id per split, in the order of `SPLITS`."""
    return [
        {value for value, s in zip(values, split, strict=True) if s == i}
        for i in range(len(SPLITS))
    ]


def _count_shared(values: list[str], split: np.ndarray) -> int:
    sets = collect_values(values, split)
    return len((sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2]))

"""What is in the data set?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fdlab.data.dataset import SPLITS
from fdlab.data.store import Store
from fdlab.studies.claims import Claim
from fdlab.studies.plan import Plan

LARGEST = 96  # pixels of a printed example's shorter side
QUESTION = "What does one event look, sound and read like, and what separates the splits?"


@dataclass(frozen=True)
class Overview:
    """counts: split → events per class (K,), in segmentation per kind of scene. names: of those.
    examples: modality → (E, …) of the `shown` events, pictures at most `LARGEST` pixels a side, of
    frames the middle one. masks: (E, h, w) class of every pixel, in segmentation; (0,) elsewhere.
    palette: (K, 3) uint8 colours of the classes, where the data set has its own; else empty.

    sentences: of the shown events where there are any. shared: kind of id → how many of its values
    occur in two splits. note: what is real and what is synthesised. families: names, where equally
    many classes in a row are one family each; else empty. specimens: (K, C, h, w) uint8, a clean
    picture of every class, where the data set draws them; else (0,).
    """

    dataset: str
    preset: str
    counts: dict[str, np.ndarray]
    shown: np.ndarray
    labels: np.ndarray
    names: list[str]
    examples: dict[str, np.ndarray]
    masks: np.ndarray
    palette: np.ndarray
    sentences: list[str]
    shared: dict[str, int]
    note: str
    families: list[str] = field(default_factory=list)
    specimens: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))

    @property
    def n(self) -> int:
        return int(sum(count.sum() for count in self.counts.values()))

    def finding(self) -> str:
        sizes = ", ".join(f"{int(self.counts[split].sum())} {split}" for split in SPLITS)
        clean = [kind for kind, shared in self.shared.items() if shared == 0]
        apart = f"; disjoint between the splits: {', '.join(clean)}" if clean else ""
        kinds = "kinds of scene" if self.masks.size else "classes"
        kinds += f" of {len(self.families)} families" if self.families else ""
        return f"{self.n} events in {len(self.counts['train'])} {kinds} ({sizes}){apart}."

    def claims(self) -> list[Claim]:
        return []


def describe_data(plan: Plan, *, examples: int = 8) -> Overview:
    """Counts, ids shared between splits, and the first test event of each of some classes; of few
    classes also the second, and so on. Of classes in families one class of each family, and of each
    the next class."""
    store = plan.open_store()
    dataset = store.dataset
    labels, split = np.array(store.labels), np.array(store.split)
    classes = dataset.labels
    families = list_families(store.info.get("families", []))
    test = store.rows("test")
    kinds, order = labels[test], test
    if families:
        size = classes // len(families)
        kinds, order = labels[test] // size, (labels[test] - labels[test] // size) % size
    shown = test[take_turns(kinds, order)[:examples]]
    return Overview(
        dataset=plan.dataset,
        preset=plan.preset,
        counts={
            name: np.bincount(labels[split == i], minlength=classes)
            for i, name in enumerate(SPLITS)
        },
        shown=shown,
        labels=labels[shown],
        names=name_labels(store),
        examples={name: shrink_examples(store.read(name)[shown]) for name in plan.modalities},
        masks=shrink_examples(store.read("mask")[shown])
        if dataset.task == "segmentation"
        else np.empty(0, np.uint8),
        palette=read_palette(store),
        sentences=_read_sentences(store, shown),
        shared={kind: _count_shared(values, split) for kind, values in store.ids.items()},
        note=store.info.get("note", ""),
        families=families,
        specimens=dataset.specimens(dataset.options(**plan.data_options))
        if dataset.specimens
        else np.empty(0, np.uint8),
    )


def list_families(each: list[str]) -> list[str]:
    """Names of families, given that of every class, where equally many classes in a row are one
    family each; else none.

    >>> list_families(["owl", "owl", "wren", "wren"]), list_families(["owl", "wren", "owl", "wren"])
    (['owl', 'wren'], [])
    """
    names = list(dict.fromkeys(each))
    size = len(each) // max(len(names), 1)
    return names if each == [name for name in names for _ in range(size)] else []


def take_turns(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Places of (N,) labels: the first of every label, then the second of every one, and so on;
    within a label by rising `order`, ties by place.

    >>> take_turns(np.array([1, 0, 0, 1]), np.array([5, 2, 1, 3])).tolist()
    [2, 3, 1, 0]
    """
    ranked = np.lexsort((np.arange(len(labels)), order))
    turns = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        own = ranked[labels[ranked] == label]
        turns[own] = np.arange(len(own))
    return np.lexsort((labels, turns))


def name_labels(store: Store) -> list[str]:
    """Names of the kinds of events: classes, or kinds of scene; numbers where there are none."""
    dataset = store.dataset
    return store.classes if dataset.task == "classification" else list(dataset.scenes)


def read_palette(store: Store) -> np.ndarray:
    """(K, 3) uint8 colours of the classes, where the data set has its own; else empty."""
    return np.array(list(store.info.get("palette", {}).values()), np.uint8)


def _read_sentences(store: Store, rows: np.ndarray) -> list[str]:
    """What is read in some events, where the store keeps it in words."""
    kept = next((kind for kind in ("sentence", "text") if kind in store.ids), "")
    return [store.ids[kept][row] for row in rows] if kept else []


def shrink_examples(array: np.ndarray) -> np.ndarray:
    """Pictures (E, …, H, W) small enough to print, by leaving out rows and columns; of a frame axis
    (E, F, C, H, W) the middle frame; other rows as they are."""
    array = np.array(array)
    if array.ndim == 5:
        array = array[:, array.shape[1] // 2]
    if array.ndim < 3 or min(array.shape[-2:]) <= LARGEST:
        return array
    step = -(-min(array.shape[-2:]) // LARGEST)
    return array[..., ::step, ::step]


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

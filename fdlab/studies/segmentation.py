"""Which classes does a method gain or lose, and where in the image?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.data.dataset import IGNORED
from fdlab.data.store import Store
from fdlab.studies.claims import Claim
from fdlab.studies.comparison import configure_methods
from fdlab.studies.data import read_palette, shrink_examples, take_turns
from fdlab.studies.plan import Plan
from fdlab.studies.stats import LEVEL, compare_both, correct_holm
from fdlab.training.evaluate import MAP
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = "Which classes does a method gain or lose, and where in the image?"


@dataclass(frozen=True)
class Classwise:
    """One method in one direction, by class (K of them).

    values: (S, K) intersection over union (%) of every seed, nan for a class that is neither true
    nor chosen in the test split. found: its mean over seeds, and gains: points above no
    distillation under the same seeds, with intervals over seeds and images (`compare_both`); nan
    where a class is missing under some seed. holm: (K,) p-value of each gain, Holm-corrected over
    the classes.
    """

    direction: str
    method: str
    values: np.ndarray
    found: list[Estimate]
    gains: list[Estimate]
    holm: np.ndarray


@dataclass(frozen=True)
class Segmentation:
    """rows: every method in every direction, `none` first. classes: their names; shares: (K,) part
    of the test split's pixels that have a class. direction, seed: of the pictures. inputs: modality
    → (E, C, h, w) of some test images; truth: (E, h, w); palette: see `studies.data`; chosen:
    method → (E, h, w) what the raw head says; pictures: their numbers in the test split."""

    dataset: str
    preset: str
    metric: str
    n: int
    seeds: list[int]
    classes: list[str]
    shares: np.ndarray
    rows: list[Classwise]
    direction: str
    seed: int
    pictures: np.ndarray
    inputs: dict[str, np.ndarray]
    truth: np.ndarray
    palette: np.ndarray
    chosen: dict[str, np.ndarray]
    runs: list[str]

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(row.direction for row in self.rows))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    def find(self, direction: str, method: str) -> Classwise:
        return next(r for r in self.rows if (r.direction, r.method) == (direction, method))

    def finding(self) -> str:
        told = []
        for direction in self.directions:
            row = self.find(direction, self.methods[-1])
            sure = np.flatnonzero(row.holm < 1 - LEVEL)
            up = sum(row.gains[k].mean > 0 for k in sure)
            base = self.find(direction, "none").values.mean(axis=0)
            order = np.argsort(np.where(np.isnan(base), np.inf, base))
            told.append(
                f"{direction}: {row.method} is above no distillation in {up} and below in "
                f"{len(sure) - up} of {len(self.classes)} classes (Holm over them, 5 %, interval "
                f"over seeds and images); hardest without it: {self.classes[order[0]]} "
                f"({base[order[0]]:.0f} %)"
            )
        return f"{'; '.join(told)}. {len(self.seeds)} seeds, n = {self.n} images."

    def claims(self) -> list[Claim]:
        return []  # the comparison's; classes are a look into its means


def configure_segmentation(
    plan: Plan, methods: list[str] | str, directions: list[str] | str | None
) -> dict[tuple[str, str, int], RunConfig]:
    """(direction, method, seed) → its run."""
    if plan.definition.task != "segmentation":
        raise UserError(f"{plan.dataset} has no masks: this study is for segmentation")
    return configure_methods(plan, methods, directions)


def look_at_classes(
    plan: Plan,
    *,
    methods: list[str] | str,
    directions: list[str] | str | None = None,
    examples: int = 5,
) -> Segmentation:
    """Train or find the runs; count every class, and show some images of the first direction's
    first seed. The last method is the one that the finding speaks of."""
    configs = configure_segmentation(plan, methods, directions)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    names = list(dict.fromkeys(method for _, method, _ in runs))
    ways = list(dict.fromkeys(way for way, _, _ in runs))
    spread = {
        (way, name): np.stack(
            [spread_classes(runs[way, name, s].read_predictions()) for s in plan.seeds]
        )
        for way in ways
        for name in names
    }
    seed, way = plan.seeds[0], ways[0]
    pictures = choose_pictures(store, examples)
    rows = store.rows("test")[pictures]
    counts = runs[way, names[0], seed].read_predictions().sum(axis=0)[:, 2]
    return Segmentation(
        dataset=plan.dataset,
        preset=plan.preset,
        metric=plan.definition.metric,
        n=len(store.rows("test")),
        seeds=list(plan.seeds),
        classes=store.classes,
        shares=counts / counts.sum(),
        rows=[
            compare_classes(w, name, spread[w, name], spread[w, "none"])
            for w in ways
            for name in names
        ],
        direction=way,
        seed=seed,
        pictures=pictures,
        inputs={name: shrink_examples(store.read(name)[rows]) for name in plan.modalities},
        truth=shrink_examples(store.read("mask")[rows]),
        palette=read_palette(store),
        chosen={
            name: shrink_examples(read_maps(runs[way, name, seed])[pictures]) for name in names
        },
        runs=sorted({run.record.fingerprint for run in runs.values()}),
    )


def spread_classes(counts: np.ndarray) -> np.ndarray:
    """(n, K, 3) pixel counts → (n, K) values of every image whose mean over images is each class's
    intersection over union (%); nan for a class that is neither true nor chosen in any.

    The infinitesimal jackknife's, as in `judge_samples`, of one class at a time.
    """
    right, chosen, true = np.moveaxis(counts.astype(np.float64), 2, 0)
    union = chosen + true - right
    total = union.sum(axis=0)
    total[total == 0] = np.nan
    ratio = right.sum(axis=0) / total
    return 100 * (ratio + len(counts) * (right - ratio * union) / total)


def compare_classes(direction: str, method: str, own: np.ndarray, plain: np.ndarray) -> Classwise:
    """own, plain: (S, n, K) of `spread_classes`, of a method and of no distillation."""
    gaps = own - plain
    found = [_estimate(own[:, :, k])[0] for k in range(own.shape[2])]
    gains = [_estimate(gaps[:, :, k]) for k in range(own.shape[2])]
    known = [k for k, (gain, _) in enumerate(gains) if not np.isnan(gain.mean)]
    holm = np.full(len(gains), np.nan)
    holm[known] = correct_holm([gains[k][1] for k in known])
    return Classwise(direction, method, own.mean(axis=1), found, [g for g, _ in gains], holm)


def _estimate(values: np.ndarray) -> tuple[Estimate, float]:
    """(S, n) → mean with its interval, and p; nan where a class is missing under some seed."""
    if np.isnan(values).any():
        return Estimate(np.nan, np.nan, np.nan, values.shape[1]), np.nan
    return compare_both(values)


def read_maps(run: Run) -> np.ndarray:
    """(n, H, W) uint8, the raw head's class of every pixel of the test split."""
    return run.predictions[f"validation/{MAP}"]


def choose_pictures(store: Store, count: int) -> np.ndarray:
    """Places in the test split: of each kind of scene the image with the most classes, then of each
    the next, until there are `count`; so that nobody picks them by how well they came out."""
    rows = store.rows("test")
    masks, labels = np.asarray(store.read("mask")[rows]), np.asarray(store.labels[rows])
    variety = np.array([len(np.setdiff1d(np.unique(mask), [IGNORED])) for mask in masks])
    return take_turns(labels, -variety)[:count]

"""Do teacher and student features mix after distillation? (FD-CMKD, figure 4)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fdlab.core.config import Direction
from fdlab.core.estimate import Estimate
from fdlab.studies.banks import load_bank
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.stats import average_samples
from fdlab.training.pool import ensure_runs

QUESTION = (
    "Does distillation make the student's features cluster better, or mix with the teacher's?"
)
NEIGHBOURS = 10


@dataclass(frozen=True)
class Panel:
    """One method's features. points: (2n, 2) t-SNE of teacher rows, then student rows.

    purities: (n,) part of each student sample's nearest student neighbours that share its class,
    in the original space; purity: their mean over the samples. modality_auc: cross-validated AUC
    of a linear probe telling teacher features from student ones (0.5: mixed, 1: apart).
    """

    method: str
    points: np.ndarray
    purities: np.ndarray
    purity: Estimate
    modality_auc: float

    def describe(self) -> str:
        return f"{self.method} purity {self.purity.format(2)}, modality AUC {self.modality_auc:.2f}"


@dataclass(frozen=True)
class Embedding:
    """labels: (n,) classes of the test samples; perplexity, seed: of t-SNE and the runs."""

    dataset: str
    preset: str
    n: int
    direction: str
    seed: int
    perplexity: float
    labels: np.ndarray
    panels: list[Panel]

    def find(self, method: str) -> Panel | None:
        return next((p for p in self.panels if p.method == method), None)

    def finding(self) -> str:
        parts = [panel.describe() for panel in self.panels]
        return f"{self.direction}, seed {self.seed}, n = {self.n}: {'; '.join(parts)}."

    def claims(self) -> list[Claim]:
        ours, base, control = map(self.find, ("fdcmkd", "none", "heads_only"))
        if ours is None or base is None:
            return []
        gain = average_samples(ours.purities - base.purities)
        verdict = OPEN if not gain.excludes(0) else SUPPORTED if gain.mean > 0 else REFUTED
        parts = [f"none: {base.purity.format(2)}"]
        if control is not None:
            rest = average_samples(ours.purities - control.purities)
            half = average_samples(control.purities - (ours.purities + base.purities) / 2)
            parts.append(f"heads_only: {control.purity.format(2)}")
            parts.append(f"fdcmkd - heads_only {rest.format(2, sign=True)}")
            if verdict == SUPPORTED and not (rest.excludes(0) and rest.mean > 0):
                verdict = MATCHED if half.excludes(0) and half.mean > 0 else OPEN
        return [
            Claim(
                statement="FD-CMKD's student features are better separated by class",
                where="figure 4 (t-SNE)",
                paper="clearer clusters (picture)",
                ours=f"fdcmkd - none {gain.format(2, sign=True)} in class purity",
                control="; ".join(parts),
                verdict=verdict,
                why=(
                    "one seed, paired by sample; supported where fdcmkd lies above none and above "
                    "heads_only; the control matches where heads_only reaches more than half of it"
                ),
            )
        ]


def embed_features(
    plan: Plan,
    *,
    direction: str,
    methods: list[str] | str,
    seed: int = 0,
    perplexity: float = 30.0,
) -> Embedding:
    """t-SNE of teacher and student test features, and separability in the original space."""
    way = Direction.parse(direction, plan.modalities)
    methods = read_list("methods", methods, str)
    store = plan.open_store()
    configs = [plan.configure(way.teacher, seed=seed)]
    configs += [plan.configure(way.student, m, way.teacher, seed) for m in methods]
    banks = [
        load_bank(r, store, "test", plan.device) for r in ensure_runs(configs, device=plan.device)
    ]
    teacher, students = banks[0], banks[1:]
    panels = [
        Panel(
            method=method,
            points=project(teacher["feature"], bank["feature"], perplexity, seed),
            purities=(purities := measure_purity(bank["feature"], bank.labels)),
            purity=average_samples(purities),
            modality_auc=probe_modality(teacher["feature"], bank["feature"]),
        )
        for method, bank in zip(methods, students, strict=True)
    ]
    return Embedding(
        plan.dataset, plan.preset, len(teacher), direction, seed, perplexity, teacher.labels, panels
    )


def project(teacher: np.ndarray, student: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """(2n, 2) t-SNE of both sides' features together, as they are."""
    both = np.concatenate([teacher, student])
    perplexity = min(perplexity, (len(both) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(both)


def measure_purity(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) part of each row's nearest rows (cosine) that have its class."""
    count = min(NEIGHBOURS, len(features) - 1)
    finder = NearestNeighbors(n_neighbors=count, metric="cosine").fit(features)
    near = finder.kneighbors(return_distance=False)  # without the row itself
    return (labels[near] == labels[:, None]).mean(axis=1)


def probe_modality(one: np.ndarray, two: np.ndarray) -> float:
    """AUC of a linear probe that tells one side's rows from the other's, mean over five folds.

    Both rows of an event are in the same fold, so that no test row's event was seen in training.
    """
    both = np.concatenate([one, two])
    side = np.repeat([0, 1], [len(one), len(two)])
    folds = np.random.default_rng(0).permutation(np.arange(len(one)) % 5)
    groups = np.concatenate([folds, folds])
    scores = []
    for fold in range(5):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        probe.fit(both[groups != fold], side[groups != fold])
        found = probe.decision_function(both[groups == fold])
        scores.append(roc_auc_score(side[groups == fold], found))
    return float(np.mean(scores))

"""Do teacher and student features mix after distillation? (FD-CMKD, figure 4; ICLR, figure 6)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.estimate import Estimate
from fdlab.core.workers import run_side_by_side
from fdlab.features.bank import FeatureBank
from fdlab.studies.banks import load_bank
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.comparison import configure_methods
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.stats import average_percent, average_samples, average_seeds
from fdlab.training.pool import ensure_runs

QUESTION = (
    "Does distillation make the student's features cluster better, or mix with the teacher's?"
)
NEIGHBOURS = 10
STEPS = 500  # of t-SNE, see `project`
APART = 0.9  # modality AUC from which two sides can be two clusters (our choice)
CLOSED = 0.1  # share of the other side's neighbours up to which they are (our choice)


@dataclass(frozen=True)
class Panel:
    """One t-SNE picture of one run.

    points: (2n, 2) float32, teacher rows, then student rows, aligned to the first panel of the
    result by `align` and rounded to 0.01 of their root mean square radius. trustworthiness: how
    many of the picture's neighbours are neighbours in the original space too, 1 for all of them
    (`measure_trust`). disparity: what the alignment left between this panel and the first, 0 to 1.
    """

    method: str
    seed: int
    perplexity: int
    points: np.ndarray
    trustworthiness: float
    disparity: float


@dataclass(frozen=True)
class Separation:
    """One method's numbers in the original space, for every seed of the plan.

    purities: (S,) class purity of the student's features (`measure_purity`), mean over samples.
    purity_samples: the same averaged over seeds, with its interval over the samples.
    aucs: (S,) of `probe_modality`, 0.5 mixed, 1 apart. mixings: (S,) of `measure_mixing`, about 0.5
    mixed, 0 apart. The probe answers for all samples together, so both have intervals over seeds
    alone. Intervals are cut to [0, 1], beyond which no share and no AUC lies.
    """

    method: str
    purities: np.ndarray
    purity_samples: Estimate
    aucs: np.ndarray
    mixings: np.ndarray

    @property
    def purity(self) -> Estimate:
        return average_shares(self.purities)

    @property
    def auc(self) -> Estimate:
        return average_shares(self.aucs)

    @property
    def mixing(self) -> Estimate:
        return average_shares(self.mixings)

    @property
    def apart(self) -> bool | None:
        """Whether teacher and student are two clusters; None where the seeds do not decide.

        Two clusters: a linear probe tells them apart and a sample's neighbours are of its own side,
        both over their whole intervals.
        """
        auc, mixing = self.auc, self.mixing
        if auc.low >= APART and mixing.high <= CLOSED:
            return True
        return False if auc.high < APART or mixing.low > CLOSED else None

    def describe(self) -> str:
        return f"{self.method} {self.auc.format(2)}"


@dataclass(frozen=True)
class Embedding:
    """labels: (n,) classes of the test samples. seeds: all that were measured; panels show some.

    chance: class purity of features that know nothing, from the class shares. contrasts: "a-b" →
    [Estimate over seeds, Estimate over samples] of a's class purity minus b's, paired;
    "heads_only-half" is heads_only minus the middle between none and fdcmkd.
    """

    dataset: str
    preset: str
    n: int
    direction: str
    seeds: list[int]
    chance: float
    labels: np.ndarray
    panels: list[Panel]
    separations: list[Separation]
    contrasts: dict[str, list[Estimate]]

    @property
    def methods(self) -> list[str]:
        return [found.method for found in self.separations]

    @property
    def drawn(self) -> list[tuple[int, int]]:
        """(seed, perplexity) of the pictures, in their order."""
        return list(dict.fromkeys((p.seed, p.perplexity) for p in self.panels))

    def find(self, method: str) -> Separation | None:
        return next((found for found in self.separations if found.method == method), None)

    def find_panel(self, method: str, seed: int, perplexity: int) -> Panel:
        key = (method, seed, perplexity)
        return next(p for p in self.panels if (p.method, p.seed, p.perplexity) == key)

    def at(self, panel: Panel) -> tuple[float, float]:
        """(class purity, modality AUC) of the run that a panel shows."""
        found, place = self.find(panel.method), self.seeds.index(panel.seed)
        return float(found.purities[place]), float(found.aucs[place])

    def finding(self) -> str:
        aucs = ", ".join(found.describe() for found in self.separations)
        purities = ", ".join(f"{s.method} {s.purity.format(2)}" for s in self.separations)
        return (
            f"{self.direction}, {len(self.seeds)} seeds, n = {self.n}: "
            f"{describe_clusters(self.find('none'), self.find('fdcmkd'))} (modality AUC {aucs}; "
            f"0.50 if mixed). Class purity {purities}; chance {self.chance:.2f}."
        )

    def claims(self) -> list[Claim]:
        if self.find("fdcmkd") is None:
            return []
        return [self._claim_purity(), self._claim_clusters()]

    def _claim_purity(self) -> Claim:
        gain = self.contrasts["fdcmkd-none"]
        verdict = SUPPORTED if lies_above(gain) else REFUTED if lies_below(gain) else OPEN
        parts = [f"chance {self.chance:.2f}", f"none {self.find('none').purity.format(2)}"]
        control = self.find("heads_only")
        if control is not None:
            rest, half = self.contrasts["fdcmkd-heads_only"], self.contrasts["heads_only-half"]
            parts += [
                f"heads_only {control.purity.format(2)}",
                f"fdcmkd - heads_only {describe_gap(rest)}",
            ]
            if verdict == SUPPORTED and not lies_above(rest):
                verdict = MATCHED if lies_above(half) else OPEN
        return Claim(
            statement="FD-CMKD's student features are better separated by class",
            where="figure 4 (ICLR version, figure 6), t-SNE",
            paper="clearer clusters (picture)",
            ours=f"class purity, fdcmkd - none {describe_gap(gain)}",
            control="; ".join(parts),
            verdict=verdict,
            why=(
                "judged by both intervals (seeds, samples); agrees where fdcmkd lies above none "
                "and above heads_only; the control matches where heads_only reaches more than half "
                "of the gain"
            ),
        )

    def _claim_clusters(self) -> Claim:
        ours, base = self.find("fdcmkd"), self.find("none")
        gap = average_seeds(ours.aucs - base.aucs)
        rest = [s for s in self.separations if s.method not in ("fdcmkd", "none")]
        verdict = OPEN
        if ours.apart is False:
            verdict = REFUTED
        elif ours.apart and base.apart is not None:
            verdict = MATCHED if base.apart else SUPPORTED
        return Claim(
            statement="FD-CMKD keeps teacher and student features in two clusters by modality",
            where="figure 4 (ICLR version, figure 6), t-SNE",
            paper="two clusters (picture)",
            ours=f"fdcmkd: {_print_sides(ours)}",
            control="; ".join(
                [
                    f"none: {_print_sides(base)}",
                    f"fdcmkd - none {gap.format(4, sign=True)} in AUC",
                    *(f"{other.method}: {_print_sides(other)}" for other in rest),
                ]
            ),
            verdict=verdict,
            why=(
                f"two clusters: over the whole interval over seeds the AUC is {APART:g} or more "
                f"and at most {CLOSED:g} of the neighbours are the other side's (our choice); the "
                "control matches where no distillation gives the two clusters as well"
            ),
        )


def describe_clusters(base: Separation, ours: Separation | None) -> str:
    """In words, with whom teacher and student are two clusters."""
    if base.apart:
        also = "also " if ours is not None and ours.apart else ""
        return f"two clusters by modality are {also}there with no distillation"
    if ours is not None and ours.apart:
        rest = "not with no distillation" if base.apart is False else "open with no distillation"
        return f"two clusters by modality are there with FD-CMKD, {rest}"
    if base.apart is False and (ours is None or ours.apart is False):
        return "teacher and student are no two clusters by modality"
    return "the seeds do not decide whether there are two clusters by modality"


def embed_features(
    plan: Plan,
    *,
    direction: str,
    methods: list[str] | str,
    perplexities: list[int] | str | None = None,
    drawn: int = 2,
) -> Embedding:
    """t-SNE of teacher and student test features, and separability in the original space.

    methods: "none" is always among them. drawn: how many of the plan's seeds get pictures, at most;
    every seed is measured. A seed is the run's and t-SNE's. All panels are aligned to the first
    (no distillation, first seed, first perplexity, laid flat), since they show the same samples.
    """
    configs = configure_embedding(plan, direction, methods)
    methods = list(dict.fromkeys(method for method, _ in configs if method))
    perplexities = read_list("perplexities", perplexities, int) or [30, 10]
    if drawn < 1:
        raise UserError(f"drawn is {drawn}: expected at least 1 of the seeds")
    teachers, students = _load_banks(plan, configs)
    labels = students["none", plan.seeds[0]].labels
    limit = 2 * len(labels) - 1
    if not all(1 <= perplexity <= limit for perplexity in perplexities):
        raise UserError(f"perplexities are {perplexities}: expected 1 to {limit} neighbours")
    keys = [(s, p, m) for s in plan.seeds[:drawn] for p in perplexities for m in methods]
    pictured = {
        (seed, method): np.concatenate(
            [teachers[seed]["feature"], students[method, seed]["feature"]]
        )
        for seed, _, method in keys
    }
    drawings = run_side_by_side([(project, (pictured[s, m], p, s)) for s, p, m in keys])
    reference = lay_flat(drawings[0])
    panels = []
    for (seed, perplexity, method), points in zip(keys, drawings, strict=True):
        aligned, disparity = align(points, reference)
        panels.append(
            Panel(
                method=method,
                seed=seed,
                perplexity=perplexity,
                points=np.round(aligned, 2).astype(np.float32),
                trustworthiness=measure_trust(pictured[seed, method], points),
                disparity=disparity,
            )
        )
    purities = {
        m: np.stack([measure_purity(students[m, s]["feature"], labels) for s in plan.seeds])
        for m in methods
    }
    return Embedding(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(labels),
        direction=str(plan.choose_way(direction)),
        seeds=list(plan.seeds),
        chance=find_chance(labels),
        labels=labels,
        panels=panels,
        separations=[_separate(plan, m, purities[m], teachers, students) for m in methods],
        contrasts=_contrast(purities),
    )


def configure_embedding(
    plan: Plan, direction: str, methods: list[str] | str
) -> dict[tuple[str, int], RunConfig]:
    """(method, seed) → the student's run, and ("", seed) → the teacher's."""
    way = plan.choose_way(direction)
    students = configure_methods(plan, methods, [str(way)])
    teachers = {("", seed): plan.configure(way.teacher, seed=seed) for seed in plan.seeds}
    return teachers | {(method, seed): config for (_, method, seed), config in students.items()}


def _load_banks(
    plan: Plan, configs: dict[tuple[str, int], RunConfig]
) -> tuple[dict[int, FeatureBank], dict[tuple[str, int], FeatureBank]]:
    """seed → the teacher's bank, and (method, seed) → the student's, over the test split."""
    store = plan.open_store()
    runs = ensure_runs(configs.values(), device=plan.device)
    banks = {
        key: load_bank(run, store, "test", plan.device)
        for key, run in zip(configs, runs, strict=True)
    }
    teachers = {seed: bank for (method, seed), bank in banks.items() if not method}
    return teachers, {key: bank for key, bank in banks.items() if key[0]}


def _separate(
    plan: Plan,
    method: str,
    purities: np.ndarray,
    teachers: dict[int, FeatureBank],
    students: dict[tuple[str, int], FeatureBank],
) -> Separation:
    """purities: (S, n)."""
    sides = [(teachers[s]["feature"], students[method, s]["feature"]) for s in plan.seeds]
    return Separation(
        method=method,
        purities=purities.mean(axis=1),
        purity_samples=average_samples(purities.mean(axis=0)),
        aucs=np.array([probe_modality(one, two) for one, two in sides]),
        mixings=np.array([measure_mixing(one, two).mean() for one, two in sides]),
    )


def _contrast(purities: dict[str, np.ndarray]) -> dict[str, list[Estimate]]:
    """Method → (S, n) purities to the contrasts of an `Embedding`."""
    base = purities["none"]
    gaps = {f"{m}-none": found - base for m, found in purities.items() if m != "none"}
    if {"fdcmkd", "heads_only"} <= set(purities):
        ours, heads = purities["fdcmkd"], purities["heads_only"]
        gaps["fdcmkd-heads_only"] = ours - heads
        gaps["heads_only-half"] = heads - (ours + base) / 2
    return {
        name: [average_seeds(gap.mean(axis=1)), average_samples(gap.mean(axis=0))]
        for name, gap in gaps.items()
    }


def project(both: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """(N, D) rows to (N, 2) by t-SNE (van der Maaten and Hinton, 2008), Euclidean, as they are.

    Our choice: from the two first principal components, and `STEPS` steps, after which the
    objective is within 4 % of that of scikit-learn's own 1000, in half the time. Repeats exactly
    for the same seed and number of threads.
    """
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=STEPS, random_state=seed)
    return tsne.fit_transform(both)


def align(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Procrustes: (N, 2) points turned onto (N, 2) `reference`, row by row, and what is left.

    Only shift, one scale, rotation and reflection are used, which change no ratio of distances and
    hence no neighbour. Both sides come to mean 0 and root mean square radius 1; unlike
    `scipy.spatial.procrustes`, which shrinks what fits badly, all panels so keep one size. The
    second value is SciPy's disparity: 0 where one is a turned copy of the other, at most 1.
    """
    one, two = _normalise(reference), _normalise(points)
    turn, fit = orthogonal_procrustes(two, one)
    return two @ turn, float(max(0.0, 1 - (fit / len(one)) ** 2))


def lay_flat(points: np.ndarray) -> np.ndarray:
    """(2n, 2) points turned so that they are widest from left to right, the teacher's half left."""
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    turned = centred @ axes.T
    right = turned[: len(points) // 2, 0].mean() > 0
    return turned * (-1 if right else 1)


def _normalise(points: np.ndarray) -> np.ndarray:
    centred = points.astype(float) - points.mean(axis=0, dtype=float)
    return centred / np.sqrt((centred**2).sum(axis=1).mean())


def measure_trust(both: np.ndarray, points: np.ndarray) -> float:
    """Trustworthiness of a picture (Venna and Kaski, 2001), scikit-learn's, k = `NEIGHBOURS`.

    1 where the k nearest rows in the picture are among the k nearest in the original space, lower
    by how far away there the others are.
    """
    count = min(NEIGHBOURS, (len(both) - 1) // 2)
    return float(trustworthiness(both, points, n_neighbors=count))


def measure_purity(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) part of each row's nearest rows (cosine) that have its class."""
    near = _find_nearest(features, "cosine")
    return (labels[near] == labels[:, None]).mean(axis=1)


def find_chance(labels: np.ndarray) -> float:
    """Class purity of neighbours drawn at random: how often another row has a row's class."""
    counts, n = np.bincount(labels), len(labels)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


def measure_mixing(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(2n,) part of each row's nearest rows, Euclidean as in t-SNE, that are of the other side."""
    side = np.repeat([0, 1], [len(one), len(two)])
    near = _find_nearest(np.concatenate([one, two]), "euclidean")
    return (side[near] != side[:, None]).mean(axis=1)


def _find_nearest(features: np.ndarray, metric: str) -> np.ndarray:
    """(n, k) places of each row's k = `NEIGHBOURS` nearest rows, without the row itself."""
    count = min(NEIGHBOURS, len(features) - 1)
    finder = NearestNeighbors(n_neighbors=count, metric=metric).fit(features)
    return finder.kneighbors(return_distance=False)


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


def average_shares(values: np.ndarray) -> Estimate:
    """Over seeds, from 0 to 1."""
    return average_percent(values, 1.0)


def lies_above(pair: list[Estimate]) -> bool:
    return all(e.excludes(0) and e.mean > 0 for e in pair)


def lies_below(pair: list[Estimate]) -> bool:
    return all(e.excludes(0) and e.mean < 0 for e in pair)


def describe_gap(pair: list[Estimate]) -> str:
    seeds, samples = pair
    return (
        f"{seeds.format(2, sign=True)} over {seeds.n} seeds, "
        f"[{samples.low:+.2f}, {samples.high:+.2f}] over {samples.n} samples"
    )


def _print_sides(found: Separation) -> str:
    return (
        f"AUC {found.auc.format(3)}, neighbours of the other side {found.mixing.format(3)} "
        f"({found.auc.n} seeds)"
    )

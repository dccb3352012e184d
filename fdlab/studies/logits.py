"""What do wavelet details of logits carry, and does distilling them help? (FiGKD, figures 2, 4, 5
and 6, Table VI, and controls of our own)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.core.workers import run_side_by_side
from fdlab.data.store import Store
from fdlab.methods.figkd import BASES
from fdlab.reference import read_table
from fdlab.studies.banks import load_bank
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.contrast import Contrast, contrast_answers, correct_contrasts, judge
from fdlab.studies.embedding import (
    Panel,
    align,
    average_shares,
    describe_gap,
    find_chance,
    lay_flat,
    lies_above,
    lies_below,
    measure_purity,
    measure_trust,
    project,
)
from fdlab.studies.hyperparameters import choose_options, read_settings
from fdlab.studies.parts import (
    HIGH,
    LABEL,
    LOW,
    PEAKED,
    RANDOM,
    STUDENT,
    TEACHER,
    Parts,
    measure_parts,
)
from fdlab.studies.plan import Pair, Plan, read_list
from fdlab.studies.printed import name_printed
from fdlab.studies.published import Place
from fdlab.studies.sensitivity import Grid, check_weights, summarise_grid
from fdlab.studies.stats import average_percent, average_samples, average_seeds
from fdlab.studies.zoo import find_families
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run

QUESTION = (
    "Do the logits' wavelet details carry what one network knows and another does not, or would "
    "any peak and any order of the classes do?"
)
TABLE = "figkd_table6_frequency_ablation"
NONE, FULL, KD = "none", "high", "kd"
# Table VI: row → its words, and the bands that FiGKD compares; none for its base alone.
ROWS = {
    NONE: ("neither band", ""),
    "low": ("low band", "LL"),
    FULL: ("high bands (FiGKD)", "LH+HL+HH"),
    "both": ("low and high bands", "LL+LH+HL+HH"),
}
PERMUTED = "permuted"  # and the number of the order
ALPHAS, BETAS = (0.1, 0.5, 1.0), (0.5, 1.0, 2.0, 5.0, 9.0)
FEW_ALPHAS, FEW_BETAS = (0.1, 1.0), (0.5, 1.0, 9.0)  # of a preset that is short
CHOSEN = (1.0, 1.0)  # α and β where no grid says otherwise: our choice, the paper's are unknown


@dataclass(frozen=True)
class Band:
    """One row of Table VI for one pair. values: (S,) accuracy (%), validation-selected.

    versus_none, versus_high: paired differences, Holm-corrected over the pair's rows.
    """

    pair: str
    name: str
    words: str
    values: np.ndarray
    versus_none: Contrast
    versus_high: Contrast

    @property
    def accuracy(self) -> Estimate:
        return average_percent(self.values)


@dataclass(frozen=True)
class Clusters:
    """The test features of students. groups: (n,) the family of each sample, or its class.

    panels: t-SNE pictures, aligned to the first. purities: method → (S,) share of neighbours of the
    same class in the original space; samples: the same over seeds, with its interval over the
    samples. contrasts: "a-b" → [Estimate over seeds, over samples]. chance: of features that know
    nothing.
    """

    groups: np.ndarray
    panels: list[Panel]
    purities: dict[str, np.ndarray]
    samples: dict[str, Estimate]
    contrasts: dict[str, list[Estimate]]
    chance: float

    def purity(self, method: str) -> Estimate:
        return average_shares(self.purities[method])


@dataclass(frozen=True)
class Logits:
    """base: FiGKD's, in every run of it. pairs: those of Table VI; the first of them everywhere
    else. classes, families: names. reports: the data set's name in the published tables, "" for
    none."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    base: str
    pairs: list[str]
    classes: list[str]
    families: list[str]
    parts: Parts
    bands: list[Band]
    alphas: list[float]
    betas: list[float]
    grid: Grid
    grid_seeds: list[int]
    clusters: Clusters
    reports: str
    runs: list[str]

    def collect(self, pair: str) -> list[Band]:
        return [band for band in self.bands if band.pair == pair]

    def find(self, pair: str, name: str) -> Band:
        return next(band for band in self.collect(pair) if band.name == name)

    def permuted(self, pair: str) -> list[Band]:
        """The rows with the classes in a random order."""
        return [band for band in self.collect(pair) if band.name.startswith(PERMUTED)]

    def measured(self) -> dict[Place, Estimate]:
        """Table VI's cells; {} where the paper has no such data set."""
        if not self.reports:
            return {}
        return {
            (TABLE, band.name, f"{self.reports}_{name_printed(band.pair)}"): band.accuracy
            for band in self.bands
            if band.name in ROWS
        }

    def controls(self) -> dict[Place, str]:
        """The base beside every cell, and beside FiGKD's own its random orders of the classes."""
        found = {}
        for (table, row, column), _ in self.measured().items():
            found[table, row, column] = f"base {self.base}"
        for pair in self.pairs if found else ():
            orders = ", ".join(band.accuracy.format(1) for band in self.permuted(pair))
            place = TABLE, FULL, f"{self.reports}_{name_printed(pair)}"
            found[place] += f"; classes in a random order {orders}"
        return found

    def finding(self) -> str:
        parts, one = self.parts, self.pairs[0]
        high, low = (parts.find(TEACHER, part).accuracy for part in (HIGH, LOW))
        noise = parts.find(TEACHER, HIGH, PEAKED).accuracy
        gains = (parts.contrasts[f"{each}graft - student"] for each in ("", "random ", "peaked "))
        label, random, peaked = (gain.seeds.format(1, sign=True) for gain in gains)
        rest = [self.find(one, FULL).versus_none, *(b.versus_none for b in self.permuted(one))]
        full, *permuted = (contrast.seeds.format(1, sign=True) for contrast in rest)
        gap = self.clusters.contrasts["figkd-kd"][0]
        return (
            f"{one}, base {self.base}, {_count(self.seeds)}, n = {self.n}: the teacher's details "
            f"alone name the class in {high.format(1)} % (all of its logits "
            f"{parts.find(TEACHER).accuracy.mean:.1f}), noise with the same peaks in "
            f"{noise.format(1)}; its low part in {low.format(1)}, where ties allow "
            f"{parts.ceiling:.1f}. The teacher's details on the student's low part gain {label} "
            f"points over the student, in random class orders {random}, those of noise {peaked}. "
            f"FiGKD minus neither band {full}, with the classes in a random order "
            f"{' and '.join(permuted) or 'not run'}; over α and β a spread of "
            f"{self.grid.spread:.1f} points on {_count(self.grid_seeds)}, for its samples alone "
            f"{self.grid.noise[0]:.1f} to {self.grid.noise[1]:.1f}; class "
            f"purity FiGKD - KD {gap.format(2, sign=True)}."
        )

    def claims(self) -> list[Claim]:
        claims = [self._claim_high(), self._claim_low(), self._claim_graft(), self._claim_bands()]
        if self.permuted(self.pairs[0]):
            claims.append(self._claim_order())
        return [*claims, self._claim_grid(), self._claim_clusters()]

    def _claim_high(self) -> Claim:
        parts, gap = self.parts, self.parts.contrasts["high - peaked"]
        ours, noise = (parts.find(TEACHER, HIGH, source).accuracy for source in (LABEL, PEAKED))
        half = (ours.mean + parts.chance) / 2
        verdict = SUPPORTED if gap.beats() else MATCHED if noise.mean >= half else OPEN
        if not self._knows:
            verdict = OPEN
        return Claim(
            statement="The details of the logits alone name the class",
            where="FiGKD, figures 2 and 5",
            paper="chosen samples (pictures)",
            ours=f"{self.pairs[0]}, details alone (%): {self._list(HIGH)}",
            control=f"noise with the teacher's peaks {noise.format(1)}; the teacher's minus it "
            f"{gap.seeds.format(1, sign=True)}; in random class orders "
            f"{parts.find(TEACHER, HIGH, RANDOM).accuracy.format(1)}",
            verdict=verdict,
            why="agrees where the teacher's details beat those of noise with the same peaks by "
            "both intervals; the control matches where they do not and the noise is more than "
            "half as far above chance; open where the teacher is at chance itself",
        )

    def _claim_low(self) -> Claim:
        parts = self.parts
        ours, noise = (parts.find(TEACHER, LOW, source).accuracy for source in (LABEL, PEAKED))
        half = (parts.ceiling + parts.chance) / 2
        verdict = OPEN
        if ours.low > half:
            verdict = REFUTED
        elif self._knows and ours.high < half:
            verdict = MATCHED if noise.mean < half else SUPPORTED
        return Claim(
            statement="The low part of the logits does not name the class",
            where="FiGKD, figures 2 and 5",
            paper="chosen samples (pictures)",
            ours=f"{self.pairs[0]}, low part alone (%): {self._list(LOW)}",
            control=f"ties within a block allow {parts.ceiling:.1f}, chance {parts.chance:.1f}; "
            f"noise with the teacher's peaks {noise.format(1)}; in random class orders "
            f"{parts.find(TEACHER, LOW, RANDOM).accuracy.format(1)}",
            verdict=verdict,
            why="differs where the teacher's low part is more than half as far above chance as "
            "its ties allow, over its whole interval; where it is less, the control matches if "
            "noise with the same peaks is as well; open where the teacher is at chance itself",
        )

    def _claim_graft(self) -> Claim:
        found = self.parts.contrasts
        gain = found["graft - student"]
        rivals = {name: found[f"{name} graft - student"] for name in ("random", "peaked")}
        verdict = judge([gain])
        if verdict == SUPPORTED and not all(found[f"graft - {r} graft"].beats() for r in rivals):
            reached = max(x.seeds.mean for x in rivals.values())
            verdict = MATCHED if reached >= gain.both.mean / 2 else OPEN
        words = {"random": "in random class orders", "peaked": "details of noise with its peaks"}
        return Claim(
            statement="The details carry what the teacher knows and the student does not",
            where="FiGKD, figures 2 and 5; its premise",
            paper="chosen samples (pictures)",
            ours=f"{self.pairs[0]}, the teacher's details on the student's low part minus the "
            f"student: {gain.seeds.format(1, sign=True)}",
            control="; ".join(
                f"{words[name]} {rival.seeds.format(1, sign=True)}"
                for name, rival in rivals.items()
            )
            + f"; of the two networks' difference {average_seeds(self.parts.share).format(1)} % "
            f"lies in the details, in random orders {self.parts.share_random.mean():.1f} %",
            verdict=verdict,
            why="where the gain lies above 0 by both intervals: agrees where it is above that of "
            "both controls too; the control matches where one of them has half of the gain or more",
        )

    def _claim_bands(self) -> Claim:
        contrasts = {
            f"{band.words} ({band.pair})": band.versus_high
            for band in self.bands
            if band.name in ROWS and band.name != FULL
        }
        losing = [contrast.loses() for contrast in contrasts.values()]
        beating = any(contrast.beats() for contrast in contrasts.values())
        return Claim(
            statement="The details alone are better than neither band, the low one or both",
            where="FiGKD, Table VI",
            paper=_describe_published(),
            ours=f"base {self.base}, minus FiGKD: {_print(contrasts)}",
            control=self._describe_orders(),
            verdict=SUPPORTED if all(losing) else REFUTED if beating else OPEN,
            why="agrees where each lies below FiGKD, differs where one lies above it, by both "
            "intervals (seeds, samples)",
        )

    def _claim_order(self) -> Claim:
        rivals = [band for pair in self.pairs for band in self.permuted(pair)]
        fulls = {pair: self.find(pair, FULL) for pair in self.pairs}
        gains = {pair: band.versus_none for pair, band in fulls.items()}
        verdict = OPEN
        if judge(gains.values()) == SUPPORTED:
            if all(band.versus_high.loses() for band in rivals):
                verdict = SUPPORTED
            elif any(b.values.mean() >= fulls[b.pair].values.mean() for b in rivals):
                verdict = MATCHED
        return Claim(
            statement="FiGKD's gain is from which classes are neighbours on the grid",
            where="FiGKD, the method's premise; no control in the paper",
            paper="not tested",
            ours=f"base {self.base}, FiGKD - neither band: {_print(gains)}",
            control=self._describe_orders(),
            verdict=verdict,
            why="where FiGKD's own gain holds by both intervals: agrees where it beats every "
            "random order by both; the control matches where the mean of one of them is as high",
        )

    def _claim_grid(self) -> Claim:
        grid = self.grid
        better = judge([grid.versus_chosen]) == SUPPORTED  # never on a single seed
        inside = grid.spread <= grid.noise[1]
        return Claim(
            statement="The weights α and β matter, with a best value on the grid",
            where="FiGKD, figure 4",
            paper="one setting for everything, its value not known here",
            ours=f"{grid.direction}, base {self.base}, {_count(self.grid_seeds)}: spread "
            f"{grid.spread:.1f} points, best α {grid.best[0]:g}, β {grid.best[1]:g}, "
            f"{grid.versus_chosen.seeds.format(1, sign=True)} above α = β = 1",
            control=f"equally good cells would spread by {grid.noise[0]:.1f} to "
            f"{grid.noise[1]:.1f} for their samples alone; another seed moves them too",
            verdict=MATCHED if inside else SUPPORTED if better else OPEN,
            why="the control matches where the grid's spread is no larger than that of cells that "
            "answer alike but for the noise of their own answers; agrees where it is larger and "
            "the best pair beats α = β = 1 by both intervals, which takes several seeds",
            n=describe_n(self.n, len(self.grid_seeds)),
        )

    def _claim_clusters(self) -> Claim:
        found = self.clusters
        gap, base = found.contrasts["figkd-kd"], found.contrasts["figkd-none"]
        verdict = SUPPORTED if lies_above(gap) else REFUTED if lies_below(gap) else OPEN
        if verdict == SUPPORTED and not lies_above(base):
            verdict = MATCHED
        return Claim(
            statement="FiGKD's student features are better separated by class than KD's",
            where="FiGKD, figure 6, t-SNE",
            paper="clearer clusters (picture)",
            ours=f"{self.pairs[0]}, base {self.base}, class purity, figkd - kd {describe_gap(gap)}",
            control=f"chance {found.chance:.2f}; none {found.purity(NONE).format(2)}; figkd - none "
            f"{describe_gap(base)}",
            verdict=verdict,
            why="by both intervals (seeds, samples); the control matches where FiGKD lies above KD "
            "but not above no distillation",
        )

    @property
    def _knows(self) -> bool:
        """Whether the teacher's logits as a whole name more classes than chance does: else no part
        of them has anything to name."""
        return self.parts.find(TEACHER).accuracy.low > self.parts.chance

    def _list(self, part: str) -> str:
        """Accuracy of one part of both networks."""
        return ", ".join(
            f"{network} {self.parts.find(network, part).accuracy.format(1)} of "
            f"{self.parts.find(network).accuracy.mean:.1f}"
            for network in (TEACHER, STUDENT)
        )

    def _describe_orders(self) -> str:
        rows = {f"{b.words} ({p})": b.versus_high for p in self.pairs for b in self.permuted(p)}
        return f"minus FiGKD: {_print(rows)}" if rows else "no random order was run"


def _print(contrasts: dict[str, Contrast]) -> str:
    return "; ".join(f"{name} {c.seeds.format(1, sign=True)}" for name, c in contrasts.items())


def _count(seeds: list[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


def _describe_published() -> str:
    """The paper's gaps to its high row, over its pairs."""
    rows = read_table(TABLE)
    parts = []
    for name in (NONE, "low", "both"):
        gaps = [float(row[name]) - float(row[FULL]) for row in rows]
        parts.append(f"{ROWS[name][0]} {min(gaps):+.2f} to {max(gaps):+.2f}")
    return f"minus FiGKD, over {len(rows)} pairs: {', '.join(parts)}; means of three runs"


def read_published(name: str) -> dict[str, float]:
    """Data set and pair → the paper's accuracy (%) of a row; empty for a row that it lacks."""
    return {
        f"{row['dataset']} {row['teacher']}-{row['student']}": float(row[name])
        for row in read_table(TABLE)
        if name in ROWS
    }


def choose_pairs(plan: Plan, pairs: list[str] | str | None) -> list[Pair]:
    """The pairs asked for, or the data set's; only its first where the preset is short."""
    found = plan.choose_pairs(pairs)
    return found if read_list("pairs", pairs, str) or not plan.short else found[:1]


def configure_logits(
    plan: Plan,
    pairs: list[str] | str | None = None,
    base: str = "ce",
    orders: int = 1,
    alphas: list[float] | None = None,
    betas: list[float] | None = None,
) -> dict[tuple[str, str, int], RunConfig]:
    """(pair, row, seed) → its run: Table VI's rows for every pair; for the first of them teacher,
    student without distillation, KD, and the grid's cells as "α β", of the first seed alone where
    the preset is short."""
    if base not in BASES:
        raise name_unknown("base", base, BASES)
    if orders < 0:
        raise UserError(f"orders is {orders}: expected a whole number from 0")
    common = {} if base == "ce" else {"base": base}
    rows = {name: ("figkd", {"bands": bands}) for name, (_, bands) in ROWS.items()}
    rows |= {NONE: ("none" if base == "ce" else base, {}), FULL: ("figkd", {})}
    rows |= {
        f"{PERMUTED} {number}": ("figkd", {"order": "random", "order_seed": number})
        for number in range(orders)
    }
    found = {}
    for place, pair in enumerate(choose_pairs(plan, pairs)):
        wanted = dict(rows)
        if place == 0:
            wanted |= {STUDENT: ("none", {}), KD: ("kd", choose_options(read_settings(), KD))}
        for seed in plan.seeds:
            if place == 0:
                teacher = plan.configure_pair(pair.as_teacher(), "none", seed)
                found[str(pair), TEACHER, seed] = teacher
            for name, (method, options) in wanted.items():
                options = options | (common if method == "figkd" else {})
                found[str(pair), name, seed] = plan.configure_pair(pair, method, seed, options)
        for alpha, beta in list_cells(plan, alphas, betas) if place == 0 else []:
            for seed in grid_seeds(plan):
                options = {"alpha": alpha, "beta": beta} | common
                key = (str(pair), f"{alpha:g} {beta:g}", seed)
                found[key] = plan.configure_pair(pair, "figkd", seed, options)
    return found


def grid_seeds(plan: Plan) -> list[int]:
    return list(plan.seeds[:1] if plan.short else plan.seeds)


def list_cells(
    plan: Plan, alphas: list[float] | None, betas: list[float] | None
) -> list[tuple[float, float]]:
    """(α, β) of the grid."""
    return [
        (alpha, beta)
        for alpha in check_weights(alphas, FEW_ALPHAS if plan.short else ALPHAS, "alphas")
        for beta in check_weights(betas, FEW_BETAS if plan.short else BETAS, "betas")
    ]


def dissect_logits(
    plan: Plan,
    *,
    pairs: list[str] | str | None = None,
    base: str = "ce",
    orders: int = 1,
    alphas: list[float] | None = None,
    betas: list[float] | None = None,
    repeats: int = 10,
    samples: int = 3,
    perplexity: int = 30,
    drawn: int = 2,
) -> Logits:
    """Train or find every run, and measure what its logits and features hold on the test split.

    base: FiGKD's. orders: random class orders that are trained. repeats: random orders and draws of
    noise for the parts. samples: how many are shown. perplexity, drawn: of t-SNE, and how many of
    the seeds have pictures.
    """
    for name, value in (("repeats", repeats), ("samples", samples), ("drawn", drawn)):
        if value < 1:
            raise UserError(f"{name} is {value}: expected a whole number from 1")
    configs = configure_logits(plan, pairs, base, orders, alphas, betas)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    names = list(dict.fromkeys(pair for pair, _, _ in configs))
    first = {key[1:]: run for key, run in runs.items() if key[0] == names[0]}
    families = store.info.get("families", [])
    cells = list_cells(plan, alphas, betas)
    answers = {
        cell: np.stack([first[f"{cell[0]:g} {cell[1]:g}", s].judge(labels)
                        for s in grid_seeds(plan)])
        for cell in cells
    }  # fmt: skip
    none = np.stack([first[STUDENT, s].judge(labels) for s in grid_seeds(plan)])
    teacher, student = (
        np.stack([first[name, s].read_predictions() for s in plan.seeds])
        for name in (TEACHER, STUDENT)
    )
    groups = find_families(store)
    return Logits(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(labels),
        seeds=list(plan.seeds),
        base=base,
        pairs=names,
        classes=list(store.classes),
        families=list(families),
        parts=measure_parts(
            teacher, student, labels, families=groups, repeats=repeats, count=samples
        ),
        bands=[
            band
            for name in names
            for band in compare_bands(
                name,
                {
                    row: np.stack([runs[name, row, s].judge(labels) for s in plan.seeds])
                    for row in [*ROWS, *(f"{PERMUTED} {number}" for number in range(orders))]
                },
            )
        ],
        alphas=list(dict.fromkeys(alpha for alpha, _ in cells)),
        betas=list(dict.fromkeys(beta for _, beta in cells)),
        grid=summarise_grid(names[0], answers, none, CHOSEN),
        grid_seeds=grid_seeds(plan),
        clusters=find_clusters(
            load_features(plan, store, first),
            labels,
            labels if groups is None else groups[labels],
            list(plan.seeds[:drawn]),
            perplexity,
        ),
        reports=plan.definition.reports,
        runs=list_runs(runs.values()),
    )


def list_runs(runs: Iterable[Run]) -> list[str]:
    """Fingerprints, those of the teachers among them."""
    records = [run.record for run in runs]
    return sorted({r.fingerprint for r in records} | {r.teacher for r in records if r.teacher})


def compare_bands(pair: str, answers: dict[str, np.ndarray]) -> list[Band]:
    """Row → (S, n) right answers of one pair to its rows of Table VI."""
    versus = {
        base: correct_contrasts(
            {
                name: contrast_answers(rows, answers[base])
                for name, rows in answers.items()
                if name != base
            }
        )
        | {base: contrast_answers(answers[base], answers[base])}
        for base in (NONE, FULL)
    }
    return [
        Band(
            pair=pair,
            name=name,
            words=ROWS[name][0] if name in ROWS else f"high bands, random order {name.split()[1]}",
            values=100 * rows.mean(axis=1),
            versus_none=versus[NONE][name],
            versus_high=versus[FULL][name],
        )
        for name, rows in answers.items()
    ]


def load_features(
    plan: Plan, store: Store, runs: dict[tuple[str, int], Run]
) -> dict[tuple[str, int], np.ndarray]:
    """(method, seed) → (n, D) test features of the students that figure 6 compares."""
    rows = {NONE: STUDENT, KD: KD, "figkd": FULL}
    return {
        (method, seed): load_bank(runs[row, seed], store, "test", plan.device)["feature"]
        for method, row in rows.items()
        for seed in plan.seeds
    }


def find_clusters(
    features: dict[tuple[str, int], np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray,
    drawn: list[int],
    perplexity: int,
) -> Clusters:
    """Purity of every method, and pictures of KD and FiGKD; a seed is the run's and t-SNE's."""
    if not 1 <= perplexity < len(labels):
        raise UserError(f"perplexity is {perplexity}: expected 1 to {len(labels) - 1} neighbours")
    keys = [(method, seed) for method in (KD, "figkd") for seed in drawn]
    tasks = [(project, (features[key], perplexity, key[1])) for key in keys]
    drawings = run_side_by_side(tasks)
    reference = lay_flat(drawings[0])
    panels = []
    for (method, seed), points in zip(keys, drawings, strict=True):
        aligned, disparity = align(points, reference)
        trust = measure_trust(features[method, seed], points)
        small = np.round(aligned, 2).astype(np.float16)  # kept compressed
        panels.append(Panel(method, seed, perplexity, small, trust, disparity))
    found: dict[str, list[np.ndarray]] = {}
    for (method, _), rows in features.items():
        found.setdefault(method, []).append(measure_purity(rows, labels))
    purities = {method: np.stack(rows) for method, rows in found.items()}
    gaps = {f"{a}-{b}": purities[a] - purities[b]
            for a, b in (("figkd", KD), ("figkd", NONE), (KD, NONE))}  # fmt: skip
    return Clusters(
        groups=groups,
        panels=panels,
        purities={method: rows.mean(axis=1) for method, rows in purities.items()},
        samples={method: average_samples(rows.mean(axis=0)) for method, rows in purities.items()},
        contrasts={
            name: [average_seeds(gap.mean(axis=1)), average_samples(gap.mean(axis=0))]
            for name, gap in gaps.items()
        },
        chance=find_chance(labels),
    )

"""Is it the low frequencies that modalities share? (FD-CMKD, Table 1; ICLR version, CKA figure)"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fdlab.core.config import RunConfig
from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.core.workers import run_side_by_side
from fdlab.data.store import find_dataset
from fdlab.reference import read_table
from fdlab.spectral.bands import count_low_bins, count_low_dims
from fdlab.spectral.bases import make_basis, require_basis
from fdlab.spectral.similarity import Pair, debias, draw_orders, predict_low_cosine, row_cosines
from fdlab.spectral.sweep import Sweep
from fdlab.studies.banks import (
    are_alike,
    configure_unimodal,
    load_unimodal_banks,
    load_untrained_banks,
)
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.detection import Detection, score_detectors
from fdlab.studies.plan import Plan
from fdlab.studies.published import Place
from fdlab.studies.stats import (
    average_halves,
    average_samples,
    average_seeds,
    compare_to_null,
    correct_holm,
)

QUESTION = "Do two modalities share their low frequencies, or only the mean of their features?"
TABLE = "fdcmkd_table1_similarity"
BANDS = ("raw", "low+dc", "low", "dc", "high")
PUBLISHED = {"raw": "raw", "low": "low+dc", "high": "high"}  # row of Table 1 → band
MEASURES = ("cosine", "cka", "cka_debiased", "neighbours")
FEATURE = "feature"  # the node that FD-CMKD distils
SHUFFLED = ("shuffled", "in_class")
SPLIT = ("one_side", "reordered", "random", "free")
NULLS = SHUFFLED + SPLIT
CLOSE = 0.02  # cosine: nearer than this to a control counts as the same number
ALPHA = 0.05
MOVED = ("low+dc", "low", "high")  # the bands that another split changes
FEW = 40  # draws of the costly neighbours for one of every other measure


@dataclass(frozen=True)
class Null:
    """A control's level: mean and 95 % range of its draws, n of them. p: add-one p-value of the
    measured value against them, nan where the control cannot change the measure; holm: corrected
    over all pairs and bands of one measure."""

    level: Estimate
    p: float
    holm: float


@dataclass(frozen=True)
class Row:
    """One measure of one band of one pair of networks at one node.

    values: (S,) one per seed. samples: their mean with its 95 % interval over the test samples.
    nulls: name → Null, of the mean over seeds. predicted: what the closed form gives from the raw
    cosine, nan where it says nothing. shared_start: (S,) the same for two networks trained from one
    initialisation; empty where their kinds differ.
    """

    pair: str
    node: str
    measure: str
    band: str
    values: np.ndarray
    samples: Estimate
    nulls: dict[str, Null]
    predicted: float
    shared_start: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def seeds(self) -> Estimate:
        """Over seeds."""
        return average_seeds(self.values)

    @property
    def shared(self) -> Estimate:
        """With one initialisation for both networks, over seeds."""
        return average_seeds(self.shared_start)


@dataclass(frozen=True)
class Curve:
    """One pair's measures of the band below the cut-off, for every bin from 0 to D/2.

    cutoff: (E,) fraction of the bins. cosine: (S, E) with the DC; predicted: (E,) the closed form
    from the raw cosine. reordered, shuffled: (2, E) 95 % range with the channels in random orders
    and with shuffled pairs. cka: (S, E) debiased, without the DC; cka_shuffled: (2, E). departure:
    largest distance of the mean curve from the closed form, `where` its cut-off, p against the
    same of random orders of the channels.
    """

    cutoff: np.ndarray
    cosine: np.ndarray
    predicted: np.ndarray
    reordered: np.ndarray
    shuffled: np.ndarray
    cka: np.ndarray
    cka_shuffled: np.ndarray
    departure: float
    where: float
    p: float


@dataclass(frozen=True)
class Similarity:
    """n: test samples. cutoff: fraction of the bins that are low, in `basis`. rows: every
    measurement. curves: pair → curve of the pooled feature. detection: which measure can see."""

    dataset: str
    preset: str
    n: int
    dim: int
    cutoff: float
    basis: str
    rows: list[Row]
    curves: dict[str, Curve]
    detection: Detection | None

    @property
    def pairs(self) -> list[str]:
        return list(dict.fromkeys(row.pair for row in self.rows))

    def nodes(self, pair: str) -> list[str]:
        return list(dict.fromkeys(row.node for row in self.rows if row.pair == pair))

    def find(self, measure: str, pair: str, band: str, node: str = FEATURE) -> Row | None:
        key = (measure, pair, band, node)
        return next((r for r in self.rows if (r.measure, r.pair, r.band, r.node) == key), None)

    def measured(self) -> dict[Place, Estimate]:
        """Table 1's cells; {} where the paper has no such data set."""
        return {place: row.seeds for place, row in self._locate().items()}

    def controls(self) -> dict[Place, str]:
        return {
            place: f"closed form from the mean {row.predicted:.2f}; "
            f"shuffled pairs {row.nulls['shuffled'].level.format(2)}"
            for place, row in self._locate().items()
        }

    def _locate(self) -> dict[Place, Row]:
        """The paper's sets have one pair, and its split is half of the Fourier bins."""
        reports = find_dataset(self.dataset, prepared=False).reports
        if not reports or len(self.pairs) != 1:
            return {}
        plain = (self.cutoff, self.basis) == (Settings.cutoff, Settings.basis)
        bands = PUBLISHED if plain else {"raw": "raw"}
        found = {(TABLE, name, reports): self.find("cosine", self.pairs[0], band)
                 for name, band in bands.items()}  # fmt: skip
        return {place: row for place, row in found.items() if row}

    def finding(self) -> str:
        rows = [self.find("cosine", p, "low+dc") for p in self.pairs]
        gaps = [abs(row.mean - row.predicted) for row in rows]
        without = [self.find("cosine", p, "low").mean for p in self.pairs]
        away = [c.departure for c in self.curves.values() if c.p < ALPHA]
        departs = (
            f"over all cut-offs {len(away)} of {len(self.curves)} curves leave the closed form by "
            "more than random orders of the channels do"
        )
        return (
            f"With the DC kept, the low band's cosine is within {max(gaps):.3f} of what the "
            f"features' mean alone predicts; without it, it is {min(without):+.3f} to "
            f"{max(without):+.3f}; {departs} ({len(self.pairs)} pairs, {rows[0].seeds.n} seeds, "
            f"n = {self.n} test samples).{self._describe_blind()}"
        )

    def _describe_blind(self) -> str:
        blind = [d for d in (self.detection.find_blind() if self.detection else [])
                 if d != "high cosine"]  # fmt: skip
        if not blind:
            return ""
        return (
            f" With {self.detection.shown:.0%} of the low band really shared, "
            f"{' and '.join(blind)} cannot tell it from nothing."
        )

    def claims(self) -> list[Claim]:
        claims = [
            self._claim_cosine(),
            self._claim_paired(),
            self._claim_frequency(),
            self._claim_cka(),
        ]
        n = describe_n(self.n, self.rows[0].seeds.n)
        return [replace(claim, n=n) for claim in claims if claim]

    def _claim_cosine(self) -> Claim:
        low = [self.find("cosine", p, "low+dc") for p in self.pairs]
        raw = [self.find("cosine", p, "raw") for p in self.pairs]
        shuffled = [row.nulls["shuffled"].level.mean for row in low]
        reached = [max(row.predicted, s) for row, s in zip(low, shuffled, strict=True)]
        rises = all(o.mean > r.mean + CLOSE for o, r in zip(low, raw, strict=True))
        same = all(row.mean <= c + CLOSE for row, c in zip(low, reached, strict=True))
        return Claim(
            statement="Low-frequency features are more similar across modalities than raw ones",
            where="Table 1, cosine, DC kept in the low band",
            paper=describe_published(),
            ours=self._join(
                f"{o.seeds.format(2)}, raw {r.mean:.2f}" for o, r in zip(low, raw, strict=True)
            ),
            control=self._join(
                f"closed form from the mean {row.predicted:.2f}, shuffled pairs {s:.2f}"
                for row, s in zip(low, shuffled, strict=True)
            ),
            verdict=REFUTED if not rises else MATCHED if same else SUPPORTED,
            why=(
                f"agrees where low exceeds raw by {CLOSE} in every pair (a cosine below 0 is no "
                f"similarity); the control matches where the closed form or the shuffled pairs "
                f"come within {CLOSE} of each"
            ),
        )

    def _claim_paired(self) -> Claim:
        rows = [self.find("cosine", p, "low+dc") for p in self.pairs]
        nulls = [[row.nulls[name] for name in SHUFFLED] for row in rows]
        gaps = [[row.mean - n.level.mean for n in pair] for row, pair in zip(rows, nulls)]  # noqa: B905
        same = all(abs(gap[0]) <= CLOSE for gap in gaps)
        beats = all(min(gap) > 0 and max(n.holm for n in pair) < ALPHA
                    for gap, pair in zip(gaps, nulls, strict=True))  # fmt: skip
        return Claim(
            statement="The pairing matters: true pairs are more similar than shuffled ones",
            where="Table 1, its reading",
            paper="not tested",
            ours=self._join(f"{gap[0]:+.3f} above shuffled pairs" for gap in gaps),
            control=self._join(
                f"shuffled pairs reach {pair[0].level.mean:.2f} (Holm p {pair[0].holm:.3f}), "
                f"within class {pair[1].level.mean:.2f} (Holm p {pair[1].holm:.3f})"
                for pair in nulls
            ),
            verdict=MATCHED if same else SUPPORTED if beats else OPEN,
            why=(
                f"the control matches where every pair is within {CLOSE} of its shuffled pairs; "
                "agrees where every pair beats both shuffles, Holm-corrected p < 5 %"
            ),
        )

    def _claim_frequency(self) -> Claim | None:
        """Whether the low band is special, whatever is shared."""
        rows = [self.find("cosine", p, "low") for p in self.pairs]
        if any("reordered" not in row.nulls for row in rows):
            return None
        special = [row.nulls["reordered"].holm < ALPHA for row in rows]
        above = [row.mean > row.nulls["reordered"].level.mean for row in rows]
        found = [s and a for s, a in zip(special, above, strict=True)]
        return Claim(
            statement="What is shared lies at low frequencies, not just anywhere",
            where="Table 1, its reading; the method's premise",
            paper="not tested",
            ours=self._join(f"low band without the DC {row.seeds.format(3, True)}" for row in rows),
            control=self._join(
                f"channels in random orders {row.nulls['reordered'].level.format(3, True)}, "
                f"random split {row.nulls['random'].level.format(3, True)}, "
                f"Holm p {row.nulls['reordered'].holm:.3f}"
                for row in rows
            ),
            verdict=SUPPORTED if all(found) else MATCHED if not any(found) else OPEN,
            why=(
                "agrees where in every pair the low band without the DC lies above the same band "
                "with the channels in random orders (Holm-corrected p < 5 %); the control matches "
                "where it does in none: an order that means nothing to the network does as well"
            ),
        )

    def _claim_cka(self) -> Claim:
        gaps, orders = [], []
        for pair in self.pairs:
            low, high = (self.find("cka_debiased", pair, band) for band in ("low", "high"))
            gaps.append(average_seeds(low.values - high.values))
            levels = [row.nulls.get("reordered") for row in (low, high)]
            orders.append(levels[0].level.mean - levels[1].level.mean if all(levels) else np.nan)
        raised = [gap.excludes(0) and gap.mean > 0 for gap in gaps]
        lowered = [gap.excludes(0) and gap.mean < 0 for gap in gaps]
        return Claim(
            statement="The low band is more similar than the high band also by linear CKA",
            where="earlier version, CKA figure",
            paper="low above high (bars, no numbers)",
            ours=self._join(f"low - high {gap.format(3, sign=True)}, debiased" for gap in gaps),
            control=self._join(f"channels in random orders {c:+.3f}" for c in orders),
            verdict=SUPPORTED if all(raised) else REFUTED if all(lowered) else OPEN,
            why="agrees (differs) where every pair's interval over seeds lies above (below) 0",
        )

    def _join(self, values) -> str:
        return "; ".join(f"{name}: {value}" for name, value in zip(self.pairs, values, strict=True))


@dataclass(frozen=True)
class Settings:
    """What is drawn. shuffles: of the pairs. splits: of the channels' order and of random bases.
    halves: of the samples, for intervals. cutoff and basis: of the split."""

    cutoff: float = 0.5
    basis: str = "dft"
    shuffles: int = 500
    splits: int = 200
    halves: int = 20


def measure_similarity(
    plan: Plan, *, untrained: int = 8, detect: int = 40, layers: bool = True, **settings
) -> Similarity:
    """Compare the test features of every pair of modalities, node by node, band by band.

    settings: see `Settings`. untrained: pairs of networks as initialised, for that null. detect:
    draws of planted pairs for each point of the measures' own score; 0 leaves it out. layers: the
    pooled layers before the feature too, with the null of shuffled pairs alone.
    """
    settings = Settings(**settings)
    require_basis(settings.basis)
    count_low_bins(2, settings.cutoff)  # refuses a cut-off outside 0 to 1
    features = plan.definition.is_features
    plan = replace(plan, seeds=plan.seeds[:1]) if features else plan  # vectors know no seed
    banks = load_unimodal_banks(plan)
    fresh = {} if features or not untrained else load_untrained_banks(plan, untrained)
    jobs: dict[tuple[str, str], tuple] = {}
    alike = find_alike_pairs(plan)
    for one, two in plan.pairs:
        shared = {}
        if (one, two) in alike:
            shared = load_unimodal_banks(plan, start=one, modalities=[two])
        first = banks[one, plan.seeds[0]]
        nodes = [n for n in first.nodes if n in banks[two, plan.seeds[0]].nodes]
        for node in nodes if layers else [FEATURE]:
            sides = [(banks[one, s][node], banks[two, s][node]) for s in plan.seeds]
            others = {}
            if fresh:
                others["untrained"] = [
                    (fresh[one, i][node], fresh[two, i][node]) for i in range(untrained)
                ]
            if shared:
                others["shared_start"] = [
                    (banks[one, s][node], shared[two, s][node]) for s in plan.seeds
                ]
            jobs[f"{one}-{two}", node] = (sides, others, first.labels, derive_seed(one, two))
    work: dict[tuple, tuple] = {}
    for place, (sides, others, labels, seed) in jobs.items():
        whole = place[1] == FEATURE
        work["measured", *place] = (describe_sides, (sides, others, settings, whole))
        for name in NULLS if whole else SHUFFLED:
            work[name, *place] = (draw_null, (name, sides, labels, settings, seed))
        if whole:
            work["curve", *place] = (trace_curve, (sides, settings, seed))
    if detect:
        work["detection",] = (score_detectors, (detect,))
    done = dict(zip(work, run_side_by_side([*work.values()]), strict=True))
    rows = []
    for (pair, node), (sides, *_) in jobs.items():
        nulls = {name: done[name, pair, node] for name in NULLS if (name, pair, node) in done}
        found = judge_sides(done["measured", pair, node], nulls, sides, settings)
        rows += [replace(row, pair=pair, node=node) for row in found]
    first = banks[plan.modalities[0], plan.seeds[0]][FEATURE]
    return Similarity(
        plan.dataset,
        plan.preset,
        *first.shape,
        settings.cutoff,
        settings.basis,
        _correct(rows),
        {pair: done["curve", pair, node] for pair, node in jobs if node == FEATURE},
        done.get(("detection",)),
    )


def find_alike_pairs(plan: Plan) -> list[tuple[str, str]]:
    """Pairs whose second network can start from the first one's weights."""
    return [pair for pair in plan.pairs if are_alike(plan, *pair)]


def configure_similarity(plan: Plan) -> list[RunConfig]:
    """Every modality's own network, and those that start from another's weights."""
    configs = [*configure_unimodal(plan).values()]
    for one, two in find_alike_pairs(plan):
        configs += configure_unimodal(plan, start=one, modalities=[two]).values()
    return configs


Sides = list[tuple[np.ndarray, np.ndarray]]
Found = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """(measure, band) → values (S,), interval over samples; others: name → (measure, band) →
    values of further pairs."""

    values: Found
    samples: dict[tuple[str, str], Estimate]
    others: dict[str, Found]


def describe_sides(
    sides: Sides, others: dict[str, Sides], settings: Settings, whole: bool = True
) -> Measured:
    """All measures and bands of S pairs of aligned (N, D) features, one pair per training seed.

    others: "untrained" and "shared_start" → further pairs. whole: with intervals over samples for
    what is no mean over samples.
    """
    bands = [[_cut(x, settings) for x in pair] for pair in sides]
    values = _collect([_measure(pair) for pair in bands])
    halves = settings.halves if whole else 0
    return Measured(
        values,
        {key: _bound(bands, *key, found, halves) for key, found in values.items()},
        {
            name: _collect([_measure([_cut(x, settings) for x in pair]) for pair in pairs])
            for name, pairs in others.items()
        },
    )


def draw_null(
    name: str, sides: Sides, labels: np.ndarray, settings: Settings, seed: int = 0
) -> Found:
    """(measure, band) → draws of one of `NULLS`, each the mean over the S pairs.

    The same samples, orders and bases are drawn for every pair, so that a draw is the mean over
    seeds under one rearrangement.
    """
    rng = np.random.default_rng([seed, NULLS.index(name)])
    if name not in SHUFFLED:
        return _rearrange(sides, name, settings, rng)
    within = labels if name == "in_class" else None
    orders = draw_orders(len(labels), settings.shuffles, rng, within)
    return _average([_shuffle([_cut(x, settings) for x in pair], orders) for pair in sides])


def judge_sides(
    measured: Measured, nulls: dict[str, Found], sides: Sides, settings: Settings
) -> list[Row]:
    """Rows with every null's level and p-value, not yet corrected."""
    others = dict(measured.others)
    shared = others.pop("shared_start", {})
    predicted = _predict(measured.values, sides[0][0].shape[1], settings.cutoff)
    return [
        Row(
            pair="",
            node="",
            measure=key[0],
            band=key[1],
            values=values,
            samples=measured.samples[key],
            nulls={
                name: _judge(values.mean(), draws[key], key[0], name)
                for name, draws in (nulls | others).items()
                if key in draws
            },
            predicted=predicted.get(key, np.nan),
            shared_start=shared.get(key, np.empty(0)),
        )
        for key, values in measured.values.items()
    ]


Bands = dict[str, np.ndarray]


def _cut(features: np.ndarray, settings: Settings, rows: np.ndarray | None = None) -> Bands:
    """(N, D) → band → its coefficients (N, d) in the basis.

    Cosines, linear CKA and Euclidean neighbours of a band are those of its coefficients.
    """
    dim = features.shape[1]
    rows = make_basis(settings.basis, dim) if rows is None else rows
    whole = np.asarray(features, dtype=np.float64) @ rows.T
    last = 1 + count_low_dims(dim, settings.cutoff)
    return {
        "raw": whole,
        "low+dc": whole[:, :last],
        "low": whole[:, 1:last],
        "dc": whole[:, :1],
        "high": whole[:, last:],
    }


def _list_measures(pair: list[Bands]) -> tuple[str, ...]:
    """The cosine needs equal widths."""
    return MEASURES if pair[0]["raw"].shape == pair[1]["raw"].shape else MEASURES[1:]


def _measure(
    pair: list[Bands],
    measures: tuple[str, ...] = MEASURES,
    chosen: tuple[str, ...] = BANDS,
) -> Found:
    found = {}
    for band in chosen:
        both = Pair(pair[0][band], pair[1][band])
        for measure in _list_measures(pair):
            if measure in measures:
                found[measure, band] = np.array([getattr(both, measure)])
    return found


def _shuffle(pair: list[Bands], orders: np.ndarray) -> Found:
    found = {}
    for band in BANDS:
        both = Pair(pair[0][band], pair[1][band])
        if "cosine" in _list_measures(pair):
            found["cosine", band] = both.shuffle_cosines(orders)
        found["cka", band], found["cka_debiased", band] = both.shuffle_cka(orders)
        found["neighbours", band] = both.shuffle_neighbours(orders)
    return found


def _rearrange(sides: Sides, name: str, settings: Settings, rng: np.random.Generator) -> Found:
    """Draws of the measures with another order of the channels, or in a random basis.

    Left out is what such a change cannot touch: the raw features and the DC, but for the cosine of
    raw features of which one side alone is reordered.
    """
    dim = sides[0][0].shape[1]
    if sides[0][1].shape[1] != dim:
        return {}
    moments = [_Moments(*pair) for pair in sides]
    plain = make_basis(settings.basis, dim)
    draws = []
    for draw in range(settings.splits):
        order = rng.permutation(dim)
        first, second = plain, plain
        if name in ("random", "free"):
            first = second = make_basis.__wrapped__(name, dim, draw)
        elif name == "reordered":
            first = second = plain[:, order]
        else:
            second = plain[:, order]
        parts = []
        for (one, two), moment in zip(sides, moments, strict=True):
            found = moment.measure(first, second, 1 + count_low_dims(dim, settings.cutoff))
            if name == "one_side":
                raw = [_cut(one, settings, first), _cut(two, settings, second)]
                found |= _measure(raw, ("cosine",), ("raw",))
            if draw % FEW == 0:
                pair = [_cut(one, settings, first), _cut(two, settings, second)]
                found |= _measure(pair, ("neighbours",), MOVED)
            parts.append(found)
        draws.append(_average(parts))
    return _collect(draws)


class _Moments:
    """Cosine and CKA of two sides' bands in any basis, from what no basis changes.

    The centred sides' D × D covariances turn with the basis, at D³ a draw and not N · D².
    """

    def __init__(self, one: np.ndarray, two: np.ndarray):
        self.sides = [np.asarray(x, dtype=np.float64) for x in (one, two)]
        self.means = [x.mean(axis=0) for x in self.sides]
        centred = [x - mean for x, mean in zip(self.sides, self.means, strict=True)]
        self.products = {(i, j): centred[i].T @ centred[j] for i, j in ((0, 0), (1, 1), (0, 1))}

    def measure(self, first: np.ndarray, second: np.ndarray, last: int) -> Found:
        """Of the bands `MOVED`; first, second: (D, D) basis of either side; last: the first row
        that is high."""
        bases = (first, second)
        cuts = {"low+dc": slice(last), "low": slice(1, last), "high": slice(last, None)}
        whole = [x @ rows.T for x, rows in zip(self.sides, bases, strict=True)]
        centred = [x - rows @ mean for x, rows, mean in zip(whole, bases, self.means, strict=True)]
        squares = {
            (i, j): np.square(bases[i] @ product @ bases[j].T)
            for (i, j), product in self.products.items()
        }
        found = {}
        for band, cut in cuts.items():
            one, two = (x[:, cut] for x in whole)
            cross, mine, theirs = (
                np.einsum("nd,nd->n", a, b) for a, b in ((one, two), (one, one), (two, two))
            )
            scale = np.sqrt(mine * theirs)
            cosine = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
            energies = [np.einsum("nd,nd->n", x[:, cut], x[:, cut]) for x in centred]
            crosses = {key: float(square[cut, cut].sum()) for key, square in squares.items()}
            plain = np.sqrt(crosses[0, 0] * crosses[1, 1])
            unbiased = {(i, j): debias(crosses[i, j], energies[i], energies[j]) for i, j in crosses}
            size = unbiased[0, 0] * unbiased[1, 1]
            values = {
                "cosine": cosine.mean(),
                "cka": crosses[0, 1] / plain if plain > 0 else 0.0,
                "cka_debiased": unbiased[0, 1] / np.sqrt(size) if size > 0 else 0.0,
            }
            found |= {(measure, band): np.array([value]) for measure, value in values.items()}
        return found


def _collect(parts: list[Found]) -> Found:
    """One after the other, for each key; a part may lack one."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: np.concatenate([part[key] for part in parts if key in part]) for key in keys}


def _average(parts: list[Found]) -> Found:
    return {key: np.mean([part[key] for part in parts], axis=0) for key in parts[0]}


def _predict(values: Found, dim: int, cutoff: float) -> dict[tuple[str, str], float]:
    if ("cosine", "raw") not in values:
        return {}
    raw = float(values["cosine", "raw"].mean())
    below = float(predict_low_cosine(raw, measure_low_fraction(dim, cutoff)))
    closed = {"raw": raw, "low+dc": below, "low": 0.0, "dc": float(np.sign(raw)), "high": 0.0}
    return {("cosine", band): value for band, value in closed.items()}


def _judge(value: float, draws: np.ndarray, measure: str, name: str) -> Null:
    """The sign of a cosine matters, and a band may fall on either side of another split; only an
    overlap beyond a shuffle's is evidence of shared content."""
    two_sided = measure == "cosine" or name in SPLIT[1:]
    low, high = np.quantile(draws, [0.025, 0.975])
    level = Estimate(float(draws.mean()), float(low), float(high), len(draws))
    varies = np.ptp(draws) > 1e-9  # the DC of rows whose means have one sign has cosine 1 always
    p = compare_to_null(float(value), draws, two_sided) if varies else np.nan
    return Null(level, p, np.nan)


def _bound(bands, measure: str, band: str, values: np.ndarray, halves: int) -> Estimate:
    """Interval over samples: bootstrap of the cosines, halves for what is no mean over samples."""
    mean, count = float(values.mean()), len(bands[0][0][band])
    if measure == "cosine":
        rows = np.mean([row_cosines(a[band], b[band]) for a, b in bands], axis=0)
        return average_samples(rows)
    if halves == 0:
        return Estimate(mean, np.nan, np.nan, count)

    def measure_half(rows: np.ndarray) -> float:
        found = [getattr(Pair(a[band][rows], b[band][rows]), measure) for a, b in bands]
        return float(np.mean(found))

    return average_halves(mean, measure_half, count, halves)


def _correct(rows: list[Row]) -> list[Row]:
    """Holm over the pairs and bands of each measure and null at the pooled feature, and over all
    earlier layers likewise."""
    corrected = {}
    for measure in MEASURES:
        for at_feature in (True, False):
            family = [
                i
                for i, row in enumerate(rows)
                if row.measure == measure and (row.node == FEATURE) == at_feature
            ]
            names = dict.fromkeys(name for i in family for name in rows[i].nulls)
            for name in names:
                members = [i for i in family if name in rows[i].nulls]
                found = correct_holm([rows[i].nulls[name].p for i in members])
                corrected |= {(i, name): float(p) for i, p in zip(members, found, strict=True)}
    return [
        replace(
            row,
            nulls={n: replace(null, holm=corrected[i, n]) for n, null in row.nulls.items()},
        )
        for i, row in enumerate(rows)
    ]


def trace_curve(
    sides: list[tuple[np.ndarray, np.ndarray]], settings: Settings, seed: int = 0
) -> Curve:
    """The measures of the band below every possible cut-off, for S pairs of (N, D) features.

    In an orthonormal basis all cut-offs come from cumulative sums over its rows.
    """
    rng = np.random.default_rng([seed, 1])
    dim = sides[0][0].shape[1]
    basis = make_basis(settings.basis, dim)
    bins = np.arange(dim // 2 + 1)
    edges = np.minimum(2 * bins, dim - 1)  # dimensions beside the DC below each cut-off
    coefficients = [tuple(x @ basis.T for x in pair) for pair in sides]
    with_dc = [Sweep(a, b, edges + 1) for a, b in coefficients]
    without = [Sweep(a[:, 1:], b[:, 1:], edges) for a, b in coefficients]
    cosine = np.array([sweep.cosine for sweep in with_dc])
    predicted = np.asarray(predict_low_cosine(cosine[:, -1].mean(), edges / (dim - 1)))
    reordered = np.array([
        np.mean([Sweep(a @ rows.T, b @ rows.T, edges + 1).cosine for a, b in sides], axis=0)
        for rows in (basis[:, rng.permutation(dim)] for _ in range(settings.splits))
    ])  # fmt: skip
    orders = draw_orders(len(sides[0][0]), settings.splits, rng)
    shuffled = np.mean([sweep.shuffle_cosine(orders) for sweep in with_dc], axis=0)
    cka = np.array([sweep.cka_debiased for sweep in without])
    cka_shuffled = np.mean([sweep.shuffle_cka(orders)[1] for sweep in without], axis=0)
    away = np.abs(cosine.mean(axis=0) - predicted)
    null = np.abs(reordered - predicted).max(axis=1)
    spans = [np.quantile(x, [0.025, 0.975], axis=0) for x in (reordered, shuffled, cka_shuffled)]
    drawn = [bins / bins[-1], cosine, predicted, *spans[:2], cka, spans[2]]
    return Curve(
        *(x.astype(np.float32) for x in drawn),  # results are kept; a drawing needs no more
        departure=float(away.max()),
        where=float(away.argmax() / bins[-1]),
        p=compare_to_null(float(away.max()), null, two_sided=False),
    )


def measure_low_fraction(dim: int, cutoff: float) -> float:
    """Part of the D - 1 zero-mean dimensions that lies in the low band. It is the band's part of
    the energy where that is spread evenly."""
    return count_low_dims(dim, cutoff) / (dim - 1)


def describe_published() -> str:
    """The paper's Table 1 in one line."""
    rows = {row["feature"]: row for row in read_table(TABLE)}
    names = {"cremad": "CREMA-D", "ave": "AVE"}
    return "; ".join(
        ", ".join(f"{feature} {rows[feature][column]}" for feature in rows) + f" ({name})"
        for column, name in names.items()
    )

"""At which frequencies do two modalities' maps differ? (FreqKD, abstract and spectral analysis)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import nn

from fdlab.core.config import Direction, RunConfig
from fdlab.core.device import choose_device
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.core.seeding import derive_seed
from fdlab.data.paired import PairedData
from fdlab.models.build import place
from fdlab.reference import read_table
from fdlab.spectral.divergence import (
    METRICS,
    compare_distributions,
    draw_noise,
)
from fdlab.spectral.similarity import Pair, draw_orders
from fdlab.studies.claims import MATCHED, OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.map_pairs import (
    BANDS,
    EVENT,
    PAIR,
    SCENE,
    Chunk,
    Compared,
    Found,
    Key,
    Maps,
    gather,
    list_maps,
    pair_events,
)
from fdlab.studies.plan import Plan
from fdlab.studies.stats import (
    LEVEL,
    RESAMPLES,
    average_seeds,
    compare_to_null,
    correct_holm,
    resample_means,
)
from fdlab.training.ensure import build_untrained
from fdlab.training.pool import ensure_runs

QUESTION = (
    "Do two modalities' maps differ most at high frequencies, and is that about the modalities?"
)
TABLE = "freqkd_abstract"
DIRECTION = "rgb2thermal"
NETWORKS = {"segmentation": "vit_small_pixels", "detection": "vit_small_boxes"}  # by task
STANDARDISED, RAW = "standardised", "raw"
ONE, OWN, NOISE = "one", "own", "noise"  # the networks of a comparison, or none
VIEW, OTHER, UNTRAINED = "view", "other", "untrained"
CONTROLS = (EVENT, SCENE, UNTRAINED, VIEW, OTHER)
METRIC_NAMES = {
    "mse": "MSE",
    "per_bin": "MSE per bin",
    "relative": "relative error",
    "cosine": "1 - cosine",
}
DIGITS = {"mse": 2, "per_bin": 3, "relative": 2, "cosine": 2}  # of a ratio
SLOPES = {"white": 0.0, "pink": 1.0}  # noise → how its amplitude falls with the radius
MEAN = "mean"  # of the blocks, as the release prints it
CKA, MMD = "cka", "mmd"
# (networks, pairing) → the two sources of maps, and whose second one. "first": the teacher
# modality's network on its modality; "shown": the same network on the other modality; "own": the
# other modality's network on it; "noisy": the first one on noisy inputs; "twin": the network of
# another seed on the first modality.
COMPARED: Compared = {
    (ONE, PAIR): ("first", "shown", PAIR),
    (ONE, EVENT): ("first", "shown", EVENT),
    (ONE, SCENE): ("first", "shown", SCENE),
    (ONE, VIEW): ("first", "noisy", PAIR),
    (ONE, OTHER): ("first", "first", EVENT),
    (OWN, PAIR): ("first", "own", PAIR),
    (OWN, EVENT): ("first", "own", EVENT),
    (OWN, SCENE): ("first", "own", SCENE),
    (OWN, VIEW): ("first", "twin", PAIR),
    (OWN, OTHER): ("first", "twin", EVENT),
}
BLOCKWISE = (PAIR, EVENT, UNTRAINED, VIEW)  # what is kept of single blocks
CURVES = (PAIR, EVENT, VIEW)  # whose curves over the radius are kept
CURVED = METRICS[1:]  # a ring's mean over the whole map would say how many bins it has
KEPT = ("first", "shown", "own")  # sources that CKA reads
NOISE_CHUNKS, NOISE_BATCH = 16, 4  # pairs of noise maps
ALPHA = 1 - LEVEL
EDGES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Block:
    """A block's map: its (C, h, w), and how many bins are low and high."""

    name: str
    shape: list[int]
    bins: list[int]


@dataclass(frozen=True)
class Row:
    """One metric of one block, or of the mean of the blocks, in one comparison.

    low, high: mean over pairs. ratio: high over low, of these means. Intervals over seeds and pairs
    (hierarchical percentile bootstrap, too short with few seeds), n of them the number of seeds.
    seeds: (S,) the ratio of each. independent: the ratio that maps of these energies would have if
    they shared nothing. excess: control → the ratio less the control's; of true pairs alone.
    """

    networks: str
    pairing: str
    block: str
    metric: str
    low: Estimate
    high: Estimate
    ratio: Estimate
    seeds: np.ndarray
    independent: float
    excess: dict[str, Estimate]


@dataclass(frozen=True)
class Curve:
    """One metric of one block over the radius. radii: (K,) in units of half the map's shorter side;
    means: (K,) over pairs; span: (2, K) 95 % interval over seeds and pairs."""

    networks: str
    pairing: str
    block: str
    metric: str
    radii: np.ndarray
    means: np.ndarray
    span: np.ndarray


@dataclass(frozen=True)
class Likeness:
    """CKA or MMD of one band of one block, or of the mean of the blocks.

    values: (S,) one per seed. null: mean and 95 % range of their mean's draws, n of them, with the
    pairs shuffled (CKA) or the two sides of each pair swapped at random (MMD); p: one-sided against
    it; holm: corrected over the bands of the blocks' mean, or over the bands and blocks, of one
    measure and choice of networks. scene: the CKA's draws with the pairs shuffled within their kind
    of scene, None where there is one kind. controls: "untrained" → mean, and for MMD "view", two
    looks at the first modality.
    """

    measure: str
    networks: str
    block: str
    band: str
    values: np.ndarray
    null: Estimate
    p: float
    holm: float
    scene: Estimate | None
    controls: dict[str, float]


@dataclass(frozen=True)
class Spectrum:
    """n: test pairs. direction: of the two modalities; where one network sees both it is the
    first's. maps: what was transformed. noise: see `measure_spectrum`."""

    dataset: str
    preset: str
    n: int
    seeds: list[int]
    direction: str
    network: str
    maps: str
    noise: float
    untrained: int
    blocks: list[Block]
    rows: list[Row]
    curves: list[Curve]
    likeness: list[Likeness]
    runs: list[str]

    @property
    def sides(self) -> tuple[str, str]:
        return Direction.split(self.direction)

    def find(self, networks: str, pairing: str, metric: str, block: str = MEAN) -> Row | None:
        key = (networks, pairing, block, metric)
        found = (r for r in self.rows if (r.networks, r.pairing, r.block, r.metric) == key)
        return next(found, None)

    def find_curve(self, networks: str, pairing: str, metric: str, block: str) -> Curve | None:
        key = (networks, pairing, block, metric)
        found = (c for c in self.curves if (c.networks, c.pairing, c.block, c.metric) == key)
        return next(found, None)

    def collect(self, measure: str, networks: str, band: str) -> list[Likeness]:
        """Of one band, block by block, without their mean."""
        key = (measure, networks, band)
        found = (x for x in self.likeness if (x.measure, x.networks, x.band) == key)
        return [x for x in found if x.block != MEAN]

    def find_likeness(self, measure: str, networks: str, band: str) -> Likeness:
        """Of one band, the mean of the blocks."""
        key = (measure, networks, band, MEAN)
        found = self.likeness
        return next(x for x in found if (x.measure, x.networks, x.band, x.block) == key)

    def pairings(self, networks: str) -> list[str]:
        """True pairs, then the controls that there are."""
        found = {row.pairing for row in self.rows if row.networks == networks}
        return [name for name in (PAIR, *CONTROLS, *SLOPES) if name in found]

    def finding(self) -> str:
        names = {EVENT: "mismatched pairs", UNTRAINED: "untrained networks",
                 VIEW: f"{self.sides[0]} beside itself with noise"}  # fmt: skip
        told = []
        for metric in METRICS:
            ratio, digits = self.find(ONE, PAIR, metric).ratio, DIGITS[metric]
            beside = [f"{words} {self.find(ONE, pairing, metric).ratio.mean:.{digits}f}"
                      for pairing, words in names.items()]  # fmt: skip
            told.append(f"{METRIC_NAMES[metric]} {ratio.format(digits)}, {', '.join(beside)}")
        alike = []
        for band in BANDS:
            found = self.find_likeness(CKA, ONE, band)
            alike.append(f"{band} {found.values.mean():.3f} (Holm p {found.holm:.3f})")
        return (
            f"{' and '.join(self.sides)} in one {self.network}, divergence of the high band over "
            f"that of the low one, mean of {len(self.blocks)} blocks (published "
            f"{read_published():g}, the metric not said): {'; '.join(told)}. Debiased CKA "
            f"{', '.join(alike)}. {describe_n(self.n, len(self.seeds))}."
        )

    def claims(self) -> list[Claim]:
        claims = [*map(self._claim_ratio, METRICS), self._claim_cka()]
        return [replace(claim, n=describe_n(self.n, len(self.seeds))) for claim in claims]

    def _claim_ratio(self, metric: str) -> Claim:
        row, digits = self.find(ONE, PAIR, metric), DIGITS[metric]
        blocks = [self.find(ONE, PAIR, metric, block.name).ratio.mean for block in self.blocks]
        own = self.find(OWN, PAIR, metric).ratio
        controls = {
            "mismatched pairs": self.find(ONE, EVENT, metric),
            "untrained networks": self.find(ONE, UNTRAINED, metric),
            f"{self.sides[0]} beside itself with noise": self.find(ONE, VIEW, metric),
            "white noise": self.find(NOISE, "white", metric),
        }
        return Claim(
            statement=(
                "The modalities diverge more at high frequencies than at low ones, by "
                f"{METRIC_NAMES[metric]}"
            ),
            where="FreqKD, abstract",
            paper=f"{read_published():g} times as much; the metric is not said",
            ours=(
                f"{row.ratio.format(digits)} times, {min(blocks):.{digits}f} to "
                f"{max(blocks):.{digits}f} by block; with own networks {own.format(digits)}"
            ),
            control="; ".join(
                [f"{words} {found.ratio.format(digits)}" for words, found in controls.items()]
                + [f"maps of these energies that share nothing {row.independent:.{digits}f}"]
            ),
            verdict=judge_ratio(row, self.find(ONE, EVENT, metric)),
            why=(
                "by both intervals (seeds; seeds and pairs): agrees where the ratio lies above 1 "
                "and its difference to mismatched pairs above 0; the control matches where only "
                "the first is so; differs where the ratio lies below 1 and below what maps of "
                "these energies give that share nothing, since a ratio below 1 may be the bands' "
                "energies alone"
            ),
        )

    def _claim_cka(self) -> Claim:
        low, high = (self.find_likeness(CKA, ONE, band) for band in BANDS)
        gap = average_seeds(low.values - high.values)
        return Claim(
            statement="The modalities are more alike at low frequencies than at high ones, by CKA",
            where="FreqKD, the release's CKA analysis",
            paper="no number is public",
            ours=", ".join(f"{x.band} {average_seeds(x.values).format(3)}" for x in (low, high))
            + f"; low - high {gap.format(3, sign=True)}, debiased, mean of the blocks",
            control="pairs shuffled: "
            + ", ".join(f"{x.band} {x.null.format(3)}, Holm p {x.holm:.3f}" for x in (low, high)),
            verdict=judge_gap(gap, low.holm, high.holm),
            why=(
                "agrees (differs) where the interval over seeds of the difference lies above "
                "(below) 0 and the low (high) band beats shuffled pairs, Holm-corrected p < 5 %; "
                "the control matches where neither band does"
            ),
        )


def judge_ratio(row: Row, rival: Row) -> str:
    """The verdict on a ratio above 1 of true pairs; rival: the same of mismatched pairs."""
    ratios = row.ratio, average_seeds(row.seeds)
    if all(ratio.excludes(1) and ratio.mean > 1 for ratio in ratios):
        excess = row.excess[EVENT], average_seeds(row.seeds - rival.seeds)
        return SUPPORTED if all(e.excludes(0) and e.mean > 0 for e in excess) else MATCHED
    level = min(1, row.independent)
    below = all(ratio.excludes(level) and ratio.mean < level for ratio in ratios)
    return REFUTED if below else OPEN


def judge_gap(gap: Estimate, low: float, high: float) -> str:
    """The verdict on the low band's CKA less the high band's; low, high: p of either against
    shuffled pairs."""
    if min(low, high) >= ALPHA:
        return MATCHED
    if not gap.excludes(0):
        return OPEN
    if gap.mean > 0:
        return SUPPORTED if low < ALPHA else OPEN
    return REFUTED if high < ALPHA else OPEN


def read_published() -> float:
    """FreqKD's ratio of the two bands' divergences."""
    return float(read_table(TABLE)[0]["ratio"])


def choose_way(plan: Plan, direction: str = "") -> Direction:
    """The two modalities that are compared: those asked for, or RGB and thermal where the data set
    has them, or those of its first direction."""
    if plan.definition.task not in NETWORKS:
        raise UserError(
            f"{plan.dataset} is for {plan.definition.task}: this study is for "
            f"{' and '.join(NETWORKS)}, where positions of two modalities correspond"
        )
    usual = DIRECTION if set(Direction.split(DIRECTION)) <= set(plan.modalities) else ""
    way = plan.choose_way(direction or usual)
    if way.teacher == way.student:
        raise UserError(f"direction is {way}: expected two modalities")
    return way


def choose_network(plan: Plan, network: str = "") -> str:
    return network or NETWORKS[plan.definition.task]


def configure_spectrum(
    plan: Plan, direction: str = "", network: str = ""
) -> dict[tuple[str, int], RunConfig]:
    """(modality, seed) → the run of its own network."""
    way, name = choose_way(plan, direction), choose_network(plan, network)
    return {
        (modality, seed): plan.configure(modality, seed=seed, network=name)
        for modality in (way.teacher, way.student)
        for seed in plan.seeds
    }


@dataclass(frozen=True)
class Draws:
    """Rearrangements behind the nulls, the same for every network. orders, scenes: (P, n) of the
    second side, at random and within each kind of scene, of which there may be one alone; swaps:
    (P, n) of 1 and -1, see `compare_distributions`."""

    orders: np.ndarray
    scenes: np.ndarray | None
    swaps: np.ndarray

    def drop(self) -> Draws:
        """None of them, where the values alone are asked for."""
        return Draws(self.orders[:0], None, self.swaps[:0])


@dataclass(frozen=True)
class Alike:
    """CKA or MMD of one band of one block under one network: its value, its null (P,), CKA's within
    kinds of scene, and MMD of two looks at one modality, nan where there are none."""

    value: float
    null: np.ndarray
    scene: np.ndarray | None = None
    view: float = np.nan


@dataclass(frozen=True)
class Reading:
    """What one network, or one pair of them, shows. blocks: name → what `gather` found, without its
    arrays. measured: comparison → block → metric → (n, G); predicted: the same for maps that share
    nothing, (G,). alike: (measure, networks, block, band) → its value and null."""

    blocks: dict[str, Found]
    measured: dict[Key, dict[str, dict[str, np.ndarray]]]
    predicted: dict[Key, dict[str, dict[str, np.ndarray]]]
    alike: dict[tuple[str, str, str, str], Alike]


def measure_spectrum(
    plan: Plan,
    *,
    direction: str = "",
    network: str = "",
    maps: str = STANDARDISED,
    noise: float = 0.5,
    untrained: int = 2,
    shuffles: int = 500,
    events: int = 500,
) -> Spectrum:
    """Train or find each modality's networks, and compare their maps of the test split block by
    block and frequency by frequency.

    direction: the two modalities. network: "" takes that of `NETWORKS`. maps: "standardised" as
    FreqKD's release transforms them, or "raw". noise: standard deviation of what is added to the
    first modality's standardised inputs for another look at it; our choice, as the source has no
    control within a modality. untrained: networks as initialised of each modality. shuffles: draws
    behind each null of CKA and MMD. events: at most so many test pairs, drawn by a fixed seed; 0
    takes all.
    """
    if maps not in (STANDARDISED, RAW):
        raise name_unknown("kind of maps", maps, (STANDARDISED, RAW))
    for name, value in (("noise", noise), ("untrained", untrained), ("shuffles", shuffles)):
        if value <= 0:
            raise UserError(f"{name} is {value}: expected more than 0")
    way, name = choose_way(plan, direction), choose_network(plan, network)
    configs = configure_spectrum(plan, direction, network)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    device, store = choose_device(plan.device), plan.open_store()
    side = next(iter(runs.values())).record.config.train.side
    data = PairedData.load(store, [way.teacher, way.student], device, side)
    rng = np.random.default_rng(derive_seed("spectrum", "events"))
    split = store.rows("test")
    if events and len(split) > events:
        split = np.sort(rng.choice(split, events, replace=False))
    kinds = np.asarray(store.labels[split])
    chunks = pair_events(kinds, rng)
    draws = draw_nulls(kinds[np.concatenate([c.places for c in chunks])], shuffles, rng)
    standardised = maps == STANDARDISED

    def load(modality: str, seed: int) -> nn.Module:
        return place(runs[modality, seed].load_student(store), device)

    def start(modality: str, number: int) -> nn.Module:
        seed = derive_seed("spectrum", "untrained", number) % 2**31
        return build_untrained(store, data, modality, plan.width, seed, name)

    def read(
        models: dict[str, nn.Module], number: int, compared: Compared, draws: Draws
    ) -> Reading:
        generator = torch.Generator().manual_seed(derive_seed("spectrum", "noise", number))
        wanted = {source for one, two, _ in compared.values() for source in (one, two)}

        def look(places: np.ndarray) -> dict[str, Maps]:
            rows = torch.from_numpy(split[places]).to(data.rows["test"].device)
            first, second = (data.batch(side, rows) for side in (way.teacher, way.student))
            drawn = torch.randn(first.shape, generator=generator).to(first.device)
            return see(models, first, second, first + noise * drawn, wanted)

        return summarise(gather(look, chunks, compared, standardised, KEPT), draws)

    compared = {
        key: how
        for key, how in COMPARED.items()
        if (SCENE not in how or draws.scenes is not None)
        and ("twin" not in how or len(plan.seeds) > 1)
    }
    trained = []
    for order, seed in enumerate(plan.seeds):
        models = {"first": load(way.teacher, seed), "own": load(way.student, seed)}
        if len(plan.seeds) > 1:
            models["twin"] = load(way.teacher, plan.seeds[(order + 1) % len(plan.seeds)])
        trained.append(read(models, seed, compared, draws))
    fresh = []
    pairs = {key: how for key, how in COMPARED.items() if key[1] == PAIR}
    for number in range(untrained):
        models = {"first": start(way.teacher, number), "own": start(way.student, number)}
        fresh.append(read(models, number, pairs, draws.drop()))
    sets = {key: (key, trained) for key in compared}
    sets |= {(networks, UNTRAINED): ((networks, PAIR), fresh) for networks in (ONE, OWN)}
    noises = [look_at_noise(trained[0].blocks, standardised)]
    sets |= {(NOISE, kind): ((NOISE, kind), noises) for kind in SLOPES}
    stacks = {key: stack_readings(found, source) for key, (source, found) in sets.items()}
    blocks = trained[0].blocks
    return Spectrum(
        dataset=plan.dataset,
        preset=plan.preset,
        n=len(split),
        seeds=list(plan.seeds),
        direction=str(way),
        network=name,
        maps=maps,
        noise=noise,
        untrained=untrained,
        blocks=[
            Block(n, list(b.shape), [int(x) for x in b.rings.bins[:2]]) for n, b in blocks.items()
        ],
        rows=describe_rows(stacks),
        curves=trace_curves(stacks, blocks),
        likeness=describe_likeness(trained, fresh),
        runs=sorted(run.record.fingerprint for run in runs.values()),
    )


def see(
    models: dict[str, nn.Module],
    first: torch.Tensor,
    second: torch.Tensor,
    noisy: torch.Tensor,
    wanted: set[str],
) -> dict[str, Maps]:
    """Source of `COMPARED` → its maps, of inputs of the first modality, of the second, and of the
    first with noise. A network that is shown another modality takes that as `fit_channels` makes
    it, standardised by its own mean and deviation."""
    takes = {
        "first": ("first", first),
        "shown": ("first", fit_channels(second, first.shape[1])),
        "noisy": ("first", noisy),
        "own": ("own", second),
        "twin": ("twin", first),
    }
    return {s: list_maps(models[m](x)) for s, (m, x) in takes.items() if s in wanted}


def fit_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """(N, C, H, W) for a network of another number of channels: one is repeated, as FreqKD shows
    thermal images to a network for colours; of several the mean is taken, which is our choice."""
    if x.shape[1] == channels:
        return x
    if x.shape[1] > 1:
        x = x.mean(dim=1, keepdim=True)
    return x.expand(-1, channels, -1, -1)


def draw_nulls(scenes: np.ndarray, draws: int, rng: np.random.Generator) -> Draws:
    """scenes: (n,) the kind of each event."""
    n = len(scenes)
    several = len(np.unique(scenes)) > 1
    return Draws(
        draw_orders(n, draws, rng),
        draw_orders(n, draws, rng, scenes) if several else None,
        rng.choice([-1, 1], (draws, n)),
    )


def summarise(found: dict[str, Found], draws: Draws | None = None) -> Reading:
    """Metrics, CKA and MMD of what `gather` found; without draws the metrics alone."""
    keys = list(next(iter(found.values())).energies)
    alike = {}
    for (networks, pairing), (one, two, _) in COMPARED.items():
        if pairing != PAIR or draws is None:
            continue
        again = COMPARED[networks, VIEW][1]
        for name, block in found.items():
            for band in BANDS:
                rows = [block.coefficients[source][band] for source in (one, two)]
                alike[CKA, networks, name, band] = compare_geometry(*rows, draws)
                pooled = {source: bands[band] for source, bands in block.pooled.items()}
                alike[MMD, networks, name, band] = compare_pooled(
                    pooled[one], pooled[two], pooled.get(again), draws
                )
        for measure, band in product((CKA, MMD), BANDS):
            each = [alike[measure, networks, name, band] for name in found]
            alike[measure, networks, MEAN, band] = average_alike(each)
    return Reading(
        {name: Found(block.shape, block.rings) for name, block in found.items()},
        {key: {name: block.measure(key) for name, block in found.items()} for key in keys},
        {key: {name: block.predict(key) for name, block in found.items()} for key in keys},
        alike,
    )


def compare_geometry(one: np.ndarray, two: np.ndarray, draws: Draws) -> Alike:
    """Debiased linear CKA of (n, D) coefficients, a row an event.

    Our choice: FreqKD's release takes the positions of one image as rows, which are as many copies
    of a band's few frequencies, and its plain CKA is then high for maps that share nothing.
    """
    pair = Pair(*map(reduce_rows, (one, two)))
    null = pair.shuffle_cka(draws.orders)[1] if len(draws.orders) else np.empty(0)
    scene = None if draws.scenes is None else pair.shuffle_cka(draws.scenes)[1]
    return Alike(pair.cka_debiased, null, scene)


def compare_pooled(
    one: np.ndarray, two: np.ndarray, again: np.ndarray | None, draws: Draws
) -> Alike:
    """MMD of (n, C) root energies. again: the first modality's in another look, where there is
    one."""
    value, null = compare_distributions(one, two, draws.swaps)
    view = np.nan if again is None else compare_distributions(one, again, draws.swaps[:0])[0]
    return Alike(value, null, view=view)


def reduce_rows(rows: np.ndarray) -> np.ndarray:
    """(n, D) → (n, at most n) with the same products between rows, on which alone CKA depends."""
    rows = np.asarray(rows, dtype=np.float64)
    if rows.shape[1] <= len(rows):
        return rows
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return vectors * np.sqrt(np.maximum(values, 0))


def look_at_noise(blocks: dict[str, Found], standardised: bool) -> Reading:
    """Pairs of independent noise maps of every block's shape, standardised as the maps are."""
    generator = torch.Generator().manual_seed(derive_seed("spectrum", "noise maps"))
    shapes = {str(block.shape): block.shape for block in blocks.values()}

    def look(places: np.ndarray) -> dict[str, Maps]:
        return {
            f"{kind} {side}": {
                name: draw_noise((len(places), *shape), slope, generator)
                for name, shape in shapes.items()
            }
            for kind, slope in SLOPES.items()
            for side in range(2)
        }

    own = np.arange(NOISE_BATCH)
    compared = {(NOISE, kind): (f"{kind} 0", f"{kind} 1", PAIR) for kind in SLOPES}
    found = gather(look, [Chunk(own, {PAIR: own})] * NOISE_CHUNKS, compared, standardised)
    return summarise({name: found[str(block.shape)] for name, block in blocks.items()})


@dataclass(frozen=True)
class Stack:
    """One comparison. values: block → metric → (S, n, G), the mean of the blocks' two bands among
    them; predicted: block → metric → (G,) for maps that share nothing, mean over seeds."""

    values: dict[str, dict[str, np.ndarray]]
    predicted: dict[str, dict[str, np.ndarray]]


def stack_readings(readings: list[Reading], key: Key) -> Stack:
    values, predicted = {}, {}
    for name in readings[0].blocks:
        values[name] = {m: np.stack([x.measured[key][name][m] for x in readings]) for m in METRICS}
        predicted[name] = {
            m: np.mean([x.predicted[key][name][m] for x in readings], axis=0) for m in METRICS
        }
    for found in (values, predicted):
        each = list(found.values())
        found[MEAN] = {m: np.mean([x[m][..., :2] for x in each], axis=0) for m in METRICS}
    return Stack(values, predicted)


def describe_rows(stacks: dict[Key, Stack]) -> list[Row]:
    """Every comparison and metric, of the blocks' mean, and of every block where the comparison is
    of `BLOCKWISE`; true pairs with how far their ratio exceeds each control's, from the same
    resamples of seeds and events."""
    drawn: dict[tuple[Key, str, str], np.ndarray] = {}
    rows = []
    for key, stack in stacks.items():
        blocks = stack.values if key[1] in BLOCKWISE else [MEAN]
        for block, metric in product(blocks, METRICS):
            values = np.moveaxis(stack.values[block][metric][..., :2], -1, 0)  # (2, S, n)
            means, each = values.mean(axis=(1, 2)), values.mean(axis=2)
            draws = resample_means(values, RESAMPLES)
            drawn[key, block, metric] = _divide(draws[1], draws[0])
            seeds = values.shape[1]
            ratio = float(_divide(means[1], means[0]))
            low, high = stack.predicted[block][metric][:2]
            rows.append(
                Row(
                    *key,
                    block,
                    metric,
                    *(_span(m, d, seeds) for m, d in zip(means, draws, strict=True)),
                    _span(ratio, drawn[key, block, metric], seeds),
                    _divide(each[1], each[0]),
                    float(_divide(high, low)),
                    {},
                )
            )
    ratios = {((r.networks, r.pairing), r.block, r.metric): r.ratio.mean for r in rows}

    def exceed(row: Row) -> dict[str, Estimate]:
        own = ((row.networks, PAIR), row.block, row.metric)
        found = {}
        for control in CONTROLS:
            other = ((row.networks, control), row.block, row.metric)
            if other in drawn:
                gap, draws = ratios[own] - ratios[other], drawn[own] - drawn[other]
                found[control] = _span(gap, draws, row.ratio.n)
        return found

    return [replace(row, excess=exceed(row)) if row.pairing == PAIR else row for row in rows]


def trace_curves(stacks: dict[Key, Stack], blocks: dict[str, Found]) -> list[Curve]:
    curves = []
    for key, stack in stacks.items():
        if key[0] == NOISE or key[1] not in CURVES:
            continue
        for (name, block), metric in product(blocks.items(), CURVED):
            rings = np.moveaxis(stack.values[name][metric][..., 2:], -1, 0)  # (K, S, n)
            span = np.quantile(resample_means(rings, RESAMPLES), EDGES, axis=1)
            found = (block.rings.radii, rings.mean(axis=(1, 2)), span)
            curves.append(Curve(*key, name, metric, *(x.astype(np.float32) for x in found)))
    return curves


def describe_likeness(trained: list[Reading], fresh: list[Reading]) -> list[Likeness]:
    """Means over seeds against their nulls, corrected over bands, and over blocks where it is not
    of their mean."""
    found = []
    for key in sorted(trained[0].alike, key=lambda key: key[:2]):
        own = average_alike([x.alike[key] for x in trained])
        controls = {UNTRAINED: average_alike([x.alike[key] for x in fresh]).value}
        controls |= {VIEW: own.view} if np.isfinite(own.view) else {}
        found.append(
            Likeness(
                *key,
                np.array([x.alike[key].value for x in trained]),
                _span(own.null.mean(), own.null, len(own.null)),
                compare_to_null(own.value, own.null, two_sided=False),
                np.nan,
                None if own.scene is None else _span(own.scene.mean(), own.scene, len(own.scene)),
                controls,
            )
        )
    families: dict[tuple, list[int]] = {}
    for i, x in enumerate(found):
        families.setdefault((x.measure, x.networks, x.block == MEAN), []).append(i)
    for family in families.values():
        corrected = correct_holm([found[i].p for i in family])
        for i, p in zip(family, corrected, strict=True):
            found[i] = replace(found[i], holm=float(p))
    return found


def average_alike(each: list[Alike]) -> Alike:
    """Of blocks or of seeds, draw by draw, which are the same rearrangements for all."""
    scenes = [x.scene for x in each if x.scene is not None]
    return Alike(
        float(np.mean([x.value for x in each])),
        np.mean([x.null for x in each], axis=0),
        np.mean(scenes, axis=0) if scenes else None,
        float(np.mean([x.view for x in each])),
    )


def _divide(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """nan where there is nothing to divide by: two looks without any difference."""
    one, two = np.asarray(one), np.asarray(two)
    return np.divide(one, two, out=np.full(one.shape, np.nan), where=two > 0)


def _span(value: float, draws: np.ndarray, n: int) -> Estimate:
    low, high = np.quantile(draws, EDGES)
    return Estimate(float(value), float(low), float(high), n)

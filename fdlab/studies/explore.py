"""One pair of networks that exists, seen in one way: what the explorer shows. Nothing is trained.

A `View` says what to look at. `Shelf` knows the runs on disk, keeps what was read and computed, and
makes a `Scene` of a view: the numbers behind the figure.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from itertools import permutations
from typing import Any

import numpy as np

from fdlab.core import paths
from fdlab.core.config import PRESETS, Direction, RunConfig, TrainConfig, same_type
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.estimate import Estimate
from fdlab.core.fingerprint import digest
from fdlab.core.records import RunRecord
from fdlab.core.seeding import derive_seed
from fdlab.data.store import Store, find_dataset, find_store, list_datasets, prepare
from fdlab.features.bank import FeatureBank
from fdlab.methods import METHODS
from fdlab.methods.base import resolve_method_options
from fdlab.spectral.bands import count_low_bins, count_low_dims
from fdlab.spectral.bases import BASES, make_basis
from fdlab.spectral.similarity import (
    centre_columns,
    draw_orders,
    normalise_rows,
    predict_low_cosine,
)
from fdlab.spectral.sweep import Sweep
from fdlab.studies.banks import load_bank, read_bank
from fdlab.studies.embedding import align, lay_flat
from fdlab.studies.plan import make_plan
from fdlab.studies.scale import draw_weights
from fdlab.studies.similarity import FEATURE, MEASURES
from fdlab.studies.stats import LEVEL, average_halves
from fdlab.training.runs import open_run

QUESTION = "What do the features that exist look like, band by band?"
NULLS = ("shuffled", "in_class", "reordered", "none")
OTHER = "other"  # the preset of runs whose recipe is no preset's
# What fits into 200 ms on one core at n = 500 and D = 128, measured by benchmarks/explorer.py.
DRAWS = {"shuffled": 100, "in_class": 100, "reordered": 40}
FEW = 10  # draws of "reordered" for the neighbours, which it makes anew
STEPS = {"cosine": 64, "cka": 64, "cka_debiased": 64, "neighbours": 8}  # cut-offs of a curve
COARSE = 4  # and of neighbours under "reordered"
HALVES = 20
RESAMPLES = 500  # of the bootstrap
MOST = 1000  # samples; of a longer test split a fixed choice is shown
KEPT = {"banks": 40, "sides": 6}  # in memory


@dataclass(frozen=True)
class View:
    """What to look at, in plain literals: the parameters of `notebooks/explore.ipynb`.

    preset: whose recipe the runs have; "other" where no preset has it. seed: of the student.
    run: fingerprint of the student's run; "" takes the one whose options are all the default's.
    node: a layer that both networks have, equally wide. cutoff: fraction of the bins. dc: whether
    the band below the cut-off keeps row 0 of the basis. null: of `NULLS`.
    """

    dataset: str = "digits"
    preset: str = "quick"
    direction: str = "audio2image"
    method: str = "none"
    seed: int = 0
    run: str = ""
    node: str = FEATURE
    basis: str = "dft"
    cutoff: float = 0.5
    dc: bool = True
    measure: str = "cosine"
    null: str = "shuffled"


@dataclass(frozen=True)
class Match:
    """A student on disk and the network of the other modality that it is compared with.

    The first five fields and `run` are a view's. differs: the student's options beside the
    defaults, in words. teacher, student: fingerprints, "" where the data are features.
    """

    preset: str
    direction: str
    method: str
    seed: int
    run: str
    differs: str
    teacher: str
    student: str


FOUND_BY = ("preset", "direction", "method", "seed", "run")


@dataclass(frozen=True)
class Spectrum:
    """Where one side's energy lies.

    place: (G,) middle of each group of bins as a fraction of the bins; the first is row 0 of the
    basis, the DC. energy, low, high: (G,) energy per dimension, mean over the samples with its
    95 % interval. share: part of a sample's energy that the band below the cut-off holds.
    """

    modality: str
    place: np.ndarray
    energy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: Estimate


@dataclass(frozen=True)
class Curve:
    """The measure of the band below each cut-off.

    cutoff, values: (E,). low, high: (E,) 95 % interval over the samples; empty but for the cosine,
    the only measure that is a mean over samples. predicted: (E,) closed form if the two sides share
    their DC and nothing else; empty where it says nothing.
    """

    cutoff: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Range:
    """A null over the cut-offs: (F,) mean and 95 % range of `draws` draws."""

    cutoff: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: int

    def at(self, cutoff: float) -> Estimate:
        """Between two cut-offs on a straight line; n is the number of draws."""
        found = (np.interp(cutoff, self.cutoff, y) for y in (self.mean, self.low, self.high))
        return Estimate(*map(float, found), self.draws)


@dataclass(frozen=True)
class Profile:
    """means: (D,) mean of each channel over the samples, falling. mean, deviation: of all n · D
    entries."""

    modality: str
    means: np.ndarray
    mean: float
    deviation: float


@dataclass(frozen=True)
class Picture:
    """Principal components of the band below the cut-off, both sides together, each row at unit
    length: what the cosine compares, and what the method's scale step leaves. Our choice of a live
    embedding, since t-SNE takes seconds (study 07 has it).

    points: (2n, 2) teacher rows, then student rows; turned onto the picture of the whole feature,
    so that the cut-off moves them smoothly. labels: (n,). explained: part of the band's variance.
    """

    points: np.ndarray
    labels: np.ndarray
    explained: float


@dataclass(frozen=True)
class Scene:
    """Everything that a view shows.

    n: test samples. dim: D. sides: teacher's and student's modality. edge: the cut-off in effect,
    a whole number of bins. value: the measure there, with its interval over samples; predicted: the
    closed form, nan where it says nothing. null, level: the null over the cut-offs and there.
    """

    view: View
    match: Match
    n: int
    dim: int
    edge: float
    sides: list[str]
    spectra: list[Spectrum]
    curve: Curve
    value: Estimate
    predicted: float
    null: Range | None
    level: Estimate | None
    profiles: list[Profile]
    picture: Picture

    @property
    def dataset(self) -> str:
        return self.view.dataset

    @property
    def preset(self) -> str:
        return self.view.preset

    def finding(self) -> str:
        view = self.view
        parts = [
            f"{view.measure} of the band below cut-off {self.edge:.2f} "
            f"{'with' if view.dc else 'without'} the DC: {self.value.format(3)}"
        ]
        if np.isfinite(self.predicted):
            parts.append(f"closed form from the mean alone {self.predicted:.3f}")
        if self.level:
            parts.append(f"null {view.null} {self.level.format(3)} ({self.level.n} draws)")
        shares = ", ".join(f"{s.modality} {s.share.mean:.0%}" for s in self.spectra)
        return (
            f"{'; '.join(parts)}. The band holds this part of the energy: {shares} (n = {self.n} "
            f"test samples, one pair of networks: a look, not a test)."
        )

    def claims(self) -> list:
        """None: a view that was picked by eye tests nothing."""
        return []


class Shelf:
    """What exists on disk, and what was read and computed of it.

    Reads the records when it is made; a run that finishes later needs a new one. Of several runs of
    one configuration (the code changed in between) the last that finished is taken.
    """

    def __init__(self) -> None:
        self.records = list(_read_records())
        self._matches: dict[str, list[Match]] = {}
        self._kept = {what: OrderedDict() for what in KEPT}

    @property
    def datasets(self) -> list[str]:
        """Data sets with anything to look at; those of features always have."""
        return [name for name in list_datasets() if self.list_matches(name)]

    def list_matches(self, dataset: str) -> list[Match]:
        """Every pair of networks that exists, those with default options first."""
        if dataset not in self._matches:
            definition = find_dataset(dataset)
            find = _pair_features if definition.is_features else self._pair_runs
            found = find(dataset)
            self._matches[dataset] = sorted(found, key=_rank)
        return self._matches[dataset]

    def find_match(self, view: View) -> Match:
        """The pair that a view names; an unknown name is an error with the choices there are."""
        left = self.list_matches(view.dataset)
        if not left:
            raise UserError(
                f"{view.dataset} has no finished runs of two modalities with one seed: run `fdlab "
                f"reproduce --dataset {view.dataset} --only 02` first, or look at "
                f"{' or '.join(self.datasets)}"
            )
        for field in FOUND_BY:
            choices = _list_values(left, field)
            if getattr(view, field) not in choices:
                words = [choice if choice != "" else "'' (default options)" for choice in choices]
                raise name_unknown(f"{field} among what exists", getattr(view, field), words)
            left = [match for match in left if getattr(match, field) == getattr(view, field)]
        return left[0]

    def list_choices(self, view: View) -> dict[str, list]:
        """field → what may stand there, given the fields before it; `view` must exist."""
        match = self.find_match(view)
        left = self.list_matches(view.dataset)
        choices: dict[str, list] = {"dataset": self.datasets}
        for field in FOUND_BY:
            choices[field] = _list_values(left, field)
            left = [other for other in left if getattr(other, field) == getattr(match, field)]
        choices["node"] = _list_nodes(*self._load(view, match))
        return choices | {"basis": list(BASES), "measure": list(MEASURES), "null": list(NULLS)}

    def settle(self, view: View) -> View:
        """The view itself where it exists, else with the first choice for each field that does
        not."""
        if view.dataset not in self.datasets:
            view = replace(view, dataset=self.datasets[0])
        left = self.list_matches(view.dataset)
        for field in FOUND_BY:
            choices = _list_values(left, field)
            if getattr(view, field) not in choices:
                view = replace(view, **{field: choices[0]})
            left = [match for match in left if getattr(match, field) == getattr(view, field)]
        for field, choices in self.list_choices(view).items():
            if getattr(view, field) not in choices:
                view = replace(view, **{field: choices[-1] if field == "node" else choices[0]})
        return view

    def examine(self, view: View) -> Scene:
        """Everything that a view shows. Extracts the features of a run that has no bank yet, which
        takes seconds once; trains nothing."""
        for field in fields(View):
            value = getattr(view, field.name)
            if not same_type(value, field.default):
                expected = f"{type(field.default).__name__}, such as {field.default!r}"
                raise UserError(f"{field.name} is {value!r}: expected {expected}")
        match = self.find_match(view)
        for field, choices in self.list_choices(view).items():
            if getattr(view, field) not in choices:
                raise name_unknown(field, getattr(view, field), choices)
        if not 0 <= view.cutoff <= 1:
            raise UserError(f"cutoff is {view.cutoff}: expected a fraction of the bins, 0 to 1")
        return self.open(view, match).look(view, match)

    def takes_long(self, view: View) -> bool:
        """Whether a view's null has to be drawn yet, and its draws are costly."""
        if view.null != "reordered" or view.measure == "cosine":
            return False
        return not self.open(view, self.find_match(view)).has_null(view)

    def forget(self) -> None:
        """Drop what was computed; what was read stays."""
        self._kept["sides"].clear()

    def open(self, view: View, match: Match) -> Sides:
        """The two sides of a view at its node, in its basis; kept."""
        key = (view.dataset, view.preset, view.direction, match.teacher, match.student)

        def make() -> Sides:
            teacher, student = self._load(view, match)
            names = list(Direction.split(view.direction))
            sides = (teacher[view.node], student[view.node])
            return Sides(names, *sides, student.labels, view.basis)

        return self._keep("sides", (*key, view.node, view.basis), make)

    def _keep(self, what: str, key: tuple, make: Callable[[], Any]) -> Any:
        """What was made for a key, made now where it was not; the longest unused goes."""
        kept = self._kept[what]
        if key not in kept:
            kept[key] = make()
        kept.move_to_end(key)
        while len(kept) > KEPT[what]:
            kept.popitem(last=False)
        return kept[key]

    def _load(self, view: View, match: Match) -> tuple[FeatureBank, FeatureBank]:
        """The banks of a match: teacher's, student's."""
        modalities = Direction.split(view.direction)
        wanted = zip(modalities, (match.teacher, match.student), strict=True)
        return tuple(self._load_one(view, modality, run) for modality, run in wanted)

    def _load_one(self, view: View, modality: str, run: str) -> FeatureBank:
        def make() -> FeatureBank:
            if not run:
                return _thin(read_bank(make_plan(view.dataset, view.preset).open_store(), modality))
            found = open_run(paths.runs() / run)
            if found is None:
                raise UserError(f"run {run} is gone or damaged: open the explorer again")
            store = prepare(view.dataset, found.record.config.data_options)
            return _thin(load_bank(found, store))

        key = (run,) if run else (view.dataset, view.preset, modality)
        return self._keep("banks", key, make)

    def _pair_runs(self, dataset: str) -> list[Match]:
        """Every student beside the network that taught it, or, where none did, beside each other
        modality's own network of its seed and recipe. Left out is a student whose teacher has no
        run: an untrained one, or one that was deleted."""
        own = [r for r in self.records if r.config.dataset == dataset]
        stores: dict[str, Store | None] = {}
        kept: dict[str, RunRecord] = {}  # configuration → the last run that finished
        for record in sorted(own, key=lambda r: r.finished):
            options = record.config.data_options
            key = digest(options)
            if key not in stores:
                stores[key] = _find_store(dataset, options)
            store = stores[key]
            if store is not None and store.digest == record.data:
                kept[digest(record.config)] = record
        known = {record.fingerprint for record in own}
        found = []
        for record in kept.values():
            config = record.config
            preset = _name_preset(dataset, config)
            differs = _describe(config, preset)
            for teacher in find_dataset(dataset).modalities:
                if teacher == config.student or config.teacher not in (None, teacher):
                    continue
                run = record.teacher
                if config.teacher is None:
                    other = kept.get(digest(_make_plain(config, teacher)))
                    run = other.fingerprint if other else None
                if run in known:
                    found.append(
                        Match(
                            preset=preset,
                            direction=str(Direction(teacher, config.student)),
                            method=config.method,
                            seed=config.seed,
                            run=record.fingerprint if differs else "",
                            differs=differs,
                            teacher=run,
                            student=record.fingerprint,
                        )
                    )
        return found


class Sides:
    """Two sides of n events at one node in one basis; what no slider changes is computed once."""

    def __init__(
        self, names: list[str], one: np.ndarray, two: np.ndarray, labels: np.ndarray, basis: str
    ) -> None:
        self.names, self.labels, self.basis = names, labels, basis
        self.features = [np.asarray(x, dtype=np.float64) for x in (one, two)]
        self.n, self.dim = self.features[0].shape
        rows = make_basis(basis, self.dim)
        self.coefficients = [_still(x @ rows.T) for x in self.features]
        self._single = [x.astype(np.float32) for x in self.coefficients]
        self._kept: dict[tuple, Any] = {}

    def look(self, view: View, match: Match) -> Scene:
        edge = count_low_bins(self.dim, view.cutoff) / (self.dim // 2)
        stop = int(view.dc) + count_low_dims(self.dim, view.cutoff)
        first = 0 if view.dc else 1
        curve = self._keep(self._trace, view.measure, view.dc)
        null = None
        if view.null != "none":
            null = self._keep(self._draw_null, view.measure, view.dc, view.null)
        closed = len(curve.predicted) > 0
        return Scene(
            view=view,
            match=match,
            n=self.n,
            dim=self.dim,
            edge=edge,
            sides=self.names,
            spectra=self._measure_spectra(first, first + stop),
            curve=curve,
            value=self._measure(view.measure, first, first + stop),
            predicted=float(np.interp(edge, curve.cutoff, curve.predicted)) if closed else np.nan,
            null=null,
            level=null.at(edge) if null else None,
            profiles=self._profiles,
            picture=self._project(first, first + stop),
        )

    def _keep(self, make: Callable, *key) -> Any:
        name = (make.__name__, *key)
        if name not in self._kept:
            self._kept[name] = make(*key)
        return self._kept[name]

    def has_null(self, view: View) -> bool:
        return ("_draw_null", view.measure, view.dc, view.null) in self._kept

    def _list_stops(self, dc: bool, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(E,) cut-offs, every bin or `steps` of them, and how many coefficients are below each."""
        half = self.dim // 2
        bins = np.unique(np.linspace(0, half, min(steps, half) + 1).round().astype(int))
        stops = [int(dc) + count_low_dims(self.dim, edge / half) for edge in bins]
        return bins / half, np.array(stops)

    def _sweep(self, dc: bool, steps: int, single: bool) -> Sweep:
        stops = self._list_stops(dc, steps)[1]
        sides = self._single if single else self.coefficients
        return Sweep(*(x[:, 0 if dc else 1 :] for x in sides), stops)

    def _trace(self, measure: str, dc: bool) -> Curve:
        steps = STEPS[measure]
        cutoff = self._list_stops(dc, steps)[0]
        low = high = predicted = np.empty(0)
        if measure != "cosine":
            # Neighbours are found in single precision anyway, and their null needs them again.
            single = measure == "neighbours"
            values = getattr(self._keep(self._sweep, dc, steps, single), measure)
            return Curve(cutoff, values, low, high, predicted)
        rows = self._keep(self._sweep, dc, steps, False).row_cosines
        values = rows.mean(axis=0)
        low, high = _span(rows)
        # In "free" row 0 is not the DC; of a raw cosine of 0 it says 0 / 0 at the DC alone.
        if dc and self.basis != "free" and values[-1] != 0:
            dims = self._list_stops(False, steps)[1]
            predicted = np.asarray(predict_low_cosine(values[-1], dims / (self.dim - 1)))
        return Curve(cutoff, values, low, high, predicted)

    def _draw_null(self, measure: str, dc: bool, null: str) -> Range:
        """Draws are the same for every view. "reordered": neighbours are found anew for each draw,
        so they get fewer draws and cut-offs."""
        rng = np.random.default_rng(derive_seed("explore", null))
        if null == "reordered":
            few = measure == "neighbours"
            steps = COARSE if few else STEPS[measure]
            draws = self._reorder(measure, dc, steps, FEW if few else DRAWS[null], rng)
        else:
            steps = STEPS[measure]
            labels = self.labels if null == "in_class" else None
            orders = draw_orders(self.n, DRAWS[null], rng, labels)
            sweep = self._keep(self._sweep, dc, steps, True)
            if measure == "neighbours":
                draws = sweep.shuffle_neighbours(orders)
            elif measure == "cosine":
                draws = sweep.shuffle_cosine(orders)
            else:
                draws = sweep.shuffle_cka(orders)[int(measure == "cka_debiased")]
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        cutoff = self._list_stops(dc, steps)[0]
        return Range(cutoff, draws.mean(axis=0), low, high, len(draws))

    def _reorder(
        self, measure: str, dc: bool, steps: int, draws: int, rng: np.random.Generator
    ) -> np.ndarray:
        """(draws, E) with the channels of both sides in one random order."""
        rows = make_basis(self.basis, self.dim)[0 if dc else 1 :].astype(np.float32)
        stops = self._list_stops(dc, steps)[1]
        features = [x.astype(np.float32) for x in self.features]
        # The order of the channels changes neither the DC nor all coefficients together; "free" has
        # no DC.
        inner = slice(None) if self.basis == "free" else slice(1, -1)
        found = np.empty((draws, len(stops)))
        found[:, [0, -1]] = self._keep(self._trace, measure, dc).values[[0, -1]]
        drawn = stops[inner]
        for draw in range(draws):
            order = rng.permutation(self.dim)
            turned = np.ascontiguousarray(rows[: drawn.max(initial=0), order].T)
            found[draw, inner] = getattr(Sweep(*(x @ turned for x in features), drawn), measure)
        return found

    def _measure(self, measure: str, first: int, stop: int) -> Estimate:
        """The measure of one band with its interval over the samples: bootstrap of the cosines,
        random halves for what is no mean over samples."""
        band = [x[:, first:stop] for x in self.coefficients]
        stops = np.array([stop - first])
        whole = Sweep(*band, stops)
        if measure == "cosine":
            return _average(whole.row_cosines[:, 0])
        single = [np.ascontiguousarray(x, dtype=np.float32) for x in band]

        def measure_half(rows: np.ndarray) -> float:
            return float(getattr(Sweep(*(x[rows] for x in single), stops), measure)[0])

        return average_halves(float(getattr(whole, measure)[0]), measure_half, self.n, HALVES)

    def _measure_spectra(self, first: int, stop: int) -> list[Spectrum]:
        found = []
        for squares, spectrum in zip(self._squares, self._spectra, strict=True):
            whole = squares.sum(axis=1)
            inside = squares[:, first:stop].sum(axis=1)
            shares = np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)
            found.append(replace(spectrum, share=_average(shares)))
        return found

    @functools.cached_property
    def _squares(self) -> list[np.ndarray]:
        return [np.square(x) for x in self.coefficients]

    @functools.cached_property
    def _spectra(self) -> list[Spectrum]:
        """Without the share of a band."""
        half = self.dim // 2
        cutoff, stops = self._list_stops(True, STEPS["cosine"])
        groups = np.searchsorted(stops, np.arange(self.dim), side="right")
        member = (groups[:, None] == np.arange(len(stops))).astype(float)
        member /= member.sum(axis=0)
        bins = np.round(cutoff * half)
        place = np.concatenate([[0.0], (bins[:-1] + 1 + bins[1:]) / 2 / half])
        found = []
        for name, squares in zip(self.names, self._squares, strict=True):
            rows = squares @ member
            nothing = Estimate(np.nan, np.nan, np.nan, self.n)
            found.append(Spectrum(name, place, rows.mean(axis=0), *_span(rows), nothing))
        return found

    @functools.cached_property
    def _profiles(self) -> list[Profile]:
        return [
            Profile(name, np.sort(x.mean(axis=0))[::-1], float(x.mean()), float(x.std()))
            for name, x in zip(self.names, self.features, strict=True)
        ]

    @functools.cached_property
    def _both(self) -> np.ndarray:
        """(2n, D) coefficients of teacher and student."""
        return np.concatenate(self.coefficients)

    def _project(self, first: int, stop: int) -> Picture:
        points, explained = self._find_components(first, stop)
        if points.any():
            points = align(points, self._keep(self._lay_whole, first))[0]
        return Picture(points.round(3).astype(np.float32), self.labels, explained)

    def _lay_whole(self, first: int) -> np.ndarray:
        return lay_flat(self._find_components(first, self.dim)[0])

    def _find_components(self, first: int, stop: int) -> tuple[np.ndarray, float]:
        """(2n, 2) first two principal components of a band, 0 where it has none, and their part of
        its variance."""
        rows = centre_columns(normalise_rows(self._both[:, first:stop]))
        points = np.zeros((len(rows), 2))
        if not rows.any():
            return points, 0.0
        values, vectors = np.linalg.eigh(rows.T @ rows)
        chosen = vectors[:, :-3:-1]
        points[:, : chosen.shape[1]] = rows @ chosen
        return points, float(values[-2:].sum() / values.sum())


def examine(view: View, shelf: Shelf | None = None) -> Scene:
    """What a view shows; shelf: where to look again and again."""
    return (shelf or Shelf()).examine(view)


@functools.lru_cache(maxsize=4)
def _weigh(n: int) -> np.ndarray:
    return draw_weights(n)[:RESAMPLES]


def _span(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, G) → (G,) and (G,) 95 % percentile bootstrap interval of the mean over rows; one draw of
    samples for all columns."""
    means = _weigh(len(rows)) @ rows
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _average(rows: np.ndarray) -> Estimate:
    low, high = _span(rows[:, None])
    return Estimate(float(rows.mean()), float(low[0]), float(high[0]), len(rows))


def _thin(bank: FeatureBank) -> FeatureBank:
    """At most `MOST` samples, the same for every bank of a length."""
    if len(bank) <= MOST:
        return bank
    rng = np.random.default_rng(derive_seed("explore", "samples", len(bank)))
    rows = np.sort(rng.permutation(len(bank))[:MOST])
    features = {node: x[rows] for node, x in bank.features.items()}
    return FeatureBank(bank.rows[rows], bank.labels[rows], features)


def _still(rows: np.ndarray) -> np.ndarray:
    """(N, D) with each column that varies by rounding alone made constant: shared rounding is no
    shared content. Features are single precision."""
    still = np.ptp(rows, axis=0) <= 1e-6 * np.abs(rows).max(axis=0)
    rows[:, still] = rows[0, still]
    return rows


def _list_nodes(teacher: FeatureBank, student: FeatureBank) -> list[str]:
    """Layers of one name and one width, from the input to the pooled feature."""
    return [
        node
        for node in student.nodes
        if node in teacher.nodes and teacher[node].shape == student[node].shape
    ]


def _list_values(matches: list[Match], field: str) -> list:
    return list(dict.fromkeys(getattr(match, field) for match in matches))


def _rank(match: Match) -> tuple:
    """Presets, methods and modalities in their tables' order, default options first."""
    # The smoke preset last: its numbers mean nothing.
    preset = (match.preset == "smoke", [*PRESETS, OTHER].index(match.preset))
    method = [*METHODS, match.method].index(match.method)  # sums of methods come last
    return (*preset, match.direction, method, match.seed, match.run != "", match.differs)


def _read_records():
    """Of every run; the files beside a record are checked when they are read."""
    known = list_datasets()
    for path in sorted(paths.runs().glob("*/record.json")):
        if path.parent.name.startswith("."):
            continue
        try:
            record = RunRecord.read(path)
        except UserError:
            continue  # `fdlab runs list` says what is wrong with it
        if record.config.dataset in known and record.config.method in METHODS:
            yield record


def _find_store(dataset: str, options: dict[str, Any]) -> Store | None:
    try:
        return find_store(dataset, options)
    except UserError:  # an option that there is no more
        return None


def _pair_features(dataset: str) -> list[Match]:
    sides = permutations(find_dataset(dataset).modalities, 2)
    directions = [str(Direction(*pair)) for pair in sides]
    return [
        Match(preset, direction, "none", 0, "", "", "", "")
        for preset in PRESETS
        for direction in directions
    ]


def _make_plain(config: RunConfig, modality: str) -> RunConfig:
    """The other modality's own network of the same seed and recipe."""
    network = config.teacher_network if modality == config.teacher else config.network
    plain = RunConfig(config.dataset, modality, network=network, seed=config.seed)
    train = config.train
    if modality == config.teacher and config.teacher_train:
        train = config.teacher_train
    return replace(plain, width=config.width, data_options=config.data_options, train=train)


def _name_preset(dataset: str, config: RunConfig) -> str:
    for name in PRESETS:
        plan = make_plan(dataset, name)
        recipe = (config.width, config.train, config.data_options)
        if recipe == (
            plan.width,
            plan.find_recipe(config.student, config.network),
            plan.data_options,
        ):
            return name
    return OTHER


def _describe(config: RunConfig, preset: str) -> str:
    """What sets a run apart from the plain one of its preset, method and seed; "" for that one."""
    given = config.options
    task = find_dataset(config.dataset, prepared=False).task
    usual = resolve_method_options(config.method, {}, task)
    parts = [_spell(name, value) for name, value in given.items() if value != usual.get(name)]
    plain = RunConfig(dataset=config.dataset, student=config.student)
    if config.networks:
        parts.append(f"networks={config.networks}")
    for name in ("weights", "teacher_kind", "start", "probes"):
        if getattr(config, name) != getattr(plain, name):
            parts.append(f"{name}={getattr(config, name)}")
    if config.teacher_seed not in (None, config.seed):
        parts.append(f"teacher_seed={config.teacher_seed}")
    if preset == OTHER:
        parts.append(f"width={config.width}")
        known = asdict(TrainConfig())
        parts += [_spell(k, v) for k, v in asdict(config.train).items() if v != known[k]]
        parts += [_spell(k, v) for k, v in config.data_options.items()]
    return ", ".join(parts)


def _spell(name: str, value: object) -> str:
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"

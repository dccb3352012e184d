"""How much of a reported number is the rule that read it, and what does the test split repeat?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import binom, hypergeom

from fdlab.core.config import RunConfig, find_preset
from fdlab.core.estimate import Estimate
from fdlab.core.records import RunRecord
from fdlab.data.store import Store
from fdlab.studies.claims import OPEN, REFUTED, SUPPORTED, Claim
from fdlab.studies.comparison import configure_methods
from fdlab.studies.data import collect_values
from fdlab.studies.plan import Plan, read_list
from fdlab.studies.stats import average_seeds
from fdlab.training.pool import ensure_runs, find_missing
from fdlab.training.runs import list_runs

QUESTION = "How much of a number is the rule that read it, and what does the test split repeat?"
RULES = ("validation", "last", "test", "published")
FAIR = "fair"
READINGS = (*RULES, FAIR)
ON_TEST = ("test", "published")  # the rules that choose by looking at the test set
MARGIN = 1.0  # points: a bias inside it is called none
WEIGHED = (
    "differs where the interval over seeds lies above 0, agrees where it lies within "
    f"{MARGIN:g} point of 0,"
)
DIGITS = 9  # of a percentage: two means that differ by less are equal
ASKED, FOUND = "asked for", "all found"


@dataclass(frozen=True)
class Log:
    """One run's accuracies (%): validation and test, each (H, E) over heads and epochs.

    heads: H names, "raw" first. The rules that read a log, each giving a head and an epoch:

        validation   raw head, best epoch on validation; read on test
        last         raw head, last epoch
        test         raw head, best epoch on test
        published    best epoch and best head on test (FD-CMKD's released code)
        fair         best epoch and best head on validation, read on test: the published rule's
                     freedom without its look at the test set (our control)

    The first of equals wins, as in the record of a run.
    """

    heads: list[str]
    validation: np.ndarray
    test: np.ndarray

    @property
    def cells(self) -> int:
        """Readings that the published rule chooses from: heads times epochs."""
        return self.test.size

    def find(self, rule: str) -> tuple[int, int]:
        """(head, epoch), both from 0, that a rule of `READINGS` chooses."""
        if rule == "last":
            return 0, self.test.shape[1] - 1
        curves = self.test if rule in ON_TEST else self.validation
        if rule in ("validation", "test"):
            curves = curves[:1]
        head, epoch = np.unravel_index(curves.argmax(), curves.shape)
        return int(head), int(epoch)

    def read(self, rule: str) -> float:
        """Test accuracy (%) by a rule."""
        return float(self.test[self.find(rule)])

    def measure_level(self, rule: str, split: str = "test") -> float:
        """Mean accuracy (%) of the last quarter of the epochs over the heads a rule chooses from.

        A fixed set of readings, so that nothing is selected; a quarter is our choice.
        """
        curves = getattr(self, split)[: 1 if rule == "test" else None]
        return float(curves[:, -_count_late(curves.shape[1]) :].mean())

    def measure_bias(self, rule: str) -> float:
        """What choosing by the test set adds by chance, in points; `rule` is one of `ON_TEST`.

        The chosen reading stands above the run's level by (a) on test. The same head and epoch
        stand above the level by (b) on validation, which had no part in the choice, so (b) holds
        what is truly better there and no luck. The bias is a - b: the expected surplus of the
        number read over the accuracy of the model chosen, provided that the two splits' true
        accuracies differ by the same amount at every reading (our estimator and assumption).
        """
        chosen = self.find(rule)
        above = self.test[chosen] - self.measure_level(rule)
        again = self.validation[chosen] - self.measure_level(rule, "validation")
        return float(above - again)

    def measure_ceiling(self, rule: str, n: int) -> float:
        """The most that chance alone could add, in points: see `expect_surplus`."""
        cells = self.test.shape[1] if rule == "test" else self.cells
        return 100 * expect_surplus(self.measure_level(rule) / 100, n, cells)


@dataclass(frozen=True)
class Cell:
    """One method in one direction, over S seeds; percentages and points.

    values: reading → (S,) test accuracies. accuracy: their means. optimism: reading minus
    validation-selected, paired by seed. bias, ceiling: of the rules that choose on test, see
    `Log`. error: binomial standard error of one accuracy at the validation-selected mean.
    error_gap: of the unpaired difference of two such accuracies, this method's and `none`'s.
    """

    direction: str
    method: str
    heads: int
    epochs: int
    values: dict[str, np.ndarray]
    accuracy: dict[str, Estimate]
    optimism: dict[str, Estimate]
    bias: dict[str, Estimate]
    ceiling: dict[str, float]
    error: float
    error_gap: float


@dataclass(frozen=True)
class Gap:
    """One method minus another, paired by seed, in points.

    points: reading → difference. added: what the published rule adds to the validation-selected
    difference ("all"), of that what comes with the epochs chosen on test ("epochs"), and with the
    choice among heads ("heads"); the two sum to "all".
    """

    points: dict[str, Estimate]
    added: dict[str, Estimate]


@dataclass(frozen=True)
class Pool:
    """Runs with the same number of heads, each once; runs of one seed are averaged first.

    name: "asked for", or "all found" on this machine: every finished run with the same data,
    width and recipe, whatever its method, options and code. Intervals are over seeds.
    """

    name: str
    heads: int
    runs: int
    optimism: dict[str, Estimate]
    bias: dict[str, Estimate]
    ceiling: float


@dataclass(frozen=True)
class Leak:
    """One kind of id, or two together: is a test sample's value known from training?

    train, test: distinct values there. shared: test values that occur in train too. seen: test
    samples, of n, with such a value. chance: the share of `seen` that a split of the same sizes
    drawn at random over samples would have.
    """

    kind: str
    train: int
    test: int
    shared: int
    seen: int
    n: int
    chance: float


@dataclass(frozen=True)
class Protocol:
    """n: samples per split. leaks: one per kind of id, [] where the data set has none.

    logs: one per seed, of `logged`: the first direction and fdcmkd, or the last method without it.
    runs: fingerprints of the runs asked for.
    """

    dataset: str
    preset: str
    n: dict[str, int]
    seeds: list[int]
    cells: list[Cell]
    pools: list[Pool]
    leaks: list[Leak]
    logs: list[Log]
    logged: list[str]
    runs: list[str]

    @property
    def directions(self) -> list[str]:
        return list(dict.fromkeys(cell.direction for cell in self.cells))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two methods, the later one first: it minus the other is a `Gap`."""
        return [(two, one) for one, two in combinations(self.methods, 2)]

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """Those of the pairs to show: fdcmkd against every other method; without it, all."""
        others = [method for method in self.methods if method != "fdcmkd"]
        if len(others) == len(self.methods):
            return self.pairs
        return [("fdcmkd", method) for method in others]

    def find(self, direction: str, method: str) -> Cell:
        return next(c for c in self.cells if (c.direction, c.method) == (direction, method))

    def rank(self, direction: str, rule: str) -> list[str]:
        """Methods by their mean accuracy under a rule, the best first."""
        means = {m: self.find(direction, m).accuracy[rule].mean for m in self.methods}
        return sorted(self.methods, key=lambda method: -round(means[method], DIGITS))

    def compare(self, direction: str, one: str, two: str) -> Gap:
        first, second = (self.find(direction, method).values for method in (one, two))
        gaps = {rule: first[rule] - second[rule] for rule in READINGS}
        return Gap(
            points={rule: average_seeds(gap) for rule, gap in gaps.items()},
            added={
                "all": average_seeds(gaps["published"] - gaps["validation"]),
                "epochs": average_seeds(gaps["test"] - gaps["validation"]),
                "heads": average_seeds(gaps["published"] - gaps["test"]),
            },
        )

    def find_flips(self, rule: str) -> list[tuple[str, str, str, bool]]:
        """(direction, method, other, decided) of the pairs whose order differs under `rule`.

        The order is compared with validation selection's, by means over seeds; two equal means
        have no order. decided: both intervals exclude 0.
        """
        found = []
        for direction in self.directions:
            for one, two in self.pairs:
                points = self.compare(direction, one, two).points
                before, after = points["validation"], points[rule]
                if _turn(before.mean, after.mean):
                    decided = before.excludes(0) and after.excludes(0)
                    found.append((direction, one, two, decided))
        return found

    def count_seed_flips(self) -> float:
        """Pairs that one seed alone orders otherwise than the mean over seeds does, validation
        selection throughout; averaged over the seeds."""
        turned = 0
        for direction in self.directions:
            for one, two in self.pairs:
                first, second = (self.find(direction, m).values["validation"] for m in (one, two))
                gaps = first - second
                turned += sum(_turn(gap, gaps.mean()) for gap in gaps)
        return turned / len(self.seeds)

    def select_pools(self, name: str) -> list[Pool]:
        return [pool for pool in self.pools if pool.name == name]

    def finding(self) -> str:
        shown = "fdcmkd" if "fdcmkd" in self.methods else self.methods[-1]
        parts = []
        for direction in self.directions:
            optimism = self.find(direction, shown).optimism
            parts.append(
                f"{optimism['published'].format(1, sign=True)} points ({direction}; the last epoch "
                f"by {optimism['last'].format(1, sign=True)})"
            )
        bias = " and ".join(
            f"{pool.bias['published'].format(1, sign=True)} ({_count_heads(pool.heads)}, "
            f"{pool.runs} runs)"
            for pool in self.select_pools(ASKED)
        )
        return (
            f"The published rule lifts {shown} above validation selection by "
            f"{' and '.join(parts)}. Choosing on the test set by itself adds {bias}. "
            f"{self._describe_gap()}{len(self.seeds)} seeds, n = {self.n['test']}: one accuracy "
            f"has a standard error of {self._span_errors()}. {self._describe_leaks()}"
        )

    def _span_errors(self) -> str:
        errors = [cell.error for cell in self.cells]
        return f"{min(errors):.1f} to {max(errors):.1f}"

    def _describe_gap(self) -> str:
        if "fdcmkd" not in self.methods:
            return ""
        gaps = {d: self.compare(d, "fdcmkd", "none").added["all"] for d in self.directions}
        return f"The rule adds to fdcmkd - none: {_print(gaps)}. "

    def _describe_leaks(self) -> str:
        if not self.leaks:
            return "The data set has no ids, so leakage cannot be seen."
        if not any(leak.seen for leak in self.leaks):
            kinds = " or ".join(leak.kind for leak in self.leaks)
            return f"No test sample's {kinds} occurs in training."
        shares = [f"{leak.kind} {100 * leak.seen / leak.n:.0f} %" for leak in self.leaks]
        return f"Test samples whose id occurs in training: {', '.join(shares)}."

    def claims(self) -> list[Claim]:
        found = [self._claim_favour()] if "fdcmkd" in self.methods else []
        return [*found, self._claim_bias(), self._claim_order()]

    def _claim_favour(self) -> Claim:
        gaps = {d: self.compare(d, "fdcmkd", "none").added for d in self.directions}
        added = {d: gap["all"] for d, gap in gaps.items()}
        found = list(added.values())
        control = "heads_only, which has as many heads, was not run"
        if "heads_only" in self.methods:
            same = {d: self.compare(d, "fdcmkd", "heads_only").added for d in self.directions}
            control = "to fdcmkd beyond heads_only, which has as many heads: "
            control += _print({d: gap["all"] for d, gap in same.items()})
        return Claim(
            statement="Best epoch and best of three heads on the test set favours no method",
            where="released code",
            paper="used for every FD-CMKD number",
            ours=(
                f"the rule adds to fdcmkd beyond what it adds to none: {_print(added)}; of it the "
                f"choice among heads: {_print({d: gap['heads'] for d, gap in gaps.items()})}"
            ),
            control=control,
            verdict=_weigh(found),
            why=f"{WEIGHED} in every direction",
        )

    def _claim_bias(self) -> Claim:
        pools = self.select_pools(ASKED)
        bias = {_count_heads(pool.heads): pool.bias["published"] for pool in pools}
        optimism = {_count_heads(p.heads): p.optimism["published"] for p in pools}
        last = {_count_heads(pool.heads): pool.optimism["last"] for pool in pools}
        most = "; ".join(f"{_count_heads(p.heads)} {p.ceiling:+.1f}" for p in pools)
        return Claim(
            statement="The published rule is an unbiased reading",
            where="released code",
            paper="used for every FD-CMKD number",
            ours=(
                f"choosing on test adds {_print(bias)} ({sum(p.runs for p in pools)} runs); "
                f"published minus validation-selected: {_print(optimism)}"
            ),
            control=(
                f"the last epoch, where nothing is chosen, minus validation-selected: "
                f"{_print(last)}; the most that chance could add: {most}"
            ),
            verdict=_weigh(list(bias.values())),
            why=(
                f"{WEIGHED} for every number of heads; judged by the bias, since a maximum over "
                "readings cannot lie below one of them"
            ),
        )

    def _claim_order(self) -> Claim:
        flips = {rule: self.find_flips(rule) for rule in READINGS if rule != "validation"}
        every = [flip for found in flips.values() for flip in found]
        total = len(self.pairs) * len(self.directions)
        listed = "; ".join(f"{r} {len(found)}{_name_flips(found)}" for r, found in flips.items())
        verdict = REFUTED if any(flip[-1] for flip in every) else OPEN if every else SUPPORTED
        return Claim(
            statement="The order of the methods does not depend on the rule",
            where="Table 2, read by the released code's rule",
            paper="one rule",
            ours=(
                f"of {total} pairs, those whose order differs from validation selection's, by "
                f"rule: {listed}"
            ),
            control=(
                f"one seed alone instead of {len(self.seeds)}, validation selection: "
                f"{self.count_seed_flips():.1f} of {total} pairs differ"
            ),
            verdict=verdict if len(self.seeds) > 1 else OPEN,
            why=(
                "differs where a pair's order turns and both intervals over seeds exclude 0; "
                "agrees where no pair's means turn; open where only undecided pairs do, or "
                f"with one seed; {FAIR}: best epoch and head on validation"
            ),
        )


def _weigh(found: list[Estimate]) -> str:
    """Verdict on "nothing is added"."""
    if all(e.excludes(0) and e.mean > 0 for e in found):
        return REFUTED
    fair = all(e.known and max(abs(e.low), abs(e.high)) < MARGIN for e in found)
    return SUPPORTED if fair else OPEN


def configure_audit(
    plan: Plan, methods: list[str] | str, directions: list[str] | str | None = None
) -> dict[tuple[str, str, int], RunConfig]:
    """(direction, method, seed) → the runs that are read one by one.

    Those of the comparison where all of them are on disk; else, at a preset that is short, those
    that the ablation trains anyway, so that the audit never trains a table for itself.
    """
    configs = configure_methods(plan, methods, directions)
    asked = read_list("directions", directions, str)
    few = find_preset(plan.preset).fewer.get("ablation", plan.seeds)
    if asked or len(few) >= len(plan.seeds) or not find_missing(configs.values()):
        return configs
    ways = [str(way) for way in plan.choose_directions()[:1]]
    return configure_methods(replace(plan, seeds=few), methods, ways)


def audit_protocol(
    plan: Plan, *, methods: list[str] | str, directions: list[str] | str | None = None
) -> Protocol:
    """Read the logs of every method × direction × seed by every rule, and look into the split.

    Runs are found; one that is missing is trained.
    """
    configs = configure_audit(plan, methods, directions)
    runs = [run.record for run in ensure_runs(configs.values(), device=plan.device)]
    records = dict(zip(configs, runs, strict=True))
    ways, methods, seeds = (list(dict.fromkeys(key[i] for key in configs)) for i in range(3))
    store = plan.open_store()
    logged = [ways[0], "fdcmkd" if "fdcmkd" in methods else methods[-1]]
    return Protocol(
        dataset=plan.dataset,
        preset=plan.preset,
        n=runs[0].n,
        seeds=seeds,
        cells=read_cells(records),
        pools=pool_runs(ASKED, runs) + pool_runs(FOUND, find_alike(plan, store)),
        leaks=find_leaks(store.ids, np.array(store.split)),
        logs=[open_log(records[*logged, seed]) for seed in seeds],
        logged=logged,
        runs=sorted({run.fingerprint for run in runs}),
    )


def open_log(record: RunRecord) -> Log:
    """The accuracies of a record's curves, in percent."""
    names = [name.split("/")[1] for name in record.curves if name.startswith("test/")]
    heads = sorted(names, key=lambda head: head != "raw")
    validation, test = (
        100 * np.array([record.curves[f"{split}/{head}"] for head in heads], dtype=float)
        for split in ("validation", "test")
    )
    return Log(heads, validation, test)


def read_cells(records: dict[tuple[str, str, int], RunRecord]) -> list[Cell]:
    """(direction, method, seed) → record, `none` among the methods of every direction: cells."""
    logs: dict[tuple[str, str], list[Log]] = {}
    for (direction, method, _), record in records.items():
        logs.setdefault((direction, method), []).append(open_log(record))
    n = next(iter(records.values())).n["test"]

    def measure_error(direction: str, method: str) -> float:
        """Of one accuracy, in points."""
        values = [log.read("validation") / 100 for log in logs[direction, method]]
        return 100 * find_error(float(np.mean(values)), n)

    cells = []
    for (direction, method), own in logs.items():
        values = {rule: np.array([log.read(rule) for log in own]) for rule in READINGS}
        error = measure_error(direction, method)
        cells.append(
            Cell(
                direction=direction,
                method=method,
                heads=len(own[0].heads),
                epochs=own[0].test.shape[1],
                values=values,
                accuracy={rule: average_seeds(found) for rule, found in values.items()},
                optimism={
                    rule: average_seeds(found - values["validation"])
                    for rule, found in values.items()
                    if rule != "validation"
                },
                bias={
                    rule: average_seeds([log.measure_bias(rule) for log in own]) for rule in ON_TEST
                },
                ceiling={
                    rule: float(np.mean([log.measure_ceiling(rule, n) for log in own]))
                    for rule in ON_TEST
                },
                error=error,
                error_gap=float(np.hypot(error, measure_error(direction, "none"))),
            )
        )
    return cells


def find_error(p: float, n: int) -> float:
    """Standard error sqrt(p (1 - p) / n) of a share p of n independent samples."""
    return float(np.sqrt(p * (1 - p) / n))


def expect_surplus(p: float, n: int, cells: int) -> float:
    """E[max of `cells` independent Binomial(n, p) / n] - p, exactly.

    What taking the best of equally good readings adds if each were read on n fresh samples:
    E[max] = Σ_{k<n} (1 - F(k)^cells) / n with F the binomial's distribution function. It is a
    ceiling for readings of one run: all share their test samples and most of their answers, and
    of positively correlated equals the maximum is smaller (Slepian, 1962, for normal variables);
    and where some readings are truly worse, they win less often.
    """
    below = binom.cdf(np.arange(n), n, p)
    return float(np.sum(1 - below**cells) / n - p)


def find_alike(plan: Plan, store: Store) -> list[RunRecord]:
    """Every undamaged run on disk with the plan's data, width and recipe, from its own start."""
    found = [record for _, record, _ in list_runs() if record is not None]
    return [
        record
        for record in found
        if record.data == store.digest
        and record.config.width == plan.width
        and record.config.train == plan.find_recipe(record.config.student, record.config.network)
        and not record.config.weights
    ]


def pool_runs(name: str, records: list[RunRecord]) -> list[Pool]:
    """One `Pool` per number of heads; a run that is given twice counts once."""
    once = {record.fingerprint: record for record in records}
    groups: dict[int, list[RunRecord]] = {}
    for record in once.values():
        groups.setdefault(len(open_log(record).heads), []).append(record)
    return [_pool(name, heads, groups[heads]) for heads in sorted(groups)]


def _pool(name: str, heads: int, records: list[RunRecord]) -> Pool:
    logs = [open_log(record) for record in records]
    seeds = np.array([record.config.seed for record in records])

    def average(values: list[float]) -> Estimate:
        values = np.array(values)
        return average_seeds([values[seeds == seed].mean() for seed in np.unique(seeds)])

    return Pool(
        name=name,
        heads=heads,
        runs=len(records),
        optimism={
            rule: average([log.read(rule) - log.read("validation") for log in logs])
            for rule in READINGS
            if rule != "validation"
        },
        bias={rule: average([log.measure_bias(rule) for log in logs]) for rule in ON_TEST},
        ceiling=float(
            np.mean(
                [
                    log.measure_ceiling("published", record.n["test"])
                    for log, record in zip(logs, records, strict=True)
                ]
            )
        ),
    )


def find_leaks(ids: dict[str, list[str]], split: np.ndarray) -> list[Leak]:
    """One `Leak` per kind of id; two kinds together where each leaks by itself.

    ids: kind → one value per sample. split: (N,), 0 train, 1 validation, 2 test.
    """
    alone = [_find_leak(kind, values, split) for kind, values in ids.items()]
    leaky = [leak.kind for leak in alone if leak.shared]
    both = [
        _find_leak(f"{a} x {b}", list(zip(ids[a], ids[b], strict=True)), split)
        for a, b in combinations(leaky, 2)
    ]
    return alone + both


def _find_leak(kind: str, values: list, split: np.ndarray) -> Leak:
    train, _, test = collect_values(values, split)
    own = [value for value, s in zip(values, split, strict=True) if s == 2]
    counts = np.array(list(Counter(values).values()))
    # A test sample's other copies are drawn with the rest of the samples; unseen: none in train.
    unseen = hypergeom.pmf(0, len(values) - 1, counts - 1, int((split == 0).sum()))
    return Leak(
        kind=kind,
        train=len(train),
        test=len(test),
        shared=len(train & test),
        seen=sum(value in train for value in own),
        n=len(own),
        chance=float(1 - counts @ unseen / len(values)),
    )


def _count_late(epochs: int) -> int:
    """The last quarter, at least one."""
    return -(-epochs // 4)


def _count_heads(heads: int) -> str:
    return f"{heads} head{'s' if heads > 1 else ''}"


def _print(found: dict[str, Estimate]) -> str:
    return "; ".join(f"{name} {e.format(1, sign=True)}" for name, e in found.items())


def _turn(one: float, two: float) -> bool:
    """Whether two differences have opposite signs, neither being 0."""
    return round(one, DIGITS) * round(two, DIGITS) < 0


def _name_flips(flips: list[tuple[str, str, str, bool]]) -> str:
    if not flips:
        return ""
    named = [f"{one}/{two} ({d}{', decided' if sure else ''})" for d, one, two, sure in flips]
    return f" ({'; '.join(named)})"

"""Does training in bf16 change where a run ends, beyond what another seed changes?

Two runs under one seed that differ in rounding alone part ways: every step magnifies the last one's
difference. So a difference between bf16 and float32 says little until it stands beside the spread
of float32 over seeds, and beside float32 runs whose sums are merely taken in another order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fdlab.core.config import RunConfig
from fdlab.core.device import choose_device, count_threads, measure
from fdlab.core.estimate import Estimate
from fdlab.core.progress import track
from fdlab.core.workers import run_side_by_side
from fdlab.data.paired import PairedData
from fdlab.data.store import prepare
from fdlab.studies.comparison import configure_methods
from fdlab.studies.contrast import Contrast, contrast_answers
from fdlab.studies.plan import Plan
from fdlab.studies.stats import (
    average_seeds,
    count_seeds,
    count_seeds_within,
    estimate_deviation,
)
from fdlab.training.ensure import load_teacher
from fdlab.training.evaluate import judge_samples
from fdlab.training.fast import Fast, choose_fast
from fdlab.training.loop import Trained, train
from fdlab.training.pool import ensure_runs
from fdlab.training.runs import Run, complete, find_run_task, find_teacher

QUESTION = "Does training in bf16 change where a run ends, beyond what another seed changes?"
WITHIN, BEYOND, OPEN = "within", "beyond", "inconclusive"
PLAIN, CHANGED = "float32", "bf16"
PRECISIONS = (PLAIN, CHANGED)
MOMENTS = ("validation", "last")


@dataclass(frozen=True)
class Outcome:
    """What one training says on the test split.

    answers: moment → (n,) scores of the samples (`judge_samples`). loss: (E,) sum of the loss
    terms, mean over the samples of each epoch. seconds: of training it.
    """

    answers: dict[str, np.ndarray]
    loss: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Change:
    """Another arithmetic minus plain float32, paired by seed and by sample.

    accuracy: (S,) percent at the best validation epoch. gap: the difference there in points, last:
    at the last epoch. deviation: of `gap` over seeds. loss: (S, E) training loss. verdict: by
    `decide`. needed: seeds that would decide it, see `count_needed`. same: whether every loss is
    bit for bit float32's, so that nothing was changed.
    """

    accuracy: np.ndarray
    gap: Contrast
    last: Contrast
    deviation: float
    loss: np.ndarray
    verdict: str
    needed: int
    same: bool


@dataclass(frozen=True)
class Ending:
    """One method: where it ends in float32, and under each change of the arithmetic.

    accuracy: (S,) percent in float32. spread: its standard deviation over seeds, in points. loss:
    (S, E) training loss. reordered: float32 with its sums in another order, None where it was left
    out. seconds: of a run in bf16 over one in float32, geometric mean over seeds.
    """

    direction: str
    method: str
    accuracy: np.ndarray
    spread: Estimate
    loss: np.ndarray
    bf16: Change
    reordered: Change | None
    seconds: Estimate

    @property
    def changes(self) -> dict[str, Change]:
        """In the order in which they are shown."""
        found = {CHANGED: self.bf16}
        return found | ({"reordered": self.reordered} if self.reordered else {})

    def compare_losses(self) -> dict[str, np.ndarray]:
        """Relative difference of the training loss to float32's under the same seed, (S, E)."""
        return {name: change.loss / self.loss - 1 for name, change in self.changes.items()}

    def compare_seeds(self) -> np.ndarray:
        """(E,) relative difference of the loss between two float32 seeds, root of the mean square
        over all pairs of them; nan with one seed."""
        if len(self.loss) < 2:
            return np.full(self.loss.shape[1], np.nan)
        return np.sqrt(2) * self.loss.std(axis=0, ddof=1) / self.loss.mean(axis=0)

    def compare_first(self, name: str = CHANGED) -> Estimate:
        """Relative difference of the first epoch's loss to float32's, in percent, over seeds."""
        return average_seeds(100 * self.compare_losses()[name][:, 0])


@dataclass(frozen=True)
class Precision:
    dataset: str
    preset: str
    metric: str
    n: int
    seeds: list[int]
    device: str
    endings: list[Ending]
    runs: list[str]

    def finding(self) -> str:
        parts = []
        for ending in self.endings:
            change = ending.bf16
            text = (
                f"{ending.method} {change.gap.seeds.format(1, sign=True)} against a spread of "
                f"{ending.spread.format(1)} over float32's seeds: {change.verdict}"
            )
            if change.verdict == OPEN:
                text += f" ({describe_needed(change.needed)})"
            if ending.reordered is not None and ending.reordered.same:
                text += "; another order of float32's sums changes no bit"
            elif ending.reordered is not None:
                text += (
                    f"; float32 with its sums in another order "
                    f"{ending.reordered.gap.seeds.format(1, sign=True)}: {ending.reordered.verdict}"
                )
            parts.append(text)
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        losses = ", ".join(e.compare_first().format(1, sign=True) for e in self.endings)
        ratio = ", ".join(f"{e.seconds.mean:.2g}" for e in self.endings)
        slower = all(e.seconds.mean > 1 for e in self.endings)
        why = "; it is slower where a device has no units for it" if slower else ""
        return (
            f"{self.endings[0].direction}, {seeds}, n = {self.n}, bf16 minus float32 in points: "
            f"{'. '.join(parts)}. The first epoch's loss differs by {losses} %. Seconds of a run "
            f"in bf16 over one in float32: {ratio} on {self.device}{why}."
        )

    def claims(self) -> list:
        return []  # the paper trains in float32 and says nothing of bf16


def describe_needed(count: int) -> str:
    """
    >>> describe_needed(12)
    'about 12 seeds would decide'
    """
    return f"about {count} seeds would decide" if count else "one seed decides nothing"


def configure_precision(
    plan: Plan, methods: list[str] | str, direction: str = ""
) -> dict[tuple[str, str, int], RunConfig]:
    """(precision, method, seed) → its run; `none` is always among the methods, and a teacher has
    its student's precision."""
    way = str(plan.choose_way(direction))
    return {
        (precision, method, seed): config
        for precision in PRECISIONS
        for (_, method, seed), config in configure_methods(
            set_precision(plan, precision), methods, [way]
        ).items()
    }


def set_precision(plan: Plan, precision: str) -> Plan:
    """The same plan with every recipe in one precision."""
    recipes = {m: replace(recipe, precision=precision) for m, recipe in plan.recipes.items()}
    return replace(plan, train=replace(plan.train, precision=precision), recipes=recipes)


def compare_precisions(
    plan: Plan, *, methods: list[str] | str, direction: str = "", control: bool = True
) -> Precision:
    """Train or find every run in float32 and in bf16 and compare them under the same seeds.

    control: also train every float32 run, its teacher too, with its sums in another order. Those
    are not kept as runs, whose fingerprint says nothing of the order, but in the result alone.
    """
    configs = configure_precision(plan, methods, direction)
    runs = dict(zip(configs, ensure_runs(configs.values(), device=plan.device), strict=True))
    store = plan.open_store()
    labels = np.array(store.labels[store.rows("test")])
    found = {key: read_outcome(run, labels) for key, run in runs.items()}
    names = list(dict.fromkeys(method for _, method, _ in configs))
    if control:
        work = [([configs[PLAIN, m, seed] for m in names], plan.device) for seed in plan.seeds]
        rows = run_side_by_side([(train_reordered, task) for task in work])
        for seed, row in zip(plan.seeds, rows, strict=True):
            found |= {("reordered", m, seed): o for m, o in zip(names, row, strict=True)}
    way = str(plan.choose_way(direction))
    return Precision(
        dataset=plan.dataset,
        preset=plan.preset,
        metric=plan.definition.metric,
        n=len(labels),
        seeds=list(plan.seeds),
        device=", ".join(sorted({run.record.device for run in runs.values()})),
        endings=[
            summarise(
                way,
                name,
                *(
                    [found[kind, name, seed] for seed in plan.seeds if (kind, name, seed) in found]
                    for kind in (*PRECISIONS, "reordered")
                ),
            )
            for name in names
        ],
        runs=sorted({run.record.fingerprint for run in runs.values()}),
    )


def read_outcome(run: Run, labels: np.ndarray) -> Outcome:
    answers = {moment: run.judge(labels, moment=moment) for moment in MOMENTS}
    return Outcome(answers, sum_losses(run.record.curves), run.record.seconds)


def sum_losses(curves: dict[str, list[float]]) -> np.ndarray:
    """(E,) sum of a run's loss terms."""
    return np.sum([v for name, v in curves.items() if name.startswith("loss/")], axis=0)


def summarise(
    direction: str,
    method: str,
    plain: list[Outcome],
    bf16: list[Outcome],
    reordered: list[Outcome] | None = None,
) -> Ending:
    """Outcomes under the same seeds, in their order; without `reordered` there is no control."""
    accuracy = _find_accuracy(plain)
    spread = estimate_deviation(accuracy)
    ratios = [np.log(b.seconds / a.seconds) for a, b in zip(plain, bf16, strict=True)]
    ratio = average_seeds(ratios)
    return Ending(
        direction=direction,
        method=method,
        accuracy=accuracy,
        spread=spread,
        loss=np.stack([outcome.loss for outcome in plain]),
        bf16=_compare(plain, bf16, spread.mean),
        reordered=_compare(plain, reordered, spread.mean) if reordered else None,
        seconds=Estimate(*np.exp([ratio.mean, ratio.low, ratio.high]).tolist(), ratio.n),
    )


def _find_accuracy(outcomes: list[Outcome]) -> np.ndarray:
    return np.array([100 * outcome.answers["validation"].mean() for outcome in outcomes])


def _compare(plain: list[Outcome], other: list[Outcome], margin: float) -> Change:
    gap, last = (
        contrast_answers(*(np.stack([o.answers[moment] for o in side]) for side in (other, plain)))
        for moment in MOMENTS
    )
    accuracy = _find_accuracy(other)
    gaps = accuracy - _find_accuracy(plain)
    deviation = float(gaps.std(ddof=1)) if len(gaps) > 1 else np.nan
    losses = [np.stack([outcome.loss for outcome in side]) for side in (other, plain)]
    return Change(
        accuracy=accuracy,
        gap=gap,
        last=last,
        deviation=deviation,
        loss=losses[0],
        verdict=decide([gap.seeds, gap.both], margin),
        needed=count_needed(gap.seeds.mean, deviation, margin),
        same=bool(np.array_equal(*losses)),
    )


def decide(intervals: Iterable[Estimate], margin: float) -> str:
    """The verdict on a difference, in points, of which there are 95 % intervals.

    margin: the standard deviation over float32's seeds. "within" where every interval lies inside
    ±margin: equivalence is shown, and not merely no difference found (two one-sided tests at 2.5 %
    each; Schuirmann, 1987, has 5 %). "beyond" where every one lies outside it, on one side.
    "inconclusive" otherwise, and with one seed.
    """
    intervals = list(intervals)
    if not (np.isfinite(margin) and all(found.known for found in intervals)):
        return OPEN
    if all(-margin <= found.low and found.high <= margin for found in intervals):
        return WITHIN
    above = all(found.low > margin for found in intervals)
    below = all(found.high < -margin for found in intervals)
    return BEYOND if above or below else OPEN


def count_needed(mean: float, deviation: float, margin: float) -> int:
    """Seeds that would decide with 80 % power; 0 where one seed tells nothing of it.

    A mean difference inside the margin: seeds for "within" if there is truly none. Outside it:
    seeds for "beyond" if it is truly what was found.
    """
    if not np.isfinite(deviation):
        return 0
    if abs(mean) <= margin:
        return count_seeds_within(deviation, margin)
    return count_seeds(deviation, abs(mean) - margin)


def reorder(fast: Fast) -> Fast:
    """The same computation with its floating-point sums in another order: the other layout in
    memory, which takes other convolutions, and the other form of the optimiser's update."""
    return replace(fast, channels_last=not fast.channels_last, fused=not fast.fused)


def train_reordered(configs: list[RunConfig], device: str = "auto") -> list[Outcome]:
    """Train runs and their teachers with their sums in another order; nothing is kept on disk."""
    place = choose_device(device)
    if place.type == "cpu":
        torch.set_num_threads(count_threads())  # as every run
    configs = [complete(config) for config in configs]
    first = configs[0]
    store = prepare(first.dataset, first.data_options)
    sides = dict.fromkeys(side for c in configs for side in (c.student, c.teacher) if side)
    fast = choose_fast(place, first.train)
    task, side = find_run_task(first), first.train.side
    data = PairedData.load(store, list(sides), place, side, fast.resident, task)
    labels = np.array(store.labels[store.rows("test")])
    trained: dict[str, Trained] = {}
    outcomes = []
    for config in configs:
        with measure(place) as cost:
            found = _train_chain(config, data, trained)
        answers = {
            moment: judge_samples(found.predictions[f"{moment}/test/raw"].cpu().numpy(), labels)
            for moment in MOMENTS
        }
        outcomes.append(Outcome(answers, sum_losses(found.curves), cost.seconds))
    return outcomes


def _train_chain(config: RunConfig, data: PairedData, trained: dict[str, Trained]) -> Trained:
    """Train a run after its teacher, each once."""
    key = repr(config)
    if key in trained:
        return trained[key]
    fast = reorder(choose_fast(data.device, config.train))
    model, _ = load_teacher(config, data, fast)  # the run on disk, whose weights are replaced
    if teacher := find_teacher(config):
        weights = _train_chain(teacher, data, trained).weights["validation"]
        own = {
            k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")
        }
        model.load_state_dict(own)
    with track(f"{config.label} reordered", config.train.epochs) as report:
        trained[key] = train(config, data, model, data.device, report, fast)
    return trained[key]

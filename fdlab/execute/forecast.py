"""What a suite would train: the runs that each notebook needs, those that exist, the time left.

And what the paper's main table would take on the devices that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fdlab.core import paths
from fdlab.core.config import RunConfig
from fdlab.core.device import (
    choose_device,
    count_threads,
    count_workers,
    describe_device,
    measure,
)
from fdlab.data.paired import PairedData
from fdlab.data.store import find_dataset, find_store, prepare
from fdlab.execute.ledger import stem_of
from fdlab.execute.parameters import read_parameters
from fdlab.execute.suite import SuiteRun
from fdlab.models.build import build_model, place
from fdlab.studies.ablation import configure_ablation
from fdlab.studies.banks import configure_unimodal
from fdlab.studies.comparison import configure_comparison
from fdlab.studies.distillation import configure_run
from fdlab.studies.embedding import configure_embedding
from fdlab.studies.gradients import configure_probes
from fdlab.studies.heterogeneous import configure_heterogeneous
from fdlab.studies.infrared import configure_infrared
from fdlab.studies.logits import configure_logits
from fdlab.studies.methods import configure_survey
from fdlab.studies.plan import Plan, make_plan
from fdlab.studies.precision import configure_precision
from fdlab.studies.projection import DATA, INPUTS, find_block, find_rate, project
from fdlab.studies.protocol import configure_audit
from fdlab.studies.segmentation import configure_segmentation
from fdlab.studies.sensitivity import configure_grid
from fdlab.studies.similarity import configure_similarity
from fdlab.studies.spectrum import configure_spectrum
from fdlab.studies.timings import COMMAND, Timing, read_timings
from fdlab.studies.zoo import configure_zoo
from fdlab.training.evaluate import JUDGED
from fdlab.training.fast import choose_fast
from fdlab.training.pool import find_missing
from fdlab.training.runs import complete, find_name, find_run_task, find_waves, list_runs

Needs = Callable[[Plan, dict[str, Any]], Iterable[RunConfig]]

# Study → its runs, from the same functions that the studies themselves train by.
NEEDS: dict[str, Needs] = {
    "similarity": lambda plan, p: configure_similarity(plan),
    "scale": lambda plan, p: configure_unimodal(plan).values(),
    "gradients": lambda plan, p: [
        *configure_unimodal(plan).values(),
        *(c for g in configure_probes(plan, p["direction"], p["probes"], p["runs"]).values()
          for c in g),
    ],
    "distillation": lambda plan, p: configure_run(plan, p["direction"], p["method"], p["seed"]),
    "comparison": lambda plan, p: configure_comparison(
        plan, p["methods"], p["directions"], p["hyperparameters"], p["trials"]),
    "methods": lambda plan, p: configure_survey(
        plan, p["methods"], p["directions"], p["hyperparameters"], p["trials"]),
    "embedding": lambda plan, p: configure_embedding(plan, p["direction"], p["methods"]).values(),
    "segmentation": lambda plan, p: configure_segmentation(
        plan, p["methods"], p["directions"]).values(),
    "ablation": lambda plan, p: configure_ablation(plan, p["tables"], p["directions"]).values(),
    "sensitivity": lambda plan, p: configure_grid(plan, p["weights"], p["directions"]).values(),
    "precision": lambda plan, p: configure_precision(plan, p["methods"], p["direction"]).values(),
    "logits": lambda plan, p: configure_logits(
        plan, p["pairs"], p["base"], p["orders"], p["alphas"], p["betas"]).values(),
    "zoo": lambda plan, p: configure_zoo(
        plan, p["methods"], p["pairs"], p["bases"], p["controls"]).values(),
    "spectrum": lambda plan, p: configure_spectrum(plan, p["direction"], p["network"]).values(),
    "infrared": lambda plan, p: configure_infrared(
        plan, network=p["network"], student=p["student"], arms=p["arms"], cutoffs=p["cutoffs"],
        anchor=p["anchor"], epochs=p["epochs"]).values(),
    "heterogeneous": lambda plan, p: configure_heterogeneous(
        plan, p["pairs"], p["arms"], p["epochs"], p["every"]).values(),
    "protocol": lambda plan, p: configure_audit(plan, p["methods"], p["directions"]).values(),
}  # fmt: skip
TIMED_STEPS = 5
PLANNED = ("seeds", "epochs", "width", "device")


@dataclass(frozen=True)
class Forecast:
    """needed: notebook → its runs, teachers included, by fingerprint. missing: those of all
    notebooks that are not on disk. seconds: estimated for them, nan where there is no data yet;
    basis: what the estimate rests on."""

    needed: dict[str, list[str]]
    missing: dict[str, RunConfig]
    seconds: float
    basis: str

    def describe(self) -> list[str]:
        """One line per notebook and one in sum; a run that several notebooks share counts for the
        first of them."""
        lines, seen = [], set()
        for notebook, names in self.needed.items():
            fresh = [name for name in names if name not in seen]
            seen.update(names)
            left = sum(name in self.missing for name in fresh)
            shared = len(names) - len(fresh)
            also = f", {shared} of them shared with those above" if shared else ""
            lines.append(f"{notebook:16s} {len(names):4d} runs{also}; {left} to train")
        total = len(seen)
        time = "unknown" if np.isnan(self.seconds) else _describe_seconds(self.seconds)
        lines.append(
            f"{'in all':16s} {total:4d} runs, {total - len(self.missing)} exist, "
            f"{len(self.missing)} to train; time left for training: {time} ({self.basis})"
        )
        return lines


def forecast(suite: SuiteRun) -> Forecast:
    """Count and estimate; nothing is trained, and no data set is built."""
    definition = find_dataset(suite.dataset)
    plan = make_plan(suite.dataset, suite.preset)
    if find_store(suite.dataset, plan.data_options) is None and not definition.is_features:
        basis = f"the data set comes first: fdlab data prepare {suite.dataset}"
        return Forecast({name: [] for name in suite.notebooks}, {}, np.nan, basis)
    needed, kept = {}, {}
    for notebook in suite.notebooks:
        names = {find_name(config): config for config in _list_needs(notebook, suite)}
        needed[notebook] = list(names)
        kept |= names
    missing = find_missing(kept.values())
    seconds, basis = estimate_seconds(missing.values())
    return Forecast(needed, missing, seconds, basis)


def _list_needs(notebook: str, suite: SuiteRun) -> list[RunConfig]:
    """Completed configurations of a notebook's runs and of their teachers."""
    stem = stem_of(notebook)
    if stem not in NEEDS or find_dataset(suite.dataset).is_features:
        return []
    own = read_parameters(paths.notebooks() / f"{notebook}.ipynb")
    values = {name: p.default for name, p in own.items()} | {
        name: value for name, value in suite.values.items() if name in own
    }
    plan = make_plan(
        suite.dataset, suite.preset, study=stem, **{k: values[k] for k in PLANNED if k in values}
    )
    configs = [complete(config) for config in NEEDS[stem](plan, values)]
    return [config for wave in find_waves(configs) for config in wave]


def describe_projections() -> list[str]:
    """The projected time of Table 2's CREMA-D block, a line per device that was measured at its
    shapes, or one that names the command; and one per file that cannot be read."""
    timings, notes = read_timings(paths.benchmarks())
    block = find_block()
    head = f"Table 2, CREMA-D ({block.describe()}, n = {block.samples:,})"
    lines = []
    for found in filter(None, map(project, timings)):
        names = found.assumed
        which = (
            ", ".join(names) if len(names) < 4 else f"{len(names)} of {len(block.methods)} methods"
        )
        mean = f"; {which} at the mean of the others" if names else ""
        time = _describe_seconds(found.seconds)
        lines.append(f"{head}: {time} on {found.device} (rates of {found.measured}{mean})")
    ask = f"`{COMMAND} --shapes {DATA} --methods` measures one"
    lines = lines or [f"{head}: no device was measured at its shapes; {ask}"]
    return lines + notes


def estimate_seconds(configs: Iterable[RunConfig]) -> tuple[float, str]:
    """Seconds that training these would take here, and what that rests on.

    From the finished runs on this machine's device: seconds per epoch of those with the same data
    set, width, batch and student, the same method before any other. Where there are none, the rate
    that the benchmark measured on a device of this name at the data set's shapes, width and batch;
    else a few steps of the student's network are timed. Divided by the workers.
    """
    configs = list(configs)
    if not configs:
        return 0.0, "nothing to train"
    device = choose_device("auto")
    records = [r for _, r, _ in list_runs() if r is not None]
    records = [r for r in records if r.device == describe_device(device)]
    timings = [
        t for t in read_timings(paths.benchmarks())[0] if t.device == describe_device(device)
    ]
    total, timed, used = 0.0, {}, []
    for config in configs:
        kind = _describe_kind(config, device)
        alike = [r for r in records if _describe_kind(r.config, device) == kind]
        alike = [r for r in alike if r.config.method == config.method] or alike
        usual = kind == _describe_kind(_forget_precision(config), device)
        rates = timings if usual else []  # the benchmark's, in the device's own precision
        if alike:
            epoch = float(np.median([r.seconds / r.config.train.epochs for r in alike]))
            used.append("from finished runs here")
        elif measured := next(filter(None, (_look_up_epoch(config, t) for t in rates)), None):
            epoch, date = measured
            used.append(f"from rates measured on {date}")
        else:
            if kind not in timed:
                timed[kind] = _time_epoch(config, device)
            epoch = timed[kind]
            used.append("from some steps timed now")
        total += config.train.epochs * epoch
    workers = count_workers()
    basis = " and ".join(dict.fromkeys(used))
    return total / workers, f"{basis}, {workers} side by side"


def _describe_kind(config: RunConfig, device: torch.device) -> tuple:
    """Runs that take about as long an epoch; bf16 is another kind, slow where it is emulated."""
    bf16 = choose_fast(device, config.train).bf16
    size = config.width, config.train.batch_size, config.networks
    return config.dataset, config.student, *size, bf16


def _forget_precision(config: RunConfig) -> RunConfig:
    return replace(config, train=replace(config.train, precision="auto"))


def _look_up_epoch(config: RunConfig, timing: Timing) -> tuple[float, str] | None:
    """Seconds of one epoch at a measured rate, and its date; None where the device's file has no
    such data set, width, batch and networks, or no such student."""
    shape = timing.shapes.get(config.dataset)
    student = INPUTS.get(config.student, config.student)
    if shape is None or student not in shape.inputs or config.networks:
        return None
    if (shape.width, shape.batch) != (config.width, config.train.batch_size):
        return None
    rate = find_rate(shape, config.method, student)
    if rate is None:
        return None
    counts = prepare(config.dataset, config.data_options).manifest["counts"]
    return counts["train"] * rate, timing.measured


def _time_epoch(config: RunConfig, device: torch.device) -> float:
    """Seconds of one epoch: the student's steps, a teacher's forward passes, the evaluation."""
    store = prepare(config.dataset, config.data_options)
    task = find_run_task(config)
    data = PairedData.load(store, [config.student], device, config.train.side, task=task)
    model = place(
        build_model(store, config.student, width=config.width, seed=0, network=config.network),
        device,
    )
    batch = data.batch(config.student, data.rows["train"][: config.train.batch_size])
    torch.set_num_threads(count_threads())

    fast = choose_fast(device, config.train)

    def forward() -> torch.Tensor:
        with fast.autocast(device):
            return model(batch).logits.float().sum()

    seconds = []
    for work in (lambda: forward().backward(), torch.no_grad()(forward)):
        work()
        with measure(device) as cost:
            for _ in range(TIMED_STEPS):
                work()
        seconds.append(cost.seconds / TIMED_STEPS / len(batch))
    train, judged = (sum(len(data.rows[s]) for s in splits) for splits in (("train",), JUDGED))
    return train * sum(seconds) + judged * seconds[1]


def _describe_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

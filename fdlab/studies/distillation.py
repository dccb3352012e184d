"""What happens in one distillation run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fdlab.core.config import RunConfig
from fdlab.core.records import RunRecord
from fdlab.methods import METHODS
from fdlab.studies.claims import OPEN, REFUTED, SUPPORTED, Claim, describe_n
from fdlab.studies.plan import Plan
from fdlab.training.pool import ensure_runs

QUESTION = "How does one student learn, and how much of its loss is the teacher's?"
FELT = 0.05  # a part of the loss below this is called small


@dataclass(frozen=True)
class Distillation:
    """One run beside the unimodal run of its student's modality and its teacher's own run.

    curves: of the run's record. unimodal: validation and test score per epoch without a teacher.
    scores: rule → [score, epoch] of the run; teacher: its validation-selected test score. metric:
    what a score is.
    """

    dataset: str
    preset: str
    metric: str
    direction: str
    method: str
    seed: int
    n: dict[str, int]
    classes: int
    curves: dict[str, np.ndarray]
    unimodal: dict[str, np.ndarray]
    scores: dict[str, list[float]]
    heads: dict[str, str]
    teacher: float
    parameters: dict[str, int]
    fingerprint: str
    seconds: float
    device: str
    compares: list[str]

    @property
    def terms(self) -> dict[str, np.ndarray]:
        """Loss term → its value per epoch."""
        return {k.split("/")[1]: v for k, v in self.curves.items() if k.startswith("loss/")}

    @property
    def distance_share(self) -> np.ndarray:
        """(epochs,) part of the loss that sets the student against the teacher; its gradient is all
        that the student ever feels of the teacher."""
        total = np.sum(list(self.terms.values()), axis=0)
        zero = np.zeros_like(total)
        return sum((self.terms.get(name, zero) for name in self.compares), zero) / total

    def finding(self) -> str:
        chosen, published = self.scores["validation"], self.scores["published"]
        return (
            f"{self.method} {self.direction}, seed {self.seed}: {self.metric} "
            f"{100 * chosen[0]:.1f} % (validation-selected), {100 * published[0]:.1f} % by the "
            f"published rule; terms that compare with the teacher are "
            f"{self.distance_share[-1]:.2%} of the last epoch's loss (n = {self.n['test']})."
        )

    def claims(self) -> list[Claim]:
        if not self.compares:
            return []
        share = self.distance_share
        verdict = REFUTED if share.max() < FELT else SUPPORTED if share.min() > FELT else OPEN
        return [
            Claim(
                statement="The terms that compare with the teacher are a working part of the loss",
                where="section 3; figure 5 finds their best weight at 1",
                paper="not measured",
                ours=(
                    f"{self.method} {self.direction}: {share.min():.1%} to {share.max():.1%} of "
                    f"the loss over {len(share)} epochs, {', '.join(self.compares)} together"
                ),
                control="the other terms train the student and its heads without any comparison",
                verdict=verdict,
                why=(
                    f"one run; agrees (differs) where the part is above (below) {FELT:.0%} in "
                    "every epoch; a part of the loss, not yet of its gradient"
                ),
                n=describe_n(self.n["train"], 1, "training"),
            )
        ]


def configure_run(
    plan: Plan, direction: str, method: str, seed: int, options: dict[str, Any] | None = None
) -> list[RunConfig]:
    """The run itself, the student's unimodal counterpart and the teacher's own run."""
    way = plan.choose_way(direction)
    taught = plan.configure(way.student, method, way.teacher, seed, options)
    return [
        taught,
        plan.configure(way.student, "none", way.teacher, seed),
        plan.configure(way.teacher, seed=seed, network=taught.teacher_network),
    ]


def follow_run(
    plan: Plan, *, direction: str, method: str, seed: int, options: dict[str, Any] | None = None
) -> tuple[Distillation, RunRecord]:
    """Train or find one run, its teacher and the student's unimodal counterpart."""
    configs = configure_run(plan, direction, method, seed, options)
    run, unimodal, teacher = (run.record for run in ensure_runs(configs, device=plan.device))
    result = Distillation(
        dataset=plan.dataset,
        preset=plan.preset,
        metric=plan.definition.metric,
        direction=str(plan.choose_way(direction)),
        method=method,
        seed=seed,
        n=run.n,
        classes=plan.definition.classes,
        curves={name: np.array(values) for name, values in run.curves.items()},
        unimodal={name: np.array(unimodal.curves[name]) for name in ("validation/raw", "test/raw")},
        scores={rule: [score.accuracy, score.epoch] for rule, score in run.scores.items()},
        heads={rule: score.head for rule, score in run.scores.items()},
        teacher=teacher.scores["validation"].accuracy,
        parameters=run.parameters,
        fingerprint=run.fingerprint,
        seconds=run.seconds,
        device=run.device,
        compares=[name for name in METHODS[method].compares if f"loss/{name}" in run.curves],
    )
    return result, run

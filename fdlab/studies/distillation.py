"""What happens in one distillation run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fdlab.core.config import Direction
from fdlab.core.records import RunRecord
from fdlab.studies.claims import Claim
from fdlab.studies.plan import Plan
from fdlab.training.pool import ensure_runs

QUESTION = "How does one student learn, and how much of its loss is the teacher's?"
TEACHERS = ("low", "high", "kd", "feature", "align_low_teacher", "align_high_teacher")


@dataclass(frozen=True)
class Distillation:
    """One run beside the unimodal run of its student's modality and its teacher's own run.

    curves: of the run's record. unimodal: validation and test accuracy per epoch without a teacher.
    scores: rule → [accuracy, epoch] of the run; teacher: its validation-selected test accuracy.
    """

    dataset: str
    preset: str
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

    @property
    def terms(self) -> dict[str, np.ndarray]:
        """Loss term → its value per epoch."""
        return {k.split("/")[1]: v for k, v in self.curves.items() if k.startswith("loss/")}

    @property
    def share(self) -> float:
        """Part of the last epoch's loss that reads the teacher's outputs."""
        total = sum(term[-1] for term in self.terms.values())
        return float(sum(v[-1] for k, v in self.terms.items() if k in TEACHERS) / total)

    @property
    def distance_share(self) -> float:
        """Part of the last epoch's loss that compares the two sides; its gradient is all that the
        student ever sees of the teacher."""
        total = sum(term[-1] for term in self.terms.values())
        compare = ("low", "high", "kd", "feature")
        return float(sum(v[-1] for k, v in self.terms.items() if k in compare) / total)

    def finding(self) -> str:
        chosen, published = self.scores["validation"], self.scores["published"]
        return (
            f"{self.method} {self.direction}, seed {self.seed}: {100 * chosen[0]:.1f} % "
            f"(validation-selected), {100 * published[0]:.1f} % by the published rule; terms that "
            f"compare with the teacher are {self.distance_share:.2%} of the last epoch's loss "
            f"(n = {self.n['test']})."
        )

    def claims(self) -> list[Claim]:
        return []


def follow_run(
    plan: Plan, *, direction: str, method: str, seed: int, options: dict[str, Any] | None = None
) -> tuple[Distillation, RunRecord]:
    """Train or find one run, its teacher and the student's unimodal counterpart."""
    way = Direction.parse(direction, plan.modalities)
    configs = [
        plan.configure(way.student, method, way.teacher, seed, options),
        plan.configure(way.student, seed=seed),
        plan.configure(way.teacher, seed=seed),
    ]
    run, unimodal, teacher = (run.record for run in ensure_runs(configs, device=plan.device))
    result = Distillation(
        dataset=plan.dataset,
        preset=plan.preset,
        direction=direction,
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
    )
    return result, run

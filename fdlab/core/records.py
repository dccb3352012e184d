"""The record of a run: plain JSON that says what was trained, how it went and what came out."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdlab.core.config import RunConfig, require_types
from fdlab.core.errors import UserError
from fdlab.core.files import read_json, write_json

FORMAT = 1
RULES = ("validation",)  # of every run's scores, what lists read
COMMAND = "FDLAB_COMMAND"  # set by the command line, for all that it starts
# Of a record; all else is the same, bit for bit, whenever one machine trains the run again.
CIRCUMSTANCES = (
    "seconds", "peak_bytes", "finished", "sessions", "in_step", "processes",
    "device", "versions", "fast", "package",
)  # fmt: skip


def describe_command() -> str:
    """The command that this process works for; outside of one, the program that runs."""
    if command := os.environ.get(COMMAND):
        return command
    program = Path(sys.argv[0] or "python").name
    if program == "ipykernel_launcher.py":
        return "a Jupyter kernel"
    return shlex.join([program, *sys.argv[1:]])


@dataclass(frozen=True)
class Score:
    """One number read off a run: test accuracy of one head at one epoch, and how that was chosen.

    accuracy is a fraction; epoch counts from 1.
    """

    head: str
    epoch: int
    accuracy: float


@dataclass(frozen=True)
class Session:
    """One stretch of a training, from its start or a checkpoint to its end or the next checkpoint.

    first: steps that were taken before it. seconds: of it alone. command: what was called.
    """

    first: int
    started: str
    seconds: float
    device: str
    torch: str
    command: str


@dataclass(frozen=True)
class RunRecord:
    """Everything about a finished run that fits in a readable file.

    curves: per epoch, `lr`, `loss/<term>`, `train/raw`, `validation/<head>`, `test/<head>`.
    scores: rule → `Score`. `validation` and `last` are the numbers to report (raw head);
    `published` is the released code's rule, the best epoch and the best head on the test set.
    n: samples per split. parameters: of the student and of the method's extra modules.
    fast: parts of `training.fast.FEATURES` that held, "bf16" among them where networks computed in
    it. in_step: how many runs were trained side by side in one process; seconds is this one's
    share of theirs, peak_bytes all of them together. processes: how many trained it together, each
    a part of every batch; peak_bytes is then the first one's.
    skipped: steps that were left out because they were not finite. package, code: the version of
    fdlab, and the digest of its code that the run depends on. sessions: see `Session`; a run that
    was never interrupted has one.
    files: name → SHA-256 of the weights and predictions beside the record.
    """

    fingerprint: str
    config: RunConfig
    data: str
    teacher: str | None
    curves: dict[str, list[float]]
    scores: dict[str, Score]
    n: dict[str, int]
    parameters: dict[str, int]
    seconds: float
    peak_bytes: int
    device: str
    versions: dict[str, str]
    finished: str
    files: dict[str, str] = field(default_factory=dict)
    fast: list[str] = field(default_factory=list)
    in_step: int = 1
    processes: int = 1
    skipped: int = 0
    package: str = ""
    code: str = ""
    sessions: list[Session] = field(default_factory=list)
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        write_json(path, self.as_dict())

    @property
    def outcome(self) -> dict[str, Any]:
        """All of the record but when, where and how fast it was computed."""
        return {k: v for k, v in self.as_dict().items() if k not in CIRCUMSTANCES}

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else type(value).__name__
            raise UserError(f"{path} is no run record of format {FORMAT} (found {found})")
        try:
            value["config"] = RunConfig.from_dict(value["config"])
            value["scores"] = {rule: Score(**score) for rule, score in value["scores"].items()}
            value["sessions"] = [Session(**session) for session in value.get("sessions", [])]
            record = cls(**value)
            require_types(record)
            for part in (*record.scores.values(), *record.sessions):
                require_types(part)
            for rule in RULES:
                record.scores[rule]
        except (KeyError, TypeError, AttributeError, ValueError, UserError) as error:
            raise UserError(f"{path} is no complete run record: {error}") from None
        return record

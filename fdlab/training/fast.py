"""What makes training fast: which of it holds on a device, and how each part is switched off.

None of these changes what is computed, but for `bf16` (notebook `14_precision` asks whether its
rounding matters), which therefore belongs to the recipe. `$FDLAB_FAST` edits the others for a
command and everything that it starts: `-graphs` without one, `+compile` with one, `none` or `all`
to begin from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace

import torch

from fdlab.core import processes
from fdlab.core.config import TrainConfig
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.progress import say

VARIABLE = "FDLAB_FAST"
FEATURES = {
    "resident": "the whole data set on the device where it fits, else read ahead in batches",
    "cache": "outputs of a frozen teacher whose input is not augmented are computed once",
    "channels_last": "channels-last memory for networks",
    "fused": "the optimiser's update of all parameters in one kernel; on the CPU of Adam's alone",
    "autotune": "cuDNN tries its convolutions and keeps the fastest",
    "graphs": "the whole step recorded once as a CUDA graph and replayed; needs fused",
    "compile": "the student's network through torch.compile; costs a minute",
    "bf16": "networks in bfloat16 under autocast, losses in float32; see a recipe's precision",
}
PRECISION = "bf16"  # changes numbers, and so belongs to the recipe and not to `VARIABLE`
CUDA_ALONE = ("fused", "autotune", "graphs")  # elsewhere off unless asked for, or refused
AMPERE = (8, 0)  # the first generation that is fast at bf16
_told: set[str] = set()

# cuBLAS reads it once, before its first product; without it none is deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@dataclass(frozen=True)
class Fast:
    """The parts of `FEATURES` that hold, and whether repeats have to agree bit for bit."""

    resident: bool = False
    cache: bool = False
    channels_last: bool = False
    fused: bool = False
    autotune: bool = False
    bf16: bool = False
    graphs: bool = False
    compile: bool = False
    deterministic: bool = False

    @property
    def names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def autocast(self, device: torch.device):
        """The block's networks in bf16, where that holds."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """The process's settings of a training; afterwards they are as before.

        float32 means float32: cuDNN's convolutions do not take TF32 for it. deterministic: an
        operation without a deterministic form on CUDA is an error that names it.
        """
        if device.type != "cuda":
            yield
            return
        cudnn = torch.backends.cudnn
        before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
        strict = torch.are_deterministic_algorithms_enabled()
        cudnn.benchmark = self.autotune and not self.deterministic
        cudnn.deterministic, cudnn.allow_tf32 = self.deterministic, False
        torch.use_deterministic_algorithms(self.deterministic)
        try:
            with torch.cuda.device(device):
                yield
        except RuntimeError as error:
            if self.deterministic and "deterministic" in str(error):
                raise UserError(f"deterministic training: {str(error).split('.')[0]}") from None
            raise
        finally:
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before
            torch.use_deterministic_algorithms(strict)


def choose_fast(
    device: torch.device, train: TrainConfig | None = None, edits: str | None = None
) -> Fast:
    """What holds on a device by default, edited by `edits` (None: `$FDLAB_FAST`).

    On the CPU everything that is not CUDA's alone, and `fused` under a recipe with Adam, whose
    update takes a quarter of the time so; on CUDA everything but `compile`. bf16 is the recipe's
    `precision`: "auto" takes it on CUDA. A deterministic recipe goes without graphs and `autotune`:
    a run that goes on from a checkpoint takes steps plainly that a graph would have replayed. What
    was asked for and is not supported is said in one line.
    """
    cuda = device.type == "cuda"
    found = {name: name != "compile" and (cuda or name not in CUDA_ALONE) for name in FEATURES}
    found["fused"] |= train is not None and train.optimiser != "sgd"
    text = os.environ.get(VARIABLE, "") if edits is None else edits
    found |= read_edits(text)
    precision = "auto" if train is None else train.precision
    found[PRECISION] = precision == PRECISION or (precision == "auto" and cuda)
    if found[PRECISION] and cuda and torch.cuda.get_device_capability(device) < AMPERE:
        found[PRECISION] = False
        tell(f"bf16 is slow on {torch.cuda.get_device_name(device)}: float32 instead")
    for name in ("autotune", "graphs"):
        if found[name] and not cuda:
            found[name] = False
            if f"+{name}" in text:
                tell(f"{name} needs CUDA: without it on {device.type}")
    deterministic = train is not None and train.deterministic
    if deterministic and cuda:
        found |= {"graphs": False, "autotune": False}
    together = [name for name in ("graphs", "compile") if found[name]]
    if together and processes.count() > 1:
        found |= dict.fromkeys(together, False)
        tell(f"{' and '.join(together)} off: {processes.count()} processes train together")
    if found["graphs"] and not found["fused"]:
        found["graphs"] = False
        tell("graphs is off: it needs fused")
    return Fast(**found, deterministic=deterministic)


def read_edits(text: str) -> dict[str, bool]:
    """'none,+graphs' → every feature, by name, that the text says something about."""
    found: dict[str, bool] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part in ("none", "all"):
            found = dict.fromkeys(FEATURES, part == "all")
            continue
        name = part.lstrip("+-")
        if name not in FEATURES:
            raise name_unknown(f"part of {VARIABLE}", name, [*FEATURES, "none", "all"])
        if name == PRECISION:
            raise UserError(
                f"{VARIABLE} is {text!r}: bf16 changes numbers, so a run's recipe says it: "
                "--precision bf16 or float32"
            )
        if part[0] not in "+-":
            raise UserError(f"{VARIABLE} is {text!r}: expected +{name} or -{name}")
        found[name] = part[0] == "+"
    return found


def tell(text: str) -> None:
    """A line of warning, once per process."""
    if text not in _told:
        _told.add(text)
        say(f"fdlab: {text}")


def without(fast: Fast, name: str, why: str) -> Fast:
    """The same without one part, and a line that says why."""
    tell(f"{name} is off: {' '.join(why.split())}")
    return replace(fast, **{name: False})

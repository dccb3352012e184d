"""All that a step of a training changes: to go back to, to compare, and to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from fdlab.training.loop import Course
    from fdlab.training.trainer import Trainer

KINDS = ("weights", "buffers", "optimiser", "sums")
Named = dict[str, torch.Tensor]


def list_tensors(trainer: Trainer) -> dict[str, Named]:
    """Kind → name → the tensor itself, of everything that steps change but gradients.

    A frozen teacher is left out, but for the running statistics of one that drifts.
    """
    live: dict[str, Named] = {kind: {} for kind in KINDS}
    for owner, part in trainer.learner.parts.items():
        live["weights"] |= {f"{owner}.{name}": x for name, x in part.named_parameters()}
        live["buffers"] |= {f"{owner}.{name}": x for name, x in part.named_buffers()}
    if getattr(trainer.read_teacher, "drifting", False):
        buffers = trainer.read_teacher.model.named_buffers()
        live["buffers"] |= {f"drifting.{name}": x for name, x in buffers}
    for place, parameter in enumerate(trainer.learner.parameters()):
        for name, x in trainer.optimiser.state.get(parameter, {}).items():
            if torch.is_tensor(x):
                live["optimiser"][f"{place}/{name}"] = x
    live["sums"] |= trainer.tally.sums
    return live


@torch.no_grad()
def put_tensors(trainer: Trainer, kind: str, values: Named) -> None:
    """Give the tensors of a kind these values; those that do not exist yet are made, in the memory
    order of what they belong to."""
    live = list_tensors(trainer)[kind]
    parameters = trainer.learner.parameters()
    for name, value in values.items():
        if name in live:
            live[name].copy_(value)
        elif kind == "sums":
            trainer.tally.sums[name] = value.to(trainer.device, copy=True)
        elif kind == "optimiser":
            place, part = name.split("/")
            parameter = parameters[int(place)]
            if value.shape == parameter.shape and part != "step":
                made = torch.empty_like(parameter).copy_(value)
            else:  # Adam's count of steps, on the device where the optimiser looks for it there
                group = trainer.optimiser.param_groups[0]
                there = group.get("capturable") or group.get("fused")
                made = value.to(parameter.device if there else "cpu", copy=True)
            trainer.optimiser.state[parameter][part] = made
        else:
            raise KeyError(name)


def find_generators(course: Course) -> dict[str, torch.Generator]:
    """The device's generators that a course's steps draw from, beside the process's own."""
    noise = course.trainer.noise
    found = {"augment": noise.first, "strengthen": noise.second}
    if noise.theirs is not noise.second:
        found["strengthen.teacher"] = noise.theirs
    for path, part in course.trainer.learner.method.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Generator):
                found[f"method.{path}.{name}"] = value
    return found


def set_generator(course: Course, name: str, state: torch.Tensor) -> None:
    """Set a generator of `find_generators`; a method's own is made where it has not drawn yet."""
    found = find_generators(course)
    if name not in found:
        path, attribute = name.removeprefix("method.").rsplit(".", 1)
        part = course.trainer.learner.method.get_submodule(path)
        found[name] = torch.Generator(course.data.device)
        setattr(part, attribute, found[name])
    found[name].set_state(state)


class Snapshot:
    """A copy of all that a step of some courses changes, by kind, and of every generator's state.

    What is made later, such as an optimiser's state by its first step, is not in it.
    """

    def __init__(self, courses: list[Course]):
        self.device = courses[0].data.device
        self.generators = [x for course in courses for x in find_generators(course).values()]
        self.live: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
        for course in courses:
            for kind, found in list_tensors(course.trainer).items():
                self.live[kind] += found.values()
        self.values = {k: [x.detach().clone() for x in found] for k, found in self.live.items()}
        self.states = [generator.get_state() for generator in self.generators]
        self.random = read_random(self.device)

    @torch.no_grad()
    def restore(self) -> None:
        for kind, found in self.live.items():
            for x, value in zip(found, self.values[kind], strict=True):
                x.copy_(value)
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)
        set_random(self.random, self.device)

    def measure(self, other: Snapshot, kind: str) -> float:
        """Euclidean distance of all tensors of a kind."""
        pairs = zip(self.values[kind], other.values[kind], strict=True)
        squares = [(a.double() - b.double()).square().sum() for a, b in pairs]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


class Held:
    """A copy of what the next step of a trainer will change, so that it can be taken back without
    asking the device how it went."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        live = list_tensors(trainer)
        self.values = {
            (kind, name): x.detach().clone() for kind in KINDS for name, x in live[kind].items()
        }

    @torch.no_grad()
    def put_back(self, bad: torch.Tensor) -> None:
        """Undo the step where `bad`, a scalar of truth, holds. An optimiser's state that the step
        made becomes zero, which is what it starts from."""
        for kind, found in list_tensors(self.trainer).items():
            for name, x in found.items():
                before = self.values.get((kind, name))
                before = torch.zeros_like(x) if before is None else before
                x.copy_(torch.where(bad.to(x.device), before, x))


def is_finite(terms: dict[str, torch.Tensor], parameters: list[nn.Parameter]) -> torch.Tensor:
    """Whether all loss terms and the gradients that they left are finite; a scalar of truth."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    values = [value.detach().float() for value in terms.values()]
    return torch.stack([*values, norm.to(values[0].device)]).isfinite().all()


def are_finite(trainer: Trainer) -> bool:
    """Whether every weight that trains, and every running statistic of the student, is finite."""
    found = [*trainer.learner.parameters(), *trainer.learner.student.buffers()]
    return bool(torch.stack([x.detach().isfinite().all() for x in found]).all())


def read_random(device: torch.device) -> list[torch.Tensor]:
    """States of the process's own generators, of the CPU and of the device."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def set_random(states: list[torch.Tensor], device: torch.device) -> None:
    """Go back to what `read_random` read."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

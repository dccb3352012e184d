"""What each loss term does to the student, measured at some steps of a training."""

from __future__ import annotations

import math

import torch
from torch.nn.utils.rnn import pad_sequence

from fdlab.models.output import ModelOutput

Probe = dict[str, torch.Tensor]


def choose_steps(total: int, probes: int) -> set[int]:
    """`probes` steps of 0 to total - 1, the first and the last among them, evenly spread."""
    probes = min(probes, total)
    if probes < 2:
        return {0} if probes else set()
    return {round(i * (total - 1) / (probes - 1)) for i in range(probes)}


def probe_terms(
    terms: dict[str, torch.Tensor],
    student: ModelOutput,
    teacher: ModelOutput | None,
    parameters: list[torch.Tensor],
    last: str = "",
) -> Probe:
    """Gradient of every term at the student's feature and at its network's parameters, one batch.

    terms: name → scalar, T of them, weights included. Returns `value` (T,); `feature` and
    `parameters` (T, T): the inner products of the terms' gradients, whose diagonal holds the
    squared norms, at the last map before its pooling and at the parameters; `student` and, with a
    teacher, `teacher` (N, D): the features themselves, in segmentation of every position. The map,
    and not the pooled vector, since the network's own head pools after the ReLU and would not pass
    through the vector at all. last: the name of that map; where there is none, or the network's
    feature is not its mean (BERT), the feature itself. A term that does not reach a place has a
    zero gradient there. The graph is kept, so that the step can go on.
    """
    last_map = student.maps[last] if last else student.feature
    places = {"feature": [last_map], "parameters": parameters}
    rows: dict[str, list[torch.Tensor]] = {place: [] for place in places}
    for term in terms.values():
        wanted = [tensor for tensors in places.values() for tensor in tensors]
        found = [None] * len(wanted)
        if term.requires_grad:
            found = torch.autograd.grad(term, wanted, retain_graph=True, allow_unused=True)
        flat = iter(found)
        for place, tensors in places.items():
            parts = [(next(flat), tensor) for tensor in tensors]
            rows[place].append(
                torch.cat([(t.new_zeros(t.shape) if g is None else g).flatten() for g, t in parts])
            )
    probe = {place: _multiply(torch.stack(gradients)) for place, gradients in rows.items()}
    probe["value"] = torch.stack([term.detach() for term in terms.values()]).double()
    probe["student"] = student.feature.detach().float()
    if teacher is not None:
        probe["teacher"] = teacher.feature.detach().float()
    return probe


def stack_probes(probes: dict[int, Probe]) -> Probe:
    """Step → probe, P of them, to one probe of (P, …) arrays on the CPU, with `step` (P,).

    The rows of a shorter last batch are filled up with nan.
    """
    if not probes:
        return {}
    names = next(iter(probes.values()))
    found = {
        name: pad_sequence([p[name] for p in probes.values()], True, math.nan).cpu().contiguous()
        for name in names
    }
    return found | {"step": torch.tensor(list(probes))}


def _multiply(gradients: torch.Tensor) -> torch.Tensor:
    """(T, P) → (T, T) inner products."""
    return gradients.double() @ gradients.double().T

"""Distances that treat the target's score apart from the others; z (N, K) logits, labels (N,)."""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.losses.logits import kl_divergence
from fdlab.models.precision import in_full_precision


def drop_target(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N, K) → (N, K - 1): every row without its own class, the order of the others kept.

    By index rather than by a mask of booleans, whose size a GPU would have to tell the processor.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(labels), -1)
    return logits.gather(1, others + (others >= labels[:, None]).long())


@in_full_precision
def nckd(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float = 4.0
) -> torch.Tensor:
    """T² · KL over the K - 1 classes beside the target, softmax over those alone (DKD, NCKD)."""
    pair = (drop_target(z, labels) for z in (student, teacher))
    return kl_divergence(*pair, temperature)


@in_full_precision
def tckd(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float = 4.0
) -> torch.Tensor:
    """T² · KL(b_t ‖ b_s) of b = (p_T,y, 1 - p_T,y), target against all others (DKD, TCKD).

    log(1 - p_y) is a difference of two log-sum-exps, since 1 - p_y itself rounds to 0 for a
    confident network.
    """
    sides = []
    for logits in (student, teacher):
        scaled = logits / temperature
        whole = scaled.logsumexp(dim=1)
        own = scaled.gather(1, labels[:, None]).squeeze(1)
        rest = drop_target(scaled, labels).logsumexp(dim=1)
        sides.append(torch.stack([own - whole, rest - whole], dim=1))
    rows = functional.kl_div(*sides, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * rows.mean()


@in_full_precision
def nkd(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    gamma: float = 3.5,
    temperature: float = 3.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts of Yang's normalised KD (NKD, 2022 and ICCV 2023):

        -mean q_y log s_y,        γ T² · -mean_n Σ_{c≠y} q̂_c log ŝ_c

    q, s softmax of teacher and student over all classes at T = 1; q̂, ŝ over the K - 1 others at T.
    Cross-entropies, so their least value is not 0.
    """
    own = labels[:, None]
    target = teacher.softmax(dim=1).gather(1, own) * student.log_softmax(dim=1).gather(1, own)
    theirs = (drop_target(teacher, labels) / temperature).softmax(dim=1)
    mine = (drop_target(student, labels) / temperature).log_softmax(dim=1)
    others = (theirs * mine).sum(dim=1)
    return -target.mean(), -gamma * temperature**2 * others.mean()


@in_full_precision
def ofa(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    power: float = 1.0,
    temperature: float = 1.0,
) -> torch.Tensor:
    """-Σ_c [(p_t,c + 1[c = y])^power - 1[c = y]] log p_s,c, mean over the batch (OFA-KD, NeurIPS
    2023, the released form). power = 1 is the cross-entropy with the teacher's softmax; above 1 it
    adds weight to the target where the teacher is sure of it."""
    own = (labels[:, None] == torch.arange(student.shape[1], device=labels.device)).long()
    weights = ((teacher / temperature).softmax(dim=1) + own) ** power - own
    return -(weights * (student / temperature).log_softmax(dim=1)).sum(dim=1).mean()

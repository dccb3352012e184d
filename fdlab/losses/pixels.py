"""Distances between what two networks say of an image's positions and channels.

Similarities of one side are compared with those of the other, so the two maps may differ in
channels (positions against positions) or in nothing but their values (against shared memories).
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.losses.features import normalise
from fdlab.models.precision import in_full_precision

FLOOR = 1e-8  # entropy of a position that the teacher is sure of, and length of one without feature
NEVER = -1e4  # similarity of a memory's empty place: a probability of 0, with finite logarithms


@in_full_precision
def entropy_weights(logits: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """(Q, K) logits → (Q,) shares of the softmax's entropy, sum 1 (MMANet, Wei et al., 2023).

    there (Q,): 0 or false where a position has no logits, and gets nothing. An entropy counts as at
    least 1e-8, so that a teacher that is sure everywhere weighs all positions alike.
    """
    scores = logits.log_softmax(dim=1)
    entropy = -(scores.exp() * scores).sum(dim=1)
    entropy = entropy.clamp_min(FLOOR) * there
    return entropy / entropy.sum().clamp_min(FLOOR)


@in_full_precision
def gram_distance(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Σ_h Σ_i w_i Σ_j (Ĝ_s,ij - Ĝ_t,ij)², the margin-aware distillation of MMANet (CVPR 2023).

    G = F Fᵀ of a side's rows F (Q, C); h: the first and the second half of the columns j, each row
    of either half to length 1; weights (Q,). C may differ. Invariant to rotation and scale of F.

    No G is made: with M_ab = Σ_j in h F_a,jᵀ F_b,j, a (C_a, C_b) matrix, two rows of the half have
    the product F_a,i M_ab F_b,iᵀ, and the squared distance of their directions is
    2 - 2 cos. So Q² numbers are neither computed nor kept, and no row needs to be left out. Values
    from 0, as after a ReLU, keep every digit in it. A row under 1e-8 of the longest possible counts
    as 0 on its side, without gradient.
    """
    # The distance does not depend on a side's scale, and products of four numbers may overflow.
    sides = [x / x.detach().abs().amax().clamp_min(1e-30) for x in (student, teacher)]
    middle, total = len(student) // 2, student.new_zeros(())
    for half in (slice(None, middle), slice(middle, None)):
        s, t = sides
        own = [((x @ (x[half].T @ x[half])) * x).sum(dim=1) for x in sides]
        shared = ((s @ (s[half].T @ t[half])) * t).sum(dim=1)
        alive = [x > FLOOR**2 for x in own]
        both = alive[0] & alive[1]
        lengths = torch.where(both, own[0], 1).sqrt() * torch.where(both, own[1], 1).sqrt()
        cosine = torch.where(both, shared, 0) / lengths
        rows = alive[0].to(s.dtype) + alive[1].to(s.dtype) - 2 * cosine
        total = total + (weights * rows).sum()
    return total


@in_full_precision
def pair_relations(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL of who resembles whom, over all pairs of images (CIRKD, Yang et al., CVPR 2022).

    (N, A, ·) vectors of A positions or channels, scaled to length 1 here: of images i and j the
    rows of softmax(x_i x_jᵀ / τ), KL(teacher ‖ student), sum over a row, mean over the A rows and
    the N² pairs. Their lengths may differ between the sides.
    """
    scores = []
    for x in (student, teacher):
        unit = normalise(x)
        flat = unit.flatten(0, 1)
        similar = (flat @ flat.T).view(*unit.shape[:2], *unit.shape[:2])  # (N, A, N, A)
        scores.append((similar / temperature).log_softmax(dim=3))
    return _divergence(*scores).mean()


@in_full_precision
def memory_relations(
    student: torch.Tensor,
    teacher: torch.Tensor,
    memory: torch.Tensor,
    there: torch.Tensor,
    counted: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """KL of which memories a vector resembles (CIRKD).

    (A, ·) vectors of both sides and (M, ·) memories, all of length 1 already: rows of
    softmax(x mᵀ / τ), KL(teacher ‖ student), mean over the rows that are counted (A,), 1 or 0.
    there (M,): whether a memory holds anything; 0 where none does.
    """
    scores = [
        (x @ memory.T / temperature).masked_fill(~there, NEVER).log_softmax(dim=1)
        for x in (student, teacher)
    ]
    rows = _divergence(*scores)
    return (rows * counted).sum() / counted.sum().clamp_min(1)


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher ‖ student) over the last axis of log probabilities."""
    rows = functional.kl_div(student, teacher, reduction="none", log_target=True)
    return rows.sum(dim=-1)

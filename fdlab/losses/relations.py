"""Distances between what two networks say of the *relations* of the batch's samples.

Each side is described by an (N, N) or (N, N, N) array of its own, so the two features may differ in
width and nothing is projected. All pairwise terms are matrix products.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.losses.features import normalise
from fdlab.models.precision import in_full_precision


@in_full_precision
def similarity_preserving(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """‖G_t - G_s‖²_F / N², G = F Fᵀ with its rows scaled to length 1 (SP, Tung and Mori, 2019).

    (N, ·) rows; a map is flattened. Invariant to a rotation of either side.
    """
    s, t = (normalise(x @ x.T) for x in (student, teacher))
    return (t - s).square().mean()


@in_full_precision
def probability_transfer(
    student: torch.Tensor, teacher: torch.Tensor, eps: float = 1e-7
) -> torch.Tensor:
    """mean over N² of K_t log((K_t + ε) / (K_s + ε)) (PKT, Passalis and Tefas, 2018).

    K = (cos(f_i, f_j) + 1) / 2, rows scaled to sum 1, diagonal included; (N, D) rows. The mean is
    over all N² entries while the divergence sums over a row, so it is the batch mean over N.
    Invariant to each sample's scale.
    """
    kernels = []
    for x in (student, teacher):
        unit = normalise(x, eps)
        kernel = (unit @ unit.T + 1) / 2
        kernels.append(kernel / kernel.sum(dim=1, keepdim=True))
    s, t = kernels
    return (t * torch.log((t + eps) / (s + eps))).mean()


@in_full_precision
def distance_relation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Smooth L1 of D_ij = ‖f_i - f_j‖ over its mean over all i ≠ j (RKD-D, Park et al., 2019);
    (N, D) rows, mean over all N². Invariant to rotation, shift and scale."""
    s, t = (_scale_distances(_measure_distances(_multiply(x))) for x in (student, teacher))
    return functional.smooth_l1_loss(s, t)


@in_full_precision
def angle_relation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Smooth L1 of ψ_ijk = ⟨e_ij, e_ik⟩, e_ij = (f_j - f_i) / ‖f_j - f_i‖, e_ii = 0 (RKD-A); (N, D)
    rows, mean over all N³. e_ij = 0 too where two rows are the same.

    From the products of the rows alone: ⟨f_j - f_i, f_k - f_i⟩ = G_jk - G_ij - G_ik + G_ii, so no
    (N, N, D) array of differences is made.
    """
    return functional.smooth_l1_loss(*map(_measure_angles, (student, teacher)))


def _multiply(x: torch.Tensor) -> torch.Tensor:
    """(N, N) inner products of the centred rows; differences do not see the centre, and without it
    they lose fewer digits."""
    x = x - x.mean(dim=0, keepdim=True)
    return x @ x.T


def _measure_distances(products: torch.Tensor) -> torch.Tensor:
    """(N, N) ‖f_i - f_j‖, 0 with no gradient where i = j or the two are the same but for rounding.

    A square is a difference of products, so it is known to a few eps of their size. Below that it
    may come out negative, and what is divided by its root would be noise without bounds.
    """
    length = products.diagonal()
    sizes = length[:, None] + length[None, :]
    squares = sizes - 2 * products
    apart = squares > 32 * torch.finfo(products.dtype).eps * sizes
    return torch.where(apart, squares, 1).sqrt() * apart


def _scale_distances(distances: torch.Tensor) -> torch.Tensor:
    count = max(len(distances) * (len(distances) - 1), 1)
    return distances / (distances.sum() / count).clamp_min(1e-12)


def _measure_angles(x: torch.Tensor) -> torch.Tensor:
    products = _multiply(x)
    distances = _measure_distances(products)
    apart = distances > 0
    inverse = apart / torch.where(apart, distances, 1)
    centre = products.diagonal()[:, None, None]
    inner = products[None] - products[:, :, None] - products[:, None, :] + centre
    return inner * inverse[:, :, None] * inverse[:, None, :]


@in_full_precision
def contrast(
    positive: torch.Tensor,
    negatives: torch.Tensor,
    counted: torch.Tensor,
    samples: int,
    eps: float = 1e-7,
) -> torch.Tensor:
    """CRD's loss of one direction (Tian et al., ICLR 2020), from scores already divided by Z.

    positive (N,): of each sample with its own memory; negatives (N, M): with others', of which
    counted (N, M), 1 or 0, take part, k of them in a row; Pn = 1/samples:

        -(1/N) Σ [log(P⁺ / (P⁺ + k Pn + ε)) + Σ log(k Pn / (P⁻ + k Pn + ε))]
    """
    expected = counted.sum(dim=1) / samples  # k · Pn
    own = torch.log(positive / (positive + expected + eps))
    # A sample without any negative says nothing of them; log(0) would be counted 0 times.
    share = expected.clamp_min(eps)[:, None]
    others = torch.log(share / (negatives + share + eps))
    return -(own.sum() + (others * counted).sum()) / len(positive)

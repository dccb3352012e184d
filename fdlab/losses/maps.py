"""Distances between feature maps, and how two maps of different sizes are brought together.

A map is (N, C, H, W), or (N, C, L) for a sentence, which counts as a grid of one column. Two
modalities' positions do not correspond, so a method that does not compare positions as such pools
first ("pooled": the mean over all of them, of a sentence over its words); "resized" keeps them, for
tasks where they are one scene, and takes the student's map to the teacher's size. A sentence's
padded positions count as positions there, with the value 0.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from fdlab.core.errors import name_unknown
from fdlab.losses.features import normalise
from fdlab.models.precision import in_full_precision
from fdlab.spectral.wavelets import decompose

ARRANGEMENTS = ("pooled", "resized")
DETAILS = ((0,), (1,), (0, 1))  # of each detail band of `decompose`, the axes it is high-pass along


def require_arrangement(compare: str) -> None:
    if compare not in ARRANGEMENTS:
        raise name_unknown("way to compare maps", compare, ARRANGEMENTS)


def as_grid(x: torch.Tensor) -> torch.Tensor:
    """(N, C, L) → (N, C, L, 1); a map that has two axes already stays."""
    return x.unsqueeze(-1) if x.ndim == 3 else x


def pool(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(N, C, …) → (N, C), mean over positions; of a sentence over those in mask (N, L)."""
    if mask is None or x.ndim != 3:
        return x.flatten(2).mean(dim=2)
    return x.sum(dim=2) / mask.sum(dim=1, keepdim=True).clamp_min(1)


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A map as a grid of the other's height and width, bilinearly."""
    x, size = as_grid(x), as_grid(like).shape[2:]
    return x if x.shape[2:] == size else functional.interpolate(x, size, mode="bilinear")


@in_full_precision
def standardised_mse(
    student: torch.Tensor, teacher: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """½ mean (Ŝ - T̂)², each channel standardised over batch and positions (PKD, Cao et al., 2022).

    x̂ = (x - mean) / (std + eps), std with n - 1, n = N·H·W; (N, C, …) maps of one shape. Equals
    (n - 1)/n · (1 - mean_c r_c), r Pearson's correlation per channel. A single value per channel
    has no deviation: it counts as 0.
    """
    s, t = (_standardise(x, eps) for x in (student, teacher))
    return functional.mse_loss(s, t) / 2


def _standardise(x: torch.Tensor, eps: float) -> torch.Tensor:
    rows = x.transpose(0, 1).flatten(1)  # (C, N·H·W)
    rows = rows - rows.mean(dim=1, keepdim=True)
    deviation = (
        torch.linalg.vector_norm(rows, dim=1, keepdim=True) / max(rows.shape[1] - 1, 1) ** 0.5
    )
    return rows / (deviation + eps)


def average_to(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) averaged down (or spread) to a height and a width."""
    return x if x.shape[2:] == torch.Size(size) else functional.adaptive_avg_pool2d(x, size)


def describe_attention(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) → (N, H·W): mean over channels of F², scaled to length 1 (AT)."""
    return normalise(x.square().mean(dim=1).flatten(1))


@in_full_precision
def attention_transfer(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean (Q_s - Q_t)² of the attention maps (AT, Zagoruyko and Komodakis, 2017), mean over N and
    positions. Of two sizes the larger map is averaged down, axis by axis, before it is described.
    Invariant to the order and number of channels."""
    pair = as_grid(student), as_grid(teacher)
    size = tuple(min(a, b) for a, b in zip(*(x.shape[2:] for x in pair), strict=True))
    s, t = (describe_attention(average_to(x, size)) for x in pair)
    return (s - t).square().mean()


@in_full_precision
def mean_squares(x: torch.Tensor) -> torch.Tensor:
    """(N, C, …) → (N, 1, H, W): mean over channels of F²."""
    return as_grid(x).square().mean(dim=1, keepdim=True)


def attention_differences(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """(N, T, S) mean over positions of (v_s - v_t)² of every pair of `mean_squares`, the student's
    averaged to the teacher's size, then each to length 1 over positions (AFD, Ji et al., 2021)."""
    sizes = dict.fromkeys(x.shape[2:] for x in teacher)
    # Per size of the teacher's maps, the student's: (N, S, positions).
    mine = {
        size: normalise(torch.stack([average_to(x, size).flatten(1) for x in student], dim=1))
        for size in sizes
    }
    theirs = [normalise(x.flatten(1)).unsqueeze(1) for x in teacher]
    rows = [
        (mine[x.shape[2:]] - own).square().mean(dim=2)
        for x, own in zip(teacher, theirs, strict=True)
    ]
    return torch.stack(rows, dim=1)


def find_margin(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(C,) E[x | x < 0] for x ~ N(bias, |weight|), a batch norm's output (OFD, Heo et al., 2019).

    bias - |w| φ(bias/|w|) / Φ(-bias/|w|); -3|w| where Φ(…) ≤ 0.001. N(0, 1) gives -0.7979.
    """
    size = weight.detach().abs().double().clamp_min(1e-12)
    ratio = bias.detach().double() / size
    normal = torch.distributions.Normal(torch.zeros_like(ratio), torch.ones_like(ratio))
    below = normal.cdf(-ratio)
    margin = bias.detach().double() - size * normal.log_prob(ratio).exp() / below.clamp_min(1e-12)
    return torch.where(below > 1e-3, margin, -3 * size).to(weight.dtype)


@in_full_precision
def partial_l2(student: torch.Tensor, teacher: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """(1/N) Σ_{n,c,h,w} d, d = (s - t')² where s > t' or t' > 0, else 0, t' = max(t, m_c) (OFD).

    Pre-ReLU maps (N, C, H, W) of one shape, margin (C,). Summed over channels and positions, so it
    grows with the map. Where both s and t are at or under the margin nothing is learned.
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counted = (student > target) | (target > 0)
    return ((student - target).square() * counted).sum() / len(student)


@in_full_precision
def gaussian_nll(mean: torch.Tensor, teacher: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """mean ½ [(t - μ)² / var_c + log var_c] (VID, Ahn et al., 2019); maps (N, C, H, W), variance
    (C,). May be negative."""
    variance = variance[:, None, None]
    return ((teacher - mean).square() / variance + variance.log()).mean() / 2


@in_full_precision
def pyramid_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """MSE of two maps of one shape and of their averages over 4×4, 2×2 and 1×1 (ReviewKD's HCL).

    Sizes not under the map's height are left out, and a narrower map is averaged no further than
    its width (our choice). Weights 1, ½, ¼, ⅛ over their sum.
    """
    total, weight, weights = functional.mse_loss(student, teacher), 1.0, 1.0
    height, width = student.shape[2:]
    for size in (4, 2, 1):
        if size >= height:
            continue
        weight /= 2
        weights += weight
        pair = (
            functional.adaptive_avg_pool2d(x, (size, min(size, width))) for x in (student, teacher)
        )
        total = total + weight * functional.mse_loss(*pair)
    return total / weights


@in_full_precision
def class_map_mse(
    student: torch.Tensor, teacher: torch.Tensor, side: int, scaled: bool
) -> torch.Tensor:
    """mean (n(M_s) - n(M_t))² of class maps (N, K, H, W) averaged to side × side (CAT-KD, Guo et
    al., 2023); n: each class's map to length 1, or unchanged.

    A map of a single position has no shape, and n would leave its sign alone: where either side's
    is one, n takes all classes and positions of a sample together (our choice)."""
    pair = as_grid(student), as_grid(teacher)
    single = any(x.shape[2] * x.shape[3] == 1 for x in pair)
    s, t = (average_to(x, (side, side)).flatten(1 if single else 2) for x in pair)
    if scaled:
        s, t = normalise(s), normalise(t)
    return functional.mse_loss(s, t)


@in_full_precision
def wavelet_l1(student: torch.Tensor, teacher: torch.Tensor, levels: int) -> torch.Tensor:
    """Σ over levels of mean |W_s - W_t| over the three detail bands (FreeKD, Zhang et al., 2024).

    Haar transform of maps (N, C, H, W) of one shape, zero padding; the low band is left out. Across
    a side of a single position there is no detail: zero padding would copy the low band there, so
    the bands that are high-pass along it are left out. An odd side leaks at its padded edge.
    """
    total, sides = [], student.shape[2:]
    for level in decompose(student - teacher, "haar", levels)[1]:  # the transform is linear
        kept = [b for b, axes in enumerate(DETAILS) if all(sides[a] > 1 for a in axes)]
        if kept:
            total.append(level[:, :, kept].abs().mean())
        sides = level.shape[3:]
    return torch.stack(total).sum()

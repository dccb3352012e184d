"""AFD: attention decides which layers to match (Ji et al., AAAI 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from fdlab.data.dataset import SCORED
from fdlab.losses.logits import cross_entropy, kl_divergence
from fdlab.losses.maps import attention_differences, mean_squares, pool
from fdlab.methods.adapt import Norm
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.models.output import ModelOutput
from fdlab.models.precision import in_full_precision


class AFD(Method):
    """L = CE + b · T² KL(p_T(z_t) ‖ p_T(z_s)) + w · Σ_t mean_n Σ_s a_ts · mean (v_s - v_t)².

    Over all pairs of a teacher's block t and a student's block s, F after the ReLU. v: the map of
    mean squares over channels, the student's averaged to the teacher's size, length 1 over
    positions. The attention, with 128 units:

        q_t = BN(A_t GAP(F_t)),  k_s = ReLU(BN(B_s GAP(F_s))),  K_s = BN(C k_s), one row per t,
        C shared by the student's blocks and normalised over them and the batch
        a_ts = softmax over s of (K_st · q_t + p_t · p_s) / √128, p trained

    Defaults w = 200, b = 0.9, T = 4, the authors' for CIFAR-100, whose code always has the KL term.
    It compares positions, which in two modalities do not correspond; pooled to one there would be
    nothing left (v = 1), so the maps are resized here too. The attention may drift to the layer
    that is nearest, which lowers the loss and teaches nothing. Blocks are residual blocks, 8 in a
    ResNet-18.
    """

    name = "afd"
    summary = "attention maps of all blocks, matched by a trained attention"
    source = "Ji et al., AAAI 2021"
    tasks = SCORED
    needs = ("logits", "blocks")
    compares = ("kd", "attention")
    strength = ("weight", "kd_weight")

    @dataclass(frozen=True)
    class Options:
        weight: float = 200.0
        kd_weight: float = 0.9
        temperature: float = 4.0
        units: int = 128

        def __post_init__(self):
            require_weights(self, "weight", "kd_weight")
            require_positive(self, "temperature", "units")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        mine, theirs = sizes.student.pick("blocks"), sizes.teacher.pick("blocks")
        self.mine, self.theirs, units = list(mine), list(theirs), options.units

        def embed(channels: int, out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(channels, out, 1), Norm(out))

        self.queries = nn.ModuleList(embed(shape[0], units) for shape in theirs.values())
        self.keys = nn.ModuleList(
            nn.Sequential(embed(shape[0], units), nn.ReLU()) for shape in mine.values()
        )
        self.bilinear = embed(units, units * len(theirs))
        self.place_student = nn.Parameter(torch.empty(len(mine), units))
        self.place_teacher = nn.Parameter(torch.empty(len(theirs), units))
        for place in (self.place_student, self.place_teacher):
            nn.init.xavier_normal_(place)

    @property
    def teacher_maps(self) -> set[str]:
        return set(self.theirs)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        mine = [torch.relu(student.find(name)) for name in self.mine]
        theirs = [torch.relu(teacher.find(name).detach()) for name in self.theirs]
        attention = self.attend(
            [pool(x, student.mask) for x in mine], [pool(x, teacher.mask) for x in theirs]
        )
        differences = attention_differences(
            [mean_squares(x) for x in mine], [mean_squares(x) for x in theirs]
        )
        divergence = kl_divergence(student.logits, teacher.logits.detach(), options.temperature)
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "kd": options.kd_weight * divergence,
            "attention": options.weight * weigh_differences(attention, differences),
        }

    def attend(self, mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
        """Pooled blocks (N, C) each → (N, teacher's blocks, student's blocks), rows of sum 1."""
        queries = [
            f(x[..., None, None]).flatten(1) for f, x in zip(self.queries, theirs, strict=True)
        ]
        keys = [key(x[..., None, None]) for key, x in zip(self.keys, mine, strict=True)]
        count, blocks = len(mine[0]), len(mine)
        rows = self.bilinear(torch.stack(keys, dim=1).flatten(0, 1))  # (N · S, T · U, 1, 1)
        spread = rows.view(count, blocks, len(theirs), -1).transpose(1, 2)
        return score_blocks(
            torch.stack(queries, dim=1),
            spread,
            self.place_teacher,
            self.place_student,
        )


@in_full_precision
def score_blocks(
    queries: torch.Tensor,
    keys: torch.Tensor,
    place_teacher: torch.Tensor,
    place_student: torch.Tensor,
) -> torch.Tensor:
    """(N, T, U), (N, T, S, U), (T, U), (S, U) → (N, T, S), softmax over S."""
    scores = (keys @ queries.unsqueeze(-1)).squeeze(-1) + place_teacher @ place_student.T
    return (scores / math.sqrt(queries.shape[-1])).softmax(dim=-1)


@in_full_precision
def weigh_differences(attention: torch.Tensor, differences: torch.Tensor) -> torch.Tensor:
    """Σ_t mean_n Σ_s a_nts d_nts."""
    return (attention * differences).sum(dim=(1, 2)).mean()

"""C2KD: a teacher that trains too, proxies between, and a filter (Huo et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fdlab.data.dataset import SCORED
from fdlab.losses.correlations import kendall_tau
from fdlab.losses.logits import cross_entropy, kl_divergence, kl_rows
from fdlab.losses.maps import pool, resize
from fdlab.losses.targets import drop_target
from fdlab.methods.adapt import Norm
from fdlab.methods.base import TUNED, Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.pixels import Pixels, flatten_positions
from fdlab.models.output import ModelOutput
from fdlab.models.precision import in_full_precision


class C2KD(Method):
    """L = L_T + L_S, every weight 1, T = 1, the target side of each KL detached:

        L_S = CE(z_s) + KL(p(z_s) ‖ p(z̃_s)) + KL(p(z̃_s) ‖ p(z_s)) + NT(z̃_s ← z̃_t)
        NT(a ← b) = mean_n m_n · KL(softmax of b's non-target logits ‖ that of a's)

    and L_T with s and t exchanged. Here KL(p ‖ q) teaches q. z̃: logits of a proxy on each side's
    penultimate stage (layer 3 of a ResNet): ReLU → mean over positions → 1×1 convolution without
    bias → batch norm → ReLU → linear. m_n = 1 where Kendall's τ_b of z̃_t and z̃_s of sample n is
    above `krc` (0 in the released scripts; the paper's value is not in the code); constant logits
    have none and are left out. The mean is over N, not over the samples kept. The teacher starts
    from its unimodal weights and trains on; the student starts from scratch, as released. `weight`
    multiplies every term but the two networks' CE: ours, for the search; 1 is the method.
    """

    name = "c2kd"
    summary = "teacher trains too; proxies; filtered non-target distillation"
    source = "Huo et al., CVPR 2024"
    tasks = SCORED
    needs = ("logits", "penultimate")
    compares = ("non_target", "teacher_non_target")
    strength = ("weight",)
    teaching = TUNED

    @dataclass(frozen=True)
    class Options:
        krc: float = 0.0
        weight: float = 1.0

        def __post_init__(self):
            require_weights(self, "weight")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        (self.names,) = sizes.pair("penultimate")
        self.proxies = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 1, bias=False),
                Norm(channels),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(channels, sizes.classes),
            )
            for channels in sizes.pair_channels("penultimate")[0]
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        weight, proxies = self.options.weight, []
        sides = zip((student, teacher), self.names, self.proxies, strict=True)
        if batch.pixels is None:
            for side, name, proxy in sides:
                proxies.append(proxy(pool(torch.relu(side.find(name)), side.mask)[..., None, None]))
            keep = kendall_tau(*proxies) > self.options.krc
        else:
            proxies, keep = self.score_positions(list(sides), batch.pixels)
        terms = {}
        for prefix, own, proxy, other in (
            ("", student.logits, proxies[0], proxies[1]),
            ("teacher_", teacher.logits, proxies[1], proxies[0]),
        ):
            terms[f"{prefix}task"] = cross_entropy(own, batch.labels)
            terms[f"{prefix}from_proxy"] = weight * kl_divergence(own, proxy.detach())
            terms[f"{prefix}to_proxy"] = weight * kl_divergence(proxy, own.detach())
            pair = (self.hide_target(z, batch.labels) for z in (proxy, other.detach()))
            terms[f"{prefix}non_target"] = weight * average_kept(kl_rows(*pair), keep)
        return terms

    def score_positions(
        self, sides: list[tuple[ModelOutput, str, nn.Module]], pixels: Pixels
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The proxies' scores of every pixel (P, K), the student's first, and (P,) which to keep.

        Proxies keep the map's positions and are enlarged, as published for segmentation. τ is of
        the positions, the teacher's resized to the student's, and goes to the pixels around each:
        our choice, since of every pixel it would be K² numbers.
        """
        (_, first, _), found = sides[0], []
        grid = tuple(sides[0][0].find(first).shape[2:])
        for side, name, proxy in sides:
            map_ = resize(torch.relu(side.find(name)), sides[0][0].find(first))
            found.append(proxy(flatten_positions(map_)[..., None, None]))
        keep = (kendall_tau(*found) > self.options.krc).to(found[0].dtype)[:, None]
        keep = pixels.spread(keep, grid, "nearest").squeeze(1) > 0
        return [pixels.spread(scores, grid) for scores in found], keep

    def hide_target(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return drop_target(logits, labels)


class ReleasedC2KD(C2KD):
    """`c2kd` as released: the target's logit is set to 0 instead of being left out.

    A logit of 0 keeps its share of the softmax: beside non-target logits near -5 it holds 95 % of
    the probability.
    """

    name = "c2kd_released"
    summary = "c2kd with the target's logit at 0, as released"

    def hide_target(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.scatter(1, labels[:, None], 0.0)


@in_full_precision
def average_kept(rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Σ of the rows kept, over all N."""
    return (rows * keep).mean()

"""OFA-KD: every stage learns the teacher's logits (Hao et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fdlab.losses.logits import cross_entropy
from fdlab.losses.maps import as_grid
from fdlab.losses.targets import ofa
from fdlab.methods.adapt import Norm
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.models.output import ModelOutput


class OFA(Method):
    """L = CE + w · ofa(z_s, z_t) + w_stages · Σ_stages ofa(head(F_s), z_t), `ofa` with power ε.

    A head per stage of the student, F after the ReLU: separable convolutions of stride 2, one per
    stage that is left and doubling the channels, the last of them to the wider of the two features
    (a 1×1 convolution at the last stage), mean over positions, linear. Defaults: both weights 1,
    ε = 1, T = 1 (released code); torch's own initialisation, our choice. Of the teacher only the
    logits are read, so neither maps nor widths need to match.
    """

    name = "ofa"
    summary = "teacher's logits at every student stage"
    source = "Hao et al., NeurIPS 2023"
    needs = ("logits",)
    compares = ("kd", "stages")
    strength = ("weight", "stage_weight")

    @dataclass(frozen=True)
    class Options:
        weight: float = 1.0
        stage_weight: float = 1.0
        power: float = 1.0
        temperature: float = 1.0

        def __post_init__(self):
            require_weights(self, "weight", "stage_weight")
            require_positive(self, "power", "temperature")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        stages = sizes.student.pick("stages")
        width = max(sizes.student.width, sizes.teacher.width)
        self.heads = nn.ModuleDict()
        for place, (name, shape) in enumerate(stages.items()):
            channels, left, parts = shape[0], len(stages) - 1 - place, []
            for step in range(left):
                out = width if step == left - 1 else 2 * channels
                parts.append(SeparableConv(channels, out))
                channels = out
            if not left:
                parts.append(nn.Conv2d(channels, width, 1))
            parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, sizes.classes)]
            self.heads[name] = nn.Sequential(*parts)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options, theirs = self.options, teacher.logits.detach()

        def distance(logits: torch.Tensor) -> torch.Tensor:
            return ofa(logits, theirs, batch.labels, options.power, options.temperature)

        stages = [
            distance(head(torch.relu(as_grid(student.find(name)))))
            for name, head in self.heads.items()
        ]
        return {
            "task": cross_entropy(student.logits, batch.labels),
            "kd": options.weight * distance(student.logits),
            "stages": options.stage_weight * torch.stack(stages).sum(),
        }


class SeparableConv(nn.Sequential):
    """Twice a 3×3 convolution per channel, a 1×1 across, batch norm and ReLU; the first halves the
    sides and the second sets the channels."""

    def __init__(self, channels: int, out: int):
        def part(wide: int, stride: int) -> list[nn.Module]:
            along = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
            return [along, nn.Conv2d(channels, wide, 1, bias=False), Norm(wide), nn.ReLU()]

        super().__init__(*part(channels, 2), *part(out, 1))

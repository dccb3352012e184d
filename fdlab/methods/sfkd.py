"""SFKD: maps of unlike networks, compared by filtered frequencies. A reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fdlab.core.errors import name_unknown
from fdlab.losses.features import mse
from fdlab.losses.logits import cross_entropy, kl_divergence
from fdlab.losses.planes import gaussian_fft_loss, info_nce
from fdlab.losses.targets import ofa
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_positive, require_weights
from fdlab.methods.maps import Aligned
from fdlab.methods.refine import Refinement
from fdlab.models.output import ModelOutput
from fdlab.spectral.planes import PASSES, standardise_samples

LOGITS = ("ofa", "kd", "none")
MATCHINGS = ("gaussian", "mse", "infonce")


class SFKD(Method):
    """L = CE + w_z · ofa(z_s, z_t) + γ · Σ_stages d(G_s, G_t) + Σ_stages mean (G_t - F_t)².

    A reconstruction: only SFKD's abstract is public. It says: a multi-level wavelet transform of
    both networks' maps, a dual-stream and dual-stage refinement of the sub-bands, a frequency loss
    under a Gaussian filter, which beats MSE and InfoNCE in its place, and OFA-KD's protocol. All
    else is our choice, each an option where it could matter.

    F are the maps of the last `stages` stages before their ReLU, the student's through a 1×1
    convolution to the teacher's channels and bilinearly to its size (`Aligned`), with mean 0 and
    deviation 1 over each sample. G: Haar's transform, `levels` deep or as deep as the shorter side
    can be halved, the refinement (`Refinement`), and the inverse, standardised likewise; each
    network and stage has a refinement of its own. d compares G. "gaussian": `gaussian_fft_loss` of
    the filter's `width`, in parts of the shorter side, which passes `passes`: no source says which,
    and a relative of the method passes high. "mse": the same with every frequency alike. "infonce":
    `info_nce`. The teacher's refinement learns from the last term alone, to rebuild the teacher's
    own map; trained by d it could give up what the student lacks. Defaults: γ = 1, w_z = 1, width
    1/4, two levels, three stages.

    logits: "ofa" is OFA-KD's loss of the logits with power and temperature 1, without its heads at
    the stages; "kd" the divergence at temperature 1. Without `refine` G is F, as the transform and
    its inverse undo each other; without `dwt` the refinement acts on the map itself as one stream.
    With γ = 0 no map is compared, and nothing is built for it.
    """

    name = "sfkd"
    summary = "filtered spatial frequencies of refined maps (reconstruction)"
    source = "SFKD, arXiv 2607.01906; reconstructed, only the abstract is public"
    needs = ("logits", "stages")
    compares = ("match", "kd")
    strength = ("weight", "logit_weight")

    @dataclass(frozen=True)
    class Options:
        """weight, logit_weight: γ, w_z. temperature: InfoNCE's τ. The others: see the method."""

        weight: float = 1.0
        logit_weight: float = 1.0
        logits: str = "ofa"
        stages: int = 3
        dwt: bool = True
        levels: int = 2
        refine: bool = True
        matching: str = "gaussian"
        width: float = 0.25
        passes: str = "low"
        temperature: float = 0.07

        def __post_init__(self):
            require_weights(self, "weight", "logit_weight")
            require_positive(self, "stages", "levels", "width", "temperature")
            for kind, name, choices in (
                ("loss of the logits", self.logits, LOGITS),
                ("matching loss", self.matching, MATCHINGS),
                ("side that the filter passes", self.passes, PASSES),
            ):
                if name not in choices:
                    raise name_unknown(kind, name, choices)

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        compared = sizes.pair("stages")[-options.stages :] if options.weight else []
        self.aligned = Aligned(sizes, compared)
        self.refine_student, self.refine_teacher = nn.ModuleList(), nn.ModuleList()
        for channels, *sides in self.aligned.shapes if options.refine else ():
            halvings = min((*sides, 1)[:2]).bit_length() - 1
            levels = min(options.levels, halvings) if options.dwt else 0
            self.refine_student.append(Refinement(channels, levels))
            self.refine_teacher.append(Refinement(channels, levels))

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options, theirs = self.options, teacher.logits.detach()
        terms = {"task": cross_entropy(student.logits, batch.labels)}
        if options.logits != "none":
            if options.logits == "ofa":
                distance = ofa(student.logits, theirs, batch.labels)
            else:
                distance = kl_divergence(student.logits, theirs)
            terms["kd"] = options.logit_weight * distance
        matches, rebuilt = [], []
        for place, pair in enumerate(self.aligned(student, teacher)):
            mine, target = (standardise_samples(x) for x in pair)
            if options.refine:
                mine = standardise_samples(self.refine_student[place](mine))
                refined = standardise_samples(self.refine_teacher[place](target))
                rebuilt.append(mse(refined, target))
                target = refined.detach()
            matches.append(self.match(mine, target))
        if matches:
            terms["match"] = options.weight * torch.stack(matches).sum()
        if rebuilt:
            terms["rebuilt"] = torch.stack(rebuilt).sum()
        return terms

    def match(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        options = self.options
        if options.matching == "gaussian":
            return gaussian_fft_loss(student, teacher, options.width, options.passes)
        if options.matching == "infonce":
            return info_nce(student, teacher, options.temperature)
        return mse(student, teacher)

    @property
    def teacher_maps(self) -> set[str]:
        return self.aligned.teacher_maps

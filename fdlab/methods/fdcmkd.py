"""FD-CMKD: frequency-decoupled cross-modal distillation (AAAI 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from fdlab.core.errors import UserError, name_unknown
from fdlab.data.dataset import SCORED
from fdlab.losses.features import logmse, mse, require_reduction, unit_distance
from fdlab.methods.adapt import match_width
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.pixels import flatten_positions
from fdlab.models.output import ModelOutput
from fdlab.models.precision import in_full_precision, widen
from fdlab.spectral.bands import DC_RULES, BandSplit, count_low_bins, split_bands
from fdlab.spectral.bases import require_basis
from fdlab.spectral.planes import split_space

BANDS = ("both", "low", "high")
AXES = ("channel", "space")


class FDCMKD(Method):
    """L = L_task + L_align + λ1 L_low + λ2 L_high (FD-CMKD, equations of section 3; released code).

    With X the pooled pre-ReLU feature (N, D), X_low and X_high its bands over the channels
    (`split_bands`), u = X / max(‖X‖, 1e-8) per sample, σ(x) = sign(x) log(1 + |x|), W the
    network's own head, and Ψ, Φ linear heads on ReLU of the un-normalised bands:

        L_task  = CE(W f_s) + CE(Ψ_low X_low^s) + CE(Ψ_high X_high^s)
        L_align = Σ over low, high of CE(Φ X^s) + CE(Φ X^t), one Φ per band for both sides
        L_low   = mean (u_low^t - u_low^s)²          mean over N · D
        L_high  = mean (σ(u_high^t) - σ(u_high^s))²

    The align heads train on the teacher's bands too, but no gradient reaches the teacher. Each part
    switches off: `frequency` (off: the whole feature is one band), `align`, `scale`, `log`. All
    four off is `feat`. `log` and `log_low` choose the pair of losses of Table 6, `bands` the rows
    of Table 8. Where the source is silent, our choice: without `frequency` there are no Ψ heads,
    and alignment, scale and log act on the whole feature, weighted by `low_weight`; a band that
    `bands` leaves out has neither distance nor heads; a student of another width than its teacher's
    is projected first (`match_width`), and all of the above acts on the projection. `basis`
    replaces the Fourier split (`spectral.bases`), which is a control of ours.

    In segmentation X are the last encoder map's channels at each of its positions, N counts those,
    and the heads' scores are enlarged to the pixels. Neither the map nor the axis of the transform
    is given by the paper: `axis` "channel" is our default, "space" splits every channel by spatial
    frequency instead (`split_space`) and standardises at each position all the same. The paper
    leaves the alignment out there, and so does the default.
    """

    name = "fdcmkd"
    summary = "frequency-decoupled features with alignment, scale and log steps"
    source = "FD-CMKD, AAAI 2026"
    tasks = SCORED
    needs = ("feature",)
    compares = ("low", "high", "feature")
    strength = ("low_weight", "high_weight")
    dense_options: ClassVar[dict[str, Any]] = {"align": False}  # the paper's segmentation has none

    @dataclass(frozen=True)
    class Options:
        """log, log_low: σ on the high and on the low band. low_weight, high_weight: λ1, λ2. cutoff:
        fraction of the bins that are low. dc: see `split_bands` ("own" leaves it out of both
        bands). bands: "both", "low" or "high". basis, basis_seed: see `split_bands`. reduction:
        over D, "mean" or "sum". axis: of the transform; "space" needs segmentation."""

        frequency: bool = True
        align: bool = True
        scale: bool = True
        log: bool = True
        log_low: bool = False
        low_weight: float = 1.0
        high_weight: float = 1.0
        cutoff: float = 0.5
        dc: str = "drop"
        bands: str = "both"
        basis: str = "dft"
        basis_seed: int = 0
        reduction: str = "mean"
        axis: str = "channel"

        def __post_init__(self):
            if self.axis not in AXES:
                raise name_unknown("axis", self.axis, AXES)
            if self.axis == "space" and not (self.frequency and self.basis == "dft"):
                raise UserError("axis is 'space': expected frequency on and the basis dft")
            if self.dc not in DC_RULES:
                raise name_unknown("rule for the DC", self.dc, DC_RULES)
            if self.bands not in BANDS:
                raise name_unknown("choice of bands", self.bands, BANDS)
            if not self.frequency and self.bands != "both":
                raise UserError(f"bands is {self.bands!r}, and without frequency there are none")
            require_basis(self.basis)
            require_reduction(self.reduction)
            require_weights(self, "low_weight", "high_weight")
            count_low_bins(2, self.cutoff)  # refuses a cut-off outside 0 to 1
            if self.cutoff == 0 and self.dc != "low":
                raise UserError(f"cutoff is {self.cutoff}: expected above 0, else low is empty")

    @classmethod
    def check_task(cls, task: str, options: Options) -> None:
        if options.axis == "space" and task != "segmentation":
            raise UserError(f"axis is 'space': expected segmentation, not {task}")

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        bands = ("low", "high") if options.bands == "both" else (options.bands,)
        bands = bands if options.frequency else ("whole",)
        width = sizes.student.width if sizes.teacher is None else sizes.teacher.width

        def heads():
            return nn.ModuleDict({b: nn.Linear(width, sizes.classes) for b in bands})

        self.task_heads = heads() if options.frequency else nn.ModuleDict()
        self.align_heads = heads() if options.align else nn.ModuleDict()
        self.projector = match_width(sizes)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        mine = self.split(self.projector(student.feature), student)
        theirs = self.split(teacher.feature.detach(), student)
        terms = self.classify(student, mine, theirs, batch)
        for band in mine:
            bent = options.log_low if band == "low" else options.log
            weight = options.high_weight if band == "high" else options.low_weight
            name = "feature" if band == "whole" else band
            pair = (mine[band], theirs[band])
            if options.scale:
                distance = unit_distance(*pair, bent, options.reduction)
            else:
                distance = (logmse if bent else mse)(*pair, options.reduction)
            terms[name] = weight * distance
        return terms

    def split(self, feature: torch.Tensor, student: ModelOutput) -> dict[str, torch.Tensor]:
        """Band name → (N, D), in float32 where the feature is less.

        student: whose last map says how the features' rows lie in space.
        """
        if not self.options.frequency:
            return {"whole": widen(feature)}
        options = self.options
        if options.axis == "space":
            return self.keep_bands(self.split_space(feature, student))
        split = split_bands(
            feature, options.cutoff, options.dc, basis=options.basis, seed=options.basis_seed
        )
        return self.keep_bands(split)

    def split_space(self, feature: torch.Tensor, student: ModelOutput) -> BandSplit:
        """`split_space` of rows that are positions of the last map."""
        (last,) = self.sizes.student.pick("last")
        count, _, height, width = student.maps[last].shape
        if height * width == 1:
            raise UserError("axis is 'space', and the last map has one position: expected more")
        maps = feature.view(count, height, width, -1).permute(0, 3, 1, 2)
        split = split_space(maps, self.options.cutoff, self.options.dc)
        return BandSplit(flatten_positions(split.low), flatten_positions(split.high))

    def keep_bands(self, split: BandSplit) -> dict[str, torch.Tensor]:
        """The bands that take part."""
        bands = {"low": split.low, "high": split.high}
        return {b: x for b, x in bands.items() if self.options.bands in ("both", b)}

    def classify(
        self,
        student: ModelOutput,
        mine: dict[str, torch.Tensor],
        theirs: dict[str, torch.Tensor],
        batch: Batch,
    ) -> LossTerms:
        """Every cross-entropy: L_task and L_align; theirs is empty without a teacher.

        The heads of one band and side are one matrix product, and all of them one cross-entropy.
        """
        scores = {"task": student.logits}
        for band, x in mine.items():
            kinds = {
                kind: heads[band]
                for kind, heads in (("task", self.task_heads), ("align", self.align_heads))
                if band in heads
            }
            found = score_heads(x, list(kinds.values()))
            scores |= {f"{k}_{band}": batch.spread(z) for k, z in zip(kinds, found, strict=True)}
        if self.align_heads:
            for band, x in theirs.items():
                (found,) = score_heads(x, [self.align_heads[band]])
                scores[f"align_{band}_teacher"] = batch.spread(found)
        losses = cross_entropies(torch.stack([widen(z) for z in scores.values()]), batch.labels)
        return dict(zip(scores, losses.unbind(), strict=True))

    def predict(self, student: ModelOutput) -> dict[str, torch.Tensor]:
        """The raw head, and with `frequency` the band heads Ψ as "low" and "high"."""
        bands = self.split(self.projector(student.feature), student)
        extra = {b: head(torch.relu(bands[b])) for b, head in self.task_heads.items()}
        return {"raw": student.logits} | extra


def score_heads(x: torch.Tensor, heads: list[nn.Linear]) -> tuple[torch.Tensor, ...]:
    """(N, K) logits of each linear head on ReLU of a band (N, D)."""
    if not heads:
        return ()
    weight = torch.cat([head.weight for head in heads])
    bias = torch.cat([head.bias for head in heads])
    return nn.functional.linear(torch.relu(x), weight, bias).chunk(len(heads), dim=1)


@in_full_precision
def cross_entropies(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(H, N, K), (N,) → (H,) CE of each head, mean over the batch."""
    own = labels[None, :, None].expand(len(scores), -1, 1)
    return -scores.log_softmax(dim=2).gather(2, own).mean(dim=(1, 2))

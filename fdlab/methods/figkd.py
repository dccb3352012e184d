"""FiGKD: wavelet details of the logits (arXiv 2505.11897). A reconstruction: no code is public."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fdlab.core.errors import UserError, name_unknown
from fdlab.losses.logits import BANDS, DISTANCES, cross_entropy, wavelet_distance
from fdlab.methods.base import Batch, LossTerms, Method, Sizes, require_weights
from fdlab.methods.mlkd import MLKD, ReleasedMLKD
from fdlab.models.output import ModelOutput
from fdlab.spectral.grids import choose_grid, order_classes
from fdlab.spectral.wavelets import decompose, require_transform

BASES = {"ce": None, "mlkd": MLKD, "mlkd_released": ReleasedMLKD}
ORDERS = ("label", "random")


class FiGKD(Method):
    """L = α L_base + β Σ_{LH, HL, HH} mean |W(z_t) - W(z_s)|^p, W the one-level Haar transform of
    the logits as the most nearly square grid (`wavelet_distance`, `choose_grid`).

    A reconstruction: neither code nor weights nor the distance are public. The source says: raw
    logits (no softmax, no temperature), Haar, one level, LL discarded, a distance per sample and
    band, averaged over the batch, L = α CE + β L_detail, one α and β for everything. Our choice,
    each an option: p = 1 ("l1", that of the wavelet losses it builds on), zeros beyond the grid's
    edges, α = β = 1. Of even sides the edges do not matter; an odd one ends in half-empty blocks.
    A single row (a prime number of classes) has no neighbours down its columns: LH is then LL
    again and HH is HL, so that the low band is distilled as well; `bands` "HL" leaves it out.

    base: "ce" is that equation as it stands. "mlkd" has MLKD's loss, its weights included, in the
    place of the cross-entropy, and its two views of every sample: with β = 0 it is MLKD, whose rows
    the paper's own ablation prints for "neither band". "mlkd_released": the same as MLKD was
    released. That α multiplies all of it is our reading; the sum figkd+mlkd adds MLKD's other
    terms to the equation and counts the plain view's cross-entropy once. two_view: the details
    of the stronger view are added, and with "ce" its cross-entropy; else the details are the plain
    view's alone.

    The grid's neighbours are whatever the order of the labels makes them. order "random" is the
    control: one fixed order of the classes, from order_seed, for both networks. It moves nothing
    where all four bands are compared by "l2", which is the distance of the logits.
    """

    name = "figkd"
    summary = "wavelet details of the logits as a grid (reconstruction)"
    source = "FiGKD, arXiv 2505.11897; reconstructed, no code is public"
    needs = ("logits",)
    compares = ("details", "details_strong", "kd", "class", "batch")
    strength = ("beta",)

    @dataclass(frozen=True)
    class Options:
        """alpha, beta: α, β. bands: those compared, of LL, LH, HL and HH, with + between; LL is the
        last level's. distance: "l1" or "l2". wavelet, levels, mode: see `decompose`. base,
        two_view, order, order_seed: see the method."""

        alpha: float = 1.0
        beta: float = 1.0
        bands: str = "LH+HL+HH"
        distance: str = "l1"
        wavelet: str = "haar"
        levels: int = 1
        mode: str = "zero"
        base: str = "ce"
        two_view: bool = False
        order: str = "label"
        order_seed: int = 0

        def __post_init__(self):
            require_weights(self, "alpha", "beta")
            require_transform(self.wavelet, self.levels, self.mode)
            if self.split_bands() != tuple(b for b in BANDS if b in self.split_bands()):
                raise UserError(
                    f"bands is {self.bands!r}: expected some of LL, LH, HL and HH, each once "
                    "and in this order, such as LH+HL+HH"
                )
            for kind, name, choices in (
                ("distance", self.distance, DISTANCES),
                ("base", self.base, BASES),
                ("order of the classes", self.order, ORDERS),
            ):
                if name not in choices:
                    raise name_unknown(kind, name, choices)

        def split_bands(self) -> tuple[str, ...]:
            return tuple(self.bands.split("+"))

    def __init__(self, sizes: Sizes, options: Options):
        super().__init__(sizes, options)
        kind = BASES[options.base]
        self.base = kind and kind(sizes, kind.Options())
        self.views = 2 if self.base or options.two_view else 1
        # A mode that cannot extend this grid is refused now, and not at the first batch.
        decompose(
            torch.zeros(1, 1, *choose_grid(sizes.classes)),
            options.wavelet,
            options.levels,
            options.mode,
        )
        order = None
        if options.order == "random":
            order = torch.from_numpy(order_classes(sizes.classes, options.order_seed))
        self.register_buffer("order", order, persistent=False)

    def forward(self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch) -> LossTerms:
        options = self.options
        views = {"": (student, teacher)}
        if options.two_view:
            views["_strong"] = student.second, teacher.second
        if self.base is None:
            terms = {
                f"task{view}": cross_entropy(mine.logits, batch.labels)
                for view, (mine, _) in views.items()
            }
        else:
            terms = self.base(student, teacher, batch)
        terms = {name: options.alpha * term for name, term in terms.items()}
        for view, (mine, theirs) in views.items():
            distance = self.compare(mine.logits, theirs.logits.detach())
            terms[f"details{view}"] = options.beta * distance
        return terms

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The distance of the two networks' logits (N, K)."""
        options, pair = self.options, (student, teacher)
        if self.order is not None:
            pair = tuple(z.index_select(1, self.order) for z in pair)
        return wavelet_distance(
            *pair,
            options.split_bands(),
            options.distance,
            options.wavelet,
            options.levels,
            options.mode,
        )

"""How tables print a paired difference, and which of their rows they set apart."""

from __future__ import annotations

import math

import numpy as np

from fdlab.figures.latex import BEST_MARK, SECOND_MARK
from fdlab.studies.contrast import Contrast
from fdlab.studies.ranking import BEST, SECOND
from fdlab.studies.stats import MOST_SEEDS

MARKS = {BEST: BEST_MARK, SECOND: SECOND_MARK, "": ""}


def explain_marks(convention: str) -> str:
    """What MARKS mean under a convention of `ranking.mark_rows`."""
    if convention == "paper":
        return "** (bold) and * (underlined): the two highest means, whether or not they hold."
    return (
        "** (bold): better than every row; * (underlined): than every lower row; by the "
        "hierarchical bootstrap, "
        "Holm-corrected, 5 %."
    )


def describe_contrast(contrast: Contrast) -> dict[str, str]:
    """Column → text of a paired difference."""
    cells = {
        "difference": contrast.seeds.format(1, sign=True),
        "over samples": contrast.samples.format(1, sign=True),
        "over both": contrast.both.format(1, sign=True),
        "Holm p": "" if math.isnan(contrast.holm) else f"{contrast.holm:.3f}",
    }
    if contrast.seeds.known:
        cells["sign-flip p"] = f"{contrast.flips:.3f}"
    if len(contrast.mcnemar):
        cells["McNemar"] = f"{int((contrast.mcnemar < 0.05).sum())}/{len(contrast.mcnemar)}"
    if np.isfinite(contrast.detectable):
        cells["detectable"] = f"{contrast.detectable:.1f}"
        far = contrast.needed >= MOST_SEEDS
        cells["seeds for 1 point"] = f"over {MOST_SEEDS}" if far else str(contrast.needed)
    return cells


def explain_contrast(versus: str) -> str:
    return (
        f"Difference: points above {versus}, paired by seed, 95 % interval over seeds; over the "
        f"test samples; over both (hierarchical bootstrap, too short with few seeds) with Holm's p "
        f"over the table; the exact sign-flip test over seeds. McNemar: seeds whose runs differ "
        f"at 5 % on the same samples. "
        f"Detectable: the smallest true difference that a paired t-test on these seeds finds with "
        f"80 % power; then the seeds that a difference of one point would need."
    )

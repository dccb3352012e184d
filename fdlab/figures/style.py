"""One style, one colour table, the column widths of the venues."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

import matplotlib
import matplotlib.style
import numpy as np

from fdlab.core.config import Direction
from fdlab.core.errors import name_unknown


@dataclass(frozen=True)
class Venue:
    """Widths in inches of a single column and of the whole text."""

    column: float
    text: float


VENUES = {
    "aaai": Venue(3.3, 7.0),
    "cvpr": Venue(3.25, 6.875),
    "icml": Venue(3.25, 6.75),
    "neurips": Venue(5.5, 5.5),
}

# Okabe and Ito's colours for methods, Tol's muted ones for modalities; both tell apart under the
# common colour deficiencies. Markers carry the same information in print without colour.
METHOD_COLORS = {
    "none": "#333333",
    "kd": "#E69F00",
    "feat": "#56B4E9",
    "heads_only": "#009E73",
    "fdcmkd": "#D55E00",
}
METHOD_MARKERS = {"none": "o", "kd": "s", "feat": "^", "heads_only": "D", "fdcmkd": "v"}
METHOD_NAMES = {
    "none": "No distillation",
    "kd": "Logit KD",
    "feat": "Feature MSE",
    "heads_only": "Heads, no teacher",
    "fdcmkd": "FD-CMKD",
}
# What a method compares (`find_family`), with the words of a legend.
FAMILIES = {
    "none": ("#333333", "no teacher"),
    "logits": ("#E69F00", "logits"),
    "feature": ("#0072B2", "pooled feature"),
    "maps": ("#009E73", "feature maps"),
    "peers": ("#CC79A7", "teacher trains too"),
}
MODALITY_COLORS = {
    "audio": "#332288",
    "image": "#CC6677",
    "visual": "#CC6677",
    "text": "#117733",
    "first": "#332288",
    "second": "#CC6677",
}
SPARE = ("#0072B2", "#CC79A7", "#999933", "#882255", "#44AA99")
INK = "#222222"
CLASS_ORDER = (*range(0, 20, 2), *range(1, 20, 2))  # strong colours first, then their light kin
CONTROL = "#0072B2"  # whatever a control predicts or reaches
# Loss terms: the raw head grey, band heads orange, align heads blue, distances green and red; the
# low band's line is whole, the high band's broken.
TERM_STYLES = {
    "task": ("#777777", "-"),
    "task_low": ("#E69F00", "-"),
    "task_high": ("#E69F00", "--"),
    "align_low": ("#56B4E9", "-"),
    "align_high": ("#56B4E9", "--"),
    "low": ("#009E73", "-"),
    "high": ("#D55E00", "--"),
}
TERM_NAMES = {
    "task": "raw head",
    "task_low": "low head",
    "task_high": "high head",
    "align_low": "low align",
    "align_high": "high align",
    "low": "low distance",
    "high": "high distance",
}
# Nulls of the similarity study: Tol's bright scheme, with the words of a legend.
NULLS = {
    "shuffled": ("#4477AA", "pairs shuffled"),
    "in_class": ("#66CCEE", "pairs shuffled in class"),
    "one_side": ("#CCBB44", "channels of one side permuted"),
    "reordered": ("#AA3377", "channels of both in one random order"),
    "random": ("#228833", "random split, constant apart"),
    "free": ("#99C18B", "random split, constant not apart"),
    "untrained": ("#BBBBBB", "untrained networks"),
}
BAND_COLORS = {
    "raw": "#555555",
    "low+dc": "#117733",
    "low": "#0072B2",
    "dc": "#999933",
    "high": "#D55E00",
}
BAND_NAMES = {"raw": "raw", "low+dc": "low + DC", "low": "low", "dc": "DC", "high": "high"}
VERDICT_COLORS = {
    "agrees": "#117733",
    "differs": "#882255",
    "control matches it": "#0072B2",
    "inconclusive": "#777777",
    "not run": "#8c8c8c",
}


CLASS_COLORS = np.array(
    [matplotlib.colormaps[name](i)[:3] for name in ("tab20", "tab20b") for i in CLASS_ORDER]
    + [(0.0, 0.0, 0.0)]
)


def find_venue(name: str) -> Venue:
    if name not in VENUES:
        raise name_unknown("venue", name, VENUES)
    return VENUES[name]


def color_method(method: str) -> str:
    return METHOD_COLORS.get(method, _spare(method))


def color_modality(modality: str) -> str:
    return MODALITY_COLORS.get(modality, _spare(modality))


def color_classes(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(h, w) classes → (h, w, 3) colours in 0 to 1, 255 (no class) black.

    palette: (K, 3) uint8 of the data set's own; where it is empty, forty colours, the lighter and
    darker of twenty hues, beyond which they repeat. No forty can be told apart under every colour
    deficiency; tables carry the numbers by name.
    """
    colours = np.vstack([palette / 255, np.zeros((1, 3))]) if len(palette) else CLASS_COLORS
    return colours[np.where(mask == 255, len(colours) - 1, mask % (len(colours) - 1))]


def mark_method(method: str) -> str:
    return METHOD_MARKERS.get(method, "P")


def name_method(method: str) -> str:
    return METHOD_NAMES.get(method, method)


def find_dot(count: int) -> str:
    """The marker of a curve: none, or a dot where one point alone would be no line."""
    return "" if count > 1 else "."


def arrow(direction: str) -> str:
    """audio2image → audio→image."""
    return "→".join(Direction.split(direction))


def plain(text: str) -> str:
    """Words from data (a class, a sentence) as Matplotlib prints them letter by letter: it would
    read what stands between two dollar signs as mathematics, and fail where it is none."""
    return text.replace("$", r"\$")


@contextmanager
def styled():
    """The project's style inside the block; Matplotlib's settings are as before afterwards."""
    path = resources.files(__package__).joinpath("fdlab.mplstyle")
    with resources.as_file(path) as file, matplotlib.style.context([str(file)]):
        yield


def _spare(name: str) -> str:
    return SPARE[sum(name.encode()) % len(SPARE)]

"""Drawings of `studies.logits`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from fdlab.figures.embedding import CLASS_COLORS
from fdlab.figures.marks import describe_contrast, explain_contrast
from fdlab.figures.plate import Plate, Table
from fdlab.figures.sensitivity import describe_spread, draw_cells
from fdlab.figures.style import CONTROL, INK, METHOD_COLORS, find_venue, plain
from fdlab.studies.embedding import NEIGHBOURS
from fdlab.studies.logits import KD, NONE, ROWS, Band, Logits, read_published
from fdlab.studies.parts import (
    GRAFT,
    HIGH,
    LABEL,
    LOW,
    PEAKED,
    RANDOM,
    REVERSE,
    SOURCES,
    STUDENT,
    TEACHER,
    WHOLE,
    Part,
)

NETWORK_COLORS = {TEACHER: "#0072B2", STUDENT: "#D55E00"}
NETWORK_LINES = {TEACHER: "-", STUDENT: (0, (3, 1))}
SOURCE_LOOKS = {LABEL: ("o", INK), RANDOM: ("s", "#0072B2"), PEAKED: ("x", "#D55E00")}
CEILING = "#009E73"
PART_WORDS = {WHOLE: "all", LOW: "low part", HIGH: "details"}
# Rows of the figure of accuracies, from the top.
LINES = {
    **{(network, part): f"{network}, {words}"
       for network in (TEACHER, STUDENT) for part, words in PART_WORDS.items()},
    (GRAFT, WHOLE): "student's low, teacher's details",
    (REVERSE, WHOLE): "teacher's low, student's details",
}  # fmt: skip
METHOD_WORDS = {NONE: "no distillation", KD: "KD", "figkd": "FiGKD"}


def draw_sample(axes, result: Logits, place: int) -> None:
    """One row of three panels: the logits, their low part and their details, over the classes."""
    sample = result.parts.samples[place]
    marks = np.arange(len(result.classes))
    for axis, part in zip(axes, PART_WORDS, strict=True):
        for network, parts in ((TEACHER, sample.teacher), (STUDENT, sample.student)):
            axis.plot(marks, parts[part], color=NETWORK_COLORS[network], linewidth=0.7,
                      linestyle=NETWORK_LINES[network])  # fmt: skip
            axis.plot(sample.label, parts[part][sample.label], "o", markersize=3.5,
                      color=NETWORK_COLORS[network], markerfacecolor="white")  # fmt: skip
        axis.axvline(sample.label, color=INK, linewidth=0.6, linestyle=":", zorder=0)
        axis.set_xlim(-1, len(marks))
        axis.margins(y=0.12)
    name = plain(result.classes[sample.label])
    axes[0].set_ylabel(f"{name}\n\nlogit", fontsize=7, linespacing=0.7)


def draw_parts(axis, result: Logits, family: bool) -> None:
    """Accuracy of each part alone, a mark for each source; the interval of the label order."""
    for place, key in enumerate(LINES):
        for offset, source in zip((-0.22, 0, 0.22), SOURCES, strict=True):
            found = result.parts.find(*key, source)
            if not _moves(*key, source):
                continue
            value = found.family if family else found.accuracy
            marker, color = SOURCE_LOOKS[source]
            axis.plot([value.low, value.high], [place + offset] * 2, color=color, linewidth=1)
            axis.plot(value.mean, place + offset, marker, color=color, markersize=3.5)
            if key[1] == LOW:
                order = RANDOM if source == RANDOM else LABEL
                top = result.parts.ceilings[order][int(family)]
                ends = [place + offset - 0.13, place + offset + 0.13]
                axis.plot([top] * 2, ends, color=CEILING, linewidth=1.2)
    chance = 100 / len(set(result.families)) if family else result.parts.chance
    axis.axvline(chance, color=INK, linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(LINES)), LINES.values())
    axis.set_ylim(len(LINES) - 0.4, -0.6)
    axis.set_xlim(-2, 102)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")
    axis.set_xlabel("family right (%)" if family else "class right (%)")


def draw_bands(axis, result: Logits, pair: str) -> None:
    """Points above neither band: interval over seeds and samples, each seed as a dot."""
    bands = [band for band in result.collect(pair) if band.name != NONE]
    base = result.find(pair, NONE).values
    for place, band in enumerate(bands):
        gain = band.versus_none.both
        color = METHOD_COLORS["fdcmkd"] if band.name in ROWS else CONTROL
        axis.errorbar(gain.mean, place, xerr=[[gain.mean - gain.low], [gain.high - gain.mean]],
                      color=color, fmt="o", markersize=4, linewidth=1.2)  # fmt: skip
        seeds = band.values - base
        axis.plot(seeds, np.full(len(seeds), place + 0.28), ".", color=color, markersize=3)
    axis.axvline(0, color=INK, linewidth=0.7)
    axis.set_yticks(range(len(bands)), [band.words for band in bands])
    axis.set_ylim(len(bands) - 0.4, -0.5)
    axis.set_xlabel("points above neither band")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_picture(axis, result: Logits, place: int) -> None:
    """t-SNE points of one student, coloured by family, or by class where there are none."""
    panel, found = result.clusters.panels[place], result.clusters
    points = panel.points.astype(float)
    colors = [CLASS_COLORS[group % len(CLASS_COLORS)] for group in found.groups]
    axis.scatter(*points.T, c=colors, s=2.5, linewidths=0, antialiased=False)
    wide, high = _find_frame(result)
    axis.set_xlim(-1.05 * wide, 1.05 * wide)
    axis.set_ylim(-1.05 * high, 1.05 * high)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(True)
    purity = found.purities[panel.method][result.seeds.index(panel.seed)]
    axis.set_xlabel(f"purity {purity:.2f}, trustworthiness {panel.trustworthiness:.3f}", fontsize=7)


def _find_frame(result: Logits) -> tuple[float, float]:
    """Half the width and half the height of all pictures, since the alignment gave them one
    size."""
    ends = [np.abs(p.points.astype(float)).max(axis=0) for p in result.clusters.panels]
    wide, high = np.max(ends, axis=0)
    return float(wide), float(high)


def plates(result: Logits, venue: str = "aaai") -> dict[str, Plate]:
    return {
        "samples": _draw_samples(result, venue),
        "parts": _draw_parts(result, venue),
        "bands": _draw_bands(result, venue),
        "grid": _draw_grid(result, venue),
        "tsne": _draw_pictures(result, venue),
    }


def _draw_samples(result: Logits, venue: str) -> Plate:
    count = len(result.parts.samples)

    def paint(axes) -> None:
        for row in range(count):
            draw_sample(axes[row], result, row)
        for axis, words in zip(axes[0], ("logits", "low part", "details"), strict=True):
            axis.set_title(words)
        for axis in axes[-1]:
            axis.set_xlabel("class")
        handles = [
            Line2D([], [], color=color, linestyle=NETWORK_LINES[network], linewidth=0.9,
                   marker="o", markersize=3.5, markerfacecolor="white", label=name)
            for (network, color), name in zip(
                NETWORK_COLORS.items(), _name_networks(result), strict=True)
        ]  # fmt: skip
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=0.8, label="true class"))
        axes[0, 0].figure.legend(handles=handles, loc="outside upper center", ncols=3)

    return Plate.draw(paint, venue, height=0.7 + 1.15 * count, wide=True, rows=count, columns=3,
                      sharex=True, sharey="row")  # fmt: skip


def _name_networks(result: Logits) -> list[str]:
    names = result.pairs[0].split("-")
    return [f"{role} ({name})" for role, name in zip((TEACHER, STUDENT), names, strict=True)]


def _draw_parts(result: Logits, venue: str) -> Plate:
    sides = [False, True] if result.families else [False]

    def paint(axes) -> None:
        for axis, family in zip(axes[0], sides, strict=True):
            draw_parts(axis, result, family)
        handles = [
            Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1, label=words)
            for (marker, color), words in zip(SOURCE_LOOKS.values(), SOURCES.values(), strict=True)
        ]
        handles += [
            Line2D([], [], color=CEILING, linewidth=1.2, label="true block named"),
            Line2D([], [], color=INK, linestyle=":", linewidth=0.8, label="chance"),
        ]
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center",
                                 ncols=5 if len(sides) > 1 else 2)  # fmt: skip

    return Plate.draw(paint, venue, height=3.0 if len(sides) > 1 else 3.4, wide=len(sides) > 1,
                      columns=len(sides), sharey=True)  # fmt: skip


def _draw_bands(result: Logits, venue: str) -> Plate:
    columns = min(2, len(result.pairs))
    lines = -(-len(result.pairs) // columns)
    count = len(result.collect(result.pairs[0])) - 1

    def paint(axes) -> None:
        for axis in axes.flat[len(result.pairs) :]:
            axis.set_axis_off()
        for axis, pair in zip(axes.flat, result.pairs, strict=False):
            draw_bands(axis, result, pair)
            axis.set_title(f"{pair}, base {result.base}")

    return Plate.draw(paint, venue, height=lines * (0.75 + 0.22 * count), wide=columns > 1,
                      rows=lines, columns=columns, sharey=True)  # fmt: skip


def _draw_grid(result: Logits, venue: str) -> Plate:
    def paint(axes) -> None:
        axis = axes[0, 0]
        draw_cells(axis, result.grid, result.alphas, result.betas)
        axis.set_xlabel("β, weight of the details")
        axis.set_ylabel("α, weight of the base")
        axis.set_title(
            f"{result.grid.direction}, base {result.base}: {describe_spread(result.grid)}"
        )

    cell = min(0.65, 2.3 / len(result.betas))  # inches; cells are square
    return Plate.draw(paint, venue, height=1.0 + cell * len(result.alphas))


def _draw_pictures(result: Logits, venue: str) -> Plate:
    """KD above, FiGKD below, a column for each seed."""
    found = result.clusters
    methods = list(dict.fromkeys(panel.method for panel in found.panels))
    columns = len(found.panels) // len(methods)

    def paint(axes) -> None:
        for place in range(len(found.panels)):
            draw_picture(axes.flat[place], result, place)
        for row, method in enumerate(methods):
            axes[row, 0].set_ylabel(METHOD_WORDS[method])
        for axis, panel in zip(axes[0], found.panels, strict=False):
            axis.set_title(f"{result.pairs[0]}, seed {panel.seed}")
        colours = "family" if result.families else "class"
        axes[0, 0].figure.supxlabel(
            f"FiGKD: base {result.base}. Colour: {colours}. Purity: neighbours of the same\nclass "
            f"in the original space, {found.chance:.2f} by chance.",
            fontsize=7,
        )

    wide, high = _find_frame(result)
    side = (find_venue(venue).column - 0.3) / columns * high / wide
    return Plate.draw(paint, venue, height=0.6 + (side + 0.3) * len(methods), rows=len(methods),
                      columns=columns)  # fmt: skip


def tables(result: Logits) -> dict[str, Table]:
    where = f"{result.dataset} (preset {result.preset}), {_count(result.seeds)}, n = {result.n}"
    parts, one = result.parts, result.pairs[0]
    about_parts = (
        f"How often one part of the logits alone names the class of test samples on {where}, "
        f"{one}, 95 % intervals over seeds and samples. Grid {parts.grid[0]}×{parts.grid[1]}, "
        f"Haar, one level. Where several classes tie at the top, the expected value of one of them "
        f"drawn at random: in a block of four a quarter, so that the low part can reach "
        f"{parts.ceiling:.1f} %; chance {parts.chance:.1f} %."
        f"{_describe_families(result)} Random class orders, and noise with each sample's own "
        f"peak, are means over draws. Of the two networks' squared difference "
        f"{parts.share.mean():.1f} % is in the details, in random class orders "
        f"{parts.share_random.mean():.1f} % ({parts.share_random.min():.1f} to "
        f"{parts.share_random.max():.1f})."
    )
    about_bands = (
        f"FiGKD's Table VI on {where}, base {result.base}, 95 % intervals: accuracy over seeds; "
        f"differences in points, paired, over seeds and samples; p is Holm-corrected over a pair's "
        f"rows. Permuted: the classes' places on the grid in a random order. The last columns are "
        f"the paper's own numbers, means of three runs; the row of neither band is there what MLKD "
        f"reaches, here what the base alone does."
    )
    grid = result.grid
    about_grid = (
        f"Test accuracy (%) of FiGKD over α and β on {result.dataset} (preset {result.preset}), "
        f"{_count(result.grid_seeds)}, n = {result.n}, {one}, base {result.base}; no distillation "
        f"{grid.none.mean():.1f}. Spread {grid.spread:.1f} points, for the samples alone "
        f"{grid.noise[0]:.1f} to {grid.noise[1]:.1f}: the 95 % range if every pair of weights were "
        f"equally good, from dealing the pairs' answers to each sample out anew; what another seed "
        f"changes comes on top."
    )
    about_purity = (
        f"Test features of the student on {where}, {one}, base {result.base}: part of the "
        f"{NEIGHBOURS} nearest samples (cosine) of the same class, in the original space; "
        f"{result.clusters.chance:.3f} by chance. 95 % intervals over seeds and over samples."
    )
    bands = [_describe(result, band) for band in result.bands]
    rows = [
        {"pair": band.pair, "row": band.words} | describe_contrast(band.versus_none)
        for band in result.bands
        if band.name != NONE
    ]
    versus = f"Every row against neither band on {where}, base {result.base}. "
    return {
        "parts": Table(
            pd.DataFrame([_row(p) for p in parts.parts if _moves(p.network, p.part, p.source)]),
            about_parts,
        ),
        "bands": Table(pd.DataFrame(bands).fillna(""), about_bands),
        "contrasts": Table(
            pd.DataFrame(rows).fillna(""), versus + explain_contrast("neither band")
        ),
        "grid": Table(
            pd.DataFrame(
                [
                    {"α": f"{alpha:g}"}
                    | {f"β = {b:g}": f"{grid.means[i, j]:.1f}" for j, b in enumerate(result.betas)}
                    for i, alpha in enumerate(result.alphas)
                ]
            ),
            about_grid,
        ),
        "purity": Table(pd.DataFrame(_list_purities(result)), about_purity),
    }


def _count(seeds: list[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"


def _describe_families(result: Logits) -> str:
    if not result.families:
        return ""
    label, random = (result.parts.ceilings[order][1] for order in (LABEL, RANDOM))
    count = len(set(result.families))
    return (
        f" Of the {count} families a low part that names the true block reaches {label:.1f} % in "
        f"the order of the labels and {random:.1f} % in random ones."
    )


def _moves(network: str, part: str, source: str) -> bool:
    """Whether a source differs from the order of the labels; all of a network's logits do not
    depend on the classes' order."""
    return (part, source) != (WHOLE, RANDOM) or network not in NETWORK_COLORS


def _row(part: Part) -> dict[str, str]:
    words = {GRAFT: LINES[GRAFT, WHOLE], REVERSE: LINES[REVERSE, WHOLE]}
    cells = {
        "logits": words.get(part.network, part.network),
        "part": PART_WORDS[part.part],
        "of": SOURCES[part.source],
        "class right (%)": part.accuracy.format(1),
    }
    return cells | ({"family right (%)": part.family.format(1)} if part.family else {})


def _describe(result: Logits, band: Band) -> dict[str, str]:
    full = band.name == "high"
    cells = {
        "pair": band.pair,
        "row": band.words,
        "accuracy (%)": band.accuracy.format(1),
        "minus neither": "" if band.name == NONE else band.versus_none.both.format(1, sign=True),
        "p": "" if band.name == NONE else f"{band.versus_none.holm:.3f}",
        "minus FiGKD": "" if full else band.versus_high.both.format(1, sign=True),
    }
    return cells | {f"paper, {k}": f"{v:.2f}" for k, v in read_published(band.name).items()}


def _list_purities(result: Logits) -> list[dict[str, str]]:
    rows, found = [], result.clusters
    for method in found.purities:
        samples = found.samples[method]
        gap = found.contrasts.get(f"{method}-none")
        rows.append(
            {
                "method": METHOD_WORDS[method],
                "class purity": found.purity(method).format(3),
                "over samples": f"[{samples.low:.3f}, {samples.high:.3f}]",
                "minus no distillation": gap[0].format(3, sign=True) if gap else "",
                "minus KD": (
                    found.contrasts["figkd-kd"][0].format(3, sign=True) if method == "figkd" else ""
                ),
            }
        )
    return rows

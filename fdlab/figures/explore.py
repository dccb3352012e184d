"""Drawings of `studies.explore`: one figure of four panels, on paper and on the screen."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from matplotlib import color_sequences
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from fdlab.figures.plate import Plate
from fdlab.figures.similarity import CLOSED
from fdlab.figures.style import INK, NULLS, arrow, color_modality, find_venue, name_method, styled
from fdlab.studies.explore import Scene

CLASS_COLORS = color_sequences["petroff10"]  # told apart under the common colour deficiencies
NAMES = {
    "cosine": "row cosine",
    "cka": "linear CKA",
    "cka_debiased": "debiased CKA",
    "neighbours": "mutual neighbours",
}
MARKS = ("x", "o")  # teacher, student
BAND = "#ececec"
AREA = {"linewidth": 6, "solid_capstyle": "butt"}  # what stands for an area in the legend
# The layout is fixed, in inches, and so are the places of titles and labels: finding them anew
# takes longer than drawing the data.
HEIGHT, HEADING, HEADER, LEFT, RIGHT, BOTTOM, TITLE = 4.8, 0.18, 0.58, 0.5, 0.1, 0.38, 0.27
COLUMNS = (0.1, 1.4, 3.25)  # of the legend
CLASSES = 1.5  # inches at the right end of the first line
DPI = 120  # on the screen
FEW = 20  # points of a curve up to which each is marked
LONGEST = 100  # characters of the first line


def draw_spectrum(axis: Axes, scene: Scene) -> None:
    """Energy per dimension of every bin, both sides, with the band below the cut-off shaded."""
    axis.axvspan(-0.025 if scene.view.dc else 0.0, scene.edge, color=BAND, linewidth=0)
    every = np.concatenate([[*s.low, *s.high] for s in scene.spectra])
    floor = every[every > 0].min() if (every > 0).any() else 1.0
    for spectrum, mark in zip(scene.spectra, MARKS, strict=True):
        color, place = color_modality(spectrum.modality), spectrum.place
        # A logarithmic axis would cost as much again as everything that is drawn on it.
        low, energy, high = (
            np.log10(np.maximum(x, floor)) for x in (spectrum.low, spectrum.energy, spectrum.high)
        )
        axis.fill_between(place[1:], low[1:], high[1:], color=color, alpha=0.3, linewidth=0)
        axis.plot(place[1:], energy[1:], color=color, linewidth=1)
        axis.plot([0, 0], [low[0], high[0]], color=color, linewidth=0.8)
        axis.plot(0, energy[0], mark, color=color, clip_on=False)
    _limit(axis, np.log10(np.maximum(every, floor)))
    ticks = _choose_decades(*axis.get_ylim())
    axis.set_yticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
    shares = ", ".join(f"{s.modality} {s.share.mean:.0%}" for s in scene.spectra)
    axis.set_title(f"energy below {scene.edge:.2f}: {shares}", loc="left", y=1.03)


def frame_spectrum(axis: Axes) -> None:
    _frame_fractions(axis, "place in the basis, slow to fast (fraction of the bins)")
    axis.set_ylabel("energy per dimension")


def _choose_decades(low: float, high: float) -> list[float]:
    """Round numbers between 10^low and 10^high, at most six."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [float(f"{step}e{power}") for power in powers for step in steps]
        found = [tick for tick in every if low <= np.log10(tick) <= high]
        if len(found) <= 6:
            break
    return found[:: -(-len(found) // 6) or 1]


def draw_curve(axis: Axes, scene: Scene) -> None:
    """The measure of the band below each cut-off, with its null and the closed form."""
    curve, value, null = scene.curve, scene.value, scene.null
    every = [curve.values, curve.low, curve.high, curve.predicted, [value.mean]]
    title = f"{NAMES[scene.view.measure]} {value.format(3)}"
    if null:
        color = NULLS[scene.view.null][0]
        axis.fill_between(null.cutoff, null.low, null.high, color=color, alpha=0.4, linewidth=0.8)
        every += [null.low, null.high]
        title += f"; null [{scene.level.low:.3f}, {scene.level.high:.3f}]"
    if len(curve.low):
        axis.fill_between(curve.cutoff, curve.low, curve.high, color=INK, alpha=0.2, linewidth=0)
    dotted = "." if len(curve.values) < FEW else ""
    axis.plot(curve.cutoff, curve.values, marker=dotted, color=INK)
    if len(curve.predicted):
        axis.plot(curve.cutoff, curve.predicted, "--", color=CLOSED)
    axis.plot([scene.edge] * 2, [0, 1], color=INK, linewidth=0.6, linestyle=":",
              transform=axis.get_xaxis_transform())  # fmt: skip
    if value.known:
        every.append([value.low, value.high])
        axis.plot([scene.edge] * 2, [value.low, value.high], color=INK, linewidth=1)
    axis.plot(scene.edge, value.mean, "o", color=INK, clip_on=False, zorder=4)
    _limit(axis, np.concatenate(every))
    axis.set_title(title, loc="left", y=1.03)


def frame_curve(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(4))
    _frame_fractions(axis, "cut-off (fraction of the bins)")
    axis.set_ylabel("similarity")


def draw_profile(axis: Axes, scene: Scene) -> None:
    """Channel means, sorted."""
    for profile in scene.profiles:
        place = np.linspace(0, 1, scene.dim)
        axis.plot(place, profile.means, color=color_modality(profile.modality))
    axis.plot([0, 1], [0, 0], color=INK, linewidth=0.6)
    _limit(axis, np.concatenate([[0.0], *(p.means for p in scene.profiles)]))
    scales = ", ".join(f"{p.modality} {p.mean:.2f} ± {p.deviation:.2f}" for p in scene.profiles)
    axis.set_title(f"mean ± deviation: {scales}", loc="left", y=1.03)


def frame_profile(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(4))
    _frame_fractions(axis, "channels in falling order (fraction)")
    axis.set_ylabel("mean over the samples")


def draw_picture(axis: Axes, scene: Scene) -> None:
    """Principal components of the band; the colour is the class, the mark the side."""
    picture = scene.picture
    colors = [CLASS_COLORS[label % len(CLASS_COLORS)] for label in picture.labels]
    halves = picture.points[: scene.n], picture.points[scene.n :]
    for points, mark in zip(halves, MARKS, strict=True):
        axis.scatter(*points.T, marker=mark, c=colors, s=5, antialiased=False,
                     linewidths=0.5 if mark == "x" else 0)  # fmt: skip
    # Equal units on both axes, with everything inside.
    size = axis.get_position().size * axis.figure.get_size_inches()
    low, high = picture.points.min(axis=0), picture.points.max(axis=0)
    unit = max(1.08 * float(((high - low) / size).max()), 1e-3)
    middle, half = (low + high) / 2, unit * size / 2
    axis.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axis.set_ylim(middle[1] - half[1], middle[1] + half[1])
    axis.set_title(f"{picture.explained:.0%} of the band's variance", loc="left", y=1.03)


def frame_picture(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("first two principal components of the band's directions")
    axis.xaxis.set_label_coords(0.5, -0.06)
    for spine in axis.spines.values():
        spine.set_visible(True)


def _frame_fractions(axis: Axes, label: str) -> None:
    axis.set_xlim(-0.03, 1.01)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axis.set_xlabel(label)


def _limit(axis: Axes, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    edge = max(0.05 * (high - low), 1e-3)
    axis.set_ylim(low - edge, high + edge)


PAIR = ("dataset", "preset", "direction", "method", "seed", "run", "node")
# Panel → its frame, its data, and the fields of a view that the data depend on.
PANELS: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "spectrum": (frame_spectrum, draw_spectrum, (*PAIR, "basis", "cutoff", "dc")),
    "curve": (frame_curve, draw_curve, (*PAIR, "basis", "cutoff", "dc", "measure", "null")),
    "profile": (frame_profile, draw_profile, PAIR),
    "picture": (frame_picture, draw_picture, (*PAIR, "basis", "cutoff", "dc")),
}


def write_heading(figure: Figure, scene: Scene) -> list[Artist]:
    """What is shown, in a line."""
    view, match = scene.view, scene.match
    words = [f"{view.dataset}, {view.preset}", arrow(view.direction)]
    if match.student:
        words.append(f"{name_method(view.method)}, seed {view.seed}")
    words += [f"{view.node}, D = {scene.dim}", f"basis {view.basis}", f"n = {scene.n}"]
    words += [match.differs] if match.differs else []  # last, since it may be cut
    text = "; ".join(words)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} …"
    width, height = figure.get_size_inches()
    place = (COLUMNS[0] / width, 1 - 0.11 / height)
    return [figure.text(*place, text, va="center_baseline", fontsize=8)]


def draw_legend(figure: Figure, scene: Scene) -> list[Artist]:
    """The legend of all panels, three columns of two; by hand, since Matplotlib's takes as long as
    a panel."""
    view, null = scene.view, scene.null
    teacher, student = scene.sides
    entries = [
        (f"teacher ({teacher})", {"color": color_modality(teacher), "marker": MARKS[0]}),
        (f"student ({student})", {"color": color_modality(student), "marker": MARKS[1]}),
        ("measured, 95 % over samples", {"color": INK}),
        ("closed form, mean alone", {"color": CLOSED, "linestyle": "--"}),
        (f"band, {'with' if view.dc else 'without'} the DC", {"color": BAND, **AREA}),
    ]
    if not len(scene.curve.predicted):
        entries[3] = ("", {"color": "none"})
    if null:
        color, name = NULLS[view.null]
        entries.append(
            (f"{name}, 95 % of {null.draws} draws", {"color": color, "alpha": 0.4, **AREA})
        )
    width, height = figure.get_size_inches()
    drawn = []
    for place, (label, style) in enumerate(entries):
        x, y = COLUMNS[place // 2], height - HEADING - 0.1 - 0.13 * (place % 2)
        line = Line2D(np.array([x, x + 0.1, x + 0.2]) / width, [y / height] * 3, markevery=[1],
                      transform=figure.transFigure, **style)  # fmt: skip
        drawn.append(figure.add_artist(line))
        text = {"va": "center_baseline", "fontsize": 7}
        drawn.append(figure.text((x + 0.26) / width, y / height, label, **text))
    return drawn


def name_classes(figure: Figure, scene: Scene) -> list[Artist]:
    """Each class in its colour, where every one has its own."""
    classes = np.unique(scene.picture.labels)
    if len(classes) > len(CLASS_COLORS):
        return []
    width, height = figure.get_size_inches()
    style = {"va": "center_baseline", "ha": "right", "fontsize": 7}
    return [
        figure.text(
            1 - (RIGHT + 0.11 * step) / width,
            1 - 0.11 / height,
            str(label),
            color=INK if label == "class" else CLASS_COLORS[label],
            **style,
        )
        for step, label in enumerate(reversed(["class", *classes]))
    ]


def place_panels(figure: Figure, axes: np.ndarray) -> None:
    """Each panel in its quarter of what the header leaves, with the places of its labels."""
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    wide = (width - 2 * LEFT - 2 * RIGHT) / 2
    high = (height - HEADER - 2 * BOTTOM - 2 * TITLE) / 2
    for (row, column), axis in np.ndenumerate(axes):
        left = LEFT + column * (wide + RIGHT + LEFT)
        bottom = BOTTOM + (1 - row) * (high + TITLE + BOTTOM)
        axis.set_position((left / width, bottom / height, wide / width, high / height))
        axis.xaxis.set_label_coords(0.5, -0.22 / high)
        axis.yaxis.set_label_coords(-0.34 / wide, 0.5)
    for axis, (frame, *_) in zip(axes.flat, PANELS.values(), strict=True):
        frame(axis)


def plates(scene: Scene) -> dict[str, Plate]:
    """As wide as the AAAI's text; the panels' titles need it."""

    def paint(axes: np.ndarray) -> None:
        figure = axes[0, 0].figure
        place_panels(figure, axes)
        write_heading(figure, scene)
        draw_legend(figure, scene)
        name_classes(figure, scene)
        for axis, (_, draw, _) in zip(axes.flat, PANELS.values(), strict=True):
            draw(axis, scene)

    return {"view": Plate.draw(paint, height=HEIGHT, wide=True, rows=2, columns=2)}


class Screen:
    """The same figure as pixels, drawn again and again: only what a change of the view touches."""

    def __init__(self, dpi: int = DPI) -> None:
        with styled():
            self.figure = Figure(figsize=(find_venue("aaai").text, HEIGHT), dpi=dpi)
            self.canvas = FigureCanvasAgg(self.figure)
            self.axes = self.figure.subplots(2, 2)
            place_panels(self.figure, self.axes)
            self._blank = self._draw_frames()
        self._heading, self._header = round(HEADING * dpi), round(HEADER * dpi)
        self._shown: dict[str, list] = {}
        self._drawn: dict[str, list[Artist]] = {}

    def show(self, scene: Scene) -> bytes:
        """PNG of a scene."""
        pixels = np.asarray(self.canvas.buffer_rgba())
        view, null = scene.view, scene.null
        drawn = (len(scene.curve.predicted), view.null, null.draws if null else 0)
        top, side = self._heading, pixels.shape[1] - round(CLASSES * self.figure.dpi)
        with styled():
            if self._is_new("heading", [getattr(view, name) for name in (*PAIR, "basis")]):
                self._draw_strip("heading", pixels[:top, :side], write_heading, scene)
            if self._is_new("classes", [view.dataset]):
                self._draw_strip("classes", pixels[:top, side:], name_classes, scene)
            if self._is_new("legend", [*scene.sides, view.dc, *drawn]):
                self._draw_strip("legend", pixels[top : self._header], draw_legend, scene)
            for place, (name, (_, draw, fields)) in enumerate(PANELS.items()):
                if self._is_new(name, [getattr(view, field) for field in fields]):
                    self._draw_panel(pixels, divmod(place, 2), draw, scene)
        buffer = io.BytesIO()
        imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": 1})
        return buffer.getvalue()

    def _is_new(self, name: str, key: list) -> bool:
        if self._shown.get(name) == key:
            return False
        self._shown[name] = key
        return True

    def _draw_frames(self) -> np.ndarray:
        """Pixels of what no view changes, which is hidden from then on."""
        ticks = [axis.yaxis.get_major_locator() for axis in self.axes.flat]
        for axis in self.axes.flat:
            axis.yaxis.set_major_locator(NullLocator())
        self.canvas.draw()
        for axis, locator in zip(self.axes.flat, ticks, strict=True):
            axis.yaxis.set_major_locator(locator)
            for artist in (axis.xaxis, axis.yaxis.label, axis.patch, *axis.spines.values()):
                artist.set_visible(False)
        return np.array(self.canvas.buffer_rgba())

    def _draw_strip(self, name: str, pixels: np.ndarray, draw: Callable, scene: Scene) -> None:
        for artist in self._drawn.get(name, []):
            artist.remove()
        pixels[:] = 255
        self._drawn[name] = draw(self.figure, scene)
        for artist in self._drawn[name]:
            self.figure.draw_artist(artist)

    def _draw_panel(
        self, pixels: np.ndarray, cell: tuple[int, int], draw: Callable, scene: Scene
    ) -> None:
        axis = self.axes[cell]
        for artist in [*axis.lines, *axis.collections, *axis.patches]:
            artist.remove()
        draw(axis, scene)
        high, wide = (len(pixels) - self._header) // 2, pixels.shape[1] // 2
        top, left = self._header + cell[0] * high, cell[1] * wide
        bottom = None if cell[0] else top + high
        right = None if cell[1] else left + wide
        pixels[top:bottom, left:right] = self._blank[top:bottom, left:right]
        self.figure.draw_artist(axis)

"""Figures draw the study's numbers, show once, save byte-identically; tables keep every row."""

from __future__ import annotations

import csv

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from fdlab.core.errors import UserError
from fdlab.figures import similarity as figures
from fdlab.figures.plate import Plate, Table
from fdlab.figures.save import draw_study, redraw, save_study
from fdlab.figures.style import METHOD_COLORS, METHOD_MARKERS, VENUES, arrow, styled
from fdlab.studies.plan import make_plan
from fdlab.studies.similarity import measure_similarity


@pytest.fixture(scope="module")
def result():
    return measure_similarity(make_plan("planted", "quick"), shuffles=20)


@pytest.mark.parametrize("venue", VENUES)
def test_a_figure_is_as_wide_as_its_column(result, venue):
    figure = figures.plates(result, venue)["cosine"].figure
    assert figure.get_figwidth() == VENUES[venue].column


def test_text_is_legible_at_column_width_and_inside_the_figure(result):
    figure = figures.plates(result)["cosine"].figure
    renderer = figure.canvas.get_renderer()
    box = figure.bbox
    hidden = set()  # labels of ticks outside the axis, which are not drawn
    for axis in (a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [t for t in axis.get_major_ticks() if not low <= t.get_loc() <= high]
        hidden.update(label for tick in outside for label in (tick.label1, tick.label2))
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text()]
    texts = [t for t in texts if t not in hidden]
    assert texts
    for text in texts:
        extent = text.get_window_extent(renderer)
        assert text.get_fontsize() >= 6
        assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
        assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()


def test_an_unknown_venue_is_refused(result):
    with pytest.raises(UserError, match="aaai, cvpr, icml, neurips"):
        figures.plates(result, "nips")


def test_files_are_byte_identical_and_fonts_embeddable(result, tmp_path):
    plate = figures.plates(result)["cosine"]
    first = [path.read_bytes() for path in plate.save(tmp_path / "a")]
    second = [path.read_bytes() for path in figures.plates(result)["cosine"].save(tmp_path / "b")]
    assert first == second
    assert b"/Type3" not in first[0] and b"/CIDFontType2" in first[0]


def test_a_plate_shows_once_and_leaves_pyplot_and_the_settings_alone(result):
    before = dict(matplotlib.rcParams)
    plate = Plate.draw(lambda axes: axes[0, 0].plot([0, 1]), height=1.0)
    assert plate._repr_png_().startswith(b"\x89PNG")
    assert not plt.get_fignums() and dict(matplotlib.rcParams) == before
    with styled():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_tables_escape_for_latex_and_keep_their_rows(tmp_path):
    frame = pd.DataFrame({"method": ["heads_only", "kd"], "gain (%)": ["1.0 & more", "→ 2"]})
    paths = Table(frame, "50 % of all").save(tmp_path / "table")
    assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
    latex = paths[2].read_text()
    for piece in (r"\toprule", r"\bottomrule", r"heads\_only", r"gain (\%)", r"\& more",
                  r"$\rightarrow$ 2", r"50 \% of all"):  # fmt: skip
        assert piece in latex
    with paths[0].open(newline="") as handle:
        assert list(csv.reader(handle))[1:] == frame.to_numpy().tolist()


def test_marked_rows_are_bold_and_underlined_in_latex():
    frame = pd.DataFrame({"row": ["a", "b", "c"], "accuracy (%)": ["71.0 **", "70.2 *", "1.0"]})
    latex = Table(frame, "x").to_latex()
    assert (
        r"\textbf{71.0}" in latex
        and r"\underline{70.2}" in latex
        and "*" not in latex.replace("table*", "")
    )


def test_saving_and_redrawing_leave_the_same_figures(result, tmp_path):
    folder = save_study("similarity", result, folder=tmp_path / "suite")
    assert redraw(folder, tmp_path / "again") == ["similarity"]
    for path in sorted((folder / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / "figures" / path.name).read_bytes()
    with pytest.raises(UserError, match="no results/ folder"):
        redraw(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match="unknown study"):
        draw_study("similarty", result, "aaai", tmp_path)


def test_methods_tell_apart_without_hue():
    """Every pair of methods differs in marker, and in colour also under lost red or green."""
    assert len(set(METHOD_MARKERS.values())) == len(METHOD_MARKERS) == len(METHOD_COLORS)
    # Viénot, Brettel and Mollon (1999): what a dichromat sees, in linear RGB.
    protan = np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]])
    deutan = np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]])
    colors = np.array([to_rgb(color) for color in METHOD_COLORS.values()]) ** 2.2
    for seen in (colors, colors @ protan.T, colors @ deutan.T):
        shown = np.clip(seen, 0, 1) ** (1 / 2.2)
        gaps = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
        assert gaps[np.triu_indices(len(gaps), 1)].min() > 0.1


def test_directions_are_drawn_with_an_arrow():
    assert arrow("audio2image") == "audio→image"

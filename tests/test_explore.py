"""The explorer: its numbers are the study's and NumPy's, it lists what exists, and never trains."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.results import read_result, write_result
from fdlab.core.seeding import derive_seed
from fdlab.data.planted import PlantedOptions, plant
from fdlab.execute import explorer as page
from fdlab.execute.explorer import Explorer, explore, print_command
from fdlab.execute.parameters import read_parameters
from fdlab.figures import explore as figures
from fdlab.spectral.bases import make_basis
from fdlab.spectral.similarity import Pair, draw_orders
from fdlab.spectral.sweep import Sweep
from fdlab.studies import explore as study
from fdlab.studies.explore import Match, Shelf, Sides, View, examine
from fdlab.studies.plan import make_plan
from fdlab.studies.similarity import MEASURES
from fdlab.training import ensure
from fdlab.training.pool import ensure_runs

PLANTED = View(dataset="planted", direction="first2second")
PLAIN = Match("quick", "first2second", "none", 0, "", "", "", "")


def make_sides(basis="dft", events=90, dim=24, loud=True, **options):
    one, two, labels = plant(PlantedOptions(events=events, dim=dim, **options))
    if loud:
        one, two = (x + np.random.default_rng(9).standard_normal((events, 1)) for x in (one, two))
    return Sides(["first", "second"], one, two, labels, basis)


def look(sides, **fields):
    return sides.look(replace(PLANTED, basis=sides.basis, **fields), PLAIN)


def draw_sides(dim=9, n=40):
    rng = np.random.default_rng(5)
    common = rng.standard_normal((n, dim))
    return [common + rng.standard_normal((n, dim)) for _ in range(2)]


@pytest.fixture(scope="module")
def shelf():
    return Shelf()


@pytest.fixture(scope="module")
def runs(digits):
    """Two unimodal runs, a distilled one with an option, and one of a seed of its own."""
    plan = make_plan("digits", "smoke")
    return ensure_runs(
        [
            plan.configure("image"),
            plan.configure("audio"),
            plan.configure("image", "kd", "audio", options={"weight": 0.5}),
            plan.configure("image", seed=1),
        ]
    )


# Sweep


@pytest.mark.parametrize("measure", MEASURES)
def test_a_sweep_is_one_pair_for_each_cut_off(measure):
    one, two = draw_sides()
    stops = np.arange(10)
    found = getattr(Sweep(one, two, stops), measure)
    assert found[0] == 0
    expected = [getattr(Pair(one[:, :stop], two[:, :stop]), measure) for stop in stops[1:]]
    np.testing.assert_allclose(found[1:], expected, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_shuffling_a_sweep_is_reordering_the_second_side(measure):
    one, two = draw_sides()
    stops = np.array([0, 1, 4, 9])
    orders = draw_orders(len(one), 5, np.random.default_rng(0))
    sweep = Sweep(one, two, stops)
    if measure.startswith("cka"):
        found = sweep.shuffle_cka(orders)[int(measure == "cka_debiased")]
    else:
        found = getattr(sweep, f"shuffle_{measure}")(orders)
    expected = [getattr(Sweep(one, two[order], stops), measure) for order in orders]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_single_precision_is_close_and_a_side_that_does_not_vary_shares_nothing(measure):
    one, two = draw_sides()
    stops = np.array([1, 5, 9])
    single = Sweep(one.astype(np.float32), two.astype(np.float32), stops)
    exact = getattr(Sweep(one, two, stops), measure)
    np.testing.assert_allclose(getattr(single, measure), exact, atol=1e-5)
    constant = np.full_like(one, 0.1)
    if measure != "cosine":
        assert not getattr(Sweep(one, constant, stops), measure).any()


# Scene


def test_the_spectrum_is_numpys():
    sides = make_sides(mean=1.5)
    spectrum = look(sides, cutoff=0.5).spectra[0]
    power = np.square(np.abs(np.fft.rfft(sides.features[0], axis=1))) / sides.dim
    # One dimension in the DC and the Nyquist bin; two, which share both halves' power, elsewhere.
    np.testing.assert_allclose(spectrum.energy, power.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(spectrum.place, np.arange(13) / 12)
    assert (spectrum.low <= spectrum.energy).all()
    assert (spectrum.energy <= spectrum.high).all()
    low = power[:, 0] + 2 * power[:, 1:7].sum(axis=1)
    expected = low / np.square(sides.features[0]).sum(axis=1)
    assert spectrum.share.mean == pytest.approx(expected.mean())
    without = look(sides, cutoff=0.5, dc=False).spectra[0].share.mean
    assert without == pytest.approx((expected - power[:, 0] / (low / expected)).mean())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dc", [True, False])
def test_the_value_at_the_cut_off_is_the_bands_and_lies_on_the_curve(measure, dc):
    sides = make_sides()
    scene = look(sides, measure=measure, dc=dc, cutoff=0.5)
    rows = make_basis("dft", 24)[0 if dc else 1 : 13]
    expected = getattr(Pair(*(x @ rows.T for x in sides.features)), measure)
    assert scene.value.mean == pytest.approx(
        expected, abs=2e-3 if measure == "neighbours" else 1e-9
    )
    place = list(scene.curve.cutoff).index(0.5)
    assert scene.curve.values[place] == pytest.approx(scene.value.mean, abs=2e-3)
    assert scene.value.low <= scene.value.mean <= scene.value.high


def test_a_mean_alone_follows_the_closed_form_and_a_planted_band_leaves_its_null():
    alone = look(make_sides(events=800, dim=64, loud=False, strength=0.0, mean=2.0))
    np.testing.assert_allclose(alone.curve.values, alone.curve.predicted, atol=0.02)
    held = make_sides(events=400, dim=64, strength=0.6, band="low", mean=2.0)
    for measure in MEASURES:
        for null in ("shuffled", "in_class"):
            scene = look(held, dc=False, measure=measure, null=null)
            assert scene.value.low > scene.level.high
    assert not len(look(held, dc=False).curve.predicted)
    assert not len(look(make_sides("free")).curve.predicted)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("basis", ["dct", "free"])
def test_the_reordered_null_is_that_of_features_with_permuted_channels(measure, basis):
    sides = make_sides(basis)
    null = look(sides, measure=measure, null="reordered").null
    rng = np.random.default_rng(derive_seed("explore", "reordered"))
    rows = make_basis(basis, 24)
    stops = 1 + np.minimum(2 * np.round(12 * null.cutoff).astype(int), 23)
    draws = []
    for _ in range(null.draws):
        order = np.argsort(rng.permutation(24))
        moved = [x[:, order] @ rows.T for x in sides.features]
        draws.append([getattr(Pair(*(x[:, :s] for x in moved)), measure) for s in stops])
    exact = measure != "neighbours"
    np.testing.assert_allclose(null.mean, np.mean(draws, axis=0), atol=1e-5 if exact else 2e-2)


def test_no_null_means_none_and_a_range_is_read_between_its_cut_offs():
    sides = make_sides()
    scene = look(sides, null="none")
    assert scene.null is None and scene.level is None
    null = look(sides, measure="neighbours", null="reordered", cutoff=0.5).null
    assert null.at(0.5).mean == pytest.approx(null.mean[list(null.cutoff).index(0.5)])
    assert null.at(0.375).mean == pytest.approx(null.mean[1:3].mean())


def test_the_picture_is_scikit_learns_principal_components():
    sides = make_sides(mean=0.5)
    picture = look(sides, cutoff=0.5, dc=False).picture
    rows = make_basis("dft", 24)[1:13]
    band = np.concatenate([x @ rows.T for x in sides.features])
    band /= np.linalg.norm(band, axis=1, keepdims=True)
    pca = PCA(2).fit(band)
    assert picture.explained == pytest.approx(pca.explained_variance_ratio_.sum())
    ratios = pdist(picture.points) / pdist(pca.transform(band))
    assert np.std(ratios) / np.mean(ratios) < 0.01  # turned, scaled and rounded, no more
    assert not look(sides, cutoff=0.0, dc=False).picture.points.any()


def test_the_slider_computes_neither_curve_nor_null_again():
    sides = make_sides()
    before, after = (look(sides, cutoff=cutoff) for cutoff in (0.2, 0.7))
    assert after.curve is before.curve and after.null is before.null
    assert after.value.mean != before.value.mean and after.edge != before.edge


def test_a_dc_that_varies_by_rounding_alone_shares_nothing():
    sides = make_sides(loud=False, mean=1.3)
    for measure in MEASURES[1:]:
        assert look(sides, measure=measure, cutoff=0.0).value.mean == 0


def test_a_scene_is_a_result(tmp_path):
    scene = examine(PLANTED)
    write_result(tmp_path / "scene.json", scene)
    again = read_result(tmp_path / "scene.json")
    assert again.finding() == scene.finding() and again.claims() == []
    assert (again.dataset, again.preset, again.view) == ("planted", "quick", PLANTED)
    assert "n = 300" in scene.finding() and "100 draws" in scene.finding()


def test_a_long_test_split_is_thinned_to_fixed_samples(monkeypatch):
    monkeypatch.setattr(study, "MOST", 120)
    first, second = (Shelf().examine(PLANTED) for _ in range(2))
    assert first.n == 120 and first.finding() == second.finding()


# What exists


def test_features_always_exist_and_a_data_set_without_runs_says_what_to_run(shelf, monkeypatch):
    assert "planted" in shelf.datasets
    choices = shelf.list_choices(PLANTED)
    assert choices["direction"] == ["first2second", "second2first"]
    assert (choices["method"], choices["node"]) == (["none"], ["feature"])
    empty = Shelf()
    empty.records = []
    with pytest.raises(UserError, match=r"fdlab reproduce --dataset digits --only 02.*planted"):
        empty.examine(View())
    assert empty.settle(View()).dataset == "planted"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "plantd"}, "did you mean 'planted'"),
        ({"preset": "fast"}, "unknown preset .*quick"),
        ({"direction": "first2third"}, "unknown direction .*first2second"),
        ({"method": "kd"}, "unknown method .*none"),
        ({"node": "layer9"}, "unknown node .*feature"),
        ({"basis": "fft"}, "unknown basis .*dft"),
        ({"measure": "cosinus"}, "did you mean 'cosine'"),
        ({"null": "shuffle"}, "did you mean 'shuffled'"),
        ({"cutoff": 1.5}, "expected a fraction of the bins"),
        ({"cutoff": "half"}, "expected float"),
        ({"dc": "yes"}, "dc is 'yes': expected bool"),
    ],
)
def test_wrong_fields_are_refused_with_the_choices(shelf, fields, message):
    with pytest.raises(UserError, match=message):
        shelf.examine(replace(PLANTED, **fields))


def test_runs_are_found_beside_their_teachers_and_nothing_is_trained(runs, monkeypatch):
    monkeypatch.setattr(ensure, "train_in_step", None)
    image, audio, distilled, lonely = (run.record.fingerprint for run in runs)
    shelf = Shelf()
    found = [m for m in shelf.list_matches("digits") if m.preset == "smoke"]
    ours = {(m.direction, m.method, m.seed, m.run): m for m in found}
    plain = ours["audio2image", "none", 0, ""]
    assert (plain.teacher, plain.student) == (audio, image)
    variant = ours["audio2image", "kd", 0, distilled]
    assert (variant.teacher, variant.differs) == (audio, "weight=0.5")
    assert ours["image2audio", "none", 0, ""].student == audio
    assert not [m for m in found if m.student == lonely and m.teacher == audio]
    view = View(preset="smoke", method="kd", run=distilled, node="layer1", measure="cka")
    scene = shelf.examine(view)
    assert (scene.n, scene.dim) == (len(runs[0].read_predictions()), 8)
    with pytest.raises(UserError, match="unknown run"):
        shelf.examine(replace(view, run="0" * 16))
    assert shelf.settle(replace(view, seed=7)).seed in (0, 1)


def test_a_run_of_other_data_and_a_damaged_record_are_left_out(runs, isolated_home, monkeypatch):
    folder = paths.runs() / "0123456789abcdef"
    shutil.copytree(runs[1].folder, folder)
    record = json.loads((folder / "record.json").read_text())
    record |= {"fingerprint": folder.name, "data": "other", "finished": "2999-01-01"}
    try:
        (folder / "record.json").write_text(json.dumps(record))
        assert folder.name not in {m.teacher for m in Shelf().list_matches("digits")}
        record["data"] = runs[1].record.data
        (folder / "record.json").write_text(json.dumps(record))  # now the newest of its kind
        assert folder.name in {m.teacher for m in Shelf().list_matches("digits")}
        (folder / "record.json").write_text("{")
        assert folder.name not in {m.teacher for m in Shelf().list_matches("digits")}
    finally:
        shutil.rmtree(folder)


def test_runs_of_no_presets_recipe_are_other_and_named_by_their_recipe(runs):
    shelf = Shelf()
    shelf.records = [
        replace(run.record, config=replace(run.record.config, width=5)) for run in runs[:2]
    ]
    found = shelf.list_matches("digits")
    assert [match.direction for match in found] == ["audio2image", "image2audio"]
    for match in found:
        assert match.preset == "other" and match.run == match.student
        assert "width=5" in match.differs and "limit=240" in match.differs


# Figure


def test_redrawing_what_changed_gives_the_picture_of_drawing_everything(shelf):
    one, two = figures.Screen(), figures.Screen()
    changes = [
        {"cutoff": 0.2},
        {"measure": "cka", "null": "reordered"},
        {"basis": "haar", "dc": False},
        {"direction": "second2first"},
        {"measure": "neighbours", "null": "none"},
    ]
    view = PLANTED
    one.show(shelf.examine(view))
    for change in changes:
        view = replace(view, **change)
        last = one.show(shelf.examine(view))
    assert last == two.show(shelf.examine(view))
    assert last != one.show(shelf.examine(PLANTED))


def test_only_panels_that_depend_on_the_change_are_drawn(shelf, monkeypatch):
    drawn = []

    def spy(name, draw):
        return lambda axis, scene: (drawn.append(name), draw(axis, scene))

    panels = {n: (f, spy(n, d), k) for n, (f, d, k) in figures.PANELS.items()}
    monkeypatch.setattr(figures, "PANELS", panels)
    screen = figures.Screen()
    expected = {
        "start": ({}, ["spectrum", "curve", "profile", "picture"]),
        "slider": ({"cutoff": 0.3}, ["spectrum", "curve", "picture"]),
        "measure": ({"measure": "cka"}, ["curve"]),
        "basis": ({"basis": "dct"}, ["spectrum", "curve", "picture"]),
    }
    for change, names in expected.values():
        drawn.clear()
        screen.show(shelf.examine(replace(PLANTED, **change)))
        assert set(names) <= set(drawn)
        assert "profile" in names or "profile" not in drawn


def test_panels_keep_inside_their_quarters_and_nothing_is_cut(shelf):
    view = replace(PLANTED, measure="neighbours", null="reordered", basis="free")
    figure = figures.plates(shelf.examine(view))["view"].figure
    width, height = figure.get_size_inches()
    renderer = figure.canvas.get_renderer()
    boxes = [axis.get_tightbbox(renderer) for axis in figure.axes]
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= width * figure.dpi + 1
        assert box.y0 >= 0 and box.y1 <= (height - figures.HEADER) * figure.dpi
    for one, two in combinations(boxes, 2):
        assert not one.overlaps(two)
    texts = [text for axis in figure.axes for text in axis.get_xticklabels()]
    assert min(text.get_fontsize() for text in [*texts, *figure.texts]) >= 6


# Page


@pytest.fixture
def explorer():
    return Explorer(PLANTED)


def test_a_view_is_the_notebooks_parameters():
    parameters = read_parameters(paths.notebooks() / "explore.ipynb")
    fields = {f.name: f.default for f in dataclasses.fields(View)}
    assert {name: parameter.default for name, parameter in parameters.items()} == fields


def test_controls_move_the_view_and_the_picture_follows(explorer):
    pictures = {explorer.image.value}
    for name, value in (("cutoff", 0.3), ("dc", False), ("basis", "haar"), ("measure", "cka"),
                        ("null", "reordered"), ("direction", "second2first")):  # fmt: skip
        explorer.controls[name].value = value
        assert getattr(explorer.view, name) == value == getattr(explorer.scene.view, name)
        pictures.add(explorer.image.value)
        assert explorer.scene.finding()[:20] in explorer.status.value
    assert len(pictures) == 7
    assert explorer.view == View("planted", "quick", "second2first", "none", 0, "", "feature",
                                 "haar", 0.3, False, "cka", "reordered")  # fmt: skip


def test_a_choice_that_takes_others_away_moves_them_to_what_exists(runs):
    distilled = runs[2].record.fingerprint
    explorer = Explorer(View(preset="smoke", method="kd", run=distilled, node="layer1"))
    assert explorer.view.run == distilled
    assert "weight=0.5" in dict(map(reversed, explorer.controls["run"].options))[distilled]
    explorer.controls["direction"].value = "image2audio"
    assert explorer.shelf.find_match(explorer.view).student not in ("", distilled)
    assert explorer.view.run != distilled
    assert explorer.view.node == explorer.controls["node"].value == "layer1"
    explorer.controls["dataset"].value = "planted"
    assert (explorer.view.direction, explorer.view.node) == ("first2second", "feature")


def test_a_view_that_does_not_exist_opens_the_nearest_and_says_so(explorer):
    page = Explorer(replace(PLANTED, direction="first2third"))
    assert page.view == PLANTED and "unknown direction" in page.status.value
    assert page.image.value == explorer.image.value


def test_a_costly_null_follows_after_everything_else(explorer):
    seen = []
    explorer.controls["measure"].value = "neighbours"
    explorer.image.observe(lambda change: seen.append(change["new"]), "value")
    explorer.controls["null"].value = "reordered"
    explorer.controls["basis"].value = "dct"
    assert len(seen) == 3  # none is on the screen when the null is asked for
    explorer.controls["cutoff"].value = 0.3
    assert len(seen) == 4  # the null is there already


def test_the_figure_alone_is_saved_and_an_unknown_view_is_an_error(capsys, isolated_home):
    plate = explore(replace(PLANTED, cutoff=0.25))
    assert isinstance(plate, page.Plate)
    words = capsys.readouterr().out
    assert "cut-off 0.25" in words
    picture = next(line for line in words.splitlines() if line.endswith(".png"))
    assert imread(picture).shape[1] == 2100  # the text's width at 300 dpi
    with pytest.raises(UserError, match="unknown basis"):
        explore(replace(PLANTED, basis="fft"), live=False)


@pytest.mark.parametrize(("stdin", "live"), [(True, True), (False, False), (None, False)])
def test_a_front_end_that_can_answer_is_live(monkeypatch, stdin, live):
    assert not page.is_live()
    request = {"content": {} if stdin is None else {"allow_stdin": stdin}}
    kernel = SimpleNamespace(get_parent=lambda channel: request)
    monkeypatch.setattr(page, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert page.is_live() is live


def test_papermill_makes_a_saved_view_again_byte_for_byte(explorer, isolated_home):
    explorer.controls["cutoff"].value = 0.33
    explorer.controls["measure"].value = "cka_debiased"
    written = explorer.save()
    assert [path.suffix for path in written] == [".pdf", ".png", ".json", ".yaml"]
    assert written[0].parent == isolated_home / "outputs" / "explored" / "planted"
    assert View(**yaml.safe_load(written[-1].read_text())) == explorer.view
    assert print_command(written[-1]).split("/")[-1] in explorer.saved.value
    before = [path.read_bytes() for path in written]
    for path in written[:3]:
        path.unlink()
    target = written[-1].with_suffix(".ipynb")
    command = [sys.executable, "-m", "papermill", paths.notebooks() / "explore.ipynb", target,
               "-f", written[-1]]  # fmt: skip
    subprocess.run(command, check=True, cwd=isolated_home, capture_output=True, timeout=300)
    assert [path.read_bytes() for path in written] == before
    executed = json.loads(target.read_text())
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds == {"image/png", "text/plain"}
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}

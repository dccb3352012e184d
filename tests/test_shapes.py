"""The embedded shapes: areas and mirrors in closed form, coarse families, fine fair variants."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import SVC

from fdlab.core.errors import UserError
from fdlab.data import shapes, store
from fdlab.data.dataset import SPLITS
from fdlab.data.shapes import FAMILIES, VARIANTS, Pose, ShapesConfig
from fdlab.figures import data as figures
from fdlab.studies.data import describe_data
from fdlab.studies.plan import make_plan

SMALL = ShapesConfig(train=10, validation=1, test=5)


@pytest.fixture(scope="module")
def built():
    return shapes.SHAPES.build(SMALL, workers=1)


def cut_lens(large: float, small: float, apart: float) -> float:
    """Area that two circles share."""
    angles = [
        np.arccos((apart**2 + a**2 - b**2) / (2 * apart * a))
        for a, b in ((large, small), (small, large))
    ]
    sectors = large**2 * angles[0] + small**2 * angles[1]
    return sectors - apart * large * np.sin(angles[0])


AREAS = {
    "disc": np.pi * 0.92**2,
    "ring": np.pi * (0.99**2 - 0.39**2),
    "cross": 2 * 2 * 0.64 - 0.64**2,
    "triangle": (0.52 + 0.31) ** 2 / (0.5 * np.sqrt(0.75)),
    "crescent": np.pi - cut_lens(1.0, 0.72, 0.62),
    "bar": 2.2 * 0.84,
    "post": 2.2 * 0.84,
    "bow": 4 * (0.27 + 0.55 / 2),
    "tee": 2 * 0.68 + 0.64 * (1.3 - 0.04),
    "arch": 1.9**2 - 0.8 * 1.3,
}


@pytest.mark.parametrize("turn", [-0.1, 0.15])
def test_a_silhouette_has_the_area_of_its_closed_form(turn):
    for index, name in enumerate(FAMILIES):
        cover, _ = shapes.draw_shape(10 * index, Pose(0.4, -1.3, 11.3, turn))
        assert cover.sum() == pytest.approx(AREAS[name] * 11.3**2, rel=0.02), name


def test_a_mirrored_image_is_the_mirrored_pose_of_the_same_class():
    rng = np.random.default_rng(0)
    for label in range(100):
        x, y, turn = rng.uniform([-3, -3, -0.2], [3, 3, 0.2])
        here = shapes.draw_shape(label, Pose(x, y, 11.0, turn))
        there = shapes.draw_shape(label, Pose(-x, y, 11.0, -turn))
        for one, other in zip(here, there, strict=True):
            differ = np.abs(one[:, ::-1] - other) > 1e-3  # points on the very edge may change side
            assert differ.mean() < 0.01, shapes.CLASSES[label]


def test_a_detail_has_no_mean_and_leaves_the_silhouette_alone():
    pose = Pose(1.2, 0.7, 10.5, 0.1)
    for family in range(len(FAMILIES)):
        drawn = [shapes.draw_shape(10 * family + k, pose) for k in range(len(VARIANTS))]
        tones = np.stack([tone for _, tone in drawn])
        assert all(np.array_equal(cover, drawn[0][0]) for cover, _ in drawn)
        assert np.abs(tones.sum(axis=(1, 2))).max() < 1e-3
        assert (tones[0] == 0).all()
        apart = np.linalg.norm((tones[:, None] - tones).reshape(10, 10, -1), axis=-1)
        # As a distance between two images in one colour channel, and of the noise along a line.
        assert shapes.TONE * apart[~np.eye(10, dtype=bool)].min() > 10 * ShapesConfig().noise


def test_without_detail_nothing_tells_variants_apart_and_colours_ignore_the_class():
    flat, config = ShapesConfig(detail=0.0), ShapesConfig()
    pose = shapes.draw_pose(config, 7)
    images = {
        (detail, label): shapes.paint(*shapes.draw_shape(label, pose), which, 7)
        for detail, which in (("flat", flat), ("full", config))
        for label in (*range(10), 54)
    }
    assert all(np.array_equal(images["flat", 0], images["flat", k]) for k in range(10))
    assert len({images["full", k].tobytes() for k in range(10)}) == 10
    covers = [shapes.draw_shape(label, pose)[0] for label in (0, 54)]
    outside = (covers[0] == 0) & (covers[1] == 0)
    assert outside.sum() > 200
    assert np.array_equal(images["full", 0][:, outside], images["full", 54][:, outside])


def test_an_observer_who_knows_the_pose_reads_the_variant(built):
    """By the nearest tone: what the networks have to find is there."""
    test = np.flatnonzero(built.split == 2)
    right = []
    for row in test:
        number = int(built.ids["drawing"][row].split("-")[1])
        pose, label = shapes.draw_pose(SMALL, number), int(built.labels[row])
        cover, _ = shapes.draw_shape(label, pose)
        tones = [shapes.draw_shape(label - label % 10 + k, pose)[1] for k in range(1, 10)]
        inside = cover == 1
        seen = built.modalities["image"][row].mean(axis=0)[inside]
        if label % 10:
            fits = [abs(np.corrcoef(seen, tone[inside])[0, 1]) for tone in tones]
            right.append(1 + int(np.argmax(fits)) == label % 10)
    assert np.mean(right) > 0.9


def test_the_family_is_known_at_8_by_8_pixels_and_the_variant_is_not(built):
    images = built.modalities["image"].astype(np.float32).mean(axis=1)
    coarse = images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(images), -1)
    coarse = (coarse - coarse.mean(1, keepdims=True)) / coarse.std(1, keepdims=True)
    train, test = built.split == 0, built.split == 2
    scores = {}
    for name, target in (("family", built.labels // 10), ("variant", built.labels % 10)):
        machine = SVC(C=10).fit(coarse[train], target[train])
        scores[name] = machine.score(coarse[test], target[test])
    assert scores["family"] > 0.9
    assert scores["variant"] < 0.18  # chance is 0.1 with a standard error of 0.013


def test_colour_says_nothing_about_the_class(built):
    """Mean colours of the shape and of what is around it, read by a linear classifier."""
    colours = []
    for image, drawing, label in zip(
        built.modalities["image"], built.ids["drawing"], built.labels, strict=True
    ):
        pose = shapes.draw_pose(SMALL, int(drawing.split("-")[1]))
        cover, _ = shapes.draw_shape(int(label), pose)
        colours.append([image[:, cover == part].mean(axis=1) for part in (0, 1)])
    colours = np.reshape(colours, (len(built.labels), 6))
    train, test = built.split == 0, built.split == 2
    for target in (built.labels // 10, built.labels % 10):
        linear = LinearDiscriminantAnalysis().fit(colours[train], target[train])
        error = np.sqrt(0.1 * 0.9 / test.sum())
        assert abs(linear.score(colours[test], target[test]) - 0.1) < 4 * error


def test_an_event_is_the_same_under_any_count_limit_and_number_of_workers(built):
    few = ShapesConfig(train=2, validation=1, test=1, limit=80)
    alone, together = (shapes.SHAPES.build(few, workers=workers) for workers in (1, 2))
    assert np.array_equal(alone.modalities["image"], together.modalities["image"])
    assert alone.ids == together.ids and len(alone.labels) == 80
    places = {drawing: row for row, drawing in enumerate(built.ids["drawing"])}
    rows = [places[drawing] for drawing in alone.ids["drawing"]]
    assert np.array_equal(alone.modalities["image"], built.modalities["image"][rows])
    assert np.array_equal(alone.split, built.split[rows])
    other = shapes.SHAPES.build(ShapesConfig(1, 2, 1, 1, 80), workers=1)
    assert not (alone.modalities["image"] == other.modalities["image"]).all(axis=(1, 2, 3)).any()


def test_splits_are_balanced_and_nothing_recurs(built):
    for index, count in enumerate(SMALL.counts):
        assert (np.bincount(built.labels[built.split == index]) == count).all()
    assert len({image.tobytes() for image in built.modalities["image"]}) == len(built.labels)
    for values in built.ids.values():
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"limit": 69}, "limit is 69: expected 102 to 5100, or 0"),
        ({"train": 0}, "train is 0: expected 1 to 1000"),
        ({"detail": -1.0}, "detail is -1.0: expected 0 to 3"),
        ({"noise": 11}, "noise is 11.0: expected 0 to 10"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        store.prepare("shapes", options)


def test_the_smallest_set_has_every_family_in_every_split():
    least = shapes.SHAPES.build(ShapesConfig(limit=102), workers=1)
    for index in range(len(SPLITS)):
        assert set(least.labels[least.split == index] // 10) == set(range(10))


def test_one_modality_and_100_classes_are_described_and_drawn():
    result = describe_data(make_plan("shapes", "smoke"), examples=8)
    assert list(result.examples) == ["image"] and result.examples["image"].shape[1:] == (3, 32, 32)
    assert sorted(result.labels // 10) == list(range(8))
    assert result.n == 240 and set(result.shared.values()) == {0}
    assert "100 classes of 10 families" in result.finding()
    drawn = figures.plates(result)
    axis = drawn["classes"].figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(FAMILIES)
    assert [label.get_text().replace("\n", " ") for label in axis.get_xticklabels()] == [*VARIANTS]
    sheet = axis.images[0].get_array()
    for label in (0, 37, 99):
        row, column = (34 * part for part in divmod(label, 10))
        tile = sheet[row : row + 32, column : column + 32]
        assert np.array_equal(np.moveaxis(np.asarray(tile), -1, 0), result.specimens[label])
    manifest = json.loads((make_plan("shapes", "smoke").open_store().folder / "manifest.json")
                          .read_text())  # fmt: skip
    assert manifest["info"]["families"] == np.repeat(list(FAMILIES), len(VARIANTS)).tolist()

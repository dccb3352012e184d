"""The embedded rooms: geometry against closed forms, sensors against their models, alignment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial import Delaunay

from fdlab.core.errors import UserError
from fdlab.data import drawn, interiors, render, rooms, store
from fdlab.data.dataset import IGNORED, SPLITS
from fdlab.data.interiors import CLASSES, FLOOR, PERSON, WINDOW
from fdlab.data.render import Camera, Light, Material, Part, Scene, Thing

STUFF = (interiors.WALL, interiors.FLOOR, interiors.CEILING)
GREY = Material((0.5, 0.5, 0.5))
SIZE = (5.0, 6.0, 3.0)
CLEAN = {"rgb_noise": 0.0, "depth_noise": 0.0, "holes": 0.0, "thermal_noise": 0.0}
EVENTS = range(0, 1000, 83)  # of every kind of scene


def make_scene(*things, camera=None, lights=(), ambient=(0.3, 0.3, 0.3)) -> Scene:
    camera = camera or Camera((2.5, 0.5, 1.4), field=1.2)
    return Scene(SIZE, (GREY,) * 6, camera, things, lights, ambient)


def place_rays(side: int) -> np.ndarray:
    """(4, side, side, 2): column and row of every ray, in pixels."""
    middles = np.arange(side) + 0.5
    rows, columns = np.meshgrid(middles, middles, indexing="ij")
    return np.stack([np.stack([columns + c, rows + r], -1) for r, c in render.SUBPIXELS])


@pytest.fixture(scope="module")
def views():
    """Event → (scene, view without noise)."""
    made = {}
    for event in EVENTS:
        scene = rooms.make_scene(rooms.RoomsConfig(), event)
        made[event] = scene, render.render(scene, 64, STUFF, np.random.default_rng(event))
    return made


@pytest.fixture(scope="module")
def built():
    return rooms.ROOMS.build(rooms.RoomsConfig(limit=120), workers=1)


# ---- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw, pitch, roll", [(0, 0, 0), (0.3, -0.2, 0.1), (-0.4, 0.1, -0.3)])
def test_a_sphere_on_the_axis_has_the_depth_of_its_closed_form(yaw, pitch, roll):
    camera, distance, radius, side = Camera((2.5, 2.0, 1.4), yaw, pitch, roll, 1.1), 1.8, 0.4, 33
    centre = np.array(camera.place) + distance * camera.axes()[2]
    ball = Thing(5, (Part("ellipsoid", (0, 0, 0), (radius,) * 3, GREY),), tuple(centre), 0.7)
    hits = render.cast(make_scene(ball, camera=camera), side)
    offsets = (place_rays(side) * 2 / side - 1) * np.tan(camera.field / 2)
    angle = np.arctan(np.hypot(offsets[..., 0], offsets[..., 1]))
    inside = np.sin(angle) < radius / distance
    assert np.array_equal(hits.surface == 3, inside) and inside.sum() > 400
    away = distance * np.cos(angle) - np.sqrt(
        np.where(inside, radius**2 - (distance * np.sin(angle)) ** 2, 0)
    )
    assert np.allclose(hits.depth[inside], (away * np.cos(angle))[inside], atol=2e-4)
    assert hits.depth[:, side // 2, side // 2] == pytest.approx(distance - radius, abs=2e-3)
    points, normals, _ = render.shade(make_scene(ball, camera=camera), hits)
    outward = (points - centre[:, None]) / radius
    flat = inside.ravel()
    assert np.allclose(normals[:, flat], outward[:, flat], atol=2e-3)


@pytest.mark.parametrize("pitch", [0.0, -0.3, 0.25])
def test_planes_have_the_depth_of_their_closed_form(pitch):
    camera, side = Camera((2.0, 0.7, 1.3), 0.2, pitch, 0.0, 1.2), 32
    hits = render.cast(make_scene(camera=camera), side)
    up = (1 - place_rays(side)[..., 1] * 2 / side) * np.tan(camera.field / 2)
    across = (place_rays(side)[..., 0] * 2 / side - 1) * np.tan(camera.field / 2)
    rise = np.sin(pitch) + up * np.cos(pitch)  # height gained per metre of depth
    level = np.cos(pitch) - up * np.sin(pitch)
    forward = level * np.cos(0.2) + across * np.sin(0.2)
    for face, depth in ((4, -1.3 / rise), (5, 1.7 / rise), (3, 5.3 / forward)):
        seen = hits.part == face
        assert np.allclose(hits.depth[seen], depth[seen], rtol=1e-4)
        assert seen.any() or face != 3
    assert (hits.part == 4).any() or (hits.part == 5).any()


@pytest.mark.parametrize(
    "turn", [(0.0, 0.0, 0.0, 0.5), (0.3, -0.25, 0.2, 1.0), (-0.3, 0.1, 0.4, 2.6)]
)
def test_a_box_covers_the_hull_of_its_projected_corners(turn):
    *view, yaw = turn
    camera, half, side = Camera((2.5, 0.6, 1.5), *view, 1.2), np.array([0.5, 0.3, 0.6]), 48
    place = np.array(camera.place) + 2.6 * camera.axes()[2]
    box = Thing(5, (Part("box", (0, 0, 0), tuple(half), GREY),), tuple(place), yaw)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1) * half[:, None]
    turned = np.array([
        np.cos(yaw) * signs[0] - np.sin(yaw) * signs[1],
        np.sin(yaw) * signs[0] + np.cos(yaw) * signs[1],
        signs[2],
    ])  # fmt: skip
    corners = camera.project((place[:, None] + turned).T, side)
    hull = Delaunay(corners[:, :2])
    inside = hull.find_simplex(place_rays(side)) >= 0
    hits = render.cast(make_scene(box, camera=camera), side)
    assert (inside != (hits.surface == 3)).sum() <= 2 < inside.sum()  # rays on the very edge
    seen = hits.depth[hits.surface == 3]
    assert corners[:, 2].min() - 1e-3 <= seen.min() and seen.max() <= corners[:, 2].max()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", ["box", "cylinder", "ellipsoid"])
def test_every_ray_meets_a_solid_where_marching_along_it_first_does(shape, axis):
    half, yaw, side = np.array([0.5, 0.35, 0.7]), 0.9, 12
    place = np.array([2.4, 3.0, 1.3])
    thing = Thing(5, (Part(shape, (0.1, 0, 0.1), tuple(half), GREY, axis),), tuple(place), yaw)
    camera = Camera((2.5, 0.5, 1.6), 0.0, -0.1, 0.1, 0.9)
    hits = render.cast(make_scene(thing, camera=camera), side)
    steps = np.linspace(0.5, 4.5, 4001)
    directions = camera.rays(side).reshape(3, -1).astype(float)
    x, y, z = (
        np.array(camera.place)[:, None, None]
        + directions[:, :, None] * steps
        - place[:, None, None]
    )
    local = np.stack([np.cos(yaw) * x + np.sin(yaw) * y - 0.1, np.cos(yaw) * y - np.sin(yaw) * x])
    unit = np.concatenate([local, z[None] - 0.1]) / half[:, None, None]
    if shape == "box":
        solid = (np.abs(unit) < 1).all(axis=0)
    elif shape == "ellipsoid":
        solid = (unit**2).sum(axis=0) < 1
    else:
        others = [k for k in range(3) if k != axis]
        solid = ((unit[others] ** 2).sum(axis=0) < 1) & (np.abs(unit[axis]) < 1)
    met, first = solid.any(axis=1), steps[solid.argmax(axis=1)]
    seen = (hits.surface == 3).ravel()
    assert (met != seen).sum() <= 3 and met.sum() > 60
    both = met & seen
    assert np.abs(hits.depth.ravel() - first)[both].max() < 0.0015


def test_a_plate_throws_the_shadow_that_its_projection_from_the_light_covers():
    light, plate = Light((2.0, 3.0, 2.8), (1, 1, 1)), (2.4, 3.3, 1.4)
    half, yaw, thin = (0.5, 0.3), 0.6, 1e-4
    thing = Thing(5, (Part("box", (0, 0, 0), (*half, thin), GREY),), plate, yaw)
    xs, ys = np.meshgrid(np.linspace(0.1, 4.9, 71), np.linspace(0.1, 5.9, 71))
    points = np.stack([xs.ravel(), ys.ravel(), np.zeros(xs.size)]).astype(np.float32)
    share = (2.8 - 1.4) / 2.8  # where the ray from the light passes the plate's height
    x, y = (light.place[k] + share * (points[k] - light.place[k]) - plate[k] for k in (0, 1))
    along = np.abs(np.cos(yaw) * x + np.sin(yaw) * y), np.abs(np.cos(yaw) * y - np.sin(yaw) * x)
    expected = (along[0] < half[0]) & (along[1] < half[1])
    dark = render.find_shadow(make_scene(thing), light, points)
    assert (dark != expected).sum() <= 2 < expected.sum()
    assert not render.find_shadow(
        make_scene(thing), dataclasses.replace(light, owner=0), points
    ).any()
    beneath = points + np.array([[0], [0], [1.5]], np.float32)  # above the plate: no shadow
    assert not render.find_shadow(make_scene(thing), light, beneath).any()


def test_light_falls_off_and_follows_lambert():
    light, ambient = Light((2.5, 3.0, 2.0), (2.0, 1.0, 0.5), reach=1.5), (0.1, 0.2, 0.3)
    camera = Camera((2.5, 0.5, 1.4), pitch=-0.5, field=1.2)
    scene = make_scene(camera=camera, lights=(light,), ambient=ambient)
    view = render.render(scene, 32, STUFF, np.random.default_rng(0))
    floor = (view.kinds == FLOOR).all(axis=0)
    right, down, forward = camera.axes()
    across = (2 * (np.arange(32) + 0.5) / 32 - 1) * np.tan(0.6)
    rays = forward + across[None, :, None] * right + across[:, None, None] * down
    points = np.array(camera.place) + rays * (-1.4 / rays[..., 2:])
    away = np.array(light.place) - points
    squared = (away**2).sum(axis=-1)
    strength = away[..., 2] / np.sqrt(squared) / (1 + squared / 1.5**2)
    expected = 0.5 * (np.array(ambient) + strength[..., None] * np.array(light.colour))
    assert floor.sum() > 300
    assert np.allclose(view.colour[floor], expected[floor], rtol=0.02)


def test_rays_that_are_sorted_out_early_would_have_met_nothing(views, monkeypatch):
    monkeypatch.setattr(render, "_find_near", lambda t, o, d, s, slack=0: np.arange(d.shape[1]))
    for event in EVENTS[:3]:
        scene, view = views[event]
        slow = render.render(scene, 64, STUFF, np.random.default_rng(event))
        assert np.array_equal(view.depth, slow.depth)
        assert np.array_equal(view.colour, slow.colour)


# ---- alignment -----------------------------------------------------------------------------------


def test_depth_and_mask_agree_on_where_the_floor_is(views):
    for event, (scene, view) in views.items():
        mask = rooms.draw_mask(view)
        depth = rooms.sense_depth(view, 0.0, 0.0, np.random.default_rng(event)) / 1000
        right, down, forward = scene.camera.axes()
        across = (2 * (np.arange(64) + 0.5) / 64 - 1) * np.tan(scene.camera.field / 2)
        fall = -(forward[2] + across[None] * right[2] + across[:, None] * down[2])
        plane = np.where(fall > 0, scene.camera.place[2] / np.maximum(fall, 1e-9), np.inf)
        read = depth > 0
        floor = read & (mask == FLOOR)
        assert np.allclose(depth[floor], plane[floor], rtol=0.02)
        other = read & (mask != FLOOR) & (mask != IGNORED)
        assert (depth[other] <= 1.01 * plane[other]).all()


def test_a_pixel_is_ignored_where_two_classes_meet_and_nowhere_else(views):
    for scene, view in views.values():
        fine = render.cast(scene, 64)  # the four rays of each pixel
        kinds = np.array([*STUFF, *(thing.kind for thing in scene.things)])[fine.surface]
        mask = rooms.draw_mask(view)
        assert np.array_equal(mask == IGNORED, kinds.min(axis=0) != kinds.max(axis=0))
        assert np.array_equal(mask[mask != IGNORED], kinds[0][mask != IGNORED])
        assert 0.005 < (mask == IGNORED).mean() < 0.2


def test_boxes_are_tight_around_what_is_seen_and_inside_what_is_projected(views):
    for scene, view in views.values():
        kinds = [thing.kind for thing in scene.things]
        boxes = rooms.draw_boxes(view, kinds)
        used = boxes[:, 0] >= 0
        assert used[: used.sum()].all() and (boxes[~used] == -1).all()
        expected = {}
        for index, thing in enumerate(scene.things):
            seen = view.surface == 3 + index
            if seen.sum() < 10:
                continue
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            box = (thing.kind, columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            expected[box] = seen.sum()
            middle, half = (v[:, 0].astype(float) for v in thing.bounds)
            signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
            x, y, z = (middle + signs * half).T
            cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
            turned = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1) + thing.place
            corners = scene.camera.project(turned, 64)
            if corners[:, 2].min() > 0.05:
                low, high = corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)
                assert columns[0] + 1 >= low[0] and rows[0] + 1 >= low[1]
                assert columns[-1] <= high[0] and rows[-1] <= high[1]
        assert {tuple(int(v) for v in row) for row in boxes[used]} == set(expected)
        areas = [expected[tuple(int(v) for v in row)] for row in boxes[used]]
        assert areas == sorted(areas, reverse=True)


def test_every_pixel_of_a_boxed_class_is_in_a_box_of_its_class(built):
    """But for objects that are too small for a box."""
    inside = total = 0
    for mask, boxes in zip(built.extras["mask"], built.extras["boxes"], strict=True):
        covered = np.zeros((len(CLASSES), 64, 64), bool)
        for kind, x0, y0, x1, y1 in boxes[boxes[:, 0] >= 0].astype(int):
            covered[kind, y0:y1, x0:x1] = True
        rows, columns = np.nonzero((mask > interiors.CEILING) & (mask != IGNORED))
        inside += covered[mask[rows, columns], rows, columns].sum()
        total += len(rows)
    assert inside / total > 0.995


# ---- sensors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1.5, 3.0, 5.0])
def test_depth_noise_grows_as_stated_and_comes_in_steps(distance):
    scene = make_scene(camera=Camera((2.5, SIZE[1] - distance, 1.5), field=0.4))
    view = render.render(scene, 64, STUFF, np.random.default_rng(0))
    shots = [
        rooms.sense_depth(view, 1.0, 0.0, np.random.default_rng(k)).astype(float) for k in range(40)
    ]
    step = max(1.0, 2.73 * distance**2 + 0.74 * distance - 0.58)
    expected = np.hypot(1.2 + 1.9 * (distance - 0.4) ** 2, step / np.sqrt(12))
    assert np.std(shots) == pytest.approx(expected, rel=0.1)
    assert np.mean(shots) == pytest.approx(1000 * distance, abs=0.3 * expected)
    levels = np.unique(shots)
    assert np.diff(levels).min() >= step - 1


@pytest.mark.parametrize("gloss", [0.0, 0.5, 1.0])
def test_the_share_of_holes_is_the_chance_that_is_stated(gloss):
    shine = Material(gloss=gloss, infrared=0.9)
    camera = Camera((2.5, 4.5, 1.5), field=0.4)
    scene = Scene(SIZE, (shine,) * 6, camera)
    view = render.render(scene, 64, STUFF, np.random.default_rng(0))
    shots = [rooms.sense_depth(view, 2.0, 1.0, np.random.default_rng(k)) for k in range(60)]
    share = np.mean(np.array(shots) == 0)
    expected = rooms.LOST_ANYWHERE + rooms.LOST_BY_GLOSS * gloss
    patches = 60 * 64**2 / (4 * np.pi * 2.0**2)  # that are independent, for holes are no pixels
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / patches)


def test_holes_are_zero_and_lie_at_edges(views):
    edges, plain = [], []
    for event, (_, view) in views.items():
        none = rooms.sense_depth(view, 2.0, 0.0, np.random.default_rng(event))
        some = rooms.sense_depth(view, 2.0, 1.0, np.random.default_rng(event))
        reach = (view.depth > rooms.NEAREST + 0.05) & (view.depth < rooms.FURTHEST - 0.5)
        assert (none[reach] > 0).all()
        assert np.array_equal(some[some > 0], none[some > 0])
        z = np.pad(view.depth, 1, mode="edge")
        near = np.min([z[i : i + 64, j : j + 64] for i in range(3) for j in range(3)], axis=0)
        edges.append(some[reach & (near < 0.85 * view.depth)] == 0)
        plain.append(some[reach & (near > 0.95 * view.depth) & (view.gloss == 0)] == 0)
    edges, plain = np.concatenate(edges).mean(), np.concatenate(plain).mean()
    assert edges > 0.4 and 0.005 < plain < edges / 4


def test_people_are_hot_and_windows_are_cold(built):
    thermal, mask = built.modalities["thermal"][:, 0].astype(float), built.extras["mask"]
    people, windows = [], []
    for heat, kinds in zip(thermal, mask, strict=True):
        middle = np.median(heat)
        for kind, found in ((PERSON, people), (WINDOW, windows)):
            if (kinds == kind).sum() >= 60:
                found.append((np.median(heat[kinds == kind]) - middle) * rooms.SPAN / 255)
    assert len(people) > 20 and len(windows) > 20
    assert min(people) > 2 and np.mean(people) > 4
    assert np.mean(np.array(windows) < -1) > 0.9


def test_the_geometry_and_each_noise_are_drawn_apart():
    plain = rooms.make_shot(rooms.RoomsConfig(), 7)
    looks = rooms.make_shot(rooms.RoomsConfig(disguise=1.0, dark=1.0), 7)
    assert np.array_equal(plain.mask, looks.mask) and np.array_equal(plain.boxes, looks.boxes)
    assert not np.array_equal(plain.rgb, looks.rgb)
    for name, own in (("rgb", ["rgb_noise"]), ("depth", ["depth_noise", "holes"]),
                      ("thermal", ["thermal_noise"])):  # fmt: skip
        clean = rooms.make_shot(rooms.RoomsConfig(**{key: 0.0 for key in own}), 7)
        for other in ("rgb", "depth", "thermal", "mask"):
            same = np.array_equal(getattr(plain, other), getattr(clean, other))
            assert same == (other != name)


# ---- the set -------------------------------------------------------------------------------------


def test_an_event_depends_on_its_number_and_the_seed_alone():
    small = rooms.RoomsConfig(limit=rooms.SMALLEST_LIMIT, side=16)
    one, two = (rooms.ROOMS.build(small, workers=workers) for workers in (1, 2))
    for name in ("rgb", "depth", "thermal"):
        assert np.array_equal(one.modalities[name], two.modalities[name])
    for name in ("mask", "boxes"):
        assert np.array_equal(one.extras[name], two.extras[name])
    assert one.ids == two.ids and one.info == two.info
    events = [int(layout.split("-")[1]) for layout in one.ids["layout"]]
    assert events == sorted(set(events))
    whole = dataclasses.replace(small, limit=0)
    for row in (-1, 20, 0):  # in another order, and without a limit
        shot = rooms.make_shot(whole, events[row])
        assert np.array_equal(shot.rgb.transpose(2, 0, 1), one.modalities["rgb"][row])
        assert np.array_equal(shot.depth[None], one.modalities["depth"][row])
        other = rooms.make_shot(dataclasses.replace(whole, seed=1), events[row])
        assert not np.array_equal(shot.mask, other.mask)


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_splits_are_stratified_down_to_the_smallest_limit(seed):
    labels = rooms.assign_scenes()
    split = rooms.assign_splits(labels, seed)
    assert np.bincount(split).tolist() == [600, 150, 250]
    counts = np.array([np.bincount(labels[split == s], minlength=6) for s in range(3)])
    assert np.ptp(counts, axis=1).max() <= 2
    for limit in (rooms.SMALLEST_LIMIT, 240):
        events = drawn.choose_events(labels, split, limit)
        assert len(events) == limit
        for part in range(3):
            assert set(labels[events][split[events] == part]) == set(range(6))


def test_classes_have_sensible_shares_in_every_split(built):
    mask, split = built.extras["mask"], built.split
    assert set(np.unique(mask)) == {*range(len(CLASSES)), IGNORED}
    for part in range(len(SPLITS)):
        assert len(np.unique(mask[split == part])) == len(CLASSES) + 1
    shares = np.bincount(mask[mask != IGNORED], minlength=len(CLASSES)) / (mask != IGNORED).sum()
    assert shares.min() > 0.003 and shares.max() < 0.45
    assert built.info["shares"] == {
        name: pytest.approx(share, abs=1e-4) for name, share in zip(CLASSES, shares, strict=True)
    }


def test_the_store_holds_what_is_promised():
    kept = store.prepare("rooms", {"limit": 42, "side": 16}, workers=1)
    assert kept.info["classes"] == list(CLASSES) == list(rooms.PALETTE)
    assert len(set(rooms.PALETTE.values())) == len(CLASSES) == rooms.ROOMS.classes
    shapes = {"rgb": (42, 3, 16, 16), "depth": (42, 1, 16, 16), "thermal": (42, 1, 16, 16),
              "mask": (42, 16, 16), "boxes": (42, rooms.BOXES, 5)}  # fmt: skip
    kinds = {"depth": np.uint16, "boxes": np.float32}
    for name, shape in shapes.items():
        array = kept.read(name)
        assert array.shape == shape and array.dtype == kinds.get(name, np.uint8)
    sets = [{kept.ids["layout"][row] for row in kept.rows(split)} for split in SPLITS]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 42
    assert rooms.ROOMS.labels == 6 and rooms.ROOMS.task == "segmentation"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, "seed is -1: expected 0 or more"),
        ({"limit": 41}, "limit is 41: expected 42 to 1000"),
        ({"limit": 1001}, "limit is 1001: expected 42 to 1000"),
        ({"side": 8}, "side is 8: expected 16 to 256"),
        ({"rgb_noise": -0.1}, "rgb_noise is -0.1: expected 0 to 1"),
        ({"depth_noise": float("nan")}, "depth_noise is nan: expected 0 to 100"),
        ({"holes": 11.0}, "holes is 11.0: expected 0 to 10"),
        ({"thermal_noise": -1.0}, "thermal_noise is -1.0: expected 0 to 20"),
        ({"disguise": 1.5}, "disguise is 1.5: expected 0 to 1"),
        ({"dark": -0.5}, "dark is -0.5: expected 0 to 1"),
    ],
)
def test_an_option_out_of_its_range_is_told_so(options, message):
    with pytest.raises(UserError, match=message):
        rooms.RoomsConfig(**options)
    with pytest.raises(UserError, match="workers is 0; expected 1 or more"):
        rooms.build(rooms.RoomsConfig(), workers=0)

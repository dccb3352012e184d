"""Random views of images, depth, frames and masks, and how stored images are brought to size."""

from __future__ import annotations

import colorsys
import math
import uuid
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.core.errors import UserError
from fdlab.data.augment import (
    AUGMENTATIONS,
    HUE,
    SATURATION,
    VALUE,
    View,
    crop,
    draw_view,
    find_augmentation,
    jitter_hsv,
    pick_frames,
)
from fdlab.data.dataset import IGNORED, Dataset, Modality
from fdlab.data.paired import PairedData, fit_size, shrink

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_ramps(count: int, height: int, width: int) -> torch.Tensor:
    """(N, 2, H, W): the row and the column of each pixel's middle, in pixels."""
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    return torch.stack([rows, columns]).expand(count, 2, height, width).clone()


def measure_boxes(box: torch.Tensor, area: tuple[float, float], stored, size):
    """What a crop of linear images says of its box: top, left, height, width, flipped; and that it
    is linear, away from the edge, where half a pixel is missing."""
    found = crop(make_ramps(len(box), *stored), box, area, size)
    slopes = []
    for axis, values in ((0, found[:, 0]), (1, found[:, 1])):
        inner = values[:, 2:-2, 2:-2].double()
        steps = inner.diff(dim=axis + 1)
        assert (inner.diff(dim=2 - axis).abs() < 1e-3).all()  # no shear, no turn
        assert (steps - steps.mean(dim=(1, 2), keepdim=True)).abs().max() < 1e-3
        slopes.append(steps.mean(dim=(1, 2)))
    centre = found.double().mean(dim=(2, 3))
    height, width = slopes[0] * size[0], slopes[1] * size[1]
    return centre, height, width.abs(), width < 0


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize("stored, size", [((40, 40), (24, 24)), ((36, 60), (20, 34))])
def test_a_crop_is_a_box_of_the_image_with_area_and_aspect_in_their_ranges(area, stored, size):
    view = draw_view(replace(AUGMENTATIONS["scene"], area=area), 400, 0, generator())
    centre, height, width, flipped = measure_boxes(view.box, area, stored, size)
    part = height * width / math.prod(stored)
    fits = (height < stored[0] - 1e-2) & (width < stored[1] - 1e-2)
    assert (part <= area[1] + 1e-3).all() and (part[fits] >= area[0] - 1e-3).all()
    # Where a side was cut to the image's, the area is smaller, but never the aspect's doing alone.
    assert (part >= area[0] * 0.7 - 1e-3).all() and part[fits].min() < area[0] + 0.1
    aspect = width / height
    assert (aspect[fits] >= 3 / 4 - 1e-3).all() and (aspect[fits] <= 4 / 3 + 1e-3).all()
    if area[0] < 0.1:  # log-uniform: as many wide as tall
        assert aspect[fits].min() < 0.8 and aspect[fits].max() > 1.25
        small = fits & (part < 0.5)
        assert 0.4 < (aspect[small] > 1).double().mean() < 0.6
    for middle, length, whole in (
        (centre[:, 0], height, stored[0]),
        (centre[:, 1], width, stored[1]),
    ):
        assert (middle - length / 2 > -0.3).all() and (middle + length / 2 < whole + 0.3).all()
    assert 0.4 < flipped.double().mean() < 0.6


def test_a_crop_of_a_linear_image_is_exactly_the_box_that_was_drawn():
    """area, aspect 1, place and flip given: the pixels' middles lie where arithmetic says."""
    box = torch.tensor([[0.25, 0.5, 0.0, 1.0, 0.9], [0.25, 0.5, 0.5, 0.0, 0.1]])
    found = crop(make_ramps(2, 40, 40), box, (0.0, 1.0), (10, 10))
    steps = 2 * (torch.arange(10) + 0.5)  # a quarter of the area is 20 × 20 pixels, 2 a step
    for n, (top, left, turn) in enumerate([(0, 20, False), (10, 0, True)]):
        across = steps.flip(0) if turn else steps
        torch.testing.assert_close(found[n, 0], (top + steps)[:, None].expand(10, 10))
        torch.testing.assert_close(found[n, 1], (left + across)[None].expand(10, 10))


def test_the_whole_image_at_its_own_size_is_itself():
    images = torch.rand(3, 2, 16, 16)
    box = torch.tensor([[1.0, 0.5, 0.3, 0.8, 0.7]]).expand(3, 5)
    torch.testing.assert_close(crop(images, box, (0.5, 1.0), (16, 16)), images, atol=1e-5, rtol=0)
    turned = torch.cat([box[:, :4], torch.zeros(3, 1)], dim=1)
    torch.testing.assert_close(
        crop(images, turned, (0.5, 1.0), (16, 16)), images.flip(3), atol=1e-5, rtol=0
    )


def test_a_shape_that_does_not_fit_is_cut_to_the_image():
    wide = torch.tensor([[1.0, 1.0, 0.5, 0.5, 0.9]])  # all of the area at 4 : 3 of a square
    _, height, width, _ = measure_boxes(wide, (0.5, 1.0), (40, 40), (24, 24))
    assert height.item() == pytest.approx(40 * math.sqrt(3 / 4), abs=0.1)
    assert width.item() == pytest.approx(40, abs=0.1)


# Colours


def test_hsv_is_colorsys():
    torch.manual_seed(0)
    pixels = torch.rand(60, 3, 1, 1)
    pixels[0], pixels[1], pixels[2] = 0.0, 1.0, 0.5  # grey has no hue
    pixels[3] = torch.tensor([0.7, 0.7, 0.1])[:, None, None]  # two channels the largest
    pixels[4] = torch.tensor([0.2, 0.9, 0.9])[:, None, None]
    colour = torch.rand(60, 3)
    colour[:5] = torch.tensor([0.9, 0.2, 0.7])
    found = jitter_hsv(pixels, colour)[:, :, 0, 0]
    for before, drawn, after in zip(pixels[:, :, 0, 0], colour, found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        turn, rich, bright = (2 * drawn - 1).tolist()
        expected = colorsys.hsv_to_rgb(
            (hue + HUE * turn) % 1,
            min(saturation * (1 + SATURATION * rich), 1),
            min(value * (1 + VALUE * bright), 1),
        )
        np.testing.assert_allclose(after, expected, atol=1e-5)


def test_no_jitter_is_the_identity_and_every_image_has_its_own():
    images = torch.rand(4, 3, 5, 6)
    middle = torch.full((4, 3), 0.5)
    torch.testing.assert_close(jitter_hsv(images, middle), images, atol=1e-6, rtol=0)
    middle[2] = 0.9
    moved = (jitter_hsv(images, middle) - images).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert moved.tolist() == [False, False, True, False]


# Frames


@pytest.mark.parametrize("count", [1, 2, 3])
def test_frames_are_one_of_each_equal_part_and_never_one_that_is_absent(count):
    there = torch.tensor([1, 2, 3, 5, 6, 8])
    frames = torch.arange(8.0).expand(6, 8)[:, :, None, None, None]
    seen = [set() for _ in there]
    for seed in range(300):
        view = draw_view(None, 6, count, generator(seed))
        assert view.box is None and view.corner is None and view.frames.shape == (6, count)
        found = pick_frames(frames, there, count, view.frames).reshape(6, count)
        for event, (row, n) in enumerate(zip(found.tolist(), there.tolist(), strict=True)):
            for part, frame in enumerate(row):
                # A frame that lies, at least in part, between the part's ends.
                assert math.floor(part * n / count) <= frame < min((part + 1) * n / count, n)
            seen[event].add(tuple(row))
    for event, n in enumerate(there.tolist()):
        assert {frame for row in seen[event] for frame in row} == set(map(float, range(n)))


@pytest.mark.parametrize("count, expected", [(1, [0, 1, 1, 2, 3, 4]), (2, None), (3, None)])
def test_without_a_view_the_middle_frames_are_taken(count, expected):
    there = torch.tensor([1, 2, 3, 5, 6, 8])
    frames = torch.arange(8.0).expand(6, 8)[:, :, None, None, None]
    found = pick_frames(frames, there, count, None)
    assert found.shape == ((6, 1, 1, 1) if count == 1 else (6, count, 1, 1, 1))
    middle = [
        [math.floor((part + 0.5) * n / count) for part in range(count)] for n in there.tolist()
    ]
    assert found.reshape(6, count).tolist() == middle
    if expected:
        assert found.flatten().tolist() == expected


def test_the_largest_number_below_one_still_picks_a_frame_that_is_there():
    frames = torch.arange(3.0)[None, :, None, None, None]
    draws = torch.full((1, 3), 1 - 2**-24)  # 1 + that is 2 in float32, the next part's first frame
    assert pick_frames(frames, torch.tensor([3]), 3, draws).flatten().tolist() == [0, 2, 2]


def test_an_unknown_augmentation_is_refused_and_none_is_none():
    assert find_augmentation("") is None
    with pytest.raises(UserError, match="scene_hsv"):
        find_augmentation("scenes")
    assert AUGMENTATIONS["scene"].shares_view(AUGMENTATIONS["scene_hsv"])
    assert not AUGMENTATIONS["scene"].shares_view(AUGMENTATIONS["crop_flip"])


# A data set's rows as a network sees them


class FakeStore(SimpleNamespace):
    """Arrays in place of files, which tests change."""

    @property
    def digest(self):
        return uuid.uuid4().hex

    @property
    def manifest(self):
        return {"files": {f"{name}.npy": "" for name in self.arrays}}

    def read(self, name):
        return self.arrays[name]

    def rows(self, split):
        return {"train": np.arange(6), "validation": np.array([6]), "test": np.array([7, 8])}[split]


def make_store(size=(24, 32), frames: int = 0, augment=("scene_hsv", "scene")) -> FakeStore:
    rng = np.random.default_rng(0)
    lead = (9, frames) if frames else (9,)
    rgb = rng.integers(0, 256, (*lead, 3, *size), np.uint8)
    depth = rng.uniform(1, 9, (9, 2, *size)).astype(np.float32) * np.array([1, 5])[:, None, None]
    depth = depth.astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    millimetres = rng.integers(500, 40_000, (9, 1, *size), np.uint16)
    millimetres[rng.random(millimetres.shape) < 0.1] = 0
    mask = rng.integers(0, 7, (9, size[0] // 4, size[1] // 4)).repeat(4, 1).repeat(4, 2)
    mask[rng.random(mask.shape) < 0.05] = IGNORED
    arrays = {"rgb": rgb, "depth": depth, "kinect": millimetres, "mask": mask.astype(np.uint8)}
    if frames:
        arrays["rgb_frames"] = np.array([3, 1, 2, 3, 3, 1, 2, 3, 3], np.int16)
    sides = {"rgb": augment[0], "depth": augment[1], "kinect": augment[1]}
    dataset = Dataset(
        name="fake", summary="", classes=7, options=object, directions=(),
        modalities={n: Modality("net", a, min(frames, 2) if n == "rgb" else 0)
                    for n, a in sides.items()},
        task="segmentation", scenes=("a", "b"),
    )  # fmt: skip
    return FakeStore(arrays=arrays, dataset=dataset, labels=np.zeros(9, np.int64))


def load(store: FakeStore, side: int = 0) -> PairedData:
    return PairedData.load(store, ["rgb", "depth", "kinect"], CPU, side)


ROWS = torch.tensor([7, 0, 3])


def test_inputs_are_standardised_by_the_training_splits_pixels_and_no_reading_is_zero():
    store = make_store()
    data = load(store)
    train = store.rows("train")
    rgb = store.arrays["rgb"].astype(np.float64)
    axes = (0, 2, 3)  # every colour by itself
    expected = (rgb[ROWS] - rgb[train].mean(axes, keepdims=True)) / rgb[train].std(
        axes, keepdims=True
    )
    np.testing.assert_allclose(data.batch("rgb", ROWS), expected, rtol=1e-4, atol=1e-5)
    metres = store.arrays["depth"].astype(np.float64)
    found = data.batch("depth", ROWS).numpy()
    for channel in range(2):
        values = metres[train, channel]
        values = values[values != 0]
        own = metres[ROWS, channel]
        expected = np.where(own == 0, 0, (own - values.mean()) / values.std())
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-4, atol=1e-5)
    kinect = store.arrays["kinect"].astype(np.float64)
    there = kinect[train][kinect[train] != 0]
    own = np.minimum(kinect[ROWS], 32767)
    expected = np.where(own == 0, 0, (own - there.mean()) / there.std())
    np.testing.assert_allclose(data.batch("kinect", ROWS), expected, rtol=1e-4, atol=1e-5)
    assert (kinect[ROWS] > 32767).any() and (own == 0).any()
    assert torch.equal(
        data.targets("rgb", ROWS), torch.from_numpy(store.arrays["mask"])[ROWS].long()
    )


@pytest.mark.parametrize("frames", [0, 3])
def test_one_view_moves_image_depth_and_mask_together(frames):
    """Planted: every modality says the class of its pixel, and so do all of them in a view."""
    store = make_store(frames=frames, augment=("scene", "scene"))
    mask = np.where(store.arrays["mask"] == IGNORED, 9, store.arrays["mask"]).astype(np.uint8)
    spread = np.broadcast_to(mask[:, None], (9, 3, *mask.shape[1:]))
    store.arrays["rgb"] = 20 * (
        np.repeat(spread[:, None], frames, axis=1) if frames else spread.copy()
    )
    store.arrays["depth"] = (mask + 1.0).astype(np.float32)[:, None].repeat(2, axis=1)
    data = load(store)
    view = data.draw("rgb", 3, generator(4))
    assert (view.frames is not None) == bool(frames) and data.share_view("rgb", "depth")
    targets = data.targets("rgb", ROWS, view)
    assert torch.equal(targets, data.targets("depth", ROWS, view))
    classes = torch.from_numpy(mask)[ROWS][:, None].float()
    nearest = crop(classes, view.box, AUGMENTATIONS["scene"].area, targets.shape[1:], "nearest")
    assert torch.equal(targets, nearest[:, 0].long().masked_fill(nearest[:, 0] == 9, IGNORED))
    assert not torch.equal(targets, data.targets("rgb", ROWS))
    # Inside an object, where no pixel around is of another class, the values are the class's own.
    known = torch.where(targets == IGNORED, 9, targets).float()
    grown = (
        torch.nn.functional.max_pool2d(known, 3, 1, 1),
        -torch.nn.functional.max_pool2d(-known, 3, 1, 1),
    )
    inside = grown[0] == grown[1]
    inside[:, [0, -1]] = inside[:, :, [0, -1]] = False  # what lies beyond is not in the view
    assert inside.float().mean() > 0.1
    shift_by, factor = data.scale["rgb"]
    rgb = data.batch("rgb", ROWS, view) / factor + shift_by
    for image in rgb.unbind(1) if frames else [rgb]:
        torch.testing.assert_close(image[:, 0][inside], 20 * known[inside], atol=2e-3, rtol=0)
    shift_by, factor = data.scale["depth"]
    depth = data.batch("depth", ROWS, view) / factor + shift_by
    torch.testing.assert_close(depth[:, 0][inside], known[inside] + 1, atol=1e-3, rtol=0)


def test_a_teacher_gets_its_own_colours_in_its_students_view():
    store = make_store(augment=("scene_hsv", "scene"))
    data = load(store)
    view = data.draw("depth", 3, generator(1))
    assert view.colour is None
    whole = data.complete_view(view, "rgb", generator(2))
    assert whole.colour.shape == (3, 3) and torch.equal(whole.box, view.box)
    assert not torch.equal(data.batch("rgb", ROWS, whole), data.batch("rgb", ROWS, view))
    again = data.draw("rgb", 3, generator(1))
    source = generator(2)
    before = source.get_state()
    assert data.complete_view(again, "depth", source) is again  # nothing is drawn twice
    assert torch.equal(source.get_state(), before)


def test_a_shifted_image_has_the_networks_size():
    data = load(make_store(size=(24, 32), augment=("shift", "shift")), side=12)
    view = data.draw("rgb", 3, generator(0))
    assert data.batch("rgb", ROWS, view).shape == data.batch("rgb", ROWS).shape == (3, 3, 12, 16)
    assert data.targets("rgb", ROWS, view).shape == (3, 12, 16)


def test_frames_that_are_absent_are_never_seen_and_every_frame_has_the_events_view():
    store = make_store(frames=3, augment=("scene_hsv", "scene"))
    marks = np.array([100, 150, 200], np.uint8)
    store.arrays["rgb"][:] = marks[None, :, None, None, None]
    for event, count in enumerate(store.arrays["rgb_frames"]):
        store.arrays["rgb"][event, count:] = 0
    data = load(store)
    rows = torch.arange(9)
    shift_by, factor = data.scale["rgb"]
    train = store.rows("train")
    there = np.arange(3) < store.arrays["rgb_frames"][train][:, None]
    pixels = store.arrays["rgb"][train][there].astype(np.float64)
    assert np.allclose(shift_by.flatten(), pixels.mean()) and len(shift_by) == 3
    assert np.allclose(1 / factor.flatten(), pixels.std())
    for seed in range(20):
        view = data.draw("rgb", 9, generator(seed))
        view = replace(view, colour=torch.full_like(view.colour, 0.5))
        seen = (data.batch("rgb", rows, view) / factor + shift_by).round()
        assert seen.shape == (9, 2, 3, 24, 32)
        assert set(seen.unique().tolist()) <= {100.0, 150.0, 200.0}
    ramp = make_ramps(9, 24, 32)[:, 1].numpy()
    store.arrays["rgb"] = np.broadcast_to(ramp[:, None, None], (9, 3, 3, 24, 32)).astype(np.uint8)
    data = load(store)
    view = replace(data.draw("rgb", 9, generator(1)), colour=None)
    first, second = data.batch("rgb", rows, view).unbind(1)
    torch.testing.assert_close(first, second)  # one box for all frames of an event
    assert len({tuple(x) for x in first[:, 0, 0].round(decimals=3).tolist()}) > 3


def test_images_stored_larger_are_shrunk_once_with_a_margin_and_seen_at_the_networks_size():
    store = make_store(size=(48, 64))
    data = load(store, side=24)
    assert data.sizes["rgb"] == (24, 32)
    assert data.inputs["rgb"].shape[-2:] == (27, 37)  # 8/7 of it
    assert data.batch("rgb", ROWS).shape == (3, 3, 24, 32)
    assert data.targets("rgb", ROWS).shape == (3, 24, 32)
    assert set(data.targets("rgb", ROWS).unique().tolist()) <= {*range(7), IGNORED}
    view = data.draw("rgb", 3, generator())
    assert data.batch("rgb", ROWS, view).shape == (3, 3, 24, 32)
    assert data.targets("rgb", ROWS, view).shape == (3, 24, 32)


@pytest.mark.parametrize(
    "stored, side, expected",
    [((480, 640), 240, (240, 320)), ((640, 480), 240, (320, 240)), ((60, 60), 224, (224, 224)),
     ((427, 640), 0, (427, 640)), ((427, 640), 224, (224, 336))],
)  # fmt: skip
def test_the_shorter_side_is_set_and_the_aspect_stays(stored, side, expected):
    assert fit_size(stored, side) == expected


def test_images_shrink_as_pillows_and_depth_keeps_values_that_were_there():
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = np.array(Image.fromarray(smooth).resize((80, 60), Image.Resampling.BICUBIC))
    images = np.stack([smooth, 255 - smooth]).transpose(0, 3, 1, 2)
    small = shrink(images, (21, 28))
    assert small.shape == (2, 3, 24, 32) and small.dtype == np.uint8
    expected = np.array(Image.fromarray(smooth).resize((32, 24), Image.Resampling.BILINEAR))
    assert np.abs(small[0].transpose(1, 2, 0).astype(int) - expected).max() <= 1
    depth = rng.integers(1, 60_000, (2, 1, 60, 80), np.uint16)
    small = shrink(depth, (21, 28))
    assert small.shape == (2, 1, 24, 32) and small.dtype == np.uint16
    assert set(small.flatten()) <= set(depth.flatten())
    assert small[1, 0, 0, 0] == depth[1, 0, 1, 1]  # the pixel at the middle of 2.5 × 2.5
    for kept in (images, depth):
        assert shrink(kept, (60, 80)) is kept and shrink(kept, (53, 70)) is kept


def test_a_view_counts_its_events_and_keeps_what_is_not_asked():
    view = draw_view(AUGMENTATIONS["shift"], 7, 0, generator())
    assert view.count == 7 and view.corner.shape == (2, 7, 1)
    assert view.box is view.colour is view.frames is None
    assert draw_view(None, 3, 0, generator()) == View(3)

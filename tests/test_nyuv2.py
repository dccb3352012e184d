"""NYU Depth v2 in its official layout: planted pixels, masks, depth, and files with faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from table_files import plant_nyuv2, write_nyuv2

from fdlab.core.errors import UserError
from fdlab.data.listing import BadMedium
from fdlab.data.nyuv2 import NYUV2, NYUv2Options, decode, describe_depth, list_events

h5py = pytest.importorskip("h5py")
io = pytest.importorskip("scipy.io")

FULL = NYUv2Options(height=12, width=16)  # the size of the planted images


def find_metadata() -> Path:
    places = [parent / "shared/metadata/nyuv2" for parent in Path(__file__).resolve().parents]
    found = next((place for place in places if place.is_dir()), None)
    return found or pytest.skip("the official split and mapping are not here")


def test_counts_splits_scenes_and_shapes(tmp_path):
    root = write_nyuv2(tmp_path)
    listing = list_events(root, FULL)
    assert [event.id for event in listing.events] == ["0001", "0002", "0003", "0005", "0006"]
    assert [event.split for event in listing.events] == [0, 2, 0, 2, 0]
    assert listing.scenes == ("kitchen", "office")  # the bedroom is in neither split
    assert [event.label for event in listing.events] == [0, 1, 0, 1, 0]
    assert listing.ids["place"][1] == "office_0001"
    assert listing.classes == [f"class {number}" for number in range(1, 41)]
    assert listing.notes == ["1 of 6 images are in neither split and are left out"]
    assert listing.expected == {"train": 795, "test": 654} and listing.task == NYUV2.task
    for event in listing.events:
        row = decode(root, event, FULL)
        for name, (shape, dtype) in listing.arrays.items():
            assert row[name].shape == shape and row[name].dtype == dtype


def test_a_pixel_is_where_the_photograph_has_it(tmp_path):
    root = write_nyuv2(tmp_path)
    event = list_events(root, FULL).events[2]  # image 3, so that n is 2
    row = decode(root, event, FULL)
    x, y = 13, 4
    assert row["rgb"][:, y, x].tolist() == [43, 103, 163]  # 60 c + 3 x + y
    assert row["depth"][0, y, x] == pytest.approx(3 + 1.3 + 0.04)  # 1 + n + x / 10 + y / 100
    label = (14 + 13 * 12 + 4) * 5  # of `plant_nyuv2`, below 895
    assert row["mask"][y, x] == (label - 1) % 40
    raw = decode(root, event, NYUv2Options(height=12, width=16, raw=True))["depth"]
    assert raw[0, 4, 13] == pytest.approx(4.3) and raw[0, 3, 12] == 0  # x + y = 15: no reading


def test_unlabelled_pixels_are_ignored_and_nothing_else(tmp_path):
    root = write_nyuv2(tmp_path)
    first = list_events(root, FULL).events[0]
    mask = decode(root, first, FULL)["mask"]
    labels = plant_nyuv2()["labels"][0].T
    assert (labels == 0).sum() > 1
    assert np.array_equal(mask == 255, labels == 0) and mask[mask != 255].max() < 40


def test_half_the_size_averages_colours_and_keeps_values_of_the_rest(tmp_path):
    root = write_nyuv2(tmp_path)
    half = NYUv2Options(height=6, width=8)
    row = decode(root, list_events(root, half).events[0], half)
    arrays = {key: np.swapaxes(values[0], -1, -2) for key, values in plant_nyuv2().items()}
    means = arrays["images"].reshape(3, 6, 2, 8, 2).mean(axis=(2, 4))
    assert abs(row["rgb"] - means).max() <= 0.5
    # An even reduction has its centres between pixels; the later one of each pair is taken.
    assert np.array_equal(row["depth"][0], arrays["depths"][1::2, 1::2])
    whole = decode(root, list_events(root, FULL).events[0], FULL)["mask"]
    assert np.array_equal(row["mask"], whole[1::2, 1::2])


def test_the_official_mapping_gives_every_named_class_its_own_pixels(tmp_path):
    source = io.loadmat(find_metadata() / "classMapping40.mat")
    names = [str(cell[0]) for cell in source["allClassName"].ravel()]
    labels = np.resize(np.arange(1, 895, dtype=np.uint16), (6, 16, 12))
    labels[1] = 600 + labels[1] % 295
    arrays = plant_nyuv2() | {"labels": labels}
    root = write_nyuv2(tmp_path, arrays, names=tuple(names), train=(1, 2, 3, 4, 5), test=(6,))
    shutil.copy(find_metadata() / "classMapping40.mat", root)
    listing = list_events(root, FULL)
    assert listing.notes == [] and len(listing.classes) == 40
    checked = 0
    for event in listing.events:
        mask = decode(root, event, FULL)["mask"]
        for (y, x), value in np.ndenumerate(mask):
            name = names[labels[event.facts["index"], x, y] - 1]
            if name in listing.classes:  # a label that is a class by name is that class
                assert listing.classes[value] == name
                checked += 1
    assert checked > 30


def test_the_official_split_has_the_counts_that_are_expected(tmp_path):
    count = 1449
    arrays = {
        key: np.resize(values[:1], (count, *values.shape[1:]))
        for key, values in plant_nyuv2(1, 2, 2).items()
    }
    root = write_nyuv2(tmp_path, arrays, types=("office",) * count)
    shutil.copy(find_metadata() / "splits.mat", root)
    listing = list_events(root, FULL)
    splits = [event.split for event in listing.events]
    assert {"train": splits.count(0), "test": splits.count(2)} == listing.expected
    assert listing.notes == []


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.3, 0.0), (0.0, -0.5), (0.4, 0.2)])
def test_the_slope_of_a_plane_is_its_angle_everywhere(tilt):
    # Depth of the plane Z = 2 + a X + b Y along the ray of each pixel, in closed form.
    rows, columns = np.arange(1, 480, 2), np.arange(1, 640, 2)
    right = (columns[None, :] - 325.582449) / 518.857901
    down = (rows[:, None] - 253.736166) / 519.469611
    depth = (2 / (1 - tilt[0] * right - tilt[1] * down)).astype(np.float32)
    metres, inverse, slope = describe_depth(depth, rows, columns, (480, 640))
    assert np.array_equal(metres, depth) and np.allclose(inverse * depth, 1)
    assert np.allclose(slope, np.arctan(np.hypot(*tilt)), atol=1e-3)


def test_three_channels_are_zero_where_there_is_no_reading(tmp_path):
    options = NYUv2Options(depth="three", raw=True, height=12, width=16)
    root = write_nyuv2(tmp_path)
    listing = list_events(root, options)
    depth = decode(root, listing.events[0], options)["depth"]
    assert depth.shape == listing.arrays["depth"][0] == (3, 12, 16)
    hole = plant_nyuv2()["rawDepths"][0].T == 0
    assert (
        hole.any() and np.array_equal((depth == 0).all(axis=0), hole) and np.isfinite(depth).all()
    )
    assert np.array_equal(depth[1] == 0, hole)
    beside = np.zeros_like(hole)
    beside[1:] |= hole[:-1]
    beside[:, 1:] |= hole[:, :-1]
    assert (depth[2][beside] == 0).all() and (depth[2] > 0).any()


def remove(key):
    def change(root):
        with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
            del file[key]

    return change


def cut(name, size):
    def change(root):
        path = root / name
        path.write_bytes(path.read_bytes()[: size if size > 0 else path.stat().st_size // 2])

    return change


def replace(name, **content):
    return lambda root: io.savemat(root / name, content)


TRAIN, TEST = np.array([[1], [2]]), np.array([[3]])
CLASSES = np.array([f"c{number}" for number in range(40)], object)[None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("rawDepths"), None),  # which is not needed
        (remove("depths"), r"has no depths: .* holds images, labels, names, rawDepths, scene"),
        (remove("sceneTypes"), "has no sceneTypes"),
        (cut("nyu_depth_v2_labeled.mat", 0), "labeled.mat is damaged or cut short"),
        (cut("nyu_depth_v2_labeled.mat", 300), "labeled.mat is not HDF5"),
        (lambda root: (root / "splits.mat").unlink(), "splits.mat is missing"),
        (cut("splits.mat", 150), "splits.mat cannot be read"),
        (replace("splits.mat", trainNdxs=TRAIN), "has no testNdxs: .* holds trainNdxs"),
        (replace("splits.mat", trainNdxs=TRAIN, testNdxs=[[7]]), "testNdxs holds 7: expected 1 to"),
        (replace("splits.mat", trainNdxs=[[0]], testNdxs=TEST), "trainNdxs holds 0: expected 1 to"),
        (replace("splits.mat", trainNdxs=TRAIN, testNdxs=[[2]]), "image 2 is in both splits"),
        (replace("splits.mat", trainNdxs=[[1], [1]], testNdxs=TEST), "in trainNdxs twice"),
        (replace("splits.mat", trainNdxs=TRAIN, testNdxs=[]), "testNdxs is empty"),
        (
            replace("classMapping40.mat", mapClass=np.ones((1, 893)), className=CLASSES),
            "mapClass has 893 entries: expected 894",
        ),
        (
            replace("classMapping40.mat", mapClass=np.full((1, 894), 41), className=CLASSES),
            "mapClass holds 41 to 41: expected 1 to 40",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_a_file_is_named(tmp_path, change, message):
    root = write_nyuv2(tmp_path)
    change(root)
    if message is None:
        assert list_events(root, FULL).events
        return
    with pytest.raises(UserError, match=message):
        list_events(root, FULL)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", 900, "image 1: label 900: expected 0 to 894"),
        ("depths", np.nan, "image 1: a depth below 0 or not finite"),
    ],
)
def test_a_value_out_of_range_is_a_bad_medium(tmp_path, key, value, message):
    arrays = plant_nyuv2()
    arrays[key][0, 2, 3] = value
    root = write_nyuv2(tmp_path, arrays)
    events = list_events(root, FULL).events
    with pytest.raises(BadMedium, match=message) as caught:
        decode(root, events[0], FULL)
    assert caught.value.file == "nyu_depth_v2_labeled.mat"
    assert decode(root, events[1], FULL)  # the others are read


def test_the_file_is_opened_once_and_read_by_the_row(tmp_path, monkeypatch):
    root = write_nyuv2(tmp_path)
    events = list_events(root, FULL).events
    opened, read = [], []
    plain_open, plain_read = h5py.File.__init__, h5py.Dataset.__getitem__

    def count_open(self, name, *rest, **options):
        if isinstance(name, (str, Path)):  # h5py wraps an open file's number too
            opened.append(name)
        plain_open(self, name, *rest, **options)

    def count_read(self, place, *rest, **options):
        read.append(place)
        return plain_read(self, place, *rest, **options)

    monkeypatch.setattr(h5py.File, "__init__", count_open)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", count_read)
    for event in events:
        decode(root, event, FULL)
    assert len(opened) == 1
    assert read == [event.facts["index"] for event in events for _ in range(3)]


def test_weights_and_options(tmp_path):
    options = NYUv2Options(height=12, width=16, rgb_weights="deeplab.pth")
    assert list_events(write_nyuv2(tmp_path), options).weights == {"rgb": "deeplab.pth"}
    with pytest.raises(UserError, match="did you mean 'metres'"):
        NYUv2Options(depth="meters")
    with pytest.raises(UserError, match="height is 1: expected 2 to 4096"):
        NYUv2Options(height=1)

"""KAIST, FLIR and MFNet in their official layouts: planted pixels and boxes, splits, and faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pair_files
import pytest
from pair_files import (
    COLD,
    FIRST,
    GROUND,
    OBJECT,
    ROAD,
    STREETS,
    WARM,
    write_flir_json,
    write_kaist_json,
    write_mfnet,
)
from PIL import Image

from fdlab.cli import main
from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.data import DATASETS, kaist, media, mfnet, store
from fdlab.data.ingest import ingest
from fdlab.data.listing import Event, Source
from fdlab.data.thermal import cut_videos, place_boxes, read_flag

EIGHTH = {"height": 64, "width": 80}  # of 512 and 640
EVERY = {"min_height": 0, "occlusion": 2, "border": 0}
OPTIONS = {"kaist": EIGHTH, "flir": EIGHTH, "mfnet": {"height": 48, "width": 64}}
EVENTS = {"kaist": 13, "flir": 8, "mfnet": 6}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Every set's files, written once."""
    folder = tmp_path_factory.mktemp("trees")
    for name in EVENTS:
        getattr(pair_files, f"write_{name}")(folder / name)
    return folder


@pytest.fixture
def write(trees):
    """Copies a set's files to a root."""
    return lambda name, root: shutil.copytree(trees / name, root, dirs_exist_ok=True)


def prepare(name, root, **options):
    return store.prepare(name, OPTIONS[name] | options, root=root)


def read_row(made, key, array):
    return made.read(array)[made.ids["id"].index(key)]


def list_boxes(made, key):
    """Its rows as tuples of whole numbers, without those that fill up."""
    rows = read_row(made, key, "boxes")
    return [tuple(row) for row in rows[rows[:, 0] != -1].astype(int).tolist()]


def test_kaist_has_the_planted_boxes_and_the_benchmarks_rules(write, tmp_path):
    write("kaist", tmp_path)
    made = prepare("kaist", tmp_path)
    # An eighth of left, top, left + width, top + height; class 0 is a person, -2 does not count.
    assert list_boxes(made, FIRST) == [
        (0, 10, 25, 15, 37),
        (-2, 20, 25, 25, 31),
        (0, 30, 25, 35, 37),
        (-2, 40, 25, 45, 37),
        (-2, 50, 25, 55, 37),
        (-2, 0, 25, 4, 37),
        (-2, 60, 25, 70, 37),
        (-2, 10, 40, 15, 52),
        (-2, 20, 40, 25, 52),
        (-2, 30, 40, 35, 52),
    ]
    assert made.read("boxes").shape == (13, 10, 5) and made.read("boxes").dtype == np.float32
    assert "annotated boxes that are left out: 1 without area" in made.manifest["notes"]
    every = prepare("kaist", tmp_path, **EVERY)
    kinds = [row[0] for row in list_boxes(every, FIRST)]
    assert kinds == [0, 0, 0, 0, -2, 0, -2, -2, -2, -2]
    assert every.info["annotated"] == {
        "train": {"person": 7, "ignored": 5},
        "validation": {"person": 3, "ignored": 0},  # set00/V001 and set03/V001
        "test": {"person": 1, "ignored": 0},
    }


@pytest.mark.parametrize("name", ["kaist", "flir"])
def test_pixels_are_warm_and_bright_where_the_boxes_are_and_nowhere_else(write, tmp_path, name):
    write(name, tmp_path)
    made = prepare(name, tmp_path)
    for row, (rgb, thermal) in enumerate(zip(made.read("rgb"), made.read("thermal"), strict=True)):
        inside = np.zeros((64, 80), bool)
        things = [t for t in write_planted(name)[made.ids["id"][row]] if t.label != "dog"]
        for _, x0, y0, x1, y1 in list_boxes(made, made.ids["id"][row]):
            inside[y0:y1, x0:x1] = True
        if "dog" in str(ROAD.get(made.ids["id"][row])):
            inside[25:30, 10:15] = True  # is seen, and has no box
        assert inside.any() == bool(things)
        assert abs(thermal[0] - np.where(inside, WARM, COLD).astype(float)).max() <= 4
        expected = np.where(inside[None], np.array(OBJECT)[:, None, None],
                            np.array(GROUND)[:, None, None])  # fmt: skip
        assert abs(rgb - expected.astype(float)).max() <= 12  # JPEG halves the colours' resolution


def write_planted(name):
    return pair_files.plant_kaist() if name == "kaist" else ROAD


@pytest.mark.parametrize("paired", [True, False], ids=["freqkd", "benchmark"])
def test_both_kinds_of_kaist_annotations_give_one_store(write, tmp_path, paired):
    write("kaist", tmp_path)
    text = prepare("kaist", tmp_path)
    files = write_kaist_json(tmp_path, paired)
    given = dict(zip(("train_annotations", "test_annotations"), files, strict=True))
    made = prepare("kaist", tmp_path, **given)
    assert made.manifest["options"]["test_annotations"] == "test.json"
    assert made.digest == text.digest


def test_kaist_may_lie_in_the_root_and_its_annotations_in_one_folder(write, tmp_path):
    write("kaist", tmp_path)
    whole = prepare("kaist", tmp_path).digest
    for folder in (tmp_path / "images").iterdir():
        folder.rename(tmp_path / folder.name)
    (tmp_path / "images").rmdir()
    (tmp_path / "sanitised").mkdir()
    for path in (tmp_path / "annotations").rglob("set0[03]/*/*.txt"):
        flat = "_".join(path.relative_to(tmp_path / "annotations").parts)
        path.rename(tmp_path / "sanitised" / flat)
    made = prepare("kaist", tmp_path, train_annotations="sanitised")
    assert made.digest == whole


def test_flir_has_the_planted_boxes_of_either_kind_of_annotation(write, tmp_path):
    write("flir", tmp_path)
    made = prepare("flir", tmp_path)
    assert made.ids["id"] == list(ROAD)  # in the lists' order
    boxes = {key: list_boxes(made, key) for key in ROAD}
    assert boxes["FLIR_00002"] == [(0, 10, 25, 15, 37), (2, 30, 25, 40, 30)]
    assert boxes["FLIR_00399"] == [(0, 50, 20, 55, 32)]  # the dog is left out
    assert boxes["FLIR_00205"] == [(-2, 30, 25, 35, 37)]  # difficult
    assert boxes["FLIR_00150"] == []
    assert boxes["FLIR_08863"] == [(1, 75, 30, 80, 40)]  # cut off at the edge
    assert "annotated boxes that are left out: 1 dog" in made.manifest["notes"]
    assert made.classes == ["person", "car", "bicycle"]
    files = write_flir_json(tmp_path)
    given = dict(zip(("train_annotations", "test_annotations"), files, strict=True))
    assert prepare("flir", tmp_path, **given).digest == made.digest
    assert prepare("flir", tmp_path / "align").digest == made.digest


@pytest.mark.parametrize("name", ["kaist", "flir"])
def test_validation_is_whole_videos_of_training(write, tmp_path, name):
    write(name, tmp_path)
    made = prepare(name, tmp_path)
    word = {"kaist": "video", "flir": "stretch"}[name]
    parts = [{made.ids[word][row] for row in made.rows(split)} for split in ("train", "validation")]
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    assert len(made.rows("test")) == {"kaist": 3, "flir": 2}[name]
    assert f"by {word}, seed 0: {', '.join(sorted(parts[1]))}" in str(made.manifest["notes"])
    if name == "kaist":  # by day and by night
        assert set(made.labels[made.rows("validation")]) == {0, 1}
        days = {
            key[:5] for key, label in zip(made.ids["id"], made.labels, strict=True) if not label
        }
        assert days == {"set00", "set06"} and made.dataset.scenes == ("day", "night")


def test_the_cut_meets_its_share_and_leaves_every_scene_a_video():
    sizes = {0: (40, 30, 20, 10, 400), 1: (50, 50), 2: (7,)}
    rows = [(k, f"{k}-{v}") for k, each in sizes.items() for v, n in enumerate(each)
            for _ in range(n)]  # fmt: skip
    events = [Event(str(i), scene, 0) for i, (scene, _) in enumerate(rows)]
    videos = [video for _, video in rows]
    for share in (0.1, 0.3, 0.5):
        cut, notes = cut_videos("made", events, videos, share)
        held = {video for event, video in zip(cut, videos, strict=True) if event.split}
        kept = {video for event, video in zip(cut, videos, strict=True) if not event.split}
        assert not held & kept and "2-0" in kept and len(notes) == 1
        assert len([v for v in held if v[0] == "1"]) == len([v for v in kept if v[0] == "1"]) == 1
        assert {v[0] for v in held} == {"0", "1"} and {v[0] for v in kept} == {"0", "1", "2"}
    first, again = (cut_videos("made", events, videos, 0.1)[0] for _ in range(2))
    assert first == again
    with pytest.raises(UserError, match="made: no kind of scene has more than one video"):
        cut_videos("made", events[-7:], videos[-7:], 0.1)


def test_mfnet_keeps_every_pixel_of_its_four_channels_and_every_class(tmp_path):
    planted = write_mfnet(tmp_path)
    made = prepare("mfnet", tmp_path)
    assert made.ids["id"] == list(chain(*STREETS.values()))
    assert made.split.tolist() == [0, 0, 0, 1, 2, 2]
    assert made.labels.tolist() == [0, 1, 0, 0, 1, 0] and len(made.classes) == 9
    for row, name in enumerate(made.ids["id"]):
        pixels, mask = planted[name]
        assert np.array_equal(made.read("rgb")[row], pixels[..., :3].transpose(2, 0, 1))
        assert np.array_equal(made.read("thermal")[row, 0], pixels[..., 3])
        assert np.array_equal(made.read("mask")[row], mask)
    assert "3 mirrored copies of the lists are left out" in made.manifest["notes"]
    half = prepare("mfnet", tmp_path, height=24, width=32)
    for row, (pixels, mask) in enumerate(planted.values()):
        means = pixels.reshape(24, 2, 32, 2, 4).mean(axis=(1, 3)).transpose(2, 0, 1)
        got = np.concatenate([half.read("rgb")[row], half.read("thermal")[row]])
        assert abs(got - means).max() <= 0.5  # whatever the fourth channel is
        assert np.array_equal(half.read("mask")[row], mask[1::2, 1::2])


@pytest.mark.parametrize("name", EVENTS)
def test_counts_are_set_against_the_published_ones(write, tmp_path, name):
    write(name, tmp_path)
    published = {
        "kaist": ["test: 3 here, 2,252 in the lists as published"],
        "flir": ["train: 6 here, 4,129 in the lists as released",
                 "test: 2 here, 1,013 in the lists as released"],
        "mfnet": ["train: 3 here, 784 in the lists as published",
                  "validation: 1 here, 392 in the lists as published",
                  "test: 2 here, 393 in the lists as published"],
    }  # fmt: skip
    assert prepare(name, tmp_path).manifest["differs"] == published[name]


@pytest.mark.parametrize("name", EVENTS)
def test_pairs_that_cannot_be_read_are_named_and_tried_again(write, tmp_path, name, monkeypatch):
    root = tmp_path / "root"
    write(name, root)
    whole = prepare(name, root).digest
    files = sorted(path for path in root.rglob("*.*") if path.suffix in (".jpg", ".jpeg", ".png"))
    cut, gone = files[0], files[-1]
    kept = cut.read_bytes(), gone.read_bytes()
    cut.write_bytes(kept[0][:400])
    gone.unlink()
    with pytest.raises(UserError, match=f"2 of {EVENTS[name]} events cannot be read"):
        store.prepare(name, OPTIONS[name], root=root, force=True)
    report = json.loads((paths.stores() / f"{name}.report.json").read_text())["failed"]
    found = {fault["file"]: fault["reason"] for fault in report}
    assert found.keys() == {path.relative_to(root).as_posix() for path in (cut, gone)}
    assert found[gone.relative_to(root).as_posix()] == "is missing"
    assert "cannot be decoded" in found[cut.relative_to(root).as_posix()]
    fewer = store.prepare(name, OPTIONS[name], root=root, force=True, allow_missing=2)
    assert len(fewer.labels) == EVENTS[name] - 2 and len(fewer.manifest["dropped"]) == 2
    read, plain = [], media.load_picture
    monkeypatch.setattr(media, "load_picture", lambda p, *m: (read.append(p), plain(p, *m))[1])
    cut.write_bytes(kept[0])
    with pytest.raises(UserError, match="1 of"):
        store.prepare(name, OPTIONS[name], root=root, force=True)
    gone.write_bytes(kept[1])
    read.clear()
    assert store.prepare(name, OPTIONS[name], root=root, force=True).digest == whole
    assert len(read) == 2  # one pair was left to read
    assert store.verify(name).digest == whole


def test_another_annotation_makes_another_store(write, tmp_path):
    write("kaist", tmp_path)
    before = prepare("kaist", tmp_path).digest
    assert prepare("kaist", tmp_path).digest == before
    path = tmp_path / "annotations" / f"{FIRST}.txt"
    path.write_text(path.read_text().replace("person 80 200 40 96", "person 88 200 40 96"))
    assert list_boxes(prepare("kaist", tmp_path), FIRST)[0] == (0, 11, 25, 16, 37)


def edit(path, old, new):
    def change(root):
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


def remove(path):
    return lambda root: (root / path).unlink()


def fill(path, content):
    return lambda root: (root / path).write_text(content)


def repaint(path, size, mode):
    return lambda root: Image.new(mode, size).save(root / path)


def edit_json(path, change):
    """change: of the file's content, in place."""

    def apply(root):
        write_kaist_json(root, paired=True)
        content = json.loads((root / path).read_text())
        change(content)
        (root / path).write_text(json.dumps(content))

    return apply


def put(kind, number, **values):
    return lambda content: content[kind][number].update(values)


TEXT = f"annotations/{FIRST}.txt"
LWIR = "images/set00/V000/lwir/I00019.jpg"
XML = "align/Annotations/FLIR_00002_PreviewData.xml"
SEEN = "ir_seg_dataset/images/00001D.png"
MASK = "ir_seg_dataset/labels/00001D.png"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kaist", remove(LWIR), rf"1 of 13 events .* {LWIR}: is missing"),
        ("kaist", repaint(LWIR, (320, 256), "L"), rf"{LWIR}: is of 320 x 256 pixels and the colour "
         "image images/set00/V000/visible/I00019.jpg of 640 x 512: expected one size"),
        ("kaist", remove(TEXT), f"{TEXT}: is missing"),
        ("kaist", fill(TEXT, ""), f"{TEXT}: line 1: expected '% bbGt version=3'"),
        ("kaist", fill(TEXT, "% bbGt version=0\n"), "line 1: expected '% bbGt version=3'"),
        ("kaist", edit(TEXT, "person 80 200 40 96 0 ", "person 80 200 40 "),
         f"{TEXT}: line 2: 'person 80 200 40 0.*': expected a label and 11 numbers"),
        ("kaist", edit(TEXT, "person 80", "person nan"), "line 2: .* a label and 11 numbers"),
        ("kaist", edit(TEXT, "person 80", "persn 80"), "line 2: unknown class 'persn': did you "),
        ("kaist", edit(TEXT, "40 96 1", "40 96 3"), "line 4: .*: occlusion is 3: expected 0, 1 or"),
        ("kaist", edit(TEXT, "person 80", "person 700"), f"{TEXT}: {FIRST}: the box from 700, 200, "
         "740, 296 lies outside the image of 640 x 512: expected a part"),
        ("kaist", fill("imageSets/train-all-20.txt", "\n"), "train-all-20.txt is empty"),
        ("kaist", remove("imageSets/test-all-20.txt"), r"imageSets: unknown list of test "
         "'test-all-20': did you mean 'train-all-20'. Choices: train-all-20$"),
        ("kaist", edit("imageSets/test-all-20.txt", "set06/V000/I00019", "set06/V000/19"),
         "test-all-20.txt, line 1: 'set06/V000/19': expected a frame, set00/V000/I00019"),
        ("kaist", edit("imageSets/train-all-20.txt", "set03/V000/I00019", FIRST),
         f"line 6: {FIRST} is listed a second time, as in .*line 1: expected it once"),
        ("kaist", edit("imageSets/train-all-20.txt", "set03/V000/I00019", "set07/V000/I00019"),
         "train-all-20.txt, line 6: set07 in train: expected a frame of set00 to set05"),
        ("kaist", lambda root: [path.write_text("% bbGt version=3\n")
                                for path in root.rglob("set0[03]/*/*.txt")],
         "no training image has a box of class person"),
        ("kaist", lambda root: (root / "annotations").rename(root / "boxes"),
         "annotations is missing: expected images/, annotations/ and imageSets/ in the root"),
        ("kaist.json", fill("train.json", "{"), "train.json is not JSON"),
        ("kaist.json", fill("train.json", "[]"), "train.json holds no object"),
        ("kaist.json", fill("train.json", '{"images": []}'), "json has no list of categories"),
        ("kaist.json", edit_json("train.json", lambda content: content["images"].clear()),
         "train.json has no image"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, image_id=99)),
         r"train.json, annotations\[3\]: image_id is 99: expected the id of one of its images"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, category_id=9)),
         r"annotations\[3\]: unknown category_id 9: Choices: 0, 1, 2, 3, 4"),
        ("kaist.json", edit_json("train.json", put("categories", 0, name="man")),
         r"annotations\[0\]: unknown class 'man'"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, bbox=[1, 2, 3])),
         r"annotations\[3\]: bbox is \[1, 2, 3\]: expected left, top, width and height"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, bbox=[10**400, 2, 3, 4])),
         r"annotations\[3\]: bbox is \[10000.*: expected left, top, width and height"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, bbox=[1e308, 2, 1e308, 4])),
         r"1 of 13 .* train.json, images\[0\]: annotations\[3\]: the box is inf wide and 4 high: "),
        ("kaist.json", edit_json("train.json", put("annotations", 3, bbox=[9, 2, -3, 4])),
         r"1 of 13 events .* train.json, images\[0\]: annotations\[3\]: the box is -3 wide and 4 "
         "high: expected 0 or more"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, ignore="no")),
         r"annotations\[3\]: ignore is 'no': expected 0, 1, true or false"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, iscrowd=2)),
         r"annotations\[3\]: iscrowd is 2: expected 0, 1, true or false"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, iscrowd=[0])),
         r"annotations\[3\]: iscrowd is \[0\]: expected 0, 1, true or false"),
        ("kaist.json", edit_json("train.json", put("categories", 4, id=1)),
         r"train.json, categories\[4\]: id 1 stands in .*train.json, categories\[1\] too"),
        ("kaist", edit(TEXT, "person 80 200 40 96", "person 80 200 40 -96"),
         f"1 of 13 events .* {TEXT}: line 2: the box is 40 wide and -96 high: expected 0 or more"),
        ("flir", edit(XML, "<xmax>320", "<xmax>200"),
         f"{XML}: object 2: the box is -40 wide and 40 high: expected 0 or more"),
        ("flir", edit(XML, "<difficult>0", "<difficult>maybe"),
         f"{XML}: object 1: difficult is 'maybe': expected 0, 1, true or false"),
        ("flir.json", edit("align/train/thermal_annotations.json", "FLIR_00001", "FLIR_00410"),
         r"images\[1\]: thermal_8_bit/FLIR_00410.jpeg is FLIR_00410, and so is "
         r"thermal_8_bit/FLIR_00410.jpeg of .*images\[0\]: expected one image of each"),
        ("kaist.json", edit_json("train.json", put("annotations", 3, occlusion="no")),
         r"annotations\[3\]: occlusion is 'no': expected 0, 1 or 2"),
        ("kaist.json", edit_json("train.json", put("images", 1, id=0)),
         r"images\[1\]: id 0 stands in .*images\[0\] too"),
        ("kaist.json", edit_json("train.json", put("images", 1, width="wide")),
         r"images\[1\]: width is 'wide': expected a whole number"),
        ("kaist.json", edit_json("train.json", put("images", 1, width=64)), r"train.json, images\[1"
         r"\]: is of 64 x 512 pixels and the colour image .* of 640 x 512: expected one size"),
        ("kaist.json", edit_json("train.json", put("images", 1, file_name="I00039.jpg")),
         r"images\[1\]: 'I00039.jpg': expected im_name such as set00/V000/I00019"),
        ("kaist.json", edit_json("train.json", put("images", 1, file_name2="lwir/I00019.jpg")),
         r"images\[1\]: file_name2 is .*: expected set00/V000/lwir/I00039.jpg"),
        ("kaist.json", edit_json("train.json", put("annotations", 0, bbox=[0, 600, 9, 90])),
         r"train.json, images\[0\]: set00/V000/I00019: the box from 0, 600, 9, 690 lies outside"),
        ("kaist.json", remove(LWIR), f"{LWIR}: is missing"),
        ("flir", remove(XML), f"{XML}: is missing"),
        ("flir", edit(XML, "</object>", ""), f"{XML}: is not XML .*: expected Pascal VOC"),
        ("flir", edit(XML, "person", "horse"), f"{XML}: object 1: unknown class 'horse'"),
        ("flir", edit(XML, "<xmin>240</xmin>", ""), "object 2: bndbox/xmin is None: expected a n"),
        ("flir", edit(XML, ">240<", ">inf<"), "object 2: bndbox/xmin is 'inf': expected a number"),
        ("flir", edit(XML, "<xmin>80</xmin><ymin>200</ymin><xmax>120<", "<xmin>640</xmin><ymin>200"
         "</ymin><xmax>690<"), f"{XML}: FLIR_00002: the box from 640, 200, 690, 296 lies outside"),
        ("flir", edit(XML, "<width>640", "<width>320"), f"{XML}: is of 320 x 512 pixels and the"),
        ("flir", lambda root: (root / XML).write_bytes(b"\xff\xfe\xff"), f"{XML}: is no text in"),
        ("flir", fill("align/align_validation.txt", ""), "align_validation.txt is empty"),
        ("flir", edit("align/align_train.txt", "FLIR_00410", "00410"),
         "align_train.txt, line 1: '00410_PreviewData': expected FLIR_00002_PreviewData"),
        ("flir", edit("align/align_validation.txt", "FLIR_08863", "FLIR_00410"),
         "align_validation.txt, line 1: FLIR_00410 is listed a second time, as in .*align_train"),
        ("flir.json", edit("align/train/thermal_annotations.json", "FLIR_00410", "FLIR_00411"),
         "align_train.txt, line 1: FLIR_00410 is no image of .*thermal_annotations.json"),
        ("flir.json", edit("align/train/thermal_annotations.json", "FLIR_00410", "410"),
         r"images\[1\]: file_name is 'thermal_8_bit/410.jpeg': expected FLIR_00002.jpeg"),
        ("flir.json", edit("align/val/thermal_annotations.json", '"car"', '"cart"'),
         r"val/thermal_annotations.json, annotations\[0\]: unknown class 'cart'"),
        ("mfnet", repaint(SEEN, (64, 48), "RGB"), f"{SEEN}: has mode RGB: expected four channels"),
        ("mfnet", repaint(MASK, (64, 48), "RGB"), f"{MASK}: has mode RGB: expected one class"),
        ("mfnet", repaint(MASK, (32, 48), "L"), f"{MASK}: is of 32 x 48 pixels and its image of 64 "
         "x 48: expected one size"),
        ("mfnet", lambda root: Image.new("L", (64, 48), 9).save(root / MASK),
         f"{MASK}: holds class 9: expected 0 to 8"),
        ("mfnet", remove(MASK), f"{MASK}: is missing"),
        ("mfnet", fill("ir_seg_dataset/val.txt", " \n"), "val.txt is empty"),
        ("mfnet", edit("ir_seg_dataset/test.txt", "00003N", "3N"), "line 1: '3N': expected a name"),
        ("mfnet", edit("ir_seg_dataset/test.txt", "00003N", "00001D"),
         "test.txt, line 1: 00001D is listed a second time, in train.txt too: expected it once"),
    ],
)  # fmt: skip
def test_a_fault_is_named(write, tmp_path, name, change, message):
    name, _, is_json = name.partition(".")
    root = tmp_path / "root"
    write(name, root)
    given = {}
    if is_json:
        files = write_flir_json(root) if name == "flir" else write_kaist_json(root, paired=True)
        given = dict(zip(("train_annotations", "test_annotations"), files, strict=True))
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        prepare(name, root, **given)
    assert len(str(caught.value).splitlines()) == 1
    assert not (paths.stores() / name).exists()


def clear(*patterns):
    """Empties text annotations, or takes the objects out of XML ones."""

    def change(root):
        for path in (path for pattern in patterns for path in root.rglob(pattern)):
            text = path.read_text()
            empty = "% bbGt version=3\n"
            if path.suffix == ".xml":
                empty = text[: text.index("<object>")] + "</annotation>\n"
            path.write_text(empty)

    return change


def move_to_edge(root):
    for path in root.glob("annotations/set06/*/*.txt"):
        path.write_text("% bbGt version=3\nperson 597 200 40 96 0 0 0 0 0 0 0\n")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kaist", clear("set06/*/*.txt"), "kaist: train-all-20 and test-all-20: no test image has "
         "a box that counts: expected one at least"),
        ("kaist", clear("V001/*.txt"), "no validation image has a box that counts: expected one"),
        ("kaist", move_to_edge, "no test image has a box that counts: expected one at least"),
        ("flir", clear("FLIR_08863*.xml", "FLIR_09001*.xml"), "no test image has a box that count"),
        ("flir", clear("FLIR_00801*.xml", "FLIR_00410*.xml"), "no training image has a box of "
         "class car that counts: expected one of every class at least"),
    ],
)  # fmt: skip
def test_splits_without_an_object_are_refused(write, tmp_path, name, change, message):
    write(name, tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare(name, tmp_path)


def test_a_box_at_the_border_counts_where_there_is_none(write, tmp_path):
    write("kaist", tmp_path)
    move_to_edge(tmp_path)
    assert len(prepare("kaist", tmp_path, border=0).labels) == 13


def test_a_class_that_is_gone_with_faulty_pairs_is_refused(write, tmp_path):
    write("flir", tmp_path)
    for stem in ("FLIR_00410", "FLIR_00801"):  # all cars of training and its validation
        path = tmp_path / f"align/Annotations/{stem}_PreviewData.xml"
        path.write_text(path.read_text().replace("<xmin>", "<xmin>x"))
    with pytest.raises(UserError, match=r"class car.* that counts, of those whose annotations are "
                       r"sound \(2 are not, the first: .*FLIR_00410.*xmin is 'x320'"):  # fmt: skip
        store.prepare("flir", EIGHTH, root=tmp_path, allow_missing=2)


def test_flags_are_numbers_booleans_or_words():
    for value in (1, 1.0, True, "1", "true", " True "):
        assert read_flag(value) is True
    for value in (0, 0.0, False, "0", "false"):
        assert read_flag(value) is False
    for value in (2, "yes", "", None, [1], float("nan"), 10**400):
        with pytest.raises(ValueError, match="expected 0, 1, true or false"):
            read_flag(value)


@pytest.mark.parametrize("name", ["kaist", "flir"])
def test_a_default_is_never_found_in_the_working_directory(write, tmp_path, name, monkeypatch):
    here, root = tmp_path / "here", tmp_path / "root"
    write(name, here)
    write(name, root)
    base = {"kaist": "", "flir": "align"}[name]
    word = {"kaist": "annotations", "flir": "Annotations"}[name]
    shutil.rmtree(root / base / word)
    monkeypatch.chdir(here / base)
    with pytest.raises(UserError, match=f"root.*{word} is missing: expected "):
        prepare(name, root)
    shutil.move(here / base / word, here / base / "other")
    given = {f"{side}_annotations": "other" for side in ("train", "test")}
    assert len(prepare(name, root, **given).labels) == EVENTS[name]
    if name == "kaist":
        shutil.move(root / "imageSets/train-all-20.txt", here / "train-all-20")
        with pytest.raises(UserError, match="unknown list of train 'train-all-20'"):
            prepare(name, root, **given)


def test_a_home_that_is_not_there_is_named(write, tmp_path):
    for name in ("kaist", "flir"):
        write(name, tmp_path / name)
        for option in ("train", "train_annotations")[name == "flir" :]:
            said = f"{option} is '~nouser/x': there is no such home folder: expected a path"
            with pytest.raises(UserError, match=said):
                prepare(name, tmp_path / name, **{option: "~nouser/x"})


def test_a_list_is_found_by_its_name_or_path(write, tmp_path, monkeypatch):
    root = tmp_path / "root"
    write("kaist", root)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text((root / "imageSets/train-all-20.txt").read_text())
    for text in ("train-all-20.txt", "imageSets/train-all-20.txt", "imageSets/train-all-20",
                 str(root / "imageSets/train-all-20.txt"), "mine.txt"):  # fmt: skip
        options = kaist.KaistOptions(**EIGHTH, train=text)
        listing = kaist.list_events(root, options)
        assert len(listing.events) == 13
        name = "mine.txt" if text == "mine.txt" else "train-all-20"
        assert listing.annotations == f"{name} and test-all-20"
    options = kaist.KaistOptions(**EIGHTH, test="test-all-20.txt")
    assert kaist.list_events(root, options).expected == {"test": 2252}
    said = "imageSets: unknown list of train 'train-all-2': .*Choices: test-all-20, train-all-20$"
    with pytest.raises(UserError, match=said):
        prepare("kaist", root, train="train-all-2")
    shutil.rmtree(root / "imageSets")
    with pytest.raises(UserError, match=r"train is 'train-all-2', and .*Sets holds no list: "):
        prepare("kaist", root, train="train-all-2")


def test_boxes_are_cut_off_scaled_and_ignored_near_the_edge():
    boxes = [[0, -10, 20, 30, 60], [0, 6, 6, 40, 40], [1, 70, 10, 100, 50], [-2, 0, 0, 9, 9]]
    got = place_boxes(boxes, (100, 80), (40, 25), 5, border=5)
    assert got.tolist() == [
        [-2, 0, 10, 7.5, 30], [0, 1.5, 3, 10, 20], [-2, 17.5, 5, 25, 25], [-2, 0, 0, 2.25, 4.5],
        [-1, -1, -1, -1, -1],
    ]  # fmt: skip
    assert place_boxes(boxes, (100, 80), (40, 25), 5)[:, 0].tolist() == [0, 0, 1, -2, -1]
    whole = place_boxes(boxes, (100, 80), (80, 100), 4)
    assert np.array_equal(whole[1:, 1:], np.array(boxes)[1:, 1:])


def test_what_a_loader_promises_of_boxes_is_checked(write, tmp_path):
    write("kaist", tmp_path)
    options = kaist.KaistOptions(**EIGHTH)

    def decode(root, event, options):
        row = kaist.decode(root, event, options)
        return row | {"boxes": np.where(row["boxes"] == 0, 1, row["boxes"]).astype(np.float32)}

    wrong = replace(DATASETS["kaist"], source=Source(kaist.list_events, decode))
    with pytest.raises(RuntimeError, match="boxes hold 1, and there are 1 classes"):
        ingest(wrong, tmp_path, options, tmp_path / "kaist")

    def forget(root, options):
        listing = kaist.list_events(root, options)
        return replace(listing, arrays={k: v for k, v in listing.arrays.items() if k != "boxes"})

    wrong = replace(DATASETS["kaist"], source=Source(forget, kaist.decode))
    with pytest.raises(ValueError, match="detection without boxes"):
        ingest(wrong, tmp_path, options, tmp_path / "other")


def test_options_out_of_range_are_refused():
    for change, message in (
        ({"height": 4}, "height is 4: expected 8 to 4096"),
        ({"occlusion": 3}, "occlusion is 3: expected 0 to 2"),
        ({"border": -1}, "border is -1: expected 0 or more"),
        ({"validation": 0.0}, "validation is 0.0: expected a share above 0"),
    ):
        with pytest.raises(UserError, match=message):
            kaist.KaistOptions(**change)
    weights = mfnet.MfnetOptions(thermal_weights="here.pth").weights
    assert weights == {"thermal": "here.pth"}


def test_the_command_line_prepares_lists_and_verifies(write, tmp_path, capsys):
    for name in EVENTS:
        write(name, tmp_path / name)
        chosen = [part for k, v in OPTIONS[name].items() for part in ("-o", f"{k}={v}")]
        assert main(["data", "prepare", name, "--root", str(tmp_path / name), *chosen]) == 0
        assert main(["data", "verify", name]) == 0
    capsys.readouterr()
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert "rgb, thermal; 1 class\n" in text and "rgb, thermal; 9 classes" in text
    assert text.count("3 train, 1 validation, 2 test") == 1
    for name, task in (("kaist", "detection"), ("flir", "detection"), ("mfnet", "segmentation")):
        dataset = store.find_dataset(name)
        assert dataset.task == task and dataset.directions == ("rgb2thermal",)
        assert {modality.augment for modality in dataset.modalities.values()} == {"scene"}

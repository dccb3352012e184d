"""Sets of photographs in their official layouts: planted colours and splits, and faults."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import picture_files
import pytest
from picture_files import TEST, TRAIN, choose_colour, write_dog_list, write_lines
from PIL import Image

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.data import DATASETS, media, store

OFFICIAL = {  # training, test, classes, as their authors state them
    "tinyimagenet": (100_000, 10_000, 200),
    "cub200": (5994, 5794, 200),
    "mit67": (5360, 1340, 67),
    "stanford40": (4000, 5532, 40),
    "stanford_dogs": (12_000, 8580, 120),
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))


@pytest.fixture(params=OFFICIAL)
def name(request):
    return request.param


def write(root, name):
    return getattr(picture_files, f"write_{name}")(root)


def list_photographs(root):
    """Training photographs that are read, sorted."""
    found = [*root.rglob("*.jpg"), *root.rglob("*.JPEG")]
    return sorted(
        path for path in found if not {"test", "in_no_list"} & {path.stem, path.parts[-3]}
    )


def test_colours_classes_and_splits_are_the_planted_ones(tmp_path, name):
    classes = write(tmp_path / "root", name)
    made = store.prepare(name, {"side": 16}, root=tmp_path / "root")
    assert made.classes == classes
    images = made.read("image")
    assert images.shape == (39, 3, 16, 16) and images.dtype == np.uint8
    colours = np.array([choose_colour(k) for k in range(3)])
    assert abs(images - colours[made.labels][..., None, None].astype(float)).max() <= 3
    counts = Counter(zip(made.split.tolist(), made.labels.tolist(), strict=True))
    assert counts == {
        (split, k): n for k in range(3) for split, n in ((0, TRAIN - 1), (1, 1), (2, TEST))
    }
    train, test, _ = OFFICIAL[name]
    assert made.manifest["differs"] == [
        f"train: 30 here, {train:,} in the official split",
        f"test: 9 here, {test:,} in the official split",
    ]
    assert "3 of 30 training events were cut for it, 0.1 of every class" in str(made.manifest)
    official = {i for i, split in zip(made.ids["id"], made.split, strict=True) if split == 2}
    other = store.prepare(name, {"side": 16, "validation": 0.3}, root=tmp_path / "root")
    assert other.manifest["counts"] == {"train": 21, "validation": 9, "test": 9}
    assert official == {other.ids["id"][row] for row in other.rows("test")}
    dataset = made.dataset
    assert dataset.directions == ("image2image",) and dataset.classes == 3
    assert DATASETS[name].classes == OFFICIAL[name][2] and dataset.pairs
    assert set(dataset.recipes["paper"][""]) >= {"milestones", "weight_decay"}


def test_what_is_read_of_a_photograph_is_what_pillow_shows(tmp_path):
    """Stored at its own size, TinyImageNet's is decoded and nothing else."""
    write(tmp_path, "tinyimagenet")
    path = tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG", quality=90)  # grey, as some of the official ones are
    made = store.prepare("tinyimagenet", root=tmp_path)
    row = made.ids["id"].index("val/images/val_0.JPEG")
    with Image.open(path) as image:
        assert np.array_equal(made.read("image")[row, 0], np.asarray(image))
    assert (made.read("image")[row] == made.read("image")[row, 0]).all()


def test_photographs_that_cannot_be_read_are_named_tried_again_and_only_they(
    tmp_path, name, monkeypatch
):
    write(tmp_path, name)
    whole = store.prepare(name, {"side": 8}, root=tmp_path).digest
    gone, broken = list_photographs(tmp_path)[3:5]
    kept = gone.read_bytes(), broken.read_bytes()
    gone.rename(tmp_path / "elsewhere")
    if name == "tinyimagenet":  # whose training photographs are listed by their folders
        gone.write_bytes(b"")
    broken.write_bytes(kept[1][:200])
    read, plain = [], media.read_image
    monkeypatch.setattr(media, "read_image", lambda p, side: (read.append(p), plain(p, side))[1])
    with pytest.raises(UserError, match="2 of 39 events cannot be read"):
        store.prepare(name, {"side": 8}, root=tmp_path, force=True)
    report = json.loads((paths.stores() / f"{name}.report.json").read_text())["failed"]
    assert {fault["file"] for fault in report} == {
        path.relative_to(tmp_path).as_posix() for path in (gone, broken)
    }
    assert "is missing" in str(report) or "is empty" in str(report)
    assert "cannot be decoded" in str(report) and len(read) == 39
    read.clear()
    gone.write_bytes(kept[0])
    broken.write_bytes(kept[1])
    assert store.prepare(name, {"side": 8}, root=tmp_path, force=True).digest == whole
    assert sorted(read) == [gone, broken]


def edit(path, old, new):
    def change(root):
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


def remove(path):
    return lambda root: (root / path).unlink()


def append(path, line):
    return lambda root: (root / path).write_text((root / path).read_text() + f"{line}\n")


def relist(files, labels):
    return lambda root: write_dog_list(root / "lists" / "test_list.mat", files, labels)


TINY, CUB = "tiny-imagenet-200", "CUB_200_2011"
DOG = "n02085620-Chihuahua/n02085620_110.jpg"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tinyimagenet", remove(f"{TINY}/wnids.txt"), "wnids.txt is missing: expected tiny-imag"),
        ("tinyimagenet", remove(f"{TINY}/words.txt"), "words.txt is missing"),
        ("tinyimagenet", remove(f"{TINY}/val/val_annotations.txt"), "val_annotations.txt is mis"),
        ("tinyimagenet", edit(f"{TINY}/words.txt", "n01629819", "n9"), "no name for n01629819"),
        ("tinyimagenet", edit(f"{TINY}/wnids.txt", "n01629819\n", ""), "unknown class 'n01629819'"),
        ("tinyimagenet", append(f"{TINY}/wnids.txt", "n00001740"), "no training event is of class "
         "entity"),
        ("tinyimagenet", append(f"{TINY}/val/val_annotations.txt", "a.JPEG\tn7\t0\t0\t1\t1"),
         "val_annotations.txt, line 10: unknown class 'n7'"),
        ("tinyimagenet", append(f"{TINY}/val/val_annotations.txt", "val_0.JPEG\tn01443537\t0"),
         "line 10: val/images/val_0.JPEG is listed a second time"),
        ("tinyimagenet", append(f"{TINY}/val/val_annotations.txt", "a.JPEG"), "line 10: 'a.JPEG': "
         "expected a file, its class and a box"),
        ("tinyimagenet", append(f"{TINY}/val/val_annotations.txt", "../../../a\tn01443537\t0"),
         "line 10: .* expected the path of a file below"),
        ("cub200", remove(f"{CUB}/classes.txt"), "classes.txt is missing: expected CUB_200_2011"),
        ("cub200", append(f"{CUB}/images.txt", "99 001.B/x.jpg"), "image_class_labels.txt and "
         "images.txt do not both have the image 99"),
        ("cub200", edit(f"{CUB}/train_test_split.txt", "\n39 0", ""), "split.txt and images.txt do "
         "not both have the image 39"),
        ("cub200", edit(f"{CUB}/image_class_labels.txt", "\n7 1", "\n7 4"),
         "image_class_labels.txt, line 7: unknown class '4'"),
        ("cub200", edit(f"{CUB}/train_test_split.txt", "\n7 1", "\n7 2"), "line 7: '2': expected "),
        ("cub200", append(f"{CUB}/images.txt", "1 x.jpg"), "line 40: 1 stands in .*line 1 too"),
        ("cub200", append(f"{CUB}/images.txt", "40"), "line 40: '40': expected a number and what"),
        ("cub200", edit(f"{CUB}/images.txt", "1 001", "1 /etc/001"), "line 1: .* expected the"),
        ("mit67", remove("TestImages.txt"), "TestImages.txt is missing: expected Images/ with"),
        ("mit67", lambda root: (root / "Images").rename(root / "images"), "Images is missing"),
        ("mit67", append("TrainImages.txt", "attic/a.jpg"), "TrainImages.txt, line 31: unknown "
         "class 'attic'"),
        ("mit67", append("TestImages.txt", "bakery/bakery 00_altavista.jpg"), "TestImages.txt, line"
         " 10: bakery/bakery 00_altavista.jpg is listed a second time"),
        ("mit67", lambda root: (root / "TestImages.txt").write_text("\n"), "TestImages.txt is emp"),
        ("mit67", lambda root: (root / "TestImages.txt").write_bytes(b"\xff"), "not UTF-8"),
        ("stanford40", remove("ImageSplits/actions.txt"), "actions.txt is missing: expected JPEG"),
        ("stanford40", append("ImageSplits/train.txt", "smiling_001.jpg"), "train.txt, line 31: "
         "unknown class 'smiling'"),
        ("stanford40", append("ImageSplits/test.txt", "applauding_001.jpg"), "test.txt, line 10: "
         "applauding_001.jpg is listed a second time"),
        ("stanford40", lambda root: write_lines(root / "ImageSplits" / "actions.txt", ["Name"]),
         "actions.txt names no action"),
        ("stanford_dogs", remove("lists/test_list.mat"), "test_list.mat is missing: expected Imag"),
        ("stanford_dogs", lambda root: (root / "lists" / "test_list.mat").write_bytes(b"x" * 99),
         "test_list.mat cannot be read"),
        ("stanford_dogs", relist([DOG], [2]), "test_list.mat, entry 1: .* has label 2: expected"),
        ("stanford_dogs", relist([DOG], ["one"]), "test_list.mat: .* expected file_list"),
        ("stanford_dogs", relist([DOG], [1, 1]), "has 1 files and 2 labels"),
        ("stanford_dogs", relist(["n0-wolf/a.jpg"], [4]), "entry 1: unknown class 'n0-wolf'"),
        ("stanford_dogs", relist(["n0-wolf/a.jpg"], [9]), "labels 1 to 9, 4 different ones"),
        ("stanford_dogs", relist(["n02085620-Chihuahua/../../a"], [1]), "entry 1: .*expected the"),
    ],
)  # fmt: skip
def test_a_fault_of_a_list_is_named(tmp_path, name, change, message):
    write(tmp_path / "root", name)
    change(tmp_path / "root")
    with pytest.raises(UserError, match=message) as caught:
        store.prepare(name, {"side": 8}, root=tmp_path / "root")
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "home").rglob("*.npy"))


def test_the_folder_itself_may_be_the_root_and_lists_may_lie_elsewhere(tmp_path):
    for name, folder in (("tinyimagenet", "tiny-imagenet-200"), ("cub200", "CUB_200_2011")):
        write(tmp_path / name, name)
        above = store.prepare(name, {"side": 8}, root=tmp_path / name)
        assert (
            store.prepare(name, {"side": 8}, root=tmp_path / name / folder).digest == above.digest
        )
    joint = picture_files.write_stanford40(tmp_path / "joint")
    assert picture_files.write_stanford40(tmp_path / "each", joint=False) == joint
    made = [store.prepare("stanford40", root=tmp_path / root) for root in ("joint", "each")]
    assert made[0].digest == made[1].digest
    for folder in ("lists", "."):
        picture_files.write_stanford_dogs(tmp_path / f"dogs{folder}", folder)
    made = [store.prepare("stanford_dogs", root=tmp_path / f"dogs{f}") for f in ("lists", ".")]
    assert made[0].digest == made[1].digest

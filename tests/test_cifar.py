"""CIFAR from its official archives: planted pixels and labels, one store whatever the version, and
archives that are damaged or hostile."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from picture_files import pack, pickle_as_python2, plant_cifar10, plant_cifar100, unpack

from fdlab.core.errors import UserError
from fdlab.data import cifar, store
from fdlab.data.cifar import SETS, CifarOptions, list_events
from fdlab.data.dataset import SPLITS

PLANTS = {"cifar10": plant_cifar10, "cifar100": plant_cifar100}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    yield
    cifar._read_once.cache_clear()


@pytest.fixture(params=PLANTS)
def kind(request):
    return request.param


def write(root, kind, number=0, packed=True, **changes):
    """One version of a set below the root: 0 pickles, 1 binary; changes: other content of files."""
    plant, version = PLANTS[kind](), SETS[kind].versions[number]
    files = (plant.binary if number else plant.python) | changes
    root.mkdir(exist_ok=True)
    if packed:
        pack(root / version.archive, files, version.folder)
    else:
        unpack(root / version.folder, files)
    return plant


def test_every_version_packed_or_not_gives_the_planted_arrays(tmp_path, kind):
    digests = []
    for number in (0, 1):
        for packed in (True, False):
            root = tmp_path / f"root{number}{packed}"
            plant = write(root, kind, number, packed)
            held = root / SETS[kind].versions[number].archive if packed else root
            made = store.prepare(kind, root=held, force=True)
            assert np.array_equal(made.read("image"), plant.images.reshape(-1, 3, 32, 32))
            assert made.read("image").dtype == np.uint8
            assert np.array_equal(made.labels, plant.labels) and made.classes == plant.names
            assert np.array_equal(made.split == 2, np.arange(len(plant.labels)) >= plant.train)
            digests.append(made.digest)
    assert len(set(digests)) == 1


def test_classes_families_splits_and_counts(tmp_path, kind):
    plant = write(tmp_path / "root", kind)
    made = store.prepare(kind, {"validation": 0.25}, root=tmp_path / "root")
    per_class = Counter(made.labels[made.split == 1].tolist())
    assert set(per_class.values()) == {1} and len(per_class) == len(plant.names)  # 1 in 4 of each
    assert made.manifest["differs"] == [
        f"train: {plant.train} here, 50,000 in the official files",
        f"test: {len(plant.labels) - plant.train} here, 10,000 in the official files",
    ]
    assert "0.25 of every class" in made.manifest["notes"][0]
    assert made.ids["id"][0] == "train-00000" and made.ids["id"][-1].startswith("test-")
    dataset = made.dataset
    assert dataset.directions == ("image2image",) and list(dataset.modalities) == ["image"]
    assert dataset.modalities["image"].augment == "pad_flip"
    if kind == "cifar100":
        assert made.info["families"] == plant.families
        assert made.ids["family"] == [plant.families[k] for k in plant.labels]
    again = store.prepare(kind, {"validation": 0.25}, root=tmp_path / "root", force=True)
    assert again.digest == made.digest


def test_the_official_numbers_are_cut_evenly(tmp_path):
    content = np.zeros((10_000, 3073), np.uint8)
    content[:, 0] = np.arange(10_000) % 10
    plant = plant_cifar10()
    files = {name: content.tobytes() for name in plant.binary if name.endswith(".bin")}
    unpack(tmp_path / "cifar-10-batches-bin", plant.binary | files)
    listing = list_events("cifar10", tmp_path, CifarOptions())
    counts = Counter((SPLITS[event.split], event.label) for event in listing.events)
    numbers = {"train": 4500, "validation": 500, "test": 1000}
    assert counts == {(split, k): n for split, n in numbers.items() for k in range(10)}
    assert len({event.id for event in listing.events}) == 60_000
    assert listing.expected == {"train": 50_000, "test": 10_000}


def test_reading_goes_on_where_it_stopped(tmp_path, monkeypatch):
    plant = write(tmp_path / "root", "cifar10", packed=False)
    source, read = cifar.CIFAR10.source, []

    def decode(root, event, options):
        if len(read) == 37:
            raise KeyboardInterrupt
        read.append(event.id)
        return source.decode(root, event, options)

    stopped = replace(source, decode=decode, chunk=8)
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, source=stopped))
    with pytest.raises(KeyboardInterrupt):
        store.prepare("cifar10", root=tmp_path / "root")
    first, read[:] = list(read), []
    made = store.prepare("cifar10", root=tmp_path / "root")
    assert len(first) == 37 and len(read) < 37 and set(first) | set(read) == set(made.ids["id"])
    assert np.array_equal(made.read("image").reshape(60, -1), plant.images)


META = {"batches.meta": pickle_as_python2({b"label_names": [b"a", b"b"]})}
ONE = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (META, "batches.meta names 2 classes: expected 10"),
        ({"batches.meta": pickle_as_python2({})}, "no list of names label_names"),
        ({"batches.meta": pickle_as_python2({b"label_names": [1]})}, "no list of names label"),
        ({"data_batch_3": pickle_as_python2(ONE | {b"labels": [10]})}, "data_batch_3 has the label "
         "10: expected 0 to 9"),
        ({"data_batch_3": pickle_as_python2(ONE | {b"labels": [0, 1]})}, "2 labels: expected 1"),
        ({"data_batch_3": pickle_as_python2(ONE | {b"labels": [[]]})}, "whole numbers labels"),
        ({"data_batch_3": pickle_as_python2(ONE | {b"data": [1]})}, "no array data of N × 3072"),
        ({"data_batch_3": pickle_as_python2(ONE | {b"data": np.zeros((1, 9), "u1")})}, "no array"),
        ({"data_batch_3": b"\x80\x02cos\nsystem\nU\x04true\x85R."}, "names os.system; expected"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False])
def test_a_fault_of_a_pickle_is_named(tmp_path, changes, message, packed):
    write(tmp_path / "root", "cifar10", packed=packed, **changes)
    with pytest.raises(UserError, match=message) as caught:
        store.prepare("cifar10", root=tmp_path / "root")
    assert ("cifar-10-python.tar.gz" if packed else "cifar-10-batches-py") in str(caught.value)
    assert not list((tmp_path / "home").rglob("*.npy"))


def test_a_class_of_two_families_is_refused(tmp_path):
    plant = plant_cifar100()
    test = bytearray(plant.binary["test.bin"])
    test[0] = (test[0] + 1) % 20
    write(tmp_path / "root", "cifar100", 1, **{"test.bin": bytes(test)})
    with pytest.raises(UserError, match="class thing_00 is in group_00 and group_01: expected one"):
        store.prepare("cifar100", root=tmp_path / "root")


@pytest.mark.parametrize("content", [b"", bytes(3073), bytes(3074 + 1)])
def test_a_binary_file_of_another_size_is_refused(tmp_path, content):
    write(tmp_path / "root", "cifar100", 1, **{"train.bin": content})
    with pytest.raises(UserError, match=r"train\.bin has [\d,]+ bytes: expected a multiple of 3,0"):
        store.prepare("cifar100", root=tmp_path / "root")


def test_missing_files_are_named(tmp_path):
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=r"holds no cifar100: expected cifar-100-python\.tar"):
        store.prepare("cifar100", root=tmp_path / "root")
    write(tmp_path / "root", "cifar100", packed=False)
    (tmp_path / "root" / "cifar-100-python" / "meta").unlink()
    with pytest.raises(UserError, match="python/meta is missing: expected meta, train, test there"):
        store.prepare("cifar100", root=tmp_path / "root")


def rewrite(path, change):
    """The archive again, each (member, content) as `change` gives them."""
    with tarfile.open(path) as archive:
        held = [(m, archive.extractfile(m).read() if m.isfile() else b"") for m in archive]
    with tarfile.open(path, "w:gz") as archive:
        for member, content in held:
            for changed, other in change(member, content):
                archive.addfile(changed, io.BytesIO(other))


def link(member, content):
    if member.name.endswith("/train"):
        member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
    yield member, content


def move_out(member, content):
    if member.name.endswith("/train"):
        member.name = "../cifar-100-python/train"
    yield member, content


def rename(member, content):
    if member.name.endswith("/train"):
        member.name = "./cifar-100-python/train"
    yield member, content


def multiply(member, content):
    yield member, content
    if member.isdir():
        for number in range(1200):
            other = tarfile.TarInfo(f"cifar-100-python/{number}")
            yield other, b""


def cut(path):
    path.write_bytes(path.read_bytes()[:-4000])


def bomb(path):
    """A member before the others that unpacks to half a gigabyte and a byte."""
    with gzip.open(path, "wb", compresslevel=1) as handle:
        member = tarfile.TarInfo("zeros")
        member.size = cifar.MOST + 1
        handle.write(member.tobuf())
        for _ in range(8):
            handle.write(bytes(1 << 20))


def claim(path):
    """A header of options that announces more than any memory."""
    with gzip.open(path, "wb") as handle:
        member = tarfile.TarInfo("options")
        member.type, member.size = tarfile.XHDTYPE, 1 << 40
        handle.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: rewrite(p, link), "cifar-100-python/train is a link or no plain file"),
        (lambda p: rewrite(p, move_out), "has no member cifar-100-python/train"),
        (lambda p: rewrite(p, rename), "has no member cifar-100-python/train"),
        (lambda p: rewrite(p, multiply), "has more than 1000 members"),
        (cut, "is damaged, cut off or no archive"),
        (bomb, "announces more than 536,870,912 bytes"),
        (claim, "announces more than 536,870,912 bytes"),
        (lambda p: p.write_bytes(b"no archive at all"), "is damaged, cut off or no archive"),
        (lambda p: p.write_bytes(gzip.compress(b"no tar" * 999)), "is damaged, cut off or no arch"),
    ],
)
def test_a_hostile_or_damaged_archive_is_one_line_and_unpacks_nothing(tmp_path, change, message):
    root = tmp_path / "deep" / "root"
    root.parent.mkdir()
    write(root, "cifar100")
    change(root / "cifar-100-python.tar.gz")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        list_events("cifar100", root, CifarOptions())
    assert "cifar-100-python.tar.gz" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and sorted(tmp_path.rglob("*")) == before


def test_a_share_that_leaves_nothing_to_choose_on_is_refused():
    for share in (0.0, -0.1, 0.6):
        with pytest.raises(UserError, match=r"expected a share above 0 and up to 0\.5"):
            CifarOptions(validation=share)


def test_it_trains_with_a_teacher_of_its_own_modality(tmp_path, capsys, monkeypatch):
    from fdlab.cli import main
    from fdlab.studies.plan import make_plan

    monkeypatch.setenv("FDLAB_WORKERS", "1")
    write(tmp_path / "root", "cifar10")
    ask = ["data", "prepare", "cifar10", "--root", str(tmp_path / "root")]
    assert main(ask) == 0
    shutil.rmtree(tmp_path / "root")
    assert "30 train, 10 validation, 20 test" in capsys.readouterr().out
    assert main(["data", "verify", "cifar10"]) == 0
    plan = make_plan("cifar10", "paper")
    assert plan.train.milestones == (0.625, 0.75, 0.875) and plan.train.epochs == 240
    assert plan.find_recipe("image", "shufflenetv1").learning_rate == 0.01
    assert [str(way) for way in plan.choose_directions()] == ["image2image"]
    assert str(plan.choose_pairs()[0]) == "resnet32x4-resnet8x4"
    train = ["train", "--dataset", "cifar10", "--preset", "smoke", "--epochs", "1"]
    train += ["--direction", "image2image"]
    assert main([*train, "--networks", "resnet20-resnet8", "--method", "kd"]) == 0
    assert "n = 20 test samples" in capsys.readouterr().out

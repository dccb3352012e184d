"""CREMA-D, AVE and VGGSound, read from small copies of their layouts made by real encoders."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal
from scipy.io import wavfile

from fdlab.core.errors import UserError
from fdlab.data.ave import AVE, AveOptions
from fdlab.data.cremad import CREMAD, CremadOptions
from fdlab.data.dataset import SPLITS, Dataset
from fdlab.data.listing import BadMedium, Listing
from fdlab.data.vggsound import VGGSOUND, VggsoundOptions

pytest.importorskip("av")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")

from media_files import (
    COLOURS,
    EMOTIONS,
    write_ave,
    write_cremad,
    write_vggsound,
)

ROOT = Path(__file__).resolve().parents[1]
REAL = next(
    (p / "shared/metadata" for p in ROOT.parents if (p / "shared/metadata").is_dir()), ROOT / "none"
)
SIDE = 24
NEAR = 8  # of 255: what lossy encoders do to a plain colour
LISTS = {"train_csv": "train.csv", "test_csv": "test.csv"}
HERTZ = 16000 / 512  # from one row of a spectrogram to the next


@dataclass
class Case:
    """A data set, its small copy, and the options to read it with."""

    dataset: Dataset
    root: Path
    options: Any

    def list(self, **changes: Any) -> Listing:
        options = {k: getattr(self.options, k) for k in self.options.__dataclass_fields__}
        return self.dataset.source.list_events(self.root, self.dataset.options(**options | changes))

    def decode(self, event) -> dict[str, np.ndarray]:
        return self.dataset.source.decode(self.root, event, self.options)

    def copy(self, folder: Path) -> Case:
        shutil.copytree(self.root, folder)
        return Case(self.dataset, folder, self.options)


@pytest.fixture(scope="module")
def cremad(tmp_path_factory) -> Case:
    root = tmp_path_factory.mktemp("cremad")
    write_cremad(root)
    return Case(CREMAD, root, CremadOptions(side=SIDE, **LISTS))


@pytest.fixture(scope="module")
def ave(tmp_path_factory) -> Case:
    root = tmp_path_factory.mktemp("ave")
    write_ave(root)
    return Case(AVE, root, AveOptions(side=SIDE))


@pytest.fixture(scope="module")
def vggsound(tmp_path_factory) -> Case:
    root = tmp_path_factory.mktemp("vggsound")
    write_vggsound(root)
    return Case(VGGSOUND, root, VggsoundOptions(side=SIDE, count=3))


@pytest.fixture(params=["cremad", "ave", "vggsound"])
def case(request) -> Case:
    return request.getfixturevalue(request.param)


def find_row(spectrogram: np.ndarray) -> int:
    """The loudest row of (1, 257, T)."""
    return int(spectrogram[0].astype(float).mean(axis=1).argmax())


def assert_colours(frames: np.ndarray, numbers: list[int]) -> None:
    middles = frames[..., SIDE // 2, SIDE // 2].astype(int)
    assert np.abs(middles - np.array([COLOURS[n] for n in numbers])).max() <= NEAR


def count_splits(listing: Listing) -> dict[str, int]:
    counts = Counter(event.split for event in listing.events)
    return {SPLITS[index]: count for index, count in sorted(counts.items())}


# ---- laws of all three


def test_every_event_decodes_to_what_the_listing_promises(case):
    listing = case.list()
    assert set(listing.modalities) == {"audio", "visual"} <= set(listing.arrays)
    decoded = 0
    for event in listing.events:
        if not all((case.root / file).is_file() for file in event.files):
            continue
        found = case.decode(event)
        promised = {name: (shape, np.dtype(kind)) for name, (shape, kind) in listing.arrays.items()}
        assert {name: (np.shape(v), v.dtype) for name, v in found.items()} == promised
        decoded += 1
    assert decoded >= len(listing.events) - 1 > 5
    assert len({event.id for event in listing.events}) == len(listing.events)
    assert all(len(values) == len(listing.events) for values in listing.ids.values())


def test_a_listing_depends_on_nothing_but_content(case, tmp_path, monkeypatch):
    here, folder = case.list(), Path.iterdir
    case = case.copy(tmp_path / "elsewhere")
    for turn in (sorted, lambda paths: sorted(paths, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda path, turn=turn: iter(turn(folder(path))))
        again = case.list()
        assert again.events == here.events and again.ids == here.ids and again.notes == here.notes
        assert {k: v.tolist() for k, v in again.splits.items()} == {
            k: v.tolist() for k, v in here.splits.items()
        }


def test_a_medium_that_is_missing_or_damaged_is_named_from_the_root(case, tmp_path):
    own = case.copy(tmp_path / "own")
    listing = own.list()
    event = next(e for e in listing.events if all((own.root / f).is_file() for f in e.files))
    for file in event.files:
        path = own.root / file
        whole = path.read_bytes()
        for content, reason in (
            (b"", "empty"), (whole[: len(whole) // 2], "truncated|decoded"), (None, "missing")
        ):  # fmt: skip
            path.unlink() if content is None else path.write_bytes(content)
            assert [e.id for e in own.list().events] == [e.id for e in listing.events]
            with pytest.raises(BadMedium, match=reason) as caught:
                own.decode(event)
            assert caught.value.file == file
        path.write_bytes(whole)
    own.decode(event)


def test_options_have_defaults_and_tables_know_the_name(case):
    assert case.dataset.options().side == 256
    with (ROOT / "fdlab/reference/fdcmkd_table2_classification.csv").open() as handle:
        columns = next(csv.reader(handle))
    assert {f"{case.dataset.reports}_{side}" for side in case.dataset.modalities} <= set(columns)
    for wrong in (0, -1, 5000):
        with pytest.raises(UserError, match="side"):
            case.dataset.options(side=wrong)


# ---- CREMA-D


def test_cremad_has_the_lists_splits_and_the_stems_labels(cremad):
    listing = cremad.list()
    assert count_splits(listing) == {"train": 18, "test": 6}
    assert [event.id for event in listing.events] == sorted(event.id for event in listing.events)
    for number, event in enumerate(listing.events):
        actor, sentence, emotion, intensity = event.id.split("_")
        assert listing.classes[event.label] == emotion
        found = {name: listing.ids[name][number] for name in ("actor", "sentence", "intensity")}
        assert found == {"actor": actor, "sentence": sentence, "intensity": intensity}
    assert [event.split for event in listing.events] == listing.splits["published"].tolist()
    assert listing.notes == [
        "2 of 2 actors in test are in train too",
        "2 of 2 pairs of actor and sentence in test are in train too",
    ]


def test_a_cremad_clip_is_what_was_planted(cremad):
    for event in cremad.list().events[::5]:
        kind = EMOTIONS.index(event.id.split("_")[2])
        found = cremad.decode(event)
        _, samples = wavfile.read(cremad.root / event.files[0])
        tiled = np.concatenate([samples, samples])[:48000] / 32768
        power = signal.spectrogram(tiled, 16000, nperseg=512, noverlap=353)[2]
        np.testing.assert_allclose(found["audio"][0], np.log(np.abs(power) + 1e-7), atol=0.008)
        assert find_row(found["audio"]) == round((500 + 250 * kind) / HERTZ)
        assert found["visual_frames"] == 3 and not found["visual"][3:].any()
        assert_colours(found["visual"][:3], [kind, kind + 1, kind + 2])


@pytest.mark.parametrize("lists", [{}, LISTS], ids=["without lists", "with lists"])
@pytest.mark.parametrize("split", ["stratified", "actors"])
def test_cremads_own_splits_have_every_emotion_and_a_validation_part(cremad, split, lists):
    options = {"train_csv": "", "test_csv": "", "split": split} | lists
    listing = cremad.list(**options)
    assert set(listing.splits) == {"stratified", "actors"} | ({"published"} if lists else set())
    parts = np.array([event.split for event in listing.events])
    assert parts.tolist() == listing.splits[split].tolist()
    labels = np.array([event.label for event in listing.events])
    actors = np.array(listing.ids["actor"])
    for index in range(3):
        assert set(labels[parts == index]) == set(range(6))
    if split == "actors":
        groups = [set(actors[parts == index]) for index in range(3)]
        assert sum(map(len, groups)) == len(set(actors)) == len(set.union(*groups))
        assert listing.notes[0] == "0 of 1 actors in test are in train too"
    else:
        assert np.bincount(parts).tolist() == [12, 6, 6]
    others = [cremad.list(**options, seed=seed).splits[split].tolist() for seed in range(5)]
    assert others[0] == parts.tolist() and len({tuple(other) for other in others}) > 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1001_IEO_NEU_XX,NEU\n1001_IEO_HAP_XX,SAD\n", "line 2: label 'SAD' contradicts"),
        ("1001_IEO_NEU_XX,NEU\n1001_IEO_NEU_XX,NEU\n", "line 2: .* listed already"),
        ("1001_IEO_JOY_XX,JOY\n", "line 1: unknown emotion 'JOY'"),
        ("clip,label\n", "line 1: 'clip' is no clip"),
        ("1001_IEO_NEU_XX\n", "line 1: 1 fields: expected stem,LABEL"),
        ("", "no clip is listed"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_fault_in_cremads_lists_names_the_line(cremad, tmp_path, content, reason):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=reason):
        cremad.list(train_csv=str(path))


def test_cremad_says_what_is_needed_and_what_is_left_out(cremad, tmp_path):
    with pytest.raises(UserError, match=r"train_csv=… and test_csv=….*split=stratified"):
        cremad.list(train_csv="", test_csv="")
    with pytest.raises(UserError, match="expected both or none"):
        cremad.list(test_csv="")
    with pytest.raises(UserError, match="did you mean 'actors'"):
        cremad.list(split="actor")
    with pytest.raises(UserError, match="no folder AudioWAV"):
        CREMAD.source.list_events(tmp_path, cremad.options)
    own = cremad.copy(tmp_path / "own")
    lines = (own.root / "train.csv").read_text().splitlines()
    (own.root / "train.csv").write_text("\n".join([*lines[1:], "1099_IEO_NEU_XX,NEU"]))
    listing = own.list()
    assert listing.notes[-1] == "clips of the folder that are in neither list, and left out: 1"
    absent = listing.events[-1]
    assert absent.id == "1099_IEO_NEU_XX"  # listed without its files, and so reported when read
    with pytest.raises(BadMedium, match="missing"):
        own.decode(absent)


def test_a_small_cremad_offers_the_splits_that_it_allows(cremad, tmp_path):
    own = cremad.copy(tmp_path / "own")
    for path in own.root.rglob("100[34]_*"):
        path.unlink()
    with pytest.raises(UserError, match=r"12 clips of 2 actors cannot be split by actors"):
        own.list(train_csv="", test_csv="", split="actors")
    with pytest.raises(UserError, match="cannot be split by stratified"):
        own.list(train_csv="", test_csv="", split="stratified")


@pytest.mark.skipif(not (REAL / "cremad").is_dir(), reason="no real lists here")
def test_the_common_lists_of_cremad(tmp_path):
    for folder in ("AudioWAV", "VideoFlash"):
        (tmp_path / folder).mkdir()
    lists = {name: str(REAL / "cremad" / file) for name, file in LISTS.items()}
    listing = CREMAD.source.list_events(tmp_path, CremadOptions(**lists))
    assert count_splits(listing) == listing.expected
    assert listing.notes == [
        "91 of 91 actors in test are in train too",
        "545 of 545 pairs of actor and sentence in test are in train too",
    ]
    held = Counter(listing.classes[e.label] for e in listing.events if e.split == 2)
    assert held == {"ANG": 105, "DIS": 129, "FEA": 133, "HAP": 123, "NEU": 114, "SAD": 140}
    actors = listing.splits["actors"]
    names = np.array(listing.ids["actor"])
    assert [len(set(names[actors == index])) for index in range(3)] == [73, 9, 9]


# ---- AVE


@pytest.mark.parametrize("header", [True, False])
def test_ave_has_the_lists_splits_with_a_header_or_without(tmp_path, monkeypatch, header):
    import media_files

    monkeypatch.setattr(media_files, "write_video", lambda *args, **kwargs: None)
    rows = write_ave(tmp_path, ("Bark", "Church bell", "Accordion"), 3, header)
    if header:
        for path in tmp_path.rglob("*Set.txt"):
            path.write_text("Category&VideoID&Quality&StartTime&EndTime\n" + path.read_text())
    listing = AVE.source.list_events(tmp_path, AveOptions())
    inside = AVE.source.list_events(tmp_path / "AVE_Dataset", AveOptions())
    assert listing.classes == ["Accordion", "Bark", "Church bell"]
    expected = [line.split("&")[:2] for lines in rows.values() for line in lines]
    assert [[listing.classes[e.label], e.id] for e in listing.events] == expected
    assert [[inside.classes[e.label], e.id] for e in inside.events] == expected
    assert count_splits(listing) == {"train": 9, "validation": 3, "test": 3}
    assert listing.events[0].files == (f"AVE_Dataset/AVE/{listing.events[0].id}.mp4",)
    assert inside.events[0].files == (f"AVE/{listing.events[0].id}.mp4",)
    assert listing.notes == []


def test_an_ave_video_is_what_was_planted(ave):
    for event in ave.list().events[::3]:
        found = ave.decode(event)
        assert find_row(found["audio"]) == round(400 * (event.label + 1) / HERTZ)
        values = found["audio"].astype(float)
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
        assert found["visual_frames"] == 10
        assert_colours(found["visual"], [(event.label + second) % 10 for second in range(10)])


def test_videos_that_stand_in_ave_more_than_once_are_told_and_can_leave(ave, tmp_path):
    own = ave.copy(tmp_path / "own")
    base = own.root / "AVE_Dataset"
    extra = {
        "train": [
            "Church bell&video_00-00&good&0&5",  # a second category
            "Bark&video_00-03&good&2&5",  # tested on
            "Bark&video_00-03&good&5&9",
            "Bark&video_00-02&good&0&4",  # validated on
        ],
        "val": ["Bark&video_00-03&good&0&1"],
    }
    for split, rows in extra.items():
        for name in (f"{split}Set.txt", "Annotations.txt"):
            lines = (base / name).read_text().split()
            with (base / name).open("a") as handle:
                handle.write(("\n" if lines else "") + "\n".join(rows) + "\n")
    listing = own.list()
    assert count_splits(listing) == {"train": 8, "validation": 3, "test": 2}
    assert listing.notes == [
        "videos in more than one row: 3, 1 of them in more than one category; 13 rows are 8 videos",
        "rows of train that repeat a video of train: 2",
        "videos in both train and validation: 2",
        "videos in both train and test: 1",
        "videos in both validation and test: 1",
    ]
    assert len({event.id for event in listing.events}) == 13
    repeated = [e for e in listing.events if e.id.startswith("video_00-03")]
    assert [e.id.partition("#")[2] for e in repeated] == ["", "2", "3", "4"]
    assert {e.files for e in repeated} == {("AVE_Dataset/AVE/video_00-03.mp4",)}
    clean = own.list(drop_leaks=True)
    assert count_splits(clean) == {"train": 5, "validation": 2, "test": 2}
    assert clean.notes[-1] == "left out because they leak: 3 rows of train, 1 of validation"
    videos = [
        {v for v, e in zip(clean.ids["video"], clean.events, strict=True) if e.split == index}
        for index in range(3)
    ]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 8


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("trainSet.txt", "Bark&v&good&0\n", "trainSet.txt, line 1: .*expected Category&id"),
        ("valSet.txt", "Bark&v&good&0&10\nBirk&v&good&0&10\n", "line 2: .*mean 'Bark'"),
        ("testSet.txt", "Bark&v&good&0&10\n\nBark&w&good&0&11\n", "line 3: start 0 and end 11"),
        ("testSet.txt", "Category&VideoID&Quality&StartTime&EndTime\n", "no row"),
        ("Annotations.txt", None, "no such file: expected AVE_Dataset"),
    ],
)
def test_a_fault_in_aves_lists_names_the_line(ave, tmp_path, name, content, reason):
    own = ave.copy(tmp_path / "own")
    path = own.root / "AVE_Dataset" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=reason):
        own.list()


@pytest.mark.skipif(not (REAL / "ave").is_dir(), reason="no real lists here")
def test_the_official_lists_of_ave():
    listing = AVE.source.list_events(REAL / "ave", AveOptions())
    assert len(listing.events) == listing.expected["events"] and len(listing.classes) == AVE.classes
    assert count_splits(listing) == {"train": 3339, "validation": 402, "test": 402}
    assert listing.notes == [
        "videos in more than one row: 45, 45 of them in more than one category; "
        "4143 rows are 4097 videos",
        "rows of train that repeat a video of train: 27",
        "rows of validation that repeat a video of validation: 1",
        "videos in both train and validation: 10",
        "videos in both train and test: 8",
    ]
    clean = AVE.source.list_events(REAL / "ave", AveOptions(drop_leaks=True))
    assert count_splits(clean)["test"] == 402 and clean.classes == listing.classes


# ---- VGGSound


def test_vggsound_takes_the_files_by_either_name_and_reports_what_is_not_there(vggsound):
    listing = vggsound.list()
    assert count_splits(listing) == {"train": 6, "test": 3}
    assert listing.classes == ["bird chirping, tweeting", "rain", "wind noise"]
    assert listing.events[-1].files == ("video/-vid02_02_32.mp4",)
    assert listing.events[1].files == ("video/-vid00_01_000030.mp4",)
    with pytest.raises(BadMedium, match="missing") as caught:
        vggsound.decode(listing.events[0])
    assert caught.value.file == "video/-vid00_00_000030.mp4"
    for event in listing.events[1::3]:
        found = vggsound.decode(event)
        assert find_row(found["audio"]) == round(400 * (event.label + 1) / HERTZ)
        assert_colours(found["visual"], [event.label + second for second in (1, 3, 5)])


def test_vggsounds_choice_of_classes_is_seeded_told_and_can_be_fixed(vggsound, tmp_path):
    chosen = [vggsound.list(count=2, seed=seed) for seed in range(20)]
    for listing in chosen:
        assert len(listing.classes) == 2 and sorted(listing.classes) == listing.classes
        assert listing.info["classes"] == listing.classes
        assert listing.notes[0].endswith("; ".join(listing.classes))
        labels = {vid[4:6]: listing.classes[e.label] for vid, e in
                  zip(listing.ids["video"], listing.events, strict=True)}  # fmt: skip
        names = ["bird chirping, tweeting", "rain", "wind noise"]
        assert labels == {f"{names.index(name):02d}": name for name in listing.classes}
    assert vggsound.list(count=2, seed=3).events == chosen[3].events
    assert len({tuple(listing.classes) for listing in chosen}) == 3
    path = tmp_path / "mine.txt"
    path.write_text("wind noise\n\nbird chirping, tweeting\n")
    fixed = vggsound.list(classes=str(path))
    assert fixed.classes == ["bird chirping, tweeting", "wind noise"]
    assert "fixed by mine.txt" in fixed.notes[0] and len(fixed.events) == 6


@pytest.mark.parametrize(
    ("changes", "content", "reason"),
    [
        ({"classes": "mine.txt"}, "rain\nwind noises\n", "mine.txt, line 2: .*mean 'wind noise'"),
        ({"classes": "mine.txt"}, "rain\nrain\n", "mine.txt, line 2: 'rain' is named already"),
        ({"classes": "mine.txt"}, "rain\n", "1 classes: expected two or more"),
        ({"count": 4}, "", "count is 4: expected at most 3"),
        ({"videos": "clips"}, "", "no folder clips"),
    ],
)
def test_a_wrong_choice_in_vggsound_is_said(vggsound, tmp_path, changes, content, reason):
    own = vggsound.copy(tmp_path / "own")
    (own.root / "mine.txt").write_text(content)
    with pytest.raises(UserError, match=reason):
        own.list(**changes)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("id,30,rain", "line 10: 3 fields"),
        ("id,30,bee, wasp,train", "line 10: 5 fields"),
        ("id,soon,rain,train", "line 10: start is 'soon'"),
        ("id,30,rain,valid", "line 10: split is 'valid'"),
        ("-vid01_00,31,rain,test", "line 10: -vid01_00 from 31 s is listed already"),
        (",30,rain,test", "line 10: no id"),
    ],
)
def test_a_fault_in_vggsounds_list_names_the_line(vggsound, tmp_path, row, reason):
    own = vggsound.copy(tmp_path / "own")
    with (own.root / "vggsound.csv").open("a") as handle:
        handle.write(row + "\n")
    with pytest.raises(UserError, match=reason):
        own.list()


@pytest.mark.skipif(not (REAL / "vggsound").is_dir(), reason="no real list here")
def test_fifty_of_vggsounds_real_class_names(tmp_path):
    with (REAL / "vggsound" / "stat.csv").open(newline="", encoding="utf-8") as handle:
        names = [row[0] for row in csv.reader(handle)]
    (tmp_path / "video").mkdir()
    with (tmp_path / "vggsound.csv").open("w", newline="", encoding="utf-8") as handle:
        for number, name in enumerate(names):
            rows = [(f"v{number}", 30, name, "train"), (f"w{number}", 0, name, "test")]
            csv.writer(handle).writerows(rows)
    listing = VGGSOUND.source.list_events(tmp_path, VggsoundOptions())
    assert len(listing.classes) == VGGSOUND.classes == len(set(listing.classes) & set(names))
    assert listing.notes[0].startswith(f"50 of {len(names)} classes, seed 0: ")
    assert count_splits(listing) == {"train": 50, "test": 50}


@pytest.mark.parametrize(
    "kind, write, options",
    [
        ("cremad", write_cremad, {"train_csv": "train.csv", "test_csv": "test.csv"}),
        ("ave", write_ave, {}),
        ("vggsound", partial(write_vggsound, train=5), {"count": 3}),
    ],
)
def test_a_prepared_set_is_what_its_networks_take(kind, write, options, tmp_path, monkeypatch):
    """From the files through the store to both networks, as training and evaluation see them."""
    from fdlab.data.paired import PairedData
    from fdlab.data.store import prepare
    from fdlab.models.build import build_model

    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    write(tmp_path / kind)
    options = options | {"side": 36}
    store = prepare(kind, options, root=tmp_path / kind, allow_missing=kind == "vggsound")
    data = PairedData.load(store, ["audio", "visual"], torch.device("cpu"), 32)
    rows = data.rows["train"][:3]
    view = data.draw("visual", len(rows), torch.Generator().manual_seed(0))
    lead = (3, 3) if kind == "vggsound" else (3,)
    for seen in (data.batch("visual", rows), data.batch("visual", rows, view)):
        assert seen.shape == (*lead, 3, 32, 32) and seen.isfinite().all()
        with torch.no_grad():
            output = build_model(store, "visual", width=8, seed=0).eval()(seen)
        assert output.feature.shape == (3, 64)
        assert output.logits.shape == (3, store.dataset.classes)
    sound = data.batch("audio", rows)
    assert sound.shape == (3, 1, 257, 299 if kind == "cremad" else 1004)
    assert data.batch("visual", rows).std() < 5  # frames that are not there are in no scale

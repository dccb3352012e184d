"""Anybody's own pairs: every row is stored as it is, or refused in one line that names it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fdlab.core.errors import UserError
from fdlab.data import store
from fdlab.data.folder import tokenise

CLASSES = ["finch", "wren"]
SIZE = (40, 24)  # width and height of the pictures


def draw(number: int, channels: int = 3) -> np.ndarray:
    """A picture (H, W, channels) uint8 of its own."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (SIZE[1], SIZE[0], channels), dtype=np.uint8)


def write_rows(root: Path, rows: list[dict], name: str = "manifest.csv") -> Path:
    root.mkdir(exist_ok=True)
    with (root / name).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / name


def write_birds(root: Path, count: int = 24) -> list[dict]:
    """Pictures with sentences: two classes, a third of them each for training, validation, test."""
    (root / "pictures").mkdir(parents=True)
    rows = []
    for k in range(count):
        suffix = "png" if k % 2 else "jpg"
        Image.fromarray(draw(k)).save(root / "pictures" / f"{k}.{suffix}")
        rows.append(
            {
                "split": ("train", "val", "test")[k // 2 % 3],
                "label": CLASSES[k % 2],
                "image": f"pictures/{k}.{suffix}",
                "text": f"A {CLASSES[k % 2]}, seen {k} times by René",
                "group": f"tree {k // 6}",
            }
        )
    write_rows(root, rows)
    return rows


def write_scenes(root: Path, classes: int = 5) -> list[dict]:
    """RGB, 16-bit depth and masks, 255 where there is no class."""
    root.mkdir()
    rows = []
    for k in range(9):
        rng = np.random.default_rng(k)
        depth = rng.integers(0, 65536, SIZE[::-1], dtype=np.uint16)
        mask = rng.integers(0, classes, SIZE[::-1], dtype=np.uint8)
        mask[:3] = 255
        Image.fromarray(draw(k)).save(root / f"rgb{k}.png")
        Image.fromarray(depth).save(root / f"depth{k}.png")
        image = Image.fromarray(mask)
        if k % 2:
            image.putpalette(list(range(256)) * 3)  # as mask editors write them
        image.save(root / f"mask{k}.png")
        names = {side: f"{side}{k}.png" for side in ("depth", "mask")}
        rows.append({"split": ("train", "validation", "test")[k % 3], "image": f"rgb{k}.png"}
                    | names)  # fmt: skip
    write_rows(root, rows)
    return rows


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "root"


def prepare(root: Path, name: str = "birds", allow_missing: int = 0, **options) -> store.Store:
    return store.prepare(name, options, root=root, kind="folder", allow_missing=allow_missing)


def test_pictures_and_texts_are_stored_as_they_are(root):
    rows = write_birds(root)
    made = prepare(root, side=16, words=6)
    assert made.manifest["counts"] == {"train": 8, "validation": 8, "test": 8}
    assert made.classes == CLASSES and made.dataset.name == "birds"
    assert made.dataset.directions == ("image2text", "text2image")
    networks = {name: (m.model, m.augment) for name, m in made.dataset.modalities.items()}
    assert networks == {"image": ("resnet18", "crop_flip"), "text": ("textcnn", "")}
    assert np.array_equal(made.labels, [CLASSES.index(row["label"]) for row in rows])
    assert made.ids["image"] == [row["image"] for row in rows]
    for k, row in enumerate(rows):
        with Image.open(root / row["image"]) as image:
            wanted = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        assert np.array_equal(made.read("image")[k].transpose(1, 2, 0), wanted)
    words = made.info["vocabulary"]
    assert words[:4] == ["[PAD]", "[UNK]", ",", "a"]  # the ends of a count's tie are by alphabet
    trained = {w for row in rows if row["split"] == "train" for w in tokenise(row["text"])}
    assert set(words[2:]) == trained and "rené" in words
    codes = made.read("text")
    assert codes.shape == (24, 6) and codes.dtype == np.int32
    for k, row in enumerate(rows):
        known = [w if w in trained else "[UNK]" for w in tokenise(row["text"])][:6]
        assert [words[code] for code in codes[k]] == known
    notes = made.manifest["notes"]
    assert "24 texts are longer than 6 tokens; 48 tokens were cut" in notes
    assert "4 groups are in two splits: tree 0, tree 1, tree 2, tree 3" in notes
    store.verify("birds")


def test_masks_and_depth_stay_aligned_with_the_picture(root):
    write_scenes(root)
    made = prepare(root, "scenes", side=32, classes=5)
    assert made.manifest["task"] == "segmentation" and made.dataset.labels == 1
    assert made.dataset.classes == 5 and made.classes == list("01234")
    assert {m.model for m in made.dataset.modalities.values()} == {"deeplabv3plus"}
    assert made.read("depth").dtype == np.uint16 and made.read("depth").shape == (9, 1, 32, 32)
    for k in range(9):
        for name, found in (("mask", made.read("mask")[k]), ("depth", made.read("depth")[k, 0])):
            with Image.open(root / f"{name}{k}.png") as image:
                flat = Image.fromarray(np.asarray(image).astype(np.int32))
                wanted = np.asarray(flat.resize((32, 32), Image.Resampling.NEAREST))
            assert np.array_equal(found, wanted)
    named = prepare(root, "named", classes=0, names=["a", "b", "c", "d", "e"])
    assert named.classes == list("abcde")
    with pytest.raises(UserError, match=r"masks need .*-o classes=N"):
        prepare(root, "none")


def test_a_label_beside_a_mask_is_the_kind_of_scene(root):
    rows = write_scenes(root)
    write_rows(root, [row | {"label": "ab"[k % 2]} for k, row in enumerate(rows)])
    made = prepare(root, classes=5)
    assert made.dataset.scenes == ("a", "b") and made.dataset.labels == 2
    assert np.array_equal(made.labels, np.arange(9) % 2) and made.dataset.classes == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: (r / "mask4.png").unlink(), "mask4.png: no such file"),
        (lambda r: (r / "rgb4.png").write_bytes(b"no picture"), "rgb4.png: not an image"),
        (lambda r: (r / "rgb4.png").write_bytes((r / "rgb4.png").read_bytes()[:99]),
         "rgb4.png: unreadable image"),
        (lambda r: Image.fromarray(np.full((4, 4), 5, np.uint8)).save(r / "mask4.png"),
         "mask4.png: mask holds 5: expected 0 to 4, or 255"),
        (lambda r: Image.fromarray(draw(0)).save(r / "mask4.png"),
         "mask4.png: mask has mode RGB"),
        (lambda r: Image.fromarray(draw(0)[..., 0]).save(r / "depth4.png"),
         "depth4.png: depth has mode L"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_its_reason(root, change, reason):
    write_scenes(root)
    change(root)
    with pytest.raises(UserError, match=f"1 of 9 events cannot be read.*{reason}"):
        prepare(root, classes=5)
    made = prepare(root, allow_missing=1, classes=5)
    assert made.manifest["dropped"] == ["4"] and len(made.labels) == 8


def test_parquet_and_csv_are_the_same_data(root, tmp_path):
    pytest.importorskip("pyarrow")
    rows = write_birds(root)
    first = prepare(root / "manifest.csv", "first")
    (root / "manifest.csv").unlink()
    table = pd.DataFrame(rows)
    table["label"] = [k % 2 + 9 for k in range(len(rows))]  # whole numbers: 9 before 10
    table["split"] = table["split"].astype("category")
    table.to_parquet(root / "manifest.parquet")
    second = prepare(root, "second")
    assert second.classes == ["9", "10"]
    for name in ("image", "text", "labels", "split"):
        assert np.array_equal(first.read(name), second.read(name))
    for bad, kind in (([0.5] * 24, "Float64"), ([[1]] * 24, "object")):
        table.assign(label=bad).to_parquet(root / "manifest.parquet")
        with pytest.raises(UserError, match=f"column label holds {kind}: expected texts or whole"):
            prepare(root, "second")
    (root / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="no readable Parquet"):
        prepare(root, "second")


def leave(rows: list[dict], column: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k != column} for row in rows]


def change(rows: list[dict], number: int, **values) -> list[dict]:
    return [row | (values if k == number else {}) for k, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: leave(r, "split"), "column split is missing"),
        (lambda r: leave(r, "label"), r"column label \(or mask\) is missing"),
        (lambda r: leave(r, "text"), "1 of the columns image, audio, text, depth found"),
        (lambda r: change(r, 3, split="dev"), "line 5: split is 'dev': expected train"),
        (lambda r: change(r, 3, label=" "), "line 5: the label is empty"),
        (lambda r: change(r, 3, image=""), "line 5: the image is empty"),
        (lambda r: change(r, 3, text=""), "line 5: the text is empty"),
        (lambda r: [row | {"label": "wren"} for row in r], "every label is 'wren'"),
        (lambda r: [row | {"split": "train"} for row in r], "no event is in the test split"),
        (lambda r: [row for row in r if row["split"] != "train"], "is in the train split"),
        (lambda r: [x for x in r if (x["split"], x["label"]) != ("train", "wren")],
         "no training event is of class wren"),
        (lambda r: [row | {"id": str(k // 2)} for k, row in enumerate(r)],
         "line 3: the id '0' is that of .*line 2"),
        (lambda r: [row | {"mask": "m.png"} for row in r], "column text beside mask"),
        (lambda r: change(r, 0, image="../out.png"), "line 2: image '../out.png': expected a path"),
        (lambda r: change(r, 0, image="a/../../b.png"), "line 2: image .* expected a path below"),
        (lambda r: change(r, 0, image="/etc/hostname"), "line 2: image .* expected a path below"),
        (lambda r: change(r, 0, image="C:\\x.png"), "line 2: image .* expected a path below"),
        (lambda r: change(r, 0, image="..\\x.png"), "line 2: image .* expected a path below"),
        (lambda r: change(r, 0, image="link.png"), "line 2: image 'link.png' is a link out"),
        (lambda r: change(r, 0, image="away/b.png"), "line 2: image 'away/b.png' is a link out"),
    ],
)  # fmt: skip
def test_a_manifest_without_sense_is_one_line(root, tmp_path, edit, message):
    rows = write_birds(root)
    (tmp_path / "b.png").write_bytes(b"outside")
    (root / "link.png").symlink_to(tmp_path / "b.png")
    (root / "away").symlink_to(tmp_path)
    write_rows(root, edit(rows))
    with pytest.raises(UserError, match=message) as error:
        prepare(root)
    assert len(str(error.value).splitlines()) == 1
    assert not (store.paths.stores() / "birds").exists()


def test_a_link_inside_the_folder_is_no_fault(root):
    rows = write_birds(root)
    (root / "inner.jpg").symlink_to(root / "pictures" / "0.jpg")
    plain = prepare(root, "plain")
    write_rows(root, change(rows, 0, image="inner.jpg"))
    assert np.array_equal(prepare(root, "linked").read("image"), plain.read("image"))


def test_lines_are_those_of_an_editor(root):
    rows = write_birds(root)
    rows[2]["text"] = "two\nlines"
    write_rows(root, change(rows, 4, split="x"))
    with pytest.raises(UserError, match="line 7: split is 'x'"):
        prepare(root)
    text = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join([*text[:2], text[2] + ",more"]))
    with pytest.raises(UserError, match="line 3: 6 values, expected 5"):
        prepare(root)
    (root / "manifest.csv").write_bytes("split,label,é\n".encode("latin-1"))
    with pytest.raises(UserError, match="expected UTF-8"):
        prepare(root)
    (root / "manifest.csv").write_text("split,label,split\n")
    with pytest.raises(UserError, match="two columns are named 'split'"):
        prepare(root)
    (root / "manifest.csv").unlink()
    with pytest.raises(UserError, match=r"neither of manifest\.csv and manifest\.parquet"):
        prepare(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 4}, "side is 4: expected 8 to"),
        ({"seconds": 0.01}, "seconds is 0.01"),
        ({"directions": "image2audio"}, "unknown direction 'image2audio'"),
        ({"names": ["finch", "lark"]}, "line 3: label 'wren': expected one of finch, lark"),
        ({"names": ["a", "a"]}, "expected each once"),
        ({"sides": 4}, "did you mean 'side'"),
    ],
)
def test_an_option_without_sense_is_one_line(root, options, message):
    write_birds(root)
    with pytest.raises(UserError, match=message):
        prepare(root, **options)


def test_a_network_that_does_not_suit_the_labels_is_refused(root):
    write_birds(root)
    with pytest.raises(UserError, match="image_network is 'deeplabv3plus', and there are no masks"):
        prepare(root, image_network="deeplabv3plus")


def test_options_choose_networks_names_and_directions(root):
    write_birds(root)
    made = prepare(root, names=["wren", "finch"], image_network="other", augment=False,
                   directions="text2image")  # fmt: skip
    assert made.classes == ["wren", "finch"] and made.labels[0] == 1
    assert made.dataset.modalities["image"].model == "other"
    assert made.dataset.modalities["image"].augment == ""
    assert made.dataset.directions == ("text2image",)


def test_networks_start_from_weights_that_are_kept_with_the_store(root):
    from safetensors.torch import save_file

    from fdlab.models.build import build_model

    write_birds(root)
    plain = build_model(prepare(root, augment=False), "image", width=8, seed=0)
    values = {k: v.clone() for k, v in plain.state_dict().items()}
    values["conv1.weight"] += 1
    save_file(values, root / "start.safetensors")
    made = prepare(root, augment=False, image_weights="start.safetensors")
    (root / "start.safetensors").unlink()
    for seed in (0, 1):
        found = build_model(made, "image", width=8, seed=seed)
        assert torch.equal(found.state_dict()["conv1.weight"], values["conv1.weight"])
    other = build_model(made, "text", width=8, seed=0)
    assert other.state_dict().keys() != found.state_dict().keys()
    (root / "gone").mkdir()
    with pytest.raises(UserError, match="gone"):
        prepare(root, augment=False, image_weights="gone")


def test_what_a_store_says_of_its_sides_is_part_of_a_runs_fingerprint(root):
    from fdlab.core.config import RunConfig
    from fdlab.training.runs import complete, fingerprint

    write_birds(root)
    found = set()
    for options in ({"augment": False}, {"augment": True}, {"image_network": "mobilenetv2"}):
        made = prepare(root, **options)
        config = complete(RunConfig(dataset=made.manifest["name"], student="image", width=8))
        found.add(fingerprint(config, made))
    assert len(found) == 3


def test_words_of_any_script_are_tokens():
    assert tokenise("L’été, it's 3rd — 鳥!") == [
        "l",
        "’",
        "été",
        ",",
        "it's",
        "3rd",
        "—",
        "鳥",
        "!",
    ]


def test_a_voice_becomes_the_same_spectrogram_as_scipys(root):
    media = pytest.importorskip("fdlab.data.media")
    soundfile = pytest.importorskip("soundfile")
    from scipy import signal

    rows = write_birds(root)
    rng = np.random.default_rng(0)
    for k in range(len(rows)):
        clip = 0.1 * rng.standard_normal(20_000)
        soundfile.write(root / f"{k}.wav", clip, 16000, subtype="FLOAT")
    write_rows(root, [row | {"audio": f"{k}.wav"} for k, row in enumerate(leave(rows, "text"))])
    made = prepare(root, seconds=1.0)
    samples, _ = soundfile.read(root / "5.wav")
    power = signal.spectrogram(samples[:16000], 16000, nperseg=512, noverlap=353)[2]
    found = made.read("audio")
    assert found.shape == (24, 1, 257, (16000 - 353) // 159) and found.dtype == np.float16
    assert np.allclose(found[5, 0], np.log(power + 1e-7), atol=0.02)
    assert made.dataset.directions == ("image2audio", "audio2image")
    (root / "7.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"1 of 24 events cannot be read.*7\.wav: "):
        prepare(root, seconds=1.0, rate=8000)
    assert media.BadMedium


def test_a_prepared_name_trains_and_is_known_everywhere(root, capsys, monkeypatch):
    from fdlab.cli import main
    from fdlab.execute.forecast import forecast
    from fdlab.execute.suite import plan_suite
    from fdlab.studies.explore import Shelf

    monkeypatch.setenv("FDLAB_WORKERS", "1")
    write_birds(root, 60)
    ask = ["data", "prepare", "folder", "--as", "birds", "--root", str(root)]
    assert main([*ask, "-o", "augment=false", "-o", "side=16", "-o", "names=finch"]) == 2
    assert main([*ask, "-o", "augment=false", "-o", "side=16"]) == 0
    plain = ["train", "--dataset", "birds", "--preset", "smoke", "--epochs", "1"]
    assert main([*plain, "--direction", "image2text", "--method", "fdcmkd"]) == 0
    assert "n = 20 test samples" in capsys.readouterr().out
    record = json.loads(next((root.parent / "home").rglob("record.json")).read_text())
    assert record["config"]["dataset"] == "birds" and record["config"]["data_options"] == {}
    suite = plan_suite("core", "birds", "smoke", only="02,06")
    assert suite.folder.name == "birds-smoke"
    lines = forecast(suite).describe()
    assert "to train" in lines[-1]
    assert main(["train", "--dataset", "bird", "--student", "image"]) == 2
    assert "did you mean 'birds'" in capsys.readouterr().err
    assert "birds" in store.list_datasets()
    assert "birds" in Shelf().datasets

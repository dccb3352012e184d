"""Data sets and stores: planted answers, the embedded set's promises, damage that is noticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdlab.core.errors import UserError
from fdlab.data import sentences, speech, store
from fdlab.data.augment import AUGMENTATIONS, SHIFT, draw_view, shift
from fdlab.data.dataset import SPLITS
from fdlab.data.digits import DIGITS, DigitsConfig
from fdlab.data.paired import PairedData

pytest.importorskip("espeakng_loader")


def test_a_store_is_found_again_and_its_digest_is_its_content(digits):
    again = store.prepare("digits", digits.manifest["options"])
    assert again.folder == digits.folder and again.digest == digits.digest
    assert sum(digits.manifest["counts"].values()) == len(digits.labels)


def test_digits_do_not_depend_on_the_number_of_workers(digits):
    built = DIGITS.build(DigitsConfig(**digits.manifest["options"]), workers=1,
                         progress=lambda done, total: None)  # fmt: skip
    for name in ("image", "audio", "text"):
        assert np.array_equal(built.modalities[name], digits.read(name))
    assert np.array_equal(built.labels, digits.labels)


@pytest.mark.parametrize("kind", ["voice variant", "template", "image", "sentence"])
def test_splits_are_disjoint(digits, kind):
    values = digits.ids[kind.split()[0]]
    if kind == "voice variant":
        values = [voice.split("+")[1] for voice in values]
    sets = [{values[row] for row in digits.rows(split)} for split in SPLITS]
    assert not (sets[0] & sets[1]) and not (sets[0] & sets[2]) and not (sets[1] & sets[2])


def test_every_class_is_in_every_split(digits):
    for split in SPLITS:
        assert set(digits.labels[digits.rows(split)]) == set(range(10))


def test_a_clip_depends_on_its_arguments_alone():
    first, rate = speech.speak("seven", voice="en+m3", rate=180, pitch=50, seed=1)
    other, _ = speech.speak("two", voice="en-us+croak", rate=200, pitch=30, seed=2)
    again, _ = speech.speak("seven", voice="en+m3", rate=180, pitch=50, seed=1)
    assert rate > 8000 and np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_unknown_voice_is_refused_though_the_library_ignores_it():
    with pytest.raises(UserError, match="no_such_variant"):
        speech.speak("one", voice="en+no_such_variant", rate=180, pitch=50, seed=0)


def test_the_sentence_holds_its_number_and_the_vocabulary_is_by_count():
    rng = np.random.default_rng(0)
    texts = [sentences.compose(k % 10, "train", rng)[0] for k in range(200)]
    vocabulary = sentences.build_vocabulary(texts)
    assert vocabulary[:2] == ["[PAD]", "[UNK]"]
    tokens = [token for text in texts for token in sentences.tokenize(text)]
    counts = [tokens.count(token) for token in vocabulary[2:]]
    assert counts == sorted(counts, reverse=True) and set(tokens) == set(vocabulary[2:])
    ids = sentences.encode(texts, vocabulary, 28)
    first = [vocabulary[i] for i in ids[0] if i]
    assert first == sentences.tokenize(texts[0])


def test_a_damaged_store_is_named_and_rebuilt(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    fresh = store.prepare("planted", {"events": 40, "dim": 8})
    path = fresh.folder / "first.npy"
    before = path.read_bytes()
    path.write_bytes(before[:-4] + b"\x00\x01\x02\x03")
    store._verified.clear()
    with pytest.raises(UserError, match=r"first\.npy does not match its checksum"):
        store.verify("planted", {"events": 40, "dim": 8})
    assert store.prepare("planted", {"events": 40, "dim": 8}).digest == fresh.digest
    assert path.read_bytes() == before
    assert "first.npy does not match its checksum" in capsys.readouterr().err


def test_a_store_whose_building_failed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    with pytest.raises(UserError, match="strength is 2"):
        store.prepare("planted", {"strength": 2.0})
    with pytest.raises(UserError, match="did you mean 'strength'"):
        store.prepare("planted", {"strenght": 0.1})
    assert not list(tmp_path.rglob("*.npy"))


def test_an_unprepared_store_is_told_how_to_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    with pytest.raises(UserError, match="fdlab data prepare planted"):
        store.verify("planted")


def test_paired_data_keeps_rows_together_and_standardises_images(digits):
    data = PairedData.load(digits, ["image", "audio", "text"], torch.device("cpu"))
    rows = data.rows["test"][[3, 0]]
    assert torch.equal(data.labels[rows], torch.from_numpy(digits.labels[rows.numpy()]))
    train = data.batch("image", data.rows["train"])
    assert train.dtype == torch.float32
    assert abs(float(train.mean())) < 1e-4 and abs(float(train.std()) - 1) < 1e-3
    text = data.batch("text", rows)
    assert text.dtype == torch.int64
    assert np.array_equal(text.numpy(), digits.read("text")[rows.numpy()])


def test_a_shift_moves_each_image_by_whole_pixels_within_its_reach():
    images = torch.zeros(32, 1, 16, 16)
    images[:, 0, 8, 8] = 1.0
    view = draw_view(AUGMENTATIONS["shift"], 32, 0, torch.Generator().manual_seed(0))
    moved = shift(images, view.corner)
    places = moved[:, 0].flatten(1).argmax(dim=1)
    offsets = {(int(p) // 16 - 8, int(p) % 16 - 8) for p in places}
    assert torch.equal(moved.sum(dim=(1, 2, 3)), torch.ones(32))
    assert max(abs(v) for pair in offsets for v in pair) == SHIFT and len(offsets) > 10

"""CrisisMMD in its official layout, and texts as token ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from table_files import CRISIS, make_rows, write_crisismmd

import fdlab.reference
from fdlab.core.config import resolve_options
from fdlab.core.errors import UserError
from fdlab.data import texts
from fdlab.data.crisismmd import CLASSES, CRISISMMD, CrisisMMDOptions, decode, list_events
from fdlab.data.listing import BadMedium

PIECES = [
    "[PAD]",
    "[UNK]",
    "[MASK]",
    "[SEP]",
    "[CLS]",
    "storm",
    "##s",
    "a",
    "cafe",
    "[",
    "]",
    "pad",
]


def list_with(root: Path, **options):
    return list_events(root, CrisisMMDOptions(**options))


def change(split: str, row: int, **cells: str) -> dict[str, list[dict[str, str]]]:
    rows = make_rows(split)
    rows[row] |= cells
    return {split: rows}


@pytest.mark.parametrize(
    "folder",
    [
        "",
        "crisismmd_datasplit_agreed_label",
        "crisismmd_datasplit_agreed_label/crisismmd_datasplit_agreed_label",
    ],
)
def test_the_agreed_tables_are_merged_to_five_classes(tmp_path, folder):
    listing = list_with(write_crisismmd(tmp_path, folder=folder))
    assert listing.classes == [
        "infrastructure_and_utility_damage", "not_humanitarian", "other_relevant_information",
        "rescue_volunteering_or_donation_effort", "affected_individuals",
    ]  # fmt: skip
    assert [event.label for event in listing.events] == [0, 0, 1, 2, 2, 3, 4, 4, 4, 1]
    assert [event.split for event in listing.events] == [0] * 7 + [1] + [2] * 2
    assert [event.id for event in listing.events][3:5] == ["4_0", "4_1"]
    assert listing.ids["tweet"][3:5] == ["4", "4"] and set(listing.ids["event"]) == {
        "hurricane_irma"
    }
    assert listing.expected == {"train": 6126, "validation": 998, "test": 955}
    assert listing.notes[0].startswith("labels: agreed") and len(listing.notes) == 1
    assert listing.info["labels"] == "agreed" and len(listing.info["merged"]) == 3
    json.dumps([listing.info, listing.notes, [event.facts for event in listing.events]])


def test_an_event_of_all_labels_has_its_texts_or_its_images(tmp_path):
    cells = {"label_text": "not_humanitarian", "label_image": "vehicle_damage"}
    tables = change("test", 0, label="vehicle_damage", **cells)
    root = write_crisismmd(tmp_path, tables, "task_humanitarian_text_img")
    listings = {whose: list_with(root, labels="all", label_of=whose) for whose in ("text", "image")}
    assert [listings[whose].events[8].label for whose in ("text", "image")] == [1, 0]
    for whose, listing in listings.items():
        assert listing.info["label_of"] == f"label_{whose}"
        assert f"its {whose}'s" in listing.notes[0]
        assert "1 of 10 events whose text and image are labelled differently" in listing.notes[1]


@pytest.mark.parametrize("task", ["informative", "damage"])
def test_the_other_tasks_have_their_own_classes(tmp_path, task):
    tables = {}
    for split in CRISIS:
        tables[split] = make_rows(split)
        for place, row in enumerate(tables[split]):
            label = CLASSES[task][place % len(CLASSES[task])]
            row |= {"label": label, "label_text": label, "label_image": label}
            if task == "damage":  # a table of images: the others' columns are not there
                for column in ("label_text", "label_image", "label_text_image"):
                    del row[column]
    listing = list_with(
        write_crisismmd(tmp_path, tables, f"task_{task}_text_img"), task=task, labels="all"
    )
    assert listing.classes == list(CLASSES[task]) and listing.info["merged"] == {}
    assert [e.label for e in listing.events][:3] == [0, 1, 2 if task == "damage" else 0]


def test_text_and_image_of_an_event(tmp_path):
    pytest.importorskip("fdlab.data.media")
    root = write_crisismmd(tmp_path)
    options = CrisisMMDOptions(words=6, side=32)
    listing = list_events(root, options)
    # By hand: "the" four times in training, the next three three times, the last three twice.
    kept = ["the", "/", "storm", "water", '"', ":", "warning"]
    assert listing.info["vocabulary"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *kept]
    row = decode(root, listing.events[1], options)  # the water took the | bridge
    assert row["text"].tolist() == [2, 4, 7, 1, 4, 3]
    # Five of the ten have five words or more.
    assert listing.info["texts_cut"] == 5 and "5 of 10 texts are cut" in listing.notes[-1]
    row = decode(root, listing.events[9], options)  # the cat
    assert row["text"].tolist() == [2, 4, 1, 3, 0, 0]
    for name, (shape, dtype) in listing.arrays.items():
        assert row[name].shape == shape and row[name].dtype == dtype
    left, right = row["visual"][:, 16, 4].astype(int), row["visual"][:, 16, 28].astype(int)
    assert abs(left - [255, 0, 0]).max() < 12 and abs(right - [0, 0, 255]).max() < 12


def test_a_missing_or_broken_image_is_named_with_its_reason(tmp_path):
    pytest.importorskip("fdlab.data.media")
    root = write_crisismmd(tmp_path)
    options = CrisisMMDOptions(side=32)
    events = list_events(root, options).events
    (root / events[0].files[0]).unlink()
    (root / events[1].files[0]).write_text("not an image")
    for event, reason in zip(events[:2], ("is missing", ""), strict=True):
        with pytest.raises(BadMedium) as caught:
            decode(root, event, options)
        assert caught.value.file == event.files[0] and reason in caught.value.reason


def test_a_tweet_in_two_splits_is_noted(tmp_path):
    listing = list_with(write_crisismmd(tmp_path, change("test", 0, tweet_id="4")))
    assert any("1 tweets with images in more than one split, such as 4" in n for n in listing.notes)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (change("dev", 0, label="vehicle"), "_dev.tsv, line 2, label: unknown humanitarian label"),
        (change("test", 1, image_id="4_1"), "_test.tsv, line 3: .* stands in .*_train.tsv, line 6"),
        (change("test", 1, tweet_text="a\tb"), "_test.tsv, line 3: 10 fields: expected 9"),
        (change("train", 2, image="/etc/x.jpg"), "_train.tsv, line 4: image '/etc/x.jpg' leaves"),
        (change("train", 2, image="data_image/../../x.jpg"), "_train.tsv, line 4: image .* leaves"),
        (change("train", 2, image="C:\\x.jpg"), "_train.tsv, line 4: image .* leaves"),
        ({"dev": []}, "_dev.tsv has no rows"),
        (
            {"train": [row for row in make_rows("train") if row["tweet_id"] != "5"]},
            "_train.tsv has no row of rescue_volunteering_or_donation_effort",
        ),
        (
            {"test": [{"image": row["image"]} for row in make_rows("test")]},
            "_test.tsv, line 1: no column event_name, tweet_id, image_id, tweet_text, label",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_a_table_is_named_with_its_file_and_line(tmp_path, tables, message):
    with pytest.raises(UserError, match=message):
        list_with(write_crisismmd(tmp_path, tables))


def test_a_table_that_is_missing_or_no_utf8_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no task_informative_text_img_train\.tsv: .*split_all/"):
        list_with(write_crisismmd(tmp_path), task="informative", labels="all")
    path = tmp_path / "task_humanitarian_text_img_agreed_lab_dev.tsv"
    path.write_bytes(path.read_bytes().replace(b"missing child", b"missing \xff"))
    with pytest.raises(UserError, match=r"_dev\.tsv, line 2: not UTF-8"):
        list_with(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "humanitarien"}, "did you mean 'humanitarian'"),
        ({"labels": "agree"}, "did you mean 'agreed'"),
        ({"label_of": "both"}, "label_of 'both'"),
        ({"words": 2}, "words is 2: expected 3 to 512"),
        ({"task": "damage"}, "expected labels=all"),
    ],
)
def test_a_wrong_option_says_what_was_expected(given, message):
    with pytest.raises(UserError, match=message):
        resolve_options("crisismmd", CRISISMMD.options, given)


def test_the_published_table_has_a_column_under_its_name():
    table = Path(fdlab.reference.__file__).with_name("fdcmkd_table2_classification.csv")
    assert f"{CRISISMMD.reports}_text" in table.read_text().splitlines()[0].split(",")


def test_weights_are_listed_for_the_modality_that_has_them(tmp_path):
    listing = list_with(write_crisismmd(tmp_path), visual_weights="mobilenet.pth")
    assert listing.weights == {"visual": "mobilenet.pth"}


def test_words_are_counted_and_laid_out_by_hand():
    vocabulary = texts.build_vocabulary(["b a b", "c b a", "d"])
    assert vocabulary == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "b", "a"]
    ids, cut = texts.encode_words(["a b", "", "b b b b", "z a b"], vocabulary, 5)
    assert ids.tolist() == [[2, 5, 4, 3, 0], [2, 3, 0, 0, 0], [2, 4, 4, 4, 3], [2, 1, 5, 4, 3]]
    assert cut == 1 and ids.dtype == np.int32
    with pytest.raises(UserError, match="expected at least 3"):
        texts.encode_words(["a"], vocabulary, 2)


def test_word_pieces_follow_the_file(tmp_path):
    pytest.importorskip("tokenizers")
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    ids, cut = texts.encode_wordpieces(
        ["Storms", "a CAFÉ", "[PAD]", "xyz", "a a a a a"], file, 5
    )  # fmt: skip
    assert ids.tolist() == [
        [4, 5, 6, 3, 0],
        [4, 7, 8, 3, 0],
        [4, 9, 11, 10, 3],  # a special token's name in a text is no special token
        [4, 1, 3, 0, 0],
        [4, 7, 7, 7, 3],
    ]
    assert cut == 1
    listing = list_with(write_crisismmd(tmp_path), vocabulary=str(file))
    assert listing.info["vocabulary"] == PIECES
    assert listing.events[3].facts["tokens"] == [4, 5, 1, 3]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "a"], r"has no \[SEP\]"),
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]"], r"line 2: \[PAD\] stands here: expected it in"),
        ([*PIECES, "a"], "line 13: 'a' stands in line 8 too"),
        (None, "cannot be read"),
    ],
)
def test_a_vocabulary_file_that_is_none_is_named(tmp_path, tokens, message):
    file = tmp_path / "vocab.txt"
    if tokens:
        file.write_text("\n".join(tokens), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        texts.encode_wordpieces(["a"], file, 8)

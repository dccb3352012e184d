"""Data that nobody has seen: prepared by the command line, then every notebook, without any code.

The names, classes and sizes are those of no data set of the package.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from own_files import BIRDS, ROOMS, SURFACES, write_birds, write_manifest, write_rooms
from PIL import Image

from fdlab.cli import main
from fdlab.core.device import cores
from fdlab.core.errors import UserError
from fdlab.core.results import read_result
from fdlab.data import store
from fdlab.execute.suite import plan_suite, read_suites, run_suite
from fdlab.figures.data import shorten
from fdlab.studies.data import take_turns

BIRD_OPTIONS = ["side=24", "seconds=0.4", "rate=8000", "words=16"]
ROOM_OPTIONS = ["side=32", 'names=["wall","floor","table","lamp"]']
ONE_STEP = {"epochs": 1, "seeds": [0, 1]}
FEW = {"shuffles": 8, "splits": 4, "untrained": 2, "probes": 1, "runs": 1, "drawn": 1,
       "perplexities": [5], "weights": [1.0, 3.0], "tables": ["table7"],
       "methods": ["none", "heads_only", "fdcmkd"], "directions": ["audio2text"]}  # fmt: skip


def prepare(root: Path, name: str, options: list[str]) -> int:
    chosen = [part for option in options for part in ("-o", option)]
    return main(["data", "prepare", "folder", "--root", str(root), "--as", name, *chosen])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Both data sets, prepared as a person would."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(folder / "home"))
        patch.setenv("FDLAB_WORKERS", "1")
        pytest.importorskip("soundfile")
        write_birds(folder / "birds")
        write_rooms(folder / "flat")
        assert prepare(folder / "birds", "birds", BIRD_OPTIONS) == 0
        assert prepare(folder / "flat", "flat", ROOM_OPTIONS) == 0
        yield folder


def find_nearest(values: np.ndarray, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The label of the nearest mean of the rows that `train` marks, for every row."""
    rows = values.reshape(len(values), -1).astype(float)
    means = np.stack([rows[train & (labels == k)].mean(axis=0) for k in np.unique(labels)])
    return ((rows[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)


def test_every_modality_keeps_what_was_planted(home):
    made = store.find_store("birds")
    assert made.manifest["counts"] == {"train": 60, "validation": 20, "test": 30}
    assert made.classes == sorted(BIRDS) and not made.manifest["notes"]
    assert len(made.dataset.directions) == 6
    words = np.zeros((110, len(made.info["vocabulary"])))
    np.add.at(words, (np.arange(110)[:, None], made.read("text")), 1)
    seen = {"image": made.read("image"), "audio": made.read("audio"), "text": words[:, 2:]}
    for name, lowest in (("image", 0.95), ("audio", 0.95), ("text", 0.55)):
        found = find_nearest(seen[name], made.labels, made.split == 0)
        assert np.mean((found == made.labels)[made.split == 2]) > lowest, name


def test_pixels_of_a_class_lie_at_its_distance(home):
    made = store.find_store("flat")
    mask, depth = made.read("mask"), made.read("depth")[:, 0]
    assert made.classes == list(SURFACES) and made.dataset.scenes == ROOMS
    medians = [np.median(depth[(mask == k) & (depth > 0)]) for k in range(4)]
    assert np.allclose(medians, (3500, 1500, 2200, 2600), atol=40)
    assert (mask[:, :, 0] == 255).all() and (mask[:, :, 2:] < 4).all()


def run(dataset: str, only: str, **values):
    jobs = min(2, cores())
    suite = plan_suite("all", dataset, "smoke", only=only, values=values, jobs=jobs)
    summary = run_suite(suite)
    assert not summary.failed
    for name in summary.ran:
        executed = nbformat.read(summary.folder / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    return summary


def test_the_notebooks_run_on_three_modalities(home):
    names = [name for name in read_suites()["all"] if "01" <= name[:2] <= "09"]
    summary = run("birds", ",".join(names), **ONE_STEP, **FEW)
    assert sorted(summary.ran) == names
    results = {path.stem: read_result(path) for path in summary.folder.glob("results/*.json")}
    assert set(results) == {name.split("_", 1)[1] for name in names}
    assert results["data"].sentences[0].startswith("Seen at 0 o'clock")
    assert results["comparison"].directions == ["audio2text"]
    assert {row.direction for row in results["ablation"].lines} == {"audio2text"}
    for stem in results:
        assert list(summary.folder.glob(f"figures/{stem}-*.png")), stem
        result = results[stem]
        assert result.finding() and "nan" not in result.finding(), stem


def test_the_notebooks_run_on_masks(home):
    values = {"methods": ["none", "fdcmkd"], "directions": ["depth2image"], "examples": 5}
    summary = run("flat", "01,05,06,12", **ONE_STEP | {"seeds": [0]}, **values)
    result = read_result(summary.folder / "results" / "segmentation.json")
    assert result.classes == list(SURFACES) and len(result.pictures) == 5
    assert result.shares.sum() == pytest.approx(1)


def test_a_data_set_of_ones_own_is_listed_and_verified(home, capsys):
    assert main(["data", "list"]) == main(["data", "verify", "birds"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"birds +files of your own, read as folder", text)
    assert "image, audio, text; 3 classes" in text and "image, depth; 4 classes" in text
    assert "6 files of birds match" in text
    assert main(["data", "prepare", "nothing"]) == 2
    assert len(re.findall(r"\bbirds\b", capsys.readouterr().err)) == 1


def rename(rows: list[dict], **names: str) -> list[dict]:
    return [{names.get(column, column): value for column, value in row.items()} for row in rows]


def join(rows: list[dict], mark: str) -> str:
    return "\n".join(mark.join(map(str, row)) for row in [rows[0], *(r.values() for r in rows)])


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (lambda rows: rename(rows, split="Split"), r"found Split, .*'Split' in lower case\?"),
        (lambda rows: rename(rows, label="class"),
         "column label .or mask. is missing: found split, class, .* expected split, label"),
        (lambda rows: rename(rows, image="img", audio="wav"),
         r"1 of the columns .* found \(split, label, img, wav, text, group\)"),
        (lambda rows: join(rows, ";"), "separated by ';': expected commas"),
        (lambda rows: join(rows, "\t"), r"separated by '\\t': expected commas"),
        (lambda rows: join(rows, ",").replace("small and", "small, and"),
         r"line \d+: 7 values, expected 6 .a value that holds a comma needs quotes"),
        (lambda rows: "", r"manifest\.csv is empty: expected a line of column names"),
        (lambda rows: [row | {"split": "train"} for row in rows],
         r"no event is in the test split \(98 train, 12 validation, 0 test\): expected one"),
        (lambda rows: [*rows[:-1], rows[-1] | {"image": "pictures"}],
         "1 of 110 .* pictures: a folder, expected a file"),
    ],
)  # fmt: skip
def test_a_slip_is_told_in_a_line_that_says_what_was_expected(
    tmp_path, monkeypatch, capsys, slip, said
):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    pytest.importorskip("soundfile")
    rows = slip(write_birds(tmp_path / "birds"))
    if isinstance(rows, str):
        (tmp_path / "birds" / "manifest.csv").write_text(rows)
    else:
        write_manifest(tmp_path / "birds", rows)
    assert prepare(tmp_path / "birds", "birds", BIRD_OPTIONS) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fdlab: error: ") and re.search(said, error)


def test_a_mask_that_cannot_lie_on_its_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    rows = write_rooms(tmp_path / "flat")
    first = tmp_path / "flat" / rows[0]["mask"]
    with Image.open(first) as image:
        image.load()
    ask = {"root": tmp_path / "flat", "kind": "folder"}
    options = {"classes": 4, "side": 16}
    image.resize((20, 15), Image.Resampling.NEAREST).save(first)
    assert len(store.prepare("half", options, **ask).labels) == len(rows)
    image.transpose(Image.Transpose.ROTATE_90).save(first)
    with pytest.raises(UserError, match="mask is 30×40, and the image 40×30: expected the same"):
        store.prepare("turned", options, **ask)
    image.save(first, format="JPEG")
    with pytest.raises(UserError, match="mask is a JPEG"):
        store.prepare("blurred", options, **ask)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("text_network=resnet18", "reads images: expected one for tokens"),
        ("image_network=textcnn", "reads tokens: expected one for images"),
        ("names=finch,owl", r'expected list, such as \["a", "b"\]'),
    ],
)
def test_an_option_that_does_not_fit_is_refused(home, capsys, option, said):
    assert prepare(home / "birds", "other", [*BIRD_OPTIONS, option]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_pictures_take_turns_among_the_labels():
    labels = np.array([2, 0, 0, 2, 0])
    assert take_turns(labels, np.array([1, 3, 2, 0, 9])).tolist() == [2, 3, 1, 0, 4]


def test_a_long_text_ends_in_dots():
    text = shorten("many words " * 30)
    assert len(text.splitlines()) == 4 and text.endswith(" …")
    assert shorten("a wren") == "a wren"

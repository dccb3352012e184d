"""What a person, or a file, can get wrong: one line that names it and what was expected, exit code
2, and nothing left behind or lost."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fdlab.cli import main
from fdlab.core import stop
from fdlab.core.config import RunConfig, TrainConfig
from fdlab.core.errors import UserError
from fdlab.core.records import RunRecord
from fdlab.data.store import find_store
from fdlab.models.build import build_model
from fdlab.studies.plan import make_plan
from fdlab.training.ensure import ensure_run
from fdlab.training.runs import find_run_damage

HOSTILE = ("../../x", "$(touch y)", "; rm -r .", "a\nb", "a\0b")
TRAIN = ["train", "--dataset", "birds", "--student", "image"]
WAY = ["train", "--dataset", "birds", "--direction", "text2image", "--method", "fdcmkd"]
SUITE = ["reproduce", "--preset", "smoke"]
COUNTS = {"train": 12, "val": 4, "test": 4}


class Place:
    """A prepared data set `birds` with its files, in a home of its own, and an empty folder that
    commands run in."""

    def __init__(self, folder: Path):
        self.home, self.cwd, self.files = (folder / n for n in ("home", "cwd", "files"))

    @property
    def store(self) -> Path:
        return self.home / "outputs" / "stores" / "birds"

    def edit_manifest(self, change: Callable[[dict], None]) -> None:
        path = self.store / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    def edit_rows(self, change: Callable[[list[dict]], None]) -> list[str]:
        """The command that prepares the changed manifest under another name."""
        with (self.files / "manifest.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        change(rows)
        write_rows(self.files, rows)
        return ["data", "prepare", "folder", "--root", str(self.files), "--as", "others"]

    def write_weights(self, name: str, value) -> list[str]:
        path = self.files / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif name.endswith(".safetensors"):
            save_file(value, path)
        else:
            torch.save(value, path)
        return [*TRAIN, "--weights", str(path), "--width", "8"]

    def write_zip(self, **members: str) -> list[str]:
        with zipfile.ZipFile(self.files / "a.zip", "w") as file:
            for name, text in members.items():
                file.writestr(name.replace("__", "/").replace("_json", ".json"), text)
        return ["runs", "import", str(self.files / "a.zip")]

    def list_files(self) -> dict[str, bytes]:
        """Everything that a command could have left or changed; locks hold nothing."""
        found = {}
        for folder in (self.home, self.cwd):
            for path in sorted(folder.rglob("*")):
                if path.suffix != ".lock" and path.is_file():
                    found[str(path)] = path.read_bytes()
        return found


def write_rows(folder: Path, rows: list[dict]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    place = Place(folder)
    for part in (place.home, place.cwd, place.files):
        part.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for split, count in COUNTS.items():
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
                place.files / f"{split}{k}.png"
            )
            kind = ("finch", "owl")[k % 2]
            rows.append({"split": split, "label": kind, "image": f"{split}{k}.png", "text": kind})
    write_rows(place.files, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(place.home))
        ask = ["data", "prepare", "folder", "--root", str(place.files), "--as", "birds"]
        assert main([*ask, "-o", "side=16"]) == 0
    return folder


@pytest.fixture
def place(prepared, tmp_path, monkeypatch):
    for part in ("home", "cwd", "files"):
        shutil.copytree(prepared / part, tmp_path / part)
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FDLAB_WORKERS", "1")
    for name in ("FDLAB_FAST", "FDLAB_PACK", "FDLAB_PRECISION", "FDLAB_THREADS"):
        monkeypatch.setenv(name, "")  # commands set them, and this puts them back
    monkeypatch.chdir(tmp_path / "cwd")
    return Place(tmp_path)


def run(capsys, arguments: list[str]) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def set_variable(name: str, value: str, then: list[str]):
    def arrange(place: Place) -> list[str]:
        os.environ[name] = value
        return then

    return arrange


def change_store(change: Callable[[dict], None]):
    def arrange(place: Place) -> list[str]:
        place.edit_manifest(change)
        return TRAIN

    return arrange


def change_rows(change: Callable[[list[dict]], None]):
    return lambda place: place.edit_rows(change)


def keep_label(rows: list[dict]) -> None:
    for row in rows:
        row["label"] = "owl"


def link_out(place: Place) -> list[str]:
    (place.files / "link.png").symlink_to("/etc/passwd")
    return place.edit_rows(lambda rows: rows[0].update(image="link.png"))


def link_store(place: Place) -> list[str]:
    outside = place.files / "image.npy"
    shutil.move(place.store / "image.npy", outside)
    (place.store / "image.npy").symlink_to(outside)
    return TRAIN


def cut_store(place: Place) -> list[str]:
    path = place.store / "image.npy"
    path.write_bytes(path.read_bytes()[:-1])
    return TRAIN


def replace_outputs(place: Place) -> list[str]:
    """A file where a folder has to be, since root meets no permissions."""
    shutil.rmtree(place.home / "outputs")
    (place.home / "outputs").write_text("")
    return ["data", "prepare", "planted", "-o", "events=40"]


def cut_archive(place: Place) -> list[str]:
    asked = place.write_zip(manifest_json='{"format": 1}')
    path = place.files / "a.zip"
    path.write_bytes(path.read_bytes()[:-30])
    return asked


def add_file(name: str):
    return lambda manifest: manifest["sizes"].update({name: 1})


class Runs:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


WEIGHTS = {
    "weights that are not there": (
        lambda p: [*TRAIN, "--weights", "no.pth"],
        "no.pth: no such weights file",
    ),
    "weights in an empty folder": (
        lambda p: [*TRAIN, "--weights", str(p.cwd)],
        "holds no weights: expected model.safetensors",
    ),
    "weights of another network": (
        lambda p: p.write_weights("w.safetensors", {"a.weight": torch.zeros(2)}),
        r"does not fit: missing .* unexpected 1 \(a.weight\)",
    ),
    "weights of another shape": (
        lambda p: p.write_weights("w.safetensors", shapes(p)),
        r"other shapes .*conv1.weight has shape \(2,\), expected",
    ),
    "weights that are no safetensors": (
        lambda p: p.write_weights("w.safetensors", b"no header"),
        "holds no readable weights",
    ),
    "weights cut short": (
        lambda p: p.write_weights("w.pth", b"PK\3\4 the rest is gone"),
        "holds no readable weights",
    ),
    "weights that would run code": (
        lambda p: p.write_weights("w.pth", {"a": Runs(str(p.cwd / "ran"))}),
        "holds no readable weights",
    ),
    "weights that are a list": (
        lambda p: p.write_weights("w.pth", [torch.zeros(2)]),
        "expected a dict of names to tensors, found list",
    ),
}


def shapes(place: Place) -> dict[str, torch.Tensor]:
    """Every name right, and the first shape wrong."""
    model = build_model(find_store("birds"), "image", width=8, seed=0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state | {"conv1.weight": torch.zeros(2)}


COMMANDS = {
    # names
    "unknown method": (
        [*TRAIN, "--method", "fdckmd"],
        "unknown method 'fdckmd': did you mean 'fdcmkd'",
    ),
    "unknown method in a sum": ([*WAY[:-1], "kd+fdckmd"], "unknown method 'fdckmd'"),
    "a sum with a negative weight": ([*WAY[:-1], "kd+-1*at"], "a weight from 0"),
    "unknown data set": (
        ["train", "--dataset", "digit", "--student", "image"],
        "unknown data set 'digit': did you mean 'digits'",
    ),
    "unknown suite": ([*SUITE, "--suite", "cor"], "unknown suite 'cor': did you mean 'core'"),
    "unknown notebook": ([*SUITE, "--only", "99"], "unknown notebook '99'"),
    "unknown modality": (
        [*TRAIN[:-1], "smell"],
        "unknown modality of birds 'smell': Choices: image, text",
    ),
    "unknown direction": ([*WAY[:4], "image2smell"], "unknown direction 'image2smell'"),
    "unknown option": (
        [*WAY, "-o", "cutof=0.5"],
        "unknown option of fdcmkd 'cutof': did you mean 'cutoff'",
    ),
    "unknown preset": ([*TRAIN, "--preset", "quik"], "unknown preset 'quik': did you mean 'quick'"),
    "unknown device": ([*TRAIN, "--device", "tpu"], "device 'tpu'.*auto, cpu, cuda"),
    "a device that is no word": (
        [*TRAIN, "--device", "cuda:x"],
        "device 'cuda:x'.*auto, cpu, cuda",
    ),
    "a GPU that is absent": (
        [*TRAIN, "--device", "cuda:99"],
        "'cuda:99' was asked for, but [0-9]+ CUDA devices",
    ),
    "unknown command": (["trian"], "invalid choice: 'trian'"),
    "unknown flag": ([*TRAIN, "--epoch\nx", "3"], "unrecognized arguments|ambiguous"),
    "unknown precision": ([*TRAIN, "--precision", "float16"], "unknown precision 'float16'"),
    "unknown precision of a suite": (
        [*SUITE, "--precision", "float16"],
        "unknown precision 'float16'",
    ),
    "unknown venue": (["redraw", "--venue", "nips"], "unknown venue 'nips'"),
    "neither direction nor student": (
        ["train", "--dataset", "birds"],
        "either --direction, such as",
    ),
    "direction and student": ([*WAY, "--student", "image"], "either --direction, such as"),
    "a method without its teacher": ([*TRAIN, "--method", "kd"], "kd needs a teacher"),
    # numbers
    "zero epochs": ([*TRAIN, "--epochs", "0"], "--epochs is 0: expected a whole number from 1"),
    "negative epochs": (
        [*TRAIN, "--epochs", "-2"],
        "--epochs is -2: expected a whole number from 1",
    ),
    "fractional epochs": ([*TRAIN, "--epochs", "1.5"], "--epochs: invalid int value: '1.5'"),
    "zero width": ([*TRAIN, "--width", "0"], "--width is 0: expected a whole number from 1"),
    "negative seed": ([*TRAIN, "--seed", "-1"], "seed is -1: expected a whole number from 0"),
    "a seed that is a word": ([*TRAIN, "--seed", "one"], "--seed: invalid int value: 'one'"),
    "cut-off above 1": ([*WAY, "-o", "cutoff=1.5"], "cutoff is 1.5: expected a fraction"),
    "cut-off below 0": ([*WAY, "-o", "cutoff=-0.1"], "cutoff is -0.1: expected a fraction"),
    "cut-off 0": ([*WAY, "-o", "cutoff=0"], "cutoff is 0.0: expected above 0"),
    "cut-off NaN": (
        [*WAY, "-o", "cutoff=NaN"],
        "cutoff of fdcmkd is nan: expected a finite float",
    ),
    "cut-off NaN in YAML": (
        [*WAY, "-o", "cutoff=.nan"],
        "cutoff of fdcmkd is nan: expected a finite float",
    ),
    "an infinite weight": (
        [*WAY, "-o", "low_weight=Infinity"],
        "low_weight of fdcmkd is inf: expected a finite float",
    ),
    "an option of the wrong type": (
        [*WAY, "-o", "cutoff=half"],
        "cutoff of fdcmkd is 'half': expected float",
    ),
    "a truth value for a number": (
        [*WAY, "-o", "cutoff=true"],
        "cutoff of fdcmkd is True: expected float",
    ),
    "an option without a value": ([*WAY, "-o", "cutoff"], "'cutoff': expected name=value"),
    "options of a method without any": (
        [*TRAIN, "-o", "cutoff=1"],
        "none has no options, and 'cutoff' was given",
    ),
    # a suite's parameters
    "a misspelt parameter": (
        [*SUITE, "-p", "sedes=[0]"],
        "unknown parameter 'sedes': did you mean 'seeds'",
    ),
    "a parameter of the wrong type": ([*SUITE, "-p", "seeds=3"], "seeds of .* is 3: expected list"),
    "a parameter left empty": ([*SUITE, "-p", "seeds="], "seeds of .* is None: expected list"),
    "seeds that repeat": ([*SUITE, "-p", "seeds=[0, 0]"], r"seeds is \[0, 0\]: expected each once"),
    "negative seeds": ([*SUITE, "-p", "seeds=[-1]"], r"seeds is \[-1\]: expected nothing below 0"),
    "seeds that are fractions": (
        [*SUITE, "-p", "seeds=[0.5]"],
        r"seeds is \[0.5\]: expected a list of int",
    ),
    "negative epochs of a suite": (
        [*SUITE, "-p", "epochs=-3"],
        "epochs is -3: expected nothing below 0",
    ),
    "a fractional width": ([*SUITE, "-p", "width=1.5"], "width of .* is 1.5: expected int"),
    "a suite's cut-off": ([*SUITE, "-p", "cutoff=2"], "cutoff is 2: expected a fraction"),
    "a suite's cut-off NaN": (
        [*SUITE, "-p", "cutoff=NaN"],
        "cutoff of .* is nan: expected a finite float",
    ),
    "a direction of a suite": ([*SUITE, "-p", 'directions=["up"]'], "unknown direction 'up'"),
    "a data set by -p": ([*SUITE, "-p", "dataset=rooms"], "given by --dataset and --preset"),
    "a table of settings that is not there": (
        [*SUITE, "-p", "hyperparameters=no.csv"],
        "no.csv: no such file",
    ),
    "a negative search": ([*SUITE, "-p", "trials=-1"], "trials is -1: expected nothing below 0"),
    "no jobs": ([*SUITE, "--jobs", "0"], "--jobs is 0: expected 1 to"),
    "more jobs than cores": ([*SUITE, "--jobs", "100000"], "--jobs is 100000: expected 1 to"),
    "jobs that are no number": ([*SUITE, "--jobs", "two"], "--jobs: invalid int value: 'two'"),
    "no pack": ([*SUITE, "--pack", "0"], "--pack is 0: expected a whole number from 1"),
    "fast without a sign": ([*TRAIN, "--fast=graphs"], r"expected \+graphs or -graphs"),
    "fast without a name": ([*TRAIN, "--fast=+"], "unknown part of FDLAB_FAST ''"),
    "fast that changes numbers": ([*TRAIN, "--fast=+bf16"], "--precision bf16 or float32"),
    # variables
    "FDLAB_FAST": (
        set_variable("FDLAB_FAST", "-grafs", TRAIN),
        "unknown part of FDLAB_FAST 'grafs': did you mean 'graphs'",
    ),
    "FDLAB_WORKERS": (
        set_variable("FDLAB_WORKERS", "0", TRAIN),
        "FDLAB_WORKERS is '0': expected a whole number from 1",
    ),
    "FDLAB_THREADS": (
        set_variable("FDLAB_THREADS", "two", TRAIN),
        "FDLAB_THREADS is 'two': expected a whole",
    ),
    "FDLAB_PRECISION": (set_variable("FDLAB_PRECISION", "half", TRAIN), "unknown precision 'half'"),
    # files
    "a root that is not there": (["data", "prepare", "ave", "--root", "no"], "no: no such folder"),
    "a file for a folder": (
        lambda p: ["data", "prepare", "ave", "--root", str(p.files / "manifest.csv")],
        "expected AVE_Dataset",
    ),
    "outputs that are a file": (replace_outputs, "exists: |ot a directory: "),
    "no root": (["data", "prepare", "ave"], "ave is not prepared yet"),
    "a root for what is made here": (
        ["data", "prepare", "planted", "--root", "."],
        "is made here: expected no files",
    ),
    "a name that is taken": (
        lambda p: [*p.edit_rows(len)[:-1], "digits"],
        "digits is a data set of its own",
    ),
    "missing that is negative": (
        ["data", "prepare", "ave", "--allow-missing", "-1"],
        "--allow-missing is -1",
    ),
    "a side too small": (
        lambda p: [*p.edit_rows(len), "-o", "side=4"],
        "side is 4: expected 8 to 4096",
    ),
    "one class": (change_rows(keep_label), "every label is 'owl': expected two classes or more"),
    "an empty split": (
        change_rows(lambda r: r.__delitem__(slice(16, None))),
        "no event is in the test split",
    ),
    "an empty manifest": (lambda p: empty_manifest(p), "is empty: expected a line of column names"),
    "an unknown split": (
        change_rows(lambda r: r[0].update(split="dev")),
        "split is 'dev': expected train",
    ),
    "a path outside": (
        change_rows(lambda r: r[0].update(image="../x.png")),
        "'../x.png': expected a path below",
    ),
    "an absolute path": (
        change_rows(lambda r: r[0].update(image="/etc/passwd")),
        "'/etc/passwd': expected a path below",
    ),
    "a link outside": (link_out, "'link.png' is a link out of"),
    "a picture that is not there": (
        change_rows(lambda r: r[0].update(image="no.png")),
        "no.png: no such file",
    ),
    "a store of another version": (
        change_store(lambda m: m.update(version=99)),
        "is of version 99, and this is version 1: prepare it again",
    ),
    "a store of another format": (
        change_store(lambda m: m.update(format=0)),
        "is of format 0, and this is format 1",
    ),
    "a store of an unknown kind": (
        change_store(lambda m: m.update(kind="x")),
        "of an unknown kind: prepare it again",
    ),
    "a store's manifest without sizes": (
        change_store(lambda m: m.pop("sizes")),
        "manifest.json is damaged",
    ),
    "a store's manifest without classes": (
        change_store(lambda m: m.pop("classes")),
        "manifest.json is damaged",
    ),
    "a store's manifest with a path outside": (
        change_store(add_file("../../../x")),
        "'../../../x' leaves",
    ),
    "a store's manifest with an absolute path": (
        change_store(add_file("/etc/passwd")),
        "'/etc/passwd' leaves",
    ),
    "a store's array that is a link out": (link_store, "image.npy is a link out of"),
    "a store's array cut short": (cut_store, "image.npy has .* bytes, its manifest says"),
    "a run that is not there": (
        ["runs", "show", "zz"],
        "0 runs start with 'zz': expected exactly one",
    ),
    "an archive that is not there": (["runs", "import", "no.zip"], "no.zip: no such archive"),
    "an archive that is none": (
        lambda p: ["runs", "import", str(p.files / "manifest.csv")],
        "no .zip archive",
    ),
    "an archive cut short": (cut_archive, "is damaged, or no .zip archive"),
    "an archive without a manifest": (
        lambda p: p.write_zip(suite__x_json="{}"),
        "no .json belongs there",
    ),
    "an archive of another format": (
        lambda p: p.write_zip(manifest_json='{"format": 7}'),
        "format is 7, expected 1",
    ),
    "an archive with a path outside": (
        lambda p: p.write_zip(**{"..__..__x_json": "{}"}),
        r"member '../../x.json': its name leaves",
    ),
    "an archive to nowhere": (["runs", "export", "a.tar"], "ends in .zip"),
    "nothing to export": (["runs", "export", "a.zip"], "holds no finished run to export"),
    "an unfinished suite": (["publish", "--preset", "paper"], "is not finished"),
}


def empty_manifest(place: Place) -> list[str]:
    asked = place.edit_rows(len)
    (place.files / "manifest.csv").write_text("")
    return asked


for _word in HOSTILE:
    COMMANDS |= {
        f"{what} {_word!r}": (asked, message)
        for what, asked, message in (
            ("method", [*TRAIN, "--method", _word], "unknown method"),
            ("data set", ["train", "--dataset", _word, "--student", "image"], "unknown data set"),
            ("suite", [*SUITE, "--suite", _word], "unknown suite"),
            ("notebook", [*SUITE, "--only", _word], "unknown notebook"),
            ("preset", [*TRAIN, "--preset", _word], "unknown preset"),
            ("weights", [*TRAIN, "--weights", _word], "no such weights file"),
            ("hub name", [*TRAIN, "--weights", f"hub:{_word}"], "names no repository"),
            ("store", ["data", "verify", _word], "unknown data set"),
            ("name", lambda p, w=_word: [*p.edit_rows(len)[:-1], w], "is no name for a data set"),
            ("published", ["publish", "--dataset", _word], "unknown data set"),
            ("redrawn", ["redraw", "--dataset", _word], "unknown data set"),
            ("redrawn preset", ["redraw", "--preset", _word], "unknown preset"),
            ("exported", ["runs", "export", "a.zip", "--suite", _word], "is no suite's folder"),
            ("run", ["runs", "show", _word], "0 runs start with"),
        )
    }


@pytest.mark.parametrize(("arrange", "message"), (COMMANDS | WEIGHTS).values(),
                         ids=[ascii(name) for name in COMMANDS | WEIGHTS])  # fmt: skip
def test_a_bad_command_is_one_line_and_leaves_nothing(place, capsys, arrange, message):
    arguments = arrange(place) if callable(arrange) else arrange
    before = place.list_files()
    code, output, errors = run(capsys, arguments)
    lines = errors.strip().splitlines()
    assert code == 2, (output, errors)
    last = lines[-1]
    assert last.startswith("fdlab") and "error: " in last and "Traceback" not in errors
    # What of somebody's files cannot be read is said, each in a line, before the error.
    assert all(line.startswith("fdlab: others: ") for line in lines[:-1]), lines
    assert re.search(message, last), last
    assert last.isprintable()
    after = place.list_files()
    left = {name for name in after if "others" not in name}
    assert left <= set(before) and all(after[name] == before[name] for name in left)
    assert list(place.cwd.iterdir()) == []


RECIPES = {
    "learning rate NaN": (
        {"learning_rate": math.nan},
        "learning_rate is nan: expected a finite number",
    ),
    "learning rate infinite": (
        {"learning_rate": math.inf},
        "learning_rate is inf: expected a finite number",
    ),
    "learning rate negative": (
        {"learning_rate": -0.1},
        "learning_rate is -0.1 .* expected initial >= final > 0",
    ),
    "learning rate 0": ({"learning_rate": 0.0}, "expected initial >= final > 0"),
    "learning rate that rises": ({"final_learning_rate": 1.0}, "expected initial >= final > 0"),
    "final learning rate NaN": ({"final_learning_rate": math.nan}, "final_learning_rate is nan"),
    "learning rate in words": (
        {"learning_rate": "0.1"},
        "learning_rate is '0.1': expected a finite number",
    ),
    "zero epochs": ({"epochs": 0}, "epochs is 0: expected a whole number from 1"),
    "fractional epochs": ({"epochs": 2.5}, "epochs is 2.5: expected a whole number"),
    "whole epochs as a fraction": ({"epochs": 2.0}, "epochs is 2.0: expected a whole number"),
    "epochs true": ({"epochs": True}, "epochs is True: expected a whole number"),
    "epochs NaN": ({"epochs": math.nan}, "epochs is nan: expected a whole number"),
    "batch of 1": ({"batch_size": 1}, "batch_size is 1: expected at least 2"),
    "batch of 2.5": ({"batch_size": 2.5}, "batch_size is 2.5: expected a whole number"),
    "power NaN": ({"power": math.nan}, "power is nan: expected a finite number"),
    "power negative": ({"power": -1.0}, "power is -1.0: expected >= 0"),
    "momentum 1": ({"momentum": 1.0}, "momentum is 1.0: expected 0 <= m < 1"),
    "momentum NaN": ({"momentum": math.nan}, "momentum is nan: expected a finite number"),
    "weight decay infinite": (
        {"weight_decay": math.inf},
        "weight_decay is inf: expected a finite number",
    ),
    "weight decay negative": ({"weight_decay": -1.0}, "weight_decay is -1.0: expected >= 0"),
    "side too small": ({"side": 7}, "side is 7: expected at least 16"),
    "side fractional": ({"side": 16.5}, "side is 16.5: expected a whole number"),
    "augment in words": ({"augment": "yes"}, "augment is 'yes': expected true or false"),
    "unknown optimiser": ({"optimiser": "sdg"}, "unknown optimiser 'sdg': did you mean 'sgd'"),
    "unknown precision": ({"precision": "fp8"}, "unknown precision 'fp8'"),
}
RUNS = {
    "seed fractional": ({"seed": 1.5}, "seed is 1.5: expected a whole number"),
    "seed negative": ({"seed": -1}, "seed is -1: expected a whole number from 0"),
    "teacher's seed negative": (
        {"teacher_seed": -1},
        "teacher_seed is -1: expected a whole number",
    ),
    "probes negative": ({"probes": -1}, "probes is -1: expected a whole number from 0"),
    "width 0": ({"width": 0}, "width is 0: expected a whole number from 1"),
    "width NaN": ({"width": math.nan}, "width is nan: expected a whole number"),
    "a recipe that is none": ({"train": {"epochs": 1}}, "train is .*: expected TrainConfig"),
    "unknown kind of teacher": ({"teacher_kind": "wise"}, "unknown kind of teacher 'wise'"),
}


@pytest.mark.parametrize(("fields", "message"), RECIPES.values(), ids=RECIPES)
def test_a_bad_recipe_is_refused_where_it_is_made(fields, message):
    with pytest.raises(UserError, match=message) as error:
        TrainConfig(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("fields", "message"), RUNS.values(), ids=RUNS)
def test_a_bad_run_is_refused_where_it_is_made(fields, message):
    with pytest.raises(UserError, match=message):
        RunConfig("birds", "image", **fields)


def test_a_batch_larger_than_the_training_split_names_both_numbers(place):
    """Asked for it is an error; a preset's own, which nobody asked for, is the split."""
    recipe = TrainConfig(epochs=1, batch_size=13)
    with pytest.raises(UserError, match="batch_size is 13, and the training split has 12 events"):
        ensure_run(RunConfig("birds", "image", train=recipe, width=8))
    assert not list((place.home / "outputs").glob("runs/*/record.json"))
    with pytest.raises(UserError, match="batch_size is 64, and the training split has 12"):
        ensure_run(
            RunConfig("birds", "image", "text", "kd", width=8, teacher_train=TrainConfig(),
                      train=TrainConfig(epochs=1, batch_size=12))
        )  # fmt: skip
    plan = make_plan("birds", "quick")
    assert plan.train.batch_size == 12 and "batch 12," in plan.describe()


def test_a_fitting_batch_trains(place):
    """The largest that the error above allows; else it could refuse everything."""
    recipe = TrainConfig(epochs=1, batch_size=12, augment=False)
    run = ensure_run(RunConfig("birds", "image", train=recipe, width=8), device="cpu")
    assert run.record.n["train"] == 12


@pytest.mark.parametrize("text", ["soon", "nan", "inf", ""])
def test_a_deadline_is_a_time(monkeypatch, text):
    monkeypatch.setenv(stop.DEADLINE, text)
    if not text:
        assert stop.find_reason() == ""
        return
    with pytest.raises(UserError, match=f"FDLAB_DEADLINE is '{text}': expected seconds"):
        stop.find_reason()


DAMAGE = {
    "empty": ("", "is not valid JSON"),
    "cut": ('{"format": 1, "fingerpr', "is not valid JSON"),
    "a list": ("[1]", "no run record of format 1 .found list"),
    "of another format": ('{"format": 9}', "no run record of format 1 .found 9"),
    "without its fields": ('{"format": 1}', "no complete run record"),
    "with NaN": ('{"format": 1, "seconds": NaN}', "NaN is no number"),
    "nested beyond reason": ("[" * 100_000, "is not valid JSON"),
    "no text": (b"\xff\xfe\x00", "is not valid JSON"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_named(place, capsys, content, message):
    folder = place.home / "outputs" / "runs" / ("a" * 16)
    folder.mkdir(parents=True)
    path = folder / "record.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        RunRecord.read(path)
    assert "\n" not in str(error.value)
    code, output, errors = run(capsys, ["runs", "list"])
    assert code == 0 and not errors and f"{'a' * 16}  damaged: {path}" in output
    assert run(capsys, ["runs", "show", "aaaa"])[0] == 2
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"../../../secret": "0" * 64}}, "'../../../secret' leaves"),
        ({"files": {"/etc/passwd": "0" * 64}}, "'/etc/passwd' leaves"),
        ({"files": ["last.safetensors"]}, "files is .*: expected"),
        ({"fingerprint": "b" * 16}, "is the record of 'bbbbbbbbbbbbbbbb'"),
        ({"fingerprint": 3}, "fingerprint is 3: expected a text"),
        ({"curves": {"lr": ["x"]}}, "curves is"),
        ({"scores": {"validation": {"head": "raw", "epoch": 1, "accuracy": "high"}}}, "accuracy"),
        ({"seconds": "long"}, "seconds is 'long': expected a finite number"),
        ({"config": {"dataset": "birds", "student": "image", "seed": 0.5}}, "seed is 0.5"),
        ({"unknown": 1}, "unexpected keyword"),
    ],
    ids=str,
)
def test_a_record_that_says_what_cannot_be_is_named_and_never_followed(place, change, message):
    recipe = TrainConfig(epochs=1, batch_size=12, augment=False)
    run = ensure_run(RunConfig("birds", "image", train=recipe, width=8), device="cpu")
    assert find_run_damage(run.folder) is None
    path = run.folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert re.search(message, find_run_damage(run.folder))

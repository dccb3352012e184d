"""Files to stores: nothing is decoded twice, lost in silence, or dependent on how it was run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fake_files
import numpy as np
import pytest
from fake_files import CLASSES, FAKE, Options, make_rows, write_files, write_listing

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.files import checksum
from fdlab.data import DATASETS, store
from fdlab.data.dataset import Dataset, Modality
from fdlab.data.ingest import cut_validation, ingest
from fdlab.data.listing import CHUNK, Event

HERE = Path(__file__).parent
RUN = """
import sys
from pathlib import Path
from fake_files import FAKE, Options
from fdlab.core.device import peak_memory
from fdlab.data.ingest import ingest
if __name__ == "__main__":
    root, folder, delay, size, workers = sys.argv[1:]
    options = Options(float(delay), int(size))
    ingest(FAKE, Path(root), options, Path(folder), workers=int(workers))
    print(peak_memory())
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(DATASETS.places, "fake", "fake_files:FAKE")
    return tmp_path


@pytest.fixture
def root(home):
    write_files(home / "root")
    return home / "root"


def start(root: Path, folder: Path, delay=0.0, size=4, workers=1) -> subprocess.Popen:
    folder.parent.mkdir(parents=True, exist_ok=True)
    script = folder.parent / "run.py"
    script.write_text(RUN)
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    command = [sys.executable, script, root, folder, delay, size, workers]
    return subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the interrupt, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_log(root: Path) -> list[str]:
    path = root / "decoded.log"
    return path.read_text().split() if path.exists() else []


def read_files(folder: Path) -> dict[str, str]:
    return json.loads((folder / "manifest.json").read_text())["files"]


def count_noted(folder: Path) -> int:
    journal = folder.with_name(f"{folder.name}.partial") / "journal.txt"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return sum(len(json.loads(line)) for line in lines if line.endswith("]"))


@pytest.mark.parametrize(
    ("workers", "blow"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGINT)]
)
def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(root, tmp_path, workers, blow):
    folder, delay = tmp_path / "stores" / "killed", 0.02
    run = start(root, folder, delay, workers=workers)
    while count_noted(folder) < 8:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)
    run.send_signal(blow)
    run.wait()
    time.sleep(1.5)  # its workers follow it
    noted, first = count_noted(folder), read_log(root)
    assert 8 <= noted < 60 and not folder.exists()
    with (folder.with_name("killed.partial") / "journal.txt").open("a") as handle:
        handle.write("[58, 5")  # as a kill in the middle of a line leaves it
    (root / "decoded.log").unlink()
    again = start(root, folder, delay, workers=workers)
    assert again.wait(60) == 0, again.stderr.read()
    second = read_log(root)
    assert len(second) == len(set(second)) == 60 - noted
    assert len(set(first) - set(second)) == noted

    whole = tmp_path / "stores" / "whole"
    ingest(FAKE, root, Options(delay=delay), whole)
    assert read_files(folder) == read_files(whole)
    assert not folder.with_name("killed.partial").exists()


def test_rows_follow_the_listing_however_many_read_them(root, tmp_path):
    events = fake_files.list_events(root, Options()).events
    for workers in (1, 3):
        ingest(FAKE, root, Options(), tmp_path / f"by{workers}", workers=workers)
    assert read_files(tmp_path / "by1") == read_files(tmp_path / "by3")
    for name in ("first", "second"):
        found = np.load(tmp_path / "by3" / f"{name}.npy")
        wanted = [make_rows(k, 4)[name] for k in range(len(events))]
        assert found.dtype == wanted[0].dtype and np.array_equal(found, wanted)
    ids = json.loads((tmp_path / "by3" / "ids.json").read_text())
    assert ids["id"] == [event.id for event in events] and ids["half"][:3] == ["0", "1", "0"]
    assert np.array_equal(np.load(tmp_path / "by3" / "split_other.npy"), np.arange(60) % 2)

    write_listing(root, list(reversed(json.loads((root / "events.json").read_text())["events"])))
    ingest(FAKE, root, Options(), tmp_path / "turned")
    found = np.load(tmp_path / "turned" / "second.npy")
    assert np.array_equal(found, np.load(tmp_path / "by1" / "second.npy")[::-1])


def test_what_cannot_be_read_is_named_retried_and_left_out_only_if_allowed(home, root, capsys):
    for number in range(12):
        (root / f"e{2 * number:03d}.txt").write_text("bad")
    (root / "e000.txt").unlink()
    with pytest.raises(UserError, match="12 of 60 events cannot be read") as error:
        store.prepare("fake", root=root)
    told = str(error.value)
    assert "e000.txt: no such file" in told and "--allow-missing 12" in told
    report = paths.stores() / "fake.report.json"
    assert str(report) in told and len(told.splitlines()) == 1
    failed = json.loads(report.read_text())["failed"]
    assert [f["id"] for f in failed] == [f"e{2 * k:03d}" for k in range(12)]
    assert failed[1] == {"id": "e002", "file": "e002.txt", "reason": "not a number"}
    printed = capsys.readouterr().err
    assert printed.count("not a number") == 9 and "and 2 more" in printed
    assert not (paths.stores() / "fake").exists()

    (root / "decoded.log").unlink()
    for number in range(10):  # mended: two are left
        (root / f"e{2 * number:03d}.txt").write_text(str(2 * number))
    with pytest.raises(UserError, match=r"2 of 60 events.*1 may be missing"):
        store.prepare("fake", root=root, allow_missing=1)
    assert read_log(root) == [f"e{2 * k:03d}" for k in range(12)]
    made = store.prepare("fake", root=root, allow_missing=2)
    kept = [k for k in range(60) if k not in (20, 22)]
    assert made.manifest["dropped"] == ["e020", "e022"] and made.manifest["events"] == 58
    for name in ("first", "second"):
        assert np.array_equal(made.read(name), [make_rows(k, 4)[name] for k in kept])
    assert made.ids["id"] == [f"e{k:03d}" for k in kept]
    assert np.array_equal(made.labels, [k % 3 for k in kept])
    assert np.array_equal(made.read("split_other"), [k % 2 for k in kept])
    store.verify("fake")


def test_events_that_are_left_out_may_not_empty_a_class(home, root):
    for k in range(60):
        if k % 3 == 2 and k % 4 != 3:
            (root / f"e{k:03d}.txt").unlink()
    with pytest.raises(UserError, match="no training event is of class owl after"):
        store.prepare("fake", root=root, allow_missing=60)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("crash", RuntimeError, r"event 'e030': ZeroDivisionError: the decoder's own fault"),
        ("shape 3", RuntimeError, r"'e030'.*first is float32 \(3,\), promised float32 \(4,\)"),
        ("dtype 3", RuntimeError, r"'e030'.*second is int64"),
        ("name 3", RuntimeError, r"'e030'.*promised \['first', 'second'\]"),
        ("library", UserError, r"pip install"),
    ],
)
def test_a_fault_of_the_decoder_names_its_event(root, tmp_path, text, kind, message, workers):
    (root / "e030.txt").write_text(text)
    with pytest.raises(kind, match=message):
        ingest(FAKE, root, Options(), tmp_path / "store", workers=workers)
    assert count_noted(tmp_path / "store") >= CHUNK // 2  # what came before it is kept


def test_a_dead_process_is_one_line_and_the_rest_goes_on(root, tmp_path):
    (root / "e040.txt").write_text("die")
    with pytest.raises(UserError, match=r"was killed.*FDLAB_WORKERS"):
        ingest(FAKE, root, Options(), tmp_path / "store", workers=2)
    noted = count_noted(tmp_path / "store")
    (root / "decoded.log").unlink()
    (root / "e040.txt").write_text("40")
    ingest(FAKE, root, Options(), tmp_path / "store", workers=2)
    assert 0 < noted == 60 - len(read_log(root))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("options", r"other options than before \(size\)"),
        ("listing", "annotation files say something else"),
        ("version", "version 1 became 2"),
        ("array", "first.npy is not what was begun"),
        ("force", "asked to read everything again"),
        ("nothing", ""),
    ],
)
def test_unfinished_work_is_used_only_for_the_same_work(root, tmp_path, capsys, change, why):
    (root / "e059.txt").write_text("bad")
    folder, dataset, options = tmp_path / "store", FAKE, Options()
    with pytest.raises(UserError):
        ingest(dataset, root, options, folder)
    (root / "decoded.log").unlink()
    (root / "e059.txt").write_text("59")
    if change == "options":
        options = Options(size=5)
    elif change == "listing":
        events = json.loads((root / "events.json").read_text())["events"]
        write_listing(root, events[1:] + events[:1])
    elif change == "version":
        dataset = replace(FAKE, source=replace(FAKE.source, version=2))
    elif change == "array":
        os.truncate(tmp_path / "store.partial" / "arrays" / "first.npy", 200)
    ingest(dataset, root, options, folder, force=change == "force")
    told = capsys.readouterr().err
    assert len(read_log(root)) == (60 if why else 1)
    assert re.search(why, told) and ("starts again" in told) == bool(why)


def test_a_finished_store_is_found_unless_something_changed(home, root, monkeypatch):
    def decoded() -> int:
        count = len(read_log(root))
        (root / "decoded.log").unlink(missing_ok=True)
        return count

    first = store.prepare("fake", root=root)
    assert decoded() == 60
    assert store.prepare("fake", root=root).digest == first.digest and decoded() == 0
    assert store.prepare("fake", root=root, force=True).digest == first.digest and decoded() == 60
    other = store.prepare("fake", {"size": 6}, root=root)
    assert other.read("first").shape == (60, 6) and decoded() == 60
    assert other.digest != first.digest and store.prepare("fake").digest == other.digest
    with pytest.raises(UserError, match=r"prepared with size=6, and 5.*--root FOLDER -o size=5"):
        store.prepare("fake", {"size": 5})
    newer = replace(FAKE, source=replace(FAKE.source, version=2))
    monkeypatch.setattr(fake_files, "FAKE", newer)
    store._verified.clear()
    with pytest.raises(UserError, match=r"version 1, and this is version 2.*--root FOLDER"):
        store.prepare("fake")
    assert store.prepare("fake", {"size": 6}, root=root).manifest["version"] == 2


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "fake: the annotation files name no event at all"),
        ([["a", 0, 0], ["a", 1, 2]], "fake: two events have the id 'a'"),
        ([["a", 0, 0], ["b", 3, 2]], "fake: event 'b' has label 3: expected 0 to 2"),
        ([["a", 0, 0], ["b", -1, 2]], "fake: event 'b' has label -1"),
        ([["a", 0, 0], ["b", 1, 0], ["c", 2, 1]], "fake: no event is in the test split"),
        ([["a", 0, 1], ["b", 1, 2]], "fake: no event is in the train split"),
        ([["a", 0, 0], ["b", 1, 0], ["c", 0, 2]], "fake: no training event is of class owl"),
        (
            [["a", 0, 0], ["b", 1, 0], ["c", 2, 0], ["d", 2, 2]],
            "fake: there is no validation split, and no class has two",
        ),
    ],
)
def test_a_listing_without_sense_is_one_line(home, root, events, message):
    write_listing(root, events)
    with pytest.raises(UserError, match=f"^{message}") as error:
        store.prepare("fake", root=root)
    assert len(str(error.value).splitlines()) == 1
    assert not (root / "decoded.log").exists()


def test_validation_is_a_tenth_of_every_class_and_said():
    sizes = {0: 104, 1: 20, 2: 3, 3: 1}
    events = [Event(f"{k}-{i}", k, 0) for k, size in sizes.items() for i in range(size)]
    events += [Event("t", 0, 2)]
    cut, notes = cut_validation("x", events)
    held = Counter(event.label for event in cut if event.split == 1)
    assert held == {0: 10, 1: 2, 2: 1}  # and the one event of class 3 stays in train
    assert cut[-1].split == 2 and [e.id for e in cut] == [e.id for e in events]
    assert "13 of 128 training events" in notes[0]
    assert cut_validation("x", events)[0] == cut and cut_validation("x", cut) == (cut, [])


def test_the_manifest_says_what_the_data_set_is(home, root):
    expected = {"train": 45, "test": 744, "all": 60}
    events = json.loads((root / "events.json").read_text())["events"]
    (root / "bert").mkdir()
    (root / "bert" / "pytorch_model.bin").write_bytes(b"weights")
    write_listing(root, events, expected=expected, notes=["a finding"], info={"rate": 7},
                  weights={"first": "bert"})  # fmt: skip
    made = store.prepare("owls", root=root, kind="fake")
    found = made.manifest
    assert found["counts"] == {"train": 39, "validation": 6, "test": 15}
    assert found["differs"] == ["test: 15 here, 744 in the paper"]
    assert found["notes"][0] == "a finding" and "no validation split" in found["notes"][1]
    assert "half: 2 values" in found["notes"][2]
    assert (found["name"], found["kind"], found["options"]["size"]) == ("owls", "fake", 4)
    assert found["modalities"]["second"] == {
        "dtype": "uint8", "shape": [2, 3], "network": "resnet18", "augment": "shift", "frames": 0
    }  # fmt: skip
    for name, value in found["files"].items():
        path = made.folder / name
        assert checksum(path) == value and path.stat().st_size == found["sizes"][name]
    assert set(found["files"]) | {"manifest.json"} == {p.name for p in made.folder.iterdir()}
    assert made.find_weights("first").read_bytes() == b"weights"
    assert made.find_weights("second") is None and made.classes == CLASSES and made.info == {
        "rate": 7
    }  # fmt: skip
    dataset = store.find_dataset("owls")
    assert dataset == made.dataset and dataset.name == "owls" and dataset.classes == 3
    assert dataset.modalities["second"] == Modality("resnet18", "shift")
    assert dataset.directions == ("first2second",) and dataset.labels == 3
    assert store.list_prepared() == ["owls"] and "owls" in store.list_datasets()
    with pytest.raises(UserError, match=r"did you mean 'owls'.*digits.*owls"):
        store.find_dataset("owl")


def test_weights_that_are_missing_are_named_before_anything_is_read(home, root):
    events = json.loads((root / "events.json").read_text())["events"]
    (root / "empty").mkdir()
    for place, message in (
        ("nowhere", "nowhere: no such"),
        ("empty", "expected model.safetensors"),
    ):
        write_listing(root, events, weights={"first": place})
        with pytest.raises(UserError, match=message):
            store.prepare("fake", root=root)
    assert not (root / "decoded.log").exists()


def test_a_data_set_of_files_asks_for_them(home, root):
    for use in (store.prepare, store.verify, store.find_dataset):
        with pytest.raises(UserError, match=r"fake is not prepared yet: .*prepare fake --root FO"):
            use("fake")
    assert store.find_store("fake") is None and store.find_dataset("fake", prepared=False) == FAKE
    assert store.find_dataset("gone", prepared=False).reports == ""
    for name, kind, message in (
        ("digits", "", "digits is made here"),
        ("digits", "fake", "digits is a data set of its own"),
        ("a-b", "fake", "no name for a data set"),
        ("b", "", "unknown data set"),
    ):
        with pytest.raises(UserError, match=message):
            store.prepare(name, root=root, kind=kind)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        store.prepare("fake", root=root / "nowhere")


@pytest.mark.parametrize("name", ["fake", "planted"])
def test_damage_is_found_to_the_byte_and_to_the_row(home, root, name):
    made = store.prepare(name, root=root if name == "fake" else None)
    second, manifest = made.folder / "second.npy", made.folder / "manifest.json"
    content, said = second.read_bytes(), manifest.read_text()
    second.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"second\.npy does not match its checksum: run `fdlab"):
        store.verify(name)
    second.write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"second\.npy does not match its checksum"):
        store.verify(name)
    if name == "fake":  # noticed on opening already
        store._verified.clear()
        with pytest.raises(UserError, match=r"second\.npy has .* bytes, its manifest says"):
            store.prepare(name)
    second.unlink()
    with pytest.raises(UserError, match=r"second\.npy is missing"):
        store.verify(name)
    # An array of one row less, under its own checksum
    np.save(second, np.load(made.folder / "split.npy")[:-1])
    changed = json.loads(said)
    changed["files"]["second.npy"] = checksum(second)
    manifest.write_text(json.dumps(changed))
    rows = changed["events"]
    with pytest.raises(UserError, match=f"second.npy has {rows - 1} rows, the manifest {rows}"):
        store.verify(name)
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is (damaged|not valid)"):
        store.verify(name)
    second.write_bytes(content)
    manifest.write_text(said)
    store.verify(name)


def test_a_damaged_store_is_read_again_from_its_root(home, root, capsys):
    made = store.prepare("fake", root=root)
    digest = made.digest
    (made.folder / "first.npy").write_bytes(b"cut")
    assert store.prepare("fake", root=root).digest == digest
    assert "first.npy does not match" in capsys.readouterr().err
    store.verify("fake")


@pytest.mark.parametrize("open_again", [store.prepare, store.verify, store.find_dataset])
def test_a_store_whose_replacement_was_killed_is_back(home, root, capsys, open_again):
    folder = store.prepare("fake", root=root).folder
    files = read_files(folder)
    folder.rename(folder.with_name(".fake.0123abcd.old"))  # what a kill between two renames leaves
    store._verified.clear()
    open_again("fake")
    assert "it is back as it was" in capsys.readouterr().err
    assert read_files(folder) == files and store.verify("fake").folder == folder
    (root / "decoded.log").unlink()
    folder.rename(folder.with_name(".fake.0123abcd.old"))
    store.prepare("fake", root=root)
    assert read_log(root) == []  # nothing was read again


def test_one_entry_may_read_the_store_of_another(home, root, monkeypatch):
    other = replace(DATASETS["planted"], name="half", store="planted",
                    modalities={"first": Modality("")})  # fmt: skip
    monkeypatch.setattr(fake_files, "HALF", other, raising=False)
    monkeypatch.setitem(DATASETS.places, "half", "fake_files:HALF")
    options = {"events": 40, "dim": 8}
    first, second = (store.prepare(name, options) for name in ("planted", "half"))
    assert first.folder == second.folder and first.digest == second.digest
    assert first.dataset.name == "planted" and second.dataset == other
    assert store.find_store("half", options).dataset == other == store.find_dataset("half")

    reader = Dataset("reader", "", 3, {"first": Modality("")}, Options, (), store="fake")
    monkeypatch.setattr(fake_files, "READER", reader, raising=False)
    monkeypatch.setitem(DATASETS.places, "reader", "fake_files:READER")
    with pytest.raises(UserError, match=r"reader is not prepared yet: .*prepare fake --root"):
        store.prepare("reader")
    with pytest.raises(UserError, match="reader reads the store of fake"):
        store.prepare("reader", root=root)
    made = store.prepare("fake", root=root)
    assert store.prepare("reader").folder == made.folder
    assert store.prepare("reader").dataset == reader and made.dataset.name == "fake"


def test_memory_does_not_grow_with_the_number_of_events(home):
    peaks = []
    for count in (40, 160):
        root = home / f"root{count}"
        write_files(root, count)
        run = start(root, home / "flat" / f"s{count}", size=200_000)  # 0.8 MB a row
        out, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        peaks.append(int(out))
        assert (home / "flat" / f"s{count}" / "first.npy").stat().st_size > count * 800_000
    assert peaks[1] - peaks[0] < 8e6  # 96 MB more were written


def test_a_disk_that_is_too_small_is_said_at_once(home, root, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("fdlab.data.ingest.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(UserError, match=r"fake needs 0\.0 GB more below"):
        store.prepare("fake", {"size": 100_000}, root=root)
    assert not (root / "decoded.log").exists()


def test_the_command_line_prepares_lists_and_verifies(home, root, capsys, monkeypatch):
    from fdlab.cli import main

    monkeypatch.setenv("FDLAB_WORKERS", "1")

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["data", *words])
        return code, *capsys.readouterr()

    events = json.loads((root / "events.json").read_text())["events"]
    write_listing(root, events, expected={"train": 45, "test": 744})
    (root / "e003.txt").unlink()
    ask = ["prepare", "fake", "--root", str(root), "--as", "owls"]
    code, _, errors = run(*ask)
    assert code == 2 and errors.strip().splitlines()[-1].startswith("fdlab: error: owls: 1 of 60")
    assert run("prepare", "owls")[0] == 2 and run("verify", "owls")[0] == 2
    assert run(*ask, "--allow-missing", "-1")[0] == 2
    code, _, errors = run(*ask, "-o", "first_network=resnet81")
    assert code == 2 and "unknown model 'resnet81': did you mean" in errors
    code, out, _ = run(*ask, "--allow-missing", "1")
    assert code == 0 and "1 event could not be read and is left out: e003" in out
    assert "counts differ: test: 14 here, 744 in the paper" in out
    assert "39 train, 6 validation, 14 test" in out and str(paths.stores() / "owls") in out
    assert run("prepare", "owls", "--root", str(root))[0] == 0  # its kind is known by now
    assert "match" in run("verify", "owls")[1]
    code, out, _ = run("list")
    assert code == 0 and "fdlab data prepare fake --root FOLDER" in out
    assert f"MB at {paths.stores() / 'owls'}" in out and "3 classes" in out
    (paths.stores() / "owls" / "first.npy").write_bytes(b"")
    code, _, errors = run("verify", "owls")
    assert code == 2 and "prepare owls --root FOLDER --force" in errors
    store._verified.clear()
    code, out, _ = run("list")
    assert code == 0 and "first.npy has 0 bytes" in out

"""Results in one file: what goes in comes out elsewhere, and a hostile archive changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fdlab.cli import main
from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError
from fdlab.core.files import checksums
from fdlab.core.locks import holding
from fdlab.core.records import RunRecord, Score
from fdlab.execute import archive as archives
from fdlab.execute.archive import export, unpack
from fdlab.training.runs import clean_runs, list_runs, open_run

TEACHER, STUDENT, OTHER = "0" * 15 + "a", "0" * 15 + "b", "c" * 16
MOMENTS = ("last", "predictions", "validation")


def write_run(home: Path, name: str, teacher: str | None = None, value: float = 0.5) -> Path:
    """A finished run that nobody trained: a record and the files that every run has."""
    folder = home / "outputs" / "runs" / name
    folder.mkdir(parents=True)
    for moment in MOMENTS:
        save_file({"x": np.full(3, value, np.float32)}, folder / f"{moment}.safetensors")
    RunRecord(
        fingerprint=name,
        config=RunConfig("digits", "image"),
        data="d" * 16,
        teacher=teacher,
        curves={"lr": [0.1]},
        scores={"validation": Score("raw", 1, value)},
        n={"test": 10},
        parameters={"student": 3},
        seconds=1.0,
        peak_bytes=1,
        device="a machine",
        versions={"python": "3"},
        finished="2026-01-01T00:00:00+00:00",
        files=checksums(folder, [f"{moment}.safetensors" for moment in MOMENTS]),
    ).write(folder / "record.json")
    return folder


def write_suite(home: Path, name: str = "digits-quick") -> Path:
    folder = home / "outputs" / name
    texts = {
        "report.html": "<p>report</p>",
        "notebooks/02_similarity.ipynb": "{}",
        "notebooks/02_similarity.html": "<p>executed</p>",
        "results/similarity.json": '{"dataset": "digits"}',
        "figures/similarity-cosine.png": "no picture",
        "figures/similarity-cosine.pdf": "no page",
        "tables/similarity-cosine.csv": "a,b\n" * 4000,
        "tables/similarity-cosine.tex": "x",
        "done/02_similarity.json": "{}",
        "notebooks/.hidden.ipynb": "left out",
        "results/weights.pkl": "left out",
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Three runs, one of them another's teacher, and a suite."""
    home = tmp_path / "here"
    monkeypatch.setenv("FDLAB_HOME", str(home))
    write_run(home, TEACHER)
    write_run(home, STUDENT, TEACHER, 0.75)
    write_run(home, OTHER)
    write_suite(home)
    return home


@pytest.fixture
def there(tmp_path, monkeypatch, home):
    """Another machine, from which `home` is not seen."""

    def move() -> Path:
        monkeypatch.setenv("FDLAB_HOME", str(tmp_path / "there"))
        return tmp_path / "there"

    return move


def list_files(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_runs_with_weights_are_finished_elsewhere_and_their_teacher_with_them(
    home, there, tmp_path, capsys
):
    archive = tmp_path / "a.zip"
    assert main(["runs", "export", str(archive), STUDENT[:16], "--weights"]) == 0
    before = list_files(home / "outputs" / "runs")
    other = there()
    assert main(["runs", "import", str(archive)]) == 0
    assert "2 runs put into" in capsys.readouterr().out
    found = list_files(other)
    wanted = {f"outputs/runs/{k}": v for k, v in before.items() if OTHER not in k}
    assert found == wanted and len(wanted) == 8
    run = open_run(other / "outputs" / "runs" / STUDENT)
    assert run.record.teacher == TEACHER and run.predictions["x"].tolist() == [0.75] * 3
    assert [damage for _, _, damage in list_runs()] == [None, None]
    assert main(["runs", "import", str(archive)]) == 0
    assert "0 runs put" in (said := capsys.readouterr().out) and "2 were there already" in said
    assert list_files(other) == found


def test_a_suite_and_bare_records_have_a_folder_of_their_own(home, there, tmp_path):
    archive = tmp_path / "a.zip"
    packed = export(archive, [STUDENT], "digits-quick")
    assert packed.runs == [TEACHER, STUDENT] and not packed.weights
    suite, runs = (list_files(home / "outputs" / name) for name in ("digits-quick", "runs"))
    other = there()
    found = unpack(archive)
    assert not list((other / "outputs" / "runs").glob("[0-9a-f]*"))
    assert found.folder == other / "outputs" / "imported" / "digits-quick" and not found.put
    wanted = {k: v for k, v in suite.items() if "hidden" not in k and "pkl" not in k}
    wanted |= {f"runs/{r}/record.json": runs[f"{r}/record.json"] for r in (TEACHER, STUDENT)}
    assert list_files(found.folder) == wanted
    assert unpack(archive).folder == found.folder  # the same again is no quarrel
    (found.folder / "report.html").write_text("mine")
    with pytest.raises(UserError, match=r"report.html does not match.*--as"):
        unpack(archive)
    assert (found.folder / "report.html").read_text() == "mine"
    assert unpack(archive, "second").folder.name == "second"


def test_every_finished_run_is_the_default_and_a_damaged_one_is_named(home, tmp_path):
    (home / "outputs" / "runs" / OTHER / "last.safetensors").write_bytes(b"cut")
    packed = export(tmp_path / "a.zip")
    assert packed.runs == [TEACHER, STUDENT]
    assert len(packed.notes) == 1 and OTHER in packed.notes[0]
    with pytest.raises(UserError, match=r"last.safetensors does not match"):
        export(tmp_path / "b.zip", [OTHER])
    assert not (tmp_path / "b.zip").exists()


def test_the_bytes_follow_from_the_content_and_nothing_in_it_is_a_pickle(home, tmp_path):
    export(tmp_path / "a.zip", suite="digits-quick")
    again = tmp_path / "elsewhere"
    shutil.copytree(home / "outputs", again / "outputs")  # other times, other places
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(again))
        export(tmp_path / "b.zip", suite="digits-quick")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        names = file.namelist()
        manifest = json.loads(file.read("manifest.json"))
        assert names[0] == "manifest.json" and names[1:] == sorted(names[1:])
        assert {entry["name"] for entry in manifest["members"]} == set(names[1:])
        for entry in manifest["members"]:
            content = file.read(entry["name"])
            assert len(content) == entry["bytes"]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]


def test_an_archive_is_whole_or_as_it_was(home, tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"earlier")
    plain = archives._copy

    def fail(file, entry, path):
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device", str(archive))
        plain(file, entry, path)

    monkeypatch.setattr(archives, "_copy", fail)
    assert main(["runs", "export", str(archive), "--weights"]) == 2
    assert archive.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "here"]


def test_a_run_with_another_outcome_is_named_and_kept(home, there, tmp_path, capsys):
    archive = tmp_path / "a.zip"
    export(archive, [STUDENT], weights=True)
    other = there()
    write_run(other, STUDENT, value=0.25)
    before = list_files(other)
    assert main(["runs", "import", str(archive)]) == 0
    said = capsys.readouterr().out
    assert STUDENT in said and "25.0 %" in said and "75.0 %" in said and "stay" in said
    after = list_files(other)
    assert {k: after[k] for k in before} == before
    assert open_run(other / "outputs" / "runs" / TEACHER) is not None


def test_a_damaged_run_here_makes_room_for_the_whole_one(home, there, tmp_path):
    export(tmp_path / "a.zip", [OTHER], weights=True)
    folder = write_run(there(), OTHER)
    (folder / "last.safetensors").write_bytes(b"cut")
    assert unpack(tmp_path / "a.zip").put == [OTHER]
    assert open_run(folder) is not None


def test_a_disk_that_fills_up_leaves_nothing(home, there, tmp_path, monkeypatch):
    export(tmp_path / "a.zip", suite="digits-quick", weights=True, fingerprints=[STUDENT])
    other, plain = there(), archives._Staged.write

    def fail(self, member, path):
        if member.endswith("report.html"):  # the runs are on the disk by then
            raise OSError(28, "No space left on device", str(path))
        plain(self, member, path)

    monkeypatch.setattr(archives._Staged, "write", fail)
    assert main(["runs", "import", str(tmp_path / "a.zip")]) == 2
    assert list_files(other) == {}
    assert not [p for p in other.rglob("*") if p.is_dir() and p.name not in
                ("outputs", "runs", "imported")]  # fmt: skip


def test_a_run_that_is_being_trained_here_stays(home, there, tmp_path, capsys):
    export(tmp_path / "a.zip", [STUDENT], weights=True)
    folder = there() / "outputs" / "runs" / STUDENT
    with holding(folder, "a run"):
        assert main(["runs", "import", str(tmp_path / "a.zip")]) == 0
    said = capsys.readouterr().out
    assert f"run {STUDENT} is being trained here and stays: process {os.getpid()}" in said
    assert "1 runs put" in said and not folder.exists()
    assert unpack(tmp_path / "a.zip").put == [STUDENT]


def test_cleaning_and_another_import_leave_one_at_work_alone(home, there, tmp_path, monkeypatch):
    export(tmp_path / "a.zip", weights=True)
    other, plain, seen = there(), archives._put_run, []

    def interfere(source, folder, record):
        seen.append(source.parent)
        assert clean_runs() == [] == [p for p in clean_runs(everything=True) if p in seen]
        with pytest.raises(UserError, match=rf"another import is at work.*{os.getpid()}"):
            unpack(tmp_path / "a.zip")
        return plain(source, folder, record)

    monkeypatch.setattr(archives, "_put_run", interfere)
    assert unpack(tmp_path / "a.zip").put == [TEACHER, STUDENT, OTHER]
    assert len(seen) == 3 and open_run(other / "outputs" / "runs" / OTHER) is not None
    (left := other / "outputs" / "runs" / ".import.killed").mkdir()
    assert clean_runs() == [left]


def test_a_staged_run_that_lost_a_file_is_not_put(home, there, tmp_path, monkeypatch):
    export(tmp_path / "a.zip", [OTHER], weights=True)
    other, plain = there(), archives._put_run

    def lose(source, folder, record):
        (source / "last.safetensors").unlink()
        return plain(source, folder, record)

    monkeypatch.setattr(archives, "_put_run", lose)
    found = unpack(tmp_path / "a.zip")
    assert found.kept == [OTHER] and not found.put and "import again" in found.notes[0]
    assert list_files(other) == {}


def test_a_name_is_asked_of_those_alone_who_need_a_folder(home, there, tmp_path):
    bare, whole = tmp_path / "bare (1).zip", tmp_path / "results (1).zip"
    export(whole, [OTHER], weights=True)
    export(bare, [OTHER])
    there()
    assert unpack(whole).put == [OTHER]
    with pytest.raises(UserError, match=r"'bare \(1\)' is no name for a folder.*--as"):
        unpack(bare)
    assert unpack(bare, "bare").folder.name == "bare"


# ---- hostile archives: each is the good one with one thing changed

RECORD = f"runs/{STUDENT}/record.json"
LAST = f"runs/{STUDENT}/last.safetensors"


class Forge:
    """An archive's members and manifest in memory, to be changed and written."""

    def __init__(self, path: Path):
        with zipfile.ZipFile(path) as file:
            self.members = [(info.filename, file.read(info)) for info in file.infolist()]
        self.manifest = json.loads(self.members.pop(0)[1])
        self.mode: dict[str, int] = {}
        self.sealed = True

    def put(self, name: str, content: bytes, listed: bool = True) -> None:
        """A member, new or in the place of that of its name, which the manifest vouches for."""
        self.members = [m for m in self.members if m[0] != name] + [(name, content)]
        entries = [e for e in self.manifest["members"] if e["name"] != name]
        sha = hashlib.sha256(content).hexdigest()
        mine = {"name": name, "bytes": len(content), "sha256": sha}
        self.manifest["members"] = [*entries, mine] if listed else entries

    def drop(self, name: str, unlist: bool = True) -> None:
        self.members = [m for m in self.members if m[0] != name]
        if unlist:
            self.manifest["members"] = [e for e in self.manifest["members"] if e["name"] != name]

    def edit_record(self, **changes) -> None:
        record = json.loads(dict(self.members)[RECORD]) | changes
        self.put(RECORD, json.dumps(record).encode())

    def entry(self, name: str) -> dict:
        return next(e for e in self.manifest["members"] if e["name"] == name)

    def write(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            if self.sealed:
                file.writestr("manifest.json", json.dumps(self.manifest))
            for name, content in self.members:
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = self.mode.get(name, stat.S_IFREG | 0o644) << 16
                file.writestr(info, content)


def link(forge: Forge) -> None:
    forge.put(LAST, b"/etc/passwd")
    forge.mode[LAST] = stat.S_IFLNK | 0o777


def flip(forge: Forge) -> None:
    content = bytearray(dict(forge.members)[LAST])
    content[-1] ^= 1
    forge.members = [m for m in forge.members if m[0] != LAST] + [(LAST, bytes(content))]


HOSTILE = {
    "no manifest": (lambda f: setattr(f, "sealed", False), "holds no manifest.json"),
    "another format": (lambda f: f.manifest.update(format=2), "format is 2, expected 1"),
    "a manifest that is a list": (lambda f: setattr(f, "manifest", []), "format is None"),
    "members that are no list": (lambda f: f.manifest.update(members={}), "list of members"),
    "a size that is a text": (
        lambda f: f.entry(LAST).update(bytes="9"),
        "expected name, bytes and sha256",
    ),
    "a suite that is a path": (
        lambda f: f.manifest.update(suite="../../x"),
        "no name for a folder",
    ),
    "up and out": (lambda f: f.put("suite/../../../x.html", b"x"), "leaves the folder"),
    "absolute": (lambda f: f.put("/tmp/fdlab-hostile.html", b"x"), "leaves the folder"),
    "a drive": (lambda f: f.put("C:/x.html", b"x"), "leaves the folder"),
    "a backslash": (lambda f: f.put("suite\\..\\x.html", b"x"), "leaves the folder"),
    "a line end": (lambda f: f.put("suite/a\nb.html", b"x"), r"a\\nb.html"),
    "a folder as a member": (lambda f: f.put("suite/results/", b""), "other signs"),
    "markup in a name": (
        lambda f: f.put("suite/figures/similarity-<b>.png", b"x"),
        "other signs",
    ),
    "a link": (link, "it is a link"),
    "a name twice": (
        lambda f: f.members.append((LAST, b"other")),
        "stands there as .* too",
    ),
    "two names but for their case": (
        lambda f: f.put("suite/Report.html", b"x"),
        "upper and lower case",
    ),
    "not listed": (lambda f: f.put("suite/more.html", b"x", listed=False), "does not list it"),
    "listed and not there": (lambda f: f.drop(LAST, unlist=False), "it is not there"),
    "listed twice": (
        lambda f: f.manifest["members"].append(f.entry(LAST)),
        "lists it twice",
    ),
    "a path outside that is only listed": (
        lambda f: f.manifest["members"].append({"name": "../x", "bytes": 1, "sha256": "0"}),
        "leaves the folder",
    ),
    "a pickle": (lambda f: f.put(f"runs/{STUDENT}/last.pt", b"x"), "no .pt belongs there"),
    "a program": (lambda f: f.put("suite/notebooks/run.py", b"x"), "no .py belongs there"),
    "a file beside": (lambda f: f.put("README.html", b"x"), "no .html belongs there"),
    "a folder that runs have not": (
        lambda f: f.put("runs/../../x/last.safetensors", b"x"),
        "leaves the folder",
    ),
    "no fingerprint": (lambda f: f.put("runs/x/record.json", b"{}"), "x is no fingerprint"),
    "another size": (lambda f: f.entry(LAST).update(bytes=9), "the manifest says 9"),
    "another checksum": (lambda f: f.entry(LAST).update(sha256="0" * 64), "its checksum"),
    "a flipped bit": (flip, "its checksum"),
    "a bomb": (lambda f: f.put("suite/big.html", bytes(1 << 24)), "would become 16777216"),
    "no record": (lambda f: f.drop(RECORD), "it is not there, but its run is"),
    "a run without its weights": (lambda f: f.drop(LAST), "missing from its run"),
    "weights other than the record's": (lambda f: f.put(LAST, b"x"), "record says otherwise"),
    "more weights than the record's": (
        lambda f: f.put(f"runs/{STUDENT}/probes.safetensors", b"x"),
        "record says otherwise",
    ),
    "a record of another run": (
        lambda f: f.edit_record(fingerprint=OTHER),
        "the record of 'cccccccccccccccc'",
    ),
    "a record that is no record": (lambda f: f.put(RECORD, b"{}"), "no run record of format 1"),
    "a record with a wrong type": (lambda f: f.edit_record(curves=3), "curves is 3"),
    "a record whose files lie elsewhere": (
        lambda f: f.edit_record(files={"../../../x": "0" * 64}),
        "missing from its run|says otherwise",
    ),
    "a record with NaN": (lambda f: f.edit_record(seconds=float("nan")), "no valid JSON|not valid"),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_one_line_and_leaves_nothing(
    home, there, tmp_path, capsys, change, reason
):
    good, bad = tmp_path / "good.zip", tmp_path / "bad.zip"
    export(good, [STUDENT], "digits-quick", weights=True)
    forge = Forge(good)
    change(forge)
    with pytest.warns(UserWarning) if reason.startswith("stands") else nothing():
        forge.write(bad)
    other = there()
    other.mkdir()
    capsys.readouterr()
    assert main(["runs", "import", str(bad)]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1 and not captured.out
    with pytest.raises(UserError, match=reason) as error:
        unpack(bad)
    assert "bad.zip" in str(error.value) or "no name" in reason
    assert list(other.rglob("*")) == []
    outside = {"good.zip", "bad.zip", "here", "there"}
    assert {path.name for path in tmp_path.iterdir()} == outside


def nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_the_unchanged_forgery_passes(home, there, tmp_path):
    """Else every case above could fail for the same wrong reason."""
    export(tmp_path / "good.zip", [STUDENT], "digits-quick", weights=True)
    Forge(tmp_path / "good.zip").write(tmp_path / "same.zip")
    there()
    assert unpack(tmp_path / "same.zip").put == [TEACHER, STUDENT]


def test_a_member_that_unpacks_to_more_than_it_declares_is_cut_off(home, there, tmp_path):
    """Its size is lowered in the manifest and in both of the format's headers; the packed bytes
    are what they were."""
    export(tmp_path / "a.zip", [STUDENT])
    forge = Forge(tmp_path / "a.zip")
    content = dict(forge.members)[RECORD]
    short = content[:-5]
    forge.entry(RECORD).update(bytes=len(short), sha256=hashlib.sha256(short).hexdigest())
    forge.write(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as file:
        local, central = file.getinfo(RECORD).header_offset, file.start_dir
    written = bytearray((tmp_path / "b.zip").read_bytes())
    for place in (local + 22, written.index(RECORD.encode(), central) - 46 + 24):
        assert written[place : place + 4] == len(content).to_bytes(4, "little")
        written[place : place + 4] = len(short).to_bytes(4, "little")
    (tmp_path / "b.zip").write_bytes(written)
    other = there()
    with pytest.raises(UserError, match=r"record.json': it is damaged"):
        unpack(tmp_path / "b.zip")
    assert not other.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_archive_is_named(home, there, tmp_path, share):
    export(tmp_path / "a.zip", weights=True)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: int(share * len(content))])
    other = there()
    with pytest.raises(UserError, match=r"b.zip is damaged, or no .zip archive"):
        unpack(tmp_path / "b.zip")
    assert not other.exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"archive": "a.tar"}, "ends in .zip"),
        ({"fingerprints": ["zz"]}, "0 finished runs start with 'zz'"),
        ({"fingerprints": ["0"]}, "2 finished runs start with '0'"),
        ({"fingerprints": [""]}, "expected exactly one"),
        ({"suite": "../here"}, "no suite's folder"),
        ({"suite": "runs"}, "expected one of digits-quick"),
    ],
)
def test_what_cannot_be_exported_is_said(home, tmp_path, asked, message):
    archive = tmp_path / asked.get("archive", "a.zip")
    with pytest.raises(UserError, match=message):
        export(archive, asked.get("fingerprints"), asked.get("suite", ""))
    assert not archive.exists()


def test_a_link_out_of_a_run_is_not_packed(home, tmp_path):
    folder = home / "outputs" / "runs" / OTHER
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    record = RunRecord.read(folder / "record.json")
    (folder / "last.safetensors").unlink()
    (folder / "last.safetensors").symlink_to(secret)
    replace(record, files=checksums(folder, sorted(record.files))).write(folder / "record.json")
    with pytest.raises(UserError, match="is a link out of"):
        export(tmp_path / "a.zip", [OTHER], weights=True)

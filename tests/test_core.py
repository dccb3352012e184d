"""Fingerprints, files, configurations, progress: what every other layer stands on."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fdlab.core import fingerprint, paths
from fdlab.core.config import PRESETS, Preset, TrainConfig, resolve_options, same_type
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import (
    checksums,
    find_damage,
    put_folder,
    read_json,
    replace_folder,
    restore_folder,
    write_json,
)
from fdlab.core.progress import VARIABLE, listen, track
from fdlab.core.seeding import derive_seed
from fdlab.core.source import parse
from fdlab.methods.fdcmkd import FDCMKD


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a table in its own file and two modules, one of which imports the other."""
    folder = tmp_path / "toylab"
    folder.mkdir()
    (folder / "__init__.py").write_text('TABLE = {"a": "toylab.a:A"}\n')
    (folder / "a.py").write_text("from toylab import TABLE\nfrom toylab.b import f\n")
    (folder / "b.py").write_text('def f(x):\n    """Doc."""\n    return x + 1  # why\n')
    (folder / "c.py").write_text("C = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def measure() -> str:
        importlib.invalidate_caches()
        fingerprint._read_module.cache_clear()
        return fingerprint.code_digest(["toylab.a"], inside=["toylab"])

    yield folder, measure
    for name in [n for n in sys.modules if n.startswith("toylab")]:
        del sys.modules[name]


def test_code_counts_and_words_about_it_do_not(package):
    folder, measure = package
    before = measure()
    (folder / "b.py").write_text('def f(x):\n    """Another."""\n\n    return x + 1\n')
    assert measure() == before
    (folder / "b.py").write_text("def f(x):\n    return x + 2\n")
    assert measure() != before


def test_a_new_entry_in_a_table_touches_no_result(package):
    folder, measure = package
    before = measure()
    (folder / "__init__.py").write_text('TABLE = {"a": "toylab.a:A", "c": "toylab.c:C"}\n')
    (folder / "c.py").write_text("C = 2\n")
    assert measure() == before


def test_digests_are_of_content():
    assert fingerprint.digest({"a": 1, "b": (1, 2)}) == fingerprint.digest({"b": [1, 2], "a": 1})
    assert fingerprint.digest(TrainConfig()) != fingerprint.digest(TrainConfig(epochs=99))


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "run"
    with replace_folder(target) as beside:
        (beside / "x").write_text("old")
    with pytest.raises(RuntimeError), replace_folder(target) as beside:
        (beside / "x").write_text("new")
        raise RuntimeError
    assert (target / "x").read_text() == "old"
    with replace_folder(target) as beside:
        (beside / "y").write_text("new")
    assert [path.name for path in target.iterdir()] == ["y"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class Killed(BaseException):
    """As a kill: nothing is tidied up after it."""


def test_a_folder_is_on_the_disk_before_it_has_its_name_and_a_kill_between_loses_none(
    tmp_path, monkeypatch
):
    target, source = tmp_path / "run.a", tmp_path / "new"
    for folder, text in ((target, "old"), (source, "new"), (source / "below", "new")):
        folder.mkdir()
        (folder / "x").write_text(text)
    wanted = {p.stat().st_ino for p in (source / "x", source / "below" / "x", source)}
    flushed, flush, rename = set(), os.fsync, Path.rename

    def note(handle):
        flushed.add(os.fstat(handle).st_ino)
        flush(handle)

    def die(path, to):
        if path == source:
            assert flushed >= wanted
            raise Killed
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(Killed):
        put_folder(source, target)
    monkeypatch.undo()
    assert not target.exists()
    assert not restore_folder(tmp_path / "run")  # whose name begins alike
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(restore_folder, [target] * 4)) == [False] * 3 + [True]
    assert (target / "x").read_text() == "old"
    put_folder(source, target)
    assert (target / "x").read_text() == "new" and not restore_folder(target)
    assert [path.name for path in tmp_path.iterdir()] == ["run.a"]
    with pytest.raises(FileNotFoundError):
        put_folder(tmp_path / "nothing", target)
    assert (target / "x").read_text() == "new"


def test_putting_and_restoring_at_once_loses_nothing(tmp_path):
    target = tmp_path / "run"
    with replace_folder(target) as beside:
        (beside / "x").write_text("0")
    with ThreadPoolExecutor(3) as pool:
        over = False
        watch = [pool.submit(lambda: [restore_folder(target) for _ in iter(lambda: over, True)])
                 for _ in range(2)]  # fmt: skip
        try:
            for number in range(1, 100):
                with replace_folder(target) as beside:
                    (beside / "x").write_text(str(number))
                assert (target / "x").read_text() == str(number)
        finally:
            over = True
        for one in watch:
            one.result(60)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_damage_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    sums = checksums(tmp_path, ["a.json"])
    assert find_damage(tmp_path, sums) is None
    (tmp_path / "a.json").write_text("{}")
    assert "a.json does not match" in find_damage(tmp_path, sums)
    (tmp_path / "a.json").unlink()
    assert "a.json is missing" in find_damage(tmp_path, sums)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_an_unknown_name_is_answered_with_the_nearest():
    assert str(name_unknown("method", "fdckmd", ["kd", "fdcmkd"])) == (
        "unknown method 'fdckmd': did you mean 'fdcmkd'? Choices: kd, fdcmkd"
    )


@pytest.mark.parametrize(
    ("value", "expected", "fits"),
    [
        (1, 0.5, True),
        (True, 1, False),
        (1, True, False),
        ("1", 1, False),
        ([1, 2], [0], True),
        (["a"], [0], False),
        ([], [0], True),
        (1.5, 1, False),
    ],
)
def test_types_fit_as_a_reader_expects(value, expected, fits):
    assert same_type(value, expected) is fits


def test_options_are_filled_in_and_a_whole_number_serves_as_a_float():
    found = resolve_options("fdcmkd", FDCMKD.Options, {"low_weight": 2})
    assert found["low_weight"] == 2.0 and isinstance(found["low_weight"], float)
    assert found["cutoff"] == 0.5


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"momentum": 1.0},
     {"weight_decay": -1.0}],
)  # fmt: skip
def test_a_recipe_outside_its_range_is_refused_by_name(change):
    with pytest.raises(UserError, match=next(iter(change))):
        TrainConfig(**change)


def test_presets_grow_and_the_paper_preset_is_the_papers_recipe():
    assert [PRESETS[n].width for n in ("smoke", "quick", "reduced", "paper")] == [8, 16, 32, 64]
    paper: Preset = PRESETS["paper"]
    assert paper.train == TrainConfig(epochs=100, batch_size=64, learning_rate=0.01, momentum=0.9)
    for name in ("reduced", "paper"):  # an exact two-sided paired test needs six for p < 0.05
        assert len(PRESETS[name].seeds) >= 6


def test_seeds_for_two_purposes_differ():
    seeds = {derive_seed(s, what, side) for s in (0, 1) for what in "ab" for side in ("x", "y")}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)


def test_the_root_is_found_from_below_and_exploring_has_a_folder_of_its_own(tmp_path, monkeypatch):
    for name in ("notebooks", "fdlab"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv("FDLAB_HOME")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert paths.root() == tmp_path.resolve()
    assert paths.save_folder("d", "p") != paths.suite_folder("d", "p")
    monkeypatch.setenv(paths.SUITE, str(tmp_path / "suite"))
    assert paths.save_folder("d", "p") == paths.suite_folder("d", "p") == tmp_path / "suite"


def test_progress_of_another_process_arrives(monkeypatch, capsys):
    with listen() as path:
        monkeypatch.setenv(VARIABLE, path)
        with track("work", 3) as report:
            report(2, "now")
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert [line["done"] for line in lines] == [0, 2, 3]
    assert lines[1]["note"] == "now" and lines[-1]["ended"]
    monkeypatch.setenv(VARIABLE, "/nonexistent/folder/events")
    with track("work", 1) as report:  # the listener is gone; the work goes on
        report(1)


def test_source_is_parsed_by_one_thread_at_a_time(monkeypatch):
    """Two at once end in a SystemError under CPython 3.11, now and then."""
    at_work, most = [], []
    plain = ast.parse

    def watch(source):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        try:
            return plain(source)
        finally:
            at_work.pop()

    monkeypatch.setattr(ast, "parse", watch)
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(parse, ["a = 1"] * 8))
    assert [len(tree.body) for tree in trees] == [1] * 8
    assert max(most) == 1

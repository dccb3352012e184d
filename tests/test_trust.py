"""What comes from elsewhere is data: never run, never followed out of its folder, never markup."""

from __future__ import annotations

import ast
import csv
import html.parser
import json
import pickle
import re
import zlib
from base64 import b64encode
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from fdlab.core import paths
from fdlab.core.errors import UserError, put_on_one_line
from fdlab.core.files import find_damage, find_inside, read_json, stays_inside
from fdlab.core.results import read_result, write_result
from fdlab.data.dataset import SPLITS
from fdlab.data.pickled import read_pickle
from fdlab.execute.page import export_notebook, write_page
from fdlab.figures import data as data_figures
from fdlab.figures.latex import escape
from fdlab.figures.plate import Plate, Reading, Table, read_markdown, write_markdown
from fdlab.figures.style import plain
from fdlab.models.build import read_weights
from fdlab.studies.claims import SUPPORTED, Claim
from fdlab.studies.data import Overview

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for name in ("fdlab", "benchmarks") for p in (ROOT / name).rglob("*.py"))

# ---- the package's own source

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
           "subprocess", "pty", "code", "codeop"}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {"system", "popen", "spawnl", "spawnv", "execv", "execl", "extractall", "extract",
           "unpack_archive", "read_pickle", "to_pickle", "full_load", "unsafe_load", "Popen",
           "check_output", "check_call"}  # fmt: skip
LOADERS = {("torch", "load"): ("weights_only", True), ("np", "load"): ("allow_pickle", False),
           ("numpy", "load"): ("allow_pickle", False)}  # fmt: skip
# Where a name above is something else: file, what is found, why it may stand there.
EXCEPTIONS = {
    ("fdlab/models/build.py", "import pickle"): "the error class that torch.load raises",
    ("benchmarks/plain.py", "import pickle"): "the released code's files, written by the benchmark",
    ("benchmarks/shapes.py", "import pickle"): "writes those files into a folder of its own",
    ("benchmarks/suite.py", "import subprocess"): "starts this package's commands, without a shell",
    ("benchmarks/suite.py", ".Popen"): "as above",
    ("benchmarks/stores.py", "import subprocess"): "starts itself anew, without a shell",
}


def find_dangers(tree: ast.AST) -> list[str]:
    """What a source does that can run what it reads, or hand it to a shell."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            found += [f"import {name}" for name in names if name in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(f"import {node.module.split('.')[0]}")
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if given.get("shell") not in (None, False):
            found.append("shell=True")
        if given.get("allow_pickle") not in (None, False):
            found.append("allow_pickle=True")
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(node.func.id)
        if isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "")
            if node.func.attr in METHODS:
                found.append(f".{node.func.attr}")
            if (owner, node.func.attr) in LOADERS:
                word, wanted = LOADERS[owner, node.func.attr]
                if given.get(word) is not wanted:
                    found.append(f"{owner}.{node.func.attr} without {word}={wanted}")
            if owner == "yaml" and node.func.attr.startswith("load"):
                found.append("yaml.load")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_package_runs_nothing_that_it_reads(path):
    name = path.relative_to(ROOT).as_posix()
    found = find_dangers(ast.parse(path.read_text(encoding="utf-8")))
    assert [danger for danger in found if (name, danger) not in EXCEPTIONS] == []


def test_every_exception_is_still_there():
    for (name, danger), reason in EXCEPTIONS.items():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert danger in find_dangers(tree) and reason


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "torch.load(path)", "np.load(path)",
     "torch.load(path, weights_only=False)", "np.load(p, allow_pickle=True)", "eval(text)",
     "yaml.load(text)", "exec(text)", "os.system(text)", "run(text, shell=True)",
     "file.extractall()", "pd.read_pickle(path)", "__import__(name)"],
)  # fmt: skip
def test_the_walk_finds_what_it_looks_for(source):
    assert find_dangers(ast.parse(source))
    assert not find_dangers(ast.parse("torch.load(p, weights_only=True); model.eval(); re.x(1)"))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_unread(tmp_path):
    """Under every name by which weights are read, and as a file of a data set."""
    ran, plain_file = tmp_path / "ran", tmp_path / "plain.pkl"
    plain_file.write_bytes(pickle.dumps(Bomb(ran)))
    torch.save({"weight": Bomb(ran)}, tmp_path / "weights.pth")
    pickle.loads(plain_file.read_bytes())
    assert ran.exists()  # the bomb is one
    ran.unlink()
    for name in ("weights.bin", "weights.safetensors", "plain.pth"):
        (tmp_path / name).write_bytes(plain_file.read_bytes())
    for name in ("weights.pth", "weights.bin", "weights.safetensors", "plain.pth"):
        with pytest.raises(UserError, match="holds no readable weights"):
            read_weights(tmp_path / name)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(UserError, match="and nothing in it was run"):
            read_pickle(pickle.dumps({b"data": Bomb(ran)}, protocol), "data_batch_1")
    assert not ran.exists()


# ---- names that become paths

OUTSIDE = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "C:/x",
    "c:x",
    "\\\\host\\x",
    "..\\x",
    "a\\..\\..\\x",
    "",
    " ",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    None,
    3,
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, name):
    assert not stays_inside(name)
    with pytest.raises(UserError, match="leaves"):
        find_inside(tmp_path, name)
    if isinstance(name, str):
        assert "leaves" in find_damage(tmp_path, {name: "0" * 64})


@pytest.mark.parametrize("name", ["a", "a/b.npy", "..a", "a..b", "ä ö.jpg", "$(touch y)", "; rm"])
def test_a_name_below_its_folder_is_taken_as_it_is(tmp_path, name):
    assert find_inside(tmp_path, name) == tmp_path / name


def test_a_link_may_not_lead_out_but_the_folder_may_be_one(tmp_path):
    (tmp_path / "disk" / "store").mkdir(parents=True)
    (tmp_path / "disk" / "secret").write_text("x")
    (tmp_path / "disk" / "store" / "own").write_text("x")
    store = tmp_path / "store"
    store.symlink_to(tmp_path / "disk" / "store")
    (store / "inner").symlink_to(store / "own")
    (store / "out").symlink_to(tmp_path / "disk" / "secret")
    (store / "up").symlink_to(tmp_path)
    (store / "circle").symlink_to(store / "circle")
    assert find_inside(store, "own").read_text() == find_inside(store, "inner").read_text() == "x"
    for name in ("out", "up/disk/secret", "circle"):
        with pytest.raises(UserError, match="is a link out of"):
            find_inside(store, name)


@pytest.mark.parametrize(
    ("dataset", "preset"),
    [("../x", "quick"), ("digits", "/../../x"), ("a/b", "quick"), ("a\\b", "q"), ("a\n", "q")],
)
def test_a_suites_folder_is_one_step_below_outputs(dataset, preset):
    for place in (paths.suite_folder, paths.save_folder):
        with pytest.raises(UserError, match="name no folder"):
            place(dataset, preset)


# ---- values from files


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"__type__": "subprocess:Popen"}, "no part of fdlab"),
        ({"__type__": "fdlab.cli:main"}, "no part of fdlab"),
        ({"__type__": "fdlab.__main__:X"}, "no part of fdlab"),
        ({"__type__": "fdlab.studies.plan:Store"}, "no result of this version"),
        ({"__type__": "fdlab.studies.plan:make_plan"}, "no result of this version"),
        ({"__type__": "fdlab.studies.no_such:X"}, "no_such"),
        ({"__type__": "fdlab.studies.data:Overview"}, "missing"),
        ({"__type__": 3}, "damaged"),
        ({"__array__": "object", "shape": [1], "values": [{}]}, "array of object"),
        ({"__array__": "O", "shape": [1], "packed": ""}, "array of object"),
        ({"__array__": "uint8", "shape": [-1], "values": [1]}, "shape"),
        ({"__array__": "uint8", "shape": [2], "values": [1]}, "reshape"),
        ({"__array__": "uint8", "shape": [1 << 40], "packed": ""}, "are the most"),
        ({"__array__": "uint8", "shape": [1], "packed": "!"}, "damaged"),
        ({"__array__": "no_type", "shape": [1], "values": [1]}, "damaged"),
        ({"__float__": "many"}, "many"),
    ],
    ids=str,
)
def test_a_hostile_result_makes_nothing(tmp_path, value, reason):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"inner": [value]}))
    with pytest.raises(UserError, match=reason):
        read_result(path)


def test_what_is_packed_is_unpacked_to_the_declared_size_and_no_further(tmp_path, monkeypatch):
    """A megabyte that claims to be a hundred million, and the other way round."""
    asked = []
    plain_class = zlib.decompressobj

    class Watched:
        def __init__(self):
            self.inner = plain_class()

        def decompress(self, content, most):
            asked.append(most)
            return self.inner.decompress(content, most)

    monkeypatch.setattr("fdlab.core.results.zlib.decompressobj", Watched)
    packed = b64encode(zlib.compress(bytes(10**7))).decode()
    path = tmp_path / "r.json"
    for side in (100, 10**8):
        path.write_text(json.dumps({"__array__": "uint8", "shape": [side], "packed": packed}))
        with pytest.raises(UserError, match="other than is packed"):
            read_result(path)
    assert asked == [101, 10**8 + 1]
    written = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write_result(path, {"x": written})
    assert np.array_equal(read_result(path)["x"], written)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "[" * 100_000, "{"])
def test_json_is_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not valid JSON"):
        read_json(path)


def test_an_error_is_one_line_whatever_it_names():
    nasty = "a\nb\r\x1b[31m\u2028\ud800\0ü→"
    assert str(UserError(nasty)) == put_on_one_line(nasty)
    assert put_on_one_line(nasty) == "a\\nb\\r\\x1b[31m\\u2028\\ud800\\x00ü→"
    str(UserError(nasty)).encode()


# ---- words from data

NASTY = [
    "<script>alert(1)</script>",
    '"onerror="alert(1)',
    "$\\frac{x$",
    "cost $5 to $10 \\$",
    "_a_b^c",
    "=cmd|' /C calc'!A0",
    "a|b&c",
    "]](javascript:alert(1))",
    "a\nb",
    "naïve →",
]


class Page(html.parser.HTMLParser):
    """Tags, their attributes, and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def require_harmless(self) -> None:
        for tag, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
            assert "javascript:" not in str(attributes.get("href"))
        assert not [tag for tag, _ in self.tags if tag in ("script", "iframe", "object")]


def make_overview() -> Overview:
    """What `01_data` finds of a data set whose classes and sentences are hostile."""
    return Overview(
        dataset="birds",
        preset="quick",
        counts={split: np.arange(1, len(NASTY) + 1) for split in SPLITS},
        shown=np.arange(6),
        labels=np.arange(6),
        names=NASTY,
        examples={"image": np.zeros((6, 3, 8, 8), np.uint8)},
        masks=np.zeros(0),
        palette=np.zeros((0, 3), np.uint8),
        sentences=NASTY[:6],
        shared={NASTY[0]: 1, NASTY[2]: 0},
        note=NASTY[0],
    )


def test_figures_print_hostile_names_letter_by_letter(tmp_path):
    overview = make_overview()
    for name, plate in data_figures.plates(overview).items():
        written = plate.save(tmp_path / name)
        assert all(path.stat().st_size > 1000 for path in written)
    ticks = []
    with_names = data_figures.plates(overview)["counts"].figure.axes[0].get_xticklabels()
    ticks += [label.get_text() for label in with_names]
    assert plain("cost $5 to $10 \\$") in " ".join(ticks)


@pytest.mark.parametrize("word", NASTY)
def test_a_figures_text_is_what_the_data_says(word):
    """As wide as the same letters without mathematics; unescaped, two dollar signs are none."""
    widths = []
    for text, math in ((plain(word), True), (word, False)):

        def paint(axes, text=text, math=math):
            axes[0, 0].text(0.1, 0.5, text, parse_math=math)

        plate = Plate.draw(paint, height=1.0)
        renderer = plate.figure.canvas.get_renderer()
        widths.append(plate.figure.axes[0].texts[0].get_window_extent(renderer).width)
    assert widths[0] == pytest.approx(widths[1])


def test_tables_keep_hostile_cells_as_text(tmp_path):
    frame = pd.DataFrame({"class": NASTY, "gain": ["+1.0 [+0.1, +2.0]"] * len(NASTY)})
    table = Table(frame, f"Of {NASTY[0]} and {NASTY[3]}.")
    table.save(tmp_path / "t")
    shown = Page(table._repr_html_())
    shown.require_harmless()
    words = "".join(shown.words)
    assert all(word.replace("\n", "\\n") in words for word in NASTY)
    assert "mathjax_ignore" in table._repr_html_()
    with (tmp_path / "t.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))[1:]
    assert [gain for _, gain in rows] == ["+1.0 [+0.1, +2.0]"] * len(NASTY)
    for word, (cell, _) in zip(NASTY, rows, strict=True):
        assert cell == (f"'{word}" if word.startswith("=") else word)
    markdown = (tmp_path / "t.md").read_text()
    assert "<script" not in markdown and "](" not in markdown
    assert len(markdown.strip().splitlines()) == 2 + len(NASTY) + 2  # no row was broken in two
    caption = markdown.rstrip().split("\n\n")[-1]
    assert read_markdown(caption) == table.caption
    latex = (tmp_path / "t.tex").read_text()
    for sign in "$_^#%&":
        assert not re.search(rf"(?<!\\)\{sign}", latex.replace(r"\textasciicircum{}", "").replace(
            " & ", " ").replace(r"$\rightarrow$", ""))  # fmt: skip


FORMULAS = ("=1+1", "@SUM(1)", "\t=1+1", "\r=1+1", " =1+1", "+1+cmd|' /C calc'!A0",
            "-1+cmd|' /C calc'!A0", '-2+HYPERLINK("x")', "+A1", "-1*to!A1", "+e5")  # fmt: skip
NUMBERS = ("+1.0", "-2", "+", "-", "-1.0e-05", "+1.0 [+0.1, +2.0]", "-3.5 % ± 0.2 %", "−1.0",
           "-0.1 (p 0.03)", "-1.0 – −0.5", "+0.4 to +0.9", "-0.1 (n=1, no interval)", "a=b",
           "a\r=1+1", 3, None)  # fmt: skip


def test_a_spreadsheet_runs_no_cell_and_no_heading_and_reads_every_number(tmp_path):
    cells = [*FORMULAS, *NUMBERS]
    Table(pd.DataFrame({"=A1": cells}, dtype=object), "x").save(tmp_path / "t")
    with (tmp_path / "t.csv").open(newline="") as handle:
        head, *rows = csv.reader(handle)
    assert head == ["'=A1"]
    said = [f"'{cell}" for cell in FORMULAS]
    said += ["" if cell is None else str(cell) for cell in NUMBERS]
    assert [cell for (cell,) in rows] == [cell.replace("\r", "\n") for cell in said]


def test_latex_has_no_sign_that_means_something():
    assert escape("a\n\nb\0\\$_{}~^") == (
        r"a b\textbackslash{}\$\_\{\}\textasciitilde{}\textasciicircum{}"
    )


def test_a_page_shows_hostile_names_and_runs_none(tmp_path):
    """The report over a folder whose figures, tables and results carry them."""
    suite = tmp_path / "birds-quick"
    for folder in ("notebooks", "results", "figures", "tables", "done"):
        (suite / folder).mkdir(parents=True)
    (suite / "notebooks" / "01_data.ipynb").write_text("{}")
    write_result(suite / "results" / "data.json", make_overview())
    stem = 'data-"onerror="alert(1)<script>'
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + (300).to_bytes(4, "big") * 2
    (suite / "figures" / f"{stem}.png").write_bytes(png)
    Table(pd.DataFrame({"class": NASTY}), NASTY[0]).save(suite / "tables" / stem)
    shown = Page(write_page(suite, "birds", "quick", ["01_data"]).read_text())
    shown.require_harmless()
    links = [a.get("src") or a.get("href") for tag, a in shown.tags if tag in ("img", "a")]
    assert any("%22onerror%3D" in link for link in links)
    words = "".join(shown.words)
    assert all(word in words for word in NASTY if not word.startswith("="))


class Result:
    """As much of a study as `Reading` reads."""

    def finding(self):
        return " and ".join(NASTY)

    def claims(self):
        return [Claim(NASTY[0], "", "", "", "", SUPPORTED, NASTY[1])]


def test_an_exported_notebook_shows_hostile_names_and_runs_none(tmp_path):
    table = Table(pd.DataFrame({"class": NASTY}), NASTY[0])
    outputs = [
        nbformat.v4.new_output("execute_result", {"text/html": table._repr_html_()}),
        nbformat.v4.new_output(
            "execute_result", {"text/markdown": Reading(Result())._repr_markdown_()}
        ),
        nbformat.v4.new_output("stream", text="\n".join(NASTY)),
        nbformat.v4.new_output(
            "error", ename="UserError", evalue=NASTY[0], traceback=[f"UserError: {NASTY[0]}"]
        ),
    ]
    cell = nbformat.v4.new_code_cell("table", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    clean = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("table")])
    counts = []
    for name, content in (("clean", clean), ("nasty", notebook)):
        nbformat.write(content, tmp_path / f"{name}.ipynb")
        text = export_notebook(tmp_path / f"{name}.ipynb").read_text()
        page = Page(text)
        counts.append([tag for tag, _ in page.tags].count("script"))
        assert "<script>alert(1)" not in text
        for _, attributes in page.tags:
            assert "alert(1)" not in "".join(map(str, attributes.values()))
            assert not [name for name in attributes if name == "onerror"]
    assert counts[0] == counts[1]  # the template's own


@pytest.mark.parametrize("word", NASTY)
def test_markdown_gives_the_words_back(word):
    assert read_markdown(write_markdown(word)).replace("](", "](") == " ".join(word.split())

"""Suites: strict parameters, kept work, failures that stay local."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.results import read_result
from fdlab.execute.ledger import stem_of
from fdlab.execute.parameters import check_values, parse_assignments, read_parameters
from fdlab.execute.publish import BEGIN, END, SHOWN, publish, write_gallery
from fdlab.execute.suite import list_datasets, plan_suite, plan_suites, read_suites, run_suite

ROOT = Path(__file__).resolve().parents[1]


def write_notebook(folder: Path, name: str, parameters: str, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_parameters_are_read_without_running_with_their_comments(tmp_path):
    source = 'dataset = "digits"  # data set\nseeds = [0, 1]  # seeds, # of them two\nlr = 1e-3\n'
    path = write_notebook(tmp_path, "01_x", source, "raise SystemExit")
    found = read_parameters(path)
    assert {name: p.default for name, p in found.items()} == {
        "dataset": "digits",
        "seeds": [0, 1],
        "lr": 1e-3,
    }
    assert found["seeds"].help == "seeds, # of them two"


@pytest.mark.parametrize("source", ["x = len([])", "import os", "x, y = 1, 2"])
def test_a_parameters_cell_holds_plain_literals_alone(tmp_path, source):
    with pytest.raises(UserError, match="01_x"):
        read_parameters(write_notebook(tmp_path, "01_x", source))


def test_values_have_types():
    values = parse_assignments(["seeds=[0,1]", "lr=1e-3", "log=true", "name=fdcmkd", "n=2"])
    assert values == {"seeds": [0, 1], "lr": 1e-3, "log": True, "name": "fdcmkd", "n": 2}
    with pytest.raises(UserError, match="expected name=value"):
        parse_assignments(["seeds"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"no_such": 1}, "unknown parameter 'no_such'"),
        ({"sedes": [0]}, "did you mean 'seeds'"),
        ({"cutoff": "half"}, "cutoff of 02_similarity is 'half': expected float"),
        ({"seeds": 3}, "expected list"),
        ({"epochs": True}, "expected int"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused(values, message):
    folder = ROOT / "notebooks"
    notebooks = {path.stem: read_parameters(path) for path in sorted(folder.glob("*.ipynb"))}
    with pytest.raises(UserError, match=message):
        check_values(values, notebooks)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"suite": "cores"}, "did you mean 'core'"),
        ({"preset": "fast"}, "unknown preset"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
        ({"only": "02,99"}, "unknown notebook '99'"),
        ({"jobs": 0}, "--jobs is 0"),
        ({"values": {"no_such": 1}}, "unknown parameter 'no_such'"),
        ({"values": {"seeds": ["x"]}}, "expected a list of int"),
        ({"values": {"seeds": [0, 0]}}, "expected each once"),
        ({"values": {"directions": ["audio2sound"]}}, "unknown direction"),
        ({"values": {"methods": ["none", "fdckmd"]}}, "did you mean 'fdcmkd'"),
        ({"values": {"venue": "nips"}}, "unknown venue"),
        ({"values": {"device": "tpu"}}, "auto, cpu, cuda"),
        ({"only": ","}, "no notebook"),
        ({"only": "05", "dataset": "planted"}, "no notebook"),
        ({"only": "17"}, "17_spectrum is of suite spatial: add --suite spatial"),
    ],
)
def test_everything_wrong_is_said_before_anything_runs(asked, message):
    with pytest.raises(UserError, match=message):
        plan_suite(**asked)


def plan_spatial(**asked) -> dict[str, list[str]]:
    parts = plan_suites("spatial", list_datasets("spatial"), "smoke", **asked)
    return {part.dataset: part.notebooks for part in parts}


def test_of_a_suite_with_several_data_sets_each_has_what_is_asked_of_it():
    whole = plan_spatial()
    assert {dataset: names[-1] for dataset, names in whole.items()} == {
        "rooms": "00_report", "digits": "00_report",
    }  # fmt: skip
    assert plan_spatial(only="18") == {"rooms": ["18_infrared"]}
    assert plan_spatial(only="spectrum,19") == {
        "rooms": ["17_spectrum"], "digits": ["19_heterogeneous"],
    }  # fmt: skip
    assert plan_spatial(only="19,00") == {"digits": ["19_heterogeneous", "00_report"]}
    assert plan_spatial(only="00") == {name: ["00_report"] for name in whole}
    parts = plan_suites(
        "spatial",
        ["rooms", "digits"],
        "smoke",
        values={"every": True, "cutoffs": [0.5], "seeds": [1]},
    )
    assert [part.dataset for part in parts] == ["rooms", "digits"]
    rooms, digits = (part.values for part in parts)
    assert rooms["cutoffs"] == [0.5] and "every" not in rooms
    assert digits["every"] and "cutoffs" not in digits and rooms["seeds"] == digits["seeds"] == [1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"only": "05"}, "05_distillation is of suite core: add --suite core"),
        ({"only": "18,99"}, "unknown notebook '99'"),
        ({"values": {"evry": True}}, "did you mean 'every'"),
        ({"only": "18", "values": {"every": True}}, "unknown parameter 'every'"),
        ({"values": {"cutoffs": "all"}}, "parameter cutoffs of 18_infrared is 'all'"),
        ({"values": {"preset": "quick"}}, "not by -p"),
    ],
)
def test_what_no_part_of_a_suite_has_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        plan_spatial(**asked)


def test_notebooks_are_chosen_by_number_or_name(capsys):
    assert plan_suite(only="05,similarity").notebooks == ["02_similarity", "05_distillation"]
    features = plan_suite(dataset="planted")
    assert not {"05_distillation", "06_comparison", "07_embedding"} & set(features.notebooks)
    assert "left out: 05_distillation" in capsys.readouterr().err
    assert read_suites()["all"][-1] == "00_report"


def test_a_failing_notebook_keeps_its_error_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    folder = tmp_path / "notebooks"
    head = 'dataset = "planted"  # x\npreset = "quick"  # x\n'
    for name in read_suites()["core"]:
        write_notebook(folder, name, head, "print(dataset)")
    write_notebook(folder, "02_similarity", head, "1 / 0", "print('never')")
    write_notebook(folder, "03_scale", head, "import os; os._exit(9)")
    summary = run_suite(plan_suite(dataset="planted", only="01,02,03", jobs=2))
    assert set(summary.failed) == {"02_similarity", "03_scale"}
    assert "ZeroDivisionError" in summary.failed["02_similarity"]
    assert "DeadKernelError" in summary.failed["03_scale"]
    partial = (summary.folder / "notebooks" / "02_similarity.ipynb").read_text()
    assert "ZeroDivisionError" in partial and "never" in partial
    assert not (summary.folder / "done" / "02_similarity.json").exists()
    again = run_suite(plan_suite(dataset="planted", only="01,02,03"))
    assert set(again.failed) == {"02_similarity", "03_scale"}


def test_other_parameters_have_a_folder_of_their_own():
    plain = plan_suite().folder
    assert plan_suite(values={"seeds": []}).folder == plain
    other = plan_suite(values={"seeds": [0, 1]}).folder
    assert other != plain and other.name.startswith(plain.name)
    assert other == plan_suite(values={"seeds": [0, 1]}).folder


def test_an_interrupt_stops_at_once_and_starts_nothing_new(isolated_home):
    shutil.copytree(ROOT / "notebooks", isolated_home / "notebooks", dirs_exist_ok=True)
    folder = isolated_home / "outputs" / "planted-smoke"
    process = start(["reproduce", "--dataset", "planted", "--preset", "smoke"], isolated_home)
    wait_for(folder / "done" / "01_data.json", process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors
    assert "Traceback" not in errors and output == ""
    assert re.search(r"notebooks: \d ran, 0 found, .*\d left\n", errors)
    assert not (folder / "done" / "04_gradients.json").exists()


def start(arguments: list[str], home: Path) -> subprocess.Popen:
    environment = os.environ | {"FDLAB_HOME": str(home)}
    command = [sys.executable, "-m", "fdlab", *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=home, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, start_new_session=True,
        # A shell's background jobs ignore the interrupt, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.1)


def note_times(folder: Path, pattern: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob(pattern)}


@pytest.fixture(scope="module")
def finished(digits, isolated_home):
    """A smoke suite that was killed in the middle and started again."""
    shutil.copytree(ROOT / "notebooks", isolated_home / "notebooks", dirs_exist_ok=True)
    arguments = ["reproduce", "--preset", "smoke"]
    process = start(arguments, isolated_home)
    suite = isolated_home / "outputs" / "digits-smoke"
    wait_for(suite / "done" / "02_similarity.json", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = note_times(isolated_home, "outputs/runs/*/record.json")
    before |= note_times(suite, "done/*.json") | note_times(suite, "results/*.json")
    process = start(arguments, isolated_home)
    output, errors = process.communicate(timeout=500)
    return suite, before, process.returncode, output, errors


def test_a_killed_suite_goes_on_and_loses_nothing_finished(finished):
    suite, before, code, output, errors = finished
    assert code == 0, errors
    assert len(before) > 6
    for path, stamp in before.items():
        assert Path(path).stat().st_mtime_ns == stamp, f"{path} was made again"
    assert output.strip() == f"fdlab: report at {suite / 'report.html'}"
    assert "02_similarity: found, unchanged" in errors


def test_a_finished_suite_has_every_kind_of_file(finished):
    suite = finished[0]
    for name in read_suites()["core"]:
        stem = name.split("_", 1)[1]
        assert (suite / "notebooks" / f"{name}.html").is_file()
        assert (suite / "results" / f"{stem}.json").is_file()
        assert list((suite / "figures").glob(f"{stem}-*.pdf"))
        assert list((suite / "figures").glob(f"{stem}-*.png"))
        for kind in ("csv", "md", "tex"):
            assert list((suite / "tables").glob(f"{stem}-*.{kind}"))
        executed = nbformat.read(suite / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(c.execution_count for c in executed.cells if c.cell_type == "code")


def test_the_reports_links_lead_somewhere(finished):
    suite = finished[0]
    page = (suite / "report.html").read_text()
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(links) > 30
    for link in links:
        assert (suite / link).is_file(), link
    claims = read_result(suite / "results" / "report.json").claims
    assert len(claims) > 10 and page.count("class='verdict'") == len(claims)
    for claim in claims:
        assert html.escape(claim.statement) in page


def test_a_damaged_output_is_noticed_named_and_made_again(finished, capsys):
    suite = finished[0]
    target = suite / "results" / "scale.json"
    target.write_text(target.read_text()[:-40])
    summary = run_suite(plan_suite(preset="smoke", only="02,03"))
    assert list(summary.ran) == ["03_scale"] and summary.found == ["02_similarity"]
    assert "scale.json does not match its checksum" in capsys.readouterr().err
    json.loads(target.read_text())


def test_publishing_copies_and_fills_the_gallery(finished, isolated_home):
    begin, end = BEGIN.format("gallery"), END.format("gallery")
    (isolated_home / "README.md").write_text(f"# x\n\n{begin}\nstale words\n{end}\n\ntail\n")
    folder = publish("digits", "smoke")
    text = write_gallery("digits", "smoke").read_text()
    assert text.startswith("# x") and text.endswith("tail\n") and "stale words" not in text
    core = {stem_of(name) for name in read_suites()["core"]}
    assert text.count("![") == len(core & set(SHOWN)) == len(core) - 1  # all but the report
    for line in text.splitlines():
        if line.startswith("!["):
            assert (isolated_home / line.split("(")[1].rstrip(")")).is_file()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert any(name.startswith("records/") for name in manifest["files"])
    assert not list(folder.rglob("*.safetensors"))
    with pytest.raises(UserError, match="is not finished"):
        publish("planted", "quick")
    with pytest.raises(UserError, match="suite that is published by itself 'core'"):
        publish("digits", "smoke", "core")


def test_plain_papermill_runs_a_notebook_with_its_own_parameters(finished, isolated_home, tmp_path):
    source, target = paths.notebooks() / "03_scale.ipynb", tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(target), "-p", "dataset",
               "planted", "-p", "seeds", "[0,1]"]  # fmt: skip
    subprocess.run(command, check=True, cwd=isolated_home, capture_output=True, timeout=300)
    assert '"seeds = ' in target.read_text()


def test_the_notebook_of_all_methods_runs_on_a_choice_of_them(finished):
    values = {"methods": ["kd", "at", "dml", "fdcmkd+0.5*pkt", "heads_only"]}
    summary = run_suite(plan_suite("methods", "digits", "smoke", values=values))
    assert not summary.failed
    result = read_result(summary.page.parent / "results" / "methods.json")
    assert set(result.families) == {"none", *values["methods"]}
    assert result.families["dml"] == "peers"

"""Laws about the tree itself: layers, dependencies, notebooks."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from fdlab.execute.ledger import stem_of
from fdlab.execute.parameters import read_parameters
from fdlab.execute.suite import read_suites
from fdlab.studies import STEMS

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    *("core", "data", "models", "features", "spectral", "losses", "methods", "training"),
    *("studies", "figures", "execute", "cli"),
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT_CELL = 12
PARAMETERS = 14  # of a list that is read line by line
EXPLORER = "explore"  # the one notebook that is no study and in no suite


def find_imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


def find_layer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "fdlab" and parts[1] in LAYERS else None


@pytest.mark.parametrize("path", sorted((ROOT / "fdlab").rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_to_the_left(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = find_layer(module)
    if own is None:
        return
    for target in map(find_layer, find_imports(path)):
        if target is not None:
            assert LAYERS.index(target) <= LAYERS.index(own), f"{module} imports {target}"


def test_one_stem_runs_from_notebook_to_figure():
    studies = [stem_of(p.stem) for p in NOTEBOOKS if p.stem not in ("00_report", EXPLORER)]
    assert [*studies, "report"] == [*STEMS]
    for stem in (*STEMS, EXPLORER):
        assert (ROOT / "fdlab" / "studies" / f"{stem}.py").is_file()
        assert (ROOT / "fdlab" / "figures" / f"{stem}.py").is_file()


def test_every_notebook_is_in_a_suite_and_every_suite_names_notebooks():
    names = {path.stem for path in NOTEBOOKS} - {EXPLORER}
    suites = read_suites()
    assert {name for suite in suites.values() for name in suite} == names
    assert suites["all"][-1] == suites["core"][-1] == "00_report"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_clean_short_and_narrated(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
        listed = "parameters" in cell.metadata.get("tags", [])
        assert len(cell.source.strip().splitlines()) <= (PARAMETERS if listed else SHORT_CELL)
        assert not re.search(r"^\s*(def|class)\s", cell.source, re.M)
    for parameter in read_parameters(path).values():
        assert parameter.help, f"{parameter.name} has no comment"


def test_conda_and_pip_name_the_same_dependencies_with_the_same_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *extras.values()]
    pip = {normalise(line) for group in groups for line in group}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    inner = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert "-c constraints.txt" in inner and "-e ." in inner
    assert {normalise(line) for line in inner if not line.startswith("-")} == pip
    assert f"python{project['requires-python']}" in conda


def test_every_direct_dependency_is_pinned_inside_its_bounds():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {normalise(name): version for name, version in pins.items()}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for line in (line for group in groups for line in group):
        wanted = Requirement(line)
        assert normalise(wanted.name) in pins, f"{wanted.name} is not pinned"
        assert wanted.specifier.contains(pins[normalise(wanted.name)])
    assert pins["torch"] == "2.13.0"


def test_no_file_names_a_package_index():
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile"):
        text = (ROOT / name).read_text()
        assert "index-url" not in text and "find-links" not in text, name


def test_every_library_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normalise(re.split(r"[<>=]", line)[0]) for line in project["dependencies"]}
    declared |= {
        "espeakng-loader",
        "huggingface-hub",
        "distributed",
        "pycocotools",
        "transformers",
    }  # extras, each imported in one file or folder alone
    media = {re.split(r"[<>=]", line)[0] for line in project["optional-dependencies"]["media"]}
    renamed = {"sklearn": "scikit-learn", "yaml": "pyyaml", "ipython": "ipykernel",
               "pywt": "pywavelets", "pil": "pillow"}  # fmt: skip
    import sys

    for path in (ROOT / "fdlab").rglob("*.py"):
        for module in find_imports(path):
            top = normalise(module.split(".")[0])
            if top != "fdlab" and module.split(".")[0] not in sys.stdlib_module_names:
                reads = media if path.parent.name == "data" else set()
                assert renamed.get(top, top) in declared | reads, f"{path.name} imports {module}"
            homes = {"espeakng-loader": "speech.py", "huggingface-hub": "build.py",
                     "distributed": "cluster.py", "pycocotools": "detect.py",
                     "transformers": "models"}  # fmt: skip
            assert homes.get(top, path.name) in (path.name, path.parent.name)


def normalise(line: str) -> str:
    return line.lower().replace("_", "-").replace(" ", "")

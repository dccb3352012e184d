"""What is published: the README says what the results say, and nothing else is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdlab.core.files import checksums, read_json
from fdlab.execute.publish import APART, KEPT, LIMIT, write_gallery

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path.name for path in (ROOT / "outputs" / "reference").iterdir())


def split_name(name: str) -> tuple[str, str, str]:
    """Data set, preset and suite of a published folder; "" where it is no suite's own."""
    dataset, preset, *suite = name.split("-")
    return dataset, preset, *(suite or [""])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_readmes_gallery_is_what_the_published_results_say(name, tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "reference").symlink_to(ROOT / "outputs" / "reference")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    folder = f"outputs/reference/{name}/"
    assert f"From `{folder}`" in text and f"({folder}figures/" in text
    write_gallery(*split_name(name))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_folder_is_whole_and_holds_what_is_kept(name):
    folder = ROOT / "outputs" / "reference" / name
    manifest = read_json(folder / "manifest.json")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == there - {"manifest.json"}
    assert checksums(folder, sorted(manifest["files"])) == manifest["files"]
    kinds = KEPT | {"records": (".json",)}
    assert all(Path(file).suffix in kinds[Path(file).parent.name] for file in manifest["files"])
    assert split_name(name)[2] in ("", *APART)


def test_what_is_published_stays_below_its_limit():
    files = [path for path in (ROOT / "outputs" / "reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT

"""Copy what a finished suite found into `outputs/reference/`, and the gallery into the README."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from fdlab.core import paths
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.files import checksums, find_inside, replace_folder, write_json, write_text
from fdlab.core.results import read_result
from fdlab.execute.ledger import find_unfinished, stem_of
from fdlab.execute.suite import REPORT, list_datasets, read_suites
from fdlab.figures.plate import write_markdown
from fdlab.figures.save import FIGURES, RESULTS, TABLES
from fdlab.studies import STEMS
from fdlab.studies.report import find_question

KEPT = {RESULTS: (".json",), TABLES: (".csv", ".json", ".md"), FIGURES: (".png",)}
LIMIT = 5_000_000  # bytes of `outputs/reference/`
LARGEST = 30_000  # bytes of a picture that the README does not show
BEGIN, END = "<!-- {}: written by `fdlab publish` -->", "<!-- end of {} -->"
SHOWN = {
    "data": "pairs",
    "similarity": "cosine",
    "scale": "bars",
    "gradients": "figure3",
    "distillation": "curves",
    "comparison": "gain",
    "embedding": "tsne",
    "ablation": "rows",
    "sensitivity": "grid",
    "protocol": "rules",
    "methods": "gain",
    "segmentation": "overlays",
    "speed": "targets",
    "precision": "endings",
    "logits": "parts",
    "zoo": "gain",
    "spectrum": "ratio",
    "infrared": "arms",
    "heterogeneous": "arms",
}
APART = ("speed", "spatial")  # suites that are published by name, into folders of their own
# Suites that name their data sets: what is kept and shown of each of those.
SHORT = {"tasks": ("comparison", "segmentation"), "logits": ("data", "logits", "zoo")}
SMALL = (0.55, 96)  # of the PNGs' 300 dots per inch, and colours
FINE = {"segmentation-overlays": (0.4, 256)}  # figures whose colours mean something


def publish(dataset: str, preset: str, suite: str = "") -> Path:
    """Records, results, tables and small PNGs of one finished suite, with a manifest; under 5 MB.

    The core suite (of a data set that a suite of `SHORT` names, that one) has to be finished, and
    of the others whatever was begun, but for those of `APART`; of suites of `SHORT` some studies
    are kept. Tables as LaTeX, and pictures above `LARGEST` that the README does not show, are left
    out: everything can be drawn again from the rest without training, by `fdlab redraw`.
    """
    source = paths.suite_folder(dataset, preset)
    suites = read_suites(dataset)
    apart = [name for each in APART for name in suites[each] if name != REPORT]
    if suite:
        if suite not in APART:
            raise name_unknown("suite that is published by itself", suite, APART)
        wanted = [name for name in suites[suite] if name != REPORT]
        kept = [stem_of(name) for name in wanted]
    else:
        first = _find_suite(dataset)
        begun = [n for n in suites["all"] if (source / "notebooks" / f"{n}.ipynb").is_file()]
        wanted = [n for n in dict.fromkeys([*suites[first], *begun]) if n not in apart]
        stems = set(map(stem_of, apart))
        kept = SHORT.get(first) or [stem for stem in STEMS if stem not in stems]
    unfinished = find_unfinished(source, wanted)
    if unfinished:
        raise UserError(
            f"{source} is not finished (missing or changed: {', '.join(unfinished)}): run "
            f"`fdlab reproduce --dataset {dataset} --preset {preset}"
            f"{f' --suite {suite}' if suite else ''}` first"
        )
    target = paths.reference() / (f"{source.name}-{suite}" if suite else source.name)
    with replace_folder(target) as beside:
        for kind, endings in (
            (RESULTS, [".json"]),
            (TABLES, [".csv", ".json", ".md"]),
            (FIGURES, [".png"]),
        ):
            (beside / kind).mkdir()
            for path in sorted((source / kind).iterdir()):
                if path.suffix not in endings or path.stem.split("-")[0] not in kept:
                    continue
                copy = {".png": _shrink, ".json": _squeeze}.get(path.suffix, shutil.copyfile)
                copy(path, beside / kind / path.name)
        _drop_large(beside / FIGURES)
        (beside / "records").mkdir()
        for name in _list_runs(beside / RESULTS):
            record = find_inside(paths.runs(), f"{name}/record.json")
            _squeeze(record, beside / "records" / f"{name}.json")
        files = sorted(str(p.relative_to(beside)) for p in beside.rglob("*") if p.is_file())
        manifest = {"dataset": dataset, "preset": preset, "files": checksums(beside, files)}
        write_json(beside / "manifest.json", manifest)
        held = [p for p in paths.reference().rglob("*") if p.is_file() and target not in p.parents]
        total = sum(path.stat().st_size for path in held)
        if total > LIMIT:
            raise UserError(f"outputs/reference would hold {total} bytes: the limit is {LIMIT}")
    return target


def _find_suite(dataset: str) -> str:
    """The suite that a data set is published by: the one of `SHORT` that names it, or the core."""
    return next((name for name in SHORT if dataset in list_datasets(name)), "core")


def _list_runs(results: Path) -> list[str]:
    """Fingerprints of every run that some result names."""
    found = (read_result(path) for path in sorted(results.glob("*.json")))
    return sorted({name for result in found for name in getattr(result, "runs", [])})


def _shrink(source: Path, target: Path) -> None:
    scale, colours = FINE.get(source.stem, SMALL)
    with Image.open(source) as image:
        size = tuple(round(scale * side) for side in image.size)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(colours).save(target, optimize=True)


def _drop_large(figures: Path) -> None:
    shown = {f"{stem}-{name}" for stem, name in SHOWN.items()}
    for path in figures.glob("*.png"):
        if path.stem not in shown and path.stat().st_size > LARGEST:
            path.unlink()


def _squeeze(source: Path, target: Path) -> None:
    """JSON without the blanks, and numbers with seven digits: a quarter of its size."""
    value = _shorten(json.loads(source.read_text(encoding="utf-8")))
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")


def _shorten(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: _shorten(item) for name, item in value.items()}
    return [_shorten(item) for item in value] if isinstance(value, list) else value


def write_gallery(dataset: str, preset: str, suite: str = "") -> Path:
    """Draw the README's gallery from the published results: question, figure, finding.

    It stands between two comments that name it: `gallery`, or `gallery of <dataset>` for a data set
    of a suite of `SHORT`, of which less is shown, or `gallery of <suite>` for one of `APART`, with
    `, <dataset>` behind it where the suite has several.
    """
    folder = paths.reference() / (f"{dataset}-{preset}" + (f"-{suite}" if suite else ""))
    short = () if suite else SHORT.get(_find_suite(dataset))
    name = f"gallery of {suite or dataset}" if suite or short else "gallery"
    name += f", {dataset}" if suite and len(list_datasets(suite)) > 1 else ""
    begin, end = BEGIN.format(name), END.format(name)
    readme = paths.root() / "README.md"
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise UserError(f"{readme} has no {name}: expected the lines {begin} and {end}")
    parts = [
        begin,
        f"From `outputs/reference/{folder.name}/`; no number of these is typed by hand.",
    ]
    for stem in short or SHOWN:
        if not (folder / RESULTS / f"{stem}.json").is_file():
            continue
        result = read_result(folder / RESULTS / f"{stem}.json")
        picture = f"outputs/reference/{folder.name}/{FIGURES}/{stem}-{SHOWN[stem]}.png"
        parts += [f"**{find_question(stem)}**", f"![{stem}]({picture})",
                  write_markdown(result.finding())]  # fmt: skip
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    write_text(readme, before + "\n\n".join(parts) + f"\n\n{end}" + after)
    return readme

"""Copy what a finished suite found into `outputs/reference/`, and the gallery into the README."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.files import checksums, replace_folder, write_json, write_text
from fdlab.core.results import read_result
from fdlab.execute.ledger import find_unfinished
from fdlab.execute.suite import list_datasets, read_suites
from fdlab.figures.save import FIGURES, RESULTS, TABLES
from fdlab.studies import STEMS
from fdlab.studies.report import find_question

LIMIT = 5_000_000  # bytes of `outputs/reference/`
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
}
SHORT = ("comparison", "segmentation")  # kept and shown of the data sets of suite `tasks`
SMALL = (0.55, 96)  # of the PNGs' 300 dots per inch, and colours
FINE = {"segmentation-overlays": (0.4, 256)}  # figures whose colours mean something


def publish(dataset: str, preset: str) -> Path:
    """Records, results, tables and small PNGs of one finished suite, with a manifest; under 5 MB.

    The core suite (of a data set of suite `tasks`, that one) has to be finished, and of the others
    whatever was begun; of suite `tasks` two studies are kept. Everything can be drawn again from it
    without training: `fdlab redraw`.
    """
    source = paths.suite_folder(dataset, preset)
    suites = read_suites(dataset)
    first = "tasks" if dataset in list_datasets("tasks") else "core"
    begun = [n for n in suites["all"] if (source / "notebooks" / f"{n}.ipynb").is_file()]
    unfinished = find_unfinished(source, list(dict.fromkeys([*suites[first], *begun])))
    if unfinished:
        raise UserError(
            f"{source} is not finished (missing or changed: {', '.join(unfinished)}): run "
            f"`fdlab reproduce --dataset {dataset} --preset {preset}` first"
        )
    target = paths.reference() / source.name
    kept = SHORT if first == "tasks" else STEMS
    with replace_folder(target) as beside:
        for kind, pattern in ((RESULTS, "*.json"), (TABLES, "*"), (FIGURES, "*.png")):
            (beside / kind).mkdir()
            for path in sorted((source / kind).glob(pattern)):
                if path.stem.split("-")[0] not in kept:
                    continue
                copy = {".png": _shrink, ".json": _squeeze}.get(path.suffix, shutil.copyfile)
                copy(path, beside / kind / path.name)
        (beside / "records").mkdir()
        for name in _list_runs(beside / RESULTS):
            _squeeze(paths.runs() / name / "record.json", beside / "records" / f"{name}.json")
        files = sorted(str(p.relative_to(beside)) for p in beside.rglob("*") if p.is_file())
        manifest = {"dataset": dataset, "preset": preset, "files": checksums(beside, files)}
        write_json(beside / "manifest.json", manifest)
        held = [p for p in paths.reference().rglob("*") if p.is_file() and target not in p.parents]
        total = sum(path.stat().st_size for path in held)
        if total > LIMIT:
            raise UserError(f"outputs/reference would hold {total} bytes: the limit is {LIMIT}")
    return target


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


def _squeeze(source: Path, target: Path) -> None:
    """JSON without the blanks, a third of its size."""
    value = json.loads(source.read_text(encoding="utf-8"))
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")


def write_gallery(dataset: str, preset: str) -> Path:
    """Draw the README's gallery from the published results: question, figure, finding.

    It stands between two comments that name it: `gallery`, or `gallery of <dataset>` for a data set
    of suite `tasks`, of which less is shown.
    """
    folder = paths.reference() / f"{dataset}-{preset}"
    short = dataset in list_datasets("tasks")
    name = f"gallery of {dataset}" if short else "gallery"
    begin, end = BEGIN.format(name), END.format(name)
    readme = paths.root() / "README.md"
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise UserError(f"{readme} has no {name}: expected the lines {begin} and {end}")
    parts = [
        begin,
        f"From `outputs/reference/{folder.name}/`; no number of these is typed by hand.",
    ]
    for stem in SHORT if short else SHOWN:
        if not (folder / RESULTS / f"{stem}.json").is_file():
            continue
        result = read_result(folder / RESULTS / f"{stem}.json")
        picture = f"outputs/reference/{folder.name}/{FIGURES}/{stem}-{SHOWN[stem]}.png"
        parts += [f"**{find_question(stem)}**", f"![{stem}]({picture})", result.finding()]
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    write_text(readme, before + "\n\n".join(parts) + f"\n\n{end}" + after)
    return readme

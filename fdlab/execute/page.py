"""The report as one HTML page beside the figures, tables and notebooks that it links."""

from __future__ import annotations

import csv
import html
from pathlib import Path
from urllib.parse import quote

import nbformat

from fdlab.core.errors import UserError
from fdlab.core.files import write_text
from fdlab.execute.ledger import locate_record, read_failures, stem_of
from fdlab.figures.plate import read_markdown
from fdlab.figures.report import tables
from fdlab.figures.save import FIGURES, RESULTS, TABLES
from fdlab.figures.style import VERDICT_COLORS
from fdlab.studies.report import Report, collect_report, find_question

PRINT, SCREEN = 300, 148  # dots per inch of the saved PNGs, and of the page
STYLE = """
body { font: 16px/1.5 Georgia, serif; color: #222; max-width: 1080px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.6rem; border-top: 1px solid #ddd; padding-top: 1rem; }
table { border-collapse: collapse; font: 13px/1.4 system-ui, sans-serif; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem;
         border-bottom: 1px solid #e5e5e5; }
thead th { border-bottom: 1px solid #222; border-top: 1px solid #222; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption, .small { font: 13px/1.4 system-ui, sans-serif; color: #555; }
.finding { background: #f4f6f8; border-left: 3px solid #0072B2; padding: .6rem .9rem; }
.verdict { font-weight: 600; white-space: nowrap; }
.wide { overflow-x: auto; }
"""


def write_page(folder: Path, dataset: str, preset: str, notebooks: list[str]) -> Path:
    """Write `report.html` from what stands in the suite's folder; links are relative.

    notebooks: those to show, in order; one that never ran is left out.
    """
    try:
        report = collect_report(folder / RESULTS, dataset, preset)
    except UserError as error:
        report = None
        head = f'<p class="finding">{html.escape(str(error))}</p>'
    else:
        head = (
            f'<p class="finding">{html.escape(report.finding())}</p>{_show_claims(report)}'
            f'<h2 id="numbers">The numbers of the paper</h2>{_show_numbers(report)}'
            f"{_link_ledger(folder)}"
        )
    title = f"fdlab: {html.escape(dataset)}, preset {html.escape(preset)}"
    shown = [name for name in notebooks if (folder / "notebooks" / f"{name}.ipynb").is_file()]
    names = {stem_of(name): name for name in shown if stem_of(name) != "report"}
    failures = read_failures(folder)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        "<p>Which of the FD-CMKD paper's claims and numbers hold on this data set, beside the "
        "control that could refute each. Intervals are 95 %; every table says over what, and its "
        "n.</p>",
        _show_failures(folder, failures),
        head,
        *(_show_study(folder, name, stem, report) for stem, name in names.items()),
        "</body></html>",
    ]
    page = folder / "report.html"
    write_text(page, "\n".join(parts) + "\n")
    return page


def export_notebook(path: Path) -> Path:
    """An executed notebook as an HTML page beside it."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_notebook_node(nbformat.read(path, as_version=4))
    target = path.with_suffix(".html")
    write_text(target, body)
    return target


def _show_failures(folder: Path, failures: dict[str, str]) -> str:
    """Notebooks that ended with an error, each with its last line, above everything else."""
    lines = []
    for name, error in failures.items():
        link = html.escape(name)
        if (folder / "notebooks" / f"{name}.html").is_file():
            link = f'<a href="notebooks/{link}.html">{link}</a>'
        lines.append(f'<p class="finding">{link} failed: {html.escape(error)}</p>')
    return "\n".join(lines)


def _show_claims(report: Report) -> str:
    names = ("Claim", "Paper", "Here", "Control", "n", "Verdict")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for claim in report.claims:
        color = VERDICT_COLORS[claim.verdict]
        cells = [
            f"{html.escape(claim.statement)}<br>"
            f"<span class='small'>{html.escape(claim.where)}</span>",
            *(_break(text) for text in (claim.paper, claim.ours, claim.control)),
            html.escape(claim.n),
            f"<span class='verdict' style='color:{color}'>{html.escape(claim.verdict)}</span>"
            f"<br><span class='small'>{html.escape(claim.why)}</span>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    body = "\n".join(rows)
    return _frame_table(head, body)


def _show_numbers(report: Report) -> str:
    """The report's table of numbers: measured ones first, then a line per reason."""
    table = tables(report)["numbers"]
    rows = []
    for row in table.frame.to_dict("records"):
        color = VERDICT_COLORS[row["verdict"]]
        cells = {name: html.escape(cell) for name, cell in row.items()}
        cells["control"] = _break(row["control"])
        cells["verdict"] = f"<b style='color:{color}'>{cells['verdict']}</b>"
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells.values()) + "</tr>")
    names = (name if name == "n" else name.capitalize() for name in table.frame.columns)
    head = "".join(f"<th>{name}</th>" for name in names)
    caption = f'<p class="small">{html.escape(table.caption)}</p>'
    return _frame_table(head, "\n".join(rows)) + caption


def _link_ledger(folder: Path) -> str:
    """To every claim and number as rows, where the report's notebook has written them."""
    names = [f"{TABLES}/report-ledger.{kind}" for kind in ("json", "csv")]
    links = [f'<a href="{name}">{name}</a>' for name in names if (folder / name).is_file()]
    return f'<p class="small">Every row, for programs: {" · ".join(links)}</p>' if links else ""


def _show_study(folder: Path, notebook: str, stem: str, report: Report | None) -> str:
    finding = report.findings.get(stem) if report else None
    links = [f'<a href="notebooks/{notebook}.html">executed notebook</a>']
    links += [f'<a href="notebooks/{notebook}.ipynb">.ipynb</a>']
    links += [f'<a href="{RESULTS}/{stem}.json">result (JSON)</a>']
    parts = [f'<h2 id="{stem}">{html.escape(find_question(stem))}</h2>']
    if finding is None or not locate_record(folder, notebook).is_file():
        parts.append('<p class="finding">Not finished; see the notebook.</p>')
    if finding:
        parts.append(f'<p class="finding">{html.escape(finding)}</p>')
    for picture in sorted((folder / FIGURES).glob(f"{stem}-*.png")):
        name, link = html.escape(picture.stem), f"{FIGURES}/{quote(picture.stem)}"
        parts.append(
            f'<figure><img src="{link}.png" alt="{name}" loading="lazy" '
            f'width="{_measure_width(picture) * SCREEN // PRINT}">'
            f'<figcaption>{name} · <a href="{link}.pdf">PDF</a></figcaption>'
            "</figure>"
        )
    tables = sorted((folder / TABLES).glob(f"{stem}-*.csv"))
    # One without its copy is being written by another suite of the folder.
    parts += [_show_table(path) for path in tables if path.with_suffix(".md").is_file()]
    parts.append(f'<p class="small">{" · ".join(links)}</p>')
    return "\n".join(parts)


def _show_table(path: Path) -> str:
    """A saved CSV table with its caption from the Markdown copy and links to the other forms."""
    with path.open(encoding="utf-8", newline="") as handle:
        head, *rows = list(csv.reader(handle))
    markdown = path.with_suffix(".md")
    caption = read_markdown(markdown.read_text(encoding="utf-8").rstrip().split("\n\n")[-1])
    links = " · ".join(
        f'<a href="{TABLES}/{quote(path.stem)}.{kind}">{kind}</a>' for kind in ("csv", "md", "tex")
    )
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return _frame_table(top, body) + f'<p class="small">{html.escape(caption)} · {links}</p>'


def _frame_table(head: str, body: str) -> str:
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _measure_width(picture: Path) -> int:
    """Pixels across, from a PNG's header."""
    return int.from_bytes(picture.read_bytes()[16:20], "big")


def _break(text: str) -> str:
    return "<br>".join(html.escape(part) for part in text.split("; "))

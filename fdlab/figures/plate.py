"""A drawn figure that shows itself exactly once and saves itself; a table that does the same."""

from __future__ import annotations

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fdlab.core.files import write_bytes, write_text
from fdlab.figures.latex import write_latex
from fdlab.figures.style import find_venue, styled

FORMATS = ("pdf", "png")
BROAD = 3  # panels side by side that have room for a label each
# A number with its sign, and what our tables write beside one: an interval, a range, a p value, a
# count. Every other text that begins with a sign is a formula to a spreadsheet.
SIGNED = re.compile(
    r"[+-]?(\d[eE][+-]?\d|\bn=\d|\b(to|p|no interval|nan|inf)\b|[\d\s.,;:/%±×+\-−–\[\]()])*",
    re.ASCII,
)


class Plate:
    """A Matplotlib figure outside pyplot, as wide as a venue's column (or its text).

    As the last expression of a notebook cell it shows itself once.
    """

    def __init__(self, figure: Figure):
        self.figure = figure

    @classmethod
    def draw(
        cls,
        paint,
        venue: str = "aaai",
        *,
        height: float,
        wide: bool = False,
        rows: int = 1,
        columns: int = 1,
        **grid,
    ) -> Plate:
        """Make a figure of `height` inches; `paint` gets its (rows, columns) array of axes."""
        size = find_venue(venue)
        with styled():
            figure = Figure(figsize=(size.text if wide else size.column, height))
            FigureCanvasAgg(figure)
            axes = figure.subplots(rows, columns, squeeze=False, **grid)
            paint(axes)
            for row in axes:
                _join_labels(row)
            figure.canvas.draw()
        return cls(figure)

    def save(self, stem: Path) -> list[Path]:
        """Write `<stem>.pdf` and `<stem>.png`, byte-identical for an identical figure."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        written = []
        with styled():
            for kind in FORMATS:
                path = stem.with_name(f"{stem.name}.{kind}")
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                buffer = io.BytesIO()
                self.figure.savefig(buffer, format=kind, metadata=metadata)
                write_bytes(path, buffer.getvalue())
                written.append(path)
        return written

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.figure.savefig(buffer, format="png", dpi=160)
        return buffer.getvalue()


def _join_labels(row) -> None:
    """Say once, in the middle, what many narrow panels of a row would say on top of each other."""
    words = {axis.get_xlabel() for axis in row}
    if len(row) <= BROAD or len(words) > 1 or "\n" in min(words):
        return
    for axis in row:
        axis.set_xlabel("")
    row[(len(row) - 1) // 2].set_xlabel(min(words), x=0.5 if len(row) % 2 else 1.0)


@dataclass(frozen=True)
class Table:
    """A table of text with its caption, as CSV, Markdown and LaTeX booktabs."""

    frame: pd.DataFrame
    caption: str

    def save(self, stem: Path) -> list[Path]:
        """Write `<stem>.csv`, `.md` and `.tex`."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        texts = {
            "csv": self.frame.map(_disarm).rename(columns=_disarm).to_csv(index=False),
            "md": f"{self._to_markdown()}\n\n{write_markdown(self.caption)}\n",
            "tex": self.to_latex(),
        }
        written = []
        for kind, text in texts.items():
            path = stem.with_name(f"{stem.name}.{kind}")
            write_text(path, text)
            written.append(path)
        return written

    def to_latex(self) -> str:
        """See `write_latex`."""
        rows = [self.frame.columns, *self.frame.to_numpy(dtype=object)]
        head, *rest = [[str(cell) for cell in row] for row in rows]
        return write_latex(head, rest, self.caption)

    def _to_markdown(self) -> str:
        frame = self.frame.map(lambda cell: write_markdown(cell).replace("|", r"\|"))
        return frame.to_markdown(index=False, disable_numparse=True)  # +1.0 stays +1.0

    def _repr_html_(self) -> str:
        note = f"<p><small>{html.escape(self.caption)}</small></p>"
        # Else cells end in dots, and a page reads mathematics between two dollar signs.
        options = ("display.max_colwidth", None, "display.html.use_mathjax", False)
        with pd.option_context(*options):
            return self.frame.to_html(index=False, border=0) + note


class Reading:
    """A study's finding and the verdicts on its claims, as the last expression of a cell."""

    def __init__(self, result):
        self.result = result

    def _repr_markdown_(self) -> str:
        words = write_markdown
        lines = [
            f"- {words(claim.statement)}: **{claim.verdict}** ({words(claim.why)})"
            for claim in self.result.claims()
        ]
        return "\n".join([words(self.result.finding()), "", *lines])


def write_markdown(value: object) -> str:
    """Text that may hold words from data (a class, a file's name), as Markdown that shows it in one
    line: what looks like a tag, an entity, a link or mathematics is none."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return text.replace("](", "]&#40;").replace("$", r"\$")


def read_markdown(text: str) -> str:
    """The text that `write_markdown` wrote."""
    return html.unescape(text.replace(r"\$", "$"))


def _disarm(cell: object) -> object:
    """A cell that a spreadsheet would run as a formula gets the apostrophe that makes it a text; a
    number with its sign is none. A carriage return, which would go unquoted and end the row, is a
    line end."""
    text = str(cell).replace("\r\n", "\n").replace("\r", "\n")
    head = text.lstrip()  # a spreadsheet may drop white space before it looks
    formula = head[:1] in ("=", "@") or text[:1] in ("\t", "\n")
    signed = head[:1] in ("+", "-") and not SIGNED.fullmatch(head)
    if formula or signed:
        return f"'{text}"
    return text if isinstance(cell, str) else cell

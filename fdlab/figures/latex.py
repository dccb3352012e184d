"""LaTeX tables with booktabs rules, wrapped and cut so that nothing runs off the page."""

from __future__ import annotations

import math
import re

COLUMN, WIDE = 48, 100  # characters that fit a column of two, and 7 inches of text
SMALL = {r"\scriptsize": 125, r"\tiny": 170}  # the same text at these sizes
GAP = 2  # characters between two columns
PAGE = 64  # lines of \scriptsize that fit a page, less the caption
BEST_MARK, SECOND_MARK = " **", " *"  # of a table's best and second best row, in text
SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "√": r"$\surd$",
    "²": r"$^2$",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "–": "--",
    "…": r"\dots{}",
    "<": r"\textless{}",  # in the old font encoding a bare one prints something else
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def write_latex(head: list[str], rows: list[list[str]], caption: str) -> str:
    """A `table` environment, or `table*` where it is wider than a column; needs booktabs.

    One that is wider than the text is small, with columns that wrap (which needs the array package
    too), and as many tables as it has pages. \\tiny is for more columns than their words leave room
    for otherwise.
    """
    needed = sum(max(map(len, column)) + GAP for column in zip(head, *rows, strict=True))
    if needed <= WIDE:
        kind = "table" if needed <= COLUMN else "table*"
        return _frame(kind, "l" * len(head), head, rows, caption)
    least = _measure_words(head, rows)
    size = next((s for s, room in SMALL.items() if sum(least) + GAP * len(head) <= room), r"\tiny")
    widths = share_width(head, rows, SMALL[size])
    columns = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{width / SMALL[size]:.3f}\textwidth}}"
        for width in widths
    )
    pages = _cut_pages(rows, widths)
    parts = []
    for place, page in enumerate(pages, 1):
        note = f" (Part {place} of {len(pages)}.)" if len(pages) > 1 else ""
        parts.append(_frame("table*", f"@{{}}{columns}@{{}}", head, page, caption + note, size))
    return "\n".join(parts)


def escape(value: object) -> str:
    """Text as LaTeX prints it; line ends become blanks, what is not printed at all is left out."""
    text = "".join(c for c in " ".join(str(value).split()) if c.isprintable())
    return "".join(SIGNS.get(character, character) for character in text)


def _write_cell(value: str) -> str:
    """A best row's value bold, a second best one's underlined, as papers print them."""
    for mark, command in ((BEST_MARK, "textbf"), (SECOND_MARK, "underline")):
        if value.endswith(mark):
            return rf"\{command}{{{escape(value.removesuffix(mark))}}}"
    return escape(value)


def share_width(head: list[str], rows: list[list[str]], room: int) -> list[float]:
    """Characters per column, `room` less the gaps in all: what its longest word needs, and of the
    rest a share by how much its cells hold on average."""
    least = _measure_words(head, rows)
    mean = [sum(map(len, column)) / len(column) for column in zip(head, *rows, strict=True)]
    more = [max(0.0, m - low) for m, low in zip(mean, least, strict=True)]
    room -= GAP * len(head)
    rest = max(0, room - sum(least)) / (sum(more) or 1.0)
    widths = [low + rest * part for low, part in zip(least, more, strict=True)]
    return [width * min(1.0, room / sum(widths)) for width in widths]


def _measure_words(head: list[str], rows: list[list[str]]) -> list[int]:
    """The longest word of each column, and a character to spare; lines break after a hyphen."""
    columns = zip(head, *rows, strict=True)
    return [1 + max(len(w) for cell in c for w in re.split(r"[\s-]", cell)) for c in columns]


def _cut_pages(rows: list[list[str]], widths: list[float]) -> list[list[list[str]]]:
    """Rows in parts that fit a page each, by a count of their wrapped lines."""
    parts, used = [[]], 0
    for row in rows:
        # Ragged lines are never quite full.
        lines = max(math.ceil(1.15 * len(c) / w) for c, w in zip(row, widths, strict=True))
        if parts[-1] and used + lines > PAGE:
            parts.append([])
            used = 0
        parts[-1].append(row)
        used += lines
    return parts


def _frame(
    kind: str,
    columns: str,
    head: list[str],
    rows: list[list[str]],
    caption: str,
    size: str = "",
) -> str:
    lines = [rf"\begin{{{kind}}}", r"\centering", rf"\caption{{{escape(caption)}}}"]
    lines += [size, r"\setlength{\tabcolsep}{3pt}"] if size else []
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _join(head), r"\midrule"]
    lines += [*map(_join, rows), r"\bottomrule", r"\end{tabular}", rf"\end{{{kind}}}"]
    return "\n".join(lines) + "\n"


def _join(cells: list[str]) -> str:
    """A row. What follows the break of the row before would read [ or * as its argument."""
    first, *rest = map(_write_cell, cells)
    guard = "{}" if first[:1] in ("[", "*") else ""
    return " & ".join([guard + first, *rest]) + r" \\"

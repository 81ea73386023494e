"""A table as LaTeX: a `table*` with booktabs rules; needs the packages booktabs and graphicx, and nothing else.

Words are escaped, so any name of a data set or method is safe; a table with many columns is scaled to the width of the
text. Notes stand below in a small size.
"""

from __future__ import annotations

import re

from segcal.errors import visible
from segcal.study.tables.numerals import numerals
from segcal.study.tables.table import Cell, Column, Table, Text

ARROW = {-1: r"$\downarrow$", 0: "", 1: r"$\uparrow$"}
WIDE = 7
"""With more columns than this the table is scaled."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "→": r"$\to$",
    "—": "---",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
}


def escape(words: str) -> str:
    """Words with LaTeX's own characters made harmless."""
    return "".join(_SPECIAL.get(c, c) for c in visible(words))


def render(table: Table) -> str:
    """The whole table. Column heads and cells as in Markdown."""
    count = len(table.columns)
    grouped = any(name for name, _ in table.groups)
    body = [rf"\begin{{tabular}}{{l{'r' * count}}}", r"\toprule"]
    if grouped:
        body.append(_line([""] + [rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}" for name, width in table.groups]))
        body.append("".join(rf"\cmidrule(lr){{{start}-{end}}}" for name, start, end in _spans(table) if name))
    body.append(_line([_text(table.stub), *(_text(c.head) + ARROW[c.better] for c in table.columns)]))
    body.append(r"\midrule")
    for k, section in enumerate(table.sections):
        if k:
            body.append(r"\addlinespace")
        if section.title.plain:
            body.append(_line([rf"\multicolumn{{{count + 1}}}{{l}}{{\textit{{{_text(section.title)}}}}}"]))
        for row in section.rows:
            label = _text(row.label) + (r"$^{\times}$" if row.crossed else "")
            body.append(
                _line([label, *(_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))])
            )
    body += [r"\bottomrule", r"\end{tabular}"]
    inner = [r"\resizebox{\textwidth}{!}{%", *body, "}"] if count > WIDE else body
    notes = (
        [
            r"\par\smallskip",
            r"\begin{minipage}{\textwidth}\footnotesize",
            *(escape(note) + r"\par" for note in table.notes),
            r"\end{minipage}",
        ]
        if table.notes
        else []
    )
    label = re.sub(r"[^A-Za-z0-9]+", "-", table.name)
    head = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering\small",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{label}}}",
    ]
    return "\n".join([*head, *inner, *notes, r"\end{table*}", ""])


def _spans(table: Table) -> list[tuple[str, int, int]]:
    out, start = [], 2
    for name, width in table.groups:
        out.append((name, start, start + width - 1))
        start += width
    return out


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _text(text: Text) -> str:
    return text.latex or escape(text.plain)


def _cell(cell: Cell, column: Column) -> str:
    if isinstance(cell.content, Text):
        words, brackets = _text(cell.content), ""
    else:
        value, brackets = numerals(cell.content, column)
        words, brackets = _minus(value), _minus(brackets)
    words = words or "---"
    bold = rf"\textbf{{{words}}}" if cell.bold else words
    return f"{bold} {brackets}".strip() + (r"$^{*}$" if cell.starred else "")


def _minus(numeral: str) -> str:
    return numeral.replace("-", "$-$").replace("+", "$+$")

"""A table as GitHub Markdown: groups of columns in the head, their columns in the first row, sections as rows in
italics, notes as a list.

A cell that does not apply is a dash; words are escaped, so any name is safe. The best is bold; a star
marks an interval that excludes zero.
"""

from __future__ import annotations

import re

from segcal.errors import visible
from segcal.study.tables.numerals import numerals
from segcal.study.tables.table import Cell, Column, Table, Text

_SPECIAL = re.compile(r"[\\`*\[\]|<]")
ARROW = {-1: "↓", 0: "", 1: "↑"}


def escape(words: str) -> str:
    """Words with what Markdown and HTML would take for their own made harmless."""
    return _SPECIAL.sub(lambda found: "&lt;" if found.group() == "<" else "\\" + found.group(), visible(words))


def render(table: Table) -> str:
    """The whole table, its caption first."""
    grouped = any(name for name, _ in table.groups)
    heads = [_text(c.head) + ARROW[c.better] for c in table.columns]
    empty = [""] * len(heads)
    first = [cell for name, width in table.groups for cell in (escape(name), *[""] * (width - 1))] if grouped else heads
    lines = [f"**{escape(table.caption)}**", "", _line([_text(table.stub), *first]), "|---|" + "---:|" * len(heads)]
    if grouped:
        lines.append(_line(["", *heads]))
    for section in table.sections:
        if section.title.plain:
            lines.append(_line([f"*{_text(section.title)}*", *empty]))
        for row in section.rows:
            label = _text(row.label) + (" ×" if row.crossed else "")
            lines.append(
                _line([label, *(_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))])
            )
    notes = ["", *(f"- {escape(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*lines, *notes, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: Text) -> str:
    return text.markdown or escape(text.plain)


def _cell(cell: Cell, column: Column) -> str:
    if isinstance(cell.content, Text):
        words, brackets = _text(cell.content), ""
    else:
        words, brackets = numerals(cell.content, column)
    words = words or "—"
    bold = f"**{words}**" if cell.bold else words
    return f"{bold} {brackets}".strip() + ("\\*" if cell.starred else "")

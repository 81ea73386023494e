"""A table as a value: columns in groups, rows in sections, cells of numbers or words, notes below. It knows nothing of
any format.

`segcal.study.tables.markdown`, `.latex` and `.csv` write one. A number that is NaN stands for "does not apply".
Promises: every row has a cell for every column (UsageError).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segcal.errors import UsageError


@dataclass(frozen=True)
class Text:
    """Words, with their own markup where a plain rendering would not do; empty markup: the plain words, escaped."""

    plain: str
    markdown: str = ""
    latex: str = ""


@dataclass(frozen=True)
class Number:
    """A number and those given beside it in brackets (bounds of an interval, a range, quartiles; named by the
    column).
    """

    value: float
    beside: tuple[float, ...] = ()


NONE = Number(math.nan)
"""Does not apply."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place; `bold` for the best, `starred` where an interval excludes zero."""

    content: Number | Text
    bold: bool = False
    starred: bool = False


@dataclass(frozen=True)
class Column:
    """`head` under `group`; numbers are shown times `scale` with `decimals`, and with a sign if `signed`; `beside`
    names those in brackets.

    `better` is -1 where lower is better, +1 where higher is, 0 where neither.
    """

    head: Text
    group: str = ""
    decimals: int = 3
    scale: float = 1.0
    better: int = 0
    signed: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line; `crossed` puts the paper's cross (not translation invariant) behind its label."""

    label: Text
    cells: tuple[Cell, ...]
    crossed: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under a title; an empty title is not shown."""

    title: Text
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """`name` is its file's, without an ending; `stub` heads the labels; `notes` stand below, one a line."""

    name: str
    caption: str
    stub: Text
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                where, expected = f"table {self.name}, row {row.label.plain}", f"{len(self.columns)}, one a column"
                raise UsageError(
                    where, found=f"{len(row.cells)} cells", expected=expected, do="Give NONE where there is nothing."
                )

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, section by section."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: its name and how many."""
        out: list[tuple[str, int]] = []
        for column in self.columns:
            if out and out[-1][0] == column.group:
                out[-1] = (column.group, out[-1][1] + 1)
            else:
                out.append((column.group, 1))
        return out


MORE = 3
"""Most decimals that a column gets beyond its usual ones."""

MOST = 0.9
"""Share of a column's different numbers that print differently."""


def told_apart(table: Table) -> Table:
    """The table with as many decimals in each column as print `MOST` of its different numbers differently, from its
    usual ones to `MORE` beyond. Numbers that differ by less than a millionth are the same.
    """

    def wide(k: int) -> Column:
        column = table.columns[k]
        contents = [row.cells[k].content for row in table.rows]
        values = sorted(c.value for c in contents if isinstance(c, Number) and not math.isnan(c.value))
        apart = [a for a, b in itertools.pairwise([*values, math.inf]) if b - a > 1e-6 * abs(a)]
        for decimals in range(column.decimals, column.decimals + MORE):
            printed = {round(column.scale * value, decimals) for value in apart}
            if len(printed) >= MOST * len(apart):
                return replace(column, decimals=decimals)
        return replace(column, decimals=column.decimals + MORE)

    return replace(table, columns=tuple(wide(k) for k in range(len(table.columns))))


def best_in_bold(table: Table) -> Table:
    """The table with the best number of every column in bold, and all that print the same; a column with less than two
    numbers, or where neither is better, has none.
    """
    best = [_best([row.cells[k].content for row in table.rows], column) for k, column in enumerate(table.columns)]

    def marked(row: Row) -> Row:
        return replace(
            row,
            cells=tuple(
                replace(cell, bold=shown(cell.content, column) == top)
                for cell, column, top in zip(row.cells, table.columns, best, strict=True)
            ),
        )

    return replace(
        table,
        sections=tuple(replace(section, rows=tuple(marked(row) for row in section.rows)) for section in table.sections),
    )


def _best(contents: Sequence[Number | Text], column: Column) -> float:
    known = [s for content in contents if not math.isnan(s := shown(content, column))]
    if column.better == 0 or len(known) < 2:
        return math.nan
    return max(known) if column.better > 0 else min(known)


def shown(content: Number | Text, column: Column) -> float:
    """The value as it is printed; NaN for words."""
    return (
        round(column.scale * content.value, column.decimals)
        if isinstance(content, Number) and not math.isnan(content.value)
        else math.nan
    )

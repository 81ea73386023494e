"""A table as CSV: one head line, numbers in full precision and in their own units (fractions, not per cent), empty
where nothing applies; brackets have columns of their own.

Columns `section` and the labels come first. A star has a column `... excludes 0` where any cell of the column has one.
Notes are not written: they are in the other formats.
"""

from __future__ import annotations

import csv
import io
import math

from segcal.study.tables.table import Cell, Column, Number, Table


def render(table: Table) -> str:
    """The whole table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    starred = [any(row.cells[k].starred for row in table.rows) for k in range(len(table.columns))]
    head = ["section", table.stub.plain or "row"]
    for column, stars in zip(table.columns, starred, strict=True):
        name = f"{column.group} {column.head.plain}".strip()
        head += [name, *(f"{name} {b}" for b in column.beside), *([f"{name} excludes 0"] if stars else [])]
    writer.writerow(head)
    for section in table.sections:
        for row in section.rows:
            line = [section.title.plain, row.label.plain]
            for cell, column, stars in zip(row.cells, table.columns, starred, strict=True):
                line += [*_values(cell, column), *([str(cell.starred).lower()] if stars else [])]
            writer.writerow(line)
    return out.getvalue()


def _values(cell: Cell, column: Column) -> list[str]:
    if isinstance(cell.content, Number):
        beside = cell.content.beside or (math.nan,) * len(column.beside)
        return ["" if math.isnan(v) else repr(float(v)) for v in (cell.content.value, *beside)]
    return [cell.content.plain, *[""] * len(column.beside)]

"""Tidy tables at the edge: a pyarrow table, or a sequence of rows as dictionaries, as NumPy columns to select from.

Promises: columns of words stay words, numbers become float64 with NaN for None. A column that is not there:
MissingError with what is. No row: empty columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.errors import DataError, MissingError


@dataclass(frozen=True, eq=False)
class Frame:
    """A tidy table by the name of its columns; `name` is for messages."""

    name: str
    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, name: str, table: Any) -> Frame:
        """From a pyarrow table (anything with `column_names` and `column(name)`) or rows as mappings."""
        if isinstance(table, Frame):
            return table
        if hasattr(table, "column_names"):
            return cls(name, {c: _array(table.column(c).to_pylist()) for c in table.column_names})
        rows: Sequence[Mapping[str, Any]] = list(table)
        if rows and any(row.keys() != rows[0].keys() for row in rows):
            raise DataError(
                f"table {name}",
                found="rows with different columns",
                expected="the same columns in every row",
                do="Write the results again.",
            )
        return cls(name, {c: _array([row[c] for row in rows]) for c in (rows[0] if rows else ())})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, column: str) -> NDArray[Any]:
        if column not in self.columns:
            if not self.columns:
                return np.empty(0)
            raise MissingError(
                f"table {self.name}",
                found=f"columns {sorted(self.columns)}",
                expected=f"a column {column!r}",
                do="Write the results again with this version.",
            )
        return self.columns[column]

    def where(self, **equal: object) -> Frame:
        """The rows in which each named column has the value given."""
        keep = np.ones(len(self), bool)
        for column, value in equal.items():
            keep &= np.asarray(self[column] == value, bool)
        return Frame(self.name, {c: v[keep] for c, v in self.columns.items()})

    def different(self, column: str) -> list[Any]:
        """Values of a column, each once, in the order in which they first appear."""
        return list(dict.fromkeys(self[column].tolist()))


def _array(values: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(v, str) for v in values):
        return np.array(values, object)
    if values and all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
        return np.array(values, np.int64)
    if all(v is None or isinstance(v, (int, float, np.number)) for v in values):
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array(values, object)

"""What figures are made of: tidy tables as columns, and arrays of example cases.

A table is a mapping from column name to a 1-D array; `rows` chooses among its rows. Promises: nothing is computed from predictions. A table or example that is not there is
empty, and every figure says what it needs by raising Absent, which `write` reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]

TEST = "test"
"""The cohort of clean held-out cases."""


class Absent(Exception):  # noqa: N818  # no error: a figure that has nothing to show
    """A figure's data are not there; the text says which."""


@dataclass(frozen=True, eq=False)
class Example:
    """A case to show: image (H, W) or (H, W, 3), labels (H, W) with anything but a class index for ignored pixels, decision (H, W), free energy (H, W), flipped (H, W)."""

    name: str
    cohort: str
    case: str
    image: NDArray[Any]
    labels: NDArray[Any]
    decision: NDArray[Any]
    energy: NDArray[Any]
    flipped: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Results:
    """Tidy tables by name, examples, class names and the index of the background."""

    tables: Mapping[str, Columns]
    examples: Sequence[Example] = ()
    classes: Sequence[str] = ()
    background: int | None = None

    def table(self, name: str) -> Columns:
        """A table with at least one row; Absent otherwise."""
        found = self.tables.get(name, {})
        if not size(found):
            raise Absent(f"no rows in the table '{name}'")
        return found

    def of(self, cohort: str) -> list[Example]:
        """Examples of a cohort; Absent for none."""
        found = [e for e in self.examples if e.cohort == cohort]
        if not found:
            raise Absent(f"no example of the cohort '{cohort}'")
        return found


def size(table: Columns) -> int:
    """Number of rows."""
    return len(next(iter(table.values()))) if table else 0


def rows(table: Columns, **chosen: Any) -> Columns:
    """The rows in which each named column has the given value."""
    keep = np.ones(size(table), bool)
    for name, value in chosen.items():
        keep &= np.asarray(table[name] == value)
    return {name: column[keep] for name, column in table.items()}


def values(table: Columns, column: str) -> list[Any]:
    """Values of a column in the order in which they first appear."""
    return list(dict.fromkeys(table[column].tolist()))


def by_repeat(table: Columns, column: str = "value") -> list[NDArray[np.float64]]:
    """The column repeat by repeat, in the order of repeats and, within one, of rows."""
    return [np.asarray(rows(table, repeat=r)[column], np.float64) for r in sorted(values(table, "repeat"))]


def among(table: Columns, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted pipelines that the table has, in the wanted order; Absent for none."""
    there = set(table["pipeline"].tolist())
    found = [p for p in wanted if p in there]
    if not found:
        raise Absent("none of the pipelines " + ", ".join(wanted))
    return found

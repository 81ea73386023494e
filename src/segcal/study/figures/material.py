"""What figures are made of: tidy tables as columns, and arrays of example cases.

A table is a mapping from column name to a 1-D array; `rows` chooses among its rows. Promises: nothing is computed from
predictions. A table or example that is not there is empty, and every figure says what it needs by raising Absent, which
`write` reports.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.errors import UnreadableError
from segcal.metrics.statistics.estimate import Estimate
from segcal.metrics.statistics.resamples import ByGroup, Resamples
from segcal.study.configuration import CLEAN
from segcal.study.results import Finished

Columns = Mapping[str, NDArray[Any]]


class Absent(Exception):  # noqa: N818  # no error: a figure that has nothing to show
    """A figure's data are not there; the text says which."""


@dataclass(frozen=True, eq=False)
class Example:
    """A case to show: labels (H, W) with anything but a class index where not scored, decision, energy and flipped (H,
    W), image (H, W) or (H, W, 3) of bytes or in [0, 1].

    What a study does not know (no images named, no raw logits, no matrix scaling) is None.
    """

    name: str
    cohort: str
    case: str
    labels: NDArray[Any]
    decision: NDArray[Any]
    image: NDArray[Any] | None = None
    energy: NDArray[Any] | None = None
    flipped: NDArray[np.bool_] | None = None

    @property
    def seen(self) -> NDArray[Any]:
        """The image, or a grey field where the study has none."""
        return np.full(self.labels.shape, 128, np.uint8) if self.image is None else self.image


@dataclass(frozen=True, eq=False)
class Material:
    """Tidy tables by name, examples, class names and the index of the background; `of` takes them from a finished
    study.
    """

    tables: Mapping[str, Columns]
    examples: Sequence[Example] = ()
    classes: Sequence[str] = ()
    background: int | None = None

    @classmethod
    def of(cls, finished: Finished) -> Material:
        """What a finished study holds. UnreadableError for a sample that cannot be read."""
        tables = {
            name: {column: one[column].to_numpy() for column in one.column_names}
            for name, one in finished.tables.items()
        }
        examples = []
        for row in finished.rows("samples"):
            path = finished.folder / row["file"]
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    examples.append(Example(row["name"], row["cohort"], row["case"], **arrays))
            except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
                raise UnreadableError(
                    str(path),
                    found="no sample of a study",
                    expected="arrays for pictures",
                    do="Delete it and run the study again: it re-uses what is done.",
                ) from error
        return cls(tables, examples, tuple(finished.about["classes"]), finished.about["background"])

    def table(self, name: str) -> Columns:
        """A table with at least one row; Absent otherwise."""
        found = self.tables.get(name, {})
        if not size(found):
            raise Absent(f"no rows in the table '{name}'")
        return found

    def of_clean(self, *needed: str) -> list[Example]:
        """Examples of clean test cases that have what is needed; Absent for none."""
        found = [e for e in self.examples if e.cohort == CLEAN and all(getattr(e, name) is not None for name in needed)]
        if not found:
            raise Absent("no sample of a clean test case" + "".join(f" with {name}" for name in needed))
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


def interval(table: Columns) -> Estimate:
    """Mean of repeat means of `value` over rows of repeats, cases and groups, with the interval that the tables have
    (groups and repeats resampled).
    """
    return Resamples(
        ByGroup(repeats=True), table["repeat"].tolist(), table["case"].tolist(), table["group"].tolist()
    ).interval(table["value"])


def among(table: Columns, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted pipelines that the table has, in the wanted order; Absent for none."""
    there = set(table["pipeline"].tolist())
    found = [p for p in wanted if p in there]
    if not found:
        raise Absent("none of the pipelines " + ", ".join(wanted))
    return found

"""The tidy tables of a study: what its tables and figures are made from, each as CSV and Parquet.

    scores        cohort, repeat, pipeline, case, group, metric, value       errors of each case (fractions; NaN where
                  not defined)
    pooled        cohort, repeat, pipeline, metric, value                    over a repeat's test cases: ace and its bin
                  counts, ece_pooled, classwise_ece, flips by kind, voxels
    curves        cohort, repeat, pipeline, bins, bin, voxels, confidence, accuracy     reliability curves of a repeat
    bands         cohort, repeat, pipeline, low, high, voxels, confidence, accuracy, distance     calibration by
                  distance to a label boundary
    energy        members, case, group, std                                  spread of the free energy for the first
                  members, every clean case
    sizes         size, repeat, pipeline, case, group, metric, value         as scores, by calibration set size
    sizes_pooled  size, repeat, pipeline, metric, value
    fits          repeat, pipeline, method, view, cases, optimised, identifiable, objective, nll, validation_nll,
                  strengths, status, gap, passes, message, and its guarantees
    partition     repeat, case, group, role
    cases         cohort, case, group, and digests of its labels and of its mean logits, by which data are recognised
    samples       name, cohort, case, file
    corruptions   cohort, file, kind, severity, parameters (JSON)            what was done to images of shifted cohorts

Promises: they depend on the files of fits and scores alone, not on the order in which those came to be; rows are in the
order of cohorts, repeats, pipelines and cases. A study of region heads has means over its regions in scores and pooled,
and curves and bands over the voxels of all regions. A table of nothing has its columns and no row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.data.files import journal
from segcal.data.files.reading import json_object
from segcal.errors import MissingError, UnreadableError, extra

with extra("study"):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

Rows = list[dict[str, Any]]

_TEXT, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()

_OF_CASE = {"pipeline": _TEXT, "case": _TEXT, "group": _TEXT, "metric": _TEXT, "value": _NUMBER}
_OF_REPEAT = {"pipeline": _TEXT, "metric": _TEXT, "value": _NUMBER}
_BINNED = {"voxels": _WHOLE, "confidence": _NUMBER, "accuracy": _NUMBER}

SCHEMAS: dict[str, dict[str, Any]] = {
    "scores": {"cohort": _TEXT, "repeat": _WHOLE, **_OF_CASE},
    "pooled": {"cohort": _TEXT, "repeat": _WHOLE, **_OF_REPEAT},
    "curves": {"cohort": _TEXT, "repeat": _WHOLE, "pipeline": _TEXT, "bins": _WHOLE, "bin": _WHOLE, **_BINNED},
    "bands": {
        "cohort": _TEXT,
        "repeat": _WHOLE,
        "pipeline": _TEXT,
        "low": _NUMBER,
        "high": _NUMBER,
        **_BINNED,
        "distance": _NUMBER,
    },
    "energy": {"members": _WHOLE, "case": _TEXT, "group": _TEXT, "std": _NUMBER},
    "sizes": {"size": _WHOLE, "repeat": _WHOLE, **_OF_CASE},
    "sizes_pooled": {"size": _WHOLE, "repeat": _WHOLE, **_OF_REPEAT},
    "fits": {
        "repeat": _WHOLE,
        "size": _WHOLE,
        "pipeline": _TEXT,
        "method": _TEXT,
        "view": _TEXT,
        "cases": _WHOLE,
        "optimised": _WHOLE,
        "identifiable": _WHOLE,
        "translation_invariant": _TEXT,
        "preserves": _TEXT,
        "objective": _NUMBER,
        "nll": _NUMBER,
        "validation_nll": _NUMBER,
        "strengths": _TEXT,
        "status": _TEXT,
        "gap": _NUMBER,
        "passes": _WHOLE,
        "message": _TEXT,
    },
    "partition": {"repeat": _WHOLE, "case": _TEXT, "group": _TEXT, "role": _TEXT},
    "cases": {"cohort": _TEXT, "case": _TEXT, "group": _TEXT, "labels": _TEXT, "scores": _TEXT},
    "corruptions": {"cohort": _TEXT, "file": _TEXT, "kind": _TEXT, "severity": _TEXT, "parameters": _TEXT},
    "samples": {"name": _TEXT, "cohort": _TEXT, "case": _TEXT, "file": _TEXT},
}
"""Columns of each table."""


ByCase = Mapping[tuple[str, str, str], Mapping[str, float]]
"""By cohort, pipeline and metric, a number of each case."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A study's tidy `tables` by name, its own record `about` (classes, configuration, versions), and the `folder` they
    lie in; `notes`: what was left out, and why.
    """

    folder: Path
    about: Mapping[str, Any]
    tables: Mapping[str, pa.Table]
    notes: tuple[str, ...] = ()

    def rows(self, name: str) -> Rows:
        """A table as plain rows; none where there is nothing."""
        found: Rows = self.tables[name].to_pylist()
        return found

    def by_case(self, metrics: Iterable[str]) -> tuple[ByCase, dict[str, str]]:
        """Numbers of cases, means over the repeats they are tested in, NaN where a number is never defined; and the
        group of each case.
        """
        wanted, groups = set(metrics), dict[str, str]()
        found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for row in self.rows("scores"):
            if row["metric"] in wanted:
                of_case = found.setdefault((row["cohort"], row["pipeline"], row["metric"]), {})
                of_case.setdefault(row["case"], []).append(row["value"])
                groups[row["case"]] = row["group"]
        return {key: {case: means(values) for case, values in by.items()} for key, by in found.items()}, groups


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a tidy table; what a row lacks is null. Bytes of a name that are no UTF-8 are escaped."""
    schema = pa.schema(list(SCHEMAS[name].items()))
    given = list(rows)
    return pa.table(
        {column: pa.array([_utf8(row.get(column)) for row in given], kind) for column, kind in SCHEMAS[name].items()},
        schema=schema,
    )


def _utf8(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write every table as CSV and Parquet; each file is complete or as it was."""
    for name, one in tables.items():
        with journal.atomic(folder / f"{name}.csv") as temporary:
            pyarrow.csv.write_csv(one, temporary)
        with journal.atomic(folder / f"{name}.parquet") as temporary:
            pyarrow.parquet.write_table(one, temporary)


def read(folder: str | os.PathLike[str]) -> Finished:
    """The results of a study folder.

    MissingError where there are none, UnreadableError where a table is not one of a study.
    """
    where = Path(folder)
    about = where / "study.json"
    if not about.is_file() or not (where / "results").is_dir():
        raise MissingError(
            str(where),
            found="no study.json and results",
            expected="a study that has been run",
            do="Run it: segcal study CONFIG -o OUT.",
        )
    tables = {}
    for name, columns in SCHEMAS.items():
        path = where / "results" / f"{name}.parquet"
        try:
            tables[name] = pyarrow.parquet.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UnreadableError(
                str(path),
                found="no table",
                expected="a table of a study",
                do="Run the study again: it re-uses what is done.",
            ) from error
        if tables[name].column_names != list(columns):
            raise UnreadableError(
                str(path),
                found=f"columns {tables[name].column_names}",
                expected=f"{list(columns)}",
                do="Run the study again with this version: it re-uses what is done.",
            )
    return Finished(where, json_object(about, "Run the study again: it re-uses what is done."), tables)


def means(values: Sequence[float]) -> float:
    """Mean of what is defined; NaN where nothing is."""
    some = [v for v in values if not math.isnan(v)]
    return math.fsum(some) / len(some) if some else math.nan

"""What a finished study gives its tables: its name, classes and seed, its tidy tables, and one resampling of each
cohort.

    Results.cohorts          "test" first, then the shifted ones
    Results.grid(cohort)     scores as (metrics, rows, pipelines), a row a repeat and case; made once
    Results.pooled(...)      numbers of repeats (ACE and the like)
    Results.resamples(...)   the draws of a cohort, the same for every table; made once a scheme

Promises: computed from the tidy tables alone; each value of a repeat, pipeline, case and metric stands once
(DataError), what is absent is NaN. A table that is not there: MissingError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.errors import DataError, MissingError
from segcal.metrics.statistics.coverage import warning
from segcal.metrics.statistics.estimate import REPLICATES
from segcal.metrics.statistics.resamples import Resamples, Scheme
from segcal.study.configuration import CLEAN
from segcal.study.results import Finished
from segcal.study.tables.frame import Frame


@dataclass(frozen=True, eq=False)
class Grid:
    """Scores of one cohort: `values` (metrics, rows, pipelines), with repeat, case and group of each row."""

    metrics: tuple[str, ...]
    pipelines: tuple[str, ...]
    repeats: list[Any]
    cases: list[str]
    groups: list[str]
    values: NDArray[np.float64]

    def column(self, pipeline: str, metric: str) -> NDArray[np.float64]:
        """Values (rows,) of one pipeline and metric; NaN where there are none."""
        if pipeline not in self.pipelines or metric not in self.metrics:
            return np.full(len(self.cases), np.nan)
        return np.asarray(self.values[self.metrics.index(metric), :, self.pipelines.index(pipeline)])


@dataclass(eq=False)
class Results:
    """One study by its `name`; `tables` are the tidy tables (pyarrow or rows), `seed` that of its partitions and draws,
    `replicates` those of a bootstrap; `modality` of the images and number of `training` cases, where known.
    """

    name: str
    classes: int
    seed: int
    tables: Mapping[str, Any]
    replicates: int = REPLICATES
    modality: str = ""
    training: int | None = None
    _frames: dict[str, Frame] = field(init=False, repr=False, default_factory=dict)
    _grids: dict[str, Grid] = field(init=False, repr=False, default_factory=dict)
    _resamples: dict[tuple[str, str], Resamples] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def of(cls, finished: Finished) -> Results:
        """Those of a study that has been run."""
        configuration = finished.about["configuration"]
        return cls(
            configuration["name"],
            len(finished.about["classes"]),
            configuration["seed"],
            finished.tables,
            configuration["replicates"],
            configuration.get("modality", ""),
            configuration.get("training_cases"),
        )

    def frame(self, name: str) -> Frame:
        """A tidy table by name."""
        if name not in self.tables:
            raise MissingError(
                f"study {self.name}",
                found=f"tables {sorted(self.tables)}",
                expected=f"a table {name!r}",
                do="Run the study to its end first.",
            )
        if name not in self._frames:
            self._frames[name] = Frame.of(name, self.tables[name])
        return self._frames[name]

    @property
    def cohorts(self) -> list[str]:
        """All cohorts scored, the clean one first."""
        found = self.frame("scores").different("cohort")
        return sorted(found, key=lambda c: c != CLEAN)

    def grid(self, cohort: str = CLEAN) -> Grid:
        """The scores of a cohort."""
        if cohort not in self._grids:
            self._grids[cohort] = _grid(self.frame("scores").where(cohort=cohort))
        return self._grids[cohort]

    def pooled(self, cohort: str, pipeline: str, metric: str) -> NDArray[np.float64]:
        """Numbers of repeats (R,) in the order of repeats; empty where there are none."""
        found = self.frame("pooled").where(cohort=cohort, pipeline=pipeline, metric=metric)
        return np.asarray(found["value"], np.float64)[np.argsort(found["repeat"], kind="stable")]

    def stopped(self) -> dict[str, tuple[int, int]]:
        """Of pipelines whose fits were ended by a limit of steps or epochs, not by their own rule: how many of how many
        fits.
        """
        counts: dict[str, list[int]] = {}
        for pipeline, status in zip(*(self.frame("fits")[c] for c in ("pipeline", "status")), strict=True):
            of = counts.setdefault(pipeline, [0, 0])
            of[0] += status == "stopped"
            of[1] += 1
        return {p: (n, total) for p, (n, total) in counts.items() if n}

    def resamples(self, cohort: str, scheme: Scheme) -> Resamples:
        """The draws of a cohort under a scheme."""
        key = (cohort, scheme.name)
        if key not in self._resamples:
            grid = self.grid(cohort)
            self._resamples[key] = Resamples(
                scheme, grid.repeats, grid.cases, grid.groups, seed=self.seed, replicates=self.replicates
            )
        return self._resamples[key]

    def note(self, cohorts: Sequence[str]) -> str:
        """Repeats, cases and seed of some cohorts, in a sentence."""
        parts = []
        for cohort in cohorts:
            grid = self.grid(cohort)
            sizes, count = _counts(grid.repeats), len(set(grid.repeats))
            size = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
            parts.append(
                f"{'' if cohort == CLEAN else cohort + ': '}{count} {'repeat' if count == 1 else 'repeats'} of {size}"
                f" test cases ({len(set(grid.cases))} different ones in {len(set(grid.groups))} groups)"
            )
        return f"{self.name}: {'; '.join(parts)}; seed {self.seed}."

    def warning(self, cohort: str, scheme: Scheme) -> str:
        """The warning that intervals of this cohort need; empty where none."""
        grid = self.grid(cohort)
        if not grid.cases:
            return ""
        together = set(zip(grid.repeats, grid.groups, strict=True))
        groups = _counts([repeat for repeat, _ in together])
        return warning(scheme, len(groups), min(groups), shared=len(together) > len(set(grid.groups)))


def _counts(labels: Sequence[Any]) -> list[int]:
    return np.unique(np.array(labels, object).astype(str), return_counts=True)[1].tolist() if labels else [0]


def _grid(scores: Frame) -> Grid:
    pipelines, metrics = scores.different("pipeline"), scores.different("metric")
    keys = list(zip(scores["repeat"].tolist(), scores["case"].tolist(), strict=True))
    rows = {key: k for k, key in enumerate(sorted(set(keys)))}
    groups = dict(zip(keys, scores["group"].tolist(), strict=True))
    row = np.array([rows[key] for key in keys], np.int64)
    which = [_codes(scores[name], known) for name, known in (("metric", metrics), ("pipeline", pipelines))]
    values, count = (
        np.full((len(metrics), len(rows), len(pipelines)), np.nan),
        np.zeros((len(metrics), len(rows), len(pipelines)), np.int64),
    )
    np.add.at(count, (which[0], row, which[1]), 1)
    if count.size and count.max() > 1:
        m, r, p = (int(i) for i in np.unravel_index(int(count.argmax()), count.shape))
        found = f"{metrics[m]} of {pipelines[p]} on {list(rows)[r][1]} in repeat {list(rows)[r][0]} {count.max()} times"
        raise DataError(
            "table scores",
            found=found,
            expected="each value once",
            do="Merge the parts of a study with `segcal merge`, which keeps each part once.",
        )
    values[which[0], row, which[1]] = scores["value"]
    return Grid(
        tuple(metrics),
        tuple(pipelines),
        [r for r, _ in rows],
        [c for _, c in rows],
        [groups[key] for key in rows],
        values,
    )


def _codes(values: NDArray[Any], known: Sequence[Any]) -> NDArray[np.int64]:
    number = {v: k for k, v in enumerate(known)}
    return np.array([number[v] for v in values.tolist()], np.int64)

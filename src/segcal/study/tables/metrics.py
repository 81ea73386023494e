"""The numbers of the tables: which there are, how they are shown, and their means, intervals and ranges.

Means are those of repeat means; numbers pooled over a repeat's cases (ACE) are given as mean [min, max] over repeats,
as the paper does, for there is nothing below a repeat to draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from segcal.metrics.registry import added
from segcal.metrics.statistics.estimate import repeat_range
from segcal.metrics.statistics.resamples import Scheme
from segcal.study.tables.results import Results
from segcal.study.tables.table import Number


@dataclass(frozen=True)
class Metric:
    """`key` in the tidy tables, `head` in print; `better` as in `Column`; `pooled` where it has one value a repeat."""

    key: str
    head: str
    better: int
    decimals: int = 3
    scale: float = 1.0
    pooled: bool = False


FLIPS = Metric("flip_rate", "Flip", -1, 1, 100)
MAIN = (
    Metric("nll", "NLL", -1),
    Metric("dice", "DSC", 1, 1, 100),
    Metric("ece", "ECE", -1),
    Metric("ba_ece", "BA-ECE", -1),
    Metric("ace", "ACE", -1, pooled=True),
    FLIPS,
)
"""Columns of Tables 4, 7 and 8, in the paper's order."""


def columns() -> tuple[Metric, ...]:
    """Columns of Tables 4, 7 and 8: the paper's, then metrics from outside."""
    more = [
        Metric(key, kind.label, kind.better, 1 if kind.per_cent else 3, 100 if kind.per_cent else 1, kind.pooled)
        for key, kind in added().items()
    ]
    return (*MAIN, *more)


Points: TypeAlias = Mapping[tuple[str, str], Number]
"""Numbers by pipeline and key of the metric."""


def summary(results: Results, cohort: str, scheme: Scheme) -> dict[tuple[str, str], Number]:
    """Every number of `columns` of every pipeline of a cohort, with its interval or range."""
    grid = results.grid(cohort)
    drawn = [m for m in columns() if not m.pooled]
    wanted = [(pipeline, m.key) for pipeline in grid.pipelines for m in drawn]
    out: dict[tuple[str, str], Number] = {}
    if wanted:
        estimates = results.resamples(cohort, scheme).intervals(np.stack([grid.column(*c) for c in wanted], 1))
        out |= {column: Number(e.mean, (e.low, e.high)) for column, e in zip(wanted, estimates, strict=True)}
    for pipeline in grid.pipelines:
        for m in columns():
            if m.pooled:
                found = repeat_range(results.pooled(cohort, pipeline, m.key))
                out[pipeline, m.key] = Number(found.mean, (found.low, found.high))
    return out

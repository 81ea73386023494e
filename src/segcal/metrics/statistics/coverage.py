"""How often the bootstrap intervals of a study cover the truth, measured, and the warning that follows from it.

`coverage.csv` beside this file holds what `python -m benchmarks.coverage -o docs/results/coverage.md --data
src/segcal/metrics/statistics/coverage.csv` measured: the share of simulated studies whose nominal 95 % interval held
the true mean. A study has R repeats, each tested on n cases of one pool of 1.4 n, and a value is sqrt(ratio) a_r +
sqrt(shared) c_i + sqrt(1 - shared) e_ri: `ratio` is the variance between repeats (fits) over that between cases,
`shared` the part of the latter that a case keeps from repeat to repeat. Promises: a warning states measured figures
alone, for the nearest simulated R and n not above those asked about; below the smallest simulated, the figures of the
smallest, and says so.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from segcal.errors import UsageError
from segcal.metrics.statistics.resamples import Scheme

TOLERATED = 0.90
"""An interval whose coverage may lie below this gets a warning: at 10 repeats of 10 independent cases it does not under
groups and repeats, at 5 it does.
"""


@dataclass(frozen=True)
class Cell:
    """One simulated design and the share of its 95 % intervals that covered the truth."""

    scheme: str
    repeats: int
    cases: int
    ratio: float
    shared: float
    coverage: float


@cache
def measured() -> tuple[Cell, ...]:
    """All cells of the stored simulation."""
    with files("segcal.metrics.statistics").joinpath("coverage.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return tuple(
            Cell(
                r["scheme"],
                int(r["repeats"]),
                int(r["cases"]),
                float(r["ratio"]),
                float(r["shared"]),
                float(r["coverage"]),
            )
            for r in rows
        )


def covered(scheme: Scheme, repeats: int, cases: int, *, shared: bool) -> tuple[float, float]:
    """Least and greatest measured coverage over the variances simulated, at the nearest simulated numbers of repeats
    and of cases (or groups) a repeat that are not above those given.

    `shared`: whether repeats are tested on some of the same cases, as partitions of one pool are.
    """
    if repeats < 1 or cases < 1:
        raise UsageError(
            "study",
            found=f"{repeats} repeats of {cases} cases",
            expected="at least one of each",
            do="Give the numbers of the study.",
        )
    mine = [c for c in measured() if c.scheme == scheme.name]
    if not mine:
        raise UsageError(
            "scheme",
            found=scheme.name,
            expected=f"one of {sorted({c.scheme for c in measured()})}",
            do="Add it to benchmarks/coverage.py and measure it.",
        )
    near = (_below(repeats, {c.repeats for c in mine}), _below(cases, {c.cases for c in mine}))
    found = [c.coverage for c in mine if (c.repeats, c.cases) == near and (c.shared > 0) == shared]
    return min(found), max(found)


def _below(number: int, simulated: set[int]) -> int:
    return max((s for s in simulated if s <= number), default=min(simulated))


def warning(scheme: Scheme, repeats: int, cases: int, *, shared: bool) -> str:
    """What to print below intervals of a study with so many repeats and cases (or groups) a repeat; empty where
    coverage stays above `TOLERATED`.
    """
    low, high = covered(scheme, repeats, cases, shared=shared)
    few = cases < min(c.cases for c in measured())
    if low >= TOLERATED and not few:
        return ""
    counted = (
        f"{repeats} {'repeat' if repeats == 1 else 'repeats'} of {cases} independent test"
        f" {'case' if cases == 1 else 'cases'}"
    )
    like = "with more cases" if few else "like this"
    return (
        f"Do not take these intervals for 95 %: {counted}. In simulated studies {like} a nominal 95 % interval"
        f" ({scheme.name} bootstrap) covered the truth {100 * low:.0f} to {100 * high:.0f} % of the time, by how"
        " variance divides between repeats and cases."
    )

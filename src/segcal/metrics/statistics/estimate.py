"""What a mean with an interval is, and what a number over repeats without one is.

Promises: plain values, NaN where there is nothing; `to_json` gives None for NaN. An interval is a claim about the mean
only as far as its coverage goes: see `segcal.metrics.statistics.coverage`. Source: definitions 7.6, 7.9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.errors import UsageError

REPLICATES = 2000
"""Bootstrap replicates unless given (K26)."""

LEVEL = 0.95
"""Level of an interval unless given (K26)."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval: `low` and `high` at `level`, and its `standard_error`, NaN where there is none, and
    then `reason` says why.

    `values` were used, `dropped` were NaN; the values used lie in `groups` groups (for a hierarchical bootstrap:
    repeats).
    """

    mean: float
    low: float
    high: float
    standard_error: float
    level: float
    values: int
    dropped: int
    groups: int
    reason: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero. No interval: False."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None where not defined."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high, "standard_error": self.standard_error}
        plain: dict[str, Any] = {k: None if math.isnan(v) else v for k, v in numbers.items()}
        return {
            **plain,
            "level": self.level,
            "values": self.values,
            "dropped": self.dropped,
            "groups": self.groups,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Range:
    """Mean, least and greatest of one number a repeat: what ACE is reported as (K26).

    It is the range seen, not an interval for anything.
    """

    mean: float
    low: float
    high: float
    values: int
    dropped: int


def repeat_range(values: ArrayLike) -> Range:
    """Mean [min, max] of numbers of repeats (R,). NaN dropped and counted; nothing left: NaN."""
    x = np.asarray(values, np.float64).ravel()
    known = x[~np.isnan(x)]
    if not known.size:
        return Range(math.nan, math.nan, math.nan, 0, x.size)
    return Range(math.fsum(known) / known.size, float(known.min()), float(known.max()), known.size, x.size - known.size)


def percentile(
    mean: float, replicates: NDArray[np.float64], level: float, count: int, dropped: int, groups: int, reason: str = ""
) -> Estimate:
    """The percentile interval of bootstrap replicates (B,), linear between order statistics."""
    low, high = np.percentile(replicates, [round(50 * (1 - level), 10), round(50 * (1 + level), 10)], method="linear")
    return Estimate(mean, float(low), float(high), float(replicates.std(ddof=1)), level, count, dropped, groups, reason)


def bare(x: NDArray[np.float64], level: float, dropped: int, groups: int) -> Estimate:
    """What can be said with less than two groups: at most a mean."""
    nan = math.nan
    if groups == 0:
        return Estimate(nan, nan, nan, nan, level, 0, dropped, 0, "no value to average")
    return Estimate(
        math.fsum(x) / len(x),
        nan,
        nan,
        nan,
        level,
        len(x),
        dropped,
        1,
        "one group: its spread says nothing about other groups",
    )


def check(level: float, replicates: int) -> None:
    """UsageError for a level outside (0, 1) or fewer than two replicates."""
    if not 0 < level < 1:
        raise UsageError(
            "level", found=str(level), expected="a number between 0 and 1", do="Give a level such as 0.95."
        )
    if replicates < 2:
        raise UsageError("replicates", found=str(replicates), expected="at least 2", do=f"Use some {REPLICATES}.")

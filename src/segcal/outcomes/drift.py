"""Whether new cases look like those that thresholds were set by.

Of each case three numbers are known without labels: the mean confidence over what is delivered as any structure, the
entropy over all voxels for each such voxel, and the mean expected Dice of its structures. `drift` asks for each whether
new cases could be drawn from where the reference groups were, in two ways: by the whole distribution (two-sample
Kolmogorov-Smirnov, exact for small numbers), and by how many new cases lie beyond every reference group on one side
(Rosenbaum 1954, exact: shifts of images spoil a few cases a lot before they move the others). A number's p-value is
twice the smaller of both, Holm's adjustment is over the three; below `LEVEL` cases are called unlike. `unlike` gives
each case a p-value of its own: how rare its most unusual number is among the reference's (rank-based, two-sided, times
the three). New cases count as patients: several of one patient make a difference seem surer than it is. Guarantees
over patients are void where the cases are unlike; that no difference is seen does not show that there is none. No case,
or no reference: nothing to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from segcal.metrics.statistics.multiplicity import holm
from segcal.outcomes.reference import STATISTICS

LEVEL = 0.01
"""How rare a difference must be by chance to be called one."""

WORDS = {"confidence": "confidence", "entropy": "entropy", "expected_dice": "expected Dice"}


@dataclass(frozen=True)
class Compared:
    """One number: the medians of the reference and of the new cases, how many of these lie `below` and `above` every
    reference group, and the adjusted p-value.
    """

    name: str
    reference: float
    new: float
    below: int
    above: int
    p: float

    @property
    def differs(self) -> bool:
        """Whether that is no chance."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Drift:
    """What comparing `cases` new cases with `groups` says."""

    found: tuple[Compared, ...]
    cases: int
    groups: int

    @property
    def differs(self) -> bool:
        """Whether any number does."""
        return any(one.differs for one in self.found)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "differs": self.differs,
            "cases": self.cases,
            "groups": self.groups,
            **{one.name: {k: v for k, v in asdict(one).items() if k != "name"} for one in self.found},
        }

    @property
    def sentence(self) -> str:
        """In words."""
        if not self.found:
            return ""
        if not self.differs:
            return (
                f"The {self.cases} case(s) look like the {self.groups} groups that the thresholds were set by, as far"
                " as confidence, entropy and expected Dice can tell."
            )
        told = "; ".join(
            f"{WORDS[one.name]}, in the median {one.new:.3g} against {one.reference:.3g}, {one.below} below and"
            f" {one.above} above all of these (p = {one.p:.1g})"
            for one in self.found
            if one.differs
        )
        return (
            f"UNLIKE the {self.groups} groups that the thresholds were set by: {told}. Bounds, intervals and outer"
            f" masks promise nothing for such cases ({self.cases}); label some of them and fit again."
        )


def drift(reference: Mapping[str, Sequence[float]], new: Sequence[Mapping[str, float]]) -> Drift:
    """The numbers of new cases (`segcal.outcomes.reference.statistics_of`) beside those of reference groups."""
    from scipy import stats  # half a second, which no other command needs

    rows = []
    for name in STATISTICS:
        old = np.asarray(reference.get(name, ()), np.float64)
        fresh = np.array([one[name] for one in new if not np.isnan(one[name])])
        if old.size and fresh.size:
            below, above = int((fresh < old.min()).sum()), int((fresh > old.max()).sum())
            whole = float(stats.ks_2samp(old, fresh).pvalue)
            p = min(1.0, 2 * min(whole, beyond(old.size, fresh.size, max(below, above))))
            rows.append(Compared(name, float(np.median(old)), float(np.median(fresh)), below, above, p))
    adjusted = holm([row.p for row in rows])
    groups = max((len(values) for values in reference.values()), default=0)
    return Drift(tuple(replace(row, p=float(p)) for row, p in zip(rows, adjusted, strict=True)), len(new), groups)


def beyond(reference: int, new: int, count: int) -> float:
    """How probable it is that at least `count` of so many `new` numbers lie beyond all of so many `reference` ones on
    one side or the other, where all are drawn alike: at most twice the chance that the outermost `count` are new.
    """
    return min(1.0, 2 * math.prod((new - k) / (reference + new - k) for k in range(count)))


def unlike(reference: Mapping[str, Sequence[float]], case: Mapping[str, float]) -> float:
    """How rare a case is among the reference: a p-value; 1 where nothing is known."""
    found = []
    for name in STATISTICS:
        old = np.asarray(reference.get(name, ()), np.float64)
        value = case[name]
        if old.size and not np.isnan(value):
            tail = min(int((old <= value).sum()), int((old >= value).sum()))
            found.append(2 * (1 + tail) / (1 + old.size))
    return min(1.0, len(found) * min(found)) if found else 1.0

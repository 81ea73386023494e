"""Labelled cases that judge a calibrator they did not fit: from their sums, thresholds with a guarantee for patients.

Of each group (patient) a reference keeps, by structure, the largest expected minus true Dice of its cases, the largest
error of a soft volume in units of its spread, and which share of the structure a mask p >= t misses, its cases taken
together; and of all groups confidence, entropy and expected Dice, with which new cases are compared. With these

    dice_bound    expected minus true Dice of all cases of a new patient is at most that, with probability 1 - alpha
    volume_bound  |true - soft volume| / (1 + sum p (1 - p)) of all of them is at most that, with probability 1 - alpha
    threshold     a mask p >= t misses at most a share alpha of a new patient's structure, in the mean over patients

(`segcal.outcomes.conformal`). `how` says what the guarantee is worth: of groups that were `set aside` it is that of
split-conformal prediction; `cross-fitted`, each group judged by a calibrator fitted without it and new ones by that of
all groups, it is one that holds if leaving a fold out changes little, as in cross-conformal prediction (Vovk 2015), and
is proven at 1 - 2 alpha only for jackknife+ (Barber et al. 2021), which this is not. A structure that nobody labelled
or delivered has no numbers: TooFewError where a threshold is asked for. Costs: some numbers a group and structure,
whatever the size of the cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcal.engine.accumulate import ExactSum
from segcal.errors import UnreadableError
from segcal.outcomes.conformal import TooFewError, bound, controlled
from segcal.outcomes.sums import THRESHOLDS, CaseOutcome

How = Literal["set aside", "cross-fitted"]

HOWS: tuple[How, ...] = ("set aside", "cross-fitted")

STATISTICS = ("confidence", "entropy", "expected_dice")
"""What new cases are compared by."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What is kept of `cases` in `groups`, judged `how`; by structure in the order of `structures`. `dice` has one list
    more, of means over structures; `missed`: for each structure the mean share below each threshold, over
    `with_structure` groups.
    """

    structures: tuple[str, ...]
    how: How
    cases: int
    groups: int
    dice: tuple[tuple[float, ...], ...]
    volume: tuple[tuple[float, ...], ...]
    missed: tuple[tuple[float, ...], ...]
    with_structure: tuple[int, ...]
    statistics: Mapping[str, tuple[float, ...]]

    def dice_bound(self, structure: int, alpha: float) -> float:
        """Of the structure of that number; of the mean, for -1."""
        return bound(self.dice[structure], alpha)

    def volume_bound(self, structure: int, alpha: float) -> float:
        """In units of 1 + sum p (1 - p)."""
        return bound(self.volume[structure], alpha)

    def threshold(self, structure: int, alpha: float) -> float:
        """Where to cut. TooFewError for too few groups, or where even the lowest threshold misses too much."""
        n = self.with_structure[structure]
        found = controlled(self.missed[structure], n, alpha)
        if found < 0:
            raise TooFewError(
                self.structures[structure],
                found=f"{100 * self.missed[structure][0]:.2g} % missed by a mask of all that is not nearly impossible",
                expected=f"at most {100 * ((n + 1) * alpha - 1) / n:.2g} %, of {n} groups",
                do="Ask for a larger share, fit with more patients, or use another method.",
            )
        return float(THRESHOLDS[found])

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "structures": list(self.structures),
            "how": self.how,
            "cases": self.cases,
            "groups": self.groups,
            "dice": [list(x) for x in self.dice],
            "volume": [list(x) for x in self.volume],
            "missed": [list(x) for x in self.missed],
            "with_structure": list(self.with_structure),
            "statistics": {name: list(x) for name, x in self.statistics.items()},
        }

    @classmethod
    def from_json(cls, described: Mapping[str, Any], where: str = "reference") -> Reference:
        """The reference that `to_json` described. UnreadableError for anything else."""
        try:
            names = tuple(map(str, described["structures"]))
            lists = {key: tuple(_numbers(x) for x in described[key]) for key in ("dice", "volume", "missed")}
            statistics = {name: _numbers(described["statistics"][name]) for name in STATISTICS}
            counts = tuple(map(int, described["with_structure"]))
            fits = len(lists["dice"]) == len(names) + 1 and described["how"] in HOWS
            fits &= all(len(x) == len(names) for x in (lists["volume"], lists["missed"], counts))
            fits &= all(len(x) == len(THRESHOLDS) for x in lists["missed"])
            if not fits:
                raise ValueError("lists of other lengths")
            return cls(
                names,
                described["how"],
                int(described["cases"]),
                int(described["groups"]),
                **lists,
                with_structure=counts,
                statistics=statistics,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableError(
                where,
                found="numbers of reference cases that cannot be read",
                expected="what segcal fit keeps in a calibrator",
                do="Fit again.",
            ) from error


def _numbers(values: Any) -> tuple[float, ...]:
    found = tuple(float(v) for v in values)
    if not np.isfinite(found).all():
        raise ValueError("not finite")
    return found


@dataclass(eq=False)
class _Group:
    """What is known of a group while its cases come in."""

    left: int
    dice: NDArray[np.float64]
    volume: NDArray[np.float64]
    hits: NDArray[np.int64]
    statistics: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STATISTICS})


class Gathering:
    """A reference in the making: cases, of the `groups` they are in, are added in any order."""

    def __init__(self, names: Sequence[str], groups: Sequence[str], how: How) -> None:
        self._names, self._how, self._groups = tuple(names), how, tuple(groups)
        self._sizes = Counter(groups)
        self._open: dict[str, _Group] = {}
        count = len(self._names)
        self._missed = ExactSum((count, len(THRESHOLDS)))
        self._sums = self._missed.zero()
        self._with = np.zeros(count, np.int64)
        self._dice: list[list[float]] = [[] for _ in range(count + 1)]
        self._volume: list[list[float]] = [[] for _ in range(count)]
        self._statistics: dict[str, list[float]] = {name: [] for name in STATISTICS}

    def add(self, case: int, outcome: CaseOutcome) -> None:
        """Add a case, by its number in `groups`; it must have a histogram."""
        assert outcome.histogram is not None
        name, count = self._groups[case], len(self._names)
        group = self._open.get(name)
        if group is None:
            nothing = np.full(count + 1, -np.inf)
            hits = np.zeros((count, len(THRESHOLDS) + 1), np.int64)
            group = self._open[name] = _Group(self._sizes[name], nothing, nothing[:-1].copy(), hits)
        group.dice = np.fmax(group.dice, dice_errors(outcome))
        group.volume = np.fmax(group.volume, np.abs(volume_errors(outcome)))
        group.hits += outcome.histogram[1]
        for key, value in statistics_of(outcome).items():
            if not np.isnan(value):
                group.statistics[key].append(value)
        group.left -= 1
        if not group.left:
            self._close(self._open.pop(name))

    def _close(self, group: _Group) -> None:
        for kept, values in ((self._dice, group.dice), (self._volume, group.volume)):
            for mine, value in zip(kept, values.tolist(), strict=True):
                if np.isfinite(value):
                    mine.append(value)
        there = group.hits.sum(1)
        below = np.cumsum(group.hits, 1)[:, :-1]
        shares = np.divide(below, there[:, None], out=np.zeros(below.shape), where=there[:, None] > 0)
        self._sums = self._missed.merge(self._sums, self._missed.lift(shares))
        self._with += there > 0
        for key, known in group.statistics.items():
            if known:
                self._statistics[key].append(float(np.mean(sorted(known))))

    def done(self) -> Reference:
        """Of all groups whose cases have come in."""
        total = self._missed.value(self._sums)
        missed = np.divide(total, self._with[:, None], out=np.zeros(total.shape), where=self._with[:, None] > 0)
        return Reference(
            self._names,
            self._how,
            len(self._groups) - sum(g.left for g in self._open.values()),
            len(self._sizes) - len(self._open),
            tuple(tuple(sorted(x)) for x in self._dice),
            tuple(tuple(sorted(x)) for x in self._volume),
            tuple(map(tuple, missed.tolist())),
            tuple(self._with.tolist()),
            {key: tuple(sorted(x)) for key, x in self._statistics.items()},
        )


def dice_errors(outcome: CaseOutcome) -> NDArray[np.float64]:
    """Expected minus true Dice of each structure, then of their mean (S + 1,); NaN where one is not defined."""
    expected, true = outcome.expected_dice, outcome.true_dice
    return np.append(expected - true, mean_of(expected) - mean_of(np.where(np.isnan(expected), np.nan, true)))


def volume_errors(outcome: CaseOutcome) -> NDArray[np.float64]:
    """True minus soft volume of each structure (S,), in units of `volume_scale`."""
    return np.asarray((outcome.labelled - outcome.total) / volume_scale(outcome))


def volume_scale(outcome: CaseOutcome) -> NDArray[np.float64]:
    """1 + sum p (1 - p) of each structure (S,), voxels: what a volume's error grows with where errors of neighbours go
    together, as they do.
    """
    return np.asarray(1 + outcome.spread)


def statistics_of(outcome: CaseOutcome) -> dict[str, float]:
    """What a case is compared by."""
    return {
        "confidence": outcome.confidence,
        "entropy": outcome.entropy,
        "expected_dice": mean_of(outcome.expected_dice),
    }


def mean_of(values: NDArray[np.float64]) -> float:
    """The mean of what is known; NaN for nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")

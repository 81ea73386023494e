"""What a comparison of before and after shows, in words: better, worse, or that it cannot be told.

A number is *better* where the interval of its change lies below zero, *worse* where it lies above; each word is right
as often as its interval says, one by one, not all together. Otherwise it *cannot be told*, and `Cell.seen` is the
change that such a design would show with probability `POWER`: (t(1 - alpha / 2) + t(POWER)) standard errors, with G - 1
degrees of freedom. Fewer than `LEAST_GROUPS` groups: nothing is claimed, since two say nothing of how groups differ. A
number that did not move anywhere is *unchanged*. A band of confidence is named where its whole interval lies further
than `POINTS` from being right. Nothing to compare: no cell, and the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import special

from segcal.metrics.statistics.estimate import Estimate

POWER = 0.8
"""The probability with which a change of the size told would have been seen."""

LEAST_GROUPS = 3
"""Groups below which nothing is claimed."""

ROUNDING = 1e-9
"""Changes this small are those of arithmetic."""

POINTS = 0.02
"""A band of confidence is called off where it certainly is by more than this."""

MOST_BANDS = 2
"""Bands told in words; the rest are counted."""

BETTER, WORSE, UNKNOWN, UNCHANGED = "better", "worse", "cannot be told", "unchanged"

OVERALL = "overall"
WHERE = {OVERALL: "overall", "foreground": "in the predicted foreground", "boundary": "at the predicted boundary"}
"""Strata by key, and how a sentence calls them."""

METRICS = {"nll": "NLL", "brier": "Brier", "ece": "ECE", "ace": "ACE"}
"""Metrics by key; lower is better for each."""

PROPER = ("nll", "brier")
"""Those whose lowest expectation the true probabilities have: a sentence claims a gain by these, or not at all."""


def seen(change: Estimate) -> float:
    """The change that a design with this standard error and these groups shows with probability `POWER`; NaN below
    `LEAST_GROUPS` groups.
    """
    freedom = change.groups - 1
    if freedom < LEAST_GROUPS - 1:
        return math.nan
    reach = special.stdtrit(freedom, (1 + change.level) / 2) + special.stdtrit(freedom, POWER)
    return float(reach) * change.standard_error


@dataclass(frozen=True)
class Cell:
    """One number in one stratum, before and after; `change` is after minus before."""

    where: str
    metric: str
    before: float
    after: float
    change: Estimate

    @property
    def word(self) -> str:
        """Better, worse, unchanged, or that it cannot be told."""
        if abs(self.change.mean) <= ROUNDING and self.change.standard_error <= ROUNDING:
            return UNCHANGED
        if self.change.groups < LEAST_GROUPS or not self.change.excludes_zero:
            return UNKNOWN
        return BETTER if self.change.high < 0 else WORSE

    @property
    def seen(self) -> float:
        """The change that such a design shows with probability `POWER`; NaN where there is no interval."""
        return seen(self.change)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None where not defined."""
        numbers = {"before": self.before, "after": self.after, "seen": self.seen}
        return {
            "verdict": self.word,
            **{name: None if math.isnan(v) else v for name, v in numbers.items()},
            "change": self.change.to_json(),
        }


@dataclass(frozen=True)
class Band:
    """Voxels whose confidence after calibration lies between `low` and `high`, `share` of all: mean `confidence`, how
    many of them are right, and the `gap`, confidence minus that. `part`: the region, empty for a softmax head.
    """

    low: float
    high: float
    share: float
    confidence: float
    accuracy: float
    gap: Estimate
    part: str = ""

    @property
    def off(self) -> bool:
        """Whether it is certainly off by more than `POINTS`."""
        return self.gap.groups >= LEAST_GROUPS and (self.gap.low > POINTS or self.gap.high < -POINTS)

    @property
    def sentence(self) -> str:
        """In words, and in points of per cent."""
        over, sign = ("over", 1) if self.gap.mean > 0 else ("under", -1)
        ends = sorted(100 * sign * end for end in (self.gap.low, self.gap.high))
        of = f" of {self.part}" if self.part else ""
        return (
            f"voxels{of} given {100 * self.low:.0f}-{100 * self.high:.0f} % ({100 * self.share:.3g} % of all) are right"
            f" {100 * self.accuracy:.0f} % of the time: {100 * abs(self.gap.mean):.0f} points {over}-confident"
            f" ({ends[0]:.1f} to {ends[1]:.1f})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            **{name: getattr(self, name) for name in ("part", "low", "high", "share", "confidence", "accuracy")},
            "gap": self.gap.to_json(),
        }


@dataclass(frozen=True, eq=False)
class Verdict:
    """`cells`: every metric in every stratum that there is. `bands`: those that are off after calibration, those that
    matter most first (share times gap). `shares`: of all voxels that lie in each stratum.
    """

    cells: Sequence[Cell]
    bands: Sequence[Band]
    shares: Mapping[str, float]

    @property
    def groups(self) -> int:
        """Groups that intervals rest on."""
        return max((cell.change.groups for cell in self.cells), default=0)

    def at(self, where: str, metric: str) -> Cell:
        """One cell. KeyError where there is none."""
        for cell in self.cells:
            if (cell.where, cell.metric) == (where, metric):
                return cell
        raise KeyError((where, metric))

    @property
    def sentence(self) -> str:
        """What a reader must know, first what is overall, then what is worse in a stratum, then bands that stay off."""
        if all(cell.word == UNCHANGED for cell in self.cells):
            told = ["Nothing changes." if self.cells else "Nothing to compare."]
        elif self.groups < LEAST_GROUPS:
            told = [
                f"Whether it is better cannot be told from {self.groups} group{'' if self.groups == 1 else 's'}: that"
                f" takes {LEAST_GROUPS} or more."
            ]
        else:
            told = [self._overall()]
            for where in WHERE:
                worse = [] if where == OVERALL else [c for c in self.cells if c.where == where and c.word == WORSE]
                if worse:
                    told.append(f"Worse {WHERE[where]} by {_listed(_changed(c) for c in worse)}.")
        if self.bands:
            stay = [band.sentence for band in self.bands[:MOST_BANDS]]
            more = len(self.bands) - len(stay)
            told.append(f"Still off: {'; '.join(stay)}{f'; and {more} more band(s)' if more else ''}.")
        return " ".join(told)

    def _overall(self) -> str:
        found = {
            word: [c for c in self.cells if c.where == OVERALL and c.word == word] for word in (BETTER, WORSE, UNKNOWN)
        }
        names = {word: _listed(METRICS[c.metric] for c in cells) for word, cells in found.items()}
        worse = _listed(_changed(c) for c in found[WORSE])
        unknown = f"by {names[UNKNOWN]} it cannot be told"
        lower = f"; {names[BETTER]} {'is' if len(found[BETTER]) == 1 else 'are'} lower" if found[BETTER] else ""
        if not any(c.metric in PROPER for c in found[BETTER]):
            if found[WORSE]:
                return f"Worse overall by {worse}{lower}" + (f"; {unknown}." if found[UNKNOWN] else ".")
            return f"Whether it is better cannot be told, by {names[UNKNOWN]}{lower}."
        tail = [f"{worse} {'is' if len(found[WORSE]) == 1 else 'are'} worse"] if found[WORSE] else []
        tail += [unknown] if found[UNKNOWN] else []
        return f"Better overall by {names[BETTER]}" + "".join(f"; {t}" for t in tail) + "."

    def to_json(self) -> dict[str, Any]:
        """The sentence, and every cell by stratum and metric."""
        strata: dict[str, Any] = {}
        for cell in self.cells:
            strata.setdefault(cell.where, {"share": self.shares[cell.where]})[cell.metric] = cell.to_json()
        return {
            "sentence": self.sentence,
            "groups": self.groups,
            "power": POWER,
            **strata,
            "bands_off": [band.to_json() for band in self.bands],
        }


def _changed(cell: Cell) -> str:
    change = cell.change
    return f"{METRICS[cell.metric]} ({change.mean:+.2g}, {change.low:+.2g} to {change.high:+.2g})"


def _listed(words: Iterable[str]) -> str:
    given = list(words)
    return given[0] if len(given) == 1 else f"{', '.join(given[:-1])} and {given[-1]}" if given else ""

"""Scoring a cohort before and after calibration, in one pass over its files; and cross-fitted numbers of a fit.

Every number is exact and mergeable (`segcal.metrics`); a change is that of the two numbers beside it, with an interval
over groups, and a verdict says in words what it shows. Cases a calibrator was fitted on are recognised by digest and
never called a test: they are refused, left out, or scored under the name "in-sample". Cross-fitted numbers score each
case with a calibrator that saw neither it nor its group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcal.data.cohort import Cohort, Damaged
from segcal.data.padding import found_note, hidden_note
from segcal.data.rows import Record
from segcal.engine.accumulate import State
from segcal.engine.engine import Engine
from segcal.engine.need import Need
from segcal.errors import DataError, HeldOutError
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import Fit
from segcal.metrics.registry import added
from segcal.metrics.statistics.clustered import jackknife
from segcal.metrics.statistics.estimate import LEVEL, Estimate
from segcal.metrics.statistics.verdict import LEAST_GROUPS, METRICS, OVERALL, Band, Cell, Verdict
from segcal.metrics.strata import STRATA
from segcal.metrics.summary import (
    ACE_BINS,
    ECE_BINS,
    LARGE,
    Summary,
    ece_over,
    mean_known,
)
from segcal.outcomes.triage import Ordering, ordering
from segcal.tasks.matching import check_match, fitted_cases, fitted_groups, level
from segcal.tasks.parts import Part, Sums, Together, mark, room_taken, stacked
from segcal.tasks.scoring import Read, Scored, Scoring, Slot, score, scoring_need

COMPARED = (
    "nll",
    "brier",
    "entropy",
    "ece",
    "ece_pooled",
    "ace",
    "classwise_ece",
    "ba_ece",
    "dice",
    "iou",
    "flip_rate",
)
"""Numbers of a block whose change is reported with an interval."""

Fitted = Literal["refuse", "exclude", "include"]


BAND_VOXELS = 100
"""Fewer voxels in a band of confidence cannot tell a point of per cent."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Numbers of a cohort `before` and `after`; None: nothing was done to the scores.

    `in_sample`: cases the calibrator was fitted on, and others of their groups. `notes`: what a reader must know.
    """

    cohort: Cohort
    before: Scored
    after: Scored | None
    records: Sequence[Record]
    in_sample: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    @property
    def uncalibrated(self) -> Summary:
        """Before."""
        return self.before.summary

    @property
    def calibrated(self) -> Summary | None:
        """After, if there is one."""
        return None if self.after is None else self.after.summary

    @cached_property
    def differences(self) -> Mapping[str, Estimate]:
        """Calibrated minus uncalibrated: the change of each number of the block, with an interval over groups."""
        if self.after is None:
            return {}
        pooled = {**POOLED, **{key: _read(key) for key, kind in added().items() if kind.pooled}}
        return {
            name: _pooled(self.before, self.after, self.cohort, pooled[name])
            if name in pooled
            else compare(self.cohort, self.uncalibrated, self.after.summary, name)
            for name in (*COMPARED, *self._others, *(key for key in added() if key in self.after.summary.block))
        }

    @property
    def _others(self) -> list[str]:
        """The ECEs over other numbers of bins."""
        block = self.uncalibrated.block
        return [key for bins in block["ece_by_bins"] if (key := ece_over(int(bins))) in block]

    @cached_property
    def verdict(self) -> Verdict | None:
        """What the change shows, overall and in strata of the prediction; None without a calibrator."""
        if self.after is None:
            return None
        cells = [
            Cell(
                OVERALL, name, _known(self.uncalibrated, name), _known(self.after.summary, name), self.differences[name]
            )
            for name in METRICS
        ]
        shares = {OVERALL: 1.0} | {name: self._share(name) for name in STRATA}
        cells += [self._cell(stratum, name) for stratum in STRATA if shares[stratum] > 0 for name in METRICS]
        off = sorted((b for b in self._bands() if b.off), key=lambda b: -b.share * abs(b.gap.mean))
        return Verdict(cells, off, shares)

    @cached_property
    def orderings(self) -> dict[str, Ordering]:
        """Of each stage what an order by expected Dice is worth; none where outcomes were not asked for."""
        group = dict(zip((c.id for c in self.cohort), self.cohort.groups, strict=True))
        stages = {"uncalibrated": self.before, "calibrated": self.after}
        return {
            name: ordering(stage.outcomes, group)
            for name, stage in stages.items()
            if stage is not None and stage.outcomes
        }

    def _share(self, stratum: str) -> float:
        return self.before.number(lambda r: r["strata"][stratum].voxels / r["calibration"].voxels)

    def _cell(self, stratum: str, name: str) -> Cell:
        assert self.after is not None

        def read(results: Mapping[str, Any]) -> float:
            return float(results["strata"][stratum].number(name))

        change = _pooled(self.before, self.after, self.cohort, read)
        return Cell(stratum, name, self.before.number(read), self.after.number(read), change)

    def _bands(self) -> list[Band]:
        """Every band of confidence known in enough groups, with intervals that hold for all of them together."""
        assert self.after is not None
        known = []
        for part, found in enumerate(self.after.results):
            whole, *without = (r["calibration"].curve(ACE_BINS) for r in found)
            name = self.cohort.head.parts[part] if len(self.after.results) > 1 else ""
            for k in range(ACE_BINS):
                inside = [c for c in without if c.counts[k] != whole.counts[k]]
                if len(inside) >= LEAST_GROUPS and whole.counts[k] >= BAND_VOXELS:
                    known.append((name, k, whole, inside))
        return [
            Band(
                k / ACE_BINS,
                (k + 1) / ACE_BINS,
                int(whole.counts[k]) / whole.voxels,
                float(whole.confidence[k]),
                float(whole.accuracy[k]),
                jackknife(
                    float(whole.confidence[k] - whole.accuracy[k]),
                    [float(c.confidence[k] - c.accuracy[k]) for c in inside],
                    values=len(self.cohort),
                    level=1 - (1 - LEVEL) / len(known),
                ),
                name,
            )
            for name, k, whole, inside in known
        ]

    def unchanged(self) -> Evaluation:
        """The same of leaving the scores as they are."""
        return replace(self, after=self.before)

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` writes."""
        after = {} if self.calibrated is None else {row["case"]: row for row in self.calibrated.per_case}
        group = dict(zip((c.id for c in self.cohort), self.cohort.groups, strict=True))
        rows = []
        for row in self.uncalibrated.per_case:
            numbers = {k: v for k, v in row.items() if k != "case"}
            entry: dict[str, Any] = {
                "case": row["case"],
                "group": group[row["case"]],
                "in_sample": row["case"] in self.in_sample,
                "uncalibrated": numbers,
            }
            if after:
                entry["calibrated"] = {k: v for k, v in after[row["case"]].items() if k != "case"}
            rows.append(entry)
        return {
            "cases": len(self.cohort),
            "voxels": self.uncalibrated.block["voxels"],
            "uncalibrated": self.uncalibrated.block,
            "calibrated": None if self.calibrated is None else self.calibrated.block,
            "differences": {name: e.to_json() for name, e in self.differences.items()},
            "verdict": None if self.verdict is None else self.verdict.to_json(),
            "triage": {name: one.to_json() for name, one in self.orderings.items()},
            "per_case": rows,
            "in_sample": list(self.in_sample),
            "failed": {name: str(error) for name, error in self.cohort.damaged.items()},
            "notes": list(self.notes),
        }

    def kept(self) -> dict[str, Any]:
        """What a calibrator keeps: `to_json` without its large tables and rows of cases."""
        whole = self.to_json()
        stages = {name: whole.pop(name) for name in ("uncalibrated", "calibrated")}
        del whole["per_case"]
        return {
            **whole,
            **{
                name: None if block is None else {k: v for k, v in block.items() if k not in LARGE}
                for name, block in stages.items()
            },
        }


def evaluate(
    cohort: Cohort,
    calibrator: Calibrator | None,
    engine: Engine,
    *,
    fitted: Fitted = "refuse",
    go_on: bool = False,
    damaged: Damaged = "refuse",
    bins: Iterable[int] = (),
    merge: Sequence[Path] = (),
) -> Evaluation:
    """Score `cohort` without and with `calibrator`; the ECE over these numbers of `bins`, too. `merge`: files of all
    parts of this evaluation (`evaluate_part`), which are put together; no score is read then.

    Raises HeldOutError for cases it was fitted on, and for others of their groups (the same patient's), unless `fitted`
    says to leave them out or to include them as in-sample; MismatchError as `check_match`; what is wrong with the data
    of a case, unless `damaged` says to leave such cases out, which are then the evaluated cohort's `damaged`.
    """
    counts = tuple(bins)
    if merge:
        parts = Together.of(merge, mark(cohort, calibrator, [*counts, fitted]))
        cohort, notes = parts.scored(cohort), parts.notes
        calibrator, cohort = _matched(calibrator, cohort, go_on, [])
        scoring = Scoring(cohort, _stages(calibrator), counts, outcomes=True)
        found, cohort = scoring.done(parts.answers(scoring), parts.failed)
        records = parts.records
    else:
        failed: dict[str, DataError] | None = {} if damaged == "exclude" else None
        calibrator, cohort, notes = _ready(cohort, calibrator, engine, fitted, go_on, failed)
        found, records, cohort = score(cohort, _stages(calibrator), engine, failed, counts, outcomes=True)
    seen = [] if calibrator is None else fitted_cases(calibrator, records)
    mates = {} if calibrator is None else _mates(calibrator, cohort, seen)
    if seen and fitted != "include":
        raise _seen(seen, mates, len(cohort))
    if mates:
        notes.append(f"{_mates_are(mates)} are in-sample too")
    before = found["uncalibrated"]
    notes += [*cohort.notes, *hidden_note(records), *found_note(cohort), *cohort.storage.notes(records)]
    notes += _without_boundary(before.summary)
    return Evaluation(cohort, before, found.get("calibrated"), records, [*seen, *mates], notes)


def evaluate_part(
    cohort: Cohort,
    calibrator: Calibrator | None,
    engine: Engine,
    part: Part,
    *,
    fitted: Fitted = "refuse",
    go_on: bool = False,
    damaged: Damaged = "refuse",
    bins: Iterable[int] = (),
) -> Sums:
    """The sums of some cases, for `evaluate(merge=...)` of all; raises what that raises, of its own cases."""
    counts = tuple(bins)
    whole = mark(cohort, calibrator, [*counts, fitted])
    failed: dict[str, DataError] | None = {} if damaged == "exclude" else None
    mine = part.taken(cohort)
    nothing = Sums(whole, part, (), (), (), {}, (), (), (), {})
    if len(empty := engine.uncounted(mine)) == len(mine):
        return replace(nothing, unscored=empty)
    try:
        calibrator, rest, notes = _ready(mine, calibrator, engine, fitted, go_on, failed)
    except DataError as error:
        of_the_fit = isinstance(error, HeldOutError) and fitted == "exclude"
        gone = failed or {}
        if not of_the_fit and len(gone) < len(mine):
            raise
        return replace(nothing, failed=gone, left_out=[case.id for case in mine if case.id not in gone])
    groups = list(dict.fromkeys(rest.groups))
    blocks = [frozenset(i for i, name in enumerate(rest.groups) if name == group) for group in groups]
    stages = _stages(calibrator)
    scoring = Scoring(rest, stages, counts, outcomes=True, blocks=blocks)
    states: dict[int, Mapping[Slot, State]] = {}
    need = scoring_need(rest, len(stages)) + Need(room_taken(scoring))
    with engine.within(rest, need, "the sums of this part", fitting=False):
        answers, records = engine.survey(rest, scoring.asks, states.__setitem__, failed)
    apart = {*rest.unscored, *(failed or {})}
    return Sums(
        whole,
        part,
        [rest[k].id for k in sorted(states)],
        groups,
        records,
        failed or {},
        rest.unscored,
        sorted({case.id for case in mine} - {case.id for case in rest} - apart),
        notes,
        stacked(scoring, states, answers, groups),
    )


def _stages(calibrator: Calibrator | None) -> dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]]:
    before: dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]] = {"uncalibrated": [(None, None)]}
    return before if calibrator is None else {**before, "calibrated": [(None, calibrator)]}


def _matched(
    calibrator: Calibrator | None, cohort: Cohort, go_on: bool, notes: list[str]
) -> tuple[Calibrator | None, Cohort]:
    """Both, made to fit each other; what is to be said goes to the notes."""
    if calibrator is None:
        return None, cohort
    notes += check_match(calibrator, cohort, go_on=go_on)
    calibrator, cohort, said = level(calibrator, cohort)
    notes += [note for note in said if note not in cohort.storage.notes()]
    return calibrator, cohort


def _ready(
    cohort: Cohort,
    calibrator: Calibrator | None,
    engine: Engine,
    fitted: Fitted,
    go_on: bool,
    failed: dict[str, DataError] | None,
) -> tuple[Calibrator | None, Cohort, list[str]]:
    """What can be scored of a cohort, without the cases of the fit, and what is to be said."""
    notes: list[str] = []
    calibrator, cohort = _matched(calibrator, engine.scorable(cohort), go_on, notes)
    if calibrator is not None:
        cohort = _without_fitted(cohort, calibrator, engine, fitted, notes, failed)
    return calibrator, cohort, notes


def _without_boundary(summary: Summary) -> list[str]:
    bare = [row["case"] for row in summary.per_case if row["ba_ece"] is None]
    shown = ", ".join(bare[:3]) + (", ..." if len(bare) > 3 else "")
    return (
        [f"BA-ECE is not defined for {len(bare)} case(s) with one label only, or of a table: {shown}"] if bare else []
    )


def crossfitted(cohort: Cohort, fits: Mapping[str, Fit], engine: Engine) -> dict[str, Evaluation]:
    """Held-out numbers of cross-fitted methods, from one pass: each case scored by the calibrator fitted without its
    fold.
    """
    stages: dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]] = {"uncalibrated": [(None, None)]}
    for name, fit in fits.items():
        stages[name] = [(frozenset(fold), calibrator) for fold, calibrator in zip(fit.folds, fit.held_out, strict=True)]
    found, records, _ = score(cohort, stages, engine)
    return {name: Evaluation(cohort, found["uncalibrated"], found[name], records) for name in fits}


def compare(cohort: Cohort, before: Summary, after: Summary, name: str) -> Estimate:
    """Change of a number that is a mean over cases (and over regions), with an interval over groups (`jackknife`).

    Its mean is the difference of the two blocks' numbers, also where a case has a number on one side only.
    """
    group = dict(zip((c.id for c in cohort), cohort.groups, strict=True))
    names = [group[row["case"]] for row in before.per_case]
    number = {g: k for k, g in enumerate(dict.fromkeys(names))}
    index = np.array([number[g] for g in names], np.int64)
    sides = [[_column(part, before, name) for part in s.parts or (s,)] for s in (before, after)]
    usable = np.any([~np.isnan(a) & ~np.isnan(b) for a, b in zip(*sides, strict=True)], axis=0)
    ends = [_means(columns, index, len(number)) for columns in sides]
    known = np.unique(index[usable])
    return jackknife(
        ends[1][0] - ends[0][0],
        (ends[1][1] - ends[0][1])[known],
        values=int(usable.sum()),
        dropped=int((~usable).sum()),
    )


def _column(summary: Summary, like: Summary, name: str) -> NDArray[np.float64]:
    by_case = {row["case"]: row[name] for row in summary.per_case}
    return np.array([by_case[row["case"]] for row in like.per_case], np.float64)


def _means(
    columns: Sequence[NDArray[np.float64]], index: NDArray[np.int64], groups: int
) -> tuple[float, NDArray[np.float64]]:
    """Mean over cases of each column where it is known, then over columns; and the same without each group."""
    means, without = [], []
    for x in columns:
        known = ~np.isnan(x)
        sums = np.bincount(index[known], x[known], minlength=groups)
        counts = np.bincount(index[known], minlength=groups)
        means.append(mean_known(x.tolist()))
        rest = counts.sum() - counts
        without.append(np.divide(sums.sum() - sums, rest, out=np.full(groups, np.nan), where=rest > 0))
    return mean_known(means), np.array([mean_known(values) for values in zip(*without, strict=True)])


def _pooled(before: Scored, after: Scored, cohort: Cohort, read: Read) -> Estimate:
    """Change of a pooled number, which is no mean of cases."""
    return jackknife(
        after.number(read) - before.number(read), after.without(read) - before.without(read), values=len(cohort)
    )


POOLED: Mapping[str, Read] = {
    "ece_pooled": lambda r: float(r["calibration"].ece(ECE_BINS)),
    "classwise_ece": lambda r: float(r["classwise"].cece),
    "ace": lambda r: float(r["calibration"].ace(ACE_BINS)),
}
"""Numbers pooled over all voxels, read off the results of a suite."""


def _read(key: str) -> Read:
    return lambda results: float(results[key])


def _known(summary: Summary, name: str) -> float:
    value = summary.block[name]
    return math.nan if value is None else float(value)


def _without_fitted(
    cohort: Cohort,
    calibrator: Calibrator,
    engine: Engine,
    fitted: Fitted,
    notes: list[str],
    failed: dict[str, DataError] | None,
) -> Cohort:
    """Refuse or leave out fitted cases before the long pass; `failed` as in `Engine.survey`.

    Where nothing is left out, cases of the same name are looked at first, since they are the likely ones.
    """
    if calibrator.data is None or fitted == "include":
        return cohort
    names = {r.id for r in calibrator.data.records}
    likely = cohort if fitted == "exclude" else _subset(cohort, [c.id for c in cohort if c.id in names])
    seen = [] if likely is None else fitted_cases(calibrator, engine.survey(likely, {}, failed=failed)[1])
    cohort = cohort.without(failed or {})
    mates = _mates(calibrator, cohort, seen)
    if not seen and not mates:
        return cohort
    rest = _subset(cohort, [c.id for c in cohort if c.id not in {*seen, *mates}])
    if fitted == "refuse" or rest is None:
        raise _seen(seen, mates, len(cohort))
    if seen:
        notes.append(f"{len(seen)} case(s) the calibrator was fitted on were left out")
    if mates:
        notes.append(f"{_mates_are(mates)} were left out")
    return rest


def _mates(calibrator: Calibrator, cohort: Cohort, seen: Sequence[str]) -> dict[str, str]:
    """The group of each case that was not fitted on itself, but whose group was."""
    return {case: group for case, group in fitted_groups(calibrator, cohort).items() if case not in set(seen)}


def _mates_are(mates: Mapping[str, str]) -> str:
    groups = sorted(set(mates.values()))
    shown = ", ".join(groups[:3]) + (", ..." if len(groups) > 3 else "")
    return f"{len(mates)} other case(s) of groups the calibrator was fitted on ({shown})"


def _subset(cohort: Cohort, ids: Sequence[str]) -> Cohort | None:
    wanted = set(ids)
    return replace(cohort, cases=tuple(c for c in cohort if c.id in wanted)) if wanted else None


def _seen(seen: Sequence[str], mates: Mapping[str, str], count: int) -> HeldOutError:
    shown = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
    leave = "--fitted exclude to leave these out, " if len(seen) + len(mates) < count else ""
    same = f"{len(seen)} of {count} that the calibrator was fitted on ({shown}), recognised by their content"
    found = [same] if seen else []
    found += [_mates_are(mates)] if mates else []
    return HeldOutError(
        "held-out cases",
        found="; ".join(found),
        expected="cases, and groups of cases, it has not seen" if mates else "cases it has not seen",
        do=(
            f"Evaluate other cases; or pass {leave}--fitted include for in-sample numbers."
            " `segcal inspect` shows the cross-fitted numbers of the fit."
        ),
    )

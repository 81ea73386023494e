"""Scoring a cohort before and after calibration, in one pass over its files; and cross-fitted numbers of a fit.

Every number is exact and mergeable (`segcal.metrics`); a change is that of the two numbers beside it, with an interval
over groups, and a verdict says in words what it shows. Cases a calibrator was fitted on are recognised by digest and
never called a test: they are refused, left out, or scored under the name "in-sample". Cross-fitted numbers score each
case with a calibrator that saw neither it nor its group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcal.data.cohort import Cohort, Damaged
from segcal.data.head import Head
from segcal.data.padding import found_note, hidden_note
from segcal.data.rows import Record
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, State
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.engine.need import HANDED, Need, state_bytes
from segcal.errors import DataError, HeldOutError
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import Fit
from segcal.metrics.registry import added
from segcal.metrics.statistics.clustered import jackknife
from segcal.metrics.statistics.estimate import LEVEL, Estimate
from segcal.metrics.statistics.verdict import LEAST_GROUPS, METRICS, OVERALL, Band, Cell, Verdict
from segcal.metrics.strata import STRATA, PredictedStrata
from segcal.metrics.summary import (
    ACE_BINS,
    ECE_BINS,
    LARGE,
    Gathered,
    Summary,
    combine_parts,
    ece_over,
    mean_known,
    suite,
)
from segcal.outcomes.sums import CaseOutcome, sums_of
from segcal.outcomes.sums import joined as joined_outcomes
from segcal.outcomes.triage import Ordering, ordering
from segcal.tasks.matching import check_match, fitted_cases, fitted_groups, level

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


Read = Callable[[Mapping[str, Any]], float]
"""Reads a number off the results of accumulators, by their names."""

IN_BLOCKS = ("calibration", "classwise")
"""Accumulators whose sums are kept by block of groups."""

OUTCOME = "outcome"
"""What the sums of a case by structure are called among its accumulators."""

BAND_VOXELS = 100
"""Fewer voxels in a band of confidence cannot tell a point of per cent."""

MOST_BLOCKS = 100
"""Sums of pooled numbers are kept for so many sets of groups; more groups are put together, evenly, which leaves an
interval for them with this many degrees of freedom.
"""


@dataclass(frozen=True, eq=False)
class Scored:
    """Numbers of one stage. `pooled`: for each part of the head, the sums of each block of groups, by accumulator of
    `suites`; `outcomes`: by case, where they were asked for.
    """

    summary: Summary
    suites: Sequence[Mapping[str, Accumulator]]
    pooled: Sequence[Sequence[Mapping[str, State]]]
    outcomes: Mapping[str, CaseOutcome] = field(default_factory=dict)

    def number(self, read: Read) -> float:
        """What `read` makes of the results of all voxels; mean over the parts where it is defined."""
        return mean_known(read(found[0]) for found in self.results)

    def without(self, read: Read) -> NDArray[np.float64]:
        """The same without each block of groups."""
        return np.array([mean_known(map(read, parts)) for parts in list(zip(*self.results, strict=True))[1:]])

    @cached_property
    def results(self) -> list[list[dict[str, Any]]]:
        """For each part the results of all blocks together, then without each."""
        out = []
        for accumulators, blocks in zip(self.suites, self.pooled, strict=True):
            names = list(blocks[0])
            total = {n: _merged(accumulators[n], [block[n] for block in blocks]) for n in names}
            rest = [
                {n: {leaf: total[n][leaf] - block[n][leaf] for leaf in total[n]} for n in names} for block in blocks
            ]
            out.append([{n: accumulate.result(accumulators[n], states[n]) for n in names} for states in (total, *rest)])
        return out


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
) -> Evaluation:
    """Score `cohort` without and with `calibrator`; the ECE over these numbers of `bins`, too.

    Raises HeldOutError for cases it was fitted on, and for others of their groups (the same patient's), unless `fitted`
    says to leave them out or to include them as in-sample; MismatchError as `check_match`; what is wrong with the data
    of a case, unless `damaged` says to leave such cases out, which are then the evaluated cohort's `damaged`.
    """
    notes: list[str] = []
    cohort = engine.scorable(cohort)
    failed: dict[str, DataError] | None = {} if damaged == "exclude" else None
    if calibrator is not None:
        notes += check_match(calibrator, cohort, go_on=go_on)
        calibrator, cohort, said = level(calibrator, cohort)
        notes += [note for note in said if note not in cohort.storage.notes()]
        cohort = _without_fitted(cohort, calibrator, engine, fitted, notes, failed)
    stages: dict[str, list[tuple[frozenset[int] | None, Calibrator | None]]] = {"uncalibrated": [(None, None)]}
    if calibrator is not None:
        stages["calibrated"] = [(None, calibrator)]
    found, records, cohort = _score(cohort, stages, engine, failed, bins, outcomes=True)
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
    found, records, _ = _score(cohort, stages, engine)
    return {name: Evaluation(cohort, found["uncalibrated"], found[name], records) for name in fits}


A_ROW = 4096
"""Bytes of a case's row of numbers."""


def scoring_need(cohort: Cohort, stages: int) -> Need:
    """Memory that scoring a cohort takes, uncalibrated and calibrated ones each being one of the `stages`."""
    head, blocks = cohort.head, min(MOST_BLOCKS, len(set(cohort.groups)))
    need = Need()
    for part in range(len(head.parts)):
        classes = len(head.part_classes(part))
        found = suite(classes, head.part_background(part))
        strata = state_bytes({0: PredictedStrata(classes, head.part_background(part))})
        pooled = strata + state_bytes({name: found[name] for name in _in_blocks()})
        states = state_bytes({**found, OUTCOME: sums_of(head, thresholds=False)[part]}) + strata
        rows = len(cohort) * (A_ROW + 16 * classes)
        need += Need(stages * (states + rows + blocks * pooled), HANDED * stages * states)
    return need


def room_to_score(cohort: Cohort, stages: int, engine: Engine) -> None:
    """UsageError where memory is too short for scoring; no voxel is read."""
    engine.room_for(
        cohort, scoring_need(cohort, stages), f"the numbers of {stages - 1} method(s)", "fewer methods", fitting=False
    )


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


def _in_blocks() -> tuple[str, ...]:
    """Accumulators whose numbers are pooled, so that intervals need their sums by block."""
    return (*IN_BLOCKS, *(key for key, kind in added().items() if kind.pooled))


def _read(key: str) -> Read:
    return lambda results: float(results[key])


def _known(summary: Summary, name: str) -> float:
    value = summary.block[name]
    return math.nan if value is None else float(value)


def _blocks(groups: Sequence[str]) -> list[frozenset[int]]:
    """Cases by group; more than `MOST_BLOCKS` groups are put together, evenly, in the order they come in."""
    number = {g: k for k, g in enumerate(dict.fromkeys(groups))}
    count = min(len(number), MOST_BLOCKS)
    blocks: list[set[int]] = [set() for _ in range(count)]
    for case, group in enumerate(groups):
        blocks[number[group] % count].add(case)
    return [frozenset(block) for block in blocks]


def _merged(accumulator: Accumulator, states: Iterable[State]) -> State:
    total = accumulate.zero(accumulator)
    for state in states:
        total = accumulate.merge(accumulator, total, state)
    return total


def _score(
    cohort: Cohort,
    stages: Mapping[str, Sequence[tuple[frozenset[int] | None, Calibrator | None]]],
    engine: Engine,
    failed: dict[str, DataError] | None = None,
    bins: Iterable[int] = (),
    *,
    outcomes: bool = False,
) -> tuple[dict[str, Scored], list[Record], Cohort]:
    """Numbers of each stage, with `outcomes` of each case or without; records, and the cohort without the cases that
    `failed` (see `Engine.survey`).
    """
    head = cohort.head
    parts = range(len(head.parts))
    counts = tuple(bins)
    suites = [suite(len(head.part_classes(part)), head.part_background(part), counts) for part in parts]
    strata = [PredictedStrata(len(head.part_classes(part)), head.part_background(part)) for part in parts]
    sums, known = sums_of(head, thresholds=False), dict[str, dict[str, CaseOutcome]]()
    blocks = _blocks(cohort.groups)
    asks: dict[tuple[str, int, str, int, int], Ask] = {}
    for stage, pieces in stages.items():
        for k, (cases, calibrator) in enumerate(pieces):
            for part in parts:
                through = None if calibrator is None else calibrator.through(part)
                wanted = {**suites[part], **({OUTCOME: sums[part]} if outcomes else {})}
                for name, accumulator in wanted.items():
                    asks[stage, part, name, k, -1] = Ask(accumulator, part, cases, by_case=True, through=through)
                # by block, not by case: few states, however many cases there are
                for b, block in enumerate(blocks):
                    if some := block if cases is None else block & cases:
                        asks[stage, part, "strata", k, b] = Ask(strata[part], part, some, through=through)
    gathered = {(stage, part): Gathered(suites[part], head.part_classes(part)) for stage in stages for part in parts}
    pooled = {
        place: [{name: accumulate.zero(suites[place[1]][name]) for name in _in_blocks()} for _ in blocks]
        for place in gathered
    }
    block_of = {case: b for b, block in enumerate(blocks) for case in block}

    def add(case: int, found: Mapping[tuple[str, int, str, int, int], State]) -> None:
        states: dict[tuple[str, int], dict[str, State]] = {}
        for (stage, part, name, *_), state in found.items():
            states.setdefault((stage, part), {})[name] = state
        for place, mine in states.items():
            gathered[place].add(cohort[case].id, mine)
            total = pooled[place][block_of[case]]
            for name in total:
                total[name] = accumulate.merge(suites[place[1]][name], total[name], mine[name])
        for stage in stages if outcomes else ():
            found_here = [accumulate.result(sums[part], states[stage, part][OUTCOME]) for part in parts]
            known.setdefault(stage, {})[cohort[case].id] = joined_outcomes(found_here)

    with engine.within(cohort, scoring_need(cohort, len(stages)), "these metrics", fitting=False):
        answers, records = engine.survey(cohort, asks, add, failed)
    rest = cohort.without(failed or {})
    left = sorted({block_of[k] for k, case in enumerate(cohort) if case.id not in rest.damaged})
    out = {}
    for stage, pieces in stages.items():
        for part in parts:
            for b, total in enumerate(pooled[stage, part]):
                keys = [(stage, part, "strata", k, b) for k in range(len(pieces))]
                total["strata"] = _merged(strata[part], [answers[key] for key in keys if key in answers])
        summary = joined(head, [gathered[stage, part].summary([c.id for c in rest]) for part in parts])
        accumulators = [{**suites[part], "strata": strata[part]} for part in parts]
        by_case = {c.id: known[stage][c.id] for c in rest} if outcomes else {}
        out[stage] = Scored(summary, accumulators, [[pooled[stage, part][b] for b in left] for part in parts], by_case)
    return out, records, rest


def joined(head: Head, by_part: Sequence[Summary]) -> Summary:
    """One summary of the parts of a head."""
    return by_part[0] if head.sums_to_one else combine_parts(by_part, head.parts)


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

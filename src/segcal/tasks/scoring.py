"""One pass over a cohort that scores its stages: uncalibrated, and as one calibrator or another leaves it.

Sums are exact and mergeable (`segcal.metrics`); numbers that are no means of cases are kept by block of groups, so that
each may be had without a block. Costs: the states of one case at a time, those of at most `MOST_BLOCKS` blocks, a row
of numbers a case. No case: blocks of None and zero counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.cohort import Cohort
from segcal.data.head import Head
from segcal.data.rows import Record
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, State
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.engine.need import HANDED, Need, state_bytes
from segcal.errors import DataError
from segcal.methods.calibrator import Calibrator
from segcal.metrics.registry import added
from segcal.metrics.strata import PredictedStrata
from segcal.metrics.summary import Gathered, Summary, combine_parts, mean_known, suite
from segcal.outcomes.sums import CaseOutcome, sums_of
from segcal.outcomes.sums import joined as joined_outcomes

Read = Callable[[Mapping[str, Any]], float]
"""Reads a number off the results of accumulators, by their names."""

IN_BLOCKS = ("calibration", "classwise")
"""Accumulators whose sums are kept by block of groups."""

OUTCOME = "outcome"
"""What the sums of a case by structure are called among its accumulators."""

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
        pooled = strata + state_bytes({name: found[name] for name in in_blocks()})
        states = state_bytes({**found, OUTCOME: sums_of(head, thresholds=False)[part]}) + strata
        rows = len(cohort) * (A_ROW + 16 * classes)
        need += Need(stages * (states + rows + blocks * pooled), HANDED * stages * states)
    return need


def room_to_score(cohort: Cohort, stages: int, engine: Engine) -> None:
    """UsageError where memory is too short for scoring; no voxel is read."""
    engine.room_for(
        cohort, scoring_need(cohort, stages), f"the numbers of {stages - 1} method(s)", "fewer methods", fitting=False
    )


def in_blocks() -> tuple[str, ...]:
    """Accumulators whose numbers are pooled, so that intervals need their sums by block."""
    return (*IN_BLOCKS, *(key for key, kind in added().items() if kind.pooled))


def blocks_of(groups: Sequence[str]) -> list[frozenset[int]]:
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


def score(
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
    blocks = blocks_of(cohort.groups)
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
        place: [{name: accumulate.zero(suites[place[1]][name]) for name in in_blocks()} for _ in blocks]
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

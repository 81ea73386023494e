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

OUTCOME, STRATA = "outcome", "strata"
"""What the sums of a case by structure, and those of strata of the prediction, are called among accumulators."""

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


Stages = Mapping[str, Sequence[tuple[frozenset[int] | None, Calibrator | None]]]
"""By the name of a stage, which calibrator scores which cases; None: all of them, and the scores as they are."""

Slot = tuple[str, int, str, int, int]
"""An ask: a stage, a part of the head, an accumulator, which of the stage's calibrators, and a block or -1."""


class Scoring:
    """What is asked of every case for the numbers of each of the `stages`, and the numbers in the making: states of
    cases are added one by one, in any order. `blocks` of groups: those of `blocks_of` unless given.
    """

    def __init__(
        self,
        cohort: Cohort,
        stages: Stages,
        bins: Iterable[int] = (),
        *,
        outcomes: bool = False,
        blocks: Sequence[frozenset[int]] | None = None,
    ) -> None:
        head, counts = cohort.head, tuple(bins)
        self.cohort, self.stages, self.outcomes = cohort, stages, outcomes
        self.parts = range(len(head.parts))
        self.suites = [suite(len(head.part_classes(p)), head.part_background(p), counts) for p in self.parts]
        self.strata = [PredictedStrata(len(head.part_classes(p)), head.part_background(p)) for p in self.parts]
        self.sums = sums_of(head, thresholds=False)
        self.blocks = blocks_of(cohort.groups) if blocks is None else blocks
        self._known: dict[str, dict[str, CaseOutcome]] = {}
        self._gathered = {
            (stage, part): Gathered(self.suites[part], head.part_classes(part))
            for stage in stages
            for part in self.parts
        }
        self._pooled = {
            place: [{name: accumulate.zero(self.suites[place[1]][name]) for name in in_blocks()} for _ in self.blocks]
            for place in self._gathered
        }
        self._block_of = {case: b for b, block in enumerate(self.blocks) for case in block}

    def of_a_case(self, part: int) -> dict[str, Accumulator]:
        """What is summed case by case, by name."""
        return {**self.suites[part], **({OUTCOME: self.sums[part]} if self.outcomes else {})}

    @property
    def asks(self) -> dict[Slot, Ask]:
        """Of every case, and of every block what is not kept by case: few states, however many cases there are."""
        out: dict[Slot, Ask] = {}
        for stage, pieces in self.stages.items():
            for k, (cases, calibrator) in enumerate(pieces):
                for part in self.parts:
                    through = None if calibrator is None else calibrator.through(part)
                    for name, accumulator in self.of_a_case(part).items():
                        out[stage, part, name, k, -1] = Ask(accumulator, part, cases, by_case=True, through=through)
                    for b, block in enumerate(self.blocks):
                        if some := block if cases is None else block & cases:
                            out[stage, part, STRATA, k, b] = Ask(self.strata[part], part, some, through=through)
        return out

    def add(self, case: int, found: Mapping[Slot, State]) -> None:
        """All states of one case."""
        states: dict[tuple[str, int], dict[str, State]] = {}
        for (stage, part, name, *_), state in found.items():
            states.setdefault((stage, part), {})[name] = state
        name_of_case = self.cohort[case].id
        for place, mine in states.items():
            self._gathered[place].add(name_of_case, mine)
            total = self._pooled[place][self._block_of[case]]
            for name in total:
                total[name] = accumulate.merge(self.suites[place[1]][name], total[name], mine[name])
        for stage in self.stages if self.outcomes else ():
            by_part = [accumulate.result(self.sums[part], states[stage, part][OUTCOME]) for part in self.parts]
            self._known.setdefault(stage, {})[name_of_case] = joined_outcomes(by_part)

    def done(self, answers: Mapping[Slot, State], failed: Mapping[str, DataError]) -> tuple[dict[str, Scored], Cohort]:
        """The numbers of each stage, and the cohort without the cases that `failed`."""
        rest = self.cohort.without(failed)
        left = sorted({self._block_of[k] for k, case in enumerate(self.cohort) if case.id not in rest.damaged})
        out = {}
        for stage, pieces in self.stages.items():
            for part in self.parts:
                for b, total in enumerate(self._pooled[stage, part]):
                    keys = [(stage, part, STRATA, k, b) for k in range(len(pieces))]
                    total[STRATA] = _merged(self.strata[part], [answers[key] for key in keys if key in answers])
            by_part = [self._gathered[stage, part].summary([c.id for c in rest]) for part in self.parts]
            by_case = {c.id: self._known[stage][c.id] for c in rest} if self.outcomes else {}
            out[stage] = Scored(
                joined(self.cohort.head, by_part),
                [{**self.suites[part], STRATA: self.strata[part]} for part in self.parts],
                [[self._pooled[stage, part][b] for b in left] for part in self.parts],
                by_case,
            )
        return out, rest


def score(
    cohort: Cohort,
    stages: Stages,
    engine: Engine,
    failed: dict[str, DataError] | None = None,
    bins: Iterable[int] = (),
    *,
    outcomes: bool = False,
) -> tuple[dict[str, Scored], list[Record], Cohort]:
    """Numbers of each stage, with `outcomes` of each case or without; records, and the cohort without the cases that
    `failed` (see `Engine.survey`).
    """
    scoring = Scoring(cohort, stages, bins, outcomes=outcomes)
    with engine.within(cohort, scoring_need(cohort, len(stages)), "these metrics", fitting=False):
        answers, records = engine.survey(cohort, scoring.asks, scoring.add, failed)
    found, rest = scoring.done(answers, failed or {})
    return found, records, rest


def joined(head: Head, by_part: Sequence[Summary]) -> Summary:
    """One summary of the parts of a head."""
    return by_part[0] if head.sums_to_one else combine_parts(by_part, head.parts)

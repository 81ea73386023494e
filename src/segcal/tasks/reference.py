"""The reference of a calibrator: labelled cases, each judged by a calibrator that did not see it, in one pass.

A case counts as it is delivered where it has no label map but its scores: structures are decided as the scores decide
them. Nothing labelled: UsageError, as whoever asks for labels says.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import numpy as np

from segcal.data import splits
from segcal.data.cohort import Cohort
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator
from segcal.outcomes.reference import Gathering, How, Reference
from segcal.outcomes.sums import joined, structures, sums_of


def references(
    cohort: Cohort, used: Mapping[str, Mapping[str, Calibrator | None]], engine: Engine, how: How
) -> dict[str, Reference]:
    """For each name the reference of the cases of `cohort`, each with the calibrator that is `used` for it (None: its
    scores as they are).
    """
    sums = sums_of(cohort.head)
    found = {name: Gathering(structures(cohort.head), cohort.groups, how) for name in used}
    asks: dict[tuple[str, Hashable, int], Ask] = {}
    for name, by_case in used.items():
        pieces: dict[int, set[int]] = {}
        calibrators = {id(c): c for c in by_case.values()}
        for k, case in enumerate(cohort):
            pieces.setdefault(id(by_case[case.id]), set()).add(k)
        for key, cases in pieces.items():
            calibrator = calibrators[key]
            for part, accumulator in enumerate(sums):
                through = None if calibrator is None else calibrator.through(part)
                asks[name, key, part] = Ask(accumulator, part, frozenset(cases), by_case=True, through=through)

    def add(case: int, states: Mapping[tuple[str, Hashable, int], State]) -> None:
        for name, gathering in found.items():
            mine = sorted((key for key in states if key[0] == name), key=lambda key: key[2])
            parts = [accumulate.result(sums[key[2]], states[key]) for key in mine]
            if parts:
                gathering.add(case, joined(parts))

    engine.survey(cohort, asks, add)
    return {name: gathering.done() for name, gathering in found.items()}


def set_aside(cohort: Cohort, share: float, seed: int) -> tuple[Cohort, Cohort]:
    """The cases to fit on, and those of a `share` of the groups, drawn by the seed, which only judge. UsageError where
    one side would be empty.
    """
    groups = list(dict.fromkeys(cohort.groups))
    count = round(share * len(groups)) if 0 < share < 1 else 0
    if not 0 < count < len(groups):
        raise UsageError(
            "--set-aside",
            found=f"{share:g} of {len(groups)} group(s)",
            expected="a share that leaves groups on both sides",
            do="Give one such as 0.3, or more cases of other patients.",
        )
    order = sorted(groups, key=splits.natural)
    aside = {order[k] for k in np.random.default_rng(seed).permutation(len(order))[:count]}
    sides: list[Cohort] = [
        replace(cohort, cases=tuple(c for c, g in zip(cohort, cohort.groups, strict=True) if (g in aside) is away))
        for away in (False, True)
    ]
    return sides[0], sides[1]

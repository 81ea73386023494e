"""What is told of new cases beside their probabilities: which to look at first, volumes with intervals, masks that hold
nearly all of a structure, and whether the cases look like those by which bounds were set.

Thresholds are those of a calibrator's reference (`segcal.outcomes.reference`); without one there are no bounds, no
intervals and no comparison, and masks are refused. Where a structure has too few patients for a share that was asked
for, its bounds are left empty, and a note says so; where all have, masks are refused (TooFewError), with the number
that is needed. No case: tables without rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.data.case import Case
from segcal.data.files.table import write_rows
from segcal.data.formats.requested import OUTER, folders
from segcal.data.head import Head
from segcal.outcomes.conformal import TooFewError, check_alpha, least
from segcal.outcomes.drift import Drift, drift
from segcal.outcomes.reference import HOWS, Reference, statistics_of
from segcal.outcomes.sums import CaseOutcome, channels, structures
from segcal.outcomes.triage import NewCase, triage_rows, volume_rows

TRIAGE, VOLUMES = "triage.csv", "volumes.csv"
"""Tables of what is told of all cases."""


@dataclass(frozen=True)
class Outer:
    """A mask of a structure: the `channel` at or above `threshold`, in the map of that name."""

    name: str
    channel: int
    threshold: float


@dataclass(frozen=True)
class Asked:
    """What is to be told of cases beside their probabilities: the list of those to look at first (`triage`), `volumes`,
    masks that miss at most the share `outer`; bounds and intervals hold for all but a share `alpha` of the patients.
    `listed`: the list is wanted, without its file.
    """

    triage: bool = False
    volumes: bool = False
    outer: float | None = None
    alpha: float = 0.1
    listed: bool = False

    def __post_init__(self) -> None:
        for share in (self.alpha, *([] if self.outer is None else [self.outer])):
            check_alpha(share)

    @property
    def ordered(self) -> bool:
        """Whether the list is wanted, with or without its file."""
        return self.triage or self.listed

    @property
    def told(self) -> bool:
        """Whether any of it needs sums of cases."""
        return self.ordered or self.volumes or self.outer is not None

    def tables(self, folder: Path) -> list[Path]:
        """The tables that are asked for, in a folder."""
        wanted = {TRIAGE: self.triage, VOLUMES: self.volumes}
        return [folder / name for name, is_wanted in wanted.items() if is_wanted]


NOTHING = Asked()


@dataclass(frozen=True, eq=False)
class Told:
    """What is told of all cases that are done: rows of both tables, how they look beside the reference (None: there is
    none), and the `files` that were written.
    """

    triage: Sequence[Mapping[str, Any]] = ()
    volumes: Sequence[Mapping[str, Any]] = ()
    drift: Drift | None = None
    files: Sequence[Path] = ()


def outer_masks(head: Head, reference: Reference | None, share: float) -> tuple[Outer, ...]:
    """For each structure the mask that misses at most a `share` of it in the mean over patients; TooFewError where no
    threshold is known for any.
    """
    names = structures(head)
    if reference is None:
        raise TooFewError(
            "--outer",
            found="a calibrator without reference cases",
            expected="one that was fitted with cross-fitting or --set-aside",
            do="Fit again with segcal fit on cases of several patients.",
        )
    found, errors = [], []
    for k, folder in enumerate(folders(OUTER, names)):
        try:
            found.append(Outer(folder, channels(head)[k], reference.threshold(k, share)))
        except TooFewError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return tuple(found)


def shortcomings(head: Head, reference: Reference | None, asked: Asked, outer: Sequence[Outer]) -> Iterator[str]:
    """What cannot be told for want of reference cases, and what the guarantees are worth."""
    if not asked.told:
        return
    if reference is None:
        yield "the calibrator has no reference cases: no bounds, no intervals, and no comparison with new cases"
        return
    names = structures(head)
    masks = {mask.channel for mask in outer}
    without = [name for name, channel in zip(names, channels(head), strict=True) if channel not in masks]
    if asked.outer is not None and without:
        yield f"no outer mask for {', '.join(without)}: too few patients have it, or every threshold misses too much"
    few = [
        name
        for k, name in enumerate(names)
        if (asked.ordered and len(reference.dice[k]) < least(asked.alpha))
        or (asked.volumes and len(reference.volume[k]) < least(asked.alpha))
    ]
    if few:
        yield (
            f"no bound for {', '.join(few)}: {100 * (1 - asked.alpha):g} % take {least(asked.alpha)} patients, of"
            f" {reference.groups} reference patients fewer have it"
        )
    if reference.how == HOWS[1]:
        yield (
            "bounds, intervals and masks come from cross-fitted cases: they hold as far as leaving out a fold changes"
            " little. segcal fit --set-aside 0.3 gives a guarantee without that condition"
        )


def tell(
    asked: Asked, head: Head, reference: Reference | None, cases: Sequence[tuple[Case, Mapping[str, Any]]], folder: Path
) -> Told:
    """What is told of `cases`, each with its sums as they were noted; tables are written into `folder`."""
    known = [NewCase(case.id, CaseOutcome.from_json(found), _voxel(case)) for case, found in cases]
    names = structures(head)
    triage = triage_rows(known, names, reference, asked.alpha) if asked.ordered else []
    volumes = volume_rows(known, names, reference, asked.alpha) if asked.volumes else []
    for path in asked.tables(folder):
        write_rows(path, triage if path.name == TRIAGE else volumes)
    new = [statistics_of(case.outcome) for case in known]
    found = None if reference is None else drift(reference.statistics, new)
    return Told(triage, volumes, found, asked.tables(folder))


def _voxel(case: Case) -> float | None:
    """Cubic millimetres of a voxel, of a volume whose spacing is known."""
    return math.prod(case.spacing) if case.spacing is not None and len(case.spacing) == 3 else None

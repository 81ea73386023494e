"""Finder: label maps, or members of an ensemble, that agree clearly better with the scores when they are read in
another way: axes in another order or flipped, labels off by one, classes in another order.

Agreement is Cohen's kappa of labels and arg max, so that a large background does not rule it: 1 for equal maps, 0 for
chance. It is measured in at most `FEW` cases, spread evenly over the cohort, on a lattice of at most `LATTICE` voxels
each that every turn maps onto itself; an order of axes counts only where the shapes of all cases allow it. Costs: one
reading of these cases, two bytes or so a lattice voxel and member.

Another reading is clearly better where it gains `GAIN` in the mean, gains in `MOST` of the cases, and itself agrees by
`LEVEL` and a margin over chance that shrinks with the root of the number of cases. The margin is four times what other
turns of the same cases agree by (the root mean square of `UNRELATED` kappas or more), at most `MARGIN`. Why so: real
predictions (hippocampus, street scenes, nuclei) agree by .6 or more in every case as they lie, and by at least .3 less
under any other reading; predictions of no use, a few smooth blobs a case, raise an alarm in some cohorts of a hundred
with one case, in hardly any of six (`tests/statistical/test_agreement.py`).

Source: J. Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20 (1960).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segcal.data.case import PADDING, SCORED, Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.nifti import NiftiField
from segcal.data.numbering import LEFT_OUT
from segcal.data.reader import CaseReader
from segcal.data.rows import Block
from segcal.tasks.check.finding import SHOWN, Finding, conjoined, count, some

FEW = 6
"""Cases that are looked at."""

LATTICE = 2**18
"""Voxels of a case that are looked at."""

CLASSES = 256
"""Most classes of which another order is looked for: a table of pairs of classes is kept for it."""

GAIN, MOST, LEVEL, MARGIN = 0.1, 0.75, 0.2, 0.5
"""When another reading is clearly better; see above."""

UNRELATED = 12
"""Kappas of other turns from which chance agreement can be told; fewer may lie near 0 by luck."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Turn:
    """A map read with its axes in another `order`, then with the axes `flips` backwards."""

    order: tuple[int, ...]
    flips: tuple[int, ...] = ()

    def __call__(self, values: Integers) -> Integers:
        """The map turned; a view."""
        return np.flip(values.transpose(self.order), self.flips)

    @property
    def reverses(self) -> bool:
        """Whether it reverses the order of the axes and does nothing else."""
        return not self.flips and self.order == tuple(range(len(self.order)))[::-1]

    def __str__(self) -> str:
        moved = self.order != tuple(range(len(self.order)))
        order = f"their axes in the order {self.order}" if moved else ""
        flips = f"{'axis' if len(self.flips) == 1 else 'axes'} {conjoined(self.flips)} flipped" if self.flips else ""
        return "their axes reversed" if self.reverses else " and ".join(filter(None, (order, flips)))


def turns(cases: Sequence[Case]) -> tuple[Turn, ...]:
    """Turns that the shapes of all `cases` allow, the identity first: every order of the axes, every set of flips, and
    both where the axes longer than one are reversed. Of cases that are not all in 2-D or all in 3-D: the identity only.
    """
    shapes = {case.shape for case in cases}
    dimensions = {len(shape) for shape in shapes}
    axes = dimensions.pop()
    plain = tuple(range(axes))
    if dimensions or axes not in (2, 3) or any(case.table for case in cases):
        return (Turn(plain),)
    orders = [o for o in itertools.permutations(plain) if all(tuple(s[a] for a in o) == s for s in shapes)]
    long = [a for a in plain if any(shape[a] > 1 for shape in shapes)]
    flips = [f for n in range(len(long) + 1) for f in itertools.combinations(long, n)]
    reverse = tuple(long[-1 - long.index(a)] if a in long else a for a in plain)
    return tuple(Turn(o, f) for o in orders for f in flips if not f or o in (plain, reverse))


def looked_at(cohort: Cohort) -> tuple[Case, ...]:
    """At most `FEW` cases, spread evenly over those with labels; none where there is nothing to compare."""
    labelled = [case for case in cohort if case.labels is not None]
    found = labelled or (list(cohort) if cohort.members > 1 else [])
    few = min(FEW, len(found))
    return tuple(found[(2 * k + 1) * len(found) // (2 * few)] for k in range(few))


def lattice(shape: tuple[int, ...]) -> tuple[Integers, ...]:
    """Indices along each axis: all of them up to `LATTICE` voxels, else fewer, as many from either end."""
    scale = min(1.0, (LATTICE / math.prod(shape)) ** (1 / len(shape)))
    out = []
    for n in shape:
        m = n if scale == 1 else min(n, max(2, 2 * int(n * scale / 2)))
        low = (2 * np.arange(m // 2) + 1) * n // (2 * m)
        out.append(np.concatenate([low, n - 1 - low[::-1]]) if m < n else np.arange(n))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Glance:
    """A mapper that writes nothing and looks at agreement alone."""

    turns: tuple[Turn, ...]

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[CaseGlance]:
        """Look at a case."""
        yield CaseGlance(reader, self.turns)


class CaseGlance:
    """What one case shows on its lattice: labels, and the classes that the scores and each member decide."""

    def __init__(self, reader: CaseReader, turns: tuple[Turn, ...]) -> None:
        self._cohort, self._turns = reader.cohort, turns
        case = reader.cohort[reader.index]
        axes = lattice(case.shape)
        self._shape = tuple(len(a) for a in axes)
        self._at = np.ravel_multi_index(np.ix_(*axes), case.shape).ravel()
        size = np.int16 if reader.cohort.head.labels < 2**15 else np.int64
        blank = np.full(len(self._at), -1, size)
        self._labels = None if case.labels is None else blank.copy()
        self._decided = [blank.copy() for _ in range(cohort_members(reader.cohort) + 1)]

    def block(self, block: Block) -> None:
        """Take what lies on the lattice."""
        low, high = np.searchsorted(self._at, [block.start, block.start + block.voxels])
        at = torch.from_numpy(self._at[low:high] - block.start)
        role = block.role[at]
        head = self._cohort.head
        given = [(block.scores, block.kind), *((member, self._cohort.kind) for member in block.members)]
        for kept, (scores, kind) in zip(self._decided, given, strict=False):
            kept[low:high] = torch.where(role == PADDING, -1, head.predicted(scores[:, at], kind)).numpy()
        if self._labels is not None and block.labels is not None:
            self._labels[low:high] = torch.where(role == SCORED, block.labels[at], -1).numpy()

    def summary(self) -> dict[str, Any]:
        """Agreement of each pair of maps; None where there is no such pair."""
        pooled, *members = (d.reshape(self._shape).astype(np.int64) for d in self._decided)
        labels = None if self._labels is None else self._labels.reshape(self._shape).astype(np.int64)
        classes = self._cohort.head.labels
        return {
            "labels": None if labels is None else Pair.of(labels, pooled, self._turns, classes),
            "members": [Pair.of(other, members[0], self._turns, classes) for other in members[1:]],
        }


def cohort_members(cohort: Cohort) -> int:
    """Members that can be compared: none where there is one."""
    return cohort.members if cohort.members > 1 else 0


@dataclass(frozen=True, eq=False)
class Pair:
    """How a map agrees with another in one case: kappa by reading, NaN where chance agrees fully, and a table of counts
    (own class, the other's) if there are few enough classes.
    """

    kappas: Mapping[Turn | int, float]
    table: Integers | None = field(repr=False)

    @classmethod
    def of(cls, own: Integers, other: Integers, turns: Sequence[Turn], classes: int) -> Pair:
        """Voxels that are -1 in either do not count. A reading is a turn, or a number that is added to the labels; what
        it takes out of range does not count.
        """
        kappas: dict[Turn | int, float] = {turn: kappa(turn(own), other, classes) for turn in turns}
        for step in (-1, 1):
            moved = np.where(own < 0, -1, own + step)
            kappas[step] = kappa(np.where(moved < classes, moved, -1), other, classes)
        return cls(kappas, _table(own, other, classes) if classes <= CLASSES else None)


def _table(own: Integers, other: Integers, classes: int) -> Integers:
    both = (own >= 0) & (other >= 0)
    pairs = own[both] * classes + other[both]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def kappa(own: Integers, other: Integers, classes: int) -> float:
    """Cohen's kappa where neither is -1; NaN for no voxel, or where both show one and the same class."""
    both = (own >= 0) & (other >= 0)
    a, b = own[both], other[both]
    if not a.size:
        return math.nan
    seen = float((a == b).mean())
    chance = float(np.bincount(a, minlength=classes) @ np.bincount(b, minlength=classes)) / a.size**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


def kappa_of(table: Integers, order: tuple[int, ...]) -> float:
    """The same from a table of counts (own class, the other's), with own class k as class `order[k]`."""
    total = float(table.sum())
    if not total:
        return math.nan
    seen = float(table[np.arange(len(order)), order].sum()) / total
    chance = float(table.sum(1) @ table.sum(0)[list(order)]) / total**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


SAME_CLASSES = "Every member needs the same classes and the same axes in the same order: write the odd one again."

Reading = Turn | int | tuple[int, ...]
"""Another way to read a map: turned, with a number added to its labels, or with class k as class `reading[k]`."""


@dataclass(frozen=True)
class Better:
    """Another reading that agrees clearly better: mean kappas as it lies and so read, in how many of how many cases."""

    reading: Reading
    plain: float
    then: float
    wins: int
    cases: int

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return {
            "reading": _so_read(self.reading),
            "kappa": self.then,
            "as_it_lies": self.plain,
            "wins": self.wins,
            "cases": self.cases,
        }

    @property
    def figures(self) -> str:
        """Both figures in words."""
        return (
            f"Cohen's kappa {self.then:.2f} against {self.plain:.2f} as they lie, better in {self.wins} of"
            f" {count(self.cases, 'case')} looked at"
        )


def better(pairs: Sequence[Pair]) -> Better | None:
    """The reading that is clearly better than the plain one and agrees best, if there is one; pairs of the same turns,
    one a case.
    """
    if not pairs:
        return None
    identity, *others = pairs[0].kappas
    columns: dict[Reading, NDArray[np.float64]] = {
        r: np.array([pair.kappas[r] for pair in pairs]) for r in (identity, *others)
    }
    if (order := _matching(pairs)) is not None:
        columns[order] = np.array([kappa_of(pair.table, order) for pair in pairs if pair.table is not None])
    plain = columns.pop(identity)
    turned = [r for r in columns if isinstance(r, Turn)]
    found = []
    for reading, kappas in columns.items():
        known = np.isfinite(kappas) & np.isfinite(plain)
        n = int(known.sum())
        if not n:
            continue
        then, now = float(kappas[known].mean()), float(plain[known].mean())
        wins = int((kappas[known] > plain[known]).sum())
        chance = np.array([columns[t] for t in turned if t != reading]).ravel()
        chance = chance[np.isfinite(chance)]
        spread = math.sqrt(float((chance**2).mean())) if chance.size >= UNRELATED else 1.0
        enough = LEVEL + min(MARGIN, 4 * spread) / math.sqrt(n)
        if then - now >= GAIN and wins >= MOST * n and then >= enough:
            found.append(Better(reading, now, then, wins, n))
    return max(found, key=lambda b: b.then, default=None)


def _matching(pairs: Sequence[Pair]) -> tuple[int, ...] | None:
    """The order of classes that agrees in most voxels of all cases; None if it is the plain one, or unknown."""
    tables = [pair.table for pair in pairs if pair.table is not None]
    if not tables:
        return None
    order = tuple(int(c) for c in linear_sum_assignment(sum(tables[1:], tables[0]), maximize=True)[1])
    return None if order == tuple(range(len(order))) else order


@dataclass(frozen=True, eq=False)
class Agreement:
    """What looking at `cases` came to: the better reading of label maps, and that of each member but the first."""

    cases: tuple[str, ...]
    labels: Better | None
    members: tuple[Better | None, ...]

    @classmethod
    def of(cls, cohort: Cohort, seen: Mapping[str, Mapping[str, Any]]) -> Agreement:
        """From what the glances at cases, by id, gave."""
        members = [s["members"] for s in seen.values()]
        return cls(
            tuple(seen),
            better([s["labels"] for s in seen.values() if s["labels"] is not None]),
            tuple(better([m[k] for m in members]) for k in range(cohort.members - 1)) if members else (),
        )

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        members = [None if b is None else b.to_json() for b in self.members]
        return {
            "cases": list(self.cases),
            "labels": None if self.labels is None else self.labels.to_json(),
            "members": members,
        }


def agreement(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Label maps or members that agree better when read in another way."""
    seen: Agreement = facts["agreement"]
    found, members = seen.labels, seen.members
    if found is not None and not any(members):  # else the mean of members that differ is what disagrees
        do, options = _remedy(found.reading, cohort)
        text = f"label maps agree better with the scores if read {_so_read(found.reading)}: {found.figures}"
        yield Finding("warning", "labels", text, do, options)
    odd = {k: b for k, b in enumerate(members, 1) if b is not None}
    first, where = cohort[0].scores[0].where, [field.where for field in cohort[0].scores]
    if 1 < len(odd) == len(members):
        text = f"every other member agrees better with {first} if read {_so_read(odd[1].reading, True)}"
        do = f"{SAME_CLASSES} It is likely the first."
        yield Finding("warning", "members", f"{text}: {odd[1].figures}", do)
        return
    for k, other in odd.items():
        text = f"scores such as {where[k]} agree better with {first} if read {_so_read(other.reading, True)}"
        text += f": {other.figures}"
        yield Finding("warning", "members", text, SAME_CLASSES)


def _so_read(reading: Reading, member: bool = False) -> str:
    """How a map is read, in words."""
    what = "class" if member else "label"
    if isinstance(reading, Turn):
        return f"with {reading}"
    if isinstance(reading, int):
        return f"with one {'added to' if reading > 0 else 'taken from'} every {what}"
    moved = [f"{k} as {to}" for k, to in enumerate(reading) if k != to]
    return f"with {what} {some(moved, 2 * SHOWN)}"


def _remedy(reading: Reading, cohort: Cohort) -> tuple[str, dict[str, Any]]:
    """What to do, and the options that do it."""
    if isinstance(reading, Turn):
        wanted = _zyx(cohort) if reading.reverses else None
        if wanted is not None:
            return ("Add --zyx." if wanted else "Leave --zyx out."), {"zyx": wanted}
        turn = f"y.transpose{reading.order}" if reading.order != tuple(range(len(reading.order))) else "y"
        turn = f"np.flip({turn}, {reading.flips})" if reading.flips else turn
        return f"Look at one case in a viewer; as scores lie, its label map would be {turn} in NumPy.", {}
    numbers = range(cohort.head.labels)
    moved = [k + reading for k in numbers] if isinstance(reading, int) else list(reading)
    words = tuple(f"{k}:{to if to in numbers else LEFT_OUT}" for k, to in enumerate(moved) if k != to)
    if any(case.numbering is not None for case in cohort):
        return "Label k must be class k of the scores, from 0: see whether --label-map is right.", {}
    return f"Label k must be class k of the scores, from 0: add --label-map {' '.join(words)}.", {"label_map": words}


def _zyx(cohort: Cohort) -> bool | None:
    """What `--zyx` would have to be to turn label maps against the scores; None where it turns neither or both."""
    case = next(c for c in cohort if c.labels is not None)
    if "folder" in case.files or not isinstance(case.labels, NiftiField) or isinstance(case.scores[0], NiftiField):
        return None
    return not case.labels.reversed

"""In what steps the scores of a cohort are stored, and whether they can be of the kind they are declared to be: found
from a sample of their values.

A probability stored as 0 is one that lies below half the storage step, not one of nothing; taken as 1e-12 it would
rule a fit, taken as half a step it would hide how certain a network is. It counts as the mean of what was rounded to 0
(`Rounded`). Steps are looked for in this order:

    common      all probabilities are multiples of one step: integers, decimals, votes
    voxel-wise  in each voxel they are multiples of a step of its own: integers divided by their sum
    a channel   those of one class are: sigmoids beside what they leave of 1
    half        all values are half-precision numbers (bfloat16 likewise, whose zeros are as good as float32's)

Promises: the kind is never changed, only doubted (a KindWarning). The sample is drawn from the scored voxels of cases
spread over the cohort, and depends on these cases alone: on no engine, number of workers, or selection made of the
cohort afterwards. Cases stored in different ways: the coarsest decide, together. Too few values to tell (one-hot maps,
a handful of voxels): full precision. Logits: full precision, always; what is told of them is their size, where it is
far from the usual one (a temperature is looked for near it). A case that cannot be read is passed over here; the pass
that reads it whole says what is wrong. Costs: the reading of two large cases, or up to `CASES` small ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import SCORED
from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.scores import FLOOR, FULL, LIKE, SUM_TOLERANCE, Kind, Resolution
from segcal.errors import KindWarning, SegcalError

if TYPE_CHECKING:
    from segcal.data.cohort import Cohort
    from segcal.data.reader import CaseReader
    from segcal.data.rows import Record

Array = NDArray[np.float64]

CASES, BLOCKS, VOXELS = 32, 8, 4096
"""Most cases sampled, most blocks of one, and most voxels of a block."""

ENOUGH, FEW, MOST, LEAST = 2**14, 2**10, 2**18, 64
"""Values strictly between 0 and 1 that end the sample of a case; that are looked at by themselves; numbers that are,
whatever they are; and values below which nothing is told.
"""

LIMIT = 2**24
"""Bytes in which a case may be unpacked in memory; a larger one goes through a file."""

BITS = 60.0
"""Evidence for a step: how often chance would have to halve for the values to be its multiples."""

FINE = 2.0**-9
"""Parts of the smallest value that a step may be, times the relative error of values."""

SINGLE, HALF, BRAIN = 2.0**-24, 2.0**-11, 2.0**-8
"""Relative rounding errors of float32, float16 and bfloat16; also how far the number below 1 is from 1."""

USUAL, ODD = 4.0, 128.0
"""The usual size of logits, and how many times larger or smaller they may be without a word."""

SUBNORMAL = 2.0**-24
"""The smallest float16 above 0."""


@dataclass(frozen=True)
class Storage:
    """How scores are stored: what their zeros count as (`resolution`), how that is called (`steps`, '' for full
    precision), and whether scores declared as logits look like probabilities (`doubtful`).
    """

    resolution: Resolution = FULL
    steps: str = ""
    doubtful: bool = False

    @property
    def coarse(self) -> bool:
        """Whether a stored 0 counts as more than `FLOOR`."""
        return self.steps != ""

    def notes(self, records: Sequence[Record] = ()) -> list[str]:
        """What a reader of numbers must know of stored zeros; `records`: of the labelled cases that were read."""
        labelled, floored = sum(r.roles[SCORED] for r in records), sum(r.floored for r in records)
        share = 100 * floored / labelled if labelled else 0.0
        if self.coarse:
            told = f"; the label's is 0 at {share:.2g} % of the labelled voxels" if labelled else ""
            return [f"scores are stored in {self.steps}: a stored 0 counts as {self.resolution.zero:.2g}{told}"]
        if floored > TELLING * labelled:
            return [
                f"the label's probability is stored as 0, or as good as, at {share:.2g} % of the labelled voxels: they"
                " rule NLL and fit; see whether scores were stored coarsely, or are of what the network never saw"
            ]
        return []


@dataclass(frozen=True)
class Rounded:
    """How many values are stored as 0, and how many as one `step` (0: in no steps).

    The share of probabilities below p is taken to grow as p^a there. What is stored as 0 lies below half a step, what
    is stored as 0 or one below three halves, so a = log((zeros + ones) / zeros) / log 3, and the mean of what is stored
    as 0 is step / 2 a / (a + 1): a quarter of a step where values lie as dense there as elsewhere, much less where most
    of them lie far below. Measured beside constants and other means: docs/results/coarse.md. Nothing counted: as if one
    value of two were stored as 0.
    """

    step: float = 0.0
    zeros: int = 0
    ones: int = 0

    @classmethod
    def of(cls, parts: Array, step: float) -> Rounded:
        """Of probabilities, given as `parts` of a step."""
        return cls(step, int((parts <= 0).sum()), int(((parts > 0) & (parts < 1.5)).sum()))

    def beside(self, other: Rounded) -> Rounded:
        """Both counted where steps are alike; else the coarser."""
        coarse, fine = (self, other) if self.step >= other.step else (other, self)
        if coarse.step > LIKE * fine.step:
            return coarse
        return Rounded(coarse.step, self.zeros + other.zeros, self.ones + other.ones)

    @property
    def mean(self) -> float:
        """The mean of what is stored as 0, no less than `FLOOR`."""
        a = math.log((self.zeros + self.ones + 1) / (self.zeros + 0.5)) / math.log(3)
        return max(self.step / 2 * a / (a + 1), FLOOR)


@dataclass(frozen=True)
class Told:
    """What a sample tells: values stored as 0 and, of regions, as 1 (`low`, `high`), and what `Storage` says of it."""

    low: Rounded = Rounded()
    high: Rounded = Rounded()
    steps: str = ""
    unit: float = 1.0
    doubtful: bool = False

    def beside(self, other: Told) -> Told:
        """Two samples of one cohort; logits that look like probabilities do so everywhere."""
        steps = self.steps if self.low.step >= other.low.step else other.steps
        low, high = self.low.beside(other.low), self.high.beside(other.high)
        return Told(low, high, steps, max(self.unit, other.unit), self.doubtful and other.doubtful)

    @property
    def storage(self) -> Storage:
        """The same, without what was counted."""
        found = Resolution(self.low.mean, self.high.mean, self.unit, self.low.step, self.high.step)
        return Storage(found, self.steps, self.doubtful)


TELLING = 1e-4
"""Share of labelled voxels stored as 0, at full precision, that is worth a word."""


def doubt(head: Head) -> str:
    """What is said of logits that look like probabilities."""
    seen = "all lie in [0, 1]" + (" and sum to 1 over the classes" if head.sums_to_one else "")
    return (
        f"scores are declared as logits, but {seen}: if they are probabilities, say so with --kind probs"
        " (kind='probs'); they are used as logits all the same"
    )


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the scores of `cohort` are stored, found out when it is first asked for; `known`: found out before."""

    cohort: Cohort
    known: Storage | None = None

    def covers(self, other: Cohort) -> bool:
        """Whether `other` is a selection of the cohort's scores, or all of them, declared as the same."""
        same = (other.kind, other.head.noun) == (self.cohort.kind, self.cohort.head.noun)
        return same and all(id(f) in self._fields for case in other.cases for f in case.scores)

    @cached_property
    def _fields(self) -> frozenset[int]:
        return frozenset(id(f) for case in self.cohort.cases for f in case.scores)

    @cached_property
    def storage(self) -> Storage:
        """What was found. A KindWarning where the declared kind is doubtful."""
        if self.known is not None:
            return self.known
        found = storage_of(self.cohort)
        if found.doubtful:
            warnings.warn(doubt(self.cohort.head), KindWarning, stacklevel=2)
        return found


def storage_of(cohort: Cohort) -> Storage:
    """Sample a cohort and tell how it is stored. No case that can be read, no scored voxel: full precision."""
    held: list[Array] = []
    found: list[Told] = []
    seen = 0
    for index in _spread(len(cohort), CASES):
        for piece in _sampled(cohort, index):
            held.append(piece)
            values = sum(_between(p, cohort.kind) for p in held)
            if values >= FEW or sum(p.size for p in held) >= MOST:
                found.append(tell(held, cohort.kind, cohort.head))
                held = []
                seen += max(values, ENOUGH if values < FEW else 0)
        if seen >= 2 * ENOUGH * cohort.members:
            break
    if held:
        found.append(tell(held, cohort.kind, cohort.head))
    return reduce(Told.beside, found).storage if found else Storage()


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of 0 .. count - 1: both ends, then what halves the gaps."""
    order: list[int] = []
    step = 1
    while len(order) < min(count, most):
        for k in range(step + 1):
            at = round(k * (count - 1) / step)
            if at not in order and len(order) < most:
                order.append(at)
        step *= 2
    return order


def _sampled(cohort: Cohort, index: int) -> list[Array]:
    """Sampled scores of each member of a case (channels, n); nothing of a case that cannot be read."""
    try:
        with Scratch(LIMIT) as scratch, cohort.open(index, scratch) as reader:
            return list(_members(reader))
    except SegcalError:  # raised again, and told, by the pass that reads the case whole
        return []


def _members(reader: CaseReader) -> Iterator[Array]:
    cohort = reader.cohort
    cuts = cohort.cuts(reader.index)
    order = [len(cuts) // 2, *_spread(len(cuts), BLOCKS)] if cuts else []  # a case of no voxel
    for k in range(len(reader.windows)):
        pieces: list[Array] = []
        for at in list(dict.fromkeys(order))[:BLOCKS]:
            start, stop = cuts[at]
            scored = np.flatnonzero(reader.role(start, stop).numpy() == SCORED)
            most = max(LEAST, min(VOXELS, MOST // cohort.head.channels))
            some = scored[:: max(1, -(-len(scored) // most))]
            pieces.append(np.asarray(reader.windows[k].read(start, stop)[:, some], np.float64))
            if sum(_between(p, cohort.kind) for p in pieces) >= ENOUGH:
                break
        yield np.concatenate(pieces, 1) if pieces else np.empty((cohort.head.channels, 0))


def _between(raw: Array, kind: Kind) -> int:
    """How many values tell something of the steps."""
    return int(((raw > 0) & (raw < 1)).sum()) if kind == "probs" else int((raw != 0).sum())


def tell(pieces: Sequence[Array], kind: Kind, head: Head) -> Told:
    """How scores (channels, n), as they are stored, are stored."""
    raw = np.concatenate(pieces, 1)
    if kind == "logits":
        return Told(unit=_unit(raw, head), doubtful=_like_probabilities(raw, head))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        p = np.exp(raw) if kind == "log_probs" else raw / raw.sum(0) if kind == "scores" else raw
        kept = (np.isfinite(p) & (p >= 0)).all(0)
    raw, p = raw[:, kept], p[:, kept]
    if int(((p > 0) & (p < 1)).sum()) < LEAST:
        return Told() if head.sums_to_one else Told(high=Rounded.of((1 - p) / SINGLE, SINGLE))
    precision = SINGLE if kind == "log_probs" else _precision(raw)
    step, parts, steps = 0.0, p, ""
    if kind != "log_probs" or (p == 0).any():
        step, parts, steps = _steps(raw, p, kind, head, precision)
    if not step and precision == HALF:
        step, parts, steps = SUBNORMAL, p / SUBNORMAL, "half precision (float16)"
    if step <= 2 * FLOOR:
        step, steps = 0.0, ""
    above = 0.0 if head.sums_to_one else max(step, precision)
    return Told(Rounded.of(parts, step), Rounded.of((1 - p) / above, above) if above else Rounded(), steps)


def _unit(raw: Array, head: Head) -> float:
    """A power of two that brings the median distance of the winner from the mean class, or of a region from its
    threshold, to `USUAL`, as far as their common offset allows; 1 where it is within `ODD` times that, or nothing is
    told.
    """
    known = np.isfinite(raw)
    if not head.sums_to_one or not raw.size:
        far = abs(raw[known])
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(known, raw, 0.0).sum(0) / np.maximum(known.sum(0), 1)
            far = np.where(known, raw, -np.inf).max(0) - mean
    far = far[np.isfinite(far) & (far > 0)]
    ratio = float(np.median(far)) / USUAL if far.size else 1.0
    if ratio < 1:  # what is common to all classes is not blown up beyond bounds
        ratio = max(ratio, float(np.median(abs(raw[known]))) / (USUAL * ODD))
    return 1.0 if 1 / ODD <= ratio <= ODD or not 0 < ratio < math.inf else 2.0 ** round(math.log2(ratio))


def _like_probabilities(raw: Array, head: Head) -> bool:
    if not raw.size or not np.isfinite(raw).all() or raw.min() < 0 or raw.max() > 1 or raw.min() == raw.max():
        return False
    return not head.sums_to_one or bool((abs(raw.sum(0) - 1) <= SUM_TOLERANCE).all())


def _precision(raw: Array) -> float:
    """The relative rounding error of the narrowest floating-point type that holds all values; 0 for float64."""
    told = raw[(raw != 0) & (raw != 1)]
    single = told.astype(np.float32)
    if (single != told).any():
        return 0.0
    if (single.view(np.uint32) & 0xFFFF == 0).all():
        return BRAIN
    with np.errstate(over="ignore"):
        return HALF if (single.astype(np.float16) == single).all() else SINGLE


def _steps(raw: Array, p: Array, kind: Kind, head: Head, precision: float) -> tuple[float, Array, str]:
    """The step of probabilities `p` (channels, n), those stored in such steps as parts of one, and how the steps are
    called; 0, `p` and '' where there are none.

    Values are looked at as exactly as float32 has them, then as coarsely as they are rounded.
    """
    exact = (32.0 if kind == "log_probs" else 8.0) * SINGLE
    for error in [exact, 8 * precision] if 8 * precision > exact else [exact]:
        step = common_step(p[(p > 0) & (p < 1)], error, precision)
        if step is not None:
            return step, p / step, _called(step, precision)
        if kind == "scores":
            step, sums = common_step(raw[raw > 0], error, precision), raw.sum(0)
            if step is not None:
                return step / float(sums.max()), raw / step, _called(step / float(np.median(sums)), precision)
        step = own_step(p, error) if head.sums_to_one else None
        if step is not None:
            return step, p / step, f"steps of about {step:.2g}"
        rounded = p[(p == 0).any(1)]
        each = [common_step(c[(c > 0) & (c < 1)], error, precision) for c in rounded]
        step = max((s for s in each if s is not None), default=None)
        if step is not None:
            return step, rounded / step, _called(step, precision)
    return 0.0, p, ""


def common_step(values: Array, error: float, precision: float = SINGLE) -> float | None:
    """The largest step of which all `values` (above 0, known to a relative `error`) are multiples, if they are so by
    more than chance; None otherwise. `precision` of the type they were rounded to, whose own spacing is no step.
    """
    if len(values) < LEAST:
        return None
    told = np.unique(values)
    gaps = np.diff(told)
    gaps = gaps[gaps > 4 * error * told[1:]]
    # beyond so many parts floating-point numbers are themselves multiples of a step
    finest = round(float(told[0] / gaps.min())) if gaps.size else 1
    tries = [*range(1, 17), *([finest] if 16 < finest < FINE / max(error, 8 * precision) else [])]
    # few values, seen over and over, need less
    needed = BITS if len(told) > len(values) / 16 else BITS / 4
    for parts in tries:
        step = float(told[0]) / parts
        # most tries end at the smallest values, which are known best
        if _bits(told[1:LEAST] / step, error) is not None:
            bits = _bits(told[1:] / step, error)
            if bits is not None:
                return step if bits.sum() >= needed + np.log2(parts) else None
    return None


def own_step(p: Array, error: float) -> float | None:
    """The smallest step where the probabilities of each voxel are multiples of a step of its own; None otherwise.

    Voxels are looked at whose smallest value is a few of the smallest steps of all.
    """
    least = np.where(p > 0, p, np.inf).min(0)
    chosen = p[:, least < 4.2 * least.min()][:, :VOXELS]
    least = np.where(chosen > 0, chosen, np.inf).min(0)
    bits = np.full(chosen.shape[1], -1.0)
    for parts in range(4, 0, -1):
        ratios = parts * chosen / least
        tolerance = ratios * error
        told = (tolerance < 0.25) & (chosen > least)
        whole = (~told | (abs(ratios - np.rint(ratios)) <= tolerance)).all(0)
        evidence = np.where(told, -np.log2(2 * np.maximum(tolerance, 2.0**-21)), 0.0).sum(0)
        bits = np.where(whole, np.maximum(evidence - 2, 0.0), bits)
    distinct = np.unique(chosen.max(0), return_index=True)[1]
    return float(least.min()) if (bits >= 0).all() and bits[distinct].sum() >= BITS else None


def _bits(ratios: Array, error: float) -> Array | None:
    """Evidence, in bits, of each ratio (known to a relative `error`) that is whole; None if one is not.

    A ratio too large to be told from its neighbours says nothing.
    """
    tolerance = ratios * error
    told = tolerance < 0.25
    off = abs(ratios - np.rint(ratios))
    if (off[told] > tolerance[told]).any():
        return None
    bits: Array = -np.log2(2 * np.maximum(tolerance[told], 2.0**-21))
    return bits


def _called(step: float, precision: float) -> str:
    """Such as 'steps of 1/255' or 'steps of 0.001'."""
    if precision == HALF and step <= SUBNORMAL * (1 + HALF):
        return "half precision (float16)"
    whole = round(1 / step)
    decimal = abs(np.log10(step) - round(np.log10(step))) < 1e-3
    return f"steps of {step:.3g}" if decimal or whole > 2**16 + 2**8 else f"steps of 1/{whole}"

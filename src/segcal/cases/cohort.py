"""Cohorts, and reading their cases by blocks.

A `Cohort` is a sequence of cases with one head, one kind of scores and one way of pooling. Promises: reading costs one
window of memory (`BLOCK` voxels, fewer for many channels); each block checks its scores and labels and raises an error
that names the file. A cohort without cases cannot be made.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal import journal
from segcal.cases.case import IGNORED, OUTSIDE, PADDING, ROLES, SCORED, Case, Provenance, Window, block_length
from segcal.cases.padding import Box
from segcal.cases.rows import Block, Note, Prepared, Record
from segcal.cases.storage import Sampling, Storage, doubt
from segcal.errors import DataError, LabelError, MissingError, ScoreError, ShapeError, UsageError
from segcal.head import NO_TARGET, Head, check_labels
from segcal.journal import Scratch
from segcal.places import LabelMap, Places, Stored
from segcal.pooling import Pool, pool_members, pooled_kind
from segcal.scores import Kind, Resolution

Damaged = Literal["refuse", "exclude"]
"""What is done with cases whose data cannot be used: nothing at all is done, or they are left out, and named."""

NAMED = 20
"""Damaged cases named beside the first."""

NOT_LOOKED_AT = -1
"""Stands in a predicted label map for padding and what lies outside the mask."""


@dataclass(frozen=True, eq=False)
class Cohort(Sequence[Case]):
    """Cases with one head, one kind of scores, and one way of pooling members.

    `sampling`: how its storage is found out; a cohort made without one looks at its own cases. `grouping`: the word by
    which their groups were made (`segcal.splits.grouped`), '' where nobody said one. `unit`: what logits are divided by
    when they are read. `damaged`: cases left out because their data cannot be used, each with its error.
    """

    cases: tuple[Case, ...]
    head: Head
    kind: Kind
    pool: Pool = "probs"
    provenance: Provenance = field(default_factory=Provenance)
    name: str = "cohort"
    sampling: Sampling | None = None
    grouping: str = ""
    unit: float = 1.0
    damaged: Mapping[str, DataError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cases:
            if self.damaged:
                raise refusal(self.damaged)
            raise MissingError(
                self.name,
                found="no case",
                expected="at least one",
                do="Check the folder and the patterns given with --cases.",
            )
        twice = (
            {c.id for c in self.cases if sum(d.id == c.id for d in self.cases) > 1}
            if len({c.id for c in self.cases}) < len(self.cases)
            else set()
        )
        if twice:
            raise UsageError(
                self.name,
                found=f"case names used twice: {sorted(twice)[:3]}",
                expected="one name a case",
                do="Rename the files.",
            )
        for case in self.cases:
            if len(case.scores) != len(self.cases[0].scores):
                raise ShapeError(
                    f"case {case.id}",
                    found=f"{len(case.scores)} members",
                    expected=f"{len(self.cases[0].scores)} as in case {self.cases[0].id}",
                    do=(
                        "Every case needs the predictions of the same members; predict the missing ones or leave the"
                        " case out."
                    ),
                )
            channels = case.scores[0].channels
            if channels != self.head.channels:
                raise ShapeError(
                    case.scores[0].where,
                    found=f"{channels} classes",
                    expected=f"{self.head.channels} ({', '.join(self.head.classes)})",
                    do="Check that these predictions belong to this data set, and the class axis.",
                )
        # a selection of cases shares it: what is said of storage does not change with what is selected
        if self.sampling is None or not self.sampling.covers(self):
            object.__setattr__(self, "sampling", Sampling(self))

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Cohort: ...
    def __getitem__(self, index: int | slice) -> Case | Cohort:
        return replace(self, cases=self.cases[index]) if isinstance(index, slice) else self.cases[index]

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def members(self) -> int:
        """Members pooled in each case."""
        return len(self.cases[0].scores)

    @property
    def pooled_kind(self) -> Kind:
        """Kind of the pooled scores."""
        return pooled_kind(self.kind, self.pool, self.members, self.head)

    @property
    def storage(self) -> Storage:
        """In what steps scores are stored: found from a sample of the cohort as it was opened, when first asked for."""
        assert self.sampling is not None
        return self.sampling.storage

    @property
    def resolution(self) -> Resolution:
        """What stored zeros count as."""
        return self.storage.resolution

    @property
    def doubts(self) -> list[str]:
        """Why the declared kind may be wrong; empty where nothing says so."""
        return [doubt(self.head)] if self.storage.doubtful else []

    def sampled(self) -> Cohort:
        """Itself, with its storage found out: here, rather than by several threads at once."""
        known = self.storage
        return replace(self, sampling=Sampling(self, known))

    def scaled(self, unit: float) -> Cohort:
        """The same cases, whose logits are read divided by `unit`, a power of two."""
        if unit == 1:
            return self
        known = replace(self.storage, resolution=replace(self.resolution, unit=self.resolution.unit / unit))
        return replace(self, unit=unit * self.unit, sampling=Sampling(self, known))

    def at_least(self, resolution: Resolution) -> Cohort:
        """The same cases, whose zeros count as `resolution` says, or as their own where they are stored in coarser
        steps.
        """
        floor = resolution.coarser(self.resolution)
        if floor == self.resolution:
            return self
        return replace(self, sampling=Sampling(self, replace(self.storage, resolution=floor)))

    @property
    def has_logits(self) -> bool:
        """Whether raw logits are known, so that a free energy can be measured."""
        return self.pooled_kind == "logits" and self.head.rows == self.head.channels

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each case; a case without one is its own group."""
        return tuple(c.group or c.id for c in self.cases)

    def select(self, patterns: Iterable[str]) -> Cohort:
        """Cases whose id equals or matches (as a shell pattern) one of `patterns`.

        A pattern that matches nothing is a UsageError.
        """
        wanted = list(patterns)
        for pattern in wanted:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in [*(c.id for c in self.cases), *self.damaged]):
                raise UsageError(
                    "cases",
                    found=f"{pattern!r}, which names no case",
                    expected=f"names or patterns of cases such as {self.cases[0].id!r}",
                    do="List the cases with `segcal check`.",
                )

        def chosen(name: str) -> bool:
            return any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)

        return replace(
            self,
            cases=tuple(c for c in self.cases if chosen(c.id)),
            damaged={name: error for name, error in self.damaged.items() if chosen(name)},
        )

    def without(self, damaged: Mapping[str, DataError]) -> Cohort:
        """The same with these cases, by name, left out as damaged; where no other is left, the first one's error."""
        if not damaged:
            return self
        found = {c.id: damaged[c.id] for c in self.cases if c.id in damaged}
        cases = tuple(c for c in self.cases if c.id not in damaged)
        return replace(self, cases=cases, damaged={**self.damaged, **found})

    def whole(self) -> Cohort:
        """Itself, if no case is damaged; otherwise the error of the first that is, which names the others."""
        if self.damaged:
            raise refusal(self.damaged, "Or leave them out: choose the others with --cases.")
        return self

    def grouped(self, group_of: Mapping[str, str], by: str = "") -> Cohort:
        """The same cases with groups by case id, made `by` a word. A case not named is a UsageError."""
        missing = [c.id for c in self.cases if c.id not in group_of]
        if missing:
            raise UsageError(
                "groups",
                found=f"no group for {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                expected="a group for every case",
                do="Add the case to the table, or widen the pattern.",
            )
        cases = tuple(replace(c, group=group_of[c.id]) for c in self.cases)
        return replace(self, cases=cases, grouping=by)

    def sliced(self, axis: int) -> Cohort:
        """The same cases with slices across `axis`. UsageError for an axis that volumes do not have."""
        if not 0 <= axis < 3:
            raise UsageError(
                "slice_axis", found=str(axis), expected="0, 1 or 2", do="Name an axis of the scores, counted from 0."
            )
        return replace(self, cases=tuple(replace(c, slice_axis=axis) for c in self.cases))

    def labelled(self) -> Cohort:
        """Itself, if every case has labels; otherwise MissingError naming the first that has none."""
        bare = [c.id for c in self.cases if c.labels is None]
        if bare:
            raise MissingError(
                f"case {bare[0]}",
                found="no label file" + (f" (and {len(bare) - 1} more cases without one)" if len(bare) > 1 else ""),
                expected="one label map a case",
                do="Give the folder of labels with --labels, or leave the case out with --cases.",
            )
        return self

    def having(self, fields: Iterable[str]) -> Cohort:
        """Itself, if every case has these fields; otherwise MissingError naming the first that lacks one."""
        for name in fields:
            bare = [c.id for c in self.cases if name not in c.fields]
            if bare:
                raise MissingError(
                    f"case {bare[0]}",
                    found=f"no {name}" + (f" (and {len(bare) - 1} more cases without one)" if len(bare) > 1 else ""),
                    expected=f"the {name} of every case",
                    do=f"Give it with {name}= (--{name}s FOLDER), or choose a method without it.",
                )
        return self

    def cuts(self, index: int) -> list[tuple[int, int]]:
        """How a case is cut into blocks: (start, stop) of the flattened voxel index."""
        n, step = self.cases[index].voxels, block_length(self.head.rows)
        return [(a, min(a + step, n)) for a in range(0, n, step)]

    @contextlib.contextmanager
    def open(self, index: int, scratch: Scratch) -> Iterator[CaseReader]:
        """Open one case for reading by blocks."""
        case = self.cases[index]
        with contextlib.ExitStack() as stack:
            windows = [stack.enter_context(f.open(scratch)) for f in case.scores]
            labels = None if case.labels is None else stack.enter_context(case.labels.open(scratch))
            mask = None if case.mask is None else stack.enter_context(case.mask.open(scratch))
            crop = case.crop
            if case.unrecorded is not None:
                crop = case.unrecorded.find(
                    case.scores[0].where, case.shape, windows, self.cuts(index), self.head, masked=mask is not None
                )
            yield CaseReader(self, index, windows, labels, mask, FieldWindows(case, stack, scratch), crop)


def refusal(damaged: Mapping[str, DataError], do: str = "") -> DataError:
    """The error of the first of some damaged cases, naming the others; `do`: another way out than its own."""
    first, names = next(iter(damaged.values())), list(damaged)[1:]
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    found = f"{first.found} (and {len(names)} more case(s) that cannot be used: {shown})" if names else first.found
    return type(first)(first.where, found=found, expected=first.expected, do=f"{first.do} {do}".rstrip())


class FieldWindows:
    """Named fields of an open case, each opened when it is first asked for and closed with the case."""

    def __init__(self, case: Case, stack: contextlib.ExitStack, scratch: Scratch) -> None:
        self._case, self._stack, self._scratch = case, stack, scratch
        self._open: dict[str, Window] = {}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Voxels start..stop of the field called `name`, (channels, n), float64.

        NaN or infinity: ScoreError. That every case has it is checked by `Cohort.having`.
        """
        if name not in self._open:
            found = self._case.fields[name]
            self._open[name] = self._stack.enter_context(found.open(self._scratch))
        values = torch.from_numpy(np.array(self._open[name].read(start, stop), np.float64))
        if not bool(torch.isfinite(values).all()):
            raise ScoreError(
                self._case.fields[name].where,
                found="NaN or infinity",
                expected=f"finite values of the {name}",
                do="Repair the file, or leave the case out.",
            )
        return values if values.dim() == 2 else values[None]


@dataclass(frozen=True, eq=False)
class CaseReader:
    """An open case."""

    cohort: Cohort
    index: int
    windows: list[Window]
    label_window: Window | None
    mask_window: Window | None
    fields: FieldWindows | None = None
    crop: Box | None = None

    def block(self, start: int, stop: int, *, keep_members: bool = False) -> Block:
        """Read, check and pool voxels start..stop; `keep_members` keeps what was pooled, too."""
        cohort = self.cohort
        role, labels = self.role(start, stop), None
        kept = tuple(self._member(k, start, stop, role) for k in range(len(self.windows))) if keep_members else ()
        scores = (
            pool_members(kept, len(self.windows), cohort.kind, cohort.pool, cohort.head, cohort.resolution)
            if keep_members
            else self.scores(start, stop, role)
        )
        scores = scores / cohort.unit if keep_members and cohort.unit != 1 else scores
        if self.label_window is not None:
            labels, role = self.labels(start, stop, role)
        return Block(self.index, start, scores, cohort.pooled_kind, labels, role, kept)

    def scores(self, start: int, stop: int, role: Tensor | None = None) -> Tensor:
        """Read, check and pool the scores of voxels start..stop:

        (channels, n) of the cohort's pooled kind. `role`: theirs, if known already.
        """
        given = self.role(start, stop) if role is None else role
        members = (self._member(k, start, stop, given) for k in range(len(self.windows)))
        cohort = self.cohort
        pooled = pool_members(members, len(self.windows), cohort.kind, cohort.pool, cohort.head, cohort.resolution)
        return pooled if cohort.unit == 1 else pooled / cohort.unit

    def labels(self, start: int, stop: int, role: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Labels (n,) int64 of voxels start..stop, checked, and their roles, ignored voxels among them.

        `role`: what `role` gives, if known already. No labels: MissingError.
        """
        case, head = self.cohort.cases[self.index], self.cohort.head
        if case.labels is None:
            raise MissingError(f"case {case.id}", found="no labels", expected="labels", do="Give them with --labels.")
        given = self.role(start, stop) if role is None else role
        labels = self._labels(start, stop)
        check_labels(head, labels[given != OUTSIDE] if self.mask_window is not None else labels, case.labels.where)
        if head.ignore is not None:
            given = torch.where((given == SCORED) & (labels == head.ignore), IGNORED, given).to(torch.uint8)
        return labels, given

    @property
    def label_map(self) -> LabelMap:
        """The labels of the whole case, for what depends on where a voxel lies in them."""
        case = self.cohort.cases[self.index]

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            labels, role = self.labels(start, stop)
            return labels.numpy(), np.asarray(role.numpy() == SCORED)

        return LabelMap(
            f"case {case.id}" if case.labels is None else case.labels.where,
            case.shape,
            self.cohort.head,
            read,
            case.spacing,
            case.table,
            self.predicted_map,
            case.slice_axis,
        )

    def predicted_map(self, scratch: Scratch) -> LabelMap:
        """The label map that the scores decide for, wherever the network looked; scores are read once for it, and two
        bytes a voxel kept.
        """
        case, head, kind = self.cohort.cases[self.index], self.cohort.head, self.cohort.pooled_kind
        kept = Stored(case.voxels, np.dtype(np.int16 if head.labels < 2**15 else np.int32), scratch, "predicted")
        with kept.filling():
            for start, stop in self.cohort.cuts(self.index):
                role = self.role(start, stop)
                labels = head.predicted(self.scores(start, stop, role), kind)
                kept.put(start, torch.where(role == SCORED, labels, NOT_LOOKED_AT).numpy())

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            labels = kept.get(start, stop)
            return labels, labels != NOT_LOOKED_AT

        return LabelMap(f"case {case.id}", case.shape, head, read, case.spacing, case.table, slice_axis=case.slice_axis)

    def prepare(self, block: Block, places: Places | None = None) -> Prepared:
        """The scored voxels of a block, in float64, with their `places` of this case.

        A case without labels: MissingError.
        """
        head = self.cohort.head
        if block.labels is None:
            self.cohort.labelled()
            raise MissingError(
                f"case {self.cohort.cases[self.index].id}",
                found="no labels",
                expected="labels",
                do="Give them with --labels.",
            )
        keep = block.role == SCORED
        scores, labels = (
            (block.scores[:, keep], block.labels[keep]) if not bool(keep.all()) else (block.scores, block.labels)
        )
        targets = head.targets(labels)
        assert not bool((targets == NO_TARGET).any())
        lie = (
            {}
            if places is None
            else {place: value[keep] for place, value in places.of(block.start, block.start + block.voxels).items()}
        )
        return Prepared(
            block.case,
            block.start,
            head.canonical(scores, block.kind, self.cohort.resolution),
            targets,
            head.decide(scores, block.kind),
            head.free_energy(scores, block.kind),
            lie,
        )

    def note(self, block: Block) -> Note:
        """What to remember of a block."""
        roles = torch.bincount(block.role.long(), minlength=4).tolist()
        labels = block.labels
        kept = labels[block.role == SCORED] if labels is not None else torch.zeros(0)
        low, high = (int(kept.min()), int(kept.max())) if kept.numel() else (2**62, -(2**62))
        foreground = torch.zeros(0) if labels is None else (self.cohort.head.targets(labels) > 0).any(0)
        hidden = 0 if labels is None else int((foreground & (block.role == PADDING)).sum())
        stored = b"" if labels is None else labels.to(torch.int32).numpy().tobytes()
        # as they were before they were divided
        scores = (block.scores * self.cohort.unit).to(torch.float32).contiguous().numpy().tobytes()
        floored = 0 if labels is None else self._floored(block, labels)
        return Note(
            block.start,
            journal.digest(stored),
            journal.digest(scores),
            (roles[0], roles[1], roles[2], roles[3]),
            low,
            high,
            int(foreground.sum()),
            hidden,
            floored,
        )

    def _floored(self, block: Block, labels: Tensor) -> int:
        """Scored voxels whose label's probability is stored as 0."""
        head, keep = self.cohort.head, block.role == SCORED
        if block.kind == "logits":
            return 0
        low = head.floored(block.scores[:, keep], block.kind, self.cohort.resolution)
        targets = head.targets(labels[keep])
        each = [low[head.slice(k)].gather(0, targets[k][None])[0] for k in range(len(head.parts))]
        return int(torch.stack(each).any(0).sum())

    def record(self, notes: Iterable[Note]) -> Record:
        """What to remember of the case, from the notes of all its blocks.

        A case with labels and no voxel left to score: LabelError.
        """
        case = self.cohort.cases[self.index]
        ordered = sorted(notes, key=lambda n: n.start)
        roles = tuple(sum(n.roles[k] for n in ordered) for k in range(4))
        if case.labels is not None and roles[SCORED] == 0:
            counts = ", ".join(f"{n} {name}" for n, name in zip(roles, ROLES, strict=True) if n)
            raise LabelError(
                case.labels.where,
                found=f"no voxel to score ({counts})",
                expected="at least one labelled voxel",
                do="Leave this case out with --cases, or check the ignore label and the mask.",
            )
        shape = repr(case.shape).encode()
        constant = not ordered or min(n.low for n in ordered) >= max(n.high for n in ordered)
        labels = "" if case.labels is None or constant else journal.digest(shape, *(n.labels.encode() for n in ordered))
        scores = journal.digest(shape, *(n.scores.encode() for n in ordered))
        return Record(
            case.id,
            case.group,
            labels,
            scores,
            (roles[0], roles[1], roles[2], roles[3]),
            sum(n.foreground for n in ordered),
            sum(n.hidden for n in ordered),
            sum(n.floored for n in ordered),
        )

    def _member(self, k: int, start: int, stop: int, role: Tensor) -> Tensor:
        scores = torch.from_numpy(_own(self.windows[k].read(start, stop)))
        where = self.cohort.cases[self.index].scores[k].where
        inside = role != PADDING
        self.cohort.head.check(scores if bool(inside.all()) else scores[:, inside], self.cohort.kind, where)
        return scores

    def _labels(self, start: int, stop: int) -> Tensor:
        assert self.label_window is not None
        raw = self.label_window.read(start, stop)
        if raw.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # NaN becomes some integer, and differs from it below
                whole = raw.astype(np.int64)
            field_ = self.cohort.cases[self.index].labels
            if field_ is not None and not np.array_equal(whole, raw):
                raise LabelError(
                    field_.where,
                    found=f"a label of {raw[whole != raw][0]}",
                    expected="whole numbers",
                    do="Labels must not be interpolated; resample them with nearest neighbour.",
                )
            return torch.from_numpy(whole)
        return torch.from_numpy(raw.astype(np.int64))

    def role(self, start: int, stop: int) -> Tensor:
        """Roles of voxels start..stop, (n,) uint8, as far as they are known without labels: scored, padding or
        outside.
        """
        case = self.cohort.cases[self.index]
        role = np.zeros(stop - start, np.uint8)
        if self.mask_window is not None:
            role[self.mask_window.read(start, stop) == 0] = OUTSIDE
        if self.crop is not None:
            inside = np.ones(stop - start, bool)
            index = np.arange(start, stop)
            for axis in range(len(case.shape) - 1, -1, -1):
                index, at = np.divmod(index, case.shape[axis])
                low, high = self.crop[axis]
                inside &= (at >= low) & (at < high)
            role[~inside] = PADDING
        return torch.from_numpy(role)


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """Something torch can wrap: native byte order, writable, float32 or float64, contiguous enough."""
    kind = array.dtype
    if kind.kind != "f" or kind.itemsize < 4:
        array = array.astype(np.float32)
    elif kind.byteorder not in ("=", "|", "<"):
        array = array.astype(kind.newbyteorder("="))
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")

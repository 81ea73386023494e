"""Cohorts.

A `Cohort` is a sequence of cases with one head, one kind of scores and one way of pooling. Promises: reading
(`segcal.data.reader`) costs one window of memory (`BLOCK` voxels, fewer for many channels). A cohort without cases
cannot be made.
"""

from __future__ import annotations

import contextlib
import fnmatch
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, overload

from segcal.data.case import Case, Provenance, block_length
from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.numbering import Numbering, Numbers
from segcal.data.pooling import Pool, pooled_kind
from segcal.data.reader import CaseReader, FieldWindows
from segcal.data.scores import Kind, Resolution
from segcal.data.storage import Sampling, Storage, doubt
from segcal.errors import DataError, MissingError, ShapeError, UsageError

Damaged = Literal["refuse", "exclude"]
"""What is done with cases whose data cannot be used: nothing at all is done, or they are left out, and named."""

NAMED = 20
"""Damaged cases named beside the first."""


GIVEN = {
    "image": "--images FOLDER",
    "copies": "--copies FOLDER",
    "susceptibility": "--copies FOLDER",
    "copied_images": "--copies FOLDER of copies that a network was run on, or --images FOLDER beside it",
}
"""What gives a field of every case on the command line."""


@dataclass(frozen=True, eq=False)
class Cohort(Sequence[Case]):
    """Cases with one head, one kind of scores, and one way of pooling members.

    `sampling`: how its storage is found out; a cohort made without one looks at its own cases. `grouping`: the word by
    which their groups were made (`segcal.data.splits.grouped`), '' where nobody said one. `unit`: what logits are
    divided by when they are read. `damaged`: cases left out because their data cannot be used, each with its error;
    `unscored`: cases left out because no voxel of them counts.
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
    unscored: tuple[str, ...] = ()

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
                    do=_class_axis(case, self.head.channels)
                    or "Check that these predictions belong to this data set, and the class axis.",
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
        return self.pooled_kind == "logits" and self.head.has_free_energy

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each case; a case without one is its own group."""
        return tuple(c.group or c.id for c in self.cases)

    @property
    def voxel_size(self) -> float | None:
        """The shortest side of a voxel, in mm, of the middle case; None unless the scores of every case come with a
        spacing.
        """
        own = [() if c.spacing is None or c.spacing_from_labels else c.spacing for c in self.cases]
        sides = [min(spacing, default=0.0) for spacing in own]
        return float(statistics.median(sides)) if sides and min(sides) > 0 else None

    def bare(self) -> Cohort:
        """The same cases without labels and masks, as those that a calibrator is applied to."""
        return replace(self, cases=tuple(replace(case, labels=None, mask=None) for case in self.cases))

    def select(self, patterns: Iterable[str]) -> Cohort:
        """Cases whose id equals or matches (as a shell pattern) one of `patterns`.

        A pattern that matches nothing is a UsageError.
        """
        return self._of(self._named(patterns, "cases"))

    def exclude(self, patterns: Iterable[str]) -> Cohort:
        """All cases but those that `select` would choose.

        A pattern that matches nothing is a UsageError; so is no case left.
        """
        wanted = list(patterns)
        named = self._named(wanted, "exclude")
        if named >= {c.id for c in self.cases}:
            raise UsageError(
                "exclude",
                found=f"{', '.join(map(repr, wanted[:NAMED]))}, which leaves no case",
                expected="at least one case left",
                do="Name fewer.",
            )
        return self._of(self._names - named)

    @property
    def _names(self) -> set[str]:
        return {*(c.id for c in self.cases), *self.damaged}

    def _named(self, patterns: Iterable[str], option: str) -> set[str]:
        """Names that equal or match one of `patterns`; UsageError for a pattern of `option` that matches none."""
        found, names = set[str](), self._names
        for pattern in patterns:
            matching = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
            if not matching:
                raise UsageError(
                    option,
                    found=f"{pattern!r}, which names no case",
                    expected=f"names or patterns of cases such as {self.cases[0].id!r}",
                    do="List the cases with `segcal check`.",
                )
            found |= matching
        return found

    def _of(self, names: set[str]) -> Cohort:
        return replace(
            self,
            cases=tuple(c for c in self.cases if c.id in names),
            damaged={name: error for name, error in self.damaged.items() if name in names},
        )

    def without(self, damaged: Mapping[str, DataError]) -> Cohort:
        """The same with these cases, by name, left out as damaged; where no other is left, the first one's error."""
        if not damaged:
            return self
        found = {c.id: damaged[c.id] for c in self.cases if c.id in damaged}
        cases = tuple(c for c in self.cases if c.id not in damaged)
        return replace(self, cases=cases, damaged={**self.damaged, **found})

    @property
    def notes(self) -> list[str]:
        """That cases were left out since none of their voxels counts, in a sentence; nothing where none was."""
        shown = ", ".join(self.unscored[:NAMED]) + (", ..." if len(self.unscored) > NAMED else "")
        return [f"no voxel to score (all ignored, or outside the mask), so left out: {shown}"] if self.unscored else []

    def whole(self) -> Cohort:
        """Itself, if no case is damaged; otherwise the error of the first that is, which names the others."""
        if self.damaged:
            raise refusal(self.damaged, "Or leave them out with --exclude.")
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

    def numbered(self, label_map: Numbers | None, ignored: Sequence[int] = ()) -> Cohort:
        """The same cases, whose labels are read under other numbers: as `label_map` says, and those of `ignored` left
        out beside the head's own. Nothing said: itself. Raises as `Numbering.of`.
        """
        own = self.head.ignore
        found = Numbering.of(label_map, [label for label in ignored if label != own], self.head.labels - 1, own)
        if not found.pairs:
            return self
        return replace(self, cases=tuple(replace(c, numbering=found) for c in self.cases))

    def labelled(self) -> Cohort:
        """Itself, if every case has labels; otherwise MissingError naming the first that has none."""
        bare = [c.id for c in self.cases if c.labels is None]
        if bare:
            raise MissingError(
                f"case {bare[0]}",
                found="no label file" + (f" (and {len(bare) - 1} more cases without one)" if len(bare) > 1 else ""),
                expected="one label map a case",
                do="Give the folder of labels with --labels, or leave the case out with --exclude.",
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
                    do=f"Give it with {name}= ({GIVEN.get(name, f'--{name}s FOLDER')}), or choose a method without it.",
                )
        return self

    def cuts(self, index: int) -> list[tuple[int, int]]:
        """How a case is cut into blocks: (start, stop) of the flattened voxel index."""
        n, step = self.cases[index].voxels, block_length(self.head.rows)
        return [(a, min(a + step, n)) for a in range(0, n, step)]

    @contextlib.contextmanager
    def open_labels(self, index: int, scratch: Scratch) -> Iterator[CaseReader]:
        """Open one labelled case for what labels and mask say of its voxels; its scores are not there."""
        case = self.labelled().cases[index]
        with contextlib.ExitStack() as stack:
            both = [None if f is None else stack.enter_context(f.open(scratch)) for f in (case.labels, case.mask)]
            yield CaseReader(self, index, [], both[0], both[1], None, case.crop)

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


def _class_axis(case: Case, channels: int) -> str:
    """What to do about scores of a case whose `channels` lie on another axis; '' where they lie on none."""
    if case.shape[-1] == channels:
        return "The classes seem to be on the last axis: say so with channel_axis=-1 (--channel-axis -1)."
    batch = case.scores[0].channels == 1 and case.shape[0] == channels
    return "The scores seem to have a batch axis before their classes: save scores[0]." if batch else ""


def refusal(damaged: Mapping[str, DataError], do: str = "") -> DataError:
    """The error of the first of some damaged cases, naming the others; `do`: another way out than its own."""
    first, names = next(iter(damaged.values())), list(damaged)[1:]
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    found = f"{first.found} (and {len(names)} more case(s) that cannot be used: {shown})" if names else first.found
    return type(first)(first.where, found=found, expected=first.expected, do=f"{first.do} {do}".rstrip())

"""One open case, read by blocks: scores checked and pooled, labels checked, the role of each voxel, and what is
remembered of it all.

Promises: one block of memory; what is wrong with scores or labels is an error that names the file. No voxel: empty
blocks.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data import scores as scores_
from segcal.data.case import IGNORED, OUTSIDE, PADDING, ROLES, SCORED, Case, Window
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.head import NO_TARGET, check_labels
from segcal.data.numbering import NO_LABEL, counted
from segcal.data.padding import Box
from segcal.data.places.label_map import LabelMap
from segcal.data.places.place import Places
from segcal.data.places.stored import Stored
from segcal.data.pooling import pool_members
from segcal.data.rows import Block, Note, Prepared, Record, selected
from segcal.errors import LabelError, MissingError, ScoreError

if TYPE_CHECKING:
    from segcal.data.cohort import Cohort

SCALED = 2.0**-21
"""How far, in parts of itself, a label may be from a whole number: a few roundings of float32, as the scale of a file
brings them.
"""

NOT_LOOKED_AT = -1
"""Stands in a predicted label map for padding and what lies outside the mask."""


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
        if self.label_window is not None:
            labels, role = self.labels(start, stop, role)
        kept = tuple(self._member(k, start, stop, role) for k in range(len(self.windows))) if keep_members else ()
        scores = (
            pool_members(kept, len(self.windows), cohort.kind, cohort.pool, cohort.head, cohort.resolution)
            if keep_members
            else self.scores(start, stop, role)
        )
        scores = scores / cohort.unit if keep_members and cohort.unit != 1 else scores
        return Block(self.index, start, scores, cohort.pooled_kind, labels, role, kept)

    def scores(self, start: int, stop: int, role: Tensor | None = None) -> Tensor:
        """Read, check and pool the scores of voxels start..stop:

        (channels, n) of the cohort's pooled kind. `role`: theirs, if known already, ignored ones among them. Only
        voxels that are scored need valid scores: others that have none decide for no class (`scores.undecided`), but
        for padding, which stays as it is.
        """
        given = self.roles(start, stop) if role is None else role
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
        labels, left_out = self._labels(start, stop, given)
        within = (given != OUTSIDE) & ~left_out
        check_labels(
            head,
            selected(labels, within),
            case.labels.where,
            self._counts,
            case.numbering,
        )
        if head.ignore is not None:
            left_out = left_out | (labels == head.ignore)
        return labels, torch.where((given == SCORED) & left_out, IGNORED, given).to(torch.uint8)

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

    def predicted_map(self, scratch: Scratch, part: int | None = None) -> LabelMap:
        """The label map that the scores decide for, wherever the network looked; or what one `part` of the head
        decides, outside the mask, too, of which a calibrator knows nothing where it is applied. Scores are read once
        for it, and two bytes a voxel kept.
        """
        case, head, kind = self.cohort.cases[self.index], self.cohort.head, self.cohort.pooled_kind
        kept = Stored(case.voxels, np.dtype(np.int16 if head.labels < 2**15 else np.int32), scratch, "predicted")
        with kept.filling():
            for start, stop in self.cohort.cuts(self.index):
                role = self.roles(start, stop)
                scores = self.scores(start, stop, role)
                labels = head.predicted(scores, kind) if part is None else head.decide(scores, kind)[part]
                seen = (role == SCORED) | (role == IGNORED) if part is None else role != PADDING
                kept.put(start, torch.where(seen, labels, NOT_LOOKED_AT).numpy())

        def read(start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            labels = kept.get(start, stop)
            return labels, labels != NOT_LOOKED_AT

        return LabelMap(f"case {case.id}", case.shape, head, read, case.spacing, case.table, slice_axis=case.slice_axis)

    def prepare(
        self,
        block: Block,
        places: Places | None = None,
        contexts: Callable[[int, int], Mapping[Hashable, Tensor]] | None = None,
    ) -> Prepared:
        """The scored voxels of a block, in float64, with their `places` and `contexts` of this case.

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
        keep, stop = block.role == SCORED, block.start + block.voxels
        scores, labels = selected(block.scores, keep), selected(block.labels, keep)
        targets = head.targets(labels)
        assert not bool((targets == NO_TARGET).any())
        lie = {} if places is None else places.of(block.start, stop)
        drawn = {} if contexts is None or not bool(keep.any()) else contexts(block.start, stop)
        rows, energy = head.canonical_and_energy(scores, block.kind, self.cohort.resolution)
        return Prepared(
            block.case,
            block.start,
            rows,
            targets,
            head.decide(scores, block.kind),
            energy,
            {place: selected(value, keep) for place, value in lie.items()},
            {context: selected(value, keep) for context, value in drawn.items()},
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
                do="Leave this case out with --exclude, or check the ignore label and the mask.",
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
        head, kind, scored = self.cohort.head, self.cohort.kind, role == SCORED
        if bool(scored.all()):
            head.check(scores, kind, where)
            return scores
        head.check(scores[:, scored], kind, where)
        return scores_.undecided(scores, kind, ~scored & (role != PADDING), classes_sum=head.sums_to_one)

    def _labels(self, start: int, stop: int, role: Tensor) -> tuple[Tensor, Tensor]:
        """Labels of voxels start..stop as their case numbers them, and which of them are left out.

        Outside the mask there may be anything: what is no whole number is left out there.
        """
        assert self.label_window is not None
        case = self.cohort.cases[self.index]
        where = "labels" if case.labels is None else case.labels.where
        raw = self.label_window.read(start, stop)
        labels = torch.from_numpy(_whole(raw))
        left_out = torch.zeros(len(labels), dtype=torch.bool)
        if raw.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                near = abs(labels.numpy() - raw) <= SCALED * np.maximum(1, abs(raw))
            broken = torch.from_numpy(~(near & np.isfinite(raw)))
            if bool((broken & (role != OUTSIDE)).any()):
                raise _no_label(float(raw[(broken & (role != OUTSIDE)).numpy()][0]), where)
            labels, left_out = torch.where(broken, NO_LABEL, labels), broken
        if case.numbering is not None:
            labels, named = case.numbering.read(labels, role != OUTSIDE, where)
            left_out = left_out | named
        return labels, left_out

    def _counts(self) -> dict[int, int]:
        """Voxels by label of the whole case, as its numbering reads them; what is left out is left out."""
        counts = Counter[int]()
        for start, stop in self.cohort.cuts(self.index):
            role = self.role(start, stop)
            labels, left_out = self._labels(start, stop, role)
            counts.update(counted(labels[(role != OUTSIDE) & ~left_out]))
        return counts

    @property
    def is_scorable(self) -> bool:
        """Whether a voxel of this labelled case is left to score, as far as labels and masks say; the first one ends
        the search.
        """
        cuts = self.cohort.cuts(self.index)
        return any(bool((self.labels(start, stop)[1] == SCORED).any()) for start, stop in cuts)

    def roles(self, start: int, stop: int) -> Tensor:
        """Roles of voxels start..stop, (n,) uint8, ignored ones among them where there are labels."""
        return self.role(start, stop) if self.label_window is None else self.labels(start, stop)[1]

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


def _whole(raw: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as integers; NaN and what else is none becomes some integer."""
    with np.errstate(invalid="ignore"):
        return (np.rint(raw) if raw.dtype.kind == "f" else raw).astype(np.int64)


def _no_label(value: float, where: str) -> LabelError:
    """What is said of a label that is no whole number."""
    resampled = "Labels must not be interpolated; resample them with nearest neighbour."
    return LabelError(
        where,
        found=f"a label of {value}",
        expected="whole numbers",
        do=resampled if np.isfinite(value) else "Leave voxels without a label out with a mask (--mask).",
    )


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """Something torch can wrap: native byte order, writable, float32 or float64, contiguous enough."""
    kind = array.dtype
    if kind.kind != "f" or kind.itemsize < 4:
        array = array.astype(np.float32)
    elif kind.byteorder not in ("=", "|", "<"):
        array = array.astype(kind.newbyteorder("="))
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")

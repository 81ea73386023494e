"""Slices of open cases: which to look at, and what of scores, labels and image lies in them.

The slice with most wrong labels is the one to look at, without labels the one where the scores let expect most; where
several are asked for, others of those that hold any foreground, evenly over them. The predicted map is that of the
scores; without labels it is the delivered one, where there is one. Each case is read twice more, block by block; memory
for the slices of a case. An image is one slice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.case import PADDING, SCORED, Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.nifti import grid_for
from segcal.data.reader import CaseReader
from segcal.data.rows import Block
from segcal.data.surroundings import Contexts
from segcal.methods.calibrator import Calibrator
from segcal.report import slices
from segcal.tasks.matching import level

PLANES = ("sagittal", "coronal", "axial")

Box = tuple[slice, slice]
"""Rows and columns of a slice."""


@dataclass(frozen=True, eq=False)
class Look:
    """Finds slices of a case, `most` of them, and takes what lies in them."""

    calibrators: Mapping[str, Calibrator | None]
    twice: bool
    most: int = 1

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[Planes]:
        """Look through the labels of the case for the slice, then open it."""
        cohort, case = reader.cohort, reader.cohort[reader.index]
        given, calibrator = self.calibrators[case.id], None
        if given is not None:
            calibrator, levelled, _ = level(given, cohort)
            reader = replace(reader, cohort=levelled)
        with contextlib.ExitStack() as stack:
            image = case.fields.get("image")
            window = None if image is None else stack.enter_context(image.open(scratch))
            delivered = case.fields.get("delivered") if case.labels is None else None
            shown = None if delivered is None else stack.enter_context(delivered.open(scratch))
            contexts = Contexts(reader, scratch, () if calibrator is None else calibrator.contexts)
            channels = 0 if image is None else image.channels or 1
            plane = Plane(cohort, case, calibrator, self.twice, contexts, window, channels, shown)
            best, chosen = plane.chosen(reader, self.most)
            yield Planes([plane.at_slice(at) for at in chosen], chosen.index(best))


@dataclass(eq=False)
class Planes:
    """Slices of one case, in their order; `first`: the number of the one to look at."""

    planes: list[Plane]
    first: int

    def block(self, block: Block) -> None:
        """Take what of a block lies in them."""
        for plane in self.planes:
            plane.block(block)

    def summary(self) -> dict[str, Any]:
        """Itself, without what it was read from."""
        closed = [replace(p, contexts=None, window=None, delivered=None) for p in self.planes]
        return {"planes": Planes(closed, self.first)}

    def shown(self, case: Case, zyx: bool, name: str, said: str) -> list[slices.Slice]:
        """The slices as they are drawn, all with the same box."""
        turned = [plane.turned(case, zyx) for plane in self.planes]
        box = _box(self.planes[0].cohort, [one.planes for one in turned])
        return [plane.shown(case, one, box, name, said) for plane, one in zip(self.planes, turned, strict=True)]


@dataclass(eq=False)
class Plane:
    """One slice of an open case, filled block by block."""

    cohort: Cohort
    case: Case
    calibrator: Calibrator | None
    twice: bool
    contexts: Contexts | None
    window: Window | None
    channels: int
    delivered: Window | None = None
    at: int = 0
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the case as a volume; an image is one slice."""
        shape = self.case.shape
        return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])

    @property
    def axis(self) -> int:
        """Across which its slices lie; that of one voxel, where there is one."""
        return self.shape.index(1) if 1 in self.shape else self.case.slice_axis

    def _where(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of voxels start..stop: the slice, and the position in it."""
        inner, n = int(np.prod(self.shape[self.axis + 1 :], dtype=np.int64)), self.shape[self.axis]
        outer, rest = np.divmod(np.arange(start, stop), inner * n)
        return rest // inner, outer * inner + rest % inner

    def chosen(self, reader: CaseReader, most: int) -> tuple[int, list[int]]:
        """The slice with most labels that are, or are to be expected, wrong, and at most so many with it, in their
        order.
        """
        head, count = self.cohort.head, self.shape[self.axis]
        wrong, full = np.zeros(count), np.zeros(count)
        for start, stop in reader.cohort.cuts(reader.index) if count > 1 else ():
            block = reader.block(start, stop)
            where, scored = self._where(start, stop)[0], (block.role == SCORED).numpy()
            predicted = self._predicted(block)
            labels = predicted if block.labels is None else block.labels
            error = (predicted != labels).double() if block.labels is not None else self._error(block, predicted)
            # a delivered map may hold labels that are no class: there nothing is known of an error
            wrong += np.bincount(where[scored], error.nan_to_num(0).numpy()[scored], minlength=count)
            full += np.bincount(where[scored & head.foreground(labels.numpy())], minlength=count)
        best = int(np.lexsort((full, wrong))[-1])
        there = np.flatnonzero((wrong > 0) & (full > 0) if self.case.labels is None else (wrong > 0) | (full > 0))
        if most == 1 or not there.size:
            return best, [best]
        even = there[np.unique(np.linspace(0, there.size - 1, most).round().astype(int))]
        nearest = int(np.abs(even - best).argmin())
        return best, sorted({*(int(at) for k, at in enumerate(even) if k != nearest), best})

    def at_slice(self, at: int) -> Plane:
        """The same with room for that slice."""
        names = ["predicted", "before", *(["after"] if self.twice else [])]
        names += [] if self.case.labels is None else ["labels"]
        names += [f"image{c}" for c in range(self.channels)]
        size = self.case.voxels // self.shape[self.axis]
        return replace(self, at=at, values={name: np.full(size, np.nan) for name in names})

    def block(self, block: Block) -> None:
        """Take what of a block lies in the slice."""
        start, stop = block.start, block.start + block.voxels
        where, place = self._where(start, stop)
        inside = where == self.at
        if not inside.any():
            return
        head, scored, looked = self.cohort.head, block.role == SCORED, block.role != PADDING
        predicted = self._predicted(block)
        found = {
            "predicted": torch.where(looked, predicted.double(), torch.nan),
            "before": torch.where(scored, self._error(block, predicted), torch.nan),
        }
        if block.labels is not None:
            found["labels"] = torch.where(scored, block.labels.double(), torch.nan)
        if self.twice:
            found["after"] = found["before"]
            if self.calibrator is not None and self.contexts is not None:
                p = self.calibrator.deliver(block.scores, block.kind, self.contexts.of(start, stop))
                found["after"] = torch.where(scored, head.error(p, predicted).double(), torch.nan)
        for name, values in found.items():
            self.values[name][place[inside]] = values.numpy()[inside]
        if self.window is not None:
            image = np.atleast_2d(np.array(self.window.read(start, stop), np.float64))
            for c in range(self.channels):
                self.values[f"image{c}"][place[inside]] = image[c, inside]

    def _predicted(self, block: Block) -> Tensor:
        """The label map that is shown."""
        if self.delivered is None:
            return self.cohort.head.predicted(block.scores, block.kind)
        return torch.from_numpy(self.delivered.read(block.start, block.start + block.voxels).astype("int64"))

    def _error(self, block: Block, predicted: Tensor) -> Tensor:
        """How probable it is by the scores that the map is wrong."""
        head = self.cohort.head
        p = head.probabilities(head.canonical(block.scores, block.kind, self.cohort.resolution))
        return head.error(p, predicted).double()

    def turned(self, case: Case, zyx: bool) -> Turned:
        """As it is looked at: up is superior, or else anterior; the patient's right, or else anterior, on the left."""
        rest = [a for a in range(3) if a != self.axis]
        spacing = (1.0,) * 3 if case.spacing is None or len(case.shape) == 2 else case.spacing
        planes = {k: v.reshape([self.shape[a] for a in rest]) for k, v in self.values.items()}
        known = grid_for(case, zyx).anatomy if len(case.shape) == 3 and self.shape[self.axis] > 1 else None
        if known is not None:
            (first, up), (second, left) = known[rest[0]], known[rest[1]]
            turned = first < second
            planes = {k: np.flip(v, tuple(a for a, turn in enumerate((up, left)) if turn)) for k, v in planes.items()}
            planes = {k: v.T for k, v in planes.items()} if turned else planes
            rest = rest[::-1] if turned else rest
        which = ""
        if self.shape[self.axis] > 1:
            plane = f"{PLANES[known[self.axis][0]]} slice" if known is not None else "slice"
            which = f"{plane} {self.at + 1} of {self.shape[self.axis]}"
        return Turned(planes, which, spacing[rest[0]] / spacing[rest[1]])

    def shown(self, case: Case, turned: Turned, box: Box, name: str, said: str) -> slices.Slice:
        """The slice as it is drawn; `said`: of the case."""
        planes = {k: v[box] for k, v in turned.planes.items()}
        predicted = _whole(planes["predicted"])
        labels = _whole(planes["labels"]) if "labels" in planes else None
        stages = {"before": "uncalibrated", "after": name}
        errors = {title: planes[k] for k, title in stages.items() if k in planes}
        return slices.Slice(
            labels,
            predicted,
            errors,
            _image([planes[f"image{c}"] for c in range(self.channels)]),
            f"{', '.join(filter(None, (case.id, turned.which)))} · {said}\n{told(labels, predicted, errors)}",
            turned.aspect,
            turned.which,
        )


@dataclass(frozen=True, eq=False)
class Turned:
    """Values of a slice (rows, columns) by what they are, `which` slice it is, height of a voxel over its width."""

    planes: Mapping[str, NDArray[Any]]
    which: str
    aspect: float


def _whole(plane: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.nan_to_num(plane, nan=-1), np.int64)


def told(labels: NDArray[Any] | None, predicted: NDArray[Any], errors: Mapping[str, NDArray[Any]]) -> str:
    """What of a slice is wrong, what the probabilities say of it, and which of the first two errors is closer."""
    if labels is None:
        means = {name: float(np.nanmean(e)) for name, e in errors.items() if not np.isnan(e).all()}
        said = ", ".join(f"{value:.1%} {name}" for name, value in means.items())
        return f"of the labels shown are expected to be wrong: {said}" if said else "no voxel of this slice is scored"
    scored = (labels >= 0) & (predicted >= 0)
    if not scored.any():
        return "no voxel of this slice is scored"
    wrong = float((labels != predicted)[scored].mean())
    expected = {name: float(np.nanmean(error)) for name, error in errors.items()}
    gaps = [round(abs(value - wrong), 3) for value in list(expected.values())[:2]]
    closer = gaps.index(min(gaps)) if len(set(gaps)) > 1 else -1
    said = ", ".join(
        f"{value:.1%} {name}{' (closer)' if k == closer else ''}" for k, (name, value) in enumerate(expected.items())
    )
    return f"of the labels shown {wrong:.1%} are wrong; expected {said}"


def _box(cohort: Cohort, some: Sequence[Mapping[str, NDArray[Any]]]) -> Box:
    """Rows and columns around all foreground and whatever is wrong in some slices, with a margin."""
    there = np.zeros(some[0]["predicted"].shape, bool)
    for planes in some:
        for name in planes.keys() & {"labels", "predicted"}:
            known = ~np.isnan(planes[name])
            there[known] |= cohort.head.foreground(planes[name][known].astype(np.int64))
    if not there.any():
        return slice(None), slice(None)
    out = []
    for axis in (1, 0):
        seen = np.flatnonzero(there.any(axis))
        margin = max(4, (seen[-1] - seen[0]) // 4)
        out.append(slice(max(0, seen[0] - margin), seen[-1] + 1 + margin))
    return out[0], out[1]


def _image(channels: Sequence[NDArray[Any]]) -> NDArray[np.float64] | None:
    """From 0 to 1 between the 1st and 99th percentile; three channels are colours, of others the first is shown."""
    if not channels or not np.isfinite(channels[0]).any():
        return None
    chosen = np.stack(channels, -1) if len(channels) == 3 else np.asarray(channels[0])
    low, high = np.percentile(chosen[np.isfinite(chosen)], [1, 99])
    scaled = (chosen - low) / (high - low) if high > low else np.zeros_like(chosen)
    return np.asarray(np.clip(np.nan_to_num(scaled, nan=1.0, posinf=1.0, neginf=0.0), 0, 1))

"""Distance to the nearest label boundary: K26's and LostInFolds' d(v) (definitions 7.7 and 16), unsigned and Euclidean,
0 on a boundary voxel.

Any change of label is a boundary, for region heads too: what the annotator drew is one map, and its regions are read
off it. Promises: squared distances in voxels are whole numbers, so the result is bit for bit SciPy's
`distance_transform_edt` of the boundary, with and without the `edt` package and whatever the memory limit; in mm it is
SciPy's up to rounding. Costs: four bytes a voxel (eight in mm), beyond the scratch limit in a file; time grows with the
largest distance. SciPy's transform holds a whole case and 25 bytes a voxel; this one goes through slabs, axis by axis,
and is the faster one in volumes: along the last axis the nearest boundary voxel is seen directly, along the others
d(i)^2 = min over k of d(i + k)^2 + k^2, for as many k as can still lower a distance. Where `edt` is installed and the
case fits in memory it does that in voxels. No boundary (a single label): NaN everywhere. Distances in mm of a case
without spacing: MissingError.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import FileIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal import journal
from segcal.errors import MissingError
from segcal.journal import Scratch
from segcal.places.label_map import LabelMap, boundary, boxes

BOX = 2**18
"""Voxels of a box whose boundary is found at once."""

SLAB = 2**20
"""Numbers of a slab that is swept before it is put back."""

CACHED = 2**16
"""Numbers swept at a time, so that they stay in the processor's cache."""

FAR = 2**40
"""Farther than any voxel of a line."""

LIBRARY_BYTES = 16
"""Bytes a voxel that `edt` and its result take."""

LIBRARY_SIDE = 2048
"""Longest side for which the float32 arithmetic of `edt` is exact: squared distances stay below 2^24, and places where
parabolas meet are told apart.
"""


@dataclass(frozen=True)
class BoundaryDistance:
    """Distance of a voxel to the nearest boundary voxel, in voxels, or in `mm`.

    `literal`: labels as they lie in the file: contact with an ignored region counts.
    """

    mm: bool = False
    literal: bool = False

    def on(self, labels: LabelMap, scratch: Scratch) -> DistanceWindow:
        """The distances of a case."""
        if self.mm and labels.spacing is None:
            raise MissingError(
                labels.where,
                found="no voxel spacing",
                expected="the spacing in mm",
                do="Measure distances in voxels, or give files that carry a spacing.",
            )
        steps = labels.spacing if self.mm else None
        whole = (
            labels.voxels * LIBRARY_BYTES <= scratch.limit
            and max(labels.shape, default=0) <= LIBRARY_SIDE
            and 1 <= len(labels.shape) <= 3
        )
        squares = Squares(labels.shape, steps, scratch)
        found = (
            _by_library(labels, self.literal, squares)
            if steps is None and whole and edt_is_installed()
            else _by_axes(labels, self.literal, steps, squares)
        )
        return DistanceWindow(squares if found else None)


class DistanceWindow:
    """Distances of one case; None: it has no boundary."""

    def __init__(self, squares: Squares | None) -> None:
        self._squares = squares

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""
        if self._squares is None:
            return torch.full((stop - start,), torch.nan, dtype=torch.float64)
        return torch.from_numpy(np.sqrt(self._squares.get(start, stop), dtype=np.float64))


class Squares:
    """Squared distances of a case, flattened: int32, int64 where sides are long, float64 in mm; in memory, or beyond
    `scratch.limit` in a file that is open while it is filled.
    """

    def __init__(self, shape: tuple[int, ...], steps: tuple[float, ...] | None, scratch: Scratch) -> None:
        self.shape = shape
        longest = sum(n * n for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(
            np.float64 if steps is not None else np.int32 if longest < 2**29 else np.int64
        )
        # far beyond any distance; squares of steps can still be added to it
        self.never: float | int = math.inf if steps is not None else 2**30 if self.dtype == np.int32 else 2**62
        voxels = math.prod(shape)
        self._array = np.empty(voxels, self.dtype) if voxels * self.dtype.itemsize <= scratch.limit else None
        self._path = None if self._array is not None else scratch.path("distances")
        self._file: FileIO | None = None

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """Keep the file open."""
        if self._path is None:
            yield
            return
        with journal.explained(self._path), FileIO(self._path, "w+") as self._file:
            yield
        self._file = None

    def get(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop; a view of what is in memory."""
        if self._array is not None:
            return self._array[start:stop]
        assert self._path is not None
        out = np.empty(stop - start, self.dtype)
        if self._file is not None:
            self._read(self._file, start, out)
        else:
            with FileIO(self._path) as file:
                self._read(file, start, out)
        return out

    def put(self, start: int, values: NDArray[Any]) -> None:
        """Store voxels from `start` on; in a file, only while it is being filled."""
        flat = np.ascontiguousarray(values, self.dtype).reshape(-1)
        if self._array is not None:
            self._array[start : start + len(flat)] = flat
            return
        assert self._file is not None
        rest = flat.data.cast("B")
        self._file.seek(start * self.dtype.itemsize)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _read(self, file: FileIO, start: int, out: NDArray[Any]) -> None:
        rest = out.data.cast("B")
        file.seek(start * self.dtype.itemsize)
        while rest:
            count = file.readinto(rest)
            assert count, "the file of distances ends early"
            rest = rest[count:]


@cache
def edt_is_installed() -> bool:
    """Whether the optional package `edt` can be used."""
    return importlib.util.find_spec("edt") is not None


def _by_library(labels: LabelMap, literal: bool, squares: Squares) -> bool:
    edges = _whole_boundary(labels, literal)
    if not edges.any():
        return False
    squares.put(0, importlib.import_module("edt").edtsq(~edges, black_border=False, parallel=1))
    return True


def _whole_boundary(labels: LabelMap, literal: bool) -> NDArray[np.bool_]:
    return np.concatenate(
        [_edges(labels, literal, low, high).reshape(-1) for low, high in boxes(labels.shape, BOX)]
        or [np.zeros(0, bool)]
    ).reshape(labels.shape)


def _edges(labels: LabelMap, literal: bool, low: tuple[int, ...], high: tuple[int, ...]) -> NDArray[np.bool_]:
    """The boundary within a box, which is seen from one voxel outside."""
    outer_low = tuple(max(0, a - 1) for a in low)
    outer_high = tuple(min(n, b + 1) for b, n in zip(high, labels.shape, strict=True))
    found = boundary(labels.box(outer_low, outer_high, literal=literal))
    return found[tuple(slice(a - o, b - o) for a, b, o in zip(low, high, outer_low, strict=True))]


def _by_axes(labels: LabelMap, literal: bool, steps: tuple[float, ...] | None, squares: Squares) -> bool:
    shape = labels.shape
    if not shape:
        return False
    with squares.filling():
        if not _along_lines(labels, literal, steps, squares):
            return False
        for axis in range(len(shape) - 2, -1, -1):
            _along(axis, None if steps is None else steps[axis], squares)
    return True


def _along_lines(labels: LabelMap, literal: bool, steps: tuple[float, ...] | None, squares: Squares) -> bool:
    """Fill in the squared distances to the boundary voxels of the same line of the last axis; False: there is none
    anywhere.
    """
    side, start, any_edge = labels.shape[-1], 0, False
    if side > BOX:
        return _along_long_lines(labels, literal, steps, squares)
    for low, high in boxes(labels.shape, BOX):
        edges = _edges(labels, literal, low, high).reshape(-1, side)
        any_edge = any_edge or bool(edges.any())
        at = np.arange(side)
        left = np.maximum.accumulate(np.where(edges, at, -FAR), 1)
        right = np.minimum.accumulate(np.where(edges, at, FAR)[:, ::-1], 1)[:, ::-1]
        squares.put(start, _squared(np.minimum(at - left, right - at), side, steps, squares))
        start += edges.size
    return any_edge


def _along_long_lines(labels: LabelMap, literal: bool, steps: tuple[float, ...] | None, squares: Squares) -> bool:
    """The same for lines that are gone through in pieces: there, keeping the distance to the last boundary voxel, and
    back.
    """
    side, start, any_edge, last = labels.shape[-1], 0, False, -FAR
    pieces = []
    for low, high in boxes(labels.shape, BOX):
        edges = _edges(labels, literal, low, high).reshape(-1)
        any_edge = any_edge or bool(edges.any())
        at = np.arange(low[-1], high[-1])
        left = np.maximum.accumulate(np.append(last if low[-1] else -FAR, np.where(edges, at, -FAR)))
        last = int(left[-1])
        squares.put(start, np.minimum(at - left[1:], squares.never))
        pieces.append((start, at[0], high[-1]))
        start += len(at)
    following = FAR
    for start, first, stop in reversed(pieces):
        at = np.arange(first, stop)
        behind = squares.get(start, start + len(at))
        right = np.minimum.accumulate(
            np.append(following if stop < side else FAR, np.where(behind == 0, at, FAR)[::-1])
        )[::-1]
        following = int(right[0])
        squares.put(start, _squared(np.minimum(behind, right[:-1] - at), side, steps, squares))
    return any_edge


def _squared(distance: NDArray[Any], side: int, steps: tuple[float, ...] | None, squares: Squares) -> NDArray[Any]:
    """Squares of distances along the last axis, in voxels; those as long as the side stand for none."""
    none = distance >= side
    near = np.where(none, 0, distance)
    return np.where(none, squares.never, np.square(near if steps is None else near * steps[-1]))


def _along(axis: int, step: float | None, squares: Squares) -> None:
    """Let squared distances spread along an axis other than the last."""
    shape = squares.shape
    side, inner = shape[axis], math.prod(shape[axis + 1 :])
    if side == 1:
        return
    group = max(1, min(CACHED, SLAB) // (side * inner))
    width = max(1, SLAB // side)
    for first in range(0, math.prod(shape[:axis]), group):
        count = min(group, math.prod(shape[:axis]) - first)
        start = first * side * inner
        if side * inner <= SLAB:
            slab = squares.get(start, start + count * side * inner).reshape(count, side, inner)
            squares.put(start, _swept(slab, step))
            continue
        for c in range(0, inner, width):
            d = min(c + width, inner)
            slab = np.stack([squares.get(start + i * inner + c, start + i * inner + d) for i in range(side)])
            for i, line in enumerate(_swept(slab[None], step)[0]):
                squares.put(start + i * inner + c, line)


def _swept(slab: NDArray[Any], step: float | None) -> NDArray[Any]:
    """min over k of slab[:, i + k] + (k step)^2, (count, side, width), a few columns at a time."""
    out = np.empty_like(slab)
    _, side, width = slab.shape
    columns = max(1, CACHED // (slab.shape[0] * side))
    for c in range(0, width, columns):
        before = np.ascontiguousarray(slab[:, :, c : c + columns])
        best, passing = before.copy(), np.empty_like(before)
        for k in range(1, side):
            square = k * k if step is None else (k * step) ** 2
            # the largest is looked up at every fourth step only: looking costs as much as a step
            if k % 4 == 1 and square >= best.max():
                break
            for here, there in ((slice(None, -k), slice(k, None)), (slice(k, None), slice(None, -k))):
                moved = np.add(before[:, there], square, out=passing[:, : side - k])
                np.minimum(best[:, here], moved, out=best[:, here])
        out[:, :, c : c + columns] = best
    return out

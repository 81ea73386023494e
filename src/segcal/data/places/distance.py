"""Distance to the nearest label boundary: K26's and LostInFolds' d(v) (definitions 7.7 and 16), unsigned and Euclidean,
0 on a boundary voxel.

Any change of label is a boundary, for region heads too: what the annotator drew is one map, and its regions are read
off it. Promises: squared distances in voxels are whole numbers, so the result is bit for bit SciPy's
`distance_transform_edt` of the boundary, with and without the `edt` package and whatever the memory limit; in mm it is
SciPy's up to rounding, and so many voxels times their size where that is the same along all axes. Costs: four bytes a
voxel (eight where sides differ), beyond the scratch limit in a file; time grows with the largest distance. SciPy's
transform holds a whole case and 25 bytes a voxel; this one goes through slabs, axis by axis, and is the faster one in
volumes: along the last axis the nearest boundary voxel is seen directly, along the others d(i)^2 = min over k of
d(i + k)^2 + k^2, for as many k as can still lower a distance. Where `edt` is installed and the case fits in memory it
does that in voxels. No boundary (a single label): NaN everywhere. Distances in mm of a case without spacing:
MissingError.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.files.journal import Scratch
from segcal.data.places.label_map import LabelMap, boundary, boxes
from segcal.data.places.stored import Stored
from segcal.errors import MissingError

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

    `literal`: labels as they lie in the file: contact with an ignored region counts. `finest`: in voxels of the finest
    spacing, so that a thick slice is as far as it is; plain voxels where no spacing is known. `reach`: what is not
    closer is infinitely far, which costs less than saying how far.
    """

    mm: bool = False
    literal: bool = False
    finest: bool = False
    reach: float = math.inf

    def on(self, labels: LabelMap, scratch: Scratch) -> DistanceWindow:
        """The distances of a case."""
        if self.mm and not _known(labels.spacing):
            raise MissingError(
                labels.where,
                found="no voxel spacing",
                expected="the spacing in mm",
                do="Give it: spacing= for arrays, or files that carry one; or measure distances in voxels.",
            )
        steps, size = self._steps(labels.spacing)
        whole = (
            labels.voxels * LIBRARY_BYTES <= scratch.limit
            and max(labels.shape, default=0) <= LIBRARY_SIDE
            and 1 <= len(labels.shape) <= 3
        )
        squares = Squares(labels.shape, steps, scratch)
        found = (
            _by_library(labels, self.literal, squares)
            if steps is None and whole and edt_is_installed()
            else _by_axes(labels, self.literal, steps, squares, self.reach / size)
        )
        return DistanceWindow(squares if found else None, self.reach, size)

    def _steps(self, spacing: tuple[float, ...] | None) -> tuple[tuple[float, ...] | None, float]:
        """Length of a step along each axis, None: 1 along all of them; and what that is in the unit of the distance."""
        if spacing is None or not _known(spacing) or not (self.mm or self.finest):
            return None, 1.0
        if len(set(spacing)) == 1:
            return None, spacing[0] if self.mm else 1.0
        return (spacing if self.mm else tuple(s / min(spacing) for s in spacing)), 1.0


def _known(spacing: tuple[float, ...] | None) -> bool:
    return spacing is not None and min(spacing, default=0.0) > 0


class DistanceWindow:
    """Distances of one case, `size` times the root of the squares, infinite from `reach` on; None: it has no
    boundary."""

    def __init__(self, squares: Squares | None, reach: float = math.inf, size: float = 1.0) -> None:
        self._squares, self._reach, self._size = squares, reach, size

    def read(self, start: int, stop: int) -> Tensor:
        """Voxels start..stop."""
        if self._squares is None:
            return torch.full((stop - start,), torch.nan, dtype=torch.float64)
        found = self._size * np.sqrt(self._squares.get(start, stop), dtype=np.float64)
        return torch.from_numpy(np.where(found < self._reach, found, math.inf))


class Squares(Stored):
    """Squared distances of a case, flattened: int32, int64 where sides are long, float64 where axes have steps."""

    def __init__(self, shape: tuple[int, ...], steps: tuple[float, ...] | None, scratch: Scratch) -> None:
        self.shape = shape
        longest = sum(n * n for n in shape)
        dtype = np.dtype(np.float64 if steps is not None else np.int32 if longest < 2**29 else np.int64)
        # far beyond any distance; squares of steps can still be added to it
        self.never: float | int = math.inf if steps is not None else 2**30 if dtype == np.int32 else 2**62
        super().__init__(math.prod(shape), dtype, scratch, "distances")


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


def _by_axes(
    labels: LabelMap, literal: bool, steps: tuple[float, ...] | None, squares: Squares, reach: float = math.inf
) -> bool:
    shape = labels.shape
    if not shape:
        return False
    with squares.filling():
        if not _along_lines(labels, literal, steps, squares):
            return False
        for axis in range(len(shape) - 2, -1, -1):
            _along(axis, None if steps is None else steps[axis], squares, reach)
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


def _along(axis: int, step: float | None, squares: Squares, reach: float) -> None:
    """Let squared distances spread along an axis other than the last, as far as `reach`."""
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
            squares.put(start, _swept(slab, step, reach))
            continue
        for c in range(0, inner, width):
            d = min(c + width, inner)
            slab = np.stack([squares.get(start + i * inner + c, start + i * inner + d) for i in range(side)])
            for i, line in enumerate(_swept(slab[None], step, reach)[0]):
                squares.put(start + i * inner + c, line)


def _swept(slab: NDArray[Any], step: float | None, reach: float) -> NDArray[Any]:
    """min over k of slab[:, i + k] + (k step)^2, (count, side, width), a few columns at a time; k step < `reach`."""
    out = np.empty_like(slab)
    _, side, width = slab.shape
    columns = max(1, CACHED // (slab.shape[0] * side))
    for c in range(0, width, columns):
        before = np.ascontiguousarray(slab[:, :, c : c + columns])
        best, passing = before.copy(), np.empty_like(before)
        for k in range(1, side):
            square = k * k if step is None else (k * step) ** 2
            # the largest is looked up at every fourth step only: looking costs as much as a step
            if square >= reach * reach or (k % 4 == 1 and square >= best.max()):
                break
            for here, there in ((slice(None, -k), slice(k, None)), (slice(k, None), slice(None, -k))):
                moved = np.add(before[:, there], square, out=passing[:, : side - k])
                np.minimum(best[:, here], moved, out=best[:, here])
        out[:, :, c : c + columns] = best
    return out

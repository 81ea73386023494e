"""Putting the axes of numbers in a file into another order without ever holding the whole.

Promises: at most half of `scratch.limit` is held, but at least one slice of the slowest axis; the values are the same
bits. Costs: `transpose` reads and writes the numbers twice in long runs (slabs of the slowest axis are turned one by
one, then their parts are gathered), `mirror` once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.files.journal import Scratch, explained
from segcal.data.formats.raw import Grid, order, read_exactly, room, write_array


def transpose(file: RawIOBase, offset: int, values: Grid, target: Path, scratch: Scratch, where: str) -> None:
    """Write the values to `target` in the wanted order: slabs of the slowest axis are turned one by one, then their
    parts are gathered.
    """
    keep = [a for a in range(len(values.stored)) if values.stored[a] != 1]
    stored = tuple(values.stored[a] for a in keep)
    axes = [keep.index(a) for a in order(values.axes, values.stored)]
    leading = 0
    while axes[leading] == leading:
        leading += 1
    inner = _Turn(stored[leading:], tuple(a - leading for a in axes[leading:]), values.dtype, scratch.limit // 8)
    room(target, 2 * values.nbytes)
    slabs = scratch.path("slabs")
    try:
        with explained(target), target.open("wb", buffering=0) as out, slabs.open("w+b", buffering=0) as between:
            count = int(np.prod(stored[:leading], dtype=np.int64))
            batch = max(1, inner.budget // inner.nbytes)
            for k in range(0, count, batch):
                n = min(batch, count - k)
                if inner.nbytes > inner.budget:
                    inner.run(file, offset + k * inner.nbytes, between, out, where)
                else:
                    several = np.empty((n, *inner.stored), inner.dtype)
                    read_exactly(file, offset + k * inner.nbytes, several, where)
                    write_array(out, several.transpose(0, *(a + 1 for a in inner.axes)))
    finally:
        slabs.unlink(missing_ok=True)


def mirror(file: RawIOBase, offset: int, values: Grid, target: Path, scratch: Scratch, where: str) -> None:
    """Write values that lie in the wanted order of axes to `target`, with the flipped axes turned round, slab
    by slab.
    """
    shape = [n for n in values.wanted if n != 1]
    flips = [f for f, n in zip(values.flips, values.wanted, strict=True) if n != 1]
    slice_bytes = values.nbytes // shape[0]
    step = max(1, scratch.limit // 8 // slice_bytes)
    starts = range(0, shape[0], step)
    room(target, values.nbytes)
    with explained(target), target.open("wb", buffering=0) as out:
        for low in reversed(starts) if flips[0] else starts:
            slab = np.empty((min(step, shape[0] - low), *shape[1:]), values.dtype)
            read_exactly(file, offset + low * slice_bytes, slab, where)
            write_array(out, slab[tuple(slice(None, None, -1 if flip else 1) for flip in flips)])


@dataclass(frozen=True)
class _Turn:
    """A transposition whose slowest axis is not the wanted slowest one."""

    stored: tuple[int, ...]
    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    budget: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.stored, dtype=np.int64)) * self.dtype.itemsize

    def run(self, file: RawIOBase, offset: int, between: RawIOBase, out: RawIOBase, where: str) -> None:
        length = self.stored[0]
        slice_bytes = self.nbytes // length
        step = max(1, self.budget // slice_bytes)
        cuts = [(a, min(a + step, length)) for a in range(0, length, step)]
        between.seek(0)
        for a, b in cuts:
            slab = np.empty((b - a, *self.stored[1:]), self.dtype)
            read_exactly(file, offset + a * slice_bytes, slab, where)
            write_array(between, slab.transpose(self.axes))
        self._gather(cuts, between, out, where)

    def _gather(self, cuts: list[tuple[int, int]], between: RawIOBase, out: RawIOBase, where: str) -> None:
        """Write the turned slabs as one array: each slab has the wanted order of axes, but only some of what was the
        slowest axis.
        """
        size, slice_bytes = self.dtype.itemsize, self.nbytes // self.stored[0]
        wanted = tuple(self.stored[a] for a in self.axes)
        position = self.axes.index(0)
        # axes before `depth` are gone through one index at a time, so that one index along `depth` fits the budget
        depth = 0
        while depth < position and math.prod(wanted[depth + 1 :]) * size > self.budget:
            depth += 1
        width = max(1, self.budget // (math.prod(wanted[depth + 1 :]) * size)) if depth < position else 1
        for index in range(math.prod(wanted[:depth])):
            for low in range(0, wanted[depth] if depth < position else 1, width):
                high = min(low + width, wanted[depth])
                whole = np.empty((high - low, *wanted[depth + 1 :]), self.dtype) if depth < position else None
                for a, b in cuts:
                    shape = tuple(b - a if p == position else n for p, n in enumerate(wanted))[depth:]
                    start = a * slice_bytes + index * math.prod(shape) * size
                    if whole is None:
                        part = np.empty(shape, self.dtype)
                        read_exactly(between, start, part, where)
                        write_array(out, part)
                    else:
                        part = np.empty((high - low, *shape[1:]), self.dtype)
                        read_exactly(between, start + low * math.prod(shape[1:]) * size, part, where)
                        whole[(slice(None),) * (position - depth) + (slice(a, b),)] = part
                if whole is not None:
                    write_array(out, whole)

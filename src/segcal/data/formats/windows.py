"""Windows on numbers: in an uncompressed file, in an array small enough to hold, or arriving as a stream.

Promises: reading a window holds that window (of a strided array: its rows) and nothing else. Numbers that arrive as a
stream are kept in memory up to `scratch.limit` bytes and beyond that written to a file under `scratch`, removed when
the window is closed. Axes are put into the case's order (`transpose`). The values are the same bits either way. No
voxel: every window is empty.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Field, Window
from segcal.data.files.journal import Scratch, explained
from segcal.data.files.reading import readable
from segcal.data.formats.raw import Grid, read_exactly, room, write_all
from segcal.data.formats.transpose import mirror, transpose
from segcal.errors import UnreadableError


class ArrayWindow:
    """A window on an array held in memory, of any strides, in the wanted order of axes."""

    def __init__(self, array: NDArray[Any], channelled: bool, values: Grid | None = None) -> None:
        self._array = (array if channelled else array[None]).view()
        self._array.flags.writeable = False
        self._channelled, self._values = channelled, values

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop of the flattened field."""
        inner = int(np.prod(self._array.shape[2:], dtype=np.int64))
        first, last = (start // inner, -(-stop // inner)) if inner else (0, 0)
        rows = self._array[:, first:last].reshape(self._array.shape[0], -1)
        part = rows[:, start - first * inner : stop - first * inner]
        part = part if self._channelled else part[0]
        return part if self._values is None else self._values.scaled(part)


class FileWindow:
    """A window on uncompressed values in an open file, from `offset` on."""

    def __init__(self, file: RawIOBase, offset: int, values: Grid, where: str) -> None:
        self._file, self._offset, self._grid, self._where = file, offset, values, where

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop of the flattened field."""
        g, n = self._grid, max(0, stop - start)
        if g.channels is None:
            return g.scaled(self._values(start, n))
        if g.channels_last and not g.in_order:
            return g.scaled(self._values(start * g.channels, n * g.channels).reshape(n, g.channels).T)
        out = np.empty((g.channels, n), g.dtype)
        for c in range(g.channels):
            self._values(c * g.voxels + start, n, out[c])
        return g.scaled(out)

    def _values(self, first: int, count: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        out = np.empty(count, self._grid.dtype) if out is None else out
        read_exactly(self._file, self._offset + first * self._grid.dtype.itemsize, out, self._where)
        return out


@contextlib.contextmanager
def open_file(path: Path, offset: int, values: Grid, scratch: Scratch, where: str) -> Iterator[Window]:
    """A window on values lying uncompressed in `path` from `offset` on, brought into the wanted order of axes if they
    are not.
    """
    with contextlib.ExitStack() as stack:
        with readable(path):
            file = stack.enter_context(path.open("rb", buffering=0))
        if values.in_order or values.channels_last:
            yield FileWindow(file, offset, values, where)
        elif values.nbytes <= scratch.limit:
            whole = np.empty(values.stored, values.dtype)
            read_exactly(file, offset, whole, where)
            yield ArrayWindow(values.turned(whole), values.channelled, values)
        else:
            ordered = replace(values, stored=values.wanted, axes=tuple(range(len(values.axes))), flips=())
            if not replace(values, flips=()).in_order:
                turned = scratch.path("transposed")
                stack.callback(turned.unlink, missing_ok=True)
                transpose(file, offset, values, turned, scratch, where)
                file, offset = stack.enter_context(turned.open("rb", buffering=0)), 0
            if values.flipped:
                mirrored = scratch.path("mirrored")
                stack.callback(mirrored.unlink, missing_ok=True)
                mirror(file, offset, values, mirrored, scratch, where)
                file, offset = stack.enter_context(mirrored.open("rb", buffering=0)), 0
            yield FileWindow(file, offset, ordered, where)


@contextlib.contextmanager
def open_stream(pieces: Iterable[bytes | memoryview], values: Grid, scratch: Scratch, where: str) -> Iterator[Window]:
    """A window on values that arrive in pieces, in the order in which they are stored: in memory if they fit
    `scratch.limit`, else through a file.

    `pieces` must yield exactly `values.nbytes` bytes; fewer are an UnreadableError.
    """
    if values.nbytes <= scratch.limit:
        whole = np.empty(values.nbytes, np.uint8)
        done = 0
        for piece in pieces:
            whole[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        _complete(done, values, where)
        yield ArrayWindow(values.turned(whole.view(values.dtype).reshape(values.stored)), values.channelled, values)
        return
    unpacked = scratch.path("unpacked")
    try:
        room(unpacked, values.nbytes)
        done = 0
        with explained(unpacked), unpacked.open("wb", buffering=0) as file:
            for piece in pieces:
                write_all(file, piece)
                done += len(piece)
        _complete(done, values, where)
        with open_file(unpacked, 0, values, scratch, where) as window:
            yield window
    finally:
        unpacked.unlink(missing_ok=True)


def _complete(done: int, values: Grid, where: str) -> None:
    if done != values.nbytes:
        raise UnreadableError(
            where,
            found=f"{done} bytes of values",
            expected=f"{values.nbytes} for shape {values.wanted}",
            do="The file may be truncated: copy or predict this case again.",
        )


@dataclass(frozen=True, eq=False)
class Reshaped:
    """A field under another spatial shape with the same voxels in the same order: (H, W) as (1, H, W)."""

    field: Field
    shape: tuple[int, ...]

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return self.field.where

    @property
    def channels(self) -> int | None:
        """Channels, or None."""
        return self.field.channels

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        return self.field.open(scratch)

"""Plain numbers in files: how they lie, and moving them in pieces.

Promises: nothing here holds more than the piece or array it is given. A file is read by seeking, never mapped, because
mapped pages count as resident memory. No value: nothing is read or written.
"""

from __future__ import annotations

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Window
from segcal.data.files.journal import Scratch
from segcal.errors import OutputError, ShapeError, UnreadableError

PIECE = 4 << 20
"""Most bytes unpacked or copied at once."""


def piece_size(scratch: Scratch) -> int:
    """Bytes to move at once within a budget."""
    return max(1 << 16, min(PIECE, scratch.limit // 8))


@dataclass(frozen=True)
class Grid:
    """How the numbers of a field lie in a file, and in which order of axes they are wanted.

    `stored`: shape as it lies, slowest axis first. `axes`: for each wanted axis the stored axis it is; with
    `channelled` the first wanted axis holds the channels. `flips`: for each wanted axis whether it runs backwards; ()
    for none. A value v stands for slope * v + intercept.
    """

    stored: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int, ...]
    channelled: bool
    slope: float = 1.0
    intercept: float = 0.0
    flips: tuple[bool, ...] = ()

    @property
    def wanted(self) -> tuple[int, ...]:
        """Shape in the wanted order of axes, channels included."""
        return tuple(self.stored[a] for a in self.axes)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.wanted[1:] if self.channelled else self.wanted

    @property
    def channels(self) -> int | None:
        """Channels, or None."""
        return self.wanted[0] if self.channelled else None

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.spatial, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return int(np.prod(self.stored, dtype=object)) * self.dtype.itemsize

    @property
    def flipped(self) -> bool:
        """Whether an axis runs backwards (one of length one has no direction)."""
        return any(flip and n != 1 for flip, n in zip(self.flips, self.wanted, strict=False))

    @property
    def in_order(self) -> bool:
        """Whether the values lie in the wanted order."""
        lie = order(self.axes, self.stored)
        return lie == sorted(lie) and not self.flipped

    @property
    def channels_last(self) -> bool:
        """Whether they do, but for channels lying fastest."""
        last = len(self.stored) - 1
        spatial = order(self.axes[1:], self.stored)
        return self.channelled and self.axes[0] == last and spatial == sorted(spatial) and not self.flipped

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array of shape `stored` in the wanted order."""
        return array.transpose(self.axes)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """The numbers that stored values stand for."""
        return (
            values
            if self.slope == 1.0 and self.intercept == 0.0
            else values.astype(np.float64) * self.slope + self.intercept
        )


@dataclass(frozen=True)
class StoredField(ABC):
    """A field (`segcal.data.case.Field`) kept in the file or folder `path`, whose numbers lie as `grid` says."""

    path: Path
    grid: Grid

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.grid.spatial

    @property
    def channels(self) -> int | None:
        """Channels, or None."""
        return self.grid.channels

    @abstractmethod
    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""


def grid(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    where: str,
    *,
    fortran: bool,
    channel_axis: int | None,
    reverse: bool = False,
) -> Grid:
    """The grid of an array of `shape` with channels on `channel_axis` (None: one value a voxel).

    `fortran`: the first axis lies fastest. `reverse`: spatial axes are wanted in reverse. Raises UnreadableError for
    values that are not real numbers and ShapeError for an array without a spatial axis.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnreadableError(
            where,
            found=f"values of type {dtype}",
            expected="real numbers",
            do="Store scores as float32 and labels as integers.",
        )
    count = len(shape)
    if channel_axis is not None and not -count <= channel_axis < count:
        raise ShapeError(
            where,
            found=f"an array of shape {shape}",
            expected=f"a class axis at {channel_axis}",
            do="Scores have shape (classes, *spatial).",
        )
    if count - (channel_axis is not None) < 1:
        raise ShapeError(
            where,
            found=f"an array of shape {shape}",
            expected="at least one spatial axis",
            do="Scores have shape (classes, *spatial), labels (*spatial).",
        )
    channel = None if channel_axis is None else channel_axis % count
    spatial = [a for a in range(count) if a != channel]
    axes = ([] if channel is None else [channel]) + (spatial[::-1] if reverse else spatial)
    if fortran:
        return Grid(tuple(shape[::-1]), dtype, tuple(count - 1 - a for a in axes), channel is not None)
    return Grid(tuple(shape), dtype, tuple(axes), channel is not None)


def order(axes: Iterable[int], stored: tuple[int, ...]) -> list[int]:
    """Axes longer than one, which alone decide the order of values."""
    return [a for a in axes if stored[a] != 1]


def read_exactly(file: RawIOBase, offset: int, out: NDArray[Any], where: str) -> None:
    """Fill the contiguous array `out` from `offset` of `file`; UnreadableError if the file ends before."""
    file.seek(offset)
    view, done = octets(out), 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise UnreadableError(
                where,
                found=f"a file that ends {len(view) - done} bytes early",
                expected="as many values as its header says",
                do="It may be truncated: copy or predict this case again.",
            )
        done += got


def octets(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, shared with it."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


class Readable(Protocol):
    """Anything that bytes can be read from."""

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; none at the end."""


def pieces_of(stream: Readable, count: int, size: int) -> Iterator[bytes]:
    """The next `count` bytes of a stream, at most `size` at a time; fewer if it ends before."""
    while count:
        piece = stream.read(min(size, count))
        if not piece:
            return
        count -= len(piece)
        yield piece


def write_all(file: RawIOBase, piece: bytes | memoryview) -> None:
    """Write all of `piece`, however little the system takes at a time."""
    view = memoryview(piece)
    while len(view):
        view = view[file.write(view) or 0 :]


def write_array(file: RawIOBase, array: NDArray[Any]) -> None:
    """Write the values of `array` in row-major order."""
    write_all(file, octets(np.ascontiguousarray(array)))


def room(path: Path, nbytes: int) -> None:
    """Raise OutputError if the disk of `path` has no room for `nbytes`."""
    free = shutil.disk_usage(path.parent).free
    if nbytes > free:
        raise OutputError(
            str(path.parent),
            found=f"{free / 2**30:.1f} GiB free",
            expected=f"{nbytes / 2**30:.1f} GiB to unpack one case",
            do="Name a folder with more room in the environment variable SEGCAL_SCRATCH, or raise --max-memory.",
        )

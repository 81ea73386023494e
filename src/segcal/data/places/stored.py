"""One number a voxel of a case, flattened: in memory, or beyond the scratch limit in a file.

Promises: what was put is what is got, the same bits either way; the file is open only while it is filled or read, and
gone with the scratch folder. Costs: the numbers, once. No voxel: an empty array.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.files import journal
from segcal.data.files.journal import Scratch


class Stored:
    """`voxels` numbers of type `dtype`; a file under `scratch` carries `name`."""

    def __init__(self, voxels: int, dtype: np.dtype[Any], scratch: Scratch, name: str) -> None:
        self.dtype = dtype
        self._array = np.empty(voxels, dtype) if voxels * dtype.itemsize <= scratch.limit else None
        self._path = None if self._array is not None else scratch.path(name)
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
            assert count, "the file ends early"
            rest = rest[count:]

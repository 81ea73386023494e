"""Arrays in zarr stores: formats 2 and 3 read by windows, version 3 written, CASE.zarr, in chunks of one channel; maps
as MAP/CASE.zarr.

Reading. Promises: an array of at most half of `scratch.limit` is read into memory, a larger one is copied, a few chunks
at a time, to a file under `scratch`; so each chunk is decoded once, and at least one chunk is held (`chunks` bounds
what it unpacks to). Missing chunks have the store's fill value, as zarr defines. An array of objects or strings raises
UnreadableError.

Writing. Promises: the delivered float32 values bit for bit, shape (channels, *spatial), with the names of the channels
and the spacing (mm, or null) as attributes; equal input, equal bytes for one version of zarr. Costs: see `gathering`;
besides, one plane of the first spatial axis. Chunks hold at most 2^20 values. When there is nothing: chunks that are
zero everywhere are not stored, which is how zarr reads them back; `finish` has nothing to write.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from segcal.data.case import Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch, explained
from segcal.data.files.reading import readable
from segcal.data.formats.gathering import FLOAT, FileSink, Gathered, Row
from segcal.data.formats.raw import StoredField, grid, room, write_array
from segcal.data.formats.windows import ArrayWindow, open_file
from segcal.errors import MissingError, UnreadableError, extra

if TYPE_CHECKING:
    import zarr


def _library() -> tuple[ModuleType, ModuleType]:
    """zarr, and how its chunks are bounded: the extra `zarr`, imported where a store is opened or written."""
    with extra("zarr"):
        import zarr

        from segcal.data.formats import chunks
    return zarr, chunks


def is_store(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def keys(path: Path) -> list[str]:
    """Names of the arrays in the group `path`, of an OME image the one at full resolution alone; [''] where `path` is
    itself an array.

    Raises MissingError or UnreadableError.
    """
    opened = _open(path)
    if not isinstance(opened, _library()[0].Group):
        return [""]
    names, full = _names(opened, path), _full(opened, path)
    return [full] if full in names else names


def _full(group: zarr.Group, path: Path) -> object:
    """What OME's metadata (0.4, 0.5) name as the array at full resolution; None where there are none."""
    with readable(path, folder=True):
        attributes = dict(group.attrs)
        ome = attributes.get("ome", attributes)
        for name, kind in (("multiscales", list), (0, dict), ("datasets", list), (0, dict), ("path", str)):
            found = ome.get(name) if isinstance(ome, dict) else ome[0] if isinstance(ome, list) and ome else None
            if not isinstance(found, kind):
                return None
            ome = found
        return ome


def _names(group: zarr.Group, path: Path) -> list[str]:
    with readable(path, folder=True):
        return sorted(group.array_keys())


def _open(path: Path) -> zarr.Array | zarr.Group:  # type: ignore[type-arg]
    if not path.exists():
        raise MissingError(str(path), found="no such store", expected="a zarr store", do="Check the path.")
    library, bounds = _library()
    with readable(path, folder=True):
        try:
            return library.open(bounds.Store(path, read_only=True), mode="r")  # type: ignore[no-any-return]
        except library.errors.BaseZarrError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class ZarrField(StoredField):
    """One array of a store: `key` within the group, or '' for a store that is an array."""

    key: str
    chunks: tuple[int, ...]

    @classmethod
    def find(cls, path: Path, key: str = "", *, channel_axis: int | None) -> ZarrField:
        """Array `key` of `path`, with classes on `channel_axis` (None: one value a voxel). Reads the metadata only."""
        array = cls._array(path, key)
        shape, chunks = tuple(int(n) for n in array.shape), tuple(int(n) for n in array.chunks)
        return cls(path, grid(shape, array.dtype, str(path), fortran=False, channel_axis=channel_axis), key, chunks)

    @staticmethod
    def _array(path: Path, key: str) -> zarr.Array:  # type: ignore[type-arg]
        opened = _open(path)
        if isinstance(opened, _library()[0].Group):
            names = _names(opened, path)
            if key not in names:
                raise MissingError(
                    str(path),
                    found=f"no array {key!r}, but {', '.join(n[:80] for n in names[:8]) or 'nothing'}",
                    expected=f"an array called {key!r}",
                    do="Check which program wrote this store.",
                )
            with readable(path, folder=True):
                opened = opened[key]
        if not isinstance(opened, _library()[0].Array):
            raise UnreadableError(
                str(path),
                found=f"a group at {key!r}",
                expected="an array",
                do="Name the arrays of a store 'logits', 'probabilities', ...",
            )
        with readable(path, folder=True):
            if not isinstance(opened.dtype, np.dtype) or opened.dtype.kind not in "biuf":
                raise UnreadableError(
                    str(path),
                    found=f"values of type {opened.dtype}",
                    expected="real numbers",
                    do="Store scores as float32 and labels as integers.",
                )
            return _library()[1].bounded(opened, path)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        """Open for reading by windows."""
        array = self._array(self.path, self.key)
        if 2 * self.grid.nbytes <= scratch.limit:  # zarr may hold decoded chunks beside the array
            with readable(self.path, folder=True):
                whole = np.asarray(array[...])
            yield ArrayWindow(whole.transpose(self.grid.axes), self.grid.channelled)
            return
        copied = scratch.path("zarr")
        try:
            room(copied, self.grid.nbytes)
            with explained(copied), copied.open("wb", buffering=0) as file:
                self._copy(array, file, scratch.limit // 4)
            with open_file(copied, 0, self.grid, scratch, self.where) as window:
                yield window
        finally:
            copied.unlink(missing_ok=True)

    def _copy(self, array: zarr.Array, file: RawIOBase, budget: int) -> None:  # type: ignore[type-arg]
        """Copy box by box: as many whole chunks as the budget allows, grown from the last axis on, so that runs in the
        file are long.
        """
        shape, size = self.grid.stored, self.grid.dtype.itemsize
        box = [min(b, n) for b, n in zip(self.chunks, self.grid.stored, strict=True)]
        for a in range(len(shape) - 1, -1, -1):
            one = math.prod(box) * size
            box[a] = min(shape[a], box[a] * max(1, budget // one))
        steps = [max(1, b) for b in box]
        for corner in itertools.product(*(range(0, n, b) for n, b in zip(shape, steps, strict=True))):
            where = tuple(slice(c, min(c + b, n)) for c, b, n in zip(corner, steps, shape, strict=True))
            part = np.empty(tuple(s.stop - s.start for s in where), self.grid.dtype)
            # chunk by chunk: zarr decodes those of one request all at once
            for inner in itertools.product(*(range(0, n, c) for n, c in zip(part.shape, self.chunks, strict=True))):
                here = tuple(slice(i, min(i + c, n)) for i, c, n in zip(inner, self.chunks, part.shape, strict=True))
                there = tuple(slice(c + h.start, c + h.stop) for c, h in zip(corner, here, strict=True))
                with readable(self.path, folder=True):
                    part[here] = np.asarray(array[there])
            whole = len(shape)
            while whole > 1 and part.shape[whole - 1] == shape[whole - 1]:
                whole -= 1
            # axes from `whole` on are complete: with the axis before them they make one run in the file
            for index in np.ndindex(*part.shape[: whole - 1]):
                start = [c + i for c, i in zip(corner, index, strict=False)] + list(corner[whole - 1 :])
                file.seek(int(np.ravel_multi_index(start, shape)) * size)
                write_array(file, part[index])


CHUNK = 1 << 20
"""Most values in a chunk."""


class ZarrSink(FileSink):
    """Writes CASE.zarr."""

    ending: ClassVar[str] = ".zarr"
    map_ending: ClassVar[str] = ".zarr"

    def __init__(self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        _library()  # missing: said before any work
        super().__init__(folder, maps, classes)

    def frame(self, case: Case) -> dict[str, Any]:
        """Its spacing, as an attribute of every store."""
        return {"spacing": None if case.spacing is None else [float(s) for s in case.spacing]}

    def write(self, part: Path, gathered: Gathered, cohort: Cohort, case: Case, frame: Any) -> None:
        """One array with the names of the channels."""
        _write(part, gathered.channels(), case.shape, True, {"classes": list(cohort.head.classes), **frame})

    def write_map(self, part: Path, row: Row, case: Case, frame: Any) -> None:
        """One array."""
        _write(part, [row], case.shape, False, frame)


def _write(path: Path, rows: Sequence[Row], shape: tuple[int, ...], channels: bool, attributes: dict[str, Any]) -> None:
    chunks = _chunks(shape)
    lead: tuple[int, ...] = (len(rows),) if channels else ()
    array = _library()[0].create_array(
        store=str(path), shape=(*lead, *shape), chunks=(*(1 for _ in lead), *chunks), dtype=FLOAT, attributes=attributes
    )
    plane = rows[0].voxels // max(1, shape[0])
    for c, row in enumerate(rows):
        for low in range(0, shape[0], chunks[0]):
            high = min(low + chunks[0], shape[0])
            values = row.read(low * plane, high * plane).reshape(high - low, *shape[1:])
            array[(c, slice(low, high)) if channels else slice(low, high)] = values


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Whole last axes as far as `CHUNK` values reach."""
    chunks: list[int] = []
    room = CHUNK
    for length in reversed(shape):
        chunks.append(max(1, min(length, room)))
        room //= chunks[-1]
    return tuple(reversed(chunks))

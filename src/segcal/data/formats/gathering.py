"""An open case on its way to disk: its blocks, held until the case is complete.

Promises: memory stays within `scratch.limit` (a case that does not fit is kept as raw rows in one scratch file, removed
when the case is closed); blocks are taken in increasing order, each voxel once, and anything else is a UsageError, for
a file with a gap would look like a result. A full scratch disk is an OutputError that names the scratch file. Costs:
four bytes a channel, map and voxel, written once and read once. When there is nothing: a case of no voxel is complete
from the start.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.formats.placing import check_targets, output
from segcal.data.formats.requested import Map, Requested, Shown
from segcal.data.formats.sink import Delivered
from segcal.data.head import Head
from segcal.errors import UsageError

PIECE = 1 << 22
"""Bytes handled at a time while a file is written."""

FLOAT = np.dtype("<f4")


class Held:
    """An array (rows, voxels), filled by windows: in memory where `path` is None, else in a file there."""

    def __init__(self, rows: int, voxels: int, dtype: np.dtype[Any], path: Path | None) -> None:
        self.voxels, self.dtype, self.path = voxels, dtype, path
        self._array: NDArray[Any] | None = np.empty((rows, voxels), dtype) if path is None else None
        self._file = None
        if path is not None:
            with journal.explained(path):
                self._file = path.open("w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._array = None
        if self._file is not None and self.path is not None:
            try:
                with journal.explained(self.path):
                    self._file.close()
            finally:
                self.path.unlink(missing_ok=True)

    def put(self, row: int, start: int, values: NDArray[Any]) -> None:
        """Store voxels start.. of a row."""
        if self._array is not None:
            self._array[row, start : start + len(values)] = values
        elif self._file is not None and self.path is not None:
            with journal.explained(self.path):
                self._file.seek((row * self.voxels + start) * self.dtype.itemsize)
                self._file.write(np.ascontiguousarray(values, self.dtype).data)

    def read(self, row: int, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop of a row."""
        if self._array is not None:
            return self._array[row, start:stop]
        assert self._file is not None
        self._file.seek((row * self.voxels + start) * self.dtype.itemsize)
        return np.frombuffer(self._file.read((stop - start) * self.dtype.itemsize), self.dtype)


@dataclass(frozen=True, eq=False)
class Row:
    """One value a voxel, of a complete case: a channel, a map, or the label map.

    `slab` is how many bytes of it may be copied at a time; `shown`: what a file may say of it.
    """

    held: Held
    index: int
    slab: int = PIECE
    shown: Shown | None = None

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.held.voxels

    @property
    def itemsize(self) -> int:
        """Bytes a voxel."""
        return self.held.dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop, little-endian."""
        return self.held.read(self.index, start, stop)

    def pieces(self) -> Iterator[memoryview]:
        """All bytes in the order of the voxels."""
        step = PIECE // self.itemsize
        for start in range(0, self.voxels, step):
            yield self.read(start, min(start + step, self.voxels)).view(np.uint8).data


class Gathered:
    """The writer of every format here: takes blocks, gives back rows when the case is complete."""

    def __init__(
        self, case: Case, head: Head, names: Sequence[str], floats: Held, labels: Held | None, slab: int
    ) -> None:
        self._case, self._head, self._channels, self._names = case, head, head.channels, tuple(names)
        self._floats, self._labels, self._slab = floats, labels, slab
        self._next = 0

    def write(self, delivered: Delivered) -> None:
        """Take one block.

        UsageError for a block out of order, of another shape or type, or without a map that was asked for.
        """
        p = delivered.probabilities.detach().cpu()
        n = p.shape[-1]
        if delivered.start != self._next or delivered.start + n > self._case.voxels:
            offered = f"voxels {delivered.start} to {delivered.start + n} of {self._case.voxels}"
            raise self._refusal(
                offered, f"voxels from {self._next} on", "Write the blocks of a case in increasing order, each once."
            )
        if p.shape != (self._channels, n) or p.dtype != torch.float32:
            expected = f"torch.float32 of shape ({self._channels}, n)"
            raise self._refusal(
                f"probabilities {p.dtype} of shape {tuple(p.shape)}",
                expected,
                "Deliver one row a channel, rounded to float32 where the decision is kept.",
            )
        for name in self._names:
            if name not in delivered.maps:
                raise self._refusal(
                    f"maps {sorted(delivered.maps)}",
                    f"the map {name!r}",
                    "Compute every map that the sink was asked to write.",
                )
        rows = [*p, *(delivered.maps[name].detach().cpu() for name in self._names)]
        fits = all(row.shape == (n,) and row.dtype == torch.float32 for row in rows)
        if not fits or (self._labels is not None and delivered.label_map.shape != (n,)):
            raise self._refusal(
                "maps of another length or type",
                f"{n} float32 values a map and {n} labels",
                "Deliver maps and labels for the voxels of the probabilities.",
            )
        for index, row in enumerate(rows):
            self._floats.put(index, self._next, row.numpy())
        if self._labels is not None:
            self._labels.put(0, self._next, delivered.label_map.detach().cpu().numpy().astype(self._labels.dtype))
        self._next += n

    def check_complete(self) -> None:
        """UsageError unless every voxel was written."""
        if self._next != self._case.voxels:
            raise self._refusal(
                f"{self._next} voxels written", f"all {self._case.voxels}", "Write every block before closing the case."
            )

    def channels(self) -> list[Row]:
        """The probabilities, a row a channel."""
        return [Row(self._floats, c, self._slab) for c in range(self._channels)]

    def map(self, wanted: Map) -> Row:
        """A map that was asked for."""
        return Row(
            self._floats,
            wanted.channel if wanted.channel is not None else self._channels + self._names.index(wanted.folder),
            self._slab,
            wanted.shown(self._head),
        )

    def label_map(self) -> Row:
        """The label map, where the sink asked for it."""
        assert self._labels is not None
        return Row(self._labels, 0, self._slab)

    def _refusal(self, found: str, expected: str, do: str) -> UsageError:
        return UsageError(f"case {self._case.id}", found=found, expected=expected, do=do)


@contextlib.contextmanager
def gather(
    cohort: Cohort, case: Case, requested: Requested, scratch: Scratch, labels: np.dtype[Any] | None = None
) -> Iterator[Gathered]:
    """Open a writer for `case`; with `labels`, the label map is kept too, in that type.

    What it holds is gone when the block ends.
    """
    requested.check(cohort.head.classes)
    channels, names = cohort.head.channels, requested.delivered
    rows, voxels = channels + len(names), case.voxels
    size = voxels * (rows * FLOAT.itemsize + (0 if labels is None else labels.itemsize))
    in_memory = size <= scratch.limit
    with contextlib.ExitStack() as stack:
        floats = stack.enter_context(Held(rows, voxels, FLOAT, None if in_memory else scratch.path("delivered")))
        kept = (
            None
            if labels is None
            else stack.enter_context(Held(1, voxels, labels, None if in_memory else scratch.path("label-map")))
        )
        yield Gathered(case, cohort.head, names, floats, kept, max(PIECE, scratch.limit // 8))


class FileSink(ABC):
    """A sink that leaves one file a case and one a map, CASE + `ending` and MAP/CASE + `map_ending`; nothing belongs to
    the whole folder.

    `maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'.
    """

    ending: ClassVar[str]
    map_ending: ClassVar[str]

    def __init__(self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._folder, self._maps = Path(folder), Requested(tuple(maps), tuple(classes))

    def frame(self, case: Case) -> Any:
        """What is found out of a case before any work, and handed to the writing of its files."""
        return None

    @abstractmethod
    def write(self, part: Path, gathered: Gathered, cohort: Cohort, case: Case, frame: Any) -> None:
        """Write the probabilities to `part`."""

    @abstractmethod
    def write_map(self, part: Path, row: Row, case: Case, frame: Any) -> None:
        """Write one map to `part`."""

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Gathered]:
        """Open `case` for writing."""
        targets = self.outputs(case)
        check_targets(case, targets)
        frame = self.frame(case)
        with gather(cohort, case, self._maps, scratch) as gathered:
            yield gathered
            gathered.check_complete()
            with journal.placed(targets) as parts:
                self.write(parts[0], gathered, cohort, case, frame)
                for part, wanted in zip(parts[1:], self._maps.maps, strict=True):
                    self.write_map(part, gathered.map(wanted), case, frame)

    def finish(self, cohort: Cohort) -> None:  # noqa: B027  nothing to do is its answer
        """Nothing belongs to the whole folder."""

    def shared(self, cohort: Cohort) -> list[Path]:
        """No file belongs to the whole folder."""
        return []

    def outputs(self, case: Case) -> list[Path]:
        """Files that `case` will leave."""
        maps = (output(self._folder, case, self.map_ending, m.folder) for m in self._maps.maps)
        return [output(self._folder, case, self.ending), *maps]

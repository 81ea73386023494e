"""Pinned rows: a cohort read, checked and reduced to its scored voxels once, kept for re-reading.

Rows are kept as float32 log-probabilities (half precision would change the order of 2 % of voxels), with the decision
taken from the scores as given, from logits the free energy in float64, and what was drawn from the case around them,
such as distances, in float32. They stay in memory while the budget lasts,
then go to one file a case. Where rows are kept never changes a bit of any result. `passes` counts complete readings of
all rows, `sample_passes` those of a sample.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from segcal.data.cohort import Cohort
from segcal.data.files import journal
from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.rows import Prepared, Record
from segcal.data.surroundings import Pinnable
from segcal.engine.ask import Level
from segcal.engine.single import one_thread
from segcal.errors import UnreadableError

if TYPE_CHECKING:
    from segcal.engine.filed import Filed
    from segcal.engine.view import View

SAMPLE_ROWS = 2**18
CURVATURE_ROWS = 2**15
SAMPLE_NUMBERS = 2**23
"""Most rows of the two samples, and most numbers in the larger one (32 MiB), whatever the memory limit: a limit must
not change a result.
"""

PARTITION = 2**24
"""Numbers of scores (64 MiB as they are kept) after which a partition of the cases ends."""

CHUNK_ROWS = 2**14
"""Rows after which a chunk of samples ends, up to 32 classes."""

SLAB = 64 * 2**20
"""Bytes of memory mapped at a time for rows that are kept."""

ALIGNED = 64


def chunk_rows(classes: int) -> int:
    """Rows after which a chunk ends: a power of two, `CHUNK_ROWS` up to 32 classes, fewer above, so that its numbers
    take 4 MiB in float64 and not more with every class. Of larger arrays the heap holds back as much as a small memory
    limit has.
    """
    return min(CHUNK_ROWS, 1 << max(0, (2**19 // classes).bit_length() - 1))


def partitions(cohort: Cohort) -> list[range]:
    """The cases, in runs of some `PARTITION` numbers, by their sizes alone: what is put together from several cases
    is put together within one, so that where partitions lie changes no bit.
    """
    spans, first, size = [], 0, 0
    for index, case in enumerate(cohort):
        size += case.voxels * cohort.head.rows
        if size >= PARTITION or index == len(cohort) - 1:
            spans.append(range(first, index + 1))
            first, size = index + 1, 0
    return spans


def narrow(head: Head) -> torch.dtype:
    """The integer type that holds targets and decisions."""
    return torch.uint8 if head.labels <= 255 and head.rows <= 255 else torch.int16


@dataclass(frozen=True)
class Stored:
    """Where one block's rows lie: in a piece of memory, or in a case's file."""

    place: memoryview | Path
    offset: int
    voxels: int
    energy: bool


class Shelf:
    """Keeps prepared blocks in memory up to `limit` bytes, then in files under `scratch`.

    `drawn`: the contexts that blocks bring, each kept as float32. What is kept in memory lies in slabs mapped for it,
    and nothing else that lasts is made from the heap: there it would scatter among the arrays that come and go, and the
    holes between would count as used.
    """

    def __init__(self, head: Head, limit: int, scratch: Scratch, drawn: Sequence[Pinnable] = ()) -> None:
        self.head, self.limit, self.scratch, self.drawn = head, limit, scratch, tuple(drawn)
        self._slab, self._at, self._mapped = memoryview(b""), 0, 0
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Bytes of the limit that are not taken."""
        return self.limit - self._mapped

    def keep(self, block: Prepared, file: CaseFile) -> Stored:
        """Keep one block; `file` is the case's own."""
        voxels, energy = block.log_probs.shape[1], block.free_energy is not None
        with self._lock:
            memory = self._reserve(self._size(voxels, energy))
        if memory is not None:
            self._fill(memory, block)
            return Stored(memory, 0, voxels, energy)
        passing = memoryview(bytearray(self._size(voxels, energy)))
        self._fill(passing, block)
        path, offset = file.append(passing)
        return Stored(path, offset, voxels, energy)

    def load(self, case: int, start: int, kept: Stored) -> Prepared:
        """The rows again."""
        place = (
            _read(kept.place, kept.offset, self._size(kept.voxels, kept.energy))
            if isinstance(kept.place, Path)
            else kept.place
        )
        log_probs, targets, decision, *rest = self._views(place, kept.voxels, kept.energy)
        energy = rest.pop() if kept.energy else None
        return Prepared(
            case, start, log_probs, targets, decision, energy, contexts=dict(zip(self.drawn, rest, strict=True))
        )

    def _reserve(self, size: int) -> memoryview | None:
        """Memory for one block, or None where the limit leaves no room for it."""
        if self._at + size > len(self._slab):
            room = min(SLAB, self.limit - self._mapped)
            if room < size:
                return None
            self._slab, self._at = memoryview(mmap.mmap(-1, room)), 0
            self._mapped += room
        self._at += size
        return self._slab[self._at - size : self._at]

    def _fill(self, place: memoryview, block: Prepared) -> None:
        drawn = [block.contexts[context] for context in self.drawn]
        tensors = [block.log_probs, block.targets, block.decision, *drawn] + (
            [] if block.free_energy is None else [block.free_energy]
        )
        for view, tensor in zip(
            self._views(place, block.log_probs.shape[1], block.free_energy is not None), tensors, strict=True
        ):
            view.copy_(tensor)

    def _layout(self, voxels: int, energy: bool) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        rows, parts, small = self.head.rows, len(self.head.parts), narrow(self.head)
        layout: list[tuple[torch.dtype, tuple[int, ...]]] = [
            (torch.float32, (rows, voxels)),
            (small, (parts, voxels)),
            (small, (parts, voxels)),
            *((torch.float32, (context.numbers, voxels)) for context in self.drawn),
        ]
        return [*layout, (torch.float64, (voxels,))] if energy else layout

    def _size(self, voxels: int, energy: bool) -> int:
        return sum(_aligned(dtype, shape) for dtype, shape in self._layout(voxels, energy))

    def _views(self, place: memoryview, voxels: int, energy: bool) -> list[Tensor]:
        views, at = [], 0
        for dtype, shape in self._layout(voxels, energy):
            views.append(torch.frombuffer(place, dtype=dtype, count=math.prod(shape), offset=at).reshape(shape))
            at += _aligned(dtype, shape)
        return views


def _aligned(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED


def _read(path: Path, offset: int, size: int) -> memoryview:
    data = memoryview(bytearray(size))
    with path.open("rb") as file:
        file.seek(offset)
        if file.readinto(data) != size:
            raise UnreadableError(
                str(path),
                found="a file that ends early",
                expected="the rows written before",
                do="The scratch folder was changed during the run: start again.",
            )
    return data


class CaseFile:
    """The file of one case, opened when the first block needs it."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._file: FileIO | None = None
        self._path: Path | None = None

    def append(self, data: memoryview) -> tuple[Path, int]:
        """Write one block behind the others; the path and where it begins. A full disk is an OutputError."""
        if self._file is None or self._path is None:
            self._path = self._scratch.path("rows")
            # unbuffered, so that a full disk is noticed here and not when the file is closed
            self._file = self._path.open("wb", buffering=0)
        offset = self._file.tell()
        with journal.explained(self._path):
            while len(data):
                data = data[self._file.write(data) :]
        return self._path, offset

    def close(self) -> None:
        """Done writing."""
        if self._file is not None:
            self._file.close()


@dataclass(eq=False)
class Pinned:
    """A pinned cohort. `blocks`: (case, start, where the rows lie). `strata`: which samples are kept together (folds),
    so that asks about folds stay whole. `filed`: rows grouped and ordered, by part and view; made when first asked for.
    """

    cohort: Cohort
    shelf: Shelf
    blocks: list[tuple[int, int, Stored]]
    records: list[Record]
    scratch: Scratch
    passes: int = 1
    sample_passes: int = 0
    _samples: dict[Level, list[Chunk]] = field(default_factory=dict)
    strata: tuple[int, ...] = ()
    filed: dict[tuple[int, View], Filed] = field(default_factory=dict)

    def __enter__(self) -> Pinned:
        return self

    def __exit__(self, *_: object) -> None:
        self.scratch.__exit__()

    @property
    def voxels(self) -> int:
        """Scored voxels."""
        return sum(r.roles[0] for r in self.records)

    @property
    def has_energy(self) -> bool:
        """Whether free energies were kept."""
        return self.cohort.has_logits

    def rate(self, level: Level) -> float:
        """Share of voxels in a sample."""
        most = min(SAMPLE_ROWS, SAMPLE_NUMBERS // self.cohort.head.rows)
        rows = most if level is Level.SAMPLE else min(most, CURVATURE_ROWS)
        return 1.0 if level is Level.ALL else min(1.0, rows / self.voxels)

    def chunks(self, level: Level) -> list[Chunk]:
        """The samples of `level`, made by `resample`."""
        return self._samples[level]

    def room(self) -> int:
        """Bytes of memory left for filed rows; the rest of them goes to files."""
        taken = sum(f.shelf.limit - f.shelf.room for f in self.filed.values())
        return max(0, self.shelf.room - taken)

    @one_thread()
    def resample(self, strata: Sequence[int]) -> None:
        """Draw both samples: voxels evenly over all cases (seeded by case name and offset), in chunks that hold cases
        of one stratum only.
        """
        if tuple(strata) == self.strata and self._samples:
            return
        self.strata = tuple(strata)
        # pieces are put on a shelf of their own for the reason given there; nothing is written to its file
        shelf = Shelf(self.cohort.head, sys.maxsize, self.scratch, self.shelf.drawn)
        file = CaseFile(self.scratch)
        pieces: dict[Level, dict[int, list[tuple[int, Stored]]]] = {Level.SAMPLE: {}, Level.CURVATURE: {}}
        for level, case, rows in self.sampled({level: self.rate(level) for level in pieces}):
            pieces[level].setdefault(strata[case], []).append((case, shelf.keep(rows, file)))
        self._samples = {level: [c for s in sorted(by) for c in _chunked(shelf, by[s])] for level, by in pieces.items()}
        self.filed = {}
        self.passes += 1

    def stratified(self, strata: Sequence[int]) -> None:
        """Strata alone, where samples are kept elsewhere."""
        if tuple(strata) != self.strata or not self._samples:
            self.strata, self.filed = tuple(strata), {}
            self._samples = {Level.SAMPLE: [], Level.CURVATURE: []}

    def sampled(self, rates: Mapping[Level, float]) -> Iterator[tuple[Level, int, Prepared]]:
        """Which voxels of each block are in a sample of such a share, block by block in the order of the cases."""
        for case, start, kept in self.blocks:
            block = self.shelf.load(case, start, kept)
            seed = [zlib.crc32(self.cohort.cases[case].id.encode("utf-8", "surrogatepass")), start]
            draw = torch.from_numpy(np.random.default_rng(seed).random(block.log_probs.shape[1]))
            for level, rate in rates.items():
                index = torch.nonzero(draw < rate).flatten()
                if index.numel():
                    yield level, case, block.take(index)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Sampled rows of several cases, together: `spans` says which columns belong to which case."""

    rows: Prepared
    spans: tuple[tuple[int, int, int], ...]
    cases: frozenset[int]


def _chunked(shelf: Shelf, pieces: list[tuple[int, Stored]]) -> list[Chunk]:
    out: list[Chunk] = []
    batch: list[Prepared] = []
    size = 0
    for case, kept in pieces:
        batch.append(shelf.load(case, 0, kept))
        size += kept.voxels
        if size >= chunk_rows(shelf.head.rows):
            out.append(_joined(batch))
            batch, size = [], 0
    return [*out, _joined(batch)] if batch else out


def _joined(batch: list[Prepared]) -> Chunk:
    spans: list[tuple[int, int, int]] = []
    at = 0
    for piece in batch:
        n = piece.log_probs.shape[1]
        if spans and spans[-1][0] == piece.case:
            spans[-1] = (piece.case, spans[-1][1], at + n)
        else:
            spans.append((piece.case, at, at + n))
        at += n
    energies = [p.free_energy for p in batch if p.free_energy is not None]
    rows = Prepared(
        -1,
        0,
        torch.cat([p.log_probs for p in batch], 1),
        torch.cat([p.targets for p in batch], 1),
        torch.cat([p.decision for p in batch], 1),
        torch.cat(energies) if energies else None,
        contexts={context: torch.cat([p.contexts[context] for p in batch], 1) for context in batch[0].contexts},
    )
    return Chunk(rows, tuple(spans), frozenset(s[0] for s in spans))

"""The surroundings of voxels: what an open case says around each of them, as planes with a margin, tile by tile, for
maps that need more than a voxel's own scores.

A case is seen as (A, B, W): a volume as it is, an image as one plane. Planes are its slices along one of these axes
(the first unless told otherwise), and a neighbour is a voxel of the same plane at most a margin of rows and columns
away; who needs no neighbour sees a column of voxels. A `Tile` is a run of consecutive voxels: whole slices of the first
axis, or rows of one. Beyond an edge of a plane the field is reflected, or, along a side no longer than the margin, its
last voxel repeated. Ignored, masked and padded voxels are surroundings like any other; the exact zeros of crop padding
are floored as `scores.canonical` does.

Promises: tiles depend on the shape, the slice axis and a limit alone, so that what is computed from one does not depend
on the block that asked for it. Costs: one tile with its margin in memory; scores are read again beside the blocks. With
another slice axis than the first a margin may be whole slices, up to nine readings of a large volume. No voxel: no
tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from segcal.data.case import PADDING, Case, block_length
from segcal.data.files.journal import Scratch
from segcal.data.places.place import Decided, Place, Places
from segcal.data.reader import CaseReader
from segcal.errors import ShapeError

MARGIN = 4
"""Rows and columns seen on each side, unless told otherwise: a kernel of 5 with dilation 2."""


@dataclass(frozen=True)
class Grid:
    """A case's voxels as (A, B, W), which axis the planes are slices of, and how far one sees in them."""

    shape: tuple[int, int, int]
    axis: int = 0
    margin: int = MARGIN

    @classmethod
    def of(
        cls, spatial: tuple[int, ...], axis: int, where: str, reach: int | None = MARGIN, *, lie: bool = False
    ) -> Grid:
        """The grid of a spatial shape of two or three axes (ShapeError otherwise) for what sees so far; None: the whole
        case, in one tile. An image is one plane whatever the axis. Who sees no neighbour takes any shape, as a column;
        no table, whose spatial shape is (), where it matters how voxels `lie`.
        """
        if reach == 0 and (spatial or not lie):
            return cls((1, math.prod(spatial), 1), 0, 0)
        if len(spatial) == 2:
            return cls((1, *spatial), 0, reach or 0)
        if len(spatial) == 3:
            return cls((spatial[0], spatial[1], spatial[2]), axis, reach or 0)
        raise ShapeError(
            where,
            found=f"{len(spatial)} spatial axes",
            expected="two or three: a voxel of a table has no neighbours",
            do=(
                "Give images (B, C, H, W) or volumes (B, C, D, H, W); for tables choose a method without neighbours,"
                " such as ts."
            ),
        )

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def planes(self, field: Tensor) -> Tensor:
        """(channels, A, B, W), or a part of it, as planes (channels, slices, rows, columns)."""
        return field.movedim(1 + self.axis, 1)

    def tiled(self, flat: Tensor, tile: Tile) -> Tensor:
        """What belongs to the voxels of a tile, (channels, n), as planes (channels, slices, rows, columns)."""
        return self.planes(flat.reshape(len(flat), tile.a1 - tile.a0, tile.b1 - tile.b0, self.shape[2]))

    def back(self, planes: Tensor) -> Tensor:
        """Planes (..., slices, rows, columns) in the order of the voxels, (..., n)."""
        return planes.movedim(-3, self.axis - 3).flatten(-3)

    def with_margin(self, field: Tensor) -> Tensor:
        """A whole field (channels, ..., A, B, W) with a margin on the two axes of its planes."""
        for axis in range(3):
            if axis != self.axis:
                side = self.shape[axis]
                index = torch.tensor(margin_index(0, side, side, self.margin), device=field.device)
                field = field.index_select(field.dim() - 3 + axis, index)
        return field


def margin_index(start: int, stop: int, side: int, margin: int = MARGIN) -> list[int]:
    """Positions start - margin .. stop + margin on an axis of `side` voxels: those beyond an end are reflected, or, on
    a side shorter than margin + 1, that end again.
    """
    wanted = range(start - margin, stop + margin)
    if side <= margin:
        return [min(max(i, 0), side - 1) for i in wanted]
    return [-i if i < 0 else 2 * (side - 1) - i if i >= side else i for i in wanted]


@dataclass(frozen=True)
class Tile:
    """Slices a0..a1 of the first axis, rows b0..b1 of each; several slices only with all their rows."""

    a0: int
    a1: int
    b0: int
    b1: int

    def span(self, grid: Grid) -> tuple[int, int]:
        """The voxels start..stop it is made of."""
        _, b, w = grid.shape
        return (self.a0 * b + self.b0) * w, ((self.a1 - 1) * b + self.b1) * w


def tiles(grid: Grid, limit: int, start: int = 0, stop: int | None = None) -> Iterator[Tile]:
    """The tiles, of at most `limit` voxels or one row, that hold voxels start..stop (default: all), in order."""
    a, b, w = grid.shape
    stop = grid.voxels if stop is None else stop
    if start >= stop:
        return
    plane = b * w
    first, last = start // plane, -(-stop // plane)
    if plane <= limit:
        n = limit // plane
        for k in range(first // n, -(-last // n)):
            yield Tile(k * n, min((k + 1) * n, a), 0, b)
        return
    n = max(1, limit // w)
    for k in range(first, last):
        low, high = max(0, start - k * plane) // w, min(b, -(-(stop - k * plane) // w))
        for r in range(low // n, -(-high // n)):
            yield Tile(k, k + 1, r * n, min((r + 1) * n, b))


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Planes of a tile with their margin, float64.

    `log_probs` (head.rows, slices, rows + margins, columns + margins); `free_energy`, the same without its first axis,
    where logits are known; `fields` of the case that were asked for, (channels, slices, ...) each; `places`, of the
    voxels of the tile alone, (slices, rows, columns) each, by what was asked for. `segment`: from an image of the whole
    case, in planes as these, to the log-probabilities the network gives of it; None without one. `cases`: the slices
    are those of so many cases, one after another, as many of each.
    """

    log_probs: Tensor
    free_energy: Tensor | None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    places: Mapping[Place | Decided, Tensor] = field(default_factory=dict)
    segment: Callable[[Tensor], Tensor] | None = None
    cases: int = 1


def grid_of(case: Case, axis: int, reach: int | None = MARGIN, *, lie: bool = False) -> Grid:
    """The grid of a case, for what sees so far, or to which it matters how voxels `lie`. ShapeError as `Grid.of`."""
    spatial = () if case.table and (lie or reach != 0) else case.shape
    return Grid.of(spatial, axis, f"case {case.id}", reach, lie=lie)


def check_neighbours(cohort: Iterable[Case], axis: int, reach: int) -> None:
    """ShapeError for a case whose voxels have no neighbours, for what sees so far and how they lie; no voxel is
    read.
    """
    for case in cohort:
        grid_of(case, axis, reach, lie=True)


class Surroundings:
    """Neighbourhoods of one open case; what its places keep is gone with `scratch`.

    The last few are kept, since neighbouring blocks, and several maps, ask for the same.
    """

    def __init__(self, reader: CaseReader, scratch: Scratch) -> None:
        self.reader, self.scratch = reader, scratch
        self.cohort = reader.cohort
        self.case = reader.cohort.cases[reader.index]
        self._kept: dict[tuple[Grid, Tile], Neighbourhood] = {}
        self._places: dict[Place, Places] = {}

    def grid(self, axis: int, reach: int | None = MARGIN, *, lie: bool = False) -> Grid:
        """The case's grid, for what sees so far, or to which it matters how voxels `lie`."""
        return grid_of(self.case, axis, reach, lie=lie)

    @property
    def limit(self) -> int:
        """Voxels of a tile: as many as of a block."""
        return block_length(self.cohort.head.rows)

    def near(
        self,
        grid: Grid,
        tile: Tile,
        fields: Iterable[str] = (),
        places: Iterable[Place] = (),
        *,
        scores: bool = True,
    ) -> Neighbourhood:
        """The canonical scores around a tile, none unless `scores`, and these `fields` and `places` of the case."""
        found = self._kept.get((grid, tile))
        if not scores:
            found = Neighbourhood(torch.zeros(self.cohort.head.rows, 0, 0, 0, dtype=torch.float64), None)
        elif found is None:
            found = self._read(grid, tile)
            while len(self._kept) >= 2:
                del self._kept[next(iter(self._kept))]
            self._kept[grid, tile] = found
        return replace(
            found,
            fields={name: self._field(name, grid, tile) for name in fields},
            places={place: self._place(place, grid, tile) for place in places},
        )

    def _place(self, place: Place, grid: Grid, tile: Tile) -> Tensor:
        if place not in self._places:
            self._places[place] = Places(self.reader.label_map, self.scratch, (place,))
        return grid.tiled(self._places[place].of(*tile.span(grid))[place][None], tile)[0]

    def _field(self, name: str, grid: Grid, tile: Tile) -> Tensor:
        windows = self.reader.fields
        assert windows is not None
        return self._box(grid, tile, lambda start, stop: windows.read(name, start, stop))

    def counted(self, grid: Grid, tile: Tile) -> Tensor:
        """Which voxels of a tile the network looked at: all but crop padding, (n,) bool."""
        start, stop = tile.span(grid)
        return self.reader.role(start, stop) != PADDING

    def _read(self, grid: Grid, tile: Tile) -> Neighbourhood:
        head = self.cohort.head

        def rows(start: int, stop: int) -> Tensor:
            scores, kind = self.reader.scores(start, stop), self.cohort.pooled_kind
            energy = head.free_energy(scores, kind)
            canonical = head.canonical(scores, kind, self.cohort.resolution)
            return canonical if energy is None else torch.cat([canonical, energy[None]])

        found = self._box(grid, tile, rows)
        energy = found[head.rows] if len(found) > head.rows else None
        return Neighbourhood(found[: head.rows], energy)

    def _box(self, grid: Grid, tile: Tile, read: Reading) -> Tensor:
        """Planes of a tile with their margin, from a function that reads runs of voxels as (channels, n)."""
        (_, b, w), axis = grid.shape, grid.axis
        at = [list(range(tile.a0, tile.a1)), list(range(tile.b0, tile.b1)), list(range(w))]
        for i, (low, high) in enumerate(((tile.a0, tile.a1), (tile.b0, tile.b1), (0, w))):
            if i != axis:
                at[i] = margin_index(low, high, grid.shape[i], grid.margin)
        (a0, a1), (b0, b1) = ((min(i), max(i) + 1) for i in at[:2])
        if b1 - b0 == b:
            whole = read(a0 * b * w, a1 * b * w)
        else:
            whole = torch.cat([read((k * b + b0) * w, (k * b + b1) * w) for k in range(a0, a1)], 1)
        box = whole.reshape(len(whole), a1 - a0, b1 - b0, w)
        for i, low in enumerate((a0, b0, 0)):
            box = box.index_select(1 + i, torch.tensor([k - low for k in at[i]]))
        return grid.planes(box)


class Reading(Protocol):
    """Reads voxels start..stop as (channels, n)."""

    def __call__(self, start: int, stop: int) -> Tensor: ...


class Drawn(Protocol):
    """What is drawn from one open case, of each voxel: `read(start, stop)` gives (..., n) numbers of voxels start..stop
    of the flattened index; asked for in increasing order, mostly, by one thread.
    """

    def read(self, start: int, stop: int) -> Tensor: ...


class Context(Protocol):
    """Numbers of each voxel that something draws from a whole open case; hashable, and equal ones are one quantity."""

    def __hash__(self) -> int: ...

    def on(self, around: Surroundings) -> Drawn:
        """For an open case; nothing is read before it is asked for."""


@runtime_checkable
class Pinnable(Context, Protocol):
    """A context that may be kept with pinned rows: so many `numbers` of each voxel, (numbers, n), which float32 holds
    exactly.
    """

    @property
    def numbers(self) -> int:
        """How many."""


class Contexts:
    """The contexts `wanted` of one open case, each computed once however many ask for it."""

    def __init__(self, reader: CaseReader, scratch: Scratch, wanted: Iterable[Context]) -> None:
        around = Surroundings(reader, scratch)
        self._drawn = {context: context.on(around) for context in dict.fromkeys(wanted)}

    def of(self, start: int, stop: int) -> dict[Hashable, Tensor]:
        """Every context of voxels start..stop."""
        return {context: drawn.read(start, stop) for context, drawn in self._drawn.items()}

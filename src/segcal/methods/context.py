"""What a map draws from the case around a voxel, of an open case tile by tile, or of arrays at once.

Both ways hand the map the same planes (`Neighbourhood`): the scores around each voxel, the fields and places it needs,
the network. Promises: what is drawn of an open case does not depend on how it is cut into blocks, to the last bit; of
arrays it may differ from that in the last bits of float64, and is traceable. Costs: one tile with its margin in memory,
the scores being read again beside the blocks; a whole case for a map that needs all of it at once. No voxel: an empty
result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.places.label_map import LabelMap
from segcal.data.places.place import Decided, Place, Places
from segcal.data.scores import Kind, Resolution
from segcal.data.surroundings import Grid, Neighbourhood, Surroundings, Tile, tiles
from segcal.errors import ShapeError, UsageError
from segcal.methods.maps import PartMap

Segmenter = Callable[[Tensor], Tensor]
"""A network: from images (B, channels, *spatial) to scores (B, channels of the head, *spatial), of the kind and pooling
that the calibrator is for.
"""


@dataclass(frozen=True)
class Network:
    """A segmenter and how its scores are read: as those of `kind`, stored at `resolution`, divided by `unit`."""

    segmenter: Segmenter | None
    head: Head
    kind: Kind
    resolution: Resolution
    unit: float

    def given(self) -> Segmenter:
        """The segmenter. None: UsageError."""
        if self.segmenter is None:
            raise UsageError(
                "segmenter",
                found="none",
                expected="the network whose scores are calibrated",
                do="Give it in Python: calibrator.with_segmenter(network).",
            )
        return self.segmenter

    def on(self, rows: slice, grid: Grid, spatial: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """From images of whole cases of shape `spatial`, in planes of `grid`, to log-probability `rows` in planes."""
        segmenter = self.given()

        def segment(planes: Tensor) -> Tensor:
            slices, *plane = planes.shape[1:]
            cases = planes.reshape(len(planes), slices // grid.shape[grid.axis], -1, *plane).movedim(2, 2 + grid.axis)
            images = cases.movedim(1, 0).reshape(cases.shape[1], len(planes), *spatial)
            scores = segmenter(images).detach()
            expected = (len(images), self.head.channels, *spatial)
            if tuple(scores.shape) != expected:
                raise ShapeError(
                    "segmenter",
                    found=f"scores of shape {tuple(scores.shape)}",
                    expected=f"{expected}",
                    do="Return scores in the shape of the images, classes on axis 1.",
                )
            flat = scores.to(planes.dtype).movedim(1, 0).flatten(1) / self.unit
            found = self.head.canonical(flat, self.kind, self.resolution)[rows]
            return planes_of(found.reshape(len(found), len(images), *grid.shape), grid)

        return segment


def planes_of(field: Tensor, grid: Grid) -> Tensor:
    """Whole fields of several cases, (channels, B, A, B, W), as planes (channels, slices of all, rows, columns)."""
    return field.movedim(2 + grid.axis, 2).flatten(1, 2)


def _placed(places: Sequence[Place | Decided], part: int) -> dict[Place | Decided, Place]:
    """Places that the map of a part asks for, each as it is for that part."""
    return {place: place.of(part) if isinstance(place, Decided) else place for place in places}


class OfCase:
    """What the map of a `part` draws of one open case, tile by tile, as it is asked for."""

    def __init__(self, m: PartMap, part: int, around: Surroundings, network: Network) -> None:
        needs = m.needs
        rows = around.cohort.head.slice(part)
        self._map, self._rows, self._around = m, rows, around
        self._places = _placed(needs.places, part)
        self._grid = around.grid(needs.axis, needs.reach, lie=bool(needs.places))
        self._limit = around.limit if needs.reach is not None else max(self._grid.voxels, 1)
        self._segment = network.on(rows, self._grid, around.case.shape) if needs.segmenter else None
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._mean: Tensor | None = None

    def read(self, start: int, stop: int) -> Tensor:
        """The numbers of voxels start..stop, (..., n), float64."""
        if self._map.needs.mean:
            if self._mean is None:
                self._mean = self._map.settled(self._averaged())
            return self._mean[..., None].expand(*self._mean.shape, stop - start)
        pieces, kept = [], {}
        for tile in tiles(self._grid, self._limit, start, stop):
            low, high = tile.span(self._grid)
            found = self._kept.get((low, high))
            if found is None:
                found = self._map.settled(self._drawn(tile))
            kept[low, high] = found
            pieces.append(found[..., max(start - low, 0) : stop - low])
        # the last tile reaches into the next block
        self._kept = kept
        return torch.cat(pieces, -1) if pieces else torch.zeros(0, dtype=torch.float64)

    def _drawn(self, tile: Tile) -> Tensor:
        needs = self._map.needs
        near = self._around.near(self._grid, tile, needs.fields, self._places.values(), scores=needs.scores)
        places = {asked: near.places[place] for asked, place in self._places.items()}
        mine = replace(near, log_probs=near.log_probs[self._rows], places=places, segment=self._segment)
        return self._grid.back(self._map.context(mine))

    def _averaged(self) -> Tensor:
        """The mean over the case; of a case of nothing but padding it is 0."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for tile in tiles(self._grid, self._limit):
            counted = self._around.counted(self._grid, tile)
            total = total + self._drawn(tile)[..., counted].sum(-1)
            count += int(counted.sum())
        return total / max(count, 1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Cases held in memory: canonical `rows` (head.rows, n) and `energy` (n,) of all their voxels, one case after
    another, `cases` of them of shape `spatial`; `fields` (channels, n) each; `counted` (cases, voxels), bool, what the
    network looked at, None: everything. `decided` (n,): the label map of the scores, or the decision of a part, for
    places; `spacing`: of each axis, in mm, or None.
    """

    rows: Tensor
    energy: Tensor | None
    cases: int
    spatial: tuple[int, ...]
    network: Network
    decided: Callable[[int | None], Tensor]
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    counted: Tensor | None = None
    spacing: tuple[float, ...] | None = None

    def drawn(self, m: PartMap, part: int) -> Tensor:
        """What the map of a part draws of every voxel, (..., n)."""
        needs, rows = m.needs, self.network.head.slice(part)
        grid = Grid.of(self.spatial, needs.axis, "scores", needs.reach, lie=bool(needs.places))

        def planes(flat: Tensor) -> Tensor:
            whole = flat.reshape(-1, self.cases, *grid.shape)
            return planes_of(grid.with_margin(whole), grid)

        near = Neighbourhood(
            planes(self.rows[rows]),
            None if self.energy is None else planes(self.energy[None])[0],
            {name: planes(self.fields[name].to(self.rows)) for name in needs.fields},
            {
                asked: planes_of(self._place(place).reshape(1, -1, *grid.shape), grid)[0]
                for asked, place in _placed(needs.places, part).items()
            },
            self.network.on(rows, grid, self.spatial) if needs.segmenter else None,
            self.cases,
        )
        found = m.context(near)
        found = grid.back(found.reshape(*found.shape[:-3], self.cases, -1, *found.shape[-2:]))
        if needs.mean:
            mean = (
                found.mean(-1, keepdim=True)
                if self.counted is None
                else torch.where(self.counted, found, 0.0).sum(-1, keepdim=True)
                / self.counted.sum(-1, keepdim=True).clamp_min(1)
            )
            found = mean.expand_as(found)
        return m.settled(found).flatten(-2)

    def _place(self, place: Place) -> Tensor:
        """One place of all voxels, from what the scores decide for; found on the processor, where the scores lie."""
        with Scratch(8 * max(self.rows.shape[1], 1)) as scratch:
            found = [self._of_case(case, place, scratch) for case in range(self.cases)]
        return torch.cat(found).to(self.rows.device)

    def _of_case(self, case: int, place: Place, scratch: Scratch) -> Tensor:
        def decided(_: Scratch, part: int | None) -> LabelMap:
            labels = self.decided(part).reshape(self.cases, -1)[case].cpu().numpy()
            looked_at = np.ones(len(labels), bool) if self.counted is None else self.counted[case].cpu().numpy()
            return LabelMap(
                "scores",
                self.spatial,
                self.network.head,
                lambda start, stop: (labels[start:stop], looked_at[start:stop]),
                self.spacing,
                table=not self.spatial,
                predicted=decided,
            )

        voxels = self.rows.shape[1] // self.cases
        return Places(decided(scratch, None), scratch, (place,)).of(0, voxels)[place]

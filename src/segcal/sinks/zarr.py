"""One zarr (version 3) array a case, CASE.zarr, in chunks of one channel; maps as MAP/CASE.zarr.

Promises: the delivered float32 values bit for bit, shape (channels, *spatial), with the names of the channels and the
spacing (mm, or null) as attributes; equal input, equal bytes for one version of zarr. Costs: see `gathering`; besides,
one plane of the first spatial axis. Chunks hold at most 2^20 values. When there is nothing: chunks that are zero
everywhere are not stored, which is how zarr reads them back; `finish` has nothing to write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zarr

from segcal.cases import Case, Cohort
from segcal.journal import Scratch
from segcal.sinks.gathering import FLOAT, Gathered, Row, gather
from segcal.sinks.maps import Requested
from segcal.sinks.placing import check_targets, output, placed

CHUNK = 1 << 20
"""Most values in a chunk."""


class ZarrSink:
    """Writes CASE.zarr.

    `maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'.
    """

    def __init__(self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._folder, self._maps = Path(folder), Requested(tuple(maps), tuple(classes))

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Gathered]:
        """Open `case` for writing."""
        targets = self.outputs(case)
        check_targets(case, targets)
        spacing = None if case.spacing is None else [float(s) for s in case.spacing]
        with gather(cohort, case, self._maps, scratch) as gathered:
            yield gathered
            gathered.check_complete()
            with placed(targets) as parts:
                _write(
                    parts[0],
                    gathered.channels(),
                    case.shape,
                    True,
                    {"classes": list(cohort.head.classes), "spacing": spacing},
                )
                for part, wanted in zip(parts[1:], self._maps.maps, strict=True):
                    _write(part, [gathered.map(wanted)], case.shape, False, {"spacing": spacing})

    def finish(self, cohort: Cohort) -> None:
        """Nothing belongs to the whole folder."""

    def shared(self, cohort: Cohort) -> list[Path]:
        """No file belongs to the whole folder."""
        return []

    def outputs(self, case: Case) -> list[Path]:
        """Stores that `case` will leave."""
        return [
            output(self._folder, case, ".zarr"),
            *(output(self._folder, case, ".zarr", m.folder) for m in self._maps.maps),
        ]


def _write(path: Path, rows: Sequence[Row], shape: tuple[int, ...], channels: bool, attributes: dict[str, Any]) -> None:
    chunks = _chunks(shape)
    lead: tuple[int, ...] = (len(rows),) if channels else ()
    array = zarr.create_array(
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

"""One 4-D .nii.gz a case, channels last; maps as MAP/CASE.nii.gz.

The geometry is that of the case's delivered label map or, failing that, of its scores or labels, where these are NIfTI
(qform, sform, codes, pixel sizes bit for bit). A case with none has pixel sizes from its spacing and form codes 0: its
place in space is not known, and is not made up. The axes of a case are those of the file, (x, y, z), unless nnU-Net
predicted it or `zyx` says that they are reversed; this is declared, never guessed from shapes.

Promises: delivered float32 values bit for bit; equal input, equal bytes. Costs: see `gathering` and `grids`: outside
nnU-Net's layout the axes of a case are not in file order and each channel is read once for every `Row.slab` bytes of
it. When there is nothing: `finish` has nothing to write. A case of more than three axes is a ShapeError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from segcal.cases import Case, Cohort
from segcal.journal import Scratch
from segcal.sinks import streams
from segcal.sinks.gathering import FLOAT, Gathered, gather
from segcal.sinks.grids import Grid, grid_of, grid_without_reference, is_nifti
from segcal.sinks.maps import Requested
from segcal.sinks.nnunet import turns_to_canonical_axes
from segcal.sinks.placing import check_targets, output, placed


class NiftiSink:
    """Writes CASE.nii.gz.

    `maps`: names of maps to write beside; `classes`: names of the channels, needed for the map 'probability'; `zyx`:
    cases have their axes reversed.
    """

    def __init__(
        self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = (), *, zyx: bool = False
    ) -> None:
        self._folder, self._maps, self._zyx = Path(folder), Requested(tuple(maps), tuple(classes)), zyx

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Gathered]:
        """Open `case` for writing."""
        targets = self.outputs(case)
        check_targets(case, targets)
        grid = grid_for(case, self._zyx)
        with gather(cohort, case, self._maps, scratch) as gathered:
            yield gathered
            gathered.check_complete()
            with placed(targets) as parts:
                rows = gathered.channels()
                streams.write_gzip(
                    parts[0], grid.series(len(rows), FLOAT), (piece for row in rows for piece in grid.pieces(row))
                )
                for part, wanted in zip(parts[1:], self._maps.maps, strict=True):
                    streams.write_gzip(part, grid.volume(FLOAT), grid.pieces(gathered.map(wanted)))

    def finish(self, cohort: Cohort) -> None:
        """Nothing belongs to the whole folder."""

    def shared(self, cohort: Cohort) -> list[Path]:
        """No file belongs to the whole folder."""
        return []

    def outputs(self, case: Case) -> list[Path]:
        """Files that `case` will leave."""
        return [
            output(self._folder, case, ".nii.gz"),
            *(output(self._folder, case, ".nii.gz", m.folder) for m in self._maps.maps),
        ]


def grid_for(case: Case, zyx: bool) -> Grid:
    """The grid that files of `case` lie on: that of its delivered label map, else of its scores or labels where these
    are NIfTI, else of its spacing alone.
    """
    reference = next(
        (
            case.files[role]
            for role in ("label_map", "geometry", "labels")
            if role in case.files and is_nifti(case.files[role])
        ),
        None,
    )
    if reference is None:
        return grid_without_reference(case.shape, case.spacing, reversed_axes=zyx)
    by_nnunet = "folder" in case.files
    return grid_of(
        reference, case.shape, reversed_axes=by_nnunet or zyx, canonical=by_nnunet and turns_to_canonical_axes(case)
    )

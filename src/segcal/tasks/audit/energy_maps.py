"""The free energy of every voxel as an image, one file a case: a PNG with its colour scale for pictures, a NIfTI volume
on the case's grid for volumes.

Padding is NaN in a volume and left white in a picture. A case of one axis or of more than three has no image:
ShapeError. Files are complete or absent, and never overwrite what a case is read from. Costs: four bytes a voxel, in
memory or, beyond the scratch limit, in a file. Nothing measured: the map is all NaN.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files import claims
from segcal.data.files.journal import Scratch, placed
from segcal.data.formats import streams
from segcal.data.formats.gathering import FLOAT, Held, Row
from segcal.data.formats.nifti import grid_for
from segcal.data.formats.placing import check_targets, output
from segcal.data.formats.requested import Shown
from segcal.errors import ShapeError
from segcal.report import figures

FREE_ENERGY = Shown("free energy log sum exp of the logits, nats", 0, 0)
"""Its range is that of the logits: none is named."""

_DRAWING = threading.Lock()
"""matplotlib's settings belong to the process: one picture at a time."""


def claim_maps(folder: Path, cohort: Cohort, inputs: Sequence[Path] = (), *, overwrite: bool = False) -> None:
    """See, before any work, that the maps of all cases may be written into `folder` while the cohort and `inputs` are
    read. Raises as `segcal.data.files.claims`.
    """
    read = [*inputs, *(path for case in cohort for path in case.paths)]
    claims.claim_folder(folder, read)
    claims.claim([(_target(folder, case), claims.ENERGY) for case in cohort], read, overwrite=overwrite)


class EnergyMap:
    """An open map: takes the free energies of consecutive voxels."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def put(self, start: int, energy: Tensor, inside: Tensor) -> None:
        """Voxels start.. of the map, (n,); NaN where not `inside`."""
        self._held.put(0, start, torch.where(inside, energy, torch.nan).float().numpy())


@contextlib.contextmanager
def energy_map(folder: Path, case: Case, scratch: Scratch, *, zyx: bool = False) -> Iterator[EnergyMap]:
    """Open the map of a case; leaving the block without an error writes its file into `folder`."""
    if len(case.shape) not in (2, 3):
        raise ShapeError(
            f"case {case.id}",
            found=f"{len(case.shape)} spatial axes",
            expected="2 or 3, which can be drawn",
            do="Leave the maps of free energy out.",
        )
    target = _target(folder, case)
    check_targets(case, [target])
    in_memory = case.voxels * FLOAT.itemsize <= scratch.limit
    with Held(1, case.voxels, FLOAT, None if in_memory else scratch.path("free-energy")) as held:
        yield EnergyMap(held)
        row = Row(held, 0)
        if _is_flat(case):
            values = row.read(0, case.voxels).astype(np.float64).reshape(case.shape[-2:])
            with _DRAWING:
                figures.field(values, target, title=f"free energy, {case.id}", label="F(z)")
            return
        grid = grid_for(case, zyx)
        with placed([target]) as parts:
            streams.write_gzip(parts[0], grid.volume(FLOAT, name=b"free energy", shown=FREE_ENERGY), grid.pieces(row))


def _is_flat(case: Case) -> bool:
    return len(case.shape) == 2 or (len(case.shape) == 3 and case.shape[0] == 1)


def _target(folder: Path, case: Case) -> Path:
    return output(folder, case, ".png" if _is_flat(case) else ".nii.gz")

"""Whether files of one case lie at the same place: placements of volumes in space, and how they are compared.

A `Placement` holds every affine that a file states: a NIfTI file may state two, of which one has often been lost or
rewritten on the way. `strict`: two files lie at the same place if one of their affines agrees within `PARTS` of a voxel
at every corner of the grid; a file that states none (form codes 0) has its sizes of voxels compared. `nnunet`: as
nnU-Net's own check, sizes of voxels must agree within `SIZES`, another place is told in words. `ignore`: nothing is
compared but, everywhere, the shape. Promises: singular affines and such as are not finite state no place. When there is
nothing: one placement, or none, agrees. Source: NIfTI-1; nnU-Net 2, experiment_planning/verify_dataset_integrity.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segcal.errors import ShapeError

Geometry = Literal["strict", "nnunet", "ignore"]
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)

PARTS = 0.05
"""How far, in voxels, corners of the grid may be apart for the same place."""

SIZES = 0.01
"""How far, as a share, sizes of voxels may be apart for the same."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the voxels of a file lie: `shape` and `spacing` (mm) of its spatial axes as stored, and every `affine`
    (4, 4), voxel to mm, that it states.
    """

    where: Path
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affines: tuple[NDArray[np.float64], ...]


def usable(affine: NDArray[np.float64]) -> bool:
    """Whether an affine states a place: finite, and neither singular nor of sizes that no file means."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e12:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((lengths > 1e-12).all()) and abs(float(np.linalg.det(affine[:3, :3] / lengths))) > 1e-6


def compared(placements: Sequence[Placement], geometry: Geometry) -> str:
    """What is to be said about files of one case, of which the first is what the others are held against; '' where all
    agree. ShapeError for a difference that `geometry` does not let pass.
    """
    said = ""
    for here in placements[1:] if geometry != "ignore" else ():
        there = placements[0]
        sizes = _same_sizes(here, there)
        voxels, found = _apart(here, there)
        by_size = geometry == "nnunet" or not (here.affines and there.affines)
        if by_size and not sizes:
            raise _refusal(here, _sizes(here, there), f"the same sizes within {100 * SIZES:g} %", IGNORE)
        if by_size:
            said = said or (found if voxels > PARTS else "")
        elif not voxels <= PARTS:
            raise _refusal(here, found, f"the same place within {PARTS:g} voxels", NNUNET if sizes else IGNORE)
    return said


NNUNET = "nnunet (geometry='nnunet'), which takes voxel for voxel as nnU-Net does, with a warning"
IGNORE = "ignore (geometry='ignore'), which takes voxel for voxel"


def _refusal(here: Placement, found: str, expected: str, way: str) -> ShapeError:
    return ShapeError(
        str(here.where),
        found=found,
        expected=expected,
        do=f"Check that both belong to this case, and resample neither. If they do, add --geometry {way}.",
    )


def _same_sizes(here: Placement, there: Placement) -> bool:
    pairs = zip(here.spacing, there.spacing, strict=False)
    return all(abs(a - b) <= SIZES * max(abs(a), abs(b)) for a, b in pairs)


def _sizes(here: Placement, there: Placement) -> str:
    a, b = (" x ".join(f"{s:.4g}" for s in placement.spacing) for placement in (here, there))
    return f"voxels of {a} mm, and of {b} mm in {there.where}"


def _apart(here: Placement, there: Placement) -> tuple[float, str]:
    """How many voxels the farthest corners are apart, by the two affines that agree best, and that in words."""
    sizes = [*here.shape[:3], *(1,) * (3 - len(here.shape))]
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in sizes))], np.float64).T
    best, found = np.inf, ""
    for a, b in itertools.product(here.affines, there.affines):
        moved = ((a - b) @ corners)[:3]
        voxels = float(np.abs(np.linalg.solve(b[:3, :3], moved)).max())
        if voxels < best:
            mm = float(np.linalg.norm(moved, axis=0).max())
            best = voxels
            found = f"an affine that differs by {mm:.3g} mm from that of {there.where}"
            found += f" ({voxels:.2g} voxels at the farthest corner): {_rows(a)} against {_rows(b)}"
    return (best, found) if found else (0.0, "")


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{v + 0.0:.4g}" for v in row) for row in affine[:3]) + "]"

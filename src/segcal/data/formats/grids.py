"""The voxel grid of a NIfTI file, and how the axes of a case lie on it.

A `VoxelGrid` is taken from a reference file (the delivered label map; of a file with channels, the first three axes)
or, for a case without one, from its spacing alone. Written files carry the reference's header: qform, sform and their
codes, pixel sizes, units, description; only the type of value, scaling, display range and intent are their own, and the
description of maps and probabilities. NIfTI runs the first axis fastest; an nnU-Net case has its axes reversed
(z, y, x), so its voxels are already in file order. Other orders are read slab by slab.

Promises: geometry bit for bit that of the reference. Costs: a case in file order is read once; another order is read
once for every `Row.slab` bytes of the result. When there is nothing: no reference gives a grid whose form codes are 0,
which is NIfTI's way to say that the position is not known. Source: NIfTI-1 (nifti1.h) and NIfTI-2; nnU-Net's readers
with `WithReorient` in their names turn images to the closest canonical axes (RAS).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from segcal.data.formats.gathering import PIECE, Row
from segcal.data.formats.requested import Shown
from segcal.errors import MissingError, ShapeError, UnreadableError

ENDINGS = (".nii.gz", ".nii")
_MOST = 32767
"""Most voxels along an axis of NIfTI-1; beyond, NIfTI-2."""


PROBABILITIES = Shown("calibrated probabilities, a class after the other", 0, 1)
"""Of the file of all channels."""


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """A NIfTI grid: `header`; `axes`, the axis of the case that each file axis runs along, fastest first; `flips`,
    whether it runs backwards; `shape` of the case; `size`, the shape of a file with one value a voxel.
    """

    header: nibabel.Nifti1Header
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the reference's values, little-endian."""
        stored: np.dtype[Any] = self.header.get_data_dtype()
        return stored.newbyteorder("<")

    @property
    def anatomy(self) -> tuple[tuple[int, bool], ...] | None:
        """Of each axis of the case whether it runs along right (0), anterior (1) or superior (2), and whether towards
        it; None where the place in space is not known.
        """
        if len(self.shape) != 3 or not (int(self.header["qform_code"]) or int(self.header["sform_code"])):
            return None
        turned = io_orientation(np.asarray(self.header.get_best_affine(), np.float64))
        if np.isnan(turned).any():
            return None
        along = {a: (int(turned[i, 0]), bool(turned[i, 1] > 0) != self.flips[i]) for i, a in enumerate(self.axes)}
        return tuple(along[a] for a in range(3))

    def volume(
        self, dtype: np.dtype[Any], intent: bool = False, name: bytes = b"", shown: Shown | None = None
    ) -> bytes:
        """Header of a file with one value of `dtype` a voxel; `intent` keeps the reference's intent (a label map's),
        else it says what the values are, by `name` (at most 15 bytes). `shown`: the description, of which 79 bytes have
        room, and display range; the reference's and none without it.
        """
        return self._described(dtype, self.size, intent, name, shown)

    def series(self, channels: int, dtype: np.dtype[Any]) -> bytes:
        """Header of a 4-D file, channels last."""
        spatial = tuple(self.shape[a] for a in self.axes)
        return self._described(dtype, (*spatial, *(1,) * (3 - len(spatial)), channels), False, b"", PROBABILITIES)

    def pieces(self, row: Row) -> Iterator[bytes | memoryview]:
        """A row of the case in the order of the file."""
        if self.axes == tuple(range(len(self.shape)))[::-1] and not any(self.flips):
            yield from row.pieces()
            return
        slow, length = self.axes[-1], self.shape[self.axes[-1]]
        step = max(1, row.slab // max(1, row.voxels // max(1, length) * row.itemsize))
        starts = range(0, length, step)
        for low in reversed(starts) if self.flips[-1] else starts:
            slab = _slab(row, self.shape, slow, low, min(low + step, length)).transpose(self.axes)
            yield slab[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)].tobytes("F")

    def _described(
        self, dtype: np.dtype[Any], shape: Sequence[int], intent: bool, name: bytes, shown: Shown | None
    ) -> bytes:
        header = self.header.copy()
        if tuple(shape) != header.get_data_shape():
            spacing = header["pixdim"].copy()
            header.set_data_shape(shape)
            header["pixdim"][:4] = spacing[:4]
            header["pixdim"][4:] = 1
        header.set_data_dtype(dtype)
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["cal_min"], header["cal_max"] = (0, 0) if shown is None else (shown.low, shown.high)
        if shown is not None:
            header["descrip"] = shown.description.encode("utf-8", "replace")[:79].decode("utf-8", "ignore").encode()
        if not intent:
            header["intent_code"] = header["intent_p1"] = header["intent_p2"] = header["intent_p3"] = 0
            header["intent_name"] = name
        header["vox_offset"] = header.single_vox_offset
        return bytes(header.as_byteswapped("<").binaryblock) + bytes(4)  # four zeros: no extensions


class _Unsaid(logging.Filter):
    """Drops what nibabel logs about a header while this thread reads one here: its words hold bytes of the file as they
    are, and a terminal may obey them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it was logged elsewhere."""
        del record
        return not getattr(_reading, "here", False)


_reading = threading.local()
imageglobals.logger.addFilter(_Unsaid())


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What nibabel says about a file, as a ValueError: its own errors have no common base but Exception. What it mends
    in a header it does not say.
    """
    _reading.here = True
    try:
        yield
    except (ImageFileError, HeaderDataError, HeaderTypeError, ImageDataError, WrapStructError) as error:
        raise ValueError(str(error)) from error
    finally:
        _reading.here = False


def is_nifti(path: Path) -> bool:
    """Whether a name ends as a NIfTI file's."""
    return path.name.lower().endswith(ENDINGS)


def grid_of(reference: Path, shape: tuple[int, ...], *, reversed_axes: bool, canonical: bool = False) -> VoxelGrid:
    """The grid of a reference file, for a case of `shape`.

    `reversed_axes`: the case's axes are the file's, last first (nnU-Net, SimpleITK), else as nibabel gives them.
    `canonical`: the case was turned to the closest canonical axes before that. Raises MissingError or UnreadableError
    for the file, ShapeError if the case does not lie on its grid.
    """
    if not reference.is_file():
        raise MissingError(
            str(reference),
            found="no such file",
            expected="a NIfTI file whose geometry the output takes over",
            do="Restore the label map beside the probabilities.",
        )
    rank = len(shape)
    try:
        with refusals():
            image = nibabel.load(reference)
        if not isinstance(image, nibabel.Nifti1Image):
            raise ValueError(f"a file of type {type(image).__name__}")
        header, size = image.header.copy(), tuple(int(n) for n in image.shape)
        if header.get_data_dtype().kind not in "iuf":
            raise ValueError(f"values of type {header.get_data_dtype()}")
        turned = np.column_stack([np.arange(rank), np.ones(rank)]) if not canonical else io_orientation(image.affine)
        axes, flips = tuple(int(a) for a in turned[:, 0]), tuple(bool(f < 0) for f in turned[:, 1])
    except (EOFError, OSError, ValueError, zlib.error) as error:
        found = f"a file that is not a readable NIfTI image ({error})"
        raise UnreadableError(
            str(reference), found=found, expected="a .nii or .nii.gz file", do="Write the file again, or convert it."
        ) from error
    if any(n != 1 for n in size[3:]):  # channels
        size = size[:3]
    if reversed_axes:
        axes = tuple(rank - 1 - a for a in axes)
    if sorted(axes) != list(range(rank)) or _trimmed(size) != _trimmed(tuple(shape[a] for a in axes)):
        raise ShapeError(
            str(reference),
            found=f"a grid of {size}",
            expected=f"the grid of the case, {tuple(reversed(shape)) if reversed_axes else shape}",
            do="Probabilities and label map must come from the same prediction.",
        )
    return VoxelGrid(header, axes, flips, shape, size)


def grid_without_reference(
    shape: tuple[int, ...], spacing: Sequence[float] | None, *, reversed_axes: bool
) -> VoxelGrid:
    """A grid whose place in space is not known: pixel sizes from `spacing` (mm, per axis; ones if None), form codes 0.

    ShapeError beyond three axes.
    """
    if len(shape) > 3:
        raise ShapeError(
            "NIfTI output",
            found=f"{len(shape)} spatial axes",
            expected="at most 3",
            do="Write this case as npz or zarr.",
        )
    axes = tuple(range(len(shape)))[:: -1 if reversed_axes else 1]
    more = 3 - len(shape)
    size = (*(shape[a] for a in axes), *(1,) * more)
    header = nibabel.Nifti2Header() if max(shape) > _MOST else nibabel.Nifti1Header()
    header.set_data_shape(size)
    header.set_zooms((*(1.0 if spacing is None else spacing[a] for a in axes), *(1.0,) * more))
    header.set_xyzt_units("mm" if spacing is not None else "unknown")
    return VoxelGrid(header, axes, (False,) * len(shape), shape, size)


def _trimmed(size: tuple[int, ...]) -> tuple[int, ...]:
    """Without trailing axes of one voxel, which NIfTI files have or lack at will."""
    while size and size[-1] == 1:
        size = size[:-1]
    return size


def _slab(row: Row, shape: tuple[int, ...], axis: int, low: int, high: int) -> NDArray[Any]:
    """Voxels low..high along one axis of the case."""
    first, last = (low, high) if axis == 0 else (0, shape[0])
    plane = max(1, row.voxels // max(1, shape[0]))
    step = max(1, PIECE // (plane * row.itemsize))
    out = np.empty(
        (last - first, *(high - low if a == axis else n for a, n in enumerate(shape) if a > 0)), row.held.dtype
    )
    inner = tuple(slice(low, high) if a == axis else slice(None) for a in range(len(shape)) if a > 0)
    for start in range(first, last, step):
        stop = min(start + step, last)
        part = row.read(start * plane, stop * plane).reshape(stop - start, *shape[1:])
        out[start - first : stop - first] = part[(slice(None), *inner)]
    return out

"""NIfTI volumes, .nii and .nii.gz: label maps, masks and scores (classes on the last axis), read by windows, and their
geometry.

Reading. Promises: the header alone is read to find a field; voxels are unpacked piece by piece. The spatial shape is
(X, Y, Z) as stored, (Z, Y, X), which is the order in which the voxels lie, or turned to canonical axes (`Axes`).
scl_slope and scl_inter are honoured (values are then float64). Trailing axes of length one are dropped from a map. A
volume that claims more than its file can hold raises UnreadableError (.nii) or UnsafeFileError (.nii.gz). Endings in
upper case are endings.

Writing: one 4-D .nii.gz a case, channels last; maps as MAP/CASE.nii.gz.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from segcal.data.case import Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import readable, too_much, unpacked
from segcal.data.formats import streams
from segcal.data.formats.dataset_json import turns_to_canonical_axes
from segcal.data.formats.gathering import FLOAT, FileSink, Gathered, Row
from segcal.data.formats.geometry import Placement, usable
from segcal.data.formats.grids import VoxelGrid, grid_of, grid_without_reference, is_nifti, refusals
from segcal.data.formats.npz import RATIO
from segcal.data.formats.raw import Grid, StoredField, grid, piece_size, pieces_of
from segcal.data.formats.windows import open_file, open_stream
from segcal.errors import ShapeError, UnreadableError, UnsafeFileError, UsageError

ENDINGS = (".nii.gz", ".nii")
OFFSET = 16 << 20
"""Most bytes before the voxels of a volume: its header and extensions."""


@dataclass(frozen=True, eq=False)
class Header:
    """What a NIfTI header says: `shape` as stored, `affine` (4, 4) voxel to mm, `stated`: those of sform and qform that
    have a code and state a place, `zooms` in mm for the spatial axes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    stated: tuple[NDArray[np.float64], ...]
    zooms: tuple[float, ...]


def read_header(path: Path) -> Header:
    """The header of `path`, extensions left aside. Raises MissingError, UnreadableError or UnsafeFileError."""
    with readable(path):
        with unpacked(path) as stream:
            block = stream.read(nibabel.Nifti2Header.sizeof_hdr)
        with refusals():
            header: Any = _header(block)
            offset, (slope, intercept) = int(header.get_data_offset()), header.get_slope_inter()
            dtype = np.dtype(header.get_data_dtype())
        if not 0 <= offset <= OFFSET:
            raise too_much(path, f"voxels that begin after {offset} bytes", f"at most {OFFSET}")
        shape = tuple(int(n) for n in header.get_data_shape())
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
        affine = np.asarray(header.get_best_affine(), np.float64)
        if not np.isfinite(affine).all():
            raise ValueError("an affine that is not finite")
        return Header(
            shape,
            dtype,
            offset,
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            affine,
            tuple(_stated(header)),
            tuple(float(z) for z in header.get_zooms()[:3]),
        )


def _header(block: bytes) -> nibabel.Nifti1Header:
    """The header that a volume begins with. ImageFileError for none, and for that of a pair of files."""
    for kind in (nibabel.Nifti2Header, nibabel.Nifti1Header):
        size = kind.sizeof_hdr
        if len(block) >= size and size in (int.from_bytes(block[:4], order) for order in ("little", "big")):
            made = kind(block[:size])
            if bytes(made["magic"].item())[:3] not in (b"n+1", b"n+2"):
                raise ImageFileError("not one NIfTI file: a header without its voxels, or of an older format")
            return made
    raise ImageFileError("no NIfTI header")


def _stated(header: Any) -> Iterator[NDArray[np.float64]]:
    sform, code = header.get_sform(coded=True)
    if code and usable(sform):
        yield np.asarray(sform, np.float64)
    quaternion = float(sum(float(header[f"quatern_{name}"]) ** 2 for name in "bcd"))
    if int(header["qform_code"]) and quaternion <= 1 + 1e-6:  # beyond, it is no rotation
        qform = np.asarray(header.get_qform(), np.float64)
        if usable(qform):
            yield qform


def _packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def placement(path: Path) -> Placement:
    """Where a NIfTI file says that it lies."""
    head = read_header(path)
    return Placement(path, head.shape[:3], head.zooms, head.stated)


@dataclass(frozen=True)
class Axes:
    """In which order a case has the axes of its NIfTI files.

    `reverse`: (Z, Y, X), as SimpleITK and nnU-Net have them. `canonical`: turned and flipped to the closest
    right-anterior-superior axes before that.
    """

    reverse: bool = False
    canonical: bool = False


AS_STORED = Axes()
"""(X, Y, Z)."""


@dataclass(frozen=True)
class NiftiField(StoredField):
    """One NIfTI file."""

    offset: int

    @property
    def reversed(self) -> bool:
        """Whether its axes are (Z, Y, X)."""
        return self.grid.axes[-3:] == tuple(sorted(self.grid.axes[-3:]))

    @classmethod
    def find(cls, path: Path, *, scores: bool = False, axes: Axes = AS_STORED) -> NiftiField:
        """A map, or `scores` with classes on the last of at least four axes ((X, Y, Z, C), or (X, Y, Z, 1, C)), with
        its spatial axes in the order `axes`.
        """
        head = read_header(path)
        shape = head.shape
        if scores:
            if len(shape) == 5 and shape[3] == 1:
                shape = (*shape[:3], shape[4])
            if len(shape) != 4:
                raise ShapeError(
                    str(path),
                    found=f"a volume of shape {head.shape}",
                    expected="scores of shape (X, Y, Z, classes)",
                    do="Label maps go to --labels; save scores with the classes on the last axis.",
                )
        else:
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            if len(shape) > 3:
                raise ShapeError(
                    str(path),
                    found=f"a volume of shape {head.shape}",
                    expected="one value a voxel: (X, Y, Z)",
                    do="Save one label map a case.",
                )
        lies = grid(
            shape, head.dtype, str(path), fortran=True, channel_axis=3 if scores else None, reverse=axes.reverse
        )
        lies = replace(lies, slope=head.slope, intercept=head.intercept)
        if axes.canonical:
            lies = canonical(lies, head.affine, axes.reverse)
        size = path.stat().st_size
        if _packed(path) and lies.nbytes > RATIO * size:
            raise UnsafeFileError(
                str(path),
                found=f"{size} bytes that claim to unpack to {lies.nbytes}",
                expected=f"at most {RATIO} times as many",
                do="The file is damaged or made to fill the disk; do not use it.",
            )
        if not _packed(path) and head.offset + lies.nbytes > size:
            raise UnreadableError(
                str(path),
                found=f"{size} bytes",
                expected=f"{head.offset + lies.nbytes} for shape {head.shape} of {head.dtype}",
                do="It may be truncated: copy this file again.",
            )
        return cls(path, lies, head.offset)

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        if _packed(self.path):
            return open_stream(self._pieces(piece_size(scratch)), self.grid, scratch, self.where)
        return open_file(self.path, self.offset, self.grid, scratch, self.where)

    def _pieces(self, size: int) -> Iterator[bytes]:
        with readable(self.path), unpacked(self.path) as stream:
            for _ in pieces_of(stream, self.offset, size):
                pass
            yield from pieces_of(stream, self.grid.nbytes, size)
            stream.read(1)  # at the end of the file its checksum is verified


def canonical(lies: Grid, affine: NDArray[np.float64], reverse: bool) -> Grid:
    """The grid of a map of three axes turned to the closest canonical ones."""
    turn: NDArray[np.float64] = io_orientation(affine)
    if lies.channelled or len(lies.stored) != 3 or np.isnan(turn).any():
        raise UsageError(
            "plans.json",
            found="a reader that turns images to canonical axes beside files that are not volumes",
            expected="NIfTI label maps of three axes",
            do="Check the label maps.",
        )
    # stored runs slowest first, so axis i of the file is stored axis 2 - i; turn[i] says which canonical axis it is,
    # and its direction
    of = [int(np.flatnonzero(turn[:, 0] == a)[0]) for a in range(3)]
    of = of[::-1] if reverse else of
    return replace(lies, axes=tuple(2 - i for i in of), flips=tuple(bool(turn[i, 1] < 0) for i in of))


class NiftiSink(FileSink):
    """Writes CASE.nii.gz. `zyx`: cases have their axes reversed."""

    ending: ClassVar[str] = ".nii.gz"
    map_ending: ClassVar[str] = ".nii.gz"

    def __init__(
        self, folder: Path, maps: Sequence[str] = (), classes: Sequence[str] = (), *, zyx: bool = False
    ) -> None:
        super().__init__(folder, maps, classes)
        self._zyx = zyx

    def frame(self, case: Case) -> VoxelGrid:
        """The grid its files lie on."""
        return grid_for(case, self._zyx)

    def write(self, part: Path, gathered: Gathered, cohort: Cohort, case: Case, frame: Any) -> None:
        """One volume a channel, channels last."""
        rows = gathered.channels()
        pieces = (piece for row in rows for piece in frame.pieces(row))
        streams.write_gzip(part, frame.series(len(rows), FLOAT), pieces)

    def write_map(self, part: Path, row: Row, case: Case, frame: Any) -> None:
        """One volume."""
        streams.write_gzip(part, frame.volume(FLOAT, shown=row.shown), frame.pieces(row))


def grid_for(case: Case, zyx: bool) -> VoxelGrid:
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

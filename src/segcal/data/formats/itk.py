"""Label maps and masks that SimpleITK reads and nnU-Net writes beside NIfTI: MetaImage (.mha), NRRD (.nrrd), GIPL
(.gipl); and where they lie.

Promises: the reader is the one of the ending, whatever the file holds; a header that names another file is refused, so
that nothing but the file is ever opened. The header alone is read to find a field; a map that claims more than its file
can hold raises UnsafeFileError or UnreadableError. Axes are as in NIfTI: (X, Y, Z) as stored, (Z, Y, X) or canonical
(`Axes`); world coordinates are turned to NIfTI's, right-anterior-superior. Costs: a map is held whole while it is
opened. Needs the extra `sitk`; without it, UsageError with its install line. One value a voxel: anything else is a
ShapeError. Source: itk.org; nnU-Net 2.8.1, nnunetv2/imageio/simpleitk_reader_writer.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.case import Window
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import readable
from segcal.data.formats.geometry import Placement, usable
from segcal.data.formats.nifti import Axes, canonical
from segcal.data.formats.npz import RATIO
from segcal.data.formats.raw import StoredField, grid, octets
from segcal.data.formats.windows import open_stream
from segcal.errors import ShapeError, UnreadableError, UnsafeFileError, extra

_READERS = {".mha": "MetaImageIO", ".nrrd": "NrrdImageIO", ".gipl": "GiplImageIO"}
ENDINGS = tuple(_READERS)

HEAD = 1 << 16
"""Most bytes of a header."""

_GIPL = 256
"""Bytes before the voxels of a GIPL file, which ITK does not hold against its size."""

_TYPES = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")


def _library() -> Any:
    with extra("sitk"):
        import SimpleITK
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _header(path: Path) -> Any:
    """A reader of `path` that has read the header, and that alone."""
    library, known = _library(), path.suffix.lower()
    with readable(path):
        with path.open("rb") as file:
            head = file.read(HEAD)
        lies_in = _metaimage(head) if known == ".mha" else _nrrd(head) if known == ".nrrd" else LOCAL
        if lies_in is None:
            raise UnreadableError(
                str(path),
                found=f"no header of a {known} file",
                expected=f"a file that was written as {known}",
                do=(
                    "Give it the ending that it was written with, or convert it:"
                    " SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'CASE.nii.gz')."
                ),
            )
        if lies_in != LOCAL:
            raise UnsafeFileError(
                str(path),
                found="a header that names another file for its voxels",
                expected="voxels in the file itself",
                do="Write the map again as one file.",
            )
        reader = library.ImageFileReader()
        reader.SetImageIO(_READERS[known])
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    return reader


LOCAL = "here"
"""Where the voxels lie: in the file itself."""


def _metaimage(head: bytes) -> str | None:
    """Where a MetaImage header says that the voxels lie; None for what is no such header."""
    for line in head.split(b"\n"):
        parts = re.fullmatch(rb"\s*(\w+)\s*[=:]([^\r]*)\r?", line)
        if parts is None:
            return None
        if parts[1].lower() == b"elementdatafile":
            return LOCAL if parts[2].strip().lower() == b"local" else "elsewhere"
    return None


def _nrrd(head: bytes) -> str | None:
    """Where an NRRD header says that the voxels lie; None for what is no such header."""
    lines = [line.strip() for line in head.split(b"\n")]
    if not lines[0].startswith(b"NRRD000") or b"" not in lines:
        return None
    fields = {line.split(b":")[0].replace(b" ", b"").lower() for line in lines[: lines.index(b"")]}
    return "elsewhere" if b"datafile" in fields else LOCAL


@dataclass(frozen=True)
class ItkField(StoredField):
    """One file."""

    @classmethod
    def find(cls, path: Path, *, axes: Axes) -> ItkField:
        """The map in `path`, with its axes in the order `axes`. Reads the header only."""
        reader = _header(path)
        shape = tuple(int(n) for n in reader.GetSize())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) > 3 or reader.GetNumberOfComponents() != 1:
            raise ShapeError(
                str(path),
                found=f"a volume of shape {shape} with {reader.GetNumberOfComponents()} values a voxel",
                expected="one value a voxel: (X, Y, Z)",
                do="Save one label map a case.",
            )
        library = _library()
        types = {getattr(library, f"sitk{name}"): np.dtype(name.lower()) for name in _TYPES}
        dtype = types.get(reader.GetPixelID())
        if dtype is None:
            kind = library.GetPixelIDValueAsString(reader.GetPixelID())
            raise UnreadableError(
                str(path), found=f"values of type {kind}", expected="real numbers", do="Store labels as integers."
            )
        lies = grid(shape, dtype, str(path), fortran=True, channel_axis=None, reverse=axes.reverse)
        size = path.stat().st_size
        if lies.nbytes > RATIO * size:
            raise UnsafeFileError(
                str(path),
                found=f"{size} bytes that claim to unpack to {lies.nbytes}",
                expected=f"at most {RATIO} times as many",
                do="The file is damaged or made to fill the memory; do not use it.",
            )
        if path.suffix.lower() == ".gipl" and _GIPL + lies.nbytes > size:
            raise UnreadableError(
                str(path),
                found=f"{size} bytes",
                expected=f"{_GIPL + lies.nbytes} for shape {shape} of {dtype}",
                do="It may be truncated: copy this file again.",
            )
        if axes.canonical:
            lies = canonical(lies, _affine(reader), axes.reverse)
        return cls(path, lies)

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        return open_stream(self._values(), self.grid, scratch, self.where)

    def _values(self) -> Iterator[memoryview]:
        reader = _header(self.path)
        with readable(self.path):
            image = reader.Execute()
            values = _library().GetArrayViewFromImage(image).reshape(self.grid.stored)
            yield octets(np.ascontiguousarray(values, self.grid.dtype))


def placement(path: Path) -> Placement:
    """Where a file lies, in NIfTI's coordinates. A GIPL file has no directions of axes, and so states no place."""
    reader = _header(path)
    affine, states = _affine(reader), path.suffix.lower() != ".gipl"
    shape, sizes = (tuple(int(n) for n in reader.GetSize()[:3]), tuple(float(s) for s in reader.GetSpacing()[:3]))
    return Placement(path, shape, sizes, (affine,) if states and usable(affine) else ())


def _affine(reader: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Voxel to mm, (4, 4), right-anterior-superior: ITK's are left-posterior-superior."""
    count = len(reader.GetSize())
    turn = np.reshape(reader.GetDirection(), (count, count)) * np.array(reader.GetSpacing())
    affine = np.eye(4)
    kept = min(count, 3)
    affine[:kept, :kept], affine[:kept, 3] = turn[:kept, :kept], reader.GetOrigin()[:kept]
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)

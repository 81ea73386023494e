"""Label maps and masks that nnU-Net writes through SimpleITK beside NIfTI, and where they lie: MetaImage (.mha), NRRD
(.nrrd), GIPL (.gipl).

Promises: headers are read here and not by ITK, which follows them to other files and can be brought down by them; a
header that names another file is an UnsafeFileError. The header alone is read to find a field, voxels are unpacked
piece by piece; a map that claims more than its file can hold raises UnsafeFileError or UnreadableError. Axes are as in
NIfTI: (X, Y, Z) as stored, (Z, Y, X) or canonical (`Axes`); places are turned to NIfTI's, right-anterior-superior. One
value a voxel, raw or packed by zlib, as ITK writes: anything else is an UnreadableError that says so. When there is
nothing: without directions of axes (a GIPL file has none, an NRRD file need not) a file states no place. Source:
itk.org/Wiki/MetaIO, teem.sourceforge.net/nrrd, ITK's GiplImageIO.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Window
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import PACKED, readable, shown
from segcal.data.formats.geometry import Placement, usable
from segcal.data.formats.nifti import Axes, canonical
from segcal.data.formats.npz import RATIO
from segcal.data.formats.raw import StoredField, grid, piece_size
from segcal.data.formats.windows import open_file, open_stream
from segcal.errors import UnreadableError, UnsafeFileError

HEAD = 1 << 16
"""Most bytes of a header."""

MOST = 1e15
"""Beyond any number of a header."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From ITK's world to NIfTI's."""


@dataclass(frozen=True, eq=False)
class Header:
    """What a header says: `shape` (X, Y, Z); `offset`, bytes before the voxels; whether they are `packed`; `spacing` in
    mm; `affine` (4, 4), voxel to mm in NIfTI's world, or None where no directions are stated.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    packed: bool
    spacing: tuple[float, ...]
    affine: NDArray[np.float64] | None


def read_header(path: Path) -> Header:
    """The header of `path`, by its ending. Raises MissingError, UnreadableError or UnsafeFileError."""
    known = path.suffix.lower()
    with readable(path):
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not re.match(_BEGINNINGS[known], head, re.DOTALL):
            raise UnreadableError(
                str(path),
                found=f"no header of a {known} file",
                expected=f"a file that was written as {known}",
                do=(
                    "Give it the ending that it was written with, or convert it:"
                    " SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'CASE.nii.gz')."
                ),
            )
        return _PARSERS[known](path, head)


def _elsewhere(path: Path, name: str) -> UnsafeFileError:
    return UnsafeFileError(
        str(path),
        found=f"a header that takes its voxels from {shown(name, 60)}",
        expected="voxels in the file itself",
        do="Write the map again as one file.",
    )


def _metaimage(path: Path, head: bytes) -> Header:
    fields: dict[str, str] = {}
    offset = 0
    while "elementdatafile" not in fields:
        end = head.index(b"\n", offset)
        key, _, value = head[offset:end].decode("latin-1").partition("=")
        fields[key.strip().lower()] = value.strip()
        offset = end + 1
    if fields["elementdatafile"].lower() != "local":
        raise _elsewhere(path, fields["elementdatafile"])
    _plain(fields, binarydata="true", elementnumberofchannels="1", headersize="0")
    shape = _shape(fields["dimsize"], int(fields["ndims"]))
    dtype = np.dtype(_META[fields["elementtype"].upper()])
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")).lower() == "true"
    n = len(shape)
    spacing = _numbers(fields.get("elementspacing", fields.get("elementsize", "1 " * n)), n)
    turn = fields.get("transformmatrix", fields.get("rotation", fields.get("orientation")))
    rows = np.eye(n) if turn is None else np.reshape(_numbers(turn, n * n), (n, n))  # a row a direction
    origin = _numbers(fields.get("offset", fields.get("position", fields.get("origin", "0 " * n))), n)
    packed = fields.get("compresseddata", "false").lower() == "true"
    affine = LPS @ _affine(rows.T * np.array(spacing), origin)
    return Header(shape, dtype.newbyteorder(">" if big else "<"), offset, packed, spacing, affine)


def _nrrd(path: Path, head: bytes) -> Header:
    end = re.search(rb"\n\r?\n", head)
    if end is None:
        raise ValueError("a header without an end")
    pairs = [line.strip().partition(":") for line in head[: end.start()].decode("latin-1").split("\n")[1:]]
    fields = {key.replace(" ", "").lower(): value.strip() for key, _, value in pairs if not value.startswith("=")}
    if "datafile" in fields:
        raise _elsewhere(path, fields["datafile"])
    _plain(fields, byteskip="0", lineskip="0")
    if set(fields.get("kinds", "domain").lower().split()) - {"domain", "space", "none", "???"}:
        raise ValueError(f"kinds of axes {shown(fields['kinds'], 60)}, where one value a voxel is wanted")
    if fields["encoding"].lower() not in ("raw", "gzip", "gz"):
        raise ValueError(f"encoding {shown(fields['encoding'], 40)}, of which raw and gzip are read")
    shape = _shape(fields["sizes"], int(fields["dimension"]))
    dtype = np.dtype(_NRRD[fields["type"].lower().replace("_t", "").replace(" int", "").removeprefix("signed ")])
    n, affine = len(shape), None
    spacing = _numbers(fields.get("spacings", "1 " * n), n)
    if "spacedirections" in fields:
        vectors = np.reshape(_numbers(re.sub(r"[(),]", " ", fields["spacedirections"]), n * n), (n, n)).T
        spacing = tuple(float(s) for s in np.linalg.norm(vectors, axis=0))
        origin = _numbers(re.sub(r"[(),]", " ", fields.get("spaceorigin", "0 " * n)), n)
        turn = _SPACES.get(fields.get("space", "").lower())
        affine = None if turn is None else turn @ _affine(vectors, origin)
    packed = fields["encoding"].lower() != "raw"
    big = fields.get("endian", "little").lower() == "big"
    return Header(shape, dtype.newbyteorder(">" if big else "<"), end.end(), packed, spacing, affine)


def _gipl(path: Path, head: bytes) -> Header:
    sizes = [n for n in struct.unpack(">4H", head[:8]) if n]
    kind, *spacing = struct.unpack(">H4f", head[8:26])
    shape = _shape(" ".join(map(str, sizes)), len(sizes))
    return Header(shape, np.dtype(_GIPL[kind]), 256, False, tuple(float(s) for s in spacing[: len(shape)]), None)


def _plain(fields: Mapping[str, str], **only: str) -> None:
    """ValueError for a field that has another value than the one that is read."""
    for name, value in only.items():
        if fields.get(name, value).lower() != value:
            raise ValueError(f"{name} {shown(fields[name], 40)}, of which {value} is read")


def _shape(text: str, count: int) -> tuple[int, ...]:
    shape = tuple(int(n) for n in text.split())
    while len(shape) > 3 and shape[-1] == 1:
        shape, count = shape[:-1], count - 1
    if len(shape) != count or not 1 <= count <= 3 or not all(0 < n < 2**31 for n in shape):
        raise ValueError(f"shape {shown(shape, 60)}, where one value a voxel of (X, Y, Z) is wanted")
    return shape


def _numbers(text: str, count: int) -> tuple[float, ...]:
    numbers = tuple(float(n) for n in text.split())[:count]
    if len(numbers) != count or not all(abs(n) < MOST for n in numbers):
        raise ValueError(f"{shown(text, 60)}, where {count} numbers are wanted")
    return numbers


def _affine(turn: NDArray[np.float64], origin: tuple[float, ...]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[: len(origin), : len(origin)], affine[: len(origin), 3] = turn, origin
    return affine


_BEGINNINGS = {
    ".mha": rb"\s*\w+ *= *[^\n\0]*\r?\n",
    ".nrrd": rb"NRRD000\d\r?\n",
    ".gipl": rb".{252}(\xef\xff\xe9\xb0|\x2a\xe3\x89\xb8)",
}
_PARSERS: Mapping[str, Callable[[Path, bytes], Header]] = {".mha": _metaimage, ".nrrd": _nrrd, ".gipl": _gipl}
ENDINGS = tuple(_PARSERS)
_META = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NRRD = {
    "char": "i1",
    "int8": "i1",
    "unsigned char": "u1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "unsigned short": "u2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "unsigned": "u4",
    "uint": "u4",
    "uint32": "u4",
    "longlong": "i8",
    "long long": "i8",
    "int64": "i8",
    "ulonglong": "u8",
    "unsigned long long": "u8",
    "uint64": "u8",
    "float": "f4",
    "double": "f8",
}
_GIPL = {7: ">i1", 8: ">u1", 15: ">i2", 16: ">u2", 31: ">u4", 32: ">i4", 64: ">f4", 65: ">f8"}
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}


@dataclass(frozen=True)
class ItkField(StoredField):
    """One file; its voxels begin at `offset`, and may be `packed`."""

    offset: int
    packed: bool

    @classmethod
    def find(cls, path: Path, *, axes: Axes) -> ItkField:
        """The map in `path`, with its axes in the order `axes`. Reads the header only."""
        head = read_header(path)
        lies = grid(head.shape, head.dtype, str(path), fortran=True, channel_axis=None, reverse=axes.reverse)
        size = path.stat().st_size
        if head.packed and lies.nbytes > RATIO * size:
            raise UnsafeFileError(
                str(path),
                found=f"{size} bytes that claim to unpack to {lies.nbytes}",
                expected=f"at most {RATIO} times as many",
                do="The file is damaged or made to fill the disk; do not use it.",
            )
        if not head.packed and head.offset + lies.nbytes > size:
            raise UnreadableError(
                str(path),
                found=f"{size} bytes",
                expected=f"{head.offset + lies.nbytes} for shape {head.shape} of {head.dtype}",
                do="It may be truncated: copy this file again.",
            )
        if axes.canonical:
            lies = canonical(lies, LPS if head.affine is None else head.affine, axes.reverse)
        return cls(path, lies, head.offset, head.packed)

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        if self.packed:
            return open_stream(self._pieces(piece_size(scratch)), self.grid, scratch, self.where)
        return open_file(self.path, self.offset, self.grid, scratch, self.where)

    def _pieces(self, size: int) -> Iterator[bytes]:
        left, stream = self.grid.nbytes, zlib.decompressobj(47)  # zlib or gzip, as the data say
        with readable(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            while not stream.eof:
                data = stream.unconsumed_tail or file.read(PACKED)
                if not data:
                    raise EOFError("packed data that end early")
                piece = stream.decompress(data, min(size, left + 1))  # at the end the checksum is verified
                left -= len(piece)
                if left < 0:
                    raise ValueError("more voxels than its header says")
                yield piece


def placement(path: Path) -> Placement:
    """Where a file lies."""
    head = read_header(path)
    stated = () if head.affine is None or not usable(head.affine) else (head.affine,)
    return Placement(path, head.shape, head.spacing, stated)

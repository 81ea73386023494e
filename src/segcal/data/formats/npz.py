"""Arrays in .npz and .npy files: read by windows, written one file a case.

Reading. Promises: headers are parsed from the stream, never unpickled; a member of a .npz is unpacked piece by piece
(`raw.open_stream`), a .npy and a large stored member are read where they lie. An array of objects, a member that
unpacks to more than its header admits, and one that claims more than deflate can compress raise UnsafeFileError; a
truncated or damaged file UnreadableError. Only the checksums of members read as a stream are verified.

Writing: a compressed .npz with key `probabilities`, or a plain .npy ready to be memory-mapped; maps as MAP/CASE.npy.
Promises: `np.load` gives the delivered float32 values bit for bit, shape (channels, *spatial); equal input, equal
bytes. Costs: see `gathering` and `streams`. When there is nothing: `finish` has nothing to write.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from segcal.data.case import Case, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import readable, shown, too_much
from segcal.data.formats import streams
from segcal.data.formats.gathering import FileSink, Gathered, Row
from segcal.data.formats.raw import StoredField, grid, piece_size, pieces_of
from segcal.data.formats.windows import open_file, open_stream
from segcal.errors import MissingError, UnreadableError, UnsafeFileError

RATIO = 1040
"""No deflated stream unpacks to more than 1032 times its size."""

HEADER = 4_096
"""Longest header of an array that is read, in bytes; NumPy's have 118."""

DIRECTORY = 1 << 20
"""Largest table of contents of a .npz that is read, in bytes; each array takes about a hundred."""


@dataclass(frozen=True)
class Header:
    """What the header of an array says: shape, type, whether the first axis lies fastest, and its own length in
    bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes of values that follow the header."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], where: str) -> Header:
    """Parse the .npy header at the start of `stream`; raises UnsafeFileError for an array of objects, ValueError for
    what is not a header.
    """
    major, minor = np.lib.format.read_magic(stream)
    if (major, minor) not in ((1, 0), (2, 0)):
        raise ValueError(f"version {major}.{minor} of the .npy format")
    width, read = (2, np.lib.format.read_array_header_1_0) if major == 1 else (4, np.lib.format.read_array_header_2_0)
    length = stream.read(width)
    count = int.from_bytes(length, "little")
    if count > HEADER:
        raise too_much(Path(where), f"a header of {count} bytes", f"at most {HEADER}, as NumPy writes")
    try:
        shape, fortran, dtype = read(io.BytesIO(length + stream.read(count)))
    except (MemoryError, tokenize.TokenError) as error:  # what Python's parser says of nesting
        raise ValueError("a header that nests too deeply, or ends early") from error
    if dtype.hasobject:
        raise UnsafeFileError(
            where,
            found="an array of Python objects",
            expected="plain numbers",
            do="Reading it would run code from the file. Save it again as a numeric array.",
        )
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise ValueError(f"shape {shown(shape)}")
    return Header(tuple(int(n) for n in shape), dtype, bool(fortran), 6 + 2 + width + count)


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The .npz at `path`, whose table of contents is small."""
    with readable(path):
        with path.open("rb") as file:
            size = _directory(file)
        if size > DIRECTORY:
            raise too_much(path, f"a table of contents of {size} bytes", f"at most {DIRECTORY}")
        with zipfile.ZipFile(path) as archive:
            yield archive


def _directory(file: IO[bytes]) -> int:
    """Bytes of the table of contents of a zip file, as its last record says; 0 where there is none."""
    file.seek(max(0, file.seek(0, 2) - (1 << 16) - 22 - 76))
    tail = file.read()
    at, wide = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    if at < 0 or len(tail) < at + 16:
        return 0
    (size,) = struct.unpack_from("<I", tail, at + 12)
    if size == 2**32 - 1 and wide >= 0 and len(tail) >= wide + 48:
        (size,) = struct.unpack_from("<Q", tail, wide + 40)
    return int(size)


def keys(path: Path) -> list[str]:
    """Names of the arrays in a .npz file. Raises MissingError or UnreadableError."""
    with _archive(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def header(path: Path, key: str) -> Header:
    """The header of array `key` of a .npz file, checked against the sizes that the archive gives."""
    with _archive(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            there = ", ".join(n.removesuffix(".npy")[:80] for n in archive.namelist()[:8]) or "nothing"
            raise MissingError(
                str(path),
                found=f"no array {key!r}, but {there}",
                expected=f"an array called {key!r}",
                do="Check which program wrote this file.",
            )
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableError(
                str(path),
                found=f"compression method {info.compress_type}",
                expected="stored or deflated, as NumPy writes",
                do="Save the file again with numpy.savez_compressed.",
            )
        if info.file_size > RATIO * max(info.compress_size, 1):
            raise UnsafeFileError(
                str(path),
                found=f"{info.compress_size} bytes that claim to unpack to {info.file_size}",
                expected=f"at most {RATIO} times as many",
                do="This is not a file that NumPy wrote; do not use it.",
            )
        with archive.open(info) as stream:
            found = read_header(stream, str(path))
    if found.length + found.nbytes != info.file_size:
        more = info.file_size > found.length + found.nbytes
        raise (UnsafeFileError if more else UnreadableError)(
            str(path),
            found=f"array {key!r} that unpacks to {info.file_size} bytes",
            expected=f"{found.length + found.nbytes} for shape {found.shape} of {found.dtype}",
            do=(
                "This is not a file that NumPy wrote; do not use it."
                if more
                else "It may be truncated: copy or predict this case again."
            ),
        )
    return found


@dataclass(frozen=True)
class NpzField(StoredField):
    """One array of a .npz file."""

    key: str
    skip: int

    @classmethod
    def find(cls, path: Path, key: str, *, channel_axis: int | None) -> NpzField:
        """Array `key` of `path`, with classes on `channel_axis` (None: one value a voxel). Reads the header only."""
        found = header(path, key)
        return cls(
            path,
            grid(found.shape, found.dtype, str(path), fortran=found.fortran, channel_axis=channel_axis),
            key,
            found.length,
        )

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        with _archive(self.path) as archive:
            info = archive.getinfo(f"{self.key}.npy")
        if info.compress_type == zipfile.ZIP_STORED and self.grid.nbytes > scratch.limit:
            with readable(self.path):
                offset = _data_offset(self.path, info)
            return open_file(self.path, offset + self.skip, self.grid, scratch, self.where)
        return open_stream(self._pieces(piece_size(scratch)), self.grid, scratch, self.where)

    def _pieces(self, size: int) -> Iterator[bytes]:
        with _archive(self.path) as archive, archive.open(f"{self.key}.npy") as stream:
            stream.read(self.skip)
            yield from pieces_of(stream, self.grid.nbytes, size)
            stream.read(1)  # at the end of the member its checksum is verified


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    # a member's local header is 30 bytes, then its name and extra field, whose lengths may differ from the central
    # directory's
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    name, extra = struct.unpack("<26xHH", local)
    return int(info.header_offset) + 30 + int(name) + int(extra)


@dataclass(frozen=True)
class NpyField(StoredField):
    """The array of a .npy file, read where it lies."""

    skip: int

    @classmethod
    def find(cls, path: Path, *, channel_axis: int | None) -> NpyField:
        """The array of `path`, with classes on `channel_axis` (None: one value a voxel). Reads the header only."""
        with readable(path), path.open("rb") as stream:
            found, size = read_header(stream, str(path)), path.stat().st_size
        if size < found.length + found.nbytes:
            raise UnreadableError(
                str(path),
                found=f"{size} bytes",
                expected=f"{found.length + found.nbytes} for shape {found.shape} of {found.dtype}",
                do="It may be truncated: copy or predict this case again.",
            )
        return cls(
            path,
            grid(found.shape, found.dtype, str(path), fortran=found.fortran, channel_axis=channel_axis),
            found.length,
        )

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        return open_file(self.path, self.skip, self.grid, scratch, self.where)


class ArraySink(FileSink):
    """Writes arrays that NumPy reads; maps as MAP/CASE.npy."""

    map_ending: ClassVar[str] = ".npy"

    def write_map(self, part: Path, row: Row, case: Case, frame: Any) -> None:
        """One array."""
        streams.write_npy(part, [row], case.shape)


class NpzSink(ArraySink):
    """Writes CASE.npz."""

    ending: ClassVar[str] = ".npz"

    def write(self, part: Path, gathered: Gathered, cohort: Cohort, case: Case, frame: Any) -> None:
        """One compressed array, `probabilities`."""
        streams.write_npz(part, "probabilities", gathered.channels(), (cohort.head.channels, *case.shape))


class NpySink(ArraySink):
    """Writes CASE.npy."""

    ending: ClassVar[str] = ".npy"

    def write(self, part: Path, gathered: Gathered, cohort: Cohort, case: Case, frame: Any) -> None:
        """One array, not compressed."""
        streams.write_npy(part, gathered.channels(), (cohort.head.channels, *case.shape))

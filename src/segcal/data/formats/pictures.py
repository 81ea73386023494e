"""Label maps, masks and maps as pictures (PNG, TIFF, BMP), read and written through Pillow: the numbers stored a pixel,
never colours.

Reading. Promises: palette images give indices, not colours; 1, 2, 4, 8 and 16 bits give the stored integers (Pillow
stretches grey of 2 and 4 bits to 255; that is undone); a TIFF of several pages is a volume (pages, H, W). One page is
decoded at a time and is held whole, within Pillow's limit of pixels, beyond which UnsafeFileError is raised. Colours
raise UnreadableError, pages of different sizes ShapeError.

Writing: float32 TIFF for a map, the delivered file's own format for a label map. Promises: float32 values bit for bit
(Pillow mode F, not compressed); a label map in the reference's format, mode and palette, in 16 bits where a label needs
them. Costs: one picture in memory; a picture cannot be taken apart as a volume can. When there is nothing: a picture of
no pixel is refused by Pillow, and by nnU-Net.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segcal.data.case import Window
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import readable, too_much
from segcal.data.formats.gathering import Row
from segcal.data.formats.raw import StoredField, grid, octets
from segcal.data.formats.windows import open_stream
from segcal.errors import MissingError, ShapeError, UnreadableError, UnsafeFileError

READ_ENDINGS = (".png", ".tif", ".tiff", ".bmp")
_READ = ("PNG", "TIFF", "BMP")
_GREY = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I", "F")
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


_TILE_WIDTH, _TILE_LENGTH, PAGES = 322, 323, 4_096


@contextlib.contextmanager
def opened(path: Path, *formats: str) -> Iterator[Image.Image]:
    """The picture in `path`, of one of Pillow's `formats`, of which nothing is decoded yet.

    UnsafeFileError for more pixels in a page or tile than Pillow's limit, or for more than `PAGES` pages.
    """
    with contextlib.ExitStack() as stack:
        with readable(path):
            _count_pages(path)
            try:
                image = stack.enter_context(Image.open(path, formats=formats))
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise _bomb(path, str(error)) from error
            tags = getattr(image, "tag_v2", {})
            tile = int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))
        for width, height in (image.size, tile):
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise _bomb(path, f"{width} x {height} pixels")
        yield image


def _count_pages(path: Path) -> None:
    """Follow a TIFF from page to page without looking at them."""
    with path.open("rb") as file:
        order = {b"II": "<", b"MM": ">"}.get(file.read(2))
        kind = 0 if order is None else int.from_bytes(file.read(2), "little" if order == "<" else "big")
        if kind not in (42, 43):
            return
        count, entry, pointer = ("H", 12, "I") if kind == 42 else ("Q", 20, "Q")
        file.seek(4 if kind == 42 else 8)
        for _ in range(PAGES + 1):
            (at,) = struct.unpack(f"{order}{pointer}", file.read(struct.calcsize(f"={pointer}")))
            if not at:
                return
            file.seek(at)
            (entries,) = struct.unpack(f"{order}{count}", file.read(struct.calcsize(f"={count}")))
            if entries > 2**16:
                raise ValueError(f"a page of {entries} tags")
            file.seek(at + struct.calcsize(f"={count}") + entry * entries)
    raise too_much(path, f"a TIFF of more than {PAGES} pages", f"at most {PAGES}")


def _bomb(path: Path, found: str) -> UnsafeFileError:
    return UnsafeFileError(
        str(path),
        found=found,
        expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels a page",
        do="If the image is genuine, cut it into tiles or store it as .npy or NIfTI.",
    )


def _bits(image: Image.Image, path: Path) -> int:
    """Bits of a grey value as stored."""
    if image.format == "PNG":
        with path.open("rb") as file:
            start = file.read(26)
        return start[24]
    if image.format == "BMP":
        return 8
    tags = image.tag_v2  # type: ignore[attr-defined]  # a TIFF has them
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnreadableError(
            str(path),
            found="a TIFF whose zero is white",
            expected="labels stored as they are",
            do="Save it with photometric interpretation BlackIsZero (MinIsBlack).",
        )
    return int(tags.get(_BITS, (1,))[0])


def _page(image: Image.Image, path: Path) -> NDArray[Any]:
    if image.mode not in _GREY:
        raise UnreadableError(
            str(path),
            found=f"a colour image (mode {image.mode})",
            expected="one integer a pixel: a grey or palette image",
            do="Convert the colours to class indices; segcal does not guess what a colour means.",
        )
    bits = _bits(image, path)
    values = np.asarray(image)
    if image.mode == "L" and bits in (2, 4):
        values = values // (255 // (2**bits - 1))
    return values


@dataclass(frozen=True)
class ImageField(StoredField):
    """One PNG, TIFF or BMP file."""

    @classmethod
    def find(cls, path: Path) -> ImageField:
        """The map in `path`:

        (H, W), or (pages, H, W) for a TIFF of several pages. Reads the header, and decodes nothing.
        """
        with opened(path, *_READ) as image, readable(path):
            if image.mode not in _GREY:
                _page(image, path)
            pages = int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
            size, dtype = (image.height, image.width), dtype_of(image.mode)
        shape = size if pages == 1 else (pages, *size)
        return cls(path, grid(shape, dtype, str(path), fortran=False, channel_axis=None))

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        return open_stream(self._pages(), self.grid, scratch, self.where)

    def _pages(self) -> Iterator[memoryview]:
        pages, size = (1, self.shape) if len(self.shape) == 2 else (self.shape[0], self.shape[1:])
        with opened(self.path, *_READ) as image:
            for k in range(pages):
                with readable(self.path):
                    image.seek(k)
                    if (image.height, image.width) != size or dtype_of(image.mode) != self.grid.dtype:
                        raise ShapeError(
                            str(self.path),
                            found=f"page {k} of {(image.height, image.width)} pixels, mode {image.mode}",
                            expected=f"{size} as on the first page",
                            do="Save the slices of one volume as pages of one size and type.",
                        )
                    values = np.ascontiguousarray(_page(image, self.path), self.grid.dtype)
                yield octets(values)


def dtype_of(mode: str) -> np.dtype[Any]:
    """Type of the values of a grey picture of Pillow's `mode`."""
    return np.dtype({"1": "?", "L": "u1", "P": "u1", "I": "<i4", "F": "<f4"}.get(mode, "<u2"))


WRITTEN_ENDINGS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Picture:
    """What a delivered label map looks like: `mode` and `palette` as Pillow has them, `shape` (height, width)."""

    mode: str
    palette: bytes | None
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return np.dtype("<u2") if self.mode.startswith("I;16") else np.dtype("u1")


def is_picture(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a label map is one picture: by its ending, and a case of two axes, or three of which the first has length
    1.
    """
    return path.suffix.lower() in WRITTEN_ENDINGS and (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1))


def picture_of(reference: Path, shape: tuple[int, ...]) -> Picture:
    """What the label map at `reference` looks like.

    Raises MissingError or UnreadableError for the file, ShapeError if it is not of the case's shape.
    """
    if not reference.is_file():
        raise MissingError(
            str(reference),
            found="no such file",
            expected="the delivered label map",
            do="Restore the label map beside the probabilities.",
        )
    try:
        with Image.open(reference) as image:
            mode, palette, size = image.mode, image.getpalette(), image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        found = f"a file that is not a readable picture ({error})"
        raise UnreadableError(
            str(reference),
            found=found,
            expected="a PNG, BMP or TIFF label map",
            do="Write the file again, or convert it.",
        ) from error
    if mode not in ("L", "P") and not mode.startswith("I;16"):
        raise UnreadableError(
            str(reference),
            found=f"a picture of mode {mode}",
            expected="one label a pixel: 8 or 16 bit grey, or a palette",
            do="Convert the label map.",
        )
    if (size[1], size[0]) != shape[-2:]:
        found = f"{size[1]} x {size[0]} pixels"
        raise ShapeError(
            str(reference),
            found=found,
            expected=f"{shape[-2]} x {shape[-1]}",
            do="Probabilities and label map must come from the same prediction.",
        )
    return Picture(mode, None if palette is None else bytes(palette), (size[1], size[0]))


def write_map(path: Path, row: Row, shape: tuple[int, ...]) -> None:
    """A float32 TIFF (mode F) of the last two axes of `shape`."""
    save(Image.fromarray(_pixels(row, shape).astype(np.float32)), path)


def write_label_map(path: Path, row: Row, picture: Picture) -> None:
    """A label map that looks like `picture`; labels beyond 255 make an 8-bit one a 16-bit one."""
    image = Image.fromarray(_pixels(row, picture.shape))
    if picture.palette is not None and image.mode == "L":
        image.putpalette(picture.palette)
    save(image, path)


def save(image: Image.Image, path: Path) -> None:
    """Write a picture in the format that `path` names; a full disk is told as such, which Pillow does not always do."""
    packed = io.BytesIO()
    image.save(packed, Image.registered_extensions()[path.suffix.lower()])
    path.write_bytes(packed.getvalue())


def _pixels(row: Row, shape: tuple[int, ...]) -> NDArray[Any]:
    return row.read(0, row.voxels).reshape(shape[-2:])

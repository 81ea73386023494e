"""Maps and label maps of pictures, through Pillow: float32 TIFF for a map, the delivered file's own format for a label
map.

Promises: float32 values bit for bit (Pillow mode F, not compressed); a label map in the reference's format, mode and
palette, in 16 bits where a label needs them. Costs: one picture in memory; a picture cannot be taken apart as a volume
can. When there is nothing: a picture of no pixel is refused by Pillow, and by nnU-Net.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segcal.errors import MissingError, ShapeError, UnreadableError
from segcal.sinks.gathering import Row

ENDINGS = (".png", ".bmp", ".tif", ".tiff")


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
    return path.suffix.lower() in ENDINGS and (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1))


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

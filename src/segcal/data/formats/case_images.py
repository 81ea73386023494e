"""The images that were segmented, as fields of their cases: CASE.png, .jpg, .tif, .nii.gz, .npy or .npz, or one file a
channel as nnU-Net wants them (CASE_0000.nii.gz, CASE_0001.nii.gz, ...).

Promises: a grey picture, a volume or an array of the scores' shape is one channel; a colour picture is three (palettes
are looked up, transparency is dropped); an array with one more axis has its channels first or last, whichever fits the
scores. Intensities are as stored. The voxels are those of the scores, in their order, or ShapeError says what differs.
Every case needs an image: MissingError names the first without one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Field, Window
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import entries, readable
from segcal.data.formats import npz
from segcal.data.formats import pictures as images
from segcal.data.formats.label_maps import VOLUMES, ending, open_map, stem
from segcal.data.formats.nifti import Axes
from segcal.data.formats.npz import NpyField, NpzField
from segcal.data.formats.raw import StoredField, grid, octets
from segcal.data.formats.windows import Reshaped, open_stream
from segcal.errors import MissingError, ShapeError, UnreadableError, UsageError

PICTURES = (*images.READ_ENDINGS, ".jpg", ".jpeg")
ENDINGS = (*PICTURES, *VOLUMES, ".npy", ".npz")
"""Endings of files that hold an image."""

_FORMATS = ("PNG", "TIFF", "BMP", "JPEG")
GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I", "F")


@dataclass(frozen=True)
class CaseImages:
    """The images in a folder, by name; `where` is the folder."""

    where: Path
    files: Mapping[str, Path]

    @classmethod
    def find(cls, where: Path) -> CaseImages:
        """What there is in the folder `where`. MissingError for no image at all."""
        if not where.is_dir():
            raise MissingError(
                str(where),
                found="a file" if where.exists() else "no such folder",
                expected="a folder of images",
                do="Check the path given with --images.",
            )
        files: dict[str, Path] = {}
        for path in entries(where):
            known = ending(path, ENDINGS)
            name = stem(path, ENDINGS) if known else ""
            if name in files:
                raise UsageError(
                    str(where),
                    found=f"{files[name].name} and {path.name}",
                    expected="one image a case",
                    do="Move one of them elsewhere.",
                )
            if known:
                files[name] = path
        if not files:
            raise MissingError(
                str(where),
                found="no image",
                expected="files named as the cases, ending in one of " + ", ".join(ENDINGS),
                do="Check the folder given with --images.",
            )
        return cls(where, files)

    def of(self, case: str, shape: tuple[int, ...], axes: Axes) -> Field:
        """The image of a case whose scores have the spatial `shape`."""
        paths = [self.files[case]] if case in self.files else []
        while case not in self.files and f"{case}_{len(paths):04d}" in self.files:
            paths.append(self.files[f"{case}_{len(paths):04d}"])
        if not paths:
            raise MissingError(
                str(self.where),
                found=f"no image of case {case}",
                expected=f"{case}.png, {case}.nii.gz, {case}_0000.nii.gz or the like",
                do="Add it, or leave the case out.",
            )
        fields = [_opened(path, shape, axes) for path in paths]
        return fields[0] if len(fields) == 1 else Stacked(tuple(fields))


def _opened(path: Path, shape: tuple[int, ...], axes: Axes) -> Field:
    known = ending(path, ENDINGS)
    field: Field
    if known in PICTURES:
        field = Picture.find(path)
    elif known in VOLUMES:
        return open_map(path, shape, axes)
    else:
        field = _array(path, known, None)
        if len(field.shape) > len(shape):
            field = _array(path, known, 0 if field.shape[1:] == shape else -1)
    if field.shape == shape:
        return field
    if tuple(n for n in field.shape if n != 1) == tuple(n for n in shape if n != 1):
        return Reshaped(field, shape)
    raise ShapeError(
        str(path),
        found=f"an image of shape {field.shape}",
        expected=f"{shape} as the scores",
        do="Images must be on the grid of the scores.",
    )


def _array(path: Path, known: str, channel_axis: int | None) -> Field:
    if known == ".npy":
        return NpyField.find(path, channel_axis=channel_axis)
    names = npz.keys(path)
    if len(names) != 1 and "image" not in names:
        raise UsageError(
            str(path),
            found=f"arrays {names}",
            expected="one array, or one called 'image'",
            do="Save images one array a file.",
        )
    return NpzField.find(path, names[0] if len(names) == 1 else "image", channel_axis=channel_axis)


@dataclass(frozen=True)
class Picture(StoredField):
    """One picture file, held whole while it is open, within Pillow's limit of pixels: one channel where it is grey,
    else three.
    """

    @classmethod
    def find(cls, path: Path) -> Picture:
        """The picture in `path`. Reads the header, and decodes nothing."""
        with images.opened(path, *_FORMATS) as image:
            size, grey = (image.height, image.width), image.mode in GREY
            if getattr(image, "is_animated", False):
                raise UnreadableError(
                    str(path),
                    found="a picture of several pages",
                    expected="one page",
                    do="Save a volume as NIfTI or .npy.",
                )
            dtype = np.dtype(images.dtype_of(image.mode) if grey and image.mode != "1" else np.uint8)
        shape = size if grey else (*size, 3)
        return cls(path, grid(shape, dtype, str(path), fortran=False, channel_axis=None if grey else 2))

    def open(self, scratch: Scratch) -> contextlib.AbstractContextManager[Window]:
        """Open for reading by windows."""
        return open_stream(self._pixels(), self.grid, scratch, self.where)

    def _pixels(self) -> Iterator[memoryview]:
        with images.opened(self.path, *_FORMATS) as image, readable(self.path):
            values = np.asarray(image if self.channels is None else image.convert("RGB"))
            yield octets(np.ascontiguousarray(values, self.grid.dtype))


@dataclass(frozen=True)
class Stacked:
    """Fields of one shape as the channels of one."""

    fields: Sequence[Field]

    @property
    def where(self) -> str:
        """The first of them."""
        return self.fields[0].where

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.fields[0].shape

    @property
    def channels(self) -> int | None:
        """Channels of all."""
        return sum(f.channels or 1 for f in self.fields)

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        """Open all of them."""
        with contextlib.ExitStack() as stack:
            yield StackedWindow([stack.enter_context(f.open(scratch)) for f in self.fields])


@dataclass(frozen=True)
class StackedWindow:
    """Windows side by side."""

    windows: Sequence[Window]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop, (channels, n)."""
        return np.concatenate([np.atleast_2d(w.read(start, stop)) for w in self.windows])

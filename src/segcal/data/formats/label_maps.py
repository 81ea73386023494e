"""Label maps and masks of any format, found by the name of their case.

Promises: a map is recognised by its ending alone; the voxels are those of the scores, in their order, or ShapeError
says what differs. Axes of length one may come and go ((H, W) for (1, H, W)), nothing else is guessed. Two files for one
case are a UsageError, none is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from segcal.data.axes import likely
from segcal.data.case import Field
from segcal.data.files.reading import check_there, entries
from segcal.data.formats import itk, nifti, zarr
from segcal.data.formats import pictures as images
from segcal.data.formats.geometry import Placement
from segcal.data.formats.itk import ItkField
from segcal.data.formats.nifti import Axes, NiftiField
from segcal.data.formats.npz import NpyField, NpzField, keys
from segcal.data.formats.windows import Reshaped
from segcal.data.formats.zarr import ZarrField
from segcal.errors import MissingError, ShapeError, UnreadableError, UsageError

SCORES = (".npz", ".npy", ".zarr", *nifti.ENDINGS)
"""Endings of files of scores, by precedence: where a folder has files of several, the first one's are the scores."""

VOLUMES = (*nifti.ENDINGS, *itk.ENDINGS)
"""Endings of files that say where they lie, with axes (X, Y, Z)."""


def ending(path: Path, endings: tuple[str, ...]) -> str:
    """The first of `endings` that the file's name has, or ''."""
    name = path.name.lower()
    return next((e for e in endings if name.endswith(e) and len(name) > len(e)), "")


def stem(path: Path, endings: tuple[str, ...] | None = None) -> str:
    """The name of the case: the file's name without its ending, and without the '.ome' that OME's formats add."""
    known = ending(path, ENDINGS if endings is None else endings)
    name = path.name[: -len(known)] if known else path.name
    return name[:-4] if known in (".zarr", ".tif", ".tiff") and name[1:].lower().endswith(".ome") else name


def by_case(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Files of `folder` with one of `endings`, by case, sorted by name; hidden files are left out.

    A case with two is a UsageError.
    """
    if not folder.is_dir():
        raise MissingError(
            str(folder),
            found="a file" if folder.exists() else "no such folder",
            expected="a folder",
            do="Check the path.",
        )
    found: dict[str, Path] = {}
    for path in entries(folder):
        if not ending(path, endings):
            continue
        if stem(path) in found:
            raise UsageError(
                str(folder),
                found=f"{found[stem(path)].name} and {path.name}",
                expected="one file a case",
                do="Move one of them elsewhere.",
            )
        found[stem(path)] = path
    return dict(sorted(found.items()))


def nothing_in(path: Path) -> UnreadableError:
    """What is said of a file that could hold arrays and holds none."""
    return UnreadableError(
        str(path),
        found="no array in it",
        expected="an array",
        do="It may be damaged: copy or write this case again.",
    )


def _only(path: Path, names: list[str]) -> str:
    """The array that holds the labels."""
    if not names:
        raise nothing_in(path)
    if len(names) != 1 and "labels" not in names:
        raise UsageError(
            str(path),
            found=f"arrays {names}",
            expected="one array, or one called 'labels'",
            do="Save label maps one array a file.",
        )
    return names[0] if len(names) == 1 else "labels"


_OPENERS: Mapping[str, Callable[[Path, Axes], Field]] = {
    ".nii.gz": lambda path, axes: NiftiField.find(path, axes=axes),
    ".nii": lambda path, axes: NiftiField.find(path, axes=axes),
    **dict.fromkeys(itk.ENDINGS, lambda path, axes: ItkField.find(path, axes=axes)),
    ".png": lambda path, axes: images.ImageField.find(path),
    ".tif": lambda path, axes: images.ImageField.find(path),
    ".tiff": lambda path, axes: images.ImageField.find(path),
    ".bmp": lambda path, axes: images.ImageField.find(path),
    ".npy": lambda path, axes: NpyField.find(path, channel_axis=None),
    ".npz": lambda path, axes: NpzField.find(path, _only(path, keys(path)), channel_axis=None),
    ".zarr": lambda path, axes: ZarrField.find(path, _only(path, zarr.keys(path)), channel_axis=None),
}
ENDINGS = tuple(_OPENERS)
"""Endings of files that hold one value a voxel."""


def placement(path: Path) -> Placement:
    """Where a file with one of `VOLUMES` lies."""
    return nifti.placement(path) if ending(path, nifti.ENDINGS) else itk.placement(path)


def unread(folder: Path) -> str:
    """Names of files that are there and not read, for a message."""
    names = [p.name for p in entries(folder)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def open_map(path: Path, shape: tuple[int, ...], axes: Axes, channels: int | None = None) -> Field:
    """The map in `path` for scores of spatial `shape`, and so many `channels`; `axes`: the order in which a NIfTI's are
    wanted.
    """
    known = ending(path, ENDINGS)
    if not known:
        raise UsageError(
            str(path),
            found=f"a file ending in {path.suffix!r}",
            expected="one of " + ", ".join(ENDINGS),
            do="Convert it to NIfTI, PNG or .npy.",
        )
    field = _OPENERS[known](path, axes)
    if field.shape == shape:
        return field
    if _long(field.shape) == _long(shape):
        return Reshaped(field, shape)
    hint = "Predictions and labels must be on the same grid; export probabilities at the original resolution."
    if _long(field.shape) == _long(shape)[::-1] and known in VOLUMES:
        hint = (
            "NIfTI axes are read as (x, y, z); if the arrays are in SimpleITK's order (z, y, x), say so with zyx=True"
            " (--zyx)."
            if not axes.reverse
            else "The arrays seem to be in the order (x, y, z): leave zyx=True (--zyx) out."
        )
    do = likely(channels, shape, field.shape) or hint
    raise ShapeError(str(path), found=f"shape {field.shape}", expected=f"{shape} as the scores", do=do)


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


@dataclass(frozen=True)
class Maps:
    """The maps of a folder, or one file, by case."""

    where: Path
    files: Mapping[str, Path]

    @classmethod
    def find(cls, where: Path) -> Maps:
        """The maps in the folder `where`, or the single file `where`, which serves whatever case there is."""
        if where.is_dir() and not ending(where, (".zarr",)):
            files = by_case(where, ENDINGS)
            if not files:
                raise MissingError(
                    str(where),
                    found="no label map" + (f" that is read, but {inside}" if (inside := unread(where)) else ""),
                    expected="files named as the cases, ending in one of " + ", ".join(ENDINGS),
                    do="Name the folder of the label maps, or convert them to one of these formats.",
                )
            return cls(where, files)
        check_there(where, "a folder of maps")
        return cls(where, {"": where})

    def path(self, case: str) -> Path | None:
        """The file of a case, or None."""
        return self.files.get("") or self.files.get(case)

    def check(self, cases: list[str]) -> None:
        """Raise MissingError if no case at all has a map here, UsageError if one file is to serve several cases."""
        if "" in self.files and len(cases) > 1:
            raise UsageError(
                str(self.where),
                found=f"one file for {len(cases)} cases",
                expected="a folder",
                do="Name the folder of the maps.",
            )
        if not any(self.path(c) for c in cases):
            some = next(iter(self.files.values())).name
            raise MissingError(
                str(self.where),
                found=f"files such as {some}",
                expected=f"names as of the cases, such as {cases[0]}",
                do="Rename the label maps after the cases.",
            )

    def required(self, case: str) -> Path:
        """The file of a case; MissingError if there is none."""
        found = self.path(case)
        if found is None:
            raise MissingError(
                str(self.where),
                found=f"no map for case {case}",
                expected="one a case",
                do="Add it, or leave the case out.",
            )
        return found

"""A folder of images in, the same names out, and `corruptions.csv`, a row a file of what was done to it.

Pictures (PNG, TIFF, JPEG) are corrupted photometrically, NIfTI volumes get an MRI artefact. Promises: a file is
complete or absent; the table is written last, so a folder without one is unfinished; equal input gives equal pixels.
JPEG files come out as PNG of their stem, because saving them again would be one more corruption; the choice by name
uses the name they came with. Pictures keep grey or colour and 8 or 16 bits (palettes are looked up, transparency is
dropped); volumes keep their grid and become float32 in [0, 1]. Names, not folders, decide, so a volume's draws do not
depend on where it lies. `segcal.json`, written first, says what made the folder, versions included, since JPEG depends
on Pillow's libjpeg and artefacts on TorchIO. Costs: one image in memory. When there is nothing: a folder without an
image is a MissingError, and nothing is written. A file that cannot be read is an UnreadableError that names it.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segcal.data.files import journal
from segcal.data.files.ledger import NAME
from segcal.data.files.reading import readable
from segcal.data.formats.grids import refusals
from segcal.data.formats.nifti import read_header
from segcal.engine.progress import Progress, Silent
from segcal.errors import (
    DataError,
    MissingError,
    OutputError,
    SegcalError,
    UnreadableError,
    UnsafeFileError,
    UsageError,
)
from segcal.methods import files
from segcal.study.shift import artefacts, photometric

TABLE = "corruptions.csv"
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
VOLUMES = (".nii.gz", ".nii")
_LOSSY = (".jpg", ".jpeg")
RATIO, PLAIN = 100, 32 << 20
"""How many times its size an image unpacks to, and up to how many bytes that is not asked."""
_GREY = ("L", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Row:
    """What was done to one file.

    `file`: written, relative to the output; `digest`: of the values written, which does not depend on how they are
    packed.
    """

    file: str
    kind: str
    severity: str
    parameters: str
    digest: str


@dataclass(frozen=True)
class Photometric:
    """Photometric corruption of pictures of one `severity`; `kind`: one for all files, else chosen by file name."""

    severity: photometric.Severity
    kind: str | None = None
    seed: int = 0
    endings: ClassVar[tuple[str, ...]] = PICTURES

    def outputs(self, source: Path) -> Sequence[str]:
        """Names, relative to the output, of what `source` becomes."""
        return [f"{source.stem}.png" if source.suffix.lower() in _LOSSY else source.name]

    def write(self, source: Path, folder: Path) -> Iterator[Row]:
        """Write them into `folder`, and say what was done."""
        chosen = photometric.choose(source.name, self.severity, seed=self.seed, kind=self.kind)
        with _naming(source):
            pixels = chosen.apply(_picture(source))
        (name,) = self.outputs(source)
        with journal.atomic(folder / name) as temporary:
            # through memory, because a full disk is then told as such
            packed = io.BytesIO()
            Image.fromarray(pixels).save(packed, Image.registered_extensions()[temporary.suffix.lower()])
            temporary.write_bytes(packed.getvalue())
        yield Row(name, chosen.kind, self.severity, json.dumps(chosen.parameters), _digest(pixels))


@dataclass(frozen=True)
class Artefacts:
    """One MRI artefact on volumes; more than one of `replicates` go to folders replicate0, replicate1, ...

    Draws depend on the name without its ending.
    """

    kind: str
    replicates: int = 1
    seed: int = 0
    endings: ClassVar[tuple[str, ...]] = VOLUMES

    def outputs(self, source: Path) -> Sequence[str]:
        """Names, relative to the output, of what `source` becomes."""
        return (
            [source.name] if self.replicates == 1 else [f"replicate{k}/{source.name}" for k in range(self.replicates)]
        )

    def write(self, source: Path, folder: Path) -> Iterator[Row]:
        """Write them into `folder`, and say what was done."""
        volume, image = _volume(source)
        case = source.name[: -len(_ending(source, self.endings))]
        for replicate, name in enumerate(self.outputs(source)):
            chosen = artefacts.choose(self.kind, case, replicate=replicate, seed=self.seed)
            with _naming(source):
                values = chosen.apply(volume, np.asarray(image.affine, np.float64))
            header = image.header.copy()
            header.set_data_dtype(np.float32)
            header.set_slope_inter(1, 0)
            with journal.atomic(folder / name) as temporary:
                nibabel.save(type(image)(values, image.affine, header), temporary)
            yield Row(name, chosen.kind, "", json.dumps({**chosen.parameters, "replicate": replicate}), _digest(values))


Work = Photometric | Artefacts
"""What is done to each file of a folder."""


def corrupt(
    images: Path,
    output: Path,
    work: Work,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Corrupt every image in the folder `images` into `output`, and return the table, by file.

    `progress` is told of each file. Raises MissingError for no image, UsageError
    where the output is the input or two files would become one, OutputError for a used folder without `overwrite`, and
    UnreadableError or DataError for a file.
    """
    found = _files(images, work.endings)
    _check_output(images, output, overwrite)
    read = journal.identities(found)
    taken: dict[str, Path] = {}
    for source in found:
        for name in work.outputs(source):
            if name in taken:
                raise UsageError(
                    str(images),
                    found=f"{taken[name].name} and {source.name}",
                    expected=f"one file that becomes {name}",
                    do="Move one of them elsewhere.",
                )
            taken[name] = source
            journal.placeable(output / name)
            if journal.identity(output / name) in read:
                raise UsageError(
                    str(output / name),
                    found="an output that is also an input",
                    expected="another folder",
                    do="The images would be lost: choose a new folder.",
                )
    with contextlib.suppress(FileNotFoundError), journal.explained(output / TABLE):
        (output / TABLE).unlink()
    note = {"command": "corrupt", "work": type(work).__name__, **asdict(work), "versions": versions()}
    with journal.atomic(output / NAME) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    progress = progress or Silent()
    progress.start("corrupt", len(found))
    rows: list[Row] = []
    for source in found:
        rows += work.write(source, output)
        progress.step()
    rows.sort(key=lambda row: row.file)
    with (
        journal.atomic(output / TABLE) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Row.__dataclass_fields__)
        table.writerows((r.file, r.kind, r.severity, r.parameters, r.digest) for r in rows)
    return rows


def versions() -> dict[str, str]:
    """Versions of what pixels depend on; TorchIO where it is installed."""
    out = {"segcal": files.versions()["segcal"]}
    for name in ("numpy", "scipy", "pillow", "nibabel", "torch", "torchio"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


def _files(images: Path, endings: tuple[str, ...]) -> list[Path]:
    if not images.is_dir():
        raise MissingError(
            str(images),
            found="a file" if images.exists() else "no such folder",
            expected="a folder of images",
            do="Check the path.",
        )
    found = [
        path
        for path in sorted(images.iterdir())
        if not path.name.startswith(".") and _ending(path, endings) and not path.is_dir()
    ]
    if not found:
        raise MissingError(
            str(images),
            found="no image",
            expected="files ending in one of " + ", ".join(endings),
            do="Check the path; pictures are corrupted by severity, NIfTI volumes by artefact.",
        )
    return found


def _check_output(images: Path, output: Path, overwrite: bool) -> None:
    if output.exists() and journal.identity(output) == journal.identity(images):
        raise UsageError(
            str(output),
            found="the folder of the images itself",
            expected="another folder",
            do="The images would be lost: choose a new folder.",
        )
    if output.exists() and not output.is_dir():
        raise OutputError(str(output), found="a file", expected="a folder", do="Choose another output path.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputError(
            str(output),
            found="a folder with files in it",
            expected="a new or empty folder",
            do="Use --overwrite, or another folder.",
        )


def _ending(path: Path, endings: tuple[str, ...]) -> str:
    return next((e for e in endings if path.name.lower().endswith(e) and len(path.name) > len(e)), "")


def _picture(path: Path) -> NDArray[Any]:
    """(H, W) of 8 or 16 bits or float, or (H, W, 3) of 8 bits."""
    with _readable(path), Image.open(path, formats=("PNG", "TIFF", "JPEG")) as image:
        if getattr(image, "is_animated", False):
            raise UnreadableError(
                str(path),
                found="a picture of several pages",
                expected="one page",
                do="Save the pages as files of their own.",
            )
        _plausible(path, image.width * image.height * (4 if image.mode in ("I", "F") else 3))
        if image.mode in _GREY:
            pixels = np.asarray(image)
            return pixels.astype(pixels.dtype.newbyteorder("="))
        if image.mode in ("1", "LA", "La"):
            return np.asarray(image.convert("L"))
        if image.mode == "I":
            raise DataError(
                str(path),
                found="a grey picture of 32 bits",
                expected="8 or 16 bits, or floats in [0, 1]",
                do="Convert it: what white is cannot be known.",
            )
        return np.asarray(image.convert("RGB"))


def _volume(path: Path) -> tuple[NDArray[Any], Any]:
    with _readable(path):
        header = read_header(path)
        if header.dtype.kind not in "iuf":
            raise DataError(
                str(path),
                found="colours" if header.dtype.names else f"values of type {header.dtype}",
                expected="one real number a voxel",
                do="Save the image as such a volume.",
            )
        _plausible(path, math.prod(header.shape) * header.dtype.itemsize)
        with refusals():
            image = nibabel.load(path)
            volume = np.asarray(image.dataobj)
    if volume.ndim != 3 or not volume.size:
        raise DataError(
            str(path),
            found=f"shape {volume.shape}",
            expected="a volume (X, Y, Z)",
            do="Save channels or time points as files of their own.",
        )
    return volume, image


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What Pillow and the operating system say about a file, as an error that names it."""
    with readable(path):
        try:
            with warnings.catch_warnings():
                # what Pillow only warns of is metadata; pixels it cannot decode are errors
                warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                yield
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UnsafeFileError(
                str(path),
                found=str(error),
                expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels",
                do="Cut the image into tiles.",
            ) from error


def _plausible(path: Path, nbytes: int) -> None:
    """Raise UnsafeFileError for a file that no image of `nbytes` bytes packs to."""
    size = path.stat().st_size
    if nbytes > max(PLAIN, RATIO * size):
        raise UnsafeFileError(
            str(path),
            found=f"{size} bytes that unpack to {nbytes}",
            expected=f"at most {RATIO} times as many, as of an image that shows something",
            do="Leave it out, or save it uncompressed.",
        )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about an array, as errors about the file it came from; wrong usage passes."""
    try:
        yield
    except UsageError:
        raise
    except SegcalError as error:
        raise type(error)(str(path), found=error.found, expected=error.expected, do=error.do) from error


def _digest(values: NDArray[Any]) -> str:
    return journal.digest(f"{values.dtype.str}{values.shape}".encode(), np.ascontiguousarray(values).tobytes())

"""What a network says of photometric copies of each image, as fields of their cases: a folder with one CASE.npz a case,
as `segcal copies` writes it.

A file holds `mean` and `spread` (channels, *spatial) of the probabilities over all copies, `scores` (kept times
channels, *spatial), the log-probabilities of the first few copies, one copy after another, and, where the network ran
here, `image` (image channels, *spatial), its input, and `images` (kept times image channels, *spatial), those of the
copies. They become the fields `susceptibility` (2 channels: mean, then spread), `copies`, `image` and `copied_images`;
a file without images stands for copies that look like the image of the case, which is another folder's then.
`copies.json` says how the copies were made, which a calibrator remembers. Promises: voxels are those of the scores, in
their order, or ShapeError says what differs; another number of channels is a ShapeError, too. Every case needs a file:
MissingError names the first without one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcal.data.case import Field, Provenance, Window
from segcal.data.files.journal import Scratch
from segcal.data.files.reading import json_object
from segcal.data.formats import npz
from segcal.data.formats.case_images import Stacked
from segcal.data.formats.npz import NpzField
from segcal.errors import MissingError, ShapeError

Of = Literal["probs", "log_probs"]
OF: tuple[Of, ...] = ("probs", "log_probs")
"""What mean and spread may be of."""

RECORD = "copies.json"
KEYS = ("mean", "spread", "scores")
IMAGES = ("image", "images")


@dataclass(frozen=True)
class CaseCopies:
    """The copies in a folder; `where` is the folder, `record` what its `copies.json` says."""

    where: Path
    record: Mapping[str, Any]

    @classmethod
    def find(cls, where: Path) -> CaseCopies:
        """What there is in the folder `where`. MissingError for no record."""
        if not (where / RECORD).is_file():
            raise MissingError(
                str(where),
                found="no such folder" if not where.exists() else f"no {RECORD}",
                expected="a folder that segcal copies wrote",
                do="Make it: segcal copies COPY0 COPY1 ... -o FOLDER.",
            )
        return cls(where, json_object(where / RECORD, "Make the copies again: segcal copies."))

    @property
    def told(self) -> tuple[str, str]:
        """How they were made, as provenance keeps it."""
        return "copies", json.dumps(self.record.get("made", {}), sort_keys=True)

    def of(self, case: str, shape: tuple[int, ...], channels: int, image: Field | None) -> dict[str, Field]:
        """The fields of a case whose scores have so many `channels` of this spatial `shape`."""
        path = self.where / f"{case}.npz"
        if not path.is_file():
            raise MissingError(
                str(self.where),
                found=f"no copies of case {case}",
                expected=f"{case}.npz",
                do="Run segcal copies again: it makes what is missing.",
            )
        found = {key: _opened(path, key, shape) for key in KEYS}
        for key in ("mean", "spread"):
            if found[key].channels != channels:
                raise _other(path, f"{key} of {found[key].channels} channels", f"{channels} as the scores")
        kept, left = divmod(found["scores"].channels or 0, channels)
        if left or not kept:
            raise _other(path, f"scores of {found['scores'].channels} channels", f"a multiple of {channels}")
        fields: dict[str, Field] = {
            "susceptibility": Stacked((found["mean"], found["spread"])),
            "copies": found["scores"],
        }
        if set(IMAGES) <= set(npz.keys(path)):
            fields["image"], fields["copied_images"] = (_opened(path, key, shape) for key in IMAGES)
        elif image is not None:
            fields["copied_images"] = Repeated(image, kept)
        return fields


def of(provenance: Provenance) -> str | None:
    """What mean and spread of the copies of a cohort are of; None where nothing says so."""
    told = json.loads(dict(provenance.recorded or ()).get("copies", "{}"))
    return told.get("of") if isinstance(told, dict) else None


def _other(path: Path, found: str, expected: str) -> ShapeError:
    return ShapeError(str(path), found=found, expected=expected, do="Make the copies again, of these predictions.")


def _opened(path: Path, key: str, shape: tuple[int, ...]) -> Field:
    field = NpzField.find(path, key, channel_axis=0)
    if field.shape != shape:
        raise _other(path, f"{key} of spatial shape {field.shape}", f"{shape} as the scores")
    return field


@dataclass(frozen=True)
class Repeated:
    """A field whose channels come `times` times."""

    field: Field
    times: int

    @property
    def fields(self) -> tuple[Field, ...]:
        """What it is read from."""
        return (self.field,)

    @property
    def where(self) -> str:
        """As the field."""
        return self.field.where

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.field.shape

    @property
    def channels(self) -> int | None:
        """Of all."""
        return self.times * (self.field.channels or 1)

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Window]:
        """Open the field."""
        with self.field.open(scratch) as window:
            yield RepeatedWindow(window, self.times)


@dataclass(frozen=True)
class RepeatedWindow:
    """A window whose channels come several times."""

    window: Window
    times: int

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop, (times * channels, n)."""
        return np.tile(np.atleast_2d(self.window.read(start, stop)), (self.times, 1))

"""One image or volume as lazily readable fields, how it is cut, and what is known of how its scores were made.

A `Field` is one array over the voxels of a case (the scores of one member, the labels, a mask), read by windows of the
flattened voxel index (row-major over the case's own spatial shape) and never held whole unless it is small. A `Case`
names its fields. Sources make them; nothing here knows a file format. How a case is cut depends on its shape and number
of channels alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segcal.data.axes import likely
from segcal.data.files.journal import Scratch
from segcal.data.numbering import Numbering
from segcal.data.padding import Box, UnrecordedBox
from segcal.errors import MissingError, ShapeError, UsageError

BLOCK = 65_536
"""Most voxels in a block."""

SCORED, IGNORED, PADDING, OUTSIDE = range(4)
ROLES = ("scored", "ignored", "padding", "outside")
"""Roles of a voxel: scored; carrying the ignored label; crop padding, where the network never looked; outside the mask.
"""


def block_length(channels: int) -> int:
    """Voxels in a block: a power of two, `BLOCK` up to 4 channels, fewer above, so that a block holds at most 2^18
    numbers (2 MiB) however many channels there are.
    """
    return min(BLOCK, 1 << max(0, (2**18 // max(channels, 1)).bit_length() - 1))


class Window(Protocol):
    """An open field.

    - `read(start, stop)` returns flattened voxels start..stop, shape (channels, n) or (n,), as a fresh or read-only
      array;
    - windows are asked for in increasing order, mostly; any order is allowed;
    - used by one thread at a time; it is *not* safe to share.
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Voxels start..stop of the flattened field."""


class Field(Protocol):
    """One lazily readable array over the voxels of a case.

    - `where` names it in messages (a path, an argument);
    - `shape` is its spatial shape, known without reading the voxels;
    - `channels` is the number of channels, or None for a field with one value a voxel;
    - `open` may unpack to memory if that takes at most `scratch.limit` bytes, else to a file under `scratch`;
    - it raises errors of `segcal.errors` that name `where`; it does *not* check values.
    """

    @property
    def where(self) -> str:
        """What to call it in messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""

    @property
    def channels(self) -> int | None:
        """Channels, or None."""

    def open(self, scratch: Scratch) -> AbstractContextManager[Window]:
        """Open for reading by windows."""


@dataclass(frozen=True, eq=False)
class Case:
    """One image or volume.

    `scores`: one field a member. `labels`, `mask` (non-zero where voxels count) and `fields` (image, ...) share its
    spatial shape. `crop`: outside that box the network never looked and the scores are padding; `unrecorded`: finds
    such a box where there may be one that no file names. `spacing`: per axis, in mm, or None. `files`: what a sink may
    want to copy, by role ('label_map', 'properties', ...). `table`: the voxels are rows of a table, which have no
    neighbours. `slice_axis`: the axis across which the slices of a volume lie. `numbering`: how labels are read; None:
    as they are stored. `elsewhere`: how its files lie apart, in words, where that was let pass. `spacing_from_labels`:
    its scores come without a spacing, so that it is not known where there are no labels.
    """

    id: str
    scores: tuple[Field, ...]
    labels: Field | None = None
    group: str = ""
    mask: Field | None = None
    crop: Box | None = None
    spacing: tuple[float, ...] | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    table: bool = False
    unrecorded: UnrecordedBox | None = None
    slice_axis: int = 0
    numbering: Numbering | None = None
    elsewhere: str = ""
    spacing_from_labels: bool = False

    def __post_init__(self) -> None:
        if not self.scores:
            raise MissingError(
                f"case {self.id}",
                found="no scores",
                expected="at least one member's scores",
                do="Name at least one folder of predictions.",
            )
        first = self.scores[0]
        for other in self.scores[1:]:
            if other.channels != first.channels:
                raise ShapeError(
                    other.where,
                    found=f"{other.channels} classes",
                    expected=f"{first.channels} as in {first.where}",
                    do="Members of an ensemble must be networks for the same classes.",
                )
        named = [(f, "scores") for f in self.scores[1:]] + [
            (f, n) for f, n in ((self.labels, "labels"), (self.mask, "mask")) if f is not None
        ]
        for other, name in [*named, *((f, n) for n, f in self.fields.items())]:
            if other.shape != first.shape:
                raise ShapeError(
                    other.where,
                    found=f"{name} of shape {other.shape}",
                    expected=f"{first.shape} as the scores in {first.where}",
                    do=likely(first.channels, first.shape, other.shape)
                    or (
                        "Predictions and labels must be on the same grid; export probabilities at the original"
                        " resolution."
                    ),
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.scores[0].shape

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files (folders, for zarr) that it is read from or that are copied with it, each once; none for arrays."""
        whole = [*self.scores, *self.fields.values(), *(f for f in (self.labels, self.mask) if f is not None)]
        fields = [part for one in whole for part in getattr(one, "fields", (one,))]
        named = [Path(part.where) for part in fields if Path(part.where).suffix]
        kept = [path for role, path in self.files.items() if role != "folder"]
        return tuple(dict.fromkeys(path for path in (*named, *kept) if path.exists()))

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))


Origin = Literal["validation", "prediction", "files"]


@dataclass(frozen=True)
class Provenance:
    """How the scores of a cohort were made; what a calibrator remembers and `apply` compares. None: not known.

    `members`: fields averaged by segcal. `folds`: networks averaged inside each member. `tta`: test-time mirroring.
    `step_size`: of the sliding window. `origin`: nnU-Net's validation of a fold, nnUNetv2_predict (or
    nnUNetv2_ensemble), or files that nobody vouches for. `recorded`: what else nnUNetv2_predict says of its settings,
    (name, value as JSON) each, but for places and processes; None where there is no such record. `validated`: from how
    many folds validation predictions come, each case predicted by the network of its fold; None for others.
    """

    members: int = 1
    folds: int | None = None
    tta: bool | None = None
    step_size: float | None = None
    origin: Origin | None = None
    recorded: tuple[tuple[str, str], ...] | None = None
    validated: int | None = None

    @property
    def networks(self) -> int | None:
        """Networks behind each probability, or None where unknown."""
        return None if self.folds is None else self.members * self.folds

    @property
    def of_all_folds(self) -> bool:
        """Whether these are validation predictions of several folds, a single network each."""
        return self.folds == 1 and self.validated is not None and self.validated > 1

    def told(self, folds: int | None) -> Provenance:
        """With what a user says of `folds`; UsageError where it contradicts what is recorded. None: itself."""
        if folds is None:
            return self
        if not isinstance(folds, int) or folds < 1:
            raise UsageError(
                "networks",
                found=str(folds),
                expected="a whole number from 1 on",
                do="Say how many networks each folder's probabilities average: 5 for five folds, 1 for one.",
            )
        if self.folds not in (None, folds):
            raise UsageError(
                "networks",
                found=str(folds),
                expected=f"{self.folds}, as nnU-Net recorded",
                do="Leave --networks out: it is for predictions whose number is not recorded.",
            )
        return replace(self, folds=folds)

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Provenance:
        """The provenance that `dataclasses.asdict` described; what an earlier version did not write is not known."""
        recorded = described.get("recorded")
        pairs = None if recorded is None else tuple((str(name), str(value)) for name, value in recorded)
        return cls(**{**described, "recorded": pairs})

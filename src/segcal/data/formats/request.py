"""What a caller says about predictions that their files do not: labels, mask, kind of scores, pooling, class names,
order of axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType

from segcal.data.formats.nifti import Axes
from segcal.data.head import Head, Regions, Softmax
from segcal.data.pooling import POOLS, Pool
from segcal.data.scores import Kind
from segcal.errors import UsageError


@dataclass(frozen=True)
class Request:
    """Arguments of `open_cohort`, whose docstring explains them."""

    labels: Path | None = None
    kind: Kind | None = None
    pool: Pool = "probs"
    classes: Sequence[str] | None = None
    background: int | EllipsisType | None = ...
    ignore_index: int | None = None
    mask: Path | None = None
    zyx: bool = False
    channel_axis: int = 0
    images: Path | None = None
    networks: int | None = None

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise UsageError(
                "pool",
                found=repr(self.pool),
                expected="one of " + ", ".join(POOLS),
                do="'probs' averages probabilities, 'logits' averages logits.",
            )

    @property
    def axes(self) -> Axes:
        """The order in which arrays of a plain folder have the axes of NIfTI files."""
        return Axes(reverse=self.zyx)

    def head(self, described: Head | None, channels: int) -> Head:
        """The head: as `described` by the files, if they do, else a softmax over `channels` classes, with what the
        caller said.
        """
        if isinstance(described, Regions):
            if self.classes is not None or self.background is not ...:
                raise UsageError(
                    "classes",
                    found="class names or a background beside a region head",
                    expected="neither",
                    do="dataset.json names the regions; leave --classes and --background out.",
                )
            return replace(described, ignore=self._ignore(described.ignore))
        if described is None:
            names = tuple(self.classes) if self.classes is not None else tuple(str(k) for k in range(channels))
            return Softmax(
                names, None if self.background is ... else self._inside(self.background, len(names)), self.ignore_index
            )
        names = described.classes if self.classes is None else tuple(self.classes)
        if len(names) != len(described.classes):
            raise UsageError(
                "classes",
                found=f"{len(names)} names",
                expected=f"{len(described.classes)} as in dataset.json",
                do="Name every class, or leave --classes out.",
            )
        background = described.background if self.background is ... else self._inside(self.background, len(names))
        return Softmax(names, background, self._ignore(described.ignore))

    def _ignore(self, described: int | None) -> int | None:
        if self.ignore_index is not None and described not in (None, self.ignore_index):
            raise UsageError(
                "ignore_index",
                found=str(self.ignore_index),
                expected=f"{described} as in dataset.json",
                do="Leave --ignore-index out.",
            )
        return described if self.ignore_index is None else self.ignore_index

    @staticmethod
    def _inside(background: int | None, count: int) -> int | None:
        if background is not None and not 0 <= background < count:
            raise UsageError(
                "background",
                found=str(background),
                expected=f"an index from 0 to {count - 1}, or none",
                do="Name the index of the background class.",
            )
        return background

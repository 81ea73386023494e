"""What a caller says about predictions that their files do not: labels, mask, kind of scores, pooling, class names,
order of axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

from segcal.data.formats.geometry import GEOMETRIES, Geometry
from segcal.data.formats.nifti import Axes
from segcal.data.head import Head, undescribed
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
    ignore_index: Sequence[int] = ()
    mask: Path | None = None
    zyx: bool = False
    channel_axis: int = 0
    images: Path | None = None
    networks: int | None = None
    geometry: Geometry = "strict"
    copies: Path | None = None

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise UsageError(
                "pool",
                found=repr(self.pool),
                expected="one of " + ", ".join(POOLS),
                do="'probs' averages probabilities, 'logits' averages logits.",
            )

        if self.geometry not in GEOMETRIES:
            raise UsageError(
                "geometry",
                found=repr(self.geometry),
                expected="one of " + ", ".join(GEOMETRIES),
                do="'strict' refuses files of one case that lie elsewhere, 'nnunet' warns, 'ignore' does not look.",
            )

    @property
    def axes(self) -> Axes:
        """The order in which arrays of a plain folder have the axes of NIfTI files."""
        return Axes(reverse=self.zyx)

    def head(self, described: Head | None, channels: int) -> Head:
        """The head of `channels`: as `described` by the files, if they do, else as `undescribed`, with what the caller
        said.
        """
        if described is None:
            return undescribed(channels, self.classes, self.background, self.ignore_index)
        return described.declared(self.classes, self.background, self.ignore_index).of_channels(channels)

"""Where calibrated probabilities go: one module a format.

A `Sink` writes cases, one at a time, in bounded memory. A case's files are complete or absent: the writer gathers
blocks in scratch space and renames finished files into place when it is closed without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch


@dataclass(frozen=True, eq=False)
class Delivered:
    """Consecutive voxels ready to be written.

    `probabilities` (channels, n) float32; padding as it came. `label_map` (n,) int64: the decision of the delivered
    probabilities. `maps`: named one-valued maps (n,) float32: entropy in nats, confidence, error.
    """

    start: int
    probabilities: Tensor
    label_map: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


class Writer(Protocol):
    """An open case: `write` takes its blocks in increasing order, each voxel once."""

    def write(self, delivered: Delivered) -> None:
        """Take one block."""


class Sink(Protocol):
    """A format.

    - `case` opens one case for writing; leaving the block without an error puts all its files in place, leaving it with
      one leaves none;
    - `finish` writes what belongs to the whole folder (dataset.json and the like) and is called once, after the last
      case;
    - several cases may be open at once, each used by one thread.
    """

    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> AbstractContextManager[Writer]:
        """Open `case` for writing."""

    def finish(self, cohort: Cohort) -> None:
        """Write what belongs to the whole folder."""

    def outputs(self, case: Case) -> list[Path]:
        """Files that `case` will leave, so that an existing one is noticed before any work."""

    def shared(self, cohort: Cohort) -> list[Path]:
        """Files that `finish` will leave."""

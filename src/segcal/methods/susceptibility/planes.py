"""Planes of cases to learn from: scores, labels, images, and what the network says of copies of these.

A case is read whole, one at a time, whatever axis its planes are slices of. Voxels that are not scored carry no target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segcal.data.head import NO_TARGET, Head
from segcal.data.scores import FULL
from segcal.data.surroundings import MARGIN
from segcal.fitting.training import Example, Examples, Lesson
from segcal.methods.susceptibility.map import LOWEST


@dataclass(frozen=True, eq=False)
class Some:
    """Planes of one case: `targets` (n, rows, columns), and of each copy `copied` (copies, n, C, rows, columns), its
    log-probabilities, `answers` (copies, n, channels, ...), what mean and spread are taken of, and `images` (copies, n,
    channels, ...) or None.
    """

    targets: Tensor
    copied: Tensor
    answers: Tensor
    images: Tensor | None


class Planes:
    """Planes of some cases, one case read at a time."""

    def __init__(self, cases: Sequence[tuple[Examples, int]], lesson: Lesson, axis: int, of: str) -> None:
        self.cases, self._part, self._axis, self._of = cases, lesson.part, axis, of

    def __len__(self) -> int:
        return len(self.cases)

    def case(self, index: int) -> CasePlanes:
        """A case, read whole."""
        examples, case = self.cases[index]
        (tile,) = examples.tiles(case, self._axis, max(1, examples.cohort[case].voxels))
        (example,) = examples.read(case, self._axis, [tile])
        return CasePlanes(example, examples.cohort.head, examples.cohort.unit, self._part, self._of)

    def images(self) -> Iterator[Tensor]:
        """The image of each case."""
        return (self.case(index).example.fields["image"] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class CasePlanes:
    """One case in memory, its planes with a margin that nobody here looks at."""

    example: Example
    head: Head
    unit: float
    part: int
    of: str

    @property
    def scored(self) -> list[int]:
        """Planes with a voxel that is scored."""
        found = (self.example.targets[self.part] != NO_TARGET).flatten(1).any(1)
        return [int(k) for k in torch.nonzero(found)]

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return len(self.example.fields["copies"]) // self.head.channels

    def some(self, planes: Sequence[int], copies: Sequence[int]) -> Some:
        """Some planes, and what the network says of some copies."""
        rows = self.head.slice(self.part)
        copied, images = self._field("copies", planes), self._field("copied_images", planes)
        assert copied is not None
        said = _by_copy(copied, self.copies)[list(copies)].movedim(1, 0)
        # as scores of a kind of their own
        flat = said.flatten(1).double() / self.unit
        rows_of_all = self.head.canonical(flat, "log_probs", FULL)
        whole = rows_of_all.reshape(len(rows_of_all), *said.shape[1:])
        canonical = whole[rows].movedim(0, 2).float()
        answers = self.head.probabilities(whole) if self.of == "probs" else self.head.channel_rows(whole)
        return Some(
            self.example.targets[self.part][list(planes)].long(),
            canonical.clamp_min(LOWEST),
            answers.movedim(0, 2).float(),
            None if images is None else _by_copy(images, self.copies)[list(copies)].movedim(2, 1),
        )

    def _field(self, name: str, planes: Sequence[int]) -> Tensor | None:
        found = self.example.fields.get(name)
        return None if found is None else _inside(found, planes)


def _inside(field: Tensor, planes: Sequence[int]) -> Tensor:
    """Some planes (channels, n, rows, columns) of a field with a margin."""
    return field[:, list(planes), MARGIN:-MARGIN, MARGIN:-MARGIN]


def _by_copy(field: Tensor, copies: int) -> Tensor:
    """The channels of all copies (copies * channels, ...) as (copies, channels, ...)."""
    return field.reshape(copies, -1, *field.shape[1:])

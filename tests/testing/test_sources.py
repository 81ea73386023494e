"""Each law of sources rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import Softmax
from segcal.testing import sources as laws
from segcal.testing.law import BrokenLawError, Law
from segcal.testing.sources import SOURCE_LAWS, check_source

HEAD = Softmax(("a", "b", "c"))
SHAPE = (4, 5)
SCORES = np.random.default_rng(0).normal(size=(2, 3, 20)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(3, size=(2, 20))


@dataclass(eq=False)
class Sound:
    """An array (channels, n) or (n,) read by windows; the broken ones override `values`, `read` or `open`."""

    array: Any
    where: str = "an array"
    shape: tuple[int, ...] = SHAPE

    @property
    def channels(self) -> int | None:
        return len(self.array) if self.array.ndim == 2 else None

    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        yield self

    def read(self, start: int, stop: int) -> Any:
        return self.array[..., start:stop].copy()


class OffByOne(Sound):
    def read(self, start: int, stop: int) -> Any:
        return super().read(start, stop) if start == 0 else np.roll(self.array, 1, -1)[..., start:stop].copy()


class LastFirst(Sound):
    """Channels last."""

    def read(self, start: int, stop: int) -> Any:
        return super().read(start, stop).T


class RoundsOnDisk(Sound):
    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        yield self if scratch.limit > self.array.nbytes else Sound(self.array.astype(np.float16).astype(np.float32))


class LeavesItsFile(Sound):
    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        if scratch.limit < self.array.nbytes:
            scratch.path("left").write_bytes(b"unpacked")
        yield self


class SharesItsMemory(Sound):
    def __post_init__(self) -> None:
        self.array = self.array.copy()

    def read(self, start: int, stop: int) -> Any:
        return self.array[..., start:stop]


class WritesBeside(Sound):
    @contextlib.contextmanager
    def open(self, scratch: Scratch) -> Iterator[Any]:
        Path(self.where).with_suffix(".cache").write_bytes(b"cached")
        yield self


class CutsWithGaps(Cohort):
    def cuts(self, index: int) -> list[tuple[int, int]]:
        return [(0, 9), (10, 20)]


def cohort_of(
    field: Callable[..., Sound] = Sound,
    scores: Any = SCORES,
    labels: Any = LABELS,
    names: tuple[str, str] = ("one", "two"),
    kind: type[Cohort] = Cohort,
    group: str = "",
) -> Cohort:
    cases = tuple(Case(name, (field(s),), Sound(y), group) for name, s, y in zip(names, scores, labels, strict=True))
    return kind(cases, HEAD, "logits")


def halves() -> Cohort:
    return cohort_of(labels=LABELS + np.where(np.arange(20) == 7, 0.5, 0))


_openings = count()


def drifting() -> Cohort:
    return cohort_of(scores=SCORES + np.float32(next(_openings)))


def renamed() -> Cohort:
    return cohort_of(names=("one", f"case {next(_openings)}"), group="g")


BROKEN: list[tuple[Law[Any], str, Callable[[], Cohort], str]] = [
    (laws.windows_equal_the_whole, "OffByOne", lambda: cohort_of(OffByOne), "are not those of the whole"),
    (
        laws.what_is_declared_is_delivered,
        "LastFirst",
        lambda: cohort_of(LastFirst),
        r"declared \(3, 20\), delivered \(20, 3\)",
    ),
    (laws.memory_changes_no_bit, "RoundsOnDisk", lambda: cohort_of(RoundsOnDisk), "read through a file"),
    (laws.memory_changes_no_bit, "LeavesItsFile", lambda: cohort_of(LeavesItsFile), "was left in the scratch folder"),
    (laws.reading_changes_nothing, "SharesItsMemory", lambda: cohort_of(SharesItsMemory), "shares writable memory"),
    (laws.opening_again_gives_the_same, "drifting", drifting, "other bits when opened again"),
    (laws.opening_again_gives_the_same, "renamed", renamed, "another id of the cases"),
    (laws.cases_have_names_of_their_own, "a path", lambda: cohort_of(names=("one", "folder/two")), "cannot name files"),
    (laws.labels_are_whole_numbers_the_head_knows, "halves", halves, "are not whole numbers"),
    (laws.labels_are_whole_numbers_the_head_knows, "unknown", lambda: cohort_of(labels=LABELS + 1), r"labels \[3\]"),
    (laws.blocks_hold_every_voxel_once, "CutsWithGaps", lambda: cohort_of(kind=CutsWithGaps), "is cut with gaps"),
    (laws.records_are_stable, "twins", lambda: cohort_of(scores=SCORES[[0, 0]]), "one digest"),
    (laws.records_are_stable, "drifting", drifting, "records differ between readings"),
]


@pytest.mark.parametrize(("law", "name", "specimen", "says"), BROKEN, ids=[f"{law}-{name}" for law, name, *_ in BROKEN])
def test_a_broken_specimen_is_rejected(law: Law[Any], name: str, specimen: Callable[[], Cohort], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen)
    assert found.value.law is law


def test_a_source_that_writes_beside_its_files_is_rejected(tmp_path: Path) -> None:
    path = str(tmp_path / "scores.npy")
    with pytest.raises(BrokenLawError, match="a folder that was read has changed") as found:
        laws.files_read_are_left_alone.check(lambda: cohort_of(lambda array: WritesBeside(array, path)))
    assert found.value.law is laws.files_read_are_left_alone


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} | {laws.files_read_are_left_alone} == set(SOURCE_LAWS)


def test_a_sound_one_keeps_every_law() -> None:
    check_source(cohort_of)

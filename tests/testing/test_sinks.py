"""Each law of sinks rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch, atomic
from segcal.data.formats.sink import Delivered
from segcal.errors import UsageError
from segcal.testing import sinks as laws
from segcal.testing.law import BrokenLawError, Law
from segcal.testing.sinks import SINK_LAWS, SinkSubject, check_sink


class Gathered:
    """Blocks of one case, in order."""

    def __init__(self, case: Case, channels: int) -> None:
        self.case, self.channels, self.blocks, self.next = case, channels, list[torch.Tensor](), 0

    def write(self, delivered: Delivered) -> None:
        if delivered.start != self.next or len(delivered.probabilities) != self.channels:
            raise UsageError("block", found=str(delivered.start), expected=str(self.next), do="Write blocks in order.")
        self.blocks.append(delivered.probabilities)
        self.next += delivered.probabilities.shape[1]

    def array(self) -> Any:
        if self.next != self.case.voxels:
            raise UsageError(
                "case", found=f"{self.next} voxels", expected=str(self.case.voxels), do="Write all blocks."
            )
        return torch.cat(self.blocks, 1).numpy().reshape(-1, *self.case.shape)


class Sound:
    """One .npy a case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Any]:
        gathered = self.gather(case, cohort.head.channels)
        yield gathered
        self.put(case, gathered.array())

    def gather(self, case: Case, channels: int) -> Gathered:
        return Gathered(case, channels)

    def put(self, case: Case, array: Any) -> None:
        with atomic(self.outputs(case)[0]) as path, path.open("wb") as file:
            np.save(file, array)

    def finish(self, cohort: Cohort) -> None:
        """Nothing."""

    def outputs(self, case: Case) -> list[Path]:
        return [self.folder / f"{case.id}.npy"]


class RoundsToHalf(Sound):
    def put(self, case: Case, array: Any) -> None:
        super().put(case, array.astype(np.float16).astype(np.float32))


class StampsItsFiles(Sound):
    stamps: ClassVar[Iterator[int]] = count()

    def put(self, case: Case, array: Any) -> None:
        super().put(case, array)
        with self.outputs(case)[0].open("ab") as file:
            file.write(str(next(self.stamps)).encode())


class LeavesPartialFiles(Sound):
    @contextlib.contextmanager
    def case(self, cohort: Cohort, case: Case, scratch: Scratch) -> Iterator[Any]:
        self.folder.mkdir(exist_ok=True)
        self.outputs(case)[0].write_bytes(b"begun")
        with super().case(cohort, case, scratch) as opened:
            yield opened


class TakesAnyOrder(Sound):
    def gather(self, case: Case, channels: int) -> Gathered:
        gathered = super().gather(case, channels)
        take = gathered.write

        def write(delivered: Delivered) -> None:
            gathered.next = delivered.start
            take(delivered)

        gathered.write = write  # type: ignore[method-assign]
        return gathered


class SharesOneBuffer(Sound):
    def gather(self, case: Case, channels: int) -> Gathered:
        gathered = super().gather(case, channels)
        gathered.blocks = self.__dict__.setdefault("buffer", [])
        gathered.blocks.clear()
        return gathered


class LeavesASurprise(Sound):
    def put(self, case: Case, array: Any) -> None:
        super().put(case, array)
        (self.folder / f"{case.id}.log").write_text("done")


class OneFileForAll(Sound):
    def outputs(self, case: Case) -> list[Path]:
        return [self.folder / "all.npy"]


class WritesOverItsInput(Sound):
    def put(self, case: Case, array: Any) -> None:
        super().put(case, array)
        for path in case.files.values():
            path.write_bytes(b"new")


BROKEN: list[tuple[Law[Any], type[Sound], str]] = [
    (laws.what_is_written_is_what_was_delivered, RoundsToHalf, "other values"),
    (laws.writing_again_gives_the_same_bytes, StampsItsFiles, "in other bytes"),
    (laws.an_error_leaves_nothing, LeavesPartialFiles, "files were left, or lost: .*second.npy"),
    (laws.blocks_come_in_order, TakesAnyOrder, "out of order was taken"),
    (laws.cases_may_be_open_at_once, SharesOneBuffer, "shape|other values|size"),
    (laws.outputs_are_foretold, LeavesASurprise, "first.log was not foretold"),
    (laws.outputs_are_foretold, OneFileForAll, "two cases share"),
    (laws.inputs_are_never_overwritten, WritesOverItsInput, "a file that was read has changed"),
]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    source = tmp_path / "source.bin"
    source.write_bytes(b"old")
    made = laws.example()
    return replace(made, cases=tuple(replace(case, files={"scores": source}) for case in made.cases))


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Sound], says: str, cohort: Cohort) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(SinkSubject(specimen, np.load, cohort))
    assert found.value.law is law
    assert specimen.__name__ in str(found.value)


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(SINK_LAWS)


def test_a_sound_one_keeps_every_law(cohort: Cohort) -> None:
    check_sink(Sound, np.load, cohort)

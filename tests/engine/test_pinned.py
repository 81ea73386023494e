"""Pinned rows: what is kept is what was prepared, wherever it lies; samples are even, nested and the same every
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from segcal.data.files.journal import Scratch
from segcal.data.head import Regions, Softmax
from segcal.data.rows import Prepared
from segcal.engine import accumulate
from segcal.engine.accumulate import Count, ExactSum
from segcal.engine.ask import Ask, Level
from segcal.engine.need import MIB
from segcal.engine.pinned import CURVATURE_ROWS, SAMPLE_ROWS, CaseFile, Shelf, narrow
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import OutputError, UnreadableError, UsageError
from segcal.methods.temperature import ScaleNLL
from segcal.testing.watching import spilling
from tests.lazy import random_cohort

HEADS = [
    Softmax(("a", "b", "c")),
    Softmax(tuple(str(k) for k in range(300))),
    Regions(("a", "b"), ((1, 2), (2,)), (1, 2)),
]


def prepared(head, n, energy, seed=0):
    g = torch.Generator().manual_seed(seed)
    parts, classes = len(head.parts), len(head.part_classes(0))
    x = torch.randn(head.rows, n, dtype=torch.float64, generator=g)
    y, d = (torch.randint(classes, (parts, n), generator=g) for _ in range(2))
    return Prepared(3, 70, x, y, d, torch.randn(n, dtype=torch.float64, generator=g) if energy else None)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_SCRATCH", str(tmp_path))
    with Scratch(0) as opened:
        yield opened
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [0, 2**20])
@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("head", HEADS, ids=["classes", "many classes", "regions"])
def test_what_comes_back_is_what_was_kept(head, energy, limit, scratch):
    shelf, file = Shelf(head, limit, scratch), CaseFile(scratch)
    blocks = [prepared(head, n, energy, seed=n) for n in (1, 17, 130)]
    kept = [shelf.keep(b, file) for b in blocks]
    file.close()
    assert [isinstance(k.place, Path) for k in kept] == [limit == 0] * 3
    for block, where in zip(blocks, kept, strict=True):
        again = shelf.load(3, 70, where)
        assert torch.equal(again.log_probs, block.log_probs.float())
        assert torch.equal(again.targets.long(), block.targets)
        assert torch.equal(again.decision.long(), block.decision)
        assert (
            (again.free_energy is None)
            if block.free_energy is None
            else torch.equal(again.free_energy, block.free_energy)
        )
        assert (again.case, again.start) == (3, 70)


@dataclass(frozen=True)
class Twice:
    """Twice the row and the column number of each voxel of images of 60 columns."""

    numbers: int = 2

    def on(self, around):
        return self

    def read(self, start, stop):
        at = torch.arange(start, stop, dtype=torch.float64)
        return 2 * torch.stack([at // 60, at % 60])


@dataclass(frozen=True)
class Total:
    """The sum of what is drawn."""

    drawn: Twice = Twice()
    leaves = {"sum": ExactSum((2,)), "voxels": Count()}  # noqa: RUF012  # as a frozen class has it

    @property
    def contexts(self):
        return frozenset({self.drawn})

    def fold(self, rows):
        return {"sum": rows.contexts[self.drawn].double().sum(1).numpy(), "voxels": rows.voxels}

    def result(self, values):
        return values


@pytest.mark.parametrize("engine", [Serial(), Threads(2), spilling(Threads(2))], ids=["serial", "two", "in files"])
def test_what_is_drawn_around_voxels_is_kept_with_their_rows(engine):
    cohort = random_cohort(3, (50, 60))
    with engine.pin(cohort, [Twice()]) as pinned:
        pinned.resample([0, 0, 1])
        asks = {level: Ask(Total(), level=level) for level in Level}
        asks["one case"] = Ask(Total(), cases=frozenset({1}), level=Level.SAMPLE)
        found = {name: accumulate.result(Total(), state) for name, state in engine.reduce(pinned, asks).items()}
        for name, cases in {**dict.fromkeys(Level, 3), "one case": 1}.items():
            assert found[name]["sum"].tolist() == [cases * 49 * 50 * 60, cases * 59 * 60 * 50]
            assert found[name]["voxels"] == cases * 3000
        with pytest.raises(UsageError, match="more of a case than its rows"):
            engine.reduce(pinned, {"other": Ask(Total(Twice(3)))})
    again, _ = engine.survey(cohort, {"all": Ask(Total())})
    assert accumulate.result(Total(), again["all"])["sum"].tolist() == found[Level.ALL]["sum"].tolist()


def test_memory_is_used_up_to_the_limit_and_files_after_it(scratch):
    head = HEADS[0]
    shelf, file = Shelf(head, 100_000, scratch), CaseFile(scratch)
    kept = [shelf.keep(prepared(head, 1000, False), file) for _ in range(12)]
    file.close()
    in_memory = [not isinstance(k.place, Path) for k in kept]
    assert in_memory == [True] * 7 + [False] * 5  # 14 bytes a voxel, rounded up
    assert sum(p.stat().st_size for p in Path(kept[-1].place).parent.iterdir()) < 5 * 15_000


def test_slabs_are_mapped_one_after_another(scratch, monkeypatch):
    monkeypatch.setattr("segcal.engine.pinned.SLAB", 40_000)
    head = HEADS[0]
    shelf, file = Shelf(head, 100_000, scratch), CaseFile(scratch)
    blocks = [prepared(head, 1000, False, seed=k) for k in range(9)]
    kept = [shelf.keep(b, file) for b in blocks]
    file.close()
    assert (
        sum(not isinstance(k.place, Path) for k in kept) == 5
    )  # two in each slab of 40,000 bytes, one in the last of 20,000
    for block, where in zip(blocks, kept, strict=True):
        assert torch.equal(shelf.load(0, 0, where).log_probs, block.log_probs.float())


def test_a_full_scratch_disk_is_an_output_error(scratch, monkeypatch):
    device = scratch.path("full")
    device.symlink_to("/dev/full")
    monkeypatch.setattr(Scratch, "path", lambda self, name="": device)
    file = CaseFile(scratch)
    with pytest.raises(OutputError, match="no space left on the disk"):
        Shelf(HEADS[0], 0, scratch).keep(prepared(HEADS[0], 10, False), file)
    file.close()


def test_a_scratch_file_that_was_cut_says_so(scratch):
    shelf, file = Shelf(HEADS[0], 0, scratch), CaseFile(scratch)
    kept = shelf.keep(prepared(HEADS[0], 100, False), file)
    file.close()
    Path(kept.place).write_bytes(b"short")
    with pytest.raises(UnreadableError, match="ends early"):
        shelf.load(0, 0, kept)


def test_targets_take_one_byte_where_they_fit():
    assert narrow(HEADS[0]) is torch.uint8
    assert narrow(HEADS[1]) is torch.int16
    assert narrow(Softmax(tuple(str(k) for k in range(255)))) is torch.uint8


@pytest.fixture(scope="module")
def sampled():
    cohort = random_cohort(4, (200_000,), classes=2)
    with Serial().pin(cohort) as pinned:
        pinned.resample([0, 1, 0, 1])
        yield pinned


def test_samples_are_even_over_cases_and_as_large_as_they_say(sampled):
    for level, rows in ((Level.SAMPLE, SAMPLE_ROWS), (Level.CURVATURE, CURVATURE_ROWS)):
        by_case = np.zeros(4)
        for chunk in sampled.chunks(level):
            for case, low, high in chunk.spans:
                by_case[case] += high - low
        assert abs(by_case - rows / 4).max() < 5 * np.sqrt(rows / 4)
        assert sampled.rate(level) == rows / sampled.voxels
    assert sampled.rate(Level.ALL) == 1.0


def test_samples_are_nested(sampled):
    columns = {
        level: {tuple(row) for chunk in sampled.chunks(level) for row in chunk.rows.log_probs.T.tolist()}
        for level in (Level.SAMPLE, Level.CURVATURE)
    }
    assert columns[Level.CURVATURE] < columns[Level.SAMPLE]


def test_chunks_hold_cases_of_one_stratum_and_say_which(sampled):
    for level in (Level.SAMPLE, Level.CURVATURE):
        for chunk in sampled.chunks(level):
            assert chunk.cases == frozenset(s[0] for s in chunk.spans)
            assert len({case % 2 for case in chunk.cases}) == 1
            assert [s[1] for s in chunk.spans] == [0, *(s[2] for s in chunk.spans[:-1])]
            assert chunk.spans[-1][2] == chunk.rows.log_probs.shape[1]


def test_a_small_cohort_is_its_own_sample():
    cohort = random_cohort(3, (500,))
    with Serial().pin(cohort) as pinned:
        pinned.resample([0, 0, 0])
        asks = {level: Ask(ScaleNLL(0.7), level=level) for level in Level}
        found = Serial().reduce(pinned, asks)
    values = {
        level: ask.accumulator.result({n: leaf.value(found[level][n]) for n, leaf in ask.accumulator.leaves.items()})
        for level, ask in asks.items()
    }
    assert values[Level.SAMPLE].voxels == values[Level.CURVATURE].voxels == values[Level.ALL].voxels == 1500
    assert values[Level.SAMPLE].value == pytest.approx(values[Level.ALL].value, rel=1e-12)


def test_drawing_the_same_samples_again_costs_nothing(sampled):
    chunks, passes = sampled.chunks(Level.SAMPLE), sampled.passes
    sampled.resample([0, 1, 0, 1])
    assert sampled.chunks(Level.SAMPLE) is chunks
    assert sampled.passes == passes


def test_a_sample_does_not_depend_on_the_other_cases_or_their_order():
    cohort = random_cohort(2, (300_000,))
    turned = type(cohort)(cohort.cases[::-1], cohort.head, cohort.kind)
    found = []
    for one, index in ((cohort, 0), (turned, 1)):
        with Serial(max_memory=256 * MIB).pin(one) as pinned:
            pinned.resample([0, 0])
            found.append(
                torch.cat(
                    [
                        c.rows.log_probs[:, a:b]
                        for c in pinned.chunks(Level.CURVATURE)
                        for case, a, b in c.spans
                        if case == index
                    ],
                    1,
                )
            )
    assert torch.equal(*found)

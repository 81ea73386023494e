"""What the laws of engines watch with: a cohort, asks of every sort, accumulators and a mapper that remember what they
were given.

Promises: nothing here changes what an engine computes. The example cohort holds some 66,000 voxels, so that one case
has two blocks.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from segcal.data.case import BLOCK
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.head import Softmax
from segcal.data.reader import CaseReader
from segcal.data.rows import Block, Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf, needs
from segcal.engine.ask import Ask
from segcal.engine.engine import Engine
from segcal.errors import LabelError
from segcal.methods.calibrator import Calibrator
from segcal.methods.temperature import ScaleMap, ScaleNLL
from segcal.metrics.summary import suite
from segcal.testing.accumulators import state_bits
from segcal.testing.law import require


def spilling(engine: Engine) -> Engine:
    """The engine with no memory to keep anything in: pinned rows and unpacked fields go to files.

    A back door for tests; engines refuse such a limit.
    """
    engine.max_memory = 0
    return engine


def example() -> Cohort:
    """Five cases of three classes, the second of two blocks, in two groups, with ignored voxels."""
    rng = np.random.default_rng(1)
    shapes = [(7, 9), (BLOCK // 128 + 3, 128), (3, 4, 5), (11,), (20, 20)]
    scores = [(2 * rng.normal(size=(3, *s))).astype(np.float32) for s in shapes]
    labels = [np.where(rng.random(s) < 0.1, 255, rng.integers(3, size=s)) for s in shapes]
    return cohort_from_arrays(
        scores, labels, kind="logits", head=Softmax(("a", "b", "c"), 0, 255), groups=("x", "x", "y", "y", "y")
    )


def asks_of(cohort: Cohort, *, placed: bool = False) -> dict[Any, Ask]:
    """Asks of every sort about a cohort: metrics and an objective, of all parts, by case and of some cases, before and
    after a calibrator.

    `placed`: those, too, that only `survey` can answer, because they need to know where voxels lie.
    """
    calibrator = Calibrator(cohort.head, cohort.pooled_kind, [ScaleMap(0.5) for _ in cohort.head.parts], "scale")
    some = frozenset(range(0, len(cohort), 2))
    out: dict[Any, Ask] = {}
    for part in range(len(cohort.head.parts)):
        for name, accumulator in suite(len(cohort.head.part_classes(part)), None).items():
            if needs(accumulator) and not placed:
                continue
            out[name, part] = Ask(accumulator, part)
            out[name, part, "by case"] = Ask(accumulator, part, some, by_case=True, through=calibrator.through(part))
        out["nll", part] = Ask(ScaleNLL(0.7), part, some)
    return out


def answers_bits(answers: Mapping[Any, Any], asks: Mapping[Any, Ask]) -> dict[Any, Any]:
    """What makes two sets of answers the same."""
    return {
        key: (
            {case: state_bits(state) for case, state in answers[key].items()}
            if ask.by_case
            else state_bits(answers[key])
        )
        for key, ask in asks.items()
    }


@dataclass(frozen=True)
class Watching:
    """Counts voxels and remembers which blocks it has seen."""

    number: int
    seen: list[tuple[int, int, int]] = field(compare=False, hash=False)

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels, and a sum that rounding would show."""
        return {"voxels": Count(), "sum": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """One block."""
        self.seen.append((self.number, rows.case, rows.start))
        return {"voxels": rows.voxels, "sum": rows.log_probs.sum().item()}

    def result(self, values: Mapping[str, Array]) -> int:
        """Voxels."""
        return int(values["voxels"])


@dataclass(eq=False)
class Recorder:
    """A mapper that remembers blocks by case, and fails on one case."""

    fails: int | None = None
    blocks: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[RecordedCase]:
        """Open one case."""
        del scratch
        index = reader.index
        self.blocks[index] = []
        yield RecordedCase(self, index)
        self.closed.append(index)


@dataclass(eq=False)
class RecordedCase:
    """One case being mapped; it must stay on the thread that opened it."""

    recorder: Recorder
    index: int
    thread: int = field(default_factory=threading.get_ident)

    def block(self, block: Block) -> None:
        """Take one block."""
        require(threading.get_ident() == self.thread, "a case moved to another thread")
        if self.recorder.fails == self.index:
            raise LabelError("a case", found="a failure made on purpose", expected="no failure", do="Nothing.")
        self.recorder.blocks[self.index].append((block.start, block.scores.numpy().tobytes()))

    def summary(self) -> dict[str, Any]:
        """How many blocks."""
        return {"blocks": len(self.recorder.blocks[self.index])}


@dataclass(frozen=True)
class Threadwatch:
    """Remembers how many threads torch has while rows are folded."""

    seen: list[int] = field(compare=False, hash=False)

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels."""
        return {"voxels": Count()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """One block."""
        self.seen.append(torch.get_num_threads())
        return {"voxels": rows.voxels}

    def result(self, values: Mapping[str, Array]) -> int:
        """Voxels."""
        return int(values["voxels"])


@dataclass(frozen=True)
class Busy:
    """Fails on the first case once another case is under way, and stays at the others until `over` is set; each waits
    `HELD` seconds at most. +1 in `log` where a fold begins, -1 where it ends.

    `alone`: the engine has one worker, nothing else can be under way.
    """

    alone: bool
    log: list[int] = field(default_factory=list, compare=False, hash=False)
    under_way: threading.Event = field(default_factory=threading.Event, compare=False, hash=False)
    over: threading.Event = field(default_factory=threading.Event, compare=False, hash=False)

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels."""
        return {"voxels": Count()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """One block."""
        if rows.case == 0:
            if not self.alone:
                self.under_way.wait(HELD)
            raise LabelError("a case", found="a failure made on purpose", expected="no failure", do="Nothing.")
        self.log.append(1)
        self.under_way.set()
        self.over.wait(HELD)
        self.log.append(-1)
        return {"voxels": rows.voxels}

    def result(self, values: Mapping[str, Array]) -> int:
        """Voxels."""
        return int(values["voxels"])


HELD = 1.0
"""Seconds for which work goes on beside a failure: an engine that waits for it waits so long, one that does not has
raised its error long before.
"""


@contextlib.contextmanager
def scratch_in(folder: str) -> Iterator[None]:
    before = os.environ.get("SEGCAL_SCRATCH")
    os.environ["SEGCAL_SCRATCH"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["SEGCAL_SCRATCH"]
        else:
            os.environ["SEGCAL_SCRATCH"] = before

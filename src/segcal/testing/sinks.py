"""Laws of sinks: a case's files are complete or absent, and hold what was delivered, bit for bit.

The subject says how to make a sink in a folder and how to read back the probabilities of a case. Costs: writes two
small cases about ten times into temporary folders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.sink import Delivered, Sink
from segcal.data.head import Softmax
from segcal.errors import SegcalError
from segcal.testing.law import Law, check_all, law, require

Array = NDArray[Any]

MEMORY = (0, 2**24)
"""Budgets tried: everything through a scratch file, everything in memory."""


class StoppedError(Exception):
    """Raised on purpose while a case is being written."""


@dataclass(frozen=True, eq=False)
class SinkSubject:
    """`make`: folder to sink.

    `read`: the first of a case's `outputs` to probabilities (channels, *shape). `cohort`: cases that this sink can
    write, at least two.
    """

    make: Callable[[Path], Sink]
    read: Callable[[Path], Array]
    cohort: Cohort

    @property
    def name(self) -> str:
        """The sink's own name, for messages."""
        with tempfile.TemporaryDirectory() as folder:
            return type(self.make(Path(folder) / "out")).__name__

    def content(self, index: int) -> list[Delivered]:
        """What is delivered for a case: blocks of random probabilities that use every bit of float32, with
        every map.
        """
        case, head = self.cohort[index], self.cohort.head
        z = 4 * np.random.default_rng(index).normal(size=(head.channels, case.voxels))
        p = head.probabilities(head.canonical(torch.from_numpy(z), "logits")).float()
        maps = {name: p[0] * k for k, name in enumerate(("entropy", "confidence", "error"), 1)}
        cuts = [(a, min(a + 17, case.voxels)) for a in range(0, case.voxels, 17)]
        return [
            Delivered(a, p[:, a:b], head.label_map(p[:, a:b]), {n: m[a:b] for n, m in maps.items()}) for a, b in cuts
        ]

    def expected(self, index: int) -> Array:
        """The probabilities (channels, *shape), float32, that `content` delivers."""
        return (
            torch.cat([d.probabilities for d in self.content(index)], 1).numpy().reshape(-1, *self.cohort[index].shape)
        )


def example() -> Cohort:
    """Two cases in memory, of three axes, in odd sizes."""
    rng = np.random.default_rng(4)
    shapes = ((3, 4, 5), (2, 7, 3))
    scores = [rng.normal(size=(3, *s)).astype(np.float32) for s in shapes]
    return cohort_from_arrays(
        scores,
        [s.argmax(0) for s in scores],
        kind="logits",
        head=Softmax(("background", "organ", "lesion / core"), 0),
        ids=["first", "second"],
    )


@contextmanager
def _folder(subject: SinkSubject) -> Iterator[tuple[Path, Sink]]:
    with tempfile.TemporaryDirectory() as base:
        out = Path(base) / "out"
        yield out, subject.make(out)


def _write(subject: SinkSubject, sink: Sink, index: int, memory: int = MEMORY[1]) -> None:
    with Scratch(memory) as scratch, sink.case(subject.cohort, subject.cohort[index], scratch) as writer:
        for delivered in subject.content(index):
            writer.write(delivered)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _has(subject: SinkSubject, sink: Sink, index: int) -> None:
    case = subject.cohort[index]
    for path in sink.outputs(case):
        require(path.exists(), f"{path.name} of case {case.id} is missing")
    got = np.asarray(subject.read(sink.outputs(case)[0]))
    expected = subject.expected(index)
    require(
        got.dtype.newbyteorder("=") == np.float32 and got.shape == expected.shape,
        f"{got.dtype} of shape {got.shape} for float32 {expected.shape}",
    )
    require(np.array_equal(got, expected), f"case {case.id} holds other values than were delivered")


@law
def what_is_written_is_what_was_delivered(subject: SinkSubject) -> None:
    """Probabilities read back are those delivered, bit for bit, whether the case was gathered in memory or in a
    file.
    """
    for memory in MEMORY:
        with _folder(subject) as (_, sink):
            for index in range(len(subject.cohort)):
                _write(subject, sink, index, memory)
            sink.finish(subject.cohort)
            for index in range(len(subject.cohort)):
                _has(subject, sink, index)


@law
def writing_again_gives_the_same_bytes(subject: SinkSubject) -> None:
    """Equal input gives equal files, in another folder and over existing ones."""
    with _folder(subject) as (one, first), _folder(subject) as (two, second):
        for sink in (first, second, second):
            _write(subject, sink, 0)
        require(_files(one) == _files(two), "the same case was written in other bytes")


@law
def an_error_leaves_nothing(subject: SinkSubject) -> None:
    """A case interrupted by an error, or closed before every voxel was written, leaves no file; one written before
    stays whole.
    """
    for memory in MEMORY:
        with _folder(subject) as (out, sink):
            _write(subject, sink, 0, memory)
            before = _files(out)
            for error, count in ((StoppedError, len(subject.content(1))), (StoppedError, 1), (None, 1), (None, 0)):
                try:
                    with Scratch(memory) as scratch, sink.case(subject.cohort, subject.cohort[1], scratch) as writer:
                        for delivered in subject.content(1)[:count]:
                            writer.write(delivered)
                        if error is not None:
                            raise error
                except (StoppedError, SegcalError):
                    pass
                else:
                    require(False, f"a case closed after {count} blocks passed as complete")
                left = sorted(set(_files(out)) ^ set(before))
                require(not left, f"files were left, or lost: {left[:3]}")
                require(_files(out) == before, "a file written before has changed")


@law
def blocks_come_in_order(subject: SinkSubject) -> None:
    """A block out of order, given twice, or of another number of channels is refused."""
    blocks = subject.content(0)
    narrow = Delivered(0, blocks[0].probabilities[:-1], blocks[0].label_map, blocks[0].maps)
    for what, given in {
        "out of order": blocks[1:2],
        "given twice": [blocks[0], blocks[0]],
        "with a channel less": [narrow],
    }.items():
        with _folder(subject) as (out, sink):
            try:
                with Scratch(MEMORY[1]) as scratch, sink.case(subject.cohort, subject.cohort[0], scratch) as writer:
                    for delivered in given:
                        writer.write(delivered)
                    raise StoppedError
            except SegcalError:
                require(not _files(out), f"a refused block ({what}) left a file")
            except StoppedError:
                require(False, f"a block {what} was taken")


@law
def cases_may_be_open_at_once(subject: SinkSubject) -> None:
    """Several cases written at once, by threads or by turns, end as if written one after another."""
    everything = range(len(subject.cohort))
    with _folder(subject) as (_, sink), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(_write, subject, sink, index) for index in everything]:
            done.result()
        for index in everything:
            _has(subject, sink, index)
    with _folder(subject) as (_, sink):
        with ExitStack() as stack:
            scratch = stack.enter_context(Scratch(MEMORY[0]))
            writers = [
                stack.enter_context(sink.case(subject.cohort, subject.cohort[index], scratch)) for index in everything
            ]
            contents = [subject.content(index) for index in everything]
            for turn in range(max(len(c) for c in contents)):
                for writer, content in zip(writers, contents, strict=True):
                    if turn < len(content):
                        writer.write(content[turn])
        for index in everything:
            _has(subject, sink, index)


@law
def outputs_are_foretold(subject: SinkSubject) -> None:
    """`outputs` names, before any work, what a case will leave: nothing else appears until `finish`, and cases do not
    share files.
    """
    with _folder(subject) as (out, sink):
        foretold = {case.id: sink.outputs(case) for case in subject.cohort}
        require(not out.exists() or not _files(out), "naming outputs wrote files")
        _write(subject, sink, 0)
        mine, other = (_resolved(foretold[subject.cohort[k].id]) for k in range(2))
        require(not mine & other, f"two cases share {sorted(p.name for p in mine & other)[:3]}")
        strange = [p for p in out.rglob("*") if p.is_file() and not ({p.resolve(), *p.resolve().parents} & mine)]
        require(not strange, f"{strange[0].name if strange else ''} was not foretold")


def _resolved(paths: list[Path]) -> set[Path]:
    return {p.resolve() for p in paths}


@law
def inputs_are_never_overwritten(subject: SinkSubject) -> None:
    """Files that a case was read from are the same bytes after it was written."""
    files = {p for case in subject.cohort for p in case.files.values() if Path(p).is_file()}
    before = {p: Path(p).read_bytes() for p in files}
    with _folder(subject) as (_, sink):
        for index in range(len(subject.cohort)):
            _write(subject, sink, index)
        sink.finish(subject.cohort)
    require({p: Path(p).read_bytes() for p in files} == before, "a file that was read has changed")


SINK_LAWS: tuple[Law[SinkSubject], ...] = (
    what_is_written_is_what_was_delivered,
    writing_again_gives_the_same_bytes,
    an_error_leaves_nothing,
    blocks_come_in_order,
    cases_may_be_open_at_once,
    outputs_are_foretold,
    inputs_are_never_overwritten,
)
"""What `check_sink` checks."""


def check_sink(make: Callable[[Path], Sink], read: Callable[[Path], Array], cohort: Cohort | None = None) -> None:
    """Check all laws of sinks. Raises BrokenLawError, or an ExceptionGroup of several.

    `make`: folder to sink; `read`: the first of a case's `outputs` to probabilities (channels, *shape); `cohort`: cases
    it can write (default: two in memory).
    """
    check_all(SINK_LAWS, SinkSubject(make, read, cohort or example()))

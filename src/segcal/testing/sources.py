"""Laws of sources: a cohort reads the same whatever the windows, the order, the memory, and the time of asking.

The subject is a function without arguments that opens a cohort, so that the laws can open it again. Costs: reads every
field about ten times; give it a few small cases. Laws of labels and records speak of labelled cohorts; they say nothing
of one without labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.case import Case, Field, Window
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import check_labels
from segcal.data.rows import Block
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.testing.law import Law, check_all, law, require

Open = Callable[[], Cohort]
Array = NDArray[Any]

ROOMY = 2**28


def fields_of(case: Case) -> Iterator[tuple[str, Field]]:
    """All fields of a case, by name."""
    for k, field in enumerate(case.scores):
        yield f"scores {k}", field
    for name, other in (("labels", case.labels), ("mask", case.mask), *case.fields.items()):
        if other is not None:
            yield name, other


def _every(open_: Open) -> Iterator[tuple[str, Case, Field]]:
    for case in open_():
        for name, field in fields_of(case):
            yield f"{name} of case {case.id}", case, field


def _whole(window: Window, case: Case) -> Array:
    return np.array(window.read(0, case.voxels))


def _cuts(voxels: int) -> list[tuple[int, int]]:
    """Windows of odd lengths that overlap, single voxels and empty ones among them."""
    rng = np.random.default_rng(0)
    ends = [sorted(rng.integers(0, voxels + 1, size=2).tolist()) for _ in range(6)]
    step = max(1, voxels // 3 + 1)
    return (
        [(int(a), int(b)) for a, b in ends]
        + [(a, min(a + step, voxels)) for a in range(0, voxels, step)]
        + [(0, 0), (voxels, voxels), (0, 1), (voxels - 1, voxels)]
    )


def _same(a: Array, b: Array) -> bool:
    """Equal in type, shape and bits, the order of bytes apart: joining windows changes that."""
    kinds = [x.dtype.newbyteorder("=") for x in (a, b)]
    return a.shape == b.shape and kinds[0] == kinds[1] and a.astype(kinds[0]).tobytes() == b.astype(kinds[1]).tobytes()


@law
def windows_equal_the_whole(open_: Open) -> None:
    """Every window, in any order, equals that part of the whole read, bit for bit; empty windows are empty."""
    for name, case, field in _every(open_):
        with Scratch(ROOMY) as scratch, field.open(scratch) as window:
            whole = _whole(window, case)
            cuts = _cuts(case.voxels)
            for start, stop in [*cuts, *reversed(cuts)]:
                part = np.array(window.read(start, stop))
                require(
                    _same(part, np.array(whole[..., start:stop])),
                    f"{name}: voxels {start} to {stop} are not those of the whole",
                )


@law
def what_is_declared_is_delivered(open_: Open) -> None:
    """Shape and channels declared before reading are those delivered: (channels, n) for scores, (n,) for one value a
    voxel, of real numbers.
    """
    for name, case, field in _every(open_):
        require(tuple(field.shape) == case.shape, f"{name} has shape {field.shape}, its case {case.shape}")
        with Scratch(ROOMY) as scratch, field.open(scratch) as window:
            got = window.read(0, case.voxels)
        expected = (case.voxels,) if field.channels is None else (field.channels, case.voxels)
        require(tuple(got.shape) == expected, f"{name}: declared {expected}, delivered {tuple(got.shape)}")
        require(got.dtype.kind in "biuf", f"{name}: values of type {got.dtype}")
        require(bool(field.where), f"{name} has no name for messages")


@law
def memory_changes_no_bit(open_: Open) -> None:
    """Unpacked to memory or to a file, a field has the same bits, and no file is left when it is closed."""
    for name, case, field in _every(open_):
        with Scratch(ROOMY) as scratch, field.open(scratch) as window:
            expected = _whole(window, case)
        with Scratch(1) as scratch:
            with field.open(scratch) as window:
                cut = np.concatenate(
                    [np.array(window.read(a, min(a + 7, case.voxels))) for a in range(0, case.voxels, 7)], -1
                )
            left = [p for p in scratch.path("probe").parent.iterdir() if p.is_file()]
            require(not left, f"{name}: {left[0].name if left else ''} was left in the scratch folder")
        require(_same(cut, expected), f"{name}: read through a file it has other values")


@law
def reading_changes_nothing(open_: Open) -> None:
    """Writing into a window that was read, where that is possible, changes no later read."""
    for name, case, field in _every(open_):
        with Scratch(ROOMY) as scratch, field.open(scratch) as window:
            before = _whole(window, case)
            got = window.read(0, case.voxels)
            if got.flags.writeable:
                got[...] = 1
            require(_same(_whole(window, case), before), f"{name}: a window shares writable memory with the field")


@law
def opening_again_gives_the_same(open_: Open) -> None:
    """Opened again, the cohort has the same cases, head, kind, pooling, provenance, geometry, and bits."""
    one, two = open_(), open_()
    for what in ("head", "kind", "pool", "provenance", "groups"):
        require(getattr(one, what) == getattr(two, what), f"another {what} when opened again")
    for told in ("id", "shape", "spacing", "crop", "files"):
        require(
            [getattr(c, told) for c in one.cases] == [getattr(c, told) for c in two.cases],
            f"another {told} of the cases when opened again",
        )
    for a, b in zip(one.cases, two.cases, strict=True):
        for (name, x), (_, y) in zip(fields_of(a), fields_of(b), strict=True):
            with Scratch(ROOMY) as scratch, x.open(scratch) as left, y.open(scratch) as right:
                require(
                    _same(_whole(left, a), _whole(right, b)), f"{name} of case {a.id} has other bits when opened again"
                )


@law
def cases_have_names_of_their_own(open_: Open) -> None:
    """Case ids are unique, not empty, and can be the names of files."""
    ids = [c.id for c in open_()]
    require(len(set(ids)) == len(ids) and all(ids), f"case ids {ids[:5]}")
    require(not any(sep in i for i in ids for sep in ("/", "\\", "\0")), f"case ids {ids[:5]} cannot name files")


@law
def labels_are_whole_numbers_the_head_knows(open_: Open) -> None:
    """Labels are whole numbers, each a label of the head or the ignored one."""
    cohort = open_()
    for case in cohort:
        if case.labels is None:
            continue
        with Scratch(ROOMY) as scratch, case.labels.open(scratch) as window:
            values = _whole(window, case)
        require(bool(np.array_equal(values, np.round(values))), f"labels of case {case.id} are not whole numbers")
        check_labels(cohort.head, torch.from_numpy(values.astype(np.int64)), f"labels of case {case.id}")


@law
def blocks_hold_every_voxel_once(open_: Open) -> None:
    """The blocks of a case follow each other without gap, and their scores and roles are those of the case read in one
    piece.
    """
    cohort = open_()
    for index, case in enumerate(cohort):
        with Scratch(ROOMY) as scratch, cohort.open(index, scratch) as reader:
            blocks = [reader.block(a, b) for a, b in cohort.cuts(index)]
            pieces = [reader.block(a, min(a + 11, case.voxels)) for a in range(0, case.voxels, 11)]
        require(
            [b.start for b in blocks] == [a for a, _ in cohort.cuts(index)]
            and sum(b.voxels for b in blocks) == case.voxels,
            f"case {case.id} is cut with gaps",
        )
        require(torch.equal(_joined(blocks), _joined(pieces)), f"case {case.id}: pooled scores depend on the windows")
        require(
            torch.equal(torch.cat([b.role for b in blocks]), torch.cat([b.role for b in pieces])),
            f"case {case.id}: roles depend on the windows",
        )


def _joined(blocks: list[Block]) -> torch.Tensor:
    return torch.cat([b.scores for b in blocks], 1)


@law
def records_are_stable(open_: Open) -> None:
    """What is remembered of a case is the same for any engine and each time, and different cases are told apart."""
    cohort = open_()
    if any(c.labels is None for c in cohort):
        return
    first = Serial().survey(cohort, {})[1]
    require(
        Serial().survey(open_(), {})[1] == first and Threads(2).survey(cohort, {})[1] == first,
        "records differ between readings",
    )
    digests = [r.scores for r in first]
    require(len(set(digests)) == len(digests), "two cases have one digest of their scores")


@law
def files_read_are_left_alone(open_: Open) -> None:
    """Reading writes nothing to, and changes nothing in, the folders of the cases."""
    cohort = open_()
    folders = {p.parent for case in cohort for p in case.files.values()} | {
        Path(f.where).parent for case in cohort for _, f in fields_of(case) if os.path.isabs(f.where)
    }
    before = {folder: _seen(folder) for folder in folders}
    with Scratch(1) as scratch:
        for case in cohort:
            for _, field in fields_of(case):
                with field.open(scratch) as window:
                    window.read(0, case.voxels)
    require({folder: _seen(folder) for folder in folders} == before, "a folder that was read has changed")


def _seen(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir())


SOURCE_LAWS: tuple[Law[Open], ...] = (
    windows_equal_the_whole,
    what_is_declared_is_delivered,
    memory_changes_no_bit,
    reading_changes_nothing,
    opening_again_gives_the_same,
    cases_have_names_of_their_own,
    labels_are_whole_numbers_the_head_knows,
    blocks_hold_every_voxel_once,
    records_are_stable,
    files_read_are_left_alone,
)
"""What `check_source` checks."""


def check_source(open_cohort: Open) -> None:
    """Check all laws of sources on `open_cohort`, which opens a cohort each time it is called.

    Raises BrokenLawError, or an ExceptionGroup of several.
    """
    check_all(SOURCE_LAWS, open_cohort)

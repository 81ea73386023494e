"""The files of one case, in place all together or not at all.

Promises: every file is written under a temporary name beside its target, flushed to the disk, and renamed only when all
are complete; on any error or interruption the temporaries, files already renamed and folders made for them are removed.
Outputs never overwrite what the case was read from (UsageError), and a folder in the way or no permission is an
OutputError before any work. Costs: one flush a file. No target: nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from segcal import journal
from segcal.cases import Case
from segcal.errors import OutputError, UsageError


def output(folder: Path, case: Case, ending: str, subfolder: str = "") -> Path:
    """Where a file of `case` goes. UsageError if the name of the case cannot be the name of a file."""
    if not re.fullmatch(r"[^/\\\0]+", case.id) or case.id in (".", ".."):
        expected = "no '/', '\\' or NUL, and neither '.' nor '..'"
        raise UsageError(
            f"case {case.id!r}",
            found="a name that cannot be the name of a file",
            expected=expected,
            do="Rename the case.",
        )
    return folder / subfolder / f"{case.id}{ending}"


def check_targets(case: Case, targets: Sequence[Path]) -> None:
    """Refuse, before any work, to overwrite what `case` is read from, or a folder where a file should be (a zarr store
    may replace one).
    """
    inputs = {Path(p).resolve() for p in case.files.values()}
    inputs |= {Path(f.where).resolve() for f in (*case.scores, *(f for f in (case.labels, case.mask) if f is not None))}
    for target in targets:
        if target.resolve() in inputs:
            raise UsageError(
                str(target),
                found="an output that is also an input",
                expected="another folder for the output",
                do="Choose a folder that is not read from.",
            )
        if target.is_dir() and target.suffix != ".zarr":
            raise OutputError(
                str(target),
                found="a folder",
                expected="a file, or nothing, there",
                do="Remove it or choose another output folder.",
            )


@contextlib.contextmanager
def placed(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each target; put all in place when the block ends without an error, and none
    otherwise.
    """
    made = [p for t in targets for p in t.parents if not p.exists()]
    done: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            parts = []
            for target in targets:
                stack.push(_noting(target, done))
                parts.append(stack.enter_context(journal.atomic(target)))
            yield parts
            for part, target in zip(parts, targets, strict=True):
                with journal.explained(target):
                    _flush(part)
    except BaseException:
        for target in done:
            _remove(target)
        for folder in sorted(made, key=lambda p: len(p.parts), reverse=True):
            with contextlib.suppress(OSError):  # another case has files there
                folder.rmdir()
        raise


def _noting(
    target: Path, done: list[Path]
) -> Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], bool]:
    def note(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if kind is None:
            done.append(target)
        return False

    return note


def _flush(part: Path) -> None:
    if part.is_file():
        with part.open("rb+") as file:
            os.fsync(file.fileno())


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)

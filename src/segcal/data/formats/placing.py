"""The files of one case: what they are called, and what they may not go over.

Outputs never overwrite what the case was read from (UsageError), and a folder in the way is an OutputError before any
work. They are put in place all together or not at all by `journal.placed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segcal.data.case import Case
from segcal.data.files import journal
from segcal.data.files.claims import refusal
from segcal.data.files.journal import placed
from segcal.errors import OutputError, UsageError

__all__ = ["check_targets", "output", "placed"]


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
    named = {*case.files.values(), *(Path(f.where) for f in (*case.scores, case.labels, case.mask) if f is not None)}
    resolved, read = {path.resolve() for path in named}, journal.identities(case.paths)
    for target in targets:
        if target.resolve() in resolved or journal.identity(target) in read:
            raise refusal(target)
        if target.is_dir() and target.suffix != ".zarr":
            raise OutputError(
                str(target),
                found="a folder",
                expected="a file, or nothing, there",
                do="Remove it or choose another output folder.",
            )

"""A note in a folder of outputs, `segcal.json`, of what made them, so that a later run can tell finished cases from
others.

It is written before the first case of a fresh run and left alone by a resumed one. A case is finished if all its files
are there and none is older than the note: files of an earlier run, overwritten only in part, do not count. Promises: a
run with another calibrator, other maps or another format never adds to a folder. No note in the folder: nothing is
known of the files in it, and `resumable` says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal import journal
from segcal.cases import Case
from segcal.errors import UnreadableError, UsageError
from segcal.sinks import Sink

NAME = "segcal.json"

COMPARED = ("calibrator", "maps", "format")
"""Entries that must be equal for one run to go on where another stopped."""


@dataclass(frozen=True)
class Receipt:
    """The note in `folder`, with its `entries`."""

    folder: Path
    entries: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / NAME

    def write(self) -> None:
        """Write it; complete or absent."""
        with journal.atomic(self.path) as temporary:
            temporary.write_text(json.dumps(dict(self.entries), indent=1) + "\n", encoding="utf-8")

    def resumable(self) -> None:
        """UsageError unless the note in the folder says that the same was being done."""
        if not self.path.is_file():
            raise UsageError(
                str(self.folder),
                found=f"outputs and no {NAME}, which says what made them",
                expected="the outputs of an earlier `segcal apply`",
                do="Use --overwrite, or another folder.",
            )
        try:
            there = json.loads(self.path.read_text(encoding="utf-8"))
            other = [name for name in COMPARED if there.get(name) != self.entries[name]]
        except (ValueError, AttributeError) as wrong:
            raise UnreadableError(
                str(self.path),
                found="something that is not a JSON object",
                expected=f"the {NAME} of an earlier run",
                do="Use --overwrite, or another folder.",
            ) from wrong
        if other:
            found = "; ".join(f"{name} {there.get(name)!r}" for name in other)
            raise UsageError(
                str(self.path),
                found=found,
                expected="; ".join(f"{name} {self.entries[name]!r}" for name in other),
                do="Finish with the same arguments, use --overwrite, or another folder.",
            )

    def finished(self, sink: Sink, case: Case) -> bool:
        """Whether `case` was finished by the run that wrote the note, or by one that went on with it."""
        begun = self.path.stat().st_mtime_ns
        return all(path.exists() and path.stat().st_mtime_ns >= begun for path in sink.outputs(case))

"""A note in a folder of outputs, `segcal.json`: what made them, and which cases are finished.

A case is finished if what it is read from, and what was written for it, have the digests that were noted when its files
were in place: never by names, times or sizes. Promises: a run with another calibrator, other maps, another format,
order of axes or way of pooling never adds to the finished cases of a folder; the note is complete or as it was, and is
written after the files it speaks of, so that a case may have to be done again but never counts wrongly. Costs: inputs
and outputs are read once more, as bytes; the note is written once a case. No note in the folder: nothing is known of
the files in it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segcal.data.case import Case
from segcal.data.files import journal
from segcal.errors import UnreadableError, UsageError

NAME = "segcal.json"

COMPARED = ("calibrator", "maps", "format", "kind", "pool", "zyx", "outcomes")
"""Entries that must be equal for one run to go on where another stopped."""

FINISHED = "finished"


@dataclass(frozen=True)
class Ledger:
    """The note in `folder`, with its `entries`."""

    folder: Path
    entries: Mapping[str, Any]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / NAME

    def read(self) -> dict[str, Any] | None:
        """What the note says; None where there is none. UnreadableError for anything but a note."""
        if not self.path.is_file():
            return None
        try:
            there = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            there = None
        if not isinstance(there, dict) or not isinstance(there.get(FINISHED, {}), dict):
            raise UnreadableError(
                str(self.path),
                found="something that is not a JSON object",
                expected=f"the {NAME} of an earlier run",
                do="Use --overwrite, or another folder.",
            )
        return there

    def is_ours(self) -> bool:
        """Whether an earlier run of the same kind wrote the folder, with whatever calibrator."""
        try:
            there = self.read()
        except UnreadableError:
            return False
        return there is not None and all(name in there for name in COMPARED[:3])

    def begin(self, cases: Sequence[str]) -> None:
        """Write the note, before the first of `cases`; finished cases of an equal run stay, those to be done do not."""
        there = (self.read() if self.is_ours() else None) or {}
        known = {} if self.differing(there) else there.get(FINISHED, {})
        self._write({name: noted for name, noted in known.items() if name not in set(cases)})

    def differing(self, there: Mapping[str, Any]) -> list[str]:
        """Entries in which the note of another run is not this one; what it does not say is not compared."""
        return [name for name in COMPARED if name in there and there[name] != self.entries[name]]

    def resumable(self) -> None:
        """UsageError unless the note in the folder says that the same was being done."""
        there = self.read()
        if there is None:
            raise UsageError(
                str(self.folder),
                found=f"outputs and no {NAME}, which says what made them",
                expected="the outputs of an earlier `segcal apply`",
                do="Use another folder.",
            )
        other = self.differing(there) or [name for name in COMPARED[:3] if name not in there]
        if other:
            found = "; ".join(f"{name} {there.get(name)!r}" for name in other)
            raise UsageError(
                str(self.path),
                found=found,
                expected="; ".join(f"{name} {self.entries[name]!r}" for name in other),
                do="Finish with the same arguments, use --overwrite, or another folder.",
            )

    def finished(self, case: Case, outputs: Sequence[Path]) -> bool:
        """Whether `case`, as it is now, was finished by this run or an equal one, and its files are as they were."""
        noted = ((self.read() or {}).get(FINISHED, {})).get(case.id)
        if not isinstance(noted, dict) or not all(path.exists() for path in outputs):
            return False
        return bool(noted.get("read") == read_digest(case) and noted.get("written") == journal.digest_files(outputs))

    def note(self, case: Case, read: str, outputs: Sequence[Path], told: Mapping[str, Any]) -> None:
        """Note `case` as finished: `read`, its digest before it was read; `outputs`, its files, which are in place;
        what else there is to be `told` of it.
        """
        written = journal.digest_files(outputs)
        with self._lock:
            # another process may do other cases of the same run
            known = (self.read() or {}).get(FINISHED, {})
            self._write({**known, case.id: {**told, "read": read, "written": written}})

    def told(self, case: str) -> Mapping[str, Any]:
        """What was noted of a finished case; nothing of any other."""
        noted = ((self.read() or {}).get(FINISHED, {})).get(case)
        return noted if isinstance(noted, dict) else {}

    def _write(self, finished: Mapping[str, Any]) -> None:
        with journal.atomic(self.path) as temporary:
            whole = {**self.entries, FINISHED: dict(sorted(finished.items()))}
            temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def read_digest(case: Case) -> str:
    """Digest of all that a case is read from, and of how its arrays are laid out."""
    layout = repr((case.shape, case.crop, case.spacing, len(case.scores), case.scores[0].channels))
    return journal.digest(layout.encode(), journal.digest_files(case.paths).encode())

"""Checkpoints: states of trainings in a folder, so that a killed one goes on where it was.

A state is found again by all that decides a training: the method with its options, the cases as they are now (digests
of their files), the numbers it began from, the versions at work. So what goes on gives the bits that it would have
given in one piece, and other words or changed files begin anew. Nothing is written in the first `every` seconds, nor
more often than that; a training that took longer leaves its last state too, so that of several only the one that was
killed is repeated in part. Promises: a file is complete or as it was; it holds numbers only and is loaded as such.
Costs: the files of a case are read once as bytes, when a first state is written or looked for. No folder, or a case
that is no file: nothing is kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcal.data.case import Case
from segcal.data.files import journal
from segcal.data.files.ledger import read_digest
from segcal.errors import UnreadableError

EVERY = 30.0
"""Seconds between two states of a training."""

ENDING = ".pt"


class Checkpoints:
    """The folder, or None for nowhere; at most one state a training in `every` seconds."""

    def __init__(self, folder: Path | None = None, every: float = EVERY) -> None:
        self.folder, self.every = folder, every
        self._digests: dict[Case, str] = {}

    def of(self, told: str, cases: Sequence[Case], start: Iterable[Tensor]) -> Checkpoint:
        """Of the training that is `told` in words (a method and its options), on some `cases`, from some numbers."""
        known = self.folder is not None and all(case.paths for case in cases)
        return Checkpoint(self.folder if known else None, self.every, lambda: self._key(told, cases, start))

    def _key(self, told: str, cases: Sequence[Case], start: Iterable[Tensor]) -> str:
        """What a state is found by; the files of a case are read once however many trainings it is in."""
        for case in cases:
            if case not in self._digests:
                self._digests[case] = case.id + read_digest(case)
        words = [told, torch.__version__, *(self._digests[case] for case in cases)]
        numbers = [t.detach().double().numpy().tobytes() for t in start]
        return journal.digest(*(word.encode() for word in words), *numbers)

    def clear(self) -> None:
        """Remove all states, and the folder where nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.glob(f"*{ENDING}"):
            path.unlink()
        with contextlib.suppress(OSError):  # somebody else's files
            self.folder.rmdir()


class Checkpoint:
    """The state of one training; `folder` None: it is never there and never kept."""

    def __init__(self, folder: Path | None, every: float, key: Callable[[], str]) -> None:
        self._folder, self._every, self._key = folder, every, key
        self._began = self._written = time.monotonic()

    @cached_property
    def path(self) -> Path:
        """Where the state is, or would be."""
        assert self._folder is not None
        return self._folder / f"{self._key()}{ENDING}"

    def load(self) -> Mapping[str, Any] | None:
        """The state that was kept, or None. UnreadableError for a file that holds none."""
        if self._folder is None or not self._folder.is_dir() or not self.path.is_file():
            return None
        try:
            found: Mapping[str, Any] = torch.load(self.path, weights_only=True)
        except Exception as error:  # bytes that are no state make the unpickler raise anything
            raise UnreadableError(
                str(self.path), found="no state", expected="the state of a training", do="Remove it and go on."
            ) from error
        return found

    def save(self, state: Mapping[str, Any], *, last: bool = False) -> None:
        """Keep the state, where it is time to; `last`: the training has ended."""
        now = time.monotonic()
        due = now - (self._began if last else self._written) >= self._every
        if self._folder is None or not due:
            return
        with journal.atomic(self.path) as temporary:
            torch.save(dict(state), temporary)
        self._written = now


NOWHERE = Checkpoint(None, EVERY, str)
"""Of a training that is not kept."""

"""How far the work is: what an engine tells while it works."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is being done and how far it is; what is shown, if anything, is the caller's choice."""

    def start(self, what: str, total: int) -> None:
        """A piece of work of `total` steps begins; 0: of nobody knows how many."""

    def step(self) -> None:
        """One step is done."""


class Silent:
    """Shows nothing."""

    def start(self, what: str, total: int) -> None:
        """Nothing to show."""

    def step(self) -> None:
        """Nothing to show."""

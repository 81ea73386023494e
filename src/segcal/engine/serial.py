"""One worker, in the calling thread: the reference every other engine is held against."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from segcal.engine.engine import Engine

T = TypeVar("T")


class Serial(Engine):
    """Works on one item after another."""

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def each(self, work: Callable[[T], Any], items: Iterable[T]) -> Generator[Any, None, None]:
        """Results in the order of the items."""
        yield from map(work, items)

"""Several worker threads in one process: torch, NumPy and zlib release the interpreter's lock, so threads are
enough.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from segcal.engine.engine import Engine, default_workers
from segcal.engine.need import MIB
from segcal.engine.progress import Progress
from segcal.errors import UsageError

T = TypeVar("T")


SHARE = 48 * MIB
"""Memory that one thread's passing arrays may take: blocks hold at most 2 MiB of numbers, some ten such arrays live at
once, and the heap holds as much again.
"""


MOST = 64
"""Threads beyond which none is started, unless there are more cores."""


class Threads(Engine):
    """`workers` threads (default: the cores this process may use), but no more than 2/5 of `max_memory` has room for;
    at most twice as many items are under way.
    """

    def __init__(
        self, workers: int | None = None, max_memory: int = 4096 * MIB, progress: Progress | None = None
    ) -> None:
        super().__init__(max_memory, progress)
        wanted = default_workers() if workers is None else workers
        if wanted < 1:
            raise UsageError(
                "workers", found=str(workers), expected="1 or more", do="Leave --workers out to use every core."
            )
        self._workers = min(wanted, 2 * max_memory // 5 // SHARE, max(MOST, default_workers()))

    @property
    def workers(self) -> int:
        """Threads; fewer inside `within`, where more would not fit."""
        return min(self._workers, self._most_workers)

    def each(self, work: Callable[[T], Any], items: Iterable[T]) -> Generator[Any, None, None]:
        """Results as they come; after an error nothing new is started, and it is raised.

        Work never runs in the calling thread, not even with one worker: an interruption, which reaches that thread
        only, lets the items under way end and cuts none in two.
        """
        workers = self.workers
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending: set[Future[Any]] = set()
            try:
                for item in items:
                    pending.add(pool.submit(work, item))
                    if len(pending) >= 2 * workers:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        for future in done:
                            yield future.result()
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                for future in pending:
                    future.cancel()

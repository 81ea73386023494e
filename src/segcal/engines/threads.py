"""Several worker threads in one process: torch, NumPy and zlib release the interpreter's lock, so threads are enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from segcal.engines.engine import MIB, Engine, Progress, default_workers
from segcal.errors import UsageError

T = TypeVar("T")


class Threads(Engine):
    """`workers` threads (default: the cores this process may use); at most twice as many items are under way, so memory stays bounded."""

    def __init__(self, workers: int | None = None, max_memory: int = 4096 * MIB, progress: Progress | None = None) -> None:
        super().__init__(max_memory, progress)
        self._workers = default_workers() if workers is None else workers
        if self._workers < 1:
            raise UsageError("workers", found=str(workers), expected="1 or more", do="Leave --workers out to use every core.")

    @property
    def workers(self) -> int:
        """Threads."""
        return self._workers

    def each(self, work: Callable[[T], Any], items: Iterable[T]) -> Iterator[Any]:
        """Results as they come; after an error nothing new is started, and it is raised."""
        if self._workers == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending: set[Future[Any]] = set()
            try:
                for item in items:
                    pending.add(pool.submit(work, item))
                    if len(pending) >= 2 * self._workers:
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

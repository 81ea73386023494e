"""The threaded engine: how many workers, how much at once, and what happens to an error."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time

import pytest
import torch

from segcal.engine.engine import default_workers
from segcal.engine.need import MIB
from segcal.engine.threads import SHARE, Threads
from segcal.errors import UsageError


def test_workers_default_to_the_cores_at_hand():
    assert Threads(max_memory=2**40).workers == default_workers()


@pytest.mark.parametrize("workers", [0, -1])
def test_no_worker_is_refused(workers):
    with pytest.raises(UsageError, match=r"workers: found .*; expected 1 or more"):
        Threads(workers)


def test_there_are_no_more_workers_than_memory_for_them():
    assert Threads(4).workers == 4
    assert Threads(64, max_memory=256 * MIB).workers * SHARE <= 0.4 * 256 * MIB
    assert Threads(64, max_memory=256 * MIB).workers >= 2


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_work_is_done_by_that_many_threads(workers):
    ids: set[int] = set()
    barrier = threading.Barrier(workers)

    def work(k: int) -> int:
        with contextlib.suppress(threading.BrokenBarrierError):
            if k < workers:
                barrier.wait(5)
        ids.add(threading.get_ident())
        return k

    assert sorted(Threads(workers).each(work, range(20))) == list(range(20))
    assert len(ids) == workers


def test_only_so_many_items_are_under_way():
    taken = 0

    def items():
        nonlocal taken
        for k in itertools.count():
            taken = k + 1
            yield k

    results = Threads(2).each(lambda k: k, items())
    next(results)
    results.close()
    assert taken <= 5


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_after_an_error_nothing_new_is_started_and_nothing_is_left_running(workers):
    started: list[int] = []
    running = 0
    lock = threading.Lock()

    def work(k: int) -> None:
        nonlocal running
        with lock:
            running += 1
            started.append(k)
        try:
            if k == 3:
                raise ValueError("case 3")
            time.sleep(0.01)
        finally:
            with lock:
                running -= 1

    with pytest.raises(ValueError, match="case 3"):
        list(Threads(workers).each(work, range(1000)))
    assert running == 0
    assert len(started) < 30


def test_a_consumer_that_stops_leaves_nothing_running():
    running = threading.Semaphore(0)

    def work(k: int) -> int:
        time.sleep(0.01)
        running.release()
        return k

    results = Threads(2).each(work, range(1000))
    next(results)
    results.close()
    done = 0
    while running.acquire(blocking=False):
        done += 1
    time.sleep(0.05)
    assert not running.acquire(blocking=False)
    assert done < 20


def test_torch_works_on_one_thread_in_each_worker():
    before = torch.get_num_threads()
    assert set(Threads(2).each(lambda _: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before


def test_a_huge_number_of_workers_starts_no_more_threads_than_help():
    assert Threads(10**9, 1 << 50).workers == max(64, default_workers())

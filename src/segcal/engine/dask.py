"""A Dask cluster: the rows of a cohort lie on its workers, what is asked goes out, sums come back.

Cases are loaded in partitions (`segcal.engine.pinned.partitions`), each by a pure task of its own: where a worker is
lost, Dask runs that task again elsewhere, and the fit goes on with the same bits. The even samples of fits, at most
`SAMPLE_NUMBERS` numbers, lie with the client, which folds them itself. Promises: the bits of every other engine, on
workers of one instruction set; each task works on one thread, so there should be a worker of one thread a core.
Costs: the files must lie where every worker finds them under the same path; a partition takes some 70 MB, or a case
that is larger; what a worker is asked is sent anew each pass, some kilobytes. What writes (`map`) and what looks at
single files (`gather`) works on the client, in threads. Source: Rocklin (2015); none of its own scheduling here.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import distributed
import torch
from threadpoolctl import threadpool_limits

from segcal.data.cohort import Cohort
from segcal.data.files import reading
from segcal.data.files.journal import Scratch
from segcal.data.rows import Prepared, Record
from segcal.data.surroundings import Pinnable
from segcal.engine.accumulate import State
from segcal.engine.ask import Ask, Level
from segcal.engine.engine import Answers
from segcal.engine.need import MIB
from segcal.engine.pinned import Pinned, Shelf, partitions
from segcal.engine.progress import Progress
from segcal.engine.serial import Serial
from segcal.engine.single import one_thread
from segcal.engine.threads import Threads
from segcal.errors import DataError, UsageError

K = TypeVar("K", bound=Hashable)

EVERYTHING = sys.maxsize
"""Bytes of memory for the rows of a partition: Dask itself watches what a worker takes."""

ANSWER, WAIT = 10, 600
"""Seconds until a scheduler answers, and until the first worker of a queue has come."""

ADDRESS = re.compile(r"(?:tcp://)?(?P<host>[\w.:\[\]%-]{1,255}):(?P<port>\d{1,5})")


@dataclass(frozen=True, eq=False)
class Partition:
    """Some cases, those from number `first` of a cohort on, and what is `drawn` from them: all that loading takes."""

    cohort: Cohort
    first: int
    drawn: tuple[Pinnable, ...] = ()

    def mine(self, asks: Mapping[K, Ask]) -> dict[K, Ask]:
        """The asks that concern these cases, which are numbered from 0 here."""
        out = {}
        for key, ask in asks.items():
            cases = None if ask.cases is None else frozenset(i - self.first for i in ask.cases) & self._numbers
            if cases is None or cases:
                out[key] = replace(ask, cases=cases)
        return out

    @property
    def _numbers(self) -> frozenset[int]:
        return frozenset(range(len(self.cohort)))


class Loaded:
    """The pinned rows of a partition, on a worker. Pickled it is the partition alone, which is loaded again."""

    def __init__(self, partition: Partition) -> None:
        _settle()
        self.partition = partition
        self.pinned = Serial(EVERYTHING).pin(partition.cohort, partition.drawn)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Loaded, (self.partition,)

    def __sizeof__(self) -> int:
        return self.pinned.shelf.limit - self.pinned.shelf.room

    def answers(self, asks: Mapping[Any, Ask], strata: Sequence[int]) -> dict[Any, Any]:
        """To asks about all voxels, as `Engine.reduce` gives them."""
        _settle()
        with self._lock:
            self.pinned.stratified(strata)
            return Serial(EVERYTHING).reduce(self.pinned, asks)

    def sampled(self, rates: Mapping[Level, float]) -> list[tuple[Level, int, Prepared]]:
        """The rows of both samples."""
        _settle()
        with self._lock, one_thread():
            return list(self.pinned.sampled(rates))


def _records(loaded: Loaded) -> list[Record]:
    return loaded.pinned.records


def _answers(loaded: Loaded, asks: Mapping[Any, Ask], strata: Sequence[int]) -> dict[Any, Any]:
    return loaded.answers(asks, strata)


def _sampled(loaded: Loaded, rates: Mapping[Level, float]) -> list[tuple[Level, int, Prepared]]:
    return loaded.sampled(rates)


def _surveyed(
    partition: Partition, asks: Mapping[Any, Ask], forgiving: bool
) -> tuple[dict[Any, Any], list[Record], dict[str, DataError]]:
    """`Engine.survey` of some cases, and what failed of them, if that may be."""
    _settle()
    failed: dict[str, DataError] = {}
    found, records = Serial(EVERYTHING).survey(partition.cohort, asks, failed=failed if forgiving else None)
    return found, records, failed


@cache
def _settle() -> None:
    """One thread an operation, for as long as this worker lives."""
    torch.set_num_threads(1)
    threadpool_limits(1, "blas")


@dataclass(eq=False)
class Scattered(Pinned):
    """Pinned rows that lie on workers: what `loaded` holds, partition by partition; samples lie here."""

    client: Any = None
    loaded: Mapping[int, Any] = field(default_factory=dict)

    def sampled(self, rates: Mapping[Level, float]) -> Iterator[tuple[Level, int, Prepared]]:
        """As the rows of each partition are drawn on its worker."""
        asked = {first: self.client.submit(_sampled, one, rates, pure=False) for first, one in self.loaded.items()}
        for first, future in asked.items():
            for level, case, rows in future.result():
                yield level, first + case, replace(rows, case=first + case)

    def __exit__(self, *_: object) -> None:
        self.loaded = {}
        super().__exit__()


class Dask(Threads):
    """Works on the workers of a `distributed.Client`; `max_memory` is what the client itself may take."""

    def __init__(self, client: Any, max_memory: int = 4096 * MIB, progress: Progress | None = None) -> None:
        super().__init__(None, max_memory, progress)
        self.client = client

    def pin(self, cohort: Cohort, drawn: Iterable[Pinnable] = ()) -> Scattered:
        """Load every partition on a worker. Close the result to let them go."""
        cohort = cohort.whole().labelled().sampled()
        scratch, kept = Scratch(0), tuple(dict.fromkeys(drawn))
        # a key of its own for each: a task that is run again gives what it gave
        name = f"segcal-{uuid.uuid4().hex}"
        loaded, records = {}, {}
        for part in _parts(cohort, kept):
            loaded[part.first] = self.client.submit(Loaded, part, key=f"{name}-{part.first}")
            records[self.client.submit(_records, loaded[part.first], pure=False)] = part
        found: dict[int, list[Record]] = {}
        self.progress.start("reading cases", len(cohort))
        for part, mine in self._results(records):
            found[part.first] = mine
            for _ in mine:
                self.progress.step()
        order = [record for first in sorted(found) for record in found[first]]
        shelf = Shelf(cohort.head, 0, scratch, kept)
        return Scattered(cohort, shelf, [], order, scratch, client=self.client, loaded=loaded)

    def reduce(self, pinned: Pinned, asks: Mapping[K, Ask]) -> dict[K, Any]:
        """Samples are folded here, all voxels where they lie."""
        assert isinstance(pinned, Scattered)
        everything = {key: ask for key, ask in asks.items() if ask.level is Level.ALL}
        out = super().reduce(pinned, {key: ask for key, ask in asks.items() if key not in everything})
        if not everything:
            return out
        for part, view in {(a.part, a.group.view) for a in everything.values() if a.group is not None}:
            self._file(pinned, part, view)
        pinned.passes += 1
        answers = Answers(everything)
        asked = {}
        for piece in _parts(pinned.cohort, pinned.shelf.drawn):
            if mine := piece.mine(everything):
                strata = tuple(pinned.strata[piece.first : piece.first + len(piece.cohort)])
                future = self.client.submit(_answers, pinned.loaded[piece.first], mine, strata, pure=False)
                asked[future] = (piece, mine)
        for (piece, mine), found in self._results(asked):
            answers.add(_slots(mine, found, piece.first))
        return out | answers.done()

    def survey(
        self,
        cohort: Cohort,
        asks: Mapping[K, Ask],
        each: Callable[[int, Mapping[K, State]], object] | None = None,
        failed: dict[str, DataError] | None = None,
    ) -> tuple[dict[K, Any], list[Record]]:
        """Every partition on a worker; `each` is called here."""
        cohort = (cohort if failed is not None else cohort.whole()).labelled().sampled()
        answers, records = Answers(asks, each), dict[int, list[Record]]()
        asked = {}
        for part in _parts(cohort):
            mine = part.mine(asks)
            asked[self.client.submit(_surveyed, part, mine, failed is not None, pure=False)] = (part, mine)
        self.progress.start("scoring cases", len(cohort))
        for (part, mine), (found, records[part.first], lost) in self._results(asked):
            answers.add(_slots(mine, found, part.first))
            if failed is not None:
                failed |= lost
            for _ in part.cohort:
                self.progress.step()
        return answers.done(), [record for first in sorted(records) for record in records[first]]

    def _results(self, asked: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
        """What each future was asked for and came to, as they come; after an error the others are cancelled."""
        try:
            with one_thread(), self.client.as_current():  # workers may live in this process
                for future in distributed.as_completed(list(asked)):
                    yield asked[future], future.result()
        finally:
            for future in asked:
                future.cancel()


def _parts(cohort: Cohort, drawn: tuple[Pinnable, ...] = ()) -> list[Partition]:
    return [
        Partition(replace(cohort, cases=cohort.cases[span.start : span.stop]), span.start, drawn)
        for span in partitions(cohort)
    ]


def _slots(asks: Mapping[Any, Ask], found: Mapping[Any, Any], first: int) -> dict[Any, State]:
    """Answers as the states of each ask, or of each case, that an engine adds up."""
    out: dict[Any, State] = {}
    for key, ask in asks.items():
        if ask.by_case:
            out |= {(key, first + case): state for case, state in found[key].items()}
        else:
            out[key, None] = found[key]
    return out


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at an address, or of the one that wrote this file. UsageError where none answers, and
    for other protocols than plain TCP, whose clients are for Python to make.
    """
    start = "Start one with `dask scheduler`, workers with `dask worker ADDRESS --nthreads 1 --nworkers auto`."
    named = address
    if address.endswith(".json"):
        reading.check_there(Path(address), "the file that a Dask scheduler wrote")
        named = str(reading.json_object(Path(address), start).get("address"))
    place = ADDRESS.fullmatch(named)
    if place is None:
        raise UsageError("--scheduler", found=repr(named), expected="an address such as tcp://host:8786", do=start)
    try:
        # a client that never was connected takes half a minute to go
        socket.create_connection((place["host"].strip("[]"), int(place["port"])), ANSWER).close()
        client = distributed.Client(named, timeout=ANSWER, set_as_default=False)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(
            "--scheduler", found=f"{named}: {error}", expected="a Dask scheduler that answers", do=start
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError as error:
            raise UsageError(
                "--scheduler", found=f"no worker at {named} in {WAIT} seconds", expected="one or more", do=start
            ) from error
        yield client

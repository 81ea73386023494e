"""The engine: how a cohort is pinned, how rows are folded into states, how blocks are mapped and written.

Promises: the same bits for any engine, any number of workers and any memory limit on one instruction set. Blocks are
cut by case and offset alone, each is folded on one thread (torch's own threading is off inside), and states merge
exactly in any order. One `reduce` reads the rows once however many asks there are. Costs: pinned rows and their samples
up to a third of `max_memory` in memory, the rest in files; readers share another fifth.
"""

from __future__ import annotations

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch

from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.head import Head
from segcal.data.places.place import Places
from segcal.data.reader import CaseReader
from segcal.data.rows import Block, Prepared, Record, Rows
from segcal.data.surroundings import Contexts, Pinnable
from segcal.engine import accumulate
from segcal.engine.accumulate import State
from segcal.engine.ask import Ask, Level, Through
from segcal.engine.checkpoints import Checkpoints
from segcal.engine.filed import Filed, FiledChunk
from segcal.engine.need import MIB, Need, Sizes, spoken
from segcal.engine.pinned import SAMPLE_NUMBERS, CaseFile, Chunk, Pinned, Shelf, Stored, chunk_rows
from segcal.engine.progress import Progress, Silent
from segcal.engine.single import one_thread
from segcal.engine.view import Group, View
from segcal.errors import DataError, SegcalError, UsageError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

LEAST_MEMORY = 256 * MIB


class Mapper(Protocol):
    """What `map` does with a case: opens it for writing and takes its blocks; what it returns is the case's outcome."""

    def case(self, reader: CaseReader, scratch: Scratch) -> contextlib.AbstractContextManager[CaseMapper]:
        """Open the case that `reader` reads."""


class CaseMapper(Protocol):
    """One case being mapped."""

    def block(self, block: Block) -> None:
        """Take one block."""

    def summary(self) -> dict[str, Any]:
        """What to report of the case."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a summary, or the error that stopped it."""

    id: str
    summary: Mapping[str, Any] | None
    error: SegcalError | None = None


def damaged(cohort: Cohort) -> list[Outcome]:
    """Outcomes of the damaged cases of a cohort, which are not read."""
    return [Outcome(name, None, error) for name, error in cohort.damaged.items()]


class Engine(ABC):
    """`max_memory` in bytes, above what the interpreter and its imports take; at least 256 MiB (UsageError below).
    `checkpoints`: where trainings keep their states; nowhere unless set.
    """

    def __init__(self, max_memory: int = 4096 * MIB, progress: Progress | None = None) -> None:
        if max_memory < LEAST_MEMORY:
            raise UsageError(
                "max_memory",
                found=f"{max_memory / MIB:.0f} MiB",
                expected=f"at least {LEAST_MEMORY // MIB} MiB",
                do="Raise --max-memory.",
            )
        self.max_memory = max_memory
        self.progress: Progress = progress or Silent()
        self.checkpoints = Checkpoints()
        self._most_workers, self._lent = sys.maxsize, 0

    @property
    @abstractmethod
    def workers(self) -> int:
        """Threads that work at once."""

    @abstractmethod
    def each(self, work: Callable[[T], Any], items: Iterable[T]) -> Generator[Any, None, None]:
        """`work` of every item, results in any order; the first error is raised.

        When it is closed, no work is under way.
        """

    @property
    def memory(self) -> int:
        """Bytes that computations may count on."""
        return max(self.max_memory, LEAST_MEMORY)

    def least(self, cohort: Cohort, need: Need, *, fitting: bool) -> int:
        """Bytes of memory with which one worker can survey a cohort or, `fitting`, pin it and ask about it, where that
        takes `need`; no voxel is read.
        """
        sizes = Sizes.of(cohort)
        total = sizes.fitting if fitting else sizes.surveying
        # reading takes a fifth of the memory at most, so that the rest needs four fifths
        return min(total(need, 1, sys.maxsize), -(-5 * total(need, 1, 0) // 4))

    def fits(self, cohort: Cohort, need: Need, workers: int | None = None, *, fitting: bool) -> bool:
        """Whether memory is enough for so many workers; None: all it has."""
        sizes = Sizes.of(cohort)
        total = sizes.fitting if fitting else sizes.surveying
        return total(need, self.workers if workers is None else workers, self.memory) <= self.memory

    def room_for(self, cohort: Cohort, need: Need, what: str, do: str = "", *, fitting: bool) -> None:
        """UsageError that names the memory `what` needs, where there is less than one worker takes; `do`: another way
        out.
        """
        least = self.least(cohort, need, fitting=fitting)
        if least > self.memory:
            raise UsageError(
                "max_memory",
                found=f"{spoken(self.memory)} for {what} with {cohort.head.channels} classes in {len(cohort)} case(s)",
                expected=f"about {spoken(least)}",
                do=f"Give --max-memory {spoken(least)}{f', or {do}' if do else ''}.",
            )

    @contextlib.contextmanager
    def within(self, cohort: Cohort, need: Need, what: str, *, fitting: bool) -> Iterator[None]:
        """Inside, as many workers work and as many rows are kept in memory as `need` leaves room for.

        Raises what `room_for` raises.
        """
        self.room_for(cohort, need, what, fitting=fitting)
        sizes, before = Sizes.of(cohort), (self._most_workers, self._lent)
        total = sizes.fitting if fitting else sizes.surveying
        self._most_workers = max(
            [1, *(n for n in range(1, self.workers + 1) if total(need, n, self.memory) <= self.memory)]
        )
        self._lent = total(need, self._most_workers, self.memory)
        try:
            yield
        finally:
            self._most_workers, self._lent = before

    def scorable(self, cohort: Cohort) -> Cohort:
        """The cohort without labelled cases of which no voxel counts, all being ignored or outside the mask: they are
        its `unscored`. Where no other case is left, itself: reading it tells why.
        """
        empty = self.uncounted(cohort)
        if not empty or len(empty) == len(cohort):
            return cohort
        kept = tuple(case for case in cohort if case.id not in set(empty))
        return replace(cohort, cases=kept, unscored=(*cohort.unscored, *empty))

    def uncounted(self, cohort: Cohort) -> tuple[str, ...]:
        """Names of labelled cases of which no voxel counts. Reads label maps and masks, as far as the first voxel that
        counts; nothing where every label counts.
        """
        anything = cohort.head.ignore is None and all(c.mask is None and c.numbering is None for c in cohort)
        if anything or any(case.labels is None for case in cohort):
            return ()

        def work(index: int) -> bool:
            self.progress.step()
            try:
                with self.scratch(cohort) as reading, cohort.open_labels(index, reading) as reader:
                    return reader.is_scorable
            except DataError:  # raised again, and told, by the pass that reads the case whole
                return True

        self.progress.start("looking for cases to score", len(cohort))
        found = self.gather(work, range(len(cohort)))
        return tuple(case.id for case, scored in zip(cohort, found, strict=True) if not scored)

    def pin(self, cohort: Cohort, drawn: Iterable[Pinnable] = ()) -> Pinned:
        """Read a labelled cohort once and keep its scored rows, with what is `drawn` from the cases around them.

        Close the result (`with engine.pin(...) as pinned`) to remove its files.
        """
        cohort = cohort.whole().labelled().sampled()
        scratch = Scratch(0)
        room = min(self.max_memory // 3 - 4 * SAMPLE_NUMBERS, self.max_memory - self._lent)
        shelf = Shelf(cohort.head, room, scratch, tuple(dict.fromkeys(drawn)))
        kept: dict[int, list[tuple[int, int, Stored]]] = {}
        records: dict[int, Record] = {}

        def work(index: int) -> None:
            file = CaseFile(scratch)
            notes, blocks = [], []
            with contextlib.closing(file), self.scratch(cohort) as reading, cohort.open(index, reading) as reader:
                contexts = Contexts(reader, reading, shelf.drawn)
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    notes.append(reader.note(block))
                    prepared = reader.prepare(block, None, contexts.of)
                    if prepared.log_probs.shape[1]:
                        blocks.append((index, start, shelf.keep(prepared, file)))
                records[index] = reader.record(notes)
            kept[index] = blocks
            self.progress.step()

        self.progress.start("reading cases", len(cohort))
        try:
            self._all(work, range(len(cohort)))
        except BaseException:
            scratch.__exit__()
            raise
        order = range(len(cohort))
        return Pinned(cohort, shelf, [b for i in order for b in kept[i]], [records[i] for i in order], scratch)

    def reduce(self, pinned: Pinned, asks: Mapping[K, Ask]) -> dict[K, Any]:
        """Answer all asks with one pass over the levels they name: a State an ask, or {case: State} with `by_case`.
        Cases without rows are absent.

        Pinned rows know of the case around them what was drawn when they were pinned: what needs places or other
        contexts is a UsageError.
        """
        for ask in asks.values():
            missing = ask.contexts - frozenset(pinned.shelf.drawn)
            if accumulate.needs(ask.accumulator) or missing:
                name, what = (
                    (ask.through or ask.accumulator, "more of a case than its rows")
                    if missing
                    else (ask.accumulator, "places")
                )
                raise UsageError(
                    "reduce",
                    found=f"{type(name).__name__}, which needs {what}",
                    expected="accumulators and maps of single voxels",
                    do="Ask Engine.survey, which reads whole cases.",
                )
        answers = Answers(asks)
        for part, view in {(a.part, a.group.view) for a in asks.values() if a.group is not None}:
            self._file(pinned, part, view)
        for level in Level:
            pending = {k: a for k, a in asks.items() if a.level is level}
            if not pending:
                continue
            if level is Level.ALL:
                pinned.passes += 1
            else:
                pinned.sample_passes += 1
            plain = {k: a for k, a in pending.items() if a.group is None}
            if plain and level is Level.ALL:
                self._all(
                    _pinned_work(pinned, plain),
                    [b for b in pinned.blocks if any(a.wants(b[0]) for a in plain.values())],
                    answers.add,
                )
            elif plain:
                self._all(_chunk_work(pinned.cohort.head, plain), pinned.chunks(level), answers.add)
            self._all(
                _filed_work,
                _filed_items(pinned, level, {k: a for k, a in pending.items() if a.group is not None}),
                answers.add,
            )
        return answers.done()

    def _file(self, pinned: Pinned, part: int, view: View) -> None:
        """File the rows of a part as a view has them, unless that is done."""
        if (part, view) in pinned.filed:
            return
        filed = Filed(pinned, part, view)
        self._all(filed.add, range(len(pinned.cohort)))
        filed.finish()
        pinned.filed[part, view] = filed
        pinned.passes += 1

    def survey(
        self,
        cohort: Cohort,
        asks: Mapping[K, Ask],
        each: Callable[[int, Mapping[K, State]], object] | None = None,
        failed: dict[str, DataError] | None = None,
    ) -> tuple[dict[K, Any], list[Record]]:
        """Answer asks (all of `Level.ALL`) while reading the scores of a labelled cohort once, keeping nothing; also
        what to remember of each case.

        `each`: given every case's states of asks `by_case` when the case is done, in any order; they are then not kept
        for the answers, which would take as much memory as there are cases. Places that accumulators need are computed
        once a case, however many asks there are. `failed`: takes the errors of cases whose data cannot be used, which
        are then in no answer and no record; None: the first such error is raised.
        """
        cohort = (cohort if failed is not None else cohort.whole()).labelled().sampled()
        answers = Answers(asks, each)
        records: dict[int, Record] = {}

        def work(index: int) -> dict[Any, State]:
            found: dict[Any, State] = {}
            try:
                found = scored(index)
            except DataError as error:
                if failed is None:
                    raise
                failed[cohort[index].id] = error
            self.progress.step()
            return found

        def scored(index: int) -> dict[Any, State]:
            mine = {k: a for k, a in asks.items() if a.wants(index)}
            total: dict[Any, State] = {}
            notes = []
            with self.scratch(cohort) as reading, cohort.open(index, reading) as reader:
                places = Places(
                    reader.label_map,
                    reading,
                    (place for a in mine.values() for place in sorted(accumulate.needs(a.accumulator), key=repr)),
                )
                contexts = Contexts(reader, reading, (c for a in mine.values() for c in a.contexts))
                for start, stop in cohort.cuts(index):
                    block = reader.block(start, stop)
                    notes.append(reader.note(block))
                    prepared = reader.prepare(block, places, contexts.of)
                    if prepared.log_probs.shape[1]:
                        _merge_into(total, fold_parts(cohort.head, mine, prepared, index), asks)
                records[index] = reader.record(notes)
            return total

        self.progress.start("scoring cases", len(cohort))
        self._all(work, range(len(cohort)), answers.add)
        return answers.done(), [records[i] for i in sorted(records)]

    def map(
        self,
        cohort: Cohort,
        mapper: Mapper,
        what: str = "writing cases",
        *,
        keep_members: bool = False,
        each: Callable[[int, Mapping[str, Any]], Mapping[str, Any]] = lambda index, summary: summary,
    ) -> list[Outcome]:
        """Map every case and return an outcome each, in the order of the cohort, then one of every damaged case. A case
        that fails leaves nothing and does not stop the others.

        `keep_members`: blocks hold the members' own scores beside the pooled ones. `each`: from a case's index and
        summary, when it is done, to what of it is kept.
        """
        cohort = cohort.sampled()
        outcomes: dict[int, Outcome] = {}

        def take(found: tuple[int, Outcome]) -> None:
            index, outcome = found
            kept = None if outcome.summary is None else each(index, outcome.summary)
            outcomes[index] = replace(outcome, summary=kept)

        def work(index: int) -> tuple[int, Outcome]:
            name = cohort[index].id
            try:
                with (
                    self.scratch(cohort) as scratch,
                    cohort.open(index, scratch) as reader,
                    mapper.case(reader, scratch) as opened,
                ):
                    for start, stop in cohort.cuts(index):
                        opened.block(reader.block(start, stop, keep_members=keep_members))
                    summary = opened.summary()
                outcome = Outcome(name, summary)
            except SegcalError as error:
                outcome = Outcome(name, None, error)
            self.progress.step()
            return index, outcome

        self.progress.start(what, len(cohort))
        self._all(work, range(len(cohort)), take)
        return [*(outcomes[i] for i in range(len(cohort))), *damaged(cohort)]

    def gather(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do all the work and return the results in the order of the items."""
        found: dict[int, R] = {}
        self._all(lambda item: (item[0], work(item[1])), list(enumerate(items)), lambda pair: found.__setitem__(*pair))
        return [found[k] for k in range(len(items))]

    def scratch(self, cohort: Cohort) -> Scratch:
        """A reader's budget: a fifth of the memory, shared by all workers and all fields a case may have open."""
        return Scratch(self.max_memory // (5 * self.workers * (cohort.members + 4)))

    def _all(
        self, work: Callable[[T], Any], items: Iterable[T], take: Callable[[Any], object] = lambda result: None
    ) -> None:
        """Do all the work and `take` each result; whatever happens, no worker is left running when this returns."""
        with one_thread(), contextlib.closing(self.each(work, items)) as results:
            for result in results:
                take(result)


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class Answers:
    """Partial states as they come in, of an ask (key, None) or of an ask and a case (key, case). `each`: given all
    states of a case that come together, which are then not kept.
    """

    def __init__(
        self, asks: Mapping[Any, Ask], each: Callable[[int, Mapping[Any, State]], object] | None = None
    ) -> None:
        self._asks, self._each = asks, each
        self._total: dict[Any, State] = {}

    def add(self, partial: dict[Any, State]) -> None:
        """Take some."""
        if self._each is not None:
            one: dict[int, dict[Any, State]] = defaultdict(dict)
            for key, case in [slot for slot in partial if slot[1] is not None]:
                one[case][key] = partial.pop((key, case))
            for case, states in one.items():
                self._each(case, states)
        _merge_into(self._total, partial, self._asks)

    def done(self) -> dict[Any, Any]:
        """What they add up to, as `Engine.reduce` gives it."""
        out: dict[Any, Any] = {k: {} if a.by_case else accumulate.zero(a.accumulator) for k, a in self._asks.items()}
        for (key, case), state in self._total.items():
            if self._asks[key].by_case:
                out[key][case] = state
            else:
                out[key] = state
        return out


def _merge_into(total: dict[Any, State], partial: dict[Any, State], asks: Mapping[Any, Ask]) -> None:
    for slot, state in partial.items():
        total[slot] = state if slot not in total else accumulate.merge(asks[slot[0]].accumulator, total[slot], state)


def fold_parts(head: Head, asks: Mapping[Any, Ask], prepared: Prepared, case: int) -> dict[Any, State]:
    """Fold one block for every ask, part by part."""
    out: dict[Any, State] = {}
    for part in sorted({a.part for a in asks.values()}):
        out |= _fold({k: a for k, a in asks.items() if a.part == part}, _double(prepared.part(head, part)), case)
    return out


def _fold(asks: Mapping[Any, Ask], rows: Rows, case: int) -> dict[Any, State]:
    """Fold rows of one part for every ask; they are mapped once for each `through`, and let go before the next."""
    out: dict[Any, State] = {}
    alike: dict[Through | None, list[Any]] = {}
    for key, ask in asks.items():
        alike.setdefault(ask.through, []).append(key)
    for through, keys in alike.items():
        mapped = rows if through is None else through(rows)
        for key in keys:
            out[key, case if asks[key].by_case else None] = accumulate.fold(asks[key].accumulator, mapped)
    return out


def _double(rows: Rows) -> Rows:
    return rows if rows.log_probs.dtype == torch.float64 else replace(rows, log_probs=rows.log_probs.double())


def _pinned_work(pinned: Pinned, asks: Mapping[Any, Ask]) -> Callable[[Any], dict[Any, State]]:
    head = pinned.cohort.head

    def work(item: tuple[int, int, Stored]) -> dict[Any, State]:
        case, start, kept = item
        return fold_parts(
            head, {k: a for k, a in asks.items() if a.wants(case)}, pinned.shelf.load(case, start, kept), case
        )

    return work


def _chunk_work(head: Head, asks: Mapping[Any, Ask]) -> Callable[[Any], dict[Any, State]]:
    def work(chunk: Chunk) -> dict[Any, State]:
        whole, split = _by_case(asks, chunk.cases)
        total = fold_parts(head, whole, chunk.rows, -1) if whole else {}
        for case, low, high in chunk.spans:
            if case in split:
                _merge_into(total, fold_parts(head, split[case], chunk.rows.take(torch.arange(low, high)), case), asks)
        return total

    return work


FiledItem = tuple[FiledChunk, Mapping[Any, Ask]]
"""A chunk, and the asks that concern it."""


def _filed_items(pinned: Pinned, level: Level, asks: Mapping[Any, Ask]) -> Iterator[list[FiledItem]]:
    """Chunks with the asks that concern them; short ones of one group together, since handing an item to a worker
    costs as much as a thousand voxels.
    """
    alike: dict[tuple[int, Group], dict[Any, Ask]] = defaultdict(dict)
    for key, ask in asks.items():
        assert ask.group is not None
        alike[ask.part, ask.group][key] = ask
    for (part, group), mine in alike.items():
        batch: list[FiledItem] = []
        for chunk in pinned.filed[part, group.view].chunks(level, group.value):
            concerned = {k: a for k, a in mine.items() if a.cases is None or chunk.cases & a.cases}
            if concerned:
                batch.append((chunk, concerned))
            if sum(c.voxels for c, _ in batch) >= chunk_rows(pinned.cohort.head.rows):
                yield batch
                batch = []
        if batch:
            yield batch


def _filed_work(batch: Sequence[FiledItem]) -> dict[Any, State]:
    """What the chunks of a batch add up to."""
    total: dict[Any, State] = {}
    for chunk, asks in batch:
        rows = chunk.rows()
        whole, split = _by_case(asks, chunk.cases)
        if whole:
            _merge_into(total, _fold(whole, rows, -1), asks)
        for case, low, high in chunk.spans:
            if case in split:
                some = replace(
                    rows,
                    **{
                        name: getattr(rows, name)[..., low:high]
                        for name in ("log_probs", "targets", "decision", "reference")
                    },
                )
                _merge_into(total, _fold(split[case], some, case), asks)
    return total


def _by_case(asks: Mapping[Any, Ask], cases: frozenset[int]) -> tuple[dict[Any, Ask], dict[int, dict[Any, Ask]]]:
    """Which asks take a chunk whole, and which take the rows of one case or another."""
    whole: dict[Any, Ask] = {}
    split: dict[int, dict[Any, Ask]] = defaultdict(dict)
    for key, ask in asks.items():
        inside = cases if ask.cases is None else cases & ask.cases
        if not ask.by_case and inside == cases:
            whole[key] = ask
        else:
            for case in inside:
                split[case][key] = ask
    return whole, split

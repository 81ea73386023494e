"""Each law of engines rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from segcal.data.cohort import Cohort
from segcal.data.reader import CaseReader
from segcal.engine.ask import Ask, Level
from segcal.engine.engine import Engine, Outcome
from segcal.engine.pinned import Pinned
from segcal.engine.threads import Threads
from segcal.errors import SegcalError
from segcal.testing import engines as laws
from segcal.testing.engines import ENGINE_LAWS
from segcal.testing.law import BrokenLawError, Law


class LosesACaseBetweenWorkers(Threads):
    def reduce(self, pinned: Pinned, asks: Mapping[Any, Ask]) -> dict[Any, Any]:
        if self.workers > 1:
            asks = {
                k: replace(a, cases=(a.cases or frozenset(range(len(pinned.cohort)))) - {0}) for k, a in asks.items()
            }
        return super().reduce(pinned, asks)


class SamplesByWorkers(Threads):
    def reduce(self, pinned: Pinned, asks: Mapping[Any, Ask]) -> dict[Any, Any]:
        if self.workers > 2:
            asks = {k: replace(a, level=Level.ALL) if a.level is Level.CURVATURE else a for k, a in asks.items()}
        return super().reduce(pinned, asks)


class RecordsAsTheyCome(Threads):
    def survey(self, cohort: Cohort, asks: Mapping[Any, Ask]) -> tuple[dict[Any, Any], list[Any]]:
        answers, records = super().survey(cohort, asks)
        return answers, records[::-1] if self.workers > 1 else records


class LeavesItsFiles(Threads):
    def pin(self, cohort: Cohort) -> Pinned:
        pinned = super().pin(cohort)
        path = pinned.scratch.path()
        (path.parent.parent / "left behind").write_text("rows")
        return pinned


class PassesForEveryAsk(Threads):
    def reduce(self, pinned: Pinned, asks: Mapping[Any, Ask]) -> dict[Any, Any]:
        return {k: super(PassesForEveryAsk, self).reduce(pinned, {k: ask})[k] for k, ask in asks.items()}


class AnswersForEverybody(Threads):
    def reduce(self, pinned: Pinned, asks: Mapping[Any, Ask]) -> dict[Any, Any]:
        return super().reduce(pinned, {k: replace(a, cases=None) if a.by_case else a for k, a in asks.items()})


class OutcomesAsTheyCome(Threads):
    def map(self, cohort: Cohort, mapper: Any) -> list[Outcome]:
        return super().map(cohort, mapper)[::-1]


class GivesUp(Threads):
    """Stops at the first case that fails."""

    def map(self, cohort: Cohort, mapper: Any) -> list[Outcome]:
        out: list[Outcome] = []
        for index in range(len(cohort)):
            opened = super().map(cohort[index : index + 1], Shifted(mapper, index))
            out += opened
            if opened[0].error is not None:
                break
        return out + [Outcome(c.id, None) for c in cohort.cases[len(out) :]]


class Shifted:
    """A mapper for a cohort of one case that tells the real index."""

    def __init__(self, mapper: Any, index: int) -> None:
        self.mapper, self.index = mapper, index

    def case(self, reader: CaseReader, scratch: Any) -> Any:
        return self.mapper.case(replace(reader, index=self.index), scratch)


class PassesOverErrors(Threads):
    def survey(self, cohort: Cohort, asks: Mapping[Any, Ask]) -> tuple[dict[Any, Any], list[Any]]:
        try:
            return super().survey(cohort, asks)
        except SegcalError:
            return {}, []


class UsesTorchThreads(Threads):
    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
        torch.set_num_threads(2)
        yield from map(work, items)


class LeavesWorkersRunning(Threads):
    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
        pool = ThreadPoolExecutor(self.workers)
        futures = [pool.submit(work, item) for item in items]
        pool.shutdown(wait=False)
        for future in futures:
            yield future.result()


BROKEN: list[tuple[Law[Any], type[Engine], str]] = [
    (laws.reduce_gives_the_bits_of_serial, LosesACaseBetweenWorkers, "2 worker"),
    (laws.samples_are_the_same_too, SamplesByWorkers, "4 worker"),
    (laws.survey_gives_the_bits_of_serial, RecordsAsTheyCome, "2 worker"),
    (laws.where_rows_are_kept_changes_no_bit, LeavesItsFiles, "files were left: .*left behind"),
    (laws.one_reduce_is_one_pass, PassesForEveryAsk, "3 asks cost 3 passes"),
    (laws.nobody_asks_nothing_is_answered, AnswersForEverybody, "an ask about case 3"),
    (laws.map_takes_every_block_in_order, OutcomesAsTheyCome, "outcomes in another order"),
    (laws.a_failing_case_stops_nothing_else, GivesUp, r"cases \[0\] were completed"),
    (laws.an_error_in_a_case_is_raised, PassesOverErrors, "passed over"),
    (laws.no_work_outlives_an_error, LeavesWorkersRunning, "still under way"),
    (laws.torch_threads_are_given_back, UsesTorchThreads, r"with \[2\] torch threads"),
]


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Engine], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen)
    assert found.value.law is law


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(ENGINE_LAWS)

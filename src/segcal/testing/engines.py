"""Laws of engines: the same bits as the serial engine, one pass however many asks, every case mapped whole.

The subject is a factory: number of workers to an engine (an engine with one worker only may ignore it). Costs: about
three seconds. Cohorts are those of `strategies.cohorts`, and one of several cases, one of them longer than a block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.ask import Ask, Level
from segcal.engine.engine import Engine
from segcal.engine.serial import Serial
from segcal.errors import LabelError, SegcalError
from segcal.methods.temperature import ScaleNLL
from segcal.testing.law import Law, check_all, forall, law, require
from segcal.testing.strategies import cohorts
from segcal.testing.watching import (
    Busy,
    Recorder,
    Threadwatch,
    Watching,
    answers_bits,
    asks_of,
    example,
    scratch_in,
    spilling,
)

Make = Callable[[int], Engine]

WORKERS = (1, 2, 4)


def _reduced(engine: Engine, cohort: Cohort, asks: Mapping[Any, Ask]) -> dict[Any, Any]:
    with engine.pin(cohort) as pinned:
        return answers_bits(engine.reduce(pinned, asks), asks)


@law
def reduce_gives_the_bits_of_serial(make: Make) -> None:
    """`reduce` gives, for any number of workers, the bits of the serial engine."""
    cohort = example()
    asks = asks_of(cohort)
    expected = _reduced(Serial(), cohort, asks)
    for workers in WORKERS:
        require(_reduced(make(workers), cohort, asks) == expected, f"{workers} worker(s) gave other bits")
    engine, reference = make(2), Serial()

    @forall(cohorts(), examples=6)
    def _(drawn: Cohort) -> None:
        wanted = asks_of(drawn)
        require(_reduced(engine, drawn, wanted) == _reduced(reference, drawn, wanted), "a drawn cohort gave other bits")


@law
def samples_are_the_same_too(make: Make) -> None:
    """Answers from the even samples are the bits of the serial engine, by case and in all."""
    cohort = example()
    levels = (Level.SAMPLE, Level.CURVATURE)
    asks = {
        (level, by_case): Ask(ScaleNLL(0.7), cases=frozenset({0, 1, 4}), level=level, by_case=by_case)
        for level in levels
        for by_case in (True, False)
    }

    def answers(engine: Engine) -> dict[Any, Any]:
        with engine.pin(cohort) as pinned:
            pinned.resample([0, 0, 1, 1, 1])
            return answers_bits(engine.reduce(pinned, asks), asks)

    expected = answers(Serial())
    for workers in WORKERS:
        require(answers(make(workers)) == expected, f"{workers} worker(s) gave other bits")


@law
def survey_gives_the_bits_of_serial(make: Make) -> None:
    """`survey` gives the bits of the serial engine, and of `reduce` on the same rows in float32; its records are the
    same.
    """
    cohort = example()
    asks = asks_of(cohort, placed=True)

    def surveyed(engine: Engine) -> tuple[Any, Any]:
        answers, records = engine.survey(cohort, asks)
        return answers_bits(answers, asks), records

    expected = surveyed(Serial())
    for workers in WORKERS:
        require(surveyed(make(workers)) == expected, f"{workers} worker(s) gave other bits or records")
    require(surveyed(spilling(make(2))) == expected, "places kept in files gave other bits or records")


@law
def where_rows_are_kept_changes_no_bit(make: Make) -> None:
    """Pinned rows in memory and in files give the same bits, and the files are gone afterwards."""
    cohort = example()
    asks = asks_of(cohort)
    expected = _reduced(make(2), cohort, asks)
    with tempfile.TemporaryDirectory() as folder, scratch_in(folder):
        require(_reduced(spilling(make(2)), cohort, asks) == expected, "rows kept in files gave other bits")
        left = sorted(p.name for p in Path(folder).rglob("*"))
        require(not left, f"files were left: {left[:3]}")


@law
def one_reduce_is_one_pass(make: Make) -> None:
    """However many asks a `reduce` has, `passes` grows by one, every ask folds each block once, and the source is not
    read again.
    """
    cohort = example()
    engine = make(2)
    folded: list[tuple[int, int, int]] = []
    asks = {k: Ask(Watching(k, folded)) for k in range(3)}
    with engine.pin(cohort) as pinned:
        before = pinned.passes
        engine.reduce(pinned, asks)
        require(pinned.passes == before + 1, f"{len(asks)} asks cost {pinned.passes - before} passes")
    blocks = [(index, start) for index in range(len(cohort)) for start, _ in cohort.cuts(index)]
    expected = sorted((k, *block) for k in asks for block in blocks)
    require(sorted(folded) == expected, f"{len(folded)} folds of {len(expected)}: a block was left out or read twice")


@law
def nobody_asks_nothing_is_answered(make: Make) -> None:
    """No ask has no answer; an ask about no case has the zero state; cases without rows are absent from answers by
    case.
    """
    cohort = example()
    engine = make(2)
    nobody = Ask(ScaleNLL(1.0), cases=frozenset())
    with engine.pin(cohort) as pinned:
        require(engine.reduce(pinned, {}) == {}, "no ask has an answer")
        found = engine.reduce(
            pinned, {"all": nobody, "by case": Ask(ScaleNLL(1.0), cases=frozenset({3}), by_case=True)}
        )
    require(int(found["all"]["voxels"]) == 0, "an ask about no case has voxels")
    require(set(found["by case"]) == {3}, f"an ask about case 3 is answered for {sorted(found['by case'])}")


@law
def map_takes_every_block_in_order(make: Make) -> None:
    """`map` hands each case its blocks once and in increasing order, on one thread, and returns the outcomes in the
    order of the cohort.
    """
    cohort = example()
    expected = Recorder()
    Serial().map(cohort, expected)
    for workers in WORKERS:
        recorder = Recorder()
        outcomes = make(workers).map(cohort, recorder)
        require([o.id for o in outcomes] == [c.id for c in cohort], "outcomes in another order")
        require(
            all(o.error is None and o.summary == {"blocks": len(cohort.cuts(i))} for i, o in enumerate(outcomes)),
            "a case without its summary",
        )
        require(recorder.blocks == expected.blocks, f"{workers} worker(s) handed out other blocks")


@law
def a_failing_case_stops_nothing_else(make: Make) -> None:
    """In `map` a case that fails is an outcome with its error; all other cases are completed."""
    cohort = example()
    for workers in WORKERS:
        recorder = Recorder(fails=1)
        outcomes = make(workers).map(cohort, recorder)
        failed = [i for i, o in enumerate(outcomes) if o.error is not None]
        require(failed == [1] and isinstance(outcomes[1].error, SegcalError), f"cases {failed} failed instead of [1]")
        require(sorted(recorder.closed) == [0, 2, 3, 4], f"cases {sorted(recorder.closed)} were completed")


@law
def an_error_in_a_case_is_raised(make: Make) -> None:
    """`pin` and `survey` raise the error of a case that cannot be read, and leave no file behind."""
    cohort = cohort_from_arrays([np.zeros((2, 5)), np.full((2, 5), np.nan)], [np.zeros(5, int)] * 2, kind="logits")
    for workers in WORKERS:
        with tempfile.TemporaryDirectory() as folder, scratch_in(folder):
            verbs: tuple[Callable[[Engine], object], ...] = (
                lambda engine: engine.pin(cohort),
                lambda engine: engine.survey(cohort, {}),
            )
            for verb in verbs:
                try:
                    verb(spilling(make(workers)))
                except SegcalError:
                    continue
                require(False, f"NaN in a case was passed over by {workers} worker(s)")
            require(not list(Path(folder).rglob("*")), "files were left")


@law
def no_work_outlives_an_error(make: Make) -> None:
    """When an error is raised no worker is still at work, so that what it reads and writes may be removed."""
    cohort = example()
    for workers in WORKERS[:2]:
        engine = make(workers)
        busy = Busy(alone=engine.workers == 1)
        try:
            engine.survey(cohort, {"busy": Ask(busy)})
        except LabelError:
            left = sum(busy.log)
        else:
            require(False, "an error in a fold was passed over")
        finally:
            busy.over.set()
        require(left == 0, f"{left} case(s) are still under way after the error, with {workers} worker(s)")


@law
def torch_threads_are_given_back(make: Make) -> None:
    """Work runs on one torch thread, and the caller's number of threads is as before."""
    cohort = example()
    seen: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = make(2)
        list(engine.survey(cohort, {"threads": Ask(Threadwatch(seen))}))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    require(set(seen) == {1}, f"rows were folded with {sorted(set(seen))} torch threads")
    require(after == 2, f"the caller's 2 threads became {after}")


ENGINE_LAWS: tuple[Law[Make], ...] = (
    reduce_gives_the_bits_of_serial,
    samples_are_the_same_too,
    survey_gives_the_bits_of_serial,
    where_rows_are_kept_changes_no_bit,
    one_reduce_is_one_pass,
    nobody_asks_nothing_is_answered,
    map_takes_every_block_in_order,
    a_failing_case_stops_nothing_else,
    an_error_in_a_case_is_raised,
    no_work_outlives_an_error,
    torch_threads_are_given_back,
)
"""What `check_engine` checks."""


def check_engine(make: Make) -> None:
    """Check all laws of engines on `make`: number of workers to an engine.

    Raises BrokenLawError, or an ExceptionGroup of several.
    """
    check_all(ENGINE_LAWS, make)

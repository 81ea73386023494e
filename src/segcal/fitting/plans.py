"""Fits as conversations: plans that yield asks, driven together over shared passes; subsets of cases, cross-validated
strength.

A plan is a generator of asks. `together` runs many as one: each round answers all their pending asks, and asks about
all voxels wait until no plan has a cheaper one pending, so that nine fits and their cross-validation cost the passes of
the hardest one. `drive` is the loop.

Cases are split once into folds. A *subset* is named by the folds left out of it: () is everything, (2,) all but fold 2.
A method fits several subsets at once; the fits on (j, k) serve the inner cross-validation of both (j,) and (k,), so
nested cross-validation of K folds costs 1 + K + K (K - 1) / 2 paths.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, TypeVar

from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level, Through
from segcal.engine.engine import Engine
from segcal.engine.pinned import Pinned
from segcal.engine.single import one_thread
from segcal.engine.view import Group
from segcal.fitting.solvers.query import Evaluated, Query, Solved, Steps

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

Plan = Generator[Mapping[Any, Ask], Mapping[Any, Any], R]
Subset = tuple[int, ...]


def drive(plan: Plan[R], engine: Engine, pinned: Pinned) -> R:
    """Run a plan to its end: answer its asks with one pass a round.

    The plan's own arithmetic runs on one thread too.
    """
    engine.progress.start("fitting, most often in 10 to 100 passes over the cases", 0)
    try:
        with one_thread():
            asks = next(plan)
            while True:
                asks = plan.send(engine.reduce(pinned, asks))
                engine.progress.step()
    except StopIteration as stop:
        result: R = stop.value
        return result


def together(plans: Mapping[K, Plan[R]]) -> Plan[dict[K, R]]:
    """Many plans as one. No plan: an empty result, no ask."""
    results: dict[K, R] = {}
    pending: dict[K, Mapping[Any, Ask]] = {}

    def advance(key: K, answer: Mapping[Any, Any] | None) -> None:
        plan = plans[key]
        try:
            pending[key] = next(plan) if answer is None else plan.send(answer)
        except StopIteration as stop:
            pending.pop(key, None)
            results[key] = stop.value

    for key in plans:
        advance(key, None)
    while pending:
        cheap = [k for k, asks in pending.items() if all(a.level is not Level.ALL for a in asks.values())]
        turn = cheap or list(pending)
        answers = yield {(k, name): ask for k in turn for name, ask in pending[k].items()}
        for k in turn:
            advance(k, {name: answers[k, name] for name in pending[k]})
    return {k: results[k] for k in plans}


def mapped(plan: Plan[R], through: Mapping[frozenset[int], Through]) -> Plan[R]:
    """A plan whose asks concern the cases named in `through` only, and what their rows are after it."""
    try:
        asks = next(plan)
        while True:
            split = {
                (name, k): replace(ask, cases=cases if ask.cases is None else cases & ask.cases, through=one)
                for name, ask in asks.items()
                for k, (cases, one) in enumerate(through.items())
                if ask.wants_any(cases)
            }
            answers = yield split
            asks = plan.send({name: _together(ask, name, answers) for name, ask in asks.items()})
    except StopIteration as stop:
        result: R = stop.value
        return result


def _together(ask: Ask, name: Hashable, answers: Mapping[Any, Any]) -> Any:
    """One answer of those that `mapped` split it into."""
    mine = [state for (asked, _), state in answers.items() if asked == name]
    if ask.by_case:
        return {case: state for states in mine for case, state in states.items()}
    return reduce(lambda a, b: accumulate.merge(ask.accumulator, a, b), mine, accumulate.zero(ask.accumulator))


@dataclass(frozen=True)
class Task:
    """One softmax problem to be fitted on several subsets of the cases.

    `part` of the head and its number of `classes`; `groups`: the group of each case, validation cases included;
    `folds`: case indices of each fold; `subsets` asked for; `logits`: raw logits are known; `validation`: cases pinned
    beside them, of no subset and no fold, for methods that stop or choose by them; `unit`: what logits were divided by;
    `voxel_size`: as `Cohort.voxel_size`; `background`: the class, within the part, that is none of the structures;
    `names` of the cases, validation cases included.
    """

    part: int
    classes: int
    cases: frozenset[int]
    groups: tuple[str, ...]
    folds: tuple[tuple[int, ...], ...]
    subsets: tuple[Subset, ...]
    logits: bool
    validation: frozenset[int] = frozenset()
    unit: float = 1.0
    voxel_size: float | None = None
    background: int | None = None
    names: tuple[str, ...] = ()

    def members(self, subset: Subset) -> frozenset[int]:
        """Cases of a subset."""
        return self.cases - frozenset(i for k in subset for i in self.folds[k])

    def inner(self, subset: Subset) -> list[int]:
        """Folds a subset can be cross-validated on: those in it, if at least two."""
        rest = [k for k in range(len(self.folds)) if k not in subset]
        return rest if len(rest) >= 2 else []

    def ask(self, accumulator: accumulate.Accumulator, subset: Subset, level: Level, group: Group | None = None) -> Ask:
        """`accumulator` over the cases of a subset, or over one group of their voxels."""
        cases = self.members(subset)
        return Ask(
            accumulator, self.part, None if cases == self.cases and not self.validation else cases, level, group=group
        )


class Problem(Protocol):
    """What a solver minimises: its variables to an accumulator, the accumulator's answer to value, gradient and
    curvature in those variables.
    """

    def accumulator(self, query: Query) -> accumulate.Accumulator:
        """What to sum over voxels for a query."""

    def evaluated(self, query: Query, found: Any) -> Evaluated:
        """The answer in the solver's variables."""


@dataclass(frozen=True)
class Binding:
    """How a solver's queries become asks: what it varies, on which subset, at which level, under which penalty, for
    which group of voxels.
    """

    task: Task
    subset: Subset
    level: Level
    curvature_level: Level
    problem: Problem
    group: Group | None = None

    def run(self, steps: Steps) -> Plan[Solved]:
        """The solver's conversation as a plan."""
        try:
            queries = next(steps)
            while True:
                answers = yield {name: self._ask(q) for name, q in queries.items()}
                queries = steps.send({name: self._answer(q, answers[name]) for name, q in queries.items()})
        except StopIteration as stop:
            solved: Solved = stop.value
            return solved

    def _ask(self, query: Query) -> Ask:
        level = self.curvature_level if query.rough else self.level
        return self.task.ask(self.problem.accumulator(query), self.subset, level, self.group)

    def _answer(self, query: Query, state: accumulate.State) -> Evaluated:
        return self.problem.evaluated(query, accumulate.result(self.problem.accumulator(query), state))

"""Each law of methods rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar

import pytest

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.fitting.plans import Plan, Subset, Task
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import FittedMap, Method
from segcal.methods.temperature import ScaleMap, ScaleNLL, TemperatureScaling
from segcal.metrics.energy import FreeEnergySpread
from segcal.testing import methods as laws
from segcal.testing.law import BrokenLawError, Law
from segcal.testing.methods import METHOD_LAWS, check_method

Found = dict[Subset, FittedMap]


@dataclass(frozen=True)
class Specimen(TemperatureScaling):
    """Temperature scaling; the broken ones change what it found."""

    name: ClassVar[str] = "specimen"

    def plan(self, task: Task) -> Plan[Found]:
        found = yield from super().plan(task)
        return {subset: self.changed(one, task) for subset, one in found.items()}

    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return found


def times(found: FittedMap, factor: float) -> FittedMap:
    assert isinstance(found.map, ScaleMap)
    return FittedMap(ScaleMap(found.map.beta * factor), found.solution)


class Drifts(Specimen):
    calls: ClassVar[Any] = count()

    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return times(found, 1 + 1e-9 * next(self.calls))


@dataclass(frozen=True)
class NoticesWorkers(ScaleNLL):
    """A sum that depends on the thread it is made in."""

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        told = dict(super().fold(rows))
        return {**told, "value": told["value"] + (threading.current_thread() is not threading.main_thread())}


class NoticesThreads(Specimen):
    def plan(self, task: Task) -> Plan[Found]:
        found = yield from super().plan(task)
        answer = yield {"it": Ask(NoticesWorkers(1.0), task.part)}
        total = accumulate.result(NoticesWorkers(1.0), answer["it"]).value
        return {subset: times(one, 1 + 1e-3 * total) for subset, one in found.items()}


class CountsItsPlans(Specimen):
    """Plans under way at the same time disturb each other."""

    under_way: ClassVar[list[int]] = []

    def plan(self, task: Task) -> Plan[Found]:
        self.under_way.append(1)
        crowd = len(self.under_way)
        try:
            found = yield from super().plan(task)
        finally:
            self.under_way.pop()
        return {subset: times(one, 1 + 1e-6 * (crowd - 1)) for subset, one in found.items()}


class PeeksAtTheFold(Specimen):
    def plan(self, task: Task) -> Plan[Found]:
        found = yield from TemperatureScaling.plan(self, replace(task, subsets=((),)))
        return dict.fromkeys(task.subsets, found[()])


class ChangesScores(Specimen):
    def fit(self, scores: Any, *args: Any, **options: Any) -> Calibrator:
        fitted = super().fit(scores, *args, **options)
        if hasattr(scores, "mul_"):
            scores.mul_(2)
        return fitted


class SaysNothing(Specimen):
    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return FittedMap(found.map, replace(found.solution, message=""))


class NegativeGap(Specimen):
    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return FittedMap(found.map, replace(found.solution, certificate={"gap": -1.0, "proof": "none"}))


class StopsEarly(Specimen):
    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return FittedMap(
            found.map, replace(found.solution, status="stopped", certificate={"gap": 0.1, "proof": "none"})
        )


class WorseThanNeeded(Specimen):
    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        return FittedMap(found.map, replace(found.solution, objective=found.solution.objective + 1e-3))


class GivesUpOnBounds(Specimen):
    def changed(self, found: FittedMap, task: Task) -> FittedMap:
        if found.solution.status == "degenerate":
            raise ArithmeticError("the data do not bound the temperature")
        return found


class FirstCaseOnly(Specimen):
    def plan(self, task: Task) -> Plan[Found]:
        rest = tuple(sorted(task.cases - {0}))
        found = yield from TemperatureScaling.plan(self, replace(task, folds=(rest,), subsets=((0,),)))
        return dict.fromkeys(task.subsets, found[(0,)])


class FollowsOffsets(Specimen):
    def plan(self, task: Task) -> Plan[Found]:
        found = yield from super().plan(task)
        answer = yield {"it": Ask(FreeEnergySpread(), task.part)}
        spread = accumulate.result(FreeEnergySpread(), answer["it"]).std
        return {subset: times(one, 1 / (1 + spread)) for subset, one in found.items()}


class TakesAnything(Specimen):
    def fit(self, scores: Any, labels: Any = None, **options: Any) -> Calibrator:
        options.pop("no_such_field", None)
        return super().fit(scores, labels, **options)


BROKEN: list[tuple[Law[Any], type[Method], str]] = [
    (laws.fitting_again_gives_the_same_bits, Drifts, "a second fit"),
    (laws.workers_and_memory_change_no_bit, NoticesThreads, "workers gave other bits"),
    (laws.company_changes_no_bit, CountsItsPlans, "beside other methods"),
    (laws.crossfits_do_not_see_their_fold, PeeksAtTheFold, "differs from a fit without its fold"),
    (laws.fitting_changes_no_input, ChangesScores, "scores or labels were changed"),
    (laws.a_solution_is_complete, SaysNothing, "an empty message"),
    (laws.a_solution_is_complete, NegativeGap, "gap -1"),
    (laws.learnable_data_end_in_a_certified_optimum, StopsEarly, "stopped with gap 0.1"),
    (laws.never_worse_than_temperature_scaling, WorseThanNeeded, "temperature scaling"),
    (laws.degenerate_data_end_in_a_usable_map, GivesUpOnBounds, "do not bound"),
    (laws.order_of_cases_does_not_matter, FirstCaseOnly, "another order of cases"),
    (laws.offsets_do_not_matter_if_promised, FollowsOffsets, "offsets of the logits"),
    (laws.what_is_not_used_is_refused, TakesAnything, "an unknown field was taken"),
]


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Method], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen())
    assert found.value.law is law


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(METHOD_LAWS)


def test_a_sound_one_keeps_every_law() -> None:
    check_method(Specimen())


def test_a_method_whose_penalty_is_not_zero_at_temperature_scaling_is_excused_from_one_law() -> None:
    excused = set(laws.laws_of()) - set(laws.laws_of(nests_temperature=False))
    assert excused == {laws.never_worse_than_temperature_scaling}


def test_a_method_that_claims_no_optimum_is_excused_from_two_laws() -> None:
    excused = set(laws.laws_of()) - set(laws.laws_of(exact=False))
    assert excused == {laws.learnable_data_end_in_a_certified_optimum, laws.never_worse_than_temperature_scaling}
    check_method(StopsEarly(), exact=False)

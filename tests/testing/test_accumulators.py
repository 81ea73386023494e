"""Each law of accumulators rejects a specimen that breaks it, and names itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.testing import accumulators as laws
from segcal.testing.accumulators import ACCUMULATOR_LAWS, check_accumulator
from segcal.testing.law import BrokenLawError, Law


@dataclass(frozen=True)
class Sound:
    """Voxels, and the sum of the decided class's log-probability, bounded so that it stays finite."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": Count(), "sum": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        return {"voxels": rows.voxels, "sum": rows.log_probs.clamp_min(-50).sum().item()}

    def result(self, values: Mapping[str, Array]) -> Any:
        return float(values["sum"]) / max(int(values["voxels"]), 1)


@dataclass(frozen=True)
class OnesForZero(Count):
    def zero(self) -> Array:
        return np.ones(self.shape, np.int64)


@dataclass(frozen=True)
class RoundedSum(ExactSum):
    """A plain float64 sum."""

    def zero(self) -> Array:
        return np.zeros(self.shape)

    def lift(self, raw: Array) -> Array:
        return np.asarray(raw, np.float64)

    def value(self, state: Array) -> Array:
        return state


@dataclass(frozen=True)
class GreedyCount(Count):
    """Adds into its first argument."""

    def merge(self, a: Array, b: Array) -> Array:
        a += b
        return a


@dataclass(frozen=True)
class NarrowCount(Count):
    def lift(self, raw: Array) -> Array:
        return super().lift(raw).astype(np.int32)


class StartsAtOne(Sound):
    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": OnesForZero(), "sum": ExactSum()}


class RoundsWhileMerging(Sound):
    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": Count(), "sum": RoundedSum()}


class MergesInPlace(Sound):
    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": GreedyCount(), "sum": ExactSum()}


class EqualToNothing(Sound):
    """Compares by identity."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class EqualToAll(Sound):
    """Ignores its configuration, on which its leaves depend."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualToAll)

    def __hash__(self) -> int:
        return 0

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": Count(), "sum": ExactSum((self.classes,))}


class CountsBlocks(Sound):
    def fold(self, rows: Rows) -> Mapping[str, Any]:
        return {**super().fold(rows), "voxels": 1}


class CountsCases(Sound):
    def fold(self, rows: Rows) -> Mapping[str, Any]:
        return {**super().fold(rows), "voxels": rows.voxels * (1 + rows.case)}


class KeepsNarrowCounts(Sound):
    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": NarrowCount(), "sum": ExactSum()}


class Remembers(Sound):
    calls: ClassVar[list[int]] = []

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        self.calls.append(1)
        return {**super().fold(rows), "sum": float(len(self.calls))}


class ChangesRows(Sound):
    def fold(self, rows: Rows) -> Mapping[str, Any]:
        return {**super().fold(rows), "sum": rows.log_probs.mul_(0.5).clamp_min(-50).sum().item()}


class SumsMeans(Sound):
    def fold(self, rows: Rows) -> Mapping[str, Any]:
        return {"voxels": rows.voxels, "sum": rows.log_probs.clamp_min(-50).mean().item() if rows.voxels else 0.0}


class DividesByNothing(Sound):
    def result(self, values: Mapping[str, Array]) -> Any:
        return float(values["sum"]) / int(values["voxels"])


BROKEN: list[tuple[Law[Any], type[Sound], str]] = [
    (laws.zero_is_neutral, StartsAtOne, "zero is not the state"),
    (laws.order_and_grouping_change_no_bit, RoundsWhileMerging, "another order of merging"),
    (laws.merging_changes_neither_state, MergesInPlace, "a state changed"),
    (laws.equality_follows_the_configuration, EqualToNothing, "two made alike are not equal"),
    (laws.equality_follows_the_configuration, EqualToAll, "different leaves"),
    (laws.only_rows_count, CountsBlocks, "no row is not zero"),
    (laws.where_rows_come_from_does_not_matter, CountsCases, "another case count otherwise"),
    (laws.a_state_is_plain_arrays, KeepsNarrowCounts, "voxels is int32"),
    (laws.folding_is_pure, Remembers, "folding again"),
    (laws.folding_is_pure, ChangesRows, "the rows were changed"),
    (laws.another_cut_agrees_to_rounding, SumsMeans, "sums sum differ"),
    (laws.nothing_has_a_result, DividesByNothing, "ZeroDivisionError"),
]


@pytest.mark.parametrize(
    ("law", "specimen", "says"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_a_broken_specimen_is_rejected(law: Law[Any], specimen: type[Sound], says: str) -> None:
    with pytest.raises(BrokenLawError, match=says) as found:
        law.check(specimen)
    assert found.value.law is law
    assert specimen.__name__ in str(found.value)


def test_every_law_has_a_specimen() -> None:
    assert {law for law, *_ in BROKEN} == set(ACCUMULATOR_LAWS)


def test_a_sound_one_keeps_every_law() -> None:
    check_accumulator(Sound)

"""Lists of cases, volumes with intervals, and what an order is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segcal.outcomes.triage import NewCase, aurc, ordering, triage_rows, volume_rows
from tests.outcomes.test_reference import gathered, outcome

CASES = [NewCase(f"case {k}", outcome(k), voxel=2.0 if k else None) for k in range(5)]
NAMES = ("a", "b")


def test_the_lowest_expected_dice_comes_first() -> None:
    rows = triage_rows(CASES, NAMES, None, 0.1)
    values = [row["expected_dice"] for row in rows]
    assert values == sorted(values)
    assert {row["at_least"] for row in rows} == {None}
    assert {row["unlike_p"] for row in rows} == {None}


def test_bounds_are_expected_less_what_the_reference_says() -> None:
    reference = gathered(list(range(24)))
    for row in triage_rows(CASES, NAMES, reference, 0.1):
        for name, k in (("", -1), (".a", 0), (".b", 1)):
            assert row[f"at_least{name}"] == pytest.approx(row[f"expected_dice{name}"] - reference.dice_bound(k, 0.1))
    assert {row["at_least"] for row in triage_rows(CASES, NAMES, reference, 0.05)} == {None}


def test_a_case_with_nothing_delivered_comes_first() -> None:
    from dataclasses import replace

    bare = replace(outcome(0), decided=np.zeros(2, int), confidence=np.nan, entropy=np.nan)
    rows = triage_rows([*CASES, NewCase("bare", bare)], NAMES, gathered(list(range(24))), 0.1)
    assert (rows[0]["case"], rows[0]["expected_dice"], rows[0]["at_least"]) == ("bare", None, None)


def test_volumes() -> None:
    reference = gathered(list(range(24)))
    rows = volume_rows(CASES, NAMES, reference, 0.1)
    assert [(row["case"], row["structure"]) for row in rows[:3]] == [("case 0", "a"), ("case 0", "b"), ("case 1", "a")]
    for row, case in zip(rows[::2], CASES, strict=True):
        reach = reference.volume_bound(0, 0.1) * (1 + case.outcome.spread[0])
        assert row["expected_voxels"] == case.outcome.total[0]
        assert row["low_voxels"] == pytest.approx(max(0, case.outcome.total[0] - reach))
        assert row["high_voxels"] == pytest.approx(case.outcome.total[0] + reach)
    assert rows[0]["expected_ml"] is None
    assert rows[2]["expected_ml"] == pytest.approx(rows[2]["expected_voxels"] * 0.002)
    assert volume_rows(CASES, NAMES, None, 0.1)[0]["low_voxels"] is None


def test_areas_under_risk_coverage_curves() -> None:
    assert aurc([3, 2, 1], [0.0, 0.3, 0.6]) == pytest.approx((0 + 0.15 + 0.3) / 3)
    assert aurc([1, 2, 3], [0.0, 0.3, 0.6]) == pytest.approx((0.6 + 0.45 + 0.3) / 3)
    assert math.isnan(aurc([], []))


def test_what_an_order_is_worth() -> None:
    outcomes = {case.name: case.outcome for case in CASES}
    found = ordering(outcomes, {name: name for name in outcomes})
    assert found.cases == 5
    assert found.best <= found.aurc
    assert found.best <= found.random
    expected = [np.mean(o.expected_dice) for o in outcomes.values()]
    true = [np.mean(o.true_dice) for o in outcomes.values()]
    assert found.bias.mean == pytest.approx(np.mean(expected) - np.mean(true))
    assert -1 <= found.correlation.mean <= 1
    assert ordering({}, {}).to_json()["aurc"] is None

"""The stored simulation is complete, is what the script measures, and is what the warnings say."""

from __future__ import annotations

import math

import pytest

from benchmarks.coverage import CASES, RATIOS, REPEATS, SCHEMES, SHARED, cells, page
from segcal.errors import UsageError
from segcal.metrics.statistics.coverage import TOLERATED, covered, measured, warning
from segcal.metrics.statistics.resamples import ByGroup, Scheme, TwoLevel

STORED = {(c.scheme, c.repeats, c.cases, c.ratio, c.shared): c.coverage for c in measured()}
BOTH = ByGroup(repeats=True)


def check(schemes: list[Scheme], repeats: int, cases: int, studies: int) -> None:
    """Other draws of the same design: stored and new coverage differ by less than four standard errors (and 1.5 points
    for the partitions, which differ).
    """
    for c in cells(schemes, repeats, cases, partitions=2, studies=studies, seed=1):
        stored = STORED[c.scheme, c.repeats, c.cases, c.ratio, c.shared]
        error = math.sqrt(max(stored * (1 - stored), 0.01) * (1 / (2 * studies) + 1 / 2000))
        assert c.coverage == pytest.approx(stored, abs=4 * error + 0.015), c


@pytest.mark.parametrize(("repeats", "cases"), [(1, 10), (3, 10), (5, 30)])
def test_the_stored_table_is_what_a_simulation_gives(repeats: int, cases: int) -> None:
    check([TwoLevel(), BOTH], repeats, cases, 150)


@pytest.mark.slow
@pytest.mark.parametrize(("repeats", "cases"), [(2, 30), (10, 30), (30, 10), (3, 100)])
def test_more_of_the_stored_table(repeats: int, cases: int) -> None:
    check(list(SCHEMES.values()), repeats, cases, 300)


def test_every_cell_is_there() -> None:
    assert set(STORED) == {
        (s, r, n, ratio, shared)
        for s in SCHEMES
        for r in REPEATS
        for n in CASES
        for ratio in RATIOS
        for shared in SHARED
    }


def test_thirty_repeats_cover_what_they_say_where_the_scheme_fits_the_design() -> None:
    own = [STORED["two-level", 30, n, 1.0, 0.0] for n in CASES]
    pool = [
        STORED["groups and repeats", 30, n, ratio, shared]
        for n in CASES[1:]
        for ratio in RATIOS
        for shared in SHARED
        if shared
    ]
    assert all(abs(c - 0.95) <= 0.02 for c in own)
    assert all(abs(c - 0.95) <= 0.025 for c in pool)


def test_three_repeats_fall_short_and_the_warning_says_by_how_much() -> None:
    for scheme in (TwoLevel(), BOTH):
        low, high = covered(scheme, 3, 30, shared=True)
        assert (
            low
            == min(v for (s, r, n, _, shared), v in STORED.items() if (s, r, n) == (scheme.name, 3, 30) and shared)
            < 0.85
            < high
        )
        text = warning(scheme, 3, 30, shared=True)
        assert (
            "3 repeats of 30 independent test cases" in text
            and f"{100 * low:.0f} to {100 * high:.0f} %" in text
            and scheme.name in text
        )


def test_shared_cases_make_the_two_levels_worse_with_more_repeats() -> None:
    shared = [STORED["two-level", r, 30, 0.0, 0.9] for r in (1, 3, 10, 30)]
    assert shared == sorted(shared, reverse=True) and shared[-1] < 0.6


def test_a_warning_uses_the_nearest_smaller_design() -> None:
    assert covered(BOTH, 4, 99, shared=True) == covered(BOTH, 3, 30, shared=True)
    assert covered(BOTH, 1000, 1000, shared=True) == covered(BOTH, 30, 100, shared=True)
    assert covered(BOTH, 30, 100, shared=True)[0] >= TOLERATED and warning(BOTH, 30, 100, shared=True) == ""
    assert "studies with more cases" in warning(BOTH, 30, 4, shared=True) and "4 independent test cases" in warning(
        BOTH, 30, 4, shared=True
    )
    assert "1 repeat of 1 independent test case." in warning(BOTH, 1, 1, shared=False)


def test_what_was_not_measured_is_refused() -> None:
    class Other(ByGroup):
        name = "other"

    with pytest.raises(UsageError, match="found other"):
        warning(Other(), 3, 30, shared=True)
    with pytest.raises(UsageError, match="0 repeats of 30 cases"):
        warning(BOTH, 0, 30, shared=True)


def test_the_page_holds_every_figure() -> None:
    text = page(measured(), "COMMAND", 1.0)
    assert text.count("\n| 30 | 100 |") == len(SCHEMES) and f"{100 * STORED['two-level', 3, 30, 1.0, 0.9]:.1f}" in text

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.metrics.statistics.estimate import Estimate
from segcal.metrics.statistics.multiplicity import holm, note
from segcal.metrics.statistics.resamples import ByGroup, Comparison, Resamples


def test_holm_by_hand() -> None:
    """.005 * 4, .01 * 3, .03 * 2, then .04 * 1 raised to the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    got = holm([math.nan, 0.04, 0.02])
    assert math.isnan(got[0]) and got[1:] == pytest.approx([0.04, 0.04])
    assert holm([]).size == 0


@given(st.lists(st.floats(0.0, 1), min_size=1, max_size=20), st.randoms())
def test_holm_lies_between_p_and_bonferroni_whatever_the_order(p: list[float], shuffle: object) -> None:
    given_p, adjusted = np.array(p), holm(p)
    assert (adjusted >= given_p).all() and (adjusted <= np.minimum(1, len(p) * given_p) + 1e-15).all()
    order = np.random.default_rng(len(p)).permutation(len(p))
    assert np.array_equal(holm(given_p[order]), adjusted[order])
    assert (np.diff(adjusted[np.argsort(given_p, kind="stable")]) >= 0).all()


def comparison(low: float, high: float, p: float, identical: bool = False) -> Comparison:
    return Comparison(Estimate((low + high) / 2, low, high, 0.1, 0.95, 10, 0, 3), p, identical)


def test_the_note_counts() -> None:
    text = note(
        [
            comparison(0.1, 0.2, 0.001),
            comparison(-0.1, 0.2, 0.5),
            comparison(-0.3, -0.1, 0.03),
            comparison(0, 0, math.nan, identical=True),
        ],
        2000,
    )
    assert text.startswith("3 paired comparisons; 2 intervals exclude 0, where 0.15 would by chance")
    assert "1 stay below 0.05" in text and text.endswith("not counted: 1.") and "draw more" not in text
    assert "the smallest p comes out at 0.06" in note([comparison(0.1, 0.2, 0.001)] * 60, 2000)
    assert note([], 2000) == "No paired comparison was made."
    assert "exactly zero" in note([comparison(0, 0, math.nan, identical=True)], 2000)


def test_chance_alone_is_held_down() -> None:
    """Twenty differences of nothing: some interval often excludes 0, an adjusted p is below .05 in about one study of
    twenty.
    """
    rng = np.random.default_rng(0)
    resamples = Resamples(ByGroup(), [0] * 60, list(range(60)), replicates=2000)
    found, kept = 0, 0
    for _ in range(100):
        compared = resamples.compare(np.zeros((60, 20)), rng.normal(size=(60, 20)))
        found += any(c.estimate.excludes_zero for c in compared)
        kept += bool((holm([c.p for c in compared]) < 0.05).any())
    assert found > 50 and kept <= 16

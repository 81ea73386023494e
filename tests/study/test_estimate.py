"""What is left of a study, as it is told while it runs."""

from __future__ import annotations

from segcal.study.estimate import Estimate


def test_what_is_left_is_corrected_by_what_fits_took() -> None:
    guess = Estimate(300.0, 300.0, 0.0, {"a": 100.0, "b": 200.0}, {})
    assert guess.left(["a", "b"], 0, 0.0) == ", about 10 min left"
    assert guess.left(["a", "b"], 1, 200.0) == ", about 17 min left"
    # another run had fitted a
    assert guess.left(["b"], 0, 0.0) == ", about 8 min left"
    assert guess.left([], 0, 0.0) == ", about 5 min left"

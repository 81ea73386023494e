"""Asks: which cases they concern, and when two may share the rows they are folded from."""

from __future__ import annotations

from segcal.engine.ask import Ask, Level
from segcal.methods.temperature import ScaleNLL


def test_an_ask_without_cases_concerns_all():
    assert Ask(ScaleNLL(1.0)).wants(7)
    assert [k for k in range(4) if Ask(ScaleNLL(1.0), cases=frozenset({1, 3})).wants(k)] == [1, 3]
    assert not Ask(ScaleNLL(1.0), cases=frozenset()).wants(0)


def test_an_ask_is_a_value():
    assert Ask(ScaleNLL(0.5), 1, frozenset({2})) == Ask(ScaleNLL(0.5), 1, frozenset({2}))
    assert len({Ask(ScaleNLL(0.5)), Ask(ScaleNLL(0.5)), Ask(ScaleNLL(0.6))}) == 2


def test_levels_go_from_all_to_thin():
    assert list(Level) == [Level.ALL, Level.SAMPLE, Level.CURVATURE]

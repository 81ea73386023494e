"""New cases from elsewhere are called unlike, those from the same place as rarely as promised."""

from __future__ import annotations

import numpy as np

from segcal.outcomes.drift import LEVEL, beyond, drift, unlike


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> list[dict[str, float]]:
    return [
        {"confidence": 0.9 + 0.02 * rng.normal() - shift, "entropy": rng.random(), "expected_dice": rng.random()}
        for _ in range(n)
    ]


def reference(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_the_same_place_is_called_unlike_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(0)
    fired = sum(drift(reference(drawn(rng, 30)), drawn(rng, 15)).differs for _ in range(400))
    assert fired <= 400 * LEVEL + 4 * np.sqrt(400 * LEVEL)


def test_another_place_is_told_with_its_numbers() -> None:
    rng = np.random.default_rng(1)
    found = drift(reference(drawn(rng, 30)), drawn(rng, 15, shift=0.05))
    assert found.differs
    assert "UNLIKE the 30 groups" in found.sentence
    assert "confidence, in the median 0.836 against 0.892, " in found.sentence
    assert found.to_json()["confidence"]["p"] < LEVEL


def test_a_few_cases_far_out_are_seen() -> None:
    rng = np.random.default_rng(3)
    rows = drawn(rng, 60)
    for row in rows[:14]:
        row["confidence"] -= 0.2
    found = drift(reference(drawn(rng, 40)), rows)
    assert found.differs
    (told,) = [one for one in found.found if one.differs]
    assert (told.name, told.below >= 14) == ("confidence", True)
    assert "16 below and 2 above all of these" in found.sentence


def test_how_many_lie_beyond_all_others_is_counted_exactly() -> None:
    """Of 3 and 4 numbers: among all 35 ways to deal the ranks, those in which the lowest two are new, twice."""
    import itertools

    deals = list(itertools.combinations(range(7), 4))
    assert beyond(3, 4, 2) == min(1.0, 2 * np.mean([{0, 1} <= set(new) for new in deals]))
    assert beyond(3, 4, 0) == 1
    assert beyond(10, 1, 1) == 2 / 11


def test_one_case_alone_is_told_apart_by_its_own_number_only() -> None:
    rng = np.random.default_rng(2)
    old = reference(drawn(rng, 600))
    usual = {name: float(np.median(values)) for name, values in old.items()}
    assert unlike(old, usual) == 1
    assert unlike(old, {**usual, "confidence": 0.5}) <= 3 * 2 / 601


def test_nothing_to_compare() -> None:
    nothing = {"confidence": float("nan"), "entropy": float("nan"), "expected_dice": float("nan")}
    assert not drift({"confidence": [0.9]}, [nothing]).differs
    assert drift({}, []).sentence == ""
    assert unlike({}, nothing) == 1

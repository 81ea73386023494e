"""New cases from elsewhere are called unlike, those from the same place as rarely as promised."""

from __future__ import annotations

import numpy as np

from segcal.outcomes.drift import LEVEL, drift, unlike


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
    assert "confidence 0.836 against 0.892 (p = 1e-07)" in found.sentence
    assert found.to_json()["confidence"]["p"] < LEVEL


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

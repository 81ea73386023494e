"""A reference is what its groups say, in any order of cases; a file that holds something else is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from segcal.errors import UnreadableError
from segcal.outcomes.conformal import TooFewError
from segcal.outcomes.reference import Gathering, Reference, dice_errors, mean_of, statistics_of, volume_errors
from segcal.outcomes.sums import THRESHOLDS, CaseOutcome


def outcome(seed: int, structures: int = 2) -> CaseOutcome:
    rng = np.random.default_rng(seed)
    decided = rng.integers(50, 100, structures)
    labelled = rng.integers(50, 100, structures)
    both = np.minimum(decided, labelled) - rng.integers(0, 20, structures)
    inside = decided * rng.uniform(0.7, 0.95, structures)
    outside = rng.uniform(1, 9, structures)
    histogram = rng.multinomial(60, np.full(len(THRESHOLDS) + 1, 1 / (len(THRESHOLDS) + 1)), size=(2, structures))
    sums = (inside, 0.1 * inside, inside + outside, 0.1 * inside + 0.2 * outside)
    return CaseOutcome(decided, labelled, both, *sums, float(rng.random()), float(rng.random()), histogram)


GROUPS = [f"patient {k // 2}" for k in range(24)]


def gathered(order: list[int]) -> Reference:
    made = Gathering(("a", "b"), GROUPS, "set aside")
    for k in order:
        made.add(k, outcome(k))
    return made.done()


def test_by_hand() -> None:
    found = gathered(list(range(24)))
    assert (found.cases, found.groups, found.with_structure) == (24, 12, (12, 12))
    pairs = [(outcome(2 * g), outcome(2 * g + 1)) for g in range(12)]
    for k in (0, 1, -1):
        assert found.dice[k] == tuple(sorted(max(dice_errors(a)[k], dice_errors(b)[k]) for a, b in pairs))
    assert found.volume[1] == tuple(sorted(max(abs(volume_errors(a)[1]), abs(volume_errors(b)[1])) for a, b in pairs))
    missed = []
    for a, b in pairs:
        hits = a.histogram[1, 0] + b.histogram[1, 0]
        missed.append(np.cumsum(hits)[:-1] / hits.sum())
    assert found.missed[0] == pytest.approx(np.mean(missed, 0), abs=1e-12)
    entropy = [np.mean([a.entropy, b.entropy]) for a, b in pairs]
    assert found.statistics["entropy"] == pytest.approx(sorted(entropy))


def test_the_order_of_cases_does_not_matter() -> None:
    order = np.random.default_rng(1).permutation(24).tolist()
    assert gathered(order).to_json() == gathered(list(range(24))).to_json()


def test_it_comes_back_from_a_file() -> None:
    found = gathered(list(range(24)))
    assert Reference.from_json(json.loads(json.dumps(found.to_json()))).to_json() == found.to_json()


def test_thresholds() -> None:
    found = gathered(list(range(24)))
    assert found.dice_bound(0, 0.1) == found.dice[0][-1]  # the 12th of 12
    assert found.volume_bound(1, 0.5) == found.volume[1][6]
    cut = found.threshold(0, 0.2)
    k = int(np.flatnonzero(THRESHOLDS.numpy() == np.float32(cut))[0])
    assert (12 * found.missed[0][k] + 1) / 13 <= 0.2 < (12 * found.missed[0][k + 1] + 1) / 13
    with pytest.raises(TooFewError):
        found.dice_bound(0, 0.05)
    with pytest.raises(TooFewError):
        found.threshold(0, 0.05)


def test_a_structure_that_nobody_has() -> None:
    nobody = replace(
        outcome(0),
        decided=np.array([0, 60]),
        labelled=np.array([0, 60]),
        both=np.array([0, 50]),
        histogram=np.stack([outcome(0).histogram[0], outcome(0).histogram[1] * np.array([[0], [1]])]),
    )
    made = Gathering(("a", "b"), ["p", "q"], "cross-fitted")
    for k in range(2):
        made.add(k, nobody)
    found = made.done()
    assert found.with_structure == (0, 2)
    assert found.dice[0] == ()
    assert len(found.dice[1]) == len(found.dice[-1]) == 2
    with pytest.raises(TooFewError, match="0 groups"):
        found.threshold(0, 0.5)


def test_a_case_of_which_nothing_is_delivered_has_no_numbers_to_compare() -> None:
    numbers = statistics_of(replace(outcome(0), decided=np.zeros(2, int), confidence=np.nan, entropy=np.nan))
    assert np.isnan(list(numbers.values())).all()
    assert np.isnan(mean_of(np.array([np.nan])))


def test_where_every_threshold_misses_too_much_that_is_said() -> None:
    found = gathered(list(range(24)))
    hopeless = replace(found, missed=((0.3,) * len(THRESHOLDS), found.missed[1]))
    with pytest.raises(TooFewError, match=r"30 % missed .* expected at most 13 %, of 12 groups"):
        hopeless.threshold(0, 0.2)


@pytest.mark.parametrize(
    "change",
    [
        {"how": "guessed"},
        {"dice": [[0.1]]},
        {"missed": [[0.0], [0.0]]},
        {"volume": [["x"], [1.0]]},
        {"volume": [[float("nan")], [1.0]]},
        {"statistics": {}},
        {"structures": None},
    ],
)
def test_what_is_no_reference_is_refused(change: dict[str, object]) -> None:
    described = gathered(list(range(24))).to_json()
    with pytest.raises(UnreadableError, match="Fit again"):
        Reference.from_json({**described, **change})

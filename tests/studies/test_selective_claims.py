"""`benchmarks/selective_claims.py`: verdicts on numbers that are made up so that they are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import families, selective_claims
from benchmarks.selective_claims import OTHERS, SELECTIVE, STACKED, Cases, Claim, Comparison
from segcal.study.configuration import CLEAN

Given = Callable[[str, str, str], float]


def cases(mean: Given, spread: float = 0.001) -> Cases:
    """Twelve cases in six groups; a number is its mean and something of the case's own."""
    names = [f"c{k}" for k in range(12)]
    rng = np.random.default_rng(0)
    numbers = {
        (cohort, pipeline, metric): {c: mean(cohort, pipeline, metric) + spread * rng.normal() for c in names}
        for cohort in (CLEAN, "strong")
        for pipeline in (*OTHERS, *STACKED, SELECTIVE)
        for metric in selective_claims.METRICS
    }
    return Cases("made up", numbers, {c: str(int(c[1:]) // 2) for c in names})


def verdicts(mean: Given, spread: float = 0.001) -> dict[str, str]:
    return {claim.words: claim.verdict for claim in selective_claims.of_studies([cases(mean, spread)])}


def test_a_paper_that_is_right() -> None:
    def mean(cohort: str, pipeline: str, metric: str) -> float:
        if metric == "entropy":
            return 0.3 if pipeline == SELECTIVE else 0.2
        value = {"ece_objects_interior": 0.05, "ece_objects_boundary": 0.1}.get(metric, 0.08)
        return value * (0.5 if "selective" in pipeline else 1.0)

    assert set(verdicts(mean).values()) == {"holds"}


def test_one_comparison_the_other_way_is_enough() -> None:
    def mean(cohort: str, pipeline: str, metric: str) -> float:
        if pipeline == "DC(p0)":
            return 0.02
        return 0.04 if "selective" in pipeline else 0.08

    found = verdicts(mean)
    assert found["In domain, selective scaling has a lower ECE than every other calibrator"] == "does not hold"
    assert found["Under shift, selective scaling is better than Meta-Cal*"] == "holds"
    assert found["On top of other calibrators, selective scaling lowers their ECE"] == "does not hold"


def test_what_cannot_be_told_comes_with_what_would_have_been_seen() -> None:
    claims = selective_claims.of_studies([cases(lambda *_: 0.1, spread=0.05)])
    first = claims[0]
    assert first.verdict == "cannot be told"
    assert len(first.comparisons) == len(OTHERS)
    text = selective_claims.page(claims, "a command")
    for one in first.comparisons:
        assert one.smallest > abs(one.mean)
        assert f"one of {one.smallest:.4f} would have been" in text
    assert Claim("Anything", "nowhere", ()).verdict == "not measured"


@pytest.mark.parametrize(
    ("told", "sign", "outcome"),
    [(True, 1, "told its way"), (True, -1, "told the other way"), (False, 1, "not told"), (False, -1, "not told")],
)
def test_networks_that_disagree_tell_nothing(*, told: bool, sign: int, outcome: str) -> None:
    change = {"mean": -0.1, "low": -0.2, "high": -0.05, "smallest": 0.1, "told": told}
    assert Comparison.of("x", change, sign).outcome == outcome


def networks(*numbers: float) -> dict[str, dict[str, dict[str, float]]]:
    """By seed, eight cases of which each number is `number` and a little of the case's own."""
    return {
        str(seed): {f"c{k}": dict.fromkeys(families.HEADS, number + 0.001 * (k % 3)) for k in range(8)}
        for seed, number in enumerate(numbers)
    }


def test_families() -> None:
    family = families.Family("made up", "nuclei", {"small": "", "middle": "", "large": ""})
    kinds = {"small": networks(0.1, 0.1, 0.1), "middle": networks(0.5, 0.5, 0.5), "large": networks(0.2, 0.3, 0.4)}
    rows = families.rows_of({"kinds": kinds, "groups": {f"c{k}": str(k) for k in range(8)}}, family)
    assert rows["table"]["large"]["nll"] == pytest.approx(0.3 + 0.001 * 7 / 8)
    change = rows["changes"]["ece_10"]
    assert change["mean"] == pytest.approx(0.2)
    assert change["each"] == pytest.approx([0.1, 0.2, 0.3])
    assert change["told"]
    kinds["large"] = networks(0.05, 0.3, 0.4)  # a seed that says otherwise
    rows = families.rows_of({"kinds": kinds, "groups": {f"c{k}": str(k) for k in range(8)}}, family)
    assert not rows["changes"]["ece_10"]["told"]

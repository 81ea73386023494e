"""What is claimed on few simulated cases whose truth is known: a reduced `benchmarks/claims.py`; and strata of the
prediction, in which the truth cannot be beaten.
"""

from __future__ import annotations

import pytest
from scipy import stats

from benchmarks import claims, strata
from segcal.data.simulate.truth import Truth
from segcal.engine.serial import Serial


@pytest.mark.slow
@pytest.mark.parametrize("cases", [2, 3, 5])
def test_without_a_true_gain_none_is_claimed_more_often_than_the_interval_says(cases: int) -> None:
    cohorts = 30
    for row in claims.measure(Truth.temperature(3, 1.0), cases, cohorts, Serial()):
        most = int(stats.binom.ppf(0.999, cohorts, claims.NOMINAL))
        assert row["claims"]["nll"] <= (0 if cases == 2 else most), row["way"]


@pytest.mark.slow
def test_a_true_gain_is_claimed_on_ten_cases() -> None:
    beta, cohorts = claims.softer(), 15
    assert claims.divergence(beta) == pytest.approx(claims.GAIN, rel=0.05)
    for row in claims.measure(Truth.temperature(3, beta), claims.MANY, cohorts, Serial()):
        if "at least" in row["way"]:
            assert row["claims"]["nll"] <= 2
        else:
            assert row["claims"]["nll"] >= 0.8 * cohorts, row["way"]


def test_an_interrupted_measurement_goes_on(tmp_path) -> None:
    keep = tmp_path / "keep.jsonl"
    truth = Truth.temperature(3, 1.0)
    first = claims.measure(truth, 2, 1, Serial(), keep)
    assert claims.measure(truth, 2, 1, Serial(), keep) == first
    assert len(keep.read_text().splitlines()) == 1


def test_sharpening_the_truth_pays_in_strata_of_labels_only() -> None:
    rows = {(row["where"], row["metric"]): row for row in strata.table(strata.true_cohort(8))}
    assert any(row["rewards_over_confidence"] for (where, _), row in rows.items() if "labels" in where)
    for (where, metric), row in rows.items():
        if where.startswith("predicted") or where == "all voxels":
            assert not row["rewards_over_confidence"], (where, metric)
        if metric in ("nll", "brier"):
            assert row["true"] < min(row["sharpened"], row["softened"])

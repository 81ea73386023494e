"""The recommendation: the truth of simulated cohorts, what is kept, the rule of one standard error, and what it
refuses.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import segcal
from segcal.data.cohort import Cohort
from segcal.data.head import Regions
from segcal.data.scores import Resolution
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.truth import Truth
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import UsageError
from segcal.methods import methods
from segcal.methods.affine.fit import DirichletCalibration, VectorScaling
from segcal.methods.binned import IsotonicRegression
from segcal.methods.calibrator import Calibrator
from segcal.methods.method import Method
from segcal.methods.temperature import ScaleMap, TemperatureScaling
from segcal.metrics.statistics.clustered import clustered_mean, one_standard_error
from segcal.metrics.statistics.estimate import Estimate
from segcal.tasks import choose as recommendation
from segcal.tasks.choose import FREE, UNCALIBRATED, Recommendation, automatic, recommend
from segcal.testing.examples import learnable_cohort, learnable_regions

FEW: dict[str, Method] = {
    "ts": TemperatureScaling(),
    "vs": VectorScaling(lambda_=1e-3),
    "dc": DirichletCalibration(lambda_=1e-3),
    "isotonic": IsotonicRegression(),
}
"""With strengths given: choosing them as well takes most of the time."""


def simulated(truth: Truth, seed: int = 0, cases: int = 6, shape: tuple[int, int, int] = (6, 16, 16)) -> Cohort:
    """Cases whose labels are drawn from what `truth` makes of the scores."""
    design = Design(classes=("background", "organ", "lesion"), shape=shape, margin=(0, 0, 0), members=1)
    drawn = [Simulation(design, truth, seed).case(i) for i in range(cases)]
    return segcal.cohort_from_arrays(
        np.stack([c.log_probs for c in drawn]), np.stack([c.labels for c in drawn]).astype(int), kind="log_probs"
    )


@cache
def distorted(keep_map: bool = True) -> Recommendation:
    return recommend(simulated(Truth.general(3, 1), 1, 8), Serial(), keep_map=keep_map, methods=FEW)


@pytest.mark.parametrize("seed", range(3))
def test_scores_that_are_right_are_left_as_they_are(seed: int) -> None:
    found = recommend(simulated(Truth.temperature(3, 1.0), seed), Serial(), methods=FEW)
    assert (found.chosen, found.gains) == (UNCALIBRATED, False)
    assert any(reason.startswith("No gain") for reason in found.reasons)
    assert found.calibrator.solution is not None
    assert "No gain" in found.calibrator.solution.message


@pytest.mark.slow
@pytest.mark.parametrize("cases", [5, 12])
def test_scores_that_are_right_are_left_as_they_are_for_most_seeds(cases: int) -> None:
    chosen = [recommend(simulated(Truth.temperature(3, 1.0), seed, cases), Serial()).chosen for seed in range(6)]
    assert chosen.count(UNCALIBRATED) >= 5


@pytest.mark.parametrize("beta", [0.6, 1.5])
def test_a_temperature_is_found_and_nothing_more(beta: float) -> None:
    found = recommend(simulated(Truth.temperature(3, beta), 1, 8), Serial(), methods=FEW)
    assert found.chosen == "ts"
    assert found.calibrator.maps[0].describe()["temperature"] == pytest.approx(1 / beta, rel=0.1)
    assert found.evaluation.differences["nll"].mean < 0
    assert any(reason.startswith("Chosen: ts (1 parameter)") for reason in found.reasons)


def test_classes_distorted_each_in_its_own_way() -> None:
    kept, free = distorted(), distorted(keep_map=False)
    assert kept.chosen == "ts"
    assert kept.unconstrained == free.chosen
    assert free.chosen in ("vs", "dc")
    assert free.candidates[free.chosen].nll < kept.candidates["ts"].nll
    price = next(reason for reason in kept.reasons if reason.startswith("Without that"))
    assert kept.unconstrained in price
    assert "Dice" in price
    assert "of labels" in price


def test_only_what_is_proven_is_allowed() -> None:
    for found in (distorted(), distorted(keep_map=False)):
        assert next(iter(found.candidates)) == UNCALIBRATED
        parameters = [c.parameters for c in found.candidates.values()]
        assert parameters == sorted(parameters)
        for c in found.candidates.values():
            fits = [] if c.fit is None else [c.fit.calibrator, *c.fit.held_out]
            assert c.keeps_map == all(fit.guarantees().preserves_argmax == "proven" for fit in fits)
            assert c.allowed == (c.keeps_map or not found.keep_map)
            assert not c.keeps_map or c.after.block["flip_rate"] == 0


def test_numbers_are_those_of_the_cross_fit() -> None:
    cohort = simulated(Truth.general(3, 1), 1, 8)
    fits = segcal.fit_methods(FEW, cohort, Serial(), crossfit=True)
    scored = segcal.crossfitted(cohort, fits, Serial())
    found = distorted()
    rows = {
        name: [row["nll"] for row in e.calibrated.per_case] for name, e in scored.items() if e.calibrated is not None
    }
    for name in FEW:
        assert found.candidates[name].nll == pytest.approx(np.mean(rows[name]), rel=1e-12)
        by_hand = clustered_mean(np.subtract(rows[name], rows[found.best]), cohort.groups)
        assert found.candidates[name].excess.mean == pytest.approx(by_hand.mean, abs=1e-15)
        assert found.candidates[name].excess.standard_error == pytest.approx(by_hand.standard_error, abs=1e-15)
    best = min((c for c in found.candidates.values() if c.allowed), key=lambda c: c.nll)
    assert found.best == best.name


def test_the_simplest_of_equals_is_taken() -> None:
    methods = {"dc": DirichletCalibration(lambda_=1e5), "vs": VectorScaling(lambda_=1e5), "ts": TemperatureScaling()}
    found = recommend(simulated(Truth.temperature(3, 0.6), 2), Serial(), keep_map=False, methods=methods)
    assert found.chosen == "ts"
    assert found.candidates["dc"].ties


def test_invariance_on_request() -> None:
    cohort = learnable_cohort(6, (16, 16))
    methods = {name: FEW[name] for name in ("ts", "vs", "dc")}
    free = recommend(cohort, Serial(), keep_map=False, methods=methods)
    asked = recommend(cohort, Serial(), keep_map=False, invariant=True, methods=methods)
    assert free.candidates["vs"].allowed
    assert not asked.candidates["vs"].allowed
    assert asked.candidates["dc"].allowed
    assert asked.calibrator.guarantees().translation_invariant == "proven"
    assert any("offset" in reason for reason in asked.reasons)


def test_regions_keep_their_decision_and_free_ones_are_priced() -> None:
    cohort = learnable_regions(6, (12, 12))
    found = recommend(cohort, Serial(), methods=FEW)
    assert found.candidates["ts"].allowed
    assert "ts" + FREE not in found.candidates
    assert found.candidates["dc"].allowed
    assert not found.candidates["dc" + FREE].allowed
    assert found.candidates["dc" + FREE].after.block["flip_rate"] > 0
    assert found.candidates["ts"].parameters == 2
    assert found.calibrator.keeps_label
    free = recommend(cohort, Serial(), methods=FEW, keep_map=False)
    assert free.candidates["dc" + FREE].allowed
    assert isinstance(cohort.head, Regions)


def test_the_identity_is_saved_and_changes_nothing(tmp_path) -> None:
    cohort = simulated(Truth.temperature(3, 1.0))
    found = recommend(cohort, Serial(), methods={"ts": TemperatureScaling()})
    assert not found.gains
    found.calibrator.save(tmp_path / "cal.safetensors")
    loaded = segcal.load(tmp_path / "cal.safetensors")
    z = torch.log_softmax(torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 1)
    torch.testing.assert_close(loaded(z).double(), z.exp(), rtol=0, atol=1e-7)
    assert loaded.method == UNCALIBRATED
    assert loaded.data is not None
    assert len(loaded.data.records) == len(cohort)


def test_the_answer_does_not_depend_on_workers_and_is_plain() -> None:
    cohort = learnable_cohort(5, (10, 10))
    told = [
        json.dumps(
            recommend(cohort, engine, methods={"ts": TemperatureScaling()}).to_json(), sort_keys=True, allow_nan=False
        )
        for engine in (Serial(), Threads(2))
    ]
    assert told[0] == told[1]


def test_few_groups_are_said() -> None:
    assert "uncertain" in distorted().reasons[-1]


@pytest.mark.parametrize(("groups", "factor"), [(5, 1.1417), (2, 1.8373), (1000, 1.0005)])
def test_a_standard_error_is_wider_for_few_groups(groups: int, factor: float) -> None:
    found = one_standard_error(Estimate(0, -1, 1, 0.2, 0.95, groups, 0, groups))
    assert found == pytest.approx(0.2 * factor, rel=1e-3)
    assert stats.t.cdf(found / 0.2, groups - 1) == pytest.approx(stats.norm.cdf(1))


def test_one_group_has_no_standard_error() -> None:
    assert one_standard_error(clustered_mean([1.0, 2.0], ["a", "a"])) == np.inf


def test_what_it_refuses() -> None:
    cohort = learnable_cohort(2)
    with pytest.raises(UsageError, match="methods"):
        recommend(cohort, Serial(), methods={})
    with pytest.raises(UsageError, match="methods"):
        recommend(cohort, Serial(), methods={UNCALIBRATED: TemperatureScaling()})
    with pytest.raises(UsageError, match="group"):
        recommend(learnable_cohort(1), Serial())


def test_every_method_says_how_many_parameters_data_can_tell() -> None:
    assert set(automatic()) <= set(methods())
    assert {
        name: method.identifiable(5) for name, method in automatic().items() if name not in ("isotonic", "histogram")
    } == {
        "ts": 1,
        "ets": 3,
        "vs": 9,
        "ms-c": 20,
        "ms": 24,
        "dc": 24,
        "cdc": 120,
        "cms-ap": 100,
        "cms-op": 100,
        "bts": 6,
        "bts-class": 30,
        "bts-both": 60,
    }
    for name, make in methods().items():
        assert make().identifiable(2) >= 1, name


def test_an_uncertain_gain_of_a_temperature_is_taken_and_said_to_be_uncertain() -> None:
    """Four cases that need different temperatures: the mean gain is there, its standard error is larger."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(4, 3, 2000))
    beta = np.array([0.4, 0.4, 0.7, 1.3]).reshape(4, 1, 1)
    p = np.exp(beta * z) / np.exp(beta * z).sum(1, keepdims=True)
    y = (rng.random((4, 1, 2000)) > p.cumsum(1)).sum(1).clip(max=2)
    found = recommend(
        segcal.cohort_from_arrays(z, y),
        Serial(),
        methods={"ts": TemperatureScaling(), "dc": DirichletCalibration(lambda_=0.1)},
    )
    gain = found.candidates["ts"].evaluation.differences["nll"]
    assert -gain.mean > 1e-2 * found.candidates[UNCALIBRATED].nll
    assert found.candidates[UNCALIBRATED].ties
    assert found.chosen == "ts"
    assert any("not certain" in reason for reason in found.reasons)


def test_what_the_choice_gains_is_told_out_of_sample_the_choice_included() -> None:
    cohort = simulated(Truth.general(3, 1), 1, 6)
    found = recommend(cohort, Serial(), keep_map=False, methods=FEW)
    assert len(found.by_fold) == found.folds
    before = {row["case"]: row["nll"] for row in found.evaluation.uncalibrated.per_case}
    after = {row["case"]: row["nll"] for row in found.evaluation.calibrated.per_case}
    folds = next(c.fit.folds for c in found.candidates.values() if c.fit is not None)
    for name, fold in zip(found.by_fold, folds, strict=True):
        rows = {row["case"]: row["nll"] for row in found.candidates[name].after.per_case}
        assert [after[cohort[i].id] for i in fold] == pytest.approx([rows[cohort[i].id] for i in fold], rel=1e-12)
    change = found.evaluation.differences["nll"]
    assert change.mean == pytest.approx(np.mean(list(after.values())) - np.mean(list(before.values())), abs=1e-12)
    told = next(reason for reason in found.reasons if reason.startswith("Out of sample"))
    assert f"{-change.mean:.2g} ({-change.high:.2g} to {-change.low:.2g})" in told
    assert found.to_json()["by_fold"] == list(found.by_fold)


def test_folds_that_choose_otherwise_are_scored_by_what_they_chose(monkeypatch) -> None:
    monkeypatch.setattr(
        "segcal.tasks.choose._by_fold", lambda cohort, candidates, folds, parts: ("ts", UNCALIBRATED, *["dc"] * 4)
    )
    cohort = simulated(Truth.general(3, 1), 1, 6)
    found = recommend(cohort, Serial(), keep_map=False, methods={k: FEW[k] for k in ("ts", "dc")}, folds=6)
    folds = found.candidates["ts"].fit.folds
    rows = {name: {row["case"]: row["nll"] for row in c.after.per_case} for name, c in found.candidates.items()}
    after = {row["case"]: row["nll"] for row in found.evaluation.calibrated.per_case}
    for name, fold in zip(("ts", UNCALIBRATED, "dc"), folds[:3], strict=True):
        assert [after[cohort[i].id] for i in fold] == pytest.approx([rows[name][cohort[i].id] for i in fold])
    assert "4 of 6 folds choose it, others ts, uncalibrated" in " ".join(found.reasons)


def test_below_three_groups_no_gain_is_told() -> None:
    found = recommend(simulated(Truth.temperature(3, 0.4), 1, 2), Serial(), methods={"ts": TemperatureScaling()})
    assert found.chosen == "ts"
    assert not any("gains" in reason and "+-" in reason for reason in found.reasons)
    assert not any(reason.startswith("Out of sample") for reason in found.reasons)
    assert "With 2 groups no gain can be told: that takes 3 or more." in found.reasons
    assert found.evaluation.verdict is not None
    assert {cell.word for cell in found.evaluation.verdict.cells} == {"cannot be told"}


def test_giving_a_decision_up_keeps_the_resolution_and_the_unit() -> None:
    head = Regions(("whole",), ((1,),), (1,))
    made = Calibrator(head, "logits", [ScaleMap(2.0)], "ts", resolution=Resolution(1e-3, 1e-2), unit=8.0)
    free = recommendation._free(made)
    assert (free.resolution, free.unit, free.keep_decision) == (made.resolution, 8.0, False)

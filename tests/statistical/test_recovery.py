"""On cohorts whose truth is known, exact fits find it within errors clustered by case, and what they give is closer to
it.

Errors come from the sandwich over cases: gradients summed within cases, so that labels that cluster in patches do not
count as independent voxels. Joint checks are Hotelling's T^2 of the cases' gradients, whose null distribution is F(p, G
- p). They have power: they fail for a map that is not the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import segcal
from segcal.data.simulate.cohort import Design, SimulatedCase, Simulation
from segcal.data.simulate.truth import Truth, identifiable
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.methods.affine.sums import AffineNLL
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.clustered import paired_difference
from segcal.tasks import demo as demonstration

C = len(Design().classes)
ALPHA = 1e-3
DEMO = Simulation(Design(), Truth.general(C, demonstration.SEED), demonstration.SEED)
MANY = Design(shape=(10, 20, 20), margin=(0, 0, 0))

# orthonormal directions across classes, none of which is common to all classes
ACROSS = np.linalg.qr(np.column_stack([np.ones(C), np.eye(C)[:, : C - 1]]))[0][:, 1:]


def every_entry() -> NDArray[np.float64]:
    """Columns span [W | b] without gauge, flattened: what Dirichlet calibration can tell."""
    return np.kron(ACROSS, np.eye(C + 1))


def equal_rows() -> NDArray[np.float64]:
    """The same with rows of W that sum to zero, which is what equal row sums become once the gauge is removed."""
    inner = np.zeros((C + 1, C))
    inner[:C, : C - 1] = ACROSS
    inner[C, C - 1] = 1
    return np.kron(ACROSS, inner)


def one_scale() -> NDArray[np.float64]:
    """The single direction of a temperature."""
    return identifiable(np.eye(C), np.zeros(C)).reshape(-1, 1)


def inside(case: SimulatedCase) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    box = tuple(slice(low, high) for low, high in case.crop)
    return case.log_probs[(slice(None), *box)], case.labels[box]


@cache
def cohort(simulation: Simulation, first: int, last: int) -> segcal.Cohort:
    """Pooled scores and labels of these cases, in memory."""
    scores, labels = zip(*(inside(simulation.case(i)) for i in range(first, last)), strict=True)
    return segcal.cohort_from_arrays(list(scores), list(labels), kind="log_probs")


@dataclass(frozen=True)
class Found:
    """`estimate` and `truth` in the directions of a family, `covariance` clustered by case, `joint`: p-value of all of
    them together at the truth.
    """

    estimate: NDArray[np.float64]
    truth: NDArray[np.float64]
    covariance: NDArray[np.float64]
    joint: float

    @property
    def z(self) -> NDArray[np.float64]:
        return (self.estimate - self.truth) / np.sqrt(np.diag(self.covariance))


def gradients(
    data: segcal.Cohort, matrix: NDArray[np.float64], directions: NDArray[np.float64], order: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Gradient of the summed NLL of each case (G, p) and, for order 2, the whole curvature (p, p) along
    `directions`.
    """
    ask = Ask(AffineNLL(C, tuple(matrix.ravel().tolist()), order), by_case=True)
    answers, _ = segcal.Threads().survey(data, {"all": ask})
    each = [accumulate.result(ask.accumulator, answers["all"][i]) for i in range(len(data))]
    slopes = np.stack([directions.T @ (e.gradient * e.voxels) for e in each])
    curvature = directions.T @ sum(e.curvature * e.voxels for e in each) @ directions if order == 2 else None
    return slopes, curvature


def hotelling(rows: NDArray[np.float64]) -> float:
    """p-value of mean zero for independent rows (G, p)."""
    count, size = rows.shape
    mean, spread = rows.mean(0), np.cov(rows, rowvar=False).reshape(size, size)
    squared = count * float(mean @ np.linalg.solve(spread, mean))
    return float(stats.f.sf(squared * (count - size) / (size * (count - 1)), size, count - size))


def joined(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([weight, bias])


def recovery(data: segcal.Cohort, method: Any, truth: Truth, directions: NDArray[np.float64]) -> Found:
    fitted = method.fit(data).maps[0]
    weight, bias = (
        (fitted.beta.item() * np.eye(C), np.zeros(C))
        if isinstance(fitted, ScaleMap)
        else (fitted.weight.numpy(), fitted.bias.numpy())
    )
    slopes, curvature = gradients(data, joined(weight, bias), directions, 2)
    assert curvature is not None
    inverse = np.linalg.inv(curvature)
    count = len(data)
    covariance = inverse @ (slopes.T @ slopes) @ inverse * count / (count - 1)
    coordinates = np.linalg.pinv(directions)
    at_truth, _ = gradients(data, joined(truth.weight, truth.bias), directions, 1)
    return Found(
        coordinates @ identifiable(weight, bias).ravel(),
        coordinates @ truth.identifiable().ravel(),
        covariance,
        hotelling(at_truth),
    )


def test_dirichlet_calibration_recovers_the_demo() -> None:
    data = cohort(DEMO, 0, demonstration.FITTING)
    for method in (segcal.DirichletCalibration(lambda_=0.0), segcal.MatrixScaling(lambda_=0.0)):
        found = recovery(data, method, DEMO.truth, every_entry())
        assert len(found.z) == C * C - 1
        assert np.abs(found.z).max() < 4
        assert found.joint > ALPHA
        # the errors are small enough to say something
        assert np.sqrt(np.diag(found.covariance)).max() < 0.15
    identity = gradients(data, joined(np.eye(C), np.zeros(C)), every_entry(), 1)[0]
    assert hotelling(identity) < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_constrained_matrix_scaling_recovers_equal_row_sums(seed: int) -> None:
    truth = Truth.equal_row_sums(C, seed)
    data = cohort(Simulation(MANY, truth, 100 + seed), 0, 60)
    found = recovery(data, segcal.ConstrainedMatrixScaling(lambda_=0.0), truth, equal_rows())
    assert len(found.z) == C * (C - 1)
    assert np.abs(found.z).max() < 4
    assert found.joint > ALPHA
    # the whole estimate against its own covariance, which the many cases make a chi-square
    error = found.estimate - found.truth
    assert stats.chi2.sf(error @ np.linalg.solve(found.covariance, error), len(error)) > 1e-4


def test_dirichlet_calibration_tells_equal_row_sums_from_others() -> None:
    pick = np.kron(np.eye(C - 1), np.append(np.ones(C), 0.0))
    pvalues = []
    for truth in (Truth.equal_row_sums(C, 0), Truth.general(C, 0)):
        data = cohort(Simulation(MANY, truth, 100), 0, 60)
        found = recovery(data, segcal.DirichletCalibration(lambda_=0.0), truth, every_entry())
        assert np.abs(found.z).max() < 4
        assert found.joint > ALPHA
        row_sums = pick @ found.estimate
        pvalues.append(stats.chi2.sf(row_sums @ np.linalg.solve(pick @ found.covariance @ pick.T, row_sums), C - 1))
    assert pvalues[0] > ALPHA
    assert pvalues[1] < 1e-6


@pytest.mark.parametrize("beta", [0.5, 0.8])
def test_temperature_scaling_recovers_a_temperature(beta: float) -> None:
    truth = Truth.temperature(C, beta)
    data = cohort(Simulation(MANY, truth, 7), 0, 40)
    found = recovery(data, segcal.TemperatureScaling(), truth, one_scale())
    assert found.truth == pytest.approx([beta])
    assert abs(found.z[0]) < 4
    assert np.sqrt(found.covariance[0, 0]) < 0.02


def test_errors_that_ignore_clustering_would_be_too_small() -> None:
    data = cohort(DEMO, 0, demonstration.FITTING)
    matrix = joined(DEMO.truth.weight, DEMO.truth.bias)
    slopes, curvature = gradients(data, matrix, every_entry(), 2)
    assert curvature is not None
    # at the truth, independent voxels would make both the same in the mean
    ratio = np.diag(slopes.T @ slopes) / np.diag(curvature)
    assert ratio.mean() > 2


def test_labels_have_the_marginals_of_the_posterior() -> None:
    true, claimed = [], []
    for index in range(demonstration.FITTING):
        case = DEMO.case(index)
        where = case.inside
        seen = np.bincount(case.labels[where], minlength=C)
        true.append(seen - np.exp(case.log_posterior[:, where]).sum(1))
        claimed.append(seen - np.exp(case.log_probs[:, where]).sum(1))
    assert hotelling(np.array(true)[:, 1:]) > ALPHA
    assert hotelling(np.array(claimed)[:, 1:]) < 1e-6


def test_calibrated_probabilities_are_closer_to_the_truth() -> None:
    fit, test = (
        cohort(DEMO, 0, demonstration.FITTING),
        cohort(DEMO, demonstration.FITTING, demonstration.FITTING + demonstration.HELD_OUT),
    )
    affine = {"vs": segcal.VectorScaling, "ms-c": segcal.ConstrainedMatrixScaling, "dc": segcal.DirichletCalibration}
    methods = {"ts": segcal.TemperatureScaling()} | {name: method(lambda_=0.0) for name, method in affine.items()}
    fits = segcal.fit_methods(methods, fit, segcal.Threads())
    through = {None: None} | {name: f.calibrator.through(0) for name, f in fits.items()}
    asks = {name: Ask(demonstration.DistanceToTruth(DEMO.truth, t), by_case=True) for name, t in through.items()}
    answers, _ = segcal.Threads().survey(test, asks)
    per_case = {
        name: [accumulate.result(ask.accumulator, answers[name][i]).kl for i in range(len(test))]
        for name, ask in asks.items()
    }
    for before, after in ((None, "ts"), ("ts", "vs"), ("ts", "ms-c"), ("vs", "dc"), ("ms-c", "dc")):
        change = paired_difference(per_case[before], per_case[after], test.groups)
        assert change.high < 0, (before, after)
    assert np.mean(per_case["dc"]) < 0.01 * np.mean(per_case[None])

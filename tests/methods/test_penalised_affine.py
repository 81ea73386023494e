"""What the affine methods share: options, strength by cross-validation, limits, certificates against an independent
optimum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import segcal
from segcal import (
    ClassConditionalDirichlet,
    ConstrainedMatrixScaling,
    DirichletCalibration,
    MatrixScaling,
    OrderPreservingMatrixScaling,
    TemperatureScaling,
    VectorScaling,
    cohort_from_arrays,
)
from segcal.engine.serial import Serial
from segcal.errors import ScoreError, UsageError
from segcal.methods.affine import fit as affine
from segcal.methods.affine.fit import PenalisedAffine
from segcal.methods.strengths import LEAST, PATH, _told
from segcal.methods.temperature import ScaleMap
from segcal.metrics.statistics.clustered import clustered_mean, lowest_probabilities

FAMILIES = [VectorScaling, MatrixScaling, ConstrainedMatrixScaling, DirichletCalibration]
EYE = torch.eye(3, dtype=torch.float64)


def design_of(method: PenalisedAffine | type[PenalisedAffine], classes: int) -> np.ndarray:
    """How the family's variables make [W | b]."""
    design = method.design(classes)
    return np.eye(classes * (classes + 1)) if design is None else design


def objective(
    method: PenalisedAffine, z: np.ndarray, y: np.ndarray, beta: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The penalised objective and its gradient in the family's variables, by NumPy, from the formulas alone."""
    flat = np.moveaxis(z.astype(float), 1, 0).reshape(z.shape[1], -1)
    energy = np.logaddexp.reduce(flat, 0)
    kept = (flat - energy).astype(np.float32).astype(float)  # rows are kept as float32 log-probabilities
    phi = kept + energy if method.on_logits(True) else kept
    (c, n), eye, at = phi.shape, np.eye(z.shape[1]), y.ravel()
    psi, design = np.vstack([phi, np.ones(n)]), design_of(method, c)
    diagonal = isinstance(method, VectorScaling)
    mu = method.lambda_ if method.mu is None else method.mu
    # weights of the squares: (W - centre), b, and the ridge's (W - I), b
    if method.penalty == "ts":
        centre, on_w = beta * eye, method.lambda_ * (eye / c if diagonal else np.ones((c, c)) / c**2)
    elif diagonal:
        centre, on_w = eye, method.lambda_ * eye / c
    else:
        centre, on_w = 0 * eye, method.lambda_ * (1 - eye) / (c * (c - 1))

    def at_theta(theta: np.ndarray) -> tuple[float, np.ndarray]:
        m = (design @ theta).reshape(c, c + 1)
        w, b = m[:, :c], m[:, c]
        u = m @ psi
        log_p = u - np.logaddexp.reduce(u, 0)
        value = (
            -log_p[at, np.arange(n)].mean()
            + (on_w * (w - centre) ** 2).sum()
            + mu * (b**2).mean()
            + method.eps * (((w - eye) ** 2).mean() + (b**2).mean())
        )
        residual = np.exp(log_p)
        residual[at, np.arange(n)] -= 1
        g = residual @ psi.T / n
        g[:, :c] += 2 * on_w * (w - centre) + 2 * method.eps * (w - eye) / c**2
        g[:, c] += 2 * (mu + method.eps) * b / c
        return float(value), design.T @ g.ravel()

    return at_theta


def independent(method: PenalisedAffine, z: np.ndarray, y: np.ndarray, beta: float) -> float:
    """The optimum by scipy's L-BFGS-B, restarted until it moves no more."""
    start = np.linalg.lstsq(
        design_of(method, z.shape[1]),
        np.column_stack([beta * np.eye(z.shape[1]), np.zeros(z.shape[1])]).ravel(),
        rcond=None,
    )[0]
    value = np.inf
    for _ in range(5):
        found = scipy.optimize.minimize(
            objective(method, z, y, beta),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 0, "gtol": 1e-12, "maxiter": 3000, "maxcor": 30},
        )
        start = found.x
        if value - found.fun < 1e-12:
            break
        value = found.fun
    return float(found.fun)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize(
    "options",
    [{"lambda_": 0.0}, {"lambda_": 0.2, "mu": 0.03}, {"lambda_": 0.2, "mu": 0.03, "penalty": "odir"}],
    ids=str,
)
def test_the_optimum_is_scipys(family, options, arrays) -> None:
    """An independent solver on an independent objective finds nothing better, and what it finds is within the
    certificate.
    """
    z, y = arrays
    method = family(**options)
    solution = method.fit(z, y, engine=Serial()).solution
    other = independent(method, z, y, 1 / solution.settings["temperature"])
    assert solution.certificate["gap"] <= 1e-9
    assert abs(solution.objective - other) <= 1e-8
    assert solution.objective - other <= solution.certificate["gap"] + 1e-12
    assert solution.status == "optimal"


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6), family=st.sampled_from(FAMILIES), strength=st.sampled_from([1e-3, 0.1, 10.0]))
def test_random_problems_end_at_scipys_optimum(seed, family, strength, truth) -> None:
    rng = np.random.default_rng(seed)
    z, y = truth(seed, 2, 80, np.eye(3) + 0.3 * rng.normal(size=(3, 3)), rng.normal(size=3))
    method = family(strength)
    solution = method.fit(z, y, engine=Serial()).solution
    other = independent(method, z, y, 1 / solution.settings["temperature"])
    assert abs(solution.objective - other) <= 1e-8
    assert solution.certificate["gap"] <= 1e-9


FREE = [MatrixScaling, DirichletCalibration]


@pytest.mark.parametrize("family", FREE, ids=lambda f: f.name)
@pytest.mark.parametrize(
    "options", [{"lambda_": 1e-3}, {"lambda_": 0.2, "mu": 0.03}, {"lambda_": 0.2, "penalty": "odir"}], ids=str
)
def test_limited_memory_ends_at_the_same_optimum(family, options, arrays, monkeypatch) -> None:
    z, y = arrays
    newton = family(**options).fit(z, y, engine=Serial()).solution
    monkeypatch.setattr(affine, "LIMITED", 2)
    limited = family(**options).fit(z, y, engine=Serial()).solution
    assert limited.status == newton.status == "optimal"
    assert limited.certificate["proof"] == newton.certificate["proof"]
    assert limited.certificate["gap"] <= 1e-7
    assert limited.objective - newton.objective <= limited.certificate["gap"] + 1e-12
    assert newton.objective - limited.objective <= newton.certificate["gap"] + 1e-12


@pytest.mark.parametrize("family", FREE, ids=lambda f: f.name)
def test_limited_memory_chooses_strengths_as_newton_does(family, truth, fit, monkeypatch) -> None:
    """Cross-validated, too: weights agree as far as both paths end at their optima, where a weight below `LEAST` is
    left out.
    """
    cohort = cases(truth, 5, 8, np.eye(3) + 0.3 * np.random.default_rng(5).normal(size=(3, 3)))
    newton = fit({"one": family()}, cohort)["one"].calibrator
    monkeypatch.setattr(affine, "LIMITED", 2)
    limited = fit({"one": family()}, cohort)["one"].calibrator
    weights = [{row["lambda"]: row["weight"] for row in c.solution.settings["strengths"]} for c in (newton, limited)]
    assert all(abs(weights[0].get(k, 0) - weights[1].get(k, 0)) < LEAST + 0.02 for k in {*weights[0], *weights[1]})
    torch.testing.assert_close(limited.maps[0].weight, newton.maps[0].weight, atol=0.03, rtol=0)


@pytest.mark.parametrize("method", [VectorScaling(), DirichletCalibration(0.1)], ids=lambda m: m.name)
def test_sixty_classes_are_fitted(method, truth, fit) -> None:
    """Whose curvature of [W | b] would have 13 million numbers for each fit at once."""
    rng, c = np.random.default_rng(0), 60
    z = 2 * rng.normal(size=(4, c, 400)).astype(np.float32)
    p = np.exp(0.5 * z.astype(float)) * (1 + np.arange(c)[:, None])
    y = (rng.random((4, 1, 400)) > (p / p.sum(1, keepdims=True)).cumsum(1)).sum(1)
    engine = Serial(max_memory=2**30)
    found = segcal.fit_methods({"one": method, "ts": TemperatureScaling()}, cohort_from_arrays(z, y), engine)
    assert found["one"].calibrator.solution.status == "optimal"
    assert found["one"].calibrator.solution.nll < found["ts"].calibrator.solution.nll - 0.1


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_strong_penalty_leaves_temperature_scaling(family, arrays) -> None:
    z, y = arrays
    ts = TemperatureScaling().fit(z, y, engine=Serial())
    strong = family(1e9).fit(z, y, engine=Serial())
    torch.testing.assert_close(strong.maps[0].weight, ts.maps[0].beta * EYE, atol=1e-6, rtol=0)
    assert strong.maps[0].bias.abs().max() < 1e-6
    assert strong.solution.nll == pytest.approx(ts.solution.nll, abs=1e-6)


def test_odir_leaves_the_diagonal_free(truth) -> None:
    """Its limit is vector scaling without a bias, not temperature scaling."""
    z, y = truth(3, 2, 3000, np.diag([0.4, 1.0, 1.6]), np.zeros(3))
    odir = DirichletCalibration(1e6, 1e6, "odir").fit(z, y, engine=Serial())
    ts = TemperatureScaling().fit(z, y, engine=Serial())
    assert (odir.maps[0].weight - torch.diag(odir.maps[0].weight.diagonal())).abs().max() < 1e-5
    assert odir.maps[0].weight.diagonal().std() > 0.2
    assert odir.solution.nll < ts.solution.nll - 1e-3


@pytest.mark.parametrize("penalty", ["ts", "odir"])
def test_the_nll_falls_as_the_penalty_does(penalty, arrays) -> None:
    z, y = arrays
    found = [
        MatrixScaling(strength, penalty=penalty).fit(z, y, engine=Serial()).solution
        for strength in (10.0, 1.0, 0.1, 0.0)
    ]
    assert all(a.nll >= b.nll - 1e-9 for a, b in itertools.pairwise(found))
    assert [s.settings["strengths"] for s in found] == [
        ({"lambda": x, "mu": x, "weight": 1.0},) for x in (10.0, 1.0, 0.1, 0.0)
    ]


def test_mu_acts_on_the_bias_alone(arrays) -> None:
    z, y = arrays
    free, held = (DirichletCalibration(0.0, mu).fit(z, y, engine=Serial()) for mu in (0.0, 1e6))
    assert free.maps[0].bias.abs().max() > 0.05
    assert held.maps[0].bias.abs().max() < 1e-5
    assert (held.maps[0].weight - EYE / held.solution.settings["temperature"]).abs().max() > 0.01
    assert held.solution.settings["strengths"] == ({"lambda": 0.0, "mu": 1e6, "weight": 1.0},)
    assert "lambda = 0 and mu = 1e+06 (as given)" in held.solution.message


def cases(truth, seed: int, count: int, weight: np.ndarray, voxels: int = 150, by_case: float = 0.0):
    z, y = truth(seed, count, voxels, weight, np.zeros(len(weight)), by_case=by_case)
    return cohort_from_arrays(z, y)


KEPT = ({"lambda": None, "mu": None, "weight": 1.0},)


def test_where_nothing_is_to_be_gained_the_average_loses_little(truth, fit) -> None:
    """Few cases of a pure temperature, biases that differ by case: what is left to learn is noise.

    Most weight stays with strong penalties, and little is lost on new cases.
    """
    lost, strong = [], []
    for seed in range(6):
        found = fit(
            {"dc": DirichletCalibration(), "ts": TemperatureScaling(), "free": DirichletCalibration(0.0)},
            cases(truth, seed, 5, np.eye(3) / 1.5, by_case=0.4),
        )
        z, y = truth(seed + 100, 40, 150, np.eye(3) / 1.5, np.zeros(3), by_case=0.4)
        nll = {
            k: torch.nn.functional.nll_loss(f.calibrator.log_probs(torch.from_numpy(z)), torch.from_numpy(y)).item()
            for k, f in found.items()
        }
        lost.append([nll["dc"] - nll["ts"], nll["free"] - nll["ts"]])
        strong.append(
            sum(
                s["weight"]
                for s in found["dc"].calibrator.solution.settings["strengths"]
                if s["lambda"] is None or s["lambda"] >= 1
            )
        )
    assert np.mean(strong) >= 0.7
    assert np.mean(lost, 0)[0] <= np.mean(lost, 0)[1] / 2


def test_cross_validation_lets_go_where_the_truth_is_far_from_a_temperature(truth, fit) -> None:
    weight = np.array([[0.3, 0.6, 0.0], [0.0, 1.5, -0.4], [0.5, 0.0, 0.6]])
    calibrator = fit({"dc": DirichletCalibration()}, cases(truth, 1, 8, weight, 1500))["dc"].calibrator
    assert (
        sum(
            s["weight"]
            for s in calibrator.solution.settings["strengths"]
            if s["lambda"] is not None and s["lambda"] <= 0.1
        )
        > 0.9
    )
    assert "cross-validated" in calibrator.solution.message
    assert calibrator.solution.certificate["gap"] <= 1e-9


def test_what_averaging_gains_is_told_on_folds_that_had_no_part_in_the_weights() -> None:
    """By hand: noise picked on all cases looks like a gain, out of sample it is none; below three groups silence."""
    rng = np.random.default_rng(0)
    noise = np.vstack([np.zeros(6), rng.normal(size=(8, 6))])
    assert max(noise.mean(1)) > 0.3
    told = _told(noise, list("abcdef"), range(6))
    assert "cannot be told" in told
    by_hand = np.empty(6)
    for i in range(6):
        rest = [k for k in range(6) if k != i]
        probable = lowest_probabilities(-noise[:, rest], [list("abcdef")[k] for k in rest])
        weights = np.where(probable >= LEAST, probable, 0)
        by_hand[i] = weights @ noise[:, i] / weights.sum()
    bound = clustered_mean(by_hand, range(6))
    assert f"({bound.low:.2g} to {bound.high:.2g} out of sample)" in told
    sure = np.vstack([np.zeros(6), 0.5 + 0.01 * rng.normal(size=6)])
    assert "NLL at least 0.5" in _told(sure, list("aabbcc"), [0, 0, 1, 1, 2, 2])
    assert _told(sure, list("aaabbb"), [0, 0, 0, 1, 1, 1]) == ""


@pytest.mark.parametrize("count", [2, 3])
def test_two_cases_claim_no_gain(count, truth, fit) -> None:
    solution = fit({"dc": DirichletCalibration()}, cases(truth, 0, count, np.eye(3), 400, by_case=1.0))["dc"].calibrator
    message = solution.solution.message
    assert ("temperature scaling" in message) == (count == 3 or "none is likely" in message)
    assert "at least" not in message


@pytest.mark.parametrize("penalty", ["ts", "odir"])
def test_the_selection_is_a_whole_table_with_the_weights_used(penalty, truth, fit) -> None:
    weight = np.array([[0.5, 0.3, 0.0], [0.0, 1.2, 0.0], [0.2, 0.0, 0.8]])
    solution = fit({"ms": MatrixScaling(penalty=penalty)}, cases(truth, 2, 6, weight, 500))["ms"].calibrator.solution
    table = solution.selection
    assert [row["lambda"] for row in table] == [None, *PATH]
    assert all(
        set(row) == {"lambda", "nll", "gain", "standard_error", "excess", "excess_standard_error", "weight"}
        for row in table
    )
    assert all(row["gain"] == pytest.approx(table[0]["nll"] - row["nll"], abs=1e-12) for row in table)
    lowest = min(row["nll"] for row in table)
    assert all(row["excess"] == pytest.approx(row["nll"] - lowest, abs=1e-12) for row in table)
    assert sum(row["weight"] for row in table) == pytest.approx(1, abs=1e-12)
    assert min(row["weight"] for row in table if row["weight"]) >= LEAST
    assert [(s["lambda"], s["weight"]) for s in solution.settings["strengths"]] == [
        (row["lambda"], row["weight"]) for row in table if row["weight"]
    ]


@pytest.mark.parametrize(
    "method", [DirichletCalibration, VectorScaling, ClassConditionalDirichlet, OrderPreservingMatrixScaling]
)
def test_what_is_delivered_is_the_mean_of_the_fits_by_weight(method, truth) -> None:
    """Fits at each strength made one by one; on data no fit has seen, the mean's NLL is at most the mean NLL, since NLL
    is convex.
    """
    weight = np.array([[0.9, 0.1, 0.0], [0.0, 0.7, 0.0], [0.1, 0.0, 0.5]])
    z, y = truth(3, 5, 300, weight, np.zeros(3), by_case=0.3)
    made = method().fit(z, y, engine=Serial())
    strengths = made.solution.settings["strengths"]
    assert len(strengths) >= 2
    single = [
        (TemperatureScaling() if s["lambda"] is None else method(s["lambda"])).fit(z, y, engine=Serial())
        for s in strengths
    ]
    weights = [s["weight"] for s in strengths]

    def parameters(calibrator) -> torch.Tensor:
        m = calibrator.maps[0]
        if isinstance(m, ScaleMap):
            weight, bias = made.maps[0].weight, made.maps[0].bias
            eye = torch.eye(weight.shape[-1], dtype=torch.float64).expand(weight.shape)
            return torch.cat([(m.beta * eye).flatten(), torch.zeros_like(bias).flatten()])
        return torch.cat([m.weight.flatten(), m.bias.flatten()])

    mean = sum(w * parameters(c) for w, c in zip(weights, single, strict=True))
    torch.testing.assert_close(parameters(made), mean, atol=2e-4, rtol=2e-4)
    assert made.solution.nll == pytest.approx(nll_of(made, z, y), abs=1e-7)  # rows are kept as float32
    assert made.solution.objective == pytest.approx(
        sum(w * c.solution.objective for w, c in zip(weights, single, strict=True)), abs=1e-8
    )
    assert made.solution.certificate["gap"] <= 1e-8
    new = truth(30, 6, 300, weight, np.zeros(3), by_case=0.3)
    assert nll_of(made, *new) <= sum(w * nll_of(c, *new) for w, c in zip(weights, single, strict=True)) + 1e-9


def nll_of(calibrator, z: np.ndarray, y: np.ndarray) -> float:
    return float(torch.nn.functional.nll_loss(calibrator.log_probs(torch.from_numpy(z)), torch.from_numpy(y)))


@pytest.mark.parametrize("method", [DirichletCalibration, OrderPreservingMatrixScaling])
def test_validation_cases_take_the_place_of_the_folds(method, truth) -> None:
    """Every strength is judged by its NLL on the validation cases, none of which is fitted on; a strength that is given
    needs none.
    """
    weight = np.array([[0.5, 0.3, 0.0], [0.0, 1.2, 0.0], [0.2, 0.0, 0.8]])
    z, y = truth(5, 8, 400, weight, np.zeros(3))
    mine, theirs = (
        cohort_from_arrays(z[:4], y[:4], groups=list("abcd")),
        cohort_from_arrays(z[4:], y[4:], groups=list("efgh")),
    )
    solution = method().fit(mine, validation=theirs, engine=Serial()).solution
    assert "chosen on validation cases" in solution.message
    table = {row["lambda"]: row["nll"] for row in solution.selection}
    for strength in (1.0, 0.01):
        alone = method(strength).fit(mine, engine=Serial())
        u = alone.log_probs(torch.from_numpy(z[4:])).movedim(1, 0).reshape(3, -1)
        nll = -u.gather(0, torch.from_numpy(y[4:]).reshape(1, -1)).mean()
        assert table[strength] == pytest.approx(float(nll), abs=2e-5)
    with pytest.raises(UsageError, match="validation"):
        method(1.0).fit(mine, validation=theirs, engine=Serial())
    one = cohort_from_arrays(z[4:5], y[4:5], groups=["e"])
    assert method().fit(mine, validation=one, engine=Serial()).solution.settings["strengths"] == KEPT


def test_the_table_is_that_of_fits_made_one_by_one(truth, fit) -> None:
    """Each case's NLL under a fit without its fold, recomputed from separate cohorts; the path is solved to a gain of
    1e-7, hence the tolerance.
    """
    weight = np.array([[0.5, 0.3, 0.0], [0.0, 1.2, 0.0], [0.2, 0.0, 0.8]])
    z, y = truth(5, 4, 400, weight, np.zeros(3))
    made = fit({"dc": DirichletCalibration(), "ts": TemperatureScaling()}, cohort_from_arrays(z, y), crossfit=True)
    table = {row["lambda"]: row["nll"] for row in made["dc"].calibrator.solution.selection}
    expected: dict[float | None, list[float]] = {None: [], 1.0: [], 0.01: []}
    for fold in made["dc"].folds:
        rest = [i for i in range(4) if i not in fold]
        for strength in expected:
            method = TemperatureScaling() if strength is None else DirichletCalibration(strength)
            calibrator = method.fit(z[rest], y[rest], engine=Serial())
            for i in fold:
                expected[strength].append(
                    torch.nn.functional.nll_loss(
                        calibrator.log_probs(torch.from_numpy(z[i : i + 1])), torch.from_numpy(y[i : i + 1])
                    ).item()
                )
    for strength, values in expected.items():
        assert table[strength] == pytest.approx(np.mean(values), abs=5e-5)


def test_one_group_keeps_temperature_scaling_and_says_why(arrays, fit) -> None:
    z, y = arrays
    for cohort in (cohort_from_arrays(z[:1], y[:1]), cohort_from_arrays(z, y, groups=["p"] * 4)):
        solution = fit({"dc": DirichletCalibration()}, cohort)["dc"].calibrator.solution
        assert "fewer than two groups" in solution.message
        assert solution.settings["strengths"] == KEPT
        assert solution.selection == ()
        assert solution.status == "optimal"


def test_groups_not_cases_are_what_is_held_out(truth, fit) -> None:
    """Six cases in two groups: two folds, each a whole group."""
    z, y = truth(1, 6, 200, np.eye(3) / 1.5, np.zeros(3))
    made = fit({"dc": DirichletCalibration()}, cohort_from_arrays(z, y, groups=[*"aabbab"]), crossfit=True)["dc"]
    assert sorted(map(sorted, made.folds)) == [[0, 1, 4], [2, 3, 5]]
    assert all("fewer than two groups" in c.solution.message for c in made.held_out)
    assert len(made.calibrator.solution.selection) == 1 + len(PATH)


WRONG = [
    ({"lambda_": -1.0}, "lambda_"),
    ({"lambda_": float("nan")}, "lambda_"),
    ({"lambda_": float("inf")}, "lambda_"),
    ({"lambda_": None}, "lambda_"),
    ({"lambda_": "auto"}, "lambda_"),
    ({"lambda_": [1.0]}, "lambda_"),
    ({"mu": -0.1, "lambda_": 1.0}, "mu"),
    ({"mu": "auto", "lambda_": 1.0}, "mu"),
    ({"mu": 1.0}, "mu"),
    ({"mu": "cv", "lambda_": 1.0}, "mu"),
    ({"eps": -1e-8}, "eps"),
    ({"eps": None}, "eps"),
    ({"eps": "cv"}, "eps"),
    ({"penalty": "l2"}, "penalty"),
]


@pytest.mark.parametrize(("options", "name"), WRONG, ids=str)
def test_wrong_options_are_named(options, name) -> None:
    with pytest.raises(UsageError) as caught:
        DirichletCalibration(**options)
    assert caught.value.where == name


def test_both_strengths_may_be_asked_of_the_data() -> None:
    method = DirichletCalibration("cv", "cv")
    assert method.cross_validates
    assert not DirichletCalibration(1.0).cross_validates
    assert DirichletCalibration(np.float32(1.0), np.int64(2)).lambda_ == 1


def test_options_of_any_number_type_can_be_saved(arrays, tmp_path) -> None:
    z, y = arrays
    calibrator = DirichletCalibration(np.float32(0.5), np.int64(2), eps=np.float32(1e-6)).fit(z, y, engine=Serial())
    calibrator.save(tmp_path / "cal.safetensors")
    assert calibrator.solution.settings["strengths"] == ({"lambda": 0.5, "mu": 2.0, "weight": 1.0},)


def test_without_a_ridge_an_infimum_is_said_not_to_be_attained(arrays) -> None:
    z, _ = arrays
    solution = DirichletCalibration(0.0, eps=0.0).fit(z, z.argmax(1), engine=Serial()).solution
    assert solution.status == "degenerate"
    assert "infimum is not attained" in solution.message
    assert "ridge do" not in solution.message
    bounded = DirichletCalibration(0.0).fit(z, z.argmax(1), engine=Serial()).solution
    assert "ridge do" in bounded.message
    assert "theta" in solution.certificate["proof"]
    assert bounded.certificate["proof"] == "strong convexity of the penalty"


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_each_family_has_its_dimension(family, classes) -> None:
    design = design_of(family, classes)
    counts = {"vs": 2 * classes, "ms": classes**2 + classes, "ms-c": classes**2 + 1, "dc": classes**2 + classes}
    assert design.shape == (classes * (classes + 1), counts[family.name])
    assert np.linalg.matrix_rank(design) == counts[family.name]
    identity = np.column_stack([np.eye(classes), np.zeros(classes)]).ravel()
    assert np.abs(design @ np.linalg.lstsq(design, identity, rcond=None)[0] - identity).max() < 1e-12


def test_an_offset_beyond_reason_is_an_error_that_says_what_to_do(arrays) -> None:
    z, y = arrays
    shifted = z.astype(np.float64)
    shifted[:, :, :4] += 1e10
    with pytest.raises(ScoreError, match="dc, ms-c, ts"):
        MatrixScaling(0.0).fit(shifted, y, engine=Serial())
    assert DirichletCalibration(0.0).fit(shifted, y, engine=Serial()).solution.status == "optimal"

"""What the class-conditional methods share: the optimum of an independent solver, parity with the peer's objective,
empty and thin experts, options.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal import (
    ArgmaxPreservingMatrixScaling,
    ClassConditionalDirichlet,
    DirichletCalibration,
    OrderPreservingMatrixScaling,
    TemperatureScaling,
    cohort_from_arrays,
)
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.conditional.fit import PenalisedConditional
from segcal.methods.strengths import PATH
from segcal.study.recipe.recipe import Recipe

FAMILIES = [ArgmaxPreservingMatrixScaling, OrderPreservingMatrixScaling, ClassConditionalDirichlet]
OPTIONS = [
    {"lambda_": 0.0, "eps": 1e-4},
    {"lambda_": 0.2, "mu": 0.03},
    {"lambda_": 0.2, "experts": "independent"},
    {"lambda_": 0.2, "mu": 0.03, "penalty": "odir"},
]


def independent(method: PenalisedConditional, z: np.ndarray, y: np.ndarray, beta: float) -> float:
    """The joint optimum over all experts at once, by L-BFGS-B on an objective written from the formulas alone, with
    autograd.
    """
    c = z.shape[1]
    x = torch.from_numpy(np.moveaxis(z.astype(float), 1, 0).reshape(c, -1)).log_softmax(0).float().double()
    at, winner = torch.from_numpy(y.ravel()), x.argmax(0)
    free, ranked = isinstance(method, ClassConditionalDirichlet), isinstance(method, OrderPreservingMatrixScaling)
    k = c if free else c - 1
    mu = method.lambda_ if method.mu is None else method.mu
    n = x.shape[1]
    off = ~torch.eye(c, dtype=torch.bool)

    def penalty(a: torch.Tensor, g: torch.Tensor, winner_row: int) -> torch.Tensor:
        ridge = method.eps * (((a - torch.eye(k, dtype=torch.float64)) ** 2).mean() + (g**2).mean())
        if method.penalty == "ts":
            return (
                method.lambda_ * ((a - beta * torch.eye(k, dtype=torch.float64)) ** 2).mean()
                + mu * (g**2).mean()
                + ridge
            )
        if free:
            return method.lambda_ * (a[off] ** 2).mean() + mu * (g**2).mean() + ridge
        spread = torch.cat(
            [torch.zeros(1, k), torch.ones(k, k).tril() if ranked else torch.eye(k, dtype=torch.float64)]
        ).double()
        d = torch.zeros(k, c, dtype=torch.float64)
        for j in range(k):
            d[j, j if ranked else 0] = 1
            d[j, j + 1] -= 1
        w, b = -spread @ a @ d, -spread @ g
        if method.gauge == "pinned":
            w = w + torch.eye(c, dtype=torch.float64)[0]
        else:
            w = w - torch.where(off, w, 0).sum(0) / (c - 1)
            b = b - b.mean()
        return method.lambda_ * (w[off] ** 2).mean() + mu * (b**2).mean() + ridge

    def at_theta(theta: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.from_numpy(theta).requires_grad_()
        maps = t.reshape(c, k, k + 1)
        total = torch.zeros((), dtype=torch.float64)
        for e in range(c):
            mine = winner == e
            a, g = maps[e, :, :k], maps[e, :, k]
            rows, target = x[:, mine], at[mine]
            if ranked:
                places = rows.argsort(dim=0, descending=True, stable=True)
                rows, target = rows.gather(0, places), (places == target).int().argmax(0)
            others = [j for j in range(c) if j != (0 if ranked else e)]
            m = rows if free else rows[:-1] - rows[1:] if ranked else rows[e] - rows[others]
            v = a @ m + g[:, None]
            if free:
                u = v
            elif ranked:
                u = torch.cat([torch.zeros(1, v.shape[1]), -v.cumsum(0)])
            else:
                u = torch.zeros_like(rows).index_put((torch.tensor(others),), -v)
            total = total + torch.nn.functional.cross_entropy(u.T, target, reduction="sum") / n
            share = mine.double().mean() if method.experts == "independent" else 1 / c
            total = total + share * penalty(a, g, e)
        total.backward()
        return total.item(), t.grad.numpy()

    theta = np.tile(np.column_stack([beta * np.eye(k), np.zeros(k)]).ravel(), c)
    bounds = None if free else [(0, None)] * len(theta)
    value = np.inf
    for _ in range(6):
        found = scipy.optimize.minimize(
            at_theta,
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 0, "gtol": 1e-12, "maxiter": 4000, "maxcor": 30, "maxfun": 10**5},
        )
        theta = found.x
        if value - found.fun < 1e-12:
            break
        value = found.fun
    return float(found.fun)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_optimum_is_scipys(family, options, arrays) -> None:
    """An independent solver on an independent objective finds nothing better, and what it finds is within the
    certificate.
    """
    z, y = arrays
    method = family(**options)
    solution = method.fit(z, y, engine=Serial()).solution
    other = independent(method, z, y, 1 / solution.settings["temperature"])
    assert solution.certificate["gap"] <= 1e-8
    assert solution.certificate["kkt"] <= 1e-6
    assert abs(solution.objective - other) <= 1e-7
    assert solution.objective - other <= solution.certificate["gap"] + 1e-11
    assert solution.status == "optimal"


@pytest.mark.parametrize("family", FAMILIES[:2], ids=lambda f: f.name)
def test_the_pinned_gauge_is_scipys_too(family, arrays) -> None:
    z, y = arrays
    method = family(0.2, 0.03, "odir", gauge="pinned")
    solution = method.fit(z, y, engine=Serial()).solution
    assert abs(solution.objective - independent(method, z, y, 1.0)) <= 1e-7


@pytest.mark.parametrize("name", ["cms-ap", "cms-op", "cdc"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_peers_own_objective_agrees_and_its_optimiser_finds_nothing_better(name, classes) -> None:
    """fiducio's joint objective, pinned gauge: at our parameters it has our value, and 400 steps of its L-BFGS end
    above.
    """
    fiducio = pytest.importorskip("fiducio", reason="the peer library is not installed")
    family, peer = {
        "cms-ap": (ArgmaxPreservingMatrixScaling, fiducio.ArgmaxPreservingMatrixScaling),
        "cms-op": (OrderPreservingMatrixScaling, fiducio.OrderPreservingMatrixScaling),
        "cdc": (ClassConditionalDirichlet, fiducio.ClassConditionalMatrixScaling),
    }[name]
    rng = np.random.default_rng(classes)
    z = (2 * rng.normal(size=(1500, classes))).astype(np.float32)
    y = np.array([rng.choice(classes, p=np.exp(0.7 * r) / np.exp(0.7 * r).sum()) for r in z.astype(float)])
    gauge = {} if name == "cdc" else {"gauge": "pinned"}
    solution = (
        ours := family(0.13, 0.07, "odir", eps=1e-9, **gauge).fit(z, y, groups=list(range(1500)), engine=Serial())
    ).solution
    theirs = peer(lambda_reg=0.13, mu_reg=0.07, optimizer="lbfgs", max_iter=400, device="cpu").fit(
        torch.from_numpy(z), torch.from_numpy(y)
    )
    x = torch.log_softmax(torch.from_numpy(z).double(), 1)

    def objective(raw_b: torch.Tensor, raw_mu: torch.Tensor) -> float:
        value = torch.nn.functional.cross_entropy(
            theirs._route(x, classes, raw_b=raw_b, raw_mu=raw_mu), torch.from_numpy(y)
        )
        each = [
            theirs._ms_regularization(
                *theirs._logit_affine(classes, e, theirs._positive(raw_b[e]), theirs._positive(raw_mu[e])), 0.13, 0.07
            )
            for e in range(classes)
        ]
        return float(value + torch.stack(each).mean())

    weight, bias = ours.maps[0].weight, ours.maps[0].bias
    raw = (
        (weight.transpose(1, 2), bias)
        if name == "cdc"
        else (torch.log(torch.expm1(weight)), torch.log(torch.expm1(bias)))
    )
    assert objective(*raw) == pytest.approx(solution.objective, abs=1e-7)
    state = theirs._get_state()
    assert objective(*raw) <= objective(state["raw_b"].double(), state["raw_mu"].double()) + 1e-9


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_strong_penalty_leaves_temperature_scaling(family, arrays) -> None:
    z, y = arrays
    ts = TemperatureScaling().fit(z, y, engine=Serial())
    strong = family(1e9).fit(z, y, engine=Serial())
    torch.testing.assert_close(
        strong.maps[0].weight,
        ts.maps[0].beta * torch.eye(strong.maps[0].weight.shape[1]).double().expand_as(strong.maps[0].weight),
        atol=1e-6,
        rtol=0,
    )
    assert strong.solution.nll == pytest.approx(ts.solution.nll, abs=1e-6)


def test_without_a_penalty_the_methods_nest(arrays) -> None:
    """CDC <= CMS_ap <= TS, CMS_op <= TS, CDC <= DC (definitions 9.4), up to the ridge and the certificates."""
    z, y = arrays
    found = {m.name: m(0.0).fit(z, y, engine=Serial()).solution.nll for m in (*FAMILIES, DirichletCalibration)}
    ts = TemperatureScaling().fit(z, y, engine=Serial()).solution.nll
    slack = 1e-7
    assert found["cdc"] <= found["cms-ap"] + slack
    assert found["cdc"] <= found["dc"] + slack
    assert max(found["cms-ap"], found["cms-op"]) <= ts + slack


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("penalty", ["ts", "odir"])
def test_an_expert_without_voxels_falls_back_and_says_so(family, penalty) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 3, 300))
    z[:, 2] -= 30  # never decided
    y = rng.integers(0, 3, (3, 300))
    made = family(0.1, penalty=penalty).fit(z, y, engine=Serial())
    beta = 1 / made.solution.settings["temperature"] if penalty == "ts" else 1.0
    size = made.maps[0].weight.shape[1]
    torch.testing.assert_close(made.maps[0].weight[2], beta * torch.eye(size).double())
    assert "no voxel was decided for class 2" in made.solution.message
    assert [e["voxels"] > 0 for e in made.solution.settings["experts"]] == [True, True, False]


def test_a_thin_expert_is_held_by_the_penalty_and_named() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, 3, 400))
    z[0, 2] -= 30
    z[0, 2, :4] += 60
    y = rng.integers(0, 3, (1, 400))
    made = ClassConditionalDirichlet(1.0).fit(z, y, engine=Serial())
    beta = 1 / made.solution.settings["temperature"]
    assert "thin experts" in made.solution.message
    assert "2 (4 voxels)" in made.solution.message
    alone = ClassConditionalDirichlet(1.0, experts="independent").fit(z, y, engine=Serial())
    # jointly its penalty weighs N / (C N_i) = 33 times as much
    away, freely = ((m.maps[0].weight[2] - beta * torch.eye(3)).abs().max() for m in (made, alone))
    assert away < freely / 5


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"experts": "shared"}, "experts"),
        ({"gauge": "fixed"}, "gauge"),
        ({"penalty": "l2"}, "penalty"),
        ({"lambda_": -1.0}, "lambda_"),
        ({"eps": "cv"}, "eps"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, where) -> None:
    with pytest.raises(UsageError) as told:
        OrderPreservingMatrixScaling(**options)
    assert told.value.where == where


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 10**6), st.sampled_from(FAMILIES))
def test_strength_is_chosen_and_temperature_kept_where_nothing_is_gained(seed, family) -> None:
    """Labels drawn from one temperature: an expressive family must not be chosen for its noise, at most a step from it
    at a harmless strength.
    """
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(6, 3, 200))
    p = np.exp(0.6 * z) / np.exp(0.6 * z).sum(1, keepdims=True)
    y = (rng.random((6, 1, 200)) > p.cumsum(1)).sum(1).clip(max=2)
    made = family().fit(z, y, engine=Serial())
    ts = TemperatureScaling().fit(z, y, engine=Serial())
    test = torch.from_numpy(2 * np.random.default_rng(seed + 1).normal(size=(2, 3, 500)))
    assert (made(test) - ts(test)).abs().mean() < 0.03
    assert [row["lambda"] for row in made.solution.selection] == [None, *PATH]


def test_a_cohort_and_a_table_give_the_same_fit(arrays) -> None:
    z, y = arrays
    table = np.moveaxis(z, 1, -1).reshape(-1, 3)
    groups = np.repeat(np.arange(len(z)), z.shape[2])
    a = OrderPreservingMatrixScaling(0.1).fit(table, y.ravel(), groups=groups, engine=Serial())
    b = OrderPreservingMatrixScaling(0.1).fit(cohort_from_arrays(z, y), engine=Serial())
    torch.testing.assert_close(a.maps[0].weight, b.maps[0].weight, atol=1e-7, rtol=0)


@pytest.mark.parametrize("family", [*FAMILIES, DirichletCalibration], ids=lambda f: f.name)
def test_scores_on_a_small_scale_are_not_called_degenerate(family, arrays) -> None:
    """Cosine-like scores need weights in the hundreds; that is their unit, not a sign of too little data."""
    z, y = arrays
    small = family(1.0).fit(0.003 * z, y, engine=Serial()).solution
    assert small.status == "optimal"
    assert 1 / small.settings["temperature"] > 100


def test_options_of_the_exact_solver_are_refused_beside_the_recipe() -> None:
    for options in (
        {"gauge": "pinned"},
        {"experts": "independent"},
        {"penalty": "odir"},
        {"eps": 1e-3},
        {"lambda_": 0.1},
    ):
        with pytest.raises(UsageError, match="recipe"):
            OrderPreservingMatrixScaling(solver=Recipe(trials=1), **options)

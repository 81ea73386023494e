"""Class-conditional families: start, maps, gradients through filed rows, bounds, and fits near the exact ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from segcal import cohort_from_arrays
from segcal.engine.engine import Engine
from segcal.engine.serial import Serial
from segcal.fitting.plans import Task, drive
from segcal.fitting.solvers.query import Query
from segcal.methods.calibrator import Calibrator, Solution
from segcal.methods.descent import Descent, Split, get, put
from segcal.methods.parameterisation import drawn
from segcal.methods.registry import methods
from segcal.study.recipe.recipe import Recipe
from segcal.study.recipe.search import Settings
from segcal.testing.examples import HEAD, learnable, learnable_cohort

pytest.importorskip("optuna")

NAMES = ["cdc", "cms-ap", "cms-op"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def log_probs(classes: int, n: int = 60) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(2 * np.random.default_rng(0).normal(size=(classes, n))), 0)


def solution_of(calibrator: Calibrator) -> Solution:
    assert calibrator.solution is not None
    return calibrator.solution


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("name", NAMES)
def test_starts_at_the_identity_up_to_the_floor(name: str, classes: int) -> None:
    x = log_probs(classes)
    made = methods()[name].kind.parameterisation(classes)
    assert float((made(x) - x).detach().abs().max()) <= (1e-12 if name == "cdc" else 1e-6 * classes**2 * 10)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("name", NAMES)
def test_the_calibrators_map_is_the_parameterisations(name: str, classes: int) -> None:
    made, x = drawn(methods()[name].kind.parameterisation, classes), log_probs(classes)
    np.testing.assert_allclose(made.map(False)(x), made(x).detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("lambda_", [0.0, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_descent_is_told_is_the_gradient_of_the_papers_objective(name: str, lambda_: float) -> None:
    """Against torch's own gradient of the mean NLL over all voxels plus the mean of ODIR over experts."""
    z, y = learnable(2, (11, 11))
    cohort = cohort_from_arrays(z, y, head=HEAD)
    made = drawn(methods()[name].kind.parameterisation, 3)
    settings = Settings(0.01, 10, lambda_, 2 * lambda_)
    engine: Engine = Serial()
    with engine.pin(cohort) as pinned:
        pinned.resample([0, 0])
        whole = frozenset({0, 1})
        task = Task(0, 3, whole, cohort.groups, (), ((),), pinned.has_energy)
        descent = Descent(task, Split(whole, whole, ""), made, 0, settings)
        stage = made.stages[0]

        def one() -> Any:
            found = yield from descent.sums({"train": Query(get(stage), 1)})
            return descent.chained(found["train"])

        told = drive(one(), engine, pinned)
    x = torch.log_softmax(torch.from_numpy(z).float().double(), 1).movedim(1, 0).reshape(3, -1)
    loss = -made(x).gather(0, torch.from_numpy(y).reshape(1, -1)).mean() + made.stages[0].penalty(lambda_, 2 * lambda_)
    gradient = parameters_to_vector(torch.autograd.grad(loss, list(stage.parameters())))
    assert told.value == pytest.approx(loss.item(), abs=1e-6)
    np.testing.assert_allclose(told.gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_given_time_it_comes_near_the_exact_optimum_and_not_below(name: str) -> None:
    z, y = learnable(1, (24, 24))
    on = cohort_from_arrays(z, y, head=HEAD)
    make: Any = methods()[name]
    recipe = solution_of(make(solver=Recipe(trials=3, epochs=250)).fit(on, engine=Serial()))
    told = recipe.settings
    exact = solution_of(
        make(lambda_=told["strengths"][0]["lambda"], mu=told["strengths"][0]["mu"], penalty="odir", eps=0.0).fit(
            on, engine=Serial()
        )
    )
    start = -float(torch.log_softmax(torch.from_numpy(z), 1).gather(1, torch.from_numpy(y)[:, None]).mean())
    assert exact.objective - 1e-9 <= recipe.objective <= exact.objective + 0.1 * (start - exact.objective)
    # the bound is above what is known to remain
    assert recipe.certificate["gap"] >= recipe.objective - exact.objective - exact.certificate["gap"]
    assert np.isfinite(recipe.certificate["gap"])


@pytest.mark.parametrize("name", NAMES)
def test_promises_are_kept_and_numbers_counted(name: str) -> None:
    make: Any = methods()[name]
    found = make(solver=Recipe(trials=2, epochs=10)).fit(learnable_cohort(4), engine=Serial())
    promises = found.guarantees()
    assert promises.translation_invariant == "proven"
    assert promises.preserves_argmax == ("no" if name == "cdc" else "proven")
    assert promises.preserves_order == ("proven" if name == "cms-op" else "no")
    assert solution_of(found).settings["optimised"] == {"cdc": 36, "cms-ap": 30, "cms-op": 30}[name]


def test_an_expert_without_voxels_moves_through_its_penalty_alone() -> None:
    z, y = learnable(2, (8, 8))
    z[:, 2] = -50.0
    make: Any = methods()["cms-ap"]
    found = make(solver=Recipe(trials=1, epochs=5)).fit(z, y, engine=Serial())
    weight = found.maps[0].weight[2]
    # off the diagonal it can only go down from the floor
    np.testing.assert_allclose(weight.diagonal(), 1.0, atol=0.2)
    assert float((weight - torch.diag(weight.diagonal())).abs().max()) <= 1.1e-6


def test_a_point_is_put_and_got_back() -> None:
    stage = drawn(methods()["cms-op"].kind.parameterisation, 3).stages[0]
    theta = get(stage)
    put(stage, theta + 1)
    np.testing.assert_array_equal(get(stage), theta + 1)

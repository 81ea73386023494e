"""Intra-order-preserving functions: the order whatever the net, the gradient of the sums, and fits that learn, stop and
say how.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal import IntraOrderPreserving, TemperatureScaling, cohort_from_arrays
from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator, Solution
from segcal.methods.intra_order import IntraOrderMap, IntraOrderNLL, Net, factors, scores, shapes, unpacked
from segcal.testing.accumulators import check_accumulator
from segcal.testing.examples import HEAD, learnable, learnable_cohort


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def theta(classes: int, hidden: int, seed: int, size: float = 1.0) -> torch.Tensor:
    count = sum(a * b + a for a, b in shapes(classes, hidden))
    return size * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solution_of(calibrator: Calibrator) -> Solution:
    assert calibrator.solution is not None
    return calibrator.solution


@given(
    values=st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 1.0, 30.0, 1e4, -1e4, -0.5]), min_size=2, max_size=6),
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.1, 1.0, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_order_is_turned_whatever_the_net(values: list[float], seed: int, size: float, dtype: torch.dtype) -> None:
    z = torch.tensor(values, dtype=dtype)[:, None]
    m = IntraOrderMap(unpacked(theta(len(values), 3, seed, size), len(values), 3))
    u = m(torch.log_softmax(z, 0), None, z)[:, 0]
    above = z > z.T
    assert bool(torch.isfinite(u).all())
    assert not bool((above & (u[:, None] < u[None])).any())


def test_scores_are_sums_of_gaps_times_factors() -> None:
    x = torch.tensor([[-0.1], [-2.5], [-7.0]], dtype=torch.float64)
    layers = unpacked(theta(3, 4, 0), 3, 4)
    f = factors(x, layers)[:, 0]
    assert bool((f > 0).all())
    np.testing.assert_allclose(scores(x, layers)[:, 0], [2.4 * f[0] + 4.5 * f[1], 4.5 * f[1], 0.0], rtol=1e-12)


def test_starts_at_the_identity() -> None:
    x = torch.log_softmax(torch.from_numpy(3 * np.random.default_rng(0).normal(size=(5, 40))), 0)
    net = Net(5, 10, 3)
    assert float((net(x) - x).detach().abs().max()) <= 1e-12
    assert float((net.map(False)(x) - x).abs().max()) <= 1e-12


@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_is_that_of_the_value(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = torch.log_softmax(torch.from_numpy(2 * rng.normal(size=(classes, 30))), 0)
    labels = torch.from_numpy(rng.integers(classes, size=30))
    rows = Rows(0, 0, x, labels, x.argmax(0), x.argmax(0))
    at = theta(classes, 3, 1).numpy()

    def nll(point: np.ndarray, order: int = 0):  # type: ignore[no-untyped-def, type-arg]
        accumulator = IntraOrderNLL(classes, 3, tuple(point.tolist()), order)
        return accumulate.result(accumulator, accumulate.fold(accumulator, rows))

    steps = 1e-5 * np.eye(len(at))
    numeric = [(nll(at + s).value - nll(at - s).value) / 2e-5 for s in steps]
    found = nll(at, 1)
    np.testing.assert_allclose(found.gradient, numeric, rtol=1e-6, atol=1e-8)
    expected = -IntraOrderMap(unpacked(torch.from_numpy(at), classes, 3))(x).gather(0, labels[None]).mean()
    assert found.value == pytest.approx(float(expected), rel=1e-12)


def test_sums_keep_the_laws_of_accumulators() -> None:
    check_accumulator(lambda classes: IntraOrderNLL(classes, 2, tuple(theta(classes, 2, 0).tolist())))


def test_it_learns_more_than_one_temperature() -> None:
    """Labels follow a temperature that depends on the confidence: a net finds it, one temperature cannot."""
    rng = np.random.default_rng(0)
    z = 3 * rng.normal(size=(6, 3, 24, 24))
    gap = np.sort(z, 1)[:, -1] - np.sort(z, 1)[:, -2]
    truth = z * np.where(gap > 2.0, 0.25, 1.5)[:, None]
    y = (truth + rng.gumbel(size=z.shape)).argmax(1)
    cohort = cohort_from_arrays(z, y, head=HEAD)
    alone = solution_of(TemperatureScaling().fit(cohort, engine=Serial()))
    found = solution_of(IntraOrderPreserving(epochs=90).fit(cohort, engine=Serial()))
    assert found.nll < alone.nll - 0.05
    assert "temperature scaling alone" not in found.message


def test_what_is_told_is_complete() -> None:
    found = IntraOrderPreserving(epochs=5).fit(learnable_cohort(3), engine=Serial())
    solution = solution_of(found)
    assert solution.status == "stopped"
    assert solution.certificate["gap"] is None
    assert solution.objective > solution.nll
    assert solution.settings["optimised"] == 172
    assert "validated on 1 of 3 cases" in solution.message
    promises = found.guarantees()
    assert (promises.translation_invariant, promises.preserves_argmax, promises.preserves_order) == ("proven",) * 3


def test_validation_cases_decide_when_to_stop() -> None:
    z, _ = learnable(2, seed=4)
    sure = cohort_from_arrays(z, z.argmax(1), head=HEAD)
    solution = solution_of(IntraOrderPreserving(patience=3).fit(learnable_cohort(3), validation=sure, engine=Serial()))
    assert "no lower validation value for 3 steps" in solution.message
    assert "best at step 0 of" in solution.message
    assert "temperature scaling alone reaches" in solution.message


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 0},
        {"epochs": 0},
        {"patience": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"learning_rate": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        IntraOrderPreserving(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["shape", "nan", "layers"])
def test_a_net_that_is_none_is_refused(damage: str) -> None:
    layers = unpacked(theta(3, 4, 0), 3, 4)
    if damage == "shape":
        layers[2] = (layers[2][0][:1], layers[2][1][:1])
    elif damage == "nan":
        layers[0][1][0] = float("nan")
    else:
        layers = layers[:2]
    with pytest.raises(UsageError):
        IntraOrderMap(layers)

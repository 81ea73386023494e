"""The papers' parameterisations: their counts, their start, their maps, and the chain from the exact sums to their own
parameters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.errors import UsageError
from segcal.fitting.penalties import odir
from segcal.methods.affine.map import ConstrainedMatrix, Dirichlet, Matrix
from segcal.methods.mixture import EnsembleTemperature
from segcal.methods.parameterisation import drawn
from segcal.methods.registry import methods

COUNTS = {
    "ts": lambda c: 1,
    "ets": lambda c: 4,
    "vs": lambda c: 2 * c,
    "ms": lambda c: c * (c + 1),
    "ms-c": lambda c: c**2 + 1,
    "dc": lambda c: c * (c + 1),
}


def rows(classes: int, n: int = 50, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(2 * rng.normal(size=(classes, n)))
    energy = torch.logsumexp(z, 0)
    labels = torch.from_numpy(rng.integers(classes, size=n))
    return Rows(0, 0, z - energy, labels, z.argmax(0), z.argmax(0), energy)


def test_every_method_fitted_this_way_is_registered() -> None:
    assert set(COUNTS) <= {name for name, named in methods().items() if "solver" in named.options}


@given(classes=st.integers(2, 12))
@pytest.mark.parametrize("name", list(COUNTS))
def test_numbers_are_as_published(name: str, classes: int) -> None:
    assert methods()[name].kind.parameterisation(classes).optimised == COUNTS[name](classes)


@pytest.mark.parametrize("name", list(COUNTS))
def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        methods()[name].kind.parameterisation(1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [n for n in COUNTS if n != "ets"])
def test_starts_at_the_identity(name: str, classes: int) -> None:
    x = rows(classes).log_probs
    assert float((methods()[name].kind.parameterisation(classes)(x) - x).detach().abs().max()) <= 1e-12


def test_ensemble_temperature_starts_as_near_as_a_softmax_of_weights_does() -> None:
    x = rows(3).log_probs
    p = EnsembleTemperature(3)(x).detach().exp()
    np.testing.assert_allclose(p, 0.999 * x.exp() + 0.001 / 3, rtol=1e-12)


@pytest.mark.parametrize("name", list(COUNTS))
def test_the_calibrators_map_is_the_parameterisations(name: str) -> None:
    made, data = drawn(methods()[name].kind.parameterisation, 4), rows(4)
    assert data.free_energy is not None
    logits = data.log_probs + data.free_energy
    sees_logits = not made.canonical
    expected = made(made.features(logits)).detach()
    np.testing.assert_allclose(made.map(sees_logits)(data.log_probs, data.free_energy), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", list(COUNTS))
@pytest.mark.parametrize("lambda_", [0.0, 0.3])
def test_the_chain_is_the_gradient_of_the_objective(name: str, lambda_: float) -> None:
    made, data = drawn(methods()[name].kind.parameterisation, 3), rows(3)
    stage = made.stages[-1]

    def sums(order: int) -> tuple[float, torch.Tensor]:
        pieces = stage.pieces()
        piece, numbers = next(iter(pieces.items()))
        accumulator = stage.accumulator(piece, numbers.tolist(), order, made.fitted_on_logits)
        found = accumulate.result(accumulator, accumulate.fold(accumulator, data))
        penalty = stage.penalty(lambda_, 2 * lambda_)
        surrogate = penalty + (torch.from_numpy(found.gradient) * numbers).sum()
        return found.value + penalty.item(), parameters_to_vector(
            torch.autograd.grad(surrogate, list(stage.parameters()))
        )

    _, gradient = sums(1)
    at, numeric = 0, []
    for parameter in stage.parameters():
        for k in range(parameter.numel()):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[k] += step
                values.append(sums(1)[0])
                with torch.no_grad():
                    parameter.view(-1)[k] -= step
            numeric.append((values[0] - values[1]) / 2e-5)
            at += 1
    np.testing.assert_allclose(gradient.numpy(), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", [Matrix, Dirichlet, ConstrainedMatrix])
def test_the_penalty_is_the_papers_on_the_whole_matrix(family: type[Matrix]) -> None:
    made = drawn(family, 4)
    matrix = made.stages[0]().detach().numpy()
    assert made.stages[0].penalty(0.3, 0.2).item() == pytest.approx(odir(4, 0.3, 0.2).value(matrix), rel=1e-12)


def test_constrained_rows_have_one_sum() -> None:
    made = drawn(ConstrainedMatrix, 5)
    sums = made.affine.matrix()[:, :-1].sum(1)
    np.testing.assert_allclose(sums.detach(), made.affine.row_sum.item(), rtol=1e-12)


@pytest.mark.parametrize("name", ["vs", "ms", "ms-c", "dc", "ts", "ets"])
def test_the_bound_holds_at_the_start(name: str) -> None:
    """The gap at the identity is not below what a descent from there gains."""
    made, data = methods()[name].kind.parameterisation(3), rows(3, 400)
    stage = made.stages[-1]
    pieces = {k: v.detach() for k, v in stage.pieces().items()}
    piece = next(iter(pieces))
    accumulator = stage.accumulator(piece, pieces[piece].tolist(), 1, made.fitted_on_logits)
    found = accumulate.result(accumulator, accumulate.fold(accumulator, data))
    gap, proof = stage.gap(pieces, {piece: torch.from_numpy(np.asarray(found.gradient))}, 0.0, 0.0)
    optimiser = torch.optim.Adam(stage.parameters(), lr=0.05)
    features = made.features(
        data.log_probs + (data.free_energy if made.fitted_on_logits and data.free_energy is not None else 0)
    )
    for _ in range(150):
        optimiser.zero_grad()
        loss = -made(features).gather(0, data.targets[None]).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < found.value
    assert gap >= found.value - loss.item()
    assert proof

"""The NLL of a mixture's weights: derivatives against autograd, convexity, the simplex's corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.methods.mixture import MixtureNLL
from segcal.methods.temperature import ScaleNLL

INSIDE = st.tuples(*(st.floats(0.01, 1) for _ in range(3))).map(lambda w: tuple(x / sum(w) for x in w))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20), beta=st.floats(0.05, 5), weights=INSIDE)
def test_derivatives_are_those_of_autograd(seed, classes, beta, weights, random_rows, evaluate) -> None:
    rows = random_rows(seed, 40, classes)
    x, y = rows.log_probs, rows.targets

    def nll(w: torch.Tensor) -> torch.Tensor:
        p = w[0] * torch.softmax(beta * x, 0) + w[1] * torch.softmax(x, 0) + w[2] / classes
        return -p.gather(0, y[None]).log().mean()

    w = torch.tensor(weights, dtype=torch.float64)
    found = evaluate(MixtureNLL(beta, weights), rows)
    assert found.value == pytest.approx(nll(w).item(), rel=1e-11)
    np.testing.assert_allclose(
        found.gradient, torch.autograd.functional.jacobian(nll, w).numpy(), rtol=1e-9, atol=1e-10
    )
    np.testing.assert_allclose(found.curvature, torch.autograd.functional.hessian(nll, w).numpy(), rtol=1e-8, atol=1e-9)
    assert np.linalg.eigvalsh(found.curvature).min() >= -1e-10


def test_corners_are_temperature_scores_and_uniform(random_rows, evaluate) -> None:
    rows = random_rows(0, 100, 4)
    assert evaluate(MixtureNLL(0.5, (1.0, 0.0, 0.0)), rows).value == pytest.approx(
        evaluate(ScaleNLL(0.5), rows).value, rel=1e-12
    )
    assert evaluate(MixtureNLL(0.5, (0.0, 1.0, 0.0)), rows).value == pytest.approx(
        evaluate(ScaleNLL(1.0), rows).value, rel=1e-12
    )
    assert evaluate(MixtureNLL(0.5, (0.0, 0.0, 1.0)), rows).value == pytest.approx(np.log(4), rel=1e-12)


def test_a_voxel_without_probability_is_no_place_to_stand(make_rows, evaluate) -> None:
    """The wrong class at a margin of 2000 underflows: the curvature there is not finite, so that no solver accepts the
    point.
    """
    found = evaluate(MixtureNLL(1.0, (1.0, 0.0, 0.0)), make_rows([[2000.0], [0.0]], [1]))
    assert not np.isfinite(found.curvature).all()


def test_no_voxel_is_zero(make_rows, evaluate) -> None:
    found = evaluate(MixtureNLL(1.0, (1.0, 0.0, 0.0)), make_rows(np.zeros((3, 0)), []))
    assert (found.value, found.voxels) == (0.0, 0)

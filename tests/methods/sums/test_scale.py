"""The NLL of a temperature: its value against the definition's numbers, its derivatives against differences and
autograd.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.fitting.evaluation import COLUMNS
from segcal.methods.temperature import ScaleNLL

TOY = np.array([[2, 0, 0], [0, 1, 0], [3, 1, 0], [0, 0, 2]], float).T
TOY_LABELS = [0, 2, 0, 2]


def test_toy_of_the_definitions(make_rows, evaluate) -> None:
    rows = make_rows(TOY, TOY_LABELS)
    assert evaluate(ScaleNLL(1.0), rows).value == pytest.approx(0.5500951, abs=5e-8)
    best = evaluate(ScaleNLL(1.3412736), rows)
    assert best.value == pytest.approx(0.5252799, abs=5e-8)
    assert abs(best.gradient[0]) < 1e-7


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 20), beta=st.floats(0.01, 20))
def test_derivatives_are_those_of_autograd(seed, classes, beta, random_rows, evaluate) -> None:
    rows = random_rows(seed, 40, classes)
    found = evaluate(ScaleNLL(beta), rows)
    b = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    nll = torch.nn.functional.cross_entropy((b * rows.log_probs).T, rows.targets)
    (slope,) = torch.autograd.grad(nll, b, create_graph=True)
    (bend,) = torch.autograd.grad(slope, b)
    assert found.value == pytest.approx(nll.item(), rel=1e-12, abs=1e-13)
    assert found.gradient[0] == pytest.approx(slope.item(), rel=1e-9, abs=1e-11)
    assert found.curvature[0, 0] == pytest.approx(bend.item(), rel=1e-8, abs=1e-11)
    assert found.curvature[0, 0] >= 0


def test_variance_survives_confident_voxels(make_rows, evaluate) -> None:
    """The variance of a voxel with margin 40 is about 40^2 e^-40; a difference of moments would return noise."""
    found = evaluate(ScaleNLL(1.0), make_rows([[40.0], [0.0]], [0]))
    assert found.curvature[0, 0] == pytest.approx(1600 * np.exp(-40), rel=1e-6, abs=1e-13)
    assert found.curvature[0, 0] >= 0


def test_many_columns_are_one_sum(random_rows, evaluate) -> None:
    rows = random_rows(3, 2 * COLUMNS + 17, 3)
    direct = torch.nn.functional.cross_entropy(0.7 * rows.log_probs.T, rows.targets).item()
    assert evaluate(ScaleNLL(0.7), rows).value == pytest.approx(direct, rel=1e-12)


def test_no_voxel_is_zero(make_rows, evaluate) -> None:
    found = evaluate(ScaleNLL(1.0), make_rows(np.zeros((3, 0)), []))
    assert (found.value, found.gradient.tolist(), found.curvature.tolist(), found.voxels) == (0.0, [0.0], [[0.0]], 0)

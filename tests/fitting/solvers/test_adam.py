"""Adam: its steps are the textbook's, the schedule and the early stop follow the validation value, and the best point
is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.solvers.adam import Adam
from segcal.fitting.solvers.query import Solved, Steps

Array = np.ndarray[Any, Any]


def answered(
    steps: Steps, train: Callable[[Array], tuple[float, Array]], validation: Callable[[Array], float]
) -> tuple[Solved, list[Array]]:
    """The conversation with two functions, and the points visited."""
    points = []
    try:
        queries = next(steps)
        while True:
            x = queries["train"].theta
            assert queries["train"].order == 1
            assert np.array_equal(queries["validation"].theta, x)
            points.append(x)
            value, gradient = train(x)
            queries = steps.send(
                {
                    "train": Evaluation(value, gradient, None, 1),
                    "validation": Evaluation(validation(x), np.zeros(0), None, 1),
                }
            )
    except StopIteration as stop:
        return stop.value, points


def quadratic(x: Array) -> tuple[float, Array]:
    return float(x @ x / 2), x.copy()


def textbook(x: Array, gradient: Callable[[Array], Array], rate: float, steps: int) -> list[Array]:
    """Kingma and Ba, algorithm 1."""
    first, second = np.zeros_like(x), np.zeros_like(x)
    out = [x]
    for t in range(1, steps + 1):
        g = gradient(x)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        x = x - rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        out.append(x)
    return out


def test_steps_are_the_textbooks() -> None:
    start = np.array([1.0, -2.0, 0.5])
    solved, points = answered(Adam(0.03, 50, 40).solve(start), quadratic, lambda x: float(x @ x))
    expected = textbook(start, lambda x: quadratic(x)[1], 0.03, 40)
    assert len(points) == 41
    np.testing.assert_allclose(points, expected, rtol=1e-12, atol=1e-14)
    assert solved.evaluations == 41
    assert "limit of steps" in solved.notes[1]


def test_no_optimum_is_claimed() -> None:
    solved, _ = answered(Adam(0.03, 50, 5).solve(np.ones(2)), quadratic, lambda x: float(x @ x))
    assert not solved.converged
    assert solved.gap == np.inf


@pytest.mark.parametrize("patience", [1, 3, 10])
def test_stops_after_patience_and_keeps_the_best(patience: int) -> None:
    # the validation optimum is passed on the way to the training optimum
    solved, points = answered(
        Adam(0.1, patience, 500).solve(np.array([1.0])), quadratic, lambda x: float((x[0] - 0.6) ** 2)
    )
    values = [(x[0] - 0.6) ** 2 for x in points]
    best = int(np.argmin(values))
    assert solved.value == values[best]
    assert np.array_equal(solved.theta, points[best])
    assert len(points) == best + patience + 1


def test_a_worse_validation_value_everywhere_keeps_the_start() -> None:
    start = np.array([1.0, 2.0])
    solved, points = answered(Adam(0.1, 10, 100).solve(start), quadratic, lambda x: -float(x @ x))
    assert np.array_equal(solved.theta, start)
    assert len(points) == 11


def test_the_rate_falls_on_a_plateau() -> None:
    # a constant slope: each step is as long as the rate; the validation value is best at the start
    _, points = answered(
        Adam(0.1, 10, 100).solve(np.array([0.0])), lambda x: (float(x[0]), np.ones(1)), lambda x: -float(x[0])
    )
    lengths = -np.diff([x[0] for x in points])
    np.testing.assert_allclose(lengths[:6], 0.1, rtol=1e-6)
    np.testing.assert_allclose(lengths[6:], 0.01, rtol=1e-6)


def test_values_that_are_not_finite_end_the_descent() -> None:
    solved, points = answered(
        Adam(0.5, 10, 100).solve(np.array([1.0])),
        lambda x: (np.nan if x[0] < 0.2 else float(x[0]), np.ones(1)),
        lambda x: float(x[0]),
    )
    assert "not finite" in solved.notes[1]
    assert solved.theta[0] == points[-2][0]


def test_a_start_that_is_not_finite_is_kept() -> None:
    solved, _ = answered(Adam(0.5, 10, 100).solve(np.array([1.0])), lambda x: (np.inf, np.ones(1)), lambda x: 1.0)
    assert solved.theta[0] == 1.0
    assert solved.value == np.inf

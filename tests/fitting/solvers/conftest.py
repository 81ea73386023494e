"""Functions with a known optimum, and the loop that answers a solver's queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.solvers.query import Solved, Steps

Array = np.ndarray[Any, Any]


@dataclass
class Function:
    """A convex function by its value, gradient and curvature; remembers what it was asked."""

    value: Callable[[Array], float]
    gradient: Callable[[Array], Array]
    curvature: Callable[[Array], Array]
    asked: list[Array] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def at(self, theta: Array) -> Evaluation:
        """One evaluation."""
        return Evaluation(self.value(theta), self.gradient(theta), self.curvature(theta), 1)


def _run(steps: Steps, function: Function) -> Solved:
    """The solver's conversation with `function`."""
    try:
        queries = next(steps)
        while True:
            for name, query in queries.items():
                function.asked.append(query.theta)
                if name == "f":
                    function.values.append(function.value(query.theta))
            queries = steps.send({name: function.at(query.theta) for name, query in queries.items()})
    except StopIteration as stop:
        return stop.value


@pytest.fixture(scope="session")
def run() -> Callable[[Steps, Function], Solved]:
    """Runs a solver on a function."""
    return _run


@pytest.fixture(scope="session")
def quadratic() -> Callable[[Array, Array], Function]:
    """(x - centre)' H (x - centre) / 2."""
    return lambda h, centre: Function(
        lambda x: float((x - centre) @ h @ (x - centre) / 2), lambda x: h @ (x - centre), lambda x: h
    )


@pytest.fixture(scope="session")
def logistic() -> Callable[[Array, Array, float], Function]:
    """Mean logistic loss of labels y in {-1, 1} under features (n, d), plus ridge |x|^2 / 2."""

    def make(features: Array, y: Array, ridge: float) -> Function:
        signed = features * y[:, None]

        def value(x: Array) -> float:
            return float(np.logaddexp(0, -signed @ x).mean() + ridge * x @ x / 2)

        def slack(x: Array) -> Array:
            return 1 / (1 + np.exp(np.clip(signed @ x, -700, 700)))

        def gradient(x: Array) -> Array:
            return -(signed.T @ slack(x)) / len(y) + ridge * x

        def curvature(x: Array) -> Array:
            s = slack(x)
            return (signed.T * (s * (1 - s))) @ signed / len(y) + ridge * np.eye(len(x))

        return Function(value, gradient, curvature)

    return make


@pytest.fixture(scope="session")
def mixture() -> Callable[[Array], Function]:
    """Mean of -log of weights . q over rows q >= 0 (n, k): convex on the simplex."""

    def make(q: Array) -> Function:
        def ratio(w: Array) -> Array:
            return q / (q @ w)[:, None]

        def value(w: Array) -> float:
            with np.errstate(divide="ignore"):
                return float(-np.log(q @ w).mean())

        def gradient(w: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                return -ratio(w).mean(0)

        def curvature(w: Array) -> Array:
            with np.errstate(divide="ignore", invalid="ignore"):
                return ratio(w).T @ ratio(w) / len(q)

        return Function(value, gradient, curvature)

    return make

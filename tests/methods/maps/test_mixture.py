"""The mixture map: its formula, its promises and their end, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.errors import UsageError
from segcal.methods.mixture import MixtureMap

WEIGHTS = (
    st.tuples(*(st.floats(0, 1) for _ in range(3)))
    .filter(lambda w: sum(w) > 0.1)
    .map(lambda w: torch.tensor([x / sum(w) for x in w], dtype=torch.float64))
)


@settings(deadline=None, max_examples=30)
@given(beta=st.floats(0.01, 10), weights=WEIGHTS, classes=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_is_the_mixture_and_keeps_its_promises(beta, weights, classes, seed, ordinary) -> None:
    z = ordinary(seed, classes, 200)
    m, x = MixtureMap(beta, weights), torch.log_softmax(z, 0)
    out = m(x)
    direct = weights[0] * torch.softmax(beta * z, 0) + weights[1] * torch.softmax(z, 0) + weights[2] / classes
    torch.testing.assert_close(out.exp(), direct, rtol=1e-9, atol=1e-12)
    assert (out.exp().sum(0) - 1).abs().max() < 1e-12
    if m.guarantees().preserves_order == "proven":
        order = z.argsort(0, descending=True)
        assert (out.gather(0, order).diff(dim=0) <= 1e-14).all()
    assert out.exp().max() <= 1 - weights[2] * (1 - 1 / classes) + 1e-12


def test_all_weight_on_the_uniform_breaks_every_order() -> None:
    m = MixtureMap(1.0, torch.tensor([0.0, 0.0, 1.0]))
    found = m.guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven", "no", "no")
    out = m(torch.log_softmax(torch.tensor([[0.0], [5.0]], dtype=torch.float64), 0))
    assert out[0, 0] == out[1, 0]


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.6, 0.0], [1.5, -0.5, 0.0], [float("nan"), 0.5, 0.5]])
def test_weights_off_the_simplex_are_refused(weights) -> None:
    with pytest.raises(UsageError, match="weights"):
        MixtureMap(1.0, torch.tensor(weights, dtype=torch.float64))


def test_a_temperature_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="beta"):
        MixtureMap(0.0, torch.tensor([1.0, 0.0, 0.0]))


def test_describes_itself() -> None:
    m = MixtureMap(0.5, torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64))
    assert m.describe()["temperature"] == 2.0
    assert m.describe()["weights"] == pytest.approx([0.7, 0.2, 0.1])

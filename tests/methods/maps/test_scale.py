"""The scale map: temperature, promises, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.errors import UsageError
from segcal.methods.temperature import ScaleMap


@settings(deadline=None, max_examples=25)
@given(beta=st.floats(1e-3, 10), classes=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_is_a_tempered_softmax_and_keeps_its_promises(beta, classes, seed, ordinary) -> None:
    z = ordinary(seed, classes, 300)
    m, x = ScaleMap(beta), torch.log_softmax(z, 0)
    out = m(x)
    torch.testing.assert_close(out, torch.log_softmax(beta * z, 0), rtol=1e-9, atol=1e-9)
    found = m.guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven",) * 3
    torch.testing.assert_close(m(torch.log_softmax(z + 7, 0)), out, rtol=1e-9, atol=1e-9)
    order = z.argsort(0, descending=True)
    assert (out.gather(0, order).diff(dim=0) <= 0).all()


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_other_numbers_are_refused(beta) -> None:
    with pytest.raises(UsageError, match="above 0"):
        ScaleMap(beta)


def test_describes_its_temperature_and_needs_no_logits() -> None:
    m = ScaleMap(0.5)
    assert m.describe() == {"temperature": 2.0}
    assert m.classes is None
    assert not m.needs.logits
    assert m(torch.zeros(3, 0, dtype=torch.float64)).shape == (3, 0)

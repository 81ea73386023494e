"""The affine map: promises read off its parameters, each proven one tried, each 'no' with a witness."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcal.errors import UsageError
from segcal.methods.affine.map import AffineMap

SEED = st.integers(0, 10**6)
CLASSES = st.integers(2, 8)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apply(m: AffineMap, z: Tensor) -> Tensor:
    """The map on raw logits."""
    energy = z.logsumexp(0)
    return m(z - energy, energy)


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES, logits=st.booleans())
def test_is_a_softmax_of_an_affine_map(seed, classes, logits, ordinary) -> None:
    w, b, z = numbers(seed, classes, classes), numbers(seed + 1, classes), ordinary(seed, classes, 200)
    out = apply(AffineMap(w, b, logits), z)
    direct = torch.log_softmax(w @ (z if logits else torch.log_softmax(z, 0)) + b[:, None], 0)
    torch.testing.assert_close(out, direct, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES, beta=st.floats(0.01, 10), logits=st.booleans())
def test_temperature_in_any_gauge_is_proven_and_kept(seed, classes, beta, logits, ordinary) -> None:
    """beta I + 1 c^T, equal biases: all three promises, and they hold."""
    column = numbers(seed, classes)
    m = AffineMap(beta * torch.eye(classes, dtype=torch.float64) + column[None], torch.full((classes,), 0.3), logits)
    found, z = m.guarantees(), ordinary(seed, classes)
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven",) * 3
    torch.testing.assert_close(apply(m, z), torch.log_softmax(beta * z, 0), rtol=1e-8, atol=1e-8)
    assert not m.needs.logits


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES, logits=st.booleans())
def test_any_other_map_is_not_promised_and_flips_somewhere(seed, classes, logits, ordinary) -> None:
    w = torch.eye(classes, dtype=torch.float64) + 0.3 * numbers(seed, classes, classes)
    m = AffineMap(w, torch.zeros(classes), logits)
    assert m.guarantees().preserves_argmax == m.guarantees().preserves_order == "no"
    z = ordinary(seed, classes, 40_000)
    assert (apply(m, z).argmax(0) != z.argmax(0)).any()


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES)
def test_unequal_biases_flip_near_ties(seed, classes, ordinary) -> None:
    b = numbers(seed, classes)
    m = AffineMap(torch.eye(classes, dtype=torch.float64), b)
    assert m.guarantees().preserves_argmax == "no"
    assert "biases" in m.guarantees().reasons["preserves_argmax"]
    z = ordinary(seed, classes, 20_000)
    assert (apply(m, z).argmax(0) != z.argmax(0)).any()


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES, row_sum=st.floats(-2, 2))
def test_equal_row_sums_are_invariance_on_logits(seed, classes, row_sum, ordinary) -> None:
    w = numbers(seed, classes, classes)
    w[:, -1] += row_sum - w.sum(1)
    m, z = AffineMap(w, numbers(seed + 1, classes), logits=True), ordinary(seed, classes, 300)
    assert m.guarantees().translation_invariant == "proven"
    torch.testing.assert_close(apply(m, z + 3), apply(m, z), rtol=1e-8, atol=1e-8)
    x = torch.log_softmax(z, 0)
    torch.testing.assert_close(m(x), apply(m, z), rtol=1e-7, atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(seed=SEED, classes=CLASSES)
def test_unequal_row_sums_follow_the_offset(seed, classes, ordinary) -> None:
    w = torch.eye(classes, dtype=torch.float64)
    w[seed % classes, 0] += 0.1
    m, z = AffineMap(w, torch.zeros(classes), logits=True), ordinary(seed, classes, 300)
    assert m.guarantees().translation_invariant == "no"
    assert m.needs.logits
    assert (apply(m, z + 3) - apply(m, z)).abs().max() > 1e-3
    assert (apply(m, z + 1e6).argmax(0) == seed % classes).all()
    with pytest.raises(UsageError, match="raw logits"):
        m(torch.log_softmax(z, 0))
    assert AffineMap(w, torch.zeros(classes)).guarantees().translation_invariant == "proven"


def test_a_negative_scale_reverses() -> None:
    assert AffineMap(-torch.eye(3), torch.zeros(3)).guarantees().preserves_argmax == "no"
    assert AffineMap(torch.zeros(3, 3), torch.zeros(3)).guarantees().preserves_argmax == "no"


@pytest.mark.parametrize(("weight", "bias"), [((2, 3), 2), ((3, 3), 2), ((3,), 3)])
def test_shapes_are_checked(weight, bias) -> None:
    with pytest.raises(UsageError, match="shapes"):
        AffineMap(torch.ones(weight), torch.ones(bias))


def test_numbers_must_be_finite() -> None:
    with pytest.raises(UsageError, match="finite"):
        AffineMap(torch.eye(2), torch.tensor([0.0, float("nan")]))


def test_no_voxel_is_no_voxel() -> None:
    assert AffineMap(torch.eye(3), torch.zeros(3))(torch.zeros(3, 0, dtype=torch.float64)).shape == (3, 0)

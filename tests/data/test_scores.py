"""Kinds of scores, free energy, canonical log-probabilities, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.data.scores import (
    FLOOR,
    KINDS,
    LOWEST,
    SUM_TOLERANCE,
    Resolution,
    canonical,
    check,
    check_kind,
    free_energy,
)
from segcal.errors import ScoreError, UsageError

logits = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32))


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)[:, None]


def test_padding_taken_as_logits_is_the_vector_of_definitions_14():
    padding = column(1, 0, 0, 0, 0)
    x = canonical(padding, "logits")
    assert x[0].exp().item() == pytest.approx(0.4046097, abs=5e-8)
    assert -x[0].item() == pytest.approx(0.9048324, abs=5e-8)
    assert free_energy(padding).item() == pytest.approx(1.9048324, abs=5e-8)


@given(logits)
def test_logits_keep_every_difference(z):
    x = canonical(torch.from_numpy(z), "logits").numpy()
    exact = z - np.logaddexp.reduce(z, 0)
    np.testing.assert_allclose(x, exact, rtol=0, atol=1e-11)
    # the winner stays a winner; logits closer than rounding may tie, which is why decisions are taken from the scores
    # as given
    assert (np.take_along_axis(x, z.argmax(0)[None], 0)[0] == x.max(0)).all()


def test_logits_of_ten_thousand_keep_their_distance():
    x = canonical(column(1e4, 0.0, -1e4, dtype=torch.float32), "logits")
    assert x.dtype == torch.float64
    assert x[:, 0].tolist() == [0.0, -1e4, -2e4]


@given(logits, st.floats(-1e3, 1e3))
def test_canonical_logits_do_not_depend_on_a_shift_and_free_energy_moves_by_it(z, shift):
    z = torch.from_numpy(z)
    torch.testing.assert_close(canonical(z + shift, "logits"), canonical(z, "logits"), rtol=0, atol=1e-10)
    torch.testing.assert_close(free_energy(z + shift), free_energy(z) + shift, rtol=0, atol=1e-10)


@given(logits)
def test_canonical_rows_have_no_free_energy_left_whatever_the_kind(z):
    z = torch.from_numpy(z)
    p = torch.softmax(z, 0)
    for kind, scores in (("logits", z), ("log_probs", torch.log_softmax(z, 0)), ("probs", p), ("scores", 7 * p)):
        assert free_energy(canonical(scores, kind)).abs().max() < 1e-11
        assert (canonical(scores, kind) <= 0).all()


def test_moderate_scores_of_every_kind_say_the_same():
    z = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(z, 0)
    reference = canonical(z, "logits")
    for kind, scores in (("probs", p), ("log_probs", p.log()), ("scores", p * torch.linspace(0.1, 9, 50))):
        torch.testing.assert_close(canonical(scores, kind), reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "scores"), [("probs", (1.0, 0.0)), ("scores", (5.0, 0.0)), ("log_probs", (0.0, -math.inf))]
)
def test_what_is_stored_as_a_probability_is_floored(kind, scores):
    assert canonical(column(*scores), kind)[1].item() == pytest.approx(math.log(FLOOR), abs=1e-11)


def test_the_floor_can_be_chosen():
    found = canonical(column(1.0, 0.0), "probs", resolution=Resolution(1e-6))
    assert found[1].item() == pytest.approx(math.log(1e-6), abs=1e-5)


def test_rows_that_sum_to_one_only_nearly_are_normalised():
    x = canonical(column(0.5005, 0.5), "probs")
    assert x.exp().sum().item() == pytest.approx(1, abs=1e-15)


def test_the_class_axis_may_be_another():
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(canonical(z, "logits", 1), canonical(z.T, "logits").T)
    check(torch.softmax(z, 1), "probs", "here", dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_gives_nothing(kind):
    empty = torch.zeros(3, 0)
    check(empty, kind, "here")
    assert canonical(empty, kind).shape == (3, 0)


def test_kinds_are_declared():
    assert [check_kind(k) for k in KINDS] == ["logits", "log_probs", "probs", "scores"]
    with pytest.raises(UsageError, match="kind: found 'softmax'; expected one of logits, log_probs, probs, scores"):
        check_kind("softmax")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(kind, bad):
    scores = torch.full((2, 3), 0.5).log() if kind == "log_probs" else torch.full((2, 3), 0.5)
    scores[1, 2] = bad
    if kind in ("logits", "log_probs") and bad == -math.inf:
        scores[0, 2] = 0.0  # a probability of zero, a class that was ruled out
        check(scores, kind, "case.npz")
        return
    with pytest.raises(ScoreError, match=r"case\.npz: found 1 value\(s\) that are not finite, the first (nan|-?inf)"):
        check(scores, kind, "case.npz")


@pytest.mark.parametrize(
    ("kind", "scores", "message"),
    [
        ("probs", (1.5, -0.5), "values from -0.5 to 1.5; expected probabilities in"),
        ("probs", (4.0, 3.0), "--kind logits"),
        ("probs", (0.6, 0.5), "sum to 1.1; expected a sum of 1 within 0.001"),
        ("probs", (0.9, 0.8), "region head"),
        ("log_probs", (-0.1, -0.1), "sum to 1.80967"),
        ("log_probs", (-math.inf, -math.inf), "2 value(s) that are not finite"),
        ("logits", (-math.inf, -math.inf), "2 value(s) that are not finite"),
        ("scores", (-1e-6, 1.0), "expected scores of zero or more"),
        ("scores", (0.0, 0.0), "scores are all zero"),
    ],
)
def test_what_cannot_be_of_its_kind_is_refused(kind, scores, message):
    with pytest.raises(ScoreError, match=r"case\.npz: found") as caught:
        check(column(*scores), kind, "case.npz")
    assert message in str(caught.value)


def test_the_worst_voxel_is_named_wherever_it_is():
    p = torch.full((2, 4, 5), 0.5)
    p[:, 3, 1] = 0.4
    with pytest.raises(ScoreError, match=r"sum to 0\.8"):
        check(p, "probs", "here")


@given(st.floats(-0.9, 0.9))
def test_sums_within_the_tolerance_pass(share):
    check(column(0.5 + share * SUM_TOLERANCE, 0.5), "probs", "here")


def test_region_probabilities_need_not_sum_to_one():
    check(column(0.9, 0.8), "probs", "here", classes_sum=False)
    with pytest.raises(ScoreError):
        check(column(0.9, 1.8), "probs", "here", classes_sum=False)


def test_any_logits_will_do():
    check(column(-1e30, 1e30), "logits", "here")


@pytest.mark.parametrize("low", [-math.inf, -3e38, -1e19, -1e9])
def test_a_class_that_was_ruled_out_ends_at_the_lowest_and_moves_nothing_else(low):
    x = canonical(column(low, 0.0, 0.0), "logits")
    assert x[:, 0].tolist() == [LOWEST, pytest.approx(-math.log(2)), pytest.approx(-math.log(2))]
    assert float(x.exp().sum()) == pytest.approx(1, abs=1e-15)
    assert torch.isfinite(free_energy(column(low, 0.0, 0.0))).all()

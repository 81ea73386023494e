"""Pooling of ensemble members: two means, their kinds, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.data.head import Regions, Softmax
from segcal.data.pooling import pool_members, pooled_kind
from segcal.errors import UsageError

HEAD = Softmax(("a", "b", "c"))
REGIONS = Regions(("a", "b", "c"), ((1, 2, 3), (2, 3), (3,)), (1, 2, 3))
ensembles = arrays(np.float64, (4, 3, 5), elements=st.floats(-20, 20, width=32)).map(torch.from_numpy)


def pool(z, how, kind="logits", head=HEAD):
    return pool_members(iter(z), len(z), kind, how, head)


@given(ensembles)
def test_the_two_means_are_what_they_say(z):
    torch.testing.assert_close(pool(z, "logits"), z.mean(0), rtol=0, atol=1e-13)
    torch.testing.assert_close(pool(z, "probs"), torch.softmax(z, 1).mean(0), rtol=0, atol=1e-15)


@given(ensembles, st.lists(st.floats(-50, 50), min_size=4, max_size=4))
def test_member_wise_shifts_cancel_in_both(z, shifts):
    moved = z + torch.tensor(shifts, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(pool(moved, "probs"), pool(z, "probs"), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.softmax(pool(moved, "logits"), 0), torch.softmax(pool(z, "logits"), 0), rtol=0, atol=1e-12
    )
    # the mean of logits itself moves by the mean shift, which a map that depends on the offset still sees
    torch.testing.assert_close(
        pool(moved, "logits") - pool(z, "logits"),
        torch.full((3, 5), float(np.mean(shifts)), dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )


@given(arrays(np.float64, (4, 3, 5), elements=st.floats(-8, 8, width=32)).map(torch.from_numpy))
def test_stored_probabilities_pooled_as_logits_give_the_softmax_of_the_mean_logits(z):
    from_probs = pool(torch.softmax(z, 1), "logits", "probs")
    torch.testing.assert_close(from_probs, torch.log_softmax(z.mean(0), 0), rtol=0, atol=1e-8)
    from_logs = pool(torch.log_softmax(z, 1), "logits", "log_probs")
    torch.testing.assert_close(from_logs, torch.log_softmax(z.mean(0), 0), rtol=0, atol=1e-12)


def test_the_means_may_decide_differently():
    z = torch.tensor([[[6.0], [0.0], [-9.0]], [[-3.0], [0.0], [-9.0]], [[-3.0], [0.5], [-9.0]]], dtype=torch.float64)
    assert pool(z, "probs").argmax(0).tolist() == [1]
    assert pool(z, "logits").argmax(0).tolist() == [1]
    z[0, 0] = 8.0
    assert (pool(z, "probs").argmax(0).tolist(), pool(z, "logits").argmax(0).tolist()) == ([1], [0])


@pytest.mark.parametrize("how", ["probs", "logits"])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_regions_are_pooled_each_for_itself(how, kind):
    z = torch.randn(4, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stored = z if kind == "logits" else torch.sigmoid(z)
    pooled = pool(stored, how, kind, REGIONS)
    expected = torch.sigmoid(z).mean(0) if how == "probs" else z.mean(0)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "how", "members", "head", "expected"),
    [
        ("logits", "probs", 1, HEAD, "logits"),
        ("probs", "logits", 1, HEAD, "probs"),
        ("logits", "probs", 2, HEAD, "probs"),
        ("logits", "logits", 2, HEAD, "logits"),
        ("probs", "logits", 2, HEAD, "log_probs"),
        ("scores", "logits", 2, HEAD, "log_probs"),
        ("probs", "logits", 2, REGIONS, "logits"),
        ("probs", "probs", 5, REGIONS, "probs"),
    ],
)
def test_the_kind_of_what_comes_out(kind, how, members, head, expected):
    assert pooled_kind(kind, how, members, head) == expected
    scores = {"logits": torch.zeros(3, 2), "probs": torch.full((3, 2), 1 / 3), "scores": torch.ones(3, 2)}[kind]
    head.check(pool([scores] * members, how, kind, head), expected, "pooled")


def test_a_single_member_is_passed_on_as_it_is():
    z = torch.randn(3, 4)
    assert pool_members([z], 1, "logits", "probs", HEAD) is z


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("how", ["probs", "logits"])
def test_members_are_not_changed_and_sums_are_float64(kind, how):
    members = [torch.softmax(torch.randn(3, 4), 0) for _ in range(3)]
    before = [m.clone() for m in members]
    assert pool_members(iter(members), 3, kind, how, HEAD).dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(members, before, strict=True))


def test_float64_members_are_not_changed_either():
    members = [torch.softmax(torch.randn(3, 4, dtype=torch.float64), 0) for _ in range(2)]
    before = [m.clone() for m in members]
    pool_members(iter(members), 2, "probs", "probs", HEAD)
    assert all(torch.equal(a, b) for a, b in zip(members, before, strict=True))


def test_members_are_taken_one_at_a_time():
    alive = 0

    def stream():
        nonlocal alive
        for _ in range(4):
            alive += 1
            yield torch.zeros(3, 2)

    pool_members(stream(), 4, "logits", "probs", HEAD)
    assert alive == 4


def test_no_member_is_a_usage_error():
    with pytest.raises(UsageError, match="no member"):
        pool_members([], 0, "logits", "probs", HEAD)

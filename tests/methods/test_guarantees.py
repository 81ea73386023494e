"""Guarantees as data, and what holds for several maps at once."""

from __future__ import annotations

import itertools

import pytest

from segcal.methods.guarantees import Guarantees, weakest

STATUSES = ("no", "measured", "proven")


@pytest.mark.parametrize(("a", "b"), list(itertools.product(STATUSES, STATUSES)))
def test_each_promise_is_kept_at_its_weakest(a, b):
    found = weakest([Guarantees(a, "proven", b, {}), Guarantees(b, "proven", "proven", {})])
    low = STATUSES[min(STATUSES.index(a), STATUSES.index(b))]
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == (low, "proven", b)


def test_the_reason_given_is_that_of_the_weakest():
    strong = Guarantees(
        "proven", "proven", "proven", {"preserves_argmax": "a positive scale", "preserves_order": "a positive scale"}
    )
    weak = Guarantees("proven", "no", "proven", {"preserves_argmax": "off-diagonal entries"})
    for both in ([strong, weak], [weak, strong]):
        assert weakest(both).reasons == {
            "preserves_argmax": "off-diagonal entries",
            "preserves_order": "a positive scale",
        }


def test_of_no_map_everything_holds():
    assert weakest([]) == Guarantees("proven", "proven", "proven", {})


def test_a_description_is_plain():
    assert Guarantees("no", "measured", "proven", {"preserves_argmax": "seen"}).to_json() == {
        "translation_invariant": "no",
        "preserves_argmax": "measured",
        "preserves_order": "proven",
        "reasons": {"preserves_argmax": "seen"},
    }

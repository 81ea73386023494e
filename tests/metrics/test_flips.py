from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.engine.accumulate import fold, result, zero
from segcal.metrics.flips import FlipAudit, Flips


@given(st.integers(0, 2**32 - 1), st.integers(0, 150), st.integers(2, 5))
def test_every_flip_is_harmful_beneficial_or_neutral(random_rows: Any, seed: int, n: int, classes: int) -> None:
    rows = random_rows(seed, n, classes)
    got = result(Flips(classes), fold(Flips(classes), rows))
    triples = [
        t
        for t in zip(rows.reference.tolist(), rows.decision.tolist(), rows.targets.tolist(), strict=True)
        if t[0] != t[1]
    ]
    assert got.harmful == sum(r == y for r, d, y in triples)
    assert got.beneficial == sum(d == y for r, d, y in triples)
    assert got.neutral == sum(r != y != d for r, d, y in triples)
    assert got.flipped == len(triples) and got.voxels == n
    if classes == 2:
        assert got.neutral == 0
    if triples:
        assert sum(got.shares) == pytest.approx(1) and got.rate == len(triples) / n


def test_no_flip_has_rate_zero_and_no_shares(make_rows: Any) -> None:
    got = result(Flips(2), fold(Flips(2), make_rows([[0.6, 0.4], [0.4, 0.6]], [0, 0])))
    assert got == FlipAudit(0, 0, 0, 2) and got.rate == 0 and all(map(math.isnan, got.shares))


def test_no_voxel_has_no_rate() -> None:
    assert math.isnan(result(Flips(2), zero(Flips(2))).rate)

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.head import Softmax
from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, merge, result, zero
from segcal.metrics.likelihood import LogLikelihood


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 7))
def test_nll_and_brier_are_those_of_the_formula(random_rows: Any, seed: int, n: int, classes: int) -> None:
    rows = random_rows(seed, n, classes)
    p, y = rows.log_probs.exp().numpy(), rows.targets.numpy()
    got = result(LogLikelihood(classes), fold(LogLikelihood(classes), rows))
    assert got.voxels == n
    assert got.nll == pytest.approx(-np.log(np.maximum(p[y, np.arange(n)], 1e-12)).mean(), rel=1e-12, abs=1e-12)
    assert got.brier == pytest.approx(((p - np.eye(classes)[y].T) ** 2).sum(0).mean(), rel=1e-12, abs=1e-12)
    assert got.entropy == pytest.approx(scipy.special.entr(p).sum(0).mean(), rel=1e-12, abs=1e-12)


def test_crop_padding_taken_as_logits_has_the_nll_of_the_oracle() -> None:
    logits = torch.zeros(5, 10)
    logits[0] = 1
    head = Softmax(tuple("abcde"))
    y = torch.zeros(10, dtype=torch.int64)
    rows = Rows(0, 0, head.canonical(logits, "logits"), y, y, y, head.free_energy(logits, "logits"))
    assert result(LogLikelihood(5), fold(LogLikelihood(5), rows)).nll == pytest.approx(0.9048324, abs=5e-8)


def test_an_impossible_label_costs_the_logarithm_of_the_floor() -> None:
    log_probs = torch.tensor([[0.0, -5000.0], [-math.inf, 0.0]], dtype=torch.float64)
    y = torch.tensor([1, 0])
    got = result(LogLikelihood(2), fold(LogLikelihood(2), Rows(0, 0, log_probs, y, 1 - y, 1 - y)))
    assert got.nll == pytest.approx(-math.log(1e-12)) and got.brier == pytest.approx(2)


def test_certain_and_right_costs_exactly_nothing() -> None:
    log_probs = torch.tensor([[0.0] * 7, [-math.inf] * 7])
    y = torch.zeros(7, dtype=torch.int64)
    got = result(LogLikelihood(2), fold(LogLikelihood(2), Rows(0, 0, log_probs, y, y, y)))
    assert got.nll == 0 and got.brier == 0 and got.entropy == 0


def test_no_voxel_has_no_mean(random_rows: Any) -> None:
    metric = LogLikelihood(4)
    for state in (zero(metric), fold(metric, random_rows(0, 0)), merge(metric, zero(metric), zero(metric))):
        got = result(metric, state)
        assert got.voxels == 0 and math.isnan(got.nll) and math.isnan(got.brier) and math.isnan(got.entropy)

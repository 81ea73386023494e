from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, merge, result, zero
from segcal.metrics.energy import EnergySpread, FreeEnergySpread

METRIC = FreeEnergySpread()


def measure(energy: Any, copies: int = 1) -> EnergySpread:
    f = torch.as_tensor(np.asarray(energy, np.float64))
    y = torch.zeros(f.shape, dtype=torch.int64)
    block = fold(METRIC, Rows(0, 0, torch.zeros(2, len(f)), y, y, y, f))
    total = zero(METRIC)
    for _ in range(copies):
        total = merge(METRIC, total, block)
    measured: EnergySpread = result(METRIC, total)
    return measured


@pytest.mark.parametrize("mean", [-1000.0, 0.0, 20.3, 1000.7, 30_000.2])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_small_spread_around_a_large_mean_keeps_six_digits(mean: float, spread: float) -> None:
    exact = np.random.default_rng(0).normal(0, spread, 50_000)
    exact = np.round(exact * 2**30) / 2**30  # mean + exact is then free of rounding in float64
    shift = np.round(mean * 2**8) / 2**8
    got = measure(shift + exact, copies=20)
    assert got.voxels == 1_000_000 and got.beyond == 0
    assert got.std == pytest.approx(exact.std(), rel=1e-6)
    assert got.mean == pytest.approx(shift + exact.mean(), abs=1e-7)


def test_two_values_that_round_apart_stay_within_the_stated_bound() -> None:
    step = 2.0**-25 * 0.999
    values = np.where(np.arange(1000) % 2, 500.1 + step, 500.1 - step)
    assert abs(measure(values).std - values.std()) <= 2.0**-25


@given(st.integers(0, 2**32 - 1), st.integers(-1000, 1000))
def test_adding_a_whole_number_to_every_energy_leaves_the_bits(seed: int, shift: int) -> None:
    energy = np.round(np.random.default_rng(seed).normal(10, 2, 50) * 2**20) / 2**20
    assert measure(energy + shift).std == measure(energy).std


@pytest.mark.parametrize("value", [0.0, 1000.3, -7.77])
def test_a_constant_has_no_spread(value: float) -> None:
    assert measure(np.full(1000, value), copies=300).std == 0


def test_rows_without_free_energy_have_nothing_to_measure(make_rows: Any) -> None:
    got = result(METRIC, fold(METRIC, make_rows([[0.6], [0.4]], [0])))
    assert got.voxels == 0 and got.beyond == 0 and math.isnan(got.std) and math.isnan(got.mean)


@pytest.mark.parametrize("huge", [2.0**20, -1e30, math.inf, math.nan])
def test_energies_beyond_the_measurable_range_are_counted_not_guessed(huge: float) -> None:
    got = measure([1.0, 2.0, huge])
    assert got.beyond == 1 and got.voxels == 3 and math.isnan(got.std)

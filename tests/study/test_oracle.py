"""The oracle's sweep: against NumPy voxel by voxel, what is known in closed form, nested rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import torch

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.errors import UsageError
from segcal.fitting.sample import Lots
from segcal.study.oracle import RATES, OracleScores, OracleSweep

LOTS = Lots(("one", "two"), 3)


def rows(seed: int, voxels: int = 4000, classes: int = 3, spread: float = 2.0, case: int = 0) -> Rows:
    """A model that is calibrated."""
    rng = np.random.default_rng(seed)
    x = scipy.special.log_softmax(spread * rng.normal(size=(classes, voxels)), 0)
    y = (np.exp(x).cumsum(0) < rng.random(voxels)).sum(0).clip(0, classes - 1)
    log_probs = torch.from_numpy(x)
    return Rows(case, 0, log_probs, torch.from_numpy(y), log_probs.argmax(0), log_probs.argmax(0))


def swept(block: Rows, **options: Any) -> OracleScores:
    sweep = OracleSweep(len(block.log_probs), LOTS, **options)
    found: OracleScores = accumulate.result(sweep, accumulate.fold(sweep, block))
    return found


@pytest.mark.parametrize("bins", [10, 50])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_as_numpy_has_it(classes: int, bins: int) -> None:
    block = rows(classes, classes=classes)
    found = swept(block, bins=bins)
    p, y, top = block.log_probs.exp().numpy(), block.targets.numpy(), block.decision.numpy()
    right, drew = top == y, LOTS.of(block)
    assert found.error == pytest.approx((~right).mean())
    for k, rate in enumerate(RATES):
        q = p.copy()
        q[:, ~right & (drew < rate)] = 1 / classes
        own, c = q[y, np.arange(len(y))], q[top, np.arange(len(y))]
        assert found.nll[k] == pytest.approx(-np.log(own).mean(), rel=1e-9)
        assert found.brier[k] == pytest.approx(((q - np.eye(classes)[y].T) ** 2).sum(0).mean(), rel=1e-9)
        b = np.clip(np.ceil(c * bins - 1e-6).astype(int) - 1, 0, bins - 1)
        gaps = np.abs(np.bincount(b, c, bins) - np.bincount(b, right, bins)).sum() / len(y)
        assert found.ece[k] == pytest.approx(gaps, abs=1e-9)


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_of_a_calibrated_model_the_error_rises_from_0_to_its_bound(spread: float) -> None:
    block = rows(0, 40_000, spread=spread)
    found = swept(block)
    c = block.log_probs.exp().amax(0).numpy()
    right = (block.decision == block.targets).numpy()
    bound = (1 - c[right]).sum() / len(c) + found.error / 3
    assert found.ece[0] < 0.01
    assert found.ece[0] < found.ece[5] < found.ece[-1] <= bound + 1e-12
    # proper scores fall all the way: an oracle knows the labels
    assert (np.diff(found.nll) < 0).all()
    assert (np.diff(found.brier) < 0).all()


def test_of_an_over_confident_model_the_sweep_is_a_u() -> None:
    block = rows(1, 40_000)
    sharp = torch.log_softmax(2.5 * block.log_probs, 0)
    found = swept(Rows(0, 0, sharp, block.targets, block.decision, block.reference))
    lowest = int(found.ece.argmin())
    assert 0 < lowest < len(RATES) - 1


def test_cases_add_up_and_nothing_is_nan() -> None:
    sweep = OracleSweep(3, LOTS)
    states = [accumulate.fold(sweep, rows(k, 1000, case=k)) for k in (0, 1)]
    both = accumulate.result(sweep, accumulate.merge(sweep, *states))
    each = [accumulate.result(sweep, state) for state in states]
    assert both.voxels == 2000
    np.testing.assert_allclose(both.nll, np.mean([one.nll for one in each], 0))
    empty = accumulate.result(sweep, accumulate.zero(sweep))
    assert empty.voxels == 0
    assert np.isnan(empty.ece).all()
    assert np.isnan(empty.nll).all()


@pytest.mark.parametrize("rates", [(), (-0.1,), (0.0, 1.5)])
def test_rates_are_shares(rates: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="rates"):
        OracleSweep(3, LOTS, rates)

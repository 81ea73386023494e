"""The truth's gauge, its special kinds, and the distance to it against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.rows import Rows
from segcal.data.simulate.truth import Truth, identifiable
from segcal.engine import accumulate
from segcal.errors import ShapeError, UsageError
from segcal.methods.affine.map import AffineMap
from segcal.metrics.truth import DistanceToTruth
from segcal.testing.accumulators import check_accumulator


def rows_of(log_probs: torch.Tensor) -> Rows:
    decision = log_probs.argmax(0)
    return Rows(0, 0, log_probs, decision, decision, decision)


def some_rows(classes: int, voxels: int, seed: int = 0) -> Rows:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (classes, voxels)))
    return rows_of(torch.log_softmax(scores, 0))


def distance(accumulator: DistanceToTruth, rows: Rows) -> float:
    return float(accumulate.result(accumulator, accumulate.fold(accumulator, rows)).kl)


@given(st.integers(2, 6), st.integers(0, 2**16), st.lists(st.floats(-3, 3), min_size=7, max_size=7))
def test_what_data_cannot_tell_is_removed(classes: int, seed: int, shift: list[float]) -> None:
    truth = Truth.general(classes, seed)
    other = Truth(truth.weight + np.array(shift[:classes]), truth.bias + shift[6])
    np.testing.assert_allclose(other.identifiable(), truth.identifiable(), atol=1e-12)
    x = some_rows(classes, 20, seed).log_probs.numpy()
    np.testing.assert_allclose(other.log_posterior(x), truth.log_posterior(x), atol=1e-10)


@given(st.integers(2, 6), st.integers(0, 2**16))
def test_equal_row_sums_are_equal_and_general_ones_are_not(classes: int, seed: int) -> None:
    equal, general = Truth.equal_row_sums(classes, seed), Truth.general(classes, seed)
    assert np.ptp(equal.weight.sum(1)) < 1e-12
    assert np.ptp(identifiable(general.weight, general.bias)[:, :-1].sum(1)) > 1e-6
    np.testing.assert_allclose(equal.bias.sum(), 0, atol=1e-12)


def test_a_temperature_scales_and_nothing_else() -> None:
    x = some_rows(4, 50).log_probs
    np.testing.assert_allclose(
        Truth.temperature(4, 0.4).log_posterior(x.numpy()), torch.log_softmax(0.4 * x, 0).numpy(), atol=1e-12
    )


def test_posterior_of_volumes_is_that_of_their_voxels() -> None:
    truth = Truth.general(3)
    x = some_rows(3, 24).log_probs.numpy()
    found = truth.log_posterior(x.reshape(3, 2, 3, 4))
    np.testing.assert_array_equal(found.reshape(3, -1), truth.log_posterior(x))
    np.testing.assert_allclose(np.exp(found).sum(0), 1, atol=1e-12)


def test_distance_of_the_truth_itself_is_zero() -> None:
    truth, rows = Truth.general(4, 3), some_rows(4, 200)
    exact = AffineMap(torch.from_numpy(truth.weight), torch.from_numpy(truth.bias))
    assert distance(DistanceToTruth(truth, lambda r: rows_of(exact(r.log_probs))), rows) < 1e-14
    assert distance(DistanceToTruth(truth), rows) > 0.01


def test_distance_against_a_closed_form() -> None:
    # KL((.8, .2) || (.5, .5)) = log 2 - H(.8)
    rows = rows_of(torch.tensor([[0.5], [0.5]], dtype=torch.float64).log())
    truth = Truth(np.eye(2), np.log([0.8, 0.2]))
    assert distance(DistanceToTruth(truth), rows) == pytest.approx(
        np.log(2) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2), abs=1e-12
    )


def test_the_distance_keeps_the_laws_of_accumulators() -> None:
    check_accumulator(lambda classes: DistanceToTruth(Truth.general(classes)))


def test_truths_are_equal_where_their_numbers_are() -> None:
    assert Truth.general(3, 1) == Truth.general(3, 1)
    assert hash(Truth.general(3, 1)) == hash(Truth.general(3, 1))
    assert Truth.general(3, 1) != Truth.general(3, 2)


def test_parts_merge_to_the_whole() -> None:
    ask, rows = DistanceToTruth(Truth.general(3)), some_rows(3, 90)
    whole = accumulate.fold(ask, rows)
    parts = [accumulate.fold(ask, rows_of(rows.log_probs[:, a : a + 30])) for a in (0, 30, 60)]
    merged = accumulate.merge(ask, accumulate.merge(ask, parts[2], parts[0]), parts[1])
    assert accumulate.result(ask, merged).voxels == 90
    assert accumulate.result(ask, merged).kl == pytest.approx(accumulate.result(ask, whole).kl, rel=1e-12)


def test_no_voxel_has_no_distance() -> None:
    found = accumulate.result(DistanceToTruth(Truth.general(3)), accumulate.zero(DistanceToTruth(Truth.general(3))))
    assert np.isnan(found.kl)
    assert found.voxels == 0


def test_wrong_truths_are_refused() -> None:
    with pytest.raises(ShapeError, match="weight, bias"):
        Truth(np.eye(3), np.zeros(2))
    with pytest.raises(ShapeError, match="weight, bias"):
        Truth(np.ones((2, 3)), np.zeros(2))
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="beta"):
            Truth.temperature(3, beta)

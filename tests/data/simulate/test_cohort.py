"""Simulated cases: networks whose distortions cancel, labels drawn exactly from the posterior, the same case for the
same seed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import special, stats

from segcal.data.head import Softmax
from segcal.data.pooling import pool_members
from segcal.data.simulate.cohort import Design, SimulatedCase, Simulation, draw_labels
from segcal.data.simulate.truth import Truth
from segcal.errors import ShapeError, UsageError

SMALL = Design(shape=(6, 12, 14), margin=(1, 0, 2))


@pytest.fixture(scope="module")
def case() -> SimulatedCase:
    return Simulation(SMALL, Truth.general(4), 5).case(0)


def test_shapes_and_crop(case: SimulatedCase) -> None:
    assert case.members.shape == (5, 4, 6, 12, 14)
    assert case.log_probs.shape == case.log_posterior.shape == (4, 6, 12, 14)
    assert case.crop == ((1, 5), (0, 12), (2, 12))
    assert case.inside.sum() == 4 * 12 * 10
    assert not case.labels[~case.inside].any()
    assert case.labels[case.inside].any()


def test_pooled_logits_are_what_the_truth_acts_on(case: SimulatedCase) -> None:
    members = (torch.from_numpy(m.reshape(4, -1).copy()) for m in case.members)
    pooled = pool_members(members, 5, "log_probs", "logits", Softmax(SMALL.classes))
    np.testing.assert_allclose(pooled.numpy(), case.log_probs.reshape(4, -1), atol=1e-12)


def test_every_network_is_off_in_its_own_way(case: SimulatedCase) -> None:
    off = np.abs(case.members - case.log_probs).mean((1, 2, 3, 4))
    assert (off > 0.05).all()
    assert len(np.unique(off)) == 5


def test_posterior_is_the_truth_of_the_scores(case: SimulatedCase) -> None:
    np.testing.assert_array_equal(case.log_posterior, Truth.general(4).log_posterior(case.log_probs))


def test_scores_stay_where_float32_probabilities_lose_nothing() -> None:
    lowest = min(
        Simulation(Design(shape=(8, 20, 20), margin=(0, 0, 0)), Truth.general(4), seed).case(i).members.min()
        for seed in range(3)
        for i in range(3)
    )
    assert lowest > np.log(1e-12) + 3


def test_a_case_depends_on_seed_and_index_alone() -> None:
    simulation = Simulation(SMALL, Truth.general(4), 5)
    simulation.case(3)
    first, again, other = (
        simulation.case(1),
        Simulation(SMALL, Truth.general(4), 5).case(1),
        Simulation(SMALL, Truth.general(4), 6).case(1),
    )
    np.testing.assert_array_equal(first.members, again.members)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.log_probs, other.log_probs)
    assert not np.array_equal(first.log_probs, simulation.case(2).log_probs)


def test_scores_do_not_depend_on_the_truth() -> None:
    a, b = (Simulation(SMALL, truth, 5).case(0) for truth in (Truth.general(4), Truth.temperature(4, 0.5)))
    np.testing.assert_array_equal(a.members, b.members)
    assert not np.array_equal(a.log_posterior, b.log_posterior)


@pytest.mark.parametrize("lengths", [(0.0, 0.0), (1.0, 2.0)])
def test_labels_follow_the_posterior_at_every_voxel(lengths: tuple[float, float]) -> None:
    draws, shape = 3000, (4, 5)
    log_q = special.log_softmax(np.random.default_rng(0).normal(0, 1.5, (3, *shape)), axis=0)
    generator = np.random.default_rng(1)
    labels = np.stack([draw_labels(generator, log_q, lengths) for _ in range(draws)])
    expected = draws * np.exp(log_q).reshape(3, -1).T
    counts = np.stack([(labels == k).sum(0).ravel() for k in range(3)], 1)
    pvalues = [stats.chisquare(c, e).pvalue for c, e in zip(counts, expected, strict=True)]
    assert min(pvalues) > 1e-3 / len(pvalues)


def test_neighbours_agree_more_often_than_independent_draws() -> None:
    log_q = np.zeros((2, 40, 40))
    generator = np.random.default_rng(0)

    def agreement(length: float) -> float:
        labels = draw_labels(generator, log_q, (length, length))
        return float(np.mean(labels[1:] == labels[:-1]))

    assert agreement(0.0) == pytest.approx(0.5, abs=0.05)
    assert agreement(2.0) > 0.7


def test_wrong_designs_are_refused() -> None:
    for change in ({"classes": ("only",)}, {"members": 0}):
        with pytest.raises(UsageError, match="design"):
            dataclasses.replace(SMALL, **change)
    for margin in ((3, 0, 0), (-1, 0, 0)):
        with pytest.raises(UsageError, match="margin"):
            dataclasses.replace(SMALL, margin=margin)
    with pytest.raises(ShapeError, match="truth: found 3 classes; expected 4"):
        Simulation(SMALL, Truth.general(3))

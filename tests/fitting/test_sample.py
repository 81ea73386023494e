"""Samples of voxels: even, the same for any cut, nested."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.fitting.sample import Lots, Sample, VoxelSample

LOTS = Lots(("case 0", "case 1", "case 2"), 7)


def rows(case: int, start: int, voxels: int, classes: int = 3) -> Rows:
    rng = np.random.default_rng([case, start])
    x = torch.log_softmax(torch.from_numpy(rng.normal(size=(classes, voxels))), 0)
    return Rows(case, start, x, torch.from_numpy(rng.integers(classes, size=voxels)), x.argmax(0), x.argmax(0))


def drawn(most: int, *blocks: Rows, right: bool = False) -> Sample:
    accumulator = VoxelSample(3, most, LOTS, right)
    state = accumulate.zero(accumulator)
    for block in blocks:
        state = accumulate.merge(accumulator, state, accumulate.fold(accumulator, block))
    found: Sample = accumulate.result(accumulator, state)
    return found


def test_a_lot_belongs_to_a_voxel() -> None:
    whole = LOTS.of(rows(1, 0, 50))
    assert len(set(whole.tolist())) == 50
    for start in (1, 3, 4, 17):
        np.testing.assert_array_equal(LOTS.of(rows(1, start, 50 - start)), whole[start:])
    assert not np.isin(LOTS.of(rows(2, 0, 50)), whole).any()
    assert not np.isin(Lots(LOTS.names, 8).of(rows(1, 0, 50)), whole).any()


def test_those_with_the_lowest_lots_are_chosen() -> None:
    blocks = [rows(0, 0, 40), rows(0, 40, 30), rows(2, 0, 60)]
    everything, few = drawn(1000, *blocks), drawn(25, *blocks[::-1])
    assert (everything.voxels, few.voxels, len(everything.drew), len(few.drew)) == (130, 130, 130, 25)
    assert (np.diff(everything.drew) > 0).all()
    for name in ("drew", "targets", "decided"):
        np.testing.assert_array_equal(getattr(few, name), getattr(everything, name)[:25])
    np.testing.assert_array_equal(few.log_probs, everything.log_probs[:, :25])
    np.testing.assert_array_equal(everything.decided, everything.log_probs.argmax(0))


def test_of_those_decided_right_only() -> None:
    blocks = [rows(0, 0, 400), rows(1, 0, 300)]
    everything, right = drawn(1000, *blocks), drawn(1000, *blocks, right=True)
    assert right.voxels == int(everything.right.sum())
    assert right.right.all()
    np.testing.assert_array_equal(right.drew, everything.drew[everything.right])


def test_every_voxel_is_chosen_as_often() -> None:
    """Of a thousand seeds; six standard errors."""
    block, chosen = rows(0, 0, 20), np.zeros(20)
    for seed in range(1000):
        chosen[np.argsort(Lots(("it",), seed).of(block))[:5]] += 1
    assert np.abs(chosen - 250).max() < 6 * np.sqrt(1000 * 0.25 * 0.75)


def test_no_voxel() -> None:
    empty = drawn(5, rows(0, 0, 0))
    assert (empty.voxels, empty.log_probs.shape, empty.right.shape) == (0, (3, 0), (0,))


@pytest.mark.parametrize("engine", [Threads(2), Threads(3)])
def test_the_same_for_any_engine(engine: Threads) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 4, 90, 800)).astype(np.float32)
    cohort = cohort_from_arrays(z, rng.integers(4, size=(3, 90, 800)), kind="logits")
    accumulator = VoxelSample(4, 300, Lots(tuple(c.id for c in cohort), 0))
    states = [e.survey(cohort, {"it": Ask(accumulator)})[0]["it"] for e in (Serial(), engine)]
    assert states[0]["rows"].tobytes() == states[1]["rows"].tobytes()
    assert int(states[0]["voxels"]) == 3 * 90 * 800

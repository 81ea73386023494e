from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from segcal.metrics.probabilities import at, probabilities


def test_the_exponential_is_taken_once_a_block(random_rows: Any) -> None:
    rows = random_rows(0, 100)
    first = probabilities(rows)
    assert probabilities(rows) is first
    torch.testing.assert_close(first, rows.log_probs.exp(), rtol=0, atol=0)


def test_another_block_is_never_mistaken_for_the_last_one(random_rows: Any) -> None:
    for seed in range(50):  # blocks die at once, so their addresses are used again
        rows = random_rows(seed, 8)
        assert torch.equal(probabilities(rows), rows.log_probs.exp())


def test_float32_rows_are_raised_to_float64_first_and_left_as_they_are(random_rows: Any) -> None:
    rows = random_rows(1, 50, dtype=torch.float32)
    before = rows.log_probs.clone()
    p = probabilities(rows)
    assert p.dtype == torch.float64
    assert torch.equal(p, before.double().exp()) and torch.equal(rows.log_probs, before)


def test_threads_do_not_share_their_last_block(random_rows: Any) -> None:
    blocks = [random_rows(seed, 300) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(probabilities, blocks * 3))
    for rows, p in zip(blocks * 3, got, strict=True):
        assert torch.equal(p, rows.log_probs.exp())
    mine = probabilities(blocks[0])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(probabilities, blocks[1]).result()
    assert probabilities(blocks[0]) is mine


def test_at_picks_one_class_a_voxel() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    assert at(values, torch.tensor([0, 1, 0])).tolist() == [0, 4, 2]
    with pytest.raises((RuntimeError, IndexError)):
        at(values, torch.tensor([0, 2, 0]))

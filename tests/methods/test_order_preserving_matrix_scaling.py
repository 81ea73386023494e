"""OrderPreservingMatrixScaling: what it recovers, what it promises, and that fitted maps keep it on real
predictions.
"""

from __future__ import annotations

import numpy as np
import torch

from segcal import OrderPreservingMatrixScaling
from segcal.engine.serial import Serial
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Gaps


def swaps(z: np.ndarray, p: np.ndarray) -> int:
    """Voxels in which two classes strictly ordered in z are strictly the other way round in p."""
    places = np.argsort(-z, 1, kind="stable")
    ordered = np.take_along_axis(p, places, 1)
    return int((np.diff(ordered, axis=1) > 0).any(1).sum())


def test_steps_between_ranks_that_made_the_labels_are_recovered() -> None:
    rng = np.random.default_rng(0)
    n = 60_000
    a = (
        torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
        * torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)[:, None, None]
    )
    g = torch.tensor([[0.2, 0.1], [0.0, 0.4], [0.3, 0.0]], dtype=torch.float64)
    truth = ConditionalMap(a, g, Gaps())
    z = torch.from_numpy(1.5 * rng.normal(size=(3, n)))
    p = truth(z.log_softmax(0)).exp().numpy()
    y = (rng.random(n) > p.cumsum(0)).sum(0).clip(max=2)
    made = OrderPreservingMatrixScaling(0.0).fit(z.T.numpy(), y, groups=np.arange(n) % 50, engine=Serial())
    # parameters trade with each other; what they say of a voxel is determined well
    fresh = torch.from_numpy(1.5 * np.random.default_rng(1).normal(size=(3, 20_000))).log_softmax(0)
    assert float((made.maps[0](fresh).exp() - truth(fresh).exp()).abs().max()) < 0.06
    assert float((made.maps[0](fresh).exp() - truth(fresh).exp()).abs().mean()) < 0.006


def test_promises(arrays) -> None:
    z, y = arrays
    made = OrderPreservingMatrixScaling(0.0).fit(z, y, engine=Serial())
    found = made.guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == (
        "proven",
        "proven",
        "proven",
    )
    flat = np.moveaxis(z, 1, -1).reshape(-1, 3)
    assert swaps(flat, made(torch.from_numpy(flat)).numpy()) == 0


def test_no_order_changes_on_real_street_scenes(camvid, table) -> None:
    z, _ = table(camvid, 1)
    made = OrderPreservingMatrixScaling(0.0).fit(camvid, engine=Serial())
    p = made(torch.from_numpy(z)).numpy()
    np.testing.assert_array_equal(p.argmax(1), z.argmax(1))
    assert swaps(z, p) == 0

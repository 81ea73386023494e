"""ArgmaxPreservingMatrixScaling: what it recovers, what it promises, and that fitted maps keep it on real
predictions.
"""

from __future__ import annotations

import numpy as np
import torch

from segcal import ArgmaxPreservingMatrixScaling
from segcal.engine.serial import Serial
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Margins


def test_experts_that_made_the_labels_are_recovered() -> None:
    """Labels drawn from known experts in margins, one entry at its bound: every parameter within four standard errors
    of its own, from the exact curvature at the truth.
    """
    rng = np.random.default_rng(0)
    n = 60_000
    a = torch.tensor(
        [[[0.8, 0.0], [0.3, 0.6]], [[0.5, 0.2], [0.1, 0.9]], [[0.7, 0.4], [0.0, 0.5]]], dtype=torch.float64
    )
    g = torch.tensor([[0.2, 0.0], [0.1, 0.4], [0.3, 0.2]], dtype=torch.float64)
    truth = ConditionalMap(a, g, Margins())
    z = torch.from_numpy(1.5 * rng.normal(size=(3, n)))
    p = truth(z.log_softmax(0)).exp().numpy()
    y = (rng.random(n) > p.cumsum(0)).sum(0).clip(max=2)
    made = (
        ArgmaxPreservingMatrixScaling(0.0, eps=0.0)
        .fit(z.T.numpy(), y, groups=np.arange(n) % 50, engine=Serial())
        .maps[0]
    )
    x = z.log_softmax(0)
    winner = z.argmax(0)
    for e in range(3):
        m = Margins().features(x[:, winner == e], e)
        psi = torch.cat([m, torch.ones(1, m.shape[1], dtype=torch.float64)])
        q = truth(x[:, winner == e]).exp()[[k for k in range(3) if k != e]]
        weighted = (q[:, None] * psi[None]).reshape(6, -1)
        information = (
            torch.block_diag(*(weighted.reshape(2, 3, -1)[k] @ psi.T for k in range(2))) - weighted @ weighted.T
        )
        error = torch.linalg.inv(information).diagonal().sqrt()
        away = (
            (torch.cat([made.weight[e], made.bias[e][:, None]], 1) - torch.cat([a[e], g[e][:, None]], 1))
            .flatten()
            .abs()
        )
        assert bool((away <= 4 * error).all())
        assert float(error.max()) < 0.2


def test_promises_and_zeros_at_the_bound(arrays) -> None:
    z, y = arrays
    made = ArgmaxPreservingMatrixScaling(0.0).fit(z, y, engine=Serial())
    found = made.guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven", "proven", "no")
    assert bool((made.maps[0].weight >= 0).all() and (made.maps[0].bias >= 0).all())
    at_bounds = int((made.maps[0].weight == 0).sum() + (made.maps[0].bias == 0).sum())
    assert sum(e["at_bounds"] for e in made.solution.settings["experts"]) == at_bounds > 0
    assert torch.equal(made(torch.from_numpy(z)).argmax(1), torch.from_numpy(z).argmax(1))


def test_no_label_changes_on_real_street_scenes(camvid, table) -> None:
    z, _ = table(camvid, 1)
    made = ArgmaxPreservingMatrixScaling(0.0).fit(camvid, engine=Serial())
    p = made(torch.from_numpy(z)).numpy()
    np.testing.assert_array_equal(p.argmax(1), z.argmax(1))
    assert np.abs(p.astype(np.float64).sum(1) - 1).max() < 1e-6

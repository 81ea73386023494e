"""ClassConditionalDirichlet: what it recovers, what it promises, and that fitted maps keep it on real predictions."""

from __future__ import annotations

import numpy as np
import torch

from segcal import ClassConditionalDirichlet
from segcal.engine.serial import Serial
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Scores


def test_experts_that_made_the_labels_are_recovered() -> None:
    rng = np.random.default_rng(0)
    n = 60_000
    weight = torch.eye(3, dtype=torch.float64) * 0.7 + 0.15 * torch.from_numpy(rng.normal(size=(3, 3, 3)))
    bias = 0.3 * torch.from_numpy(rng.normal(size=(3, 3)))
    truth = ConditionalMap(weight, bias, Scores())
    z = torch.from_numpy(1.5 * rng.normal(size=(3, n)))
    p = truth(z.log_softmax(0)).exp().numpy()
    y = (rng.random(n) > p.cumsum(0)).sum(0).clip(max=2)
    made = ClassConditionalDirichlet(0.0).fit(z.T.numpy(), y, groups=np.arange(n) % 50, engine=Serial())
    fresh = torch.from_numpy(1.5 * np.random.default_rng(1).normal(size=(3, 20_000))).log_softmax(0)
    assert float((made.maps[0](fresh).exp() - truth(fresh).exp()).abs().mean()) < 0.006


def test_marginals_match_in_every_expert(arrays) -> None:
    """Definitions 9.5: over the voxels of an expert the mean probability is the frequency of the class."""
    z, y = arrays
    made = ClassConditionalDirichlet(0.0).fit(z, y, engine=Serial())
    x = torch.from_numpy(np.moveaxis(z.astype(float), 1, 0).reshape(3, -1)).log_softmax(0)
    p, winner, at = made.maps[0](x).exp(), x.argmax(0), torch.from_numpy(y.ravel())
    for e in range(3):
        mine = winner == e
        frequency = torch.bincount(at[mine], minlength=3).double() / int(mine.sum())
        torch.testing.assert_close(p[:, mine].mean(1), frequency, atol=1e-6, rtol=0)


def test_promises(arrays) -> None:
    z, y = arrays
    found = ClassConditionalDirichlet(0.0).fit(z, y, engine=Serial()).guarantees()
    assert (found.translation_invariant, found.preserves_argmax, found.preserves_order) == ("proven", "no", "no")

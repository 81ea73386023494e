"""Logits of minus infinity, or of a size that stands for it: every method gives finite numbers, and the same as without
the size.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal.engine.serial import Serial
from segcal.methods import methods

AUTOMATIC = [m.kind for m in methods().values() if m.kind.automatic]


@pytest.mark.parametrize("method", AUTOMATIC, ids=lambda m: m.__name__)
@pytest.mark.parametrize("low", [-np.inf, -3e38, -1e19])
def test_a_class_ruled_out_at_some_voxels_leaves_a_finite_fit(method, low, arrays) -> None:
    z, y = arrays
    out = np.random.default_rng(0).random(z.shape) < 0.05
    np.put_along_axis(out, y[:, None], False, 1)
    given = torch.from_numpy(np.where(out, low, z))
    calibrator = method().fit(given, y, engine=Serial())
    p = calibrator(given)
    assert np.isfinite(calibrator.solution.nll)
    assert torch.isfinite(p).all()
    assert (p.sum(1) - 1).abs().max() < 1e-6
    if calibrator.keeps_label:
        assert torch.equal(p.argmax(1), given.argmax(1))

"""What the conformance kit cannot know of metrics: rows kept in float32 give nearly the state of float64 rows.

The laws themselves are run in tests/laws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segcal.engine.accumulate import fold
from segcal.metrics import REGISTERED, Factory


@pytest.mark.parametrize("factory", REGISTERED, ids=lambda f: type(f(3, 0)).__name__)
def test_float32_rows_give_nearly_the_same_state(random_rows: Any, factory: Factory) -> None:
    metric = factory(4, 0)
    full, kept = (fold(metric, random_rows(2, 500, 4, dtype)) for dtype in (torch.float64, torch.float32))
    for name, leaf in metric.leaves.items():
        np.testing.assert_allclose(leaf.value(full[name]), leaf.value(kept[name]), rtol=1e-5, atol=1e-4)

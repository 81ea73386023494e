"""Logits of any size: divided by a power of two first, every method finds what it finds at a usual one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segcal import TemperatureScaling, cohort_from_arrays, evaluate, load
from segcal.engine.serial import Serial
from segcal.methods import methods

AUTOMATIC = [m.kind for m in methods().values() if m.kind.automatic]


@pytest.mark.parametrize("method", AUTOMATIC, ids=lambda m: m.__name__)
@pytest.mark.parametrize("size", [1e4, 1e-5])
def test_size_does_not_matter(method, size, arrays, tmp_path: Path) -> None:
    z, y = arrays
    usual = method().fit(z, y, engine=Serial())
    given = torch.from_numpy(z * size)
    made = method().fit(given, y, engine=Serial())
    assert made.solution.status == "optimal"
    assert made.solution.nll == pytest.approx(usual.solution.nll, abs=2e-2)  # bins of histogram binning lie elsewhere
    picked = made.log_probs(given).gather(1, torch.from_numpy(y)[:, None].long())
    assert float(-picked.mean()) == pytest.approx(made.solution.nll, abs=1e-5)
    cohort = cohort_from_arrays(z * size, y)
    scored = evaluate(cohort, made, Serial(), fitted="include").calibrated
    assert scored is not None
    assert scored.block["nll"] == pytest.approx(made.solution.nll, abs=1e-5)
    made.save(tmp_path / "cal.safetensors")
    assert torch.equal(load(tmp_path / "cal.safetensors")(given), made(given))


@pytest.mark.parametrize("size", [2.0**40, 2.0**-30])
def test_a_temperature_is_that_of_the_scores_as_given(size, arrays) -> None:
    z, y = arrays
    usual, made = (TemperatureScaling().fit(z * s, y, engine=Serial()) for s in (1.0, size))
    assert made.unit == 1
    assert 1 / float(made.maps[0].beta) == pytest.approx(size / float(usual.maps[0].beta), rel=1e-7)
    assert f"T = {size / float(usual.maps[0].beta):.4g}" in made.solution.message
    assert "logits are divided by" in made.solution.message
    # digests are those of the scores as given
    assert made.data.records == cohort_records(z * size, y)


def cohort_records(z: np.ndarray, y: np.ndarray) -> tuple[object, ...]:
    return tuple(evaluate(cohort_from_arrays(z, y), None, Serial()).records)

"""Temperature scaling: the definitions' toy, its optimality condition, its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal import TemperatureScaling, cohort_from_arrays
from segcal.engine.serial import Serial
from segcal.methods.temperature import ScaleMap

TOY = np.array([[2, 0, 0], [0, 1, 0], [3, 1, 0], [0, 0, 2]], float)


def test_toy_of_the_definitions() -> None:
    calibrator = TemperatureScaling().fit(TOY, [0, 2, 0, 2], engine=Serial())
    beta = calibrator.maps[0].beta.item()
    assert beta == pytest.approx(1.3412736, abs=1e-7)
    assert calibrator.maps[0].describe()["temperature"] == pytest.approx(0.7455601, abs=1e-7)
    assert calibrator.solution.nll == calibrator.solution.objective == pytest.approx(0.5252799, abs=5e-8)
    assert calibrator.solution.status == "optimal"
    assert calibrator.solution.certificate["gap"] <= 1e-10


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.3, 4), classes=st.integers(2, 12))
def test_expected_score_equals_the_label_s(seed, temperature, classes, truth) -> None:
    """Optimality 9.5: E_p z = z_y on average; and the truth's temperature is found."""
    z, y = truth(seed, 2, 3000, np.eye(classes) / temperature, np.zeros(classes))
    calibrator = TemperatureScaling().fit(z, y, engine=Serial())
    x = torch.log_softmax(torch.from_numpy(z).double(), 1)
    p = calibrator.log_probs(torch.from_numpy(z)).exp()
    picked = x.gather(1, torch.from_numpy(y)[:, None])
    assert abs(((p * x).sum(1) - picked[:, 0]).mean().item()) < 1e-6
    assert calibrator.maps[0].describe()["temperature"] == pytest.approx(temperature, rel=0.25)
    assert calibrator.guarantees().preserves_order == "proven"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_scale_of_the_scores_is_undone(scale, arrays) -> None:
    z, y = arrays
    plain, scaled = (TemperatureScaling().fit(s * z, y, engine=Serial()) for s in (1.0, scale))
    assert scaled.solution.nll == pytest.approx(plain.solution.nll, abs=1e-6)
    assert scaled.maps[0].describe()["temperature"] == pytest.approx(
        scale * plain.maps[0].describe()["temperature"], rel=1e-4
    )


def test_every_voxel_right_is_reported(arrays) -> None:
    z, _ = arrays
    calibrator = TemperatureScaling().fit(z, z.argmax(1), engine=Serial())
    assert calibrator.solution.status == "degenerate"
    assert "bound" in calibrator.solution.message
    assert "all scores are equal" not in calibrator.solution.message
    p = calibrator(torch.from_numpy(z))
    assert torch.isfinite(p).all()
    assert torch.equal(p.argmax(1), torch.from_numpy(z).argmax(1))


def test_one_voxel_is_no_constant(arrays) -> None:
    z, _ = arrays
    calibrator = TemperatureScaling().fit(10 * z[:1, :, :1], z[:1, :, :1].argmax(1), engine=Serial())
    assert calibrator.solution.status == "degenerate"
    assert "all scores are equal" not in calibrator.solution.message


def test_wrong_more_often_than_chance_is_a_bound(arrays) -> None:
    z, _ = arrays
    calibrator = TemperatureScaling().fit(z, (z.argmax(1) + 1) % 3, engine=Serial())
    assert calibrator.maps[0].describe()["temperature"] == pytest.approx(1e4)
    assert "lower bound" in calibrator.solution.message


def test_constant_scores_stay(arrays) -> None:
    z, y = arrays
    calibrator = TemperatureScaling().fit(0 * z + 3, y, engine=Serial())
    assert calibrator.maps[0].beta.item() == 1
    assert calibrator.solution.status == "degenerate"
    assert "all scores are equal" in calibrator.solution.message


def test_regions_have_a_temperature_each(fit) -> None:
    from segcal.data.head import Regions

    rng = np.random.default_rng(0)
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    z = 3 * rng.normal(size=(2, 2, 800))
    inside = rng.random(size=z.shape) < 1 / (1 + np.exp(-z / np.array([1.5, 3.0])[None, :, None]))
    y = np.where(inside[:, 1], 2, inside[:, 0].astype(int))
    cohort = cohort_from_arrays(z, y, kind="logits", head=head)
    calibrator = fit({"ts": TemperatureScaling()}, cohort)["ts"].calibrator
    assert all(isinstance(m, ScaleMap) for m in calibrator.maps)
    assert set(calibrator.solution.parts) == {"whole", "core"}
    assert calibrator.solution.nll == pytest.approx(np.mean([s.nll for s in calibrator.solution.parts.values()]))
    assert calibrator.maps[1].describe()["temperature"] == pytest.approx(3.0, rel=0.3)

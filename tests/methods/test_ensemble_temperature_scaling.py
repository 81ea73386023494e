"""Ensemble temperature scaling: never worse than temperature scaling, weights recovered, degenerate ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import EnsembleTemperatureScaling, TemperatureScaling, cohort_from_arrays
from segcal.engine.serial import Serial


def mixed(
    seed: int, weights: tuple[float, float, float], temperature: float, n: int = 6000
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a mixture of a tempered softmax, the softmax and the uniform."""
    rng = np.random.default_rng(seed)
    z = 3 * rng.normal(size=(n, 4))
    x = torch.from_numpy(z)
    p = weights[0] * torch.softmax(x / temperature, 1) + weights[1] * torch.softmax(x, 1) + weights[2] / 4
    y = (rng.random((n, 1)) > p.numpy().cumsum(1)).sum(1).clip(max=3)
    return z, y


@pytest.mark.parametrize(
    ("weights", "temperature"),
    [((0.9, 0.0, 0.1), 1.0), ((0.5, 0.3, 0.2), 3.0), ((1.0, 0.0, 0.0), 2.0), ((0.0, 0.0, 1.0), 1.0)],
)
def test_is_no_worse_than_temperature_scaling_and_certified(weights, temperature, fit) -> None:
    z, y = mixed(1, weights, temperature)
    fits = fit({"ets": EnsembleTemperatureScaling(), "ts": TemperatureScaling()}, cohort_from_arrays(z, y))
    ets, ts = fits["ets"].calibrator.solution, fits["ts"].calibrator.solution
    assert ets.nll <= ts.nll
    assert ets.certificate["gap"] <= 1e-9
    assert ets.certificate["proof"] == "Frank-Wolfe"
    described = fits["ets"].calibrator.maps[0].describe()
    assert sum(described["weights"]) == pytest.approx(1)
    assert ets.nll == pytest.approx(
        torch.nn.functional.nll_loss(fits["ets"].calibrator.log_probs(torch.from_numpy(z)), torch.from_numpy(y)).item(),
        abs=1e-6,
    )


def test_weights_meet_their_condition(fit) -> None:
    """At the optimum the mean of q / (l.q) is 1 for components in use, at most 1 for the others."""
    z, y = mixed(3, (0.6, 0.2, 0.2), 3.0)
    m = fit({"ets": EnsembleTemperatureScaling()}, cohort_from_arrays(z, y))["ets"].calibrator.maps[0]
    x = torch.log_softmax(torch.from_numpy(z), 1)
    q = torch.stack([torch.softmax(m.beta * x, 1), x.exp(), torch.full_like(x, 0.25)])[
        :, torch.arange(len(y)), torch.from_numpy(y)
    ]
    ratio = (q / (m.weights @ q)).mean(1)
    used = m.weights > 1e-9
    assert (ratio[used] - 1).abs().max() < 1e-5
    assert (ratio <= 1 + 1e-5).all()


def test_a_uniform_share_is_found_where_voxels_are_noise(fit) -> None:
    z, y = mixed(5, (0.0, 0.8, 0.2), 1.0, 20_000)
    described = (
        fit({"ets": EnsembleTemperatureScaling()}, cohort_from_arrays(z, y))["ets"].calibrator.maps[0].describe()
    )
    assert described["weights"][2] == pytest.approx(0.2, abs=0.05)


def test_separable_scores_end_with_their_temperature(arrays) -> None:
    z, _ = arrays
    calibrator = EnsembleTemperatureScaling().fit(z, z.argmax(1), engine=Serial())
    assert calibrator.solution.status == "degenerate"
    assert calibrator.keeps_label
    assert torch.isfinite(calibrator(torch.from_numpy(z))).all()


def test_an_optimum_on_an_edge_is_certified(arrays) -> None:
    """With one class never labelled the tempered share is zero; the polish there must not stop short."""
    z, y = arrays
    solution = EnsembleTemperatureScaling().fit(z, np.where(y == 2, 1, y), engine=Serial()).solution
    assert solution.status == "optimal"
    assert solution.certificate["gap"] <= 1e-9
    assert "no voxel is labelled 2" in solution.message


def test_constant_scores_are_reported(arrays) -> None:
    z, y = arrays
    solution = EnsembleTemperatureScaling().fit(0 * z, y, engine=Serial()).solution
    assert solution.status == "degenerate"
    assert solution.nll == pytest.approx(np.log(3))


def test_scores_against_the_labels_keep_every_label(arrays) -> None:
    """All weight on the uniform distribution would tie every class, and hand each voxel to class 0."""
    z, _ = arrays
    calibrator = EnsembleTemperatureScaling().fit(z, z.argmin(1), engine=Serial())
    weights = calibrator.maps[0].weights
    assert float(weights[:2].sum()) == pytest.approx(1e-6)
    assert calibrator.solution.nll == pytest.approx(np.log(3), abs=1e-5)
    assert calibrator.solution.certificate["gap"] <= 1e-5
    assert "tell nothing of the labels" in calibrator.solution.message
    assert calibrator.guarantees().preserves_argmax == "proven"
    assert np.array_equal(calibrator(torch.from_numpy(z)).argmax(1).numpy(), z.argmax(1))

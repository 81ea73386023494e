"""Data that determine little: every method ends in a finite, usable map and says what it met."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import cohort_from_arrays
from segcal.methods import find

METHODS = {
    "ts": {},
    "ets": {},
    "vs": {"lambda_": 0.0},
    "ms": {"lambda_": 0.0},
    "ms-c": {"lambda_": 0.0},
    "dc": {"lambda_": 0.0},
}
PENALISED = ("vs", "ms", "ms-c", "dc")


def data(name: str, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return {
        "separable": lambda: (z, z.argmax(1)),
        "always wrong": lambda: (z, (z.argmax(1) + 1) % 3),
        "an absent class": lambda: (z, np.where(y == 2, 1, y)),
        "one class only": lambda: (z, np.zeros_like(y)),
        "constant scores": lambda: (np.full_like(z, 2.0), y),
        "one voxel": lambda: (z[:1, :, :1], y[:1, :1]),
        "two equal classes": lambda: (np.concatenate([z[:, :2], z[:, :1]], 1), y),
        "scores of 1e6": lambda: (1e6 * z, y),
        "scores of 1e-6": lambda: (1e-6 * z, y),
        "saturated scores": lambda: (np.where(z == z.max(1, keepdims=True), 1e4, -1e4).astype(np.float32), y),
    }[name]()


SAID = {
    "separable": "bound",
    "always wrong": "",
    "an absent class": "no voxel is labelled 2",
    "one class only": "no voxel is labelled 1, 2",
    "constant scores": "all scores are equal",
    "one voxel": "no voxel is labelled",
    "two equal classes": "",
    "scores of 1e6": "",
    "scores of 1e-6": "",
    "saturated scores": "",
}


@pytest.mark.parametrize("name", SAID)
def test_every_method_ends_finite_usable_and_reported(name, arrays, fit) -> None:
    z, y = data(name, *arrays)
    cohort = cohort_from_arrays(z, y)
    methods = {key: find(key)(**options) for key, options in METHODS.items()} | {
        f"{key} by data": find(key)() for key in PENALISED
    }
    for key, made in fit(methods, cohort).items():
        calibrator, solution = made.calibrator, made.calibrator.solution
        p = calibrator(torch.from_numpy(z))
        assert torch.isfinite(p).all(), key
        assert (p.double().sum(1) - 1).abs().max() < 1e-6, key
        assert np.isfinite([solution.objective, solution.nll]).all(), key
        assert solution.status in ("optimal", "degenerate", "stopped"), key
        assert SAID[name] in solution.message, key
        if calibrator.keeps_label:
            np.testing.assert_array_equal(p.numpy().argmax(1), z.argmax(1))


@pytest.mark.parametrize("name", ["separable", "an absent class", "one class only"])
def test_what_data_do_not_determine_is_called_so(name, arrays, fit) -> None:
    z, y = data(name, *arrays)
    for key, made in fit({key: find(key)(0.0) for key in PENALISED}, cohort_from_arrays(z, y)).items():
        assert made.calibrator.solution.status == "degenerate", key
        assert made.calibrator.solution.certificate["gap"] <= 1e-7, key


def test_a_class_absent_from_a_fold_alone_is_said_of_that_fold(arrays, fit) -> None:
    z, y = arrays
    y = np.where(y == 2, 1, y)
    y[0, :50] = 2
    made = fit({"dc": find("dc")(0.0)}, cohort_from_arrays(z, y), crossfit=True)["dc"]
    assert "no voxel" not in made.calibrator.solution.message
    said = ["no voxel is labelled 2" in c.solution.message for c in made.held_out]
    assert said == [0 in fold for fold in made.folds]

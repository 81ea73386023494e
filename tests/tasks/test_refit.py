"""A temperature after a calibrator: it is found again, both are one file, and the cases of both fits are remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segcal import fit_methods, load
from segcal.data.cohort import Cohort
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.serial import Serial
from segcal.errors import HeldOutError, UsageError
from segcal.methods import find
from segcal.methods.calibrator import Calibrator
from segcal.tasks.evaluate import evaluate
from segcal.tasks.refit import NAME, refit


def site(seed: int, temperature: float, cases: int = 8, shape: tuple[int, ...] = (40, 30)) -> Cohort:
    """Logits that are too large by a factor, labels from the right ones."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (cases, 3, *shape))
    labels = (np.log(-1 / np.log(rng.random(z.shape))) + z).argmax(1)
    return cohort_from_arrays((temperature * z).astype(np.float32), labels, ids=[f"{seed}-{k}" for k in range(cases)])


def elsewhere(method: str = "ts") -> Calibrator:
    made = find(method)
    assert made is not None
    return fit_methods({"it": made()}, site(1, 2.0), Serial(), crossfit=False)["it"].calibrator


@pytest.mark.parametrize("method", ["ts", "cms-op", "bts"])
def test_a_temperature_of_another_site_is_found_again(method: str, tmp_path: Path) -> None:
    first, there = elsewhere(method), site(2, 4.0)
    made = refit(first, there, Serial()).fits[NAME].calibrator
    held_out = site(3, 4.0)
    before = evaluate(held_out, first, Serial()).calibrated
    after = evaluate(held_out, made, Serial()).calibrated
    direct = evaluate(held_out, refit(elsewhere(), there, Serial()).fits[NAME].calibrator, Serial()).calibrated
    assert before is not None and after is not None and direct is not None
    assert after.block["nll"] < before.block["nll"] - 0.05
    assert after.block["nll"] == pytest.approx(direct.block["nll"], abs=0.01)
    made.save(tmp_path / "c.safetensors")
    scores = torch.randn(2, 3, 5, 6)
    assert torch.equal(load(tmp_path / "c.safetensors")(scores), made(scores))
    assert torch.equal(made(scores).argmax(1), scores.argmax(1))


def test_after_two_maps_comes_a_third(tmp_path: Path) -> None:
    first = refit(elsewhere(), site(2, 4.0), Serial()).fits[NAME].calibrator
    made = refit(first, site(4, 1.0), Serial()).fits[NAME].calibrator
    made.save(tmp_path / "c.safetensors")
    scores = torch.randn(1, 3, 4, 4)
    assert torch.equal(load(tmp_path / "c.safetensors")(scores), made(scores))


def test_cases_of_both_fits_are_remembered() -> None:
    made = refit(elsewhere(), site(2, 4.0), Serial()).fits[NAME].calibrator
    assert made.data is not None
    assert len(made.data.records) == 16
    assert made.reference is not None
    assert made.reference["groups"] == 8
    for seen in (site(1, 2.0), site(2, 4.0)):
        with pytest.raises(HeldOutError):
            evaluate(seen, made, Serial())


def test_cases_of_the_first_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="fitted on"):
        refit(elsewhere(), site(1, 2.0), Serial())

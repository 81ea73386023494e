"""A calibrator inside a predictor, held against `apply` on the same arrays; nnU-Net itself: test_nnunet_itself.py."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segcal
from segcal.data.case import Provenance
from segcal.data.head import Regions, Softmax
from segcal.deploy.nnunet import LEAD, _handed_back, calibrate
from segcal.errors import MismatchError, UsageError
from segcal.methods.calibrator import Calibrator, FitData
from segcal.methods.temperature import ScaleMap

NAMES = {"background": 0, "anterior": 1, "posterior": 2}
HEAD = Softmax(tuple(NAMES), 0)


class Configuration:
    """As nnU-Net's: resampling to another shape, here by repeating voxels."""

    patch_size = (8, 8, 8)

    def resampling_fn_probabilities(self, logits: Any, shape: Any, current: Any, new: Any) -> np.ndarray:
        out = np.asarray(logits)
        for axis, n in enumerate(shape, 1):
            out = out.repeat(-(-n // out.shape[axis]), axis).take(range(n), axis)
        return out


@dataclass
class Plans:
    transpose_forward: tuple[int, ...] = (2, 0, 1)
    transpose_backward: tuple[int, ...] = (1, 2, 0)


class Labels:
    def apply_inference_nonlin(self, logits: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(logits).float().softmax(0)


@dataclass
class Predictor:
    """What `calibrate` asks of nnUNetPredictor."""

    configuration_manager: Any = field(default_factory=Configuration)
    plans_manager: Plans = field(default_factory=Plans)
    label_manager: Labels = field(default_factory=Labels)
    dataset_json: dict[str, Any] = field(default_factory=lambda: {"labels": NAMES})
    list_of_parameters: list[Any] = field(default_factory=lambda: [{}] * 5)
    use_mirroring: bool = True
    tile_step_size: float = 0.5


def scaled(head: Any = HEAD, networks: int = 5, temperature: float = 2.0) -> Calibrator:
    data = FitData("fitted", "probs", Provenance(folds=networks, tta=True, step_size=0.5), (), 0)
    return Calibrator(head, "probs", [ScaleMap(1 / temperature) for _ in head.parts], "ts", data=data)


def test_resampled_logits_come_out_calibrated_on_the_axes_of_the_network(tmp_path) -> None:
    predictor = Predictor()
    scaled().save(tmp_path / "cal.safetensors")
    assert calibrate(predictor, tmp_path / "cal.safetensors") == []
    inside = pickle.loads(pickle.dumps(predictor.configuration_manager))  # as for the processes that export
    assert inside.patch_size == (8, 8, 8)
    logits = np.random.default_rng(0).normal(0, 4, (3, 4, 5, 6)).astype(np.float16)
    found = inside.resampling_fn_probabilities(logits, (8, 5, 6), (1.0, 1, 1), (0.5, 1, 1))
    expected = torch.from_numpy(logits.repeat(2, 1)).float().div(2).softmax(0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.softmax(0), expected, rtol=3e-6, atol=1e-7)


def test_distances_are_measured_in_the_spacing_of_the_axes_as_filed() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (3, 6, 12, 10))
    labels = (rng.random((1, 6, 12, 10)) > np.cumsum(torch.from_numpy(logits / 2).softmax(0).numpy(), 0)[:-1]).sum(0)
    method = segcal.BoundaryTemperatureScaling(unit="mm", knots=(0, 1, 2, 4))
    cohort = segcal.cohort_from_arrays([logits], [labels], head=HEAD)
    spacing = (3.0, 1.0, 0.5)
    cohort = replace(cohort, cases=(replace(cohort[0], spacing=spacing),))
    calibrator = method.fit(cohort)
    forward = Plans().transpose_forward
    turned = logits.transpose(0, *(1 + i for i in forward)).astype(np.float32)
    predictor = Predictor()
    calibrate(predictor, calibrator, go_on=True)
    found = predictor.configuration_manager.resampling_fn_probabilities(
        turned, turned.shape[1:], (1, 1, 1), [spacing[i] for i in forward]
    )
    p = torch.from_numpy(logits.astype(np.float32)).softmax(0)
    expected = calibrator(p[None], kind="probs", spacing=spacing)[0].permute(0, *(1 + i for i in forward))
    torch.testing.assert_close(found.softmax(0), expected, rtol=3e-6, atol=1e-7)
    assert float((found.softmax(0) - torch.from_numpy(turned).softmax(0)).abs().max()) > 0.05


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from(["one ulp", "tie", "saturated", "any"]))
def test_the_decision_survives_the_way_back(seed: int, classes: int, how: str) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes) * 0.3, 50).T.astype(np.float32)
    if how in ("one ulp", "tie"):
        first, second = np.argsort(-p, 0)[:2]
        high = p.max(0)
        np.put_along_axis(p, second[None], high[None], 0)
        winner = first if how == "one ulp" else np.minimum(first, second)
        if how == "one ulp":
            np.put_along_axis(p, first[None], np.nextafter(high, np.float32(2))[None], 0)
    elif how == "saturated":
        p = np.eye(classes, dtype=np.float32)[rng.integers(classes, size=50)].T
        winner = p.argmax(0)
    else:
        winner = p.argmax(0)
    head = Softmax(tuple(map(str, range(classes))), 0)
    back = _handed_back(torch.from_numpy(p), head)
    for logits in (back, back.numpy().astype(np.float64)):
        assert (np.asarray(logits).argmax(0) == winner).all()
    again = back.softmax(0)
    assert (again.numpy().argmax(0) == winner).all()
    assert np.abs(again.numpy() - p / p.sum(0)).max() <= 2e-6


@given(st.integers(0, 2**32 - 1))
def test_regions_stay_on_their_side_of_a_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = np.float32(0.5)
    p = rng.choice([0, 1, half, np.nextafter(half, np.float32(1)), np.nextafter(half, half * 0), rng.random()], (2, 60))
    p = p.astype(np.float32)
    head = Regions(("a", "b"), ((1, 2), (2,)), (1, 2))
    again = torch.sigmoid(_handed_back(torch.from_numpy(p), head)).numpy()
    assert ((again > 0.5) == (p > 0.5)).all()
    assert np.abs(again - p).max() <= 2e-6
    assert LEAD < 2e-6


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(UsageError, match="initialize_from_trained_model_folder"):
        calibrate(Predictor(configuration_manager=None), scaled())
    once = Predictor()
    calibrate(once, scaled())
    with pytest.raises(UsageError, match="calibrated already"):
        calibrate(once, scaled())
    with pytest.raises(MismatchError, match=r"5 networks averaged.*a single network"):
        calibrate(Predictor(), scaled(networks=1))
    assert "a single network" in calibrate(Predictor(), scaled(networks=1), go_on=True)[0]
    with pytest.raises(MismatchError, match="mirroring off"):
        calibrate(Predictor(use_mirroring=False), scaled())
    with pytest.raises(MismatchError, match="classes"):
        calibrate(Predictor(dataset_json={"labels": {"background": 0, "tumour": 1}}), scaled())

"""A network with one sigmoid channel: the same journey as any other, and the numbers of its two sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.discover import open_cohort
from segcal.data.head import Regions
from segcal.engine.serial import Serial
from segcal.errors import MissingError, UsageError
from segcal.methods.files import load
from segcal.methods.temperature import TemperatureScaling


def arrays(seed: int) -> tuple[Any, Any]:
    """Logits twice too large (6, 1, 16, 12), and masks."""
    rng = np.random.default_rng(seed)
    z = 4 * rng.normal(size=(6, 1, 16, 12)).astype(np.float32)
    return z, (rng.random((6, 16, 12)) < 1 / (1 + np.exp(-z[:, 0] / 2))).astype(np.uint8)


def write(folder: Path, seed: int) -> tuple[Path, Path]:
    results, labels = folder / "results", folder / "labels"
    results.mkdir(parents=True)
    labels.mkdir()
    for k, (z, y) in enumerate(zip(*arrays(seed), strict=True)):
        np.savez(results / f"{folder.name}{k}.npz", logits=z)
        np.save(labels / f"{folder.name}{k}.npy", 255 * y)
    return results, labels


def test_the_whole_journey_on_masks_of_0_and_255(segcal: Any, tmp_path: Path) -> None:
    results, labels = write(tmp_path / "a", 0)
    given = [results, "--labels", labels, "--label-map", "255:1"]
    said = segcal("check", *given)
    assert said.code == 0
    flat = " ".join(said.out.split())
    assert "a region head (foreground): one channel, taken for a sigmoid: the probability of label 1" in flat
    file = tmp_path / "cal.safetensors"
    assert segcal("fit", *given, "-o", file).code == 0
    z, y = arrays(0)
    both = TemperatureScaling().fit(np.concatenate([0 * z, z], 1), y, engine=Serial())
    fitted = load(file)
    assert fitted.maps[0].beta.item() == pytest.approx(both.maps[0].beta.item(), rel=1e-9)
    (results / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "lesion": 1}}))
    assert segcal("fit", *given, "-o", file, "--no-crossfit").code == 0
    held, truth = write(tmp_path / "b", 1)
    told = segcal("evaluate", held, "--labels", truth, "--label-map", "255:1", "--calibrator", file, "--json").json
    assert list(told["calibrated"]["regions"]) == ["lesion"]  # remembered, since this folder names nothing
    assert told["calibrated"]["nll"] < told["uncalibrated"]["nll"]
    assert segcal("audit", file, held, "--labels", truth, "--label-map", "255:1").code == 0
    assert segcal("apply", file, held, "-o", tmp_path / "out", "--maps", "error").code == 0
    written = np.load(tmp_path / "out" / "b0.npz")["probabilities"]
    scores = arrays(1)[0]
    assert written.shape == (1, 16, 12)
    assert np.array_equal(written, load(file)(scores[:1])[0].numpy())  # arrays are taken, too
    assert np.array_equal(written > 0.5, scores[0] > 0)


@pytest.mark.parametrize("labels", [{"background": 0, "lesion": 1}, {"lesion": [1]}, {"lesion": 1}])
def test_dataset_json_names_the_region(tmp_path: Path, labels: Any) -> None:
    results, truth = write(tmp_path / "a", 0)
    (results / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert open_cohort(results, truth).head == Regions(("lesion",), ((1,),), (1,))


def test_what_names_and_background_may_be(tmp_path: Path) -> None:
    results, _ = write(tmp_path / "a", 0)
    for names in (["lesion"], ["background", "lesion"]):
        head = open_cohort(results, classes=names, background=0, ignore_index=9).head
        assert head == Regions(("lesion",), ((1,),), (1,), 9)
    with pytest.raises(UsageError, match="classes: found 3 names; expected the name of the region of one sigmoid"):
        open_cohort(results, classes=["a", "b", "c"])
    with pytest.raises(UsageError, match="background: found 1"):
        open_cohort(results, background=1)


def test_in_python(tmp_path: Path) -> None:
    z, y = arrays(0)
    fitted = TemperatureScaling().fit(z, y, engine=Serial())
    named = Regions(("lesion",), ((1,),), (1,))
    other = TemperatureScaling().fit(z, y, head=named, engine=Serial())
    assert fitted.solution.nll == other.solution.nll
    assert other.head == named
    assert torch.equal(fitted(z), fitted(torch.from_numpy(z)))
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    assert torch.allclose(fitted(p, kind="probs"), fitted(z), atol=1e-6)
    with pytest.raises(UsageError, match="'probs' or 'logits' for a region head"):
        TemperatureScaling().fit(p, y, kind="scores", engine=Serial())
    with pytest.raises(MissingError):
        cohort_from_arrays(z[:0], y[:0])

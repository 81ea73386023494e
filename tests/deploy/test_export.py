"""Exports against the module itself: in onnxruntime, torch.export, torch.compile and a trace, on scores that are hard
to tell apart; and what cannot be exported.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import segcal
from segcal.data.head import Regions, Softmax
from segcal.data.ranking import descending
from segcal.data.tracing import traced
from segcal.deploy import export
from segcal.deploy.export import SIDES, TOLERANCE, hard, program, to_onnx, to_torch
from segcal.errors import OutputError, UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.registry import methods
from segcal.methods.temperature import ScaleMap

ROWS = [name for name, found in methods().items() if not name.startswith(("bts", "lts", "selective", "suscept"))]
"""Methods that end in maps of rows."""

QUICK = ("ts", "dc", "cms-op")
"""Those that are looked at whenever tests run."""


def by_method(names: Any, quick: tuple[str, ...] = QUICK) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def fitted(name: str, classes: int, kind: str = "logits") -> Calibrator:
    rng = np.random.default_rng(classes)
    z = rng.normal(0, 3, (2, classes, 20, 20)).astype(np.float32)
    p = torch.from_numpy(z / 2).softmax(1).numpy()
    y = (np.cumsum(p, 1) < rng.random((2, 1, 20, 20))).sum(1).clip(0, classes - 1)
    scores = z if kind == "logits" else torch.from_numpy(z).softmax(1).numpy()
    cohort = segcal.cohort_from_arrays(list(scores), list(y), kind=kind, head=Softmax(tuple(map(str, range(classes)))))
    found = methods()[name]
    return found.kind(**found.settled).fit(cohort)


@pytest.mark.parametrize(
    "classes", [pytest.param(2, marks=pytest.mark.slow), 5, pytest.param(20, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", by_method(ROWS))
def test_onnxruntime_gives_what_the_calibrator_gives(name: str, classes: int, tmp_path: Path) -> None:
    calibrator = fitted(name, classes)
    found = to_onnx(calibrator, tmp_path / "cal.onnx")
    assert found.difference <= 1e-6
    assert found.labels_kept
    # once more from the file, of sizes of its own
    session = onnxruntime.InferenceSession(tmp_path / "cal.onnx", providers=["CPUExecutionProvider"])
    scores = hard(classes, (3, 17, 23), "logits", True, seed=9)
    (p,) = session.run(None, {"scores": scores})
    expected = calibrator(torch.from_numpy(scores)).numpy()
    assert p.dtype == np.float32 and p.shape == scores.shape
    assert np.abs(p - expected).max() < TOLERANCE
    if calibrator.keeps_label:
        assert (p.argmax(1) == scores.argmax(1)).all()


@pytest.mark.parametrize("kind", by_method(["probs", "log_probs", "scores"], ("probs",)))
def test_other_kinds_and_volumes(kind: Any, tmp_path: Path) -> None:
    found = to_onnx(fitted("cms-op", 3, "probs"), tmp_path / "cal.onnx", kind=kind, axes=3)
    assert found.difference <= 1e-6 and found.labels_kept
    assert found.voxels == 2 * 31 * 37 * 2 + 1 * 7 * 4 * 2 + 3 * 1 * 2 * 2


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_regions_stay_on_their_side(kind: Any, tmp_path: Path) -> None:
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    calibrator = Calibrator(head, kind, [ScaleMap(0.4), ScaleMap(1e-4)], "ts")
    found = to_onnx(calibrator, tmp_path / "cal.onnx")
    assert found.difference <= 1e-6 and found.labels_kept


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    calibrator = fitted("ts", 3)
    to_onnx(calibrator, tmp_path / "cal.onnx", kind="probs")
    model = onnx.load(tmp_path / "cal.onnx")
    onnx.checker.check_model(model)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert model.producer_name == "segcal"
    assert (said["segcal.method"], said["segcal.kind"], said["segcal.keeps_label"]) == ("ts", "probs", "true")
    assert json.loads(said["segcal.head"])["classes"] == ["0", "1", "2"]
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "side0", "side1"]


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrator = fitted("ts", 3)
    other = Calibrator(calibrator.head, "logits", [ScaleMap(0.3)], "ts")
    made = export.Exported
    monkeypatch.setattr(export, "Exported", lambda _, kind: made(other, kind))
    with pytest.raises(OutputError, match="away from the calibrator's"):
        to_onnx(calibrator, tmp_path / "cal.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_looks_around_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (2, 2, 16, 16))
    cohort = segcal.cohort_from_arrays(list(z), list((z[:, 1] > z[:, 0]) ^ (rng.random((2, 16, 16)) < 0.1)))
    calibrator = segcal.BoundaryTemperatureScaling().fit(cohort)

    def trace() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(calibrator, torch.rand(1, 2, 8, 8), check_trace=False)

    for attempt in (lambda: to_onnx(calibrator, tmp_path / "c.onnx"), lambda: program(calibrator)):
        with pytest.raises(UsageError, match="looks around each voxel"):
            attempt()
    with pytest.raises(UsageError, match="looks for places"):
        trace()
    with pytest.raises(UsageError, match="axes"):
        to_onnx(fitted("ts", 2), tmp_path / "c.onnx", axes=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", by_method(["dc", "cms-ap", "cms-op", "iop", "isotonic"], ("cms-op",)))
@pytest.mark.parametrize("classes", [pytest.param(3, marks=pytest.mark.slow), 5])
def test_compiled_whole_traced_and_behind_a_model(name: str, classes: int, tmp_path: Path) -> None:
    calibrator = fitted(name, classes)
    batches = [torch.from_numpy(hard(classes, shape, "logits", True, seed=7)) for shape in SIDES]
    torch._dynamo.reset()
    compiled = torch.compile(calibrator, fullgraph=True, dynamic=True, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that the trace keeps, which are none
        recorded = torch.jit.trace(calibrator, batches[0], check_trace=False)
    to_torch(calibrator, tmp_path / "cal.pt2")
    loaded = torch.export.load(tmp_path / "cal.pt2").module()
    for scores in batches:
        expected = calibrator(scores)
        for other in (compiled, recorded, loaded):
            torch.testing.assert_close(other(scores), expected, rtol=0, atol=1e-7)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, classes, 3, padding=1), calibrator).requires_grad_(False)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    whole = torch.export.export(model, (torch.rand(2, 3, 6, 8),), dynamic_shapes=(free,)).module()
    images = torch.rand(3, 3, 9, 7)
    torch.testing.assert_close(whole(images), model(images), rtol=0, atol=1e-7)


def test_ranks_by_counting_are_those_of_a_stable_sort() -> None:
    values = torch.randint(0, 3, (5, 500)).double()

    class Ranks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert traced()
            return descending(x)

    made = torch.export.export(Ranks(), (values,)).module()
    assert torch.equal(made(values), descending(values))
    assert not traced()

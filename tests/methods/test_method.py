"""`fit` and `fit_methods`: what they take, what they refuse, what a calibrator remembers, the same bits anyhow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import (
    DirichletCalibration,
    EnsembleTemperatureScaling,
    MatrixScaling,
    TemperatureScaling,
    VectorScaling,
    cohort_from_arrays,
    fit_methods,
)
from segcal.data.head import Regions
from segcal.engine.pinned import Stored
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import LabelError, ScoreError, ShapeError, UsageError
from segcal.methods import Method
from segcal.methods.calibrator import Calibrator
from segcal.methods.registry import methods as registered

MIB = 2**20


def bits(calibrator: Calibrator) -> bytes:
    """Every parameter's bits, and the objective's."""
    return (
        b"".join(t.numpy().tobytes() for t in calibrator.state_dict().values())
        + np.float64(calibrator.solution.objective).tobytes()
    )


def test_arrays_tensors_tables_and_cohorts_are_one_fit(arrays) -> None:
    z, y = arrays
    method = DirichletCalibration(0.1)
    expected = bits(method.fit(z, y, engine=Serial()))
    image = z.reshape(4, 3, 20, 20), y.reshape(4, 20, 20)
    rows = np.moveaxis(z, 1, -1).reshape(-1, 3), y.ravel(), np.repeat(np.arange(4), 400)
    assert bits(method.fit(torch.from_numpy(z), torch.from_numpy(y), engine=Serial())) == expected
    assert bits(method.fit(*image, engine=Serial())) == expected
    assert bits(method.fit(list(z), list(y), engine=Serial())) == expected
    assert bits(method.fit(rows[0], rows[1], groups=rows[2], engine=Serial())) == expected
    assert bits(method.fit(cohort_from_arrays(z, y), engine=Serial())) == expected
    assert bits(method.fit(torch.from_numpy(z).requires_grad_(), y)) == expected


def test_masked_and_ignored_voxels_do_not_count(arrays) -> None:
    z, y = arrays
    method = TemperatureScaling()
    half = method.fit(z[:, :, :200], y[:, :200], engine=Serial())
    mask = np.arange(400) < 200
    masked = method.fit(z, y, mask=np.broadcast_to(mask, y.shape), engine=Serial())
    ignored = method.fit(z, np.where(mask, y, 255), ignore_index=255, engine=Serial())
    assert masked.maps[0].beta.item() == pytest.approx(half.maps[0].beta.item(), rel=1e-9)
    assert masked.solution.nll == ignored.solution.nll
    assert masked.data.voxels == ignored.data.voxels == half.data.voxels == 800
    assert masked.data.records[0].roles == (200, 0, 0, 200)
    assert ignored.data.records[0].roles == (200, 200, 0, 0)


@pytest.mark.parametrize("kind", ["probs", "log_probs", "scores"])
def test_kinds_agree(kind, arrays) -> None:
    z, y = arrays
    p = torch.softmax(torch.from_numpy(z).double(), 1)
    given = {"probs": p, "log_probs": p.log(), "scores": 5 * p}[kind]
    a, b = (
        DirichletCalibration(0.1).fit(z, y, engine=Serial()),
        DirichletCalibration(0.1).fit(given, y, kind=kind, engine=Serial()),
    )
    torch.testing.assert_close(a.maps[0].weight, b.maps[0].weight, atol=1e-5, rtol=0)
    assert b.kind == kind


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"image": 1}, UsageError, "image"),
        ({"validation": 1}, UsageError, "validation"),
        ({"kind": "logit"}, UsageError, "kind"),
        ({"mask": np.zeros((4, 400))}, LabelError, "no voxel to score"),
        ({"groups": ["a"]}, ShapeError, "groups"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, error, said, arrays) -> None:
    z, y = arrays
    with pytest.raises(error, match=said):
        TemperatureScaling().fit(z, y, engine=Serial(), **arguments)


def test_wrong_data_are_named(arrays) -> None:
    z, y = arrays
    with pytest.raises(UsageError, match="labels"):
        TemperatureScaling().fit(z)
    with pytest.raises(LabelError, match=r"\[7\]"):
        TemperatureScaling().fit(z, np.where(y == 2, 7, y), engine=Serial())
    with pytest.raises(ScoreError, match="not finite"):
        TemperatureScaling().fit(np.where(z > 3, np.nan, z), y, engine=Serial())
    with pytest.raises(UsageError, match="cohort"):
        TemperatureScaling().fit(cohort_from_arrays(z, y), y)
    with pytest.raises(UsageError, match="two groups"):
        fit_methods({"ts": TemperatureScaling()}, cohort_from_arrays(z[:1], y[:1]), Serial(), crossfit=True)


def test_a_softmax_decision_cannot_be_asked_for_and_nothing_is_read(arrays, monkeypatch) -> None:
    z, y = arrays
    engine = Serial()
    monkeypatch.setattr(engine, "pin", lambda cohort: pytest.fail("read before the arguments were checked"))
    with pytest.raises(UsageError, match="keep_decision"):
        fit_methods({"dc": DirichletCalibration(0.1)}, cohort_from_arrays(z, y), engine, keep_decision=True)


def test_a_fit_is_deterministic_for_any_engine_and_memory(arrays) -> None:
    """One worker, four, all rows in files: the same bits. As images: some methods look around."""
    z, y = (a.reshape(*a.shape[:-1], 10, -1) for a in arrays)
    methods = {name: named() for name, named in registered().items() if issubclass(named.kind, Method)}
    cohort = cohort_from_arrays(z, y)
    outside = Serial()
    outside.max_memory = 0
    with outside.pin(cohort) as pinned:
        assert all(isinstance(kept, Stored) for _, _, kept in pinned.blocks)
    engines = [Serial(), Serial(), Threads(2), Threads(4, 256 * MIB), outside]
    found = [
        {name: bits(made.calibrator) for name, made in fit_methods(methods, cohort, engine).items()}
        for engine in engines
    ]
    assert all(other == found[0] for other in found[1:])


def test_what_is_fitted_beside_it_does_not_matter(arrays) -> None:
    z, y = arrays
    cohort = cohort_from_arrays(z, y)
    methods = {
        "ts": TemperatureScaling(),
        "ets": EnsembleTemperatureScaling(),
        "vs": VectorScaling(),
        "ms": MatrixScaling(0.1),
    }
    beside = fit_methods(methods, cohort, Serial())
    for name, method in methods.items():
        alone = fit_methods({name: method}, cohort, Serial())[name].calibrator
        assert bits(alone) == bits(beside[name].calibrator)


def test_it_remembers_what_it_was_fitted_on(arrays) -> None:
    z, y = arrays
    cohort = cohort_from_arrays(z, y, groups=["p", "p", "q", "r"], ids=["one", "two", "three", "four"])
    made = fit_methods({"ts": TemperatureScaling()}, cohort, Serial(), crossfit=True, folds=3)["ts"]
    data = made.calibrator.data
    assert [(r.id, r.group) for r in data.records] == [("one", "p"), ("two", "p"), ("three", "q"), ("four", "r")]
    assert data.voxels == 1600
    assert len(made.folds) == len(made.held_out) == 3
    for fold, calibrator in zip(made.folds, made.held_out, strict=True):
        assert [r.id for r in calibrator.data.records] == [c.id for i, c in enumerate(cohort) if i not in fold]
        assert calibrator.data.voxels == 400 * (4 - len(fold))
    assert {i for fold in made.folds for i in fold} == {0, 1, 2, 3}
    assert made.calibrator.solution.passes > 1
    assert made.calibrator.method == "ts"


@pytest.mark.parametrize("keep", [None, False])
def test_regions_are_fitted_each_on_its_own(keep) -> None:
    rng = np.random.default_rng(0)
    head = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))
    p = rng.random((3, 2, 500)).astype(np.float32)
    inside = rng.random(p.shape) < p**2
    y = np.where(inside[:, 1], 2, inside[:, 0].astype(int))
    cohort = cohort_from_arrays(p, y, kind="probs", head=head)
    made = fit_methods(
        {"dc": DirichletCalibration(0.0), "ms": MatrixScaling(0.0)}, cohort, Serial(), keep_decision=keep
    )
    calibrator = made["dc"].calibrator
    assert calibrator.keep_decision == (keep is None)
    assert set(calibrator.solution.parts) == {"whole", "core"}
    assert calibrator.solution.certificate["gap"] == max(
        s.certificate["gap"] for s in calibrator.solution.parts.values()
    )
    assert all("coincides" in s.message for s in made["ms"].calibrator.solution.parts.values())
    out = calibrator(torch.from_numpy(p)).numpy()
    if keep is None:
        np.testing.assert_array_equal(out > 0.5, p > 0.5)
    for r in range(2):
        member = np.isin(y, head.members[r])
        assert calibrator.log_probs(torch.from_numpy(p)).exp()[:, r].mean().item() == pytest.approx(
            member.mean(), abs=1e-5
        )

"""What the figures of an evaluation show: the slice with most errors, turned as a radiologist sees it, and the error
probabilities of the calibrator that gave the numbers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import segcal
from segcal.data.formats.grids import grid_of
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth
from segcal.report import slices
from segcal.tasks import figures
from segcal.tasks.evaluate import evaluate
from segcal.tasks.fit import fit, methods_of
from segcal.tasks.planes import told


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[slices.Slice]:
    """Takes what would be drawn."""
    taken: list[slices.Slice] = []

    def take(shown: list[slices.Slice], classes: Any, path: Path, **_: Any) -> Path:
        taken.extend(shown)
        return path

    monkeypatch.setattr("segcal.report.slices.slices", take)
    return taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("figures") / "predictions"
    design = Design(classes=("air", "bone", "fat"), shape=(6, 16, 14), margin=(1, 2, 2), members=1)
    write_nnunet(Simulation(design, Truth.temperature(3, 0.5), 3), range(3), root)
    return root


def test_the_slice_with_most_errors_as_a_radiologist_sees_it(
    folder: Path, drawn: list[slices.Slice], tmp_path: Path
) -> None:
    cohort = segcal.open_cohort([folder / "member0"], folder / "labelsTr")
    cal = segcal.TemperatureScaling().fit(cohort)
    engine = segcal.Serial()
    found = evaluate(cohort, cal, engine, fitted="include")
    figures.draw(tmp_path, found, {case.id: cal for case in cohort}, engine, name="ts")
    assert found.calibrated is not None
    nll = {row["case"]: row["nll"] for row in found.calibrated.per_case}
    assert [one.caption.split(",")[0] for one in drawn] == sorted(nll, key=lambda c: -nll[c])
    for one in drawn:
        name = one.caption.split(",")[0]
        p = np.load(folder / "member0" / f"{name}.npz")["probabilities"]
        image = nibabel.load(folder / "labelsTr" / f"{name}.nii.gz")
        # this file runs to the patient's left and to the back; so its first axis is a row, as it lies
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        labels = np.asarray(image.dataobj).T
        wrong = (p.argmax(0) != labels)[1:-1, 2:-2, 2:-2].sum((1, 2))
        at = 1 + int(wrong.argmax())
        assert f", axial slice {at + 1} of 6 · NLL " in one.caption
        scored = one.labels >= 0
        assert int(scored.sum()) == 12 * 10
        np.testing.assert_array_equal(one.labels[scored].reshape(12, 10), labels[at, 2:-2, 2:-2])
        own = 1 - p[:, at].max(0)[2:-2, 2:-2]
        np.testing.assert_allclose(one.errors["uncalibrated"][scored].reshape(12, 10), own, atol=1e-6)
        with_temperature = 1 - cal(np_tensor(p[:, at])).amax(1)[0, 2:-2, 2:-2].numpy()
        np.testing.assert_allclose(one.errors["calibrated (ts)"][scored].reshape(12, 10), with_temperature, atol=1e-6)
        assert np.isnan(one.errors["uncalibrated"][~scored]).all()


def np_tensor(p: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(p))[None]


def test_each_case_is_shown_by_the_calibrator_fitted_without_it(folder: Path) -> None:
    cohort = segcal.open_cohort([folder / "member0"], folder / "labelsTr")
    done = fit(methods_of("ts", {}, 0), cohort, segcal.Serial(), folds=3)
    used = done.held_out("ts")
    one = done.fits["ts"]
    assert set(used) == {case.id for case in cohort}
    for fold, calibrator in zip(one.folds, one.held_out, strict=True):
        assert [used[cohort[k].id] is calibrator for k in fold] == [True] * len(fold)
    # nothing gained: the scores as they are
    some = segcal.recommend(cohort, segcal.Serial(), methods=methods_of("ts", {}, 0), folds=3)
    none = replace(some, chosen="uncalibrated")
    assert set(replace(done, choice=none).held_out("uncalibrated").values()) == {None}


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPR", "AIL"])
def test_whatever_the_order_of_axes_anterior_is_up(codes: str, tmp_path: Path) -> None:
    turn = nibabel.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (along, sign) in enumerate(turn):
        affine[int(along), axis] = sign
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine), path)
    for reverse in (False, True):
        shape = (5, 4, 3) if reverse else (3, 4, 5)
        grid = grid_of(path, shape, reversed_axes=reverse)
        assert grid.anatomy == tuple((int(a), s > 0) for a, s in (turn[::-1] if reverse else turn))
    size = [(3, 4, 5)[[int(along) for along, _ in turn].index(axis)] for axis in range(3)]
    canonical = grid_of(path, (size[0], size[1], size[2]), reversed_axes=False, canonical=True)
    assert canonical.anatomy == ((0, True), (1, True), (2, True))


def test_what_is_said_of_a_slice() -> None:
    labels, predicted = np.array([[0, 1, 1, -1]]), np.array([[0, 0, 0, 0]])
    errors = {"uncalibrated": np.array([[0.1, 0.1, 0.1, np.nan]]), "ts": np.array([[0.6, 0.6, 0.6, np.nan]])}
    assert told(labels, predicted, errors) == (
        "of the labels shown 66.7% are wrong; expected 10.0% uncalibrated, 60.0% ts (closer)"
    )
    assert "closer" not in told(labels, predicted, {"a": errors["ts"], "b": errors["ts"]})
    assert told(np.full((1, 2), -1), np.zeros((1, 2)), errors) == "no voxel of this slice is scored"


def test_without_labels_the_delivered_map_is_shown_where_most_errors_are_to_be_expected(folder: Path) -> None:
    cohort = segcal.open_cohort([folder / "member0"], folder / "labelsTr")
    cal = segcal.TemperatureScaling().fit(cohort)
    new = segcal.open_cohort([folder / "member0"])
    name = new[1].id
    path = new[1].files["label_map"]
    kept, p = path.read_bytes(), np.load(folder / "member0" / f"{name}.npz")["probabilities"]
    image = nibabel.load(path)
    delivered = np.asarray(image.dataobj).copy()
    delivered[4:9, 3:9, 3] = 2  # what post-processing might do
    try:
        nibabel.save(nibabel.Nifti1Image(delivered, image.affine), path)
        with_map = segcal.open_cohort([folder / "member0"])
        looked = figures._looked(
            with_map, {name: "expected Dice 0.5"}, {name: cal}, segcal.Serial(), "ts", False, twice=True
        )
        (frame,) = figures.frames_of_new(with_map, {name: "expected Dice 0.5"}, cal, segcal.Serial())
    finally:
        path.write_bytes(kept)
    (one,) = looked[0].slices
    shown = delivered.T
    error = 1 - np.take_along_axis(p, shown[None].astype(int), 0)[0]
    at = 1 + int(error[1:-1, 2:-2, 2:-2].sum((1, 2)).argmax())
    assert f"axial slice {at + 1} of 6 · expected Dice 0.5\nof the labels shown are expected to be wrong" in one.caption
    assert one.labels is None
    seen = one.predicted >= 0
    np.testing.assert_array_equal(one.predicted[seen].reshape(12, 10), shown[at, 2:-2, 2:-2])
    np.testing.assert_allclose(one.errors["uncalibrated"][seen].reshape(12, 10), error[at, 2:-2, 2:-2], atol=1e-6)
    assert frame.heads == ("predicted", "error, uncalibrated", "error, calibrated (ts)")
    assert figures.frames_of_new(with_map, {}, cal, segcal.Serial()) == ()
    assert told(None, one.predicted, {"ts": np.full((2, 2), np.nan)}) == "no voxel of this slice is scored"

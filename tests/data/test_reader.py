"""What is asked of voxels that do not count: nothing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.files.journal import Scratch
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.formats.discover import open_cohort
from segcal.data.head import Regions, Softmax
from segcal.data.rows import Prepared
from segcal.data.scores import KINDS, check, undecided
from segcal.engine.serial import Serial
from segcal.errors import LabelError, ScoreError
from segcal.methods.local.fit import LocalTemperatureScaling
from segcal.methods.temperature import TemperatureScaling

REGIONS = Regions(("whole", "core"), ((1, 2), (2,)), (1, 2))


def scores(kind: str, classes: int, shape: tuple[int, ...]) -> Any:
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(classes, *shape)))
    made = {"logits": z, "log_probs": z.log_softmax(0), "probs": z.softmax(0), "scores": z.exp()}[kind]
    return made.float().numpy()


def prepared(cohort: Any) -> tuple[list[Prepared], Any]:
    with Scratch(2**20) as scratch, cohort.open(0, scratch) as reader:
        blocks = [reader.block(*cut) for cut in cohort.cuts(0)]
        return [reader.prepare(b) for b in blocks], reader.record([reader.note(b) for b in blocks])


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -5.0, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_voxels_that_do_not_count_need_no_valid_score_or_label(kind: str, spoilt: float) -> None:
    s, y = scores(kind, 3, (6, 5)), np.random.default_rng(1).integers(3, size=(6, 5)).astype(np.float64)
    outside, ignored = np.zeros((6, 5), bool), np.zeros((6, 5), bool)
    outside[0], ignored[1] = True, True
    y[ignored] = 255
    head, mask = Softmax(("a", "b", "c"), None, 255), ~outside
    valid = prepared(cohort_from_arrays(s[None], y[None], kind=kind, head=head, mask=mask[None]))
    s, y = s.copy(), y.copy()
    s[:, outside | ignored] = spoilt
    y[outside] = [np.nan, 0.5, 9, -1, np.inf]
    found = prepared(cohort_from_arrays(s[None], y[None], kind=kind, head=head, mask=mask[None]))
    for one, other in zip(valid[0], found[0], strict=True):
        assert torch.equal(one.log_probs, other.log_probs) and torch.equal(one.targets, other.targets)
    assert valid[1].roles == found[1].roles
    if not np.isfinite(spoilt):
        with pytest.raises(ScoreError, match="not finite"):
            prepared(cohort_from_arrays(s[None], np.zeros((1, 6, 5)), kind=kind))
    y[2, 0] = np.nan
    with pytest.raises(LabelError, match=r"a label of nan.*with a mask \(--mask\)"):
        prepared(cohort_from_arrays(s[None], y[None], kind=kind, head=head, mask=mask[None]))


@given(st.sampled_from(KINDS), st.integers(2, 4), st.lists(st.floats(-2, 2) | st.just(np.nan), max_size=8))
def test_what_is_put_in_place_of_impossible_scores_is_possible(kind: Any, classes: int, values: list[float]) -> None:
    spoilt = torch.from_numpy(scores(kind, classes, (8,)))
    spoilt[:, : len(values)] = torch.tensor(values)
    everywhere = torch.ones(8, dtype=torch.bool)
    found = undecided(spoilt, kind, everywhere)
    check(found, kind, "here")
    assert torch.equal(found[:, len(values) :], spoilt[:, len(values) :])
    assert torch.equal(undecided(spoilt, kind, ~everywhere).nan_to_num(7), spoilt.nan_to_num(7))


def test_regions_too() -> None:
    p, y = scores("probs", 2, (6, 5)), np.zeros((1, 6, 5), int)
    p[:, 0] = np.nan
    mask = np.arange(6)[None, :, None] > y
    found, record = prepared(cohort_from_arrays(p[None], y, kind="probs", head=REGIONS, mask=mask))
    assert record.roles == (25, 0, 0, 5)
    assert bool(torch.isfinite(found[0].log_probs).all())


def test_neighbours_outside_the_field_of_view_do_not_spoil_a_fit() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 2, 8, 8)), rng.integers(2, size=(3, 8, 8))
    z[:, :, :2], y[:, :2] = np.nan, 255
    for method in (LocalTemperatureScaling(epochs=1, patience=1), TemperatureScaling()):
        assert np.isfinite(method.fit(z, y, ignore_index=255, engine=Serial()).solution.nll)


def test_a_case_of_which_nothing_counts_is_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(4, 2, 8, 8)), rng.integers(2, size=(4, 8, 8))
    y[2] = 255
    fitted = TemperatureScaling().fit(z, y, ignore_index=255, engine=Serial())
    others = TemperatureScaling().fit(z[[0, 1, 3]], y[[0, 1, 3]], ignore_index=255, engine=Serial())
    assert fitted.solution.nll == others.solution.nll
    assert "no voxel to score (all ignored, or outside the mask), so left out: 2" in fitted.solution.message
    assert "left out" not in others.solution.message
    masked = cohort_from_arrays(z, np.where(y == 255, 0, y), mask=np.arange(4)[:, None, None] > np.zeros_like(y))
    assert Serial().scorable(masked).unscored == ("0",)
    y[:] = 255
    with pytest.raises(LabelError, match="no voxel to score"):
        TemperatureScaling().fit(z, y, ignore_index=255, engine=Serial())


@pytest.mark.parametrize("slope", [0.1, 0.5, 1 / 3])
def test_label_maps_with_a_scale_are_whole_numbers(tmp_path: Path, slope: float) -> None:
    """A float32 scale is not exact: 10 times 0.1 is 1.0000000149."""
    y = np.random.default_rng(0).integers(3, size=(6, 5, 4))
    path = tmp_path / "labels.nii"
    nibabel.save(nibabel.Nifti1Image((y * round(1 / slope)).astype(np.uint8), np.eye(4)), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<ff", data, 112, slope, 0)
    path.write_bytes(data)
    np.savez(tmp_path / "case.npz", logits=np.zeros((3, 6, 5, 4), np.float32))
    cohort = open_cohort(tmp_path / "case.npz", path)
    with Scratch(2**20) as scratch, cohort.open(0, scratch) as reader:
        assert torch.equal(reader.block(0, 120).labels, torch.from_numpy(y.ravel()))
    struct.pack_into("<ff", data, 112, 0.77 * slope, 0)
    path.write_bytes(data)
    with pytest.raises(LabelError, match="expected whole numbers"):
        prepared(open_cohort(tmp_path / "case.npz", path))

"""Where files of one case lie: every affine that a file states, in parts of a voxel."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.cli import run
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.geometry import GEOMETRIES, PARTS, Placement, compared, usable
from segcal.data.formats.nifti import placement
from segcal.errors import ShapeError, UsageError

SHAPE = (6, 5, 4)
Q = np.diag([-1.3, -1.3, 10.0, 1.0])
UNSCALED = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume(path: Path, sform: Any = None, qform: Any = None, spacing: Any = (1.3, 1.3, 10.0)) -> Placement:
    """What a file states whose forms are these; None: code 0."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_qform(Q if qform is None else qform, 0 if qform is None else 1)
    header.set_sform(Q if sform is None else sform, 0 if sform is None else 1)
    header["pixdim"][1:4] = spacing
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.float32), None, header), path)
    return placement(path)


def moved(by: float) -> Any:
    out = Q.copy()
    out[0, 3] += by
    return out


def test_one_form_that_agrees_is_enough(tmp_path: Path) -> None:
    both = volume(tmp_path / "both.nii", UNSCALED, Q)
    assert len(both.affines) == 2
    for other in (
        volume(tmp_path / "q.nii", None, Q),
        volume(tmp_path / "s.nii", Q),
        volume(tmp_path / "copied.nii", UNSCALED),
        volume(tmp_path / "unknown.nii"),
    ):
        for geometry in GEOMETRIES:
            assert compared([both, other], geometry) == compared([other, both], geometry) == ""
    assert compared([both], "strict") == compared([], "strict") == ""


@pytest.mark.parametrize(("by", "passes"), [(0.002, True), (0.9 * PARTS * 1.3, True), (1.1 * PARTS * 1.3, False)])
def test_places_are_compared_in_parts_of_a_voxel(by: float, passes: bool, tmp_path: Path) -> None:
    pair = [volume(tmp_path / "a.nii", Q, Q), volume(tmp_path / "b.nii", moved(by), moved(by))]
    if passes:
        assert compared(pair, "strict") == compared(pair, "nnunet") == ""
        return
    with pytest.raises(
        ShapeError, match=r"b\.nii: found an affine that differs by .* mm from that of .*a\.nii"
    ) as error:
        compared(pair, "strict")
    assert "[-1.3 0 0 0; 0 -1.3 0 0; 0 0 10 0]" in str(error.value) and "--geometry nnunet" in str(error.value)
    assert "an affine that differs by" in compared(pair, "nnunet") and compared(pair, "ignore") == ""


def test_other_sizes_of_voxels(tmp_path: Path) -> None:
    pair = [volume(tmp_path / "a.nii", Q), volume(tmp_path / "b.nii", UNSCALED, None, (1, 1, 1))]
    for geometry in ("strict", "nnunet"):
        with pytest.raises(ShapeError, match=r"b\.nii: .* --geometry ignore"):
            compared(pair, geometry)  # type: ignore[arg-type]
    assert compared(pair, "ignore") == ""
    pair[1] = volume(tmp_path / "none.nii", None, None, (1, 1, 1))
    with pytest.raises(ShapeError, match=r"found voxels of 1 x 1 x 1 mm, and of 1\.3 x 1\.3 x 10 mm in"):
        compared(pair, "strict")


def test_affines_that_state_no_place(tmp_path: Path) -> None:
    singular = np.diag([0.0, -1.3, 10.0, 1.0])
    assert not any(map(usable, (singular, np.full((4, 4), np.nan), np.eye(4) * 1e300, np.zeros((4, 4)))))
    assert usable(np.diag([1e-6, 1e-6, 1e-6, 1.0]))
    assert len(volume(tmp_path / "a.nii", singular, Q).affines) == 1
    volume(tmp_path / "b.nii", Q, Q)
    data = bytearray((tmp_path / "b.nii").read_bytes())
    data[256:260] = np.float32(3).tobytes()  # quatern_b: no rotation
    (tmp_path / "b.nii").write_bytes(data)
    assert len(placement(tmp_path / "b.nii").affines) == 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=12, max_size=12), st.floats(-0.9, 0.9))
def test_the_same_shift_in_voxels_for_any_affine(entries: list[float], share: float) -> None:
    affine = np.vstack([np.reshape(entries, (3, 4)), [0, 0, 0, 1]])
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not usable(affine) or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-2 or lengths.min() < 1e-2:
        return
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, 1] * share * PARTS
    far = affine.copy()
    far[:3, 3] += affine[:3, 1] * 2 * PARTS
    here = Placement(Path("a"), SHAPE, (1, 1, 1), (affine,))
    assert compared([here, Placement(Path("b"), SHAPE, (1, 1, 1), (shifted,))], "strict") == ""
    with pytest.raises(ShapeError):
        compared([here, Placement(Path("c"), SHAPE, (1, 1, 1), (far,))], "strict")


def test_the_advice_is_followed(
    writers: ModuleType, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    P, L = tmp_path / "p", tmp_path / "y"
    writers.describe(P, {"background": 0, "a": 1, "b": 2})
    shifted = writers.AFFINE.copy()
    shifted[2, 3] = 7
    for case in "ab":
        writers.save_case(P, case, writers.probabilities(rng, 3, (4, 5, 6)))
        writers.save_map(L / f"{case}.nii.gz", rng.integers(0, 3, (4, 5, 6)), shifted)
    words = ["check", str(P), "--labels", str(L)]
    assert run(words) == 3
    assert "--geometry nnunet" in " ".join(capsys.readouterr().err.split())
    assert run([*words, "--geometry", "nnunet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning geometry: files of 2 of 2 cases lie at different places" in said and "differs by 7 mm" in said
    assert run([*words, "--geometry", "ignore"]) == 0
    assert "geometry:" not in capsys.readouterr().out
    with pytest.raises(UsageError, match="geometry: found 'loose'"):
        open_cohort(P, L, geometry="loose")  # type: ignore[arg-type]

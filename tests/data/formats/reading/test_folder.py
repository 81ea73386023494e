"""Plain folders: kinds declared by names, ensembles, class names, labels and masks by case, geometry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import zarr
from PIL import Image

from segcal.data.case import Provenance
from segcal.data.files.journal import Scratch
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.folder import KIND_OF_KEY
from segcal.data.head import Regions, Softmax
from segcal.errors import DataError, MissingError, ShapeError, UsageError


def ensemble(
    root: Path, rng: np.random.Generator, members: int = 2, key: str = "logits", cases: tuple[str, ...] = ("b", "a")
) -> dict[str, np.ndarray[Any, Any]]:
    """Members' folders root/m0, ... and root/labels; the scores by 'member/case'."""
    made = {}
    (root / "labels").mkdir(parents=True)
    for case in cases:
        np.save(root / "labels" / f"{case}.npy", rng.integers(0, 3, (4, 5)))
    for k in range(members):
        (root / f"m{k}").mkdir()
        for case in cases:
            made[f"m{k}/{case}"] = rng.random((3, 4, 5)).astype(np.float32) + 0.1
            made[f"m{k}/{case}"] /= made[f"m{k}/{case}"].sum(0) / (2 if key == "logits" else 1)
            np.savez_compressed(root / f"m{k}" / f"{case}.npz", **{key: made[f"m{k}/{case}"]})
    return made


@pytest.mark.parametrize("key", KIND_OF_KEY)
def test_the_key_declares_the_kind(
    key: str, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    made = ensemble(tmp_path, rng, key=key)
    cohort = open_cohort(
        [tmp_path / "m0", tmp_path / "m1"], tmp_path / "labels", pool="logits", ignore_index=2, background=0
    )
    assert [c.id for c in cohort] == ["a", "b"] and cohort.kind == KIND_OF_KEY[key] and cohort.pool == "logits"
    assert cohort.head == Softmax(("0", "1", "2"), 0, 2) and cohort.provenance == Provenance(2, origin="files")
    assert cohort.labelled() is cohort and cohort.name == "m0"
    for case in cohort:
        for k, field in enumerate(case.scores):
            assert np.array_equal(read(field), made[f"m{k}/{case.id}"])
        assert case.labels is not None and np.array_equal(
            read(case.labels), np.load(tmp_path / "labels" / f"{case.id}.npy")
        )
        assert case.files == {
            "scores": tmp_path / "m0" / f"{case.id}.npz",
            "labels": tmp_path / "labels" / f"{case.id}.npy",
        }


@pytest.mark.parametrize("layout", ["npy", "zarr", "group", "nii.gz", "nii"])
def test_other_formats(layout: str, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    x = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    path = tmp_path / "scores" / f"a.{'zarr' if layout == 'group' else layout}"
    path.parent.mkdir()
    if layout == "npy":
        np.save(path, x)
    elif layout == "zarr":
        zarr.create_array(path, shape=x.shape, chunks=(3, 2, 2, 2), dtype=x.dtype)[...] = x
    elif layout == "group":
        zarr.create_group(path).create_array("logits", shape=x.shape, chunks=(3, 2, 2, 2), dtype=x.dtype)[...] = x
    else:
        nibabel.save(nibabel.Nifti1Image(np.moveaxis(x, 0, -1), np.diag([2.0, 3.0, 4.0, 1.0])), path)
    for where in (path.parent, path):
        cohort = open_cohort(where, kind="logits")
        assert (cohort.kind, cohort[0].id, cohort[0].shape, cohort[0].labels) == ("logits", "a", (4, 5, 6), None)
        assert np.array_equal(read(cohort[0].scores[0]), x)
        if layout == "group":
            assert open_cohort(where).kind == "logits"
        else:
            with pytest.raises(UsageError, match=r"kind= \(--kind\)"):
                open_cohort(where)
    if layout.startswith("nii"):
        assert cohort[0].spacing == (2.0, 3.0, 4.0) and cohort[0].files["geometry"] == path
        turned = open_cohort(path, kind="logits", zyx=True)[0]
        assert turned.spacing == (4.0, 3.0, 2.0) and np.array_equal(read(turned.scores[0]), x.transpose(0, 3, 2, 1))


def test_keys_that_do_not_declare(tmp_path: Path) -> None:
    x = np.full((2, 3), 0.5)
    np.savez(tmp_path / "a.npz", output=x)
    with pytest.raises(UsageError, match="arrays output; expected one array called logits, log_probs"):
        open_cohort(tmp_path / "a.npz")
    assert open_cohort(tmp_path / "a.npz", kind="log_probs").kind == "log_probs"
    np.savez(tmp_path / "b.npz", logits=x, probs=x)
    with pytest.raises(UsageError, match="arrays logits, probs"):
        open_cohort(tmp_path / "b.npz")
    assert open_cohort(tmp_path / "b.npz", kind="probs").kind == "probs"
    with pytest.raises(UsageError, match="arrays logits, probs beside kind='scores'"):
        open_cohort(tmp_path / "b.npz", kind="scores")
    np.savez(tmp_path / "c.npz", logits=x, spacing=x)
    assert open_cohort(tmp_path / "c.npz", kind="probs").kind == "probs"  # what the caller says is more than a name
    with pytest.raises(UsageError, match="kind: found 'softmax'"):
        open_cohort(tmp_path / "c.npz", kind="softmax")


def test_class_axis_is_declared(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    x = rng.normal(size=(4, 5, 3))
    np.savez(tmp_path / "a.npz", logits=x)
    cohort = open_cohort(tmp_path, channel_axis=-1)
    assert cohort.head.channels == 3 and np.array_equal(read(cohort[0].scores[0]), np.moveaxis(x, -1, 0))


def test_members_must_agree(tmp_path: Path, rng: np.random.Generator) -> None:
    ensemble(tmp_path, rng, 3)
    both = [tmp_path / "m0", tmp_path / "m1"]
    (tmp_path / "m1" / "b.npz").rename(tmp_path / "hidden.npz")
    with pytest.raises(MissingError, match=r"m1: found no scores for case b"):
        open_cohort(both)
    np.savez(tmp_path / "m1" / "b.npz", probs=np.zeros((3, 4, 5)))
    with pytest.raises(UsageError, match=r"m1/b\.npz: found probs; expected logits"):
        open_cohort(both)
    np.savez(tmp_path / "m1" / "b.npz", logits=np.zeros((2, 4, 5)))
    with pytest.raises(ShapeError, match=r"m1/b\.npz: found 2 classes; expected 3"):
        open_cohort(both)
    np.savez(tmp_path / "m1" / "b.npz", logits=np.zeros((3, 5, 4)))
    with pytest.raises(ShapeError, match=r"m1/b\.npz: found scores of shape \(5, 4\)"):
        open_cohort(both)
    with pytest.raises(UsageError, match="a path named twice"):
        open_cohort([both[0], both[0]])


def test_dataset_json_names_the_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    ensemble(tmp_path, rng)
    both = [tmp_path / "m0", tmp_path / "m1"]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1, "y": 2, "ignore": 3}}))
    assert open_cohort(both).head == Softmax(("background", "x", "y"), 0, 3)
    assert open_cohort(both, background=None, classes=["p", "q", "r"]).head == Softmax(("p", "q", "r"), None, 3)
    for options, where in (
        ({"ignore_index": 7}, "ignore_index"),
        ({"classes": ["p"]}, "classes"),
        ({"background": 3}, "background"),
    ):
        with pytest.raises(UsageError, match=f"^{where}: "):
            open_cohort(both, **options)
    (tmp_path / "m1" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "y": 1, "x": 2}}))
    with pytest.raises(ShapeError, match=r"m1/dataset\.json: found classes background, y, x"):
        open_cohort(both)
    for another in ({"classes": {"0": "else"}}, {"labels": {"0": "background", "1": "x"}}, {"labels": ["x"]}, ["x"]):
        (tmp_path / "dataset.json").write_text(json.dumps(another))
        assert open_cohort(both[0]).head == Softmax(("0", "1", "2"), None, None)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "x", "2": "y"}}))
    assert open_cohort(both[0]).head == Softmax(("background", "x", "y"), 0, None)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"a": 0, "b": 1}}))
    with pytest.raises(ShapeError, match=r"a\.npz: found 3 classes; expected 2 \(a, b\)"):
        open_cohort(both[0])
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "rim": 1}, "regions_class_order": [1, 2, 1]}
    (tmp_path / "dataset.json").write_text(json.dumps(regions))
    assert open_cohort(both[0]).head == Regions(("whole", "core", "rim"), ((1, 2), (2,), (1,)), (1, 2, 1))
    with pytest.raises(UsageError, match=r"^classes: "):
        open_cohort(both[0], classes=["a", "b", "c"])


def test_labels_and_masks(tmp_path: Path, rng: np.random.Generator) -> None:
    ensemble(tmp_path, rng, 1)
    mask = tmp_path / "mask"
    mask.mkdir()
    np.save(mask / "a.npy", np.eye(4, 5))
    with pytest.raises(MissingError, match="no map for case b"):
        open_cohort(tmp_path / "m0", mask=mask)
    np.save(mask / "b.npy", np.eye(4, 5))
    cohort = open_cohort(tmp_path / "m0", tmp_path / "labels", mask=mask)
    with Scratch(1) as scratch, cohort.open(0, scratch) as reader:
        record = reader.record([reader.note(reader.block(*cut)) for cut in cohort.cuts(0)])
    assert record.roles == (4, 0, 0, 16)
    (tmp_path / "labels" / "b.npy").unlink()
    some = open_cohort(tmp_path / "m0", tmp_path / "labels")
    assert some[0].labels is not None and some[1].labels is None
    with pytest.raises(MissingError, match="case b: found no label file"):
        some.labelled()
    (tmp_path / "labels" / "a.npy").rename(tmp_path / "labels" / "z.npy")
    with pytest.raises(
        MissingError, match=r"labels: found files such as z\.npy; expected names as of the cases, such as a"
    ):
        open_cohort(tmp_path / "m0", tmp_path / "labels")


def test_nifti_labels_beside_arrays(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    y = rng.integers(0, 2, (4, 5, 6)).astype(np.uint8)
    (tmp_path / "y").mkdir()
    nibabel.save(nibabel.Nifti1Image(y, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "y" / "a.nii.gz")
    for name, shape in (("xyz", (4, 5, 6)), ("zyx", (6, 5, 4))):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "a.npz", logits=np.zeros((2, *shape)))
    straight, turned = (
        open_cohort(tmp_path / "xyz", tmp_path / "y")[0],
        open_cohort(tmp_path / "zyx", tmp_path / "y", zyx=True)[0],
    )
    assert (
        straight.labels is not None and np.array_equal(read(straight.labels), y) and straight.spacing == (2.0, 3.0, 4.0)
    )
    assert turned.labels is not None and np.array_equal(read(turned.labels), y.T) and turned.spacing == (4.0, 3.0, 2.0)
    with pytest.raises(ShapeError, match="zyx=True"):
        open_cohort(tmp_path / "zyx", tmp_path / "y")


def test_geometry_of_scores_and_labels_must_agree(tmp_path: Path) -> None:
    for name, shift in (("m0", 0.0), ("m1", 0.0), ("y", 2.0)):
        (tmp_path / name).mkdir()
        affine = np.eye(4)
        affine[0, 3] = shift
        array = np.zeros((3, 4, 5) if name == "y" else (3, 4, 5, 2), np.float32)
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name / "a.nii.gz")
    members = [tmp_path / "m0", tmp_path / "m1"]
    assert open_cohort(members, kind="logits").members == 2
    with pytest.raises(DataError, match=r"y/a\.nii\.gz: found an affine that differs by 2 mm"):
        open_cohort(members, tmp_path / "y", kind="logits")


@pytest.mark.parametrize("ending", [".npz", ".npy", ".nii.gz", ".nii"])
@pytest.mark.parametrize("label_ending", [".nii.gz", ".nii", ".png", ".tif", ".npy", ".npz"])
def test_endings_in_capitals_are_the_same_endings(
    ending: str, label_ending: str, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    z, y = rng.normal(size=(3, 4, 5)).astype(np.float32), rng.integers(0, 3, (4, 5)).astype(np.uint8)
    saved = {
        ".npz": lambda path, a: np.savez_compressed(path, **({"logits": a} if a.ndim == 3 else {"labels": a})),
        ".npy": np.save,
        ".png": lambda path, a: Image.fromarray(a).save(path),
        ".tif": lambda path, a: Image.fromarray(a).save(path),
        ".nii": lambda path, a: nibabel.save(
            nibabel.Nifti1Image(np.moveaxis(a, 0, -1)[:, :, None] if a.ndim == 3 else a[:, :, None], np.eye(4)), path
        ),
    }
    saved[".nii.gz"] = saved[".nii"]
    for folder, end, values in (("x", ending, z), ("y", label_ending, y)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"CASE{end}"
        saved[end](path, values)
        path.rename(path.with_name(path.name.upper()))
    for paths in (tmp_path / "x", next((tmp_path / "x").iterdir())):
        (case,) = open_cohort(paths, tmp_path / "y", kind="logits")
        assert case.id == "CASE" and case.labels is not None
        assert np.array_equal(read(case.scores[0]).reshape(3, 4, 5), z)
        assert np.array_equal(read(case.labels).reshape(4, 5), y)

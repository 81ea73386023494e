"""nnU-Net's prediction folders: heads, axes, crop boxes, delivered maps, settings, several folders."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest

from segcal.data.case import Provenance
from segcal.data.cohort import Cohort
from segcal.data.files.journal import Scratch
from segcal.data.formats.discover import open_cohort
from segcal.data.head import Regions, Softmax
from segcal.data.padding import found_note
from segcal.errors import MissingError, ShapeError, UnreadableError, UsageError

CLASSES = {"background": 0, "a": 1, "b": 2}
SETTINGS = {"use_folds": [0, 1, 2, 3, 4], "use_mirroring": True, "tile_step_size": 0.5}


def roles(cohort: Cohort, index: int) -> tuple[int, ...]:
    with Scratch(1 << 20) as scratch, cohort.open(index, scratch) as reader:
        return reader.record([reader.note(reader.block(*cut)) for cut in cohort.cuts(index)]).roles


@pytest.fixture
def predict(writers: ModuleType, tmp_path: Path, rng: np.random.Generator) -> Callable[..., dict[str, Any]]:
    """Write member folders tmp_path/m0, ... with cases a, b and labels in tmp_path/y; the probabilities by
    'member/case'.
    """

    def run(
        members: int = 1,
        shape: tuple[int, ...] = (4, 5, 6),
        labels: Any = None,
        ending: str = ".nii.gz",
        box: Any = None,
        forward: Any = (0, 1, 2),
        order: Any = None,
        settings: Any = None,
    ) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for case in "ab":
            made[case] = rng.integers(0, 3, shape)
            writers.save_map(tmp_path / "y" / f"{case}{ending}", made[case])
            for k in range(members):
                p = writers.probabilities(rng, 2 if order else 3, shape, sigmoid=order is not None)
                made[f"m{k}/{case}"] = p
                writers.save_case(
                    tmp_path / f"m{k}",
                    case,
                    p,
                    box=box,
                    forward=forward,
                    ending=ending,
                    delivered=made[case] if order else None,
                )
        for k in range(members):
            writers.describe(
                tmp_path / f"m{k}",
                labels or CLASSES,
                ending=ending,
                forward=forward,
                order=order,
                settings=SETTINGS if settings is None else settings,
            )
        return made

    return run


def test_one_folder(predict: Any, tmp_path: Path, read: Callable[..., Any]) -> None:
    made = predict()
    cohort = open_cohort(tmp_path / "m0", tmp_path / "y")
    assert (cohort.head, cohort.kind, cohort.name) == (Softmax(("background", "a", "b"), 0), "probs", "m0")
    assert cohort.provenance == Provenance(1, 5, True, 0.5, "prediction", ()) and cohort.provenance.networks == 5
    for case in cohort:
        p = made[f"m0/{case.id}"]
        assert np.array_equal(read(case.scores[0]), p) and case.spacing == (3.0, 2.0, 1.5)
        assert case.labels is not None and np.array_equal(read(case.labels), made[case.id])
        assert np.array_equal(read(case.fields["delivered"]), p.argmax(0))
        folder = tmp_path / "m0"
        assert case.files == {
            "folder": folder,
            "dataset": folder / "dataset.json",
            "plans": folder / "plans.json",
            "properties": folder / f"{case.id}.pkl",
            "label_map": folder / f"{case.id}.nii.gz",
            "labels": tmp_path / "y" / f"{case.id}.nii.gz",
        }
        assert case.crop == ((0, 4), (0, 5), (0, 6))


def test_several_folders(predict: Any, tmp_path: Path, read: Callable[..., Any]) -> None:
    made = predict(3)
    cohort = open_cohort([tmp_path / f"m{k}" for k in range(3)], tmp_path / "y", pool="logits")
    assert (
        cohort.members == 3
        and cohort.pooled_kind == "log_probs"
        and cohort.provenance == Provenance(3, 5, True, 0.5, "prediction", ())
    )
    assert "delivered" not in cohort[0].fields and cohort[0].files["label_map"] == tmp_path / "m0" / "a.nii.gz"
    for k, field in enumerate(cohort[1].scores):
        assert np.array_equal(read(field), made[f"m{k}/b"])


@pytest.mark.parametrize("forward", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_crop_box_in_the_axes_of_the_array(forward: tuple[int, ...], predict: Any, tmp_path: Path) -> None:
    predict(box=[[1, 3], [0, 4], [2, 6]], forward=forward)
    cohort = open_cohort(tmp_path / "m0", tmp_path / "y")
    assert cohort[0].crop == ((1, 3), (0, 4), (2, 6))
    assert roles(cohort, 0) == (2 * 4 * 4, 0, 4 * 5 * 6 - 2 * 4 * 4, 0)


@pytest.mark.parametrize("order", [None, [1, 2]])
def test_without_properties_padding_is_found(order: Any, predict: Any, tmp_path: Path) -> None:
    box = ((1, 3), (0, 4), (2, 6))
    predict(2, box=box, order=order, labels={"background": 0, "whole": [1, 2], "core": 2} if order else None)
    outside = np.ones((4, 5, 6), bool)
    outside[tuple(slice(*axis) for axis in box)] = False
    for path in (tmp_path / "m0" / "a.npz", tmp_path / "m1" / "a.npz"):
        p = np.load(path)["probabilities"]
        p[:, outside] = 0
        if order is None:
            p[0, outside] = 1
        np.savez(path, probabilities=p)
    both = [tmp_path / "m0", tmp_path / "m1"]
    recorded = roles(open_cohort(both, tmp_path / "y"), 0)
    (tmp_path / "m0" / "a.pkl").unlink()
    assert roles(open_cohort(both, tmp_path / "y"), 0) == recorded  # one member's is enough
    for name in ("m0/b.pkl", "m1/a.pkl", "m1/b.pkl"):
        (tmp_path / name).unlink()
    cohort = open_cohort(both, tmp_path / "y")
    assert cohort[0].crop is None and cohort[0].spacing == (3.0, 2.0, 1.5) and "properties" not in cohort[0].files
    assert roles(cohort, 0) == recorded == (2 * 4 * 4, 0, 4 * 5 * 6 - 2 * 4 * 4, 0)
    assert roles(cohort, 1) == (120, 0, 0, 0)


def test_regions_and_ignored_label(predict: Any, tmp_path: Path) -> None:
    predict(labels={"background": 0, "whole": [1, 2], "core": 2}, order=[1, 2])
    cohort = open_cohort(tmp_path / "m0", tmp_path / "y")
    assert cohort.head == Regions(("whole", "core"), ((1, 2), (2,)), (1, 2)) and roles(cohort, 1) == (120, 0, 0, 0)
    described = json.loads((tmp_path / "m0" / "dataset.json").read_text())
    described["labels"] = {"background": 0, "one": [1], "ignore": 2}
    (tmp_path / "m0" / "dataset.json").write_text(json.dumps(described))
    ignoring = open_cohort(tmp_path / "m0", tmp_path / "y")
    assert ignoring.head == Softmax(("background", "one"), 0, 2)


def test_pictures_have_one_slice(predict: Any, tmp_path: Path, read: Callable[..., Any]) -> None:
    made = predict(shape=(1, 7, 8), ending=".png")
    cohort = open_cohort(tmp_path / "m0", tmp_path / "y")
    case = cohort[0]
    assert case.shape == (1, 7, 8) and case.spacing is None
    assert case.labels is not None and np.array_equal(read(case.labels), made["a"])
    assert np.array_equal(read(case.fields["delivered"]), made["m0/a"].argmax(0))


def test_readers_that_turn_images_to_canonical_axes(
    writers: ModuleType, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    affine = np.array([[0, 0, -2.0, 5], [3, 0, 0, -4], [0, -1, 0, 9], [0, 0, 0, 1]])
    y = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    (tmp_path / "y").mkdir()
    nibabel.save(nibabel.Nifti1Image(y, affine), tmp_path / "y" / "a.nii.gz")
    turned = np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / "y" / "a.nii.gz")).dataobj).T
    writers.save_case(tmp_path / "m", "a", writers.probabilities(rng, 3, turned.shape), delivered=y.T, affine=affine)
    writers.describe(tmp_path / "m", CLASSES, reader="NibabelIOWithReorient")
    case = open_cohort(tmp_path / "m", tmp_path / "y")[0]
    for limit in (1, 1 << 20):
        assert case.labels is not None and np.array_equal(read(case.labels, limit), turned)
        assert np.array_equal(read(case.fields["delivered"], limit), turned)


def test_missing_probabilities_come_with_the_command(predict: Any, tmp_path: Path) -> None:
    predict()
    (tmp_path / "m0" / "b.npz").unlink()
    with pytest.raises(
        MissingError,
        match=(
            r"m0: found no b\.npz; .*nnUNetv2_predict -i IMAGES -o \S*m0 -d Dataset007_Toy -c CONFIGURATION"
            r" --save_probabilities"
        ),
    ):
        open_cohort(tmp_path / "m0")
    for path in (tmp_path / "m0").glob("[ab].*"):
        path.unlink()
    with pytest.raises(MissingError, match=r"no case.*--save_probabilities"):
        open_cohort(tmp_path / "m0")


def test_post_processing_among_the_predictions_is_no_case(predict: Any, tmp_path: Path) -> None:
    predict(2)
    for name in ("postprocessing.pkl", "postprocessing.json", "summary.json"):
        (tmp_path / "m0" / name).write_bytes(b"never opened")
    (tmp_path / "m0" / "postprocessed").mkdir()
    cohort = open_cohort(tmp_path / "m0")
    assert [c.id for c in cohort] == ["a", "b"]
    assert {c.files["postprocessing"] for c in cohort} == {tmp_path / "m0" / "postprocessing.pkl"}
    pooled = open_cohort([tmp_path / "m0", tmp_path / "m1"])
    assert all("postprocessing" not in c.files for c in pooled)  # that of one member is not the ensemble's
    (tmp_path / "m0" / "b.npz").unlink()
    with pytest.raises(MissingError, match=r"found no b\.npz; "):
        open_cohort(tmp_path / "m0")


def test_folders_that_nnunetv2_ensemble_wrote(predict: Any, tmp_path: Path) -> None:
    """CASE.pkl holds the probabilities: left aside with a note; the box is found as without it."""
    made = predict()
    for name in ("plans.json", "predict_from_raw_data_args.json"):
        (tmp_path / "m0" / name).unlink()
    for case in "ab":
        (tmp_path / "m0" / f"{case}.pkl").write_bytes(pickle.dumps(made[f"m0/{case}"]))
    cohort = open_cohort(tmp_path / "m0", tmp_path / "y")
    assert cohort[0].crop is None and cohort[0].spacing == (3.0, 2.0, 1.5) and "properties" not in cohort[0].files
    assert roles(cohort, 0) == (120, 0, 0, 0)
    (note,) = found_note(cohort)
    assert note.startswith("a.pkl, b.pkl: the probabilities once more, as nnUNetv2_ensemble wrote")
    (tmp_path / "m0" / "b.pkl").write_bytes(pickle.dumps(np.zeros((3, 4, 5, 5), np.float32)))
    with pytest.raises(UnreadableError, match=r"b\.pkl: found an array of shape \(3, 4, 5, 5\); .*Delete it"):
        open_cohort(tmp_path / "m0")


def test_gathered_label_maps_are_told_from_predictions(predict: Any, tmp_path: Path) -> None:
    predict()
    gathered = (tmp_path / "m0").rename(tmp_path / "crossval_results_folds_0_1")
    for path in [*gathered.glob("*.npz"), *gathered.glob("?.pkl")]:
        path.unlink()
    with pytest.raises(MissingError, match=rf"name the folder of the training, {tmp_path}$"):
        open_cohort(gathered)


def test_members_with_other_classes_or_settings(predict: Any, writers: ModuleType, tmp_path: Path) -> None:
    predict(2)
    both = [tmp_path / "m0", tmp_path / "m1"]
    writers.describe(tmp_path / "m1", {"background": 0, "b": 1, "a": 2}, settings=SETTINGS)
    with pytest.raises(ShapeError, match=r"m1/dataset\.json: found classes background, b, a"):
        open_cohort(both)
    for name, value in (("use_mirroring", False), ("tile_step_size", 0.25), ("use_folds", [0])):
        writers.describe(tmp_path / "m1", CLASSES, settings={**SETTINGS, name: value})
        with pytest.raises(UsageError, match=f"{name}.*Predict all members with the same settings"):
            open_cohort(both)
    writers.describe(tmp_path / "m1", CLASSES, settings={**SETTINGS, "use_folds": [4, 3, 2, 1, 0]})
    assert open_cohort(both).provenance.folds == 5
    # what newer releases save says nothing about networks or mirroring
    writers.describe(tmp_path / "m1", CLASSES, settings={"save_probabilities": True})
    assert open_cohort(both).provenance == Provenance(2, origin="prediction", recorded=())


NEWER = {
    "list_of_lists_or_source_folder": "in",
    "output_folder_or_list_of_truncated_output_files": "out",
    "save_probabilities": True,
    "num_processes_preprocessing": 3,
    "folder_with_segs_from_prev_stage": None,
    "num_parts": 1,
}
"""What nnU-Net saves since 2.2."""


def test_what_is_remembered_of_newer_releases_is_no_path(predict: Any, writers: ModuleType, tmp_path: Path) -> None:
    predict(2, settings=NEWER)
    made = open_cohort(tmp_path / "m0").provenance
    assert made == Provenance(1, origin="prediction", recorded=(("previous stage", "false"),))
    writers.describe(
        tmp_path / "m1",
        CLASSES,
        settings={
            **NEWER,
            "output_folder_or_list_of_truncated_output_files": "elsewhere",
            "folder_with_segs_from_prev_stage": "/a/path",
            "checkpoint_name": "x" * 500,
            "use_gaussian": True,
        },
    )
    assert open_cohort(tmp_path / "m1").provenance.recorded == (
        ("checkpoint_name", '"' + "x" * 79),
        ("previous stage", "true"),
        ("use_gaussian", "true"),
    )
    assert open_cohort([tmp_path / "m0", tmp_path / "m1"]).provenance.recorded == ()
    (tmp_path / "m0" / "predict_from_raw_data_args.json").unlink()
    assert open_cohort(tmp_path / "m0").provenance == Provenance(1, origin="prediction")
    assert open_cohort([tmp_path / "m0", tmp_path / "m1"]).provenance.recorded is None


def test_a_user_says_how_many_networks_where_nobody_recorded_it(predict: Any, tmp_path: Path) -> None:
    predict(2, settings=NEWER)
    assert open_cohort([tmp_path / "m0", tmp_path / "m1"], networks=5).provenance.networks == 10
    (tmp_path / "m1" / "predict_from_raw_data_args.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(UsageError, match=r"networks: found 1; expected 5, as nnU-Net recorded"):
        open_cohort(tmp_path / "m1", networks=1)
    for empty in ([], None, 5):
        (tmp_path / "m1" / "predict_from_raw_data_args.json").write_text(json.dumps({"use_folds": empty}))
        assert open_cohort(tmp_path / "m1").provenance.folds is None


def test_other_geometry_and_shapes(predict: Any, writers: ModuleType, tmp_path: Path) -> None:
    made = predict()
    shifted = writers.AFFINE.copy()
    shifted[2, 3] = 7
    writers.save_map(tmp_path / "y" / "a.nii.gz", made["a"], shifted)
    with pytest.raises(ShapeError, match=r"y/a\.nii\.gz: found an affine that differs by 7 mm"):
        open_cohort(tmp_path / "m0", tmp_path / "y")
    writers.save_map(tmp_path / "y" / "a.nii.gz", made["a"][:3])
    with pytest.raises(ShapeError, match=r"y/a\.nii\.gz: found shape \(3, 5, 6\); expected \(4, 5, 6\)"):
        open_cohort(tmp_path / "m0", tmp_path / "y")
    np.savez(tmp_path / "m0" / "a.npz", probabilities=made["m0/a"][:, :3])
    with pytest.raises(
        ShapeError, match=r"a\.npz: found probabilities of shape \(3, 5, 6\); expected \(4, 5, 6\) as a\.pkl says"
    ):
        open_cohort(tmp_path / "m0")


def test_properties_that_cannot_be_used(predict: Any, tmp_path: Path) -> None:
    predict(2)
    path = tmp_path / "m1" / "a.pkl"
    good = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**good, "bbox_used_for_cropping": [[0, 3], [0, 5], [0, 6]]}))
    with pytest.raises(ShapeError, match=r"m1/a\.pkl: found a crop box \(\(0, 3\)"):
        open_cohort([tmp_path / "m0", tmp_path / "m1"])
    for wrong in (
        {},
        {"shape_before_cropping": (4, 5, 6)},
        {**good, "bbox_used_for_cropping": [[0, 3], [0, 5]]},
        {**good, "bbox_used_for_cropping": [[0, 3.5], [0, 5], [0, 6]]},
    ):
        path.write_bytes(pickle.dumps(wrong))
        with pytest.raises(UnreadableError, match=r"m1/a\.pkl: found bbox_used_for_cropping"):
            open_cohort(tmp_path / "m1")
    path.write_bytes(pickle.dumps(good))
    (tmp_path / "m1" / "plans.json").write_text(json.dumps({"transpose_backward": [0, 0, 2]}))
    with pytest.raises(UnreadableError, match="transpose_backward"):
        open_cohort(tmp_path / "m1")
    (tmp_path / "m1" / "plans.json").unlink()
    assert open_cohort(tmp_path / "m1")[0].crop == ((0, 4), (0, 5), (0, 6))  # nothing was cropped in any axes
    path.write_bytes(pickle.dumps({**good, "bbox_used_for_cropping": [[0, 4], [0, 5], [1, 6]]}))
    with pytest.raises(MissingError, match=r"no plans\.json"):
        open_cohort(tmp_path / "m1")[0]


def test_arguments_that_contradict_the_files(predict: Any, tmp_path: Path) -> None:
    predict()
    assert open_cohort(tmp_path / "m0", kind="logits").kind == "logits"  # as early versions stored
    with pytest.raises(UsageError, match="pool: found 'mean'"):
        open_cohort(tmp_path / "m0", pool="mean")  # type: ignore[arg-type]
    described = json.loads((tmp_path / "m0" / "dataset.json").read_text())
    (tmp_path / "m0" / "dataset.json").write_text(json.dumps({**described, "file_ending": None}))
    with pytest.raises(UnreadableError, match="file_ending None"):
        open_cohort(tmp_path / "m0")


def test_maps_in_a_format_that_is_not_read(predict: Any, tmp_path: Path) -> None:
    predict()
    described = json.loads((tmp_path / "m0" / "dataset.json").read_text())
    (tmp_path / "m0" / "dataset.json").write_text(json.dumps({**described, "file_ending": ".vtk"}))
    for case in "ab":
        (tmp_path / "m0" / f"{case}.nii.gz").rename(tmp_path / "m0" / f"{case}.vtk")
    cohort = open_cohort(tmp_path / "m0")
    assert (
        cohort[0].files["label_map"].name == "a.vtk"
        and "delivered" not in cohort[0].fields
        and cohort[0].spacing is None
    )

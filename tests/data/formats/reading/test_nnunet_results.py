"""nnU-Net's results folder: folds, labels found where nnU-Net keeps them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from segcal.data.case import Provenance
from segcal.data.formats.discover import open_cohort
from segcal.errors import MissingError, UsageError

CLASSES = {"background": 0, "a": 1, "b": 2}
TRAINING = "nnUNet_results/Dataset007_Toy/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def training(writers: ModuleType, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    return train(writers, tmp_path / TRAINING, rng)


def train(writers: ModuleType, path: Path, rng: np.random.Generator) -> Path:
    writers.describe(path, CLASSES)
    for k, cases in enumerate((("d", "a"), ("c",), ("b", "e"))):
        for case in cases:
            writers.save_case(path / f"fold_{k}" / "validation", case, writers.probabilities(rng, 3, (2, 3, 4)))
    return path


def truth(writers: ModuleType, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    made = {case: rng.integers(0, 3, (2, 3, 4)) for case in "abcde"}
    for case, labels in made.items():
        writers.save_map(folder / f"{case}.nii.gz", labels)
    return made


@pytest.mark.parametrize("above", range(4))
def test_all_folds_from_any_level(
    above: int, training: Path, writers: ModuleType, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    made = truth(writers, tmp_path / "nnUNet_preprocessed" / "Dataset007_Toy" / "gt_segmentations", rng)
    cohort = open_cohort([training, *training.parents][above])
    assert [c.id for c in cohort.labelled()] == list("abcde") and cohort.provenance == Provenance(
        1, 1, origin="validation", validated=3
    )
    assert cohort.name == training.name
    for case in cohort:
        assert case.labels is not None and np.array_equal(read(case.labels), made[case.id])
        assert np.array_equal(read(case.fields["delivered"]), read(case.scores[0]).argmax(0))
    assert (
        cohort[2].files["folder"] == training / "fold_1" / "validation"
        and cohort[2].files["dataset"] == training / "dataset.json"
    )


def test_where_labels_are_looked_for(
    training: Path, writers: ModuleType, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_cohort(training)[0].labels is None
    truth(writers, tmp_path / "nnUNet_preprocessed" / "Dataset007_Toy" / "gt_segmentations", rng)
    truth(writers, tmp_path / "elsewhere" / "Dataset007_Toy" / "gt_segmentations", rng)
    truth(writers, tmp_path / "mine", rng)

    def found(labels: Path | None = None) -> str:
        return str(open_cohort(training, labels)[0].files["labels"].relative_to(tmp_path).parts[0])

    assert found() == "nnUNet_preprocessed"
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    assert found() == "elsewhere"
    assert found(tmp_path / "mine") == "mine"
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "none"))
    assert found() == "nnUNet_preprocessed"


def test_some_folds(training: Path) -> None:
    assert [c.id for c in open_cohort([training / "fold_2", training / "fold_0" / "validation"])] == [
        "a",
        "b",
        "d",
        "e",
    ]
    (training / "fold_all" / "validation").mkdir(parents=True)
    assert len(open_cohort(training)) == 5
    with pytest.raises(UsageError, match="fold_all"):
        open_cohort(training / "fold_all")
    for k in range(3):
        (training / f"fold_{k}").rename(training / f"no_{k}")
    with pytest.raises(MissingError, match="fold_all only"):
        open_cohort(training)


def test_several_trainings(training: Path, writers: ModuleType, rng: np.random.Generator) -> None:
    other = train(writers, training.with_name("nnUNetTrainer__nnUNetPlans__2d"), rng)
    with pytest.raises(
        UsageError, match="found 2 trainings: nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d_fullres"
    ):
        open_cohort(training.parent)
    assert open_cohort([training, other]).provenance == Provenance(2, 1, origin="validation", validated=3)


def test_what_is_refused(training: Path, writers: ModuleType, rng: np.random.Generator) -> None:
    validation = training / "fold_1" / "validation"
    writers.save_case(validation, "a", writers.probabilities(rng, 3, (2, 3, 4)))
    with pytest.raises(UsageError, match="found case a, which is also in fold_0"):
        open_cohort(training)
    for path in validation.glob("a.*"):
        path.unlink()
    (validation / "c.npz").unlink()
    with pytest.raises(
        MissingError,
        match=(
            r"fold_1/validation: found no c\.npz; .*nnUNetv2_train Dataset007_Toy 3d_fullres 1 -tr nnUNetTrainer -p"
            r" nnUNetPlans --val --npz"
        ),
    ):
        open_cohort(training)
    for path in validation.glob("*"):
        path.unlink()
    validation.rmdir()
    with pytest.raises(
        MissingError, match=r"fold_1: found no folder 'validation'.*--val --npz, or name the finished folds"
    ):
        open_cohort(training)
    assert len(open_cohort([training / "fold_0", training / "fold_2"])) == 4


def test_post_processing_of_exactly_these_folds(training: Path) -> None:
    for place in ("fold_0/validation", "crossval_results_folds_0_1_2"):
        (training / place).mkdir(exist_ok=True)
        (training / place / "postprocessing.pkl").write_bytes(b"never opened")

    def carried(*folds: str) -> Path | None:
        return open_cohort([training / f for f in folds] or training)[0].files.get("postprocessing")

    assert carried() == training / "crossval_results_folds_0_1_2" / "postprocessing.pkl"
    assert carried("fold_0") == training / "fold_0" / "validation" / "postprocessing.pkl"
    assert carried("fold_0", "fold_1") is None and carried("fold_1") is None

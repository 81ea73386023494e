"""What is left on disk reads back as an nnU-Net ensemble whose pooled logits are those the truth acts on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import segcal
from segcal.data.case import PADDING
from segcal.data.files.journal import Scratch
from segcal.data.formats import pickles
from segcal.data.simulate.cohort import Design, Simulation
from segcal.data.simulate.nnunet import write_nnunet
from segcal.data.simulate.truth import Truth
from segcal.errors import MissingError, OutputError

SMALL = Design(shape=(5, 8, 9), margin=(1, 2, 1), members=3)
SIMULATION = Simulation(SMALL, Truth.general(4), 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_nnunet(SIMULATION, [0, 4], tmp_path_factory.mktemp("simulated") / "cohort")


@pytest.fixture(scope="module")
def cohort(folders: list[Path]) -> segcal.Cohort:
    return segcal.open_cohort(folders, folders[0].parent / "labelsTr", pool="logits")


def test_layout(folders: list[Path]) -> None:
    assert sorted(p.name for p in folders[0].parent.iterdir()) == ["labelsTr", "member0", "member1", "member2"]
    assert sorted(p.name for p in folders[1].iterdir()) == sorted(
        [
            *(f"case_{i:03d}{e}" for i in (0, 4) for e in (".npz", ".pkl", ".nii.gz")),
            "dataset.json",
            "plans.json",
            "predict_from_raw_data_args.json",
        ]
    )


def test_it_opens_as_what_it_is(cohort: segcal.Cohort) -> None:
    assert [c.id for c in cohort] == ["case_000", "case_004"]
    assert isinstance(cohort.head, segcal.Softmax)
    assert cohort.head.classes == SMALL.classes
    assert cohort.head.background == 0
    assert cohort.members == 3
    assert cohort.provenance.networks == 3
    assert cohort[0].crop == SMALL.crop
    assert cohort[0].spacing == SMALL.spacing
    assert cohort.pooled_kind == "log_probs"


@pytest.mark.parametrize("index", [0, 1])
def test_pooled_scores_and_labels_read_back(cohort: segcal.Cohort, index: int) -> None:
    truth = SIMULATION.case((0, 4)[index])
    with Scratch(1 << 30) as scratch, cohort.open(index, scratch) as reader:
        block = reader.block(0, truth.labels.size)
    inside = truth.inside.ravel()
    np.testing.assert_array_equal(block.role.numpy() == PADDING, ~inside)
    np.testing.assert_allclose(block.scores.numpy()[:, inside], truth.log_probs.reshape(4, -1)[:, inside], atol=1e-5)
    assert block.labels is not None
    np.testing.assert_array_equal(block.labels.numpy(), truth.labels.ravel())


def test_padding_is_certain_background_and_rows_are_probabilities(folders: list[Path]) -> None:
    case = SIMULATION.case(0)
    with np.load(folders[2] / "case_000.npz") as stored:
        p = stored["probabilities"]
    assert p.dtype == np.float32
    assert (p[0, ~case.inside] == 1).all()
    assert (p[1:, ~case.inside] == 0).all()
    np.testing.assert_allclose(p.sum(0, dtype=np.float64), 1, atol=1e-6)
    delivered = nibabel.load(folders[2] / "case_000.nii.gz")
    np.testing.assert_array_equal(np.asarray(delivered.dataobj).transpose(2, 1, 0), p.argmax(0))


def test_geometry_agrees_between_files(folders: list[Path]) -> None:
    properties = pickles.load(folders[0] / "case_000.pkl")
    delivered = nibabel.load(folders[0] / "case_000.nii.gz")
    labels = nibabel.load(folders[0].parent / "labelsTr" / "case_000.nii.gz")
    np.testing.assert_array_equal(delivered.affine, labels.affine)
    np.testing.assert_allclose(delivered.header.get_zooms(), properties["sitk_stuff"]["spacing"])
    # SimpleITK's world mirrors the first two axes of NIfTI's
    np.testing.assert_allclose(delivered.affine[:3, 3] * [-1, -1, 1], properties["sitk_stuff"]["origin"])


def test_order_and_spread_of_the_work_change_nothing(folders: list[Path], tmp_path: Path) -> None:
    def backwards(work: Callable[[int], None], items: Iterable[int]) -> Iterator[Any]:
        return map(work, reversed(list(items)))

    steps: list[int] = []
    again = write_nnunet(SIMULATION, [0, 4], tmp_path / "again", backwards, lambda: steps.append(1))
    assert len(steps) == 2
    for a, b in zip(folders, again, strict=True):
        with np.load(a / "case_004.npz") as x, np.load(b / "case_004.npz") as y:
            np.testing.assert_array_equal(x["probabilities"], y["probabilities"])


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_nnunet(SIMULATION, [0, 1], tmp_path / "cohort", done=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        write_nnunet(SIMULATION, [0], tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with pytest.raises(MissingError, match="no case"):
        write_nnunet(SIMULATION, [], tmp_path / "new")

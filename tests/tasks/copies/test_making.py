"""Copies condensed and predicted: as if they had been stacked, resumed, refused, and read again as fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import segcal
from segcal.data.cohort import Cohort
from segcal.engine.need import MIB
from segcal.engine.serial import Serial
from segcal.engine.threads import Threads
from segcal.errors import MissingError, OutputError, ShapeError, UsageError
from segcal.tasks.copies.making import Drawing, Making, condense, predict
from segcal.tasks.copies.ranges import Ranges
from segcal.tasks.copies.segmenters import Plain, normalised
from tests.study.conftest import write_ensemble

NAMES = [f"c{k}" for k in range(4)]
MILD = Ranges((0.9, 1.1), (-0.2, 0.2), (0.9, 1.1), 0.05)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Five members, taken for predictions of five copies, and images."""
    write_ensemble(tmp_path / "e", NAMES, members=5, shape=(14, 12))
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        np.save(tmp_path / "images" / f"{name}.npy", rng.normal(10, 3, (14, 12)).astype(np.float32))
    return tmp_path


def members(root: Path) -> Cohort:
    return segcal.open_cohort(sorted((root / "e").glob("member*")))


def pictured(root: Path) -> Cohort:
    return segcal.open_cohort([root / "e" / "member0"], root / "e" / "labels", images=root / "images")


def network(x: torch.Tensor) -> torch.Tensor:
    """Three classes by intensity, of a batch."""
    return torch.cat([-x[:, :1], 0.5 * x[:, :1], x[:, :1] ** 2 - 1], 1)


class Net(torch.nn.Module):
    """The same as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * network(x)


def softmax(z: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(z - z.max(0))
    return np.asarray(e / e.sum(0))


@pytest.mark.parametrize("of", ["probs", "log_probs"])
def test_condensed_is_stacked(folders: Path, of: Any) -> None:
    done = condense(members(folders), folders / "out", Serial(), Making(of, 2))
    assert done == NAMES
    for name in NAMES:
        z = [np.load(folders / "e" / f"member{k}" / f"{name}.npz")["logits"].astype(float) for k in range(5)]
        p = np.stack([softmax(one) for one in z])
        found = np.load(folders / "out" / f"{name}.npz")
        told = p if of == "probs" else np.log(p)
        np.testing.assert_allclose(found["mean"], told.mean(0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found["spread"], told.std(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["scores"], np.log(p[:2]).reshape(6, 14, 12), rtol=1e-5, atol=1e-5)
    record = json.loads((folders / "out" / "copies.json").read_text())
    assert record["made"] == {"copies": 5, "of": of, "drawn": "predictions of copies"}


def test_the_same_bits_for_any_workers(folders: Path) -> None:
    for name, engine in (("one", Serial()), ("two", Threads(2, 256 * MIB))):
        condense(members(folders), folders / name, engine, Making())
    for name in NAMES:
        one, two = (np.load(folders / where / f"{name}.npz") for where in ("one", "two"))
        assert all(np.array_equal(one[key], two[key]) for key in ("mean", "spread", "scores"))


def test_one_folder_is_no_copies(folders: Path) -> None:
    with pytest.raises(UsageError, match="two or more"):
        condense(segcal.open_cohort([folders / "e" / "member0"]), folders / "out", Serial(), Making())


def test_predicted_is_stacked_and_states_are_of_one_stream(folders: Path) -> None:
    drawing = Drawing(7, (3, 5), MILD, normalise="zscore")
    predict(pictured(folders), folders / "out", Plain(Net()), drawing, Making(kept=4), Serial())
    for name in NAMES:
        x = normalised(np.load(folders / "images" / f"{name}.npy")[None], "zscore")
        copies = [MILD.copy(x, name, k) for k in range(7)]
        p = np.stack([softmax(network(torch.from_numpy(c)[None])[0].double().numpy()) for c in copies])
        for count, where in ((3, "first3"), (5, "first5"), (7, ".")):
            found = np.load(folders / "out" / where / f"{name}.npz")
            np.testing.assert_allclose(found["mean"], p[:count].mean(0), atol=1e-6)
            np.testing.assert_allclose(found["spread"], p[:count].std(0), atol=1e-6)
            assert np.array_equal(found["image"], x)
            assert np.array_equal(found["images"], np.concatenate(copies[: min(count, 4)]))
            assert len(found["scores"]) == 3 * min(count, 4)
    record = json.loads((folders / "out" / "copies.json").read_text())
    assert record["made"]["network"] == Plain(Net()).digest != ""
    assert json.loads((folders / "out" / "first3" / "copies.json").read_text())["made"]["copies"] == 3


def test_copies_of_zero_strength_have_no_spread(folders: Path) -> None:
    nothing = Drawing(4, ranges=Ranges((1, 1), (0, 0), (1, 1), 0))
    predict(pictured(folders), folders / "out", Plain(Net()), nothing, Making(), Serial())
    for name in NAMES:
        assert (np.load(folders / "out" / f"{name}.npz")["spread"] == 0).all()


def test_it_goes_on_where_it_was_and_mixes_nothing(folders: Path) -> None:
    drawing, cohort = Drawing(3, ranges=MILD), pictured(folders)
    assert predict(cohort, folders / "out", Plain(Net()), drawing, Making(), Serial()) == NAMES
    (folders / "out" / "c2.npz").unlink()
    kept = (folders / "out" / "c1.npz").stat().st_mtime_ns
    assert predict(cohort, folders / "out", Plain(Net()), drawing, Making(), Serial()) == ["c2"]
    assert (folders / "out" / "c1.npz").stat().st_mtime_ns == kept
    for other, how in ((Drawing(3, ranges=MILD, seed=1), Making()), (drawing, Making(kept=2))):
        with pytest.raises(OutputError, match="another making"):
            predict(cohort, folders / "out", Plain(Net()), other, how, Serial())
    assert predict(cohort, folders / "out", Plain(Net()), drawing, Making(kept=2), Serial(), overwrite=True) == NAMES


def test_other_files_and_networks_are_refused(folders: Path) -> None:
    cohort = pictured(folders)
    with pytest.raises(OutputError, match="a folder of its own"):
        predict(cohort, folders / "e" / "member1", Plain(Net()), Drawing(2), Making(), Serial())
    with pytest.raises(ShapeError, match="2 classes"):
        predict(cohort, folders / "a", Plain(lambda x: np.concatenate([x, x])), Drawing(2), Making(), Serial())
    with pytest.raises(ShapeError, match="on the grid"):
        predict(cohort, folders / "b", Plain(lambda x: x[:, :3]), Drawing(2), Making(), Serial())
    with pytest.raises(MissingError, match="image"):
        predict(members(folders), folders / "c", Plain(Net()), Drawing(2), Making(), Serial())


def test_numbers_that_cannot_be() -> None:
    for wrong in ({"count": 1}, {"count": 5, "at": (5,)}, {"count": 5, "at": (1,)}):
        with pytest.raises(UsageError):
            Drawing(**wrong)  # type: ignore[arg-type]
    for made in ({"of": "logits"}, {"kept": 0}):
        with pytest.raises(UsageError):
            Making(**made)  # type: ignore[arg-type]


def test_they_are_read_as_fields(folders: Path) -> None:
    drawing = Drawing(3, ranges=MILD, normalise="zscore")
    predict(pictured(folders), folders / "out", Plain(Net()), drawing, Making(kept=2), Serial())
    cohort = segcal.open_cohort([folders / "e" / "member0"], copies=folders / "out")
    case = cohort[1]
    assert {n: f.channels for n, f in case.fields.items()} == {
        "susceptibility": 6,
        "copies": 6,
        "image": 1,
        "copied_images": 2,
    }
    assert dict(cohort.provenance.recorded or ())["copies"] == json.dumps(
        json.loads((folders / "out" / "copies.json").read_text())["made"], sort_keys=True
    )
    stored = np.load(folders / "out" / "c1.npz")
    with Serial().scratch(cohort) as scratch, cohort.open(1, scratch) as reader:
        assert reader.fields is not None
        found = reader.fields.read("susceptibility", 5, 40).numpy()
    both = np.concatenate([stored["mean"], stored["spread"]]).reshape(6, -1)
    assert np.array_equal(found, both[:, 5:40])


def test_copies_of_folders_look_like_the_image_of_the_case(folders: Path) -> None:
    condense(members(folders), folders / "out", Serial(), Making(kept=3))
    cohort = segcal.open_cohort([folders / "e" / "member0"], images=folders / "images", copies=folders / "out")
    with Serial().scratch(cohort) as scratch, cohort.open(0, scratch) as reader:
        assert reader.fields is not None
        image, copied = (reader.fields.read(name, 0, 168).numpy() for name in ("image", "copied_images"))
    assert np.array_equal(copied, np.repeat(image, 3, 0))
    assert "copied_images" not in segcal.open_cohort([folders / "e" / "member0"], copies=folders / "out")[0].fields


def test_files_of_other_cases_and_classes(folders: Path, tmp_path: Path) -> None:
    condense(members(folders), folders / "out", Serial(), Making())
    with pytest.raises(MissingError, match=r"copies\.json"):
        segcal.open_cohort([folders / "e" / "member0"], copies=folders / "images")
    write_ensemble(tmp_path / "other", [*NAMES, "c9"], members=1, shape=(14, 12))
    with pytest.raises(MissingError, match="case c9"):
        segcal.open_cohort([tmp_path / "other" / "member0"], copies=folders / "out")
    write_ensemble(tmp_path / "larger", NAMES, members=1, shape=(15, 12))
    with pytest.raises(ShapeError, match="as the scores"):
        segcal.open_cohort([tmp_path / "larger" / "member0"], copies=folders / "out")
    write_ensemble(tmp_path / "four", NAMES, members=1, shape=(14, 12), classes=4)
    with pytest.raises(ShapeError, match="4 as the scores"):
        segcal.open_cohort([tmp_path / "four" / "member0"], copies=folders / "out")

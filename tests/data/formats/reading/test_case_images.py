"""Images of cases: the voxels of the scores, channel by channel, from the files people have."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcal.data.files.journal import Scratch
from segcal.data.formats.case_images import CaseImages
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.nifti import AS_STORED, Axes
from segcal.errors import MissingError, ShapeError, UnreadableError, UsageError
from tests.data.formats.reading.writers import describe, probabilities, save_case, save_map

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 7)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (6, 7, 3)).astype(np.uint8)
VOLUME = RNG.normal(size=(4, 5, 6)).astype(np.float32)


def read(folder: Path, shape: tuple[int, ...], axes: Axes = AS_STORED, case: str = "a") -> np.ndarray:
    field = CaseImages.find(folder).of(case, shape, axes)
    n = int(np.prod(shape))
    with Scratch(1) as scratch, field.open(scratch) as window:
        pieces = [np.atleast_2d(window.read(k, min(k + 5, n))) for k in range(0, n, 5)]
    whole = np.concatenate(pieces, 1)
    assert field.shape == shape
    assert (field.channels or 1) == len(whole)
    return whole.reshape(-1, *shape)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures(ending: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a{ending}")
    Image.fromarray(COLOUR).save(tmp_path / f"b{ending}")
    Image.fromarray(GREY.astype(np.uint16) * 200).save(tmp_path / f"c{ending}")
    np.testing.assert_array_equal(read(tmp_path, (6, 7)), GREY[None])
    np.testing.assert_array_equal(read(tmp_path, (1, 6, 7)), GREY[None, None])
    np.testing.assert_array_equal(read(tmp_path, (6, 7), case="b"), np.moveaxis(COLOUR, -1, 0))
    np.testing.assert_array_equal(read(tmp_path, (6, 7), case="c"), GREY[None].astype(np.uint16) * 200)


def test_palettes_are_looked_up_and_transparency_dropped(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).convert("P").save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read(tmp_path, (6, 7)), np.moveaxis(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")), -1, 0)
    )
    Image.fromarray(np.dstack([COLOUR, GREY])).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read(tmp_path, (6, 7), case="b"), np.moveaxis(COLOUR, -1, 0))


def test_a_photograph(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(
        read(tmp_path, (6, 7)), np.moveaxis(np.asarray(Image.open(tmp_path / "a.jpg")), -1, 0)
    )


def test_volumes_and_one_file_a_channel(tmp_path: Path) -> None:
    for k in range(2):
        nibabel.save(nibabel.Nifti1Image(VOLUME + k, np.eye(4)), tmp_path / f"a_{k:04d}.nii.gz")
    np.testing.assert_array_equal(read(tmp_path, (4, 5, 6)), np.stack([VOLUME, VOLUME + 1]))
    np.testing.assert_array_equal(read(tmp_path, (6, 5, 4), Axes(reverse=True)), np.stack([VOLUME.T, VOLUME.T + 1]))


def test_arrays_with_channels_first_last_or_none(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    np.save(tmp_path / "b.npy", np.stack([VOLUME, 2 * VOLUME]))
    np.savez(tmp_path / "c.npz", image=np.stack([VOLUME, 2 * VOLUME], -1), other=GREY)
    np.testing.assert_array_equal(read(tmp_path, (4, 5, 6)), VOLUME[None])
    np.testing.assert_array_equal(read(tmp_path, (4, 5, 6), case="b"), np.stack([VOLUME, 2 * VOLUME]))
    np.testing.assert_array_equal(read(tmp_path, (4, 5, 6), case="c"), np.stack([VOLUME, 2 * VOLUME]))


def test_nnunet_s_images_lie_as_its_scores(tmp_path: Path) -> None:
    folder, images = tmp_path / "predictions", tmp_path / "imagesTs"
    describe(folder, {"background": 0, "organ": 1})
    p = probabilities(RNG, 2, (6, 5, 4))
    save_case(folder, "a", p)
    save_map(images / "a_0000.nii.gz", np.arange(120).reshape(6, 5, 4))
    cohort = open_cohort(folder, images=images)
    with Scratch(1 << 20) as scratch, cohort.open(0, scratch) as reader:
        np.testing.assert_array_equal(reader.fields.read("image", 0, 120).numpy(), np.arange(120)[None])


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such folder"):
        CaseImages.find(tmp_path / "nowhere")
    with pytest.raises(MissingError, match="no image"):
        CaseImages.find(tmp_path)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ShapeError, match=r"a\.png.*\(6, 7\).*\(7, 6\)"):
        read(tmp_path, (7, 6))
    with pytest.raises(MissingError, match="no image of case b"):
        read(tmp_path, (6, 7), case="b")
    Image.fromarray(GREY).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match="one image a case"):
        CaseImages.find(tmp_path)
    (tmp_path / "a.tif").unlink()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableError, match=r"a\.png"):
        read(tmp_path, (6, 7))
    Image.fromarray(GREY).save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    with pytest.raises(UnreadableError, match="several pages"):
        read(tmp_path, (6, 7), case="b")

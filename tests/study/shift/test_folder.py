"""Folders of images: names, formats and bits, the table, and input that cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcal.data.files.ledger import NAME
from segcal.errors import (
    DataError,
    MissingError,
    OutputError,
    SegcalError,
    UnreadableError,
    UnsafeFileError,
    UsageError,
)
from segcal.study.shift import artefacts, photometric
from segcal.study.shift.folder import TABLE, Artefacts, Photometric, corrupt

RNG = np.random.default_rng(0)
GREY, COLOUR, DEEP = (
    RNG.integers(0, 256, (12, 16), np.uint8),
    RNG.integers(0, 256, (12, 16, 3), np.uint8),
    RNG.integers(0, 65536, (12, 16), np.uint16),
)


def write(folder: Path, **arrays: Any) -> Path:
    """`a_png=array` becomes a.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / name.replace("_", "."))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_pictures(tmp_path: Path) -> None:
    images = write(
        tmp_path / "in", a_png=GREY, b_png=COLOUR, c_tif=DEEP, d_TIFF=(GREY / 255).astype(np.float32), e_jpg=COLOUR
    )
    (images / "notes.txt").write_text("not an image")
    (images / ".hidden.png").write_text("not an image either")
    progress = Mock()
    rows = corrupt(images, tmp_path / "out", Photometric("strong"), progress=progress)
    assert progress.mock_calls == [call.start("corrupt", 5), *[call.step()] * 5]
    assert names(tmp_path / "out") == ["a.png", "b.png", "c.tif", TABLE, "d.TIFF", "e.png", NAME]
    note = json.loads((tmp_path / "out" / NAME).read_text())
    assert (note["command"], note["work"], note["severity"]) == ("corrupt", "Photometric", "strong")
    assert {"segcal", "pillow"} <= set(note["versions"])
    for name, source in (
        ("a.png", GREY),
        ("b.png", COLOUR),
        ("c.tif", DEEP),
        ("d.TIFF", (GREY / 255).astype(np.float32)),
        ("e.png", read(images / "e.jpg")),
    ):
        # the name as it came chooses, of e.jpg too
        expected = photometric.choose("e.jpg" if name == "e.png" else name, "strong").apply(source)
        written = read(tmp_path / "out" / name)
        assert (written.dtype, written.shape) == (source.dtype, source.shape)
        assert np.array_equal(written, expected)
    shown = {row["file"]: row for row in table(tmp_path / "out")}
    assert sorted(shown) == ["a.png", "b.png", "c.tif", "d.TIFF", "e.png"] == [r.file for r in rows]
    for name, row in shown.items():
        chosen = photometric.choose("e.jpg" if name == "e.png" else name, "strong")
        assert (row["kind"], row["severity"], json.loads(row["parameters"])) == (
            chosen.kind,
            "strong",
            chosen.parameters,
        )
    again = corrupt(images, tmp_path / "again", Photometric("strong"))
    assert again == rows
    assert {r.digest for r in rows}.isdisjoint(
        r.digest for r in corrupt(images, tmp_path / "mild", Photometric("mild"))
    )


def test_one_kind_for_all(tmp_path: Path) -> None:
    images = write(tmp_path / "in", a_png=GREY, b_png=COLOUR, c_png=COLOUR)
    assert {r.kind for r in corrupt(images, tmp_path / "out", Photometric("mild", "fog"))} == {"fog"}


def test_palettes_are_looked_up_and_transparency_is_dropped(tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    Image.fromarray(COLOUR).quantize(8).save(images / "p.png")
    Image.fromarray(np.dstack([COLOUR, GREY])).save(images / "t.png")
    Image.fromarray(GREY > 99).save(images / "one.png")
    corrupt(images, tmp_path / "out", Photometric("mild", "fog"))
    expected = photometric.choose("t.png", "mild", kind="fog").apply(COLOUR)
    assert np.array_equal(read(tmp_path / "out" / "t.png"), expected)
    assert read(tmp_path / "out" / "p.png").shape == COLOUR.shape
    assert set(np.unique(read(tmp_path / "out" / "one.png"))) == {26, 255}


def nifti(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([1.5, -2.0, 3.0, 1.0]))
    image.header.set_slope_inter(2, 10)
    nibabel.save(image, path)


def test_volumes(tmp_path: Path) -> None:
    pytest.importorskip("torchio", reason="no TorchIO: pip install segcal[torchio]")
    values = RNG.integers(0, 900, (9, 8, 7)).astype(np.int16)
    nifti(tmp_path / "in" / "a.nii.gz", values)
    nifti(tmp_path / "in" / "b.nii", values)
    corrupt(tmp_path / "in", tmp_path / "one", Artefacts("bias"))
    assert names(tmp_path / "one") == ["a.nii.gz", "b.nii", TABLE, NAME]
    rows = corrupt(tmp_path / "in", tmp_path / "out", Artefacts("bias", replicates=2))
    assert [r.file for r in rows] == [
        "replicate0/a.nii.gz",
        "replicate0/b.nii",
        "replicate1/a.nii.gz",
        "replicate1/b.nii",
    ]
    assert len({r.digest for r in rows}) == 4
    for replicate in range(2):
        written = nibabel.load(tmp_path / "out" / f"replicate{replicate}" / "a.nii.gz")
        assert np.array_equal(written.affine, np.diag([1.5, -2.0, 3.0, 1.0]))
        assert written.get_data_dtype() == np.float32
        assert np.array_equal(
            np.asarray(written.dataobj),
            artefacts.choose("bias", "a", replicate=replicate).apply(values, written.affine),
        )
    assert [json.loads(r["parameters"])["replicate"] for r in table(tmp_path / "out")] == [0, 0, 1, 1]


def test_outputs_that_would_lose_something(tmp_path: Path) -> None:
    images = write(tmp_path / "in", a_png=GREY)
    with pytest.raises(UsageError, match="the folder of the images itself"):
        corrupt(images, images / ".." / "in", Photometric("mild"), overwrite=True)
    (tmp_path / "link").symlink_to(images)
    with pytest.raises(UsageError, match="the folder of the images itself"):
        corrupt(images, tmp_path / "link", Photometric("mild"), overwrite=True)
    assert np.array_equal(read(images / "a.png"), GREY)
    with pytest.raises(OutputError, match="--overwrite"):
        corrupt(write(tmp_path / "other", b_png=GREY), images, Photometric("mild"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="found a file"):
        corrupt(images, tmp_path / "file", Photometric("mild"))
    write(images, a_jpg=COLOUR)
    with pytest.raises(UsageError, match=r"one file that becomes a\.png"):
        corrupt(images, tmp_path / "out", Photometric("mild"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("x.png", b"", UnreadableError),
        ("x.png", b"GIF89a", UnreadableError),
        ("x.jpg", b"\xff\xd8\xff", UnreadableError),
        ("x.tif", b"II*\x00\x08\x00\x00\x00", UnreadableError),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, error: type[SegcalError]) -> None:
    images = write(tmp_path / "in", a_png=GREY)
    (images / name).write_bytes(content)
    with pytest.raises(error, match=name):
        corrupt(images, tmp_path / "out", Photometric("mild"))
    # what was written is whole, and without the table the folder is known to be unfinished
    assert names(tmp_path / "out") == ["a.png", NAME]


def test_a_truncated_picture_a_bomb_pages_and_depths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(error: type[SegcalError], found: str) -> None:
        with pytest.raises(error, match=found):
            corrupt(tmp_path / "in", tmp_path / "out", Photometric("mild"), overwrite=True)

    path = write(tmp_path / "in", a_png=COLOUR) / "a.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(UnreadableError, "a.png: found a file that cannot be read")
    path.write_bytes(whole)
    with monkeypatch.context() as few:
        few.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        refused(UnsafeFileError, "at most 100 pixels")
    path.unlink()
    pages = [Image.fromarray(GREY)] * 2
    pages[0].save(tmp_path / "in" / "a.tif", save_all=True, append_images=pages[1:])
    refused(UnreadableError, "a picture of several pages")
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / "in" / "a.tif")
    refused(DataError, "32 bits")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "in" / "a.tif")
    refused(DataError, r"a\.tif: found floats from 0 to 249")


def test_folders_without_an_image(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", write(tmp_path / "empty")):
        with pytest.raises(MissingError):
            corrupt(folder, tmp_path / "out", Photometric("mild"))
    with pytest.raises(MissingError, match="NIfTI volumes by artefact"):
        corrupt(write(tmp_path / "in", a_png=GREY), tmp_path / "out", Artefacts("bias"))
    assert not (tmp_path / "out").exists()


def test_volumes_that_cannot_be_used(tmp_path: Path) -> None:
    pytest.importorskip("torchio", reason="no TorchIO: pip install segcal[torchio]")
    nifti(tmp_path / "flat" / "a.nii.gz", np.ones((4, 4, 4), np.float32))
    nifti(tmp_path / "series" / "a.nii.gz", np.ones((4, 4, 4, 2), np.float32))
    nifti(tmp_path / "coloured" / "a.nii.gz", np.zeros((4, 4, 4), [(c, "u1") for c in "RGB"]))
    nifti(tmp_path / "complex" / "a.nii.gz", np.ones((4, 4, 4), np.complex64))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.nii.gz").write_bytes(b"nothing")
    for folder, error, found in (
        ("flat", DataError, "one value everywhere"),
        ("series", DataError, r"shape \(4, 4, 4, 2\)"),
        ("coloured", DataError, "colours"),
        ("complex", DataError, "values of type complex64"),
        ("broken", UnreadableError, "cannot be read"),
    ):
        with pytest.raises(error, match=rf"a\.nii\.gz: found .*{found}"):
            corrupt(tmp_path / folder, tmp_path / "out", Artefacts("motion"), overwrite=True)


@pytest.mark.parametrize(
    ("at", "written", "error", "found"),
    [
        (280, np.float32(np.nan), UnreadableError, "an affine that is not finite"),
        (70, np.int16(4096), UnreadableError, "data code 4096 not recognized"),
        (70, np.int16(0), UnreadableError, "data code 0 not supported"),
        (40, np.int16(-3), UnreadableError, "cannot be read"),
        (42, np.int16(-4), UnreadableError, "shape"),
        (108, np.float32(1e9), UnsafeFileError, "voxels that begin after 1000000000 bytes"),
        (252, np.int16(9), None, ""),  # a code of the frame that no one knows: as good as none
    ],
)
def test_a_header_that_is_damaged_is_named(
    tmp_path: Path, at: int, written: np.generic, error: type[SegcalError] | None, found: str
) -> None:
    pytest.importorskip("torchio")
    (tmp_path / "in").mkdir()
    volume = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "a.nii")
    data = bytearray((tmp_path / "in" / "a.nii").read_bytes())
    data[at : at + written.nbytes] = written.tobytes()
    (tmp_path / "in" / "a.nii").write_bytes(data)
    if error is None:
        corrupt(tmp_path / "in", tmp_path / "out", Artefacts("bias"))
        assert nibabel.load(tmp_path / "out" / "a.nii").shape == (4, 5, 6)
        return
    with pytest.raises(error, match=rf"a\.nii: found .*{found}"):
        corrupt(tmp_path / "in", tmp_path / "out", Artefacts("bias"))

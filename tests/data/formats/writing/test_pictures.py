from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcal.data.formats import pictures
from segcal.data.formats.gathering import FLOAT, Held, Row
from segcal.data.formats.pictures import is_picture, picture_of
from segcal.errors import MissingError, ShapeError, UnreadableError


def row_of(values, dtype):
    held = Held(1, values.size, dtype, None)
    held.put(0, 0, values.ravel().astype(dtype))
    return Row(held, 0)


@pytest.mark.parametrize("shape", [(7, 9), (1, 7, 9)])
def test_a_map_is_stored_bit_for_bit(tmp_path, shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    pictures.write_map(tmp_path / "a.tif", row_of(values, FLOAT), shape)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "F" and image.size == (9, 7)
        assert np.array_equal(np.asarray(image), values.reshape(7, 9))


@pytest.mark.parametrize(
    ("mode", "ending"), [("L", ".png"), ("L", ".bmp"), ("L", ".tif"), ("P", ".png"), ("I;16", ".png"), ("I;16", ".tif")]
)
def test_a_label_map_looks_like_its_reference(tmp_path, mode, ending):
    values = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(np.zeros_like(values))
    if mode == "P":
        image.putpalette(bytes(range(96)))
    image.save(tmp_path / f"ref{ending}")
    picture = picture_of(tmp_path / f"ref{ending}", (1, 7, 9))
    assert picture.mode == mode and picture.dtype.itemsize == (2 if mode == "I;16" else 1)
    pictures.write_label_map(tmp_path / f"out{ending}", row_of(values, picture.dtype), picture)
    with Image.open(tmp_path / f"out{ending}") as out, Image.open(tmp_path / f"ref{ending}") as ref:
        assert out.mode == ref.mode and out.format == ref.format and out.getpalette() == ref.getpalette()
        assert np.array_equal(np.asarray(out), values)


def test_labels_beyond_255_make_16_bits(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "ref.png")
    values = np.array([[0, 300], [5, 1000]])
    pictures.write_label_map(
        tmp_path / "out.png", row_of(values, np.dtype("<u2")), picture_of(tmp_path / "ref.png", (1, 2, 2))
    )
    with Image.open(tmp_path / "out.png") as out:
        assert np.array_equal(np.asarray(out), values)


def test_what_is_one_picture():
    assert is_picture(Path("a.PNG"), (4, 5)) and is_picture(Path("a.tiff"), (1, 4, 5))
    assert (
        not is_picture(Path("a.tif"), (3, 4, 5))
        and not is_picture(Path("a.nrrd"), (1, 4, 5))
        and not is_picture(Path("a"), (4, 5))
    )


def test_references_that_cannot_be_used(tmp_path):
    with pytest.raises(MissingError):
        picture_of(tmp_path / "no.png", (4, 5))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ShapeError, match="4 x 5 pixels; expected 5 x 4"):
        picture_of(tmp_path / "a.png", (1, 5, 4))
    for name, data in (("cut.png", (tmp_path / "a.png").read_bytes()[:20]), ("text.png", b"text"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadableError, match=name):
            picture_of(tmp_path / name, (4, 5))
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(UnreadableError, match="mode RGB"):
        picture_of(tmp_path / "rgb.png", (4, 5))

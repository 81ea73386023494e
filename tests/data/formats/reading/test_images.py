"""PNG and TIFF: what is stored is what is read, in every depth; colours and bombs are refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcal.data.files.journal import Scratch
from segcal.data.formats.pictures import ImageField
from segcal.errors import MissingError, ShapeError, UnreadableError, UnsafeFileError


def grey_png(path: Path, labels: np.ndarray[Any, Any], bits: int, colour: int = 0) -> None:
    """A PNG written by hand, since Pillow does not write every depth."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    per = 8 // bits
    padded = np.pad(labels, ((0, 0), (0, -labels.shape[1] % per))).reshape(labels.shape[0], -1, per)
    packed = (padded.astype(np.uint16) << (8 - bits * (np.arange(per) + 1))).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    palette = chunk(b"PLTE", bytes(k % 256 for k in range(3 * 2**bits))) if colour == 3 else b""
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("limit", [1, 1 << 20])
@pytest.mark.parametrize(
    ("ending", "dtype", "high"),
    [
        (".png", "u1", 256),
        (".png", "u2", 65536),
        (".tif", "u1", 256),
        (".tiff", "u2", 65536),
        (".tif", "i4", 99999),
        (".tif", "f4", 20),
        (".png", "?", 2),
        (".tif", "?", 2),
    ],
)
def test_round_trip(
    ending: str, dtype: str, high: int, limit: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    labels = rng.integers(0, high, (7, 11)).astype(dtype)
    Image.fromarray(labels).save(tmp_path / f"a{ending}")
    field = ImageField.find(tmp_path / f"a{ending}")
    assert (field.shape, field.channels) == ((7, 11), None)
    got = read(field, limit, 5)
    assert got.dtype.kind == labels.dtype.kind and np.array_equal(got, labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_few_bits_and_palettes_give_indices(
    bits: int, colour: int, tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]
) -> None:
    labels = rng.integers(0, 2**bits, (5, 9))
    grey_png(tmp_path / "a.png", labels, bits, colour)
    assert np.array_equal(read(ImageField.find(tmp_path / "a.png")), labels)


def test_palette_of_pillow(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    labels = rng.integers(0, 12, (5, 9)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
    for name in ("a.png", "a.tif"):
        image.save(tmp_path / name)
        assert np.array_equal(read(ImageField.find(tmp_path / name)), labels)


def test_tiff_of_several_pages_is_a_volume(tmp_path: Path, rng: np.random.Generator, read: Callable[..., Any]) -> None:
    volume = rng.integers(0, 5, (4, 6, 7)).astype(np.uint8)
    pages = [Image.fromarray(p) for p in volume]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    field = ImageField.find(tmp_path / "a.tif")
    assert field.shape == (4, 6, 7)
    for limit in (1, 1 << 20):
        assert np.array_equal(read(field, limit), volume)
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(volume[1, :3])])
    with (
        Scratch(1) as scratch,
        pytest.raises(ShapeError, match="page 1"),
        ImageField.find(tmp_path / "b.tif").open(scratch),
    ):
        pass


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_colours_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (3, 4)).save(path)
    with pytest.raises(UnreadableError, match=f"colour image .mode {mode}.*does not guess what a colour means"):
        ImageField.find(path)


def test_white_is_zero_is_refused(tmp_path: Path) -> None:
    Image.new("L", (3, 4), 2).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    with (
        Scratch(1) as scratch,
        pytest.raises(UnreadableError, match="zero is white"),
        ImageField.find(tmp_path / "a.tif").open(scratch),
    ):
        pass


@pytest.mark.parametrize("factor", [0.9, 0.3])
@pytest.mark.filterwarnings("default")
def test_bomb(factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(10_000 * factor))
    with (
        pytest.warns(Image.DecompressionBombWarning) if factor > 0.5 else pytest.MonkeyPatch.context(),
        pytest.raises(UnsafeFileError, match=r"a\.png"),
    ):
        ImageField.find(tmp_path / "a.png")


def test_bomb_where_warnings_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    with pytest.raises(UnsafeFileError, match=r"a\.png"):
        ImageField.find(tmp_path / "a.png")


def test_damaged_files(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MissingError):
        ImageField.find(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UnreadableError, match=r"text\.png"):
        ImageField.find(tmp_path / "text.png")
    Image.fromarray(rng.integers(0, 9, (90, 90)).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with (
        Scratch(1) as scratch,
        pytest.raises(UnreadableError, match=r"a\.png.*truncated"),
        ImageField.find(tmp_path / "a.png").open(scratch),
    ):
        pass

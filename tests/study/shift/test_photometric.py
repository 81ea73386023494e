"""Photometric corruptions: the bank of Table 6, the choice by file name, each formula against its own, and what happens
to types.
"""

from __future__ import annotations

import io
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segcal.errors import DataError, ShapeError, UsageError
from segcal.study.shift import photometric
from segcal.study.shift.photometric import BANK, SEVERITIES, Brightness, Fog, GaussianBlur, GaussianNoise, Jpeg, choose

DRAWS = np.random.default_rng(0)


def picture(shape: tuple[int, ...] = (40, 56, 3), dtype: str = "u1") -> NDArray[np.generic]:
    """A smooth picture with some texture."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = 0.5 + 0.3 * np.sin(x / 7) * np.cos(y / 5) + 0.1 * np.random.default_rng(1).standard_normal(shape[:2])
    values = np.clip(smooth if len(shape) == 2 else smooth[..., None] * np.array([1, 0.8, 0.6]), 0, 1)
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def psnr(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(-10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2)))


def test_the_bank_is_table_6() -> None:
    assert {kind: tuple(changes[s] for s in SEVERITIES) for kind, changes in BANK.items()} == {
        "noise": (GaussianNoise(0.03), GaussianNoise(0.10)),
        "blur": (GaussianBlur(5, 1), GaussianBlur(13, 3)),
        "brightness": (Brightness(1.2), Brightness(1.8)),
        "jpeg": (Jpeg(60), Jpeg(10)),
        "fog": (Fog(0.1), Fog(0.5)),
    }


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        # printf 0:NAME | sha256sum; as 16 = 1 (mod 5), the remainder is that of the sum of the hexadecimal digits
        ("a.png", "a2d18bd99fde25fed306b9806389910179b928ce89f68e68b17f203122e47469", "noise"),
        ("frame_000.png", "bacd1b2bee7a56520315bfcbd9db3a804b7b3164d5c89c1ecd01f9534b99b78e", "blur"),
        ("0001TP_008550.png", "43c44334f58da30d72852083ea070ea01c1c6e43266276b4fb5fd9b8ebbcf2b9", "jpeg"),
    ],
)
def test_choice_by_file_name(name: str, number: str, kind: str) -> None:
    assert ("noise", "blur", "brightness", "jpeg", "fog")[sum(int(d, 16) for d in number) % 5] == kind
    for given_name in (name, f"some/folder/{name}"):
        chosen = choose(given_name, "mild")
        assert (chosen.kind, f"{chosen.seed:064x}") == (kind, number)


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20), st.integers(0, 5))
def test_mild_and_strong_are_of_one_kind(name: str, seed: int) -> None:
    mild, strong = (choose(name, s, seed=seed) for s in SEVERITIES)
    assert (mild.kind, mild.seed) == (strong.kind, strong.seed)
    assert (mild.change, strong.change) == (BANK[mild.kind]["mild"], BANK[mild.kind]["strong"])


def test_every_kind_is_chosen_about_as_often() -> None:
    counts = np.unique([choose(f"image_{k:05d}.png", "mild").kind for k in range(2000)], return_counts=True)[1]
    # five standard errors of a fifth of 2000
    assert len(counts) == 5
    assert np.abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_another_seed_chooses_anew() -> None:
    names = [f"{k}.png" for k in range(60)]
    assert 0 < sum(choose(n, "mild").kind == choose(n, "mild", seed=1).kind for n in names) < 30


@pytest.mark.parametrize("kind", BANK)
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(24, 30), (24, 30, 3), (1, 1), (3, 200, 3)])
def test_laws(kind: str, severity: photometric.Severity, dtype: str, shape: tuple[int, ...]) -> None:
    image = picture(shape, dtype)
    before = image.copy()
    chosen = choose("x.png", severity, kind=kind)
    out = chosen.apply(image)
    assert (out.shape, out.dtype) == (image.shape, image.dtype)
    assert (image == before).all()
    assert out.tobytes() == choose("x.png", severity, kind=kind).apply(image).tobytes()
    if dtype.startswith("f"):
        assert out.min() >= 0
        assert out.max() <= 1


@pytest.mark.parametrize("kind", BANK)
def test_strong_is_stronger(kind: str) -> None:
    image = picture()
    mild, strong = (psnr(choose("x.png", s, kind=kind).apply(image), image) for s in SEVERITIES)
    assert strong < mild - 1


def test_one_noise_field_for_both_severities() -> None:
    image = np.full((64, 64), 0.5)
    mild, strong = (choose("x.png", s, kind="noise").apply(image) - 0.5 for s in SEVERITIES)
    inside = (np.abs(strong) < 0.5) & (np.abs(mild) < 0.5)
    assert np.allclose(mild[inside] / 0.03, strong[inside] / 0.10, atol=1e-12)
    # sigma, within five standard errors of a standard deviation from 4096 values
    assert abs(mild.std() / 0.03 - 1) < 5 / np.sqrt(2 * 4096)
    assert not np.array_equal(mild, choose("y.png", "mild", kind="noise").apply(image) - 0.5)


@pytest.mark.parametrize("blur", [BANK["blur"]["mild"], BANK["blur"]["strong"]])
def test_blur_against_every_product(blur: GaussianBlur) -> None:
    x = np.random.default_rng(2).random((17, 15))
    half = blur.size // 2
    # reflect-101: ... 2 1 | 0 1 2 ..., numpy's 'reflect'
    padded = np.pad(x, half, mode="reflect")
    at = np.arange(-half, half + 1)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * blur.sigma**2))
    kernel /= kernel.sum()
    by_hand = np.array(
        [[(kernel * padded[i : i + blur.size, j : j + blur.size]).sum() for j in range(15)] for i in range(17)]
    )
    assert np.allclose(blur.apply(x, DRAWS), by_hand, atol=1e-14)


def test_brightness_and_fog_by_hand() -> None:
    image = np.array([[0, 100, 200]], np.uint8)
    assert choose("x", "mild", kind="brightness").apply(image).tolist() == [[0, 120, 240]]
    assert choose("x", "strong", kind="brightness").apply(image).tolist() == [[0, 180, 255]]
    # 25.5 + .9 x, and 127.5 + .5 x
    assert choose("x", "mild", kind="fog").apply(np.array([[5, 15, 105]], np.uint8)).tolist() == [[30, 39, 120]]
    assert choose("x", "strong", kind="fog").apply(np.array([[1, 101, 255]], np.uint8)).tolist() == [[128, 178, 255]]


def test_jpeg_is_what_pillow_writes_and_worse_at_lower_quality() -> None:
    image = picture()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=10, subsampling=2)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(Image.open(file)), choose("x.png", "strong", kind="jpeg").apply(image))
    quality = [psnr(Jpeg(q).apply(image / 255.0, DRAWS) * 255, image) for q in (10, 30, 60, 95)]
    assert quality == sorted(set(quality))
    levels = choose("x.png", "mild", kind="jpeg").apply(picture(dtype="u2"))
    assert (levels % 257 == 0).all()  # 8 bits, stretched to 16


def test_grey_and_16_bits_are_the_same_picture() -> None:
    for kind in BANK:
        small = choose("x.png", "mild", kind=kind).apply(picture((30, 30)))
        large = choose("x.png", "mild", kind=kind).apply(picture((30, 30)).astype(np.uint16) * 257)
        assert np.abs(small - large / 257).max() <= 0.5 + 1e-9


def test_records_cannot_be_changed() -> None:
    chosen = choose("x.png", "mild", kind="blur")
    assert chosen.parameters == {"size": 5, "sigma": 1.0}
    with pytest.raises(FrozenInstanceError):
        chosen.kind = "fog"  # type: ignore[misc]


def test_hostile() -> None:
    chosen = choose("x.png", "mild", kind="fog")
    for shape in ((0, 4), (4,), (4, 4, 4), (2, 4, 4, 3), (4, 4, 1)):
        with pytest.raises(ShapeError, match="image: found shape"):
            chosen.apply(np.zeros(shape, np.uint8))
    for image in (
        np.full((2, 2), 1.5),
        np.full((2, 2), -0.1),
        np.full((2, 2), np.nan),
        np.zeros((2, 2), np.int32),
        np.zeros((2, 2), bool),
    ):
        with pytest.raises(DataError, match="image: found"):
            chosen.apply(image)
    with pytest.raises(UsageError, match="kind: found 'rain'"):
        choose("x.png", "mild", kind="rain")
    with pytest.raises(UsageError, match="severity: found 'medium'"):
        choose("x.png", "medium")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="65536 x 1 pixels"):
        choose("x.png", "mild", kind="jpeg").apply(np.zeros((65536, 1), np.uint8))

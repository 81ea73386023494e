"""Photometric corruptions of pictures: noise, blur, brightness, JPEG or fog, each mild or strong.

What is done to a picture is data: `choose` gives a `Corruption`, its recorded parameters, and `Corruption.apply` is
pure. Promises: the same file name, seed and severity give the same values; mild and strong take the same kind, and the
same noise field; shape and type stay, so labels still fit. The kind is int(sha256(f"{seed}:{filename}"), 16) mod 5 in
the order of `BANK`, with the name as given, without its folder; noise is numpy's default_rng on that number. Costs: one
picture in float64.

Pictures are (H, W) or (H, W, 3). Unsigned integers of 8 and 16 bits are scaled by their type's largest value and
rounded back; floats lie in [0, 1] and are not rounded. Grey pictures are treated alike, with one channel (JPEG has no
colour to subsample then). JPEG is 8 bit: 16-bit and float pictures come back on 256 levels, and its output depends on
the libjpeg of Pillow. No pixel: ShapeError.

Source: K26 Table 6, readings of definitions 8.1 and 16. Deviation from ImageNet-C of the same names: fog is a white
veil without structure, brightness multiplies.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segcal.errors import DataError, ShapeError, UsageError

Severity = Literal["mild", "strong"]
SEVERITIES: tuple[Severity, ...] = ("mild", "strong")
Pixels = NDArray[np.float64]

JPEG_SIDE = 65_535
"""Most pixels a side that JPEG can store."""


class Change(Protocol):
    """What is done to pixels: a frozen dataclass of its parameters."""

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """Pixels (H, W) or (H, W, 3) in [0, 1], changed, again in [0, 1]; `x` stays as it is."""


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise of standard deviation `sigma` on every value, clipped."""

    sigma: float

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """See Change."""
        return np.clip(x + self.sigma * draws.standard_normal(x.shape), 0, 1)


@dataclass(frozen=True)
class GaussianBlur:
    """A Gaussian of standard deviation `sigma` pixels cut to `size` x `size` and normalised; beyond the border the
    picture is mirrored without its outermost pixel.
    """

    size: int
    sigma: float

    @property
    def kernel(self) -> Pixels:
        """Weights along one axis, (size,), summing to one."""
        at = np.arange(self.size) - (self.size - 1) / 2
        weights = np.exp(-(at**2) / (2 * self.sigma**2))
        return np.asarray(weights / weights.sum())

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """See Change."""
        for axis in (0, 1):
            x = ndimage.correlate1d(x, self.kernel, axis, mode="mirror")
        return np.clip(x, 0, 1)


@dataclass(frozen=True)
class Brightness:
    """Every value times `factor`, clipped."""

    factor: float

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """See Change."""
        return np.clip(x * self.factor, 0, 1)


@dataclass(frozen=True)
class Jpeg:
    """Encoded as JPEG of this `quality`, colour at half the resolution (4:2:0), and decoded."""

    quality: int

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """See Change. ShapeError beyond 65535 pixels a side, which JPEG cannot store."""
        if max(x.shape[:2]) > JPEG_SIDE:
            raise ShapeError(
                "image",
                found=f"{x.shape[0]} x {x.shape[1]} pixels",
                expected=f"at most {JPEG_SIDE} a side for JPEG",
                do="Cut it into tiles, or choose another kind.",
            )
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * x).astype(np.uint8)).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(file) as decoded:
            return np.asarray(decoded, np.float64) / 255


@dataclass(frozen=True)
class Fog:
    """A white veil: x (1 - alpha) + alpha."""

    alpha: float

    def apply(self, x: Pixels, draws: np.random.Generator) -> Pixels:
        """See Change."""
        return np.clip(x * (1 - self.alpha) + self.alpha, 0, 1)


BANK: Mapping[str, Mapping[Severity, Change]] = {
    "noise": {"mild": GaussianNoise(0.03), "strong": GaussianNoise(0.10)},
    "blur": {"mild": GaussianBlur(5, 1.0), "strong": GaussianBlur(13, 3.0)},
    "brightness": {"mild": Brightness(1.2), "strong": Brightness(1.8)},
    "jpeg": {"mild": Jpeg(60), "strong": Jpeg(10)},
    "fog": {"mild": Fog(0.1), "strong": Fog(0.5)},
}
"""K26 Table 6, in its order, on which the choice by file name depends."""


@dataclass(frozen=True)
class Corruption:
    """One `change` of its `kind` and `severity`, and the `seed` of its draws: all that is needed to do it again."""

    kind: str
    severity: Severity
    change: Change
    seed: int

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the change, by name."""
        return dict(vars(self.change))

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """The picture (H, W) or (H, W, 3), changed, of the same shape and type.

        ShapeError for another shape, DataError for another type or floats outside [0, 1].
        """
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
            raise ShapeError(
                "image",
                found=f"shape {image.shape}",
                expected="(H, W) or (H, W, 3)",
                do="Give one grey or colour picture; drop transparency first.",
            )
        whole = _whole(image)
        changed = self.change.apply(image.astype(np.float64) / whole, np.random.default_rng(self.seed))
        return np.rint(changed * whole).astype(image.dtype) if image.dtype.kind == "u" else changed.astype(image.dtype)


def digest(filename: str, seed: int = 0) -> int:
    """The number that decides about a file, from its name without its folder."""
    return int(hashlib.sha256(f"{seed}:{PurePath(filename).name}".encode("utf-8", "surrogatepass")).hexdigest(), 16)


def choose(filename: str, severity: Severity, *, seed: int = 0, kind: str | None = None) -> Corruption:
    """What is done to the picture `filename`; `kind`: one of `BANK` for every file instead of the choice by name.

    UsageError for a kind or severity that is not there.
    """
    if severity not in SEVERITIES:
        raise UsageError("severity", found=repr(severity), expected=" or ".join(SEVERITIES), do="Choose one of these.")
    if kind is not None and kind not in BANK:
        raise UsageError(
            "kind",
            found=repr(kind),
            expected=", ".join(BANK),
            do="Choose one of these, or none for a choice by file name.",
        )
    number = digest(filename, seed)
    chosen = kind or list(BANK)[number % len(BANK)]
    return Corruption(chosen, severity, BANK[chosen][severity], number)


def _whole(image: NDArray[Any]) -> int:
    """What white is in this picture."""
    if image.dtype in (np.uint8, np.uint16):
        return int(np.iinfo(image.dtype).max)
    if image.dtype.kind != "f":
        raise DataError(
            "image",
            found=f"values of type {image.dtype}",
            expected="uint8, uint16, or floats in [0, 1]",
            do="Convert the picture.",
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            "image",
            found=f"floats from {low:g} to {high:g}",
            expected="floats in [0, 1]",
            do="Scale the picture, and scale back afterwards.",
        )
    return 1

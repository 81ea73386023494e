"""Photometric copies of a network's input: contrast, brightness, gamma and noise, drawn from ranges.

Everything is stated in units of the input: contrast about its mean, brightness and noise in units of its standard
deviation, gamma on its range; of several channels each by its own mean, deviation and range, with the same draws. So
the copies do not depend on how the network normalises. Of a raw image that a network normalises itself a change of
contrast or brightness would be undone. Promises: the same seed, name and number give the same copy; a step whose draw
is neutral changes no bit, so that copies of zero strength are the input. No voxel: the input.

Source: O22 section 4 and its released code (definitions 5.4, 17), whose ranges are the defaults.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcal.errors import UsageError

Range = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """From where each copy's `contrast` (a factor), `brightness` (deviations added) and `gamma` (an exponent) are
    drawn, evenly, and the deviation of its `noise`, in deviations of the input. UsageError for a range that runs
    backwards, or where a factor, an exponent or a deviation could be below 0.
    """

    contrast: Range = (0.6, 1.5)
    brightness: Range = (-10.0, 10.0)
    gamma: Range = (0.6, 1.5)
    noise: float = 0.15

    def __post_init__(self) -> None:
        for name in ("contrast", "brightness", "gamma"):
            low, high = getattr(self, name)
            if not low <= high or not np.isfinite([low, high]).all() or (name != "brightness" and low <= 0):
                raise UsageError(
                    name,
                    found=f"{low:g} to {high:g}",
                    expected="a range LOW HIGH" + ("" if name == "brightness" else " above 0"),
                    do=f"For example {' '.join(f'{v:g}' for v in getattr(Ranges, name))}, as the paper.",
                )
        if not 0 <= self.noise < np.inf:
            raise UsageError("noise", found=f"{self.noise:g}", expected="0 or more", do="Leave it out for 0.15.")

    def copy(self, image: NDArray[Any], name: str, number: int, seed: int = 0) -> NDArray[np.float32]:
        """Copy `number` of the input (channels, *spatial) of the case called `name`."""
        words = hashlib.sha256(f"{seed}:{number}:{name}".encode("utf-8", "surrogateescape")).digest()
        return self.drawn(image, np.random.default_rng(np.frombuffer(words, np.uint32)))

    def drawn(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
        """A copy of the input (channels, *spatial)."""
        x = np.asarray(image, np.float64)
        if not x.size:
            return x.astype(np.float32)
        contrast, brightness, gamma = (rng.uniform(*r) for r in (self.contrast, self.brightness, self.gamma))
        axes = tuple(range(1, x.ndim))
        mean, spread = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
        if contrast != 1:
            x = mean + contrast * (x - mean)
        if brightness:
            x = x + brightness * spread
        low, span = x.min(axes, keepdims=True), np.ptp(x, axis=axes, keepdims=True)
        if gamma != 1:
            x = low + span * ((x - low) / np.where(span > 0, span, 1)) ** gamma
        if self.noise:
            x = x + self.noise * spread * rng.standard_normal(x.shape)
        return x.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return asdict(self)

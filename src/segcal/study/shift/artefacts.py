"""MRI artefacts on volumes: bias field, motion, ghosting and spikes, through TorchIO (extra `torchio`).

Promises: what is done is data, applying it is pure: the same volume, case name, replicate and seed give the same
values, torch's global generator is left as it was, shape stays. A volume (X, Y, Z) is scaled to [0, 1] by its minimum
and maximum before, and again after; the result is float32. Parameters are written out below, not left to TorchIO's
defaults. Costs: a few copies of the volume; motion resamples it twice. A volume of one value has no scale: DataError.
Without TorchIO: UsageError naming the extra.

Source: O22 as definitions 8.2 read it (they scale slices; here, as networks are three-dimensional, whole volumes),
three random replicates a case. Version: the definitions pin 0.16-0.18, whose early versions need torchvision. 0.18.92,
0.19.9, 0.20.22, 0.23.1 and 1.2.1 were measured to give the same bits for the same seed in all four artefacts, so the
extra takes 0.18.92 to below 2; the announced version 2 changes bias field, ghosting and defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segcal.errors import DataError, ShapeError, UsageError, extra

if TYPE_CHECKING:
    import torchio

REPLICATES = 3
"""Random replicates a case (O22)."""


class Change(Protocol):
    """A random transformation: a frozen dataclass of its parameters."""

    def transform(self) -> torchio.Transform:
        """TorchIO's transformation with these parameters."""


@dataclass(frozen=True)
class BiasField:
    """Times exp of a polynomial of this `order` on [-1, 1]^3 whose coefficients are uniform in +-`coefficients`."""

    coefficients: float = 0.5
    order: int = 3

    def transform(self) -> torchio.Transform:
        """See Change."""
        import torchio

        return torchio.RandomBiasField(coefficients=self.coefficients, order=self.order)


@dataclass(frozen=True)
class Motion:
    """K-space put together from `transforms` positions besides the first: rotations uniform in +-`degrees`,
    translations in +-`translation` mm.
    """

    degrees: float = 30.0
    translation: float = 10.0
    transforms: int = 2

    def transform(self) -> torchio.Transform:
        """See Change."""
        import torchio

        return torchio.RandomMotion(degrees=self.degrees, translation=self.translation, num_transforms=self.transforms)


@dataclass(frozen=True)
class Ghosting:
    """Every n-th plane of k-space along a random axis times 1 - s, the central one kept; n and s uniform in `ghosts`
    and `intensity`.
    """

    ghosts: tuple[int, int] = (4, 10)
    intensity: tuple[float, float] = (0.5, 1.0)

    def transform(self) -> torchio.Transform:
        """See Change."""
        import torchio

        return torchio.RandomGhosting(num_ghosts=self.ghosts, axes=(0, 1, 2), intensity=self.intensity)


@dataclass(frozen=True)
class Spike:
    """`spikes` random coefficients of k-space raised by its maximum times a number uniform in `intensity`: stripes."""

    spikes: int = 1
    intensity: tuple[float, float] = (1.0, 3.0)

    def transform(self) -> torchio.Transform:
        """See Change."""
        import torchio

        return torchio.RandomSpike(num_spikes=(self.spikes, self.spikes), intensity=self.intensity)


ARTEFACTS: Mapping[str, Change] = {"bias": BiasField(), "motion": Motion(), "ghosting": Ghosting(), "spike": Spike()}
"""The four artefacts of definitions 8.2."""


@dataclass(frozen=True)
class Artefact:
    """One `change` of its `kind` and the `seed` of its draws: all that is needed to do it again."""

    kind: str
    change: Change
    seed: int

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the change, by name."""
        return dict(vars(self.change))

    def apply(self, volume: NDArray[Any], affine: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        """The volume (X, Y, Z), changed, in [0, 1]; `affine` (4, 4) from voxels to mm, for motion.

        ShapeError for other axes, DataError for one value or any that is not finite.
        """
        require_torchio()
        import torch
        import torchio

        if volume.ndim != 3:
            raise ShapeError(
                "volume",
                found=f"shape {volume.shape}",
                expected="(X, Y, Z)",
                do="Artefacts of k-space need a volume; for pictures use photometric corruptions.",
            )
        data = torch.from_numpy(_scaled(volume))[None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            image = torchio.ScalarImage(tensor=data, affine=affine)  # type: ignore[no-untyped-call]
            changed = self.change.transform()(image)
        return _scaled(changed.data[0].numpy())


def choose(kind: str, case: str, *, replicate: int = 0, seed: int = 0) -> Artefact:
    """The artefact of this kind for a `case`; each replicate draws anew.

    UsageError for a kind that is not in `ARTEFACTS`.
    """
    if kind not in ARTEFACTS:
        raise UsageError("artefact", found=repr(kind), expected=", ".join(ARTEFACTS), do="Choose one of these.")
    drawn = hashlib.sha256(f"{seed}:{case}:{kind}:{replicate}".encode("utf-8", "surrogatepass")).digest()
    return Artefact(kind, ARTEFACTS[kind], int.from_bytes(drawn[:8], "big") >> 1)


def require_torchio() -> None:
    """UsageError where TorchIO is not installed."""
    with extra("torchio"):
        import torchio  # noqa: F401


def _scaled(volume: NDArray[Any]) -> NDArray[np.float32]:
    x = volume.astype(np.float64)
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        found = "values that are not finite" if not np.isfinite(low + high) else "one value everywhere"
        raise DataError(
            "volume", found=found, expected="intensities that differ", do="Leave this volume out, or repair it."
        )
    return ((x - low) / (high - low)).astype(np.float32)

"""Smooth random fields on a grid: Gaussian ones, and Gumbel ones made from them through a Gaussian copula.

Promises: at every voxel the marginal is exactly N(0, 1), or exactly the standard Gumbel distribution, whatever the
correlation length; neighbours are correlated, the grid is periodic. So an arg max over classes of log q + Gumbel field
draws each voxel's label exactly from q, while labels come in patches as an annotator's do. Costs: two Fourier
transforms a field. The same generator gives the same field. No voxel: an empty array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from segcal.errors import UsageError

Array = NDArray[np.float64]


def gaussian_fields(
    generator: np.random.Generator, count: int, shape: Sequence[int], lengths: Sequence[float]
) -> Array:
    """`count` independent fields (count, *shape), each voxel N(0, 1): white noise under a Gaussian kernel whose
    standard deviation is `lengths` voxels along each axis.

    Two voxels d apart have correlation exp(-d^2 / (4 length^2)) up to the period of the grid; a length of 0 leaves that
    axis white. UsageError for lengths that are not such.
    """
    if len(lengths) != len(shape) or any(not (np.isfinite(v) and v >= 0) for v in lengths):
        raise UsageError(
            "lengths",
            found=str(tuple(lengths)),
            expected=f"{len(shape)} numbers of 0 or more, one an axis",
            do="Give the width of the kernel along each axis.",
        )
    noise = generator.standard_normal((count, *shape))
    if noise.size == 0:
        return noise
    axes = tuple(range(1, len(shape) + 1))
    spectrum = np.fft.rfftn(noise, axes=axes)
    for axis, (size, length) in enumerate(zip(shape, lengths, strict=True)):
        transfer = np.exp(-2 * (np.pi * length * np.fft.fftfreq(size)) ** 2)
        # the variance of filtered white noise is the mean squared transfer: dividing by it makes every voxel's variance
        # one
        transfer /= np.sqrt(np.mean(transfer**2))
        kept = transfer[: size // 2 + 1] if axis == len(shape) - 1 else transfer
        spectrum *= kept.reshape((1,) * (axis + 1) + (-1,) + (1,) * (len(shape) - 1 - axis))
    return np.asarray(np.fft.irfftn(spectrum, s=tuple(shape), axes=axes))


def gumbel_fields(generator: np.random.Generator, count: int, shape: Sequence[int], lengths: Sequence[float]) -> Array:
    """`count` independent fields (count, *shape), each voxel standard Gumbel: -log(-log Phi(g)) of Gaussian fields g.

    Errors as `gaussian_fields`.
    """
    # log Phi is computed directly: Phi itself rounds to one in the upper tail
    return np.asarray(-np.log(-special.log_ndtr(gaussian_fields(generator, count, shape, lengths))))

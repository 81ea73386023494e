"""Mean and spread of arrays that come one after another, none of which is kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.errors import ShapeError


class Running:
    """Of arrays of one shape, in float64 (Welford 1962): equal arrays have a spread of exactly 0, and a state may be
    read while more come. No array: `mean` and `spread` are NaN of shape ().
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: NDArray[np.float64] = np.array(np.nan)
        self._squares: NDArray[np.float64] = np.array(np.nan)

    def add(self, values: ArrayLike) -> None:
        """One more. ShapeError for another shape than before."""
        x = np.asarray(values, np.float64)
        if not self.count:
            self._mean, self._squares = np.zeros(x.shape), np.zeros(x.shape)
        if x.shape != self._mean.shape:
            raise ShapeError(
                "values",
                found=f"an array of shape {x.shape}",
                expected=f"{self._mean.shape} as those before it",
                do="Give arrays of one shape.",
            )
        self.count += 1
        off = x - self._mean
        self._mean = self._mean + off / self.count
        self._squares = self._squares + off * (x - self._mean)

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean."""
        return self._mean

    @property
    def spread(self) -> NDArray[np.float64]:
        """The population standard deviation."""
        return np.sqrt(self._squares / max(self.count, 1))

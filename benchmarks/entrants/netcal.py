"""netcal's calibrators, on rows of float64 probabilities (on float32 its temperature scaling does nothing)."""

from functools import partial
from importlib.metadata import version

import numpy as np
from netcal.binning import IsotonicRegression
from netcal.scaling import TemperatureScaling

VERSION = version("netcal")


def fit(calibrator, training):
    """Of two classes it takes and gives the probability of the second."""
    rows, labels = training.rows()
    two = training.classes == 2
    made = calibrator()
    p = np.exp(rows.astype(np.float64))
    made.fit(p[:, 1] if two else p, labels)

    def apply(case):
        flat = np.exp(case.log_probs.reshape(len(case.log_probs), -1).T.astype(np.float64))
        found = made.transform(flat[:, 1] if two else flat)
        found = np.stack([1 - found, found], 1) if two else found
        return np.log(np.maximum(found, 1e-12)).T.reshape(case.log_probs.shape)

    return apply


ENTRANTS = {"netcal ts": partial(fit, TemperatureScaling), "netcal isotonic": partial(fit, IsotonicRegression)}

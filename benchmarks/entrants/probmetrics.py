"""probmetrics' calibrators by name: what it recommends (`logistic`, structured matrix scaling where there are more than
two classes), its vector scaling, its temperature scaling with smoothing; on rows of probabilities.
"""

from functools import partial
from importlib.metadata import version

import numpy as np
from probmetrics.calibrators import get_calibrator

VERSION = version("probmetrics")


def fit(name, training):
    """At its defaults."""
    rows, labels = training.rows()
    made = get_calibrator(name)
    made.fit(np.exp(rows.astype(np.float64)), labels)

    def apply(case):
        flat = np.exp(case.log_probs.reshape(len(case.log_probs), -1).T.astype(np.float64))
        found = made.predict_proba(flat)
        return np.log(np.maximum(found, 1e-12)).T.reshape(case.log_probs.shape)

    return apply


ENTRANTS = {f"probmetrics {name}": partial(fit, name) for name in ("ts-mix", "svs", "logistic")}

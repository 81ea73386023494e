"""fiducio's calibrators at their defaults (200 steps of Adam), on rows of log-probabilities."""

from functools import partial
from importlib.metadata import version

import fiducio
import torch

VERSION = version("fiducio")


def fit(calibrator, training):
    """Log-probabilities are logits as good as any."""
    rows, labels = training.rows()
    made = calibrator(device="cpu").fit(torch.from_numpy(rows), torch.from_numpy(labels))

    def apply(case):
        flat = torch.from_numpy(case.log_probs.reshape(len(case.log_probs), -1).T.copy())
        with torch.no_grad():
            found = made.transform(flat).double()
        # its probabilities are float32
        return torch.log((found / found.sum(1, keepdim=True)).clamp_min(1e-12)).T.numpy().reshape(case.log_probs.shape)

    return apply


ENTRANTS = {
    "fiducio ts": partial(fit, fiducio.TemperatureScaling),
    "fiducio dc": partial(fit, fiducio.DirichletCalibration),
    "fiducio cdc": partial(fit, fiducio.ClassConditionalMatrixScaling),
    "fiducio cms-ap": partial(fit, fiducio.ArgmaxPreservingMatrixScaling),
    "fiducio cms-op": partial(fit, fiducio.OrderPreservingMatrixScaling),
}

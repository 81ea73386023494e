"""segcal's methods at their defaults, on whole cases, and `auto`, with the interval in which it expects the change."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

import segcal
from segcal.data.formats.arrays import cohort_from_arrays
from segcal.methods import methods

VERSION = segcal.__version__
METHODS = ("ts", "dc", "cdc", "cms-ap", "cms-op", "bts", "bts-class", "bts-both")


def cohort(training):
    """The cases as segcal takes them."""
    found = cohort_from_arrays(
        [case.log_probs for case in training.cases],
        [np.where(case.labels < 0, 255, case.labels) for case in training.cases],
        kind="log_probs",
        background=training.background,
        ignore_index=255,
        groups=[case.group for case in training.cases],
        ids=[case.id for case in training.cases],
    )
    spaced = zip(found.cases, training.cases, strict=True)
    return replace(found, cases=tuple(replace(one, spacing=case.spacing) for one, case in spaced))


def applied(calibrator, case):
    """Log-probabilities of one case."""
    options = {"spacing": case.spacing} if calibrator.contexts and case.spacing else {}
    with torch.no_grad():
        return calibrator.log_probs(torch.from_numpy(case.log_probs)[None], kind="log_probs", **options)[0].numpy()


def fit(name, training):
    """One method."""
    return partial(applied, methods()[name]().fit(cohort(training)))


def auto(training):
    """What `--method auto` chooses, and its own interval of the change of NLL."""
    found = segcal.recommend(cohort(training), segcal.Threads())
    expected = found.evaluation.differences["nll"]
    return partial(applied, found.calibrator), (expected.low, expected.high)


ENTRANTS = {f"segcal {name}": partial(fit, name) for name in METHODS} | {"segcal auto": auto}

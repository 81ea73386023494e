"""One temperature after a calibrator, from a few labelled cases of another site: what a calibrator from elsewhere gets
wrong first is how sure it is.

The temperature is fitted, and cross-fitted, on what the calibrator makes of the cases, which is written to scratch
space and read again (float32, as it would be delivered). What comes out is one calibrator, which keeps what the first
promises as far as temperature scaling does (label, order and invariance). It remembers the cases of both fits; its
reference is that of the new ones (`segcal.outcomes.reference`), so that bounds hold at the new site, as far as so few
can tell. Raises what applying and fitting raise; of a single group there is a temperature and no cross-fitted number.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from segcal.data.cohort import Cohort
from segcal.data.formats.discover import open_cohort
from segcal.data.formats.npz import NpzSink
from segcal.engine.engine import Engine
from segcal.errors import UsageError
from segcal.methods.calibrator import Calibrator
from segcal.methods.composed import Composed
from segcal.methods.maps import PartMap
from segcal.methods.temperature import TemperatureScaling
from segcal.tasks.apply import apply
from segcal.tasks.fit import Fitted, fit
from segcal.tasks.matching import check_match, fitted_cases

NAME = "ts"


def refit(calibrator: Calibrator, cohort: Cohort, engine: Engine, *, go_on: bool = False, seed: int = 0) -> Fitted:
    """A temperature after `calibrator` from labelled cases that it was not fitted on; MismatchError as `check_match`,
    UsageError for cases that it was.

    The evaluation compares what the first calibrator makes of the cases, as "uncalibrated", with what both do.
    """
    check_match(calibrator, cohort, go_on=go_on)
    with tempfile.TemporaryDirectory(prefix="segcal-") as folder:
        for outcome in apply(calibrator, cohort, NpzSink(Path(folder)), engine, go_on=True):
            if outcome.error is not None:
                raise outcome.error
        stored = {case.id: case.scores for case in open_cohort([Path(folder)])}
        cases = tuple(replace(case, scores=stored[case.id]) for case in cohort)
        found = fit({NAME: TemperatureScaling()}, replace(cohort, cases=cases, kind="probs"), engine, seed=seed)
        fitted = found.fits[NAME]
        records = () if fitted.calibrator.data is None else fitted.calibrator.data.records
        seen = fitted_cases(calibrator, records)
        if seen:
            raise UsageError(
                "labelled cases",
                found=f"{len(seen)} that the calibrator was fitted on ({', '.join(seen[:3])})",
                expected="cases of the new site",
                do="Leave them out with --exclude.",
            )
        made = _after(calibrator, fitted.calibrator)
    return replace(found, fits={NAME: replace(fitted, calibrator=made)})


def _after(first: Calibrator, second: Calibrator) -> Calibrator:
    """Both as one, which remembers the cases of both."""
    data, new = first.data, second.data
    if data is not None and new is not None:
        records = (*data.records, *new.records)
        data = replace(data, records=records, voxels=data.voxels + new.voxels)
    return Calibrator(
        first.head,
        first.kind,
        [_then(m, after) for m, after in zip(first.maps, second.maps, strict=True)],
        first.method,
        solution=second.solution,
        data=data if data is not None else new,
        keep_decision=first.keep_decision if first.head.can_keep_decision else None,
        reference=second.reference,
        resolution=first.resolution,
        unit=first.unit,
    )


def _then(m: PartMap, after: PartMap) -> PartMap:
    """One map after another; of several the last two are one, as files have them."""
    return Composed(m.first, _then(m.second, after)) if isinstance(m, Composed) else Composed(m, after)

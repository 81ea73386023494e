"""Whether a calibrator fits what it is about to be applied to: classes, pooling, number of networks, test-time
augmentation, step size, cases.

A mismatch of classes is always an error. A mismatch of how scores were made (fitted on one fold's validation
predictions, applied to a mean of five networks) is an error unless the caller says to go on, and then a list of
warnings. What is not known on either side is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from segcal.calibrators import Calibrator
from segcal.cases import Cohort, Record
from segcal.errors import MismatchError
from segcal.head import Regions


def check_match(calibrator: Calibrator, cohort: Cohort, *, go_on: bool = False) -> list[str]:
    """Raise MismatchError where `calibrator` does not fit `cohort`, MissingError where a case lacks a field it needs.

    With `go_on`, differences in how the scores were made are returned instead.
    """
    _check_head(calibrator, cohort)
    if calibrator.needs_logits and not cohort.has_logits:
        raise MismatchError(
            cohort.name,
            found=f"scores of kind {cohort.pooled_kind}",
            expected="raw logits, on which this calibrator was fitted and on whose offset it depends",
            do="Give the network's logits, or fit a translation-invariant method (dc, ms-c, ts).",
        )
    cohort.having(calibrator.fields)
    found = differences(calibrator, cohort)
    if found and not go_on:
        raise MismatchError(
            cohort.name,
            found="; ".join(found),
            expected="scores made as those the calibrator was fitted on",
            do=(
                "Fit on predictions made the same way (the same networks, pooled the same way), or pass --go-on to"
                " apply it all the same."
            ),
        )
    return found


def differences(calibrator: Calibrator, cohort: Cohort) -> list[str]:
    """How the cohort's scores differ from those of the fit, in sentences; empty where nothing is known to differ."""
    if calibrator.data is None:
        return []
    was, now = calibrator.data.provenance, cohort.provenance
    out = []
    networks = (
        (was.networks, now.networks)
        if was.networks is not None and now.networks is not None
        else (was.members, now.members)
    )
    if networks[0] != networks[1]:
        out.append(
            f"probabilities of {_count(networks[1])}, but the calibrator was fitted on those of {_count(networks[0])}"
        )
    elif was.members > 1 and now.members > 1 and calibrator.data.pool != cohort.pool:
        out.append(f"members pooled as {cohort.pool}, but as {calibrator.data.pool} in the fit")
    if was.tta is not None and now.tta is not None and was.tta != now.tta:
        out.append(f"test-time mirroring {_switch(now.tta)}, but {_switch(was.tta)} in the fit")
    if was.step_size is not None and now.step_size is not None and was.step_size != now.step_size:
        out.append(f"a sliding-window step of {now.step_size:g}, but {was.step_size:g} in the fit")
    return out


def fitted_cases(calibrator: Calibrator, records: Sequence[Record]) -> list[str]:
    """Ids of those `records` that the calibrator was fitted on, by the digest of their scores or labels, whatever they
    are called.
    """
    if calibrator.data is None:
        return []
    scores = {r.scores for r in calibrator.data.records}
    labels = {r.labels for r in calibrator.data.records if r.labels}
    return [r.id for r in records if r.scores in scores or r.labels in labels]


def _check_head(calibrator: Calibrator, cohort: Cohort) -> None:
    ours, theirs = calibrator.head, cohort.head
    same_type = isinstance(ours, Regions) == isinstance(theirs, Regions)
    if not same_type or ours.channels != theirs.channels:
        raise MismatchError(
            cohort.name,
            found=(
                f"{theirs.channels} {'regions' if isinstance(theirs, Regions) else 'classes'}"
                f" ({', '.join(theirs.classes)})"
            ),
            expected=(
                f"{ours.channels} {'regions' if isinstance(ours, Regions) else 'classes'} ({', '.join(ours.classes)}),"
                " on which the calibrator was fitted"
            ),
            do="Use the calibrator of this data set.",
        )
    if ours.classes != theirs.classes and not _numbered(ours.classes) and not _numbered(theirs.classes):
        raise MismatchError(
            cohort.name,
            found=f"classes {', '.join(theirs.classes)}",
            expected=f"{', '.join(ours.classes)}, in this order",
            do="The numbers of classes agree but their names do not; use the calibrator of this data set.",
        )


def _numbered(names: Sequence[str]) -> bool:
    """Whether the names are only the default numbers, which say nothing."""
    return all(n == str(i) or n == f"class {i}" or n == f"class_{i}" for i, n in enumerate(names))


def _count(networks: int) -> str:
    return "a single network" if networks == 1 else f"{networks} networks averaged"


def _switch(on: bool) -> str:
    return "on" if on else "off"

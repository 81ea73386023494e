"""Whether a calibrator fits what it is about to be applied to: classes, pooling, number of networks, test-time
augmentation, step size, cases.

A mismatch of classes is always an error. A mismatch of how scores were made (fitted on one fold's validation
predictions, applied to a mean of five networks) is an error unless the caller says to go on, and then a list of
warnings. So is a number of networks that only one side knows, or scores of another origin where neither does. What else
is not known on either side is not compared. One difference is none: validation predictions of all folds, on which a
calibrator was fitted, stand for the mean of those folds' networks (decision 19), and a note says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from segcal.data import splits
from segcal.data.case import Origin, Provenance
from segcal.data.cohort import Cohort
from segcal.data.pooling import Pool
from segcal.data.region_head import UNNAMED
from segcal.data.rows import Record
from segcal.errors import MismatchError, UsageError
from segcal.methods.calibrator import Calibrator


def check_match(calibrator: Calibrator, cohort: Cohort, *, go_on: bool = False) -> list[str]:
    """Raise MismatchError where `calibrator` does not fit `cohort`, MissingError where a case lacks a field it needs,
    UsageError where it needs the network and has none.

    With `go_on`, differences in how the scores were made are returned instead, and always what could not be compared.
    """
    _check_head(calibrator, cohort)
    if calibrator.needs.logits and not cohort.has_logits:
        raise MismatchError(
            cohort.name,
            found=f"scores of kind {cohort.pooled_kind}",
            expected="raw logits, on which this calibrator was fitted and on whose offset it depends",
            do="Give the network's logits, or fit a translation-invariant method (dc, ms-c, ts).",
        )
    cohort.having(calibrator.needs.fields)
    calibrator.check_segmenter()
    if calibrator.data is None:
        return []
    found = likeness(calibrator.data.provenance, cohort.provenance, calibrator.data.pool, cohort.pool)
    if found.differences and not go_on:
        raise MismatchError(
            cohort.name,
            found="; ".join(found.differences),
            expected="scores made as those the calibrator was fitted on",
            do=f"{found.do}, or pass --go-on to apply it all the same.",
        )
    return [*found.differences, *found.notes]


def level(calibrator: Calibrator, cohort: Cohort) -> tuple[Calibrator, Cohort, list[str]]:
    """Both at the coarser of their resolutions, the calibrator's where steps are alike, so that a stored 0 counts as
    the same wherever it is met, whichever cases are met together; and what must be said of it. Scores without stored
    zeros, as logits, stay as they are.
    """
    was, now = calibrator.resolution, cohort.resolution
    if cohort.kind == "logits":
        return calibrator, cohort, cohort.storage.notes()
    both = cohort.at_least(was)
    said = both.storage.notes()
    if calibrator.kind != "logits" and not was.like(now):
        said.append(
            f"a stored 0 counted as {was.zero:.2g} in the fit and would count as {now.zero:.2g} here, by the steps in"
            f" which scores are stored: it counts as {both.resolution.zero:.2g}"
        )
    return calibrator.at_least(now), both, said


ORIGINS: Mapping[Origin | None, str] = {
    "validation": "validation predictions of nnU-Net",
    "prediction": "predictions of nnUNetv2_predict",
    "files": "scores of a plain folder",
}
"""What the origin of scores is called."""


OF_FOLDS = (
    "the calibrator was fitted on validation predictions of {0} folds, a single network each, and these are the mean of"
    " {0} networks: right where they are the networks of those folds"
)
"""What is said where validation predictions stand for the mean."""


@dataclass(frozen=True)
class Likeness:
    """What is known of two ways of making scores: `differences` that stop, in sentences, what to `do` about them, and
    `notes` of what could not be compared.
    """

    differences: tuple[str, ...] = ()
    do: str = ""
    notes: tuple[str, ...] = ()


def likeness(was: Provenance, now: Provenance, was_pool: Pool = "probs", now_pool: Pool = "probs") -> Likeness:
    """Compare scores of a fit with others.

    The number of networks has to be known on both sides, or on neither: then the members and, of nnU-Net's predictions,
    the settings that both sides recorded stand for it. Mirroring, step size and such settings are compared where both
    sides know them.
    """
    if _of_all_folds(was, now):
        found = likeness(replace(was, folds=now.folds), now, was_pool, now_pool)
        return found if found.differences else replace(found, notes=(*found.notes, OF_FOLDS.format(was.validated)))
    alike = "Fit on predictions made the same way (the same networks, pooled the same way)"
    out: list[str] = []
    do, notes = alike, tuple[str, ...]()
    if was.networks is not None and now.networks is not None:
        if was.networks != now.networks:
            out.append(f"probabilities of {_count(now.networks)}, but {_FITTED} those of {_count(was.networks)}")
    elif was.networks is not None:
        fits, rest = divmod(was.networks, now.members)
        out.append(
            f"probabilities of an unknown number of networks{_why(now)}, but {_FITTED} those of {_count(was.networks)}"
        )
        do = "Say with --networks how many" + (f" ({fits} would match{_or_all_folds(was)})" if not rest else "")
    elif now.networks is not None:
        out.append(
            f"probabilities of {_count(now.networks)}, but {_FITTED} those of an unknown number of networks{_why(was)}"
        )
        do = "Fit again with --networks, which says how many those were"
    elif was.members != now.members:
        out.append(f"probabilities of {_members(now.members)}, but {_FITTED} those of {_members(was.members)}")
    else:
        differs, notes = _unknown(was, now)
        if differs:
            out.append(differs)
            do = "Fit again with --networks and say --networks here, too, if the numbers are the same"
    if not out and was.members > 1 and now.members > 1 and was_pool != now_pool:
        out.append(f"members pooled as {now_pool}, but as {was_pool} in the fit")
    if was.tta is not None and now.tta is not None and was.tta != now.tta:
        out.append(f"test-time mirroring {_switch(now.tta)}, but {_switch(was.tta)} in the fit")
    if was.step_size is not None and now.step_size is not None and was.step_size != now.step_size:
        out.append(f"a sliding-window step of {now.step_size:g}, but {was.step_size:g} in the fit")
    before = dict(was.recorded or ())
    out += [
        f"{name} {value}, but {before[name]} in the fit"
        for name, value in now.recorded or ()
        if before.get(name, value) != value
    ]
    return Likeness(tuple(out), do if len(out) == 1 else alike, () if out else notes)


def _of_all_folds(was: Provenance, now: Provenance) -> bool:
    """Whether scores are the mean of as many networks as validated what the fit saw, each of them its own fold."""
    return was.of_all_folds and (now.members, now.folds) == (was.members, was.validated)


def _or_all_folds(was: Provenance) -> str:
    return f", and {was.validated} for the mean of all folds" if was.of_all_folds else ""


def _unknown(was: Provenance, now: Provenance) -> tuple[str, tuple[str, ...]]:
    """Where neither side knows its networks and as many members are pooled: a difference of kind, if there is one, and
    what has to be noted.
    """
    made = {was.origin, now.origin}
    if made <= {"files", None}:
        return "", ()
    if None not in made and len(made) > 1:
        return f"{ORIGINS[now.origin]}, but {_FITTED} {ORIGINS[was.origin]}; neither says how many networks", ()
    if None not in made and _names(was) != _names(now):
        return (
            f"predictions of which nnU-Net recorded {_names(now) or 'nothing'}, but {_FITTED} such with"
            f" {_names(was) or 'nothing'}; neither says how many networks"
        ), ()
    compared = f"the number of folders and what nnU-Net recorded ({_names(now)}) agree"
    if None in made or not _names(now):
        compared = "the number of folders agrees"
    return "", (
        f"how many networks each probability averages is recorded neither here nor in the fit{_why(now)}; {compared}."
        " --networks, given to fit and here, makes sure",
    )


def fitted_cases(calibrator: Calibrator, records: Sequence[Record]) -> list[str]:
    """Ids of those `records` that the calibrator was fitted on, by the digest of their scores or labels, whatever they
    are called.
    """
    if calibrator.data is None:
        return []
    scores = {r.scores for r in calibrator.data.records}
    labels = {r.labels for r in calibrator.data.records if r.labels}
    return [r.id for r in records if r.scores in scores or r.labels in labels]


def fitted_groups(calibrator: Calibrator, cohort: Cohort) -> dict[str, str]:
    """The group of each case of `cohort` whose group, by the same rule, is one the calibrator was fitted on. A case
    without a group of its own has none here.
    """
    data = calibrator.data
    if data is None or splits.rule_of(data.grouping) != splits.rule_of(cohort.grouping):
        return {}
    fitted = {r.group for r in data.records if r.group}
    return {case.id: case.group for case in cohort if case.group in fitted}


def grouped_as_fitted(cohort: Cohort, calibrator: Calibrator | None) -> tuple[Cohort, list[str]]:
    """Cases that nobody grouped, by the groups that the calibrator remembers; and what to say of it."""
    data = None if calibrator is None else calibrator.data
    if data is None or not data.grouping or any(case.group for case in cohort):
        return cohort, []
    word = data.grouping.removeprefix(splits.TABLE)
    typed = f"--groups {shlex.quote(word)}"
    if not splits.regroupable(data.grouping):
        return cohort, [f"the calibrator was fitted in groups by {word}; give --groups to group these cases alike"]
    try:
        return splits.grouped(cohort, data.grouping), [f"groups by {typed}, as in the fit"]
    except UsageError as error:
        return cohort, [f"the groups of the fit, by {typed}, do not fit here: {error.found}"]


def _check_head(calibrator: Calibrator, cohort: Cohort) -> None:
    ours, theirs = calibrator.head, cohort.head
    if (ours.noun, ours.channels) != (theirs.noun, theirs.channels):
        raise MismatchError(
            cohort.name,
            found=f"{theirs.channels} {theirs.noun} ({', '.join(theirs.classes)})",
            expected=f"{ours.channels} {ours.noun} ({', '.join(ours.classes)}), on which the calibrator was fitted",
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
    """Whether the names are only the default ones, which say nothing."""
    numbered = all(n == str(i) or n == f"class {i}" or n == f"class_{i}" for i, n in enumerate(names))
    return numbered or tuple(names) == UNNAMED


_FITTED = "the calibrator was fitted on"


def _names(made: Provenance) -> str:
    """The settings that are recorded, by name."""
    return ", ".join(name for name, _ in made.recorded or ())


def _why(made: Provenance) -> str:
    return " (since 2.2 nnU-Net records neither it nor mirroring and step size)" if made.origin == "prediction" else ""


def _count(networks: int) -> str:
    return "a single network" if networks == 1 else f"{networks} networks averaged"


def _members(count: int) -> str:
    return "a single member" if count == 1 else f"{count} members averaged"


def _switch(on: bool) -> str:
    return "on" if on else "off"

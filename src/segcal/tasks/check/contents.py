"""Finders: which cases, classes, labels and voxels there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segcal.data.cohort import Cohort
from segcal.tasks.check.finding import FEW_CASES, SHOWN, Finding, count, percent, some

MUCH_ONE_HOT = 0.05
"""Share of voxels with a probability of exactly one that no working network gives."""


def data(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """What there is at all."""
    axes = " and ".join(f"{d}-D" for d in facts["dimensions"])
    members = (
        "one member"
        if cohort.members == 1
        else f"{cohort.members} members, averaged as {'probabilities' if cohort.pool == 'probs' else 'logits'}"
    )
    yield Finding("ok", "data", f"{count(facts['cases'], 'case')}, {axes}; {members}; scores of kind {cohort.kind}")
    head = cohort.head
    if not head.sums_to_one:
        kept = "each region is calibrated as a problem of its own, and its decision at 0.5 is kept"
        if head.channels == 1:
            kept = "one channel, taken for a sigmoid: the probability of label 1; its decision at 0.5 is kept"
        do = "`segcal fit --free-decision` gives that up where a threshold other than 0.5 is meant."
        if head.channels == 1 and facts["unlabelled"]:
            do += " If the first axis is one of a batch, not of classes, save scores[0]."
        yield Finding("note", "head", f"a region head ({', '.join(head.classes)}): {kept}", do)
        return
    left_out = (
        "none declared, so Dice averages all of them"
        if head.background is None
        else f"{head.classes[head.background]!r}, left out of Dice and IoU"
    )
    do = "Name it with --background 0 if class 0 is one." if head.background is None else ""
    yield Finding(
        "ok" if head.background is not None else "note",
        "head",
        f"{len(head.classes)} classes: {some(head.classes, 12)}; background {left_out}",
        do,
    )


def failed(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Cases that cannot be used."""
    failed = list(facts["failed"])
    for case in failed[:SHOWN]:
        yield Finding("error", "case", f"{case} cannot be used: {facts['failed'][case]}")
    if len(failed) > SHOWN:
        yield Finding(
            "error",
            "case",
            f"{len(failed) - SHOWN} more cannot be used: {', '.join(failed[SHOWN:])}",
            "--json tells why of each.",
        )


def labels(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether every case has labels."""
    bare = facts["unlabelled"]
    if not bare:
        ignored = "" if cohort.head.ignore is None else f"label {cohort.head.ignore} is never scored"
        said = ["a label map for every case", ignored, *{str(c.numbering) for c in cohort if c.numbering is not None}]
        yield Finding("ok", "labels", "; ".join(filter(None, said)))
    elif len(bare) == len(cohort):
        yield Finding(
            "note",
            "labels",
            "no label maps: a calibrator can be applied here, none can be fitted or evaluated",
            "Give the folder of label maps with --labels.",
        )
    else:
        yield Finding(
            "warning",
            "labels",
            f"no label map for {len(bare)} of {len(cohort)} cases: {some(bare)}",
            "Add them, or leave these cases out with --exclude.",
        )


def voxels(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Voxels by role."""
    roles = facts["voxels"]
    total = sum(roles.values())
    if not total:
        return
    shares = [f"{percent(n, total)} {name}" for name, n in roles.items() if n]
    yield Finding("ok", "voxels", f"{total:,}: {', '.join(shares)}")
    if roles["padding"]:
        share = percent(roles["padding"], total)
        yield Finding(
            "note",
            "padding",
            f"{share} of the voxels lie outside the box in which the network looked: neither fitted nor scored, passed"
            " through unchanged",
        )
    for text in cohort.notes:
        yield Finding("note", "cases", text)
    for text in facts["hidden"]:
        yield Finding("warning", "padding", text)
    for text in facts["found"]:
        yield Finding("note", "padding", text, "Keep nnU-Net's .pkl files beside the probabilities: they say it.")
    inside = total - roles["padding"]
    if facts["one_hot"] > MUCH_ONE_HOT * inside:
        place = " outside known padding" if roles["padding"] else ""
        text = (
            f"{percent(facts['one_hot'], inside)} of the voxels{place} have probabilities of exactly 0 and 1, as"
            " nnU-Net writes outside its crop box"
        )
        do = (
            "Keep nnU-Net's .pkl files beside the probabilities, or name the voxels that count with --mask."
            " Probabilities stored in half precision look alike."
        )
        yield Finding("warning", "one-hot", text, do)


def geometry(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Files of one case that lie at different places."""
    apart = [case for case in cohort if case.elsewhere]
    if apart:
        yield Finding(
            "warning",
            "geometry",
            f"files of {len(apart)} of {len(cohort)} cases lie at different places, and are taken voxel for voxel"
            f" ({some([case.id for case in apart])}); the first: {apart[0].elsewhere}",
            "Make sure that label maps and predictions belong together.",
        )


def kind(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether scores can be of the kind they are declared to be."""
    for text in cohort.doubts:
        yield Finding("warning", "kind", text)


def storage(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether scores are stored so coarsely that zeros matter."""
    for text in facts["storage"]["notes"]:
        yield Finding("warning", "storage", text, "Store probabilities as float32, unrounded, if you can.")


def classes(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Classes that are absent or rare."""
    rows = facts["classes"]
    absent = [str(r["name"]) for r in rows if r["cases"] == 0]
    rare = [f"{r['name']} ({r['cases']})" for r in rows if 0 < r["cases"] < FEW_CASES]
    if absent:
        text = f"in no label map: {some(absent)}; their calibration rests on the penalty alone"
        do = "Add cases that show them, or check the numbering of the labels."
        if cohort.head.ignore is not None and facts["voxels"]["ignored"] and len(absent) == 1:
            renumbered = f"{cohort.head.ignore}:{[str(r['name']) for r in rows].index(absent[0])}"
            do += f" If the ignored {cohort.head.ignore} is this class, give --label-map {renumbered} instead."
        yield Finding("warning", "classes", text, do)
    if rare:
        yield Finding(
            "warning" if len(cohort) >= FEW_CASES else "note",
            "classes",
            f"in fewer than {FEW_CASES} cases: {some(rare)}; what is said of these classes is an anecdote",
        )

"""Finders: which cases belong together, and how many independent groups stand against the parameters of a method."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from segcal.data.cohort import Cohort
from segcal.data.head import Head
from segcal.methods.registry import methods
from segcal.tasks.check.finding import FEW_CASES, Finding, count, some

FRONT = "^(.+)[_-]"
"""What stands before the last _ or - of a name."""


def groups(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Too few groups, and cases that are there twice."""
    groups = facts["groups"]
    if facts["labelled"] and groups < 2:
        text = "one group of cases: nothing can be held out, so a fit has no cross-fitted numbers"
        yield Finding(
            "warning", "groups", text, "Add cases of another patient or sequence, or give finer groups with --groups."
        )
    elif facts["labelled"] and groups < FEW_CASES:
        yield Finding(
            "warning",
            "groups",
            f"{groups} groups: an interval over so few is wide, and rests on their being alike",
            "Add cases, if there are more.",
        )
    if facts["alike"]:
        pairs = [f"{a} and {b}" for a, b in facts["alike"]]
        yield Finding(
            "warning",
            "groups",
            f"the same scores or labels under two names: {some(pairs)}",
            "Remove one, or put both into one group with --groups.",
        )


def names(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Labelled cases without groups whose names look as if several were of one patient or sequence."""
    if not facts["labelled"] or any(c.group for c in cohort):
        return
    ids, flat = [c.id for c in cohort], facts["dimensions"] == [2]
    fronts = [m.group(1) for i in ids if (m := re.fullmatch(r"(.+)[_-][^_-]+", i))]
    several = len(set(fronts))
    if len(fronts) == len(ids) and 2 <= several <= len(ids) / 2:
        text = (
            f"{len(ids)} cases begin with one of {several} names, such as {fronts[0]!r}: if those are patients or"
            " sequences, they must not be split"
        )
        yield Finding("warning", "groups", text, f"Add --groups '{FRONT}' to keep them together.", {"groups": FRONT})
    elif flat and all(re.search(r"\d", i) for i in ids) and several == 1:
        text = (
            f"2-D images with running numbers, such as {ids[0]!r}: if neighbours are frames or slices of one thing,"
            " they must not be split"
        )
        yield Finding("note", "groups", text, "Add --groups consecutive:20, or a table.")


def support(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Groups against parameters."""
    if not facts["labelled"]:
        return
    counts = ", ".join(f"{name} {n}" for name, n in _parameters(cohort.head).items())
    groups, supported = facts["groups"], _supported(cohort, facts)
    text = f"{count(groups, 'independent group')} of cases against parameters to determine: {counts}"
    if len(supported) == len(_parameters(cohort.head)):
        yield Finding("ok", "support", text)
    else:
        told = f"; {', '.join(supported)} rest on more groups than parameters" if supported else ""
        do = (
            "The others are safe to try: their strength is cross-validated over cases, and temperature scaling is kept"
            " where that finds no gain."
        )
        yield Finding("note", "support", text + told, do)


def _parameters(head: Head) -> dict[str, int]:
    """Parameters that data determine, of each method that is weighed against them."""
    classes = max(len(head.part_classes(part)) for part in range(len(head.parts)))
    return {name: named().identifiable(classes) for name, named in methods().items() if named.kind.suggested}


def _supported(cohort: Cohort, facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, n in _parameters(cohort.head).items() if n <= facts["groups"])


def worth_trying(cohort: Cohort, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """All methods where there are groups enough to choose their strength by, else those with few parameters."""
    if not facts["labelled"]:
        return ()
    return tuple(_parameters(cohort.head)) if facts["groups"] >= 2 * FEW_CASES else _supported(cohort, facts)

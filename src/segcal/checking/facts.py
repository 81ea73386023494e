"""Plain numbers of a cohort, as its cases were seen: what findings rest on, safe for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segcal.accumulate import State
from segcal.cases import ROLES, Cohort, Record, found_note, hidden_note
from segcal.checking.looking import suites
from segcal.engines import Engine, Outcome
from segcal.head import Head, Regions
from segcal.metrics.summary import LARGE, combine_parts, summarise


def facts_of(cohort: Cohort, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the outcomes of looking at every case come to."""
    seen = {o.id: o.summary for o in outcomes if o.summary is not None}
    records: list[Record] = [s["record"] for s in seen.values()]
    roles = {name: sum(r.roles[k] for r in records) for k, name in enumerate(ROLES)}
    labelled = [c.id for c in cohort if c.labels is not None and c.id in seen]
    block = _block(cohort.head, {i: seen[i]["states"] for i in labelled}) if labelled else None
    known = [s for s in seen.values() if s["differs"] is not None]
    return {
        **_described(cohort),
        "labelled": len(labelled),
        "voxels": roles,
        "one_hot": sum(s["one_hot"] for s in seen.values()),
        "delivered": {
            "cases": len(known),
            "differ": sum(s["differs"] > 0 for s in known),
            "voxels": sum(s["differs"] for s in known),
        },
        "hidden": hidden_note(records),
        "found": found_note(cohort),
        "alike": _alike(records, dict(zip((c.id for c in cohort), cohort.groups, strict=True))),
        "classes": (
            []
            if block is None
            else [
                {k: row[k] for k in ("name", "background", "cases", "voxels", "dice", "classwise_ece")}
                for row in block["per_class"]
            ]
        ),
        "uncalibrated": None if block is None else {k: v for k, v in block.items() if k not in LARGE},
        "failed": {o.id: str(o.error) for o in outcomes if o.error is not None},
    }


def brief(cohort: Cohort, engine: Engine) -> dict[str, Any]:
    """Those of the facts that every command can afford: what is known without reading a voxel."""
    return {**_described(cohort), "labelled": sum(c.labels is not None for c in cohort)}


def _described(cohort: Cohort) -> dict[str, Any]:
    made = cohort.provenance
    return {
        "cases": len(cohort),
        "groups": len(set(cohort.groups)),
        "members": cohort.members,
        "kind": cohort.kind,
        "pool": cohort.pool,
        "head": cohort.head.to_json(),
        "dimensions": sorted({len(c.shape) for c in cohort}),
        "provenance": {
            "folds": made.folds,
            "networks": made.networks,
            "origin": made.origin,
            "tta": made.tta,
            "step_size": made.step_size,
        },
        "unlabelled": [c.id for c in cohort if c.labels is None],
    }


def _block(head: Head, states: Mapping[str, Mapping[tuple[int, str], State]]) -> dict[str, Any]:
    by_part = [
        summarise(
            accumulators,
            {case: {name: found[part, name] for name in accumulators} for case, found in states.items()},
            head.part_classes(part),
        )
        for part, accumulators in enumerate(suites(head))
    ]
    return (combine_parts(by_part, head.parts) if isinstance(head, Regions) else by_part[0]).block


def _alike(records: Sequence[Record], group: Mapping[str, str]) -> list[list[str]]:
    """Pairs of cases in different groups with the same scores or the same labels."""
    first: dict[str, str] = {}
    pairs = []
    for r in records:
        twin = next((first[d] for d in (r.scores, r.labels) if d and d in first), None)
        if twin is not None and group[twin] != group[r.id]:
            pairs.append([twin, r.id])
        for digest in (r.scores, r.labels):
            if digest:
                first.setdefault(digest, r.id)
    return pairs

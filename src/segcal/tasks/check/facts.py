"""Facts of a cohort, as its cases were seen, on which findings rest: plain numbers safe for JSON, and `agreement`,
which has a `to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from segcal.data.case import ROLES
from segcal.data.cohort import Cohort
from segcal.data.padding import found_note, hidden_note
from segcal.data.rows import Record
from segcal.engine.engine import Engine, Outcome
from segcal.metrics.summary import LARGE, Gathered
from segcal.tasks.check.agreement import Agreement, Glance, looked_at, turns
from segcal.tasks.check.looking import suites
from segcal.tasks.scoring import joined


class Scores:
    """Metrics of the labelled cases looked at; the sums of a case are let go when they have been added."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort, self._added = cohort, False
        self._gathered = [
            Gathered(accumulators, cohort.head.part_classes(part))
            for part, accumulators in enumerate(suites(cohort.head))
        ]

    def take(self, index: int, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add a case, by its summary; the rest of that."""
        case, states = self._cohort[index], summary["states"]
        if case.labels is not None:
            self._added = True
            for part, gathered in enumerate(self._gathered):
                gathered.add(case.id, {name: state for (of, name), state in states.items() if of == part})
        return {key: value for key, value in summary.items() if key != "states"}

    def block(self) -> dict[str, Any] | None:
        """The cohort's numbers; None without a labelled case."""
        if not self._added:
            return None
        by_part = [gathered.summary(()) for gathered in self._gathered]
        return joined(self._cohort.head, by_part).block


def facts_of(cohort: Cohort, outcomes: Sequence[Outcome], scores: Scores) -> dict[str, Any]:
    """What the outcomes of looking at every case, and their `scores`, come to."""
    seen = {o.id: o.summary for o in outcomes if o.summary is not None}
    records: list[Record] = [s["record"] for s in seen.values()]
    roles = {name: sum(r.roles[k] for r in records) for k, name in enumerate(ROLES)}
    labelled = [c.id for c in cohort if c.labels is not None and c.id in seen]
    block = scores.block()
    known = [s for s in seen.values() if s["differs"] is not None]
    return {
        **_described(cohort),
        "labelled": len(labelled),
        "agreement": Agreement.of(cohort, {i: s["glance"] for i, s in seen.items() if s["glance"] is not None}),
        "voxels": roles,
        "one_hot": sum(s["one_hot"] for s in seen.values()),
        "storage": {
            **asdict(cohort.storage),
            "floored": sum(r.floored for r in records),
            "notes": cohort.storage.notes([s["record"] for i, s in seen.items() if i in labelled]),
        },
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
    """Those of the facts that every command can afford: what is known without reading a voxel, and how a few cases
    agree.
    """
    few = looked_at(cohort)
    outcomes = (
        engine.map(
            replace(cohort, cases=few), Glance(turns(cohort)), "looking at a few cases", keep_members=cohort.members > 1
        )
        if few
        else []
    )
    return {
        **_described(cohort),
        "labelled": sum(c.labels is not None for c in cohort),
        "agreement": Agreement.of(cohort, {o.id: o.summary for o in outcomes if o.summary is not None}),
    }


def _described(cohort: Cohort) -> dict[str, Any]:
    made = cohort.provenance
    return {
        "cases": len(cohort) + len(cohort.damaged),
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

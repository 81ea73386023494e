"""What an audit found, as data: one finding a promise, the numbers behind it, and its JSON.

A finding sets what the parameters claim beside what was seen on data. Its verdict is one of

    holds          proven, and nothing seen against it
    broken         proven, and seen not to hold: a fault of segcal, or a file that was changed
    seen to hold   not proven, and nothing seen against it on these data
    does not hold  not proven, and seen not to hold
    not measured   these data cannot show it

Promises: numbers only, nothing of the images. Nothing to measure: the parts say so in `notes`, and are None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import AtBound
from segcal.metrics.flips import FlipAudit
from segcal.metrics.summary import plain
from segcal.tasks.audit.measures import Moved, Preserved, Saturated
from segcal.tasks.audit.parameters import Counts
from segcal.tasks.audit.probes import Probe
from segcal.tasks.audit.proofs import PROMISES, Proof

Verdict = Literal["holds", "broken", "seen to hold", "does not hold", "not measured"]

UNIT = 2.0**-24
"""One unit in the last place of a float32 number just below 1.

Rounding may move any delivered probability by this much, a plain softmax's too.
"""


@dataclass(frozen=True)
class Finding:
    """`promise`: as in `Guarantees`.

    `claimed`: what the parameters say (None: a callable, of which nothing is known). `held`: what was seen (None:
    nothing could be).
    """

    promise: str
    claimed: Status | None
    because: str
    held: bool | None
    seen: str

    @property
    def verdict(self) -> Verdict:
        """Both together."""
        if self.claimed == "proven":
            return "broken" if self.held is False else "holds"
        if self.held is None:
            return "not measured"
        return "seen to hold" if self.held else "does not hold"

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True)
class Flipped:
    """Changed labels against the truth (`audit`, over scored voxels; None without labels), and how many of all
    `changed` lie `within` each distance of a predicted boundary.
    """

    audit: FlipAudit | None
    changed: int
    within: Mapping[int, int]

    def to_json(self) -> dict[str, Any]:
        """Counts and shares."""
        near = {
            str(d): {"voxels": n, "share": n / self.changed if self.changed else None} for d, n in self.within.items()
        }
        audit = None
        if self.audit is not None:
            shares = dict(zip(("harmful_share", "beneficial_share", "neutral_share"), self.audit.shares, strict=True))
            audit = {**asdict(self.audit), "flipped": self.audit.flipped, "rate": self.audit.rate, **shares}
        return {"audit": audit, "changed": self.changed, "near_boundary": near}


@dataclass(frozen=True)
class Spread:
    """Population standard deviation of the free energy within each case: mean over cases, and percentiles.

    `cases`: how many have one.
    """

    mean: float
    p25: float
    p50: float
    p75: float
    cases: int


@dataclass(frozen=True)
class PartParameters:
    """What the parameters of one softmax problem say."""

    part: str
    map: str
    proofs: Sequence[Proof]
    at_bounds: Sequence[AtBound]


@dataclass(frozen=True, eq=False)
class Audit:
    """What became of every promise of `subject`.

    `roles`: voxels by role, padding among them, which no measure counts. `preserved.decided`: voxels by the class their
    scores decide for (for regions: inside each), which is also how many each expert of a class-conditional map gets.
    `shifts`: one entry a probe. `spread`: None without raw logits.
    """

    subject: str
    classes: Sequence[str]
    cases: int
    members: int
    pool: str
    kind: str
    roles: Mapping[str, int]
    findings: Sequence[Finding]
    parameters: Sequence[PartParameters]
    counts: Counts | None
    preserved: Preserved
    shifts: Mapping[Probe, Moved]
    flips: Flipped
    saturated: Saturated
    spread: Spread | None
    per_case: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default=())

    @property
    def broken(self) -> list[str]:
        """Promises that were proven and are seen not to hold."""
        return [f.promise for f in self.findings if f.verdict == "broken"]

    def guarantees(self) -> Guarantees:
        """What is known after the audit: proven, measured on these data, or no."""

        def status(f: Finding) -> Status:
            if f.verdict == "holds":
                return "proven"
            return "measured" if f.verdict == "seen to hold" else "no"

        by_name = {f.promise: f for f in self.findings}
        invariant, argmax, order = (status(by_name[name]) for name in PROMISES)
        return Guarantees(
            invariant,
            argmax,
            order,
            {name: f.because if f.verdict == "holds" else f.seen for name, f in by_name.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """What `segcal audit --json` writes."""
        described = {
            "subject": self.subject,
            "classes": list(self.classes),
            "cases": self.cases,
            "members": self.members,
            "pool": self.pool,
            "kind": self.kind,
            "voxels": dict(self.roles),
            "findings": [f.to_json() for f in self.findings],
            "broken": self.broken,
            "guarantees": self.guarantees().to_json(),
            "parameters": {
                "optimised": None if self.counts is None else self.counts.optimised,
                "identifiable": None if self.counts is None else self.counts.identifiable,
                "parts": [
                    {
                        "part": p.part,
                        "map": p.map,
                        "proofs": [proof.to_json() for proof in p.proofs],
                        "at_bounds": [asdict(b) for b in p.at_bounds],
                    }
                    for p in self.parameters
                ],
            },
            "preservation": {
                **asdict(self.preserved),
                "decided": dict(zip(self.classes, self.preserved.decided, strict=True)),
            },
            "shifts": [{"unit": p.unit, "size": p.size, **asdict(m)} for p, m in self.shifts.items()],
            "flips": self.flips.to_json(),
            "saturation": asdict(self.saturated),
            "free_energy_std": None if self.spread is None else asdict(self.spread),
            "per_case": [dict(row) for row in self.per_case],
            "notes": list(self.notes),
        }
        found: dict[str, Any] = plain(described)
        return found

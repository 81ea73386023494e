"""What `segcal check` finds out about predictions before anything is fitted, as data.

One pass over the files, in which a case that cannot be used does not hide the others: voxels by role, classes,
agreement of scores and labels so far, what the delivered label maps are, cases that are there twice. `check` returns
findings, each with a severity, a text and what to do, and the facts they rest on.

    error     these cases cannot be used
    warning   a fit would run, and its numbers would mislead
    note      worth knowing
    ok        as it should be

Promises: nothing is written; the same findings for any number of workers. Costs: one reading, as `evaluate`. No labels:
what labels would tell is left out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from segcal import accumulate
from segcal.accumulate import State
from segcal.cases import PADDING, ROLES, Block, Case, CaseReader, Cohort, Note, Record, Window
from segcal.engines import Engine, Outcome
from segcal.head import Head, Regions, Softmax
from segcal.journal import Scratch
from segcal.metrics.summary import LARGE, combine_parts, suite, summarise
from segcal.places import Places

Severity = Literal["error", "warning", "note", "ok"]

FEW_CASES = 5
"""Cases with a class (or groups) below which its numbers are anecdotes."""

SHOWN = 5
"""Cases or classes named in one finding."""

MUCH_ONE_HOT = 0.05
"""Share of voxels with a probability of exactly one that no working network gives."""

PARAMETERS: Mapping[str, Callable[[int], int]] = {
    "ts": lambda c: 1,
    "ets": lambda c: 3,
    "vs": lambda c: 2 * c - 1,
    "ms-c": lambda c: c * (c - 1),
    "dc": lambda c: c * c - 1,
}
"""Parameters of each method that data of `c` classes determine; matrix scaling has as many as Dirichlet calibration."""


@dataclass(frozen=True)
class Finding:
    """One thing worth saying. `topic`: what it is about, in a word; `do`: what to do about it, or nothing."""

    severity: Severity
    topic: str
    text: str
    do: str = ""

    def to_json(self) -> dict[str, str]:
        """A plain description."""
        return {"severity": self.severity, "topic": self.topic, "text": self.text, "do": self.do}


@dataclass(frozen=True, eq=False)
class Checkup:
    """What was found.

    `facts`: plain numbers, safe for JSON; `methods`: those worth trying on these cases; none without labels.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]
    methods: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of a fit or an application."""
        return all(f.severity != "error" for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """What `check --json` writes, but for the command to type next."""
        return {**self.facts, "findings": [f.to_json() for f in self.findings], "methods": list(self.methods)}


def check(cohort: Cohort, engine: Engine) -> Checkup:
    """Read `cohort` once and say what is there. Never raises for a single case: what is wrong with it is a finding."""
    outcomes = engine.map(cohort, Look(_suites(cohort.head)), "checking cases")
    facts = _facts(cohort, outcomes)
    findings = [f for finder in FINDERS for f in finder(cohort, facts)]
    return Checkup(tuple(sorted(findings, key=_first)), facts, _worth_trying(cohort, facts))


def _first(finding: Finding) -> tuple[bool, int]:
    """What there is at all, then the worst."""
    return finding.topic != "data", ("error", "warning", "note", "ok").index(finding.severity)


def _suites(head: Head) -> tuple[dict[str, Any], ...]:
    return tuple(suite(len(head.part_classes(part)), head.part_background(part)) for part in range(len(head.parts)))


@dataclass(frozen=True, eq=False)
class Look:
    """A mapper that writes nothing: what it learns of a case is the case's summary.

    `suites`: accumulators of each part.
    """

    suites: tuple[dict[str, Any], ...]

    @contextlib.contextmanager
    def case(self, reader: CaseReader, scratch: Scratch) -> Iterator[CaseLook]:
        """Open the delivered label map of the case."""
        case = reader.cohort[reader.index]
        delivered = case.fields.get("delivered")
        places = Places(
            reader.label_map,
            scratch,
            (place for accumulators in self.suites for a in accumulators.values() for place in accumulate.needs(a)),
        )
        with contextlib.ExitStack() as stack:
            window = None if delivered is None else stack.enter_context(delivered.open(scratch))
            yield CaseLook(self, case, reader, window, places)


@dataclass(eq=False)
class CaseLook:
    """One case being looked at."""

    look: Look
    of: Case
    reader: CaseReader
    delivered: Window | None
    places: Places
    notes: list[Note] = field(default_factory=list)
    states: dict[tuple[int, str], State] = field(default_factory=dict)
    one_hot: int = 0
    differs: int = 0

    def block(self, block: Block) -> None:
        """Count one block."""
        head = self.reader.cohort.head
        self.notes.append(self.reader.note(block))
        self.one_hot += int((_certain(block) & (block.role != PADDING)).sum())
        if self.delivered is not None:
            shown = torch.from_numpy(self.delivered.read(block.start, block.start + block.voxels).astype("int64"))
            self.differs += int((shown != _label_map(block, head)).sum())
        if block.labels is None:
            return
        prepared = self.reader.prepare(block, self.places)
        for part, accumulators in enumerate(self.look.suites):
            rows = prepared.part(head, part)
            for name, accumulator in accumulators.items():
                state, key = accumulate.fold(accumulator, rows), (part, name)
                self.states[key] = (
                    state if key not in self.states else accumulate.merge(accumulator, self.states[key], state)
                )

    def summary(self) -> dict[str, Any]:
        """Counts, states and the record of the case. LabelError where nothing is left to score."""
        return {
            "record": self.reader.record(self.notes),
            "states": self.states,
            "one_hot": self.one_hot,
            "differs": self.differs if self.delivered is not None else None,
        }


def _certain(block: Block) -> Tensor:
    """Voxels whose scores, as probabilities, are exactly zero or one throughout."""
    if block.kind != "probs":
        return torch.zeros(block.voxels, dtype=torch.bool)
    return ((block.scores == 0) | (block.scores == 1)).all(0)


def _label_map(block: Block, head: Head) -> Tensor:
    decision = head.decide(block.scores, block.kind)
    return decision[0] if isinstance(head, Softmax) else head.label_map(decision.double())


def _facts(cohort: Cohort, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    seen = {o.id: o.summary for o in outcomes if o.summary is not None}
    records: list[Record] = [s["record"] for s in seen.values()]
    roles = {name: sum(r.roles[k] for r in records) for k, name in enumerate(ROLES)}
    labelled = [c.id for c in cohort if c.labels is not None and c.id in seen]
    block = _block(cohort.head, {i: seen[i]["states"] for i in labelled}) if labelled else None
    known = [s for s in seen.values() if s["differs"] is not None]
    head = cohort.head
    return {
        "cases": len(cohort),
        "groups": len(set(cohort.groups)),
        "members": cohort.members,
        "kind": cohort.kind,
        "pool": cohort.pool,
        "head": head.to_json(),
        "dimensions": sorted({len(c.shape) for c in cohort}),
        "provenance": {
            "folds": cohort.provenance.folds,
            "networks": cohort.provenance.networks,
            "tta": cohort.provenance.tta,
            "step_size": cohort.provenance.step_size,
        },
        "labelled": len(labelled),
        "unlabelled": [c.id for c in cohort if c.labels is None],
        "voxels": roles,
        "one_hot": sum(s["one_hot"] for s in seen.values()),
        "delivered": {
            "cases": len(known),
            "differ": sum(s["differs"] > 0 for s in known),
            "voxels": sum(s["differs"] for s in known),
        },
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


def _block(head: Head, states: Mapping[str, Mapping[tuple[int, str], State]]) -> dict[str, Any]:
    by_part = [
        summarise(
            accumulators,
            {case: {name: found[part, name] for name in accumulators} for case, found in states.items()},
            head.part_classes(part),
        )
        for part, accumulators in enumerate(_suites(head))
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


def _data(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    axes = " and ".join(f"{d}-D" for d in facts["dimensions"])
    members = (
        "one member"
        if cohort.members == 1
        else f"{cohort.members} members, averaged as {'probabilities' if cohort.pool == 'probs' else 'logits'}"
    )
    yield Finding("ok", "data", f"{_count(len(cohort), 'case')}, {axes}; {members}; scores of kind {cohort.kind}")
    head = cohort.head
    if isinstance(head, Regions):
        text = (
            f"a region head ({', '.join(head.names)}): each region is calibrated as a problem of its own, and its"
            " decision at 0.5 is kept"
        )
        yield Finding(
            "note",
            "head",
            text,
            "`segcal fit --free-decision` gives that up where a threshold other than 0.5 is meant.",
        )
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
        f"{len(head.classes)} classes: {_some(head.classes, 12)}; background {left_out}",
        do,
    )


def _failed(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    failed = list(facts["failed"])
    for case in failed[:SHOWN]:
        yield Finding("error", "case", f"{case} cannot be used: {facts['failed'][case]}")
    if len(failed) > SHOWN:
        yield Finding(
            "error",
            "case",
            f"{len(failed) - SHOWN} more cannot be used: {_some(failed[SHOWN:], 4 * SHOWN)}",
            "--json tells why of each.",
        )


def _labels(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    bare = facts["unlabelled"]
    if not bare:
        yield Finding(
            "ok",
            "labels",
            "a label map for every"
            f" case{'' if cohort.head.ignore is None else f'; label {cohort.head.ignore} is never scored'}",
        )
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
            f"no label map for {len(bare)} of {len(cohort)} cases: {_some(bare)}",
            "Add them, or choose the others with --cases.",
        )


def _voxels(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    roles = facts["voxels"]
    total = sum(roles.values())
    if not total:
        return
    shares = [f"{_percent(n, total)} {name}" for name, n in roles.items() if n]
    yield Finding("ok", "voxels", f"{total:,}: {', '.join(shares)}")
    if roles["padding"]:
        share = _percent(roles["padding"], total)
        yield Finding(
            "note",
            "padding",
            f"{share} of the voxels lie outside the box in which the network looked: neither fitted nor scored, passed"
            " through unchanged",
        )
    inside = total - roles["padding"]
    if facts["one_hot"] > MUCH_ONE_HOT * inside:
        place = " outside known padding" if roles["padding"] else ""
        text = (
            f"{_percent(facts['one_hot'], inside)} of the voxels{place} have probabilities of exactly 0 and 1, as"
            " nnU-Net writes outside its crop box"
        )
        do = (
            "Keep nnU-Net's .pkl files beside the probabilities, or name the voxels that count with --mask."
            " Probabilities stored in half precision look alike."
        )
        yield Finding("warning", "one-hot", text, do)


def _classes(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    rows = facts["classes"]
    absent = [str(r["name"]) for r in rows if r["cases"] == 0]
    rare = [f"{r['name']} ({r['cases']})" for r in rows if 0 < r["cases"] < FEW_CASES]
    if absent:
        text = f"in no label map: {_some(absent)}; their calibration rests on the penalty alone"
        yield Finding("warning", "classes", text, "Add cases that show them, or check the numbering of the labels.")
    if rare:
        yield Finding(
            "warning" if len(cohort) >= FEW_CASES else "note",
            "classes",
            f"in fewer than {FEW_CASES} cases: {_some(rare)}; what is said of these classes is an anecdote",
        )


def _groups(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
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
            f"the same scores or labels under two names: {_some(pairs)}",
            "Remove one, or put both into one group with --groups.",
        )
    if groups == len(cohort) and facts["labelled"]:
        yield from _names([c.id for c in cohort], facts["dimensions"] == [2])


def _names(ids: Sequence[str], flat: bool) -> Iterator[Finding]:
    """Names that look as if several were of one patient or sequence.

    `flat`: 2-D images, which may be frames or slices.
    """
    fronts = [m.group(1) for i in ids if (m := re.fullmatch(r"(.+)[_-][^_-]+", i))]
    several = len(set(fronts))
    if len(fronts) == len(ids) and 2 <= several <= len(ids) / 2:
        text = (
            f"{len(ids)} cases begin with one of {several} names, such as {fronts[0]!r}: if those are patients or"
            " sequences, they must not be split"
        )
        yield Finding("warning", "groups", text, "Add --groups '^(.+)[_-]' to keep them together.")
    elif flat and all(re.search(r"\d", i) for i in ids) and several == 1:
        text = (
            f"2-D images with running numbers, such as {ids[0]!r}: if neighbours are frames or slices of one thing,"
            " they must not be split"
        )
        yield Finding("note", "groups", text, "Add --groups consecutive:20, or a table.")


def _support(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    if not facts["labelled"]:
        return
    counts = ", ".join(f"{name} {n}" for name, n in _parameters(cohort.head).items())
    groups, supported = facts["groups"], _supported(cohort, facts)
    text = f"{_count(groups, 'independent group')} of cases against parameters to determine: {counts}"
    if len(supported) == len(PARAMETERS):
        yield Finding("ok", "support", text)
    else:
        told = f"; {', '.join(supported)} rest on more groups than parameters" if supported else ""
        do = (
            "The others are safe to try: their strength is cross-validated over cases, and temperature scaling is kept"
            " where that finds no gain."
        )
        yield Finding("note", "support", text + told, do)


def _parameters(head: Head) -> dict[str, int]:
    classes = max(len(head.part_classes(part)) for part in range(len(head.parts)))
    return {name: count(classes) for name, count in PARAMETERS.items()}


def _supported(cohort: Cohort, facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, n in _parameters(cohort.head).items() if n <= facts["groups"])


def _worth_trying(cohort: Cohort, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """All methods where there are groups enough to choose their strength by, else those with few parameters."""
    if not facts["labelled"]:
        return ()
    return tuple(PARAMETERS) if facts["groups"] >= 2 * FEW_CASES else _supported(cohort, facts)


def _networks(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    networks = cohort.provenance.networks
    if networks == 1 and cohort.members == 1 and any("folder" in c.files for c in cohort):
        text = (
            "each probability comes from a single network, as in validation; nnU-Net's test predictions average five,"
            " which are less overconfident"
        )
        do = (
            "A calibrator fitted here is for predictions of one fold (nnUNetv2_predict -f 0); for the mean of five, fit"
            " on labelled cases predicted by all folds."
        )
        yield Finding("warning", "networks", text, do)
    elif networks is not None:
        yield Finding(
            "ok",
            "networks",
            f"each probability averages {_count(networks, 'network')}; a calibrator fitted here is bound to that",
        )


def _delivered(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    found = facts["delivered"]
    if found["voxels"]:
        total = sum(facts["voxels"].values())
        share = f"in {found['differ']} of {found['cases']} cases, {_percent(found['voxels'], total)} of the voxels"
        text = f"the delivered label map differs from the arg max of its probabilities {share}: it was post-processed"
        yield Finding(
            "note",
            "label maps",
            text,
            "`segcal apply` copies the delivered map as it is; its map 'error' is about the delivered label.",
        )
    elif found["cases"]:
        yield Finding("ok", "label maps", "every delivered label map is the arg max of its probabilities")


def _energy(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    if isinstance(cohort.head, Regions):
        return
    block = facts["uncalibrated"]
    if not cohort.has_logits:
        text = (
            "only probabilities are known: free energy has nothing to measure, and methods for raw logits coincide with"
            " their canonical form (ms with dc)"
        )
        yield Finding("note", "free energy", text)
    elif block is not None and block["free_energy_std"] is not None:
        spread = f"{block['free_energy_std']:.3g} nats within a case"
        yield Finding(
            "note",
            "free energy",
            f"raw logits are known; their free energy spreads by {spread}, on which ms and vs may depend and ts, ms-c"
            " and dc do not",
        )


def _calibration(cohort: Cohort, facts: Mapping[str, Any]) -> Iterator[Finding]:
    block = facts["uncalibrated"]
    if block is None or block["nll"] is None:
        return
    gap = block["confidence"] - block["accuracy"]
    word = "over" if gap > 0 else "under"
    errors = f"NLL {block['nll']:.4f}, ECE {block['ece']:.4f}, ACE {block['ace']:.4f}"
    trust = (
        f"confidence {block['confidence']:.3f} against accuracy {block['accuracy']:.3f}: {word}confident by"
        f" {100 * abs(gap):.1f} points"
    )
    yield Finding("note", "calibration", f"so far {errors}; {trust}")


FINDERS: tuple[Callable[[Cohort, Mapping[str, Any]], Iterator[Finding]], ...] = (
    *(_failed, _data, _labels, _voxels, _classes, _groups),
    *(_support, _networks, _delivered, _energy, _calibration),
)
"""What is looked for, in the order in which it is told within a severity."""


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _percent(n: int, total: int) -> str:
    share = 100 * n / total if total else 0.0
    return "none" if n == 0 else "less than 0.1 %" if share < 0.05 else "all" if n == total else f"{share:.1f} %"


def _some(names: Sequence[str], shown: int = SHOWN) -> str:
    return ", ".join(names[:shown]) + (f", and {len(names) - shown} more" if len(names) > shown else "")

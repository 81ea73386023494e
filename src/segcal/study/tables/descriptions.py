"""Tables 1, 2, 3, 5 and 6: what was split, what was fitted, how far logits are offset, and what images were corrupted
with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segcal.methods.guarantees import Guarantees
from segcal.methods.registry import find
from segcal.study.tables.names import METHODS
from segcal.study.tables.results import Results
from segcal.study.tables.table import NONE, Cell, Column, Number, Row, Section, Table, Text

ROLES = ("calibration", "validation", "test")
"""Roles of the table of partitions."""

PRINTED = ("TS", "ETS", "MS", "MSc", "DC", "LTS", "LTS(log S)", "CDC", "CMSap", "CMSop")
"""Rows of the paper's Table 2, in its order."""


def splits(studies: Sequence[Results]) -> Table:
    """Table 1: modality, classes and training cases, cases of each role in a repeat, [least, most] where repeats
    differ, and the pool.
    """
    columns = (
        Column(Text("Modality")),
        Column(Text("Classes"), decimals=0),
        Column(Text("Training"), decimals=0),
        *(Column(Text(role.capitalize()), decimals=1, beside=("least", "most")) for role in ROLES),
        Column(Text("Pool"), decimals=0),
        Column(Text("Groups"), decimals=0),
        Column(Text("Repeats"), decimals=0),
    )
    rows = []
    for study in studies:
        frame = study.frame("partition")
        repeats = frame.different("repeat")
        counts = [_least_most([len(frame.where(repeat=r, role=role)) for r in repeats]) for role in ROLES]
        cells: list[Number | Text] = [
            Text(study.modality or "—"),
            Number(study.classes),
            NONE if study.training is None else Number(study.training),
            *counts,
            Number(len(frame.different("case"))),
            Number(len(frame.different("group"))),
            Number(len(repeats)),
        ]
        rows.append(Row(Text(study.name), tuple(Cell(c) for c in cells)))
    notes = (
        (
            "Training: cases the networks were trained on. The others are of a repeat. Groups stay together in one"
            f" role. Seeds: {', '.join(f'{s.name} {s.seed}' for s in studies)}."
        ),
    )
    return Table(
        "table1",
        "Data set splits and class counts.",
        Text("Data set"),
        _whole(columns, rows),
        (Section(Text(""), tuple(rows)),),
        notes,
    )


def _least_most(counts: Sequence[int]) -> Number:
    if not counts:
        return NONE
    return Number(sum(counts) / len(counts), () if len(set(counts)) == 1 else (min(counts), max(counts)))


def _whole(columns: tuple[Column, ...], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Columns of counts without decimals where every number is whole."""

    def decimals(k: int) -> int:
        values = [c.value for row in rows if isinstance(c := row.cells[k].content, Number) and not math.isnan(c.value)]
        return 0 if all(v == int(v) for v in values) else 1

    return tuple(Column(c.head, c.group, decimals(k), beside=c.beside) for k, c in enumerate(columns))


def properties(studies: Sequence[Results], promises: Mapping[str, Guarantees | None]) -> Table:
    """Table 2: promises of every method fitted (`promises` by registered name), and its parameters, optimised and
    identifiable, as counted when it was fitted.
    """
    frames = [study.frame("fits") for study in studies]
    fitted = dict.fromkeys(m for frame in frames for m in frame.different("method") if isinstance(m, str) and m)
    place = {name: k for k, name in enumerate(PRINTED)}
    methods = sorted(fitted, key=lambda m: place.get(_name(m), len(place)))
    columns = [Column(Text("TI")), Column(Text("Keeps"))]
    for study in studies:
        columns += [
            Column(Text(head), f"{study.name} (C = {study.classes})", 0) for head in ("Optimised", "Identifiable")
        ]
    rows = []
    for method in methods:
        counts = [
            _one(frame.where(method=method)[column]) for frame in frames for column in ("optimised", "identifiable")
        ]
        promised = promises.get(method)
        rows.append(
            Row(_printed(method), (Cell(_invariant(promised)), Cell(_keeps(promised)), *(Cell(c) for c in counts)))
        )
    notes = (
        (
            "TI: translation invariant on logits. Keeps: the label of every voxel (Argmax), the ranking of classes"
            " (Order), or neither (×)."
        ),
        (
            "Optimised: scalars as the method's paper writes them; identifiable: without directions that change no"
            " probability. — not counted."
        ),
        f"Seeds: {', '.join(f'{s.name} {s.seed}' for s in studies)}.",
    )
    return Table(
        "table2",
        "Calibrator properties, optimised parameters, and identifiable degrees of freedom.",
        Text("Calibrator"),
        tuple(columns),
        (Section(Text(""), tuple(rows)),),
        notes,
    )


def _printed(method: str) -> Text:
    name = _name(method)
    base, below = METHODS.get(name, (name, ""))
    return Text(name, f"{base}<sub>{below}</sub>", rf"{base}$_\mathrm{{{below}}}$") if below else Text(name)


def _name(method: str) -> str:
    """What the paper's tables call a registered method."""
    known = find(method)
    return method if known is None else known.printed


def _one(values: Any) -> Number:
    """The one number of all fits of a method; NaN where it was not counted or fits disagree."""
    known = {float(v) for v in values if v is not None and not math.isnan(float(v))}
    return Number(known.pop()) if len(known) == 1 else NONE


def _invariant(promised: Guarantees | None) -> Text:
    if promised is None:
        return Text("—")
    return Text("×") if promised.translation_invariant == "no" else Text("yes")


def _keeps(promised: Guarantees | None) -> Text:
    if promised is None:
        return Text("—")
    if promised.preserves_order != "no":
        return Text("Order")
    return Text("Argmax" if promised.preserves_argmax != "no" else "×")


QUARTILES = ("p25", "p50", "p75")


def free_energy(studies: Sequence[Results], *, by_members: bool) -> Table:
    """Table 3 (all members) or, `by_members`, Table 5: spread over voxels of the pooled logits' free energy, mean
    [quartiles] over cases.
    """
    sizes = sorted({int(m) for study in studies for m in study.frame("energy").different("members")})
    shown = sizes if by_members else sizes[-1:]
    columns = [
        Column(Text("Cases"), decimals=0),
        *(Column(Text(f"M = {m}"), decimals=2, beside=QUARTILES) for m in shown),
    ]
    rows = []
    for study in studies:
        frame = study.frame("energy")
        spreads = [_quartiles(np.asarray(frame.where(members=m)["std"], np.float64)) for m in shown]
        rows.append(Row(Text(study.name), (Cell(Number(len(frame.different("case")))), *(Cell(s) for s in spreads))))
    caption = "Spatial variability of the pooled-logit free energy" + (" across ensemble sizes." if by_members else ".")
    notes = (
        (
            "Mean over the cases of the pool of the standard deviation over voxels of F = log sum exp z, pooled over"
            " the first M members; in brackets quartiles over cases."
        ),
        (
            f"Seeds: {', '.join(f'{s.name} {s.seed}' for s in studies)}; the spread is that of all cases, so no repeat"
            " enters."
        ),
    )
    return Table(
        "table5" if by_members else "table3",
        caption,
        Text("Data set"),
        tuple(columns),
        (Section(Text(""), tuple(rows)),),
        notes,
    )


def _quartiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> Number:
    known = values[~np.isnan(values)]
    if not known.size:
        return NONE
    return Number(math.fsum(known) / known.size, tuple(float(q) for q in np.percentile(known, [25, 50, 75])))


def corruptions(studies: Sequence[Results]) -> Table:
    """Table 6: what was really done to the images of shifted cohorts, as the records beside them say: a row a kind and
    severity, with the range of every parameter over the images.
    """
    columns = (Column(Text("Severity")), Column(Text("Images"), decimals=0), Column(Text("Parameters")))
    sections = []
    for study in studies:
        frame = study.frame("corruptions")
        for cohort in frame.different("cohort"):
            here = frame.where(cohort=cohort)
            done: dict[tuple[str, str], list[str]] = {}
            for kind, severity, parameters in zip(*(here[c] for c in ("kind", "severity", "parameters")), strict=True):
                done.setdefault((kind, severity), []).append(parameters)
            rows = tuple(
                Row(
                    Text(kind.replace("_", " ")),
                    (Cell(Text(severity or "—")), Cell(Number(len(every))), Cell(Text(_ranges(every)))),
                )
                for (kind, severity), every in sorted(done.items())
            )
            sections.append(Section(Text(f"{study.name}, {cohort}"), rows))
    notes = ("From corruptions.csv beside the images of each cohort, for the cases scored; low to high over images.",)
    return Table("table6", "Corruptions as applied.", Text("Corruption"), columns, tuple(sections), notes)


def _ranges(parameters: Sequence[str]) -> str:
    """Every parameter with its one value, or its lowest and highest over the images."""
    words = {"sigma": "σ", "alpha": "α"}
    values: dict[str, list[Any]] = {}
    for one in parameters:
        for name, value in json.loads(one).items():
            if name != "replicate":
                values.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return ", ".join(
        f"{words.get(name, name.replace('_', ' '))} = "
        + (f"{low:g}" if (low := min(found)) == (high := max(found)) else f"{low:g} to {high:g}")
        for name, found in values.items()
    )

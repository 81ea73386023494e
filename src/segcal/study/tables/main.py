"""Tables 4, 7 and 8: every pipeline in the paper's sections, one group of columns a data set or severity, the best of
each column in bold.

Flips do not apply to a pipeline that keeps labels by construction; should one of them flip all the same, its number is
printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from segcal.study.tables.metrics import FLIPS, MAIN, Metric, Points, columns
from segcal.study.tables.names import FURTHER, SECTIONS, is_crossed, keeps_labels, symbol
from segcal.study.tables.table import NONE, Cell, Column, Number, Row, Section, Table, Text, best_in_bold, told_apart

CONVENTIONS = "DSC and Flip in %. — does not apply; × not translation invariant; bold: best of a column, as printed."


STOPPED = "†"
"""Stands behind the label of a pipeline whose fits a limit ended; names in CSV tables stay as they are."""


def pipelines(
    name: str,
    caption: str,
    groups: Mapping[str, Points],
    notes: tuple[str, ...],
    *,
    beside: tuple[str, ...] = (),
    stopped: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Table:
    """One row a pipeline, one group of `columns` for each of `groups`; `beside` names the brackets, which are left
    out without it. Pipelines that are `stopped`, so many of so many fits, are marked, and a note says so.
    """
    known = {pipeline for points in groups.values() for pipeline, _ in points}
    shown = [m for m in columns() if m in MAIN or _there(m, groups)]
    heads = tuple(
        Column(Text(m.head), group, m.decimals, m.scale, m.better, beside=beside) for group in groups for m in shown
    )
    sections = [
        Section(title, tuple(_row(p, groups, shown, bool(beside), p in stopped) for p in members if p in known))
        for title, members in SECTIONS
    ]
    paper = {p for _, members in SECTIONS for p in members}
    further = dict.fromkeys(p for points in groups.values() for p, _ in points if p not in paper)
    sections.append(Section(FURTHER, tuple(_row(p, groups, shown, bool(beside), p in stopped) for p in further)))
    marked = [f"{p} ({n} of {of})" for p, (n, of) in stopped.items() if p in known]
    if marked:
        notes = (f"{STOPPED} ended by a limit of steps or epochs, not by their own rule: {', '.join(marked)}.", *notes)
    return best_in_bold(
        told_apart(
            Table(name, caption, Text("Pipeline"), heads, tuple(s for s in sections if s.rows), (CONVENTIONS, *notes))
        )
    )


def _there(metric: Metric, groups: Mapping[str, Points]) -> bool:
    """Whether any pipeline has a number of it."""
    return any(
        key == metric.key and not math.isnan(n.value) for points in groups.values() for (_, key), n in points.items()
    )


def _row(pipeline: str, groups: Mapping[str, Points], shown: Sequence[Metric], beside: bool, stopped: bool) -> Row:
    cells = tuple(Cell(_number(pipeline, m, points, beside)) for points in groups.values() for m in shown)
    label = symbol(pipeline)
    if stopped:
        label = Text(label.plain, *(f"{text or label.plain} {STOPPED}" for text in (label.markdown, label.latex)))
    return Row(label, cells, is_crossed(pipeline))


def _number(pipeline: str, metric: Metric, points: Points, beside: bool) -> Number:
    found = points.get((pipeline, metric.key), NONE)
    if metric is FLIPS and keeps_labels(pipeline) and not found.value > 0:
        return NONE
    return found if beside and not math.isnan(found.value) else Number(found.value)

"""The flip audit: of the voxels whose label a pipeline changes, how many were right before, how many are right now, how
many are wrong both times.

Counts are pooled over the test cases of all repeats (definitions 7.3). Pipelines that change nothing have no shares.
With two classes a flip is never neutral.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from segcal.study.tables.names import FURTHER, SECTIONS, symbol
from segcal.study.tables.results import Results
from segcal.study.tables.table import Cell, Column, Number, Row, Section, Table, Text

KINDS = ("harmful", "beneficial", "neutral")


def flip_audit(name: str, groups: Sequence[tuple[str, Results, str]], notes: tuple[str, ...]) -> Table:
    """One row a pipeline that changes a label somewhere, one group of columns for each (title, results, cohort)."""
    columns = [
        Column(Text(head), title, decimals, 100)
        for title, _, _ in groups
        for head, decimals in (("flipped", 2), *((k, 1) for k in KINDS))
    ]
    known = dict.fromkeys(p for _, results, cohort in groups for p in results.grid(cohort).pipelines)
    counted = {p: [_numbers(results, cohort, p) for _, results, cohort in groups] for p in known}
    flipping = [p for p in known if any(numbers[0].value > 0 for numbers in counted[p])]
    paper = {p for _, members in SECTIONS for p in members}
    sections = []
    for title, members in (*SECTIONS, (FURTHER, tuple(p for p in flipping if p not in paper))):
        rows = tuple(
            Row(symbol(p), tuple(Cell(n) for numbers in counted[p] for n in numbers)) for p in members if p in flipping
        )
        if rows:
            sections.append(Section(title, rows))
    text = (
        "Per cent of scored voxels flipped, and of the flipped ones those harmful (was right, now wrong), beneficial"
        " (was wrong, now right) and neutral (wrong both times). Pooled over test cases and repeats."
    )
    caption = "Flip audit: what changed labels did."
    return Table(name, caption, Text("Pipeline"), tuple(columns), tuple(sections), (text, *notes))


def _numbers(results: Results, cohort: str, pipeline: str) -> list[Number]:
    counts = [math.fsum(v for v in results.pooled(cohort, pipeline, kind) if not math.isnan(v)) for kind in KINDS]
    voxels, flipped = math.fsum(results.pooled(cohort, pipeline, "voxels")), math.fsum(counts)
    rate = flipped / voxels if voxels else math.nan
    return [Number(rate), *(Number(c / flipped if flipped else math.nan) for c in counts)]

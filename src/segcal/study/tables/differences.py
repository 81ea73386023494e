"""The matched comparisons as paired differences, second - first on the same cases and draws, with intervals.

A star marks an interval that excludes zero; beside it stand p-values after Holm's adjustment, and below what chance
would give.

ACE and flips are not paired (one has no cases below a repeat, the other is zero on one side by construction).
Differences that are zero in every case (the DSC of two pipelines that keep the label) are shown and not counted as
comparisons.
"""

from __future__ import annotations

import numpy as np

from segcal.metrics.statistics.multiplicity import holm, note
from segcal.metrics.statistics.resamples import Comparison, Scheme
from segcal.study.tables.metrics import MAIN
from segcal.study.tables.names import Pair, arrow, comparisons
from segcal.study.tables.results import Results
from segcal.study.tables.table import Cell, Column, Number, Row, Section, Table, Text

PAIRED = tuple(m for m in MAIN if m.key in ("nll", "dice", "ece", "ba_ece"))


def compared(results: Results, cohort: str, scheme: Scheme) -> dict[tuple[Pair, str], Comparison]:
    """Every matched comparison whose two pipelines were scored, by pair and key of the metric."""
    grid = results.grid(cohort)
    keys = [(pair, m.key) for _, pairs in comparisons(grid.pipelines) for pair in pairs for m in PAIRED]
    if not keys:
        return {}
    first = np.stack([grid.column(pair.first, metric) for pair, metric in keys], 1)
    second = np.stack([grid.column(pair.second, metric) for pair, metric in keys], 1)
    return dict(zip(keys, results.resamples(cohort, scheme).compare(first, second), strict=True))


def differences(name: str, results: Results, cohort: str, scheme: Scheme) -> Table:
    """The comparisons of one cohort, a row a pair, two columns a metric: the difference and its adjusted p."""
    found = compared(results, cohort, scheme)
    adjusted = dict(zip(found, holm([c.p for c in found.values()]), strict=True))
    columns: list[Column] = []
    for m in PAIRED:
        columns += [
            Column(Text("second - first"), m.head, m.decimals + 1, m.scale, signed=True, beside=("low", "high")),
            Column(Text("p (Holm)"), m.head, 3),
        ]
    sections = []
    for title, pairs in comparisons(results.grid(cohort).pipelines):
        rows = []
        for pair in pairs:
            cells: list[Cell] = []
            for m in PAIRED:
                c = found[pair, m.key]
                cells += [
                    Cell(Number(c.estimate.mean, (c.estimate.low, c.estimate.high)), starred=c.estimate.excludes_zero),
                    Cell(Number(float(adjusted[pair, m.key]))),
                ]
            rows.append(Row(arrow(pair), tuple(cells)))
        sections.append(Section(title, tuple(rows)))
    caption = f"Paired differences on {results.name}" + ("." if cohort == "test" else f", {cohort}.")
    notes = (
        (
            f"Mean of second - first over the same cases and draws, with 95 % intervals ({scheme.name} bootstrap,"
            f" {results.replicates} draws); * excludes 0. DSC in %."
        ),
        note(list(found.values()), results.replicates),
        results.note([cohort]),
        *(
            f"{w} The p-values come from the same draws and fall short in the same way."
            for w in [results.warning(cohort, scheme)]
            if w and found
        ),
    )
    return Table(name, caption, Text("Comparison"), tuple(columns), tuple(sections), notes)

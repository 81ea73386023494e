"""A study beside the paper (K26): which way each difference between two pipelines goes, here and there.

    Paper.read(SHARED)     the printed numbers, from SHARED/science/paper_tables.json
    paired                 the matched comparisons with intervals, of one cohort beside the paper's three data sets
    means                  differences of printed means: pooling, temperature, and ACE, which is not paired
    across                 the matched comparisons of one study, cohort by cohort

Tables hold directions alone: ↓ lower, ↑ higher, · not told apart, = the same, — not given. Of a paired difference, · is
an interval that includes zero and = is zero in every case; of means, = is the same as printed. The paper's numbers are
read at run time and none of them is written. Paired differences are those of its camera-ready version, the rest is
Tables 4 and 7. A file without them: UnreadableError.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from segcal.errors import UnreadableError
from segcal.metrics.statistics.resamples import ByGroup, Comparison, TwoLevel
from segcal.study.configuration import CLEAN
from segcal.study.tables.differences import PAIRED, compared
from segcal.study.tables.metrics import MAIN, Metric, summary
from segcal.study.tables.names import COMPARISONS, Pair, arrow
from segcal.study.tables.results import Results
from segcal.study.tables.table import Cell, Column, Row, Section, Table, Text

LOWER, HIGHER, OPEN, SAME, ABSENT = "↓", "↑", "·", "=", "—"
GROUPS = ByGroup(repeats=True)

DIRECTIONS = (
    "↓ lower, ↑ higher, · the interval includes zero, = zero in every case; second - first. Lower is better, but for"
    " DSC."
)
OF_MEANS = (
    "↓ lower, ↑ higher, = the same as printed (three decimals, DSC one), — not there; second - first. No intervals: a"
    " small difference may be chance."
)

Find: TypeAlias = Callable[[Pair, Metric], str]
"""Which way a comparison goes."""

Differences: TypeAlias = Mapping[tuple[Pair, str], Comparison]
Numbers: TypeAlias = Mapping[tuple[str, str], float]

PAPERS = {"nll": "NLL", "dice": "DSC_pct", "ece": "ECE", "ba_ece": "BA_ECE", "ace": "ACE"}
"""Metrics of means by the paper's keys."""

MEANS = tuple(m for m in MAIN if m.key in PAPERS)

POOLED = (
    (Text("Pooling"), (Pair("p0", "pbar"), Pair("p0", "zbar"), Pair("pbar", "zbar"))),
    (
        Text("Temperature"),
        (
            Pair("zbar", "TS(zbar)"),
            Pair("TS(zbar)", "ETS(zbar)"),
            Pair("TS(zbar)", "LTS(logS(zbar))"),
            Pair("TS(zbar)", "DC(zbar)"),
        ),
    ),
)
"""What is compared by means alone, beside the matched comparisons."""


@dataclass(frozen=True)
class Paper:
    """`differences[pair][metric][data set]` as printed; `clean` and `shifted`: numbers by data set or severity,
    pipeline and metric.
    """

    differences: Mapping[str, Mapping[str, Any]]
    clean: Mapping[str, Mapping[str, Any]]
    shifted: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, shared: Path) -> Paper:
        """From the shared folder."""
        path = shared / "science" / "paper_tables.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                told["K26_camera_ready_paired_differences"]["values"],
                told["K26_table4_main"],
                told["K26_table7_cityscapes_shift"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UnreadableError(
                str(path),
                found=str(error),
                expected="the paper's printed tables",
                do="Give the shared folder with --shared.",
            ) from error

    def paired(self, dataset: str, pair: Pair, metric: Metric) -> str:
        """Direction of a printed paired difference."""
        by_dataset = self.differences.get(f"{pair.first}->{pair.second}", {}).get(
            {**PAPERS, "dice": "DSC"}[metric.key], {}
        )
        if isinstance(by_dataset, str):  # in words: zero, for both keep the order
            return SAME
        found = by_dataset.get(dataset)
        return ABSENT if found is None else _sign(found["diff"]) if found["significant"] else OPEN


def paired(results: Results, paper: Paper) -> Table:
    """The matched comparisons on the clean test cases, and in the paper."""
    here = compared(results, CLEAN, GROUPS)
    columns: dict[str, Find] = {results.name: _found(here)}
    columns |= {dataset: partial(paper.paired, dataset) for dataset in paper.clean}
    notes = (DIRECTIONS, *(_tally(here, paper, dataset) for dataset in paper.clean), results.note([CLEAN]))
    return _table(
        "against-paired",
        "Paired differences: which way they go, here and in the paper.",
        _there([here]),
        PAIRED,
        columns,
        notes,
    )


def means(results: Results, paper: Paper) -> Table:
    """Differences of means as printed, on the clean test cases."""
    columns = {
        results.name: _between(_printed(results, CLEAN)),
        **{dataset: _between(_papers(rows)) for dataset, rows in paper.clean.items()},
    }
    caption = "Differences of means as printed: which way they go, here and in the paper's Table 4."
    return _table("against-means", caption, [*POOLED, *COMPARISONS], MEANS, columns, (OF_MEANS, results.note([CLEAN])))


def shifted(results: Results, paper: Paper) -> Table:
    """The same for every shifted cohort, beside the paper's Table 7."""
    cohorts = [c for c in results.cohorts if c != CLEAN]
    columns = {c: _between(_printed(results, c)) for c in cohorts} | {
        f"Cityscapes {severity}": _between(_papers(rows)) for severity, rows in paper.shifted.items()
    }
    caption = "Differences of means under shift: which way they go, here and in the paper's Table 7."
    return _table("against-shift", caption, [*POOLED, *COMPARISONS], MEANS, columns, (OF_MEANS, results.note(cohorts)))


def across(results: Results) -> Table:
    """The matched comparisons on every cohort of a study."""
    found = {cohort: compared(results, cohort, GROUPS) for cohort in results.cohorts}
    columns = {("clean" if cohort == CLEAN else cohort): _found(here) for cohort, here in found.items()}
    caption = f"Paired differences on {results.name}, clean and shifted: which way they go."
    return _table(
        "across", caption, _there(list(found.values())), PAIRED, columns, (DIRECTIONS, results.note(results.cohorts))
    )


def two_bootstraps(results: Results) -> str:
    """A sentence on what the paper's bootstrap would say instead."""
    ours, papers = compared(results, CLEAN, GROUPS), compared(results, CLEAN, TwoLevel())
    widths = sorted(
        (papers[k].estimate.high - papers[k].estimate.low) / w
        for k, c in ours.items()
        if (w := c.estimate.high - c.estimate.low) > 0
    )
    if not widths:
        return ""
    counts = [sum(c.estimate.excludes_zero for c in found.values()) for found in (ours, papers)]
    return (
        f"With the paper's two-level bootstrap {counts[1]} intervals exclude zero, here {counts[0]}; its intervals are"
        f" {widths[len(widths) // 2]:.2f} times as wide in the median ({widths[0]:.2f} to {widths[-1]:.2f})."
    )


def direction(c: Comparison) -> str:
    """Of a paired difference here."""
    if c.identical:
        return SAME
    if math.isnan(c.estimate.mean):
        return ABSENT
    return _sign(c.estimate.mean) if c.estimate.excludes_zero else OPEN


def _sign(value: float) -> str:
    return HIGHER if value > 0 else LOWER if value < 0 else SAME


def _found(here: Differences) -> Find:
    return lambda pair, metric: direction(here[pair, metric.key])


def _there(found: Sequence[Differences]) -> list[tuple[Text, tuple[Pair, ...]]]:
    """The matched comparisons that all of them have."""
    return [
        (title, tuple(p for p in pairs if all((p, "nll") in here for here in found))) for title, pairs in COMPARISONS
    ]


def _tally(here: Differences, paper: Paper, dataset: str) -> str:
    """How many go the same way, the other way, are told apart on one side alone."""
    signs = [
        (direction(here[p, m.key]), paper.paired(dataset, p, m))
        for _, pairs in _there([here])
        for p in pairs
        for m in PAIRED
    ]
    told = [(a in (LOWER, HIGHER), b in (LOWER, HIGHER), a == b) for a, b in signs]
    counts = [
        sum(t == kind for t in told)
        for kind in ((True, True, True), (True, True, False), (True, False, False), (False, True, False))
    ]
    return (
        f"Beside {dataset}: {counts[0]} go the same way, {counts[1]} the other way, {counts[2]} are told apart here"
        f" alone, {counts[3]} there alone; of {len(signs)}."
    )


def _printed(results: Results, cohort: str) -> Numbers:
    """Means as Table 4 or 7 prints them."""
    shown = {m.key: m for m in MAIN}
    return {
        (p, key): round(shown[key].scale * n.value, shown[key].decimals)
        for (p, key), n in summary(results, cohort, GROUPS).items()
    }


def _papers(rows: Mapping[str, Mapping[str, Any]]) -> Numbers:
    return {
        (pipeline, key): row[name]
        for pipeline, row in rows.items()
        for key, name in PAPERS.items()
        if row[name] is not None
    }


def _between(numbers: Numbers) -> Find:
    def find(pair: Pair, metric: Metric) -> str:
        first, second = (numbers.get((p, metric.key), math.nan) for p in (pair.first, pair.second))
        return ABSENT if math.isnan(first) or math.isnan(second) else _sign(second - first)

    return find


def _table(
    name: str,
    caption: str,
    sections: Sequence[tuple[Text, tuple[Pair, ...]]],
    metrics: Sequence[Metric],
    columns: Mapping[str, Find],
    notes: tuple[str, ...],
) -> Table:
    """A row a pair; a group of columns a metric."""
    heads = tuple(Column(Text(head), m.head) for m in metrics for head in columns)
    rows = [
        Section(
            title,
            tuple(
                Row(arrow(p), tuple(Cell(Text(find(p, m))) for m in metrics for find in columns.values()))
                for p in pairs
            ),
        )
        for title, pairs in sections
    ]
    return Table(name, caption, Text("Comparison"), heads, tuple(s for s in rows if s.rows), notes)

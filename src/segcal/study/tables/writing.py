"""All tables of one or several studies, and their files.

    table1, table2, table3, table5      splits, methods, free energy: a row or a group of columns a study
    table4                              every pipeline, a group of columns a study
    table6                              what the images of shifted cohorts were corrupted with, where they say so
    table7-STUDY                        the same as table4 under shift, a group of columns a shifted cohort
    table8-STUDY[-COHORT]               with intervals over groups and repeats; ...-two-level: the paper's bootstrap
    differences-STUDY[-COHORT]          the matched comparisons, paired; ...-two-level: the paper's bootstrap
    flips-STUDY                         the flip audit, a group of columns a cohort

Promises: made from the tidy tables alone; each table is NAME.md, NAME.tex and NAME.csv, complete or absent; names of
studies that give one file name: UsageError. A study without shifted cohorts has no table7; where scores have no free
energy there are no table3 and table5. Why two bootstraps: `segcal.metrics.statistics.coverage`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from segcal.data.files import journal
from segcal.errors import UsageError
from segcal.methods import parameters
from segcal.methods.guarantees import Guarantees
from segcal.metrics.statistics.resamples import ByGroup, Scheme, TwoLevel
from segcal.study.configuration import CLEAN
from segcal.study.tables import csv, latex, markdown
from segcal.study.tables.descriptions import corruptions, free_energy, properties, splits
from segcal.study.tables.differences import differences
from segcal.study.tables.flips import flip_audit
from segcal.study.tables.main import pipelines
from segcal.study.tables.metrics import summary
from segcal.study.tables.results import Results
from segcal.study.tables.table import Table

FORMATS = {".md": markdown.render, ".tex": latex.render, ".csv": csv.render}
"""How each ending is written."""

SCHEMES: Mapping[str, Scheme] = {"": ByGroup(repeats=True), "-two-level": TwoLevel()}
"""Bootstraps of the tables with intervals, by what their names end in."""


def tables(studies: Sequence[Results]) -> list[Table]:
    """Every table of the studies, the joined ones first. No study: UsageError."""
    slugs = [_slug(study.name) for study in studies]
    if not studies or len(set(slugs)) < len(slugs):
        raise UsageError(
            "studies",
            found=f"{[study.name for study in studies]}",
            expected="one or more, with names that differ in letters or digits",
            do="Name the studies.",
        )
    clean = {study.name: summary(study, CLEAN, SCHEMES[""]) for study in studies}
    out = [
        splits(studies),
        properties(studies, _promises()),
        pipelines(
            "table4",
            "Calibration results.",
            clean,
            tuple(study.note([CLEAN]) for study in studies),
            stopped=_stopped(studies),
        ),
    ]
    if any(len(study.frame("energy")) for study in studies):
        out += [free_energy(studies, by_members=False), free_energy(studies, by_members=True)]
    if any(len(study.frame("corruptions")) for study in studies):
        out.append(corruptions(studies))
    for study, slug in zip(studies, slugs, strict=True):
        out += _of(study, slug)
    return out


@cache
def _promises() -> Mapping[str, Guarantees | None]:
    """What the maps of every registered method promise, read off the maps themselves; nothing is counted here."""
    return {row.name: row.guarantees for row in parameters.table(())}


def _of(study: Results, slug: str) -> list[Table]:
    """The tables of one study."""
    out = []
    shifted = [c for c in study.cohorts if c != CLEAN]
    if shifted:
        points = {cohort: summary(study, cohort, SCHEMES[""]) for cohort in shifted}
        out.append(
            pipelines(
                f"table7-{slug}",
                f"Calibration on {study.name} under shift, without refitting.",
                points,
                (study.note(shifted),),
                stopped=study.stopped(),
            )
        )
    for cohort in study.cohorts:
        place = slug if cohort == CLEAN else f"{slug}-{_slug(cohort)}"
        for ending, scheme in SCHEMES.items():
            out += [
                _intervals(f"table8-{place}{ending}", study, cohort, scheme),
                differences(f"differences-{place}{ending}", study, cohort, scheme),
            ]
    out.append(
        flip_audit(
            f"flips-{slug}",
            [("test" if c == CLEAN else c, study, c) for c in study.cohorts],
            (study.note(study.cohorts),),
        )
    )
    return out


def _intervals(name: str, study: Results, cohort: str, scheme: Scheme) -> Table:
    title = study.name if cohort == CLEAN else f"{study.name}, {cohort}"
    method = (
        f"In brackets 95 % percentile intervals ({scheme.name} bootstrap, {study.replicates} draws); for ACE, pooled"
        " over a repeat, its range over repeats."
    )
    notes = (method, study.note([cohort]), *(w for w in [study.warning(cohort, scheme)] if w))
    return pipelines(
        name,
        f"Complete calibration results on {title}.",
        {title: summary(study, cohort, scheme)},
        notes,
        beside=("low", "high"),
        stopped=study.stopped(),
    )


def _stopped(studies: Sequence[Results]) -> dict[str, tuple[int, int]]:
    """Of all studies together."""
    out: dict[str, tuple[int, int]] = {}
    for study in studies:
        for pipeline, (n, of) in study.stopped().items():
            before = out.get(pipeline, (0, 0))
            out[pipeline] = before[0] + n, before[1] + of
    return out


def write(studies: Sequence[Results], folder: Path) -> list[Path]:
    """Write every table in every format into `folder`; the files written."""
    out = []
    for table in tables(studies):
        for ending, render in FORMATS.items():
            path = folder / f"{table.name}{ending}"
            with journal.atomic(path) as temporary:
                temporary.write_text(render(table), encoding="utf-8", errors="backslashreplace")
            out.append(path)
    return out


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "study"

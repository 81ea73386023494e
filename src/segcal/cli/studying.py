"""What `segcal study` and `segcal merge` do with their options: a design shown, an estimate, progress, and the first
numbers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segcal.cli import tables
from segcal.cli.console import Output
from segcal.engine.engine import Engine
from segcal.errors import UsageError
from segcal.study import configuration, study
from segcal.study.configuration import CLEAN
from segcal.study.design import Design, design
from segcal.study.estimate import estimate
from segcal.study.example import EXAMPLE
from segcal.study.results import Finished, means

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = {"nll": "NLL", "dice": "Dice", "ece": "ECE", "ba_ece": "BA-ECE", "ace": "ACE", "flip_rate": "flips %"}
"""Metrics of the overview."""


def print_example() -> None:
    """A configuration with comments, on stdout as it is."""
    sys.stdout.write(EXAMPLE)


def opened(path: Path | None) -> Design:
    """The study a file describes, checked. UsageError without a file."""
    if path is None:
        raise UsageError(
            "CONFIGURATION",
            found="nothing",
            expected="a YAML file",
            do="Print one to begin with: segcal study --example > study.yaml",
        )
    return design(configuration.read(path))


def part_of(text: str, found: Design) -> tuple[int, int]:
    """'2/3' as (2, 3), if the study has such a part."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        raise UsageError("--part", found=repr(text), expected="i/n, such as 1/3", do="Number the parts from 1.")
    part = (int(match.group(1)), int(match.group(2)))
    study.repeats_of(part, len(found.repeats))
    return part


def check_output(output: Path | None) -> None:
    """UsageError without a folder."""
    if output is None:
        raise UsageError(
            "-o",
            found="nothing",
            expected="a folder for the study",
            do="Name one with -o, or only look with --dry-run.",
        )


def show_design(out: Output, found: Design) -> None:
    """What the study is about."""
    split = found.partitions[0]
    clean = found.clean
    out.text(
        f"{found.configuration.name}: {len(clean)} cases in {len(set(clean.groups))} groups, {len(clean.head.classes)}"
        f" classes, {clean.members} members",
        "bold",
    )
    out.text(
        f"{len(found.repeats)} repeats of {split.calibration} calibration, {split.validation} validation and"
        f" {split.test} test cases (first repeat)"
    )
    out.text(f"{len(found.pipelines)} pipelines: {', '.join(p.name for p in found.pipelines)}")
    shifted = [f"{name} ({len(cohort)} cases)" for name, cohort in found.cohorts.items() if name != CLEAN]
    if shifted:
        out.text(f"scored without refit: {', '.join(shifted)}")
    if found.configuration.sensitivity.sizes:
        out.text(
            f"calibration set sizes: {', '.join(map(str, found.configuration.sensitivity.sizes))}, for"
            f" {', '.join(p.name for p in found.configuration.sized())}"
        )
    for note in found.notes:
        out.text(f"note: {note}", "yellow")
    for name, cohort in found.cohorts.items():
        for note in (*cohort.doubts, *cohort.storage.notes()):
            out.text(f"note: {name}: {note}", "yellow")


def show_estimate(out: Output, found: Design, engine: Engine, part: tuple[int, int], output: Path | None) -> None:
    """How long what is left may take."""
    there = output if output is not None and (output / study.RECORD).is_file() else None
    guess = estimate(found, there, engine, study.repeats_of(part, len(found.repeats)))
    what = "left of a study begun earlier" if there is not None else "the study"
    out.text(f"{what}: {guess.sentence()}, with {engine.workers} workers")


def run(found: Design, output: Path, engine: Engine, part: tuple[int, int]) -> Finished | None:
    """Do it."""
    return study.run(found, output, engine, part=part)


def merge(parts: Sequence[Path], output: Path, engine: Engine) -> Finished:
    """Join parts."""
    return study.merge(parts, output, engine)


def show(out: Output, results: Finished) -> None:
    """The clean test cases in one table, and where everything lies."""
    out.show(_overview(results), "Test cases, means over images and repeats (ACE over all voxels of a repeat)")
    for note in results.notes:
        out.text(f"note: {note}", "yellow")
    out.text(f"written: {results.folder}/results, tables and figures")
    out.json({"folder": str(results.folder), "tables": {name: one.num_rows for name, one in results.tables.items()}})


def _overview(results: Finished) -> Table:
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in (*results.rows("scores"), *results.rows("pooled")):
        if row["cohort"] == CLEAN and row["metric"] in SHOWN:
            values.setdefault((row["pipeline"], row["metric"]), {}).setdefault(row["repeat"], []).append(row["value"])
    out = tables.table("pipeline", *SHOWN.values())
    for name in dict.fromkeys(p for p, _ in values):
        numbers = [means([means(v) for v in values.get((name, metric), {}).values()]) for metric in SHOWN]
        out.add_row(name, *(tables.shown(metric, value) for metric, value in zip(SHOWN, numbers, strict=True)))
    return out

"""`segcal study`: the papers' protocol on your data, from one YAML file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from segcal.cli import page, tables
from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Report, Running, claim, engine_of, typed
from segcal.data.files import claims
from segcal.data.files.reading import check_there
from segcal.errors import UsageError, spell

if TYPE_CHECKING:
    from rich.table import Table

    from segcal.engine.engine import Engine
    from segcal.study.design import Design
    from segcal.study.estimate import Estimate
    from segcal.study.results import Finished

SHOWN = {"nll": "NLL", "dice": "Dice", "ece": "ECE", "ba_ece": "BA-ECE", "ace": "ACE", "flip_rate": "flips %"}
"""Metrics of the overview."""


def study(
    configuration: Path | None = None,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    report: Report = None,
    part: str = "1/1",
    example: Annotated[bool, Parameter(show_default=False)] = False,
    dry_run: Annotated[bool, Parameter(show_default=False)] = False,
    running: Running = AS_USUAL,
) -> int:
    """Compare calibrators on repeated random partitions of your data, with intervals, shifted cohorts, tables and
    figures.

    CONFIGURATION is a YAML file that names predictions, labels and the sizes of the partition; print one to begin with.
    Everything that can be wrong with it is found before any work starts, and an estimate of time and disk is shown. A
    study that was interrupted goes on where it was: run the same command again.

        segcal study --example > study.yaml
        segcal study study.yaml --dry-run
        segcal study study.yaml -o STUDY

    On a cluster each job does some of the repeats, into a folder of its own or one they share; then join them:

        segcal study study.yaml -o PART1 --part 1/3
        segcal merge PART1 PART2 PART3 -o STUDY

    Parameters
    ----------
    configuration
        The YAML file.
    output
        Folder of the study: results/ (tidy tables as CSV and Parquet), tables/ (Markdown, LaTeX, CSV), figures/ (SVG,
        PDF, PNG), and the fits and sums they are made from.
    part
        i/n: do only the i-th of n shares of the repeats.
    example
        Print a configuration with comments, and nothing else.
    dry_run
        Check the configuration and its data, show what would be done and how long it may take, and stop.
    """
    out = Output(running.quiet, running.json)
    if example:
        from segcal.study.example import EXAMPLE

        sys.stdout.write(EXAMPLE)
        return 0
    if configuration is None:
        raise UsageError(
            "CONFIGURATION",
            found="nothing",
            expected="a YAML file",
            do="Print one to begin with: segcal study --example > study.yaml",
        )
    if output is None and not dry_run:
        raise UsageError(
            "-o",
            found="nothing",
            expected="a folder for the study",
            do="Name one with -o, or only look with --dry-run.",
        )
    check_there(configuration, "a configuration", "Print one to begin with: segcal study --example.")
    from segcal.study import study as studies
    from segcal.study.configuration import read
    from segcal.study.design import design

    found = design(read(configuration))
    inputs = [configuration, *(p for one in found.cohorts.values() for case in one for p in case.paths)]
    claim(running, [(report, claims.PAGE)], inputs)
    show_design(out, found)
    chosen = part_of(part, found)
    with engine_of(running) as engine:
        guess = show_estimate(out, found, engine, chosen, output)
        if output is None or dry_run:
            return 0
        results = studies.run(found, output, engine, part=chosen, expected=guess)
    if results is None:
        out.next(typed("segcal", "merge", output, "...", "-o", "STUDY"))
        return 0
    show(out, results)
    if report is not None:
        page.write(report, out, f"Study {found.configuration.name}", shown=page.drawn(results.folder / "figures"))
    return 0


def part_of(text: str, found: Design) -> tuple[int, int]:
    """'2/3' as (2, 3), if the study has such a part."""
    from segcal.study import study as studies

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        raise UsageError("--part", found=repr(text), expected="i/n, such as 1/3", do="Number the parts from 1.")
    part = (int(match.group(1)), int(match.group(2)))
    studies.repeats_of(part, len(found.repeats))
    return part


def show_design(out: Output, found: Design) -> None:
    """What the study is about."""
    from segcal.study.configuration import CLEAN

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
    out.notes(found.notes)
    for name, cohort in found.cohorts.items():
        out.notes(f"{name}: {note}" for note in (*cohort.doubts, *cohort.storage.notes()))


def show_estimate(out: Output, found: Design, engine: Engine, part: tuple[int, int], output: Path | None) -> Estimate:
    """How long what is left may take, in all and by pipeline."""
    from segcal.study import study as studies
    from segcal.study.estimate import estimate

    there = output if output is not None and (output / studies.RECORD).is_file() else None
    guess = estimate(found, there, engine, studies.repeats_of(part, len(found.repeats)))
    what = "left of a study begun earlier" if there is not None else "the study"
    out.text(f"{what}: {guess.sentence()}, with {engine.workers} workers")
    shown = tables.table("pipeline", "fits", "scores")
    for name, times in guess.pipelines.items():
        shown.add_row(name, *(spell(seconds) if seconds else "-" for seconds in times))
    shown.caption = "Without reading files, which pipelines share."
    out.show(shown)
    return guess


def show(out: Output, results: Finished) -> None:
    """The clean test cases in one table, and where everything lies."""
    out.show(_overview(results), "Test cases, means over images and repeats (ACE over all voxels of a repeat)")
    out.notes(results.notes)
    out.text(f"written: {results.folder}/results, tables and figures")
    out.json({"folder": str(results.folder), "tables": {name: one.num_rows for name, one in results.tables.items()}})


def _overview(results: Finished) -> Table:
    from segcal.metrics.registry import added
    from segcal.study.configuration import CLEAN
    from segcal.study.results import means

    shown = SHOWN | {key: kind.label for key, kind in added().items()}
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in (*results.rows("scores"), *results.rows("pooled")):
        if row["cohort"] == CLEAN and row["metric"] in shown:
            values.setdefault((row["pipeline"], row["metric"]), {}).setdefault(row["repeat"], []).append(row["value"])
    shown = {metric: label for metric, label in shown.items() if metric in SHOWN or any(metric == m for _, m in values)}
    out = tables.table("pipeline", *shown.values())
    for name in dict.fromkeys(p for p, _ in values):
        numbers = [means([means(v) for v in values.get((name, metric), {}).values()]) for metric in shown]
        out.add_row(name, *(tables.shown(metric, value) for metric, value in zip(shown, numbers, strict=True)))
    return out

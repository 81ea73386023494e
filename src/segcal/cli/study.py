"""`segcal study`: the papers' protocol on your data, from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from segcal.cli.common import AS_USUAL, Running, typed
from segcal.cli.console import Output


def study(
    configuration: Path | None = None,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
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
    from segcal.cli import studying
    from segcal.cli.opening import claim, engine_of

    out = Output(running.quiet, running.json)
    if example:
        studying.print_example()
        return 0
    if configuration is not None and not dry_run:
        studying.check_output(output)
    found = studying.opened(configuration)
    claim(running, inputs=[configuration, *(p for one in found.cohorts.values() for case in one for p in case.paths)])
    studying.show_design(out, found)
    chosen = studying.part_of(part, found)
    with engine_of(running) as engine:
        studying.show_estimate(out, found, engine, chosen, output)
        if dry_run:
            return 0
        assert output is not None
        results = studying.run(found, output, engine, chosen)
    if results is None:
        out.next(typed("segcal", "merge", output, "...", "-o", "STUDY"))
        return 0
    studying.show(out, results)
    return 0

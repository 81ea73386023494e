"""`segcal merge`: join the parts of a study that ran on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from segcal.cli import study
from segcal.cli.console import Output
from segcal.cli.options import AS_USUAL, Running, claim, engine_of
from segcal.data.files.reading import check_there


def merge(
    parts: list[Path], /, *, output: Annotated[Path, Parameter(name=["--output", "-o"])], running: Running = AS_USUAL
) -> int:
    """Join the parts of a study and make its tables and figures.

    PARTS are the folders that `segcal study --part i/n` wrote; OUTPUT may be one of them, or the one they share. Fits
    and sums are copied, nothing is computed twice, and the result is the same as that of one run.

        segcal merge PART1 PART2 PART3 -o STUDY
        segcal merge SHARED -o SHARED

    Parameters
    ----------
    parts
        Folders of all parts.
    output
        Folder of the whole study.
    """
    for part in parts:
        check_there(part, "a folder written by segcal study")
    from segcal.study import study as studies

    out = Output(running.quiet, running.json)
    claim(running, inputs=[part / "study.json" for part in parts])
    with engine_of(running) as engine:
        results = studies.merge(parts, output, engine)
    study.show(out, results)
    return 0
